"""Does another action run on this service? One at a time, by flock on `var/lib/opensvc/lock/SVC`.

The lock's file keeps the pid of its holder for people. The kernel drops the lock when the
holder dies, however it dies; the file stays. A process that waits is woken by the kernel,
not by polling.

Runs in: the main thread only (the wait is bounded by SIGALRM).

Source: C.10, except that a time out is told: the agents were mute.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from types import FrameType
from typing import Iterator, Optional

from opensvc_hb.errors import HbError
from opensvc_hb.paths import Root

WAIT_S = 60.0
"""How long an action waits by default (`--waitlock`)."""

_PID_WIDTH = 10
"""Digits of the longest number of a process, and of any that an earlier release wrote."""


class LockHeldError(HbError):
    """Another action holds the service's lock, and did not end in time."""

    def __init__(self, svcname: str, holder: str, waited_s: float) -> None:
        by = f" by process {holder}" if holder else ""
        super().__init__(
            f"timed out waiting for lock: an action on {svcname} is already running{by} ({waited_s:g} s)"
        )


class _AlarmError(Exception):
    """The time to wait has passed."""


@contextlib.contextmanager
def service_lock(root: Root, svcname: str, wait_s: float = WAIT_S) -> Iterator[None]:
    """Hold the service's lock.

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
        if not _lock_within(descriptor, wait_s):
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise LockHeldError(svcname, holder, wait_s)
        _write_pid(descriptor)
        yield
    finally:
        os.close(descriptor)


def _write_pid(descriptor: int) -> None:
    """Write who holds the lock, in a line that is always as long: nothing has to be cut off.

    A file that is cut and written again may have to reach the disk before it is closed.
    """
    try:
        os.pwrite(descriptor, f"{os.getpid():<{_PID_WIDTH}}\n".encode("ascii"), 0)
    except OSError:
        return  # a full disk costs people the pid, not the service its action


def _lock_within(descriptor: int, wait_s: float) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        if wait_s <= 0:
            return False

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
