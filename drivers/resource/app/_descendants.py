"""A process and all that it started, ended together: SIGTERM, a grace, SIGKILL.

The tree is read once, before the first signal: what is orphaned later still belongs to it.
Each process is held by a pidfd, taken before its start time is compared, so that a number
used again hits nobody else.

Source: proc(5), /proc/PID/stat, fields 4 (parent) and 22 (start).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

PROC = Path("/proc")


class _Line(NamedTuple):
    """What /proc/PID/stat says: the parent, and the start in clock ticks."""

    parent: int
    started_ticks: int


def end_with_descendants(pid: int, grace_s: float) -> None:
    """End a process and its descendants; those that outlive SIGTERM by `grace_s` are killed.

    What cannot die (an uninterruptible sleep) is left after another grace.
    """
    with contextlib.ExitStack() as opened:
        running = _opened(pid, opened)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for descriptor in running:
                with contextlib.suppress(ProcessLookupError):  # it ended by itself meanwhile
                    signal.pidfd_send_signal(descriptor, number)
            running = _left_after(running, grace_s)
            if not running:
                return


def _opened(pid: int, opened: contextlib.ExitStack) -> List[int]:
    """Return a pidfd of each process of the tree, the first one's first; `opened` closes them."""
    lines = _all_lines()
    if pid not in lines:
        return []
    tree = [pid]
    for known in tree:  # grows while we go through it
        tree.extend(child for child, line in lines.items() if line.parent == known and child not in tree)
    found = []
    for number in tree:
        try:
            descriptor = os.pidfd_open(number)
        except OSError:
            continue  # it has ended
        opened.callback(os.close, descriptor)
        now = _line(number)
        if now is not None and now.started_ticks == lines[number].started_ticks:
            found.append(descriptor)
    return found


def _all_lines() -> Dict[int, _Line]:
    found = {int(name): _line(int(name)) for name in os.listdir(PROC) if name.isdigit()}  # noqa: PTH208  # names only
    return {pid: line for pid, line in found.items() if line is not None}


def _line(pid: int) -> Optional[_Line]:
    try:
        text = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    fields = text[text.rfind(b")") + 2 :].split()
    return _Line(int(fields[1]), int(fields[19]))


def _left_after(descriptors: List[int], limit_s: float) -> List[int]:
    """Wait until the processes behind these pidfds have ended; return those that have not."""
    poll = select.poll()
    left = list(descriptors)
    for descriptor in left:
        poll.register(descriptor, select.POLLIN)
    deadline = time.clock_gettime(time.CLOCK_BOOTTIME) + limit_s
    while left:
        ended = poll.poll(max(0.0, deadline - time.clock_gettime(time.CLOCK_BOOTTIME)) * 1000)
        if not ended:
            return left
        for descriptor, _event in ended:
            poll.unregister(descriptor)
            left.remove(descriptor)
    return left
