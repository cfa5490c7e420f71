"""How do commands reach the daemon, without ever holding it up?

A UNIX stream socket; one JSON object per line, each with its `version`:

    {"version": 1, "request": "status", ...}
    {"version": 1, "ok": true, ...}
    {"version": 1, "ok": false, "code": 5, "error": "why, in one line"}

The server knows lines, objects and who is at the other end (SO_PEERCRED); what a request
means is the business of `handle`, which must return at once and may have its answer given
later, from any thread. A connection carries requests one behind the other: the next line
is looked at when the answer before it has been taken. A client that is idle, slow, writes
nonsense or goes away costs its own connection and nothing else.

Who may connect is decided by the socket file's mode: root, and a group if one is named.

Runs in: control thread; `reply` and `stop` may be called from any thread.
"""

from __future__ import annotations

import contextlib
import functools
import grp
import logging
import os
import queue
import selectors
import socket
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Mapping, Optional, Union

from opensvc_hb.client import with_address
from opensvc_hb.daemon.control_connection import (
    Connection,
    PeerCredentials,
    credentials_of,
    encode_answer,
    read_request,
    refusal,
)
from opensvc_hb.errors import ExitCode, HbError

log = logging.getLogger(__name__)

READ_BYTES = 65536
ACCEPT_PAUSE_S = 1.0


