"""Which processes belong to a service, and how are all of them ended at once?

A process is a service's when one of these says so; each finds some that the others cannot:
- its environment has the marks that every action gives to what it starts (`held`), however it
  daemonised;
- it, or its session's leader, holds the lock of the service: an action under way;
- systemd has it in a scope of an action of the service: also one that wrote its title over its
  environment, as some servers do;
- its parent is one of these: what runs in a container has an environment of its own;
- its control group has the id of a container that the agent started for the service: also one
  whose watcher was killed, and one that the system's docker daemon runs for us.

Only /proc is read, and names of files in /run, never a file that could hang. Never a process of
ours: process 1, this one, the daemon, and what they started for themselves; descent stops at them.
What only a stop action runs is told apart (`Member.stops`).

Ending: all are stopped by SIGSTOP first, looked for again until there is no new one, and killed
then, so that nothing forks away. Each signal goes through a pidfd to the process that was found.

Runs in: the guardian process.
"""

from __future__ import annotations

import os
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, FrozenSet, List, Mapping, Optional, Set, Tuple

from opensvc_hb.daemon.sessions import Process, Processes, list_processes, look_at, signal_process
from opensvc_hb.held import (
    ACTION_MARK,
    ROOT_MARK,
    SERVICE_MARK,
    STOP_ACTION,
    container_notes,
    scope_part,
)

ROUNDS_MAX = 4
"""Looks for what was forked meanwhile, before the kill."""
_CONTAINER = re.compile(r"[0-9a-f]{64}")
"""How an engine's control groups name a container, whoever manages them."""
_SCOPE = re.compile(r"/opensvc-(.+)-\d+\.scope(?:/|$)", re.MULTILINE)


@dataclass(frozen=True)
class Member:
    """A process of a service.

    Args:
        stops: only a stop action runs it: it is no part of the instance.
    """

    process: Process
    svcname: str
    stops: bool

    def __str__(self) -> str:
        return f"process {self.process.pid} ({self.process.name})"


Members = Mapping[str, Tuple[Member, ...]]
"""By svcname; services without a process are left out."""


