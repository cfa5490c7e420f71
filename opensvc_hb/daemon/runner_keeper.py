"""The runner thread: keeps a runner process alive, and the list of what it owes an answer.

Every request is answered, always and once, whatever becomes of the runner process. When that
dies, or answers no ping, it is replaced after a pause that grows; what it had not begun is
asked again of the next one, a few times; what it had begun is ended (its sessions are known,
see `runner_wire.Began`) and answered as failed, since nobody knows how far it came: core
verifies what it must know.

Runs in: runner thread.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import selectors
import socket
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import opensvc_hb
from opensvc_hb.core.events import Outcome
from opensvc_hb.daemon.runner_wire import (
    Began,
    Cancel,
    Channel,
    Evaluated,
    Finished,
    Message,
    Ping,
    Pong,
    Printed,
    Ready,
    Request,
    Unable,
    Warned,
    Work,
)
from opensvc_hb.daemon.sessions import Processes, Progress, Session, SessionEnd, list_processes

_ATTEMPTS_MAX = 5
"""Runners that may die before they begin a request, until that is answered as failed."""
_PAUSE_FIRST_S = 0.1
_PAUSE_LONGEST_S = 5.0
_STEADY_AFTER_S = 10.0
"""A runner that lived so long was a good one: the pauses begin anew."""
_PING_EVERY_S = 10.0
_PONG_WITHIN_S = 30.0
_DOCUMENT_VALID_S = 10.0
"""So long a document that a start brought along answers the question for the service's status."""
_EXIT_WITHIN_S = 2.0
"""From the end of its socket to the end of a runner that ends by itself."""


@dataclass(frozen=True)
class Ask:
    """Command: do this work and give the answer.

    Args:
        key: names an action for `Drop`.
        others: further services of a question for statuses.
        evaluated: told each service's status, before `answer` ends the question.
        rid, attempt: of a restart; see `core.effects.RunAction`.
    """

    work: Work
    svcname: str
    limit_s: float
    answer: Callable[[Finished], None]
    key: Optional[Tuple[str, int]] = None
    others: Tuple[str, ...] = ()
    evaluated: Callable[[Evaluated], None] = lambda _evaluated: None
    rid: str = ""
    attempt: str = ""


@dataclass(frozen=True)
class Drop:
    """Command: end the action of this key."""

    key: Tuple[str, int]


@dataclass(frozen=True)
class Close:
    """Command: ask nothing more; end when the runner has answered and ended."""


Command = Union[Ask, Drop, Close]


@dataclass(frozen=True)
class _Known:
    """The status document that a start brought along, and when it came."""

    document: Mapping[str, Any]
    at: float


class _Asked:
    """One request without its answer. Owned by the keeper.

    `session` is set once it has begun, `ending` once its runner has died after that.
    """

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.sent = False
        self.cancelled = False
        self.deaths = 0
        self.session: Optional[Session] = None
        self.ending: Optional[SessionEnd] = None
        self.ending_reason = ""


class _Process:
    """One runner process. Owned by the keeper."""

    def __init__(self, popen: subprocess.Popen[bytes], channel: Channel, now: float) -> None:
        self.popen = popen
        self.channel = channel
        self.born_at = now
        self.ready = False
        self.reason = ""
        self.watched = 0
        self.pings = 0
        self.owes_a_word = True
        """It has not said that it is ready, or not answered the last ping."""
        self.asked_at = now
        self.heard_at = now


