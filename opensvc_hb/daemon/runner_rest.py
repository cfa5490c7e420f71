"""Is a worker, after an action, what it was before? Only then it takes another.

A driver is any code, and may change whatever a process has. What can be put back is; a worker
that cannot be made what it was ends, as if there had never been another action for it: that
costs the next one a fork.

Put back: working directory, umask, environment, signal mask and handlers, timers, priority.
Compared: threads, descriptors and what is behind them, streams, limits, user, namespaces, modules
(one that was imported meanwhile may be changed on disk before the next action), and whether a
process of the action may live on (`runner_births`).

Runs in: a worker of the runner, in its main thread, between two actions.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Dict, Tuple

from opensvc_hb.daemon.runner_births import Births

_THREAD_ENDS_WITHIN_S = 0.05
"""A thread that has said its last word needs a moment to end; one that does not hangs."""
_NAMESPACES = ("mnt", "net", "uts", "ipc", "user", "pid_for_children")
_LIMITS = tuple(sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}))
_SIGNALS = tuple(sorted(int(number) for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))
_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_AUTOGROUP = "/proc/self/autogroup"
_LISTED = "/proc/self/fd"


def set_priority(nice: int) -> None:
    """Weigh this process, and what it starts, against others.

    Where the kernel has a group for each session, the group's weight counts and a process's own
    does not. Both are set: with the groups switched off it is the other way round.

    Raises:
        OSError: it may not.

    Source: sched(7), "The autogroup feature".
    """
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(_AUTOGROUP, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, str(nice).encode())
        finally:
            os.close(descriptor)


class Rest:
    """What this worker is like when it has nothing to do, taken down when this is made."""

    def __init__(self, births: Births) -> None:
        self._births = births
        self._nice = 0
        self._environment = dict(os.environb)
        self._handlers = tuple(signal.getsignal(number) for number in _SIGNALS)
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        self._unchangeable = _unchangeable()
        self._descriptors = _descriptors()
        self._modules = len(sys.modules)

    def leave(self, svcname: str, nice: int) -> None:
        """An action of this service begins, with this priority."""
        if nice != self._nice:
            with contextlib.suppress(OSError):  # an unprivileged daemon's autogroup is changed seldom
                self._nice = nice
                set_priority(nice)
        self._births.begin(svcname)

    def regain(self) -> bool:
        """Put back what can be; tell whether all is as it was."""
        try:
            return (
                self._put_back()
                and _is_alone()
                and len(sys.modules) == self._modules
                and (sys.stdin, sys.stdout, sys.stderr) == self._streams
                and _reaped_all()
                and _unchangeable() == self._unchangeable
                and _descriptors() == self._descriptors
                and not self._births.may_be_left()
            )
        except OSError:
            return False

    def _put_back(self) -> bool:
        os.umask(0o022)
        os.chdir("/")
        if dict(os.environb) != self._environment:
            os.environb.clear()
            os.environb.update(self._environment)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for timer in _TIMERS:
            signal.setitimer(timer, 0)
        for number, handler in zip(_SIGNALS, self._handlers):
            if signal.getsignal(number) is not handler:
                if handler is None:  # a library's, of which the interpreter knows nothing
                    return False
                signal.signal(number, handler)
        if self._nice or os.getpriority(os.PRIO_PROCESS, 0):
            self._nice = 0
            set_priority(0)
        return True


def _is_alone() -> bool:
    """Tell whether the main thread is the only one, of the interpreter's or of a library's own."""
    if threading.active_count() == 1 and len(os.listdir("/proc/self/task")) == 1:  # noqa: PTH208  # names only
        return True
    give_up_at = time.monotonic() + _THREAD_ENDS_WITHIN_S
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(max(0.0, give_up_at - time.monotonic()))
    # The interpreter lets go of a thread a little before the kernel does, and nothing tells of that.
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < give_up_at:  # noqa: PTH208
        time.sleep(0.0002)
    return threading.active_count() == 1 and len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208


def _reaped_all() -> bool:
    """Reap children that have ended and that nobody waited for; tell whether none is left."""
    try:
        while os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG) is not None:
            pass
    except ChildProcessError:
        return True
    return False


def _descriptors() -> Dict[str, str]:
    """Return what is behind each open descriptor; the one of the listing itself is gone again."""
    found: Dict[str, str] = {}
    for name in os.listdir(_LISTED):  # noqa: PTH208  # names only
        with contextlib.suppress(FileNotFoundError):
            found[name] = os.readlink(f"{_LISTED}/{name}")  # noqa: PTH115  # the text, no path of ours
    return found


def _unchangeable() -> Tuple[Any, ...]:
    return (
        *(resource.getrlimit(limit) for limit in _LIMITS),
        *(os.readlink(f"/proc/self/ns/{name}") for name in _NAMESPACES),  # noqa: PTH115  # the text
        os.readlink("/proc/self/root"),  # noqa: PTH115
        os.getresuid(),
        os.getresgid(),
        os.getgroups(),
        os.sched_getscheduler(0),
        Path("/proc/self/oom_score_adj").read_bytes(),
    )
