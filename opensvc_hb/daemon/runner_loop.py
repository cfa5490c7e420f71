"""The loop of the action runner: forks one child per action, watches it, ends it, reports it.

It answers the question "how did this action end?", and nothing else: what to do, and when,
is core's; how to do it is the agent's. A thousand takeovers cost a thousand forks, not a
thousand interpreter starts. One slow action holds nobody: every action is a process of its
own, and this one only waits for descriptors (one thread, a selectors loop).

Rules it keeps:
- One start or stop of a service at a time; a second is refused. A verify waits for its end by
  the service's lock, an announcement runs beside it. So do questions (status, declare), which
  take no place where the number of actions is bounded.
- A child does nothing before the line that names it has left for the daemon (`Began`), so
  whoever outlives this process knows what it left.
- `Finished` is said when the child has ended and, if it was ended or died by a signal, when
  nothing of its session runs any more (within a bound, and said so, past it). The child stays
  a zombie until then, so that its number names no other session.
- A child that has done everything, and says that a thread of it hangs in the kernel, has ended
  for all but the list of processes: it is reaped when it can be.
- The output pipe is drained when the child has ended, and closed: a daemon that the action
  started may hold it open for ever.
- When the daemon is gone (end of the socket) nothing new begins; actions that run finish
  within their limits, their output goes to our stderr, and the process ends.

Runs in: the runner process (`runner_process`), whose only thread it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import select
import selectors
import signal
from collections import deque
from dataclasses import dataclass
from typing import Callable, Deque, Dict, List, Optional, Sequence, Set, Tuple

from opensvc_hb.core.events import Outcome
from opensvc_hb.core.states import Avail
from opensvc_hb.daemon.runner_child import (
    HANGS,
    AgentAdapter,
    ChildSettings,
    Descriptors,
    read_report,
    run_child,
)
from opensvc_hb.daemon.runner_wire import (
    Began,
    Cancel,
    Channel,
    Evaluated,
    Finished,
    LineSplitter,
    Ping,
    Pong,
    Printed,
    Ready,
    Request,
    Warned,
    Work,
)
from opensvc_hb.daemon.sessions import (
    Processes,
    Progress,
    Session,
    SessionEnd,
    boottime,
    list_processes,
    look_at,
)

_HANGING_EXIT_S = 1.0
"""How long a child that says that a thread of it hangs is waited for all the same."""
_LONGEST_LINE = 8192
_READ_BYTES = 65536
_DRAIN_BYTES = 1 << 20
_FORKS_PER_TURN = 8
_FILES_PER_CHILD = 4
_FILES_OF_OUR_OWN = 32
"""Kept free of children's pipes: forking takes six, and /proc must stay readable."""
_UNSENT_BYTES_MAX = 4 << 20
"""Output beyond what the daemon has not taken yet is dropped, and counted."""
_COMPLAINT = re.compile(r"\d\d:\d\d:\d\d ERROR +(.+)")
"""A line of an agent's that says what went wrong, and where."""
_LONGEST_COMPLAINT = 240


@dataclass(frozen=True)
class _Exit:
    """How a child ended: `signal_number` is 0 when it ended by itself."""

    status: int
    signal_number: int


@dataclass(frozen=True)
class _Forked:
    """A child that was just forked: its number, a pidfd of it, and our ends of its pipes."""

    request: Request
    pid: int
    handle: int
    output: int
    result: int
    go: int


class _Job:
    """One child, from its fork until its `Finished`. Owned by the loop."""

    def __init__(self, child: _Forked, session: Session, deadline: float) -> None:
        self.request = child.request
        self.session = session
        self.deadline = deadline
        self.handle = child.handle
        self.output = child.output
        self.result = child.result
        self.go = child.go
        self.output_lines = LineSplitter(_LONGEST_LINE)
        self.result_lines = LineSplitter()
        self.report_lines: List[bytes] = []
        self.exit: Optional[_Exit] = None
        self.ending: Optional[SessionEnd] = None
        self.hangs = False
        self.told_overdue = False
        self.outcome = Outcome.DONE
        self.detail = ""
        self.complaint = ""


