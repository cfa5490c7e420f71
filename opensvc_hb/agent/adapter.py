"""All that the heartbeat daemon's runner sees of the agent.

Each call reads again what may have changed on disk since the one before; only drivers are kept.

Runs in: the runner process and the workers it forks, each of which takes one call after another.
Errors of a service's file are log lines and an exit status here: the daemon must learn that
its start failed, whatever the reason. The daemon's own state is never decided here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Optional, Tuple

from opensvc_hb.agent import started_mark
from opensvc_hb.agent.actions import Options, run_action
from opensvc_hb.agent.config import scopes_of
from opensvc_hb.agent.document import status_document
from opensvc_hb.agent.evaluate import evaluate
from opensvc_hb.agent.keywords import Keyword, boolean, node_list
from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.names import list_services
from opensvc_hb.agent.probe_threads import answer_in_threads
from opensvc_hb.agent.resource import Status
from opensvc_hb.agent.resource_monitor import (
    is_in_hand,
    monitoring_of,
    restart_resource,
    run_prepare,
)
from opensvc_hb.agent.sections import DEFAULT_KEYWORDS
from opensvc_hb.agent.service import Service
from opensvc_hb.agent.status import ServiceStatus
from opensvc_hb.core.config import NOTHING_WATCHED, Monitoring
from opensvc_hb.errors import ConfigurationError, HbError
from opensvc_hb.held import Holding
from opensvc_hb.ini import DEFAULT, Configuration
from opensvc_hb.paths import Root

HEARTBEAT_TYPE = "openha"

_NOT_RUNNING = (Status.DOWN, Status.STDBY_UP, Status.STDBY_DOWN)
"""A standby resource is up where the service does not run; it is no instance."""


@dataclass(frozen=True)
class Declaration:
    """A service that the heartbeat drives, as its file declares it.

    Args:
        name: the service's name in the heartbeat.
        nodes: nodes that may run it, the primary first, lower case.
        start_limit_s, stop_limit_s: how long an action may take (`start_timeout`,
            `stop_timeout`).
        holds: what its resources hold here while it runs; nothing where the file is bad.
        monitoring: how its resources are watched here; the same.
    """

    svcname: str
    name: str
    nodes: Tuple[str, ...]
    start_limit_s: float
    stop_limit_s: float
    holds: Tuple[Holding, ...] = ()
    monitoring: Monitoring = NOTHING_WATCHED


@dataclass(frozen=True)
class Declarations:
    """Every declaration of this node, and one line for all that is wrong with a file.

    A service whose heartbeat part can be read is declared although another section of its
    file is bad: its start is refused by the agent, but it is not forgotten while it runs.
    """

    services: Tuple[Declaration, ...]
    errors: Tuple[str, ...]


class AgentAdapter:
    """The agent, for the daemon of one node.

    Args:
        root: the tree of this node.
        node: this node's name.
        loader: loads services; made from the two when not given.
    """

    def __init__(self, root: Root, node: str, loader: Optional[Loader] = None) -> None:
        self._root = root
        self._node = node
        self._loader = Loader(root, node) if loader is None else loader

    def declare(self) -> Declarations:
        """Return the services with an enabled hb resource of type OpenHA that list this node."""
        self._read_anew()
        found: Dict[str, Declaration] = {}
        errors: List[str] = self._node_errors()
        for svcname in list_services(self._root):
            try:
                declaration = self._declaration(svcname)
            except HbError as error:
                errors.extend(str(error).splitlines())
                continue
            if declaration is None:
                errors.extend(self._strange_heartbeat(svcname))
                continue
            if declaration.name in found:
                other = found[declaration.name].svcname
                errors.append(f"{svcname}: its hb name {declaration.name} is already {other}'s")
                continue
            service, wrong = self._judged(svcname)
            found[declaration.name] = replace(
                declaration, holds=self._holds(service), monitoring=monitoring_of(service)
            )
            errors.extend(wrong)
        # what is wrong with node.conf is wrong for every service, and said once
        return Declarations(tuple(found.values()), tuple(dict.fromkeys(errors)))

    def declare_as(self, svcname: str, name: str, nodes: Tuple[str, ...]) -> Declaration:
        """Return the declaration of a service that another file gives to the heartbeat, not its own.

        Args:
            svcname: the service.
            name: its name in the heartbeat.
            nodes: nodes that may run it, the primary first, lower case.

        Raises:
            HbError: there is no such service, or its file cannot be read.
        """
        file = self._loader.file(svcname)
        scopes = scopes_of(self._node, node_list(file.value(DEFAULT, "nodes") or ""))
        limits_s = [_limit_s(file, keyword, scopes) for keyword in ("start_timeout", "stop_timeout")]
        service, _ = self._judged(svcname)
        holds, monitoring = self._holds(service), monitoring_of(service)
        return Declaration(svcname, name, nodes, limits_s[0], limits_s[1], holds, monitoring)

    def start(self, svcname: str) -> int:
        """Start the service as with --cluster; returns the exit status, log lines on stderr."""
        return self._act(svcname, "start")

    def stop(self, svcname: str) -> int:
        """Stop the service as with --cluster; returns the exit status, log lines on stderr."""
        return self._act(svcname, "stop")

    def restart(self, svcname: str, rid: str, attempt: str) -> int:
        """Start one resource of a running service again; returns the exit status."""
        self._read_anew()
        try:
            return restart_resource(self._loader, self._loader.service(svcname, cluster=True), rid, attempt)
        except HbError as error:
            self._say(svcname, error)
            return 1

    def prepare(self, svcname: str) -> int:
        """Run the command that the service wants run before its monitor action; returns its status."""
        self._read_anew()
        try:
            return run_prepare(self._loader, self._loader.service(svcname, cluster=True))
        except HbError as error:
            self._say(svcname, error)
            return 1

    def announce(self, svcname: str) -> int:
        """Announce the service's addresses again; returns the exit status."""
        self._read_anew()
        try:
            service = self._loader.service(svcname, cluster=True)
            for member in service.members:
                if not member.disable:
                    member.resource.announce()
        except HbError as error:
            self._say(svcname, error)
            return 1
        return 0

    def avail(self, svcname: str, evaluate_apps: bool) -> str:
        """Tell whether an instance runs here: `up`, `down`, `mixed` or `unknown`.

        A service that cannot tell (n/a: no resource, or launchers without a check) is what
        its last whole start or stop in this life of the node made of it.

        Args:
            svcname: the service.
            evaluate_apps: run launchers although the heartbeat says that nothing runs here;
                the heartbeat is not asked at all then: the daemon may be waiting for us.
        """
        self._read_anew()
        try:
            service = self._loader.service(svcname)
            ignored = ("hb", "sync") if evaluate_apps else ("sync",)
            members = tuple(member for member in service.members if member.group not in ignored)
            status = self._evaluated(replace(service, members=members), evaluate_apps)
        except HbError as error:
            self._say(svcname, error)
            return "unknown"
        return self._avail_of(status)

    def examine(self, svcname: str, was_started: bool) -> Tuple[str, Optional[Dict[str, Any]]]:
        """Evaluate a service that was just started, once for both who want to know.

        Args:
            svcname: the service.
            was_started: the start ended with 0. That decides for a service that cannot tell, also
                where the mark of it could not be written.

        Returns:
            What `avail` with `evaluate_apps` says, and the document of `status`, its hb
            undefined (None when the service cannot be read any more).
        """
        self._read_anew()
        began_s = time.time()
        try:
            status = self._evaluated(self._loader.service(svcname), evaluate_apps=True, ask_heartbeat=False)
        except HbError as error:
            self._say(svcname, error)
            return "unknown", None
        return self._avail_of(status, was_started), status_document(status, began_s)

    def _evaluated(
        self, service: Service, evaluate_apps: bool = False, ask_heartbeat: bool = True
    ) -> ServiceStatus:
        return evaluate(
            self._loader, service, evaluate_apps, ask=answer_in_threads, ask_heartbeat=ask_heartbeat
        )

    def _avail_of(self, status: ServiceStatus, was_started: bool = False) -> str:
        svcname = status.svcname
        if any(not r.known for r in status.resources if r.group not in ("hb", "sync")):
            return "unknown"
        avail = status.totals.avail
        if avail is Status.UP:
            return "up"
        if avail in _NOT_RUNNING:
            return "down"
        if avail in (Status.NA, Status.UNDEF):
            marked = was_started or started_mark.is_marked(self._root, svcname)
            return "up" if marked else "down"
        # A warning with nothing up beside it (a name that does not resolve, a check that
        # fails) tells nothing: only what is up is an instance that lives.
        up = any(r.status is Status.UP and r.group != "hb" for r in status.resources)
        return "mixed" if up else "unknown"

    def status(self, svcname: str) -> Dict[str, Any]:
        """Return the document of `print status --format json`.

        Raises:
            HbError: there is no such service, or its file is refused.
        """
        self._read_anew()
        began_s = time.time()  # before the file is read: a change meanwhile makes the document old
        service = self._loader.service(svcname)
        in_hand = is_in_hand(self._root, svcname)
        document = status_document(self._evaluated(service), began_s)
        document["in_hand"] = in_hand or is_in_hand(self._root, svcname)
        return document

    def _say(self, svcname: str, error: HbError) -> None:
        """Log why a service cannot be acted on, a line for each thing that is wrong."""
        for line in str(error).splitlines():
            self._loader.log(svcname).error(line)

    def _read_anew(self) -> None:
        self._loader = self._loader.renewed()

    def _act(self, svcname: str, action: str) -> int:
        self._read_anew()
        try:
            service = self._loader.service(svcname, cluster=True)
        except HbError as error:
            self._say(svcname, error)
            return 1
        return run_action(self._loader, service, action, Options(cluster=True))

    def _holds(self, service: Optional[Service]) -> Tuple[Holding, ...]:
        """Ask the resources what they hold; None is a file that is bad, and says nothing.

        A standby resource is up where the service does not run, and no instance's.
        """
        held: Dict[Holding, None] = {}
        for member in service.members if service is not None else ():
            if member.disable or member.standby:
                continue
            try:
                held.update(dict.fromkeys(member.resource.holds()))
            except Exception as error:  # the driver boundary: any driver may break in any way
                text = f"what it may hold here cannot be told: {type(error).__name__}: {error}"
                member.resource.context.error(text.splitlines()[0])
        return tuple(held)

    def _node_errors(self) -> List[str]:
        """Return what is wrong with node.conf, which no service needs to be declared."""
        try:
            _ = self._loader.node_configuration
        except HbError as error:
            return str(error).splitlines()
        return []

    def _judged(self, svcname: str) -> Tuple[Optional[Service], List[str]]:
        """Return the service, None when it cannot be read, and what is wrong with it, or with node.conf."""
        try:
            judged = self._loader.judge(svcname)
        except HbError as error:
            return None, str(error).splitlines()
        return judged.service, [str(error) for error in judged.errors]

    def _strange_heartbeat(self, svcname: str) -> List[str]:
        """Return what is wrong with a file of this node's with an hb section that drives nothing."""
        file = self._loader.file(svcname)
        ours = self._node in node_list(file.value(DEFAULT, "nodes") or "")
        if not ours or not any(section.partition("#")[0] == "hb" for section in file.sections):
            return []
        service, wrong = self._judged(svcname)
        # it can be read as a whole: that its hb section drives nothing is meant so
        return wrong if service is None else []

    def _declaration(self, svcname: str) -> Optional[Declaration]:
        """Read only what the heartbeat needs; None when the service is not this node's."""
        file = self._loader.file(svcname)
        nodes = node_list(file.value(DEFAULT, "nodes") or "")
        if self._node not in nodes:
            return None
        scopes = scopes_of(self._node, nodes)
        for section in file.sections:
            if section.partition("#")[0] == "hb" and _drives(file, section, scopes):
                name = file.value(section, "name") or svcname
                return Declaration(
                    svcname,
                    name,
                    tuple(dict.fromkeys(nodes)),
                    _limit_s(file, "start_timeout", scopes),
                    _limit_s(file, "stop_timeout", scopes),
                )
        return None


def _drives(file: Configuration, section: str, scopes: Tuple[str, ...]) -> bool:
    """Tell whether an hb section is enabled here and of our type."""
    if (file.value(section, "type") or "").strip().lower() != HEARTBEAT_TYPE:
        return False
    for place in (DEFAULT, section):
        disable = file.value(place, "disable", scopes)
        if disable is not None and _is_true(disable):
            return False
    on = node_list(file.value(section, "disable_on") or "")
    return not ({"nodes", scopes[0]} & set(on))


def _is_true(text: str) -> bool:
    try:
        return boolean(text)
    except ValueError:
        return False  # said where the whole file is judged


def _limit_s(file: Configuration, name: str, scopes: Tuple[str, ...]) -> float:
    keyword: Keyword = next(known for known in DEFAULT_KEYWORDS if known.name == name)
    entry = file.lookup(DEFAULT, name, scopes)
    if entry is None:
        return float(keyword.default)
    try:
        return float(keyword.convert(entry.value))
    except ValueError as error:
        raise ConfigurationError(file.path, entry.line, f"{DEFAULT}.{entry.key}", str(error)) from None