class Keeper:
    """The thread's work; `run` is its target.

    Args:
        commands: what to do; a byte on the bell tells of it.
        bell: the end to hear, and the end that callers ring; both are closed at the end.
        log: for what the runner itself has to say.
        argv: command of the runner process, without `--fd`.
        environment: of the runner process.
        clock: seconds, advancing also in suspend.
    """

    def __init__(
        self,
        commands: queue.SimpleQueue[Command],
        bell: Tuple[socket.socket, socket.socket],
        log: logging.Logger,
        argv: Sequence[str],
        environment: Mapping[str, str],
        clock: Callable[[], float],
    ) -> None:
        self._commands = commands
        self._ear, self._ringing_end = bell
        self._log = log
        self._argv = list(argv)
        self._environment = dict(environment)
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._asked: Dict[int, _Asked] = {}
        self._known: Dict[str, _Known] = {}
        self._next_id = 1
        self._process: Optional[_Process] = None
        self._spawn_at = clock()
        self._pause_s = _PAUSE_FIRST_S
        self._closing = False

    def run(self) -> None:
        """Work until closed, and until nothing is owed any more."""
        self._ear.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ, self._on_bell)
        while not (self._closing and self._process is None and not self._asked):
            try:
                self._turn()
            except Exception:  # the top of the thread
                self._log.exception("the runner thread failed; it starts a new runner process")
                self._lose("the runner thread failed")
        self._selector.close()
        self._ear.close()
        self._ringing_end.close()  # callers ring it no more; a late one is told by an OSError

    def _turn(self) -> None:
        now = self._clock()
        if self._process is None and not self._closing and now >= self._spawn_at:
            self._spawn(now)
        if self._process is not None:
            self._process.channel.flush()
            self._watch(self._process)
        for key, _mask in self._selector.select(self._wait_s()):
            key.data()
        self._check_life()
        self._end_orphans()

    def _wait_s(self) -> Optional[float]:
        now = self._clock()
        moments = [asked.ending.look_at_s for asked in self._asked.values() if asked.ending]
        process = self._process
        if process is None and not self._closing:
            moments.append(self._spawn_at)
        elif process is not None and process.owes_a_word:
            moments.append(max(process.asked_at, process.heard_at) + _PONG_WITHIN_S)
        elif process is not None and self._asked:
            moments.append(process.asked_at + _PING_EVERY_S)
        return max(0.0, min(moments) - now) if moments else None

    # --- commands --------------------------------------------------------------------------

    def _on_bell(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._ear.recv(4096):
                pass
        with contextlib.suppress(queue.Empty):
            while True:
                self._obey(self._commands.get_nowait())

    def _obey(self, command: Command) -> None:
        if isinstance(command, Ask):
            unknown = self._without_known(command)
            if not unknown:
                command.answer(Finished(0, Outcome.DONE))
                return
            asked = _Asked(replace(command, svcname=unknown[0], others=unknown[1:]))
            self._asked[self._next_id] = asked
            self._next_id += 1
            if self._closing:
                self._answer_unbegun(self._next_id - 1, Outcome.FAILED, "the daemon stops")
            else:
                self._send_waiting()
        elif isinstance(command, Drop):
            self._drop(command.key)
        else:
            self._closing = True
            for request_id in [n for n, asked in self._asked.items() if not asked.sent]:
                self._answer_unbegun(request_id, Outcome.FAILED, "the daemon stops")
            if self._process is not None:
                self._process.channel.flush()
                self._process.channel.say_no_more()

    def _without_known(self, ask: Ask) -> Tuple[str, ...]:
        """Answer at once for services whose last start brought the answer; return the others."""
        unknown: List[str] = []
        for svcname in (ask.svcname, *ask.others):
            known = self._known.pop(svcname, None)
            age_s = self._clock() - known.at if known else 0.0
            if known and ask.work is Work.STATUS and age_s <= _DOCUMENT_VALID_S:
                ask.evaluated(Evaluated(0, svcname, known.document, "", age_s))
            else:
                unknown.append(svcname)
        return tuple(unknown)

    def _drop(self, key: Tuple[str, int]) -> None:
        for request_id, asked in list(self._asked.items()):
            if asked.ask.key != key:
                continue
            asked.cancelled = True
            if not asked.sent:
                self._answer_unbegun(request_id, Outcome.TIMED_OUT, "cancelled before it began")
            elif asked.ending is None and self._process is not None:
                self._process.channel.send(Cancel(request_id))

    # --- the life of a runner process ------------------------------------------------------

    def _spawn(self, now: float) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                popen = subprocess.Popen(
                    [*self._argv, "--fd", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                    env=self._environment,
                    # -m looks into the working directory first, so that this very package is found.
                    cwd=Path(opensvc_hb.__file__).parent.parent,
                )
            except OSError as error:
                ours.close()
                self._retry(now, f"cannot start the action runner: {error}")
                return
        self._process = _Process(popen, Channel(ours), now)

    def _watch(self, process: _Process) -> None:
        wanted = selectors.EVENT_READ
        if process.channel.waiting_bytes:
            wanted |= selectors.EVENT_WRITE
        if wanted != process.watched:
            change = self._selector.modify if process.watched else self._selector.register
            change(process.channel, wanted, lambda: self._on_channel(process))
            process.watched = wanted

    def _on_channel(self, process: _Process) -> None:
        try:
            messages = process.channel.receive()
        except ValueError as error:
            self._lose(str(error))
            return
        process.heard_at = self._clock()
        for message in messages:
            self._hear(process, message)
        if process.channel.at_end:
            self._lose(process.reason, _EXIT_WITHIN_S)

    def _hear(self, process: _Process, message: Message) -> None:
        if isinstance(message, Printed):
            logging.getLogger(f"service.{message.svcname}").info("%s", message.text)
        elif isinstance(message, Finished):
            asked = self._asked.pop(message.request_id, None)
            if asked is not None:
                if asked.ask.work is Work.START and message.document is not None:
                    self._known[asked.ask.svcname] = _Known(message.document, self._clock())
                asked.ask.answer(message)
        elif isinstance(message, Evaluated):
            asked = self._asked.get(message.request_id)
            if asked is not None:
                asked.ask.evaluated(message)
        elif isinstance(message, Began):
            asked = self._asked.get(message.request_id)
            if asked is not None:
                asked.session = Session(message.pid, message.started_ticks, message.since_ticks)
        elif isinstance(message, Ready):
            process.ready = True
            process.owes_a_word = False
            self._send_waiting()
        elif isinstance(message, Pong):
            process.owes_a_word = process.owes_a_word and message.number != process.pings
        elif isinstance(message, Warned):
            self._log.warning("%s", message.text)
        elif isinstance(message, Unable):
            process.reason = message.reason

    def _send_waiting(self) -> None:
        process = self._process
        if process is None or not process.ready:
            return
        for request_id, asked in self._asked.items():
            if not asked.sent:
                asked.sent = True
                ask = asked.ask
                request = Request(
                    request_id, ask.work, ask.svcname, ask.limit_s, ask.others, ask.rid, ask.attempt
                )
                process.channel.send(request)

    def _check_life(self) -> None:
        """Ping a runner that owes answers; give up one that says nothing for long."""
        process = self._process
        if process is None:
            return
        now = self._clock()
        if process.owes_a_word:
            if now >= max(process.asked_at, process.heard_at) + _PONG_WITHIN_S:
                self._lose(f"said nothing for {_PONG_WITHIN_S:g} s")
        elif self._asked and now >= process.asked_at + _PING_EVERY_S:
            process.pings += 1
            process.asked_at = now
            process.owes_a_word = True
            process.channel.send(Ping(process.pings))

    def _lose(self, reason: str, exit_within_s: float = 0.0) -> None:
        """Bury the runner process, and see to what it owed."""
        process, self._process = self._process, None
        now = self._clock()
        if process is None:
            return
        if process.watched:
            self._selector.unregister(process.channel)
        process.channel.close()
        try:
            process.popen.wait(exit_within_s)
        except subprocess.TimeoutExpired:
            process.popen.kill()
            process.popen.wait()
        if self._closing and not self._asked:
            return
        if not reason:
            status = process.popen.returncode
            reason = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        if now >= process.born_at + _STEADY_AFTER_S:
            self._pause_s = _PAUSE_FIRST_S
        self._retry(now, f"the action runner (pid {process.popen.pid}) {reason}")

    def _retry(self, now: float, reason: str) -> None:
        self._spawn_at = now + self._pause_s
        self._pause_s = min(self._pause_s * 2, _PAUSE_LONGEST_S)
        self._log.error("%s", reason)
        for request_id, asked in list(self._asked.items()):
            if asked.ending is not None:
                continue
            if asked.session is not None:
                asked.ending = SessionEnd(asked.session, now)
                asked.ending_reason = reason
                continue
            asked.sent = False
            asked.deaths += 1
            if asked.cancelled:
                self._answer_unbegun(request_id, Outcome.TIMED_OUT, "cancelled before it began")
            elif self._closing or asked.deaths >= _ATTEMPTS_MAX:
                self._answer_unbegun(request_id, Outcome.FAILED, f"not begun: {reason}")

    def _answer_unbegun(self, request_id: int, outcome: Outcome, detail: str) -> None:
        self._asked.pop(request_id).ask.answer(Finished(request_id, outcome, detail=detail))

    def _end_orphans(self) -> None:
        """End what a dead runner had begun, and answer for it when nothing of it runs."""
        now = self._clock()
        processes: Optional[Processes] = None
        for request_id, asked in list(self._asked.items()):
            if asked.ending is None or now < asked.ending.look_at_s:
                continue
            if processes is None:
                processes = list_processes()
            progress = asked.ending.step(now, processes)
            if progress is Progress.GOING:
                continue
            detail = f"ended unfinished: {asked.ending_reason}"
            if progress is Progress.LEFT_BEHIND:
                pids = " ".join(str(process.pid) for process in asked.ending.remaining)
                detail += f"; these processes of it survive SIGKILL: {pids}"
            del self._asked[request_id]
            asked.ask.answer(Finished(request_id, Outcome.FAILED, detail=detail))
