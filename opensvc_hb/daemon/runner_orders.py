"""What the runner and one of its workers say to each other: orders go in, reports come out.

One JSON object a line, each way through a pipe. The worker was forked from the runner, so both
are the same program and the records need no version. Output of an action is no report: it goes
through a pipe of its own.

Runs in: the runner process, and its workers.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any, Dict, Optional, Sequence, Tuple

from opensvc_hb.daemon.runner_wire import Work

COMPLETE = b'"complete"'
"""Found in the line of a report that says so; the loop reads no other line before the end."""


@dataclass(frozen=True)
class Order:
    """Do this.

    Args:
        work: what; `Work.EXAMINE` is the second half of a start.
        svcname: the service, "" for `Work.DECLARE`.
        others: further services of a `Work.STATUS`.
        was_started: of an examination: the start before it ended with status 0.
        rid, attempt: of a restart: the resource, and which try it is.
    """

    work: Work
    svcname: str
    others: Tuple[str, ...] = ()
    was_started: bool = False
    rid: str = ""
    attempt: str = ""

    def encode(self) -> bytes:
        """Return the order as one line."""
        words = [self.work.value, self.svcname, self.others, self.was_started, self.rid, self.attempt]
        return json.dumps(words).encode() + b"\n"


def decode_order(line: bytes) -> Order:
    """Return the order of one line."""
    work, svcname, others, was_started, rid, attempt = json.loads(line)
    return Order(Work(work), svcname, tuple(others), was_started, rid, attempt)


@dataclass(frozen=True)
class Report:
    """What a worker has to say; a later line overrides an earlier one, field by field.

    Args:
        exit_status: of start, stop and announce, as soon as it is known.
        avail: value of `core.states.Avail`, after start, stop and verify.
        complete: the worker did all that it was ordered to.
        free: it did, it is as it was before, and takes another order; never without `complete`.
        hangs: it did, but a thread of it hangs in the kernel, and the process may never end.
        failure: the exception that ended it, one line.
        warning: something for the runner's log.
        document: the answer of declare; after a start, what status would say.
        svcname: this line is about one service of a question for statuses, and complete in
            itself: its `document`, or the `failure` to make one.
    """

    exit_status: Optional[int] = None
    avail: Optional[str] = None
    complete: Optional[bool] = None
    free: Optional[bool] = None
    hangs: Optional[bool] = None
    failure: Optional[str] = None
    warning: Optional[str] = None
    document: Optional[Dict[str, Any]] = None
    svcname: Optional[str] = None

    def encode(self) -> bytes:
        """Return the report as one line."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(known).encode() + b"\n"


def read_report(lines: Sequence[bytes]) -> Report:
    """Return what complete lines from a result pipe say together."""
    known: Dict[str, Any] = {}
    for line in lines:
        known.update(json.loads(line))
    return Report(**known)


def write_line(descriptor: int, line: bytes) -> None:
    """Write a whole line into a pipe, waiting for its reader where it must."""
    while line:
        line = line[os.write(descriptor, line) :]
