"""The loop of the action runner: gives actions to workers, watches them, ends them, reports.

It answers the question "how did this action end?", and nothing else: what to do, and when,
is core's; how to do it is the agent's. One slow action holds nobody: every action that runs has
a process of its own (`runner_workers`), as many are begun at once as are useful (`runner_pace`),
and this one only waits for descriptors (one thread, a selectors loop).

Rules it keeps:
- One start or stop of a service at a time; a second is refused. A verify waits for its end by
  the service's lock, an announcement runs beside it. So do questions (status, declare), which
  take no place where the number of actions is bounded.
- A worker does nothing for a request before the line that names it has left for the daemon
  (`Began`), so whoever outlives this process knows what it left.
- A start has two halves, and one time limit: the look at what became of it waits while other
  starts wait, for a while (`runner_queue`).
- `Finished` is said once, when the worker says that it is free or has ended and, if it was ended
  or died by a signal, when nothing of its session runs any more (within a bound, and said so,
  past it). A worker stays a zombie until then, so that its number names no other session.
- A worker that has done everything, and says that a thread of it hangs in the kernel, has ended
  for all but the list of processes: it is reaped when it can be.
- Output of an action is read before its end is said. When its worker ends, the pipe is closed:
  a daemon that the action started may hold it open for ever.
- When the daemon is gone (end of the socket) nothing new begins; actions that run finish
  within their limits, their output goes to our stderr, and the process ends.

Runs in: the runner process (`runner_process`), whose only thread it is.
"""

from __future__ import annotations

import errno
import resource
import selectors
import signal
from typing import Callable, Dict, Optional, Sequence, Set

from opensvc_hb.core.events import Outcome
from opensvc_hb.daemon.runner_action import AgentAdapter
from opensvc_hb.daemon.runner_child import ChildSettings
from opensvc_hb.daemon.runner_ears import Ears
from opensvc_hb.daemon.runner_job import Job, complete_line, has_ended, judge, order_of
from opensvc_hb.daemon.runner_output import Output, say
from opensvc_hb.daemon.runner_pace import Pace
from opensvc_hb.daemon.runner_queue import Waiting
from opensvc_hb.daemon.runner_wire import (
    Began,
    Cancel,
    Channel,
    Finished,
    Ping,
    Pong,
    Ready,
    Request,
    Warned,
    Work,
)
from opensvc_hb.daemon.runner_workers import ORDER_BYTES_MAX, Exit, Worker, Workers
from opensvc_hb.daemon.sessions import (
    Processes,
    Session,
    SessionEnd,
    boottime,
    list_processes,
    ticks_now,
)

_HANGING_EXIT_S = 1.0
"""How long a worker that says that a thread of it hangs is waited for all the same."""
_BEGINS_PER_TURN = 8
_FILES_PER_WORKER = 4
_FILES_OF_OUR_OWN = 32
"""Kept free of workers' pipes: forking takes six, and /proc must stay readable."""
_NEVER = float("inf")