class ServiceProcesses:
    """Finds and ends the processes of the services of one root.

    Args:
        top: the root directory, as the marks name it.
        lock_directory: where the agent has a lock for each service.
        has_scopes: systemd runs this node, and this is its only root.
        list_all: lists every process.
        send: sends a signal to one process.
        runtime: where the agent notes the containers that it started, "" for nowhere.
    """

    def __init__(
        self,
        top: str,
        lock_directory: str,
        has_scopes: bool,
        list_all: Callable[[], Processes] = list_processes,
        send: Callable[[Process, int], None] = signal_process,
        runtime: str = "",
    ) -> None:
        self._root_line = f"{ROOT_MARK}={top}".encode()
        self._locks = lock_directory.rstrip("/") + "/"
        self._has_scopes = has_scopes
        self._runtime = runtime
        self._list_all = list_all
        self._send = send
        self._spared: Optional[Process] = None

    def spare(self, pid: int) -> None:
        """Never touch this process, the daemon, nor what it started for itself."""
        self._spared = look_at(pid)

    def find(self, svcnames: FrozenSet[str]) -> Members:
        """Return the living processes of these services."""
        processes = {pid: p for pid, p in self._list_all().items() if p.lives}
        spared = {1, os.getpid()}
        daemon = self._spared
        now = processes.get(daemon.pid) if daemon is not None else None
        if daemon is not None and now is not None and now.started_ticks == daemon.started_ticks:
            spared.add(daemon.pid)
        found: Dict[int, Member] = {}
        holders = self._lock_holders(processes)
        containers = self._containers(svcnames)
        for pid, process in processes.items():
            mark = None if pid in spared else self._mark(process, holders.get(pid), svcnames, containers)
            if mark is not None:
                found[pid] = Member(process, *mark)
        _add_descendants(found, processes, spared)
        members: Dict[str, List[Member]] = {}
        for member in found.values():
            if member.svcname in svcnames:
                members.setdefault(member.svcname, []).append(member)
        return {svcname: tuple(several) for svcname, several in members.items()}

    def end(self, svcnames: FrozenSet[str], with_stops: bool = True) -> Members:
        """Kill every process of these services; return those that were found living.

        A process in the kernel (a dead disk) dies later, or never: look again.

        Args:
            svcnames: the services.
            with_stops: those that only a stop action runs, too.
        """
        stopped: Dict[Tuple[int, int], Member] = {}
        for _ in range(ROUNDS_MAX):
            members = self.find(svcnames)
            wanted = (m for several in members.values() for m in several if with_stops or not m.stops)
            new = [member for member in wanted if _identity(member) not in stopped]
            for member in new:
                stopped[_identity(member)] = member
                self._send(member.process, signal.SIGSTOP)
            if not new:
                break
        doomed: Dict[str, List[Member]] = {}
        for member in stopped.values():
            self._send(member.process, signal.SIGKILL)
            doomed.setdefault(member.svcname, []).append(member)
        return {svcname: tuple(several) for svcname, several in doomed.items()}

    # -- marks ------------------------------------------------------------------------------------

    def _mark(
        self, process: Process, lock: Optional[str], svcnames: FrozenSet[str], containers: Mapping[str, str]
    ) -> Optional[Tuple[str, bool]]:
        """Return the service of a process, and whether it only stops it; None when nothing tells.

        A process of another service of ours counts, too: it is not its parent's.
        """
        lines = _read(f"/proc/{process.pid}/environ").split(b"\0")
        if self._root_line in lines:
            values = dict(line.split(b"=", 1) for line in lines if b"=" in line)
            svcname = values.get(SERVICE_MARK.encode(), b"").decode(errors="surrogateescape")
            if svcname:
                return svcname, values.get(ACTION_MARK.encode()) == STOP_ACTION.encode()
        if lock is not None:
            return lock, process.name.startswith(f"{STOP_ACTION}:")
        if not self._has_scopes and not containers:
            return None
        group = _read(f"/proc/{process.pid}/cgroup").decode(errors="replace")
        scope = _SCOPE.search(group) if self._has_scopes else None
        if scope is not None:
            return next((name for name in svcnames if scope_part(name) == scope.group(1)), "?"), False
        svcname = service_of_group(group, containers)
        return (svcname, False) if svcname else None

    def _containers(self, svcnames: FrozenSet[str]) -> Dict[str, str]:
        """Return the containers that were started for these services: svcname by id."""
        found: Dict[str, str] = {}
        for svcname in svcnames if self._runtime else ():
            found.update(dict.fromkeys(_names_in(str(container_notes(self._runtime, svcname))), svcname))
        return found

    def _lock_holders(self, processes: Processes) -> Dict[int, str]:
        """Return the processes that hold a lock of a service, by number.

        /proc/locks names who took a lock; a child that was forked with it may have outlived that one,
        in its session.
        """
        takers = flock_takers(_read("/proc/locks").decode(errors="replace"))
        holders = {}
        for pid, process in processes.items():
            if pid in takers or process.session in takers:
                svcname = self._lock_of(pid)
                if svcname:
                    holders[pid] = svcname
        return holders

    def _lock_of(self, pid: int) -> str:
        """Return the service whose lock's file a process has open, "" for none."""
        for name in _names_in(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{name}")  # noqa: PTH115  # the text, nothing of it is touched
            except OSError:
                continue
            if target.startswith(self._locks):
                file = target[len(self._locks) :]
                return file[1 : -len(".begun")] if file.startswith(".") and file.endswith(".begun") else file
        return ""


def service_of_group(group: str, containers: Mapping[str, str]) -> str:
    """Return the service whose container a process runs in, "" for none.

    Args:
        group: the process's cgroup file; a container's id stands in its paths.
        containers: svcname by container's id.
    """
    return next((containers[found] for found in _CONTAINER.findall(group) if found in containers), "")


def flock_takers(text: str) -> FrozenSet[int]:
    """Return the processes that hold a lock of the flock kind, as /proc/locks says.

    Source: proc(5); lines with `->` are processes that wait.
    """
    takers = set()
    for line in text.splitlines():
        words = line.split()
        if len(words) > 4 and words[1] == "FLOCK" and words[4].isdigit():
            takers.add(int(words[4]))
    return frozenset(takers)


def _add_descendants(found: Dict[int, Member], processes: Processes, spared: Set[int]) -> None:
    children: Dict[int, List[Process]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process)
    waiting = list(found.values())
    while waiting:
        parent = waiting.pop()
        for child in children.get(parent.process.pid, ()):
            if child.pid not in found and child.pid not in spared:
                found[child.pid] = member = Member(child, parent.svcname, parent.stops)
                waiting.append(member)


def _identity(member: Member) -> Tuple[int, int]:
    return member.process.pid, member.process.started_ticks


def _read(path: str) -> bytes:
    """Return a file of /proc, empty when the process is gone or another user's."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _names_in(path: str) -> List[str]:
    try:
        return os.listdir(path)  # noqa: PTH208  # names only
    except OSError:
        return []
