"""The cluster's configuration: read, checked, composed; and read again when it changes.

Refused before anything starts: whatever the files say wrong, and whatever of them this
machine cannot do. While the daemon runs, a change that is wrong changes nothing: the last
good configuration stays, and the error is shown.

Runs in: main thread until the daemon runs, then the configuration thread.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import re
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from opensvc_hb.core.config import Config, LeasePolicy, Link, Protocol, Service
from opensvc_hb.core.events import ConfigurationChanged
from opensvc_hb.daemon.inbox import Inbox, Reconfigured
from opensvc_hb.daemon.runner import DeclareAnswer, Declared, NotEvaluated, Runner
from opensvc_hb.daemon.settings import Settings, read_settings, waiting_for_restart
from opensvc_hb.errors import ConfigurationError, ConfigurationErrors, HbError
from opensvc_hb.held import Holding
from opensvc_hb.links import keyring as keys
from opensvc_hb.links.base import Links
from opensvc_hb.links.cluster_files import read_monitor, read_nodes, shared_digest
from opensvc_hb.links.machine import check_machine
from opensvc_hb.links.openha_limits import check_links, check_services
from opensvc_hb.paths import Root
from opensvc_hb.services_table import ServiceLine, read_services, services_path

log = logging.getLogger("configuration")

DECLARE_WAIT_S = 60.0
DECLARE_RETRY_S = 10.0
"""After the agent did not say which services there are, it is asked again so much later."""
LINKS_CLOSE_S = 2.0


@dataclass(frozen=True)
class ClusterFiles:
    """What `etc/opensvc/hb` says, checked.

    Args:
        notes: accepted, but worth saying (an image file in place of a disk).
        service_lines: the services file.
    """

    nodes: Tuple[str, ...]
    links: Tuple[Link, ...]
    keyring: keys.Keyring
    settings: Settings
    notes: Tuple[str, ...] = ()
    service_lines: Tuple[ServiceLine, ...] = ()


def read_cluster_files(root: Root, node: str, with_machine: bool = True) -> ClusterFiles:
    """Read nodes, monitor, key, hb.conf and services, and check them against this machine.

    Raises:
        ConfigurationErrors: every error found, in the order of the files.
    """
    errors: List[ConfigurationError] = []

    def attempt(read: Callable[[], object]) -> object:
        try:
            return read()
        except ConfigurationErrors as several:
            errors.extend(several.errors)
        except ConfigurationError as one:
            errors.append(one)
        return None

    nodes = attempt(lambda: read_nodes(root.hb / "nodes"))
    links = attempt(lambda: read_monitor(root.hb / "monitor", nodes)) if isinstance(nodes, tuple) else None
    keyring = attempt(lambda: keys.read(root.hb / "key"))
    settings = attempt(lambda: read_settings(root.hb, under_root=root.top != Path("/")))
    service_lines = attempt(lambda: read_services(services_path(root)))
    protocol = settings.protocol if isinstance(settings, Settings) else Protocol.NATIVE
    notes: Tuple[str, ...] = ()
    if isinstance(links, tuple):
        impossible, notes = check_links(links, protocol, str(root.hb / "monitor"))
        errors.extend(impossible)
    if isinstance(nodes, tuple) and node not in nodes:
        what = f"this node, {node}, is not listed (have {', '.join(nodes)})"
        errors.append(ConfigurationError(str(root.hb / "nodes"), 0, "", what))
    elif isinstance(links, tuple) and with_machine:
        found, here = check_machine(links, node, str(root.hb / "monitor"), protocol=protocol)
        errors.extend(found)
        notes = (*notes, *here)
    if isinstance(nodes, tuple) and isinstance(links, tuple) and isinstance(settings, Settings):
        errors.extend(_without_lease(str(root.hb / "monitor"), nodes, links, settings.policies.lease))
        errors.extend(_lease_in_vain(str(root.hb / "hb.conf"), settings))
    if errors:
        raise ConfigurationErrors(errors)
    assert isinstance(nodes, tuple)
    assert isinstance(links, tuple)
    assert isinstance(keyring, keys.Keyring)
    assert isinstance(settings, Settings)
    assert isinstance(service_lines, tuple)
    return ClusterFiles(nodes, links, keyring, settings, notes, service_lines)


def _without_lease(
    path: str, nodes: Tuple[str, ...], links: Tuple[Link, ...], lease: LeasePolicy
) -> List[ConfigurationError]:
    """Return an error for each node without a slot for its lease, where hb.conf demands one."""
    if lease is not LeasePolicy.YES or len(nodes) < 2:
        return []
    have = {link.node for link in links if link.type.is_disk}
    what = "lease = yes in hb.conf, but this node has no dio or disk line: add one, or set lease = auto"
    return [ConfigurationError(path, 0, name, what) for name in nodes if name not in have]


def _lease_in_vain(path: str, settings: Settings) -> List[ConfigurationError]:
    """Return an error where hb.conf demands a lease and a format that knows none."""
    if settings.policies.lease is not LeasePolicy.YES or settings.protocol is Protocol.NATIVE:
        return []
    what = f"yes needs protocol = native: with {settings.protocol.value} no node holds a lease; set auto"
    return [ConfigurationError(path, 0, "hb.lease", what)]


def too_much(root: Root, files: ClusterFiles, config: Config) -> Tuple[ConfigurationError, ...]:
    """Return what of the services the protocol in force cannot carry."""
    return check_services(config.services, files.settings.protocol, str(root.hb / "hb.conf"))


def compose(node: str, files: ClusterFiles, services: Tuple[Service, ...]) -> Config:
    """Return the configuration as core takes it. Services with an unknown node are left out."""
    known: Dict[str, Service] = {
        s.name: s for s in services if node in s.nodes and all(n in files.nodes for n in s.nodes)
    }
    return Config(
        node=node,
        nodes=files.nodes,
        links=files.links,
        services=known,
        policies=files.settings.policies,
        digest=_digest(files, known),
        protocol=files.settings.protocol,
    )


def _digest(files: ClusterFiles, known: Mapping[str, Service]) -> bytes:
    """Return the digest of what all nodes must agree on: with protocol and lease, where they are unusual."""
    digest = shared_digest(files.nodes, files.links, known)
    if files.settings.protocol is not Protocol.NATIVE:
        protocol = f"protocol {files.settings.protocol.value}\n".encode()
        digest = hashlib.blake2b(protocol + digest, digest_size=len(digest)).digest()
    if files.settings.policies.lease is not LeasePolicy.NO:
        return digest
    return hashlib.blake2b(b"lease no\n" + digest, digest_size=len(digest)).digest()


def left_out(files: ClusterFiles, services: Tuple[Service, ...]) -> Tuple[str, ...]:
    """Return one line for each declared service that cannot be cared for."""
    lines = []
    for service in services:
        strange = [n for n in service.nodes if n not in files.nodes]
        if strange:
            where = "DEFAULT.nodes"
            if any(line.name == service.name and line.nodes == service.nodes for line in files.service_lines):
                where = "etc/opensvc/hb/services"
            lines.append(
                f"{service.svcname}: {where}: {', '.join(strange)} not in etc/opensvc/hb/nodes: "
                "the heartbeat does not care for it"
            )
    return tuple(lines)


def declare_now(runner: Runner) -> DeclareAnswer:
    """Ask the agent which services register themselves, and wait for the answer."""
    answers: queue.SimpleQueue[DeclareAnswer] = queue.SimpleQueue()
    runner.declare(answers.put, DECLARE_WAIT_S)
    try:
        return answers.get(timeout=DECLARE_WAIT_S + 5)
    except queue.Empty:
        return NotEvaluated("", f"the agent did not say within {DECLARE_WAIT_S:g} s which services there are")


@dataclass(frozen=True)
class Loaded:
    """A configuration in force, with what it was made of.

    Args:
        problems: one line for each thing that is wrong with the files of now.
        refused: the cluster's files of now are not in force, because they are wrong.
        answered: the agent said which services there are; is_whole: and what each file is.
        waiting: keywords of hb.conf that have changed, and are in force after a restart of the daemon.
        held: by svcname, what a service may hold on this node while it runs.
    """

    config: Config
    files: ClusterFiles
    problems: Tuple[str, ...]
    refused: bool = False
    answered: bool = True
    is_whole: bool = True
    waiting: Tuple[str, ...] = ()
    held: Mapping[str, Tuple[Holding, ...]] = field(default_factory=dict)


def combine(
    root: Root,
    node: str,
    files: ClusterFiles,
    answer: DeclareAnswer,
    before: Mapping[str, Service],
    held_before: Mapping[str, Tuple[Holding, ...]] = MappingProxyType({}),
) -> Loaded:
    """Join cluster files and declared services.

    A service whose file cannot be read at the moment, but is there, stays as it was: an
    editor's half-written file must not end our care for it. So does one of the services file
    that the agent, which reads that file a moment later, did not find there as we did.
    """
    if isinstance(answer, NotEvaluated):
        config = compose(node, files, tuple(before.values()))
        return Loaded(config, files, (answer.reason,), answered=False, is_whole=False, held=held_before)
    names = {s.svcname for s in answer.services}
    kept = tuple(
        s
        for s in before.values()
        if s.svcname not in names
        and ((_mentioned(s.svcname, answer) and _has_file(root, s.svcname)) or _in_services(node, files, s))
    )
    services = (*answer.services, *kept)
    held = {name: held_before.get(name, ()) for name in (s.svcname for s in services)}
    # One whose file is bad says nothing of what it holds: what it said last counts.
    held.update((n, answer.held.get(n, ())) for n in held if n in answer.held or not _mentioned(n, answer))
    problems = (*answer.errors, *left_out(files, services))
    config = compose(node, files, services)
    return Loaded(config, files, problems, is_whole=not answer.errors, held=held)


def _mentioned(svcname: str, answer: Declared) -> bool:
    """Tell whether one of the errors is this service's: its name stands there, or its file's, as a whole."""
    name = re.compile(rf"(^|[/\s]){re.escape(svcname)}(\.env|\.conf)?([:\s]|$)")
    return any(name.search(line) for line in answer.errors)


def _has_file(root: Root, svcname: str) -> bool:
    return any((root.etc / f"{svcname}{ending}").exists() for ending in (".env", ".conf"))


def _in_services(node: str, files: ClusterFiles, service: Service) -> bool:
    return any(line.name == service.name and node in line.nodes for line in files.service_lines)


class Configuration:
    """Reads the configuration again when asked (`reload`), and hands it to the monitor.

    Args:
        changed: told what is in force now, on the configuration thread.
    """

    def __init__(
        self,
        root: Root,
        loaded: Loaded,
        links: Links,
        runner: Runner,
        inbox: Inbox,
        start_links: Callable[[Config, keys.Keyring], Links],
        changed: Callable[[Loaded], None],
    ) -> None:
        self._root = root
        self._loaded = loaded
        self._at_start = loaded.files.settings
        self._links = links
        self._runner = runner
        self._inbox = inbox
        self._start_links = start_links
        self._changed = changed
        self._requests: queue.SimpleQueue[Optional[Callable[[Loaded], None]]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="configuration", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def reload(self, done: Callable[[Loaded], None] = lambda _loaded: None) -> None:
        """Have everything read again; safe in a signal handler.

        Args:
            done: told on the configuration thread what is in force now.
        """
        self._requests.put(done)

    def close(self) -> None:
        """End the thread after what it does now, and the links that are in use."""
        self._requests.put(None)
        if self._thread.is_alive():
            self._thread.join(5.0)
        self._links.close(LINKS_CLOSE_S)

    def _run(self) -> None:
        while True:
            try:
                done = self._requests.get(timeout=None if self._loaded.answered else DECLARE_RETRY_S)
            except queue.Empty:
                self.reload()
                continue
            if done is None:
                return
            try:
                self._reload()
                done(self._loaded)
            except Exception:
                log.exception("the configuration could not be read again; the last one stays in force")
                done(replace(self._loaded, problems=("failed, see the daemon's log",), refused=True))

    def _reload(self) -> None:
        before = self._loaded
        try:
            files = read_cluster_files(self._root, before.config.node)
        except HbError as error:
            self._refuse(error)
            return
        answer = declare_now(self._runner)
        loaded = combine(self._root, before.config.node, files, answer, before.config.services, before.held)
        broken = too_much(self._root, files, loaded.config)
        if broken:
            self._refuse(ConfigurationErrors(broken))
            return
        loaded = replace(loaded, waiting=waiting_for_restart(files.settings, self._at_start))
        links: Optional[Links] = None
        if _needs_new_links(files, before.files):
            # No beat leaves until the new links are there, however long a hung disk holds its thread.
            shortest_s = min((link.timeout_s for link in before.files.links), default=LINKS_CLOSE_S)
            self._links.close(min(LINKS_CLOSE_S, shortest_s / 5))
            self._links = links = self._start_links(loaded.config, files.keyring)
        self._links.order_services(loaded.config.services)
        self._loaded = loaded
        self._changed(loaded)
        if links is not None or (loaded.config, loaded.is_whole) != (before.config, before.is_whole):
            self._inbox.put(Reconfigured(ConfigurationChanged(loaded.config, loaded.is_whole), links))

    def _refuse(self, error: HbError) -> None:
        log.error("nothing was changed: %s", error)
        problems = (*_own_problems(self._loaded), *str(error).splitlines())
        self._loaded = replace(self._loaded, problems=problems, refused=True)
        self._changed(self._loaded)


def _needs_new_links(files: ClusterFiles, before: ClusterFiles) -> bool:
    return (files.links, files.keyring, files.settings.protocol) != (
        before.links,
        before.keyring,
        before.settings.protocol,
    )


def _own_problems(loaded: Loaded) -> Tuple[str, ...]:
    return tuple(line for line in loaded.problems if "etc/opensvc/hb/" not in line)
