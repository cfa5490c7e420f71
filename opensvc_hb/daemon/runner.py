"""The action runner, as the daemon sees it: `RunAction` goes in, `ActionFinished` comes out.

The calls only put a command into a queue and wake the runner thread (`runner_keeper`); they
never wait. Callbacks are called on that thread and must be as quick: put the answer into a
queue of one's own.

Runs in: whichever thread calls.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import sys
import threading
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Mapping, Optional, Protocol, Sequence, Tuple, Union

from opensvc_hb.core.config import Service
from opensvc_hb.core.effects import CancelAction, RunAction
from opensvc_hb.core.events import ActionFinished, Outcome
from opensvc_hb.daemon.monitoring_wire import heard_monitoring
from opensvc_hb.daemon.runner_keeper import Ask, Close, Command, Drop, Keeper
from opensvc_hb.daemon.runner_wire import Evaluated, Finished, Work
from opensvc_hb.daemon.sessions import boottime
from opensvc_hb.held import Holding, HoldingKind, unmarked

DECLARE_LIMIT_S = 60.0
STATUS_LIMIT_S = 30.0
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOT_FOR_CHILDREN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID")


@dataclass(frozen=True)
class Declared:
    """The services with an hb resource of type OpenHA; one line per service that cannot be read.

    Args:
        held: by svcname, what a service may hold on this node while it runs.
    """

    services: Tuple[Service, ...]
    errors: Tuple[str, ...]
    held: Mapping[str, Tuple[Holding, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class StatusEvaluated:
    """A service's status document, as `svcmgr print status --format json` prints it.

    Args:
        age_s: seconds since it was evaluated; 0 when that was done for this question.
    """

    svcname: str
    document: Mapping[str, Any]
    age_s: float = 0.0


@dataclass(frozen=True)
class NotEvaluated:
    """A question without an answer; `reason` is one line.

    Args:
        among_others: it was asked together with others, any of which may be the reason.
    """

    svcname: str
    reason: str
    among_others: bool = False


DeclareAnswer = Union[Declared, NotEvaluated]
StatusAnswer = Union[StatusEvaluated, NotEvaluated]


class Inbox(Protocol):
    """Where events go: the monitor thread's queue."""

    def put(self, event: ActionFinished, /) -> None:
        """Take an event, at once."""


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
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        ear, self._bell = socket.socketpair()
        self._bell.setblocking(False)
        bell = (ear, self._bell)
        keeper = Keeper(self._commands, bell, log, command, environment_for_actions(environment), clock)
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
        work = Work(action.verb.value)
        self._command(
            Ask(work, action.svcname, action.limit_s, answer, key, rid=action.rid, attempt=action.attempt)
        )

    def cancel(self, action: CancelAction) -> None:
        """End an action's processes; one that has ended, or was never asked for, is no matter."""
        self._command(Drop((action.service, action.action_id)))

    def declare(self, callback: Callable[[DeclareAnswer], None], limit_s: float = DECLARE_LIMIT_S) -> None:
        """Ask which services register themselves; `callback` gets the answer on the runner thread."""
        self._command(Ask(Work.DECLARE, "", limit_s, lambda finished: callback(_read_declared(finished))))

    def status(
        self,
        svcnames: Sequence[str],
        callback: Callable[[StatusAnswer], None],
        limit_s: float = STATUS_LIMIT_S,
    ) -> None:
        """Ask for the status documents of some services; they are evaluated one after the other.

        Args:
            svcnames: one or more.
            callback: gets one answer for each of them, on the runner thread.
            limit_s: for all of them together.
        """
        waiting = dict.fromkeys(svcnames)  # changed on the runner thread alone

        def evaluated(answer: Evaluated) -> None:
            if answer.svcname not in waiting:
                return
            del waiting[answer.svcname]
            if answer.document is None:
                callback(NotEvaluated(answer.svcname, answer.reason))
            else:
                callback(StatusEvaluated(answer.svcname, answer.document, answer.age_s))

        def ended(finished: Finished) -> None:
            for svcname in list(waiting):
                callback(NotEvaluated(svcname, finished.detail, among_others=len(svcnames) > 1))

        first, *others = svcnames
        self._command(Ask(Work.STATUS, first, limit_s, ended, others=tuple(others), evaluated=evaluated))

    def close(self, wait_s: float = 0.0) -> None:
        """Ask nothing more. Actions that run finish, also without the daemon; nothing new begins.

        Args:
            wait_s: how long to wait for them; their answers still come while this process lives.
        """
        self._command(Close())
        if wait_s > 0 and self._thread.is_alive():
            self._thread.join(wait_s)

    def _command(self, command: Command) -> None:
        self._commands.put(command)
        with contextlib.suppress(OSError):  # full: it rings already; closed: the thread has ended
            self._bell.send(b"!")


def environment_for_actions(environment: Mapping[str, str]) -> Dict[str, str]:
    """Return the variables of the runner: all of the daemon's but those that speak to systemd.

    A daemon that a service's script has started is no process of that service.

    PATH is always set. Source: agent 1.5 dies with a KeyError without it.
    """
    own = unmarked(environment)
    variables = {name: value for name, value in own.items() if name not in _NOT_FOR_CHILDREN}
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
            monitoring=heard_monitoring(entry["monitoring"]),
        )
        for entry in finished.document["services"]
    )
    held = {
        entry["svcname"]: tuple(Holding(HoldingKind[kind], name) for kind, name in entry["holds"])
        for entry in finished.document["services"]
        if entry["holds"]
    }
    return Declared(services, tuple(finished.document["errors"]), held)
