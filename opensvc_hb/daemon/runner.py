"""The daemon's side of the action runner: asks it to act, and sees to it that it answers.

`RunAction` goes in, `ActionFinished` comes out, always and once, whatever becomes of the
runner process. When that dies, or answers no ping, it is replaced after a pause that grows;
what it had not begun is asked again of the next one, a few times; what it had begun is ended
(its sessions are known, see `runner_wire.Began`) and answered as failed, since nobody knows
how far it came: core verifies what it must know.

`run`, `cancel`, `declare`, `status` and `close` only put a command into a queue and wake the
thread; they never wait. Callbacks are called on the runner thread and must be as quick: put
the answer into a queue of one's own.

Runs in: runner thread (the class `_Keeper`); `Runner` itself in whichever thread calls it.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import selectors
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Protocol, Sequence, Tuple, Union

import opensvc_hb
from opensvc_hb.core.config import Service
from opensvc_hb.core.effects import CancelAction, RunAction
from opensvc_hb.core.events import ActionFinished, Outcome
from opensvc_hb.daemon.runner_wire import (
    Began,
    Cancel,
    Channel,
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
from opensvc_hb.daemon.sessions import Processes, Progress, Session, SessionEnd, boottime, list_processes

DECLARE_LIMIT_S = 60.0
STATUS_LIMIT_S = 30.0
_ATTEMPTS_MAX = 5
"""Runners that may die before they begin a request, until that is answered as failed."""
_PAUSE_FIRST_S = 0.1
_PAUSE_LONGEST_S = 5.0
_STEADY_AFTER_S = 10.0
"""A runner that lived so long was a good one: the pauses begin anew."""
_PING_EVERY_S = 10.0
_PONG_WITHIN_S = 30.0
_EXIT_WITHIN_S = 2.0
"""From the end of its socket to the end of a runner that ends by itself."""
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOT_FOR_CHILDREN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")


@dataclass(frozen=True)
class Declared:
    """The services with an hb resource of type OpenHA; one line per service that cannot be read."""

    services: Tuple[Service, ...]
    errors: Tuple[str, ...]


@dataclass(frozen=True)
class StatusEvaluated:
    """A service's status document, as `svcmgr print status --format json` prints it."""

    svcname: str
    document: Mapping[str, Any]


@dataclass(frozen=True)
class NotEvaluated:
    """A question without an answer; `reason` is one line."""

    svcname: str
    reason: str


DeclareAnswer = Union[Declared, NotEvaluated]
StatusAnswer = Union[StatusEvaluated, NotEvaluated]


class Inbox(Protocol):
    """Where events go: the monitor thread's queue."""

    def put(self, event: ActionFinished, /) -> None:
        """Take an event, at once."""


@dataclass(frozen=True)
class _Ask:
    """Command: do this work and give the answer. `key` names an action for `_Drop`."""

    work: Work
    svcname: str
    limit_s: float
    answer: Callable[[Finished], None]
    key: Optional[Tuple[str, int]] = None


@dataclass(frozen=True)
class _Drop:
    """Command: end the action of this key."""

    key: Tuple[str, int]


@dataclass(frozen=True)
class _Close:
    """Command: ask nothing more; end when the runner has answered and ended."""


_Command = Union[_Ask, _Drop, _Close]


