"""Which processes belong to a service's own docker daemon, whether it still runs or not?

dockerd, its containerd and the shim of each container are told by their command lines, in which
stands a directory that no other daemon has; what runs in the containers descends from the shims,
or is in a control group with the id of a container that was started for the service. So the
containers of a daemon that was killed are found, too: they run on without it.

A pid file is never believed by itself: the number may be another's since.

Runs in: the process that acts or asks for a status. Reads /proc only.
"""

from __future__ import annotations

import enum
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, FrozenSet, Iterable, List, Optional, Sequence, Tuple

PROC = Path("/proc")
LOOK_EVERY_S = 0.05
"""The kernel tells nobody that a stranger's child has ended."""
SHOWN_MAX = 6
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")


class Role(enum.IntEnum):
    """What a process of a docker daemon does; in the order in which they are killed."""

    CONTAINED = 0
    SHIM = 1
    CONTAINERD = 2
    DAEMON = 3


@dataclass(frozen=True)
class EngineProcess:
    """A living process of the daemon.

    Args:
        started_ticks: when it began, which tells it from a later one with the same number.
    """

    pid: int
    started_ticks: int
    role: Role
    name: str

    def __str__(self) -> str:
        return f"{self.pid} ({self.name})"


@dataclass(frozen=True)
class _Line:
    pid: int
    parent: int
    started_ticks: int
    name: str


class EngineProcesses:
    """The processes of one daemon.

    Args:
        exec_root: the daemon's directory for sockets and such, no other daemon's; "" for a daemon that is
            not the service's own, of which only its containers count.
        pid_file: the daemon's; stands in its command line.
        container_ids: of the containers that were started for the service.
    """

    def __init__(
        self,
        exec_root: str,
        pid_file: str,
        container_ids: FrozenSet[str] = frozenset(),
    ) -> None:
        self._marks: Dict[str, Role] = {}
        if exec_root:
            self._marks[f"{exec_root}/containerd/containerd.sock"] = Role.SHIM
            self._marks[f"{exec_root}/containerd/containerd.toml"] = Role.CONTAINERD
        self._exec_root = exec_root
        self._pid_file = pid_file
        self._container_ids = container_ids

    def find(self) -> Tuple[EngineProcess, ...]:
        """Return the living ones, first those to be killed first."""
        lines = self._lines()
        roles: Dict[int, Role] = {}
        for pid in lines:
            role = self._role(pid)
            if role is not None:
                roles[pid] = role
        children: Dict[int, List[int]] = {}
        for line in lines.values():
            children.setdefault(line.parent, []).append(line.pid)
        waiting = [pid for pid, role in roles.items() if role in (Role.SHIM, Role.CONTAINED)]
        while waiting:
            for child in children.get(waiting.pop(), ()):
                if child not in roles:
                    roles[child] = Role.CONTAINED
                    waiting.append(child)
        found = [
            EngineProcess(pid, lines[pid].started_ticks, role, lines[pid].name) for pid, role in roles.items()
        ]
        return tuple(sorted(found, key=lambda process: (process.role, process.pid)))

    def _role(self, pid: int) -> Optional[Role]:
        arguments = _command_line(pid).decode(errors="surrogateescape").split("\0")
        if self._exec_root and self._exec_root in arguments and self._pid_file in arguments:
            return Role.DAEMON  # first: it is told where its containerd listens
        for argument in arguments:
            role = self._marks.get(argument)
            if role is not None:
                return role
        if self._container_ids:
            group = _read(PROC / str(pid) / "cgroup").decode(errors="replace")
            if any(found in self._container_ids for found in _CONTAINER_ID.findall(group)):
                return Role.CONTAINED
        return None

    def _lines(self) -> Dict[int, _Line]:
        """Return every process of this PID namespace but this one; one that has ended is none.

        Source: proc(5), /proc/PID/stat; the name may hold any character, so fields count from the
        last parenthesis.
        """
        lines = {}
        for name in os.listdir(PROC):  # noqa: PTH208  # names only
            text = _read(PROC / name / "stat") if name.isdigit() else b""
            end = text.rfind(b")")
            fields = text[end + 2 :].split()
            if len(fields) > 19 and _lives(fields) and int(name) != os.getpid():
                command = text[text.find(b"(") + 1 : end].decode(errors="replace")
                lines[int(name)] = _Line(int(name), int(fields[1]), int(fields[19]), command)
        return lines


def kill_all(processes: EngineProcesses, limit_s: float) -> Tuple[EngineProcess, ...]:
    """Kill all of them, and wait until they are gone; return those that SIGKILL has not ended.

    The daemon is stopped first, so that it starts nothing again of what is killed below it.
    """
    deadline = time.clock_gettime(time.CLOCK_BOOTTIME) + limit_s
    _send([process for process in processes.find() if process.role >= Role.CONTAINERD], signal.SIGSTOP)
    while True:
        left = processes.find()
        if not left or time.clock_gettime(time.CLOCK_BOOTTIME) >= deadline:
            return left
        _send(left, signal.SIGKILL)
        time.sleep(LOOK_EVERY_S)


def end_in_order(processes: EngineProcesses, limit_s: float) -> Tuple[EngineProcess, ...]:
    """Ask the daemon to end, then its containerd, and wait for each; return what is left of all."""
    deadline = time.clock_gettime(time.CLOCK_BOOTTIME) + limit_s
    for role in (Role.DAEMON, Role.CONTAINERD):
        _send([process for process in processes.find() if process.role is role], signal.SIGTERM)
        while any(process.role is role for process in processes.find()):
            if time.clock_gettime(time.CLOCK_BOOTTIME) >= deadline:
                return processes.find()
            time.sleep(LOOK_EVERY_S)
    return processes.find()


def _send(processes: Iterable[EngineProcess], number: int) -> None:
    """Send a signal to each of these very processes; those that have ended do not matter."""
    for process in processes:
        try:
            handle = os.pidfd_open(process.pid)
        except OSError:
            continue
        try:
            fields = _read(PROC / str(process.pid) / "stat").rpartition(b")")[2].split()
            if len(fields) > 19 and int(fields[19]) == process.started_ticks:
                signal.pidfd_send_signal(handle, number)
        except OSError:
            pass  # it ended between the look and the signal
        finally:
            os.close(handle)


def named(processes: Sequence[EngineProcess]) -> str:
    """Return processes as one text for people, a few of many."""
    text = ", ".join(str(process) for process in processes[:SHOWN_MAX])
    return text if len(processes) <= SHOWN_MAX else f"{text} and {len(processes) - SHOWN_MAX} more"


def _lives(fields: Sequence[bytes]) -> bool:
    """Tell whether a process still holds anything, by the fields of its stat from the state on.

    Its first thread may have ended, and be a zombie, while others still have its files open.
    """
    return fields[0] not in (b"Z", b"X") or int(fields[17]) > 1


def _command_line(pid: int) -> bytes:
    """Return a process's command line, from another of its threads where the first has ended."""
    text = _read(PROC / str(pid) / "cmdline")
    if text:
        return text
    tasks = PROC / str(pid) / "task"
    try:
        threads = os.listdir(tasks)  # noqa: PTH208  # names only
    except OSError:
        return b""  # it has ended meanwhile
    others = (_read(tasks / thread / "cmdline") for thread in threads if thread != str(pid))
    return next((found for found in others if found), b"")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # it has ended meanwhile
