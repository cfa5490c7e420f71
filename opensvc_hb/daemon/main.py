"""One daemon's life: everything is checked, then made, then the monitor runs until it may end.

Started in the foreground by `hbmgr daemon`. What is refused is refused here, before a thread
runs or a file is written; after that only core decides when the daemon ends.

Runs in: main thread, which becomes the monitor thread.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping, Optional, Tuple

import opensvc_hb
from opensvc_hb.core.config import Config
from opensvc_hb.core.events import (
    DaemonStarted,
    DaemonStopping,
    GuardianActed,
    ResourceReport,
    ResourcesReported,
    StopKind,
)
from opensvc_hb.core.node_state import NodeState, Phase, new_node
from opensvc_hb.core.states import Avail
from opensvc_hb.daemon import life, logging_setup, realtime
from opensvc_hb.daemon.answers import Answers, Sources
from opensvc_hb.daemon.configuration import (
    ClusterFiles,
    Configuration,
    Loaded,
    combine,
    declare_now,
    read_cluster_files,
    too_much,
)
from opensvc_hb.daemon.control import ControlServer
from opensvc_hb.daemon.effects import Performer
from opensvc_hb.daemon.guardian import Guardian, Learned
from opensvc_hb.daemon.guardian_keeper import THREAD_NAME as GUARDIAN_THREAD
from opensvc_hb.daemon.guardian_keeper import Found, Keeper
from opensvc_hb.daemon.guardian_reset import Machine, ResetKind, Resetter
from opensvc_hb.daemon.guardian_wire import SERVICE_PLACE, Know
from opensvc_hb.daemon.inbox import Inbox
from opensvc_hb.daemon.journal import JournalThread, JournalWriter
from opensvc_hb.daemon.monitor import Monitor
from opensvc_hb.daemon.notify import Notifier
from opensvc_hb.daemon.report import Notices, alarms
from opensvc_hb.daemon.runner import Runner, environment_for_actions
from opensvc_hb.daemon.scope import move_to_scope, under_systemd
from opensvc_hb.daemon.state_files import StateFiles
from opensvc_hb.daemon.statuses import Statuses
from opensvc_hb.daemon.store import Store
from opensvc_hb.daemon.watch import Watch
from opensvc_hb.errors import ConfigurationError, ConfigurationErrors
from opensvc_hb.files import WriteError
from opensvc_hb.links.base import LinkCounters, Links
from opensvc_hb.links.keyring import Keyring
from opensvc_hb.paths import Root

log = logging.getLogger("daemon")

JOURNAL_NAME = "hb.journal"
STORE_NAME = "hb.store"
BOOT_NAME = "hb.boot"
STATUS_PERIOD_S = 5.0
SWITCH_INTERVAL_S = 0.001
"""A thread that computes (an answer of a thousand services) lets a beat pass this soon."""


def clock() -> float:
    """Return the seconds of CLOCK_BOOTTIME: monotonic, and it counts suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass
class Board:
    """What the monitor and the configuration thread show to each other and to the control thread.

    Each field has one writer, holds a frozen value and is replaced as a whole.
    """

    state: Optional[NodeState] = None
    problems: tuple[str, ...] = ()
    key_ids: tuple[int, ...] = ()
    realtime: str = ""
    reset: ResetKind = ResetKind.NONE


def run(root: Root, node: str) -> None:
    """Run the daemon of a root until it is told to end.

    Raises:
        HbError: it may not start: another one runs, or the configuration is wrong.
    """
    logging_setup.set_up_logging()
    notifier = Notifier.from_environment()
    lock = life.take_lock(root.lock, root.top)
    files = read_cluster_files(root, node)
    for note in files.notes:
        log.info("%s", note)
    for directory in (root.var, root.log, root.run):
        _make_directory(directory)
    os.chdir("/")
    try:
        Daemon(root, node, files, notifier).run()
    finally:
        lock.release()


def _make_directory(path: os.PathLike[str]) -> None:
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)  # noqa: PTH103 - a path-like is enough
    except OSError as error:
        raise ConfigurationError(str(path), 0, "", f"cannot be made: {error.strerror}") from error


