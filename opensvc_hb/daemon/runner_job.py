"""How did an action end? What the loop knows of one request, and what it says at its end.

Judged from how the worker ended and what it reported. The loop decides when an end begins.

Runs in: the runner process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, List, Optional, Sequence

from opensvc_hb.core.events import Outcome
from opensvc_hb.core.states import Avail
from opensvc_hb.daemon.runner_orders import COMPLETE, Order, Report, read_report
from opensvc_hb.daemon.runner_wire import Evaluated, Finished, Request, Work
from opensvc_hb.daemon.runner_workers import Exit, Worker
from opensvc_hb.daemon.sessions import Processes, Progress, Session, SessionEnd

_COMPLAINT = re.compile(r"\d\d:\d\d:\d\d ERROR +(.+)")
"""A line of an agent's that says what went wrong, and where."""
_LONGEST_COMPLAINT = 240


class Job:
    """One request that was begun, until its `Finished`. Owned by the loop.

    `worker` and `session` are whose it is now: none while the second half of a start waits.
    `exit` is how its worker ended, None of one that is free again, or cannot end. `limit_at` is
    its time limit; `deadline` is earlier where its worker has done all, and hangs.
    """

    def __init__(self, request: Request, limit_at: float) -> None:
        self.request = request
        self.limit_at = self.deadline = limit_at
        self.order = order_of(request)
        self.worker: Optional[Worker] = None
        self.session: Optional[Session] = None
        self.is_ordered = False
        self.look_back_by = 0.0
        self.report_lines: List[bytes] = []
        self.is_complete = False
        self.hangs = False
        self.exit: Optional[Exit] = None
        self.ending: Optional[SessionEnd] = None
        self.told_overdue = False
        self.outcome = Outcome.DONE
        self.detail = ""
        self.complaint = ""

    def hear(self, text: str) -> None:
        """Take a line of its output: the first error is the cause; what follows is its consequence."""
        complaint = None if self.complaint else _COMPLAINT.fullmatch(text)
        if complaint:
            self.complaint = " ".join(complaint.group(1).split())[:_LONGEST_COMPLAINT]

    def take(self, lines: Sequence[bytes]) -> List[Evaluated]:
        """Take lines of its worker's report; return what they say of single services of a question."""
        if self.request.work is not Work.STATUS:
            self.report_lines.extend(lines)
            return []
        found: List[Evaluated] = []
        for line in lines:
            try:
                report = read_report([line])
            except (ValueError, TypeError):
                report = Report()  # judged at the end, with what it belongs to
            if report.svcname is None:
                self.report_lines.append(line)
            else:
                reason = report.failure or ""
                found.append(Evaluated(self.request.request_id, report.svcname, report.document, reason))
        return found

    def begin_second_half(self) -> bool:
        """After a start that told how it ended: the look at what became of it is to do.

        Returns:
            False when there is no second half, or nothing to look at.
        """
        if self.order.work is not Work.START or self.outcome is not Outcome.DONE or not self.is_complete:
            return False
        try:
            first = read_report(self.report_lines)
        except (ValueError, TypeError):
            return False
        self.order = Order(Work.EXAMINE, self.request.svcname, was_started=first.exit_status == 0)
        self.report_lines = [Report(exit_status=first.exit_status, warning=first.warning).encode()]
        self.worker = self.session = self.exit = None
        self.is_ordered = self.is_complete = self.hangs = False
        self.deadline = self.limit_at
        return True


def order_of(request: Request) -> Order:
    """Return the order that a worker gets for a request."""
    return Order(request.work, request.svcname, request.others, rid=request.rid, attempt=request.attempt)


@dataclass(frozen=True)
class Verdict:
    """What is said at the end of a job.

    Args:
        warning: for the runner's log, "" for none.
    """

    finished: Finished
    warning: str = ""


def judge(job: Job) -> Verdict:
    """Return how a request ended, from how its worker ended and what that reported."""
    outcome, detail = job.outcome, job.detail
    try:
        report = read_report(job.report_lines)
    except (ValueError, TypeError) as error:
        unreadable = f"unreadable report: {error}"
        return Verdict(Finished(job.request.request_id, Outcome.FAILED, detail=unreadable))
    if outcome is Outcome.DONE:
        if report.failure:
            outcome, detail = Outcome.FAILED, report.failure
        elif not report.complete and not _is_abandoned(job):
            outcome = Outcome.FAILED
            status = job.exit.status if job.exit else 0
            detail = f"the action's process ended with status {status} before it had reported"
        elif report.exit_status:
            outcome, detail = Outcome.FAILED, f"exit status {report.exit_status}"
            detail += f": {job.complaint}" if job.complaint else ""
        else:
            detail = job.complaint
    elif report.exit_status is not None and report.avail is None:
        detail += f"; {job.request.work.value} had ended with status {report.exit_status}"
    finished = Finished(
        job.request.request_id,
        outcome,
        Avail(report.avail) if report.avail else Avail.UNKNOWN,
        report.exit_status or 0,
        detail,
        report.document,
    )
    return Verdict(finished, report.warning or "")


def _is_abandoned(job: Job) -> bool:
    """Tell a start whose second half was never begun: nobody was left to hear what it finds."""
    return job.order.work is Work.EXAMINE and job.worker is None


def complete_line(lines: Sequence[bytes]) -> Optional[Report]:
    """Return the report of these lines that says that all is done, None when none does."""
    for line in lines:
        if COMPLETE not in line:
            continue
        try:
            report = read_report([line])
        except (ValueError, TypeError):
            continue  # judged at the end, with what it belongs to
        if report.complete and report.svcname is None:
            return report
    return None


def has_ended(job: Job, now: float, processes: Processes, warn: Callable[[str], None]) -> bool:
    """Take the next step of ending a job's processes; tell whether it has ended.

    Args:
        job: one whose `ending` is set.
        now: seconds of the clock that its `ending` began with.
        processes: every process.
        warn: told once, when not even SIGKILL ends it.
    """
    ending, worker, request = job.ending, job.worker, job.request
    assert ending is not None, "it is being ended"
    progress = ending.step(now, processes)
    if progress is Progress.GOING and ending.is_overdue(now) and not job.told_overdue:
        job.told_overdue = True
        hung = f"{request.svcname}: {request.work.value} hangs in the kernel, not even SIGKILL"
        warn(f"{hung} ends process {ending.session.pid}: it has not ended until it does")
    if worker is None or worker.exit is None or progress is Progress.GOING:
        return False  # without its exit known, the handle of the worker wakes us next
    if progress is Progress.LEFT_BEHIND:
        pids = " ".join(str(process.pid) for process in ending.remaining)
        job.detail += f"; these processes of it survive SIGKILL: {pids}"
    return True
