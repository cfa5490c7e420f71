"""How does a daemon keep its time on a machine that swaps and is overloaded?

Beats that are late look like death. So threads that send, read or decide run with
real-time priority, the process's memory is locked, and the kernel's memory killer takes
others first. Each of these is asked for and may be refused (no root, a container, a
limit): a refusal is told, never raised, since a daemon without them still works.

On Linux priority belongs to a thread: `make_thread_realtime` is called for each one that
must be prompt. It is given up on fork and in new threads
(SCHED_RESET_ON_FORK), so that no action of a service ever runs with it; protection from
the memory killer is inherited, and `become_ordinary` gives it back in a child.

Runs in: any thread.
"""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional, Tuple

PRIORITY = 10
"""Above ordinary real-time users' lowest, far below the kernel's own threads (50) and watchdogs (99)."""
OOM_PROTECTED = -1000
OOM_ORDINARY = 0
_OOM_FILE = Path("/proc/self/oom_score_adj")
_CAP_IPC_LOCK = 14
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


@dataclass(frozen=True)
class Grant:
    """One thing asked of the system: whether it was granted, and how or why not (one line)."""

    what: str
    granted: bool
    detail: str


@dataclass(frozen=True)
class RealtimeReport:
    """What was asked for, in order."""

    grants: Tuple[Grant, ...]

    @property
    def refused(self) -> Tuple[Grant, ...]:
        """Return what was not granted."""
        return tuple(grant for grant in self.grants if not grant.granted)

    def __str__(self) -> str:
        return "; ".join(
            f"{grant.what}: {grant.detail if grant.granted else f'refused ({grant.detail})'}"
            for grant in self.grants
        )


def _ask(what: str, detail: str, action: Callable[[], None]) -> Grant:
    try:
        action()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Grant(what, granted=False, detail=reason)
    return Grant(what, granted=True, detail=detail)


def make_thread_realtime(priority: int = PRIORITY, thread_id: int = 0) -> Grant:
    """Give one thread, and no other, round-robin real-time scheduling.

    Args:
        priority: 1 to 99.
        thread_id: the kernel's id of the thread; 0 for the calling one.
    """

    def schedule() -> None:
        os.sched_setscheduler(thread_id, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(priority))

    return _ask("real-time priority", f"{priority}, round robin", schedule)


def lock_memory() -> Grant:
    """Keep all of this process in memory: what is there now, and what is touched later.

    Refused where a limit on locked memory would make a later allocation fail: a daemon
    that is paged out is late, one that cannot allocate is dead. To be called before threads are
    started: what is there now becomes resident, and that would be 8 MiB of stack for each.
    """

    def lock() -> None:
        unlimited = resource.RLIM_INFINITY
        if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != unlimited and not _is_above_limit():
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (unlimited, unlimited))
        import ctypes  # nobody else needs it

        library = ctypes.CDLL(None, use_errno=True)
        # Later mappings are locked as they are touched: otherwise each thread's stack of 8 MiB
        # would be resident from its first moment.
        for flags in (_MCL_CURRENT, _MCL_FUTURE | _MCL_ONFAULT):
            if library.mlockall(flags) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))

    return _ask("locked memory", "all", lock)


def _is_above_limit() -> bool:
    """Tell whether the limit on locked memory does not count for this process, as for root usually.

    Source: capabilities(7), CAP_IPC_LOCK; it counts in the first user namespace only, whose root is
    root everywhere (user_namespaces(7), uid_map).
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    is_first = Path("/proc/self/uid_map").read_text().split() == ["0", "0", str(2**32 - 1)]
    return is_first and bool(int(effective, 16) >> _CAP_IPC_LOCK & 1)


def shield_from_memory_killer() -> Grant:
    """Have the kernel's memory killer never choose this process. Children inherit it."""
    return _ask("out-of-memory shield", str(OOM_PROTECTED), lambda: _write_score(OOM_PROTECTED))


def become_realtime(priority: int = PRIORITY, memory: Optional[Grant] = None) -> RealtimeReport:
    """Ask for all of it: priority for the calling thread, the rest for the process.

    Args:
        priority: 1 to 99.
        memory: what `lock_memory` said, where it was asked before threads were started.
    """
    locked = lock_memory() if memory is None else memory
    return RealtimeReport((make_thread_realtime(priority), locked, shield_from_memory_killer()))


def become_ordinary() -> RealtimeReport:
    """Give it all back, in a child that works for a service: ordinary scheduling, nice 0, no shield."""

    def schedule() -> None:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, 0)

    return RealtimeReport(
        (
            _ask("ordinary scheduling", "nice 0", schedule),
            _ask("out-of-memory score", str(OOM_ORDINARY), lambda: _write_score(OOM_ORDINARY)),
        )
    )


def _write_score(score: int) -> None:
    _OOM_FILE.write_text(f"{score}\n")