class RunnerLoop:
    """The loop of the runner process.

    Args:
        channel: our end of the socketpair.
        adapter: the agent.
        settings: what all children share.
        max_parallel: how many actions may run at once, None for any number.
        clock: seconds, advancing also in suspend.
    """

    def __init__(
        self,
        channel: Channel,
        adapter: AgentAdapter,
        settings: ChildSettings,
        max_parallel: Optional[int] = None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._channel = channel
        self._adapter = adapter
        self._settings = settings
        self._max_parallel = max_parallel
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._watched = 0
        self._jobs: Dict[int, _Job] = {}
        self._queue: Deque[Request] = deque()
        self._questions: Deque[Request] = deque()
        self._taken: Set[int] = set()
        self._busy: Set[str] = set()
        files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._places = max(1, (files_max - _FILES_OF_OUR_OWN) // _FILES_PER_CHILD)
        self._highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208  # names only
        self._no_room = False
        self._draining = False
        self._dropped: Dict[str, int] = {}
        self._warned_of_scope = False

    def run(self) -> None:
        """Work until the daemon is gone and the last action has ended."""
        # A SIGTERM for a child waits until the child has taken up its own signal handling.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self._channel.send(Ready())
        while True:
            self._channel.flush()
            if self._draining and not self._channel.is_heard():
                self._abandon_unnamed()
            if (
                self._draining
                and not self._jobs
                and (self._channel.broken or not self._channel.waiting_bytes)
            ):
                return
            self._watch_channel()
            for key, mask in self._selector.select(self._wait_s()):
                key.data(mask)
            self._end_what_is_due()
            self._begin_queued()

    def _watch_channel(self) -> None:
        wanted = 0 if self._draining else selectors.EVENT_READ
        if self._channel.waiting_bytes and not self._channel.broken:
            wanted |= selectors.EVENT_WRITE
        if wanted == self._watched:
            return
        if self._watched:
            self._selector.unregister(self._channel)
        if wanted:
            self._selector.register(self._channel, wanted, self._on_channel)
        self._watched = wanted

    def _wait_s(self) -> Optional[float]:
        """Return the seconds until there is something to do unasked, None for never."""
        if self._may_begin() or (self._questions and not self._no_room):
            return 0.0
        moments = [job.ending.look_at_s if job.ending else job.deadline for job in self._jobs.values()]
        return max(0.0, min(moments) - self._clock()) if moments else None

    def _on_channel(self, mask: int) -> None:
        if not mask & selectors.EVENT_READ:
            return
        for message in self._channel.receive():
            if isinstance(message, Request):
                self._take(message)
            elif isinstance(message, Cancel):
                self._cancel(message.request_id)
            elif isinstance(message, Ping):
                self._channel.send(Pong(message.number))
        if self._channel.at_end:
            self._drain()

    def _drain(self) -> None:
        self._draining = True
        for request in (*self._queue, *self._questions):
            self._finish_unbegun(request, Outcome.FAILED, "the daemon ended before the action began")
        self._queue.clear()
        self._questions.clear()
        for job in list(self._jobs.values()):
            if not job.request.work.is_action and job.ending is None:
                self._end(job, Outcome.TIMED_OUT, "the daemon ended")  # nobody is left to read the answer

    def _abandon_unnamed(self) -> None:
        """End the children that the daemon never heard of: they wait for a go that cannot come."""
        for job in self._jobs.values():
            if job.go >= 0 and job.ending is None:
                self._end(job, Outcome.FAILED, "the daemon ended before the action began")

    # --- from a request to a running child -------------------------------------------------

    def _take(self, request: Request) -> None:
        if not request.work.is_action and len(self._jobs) >= self._places:
            detail = "too many actions run for a question to be asked"
            self._channel.send(Finished(request.request_id, Outcome.FAILED, detail=detail))
        elif not request.work.is_action:
            self._questions.append(request)
        elif request.work.is_exclusive and request.svcname in self._busy:
            detail = f"refused: another action of {request.svcname} has not ended"
            self._channel.send(Finished(request.request_id, Outcome.FAILED, detail=detail))
        else:
            self._taken.add(request.request_id)
            if request.work.is_exclusive:
                self._busy.add(request.svcname)
            self._queue.append(request)

    def _may_begin(self, begun: int = 0) -> bool:
        """Tell whether the first of the queue may begin now, beside `begun` that are no jobs yet."""
        if not self._queue or self._no_room or len(self._jobs) + begun >= self._places:
            return False
        return self._max_parallel is None or len(self._taken) - len(self._queue) < self._max_parallel

    def _begin_queued(self) -> None:
        """Begin some of what waits, actions first; those begun before want their output read.

        All are forked first, and then looked after: each fork makes every page that this process
        writes next a copy.
        """
        begun: List[_Forked] = []
        while len(begun) < _FORKS_PER_TURN:
            if self._may_begin(len(begun)):
                request = self._queue.popleft()
            elif self._questions and not self._no_room:
                request = self._questions.popleft()
            else:
                break
            try:
                begun.append(self._fork(request))
            except OSError as error:
                self._not_forked(request, error, waits=bool(self._jobs or begun))
        for child in begun:
            self._look_after(child)

    def _not_forked(self, request: Request, error: OSError, waits: bool) -> None:
        """Keep an action for which there is no room until one ends, if `waits`; refuse anything else."""
        no_room = error.errno in (errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
        if no_room and request.work.is_action and waits:
            self._no_room = True
            self._queue.appendleft(request)
        else:
            self._finish_unbegun(request, Outcome.FAILED, f"cannot begin: {error}")

    def _fork(self, request: Request) -> _Forked:
        """Return a new child of ours; nothing of this process looks after it yet."""
        with contextlib.ExitStack() as opened:
            output, child_output = _pipe(opened)
            result, child_result = _pipe(opened)
            child_go, go = _pipe(opened)
            self._highest = max(self._highest, output, child_output, result, child_result, child_go, go)
            pid = os.fork()
            if pid == 0:
                ends = Descriptors(child_output, child_result, child_go, self._highest)
                run_child(request, self._adapter, ends, self._settings)
            try:
                handle = os.pidfd_open(pid)
            except OSError:
                opened.close()  # the child sees the end of its go pipe, and ends
                os.waitpid(pid, 0)
                raise
            opened.pop_all()
        for end in (child_output, child_result, child_go):
            os.close(end)
        self._highest = max(self._highest, handle)
        return _Forked(request, pid, handle, output, result, go)

    def _look_after(self, child: _Forked) -> None:
        """Watch a new child, and let it go as soon as the daemon has heard of it."""
        request = child.request
        process = look_at(child.pid)
        assert process is not None, "an unreaped child is in the list of processes"
        session = Session(child.pid, process.started_ticks)
        job = _Job(child, session, self._clock() + request.limit_s)
        self._jobs[request.request_id] = job
        self._selector.register(job.handle, selectors.EVENT_READ, lambda _mask: self._on_exit(job))
        self._selector.register(job.output, selectors.EVENT_READ, lambda _mask: self._on_output(job))
        self._selector.register(job.result, selectors.EVENT_READ, lambda _mask: self._on_result(job))
        self._channel.send(
            Began(request.request_id, session.pid, session.started_ticks), when_sent=lambda: self._go(job)
        )
        self._channel.flush()  # at once: another core runs it while we look after the next one

    def _go(self, job: _Job) -> None:
        """Let the child act, unless it was cancelled before: then its go pipe just ends."""
        if job.go >= 0:
            if job.ending is None:
                with contextlib.suppress(BrokenPipeError):  # it was killed: its handle will tell
                    os.write(job.go, b"g")
            os.close(job.go)
            job.go = -1

    # --- what a child says -----------------------------------------------------------------

    # Called when there is something to read; the pipe may have been closed since, by the end
    # of its job in the same turn.

    def _on_output(self, job: _Job) -> None:
        if job.output >= 0:
            data = os.read(job.output, _READ_BYTES)
            self._print(job, job.output_lines.feed(data))
            if not data:
                job.output = self._close(job.output)

    def _on_result(self, job: _Job) -> None:
        if job.result >= 0:
            data = os.read(job.result, _READ_BYTES)
            lines = job.result_lines.feed(data)
            if job.request.work is Work.STATUS:
                lines = self._pass_on(job, lines)
            job.report_lines.extend(lines)
            if any(HANGS in line for line in lines) and not job.hangs:
                job.hangs = True
                job.deadline = min(job.deadline, self._clock() + _HANGING_EXIT_S)
            if not data:
                job.result = self._close(job.result)

    def _pass_on(self, job: _Job, lines: Sequence[bytes]) -> List[bytes]:
        """Send what was found of single services; return the lines about the question itself."""
        kept: List[bytes] = []
        for line in lines:
            try:
                report = read_report([line])
            except (ValueError, TypeError):
                kept.append(line)  # judged at the end, with what it belongs to
                continue
            if report.svcname is None:
                kept.append(line)
                continue
            reason = report.failure or ""
            message = Evaluated(job.request.request_id, report.svcname, report.document, reason)
            self._channel.send(message)
        return kept

    def _close(self, descriptor: int) -> int:
        """Close a watched descriptor; the returned -1 is its new value."""
        if descriptor >= 0:
            with contextlib.suppress(KeyError):
                self._selector.unregister(descriptor)
            os.close(descriptor)
        return -1

    def _print(self, job: _Job, lines: Sequence[bytes]) -> None:
        svcname = job.request.label
        heard = not lines or self._channel.is_heard()
        for line in lines:
            text = line.decode("utf-8", errors="replace").rstrip("\r")
            complaint = None if job.complaint else _COMPLAINT.fullmatch(text)
            if complaint:  # the first error is the cause; what follows is its consequence
                job.complaint = " ".join(complaint.group(1).split())[:_LONGEST_COMPLAINT]
            if not heard:
                _say(f"{svcname}: {text}")
            elif self._channel.waiting_bytes > _UNSENT_BYTES_MAX:
                self._dropped[svcname] = self._dropped.get(svcname, 0) + 1
            else:
                self._channel.send(Printed(svcname, text))

    def _on_exit(self, job: _Job) -> None:
        self._selector.unregister(job.handle)
        ended = os.waitid(os.P_PID, job.session.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert ended is not None, "the handle of a process becomes readable when it has ended"
        by_signal = ended.si_code != os.CLD_EXITED
        job.exit = _Exit(0 if by_signal else ended.si_status, ended.si_status if by_signal else 0)
        if job.ending is not None:
            job.ending.look_at_s = self._clock()  # the session may hold others: look, then finish
        elif by_signal:
            name = signal.Signals(ended.si_status).name
            self._end(job, Outcome.FAILED, f"the action's process was killed by {name}")
        else:
            self._finish(job)

    # --- limits, cancellation, and the end -------------------------------------------------

    def _cancel(self, request_id: int) -> None:
        for request in self._queue:
            if request.request_id == request_id:
                self._queue.remove(request)
                self._finish_unbegun(request, Outcome.TIMED_OUT, "cancelled before it began")
                return
        job = self._jobs.get(request_id)
        if job is not None and job.ending is None:
            self._end(job, Outcome.TIMED_OUT, "cancelled")

    def _end(self, job: _Job, outcome: Outcome, detail: str) -> None:
        job.outcome, job.detail = outcome, detail
        job.ending = SessionEnd(job.session, self._clock())

    def _end_what_is_due(self) -> None:
        now = self._clock()
        processes: Optional[Processes] = None
        for job in list(self._jobs.values()):
            if job.ending is None and now >= job.deadline and job.hangs:
                self._finish(job)
                continue
            if job.ending is None and now >= job.deadline:
                self._end(job, Outcome.TIMED_OUT, f"its time limit of {job.request.limit_s:g} s passed")
            if job.ending is None or now < job.ending.look_at_s:
                continue
            if processes is None:
                processes = list_processes()
            progress = job.ending.step(now, processes)
            if progress is Progress.GOING and job.ending.is_overdue(now) and not job.told_overdue:
                job.told_overdue = True
                hung = (
                    f"{job.request.svcname}: {job.request.work.value} hangs in the kernel, not even SIGKILL"
                )
                self._channel.send(
                    Warned(f"{hung} ends process {job.session.pid}: it has not ended until it does")
                )
            if job.exit is None or progress is Progress.GOING:
                continue  # without its exit known, the handle of the child wakes us next
            if progress is Progress.LEFT_BEHIND:
                pids = " ".join(str(process.pid) for process in job.ending.remaining)
                job.detail += f"; these processes of it survive SIGKILL: {pids}"
            self._finish(job)

    def _finish(self, job: _Job) -> None:
        """Report a child that has ended, and forget it."""
        request = job.request
        self._drain_pipes(job)
        self._print(job, [line for line in [job.output_lines.rest()] if line])
        dropped = self._dropped.pop(request.label, 0)
        if dropped:
            text = f"({dropped} lines of output were dropped: the daemon did not take them in time)"
            self._channel.send(Printed(request.label, text))
        for descriptor in (job.output, job.result, job.go):
            self._close(descriptor)
        if job.exit is None:
            self._selector.modify(job.handle, selectors.EVENT_READ, lambda _mask: self._bury(job))
        else:
            self._bury(job)
        del self._jobs[request.request_id]
        self._no_room = False
        self._forget(request)
        finished = self._judge(job)
        self._channel.send(finished)
        if not self._channel.is_heard():
            _say(f"{request.svcname}: {request.work.value}: {finished.outcome.value} {finished.detail}")

    def _bury(self, job: _Job) -> None:
        """Reap a child that has ended, be it long after all that it was asked for."""
        self._close(job.handle)
        os.waitpid(job.session.pid, 0)

    def _forget(self, request: Request) -> None:
        self._taken.discard(request.request_id)
        if request.work.is_exclusive:
            self._busy.discard(request.svcname)

    def _drain_pipes(self, job: _Job) -> None:
        while job.result >= 0 and self._is_there(job.result):
            self._on_result(job)
        taken = 0
        while job.output >= 0 and taken < _DRAIN_BYTES and self._is_there(job.output):
            self._on_output(job)
            taken += _READ_BYTES

    @staticmethod
    def _is_there(descriptor: int) -> bool:
        """Tell whether a pipe has something to read, its end included."""
        with selectors.PollSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            return bool(selector.select(0))

    def _judge(self, job: _Job) -> Finished:
        """Return how the action ended, from how its process ended and what it reported."""
        assert job.exit is not None or job.hangs, "only a child that has ended, or says it cannot, is judged"
        outcome, detail = job.outcome, job.detail
        try:
            report = read_report(job.report_lines)
        except (ValueError, TypeError) as error:
            return Finished(job.request.request_id, Outcome.FAILED, detail=f"unreadable report: {error}")
        if report.warning and not self._warned_of_scope:
            self._warned_of_scope = True
            self._channel.send(Warned(report.warning))
        if outcome is Outcome.DONE:
            if report.failure:
                outcome, detail = Outcome.FAILED, report.failure
            elif not report.complete:
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
        return Finished(
            job.request.request_id,
            outcome,
            Avail(report.avail) if report.avail else Avail.UNKNOWN,
            report.exit_status or 0,
            detail,
            report.document,
        )

    def _finish_unbegun(self, request: Request, outcome: Outcome, detail: str) -> None:
        self._forget(request)
        self._channel.send(Finished(request.request_id, outcome, detail=detail))


def _pipe(opened: contextlib.ExitStack) -> Tuple[int, int]:
    """Return a new pipe (read end, write end) that `opened` closes."""
    ends = os.pipe()
    for end in ends:
        opened.callback(os.close, end)
    return ends


def _say(text: str) -> None:
    """Write a line to stderr if that takes it at once: its reader may have gone with the daemon."""
    with contextlib.suppress(OSError), selectors.PollSelector() as selector:
        selector.register(2, selectors.EVENT_WRITE)
        if selector.select(0):
            os.write(2, text.encode(errors="replace")[: select.PIPE_BUF - 1] + b"\n")