class RunnerLoop:
    """The loop of the runner process.

    Args:
        channel: our end of the socketpair.
        adapter: the agent.
        settings: what all workers share.
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
        self._max_parallel = max_parallel
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._watched = 0
        self._jobs: Dict[int, Job] = {}
        self._at_work: Dict[int, Job] = {}
        """By number of the worker: what it does now."""
        self._waiting = Waiting(clock)
        self._output = Output(channel)
        self._taken: Set[int] = set()
        self._busy: Set[str] = set()
        files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._places = max(1, (files_max - _FILES_OF_OUR_OWN) // _FILES_PER_WORKER)
        self._pace = Pace(clock)
        self._ears = Ears(self._selector, self._print, self._hear, self._has_exited)
        self._workers = Workers(adapter, settings, self._places, self._pace.most, clock, self._ears.listen_to)
        self._no_room = False
        self._draining = False
        self._due_at = _NEVER
        self._warned_of_scope = False

    def run(self) -> None:
        """Work until the daemon is gone and the last action has ended."""
        # A SIGTERM for a worker waits until that has taken up its own signal handling.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self._channel.send(Ready())
        while True:
            self._channel.flush()
            if self._draining and not self._channel.is_heard():
                self._abandon()
            if (
                self._draining
                and not self._jobs
                and (self._channel.broken or not self._channel.waiting_bytes)
            ):
                self._workers.send_all_away()
                return
            self._watch_channel()
            for key, mask in self._selector.select(self._wait_s()):
                key.data(mask)
            self._end_what_is_due()
            self._begin_waiting()
            self._tend_free_workers()

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
        moments = [self._due_at]
        if not self._waiting.is_empty(self._may_act()):
            if self._has_place():  # else the end of a worker wakes us
                moments.append(0.0 if self._pace.has_room() else self._pace.changes_at(is_eager=True))
        elif not self._draining:
            spare_at, retires_at = self._workers.spare_at(), self._workers.retires_at()
            if spare_at is not None:
                moments.append(spare_at if self._pace.is_quiet else self._pace.changes_at(is_eager=False))
            if retires_at is not None:
                moments.append(retires_at)
        first = min(moments)
        return None if first == _NEVER else max(0.0, first - self._clock())

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
        for request in self._waiting.take_out_requests():
            self._finish_unbegun(request, Outcome.FAILED, "the daemon ended before the action began")
        for job in list(self._jobs.values()):
            if not job.request.work.is_action and job.ending is None:
                self._end(job, Outcome.TIMED_OUT, "the daemon ended")  # nobody is left to read the answer

    def _abandon(self) -> None:
        """End what the daemon never heard of, and what only it would have wanted to know."""
        for job in list(self._jobs.values()):
            if job.ending is not None or job.is_ordered:
                continue
            if job.order.work is not Work.EXAMINE:
                self._end(job, Outcome.FAILED, "the daemon ended before the action began")
                continue
            self._waiting.take_out_look_back(job)
            if job.worker is not None:
                del self._at_work[job.worker.pid]
                job.worker.send_away()
                job.worker = None
            self._finish(job)

    # --- from a request to an order --------------------------------------------------------

    def _take(self, request: Request) -> None:
        if not request.work.is_action and len(self._at_work) >= self._places:
            self._refuse(request, "too many actions run for a question to be asked")
        elif len(order_of(request).encode()) > ORDER_BYTES_MAX:
            self._refuse(request, "too many services are asked for at once")
        elif request.work.is_exclusive and request.svcname in self._busy:
            self._refuse(request, f"refused: another action of {request.svcname} has not ended")
        else:
            if request.work.is_action:
                self._taken.add(request.request_id)
            if request.work.is_exclusive:
                self._busy.add(request.svcname)
            self._waiting.add(request)

    def _refuse(self, request: Request, detail: str) -> None:
        self._channel.send(Finished(request.request_id, Outcome.FAILED, detail=detail))

    def _may_act(self) -> bool:
        """Tell whether another action may begin beside those that have begun, if there is room and place."""
        return self._max_parallel is None or len(self._taken) - self._waiting.actions < self._max_parallel

    def _has_place(self) -> bool:
        """Tell whether there is a worker to take, or one more can be tried."""
        return self._workers.has_free or (self._workers.has_place and not self._no_room)

    def _begin_waiting(self) -> None:
        """Begin some of what waits; those begun before want to be heard, too."""
        for _ in range(_BEGINS_PER_TURN):
            if not (self._has_place() and self._pace.has_room()):
                return
            first = self._waiting.next(self._may_act())
            if first is None:
                return
            if isinstance(first, Request):
                job = Job(first, self._clock() + first.limit_s)
                self._jobs[first.request_id] = job
                self._begin(job)
            else:
                self._begin(first)

    def _begin(self, job: Job) -> None:
        """Give a job to a worker, which is let go as soon as the daemon has heard of it."""
        try:
            worker = self._workers.take()
        except OSError as error:
            self._not_forked(job, error)
            return
        job.worker = worker
        job.session = Session(worker.pid, worker.started_ticks, ticks_now())
        worker.label = job.request.label
        self._at_work[worker.pid] = job
        self._pace.began(job.request.request_id)
        self._look_at(job.deadline)
        began = Began(job.request.request_id, worker.pid, worker.started_ticks, job.session.since_ticks)
        self._channel.send(began, when_sent=lambda: self._go(job))
        self._channel.flush()  # at once: another core runs it while we look after the next one

    def _not_forked(self, job: Job, error: OSError) -> None:
        """Keep an action for which there is no room until one ends, if one runs; refuse anything else."""
        no_room = error.errno in (errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
        waits = no_room and bool(self._at_work) and job.request.work.is_action
        self._no_room = self._no_room or waits
        if job.order.work is Work.EXAMINE:
            if waits:
                self._waiting.put_back(job)
            else:
                self._end(job, Outcome.FAILED, f"what became of the start cannot be looked at: {error}")
            return
        del self._jobs[job.request.request_id]
        if waits:
            self._waiting.put_back(job.request)
        else:
            self._finish_unbegun(job.request, Outcome.FAILED, f"cannot begin: {error}")

    def _go(self, job: Job) -> None:
        """Let the worker act, unless it was cancelled before."""
        if job.ending is None and job.worker is not None:
            job.is_ordered = True
            job.worker.order(job.order)

    def _tend_free_workers(self) -> None:
        if not self._draining and self._waiting.is_empty(self._may_act()):
            self._workers.retire()
            if self._pace.is_quiet:
                self._workers.fork_spare()

    # --- what a worker says ----------------------------------------------------------------

    def _hear(self, worker: Worker, lines: Sequence[bytes]) -> None:
        """Take lines of its report."""
        job = self._at_work.get(worker.pid)
        if job is None:
            return
        for evaluated in job.take(lines):
            self._channel.send(evaluated)
        report = complete_line(lines)
        if report is None or job.is_complete:
            return
        job.is_complete = True
        if report.free and job.ending is None and worker.exit is None:
            self._done(job)
        elif report.hangs:
            job.hangs = True
            job.deadline = min(job.limit_at, self._clock() + _HANGING_EXIT_S)
            self._look_at(job.deadline)

    def _print(self, worker: Worker, lines: Sequence[bytes]) -> None:
        texts = [line.decode("utf-8", errors="replace").rstrip("\r") for line in lines]
        job = self._at_work.get(worker.pid)
        if job is not None:
            for text in texts:
                job.hear(text)
        self._output.pass_on(worker.label, texts)

    def _has_exited(self, worker: Worker, how: Exit) -> None:
        job = self._at_work.get(worker.pid)
        if job is None:
            self._bury(worker)
        elif job.ending is not None:
            job.ending.look_at_s = self._clock()  # the session may hold others: look, then finish
            self._look_at(job.ending.look_at_s)
        elif how.signal_number:
            name = signal.Signals(how.signal_number).name
            self._end(job, Outcome.FAILED, f"the action's process was killed by {name}")
        else:
            self._done(job)

    # --- limits, cancellation, and the end -------------------------------------------------

    def _cancel(self, request_id: int) -> None:
        request = self._waiting.take_out(request_id)
        if request is not None:
            self._finish_unbegun(request, Outcome.TIMED_OUT, "cancelled before it began")
            return
        job = self._jobs.get(request_id)
        if job is not None and job.ending is None:
            self._end(job, Outcome.TIMED_OUT, "cancelled")

    def _end(self, job: Job, outcome: Outcome, detail: str) -> None:
        job.outcome, job.detail = outcome, detail
        if job.session is None:
            self._waiting.take_out_look_back(job)
            self._finish(job)
            return
        job.ending = SessionEnd(job.session, self._clock())
        self._look_at(job.ending.look_at_s)

    def _look_at(self, moment: float) -> None:
        self._due_at = min(self._due_at, moment)

    def _end_what_is_due(self) -> None:
        now = self._clock()
        if now < self._due_at:
            return
        processes: Optional[Processes] = None
        for job in list(self._jobs.values()):
            if job.ending is None and now >= job.deadline and job.hangs:
                self._done(job)
                continue
            if job.ending is None and now >= job.deadline:
                self._end(job, Outcome.TIMED_OUT, f"its time limit of {job.request.limit_s:g} s passed")
            if job.ending is None or now < job.ending.look_at_s:
                continue
            if processes is None:
                processes = list_processes()
            if has_ended(job, now, processes, self._warn):
                self._done(job)
        moments = (job.ending.look_at_s if job.ending else job.deadline for job in self._jobs.values())
        self._due_at = min(moments, default=_NEVER)

    def _warn(self, text: str) -> None:
        self._channel.send(Warned(text))

    def _done(self, job: Job) -> None:
        """A worker has done what it was ordered to, or never will: part with it."""
        worker = job.worker
        assert worker is not None, "only a worker can be done"
        self._ears.drain(worker)
        self._output.end(worker.label)
        del self._at_work[worker.pid]
        self._pace.ended(job.request.request_id)
        self._no_room = False
        job.exit = worker.exit
        if worker.exit is not None:
            self._bury(worker)
        elif job.hangs:
            self._ears.close(worker)
            worker.send_away()  # its handle tells when it has ended
        else:
            self._workers.set_free(worker)
        if job.begin_second_half():
            self._waiting.add_look_back(job)
        else:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        """Report the end of a job, and forget it."""
        request = job.request
        del self._jobs[request.request_id]
        self._forget(request)
        verdict = judge(job)
        if verdict.warning and not self._warned_of_scope:
            self._warned_of_scope = True
            self._warn(verdict.warning)
        finished = verdict.finished
        self._channel.send(finished)
        if not self._channel.is_heard():
            say(f"{request.svcname}: {request.work.value}: {finished.outcome.value} {finished.detail}")

    def _bury(self, worker: Worker) -> None:
        """Reap a worker that has ended, be it long after all that it was asked for."""
        self._ears.close(worker)
        self._workers.bury(worker)

    def _forget(self, request: Request) -> None:
        self._taken.discard(request.request_id)
        if request.work.is_exclusive:
            self._busy.discard(request.svcname)

    def _finish_unbegun(self, request: Request, outcome: Outcome, detail: str) -> None:
        self._forget(request)
        self._channel.send(Finished(request.request_id, outcome, detail=detail))