class Runner:
    """The action runner, as the daemon sees it.

    Args:
        inbox: takes `ActionFinished`; its `put` must not block.
        log: for what the runner itself has to say; output of actions goes to `service.SVCNAME`.
        environment: variables of the daemon; the runner's and its children's come from them.
        argv: command of the runner process without `--fd`; a test gives its own adapter here.
        max_parallel: how many actions may run at once, None for any number.
        clock: seconds, advancing also in suspend.
    """

    def __init__(
        self,
        inbox: Inbox,
        log: logging.Logger,
        environment: Mapping[str, str],
        argv: Optional[Sequence[str]] = None,
        max_parallel: Optional[int] = None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        command = [sys.executable, "-m", "opensvc_hb.daemon.runner_process"] if argv is None else list(argv)
        if max_parallel is not None:
            command += ["--max", str(max_parallel)]
        self._inbox = inbox
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        ear, self._bell = socket.socketpair()
        self._bell.setblocking(False)
        bell = (ear, self._bell)
        keeper = _Keeper(self._commands, bell, log, command, _environment_for_actions(environment), clock)
        self._thread = threading.Thread(target=keeper.run, name="runner", daemon=True)

    def start(self) -> None:
        """Start the thread, and the runner process with it; commands given before are kept."""
        self._thread.start()

    def run(self, action: RunAction) -> None:
        """Have an action done; its `ActionFinished` comes into the inbox."""

        def answer(finished: Finished) -> None:
            self._inbox.put(
                ActionFinished(
                    service=action.service,
                    action_id=action.action_id,
                    verb=action.verb,
                    outcome=finished.outcome,
                    avail=finished.avail,
                    exit_status=finished.exit_status,
                    detail=finished.detail,
                )
            )

        key = (action.service, action.action_id)
        self._command(_Ask(Work(action.verb.value), action.svcname, action.limit_s, answer, key))

    def cancel(self, action: CancelAction) -> None:
        """End an action's processes; one that has ended, or was never asked for, is no matter."""
        self._command(_Drop((action.service, action.action_id)))

    def declare(self, callback: Callable[[DeclareAnswer], None], limit_s: float = DECLARE_LIMIT_S) -> None:
        """Ask which services register themselves; `callback` gets the answer on the runner thread."""
        self._command(_Ask(Work.DECLARE, "", limit_s, lambda finished: callback(_read_declared(finished))))

    def status(
        self, svcname: str, callback: Callable[[StatusAnswer], None], limit_s: float = STATUS_LIMIT_S
    ) -> None:
        """Ask for a service's status document; `callback` gets it on the runner thread."""

        def answer(finished: Finished) -> None:
            if finished.outcome is Outcome.DONE and finished.document is not None:
                callback(StatusEvaluated(svcname, finished.document))
            else:
                callback(NotEvaluated(svcname, finished.detail))

        self._command(_Ask(Work.STATUS, svcname, limit_s, answer))

    def close(self, wait_s: float = 0.0) -> None:
        """Ask nothing more. Actions that run finish, also without the daemon; nothing new begins.

        Args:
            wait_s: how long to wait for them; their answers still come while this process lives.
        """
        self._command(_Close())
        if wait_s > 0 and self._thread.is_alive():
            self._thread.join(wait_s)

    def _command(self, command: _Command) -> None:
        self._commands.put(command)
        with contextlib.suppress(OSError):  # full: it rings already; closed: the thread has ended
            self._bell.send(b"!")


def _environment_for_actions(environment: Mapping[str, str]) -> Dict[str, str]:
    """Return the variables of the runner: all of the daemon's but those that speak to systemd.

    PATH is always set. Source: agent 1.5 dies with a KeyError without it.
    """
    variables = {name: value for name, value in environment.items() if name not in _NOT_FOR_CHILDREN}
    variables.setdefault("PATH", _DEFAULT_PATH)
    return variables


def _read_declared(finished: Finished) -> DeclareAnswer:
    if finished.outcome is not Outcome.DONE or finished.document is None:
        return NotEvaluated("", finished.detail)
    services = tuple(
        Service(
            name=entry["name"],
            svcname=entry["svcname"],
            nodes=tuple(entry["nodes"]),
            start_limit_s=entry["start_limit_s"],
            stop_limit_s=entry["stop_limit_s"],
        )
        for entry in finished.document["services"]
    )
    return Declared(services, tuple(finished.document["errors"]))


class _Asked:
    """One request without its answer. Owned by the keeper.

    `session` is set once it has begun, `ending` once its runner has died after that.
    """

    def __init__(self, ask: _Ask) -> None:
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


class _Keeper:
    """The runner thread: keeps a runner process, and the list of what it owes an answer."""

    def __init__(
        self,
        commands: queue.SimpleQueue[_Command],
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

    def _obey(self, command: _Command) -> None:
        if isinstance(command, _Ask):
            asked = _Asked(command)
            self._asked[self._next_id] = asked
            self._next_id += 1
            if self._closing:
                self._answer_unbegun(self._next_id - 1, Outcome.FAILED, "the daemon stops")
            else:
                self._send_waiting()
        elif isinstance(command, _Drop):
            self._drop(command.key)
        else:
            self._closing = True
            for request_id in [n for n, asked in self._asked.items() if not asked.sent]:
                self._answer_unbegun(request_id, Outcome.FAILED, "the daemon stops")
            if self._process is not None:
                self._process.channel.flush()
                self._process.channel.say_no_more()

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
                asked.ask.answer(message)
        elif isinstance(message, Began):
            asked = self._asked.get(message.request_id)
            if asked is not None:
                asked.session = Session(message.pid, message.started_ticks)
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
                process.channel.send(Request(request_id, ask.work, ask.svcname, ask.limit_s))

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
