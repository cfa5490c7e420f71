"""Does another action run on this service? One at a time, by flock on `var/lib/opensvc/lock/SVC`.

The lock's file keeps the pid of its holder, and what it does, for people. The kernel drops the
lock when the holder dies, however it dies; the file stays. A process that waits is woken by the
kernel, not by polling.

A copy to other nodes may take hours, and no start or stop waits for it: it is asked to end.

Runs in: the main thread only (the wait is bounded by SIGALRM).

Source: C.10, except that a time out is told: the agents were mute; and that a copy yields.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Iterator, Optional

from opensvc_hb.errors import HbError
from opensvc_hb.paths import Root

WAIT_S = 60.0
"""How long an action waits by default (`--waitlock`)."""

YIELDING = frozenset(["syncnodes", "syncdrp", "syncall"])
"""Actions that end, by SIGTERM, when another one needs the service."""

YIELD_S = 3.0
"""How long such an action takes to end at most, when asked to: it kills what it runs."""

_PID_WIDTH = 10
"""Digits of the longest number of a process, and of any that an earlier release wrote."""

_ACTION_WIDTH = 24
"""As many characters of the action's name are kept."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, by what is written in it: the pid, 0 when unknown, and the action."""

    pid: int = 0
    action: str = ""

    def __str__(self) -> str:
        """The words for people: `process 123 (start)`, "" when unknown."""
        if not self.pid:
            return ""
        return f"process {self.pid}" + (f" ({self.action})" if self.action else "")


class LockHeldError(HbError):
    """Another action holds the service's lock, and did not end in time."""

    def __init__(self, svcname: str, holder: Holder, waited_s: float) -> None:
        self.holder = holder
        by = f" by {holder}" if holder.pid else ""
        super().__init__(
            f"timed out waiting for lock: an action on {svcname} is already running{by} ({waited_s:g} s)"
        )


class _AlarmError(Exception):
    """The time to wait has passed."""


@contextlib.contextmanager
def service_lock(root: Root, svcname: str, wait_s: float = WAIT_S, action: str = "") -> Iterator[int]:
    """Hold the service's lock; gives its descriptor, which a forked child may close.

    Args:
        root: the tree of this node.
        svcname: the service.
        wait_s: how long to wait for another action.
        action: what it is held for. Any but those of `YIELDING` ends one of these.

    Raises:
        LockHeldError: someone else holds it for longer than `wait_s`.
    """
    path = root.var / "lock" / svcname
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o644)
    try:
        if not _lock_now(descriptor) and not _lock_soon(descriptor, path, wait_s, action):
            raise LockHeldError(svcname, _holder(descriptor), wait_s)
        _write_holder(descriptor, action)
        yield descriptor
    finally:
        os.close(descriptor)


def _write_holder(descriptor: int, action: str) -> None:
    """Write who holds the lock, in a line that is always as long: nothing has to be cut off.

    A file that is cut and written again may have to reach the disk before it is closed.
    """
    line = f"{os.getpid():<{_PID_WIDTH}} {action[:_ACTION_WIDTH]:<{_ACTION_WIDTH}}\n"
    try:
        os.pwrite(descriptor, line.encode("ascii", "replace"), 0)
    except OSError:
        return  # a full disk costs people the pid, not the service its action


def _holder(descriptor: int) -> Holder:
    """Read who holds the lock; it may be one that held it before, if that one was just now replaced."""
    words = os.pread(descriptor, 64, 0).decode("ascii", "replace").split()
    if not words or not words[0].isdecimal():
        return Holder()
    return Holder(int(words[0]), words[1] if len(words) > 1 else "")


def _lock_soon(descriptor: int, path: Path, wait_s: float, action: str) -> bool:
    """Wait for the lock, and ask a holder that yields to end; twice, for it may just begin."""
    if action in YIELDING:
        return _lock_within(descriptor, wait_s)
    asked = _ask_to_yield(path, _holder(descriptor))
    first_s = YIELD_S if asked else min(YIELD_S, wait_s)
    if _lock_within(descriptor, first_s):
        return True
    _ask_to_yield(path, _holder(descriptor))
    return wait_s > first_s and _lock_within(descriptor, wait_s - first_s)


def _ask_to_yield(path: Path, holder: Holder) -> bool:
    """End an action that yields; tell whether it was asked.

    The pid may be an old one, by now another program's: only a process that has the file open is asked.
    """
    if holder.action not in YIELDING:
        return False
    try:
        process = os.pidfd_open(holder.pid)
    except OSError:
        return False  # it has ended
    try:
        if not _has_open(holder.pid, path):
            return False
        signal.pidfd_send_signal(process, signal.SIGTERM)
        return True
    except OSError:
        return False  # it has ended meanwhile, or is not ours to end
    finally:
        os.close(process)


def _has_open(pid: int, path: Path) -> bool:
    wanted = path.stat()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found = entry.stat()
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    return False


def _lock_now(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_within(descriptor: int, wait_s: float) -> bool:
    if wait_s <= 0:
        return _lock_now(descriptor)

    def on_alarm(_number: int, _frame: Optional[FrameType]) -> None:
        raise _AlarmError

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, wait_s)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    except _AlarmError:
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
