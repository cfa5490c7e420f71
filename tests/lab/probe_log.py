"""Reads what the probe services wrote: which instance lived where, from when to when.

An instance lives from its `started` to its `stopped`, or to its last line when it was
killed. With `pause_s`, a silence longer than that ends one span and begins another: a
paused process does no harm while it stands still, but it does when it runs on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

from probe_service import lock_holder, lock_path


@dataclass(frozen=True)
class Span:
    """One instance, running: seconds of CLOCK_BOOTTIME, the same clock for all nodes of a lab."""

    service: str
    node: str
    run: str
    pid: int
    began: float
    last: float
    stopped: bool


@dataclass(frozen=True)
class Overlap:
    """Two instances of one service that ran at once, for `seconds`."""

    first: Span
    second: Span
    seconds: float


def read_lines(log: Path) -> List[Tuple[float, str, str, str, int, str]]:
    """Return (time, node, service, run, pid, word) of each whole line, by time."""
    try:
        text = log.read_text()
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            at, node, service, run, pid, word = line.split()
            lines.append((float(at), node, service, run, int(pid), word))
    return sorted(lines)


def goes_on(log: Path, span: Span) -> bool:
    """Tell whether the process of a span exists and is not paused."""
    pid = lock_holder(lock_path(log, span.node, span.service))
    try:
        status = Path(f"/proc/{pid}/status").read_text() if pid else ""
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = dict(line.split(":", 1) for line in status.splitlines())
    is_paused = fields.get("State", "").strip().startswith("T")
    return bool(fields) and not is_paused and int(fields["NSpid"].split()[-1]) == span.pid


def spans(log: Path, service: Optional[str] = None, pause_s: Optional[float] = None) -> List[Span]:
    """Return the spans of every instance, in order of their beginning."""
    found: List[Span] = []
    open_spans = {}
    for at, node, name, run, pid, word in read_lines(log):
        if service not in (None, name) or run == "-":
            continue
        span = open_spans.get(run)
        if span is None or (pause_s is not None and at - span.last > pause_s):
            if span is not None:
                found.append(span)
            span = Span(name, node, run, pid, at, at, stopped=False)
        open_spans[run] = Span(name, node, run, pid, span.began, at, word == "stopped")
    return sorted(found + list(open_spans.values()), key=lambda span: span.began)


def overlaps(log: Path, service: Optional[str] = None, pause_s: Optional[float] = None) -> List[Overlap]:
    """Return every pair of spans of one service, of different instances, that ran at once."""
    found = []
    sorted_spans = spans(log, service, pause_s)
    for index, first in enumerate(sorted_spans):
        for second in sorted_spans[index + 1 :]:
            if first.service == second.service and first.run != second.run and second.began <= first.last:
                seconds = min(first.last, second.last) - second.began
                found.append(Overlap(first, second, seconds))
    return found