class ControlError(HbError):
    """The control socket could not be made."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        super().__init__(f"{path}: {what}")


Reply = Callable[[Mapping[str, object]], None]
"""Give the answer, an object without its `version`. Any thread may, once; later ones are ignored."""
Handler = Callable[[Mapping[str, object], PeerCredentials, Reply], None]


@dataclass(frozen=True)
class Limits:
    """What one client may take.

    Args:
        line_bytes: length of a request.
        connections: at a time; the longest idle one makes place for one more.
        idle_s: a connection without a request is closed after this.
        slow_s: a client must have written its line, or read its answer, within this.
    """

    line_bytes: int = 1024 * 1024
    connections: int = 256
    idle_s: float = 60.0
    slow_s: float = 10.0


@dataclass(frozen=True)
class _Answer:
    """For the control thread: the answer to one request of one connection."""

    connection: int
    request: int
    answer: Mapping[str, object]


@dataclass(frozen=True)
class _Stop:
    """For the control thread: end, at the latest at `at`."""

    at: float


class ControlServer:
    """The control socket of one daemon: made at once, answered from `start` to `stop`.

    The caller holds the daemon's lock.

    Args:
        path: the socket's file; one left by a dead daemon is replaced.
        handle: called in the control thread for each request; must not wait. An `HbError`
            that it raises becomes the answer.
        group: name of a group that may connect, besides root.
        limits: what one client may take.
        clock: monotonic seconds.

    Raises:
        ControlError: the socket could not be made, or the group does not exist.
    """

    def __init__(
        self,
        path: Path,
        handle: Handler,
        group: Optional[str] = None,
        limits: Limits = Limits(),
        clock: Callable[[], float] = functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME),
    ) -> None:
        self._path = path
        self._handle = handle
        self._group = group
        self._limits = limits
        self._clock = clock
        self._answers: queue.SimpleQueue[Union[_Answer, _Stop]] = queue.SimpleQueue()
        self._connections: Dict[int, Connection] = {}
        self._accepted = 0
        self._stop_at: Optional[float] = None
        self._accept_again_at: Optional[float] = None
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._listener = self._listen()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_reader, selectors.EVENT_READ, self._wake_up)
        # A forked child that outlives us would keep callers of a dead daemon waiting.
        myself = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _close_in_child(myself()))

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self, limit_s: float = 2.0) -> None:
        """Hand out the answers given so far, for at most `limit_s` seconds, and close."""
        if self._thread.ident is None:
            self._path.unlink(missing_ok=True)
            self.close_descriptors()
            return
        self._put(_Stop(self._clock() + limit_s))
        self._thread.join(limit_s + 1.0)

    def close_descriptors(self) -> None:
        """Close every descriptor of ours in this process, and nothing more."""
        for connection in list(self._connections.values()):
            connection.socket.close()
        self._selector.close()
        self._listener.close()
        self._wake_reader.close()
        self._wake_writer.close()

    @property
    def is_alive(self) -> bool:
        """Tell whether the control thread runs."""
        return self._thread.is_alive()

    def _listen(self) -> socket.socket:
        """Return the listening socket, with its owner and mode right before it has its name."""
        try:
            group_id = grp.getgrnam(self._group).gr_gid if self._group else -1
        except KeyError:
            raise ControlError(self._path, f"there is no group {self._group!r}: see getent group") from None
        temporary = self._path.with_name(f".{self._path.name}.new")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            with_address(str(temporary), listener.bind)
            os.chown(temporary, -1, group_id)
            temporary.chmod(0o660 if self._group else 0o600)
            listener.listen(self._limits.connections)
            temporary.replace(self._path)
        except OSError as error:
            listener.close()
            raise ControlError(self._path, f"cannot be made: {error.strerror or error}") from error
        return listener

    def _run(self) -> None:
        try:
            while not self._is_finished():
                for key, _ in self._selector.select(self._timeout_s()):
                    key.data()
                self._take_answers()
                self._drop_late()
        except Exception:  # top of the thread: the services run on without commands
            log.exception("the control thread ended; no command is answered any more")
        finally:
            self._path.unlink(missing_ok=True)
            self.close_descriptors()

    def _is_finished(self) -> bool:
        if self._stop_at is None:
            return False
        return self._clock() >= self._stop_at or not any(c.outgoing for c in self._connections.values())

    def _timeout_s(self) -> Optional[float]:
        """Return how long nothing needs to be done, None for ever."""
        deadlines = [c.deadline for c in self._connections.values() if c.deadline is not None]
        deadlines += [at for at in (self._stop_at, self._accept_again_at) if at is not None]
        return max(0.0, min(deadlines) - self._clock()) if deadlines else None

    def _put(self, item: Union[_Answer, _Stop]) -> None:
        """Give the control thread something to do; any thread."""
        self._answers.put(item)
        # Full: it will wake anyway. Closed: the daemon stops, nobody waits for the answer.
        with contextlib.suppress(OSError):
            self._wake_writer.send(b"\0")

    def _wake_up(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_reader.recv(READ_BYTES):
                pass

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            # Out of descriptors or memory: the caller waits in the queue. Trying at once would spin.
            log.warning("control socket: no more callers for %g s: %s", ACCEPT_PAUSE_S, error.strerror)
            self._selector.unregister(self._listener)
            self._accept_again_at = self._clock() + ACCEPT_PAUSE_S
            return
        accepted.setblocking(False)
        if len(self._connections) >= self._limits.connections and not self._drop_longest_idle():
            busy = refusal(ExitCode.TIMED_OUT, "the daemon has too many callers: try again")
            with accepted, contextlib.suppress(OSError):
                accepted.send(encode_answer(busy))
            return
        self._accepted += 1
        deadline = self._clock() + self._limits.idle_s
        connection = Connection(self._accepted, accepted, credentials_of(accepted), deadline)
        self._connections[connection.number] = connection
        self._set_interest(connection)

    def _drop_longest_idle(self) -> bool:
        idle = [c for c in self._connections.values() if c.is_idle]
        if not idle:
            return False
        self._drop(min(idle, key=lambda c: c.deadline or 0.0))
        return True

    def _drop(self, connection: Connection) -> None:
        del self._connections[connection.number]
        if connection.interest:
            self._selector.unregister(connection.socket)
        connection.socket.close()

    def _drop_late(self) -> None:
        now = self._clock()
        for connection in list(self._connections.values()):
            if connection.deadline is not None and now >= connection.deadline:
                self._drop(connection)
        if self._accept_again_at is not None and now >= self._accept_again_at:
            self._accept_again_at = None
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _take_answers(self) -> None:
        """Send what was answered up to now; what comes meanwhile waits for the next round."""
        for _ in range(self._answers.qsize()):
            item = self._answers.get()
            if isinstance(item, _Stop):
                self._stop_at = item.at
                continue
            connection = self._connections.get(item.connection)
            if connection is None or connection.awaiting != item.request:
                continue
            connection.awaiting = 0
            connection.outgoing = memoryview(encode_answer(item.answer))
            connection.deadline = self._clock() + self._limits.slow_s
            self._go_on(connection)

    def _moved(self, connection: Connection) -> None:
        """The client's socket can be read or written, or has ended."""
        if connection.number not in self._connections:
            return  # dropped in this same round
        if self._wants_to_read(connection) and not self._read(connection):
            self._drop(connection)
            return
        self._go_on(connection)

    def _read(self, connection: Connection) -> bool:
        """Take what the client wrote; tell whether it is still there."""
        try:
            data = connection.socket.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not data:
            connection.ended = True
            return not connection.is_gone()
        if connection.is_idle:
            connection.deadline = self._clock() + self._limits.slow_s
        connection.incoming += data
        return True

    def _go_on(self, connection: Connection) -> None:
        """Send, then look at the next line, as far as the client lets us."""
        if connection.outgoing and not self._send(connection):
            self._drop(connection)
            return
        if not connection.outgoing and not connection.awaiting:
            if connection.closing:
                self._drop(connection)
                return
            self._next_request(connection)
            if connection.ended and not connection.awaiting:
                self._drop(connection)
                return
        self._set_interest(connection)

    def _send(self, connection: Connection) -> bool:
        """Send what the client takes now; tell whether it is still there."""
        try:
            sent = connection.socket.send(connection.outgoing, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return True
        except OSError:
            return False
        connection.outgoing = connection.outgoing[sent:]
        if not connection.outgoing:
            allowed_s = self._limits.slow_s if connection.incoming else self._limits.idle_s
            connection.deadline = self._clock() + allowed_s
        return True

    def _next_request(self, connection: Connection) -> None:
        line = connection.take_line()
        size = len(connection.incoming) if line is None else len(line)
        if line is None and size <= self._limits.line_bytes:
            return
        connection.requests += 1
        connection.awaiting = connection.requests
        connection.deadline = None
        reply = functools.partial(self._answer, connection.number, connection.awaiting)
        if line is None or size > self._limits.line_bytes:
            # Where the next request begins is not known any more.
            connection.closing = True
            connection.incoming.clear()
            reply(refusal(ExitCode.USAGE, f"a request has at most {self._limits.line_bytes} bytes"))
            return
        request = read_request(line)
        if isinstance(request, str):
            reply(refusal(ExitCode.USAGE, request))
            return
        try:
            self._handle(request, connection.peer, reply)
        except HbError as error:
            reply(refusal(error.exit_code, str(error)))
        except Exception:  # one request that we cannot handle must not end the thread
            log.exception("request %r on the control socket failed", request.get("request"))
            reply(refusal(ExitCode.FAILED, "the daemon failed on this request; see its log"))

    def _answer(self, number: int, request_number: int, answer: Mapping[str, object]) -> None:
        self._put(_Answer(number, request_number, answer))

    def _wants_to_read(self, connection: Connection) -> bool:
        """Also while it waits for us, to see it go; a full buffer makes the client wait."""
        return not (
            connection.ended or connection.closing or len(connection.incoming) > self._limits.line_bytes
        )

    def _set_interest(self, connection: Connection) -> None:
        wanted = selectors.EVENT_READ if self._wants_to_read(connection) else 0
        if connection.outgoing:
            wanted |= selectors.EVENT_WRITE
        if wanted == connection.interest:
            return
        if connection.interest:
            self._selector.unregister(connection.socket)
        if wanted:
            moved = functools.partial(self._moved, connection)
            self._selector.register(connection.socket, wanted, moved)
        connection.interest = wanted


def _close_in_child(server: Optional[ControlServer]) -> None:
    """Let go, in a forked child, of what only the daemon may hold."""
    if server is not None:
        server.close_descriptors()
