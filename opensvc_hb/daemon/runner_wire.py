"""What the daemon and its action runner say to each other: JSON lines over a socketpair.

Both ends come from the same installation, one started the other, so the records need no
version; a line that cannot be decoded means that the other end is broken, and is treated
like its death. `Channel` is one end: non-blocking, with a queue of its own, so that neither
process ever waits for the other (a paused daemon must not keep the runner from ending an
action at its limit).

Runs in: the daemon's runner thread, and the runner process. Never in a worker of it.
"""

from __future__ import annotations

import enum
import json
import select
import socket
from collections import deque
from dataclasses import dataclass
from typing import Any, Callable, Deque, Dict, List, Mapping, Optional, Tuple, Union

from opensvc_hb.core.events import Outcome
from opensvc_hb.core.states import ActionVerb, Avail

_RECEIVE_BYTES = 65536
_RECEIVES_PER_TURN = 16


class Work(enum.Enum):
    """What is done in the runner: core's six actions, two questions, and the end of a start."""

    START = ActionVerb.START.value
    STOP = ActionVerb.STOP.value
    VERIFY = ActionVerb.VERIFY.value
    ANNOUNCE = ActionVerb.ANNOUNCE.value
    RESTART = ActionVerb.RESTART.value
    PREPARE = ActionVerb.PREPARE.value
    STATUS = "status"
    """The status documents of some services, for the cache behind svcmon."""
    DECLARE = "declare"
    """Which services have an hb resource of type OpenHA on this node."""
    EXAMINE = "examine"
    """What became of a service that was just started: the second half of a start, never asked for."""

    @property
    def is_action(self) -> bool:
        """Tell an action of core from a question asked in the background."""
        return self not in (Work.STATUS, Work.DECLARE)

    @property
    def is_exclusive(self) -> bool:
        """Tell an action that changes a service, of which one runs at a time, from one that does not."""
        return self in (Work.START, Work.STOP, Work.RESTART)


@dataclass(frozen=True)
class Request:
    """Do this; `svcname` is "" for `Work.DECLARE`. `limit_s` counts from the start of the work.

    Args:
        others: further services of a `Work.STATUS`, asked one after the other in one process.
        rid, attempt: of a `Work.RESTART`; see `core.effects.RunAction`.
    """

    request_id: int
    work: Work
    svcname: str
    limit_s: float
    others: Tuple[str, ...] = ()
    rid: str = ""
    attempt: str = ""

    @property
    def label(self) -> str:
        """Return the name under which its output is logged."""
        return f"{self.svcname} and {len(self.others)} more" if self.others else self.svcname


@dataclass(frozen=True)
class Cancel:
    """End this request's processes; its `Finished` still follows."""

    request_id: int


@dataclass(frozen=True)
class Ping:
    """Are you there? A `Pong` with the same number is the answer."""

    number: int


@dataclass(frozen=True)
class Ready:
    """The runner has imported what it needs and takes requests."""


@dataclass(frozen=True)
class Unable:
    """The runner cannot work, and ends; `reason` is one line."""

    reason: str


@dataclass(frozen=True)
class Pong:
    """Answer to the `Ping` of this number."""

    number: int


@dataclass(frozen=True)
class Began:
    """A process has this request; it does nothing about it before this line has left the runner.

    So whoever outlives the runner knows every process that may have acted on a service. Said
    again when another process takes the second half of a start: the first half has ended.

    Args:
        pid: the process, which is the leader of its own session.
        started_ticks: its start, field 22 of /proc/PID/stat, since numbers are used again.
        since_ticks: when it was given the request, by the same clock: the process may have
            done others before.
    """

    request_id: int
    pid: int
    started_ticks: int
    since_ticks: int = 0


@dataclass(frozen=True)
class Printed:
    """One line that an action wrote to its stdout or stderr, without line end."""

    svcname: str
    text: str


@dataclass(frozen=True)
class Evaluated:
    """One service of a `Work.STATUS` was evaluated; others of the same request may follow.

    Args:
        document: its status; None when it could not be evaluated, for `reason` (one line).
        age_s: seconds since the document was true.
    """

    request_id: int
    svcname: str
    document: Optional[Mapping[str, Any]] = None
    reason: str = ""
    age_s: float = 0.0


@dataclass(frozen=True)
class Warned:
    """The runner itself has something to log."""

    text: str


@dataclass(frozen=True)
class Finished:
    """The request has ended; see `core.events.ActionFinished` for the fields.

    Args:
        document: the answer of `Work.DECLARE`; after a start, the status of the service.
    """

    request_id: int
    outcome: Outcome
    avail: Avail = Avail.UNKNOWN
    exit_status: int = 0
    detail: str = ""
    document: Optional[Mapping[str, Any]] = None


