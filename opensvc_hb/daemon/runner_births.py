"""Has an action left a process behind? Which processes were born since it began, and whose are they?

A worker of the runner takes another action only where nothing of the one before lives on, in
whatever session: a daemon that a launcher left must never be taken for part of a later action.
What is left may have a new session, and a new parent: process 1, once its own has ended. It is
never made a child of the worker instead (as a "child subreaper" would): a launcher that ends its
own daemon, and waits until the number is gone, would wait for us to reap it.

So the numbers are looked at that the kernel gave out since the action began; it gives them out in
order. A process among them is none of ours when a line of parents leads from it to somebody who
lived before, or when it is marked as another service's. Anything else may be ours. When it cannot
be told (too many, too long, no such file), something may be left: that costs a fork, no more.

Runs in: a worker of the runner.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Callable, FrozenSet, Optional

from opensvc_hb.daemon.sessions import Process, boottime, look_at
from opensvc_hb.held import SERVICE_MARK

_LONGEST_S = 2.0
"""After that the numbers may have been given out all round, and begun anew."""
_MOST_NUMBERS = 500
_ROUNDS_MAX = 8
"""A look is repeated until no process was born meanwhile, which might be a child of one just ended."""
_LINE_MAX = 20
_LAST_NUMBER = "/proc/sys/kernel/ns_last_pid"


def last_number() -> Optional[int]:
    """Return the number that was given out last in this PID namespace, None when the kernel does not tell.

    Source: proc(5), /proc/sys/kernel/ns_last_pid.
    """
    try:
        descriptor = os.open(_LAST_NUMBER, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(descriptor, 32))
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return None


def adopting_ancestors(runner: int, look: Callable[[int], Optional[Process]] = look_at) -> FrozenSet[int]:
    """Return who may be given a process of ours whose parent ended: the runner's ancestors.

    The runner itself adopts none, and its children are other workers.
    """
    found = {1}
    process = look(runner)
    while process is not None and process.parent > 0 and process.parent not in found:
        found.add(process.parent)
        process = look(process.parent)
    return frozenset(found)


class Births:
    """The processes born since `begin`, as one process sees them.

    Args:
        pid: this process.
        ancestors: see `adopting_ancestors`.
        last: see `last_number`; look, clock: of a test.
    """

    def __init__(
        self,
        pid: int,
        ancestors: FrozenSet[int],
        last: Callable[[], Optional[int]] = last_number,
        look: Callable[[int], Optional[Process]] = look_at,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._pid = pid
        self._ancestors = ancestors
        self._last = last
        self._look = look
        self._clock = clock
        self._since: Optional[int] = None
        self._began_at = 0.0
        self._svcname = ""

    def begin(self, svcname: str) -> None:
        """Look at what is born from now on, while an action of this service runs."""
        self._since = self._last()
        self._began_at = self._clock()
        self._svcname = svcname

    def may_be_left(self) -> bool:
        """Tell whether a process born since then, and not another's, may live."""
        if self._since is None or self._clock() - self._began_at > _LONGEST_S:
            return True
        seen = self._since
        for _ in range(_ROUNDS_MAX):
            last = self._last()
            if last is None or last < seen or last - self._since > _MOST_NUMBERS:
                return True
            if last == seen:
                return False
            if any(self._may_be_ours(pid, self._since, last) for pid in range(seen + 1, last + 1)):
                return True
            seen = last
        return True

    def _may_be_ours(self, pid: int, since: int, last: int) -> bool:
        process = self._look(pid)
        if process is None or not process.lives:
            return False
        if self._pid in (process.session, process.parent):
            return True
        elder: Optional[Process] = process
        for _ in range(_LINE_MAX):
            if elder is None:  # it ended while we looked, and what it had has another parent now
                elder = process = self._look(pid)
                if process is None or not process.lives:
                    return False
            if elder is None or elder.parent == self._pid:
                return True
            if elder.parent in self._ancestors:
                return self._may_be_this_services(pid)
            if not since < elder.parent <= last:
                return False
            elder = self._look(elder.parent)
        return True

    def _may_be_this_services(self, pid: int) -> bool:
        """Tell whether a process without a parent of its own may have been started by this action."""
        try:
            status = Path(f"/proc/{pid}/status").read_bytes()
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return self._look(pid) is not None
        if b"\nTgid:\t%d\n" % pid not in status:
            return False  # a thread: its process has a number of its own
        mark = f"{SERVICE_MARK}=".encode()
        names = [entry[len(mark) :] for entry in environment.split(b"\0") if entry.startswith(mark)]
        return not names or names[0] == self._svcname.encode()