class Daemon:
    """The parts of a daemon, made in the order in which they need each other."""

    def __init__(self, root: Root, node: str, files: ClusterFiles, notifier: Notifier) -> None:
        self._root = root
        self._node = node
        self._files = files
        self._notifier = notifier
        self._board = Board()
        self._inbox = Inbox()
        self._state_files = StateFiles(files.settings.openha_tree)
        self._fed_at = 0.0
        self._told_at = 0.0
        self._is_ready = False

    def run(self) -> None:
        """Make everything, run the monitor, take everything down again."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        memory = realtime.lock_memory()  # before there are threads, see there
        settings = self._files.settings
        runner = Runner(
            self._inbox, logging.getLogger("runner"), os.environ, max_parallel=settings.max_parallel
        )
        runner.start()
        loaded = combine(self._root, self._node, self._files, declare_now(runner), {})
        broken = too_much(self._root, self._files, loaded.config)
        if broken:
            runner.close()
            raise ConfigurationErrors(broken)
        self._loaded_changed(loaded)
        store = Store.open(self._root.var / STORE_NAME, len(loaded.config.services))
        if store.damaged:
            log.error("%s", store.damaged)
        statuses = Statuses(
            runner.status,
            self._resources_seen,
            logging.getLogger("statuses"),
            settings.status_interval_s,
            watch_interval_s=settings.monitor_interval_s,
        )
        statuses.set_services(loaded.config.services.values())
        journal = JournalThread(JournalWriter(self._root.log / JOURNAL_NAME, self._node))
        stored = store.read()
        # The guardian of an older release is replaced here and not sooner: until now it knows how to end
        # what it guards, whatever becomes of this daemon's start.
        keeper, know = self._make_keeper(), self._knowledge(loaded)
        found = keeper.reach(know)
        if isinstance(found, Found):
            found = keeper.await_rest(found)
        inherited = found.lease if isinstance(found, Found) else (None, 0.0, ())
        was_booted = self._was_booted()
        self._inbox.put(DaemonStarted(loaded.config, stored, was_booted, *inherited, loaded.is_whole))
        guardian = Guardian(know, keeper.confirmations, keeper.replace_it, clock)
        if isinstance(found, Found):
            guardian.reached(found.connection)
            for acted in found.acted:
                self._inbox.put(GuardianActed(acted.services, acted.what, acted.alarm))
        floors = {name: peer.incarnation for name, peer in stored.peers.items()}
        links = self._start_links(loaded.config, self._files.keyring, floors)
        performer = Performer(
            links, runner, store, journal, statuses, self._inbox, clock, guardian, self._reset_node
        )
        configuration = Configuration(
            self._root,
            loaded,
            links,
            runner,
            self._inbox,
            lambda config, keyring: self._start_links(config, keyring, self._incarnations()),
            lambda changed: self._configuration_changed(changed, statuses),
        )
        sources = Sources(
            state=lambda: self._board.state,
            counters=lambda: _by_id(performer.links),
            notices=lambda: self._notices(performer, journal, store, guardian),
            fresh=statuses.fresh,
            clock=clock,
            reload=configuration.reload,
        )
        control = ControlServer(
            self._root.socket, Answers(self._inbox, sources).handle, settings.control_group
        )
        watch = Watch((self._root.etc,), configuration.reload)
        self._install_signals(configuration)
        keeper.start(found)
        for part in (journal, statuses, configuration, control, watch, self._state_files):
            part.start()
        self._become_realtime(memory)
        gc.freeze()
        state = new_node(loaded.config)
        monitor = Monitor(state, self._inbox, performer, clock, self._publish, self._feed, guardian)
        reason = monitor.run()
        log.info("the daemon ends: %s", reason)
        keeper.close()
        self._notifier.stopping(reason)
        watch.close()
        control.stop()
        configuration.close()
        statuses.close()
        self._state_files.close()
        runner.close()
        journal.stop()
        store.close()

    def _incarnations(self) -> Mapping[str, int]:
        """Return the highest incarnation accepted from each peer, as published last."""
        state = self._board.state
        return {} if state is None else {name: peer.incarnation for name, peer in state.peers.items()}

    def _start_links(self, config: Config, keyring: Keyring, floors: Mapping[str, int]) -> Links:
        links = Links(config, keyring, floors, self._inbox.put, clock)
        links.start()
        self._hasten_links()
        return links

    def _make_keeper(self) -> Keeper:
        """Return the keeper of this root's guardian, which leaves the daemon's control group."""
        environment = environment_for_actions(os.environ)

        def enter_guardians_scope(pid: int) -> str:
            return move_to_scope(f"opensvc_guardian-{pid}.scope", "OpenSVC guardian", pid)

        enter = enter_guardians_scope if under_systemd() else None
        return Keeper(self._root, environment, self._inbox, enter)

    def _knowledge(self, loaded: Loaded) -> Know:
        """Return what the guardian must know of this configuration."""
        settings = loaded.files.settings
        return Know(
            number=0,
            stop=(sys.executable, "-m", "opensvc_hb.cli.svcmgr", "-s", SERVICE_PLACE, "--cluster", "stop"),
            # -m looks into the working directory first, so that this very package is found.
            directory=str(Path(opensvc_hb.__file__).parent.parent),
            environment=environment_for_actions(os.environ),
            reset=settings.reset.value,
            watchdog=settings.watchdog,
            held=loaded.held,
        )

    def _was_booted(self) -> bool:
        """Tell a boot of the node from a restart of the daemon, and remember this boot."""
        path = self._root.var / BOOT_NAME
        identity = life.boot_identity()
        booted = life.was_booted(path, identity)
        if booted:
            try:
                life.remember_boot(path, identity)
            except WriteError as error:
                log.error("a restart of the daemon will look like a boot of the node: %s", error)
        return booted

    # -- what others tell, on their own threads ------------------------------------------

    def _resources_seen(self, service: str, avail: Avail, resources: Tuple[ResourceReport, ...]) -> None:
        self._inbox.put(ResourcesReported(service, avail, resources))

    def _loaded_changed(self, loaded: Loaded) -> None:
        for line in loaded.problems:
            if line not in self._board.problems:
                log.error("%s", line)
        self._board.problems = loaded.problems
        self._board.key_ids = loaded.files.keyring.key_ids
        self._board.reset = loaded.files.settings.reset

    def _configuration_changed(self, loaded: Loaded, statuses: Statuses) -> None:
        self._loaded_changed(loaded)
        self._state_files.use(loaded.files.settings.openha_tree)
        self._inbox.put(Learned(self._knowledge(loaded)))
        statuses.set_services(loaded.config.services.values())

    def _notices(
        self, performer: Performer, journal: JournalThread, store: Store, guardian: Guardian
    ) -> Notices:
        problem = performer.store_problem
        return Notices(
            store=problem or (f"{store.damaged}" if store.damaged else ""),
            services=self._board.problems,
            journal=_journal_problem(journal),
            realtime=self._board.realtime,
            key_ids=self._board.key_ids,
            guardian=guardian.problem,
            state_files=self._state_files.problem,
            pid=os.getpid(),
        )

    def _reset_node(self, why: str, crashes: bool) -> str:
        """Reset this node, as `reset` of hb.conf has it; the watchdog is the guardian's, and not used."""
        resetter = Resetter(self._root.top != Path("/"), Machine())
        resetter.configure(self._board.reset, "")
        return resetter.reset(why, crashes)

    # -- the monitor's surroundings ------------------------------------------------------

    def _publish(self, state: NodeState) -> None:
        self._board.state = state
        self._state_files.offer(state)
        now = clock()
        if not self._is_ready and state.phase is Phase.RUNNING:
            self._is_ready = True
            self._notifier.ready(_status_line(state, now))
            log.info("ready: %s", _status_line(state, now))
        elif now - self._told_at > STATUS_PERIOD_S:
            self._told_at = now
            self._notifier.status(_status_line(state, now))

    def _feed(self) -> None:
        period_s = self._notifier.feed_interval_s
        now = clock()
        if period_s is not None and now - self._fed_at >= period_s / 2:
            self._fed_at = now
            self._notifier.feed_watchdog()

    def _become_realtime(self, memory: realtime.Grant) -> None:
        """Ask for priority for the threads that beat and decide; `memory` is locked by now."""
        report = realtime.become_realtime(memory=memory)
        self._hasten_links()
        self._board.realtime = "; ".join(
            f"{grant.what}: {grant.detail}" if grant.granted else f"no {grant.what}: {grant.detail}"
            for grant in report.grants
        )
        for grant in report.refused:
            log.info("goes on without %s: %s", grant.what, grant.detail)

    def _hasten_links(self) -> None:
        """Give the links' and the guardian's threads their priority, those of a reload too."""
        for thread in threading.enumerate():
            if thread.native_id is not None and _is_prompt(thread.name):
                realtime.make_thread_realtime(thread_id=thread.native_id)

    def _install_signals(self, configuration: Configuration) -> None:
        def stop(_number: int, _frame: object) -> None:
            threading.Thread(target=self._stop_in_order, name="stop", daemon=True).start()

        def again(_number: int, _frame: object) -> None:
            if not self._is_ready:  # `ready` would end a start that has not ended
                configuration.reload()
                return
            self._notifier.reloading()
            configuration.reload(lambda _loaded: self._notifier.ready())

        handlers: Mapping[int, Callable[[int, object], None]] = {
            signal.SIGTERM: stop,
            signal.SIGINT: stop,
            signal.SIGHUP: again,
            signal.SIGUSR1: lambda *_: logging_setup.log_more(),
            signal.SIGUSR2: lambda *_: logging_setup.log_less(),
        }
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def _stop_in_order(self) -> None:
        """A halt of the node ends the instances first; a mere stop of the daemon does not."""
        kind = StopKind.LEAVE if life.shutdown_in_progress() else StopKind.RESTART
        self._inbox.put(DaemonStopping(kind))


def _journal_problem(journal: JournalThread) -> str:
    figures = journal.statistics()
    if not figures.unwritten and not figures.lost:
        return ""
    return f"{figures.unwritten} entries wait for space, {figures.lost} were lost"


def _is_prompt(thread_name: str) -> bool:
    """Tell whether a thread carries beats, or the guardian's confirmations for which a start waits."""
    return thread_name == GUARDIAN_THREAD or any(
        f"{kind}-" in thread_name for kind in ("net", "unicast", "dio", "disk")
    )


def _by_id(links: Links) -> Mapping[str, LinkCounters]:
    return {counters.link_id: counters for counters in links.counters()}


def _status_line(state: NodeState, now: float) -> str:
    peers = ", ".join(f"{node} {peer.liveness.value}" for node, peer in state.peers.items()) or "no peers"
    running = sum(i.state.name in ("STARTED", "FROZEN_START") for i in state.instances.values())
    count = len(alarms(state, Notices(), now))
    return f"{running} of {len(state.instances)} services run here; {peers}; {count} alarms"