Message = Union[Request, Cancel, Ping, Ready, Unable, Pong, Began, Printed, Evaluated, Warned, Finished]

_CLASSES = {
    cls.__name__: cls
    for cls in (Request, Cancel, Ping, Ready, Unable, Pong, Began, Printed, Evaluated, Warned, Finished)
}
_FROM_JSON: Dict[str, Callable[[Any], Any]] = {
    "work": Work,
    "outcome": Outcome,
    "avail": Avail,
    "others": tuple,
}


def encode(message: Message) -> bytes:
    """Return the message as one line, line end included."""
    fields = {
        name: value.value if isinstance(value, enum.Enum) else value for name, value in vars(message).items()
    }
    return json.dumps({"message": type(message).__name__, **fields}).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Return the message of one line; raises ValueError when it is none of ours."""
    try:
        fields = json.loads(line)
        cls = _CLASSES[fields.pop("message")]
        message: Message = cls(
            **{
                name: _FROM_JSON[name](value) if name in _FROM_JSON else value
                for name, value in fields.items()
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a runner's message ({error}): {line[:80]!r}") from error
    return message


class LineSplitter:
    """Cuts a stream of bytes into lines; one that is longer than `longest` comes in pieces."""

    def __init__(self, longest: Optional[int] = None) -> None:
        self._longest = longest
        self._rest = bytearray()

    def feed(self, data: bytes) -> List[bytes]:
        """Return the lines that `data` completes, without their line ends."""
        searched = len(self._rest)
        self._rest += data
        lines = []
        begin = 0
        while True:
            end = self._rest.find(b"\n", max(begin, searched))
            if end < 0:
                break
            lines.extend(self._pieces(bytes(self._rest[begin:end])))
            begin = end + 1
        del self._rest[:begin]
        while self._longest is not None and len(self._rest) > self._longest:
            lines.append(bytes(self._rest[: self._longest]))
            del self._rest[: self._longest]
        return lines

    def rest(self) -> bytes:
        """Return, and forget, what came after the last line end."""
        rest = bytes(self._rest)
        self._rest.clear()
        return rest

    def _pieces(self, line: bytes) -> List[bytes]:
        if self._longest is None or len(line) <= self._longest:
            return [line]
        return [line[at : at + self._longest] for at in range(0, len(line), self._longest)]


class Channel:
    """One end of the socketpair. Owned by one thread; never blocks.

    `at_end` is set when the other end will say no more, `broken` when it hears no more.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._splitter = LineSplitter()
        self._queue: Deque[Tuple[bytes, Optional[Callable[[], None]]]] = deque()
        self._sent_of_first = 0
        self.waiting_bytes = 0
        self.at_end = False
        self.broken = False

    def fileno(self) -> int:
        """Return the file descriptor, for a selector."""
        return self._end.fileno()

    def send(self, message: Message, when_sent: Optional[Callable[[], None]] = None) -> None:
        """Queue a message; `when_sent` is called once its last byte is the kernel's.

        On a broken channel the message is dropped and `when_sent` is never called.
        """
        if self.broken:
            return
        line = encode(message)
        self._queue.append((line, when_sent))
        self.waiting_bytes += len(line)

    def flush(self) -> None:
        """Hand the socket what it takes now."""
        while self._queue:
            line, when_sent = self._queue[0]
            try:
                count = self._end.send(memoryview(line)[self._sent_of_first :])
            except BlockingIOError:
                return
            except OSError:
                self.broken = True
                self._queue.clear()
                self._sent_of_first = self.waiting_bytes = 0
                return
            self.waiting_bytes -= count
            self._sent_of_first += count
            if self._sent_of_first == len(line):
                self._queue.popleft()
                self._sent_of_first = 0
                if when_sent is not None:
                    when_sent()

    def receive(self) -> List[Message]:
        """Return what has arrived, a bounded part of it at a time.

        Raises:
            ValueError: the other end sent a line that is no message.
        """
        messages: List[Message] = []
        for _ in range(_RECEIVES_PER_TURN):
            try:
                data = self._end.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.at_end = True
                break
            messages.extend(decode(line) for line in self._splitter.feed(data))
        return messages

    def is_heard(self) -> bool:
        """Tell whether the other end is still there to hear; sets `broken` when it is not."""
        if not self.broken:
            poll = select.poll()
            poll.register(self._end, 0)
            self.broken = any(event & select.POLLHUP for _, event in poll.poll(0))
        return not self.broken

    def say_no_more(self) -> None:
        """Tell the other end that nothing more will be asked; it may still answer."""
        if not self.broken:
            try:
                self._end.shutdown(socket.SHUT_WR)
            except OSError:
                self.broken = True

    def close(self) -> None:
        """Give the descriptor back."""
        self._end.close()
