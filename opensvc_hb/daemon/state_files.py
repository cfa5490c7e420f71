"""OpenHA's state files, kept in step for scripts that read them.

`TREE/services/SERVICE/STATE.NODE` holds a digit and a zero byte: the state of a service on a node,
by OpenHA's number. The daemon writes them, and never reads one: what somebody else writes there
changes nothing and is overwritten. A file that cannot be written is an alarm, and holds up
nothing: the monitor leaves its state in a mailbox and goes on, a thread writes what differs.

Used where hb.conf names a tree (`openha_tree`). What one file is: `state_file_format`.

Runs in: state-files thread; `offer` in the monitor thread, `use` in the configuration thread.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from pathlib import Path
from typing import Callable, Dict, Mapping, Optional, Set, Tuple

from opensvc_hb.core.node_state import NodeState
from opensvc_hb.core.states import State
from opensvc_hb.daemon.report import shown_state
from opensvc_hb.daemon.sessions import boottime
from opensvc_hb.daemon.state_file_format import remove_state_files, state_file, write_state

log = logging.getLogger("state-files")

THREAD_NAME = "state-files"
REPEAT_S = 60.0
"""Everything is written anew so often: somebody may have removed or overwritten a file."""
RETRY_S = 5.0
"""After a failure, the same."""
CLOSE_S = 2.0

Key = Tuple[str, str]
"""Service and node."""


def states_to_write(state: NodeState) -> Mapping[Key, State]:
    """Return the state of every service of this node, on each node, as commands show it."""
    found: Dict[Key, State] = {}
    for name, instance in state.instances.items():
        service = state.config.services.get(name)
        for node in service.nodes if service is not None else ():
            found[name, node] = shown_state(state, instance, node)
    return found


class StateFiles:
    """The thread that keeps the files of one tree in step, from `start` to `close`.

    Args:
        clock: seconds of CLOCK_BOOTTIME.
    """

    def __init__(self, tree: Optional[Path], clock: Callable[[], float] = boottime) -> None:
        self._clock = clock
        self._tree = tree
        self._state: Optional[NodeState] = None
        self._is_changed = False
        self._closing = False
        self._problem = ""
        self._written: Dict[Key, State] = {}
        self._services: Set[str] = set()
        self._repeat_at = 0.0
        self._something = threading.Condition()
        # Held while files are written: once `use` has returned, nothing is written to the old tree.
        self._writing = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)

    @property
    def problem(self) -> str:
        """Why a file cannot be written, "" when all can."""
        return self._problem

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, state: NodeState) -> None:
        """Leave the newest state to be written; one that says the same as the last wakes nobody."""
        if self._tree is None:
            return
        with self._something:
            before, self._state = self._state, state
            if before is None or not _is_same(before, state):
                self._is_changed = True
                self._something.notify()

    def use(self, tree: Optional[Path]) -> None:
        """Write to another tree from now on, or to none; a write under way is waited for, for a moment."""
        if tree == self._tree:
            return
        is_idle = self._writing.acquire(timeout=CLOSE_S)
        try:
            with self._something:
                self._tree = tree
                self._repeat_at = 0.0
                self._problem = ""
                self._is_changed = True
                self._something.notify()
        finally:
            if is_idle:
                self._writing.release()

    def close(self) -> None:
        """Write what was offered last, and end; a file system that hangs is not waited for."""
        with self._something:
            self._closing = True
            self._something.notify()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        try:
            while not self._turn():
                pass
        except Exception:  # the top of a thread: scripts read old states, and nothing else happens
            log.exception("the state files are not kept in step any more")
            self._problem = "the thread failed, see the daemon's log"

    def _turn(self) -> bool:
        """Wait for something to write, and write it; tell whether that was the last time."""
        with self._something:
            self._something.wait_for(lambda: self._is_changed or self._closing, self._wait_s())
            self._is_changed = False
            tree, state, closing = self._tree, self._state, self._closing
        if tree is not None and state is not None:
            self._write(tree, states_to_write(state))
        return closing

    def _wait_s(self) -> Optional[float]:
        """Return how long nothing needs to be done unless something changes; None for ever."""
        if self._tree is None or self._state is None:
            return None
        return max(0.0, self._repeat_at - self._clock())

    def _write(self, tree: Path, states: Mapping[Key, State]) -> None:
        """Write what differs from what was written; everything when its time has come."""
        with self._writing:
            if self._tree != tree:
                return
            now = self._clock()
            is_due = now >= self._repeat_at
            if is_due:
                self._written.clear()
            problem = ""
            for key, state in states.items():
                if self._written.get(key) is state:
                    continue
                path = state_file(tree, *key)
                try:
                    write_state(path, state)
                    self._written[key] = state
                except OSError as error:
                    problem = problem or f"{path}: {error.strerror or error}"
            self._forget_gone(tree, {service for service, _ in states})
            if problem and problem != self._problem:
                log.error("state files cannot be written: %s", problem)
            self._problem = problem
            if is_due or problem:
                self._repeat_at = now + (RETRY_S if problem else REPEAT_S)

    def _forget_gone(self, tree: Path, current: Set[str]) -> None:
        """Remove the files of services that were taken out of the configuration."""
        for service in self._services - current:
            with contextlib.suppress(OSError):  # what is not empty, or not ours any more, stays
                remove_state_files(tree, service)
        for key in [key for key in self._written if key[0] not in current]:
            del self._written[key]
        self._services = current


def _is_same(before: NodeState, after: NodeState) -> bool:
    """Tell whether two states say the same here, by identity: a turn that changes nothing keeps it all."""
    return (
        before.instances is after.instances
        and before.config is after.config
        and before.peers.keys() == after.peers.keys()
        and all(
            peer.table is before.peers[name].table and peer.liveness is before.peers[name].liveness
            for name, peer in after.peers.items()
        )
    )
