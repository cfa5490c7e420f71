"""Which processes are left of an action, and how they are ended.

An action is the leader of a session of its own; whatever it starts stays in that session
unless it daemonises. A session is named by its leader's number *and* start time, because
numbers are used again: after the leader is gone, the number belongs to the session only as
long as a process of the session lives.

Ending is a ladder: SIGTERM to all, a grace, SIGKILL to all until none lives. The kernel
tells nobody that a session is empty, so the list of processes is read again and again, but
only while something is being ended. What SIGKILL does not end hangs in the kernel (a dead
disk or NFS server): after a bound it is left behind, and named; the leader alone is waited
for without a bound, since an action whose own process lives has not ended.

This module signals no process without having looked, through a pidfd, that it still is the
one it found. Called by the runner process for its children, and by the daemon's runner
thread for what a dead runner left.
"""

from __future__ import annotations

import enum
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping, Optional, Set, Tuple

GRACE_S = 5.0
"""From SIGTERM to SIGKILL."""
BOUND_S = 10.0
"""From the first SIGKILL to leaving behind what it did not end."""
_LOOK_EVERY_S = 0.05
_LOOK_SELDOM_S = 1.0


_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def boottime() -> float:
    """Return this node's clock, seconds; it counts a suspend, and no one sets it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def ticks_now() -> int:
    """Return that clock as the start of a process has it: in whole ticks."""
    return int(boottime() * _TICKS_PER_S)


@dataclass(frozen=True)
class Process:
    """One line of the list of processes; `lives` is False for a zombie.

    Args:
        parent: the number of its parent.
        name: its short name, 15 characters at most.
    """

    pid: int
    session: int
    started_ticks: int
    lives: bool
    parent: int = 0
    name: str = ""


@dataclass(frozen=True)
class Session:
    """The session whose leader has, or had, this number and start time.

    Args:
        since_ticks: when its present action began. A leader takes one action after another only
            where nothing was left of the one before; should that ever be wrong, what is older
            than the action is none of it all the same.
    """

    pid: int
    started_ticks: int
    since_ticks: int = 0


Processes = Mapping[int, Process]


def look_at(pid: int) -> Optional[Process]:
    """Return the process with this number, None when there is none.

    Source: proc(5), /proc/PID/stat: state, parent, session, threads and start time are fields 3, 4, 6,
    20 and 22; the name before them may hold any character, so fields count from the last parenthesis.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # gone, or another user's on a system that hides those
    end = text.rfind(b")")
    fields = text[end + 2 :].split()
    name = text[text.find(b"(") + 1 : end].decode(errors="replace")
    # a zombie with another thread is one whose first thread alone has ended
    lives = fields[0] not in (b"Z", b"X") or int(fields[17]) > 1
    return Process(pid, int(fields[3]), int(fields[19]), lives, int(fields[1]), name)


def list_processes() -> Processes:
    """Return every process of this PID namespace, by number."""
    found = (look_at(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208  # names only
    return {process.pid: process for process in found if process is not None}


def members_of(session: Session, processes: Processes) -> Tuple[Process, ...]:
    """Return the living processes of a session's present action, its leader included."""
    leader = processes.get(session.pid)
    if leader is not None and leader.started_ticks != session.started_ticks:
        return ()  # the number is another's: so nobody was left in the session
    return tuple(
        p
        for p in processes.values()
        if p.lives
        and (p.pid == session.pid or (p.session == session.pid and p.started_ticks >= session.since_ticks))
    )


def signal_process(process: Process, number: int) -> None:
    """Send a signal to this very process; nothing happens when it is gone."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        now = look_at(process.pid)
        if now is not None and now.started_ticks == process.started_ticks:
            signal.pidfd_send_signal(handle, number)
    except OSError:
        pass  # it ended between the look and the signal
    finally:
        os.close(handle)


class Progress(enum.Enum):
    """How far the end of a session has come."""

    GOING = "going"
    GONE = "gone"
    LEFT_BEHIND = "left behind"
    """The leader is gone; others survive SIGKILL."""


class SessionEnd:
    """The end of one session under way: call `step` no later than `look_at_s`.

    Args:
        now: seconds of the clock that `step` is given.
        grace_s: from SIGTERM to SIGKILL.
        bound_s: from SIGKILL to leaving others than the leader behind.
        send: signals one process; injected by tests.
    """

    def __init__(
        self,
        session: Session,
        now: float,
        grace_s: float = GRACE_S,
        bound_s: float = BOUND_S,
        send: Callable[[Process, int], None] = signal_process,
    ) -> None:
        self.session = session
        self._kill_at = now + grace_s
        self._leave_at = self._kill_at + bound_s
        self._send = send
        self._asked: Set[Tuple[int, int]] = set()
        self.look_at_s = now
        self.remaining: Tuple[Process, ...] = ()

    def is_overdue(self, now: float) -> bool:
        """Tell whether the bound has passed: whatever is left hangs in the kernel."""
        return now >= self._leave_at

    def step(self, now: float, processes: Processes) -> Progress:
        """Look who is left, and send what is due."""
        self.remaining = members_of(self.session, processes)
        if not self.remaining:
            return Progress.GONE
        if self.is_overdue(now) and all(p.pid != self.session.pid for p in self.remaining):
            return Progress.LEFT_BEHIND
        for process in self.remaining:
            if now >= self._kill_at:
                self._send(process, signal.SIGKILL)
            elif (process.pid, process.started_ticks) not in self._asked:
                self._asked.add((process.pid, process.started_ticks))
                self._send(process, signal.SIGTERM)
                self._send(process, signal.SIGCONT)  # a stopped process hears SIGTERM only then
        self.look_at_s = now + (_LOOK_EVERY_S if now < self._leave_at else _LOOK_SELDOM_S)
        return Progress.GOING
