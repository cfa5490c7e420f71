"""The guardian's door: daemons' connections, and whole lines in and out of them.

What a line says, and which daemon is listened to, is the loop's. A daemon that is paused holds
nothing up: what it does not take waits, up to a bound, and then its connection is closed.

Runs in: the guardian process.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
from typing import Callable, List, Optional

from opensvc_hb.daemon.guardian_wire import LINE_BYTES_MAX, Answer, Refusal, encode

CONNECTIONS_MAX = 8
ACCEPT_PAUSE_S = 0.1
"""Short beside `guardian_keeper.ANSWER_WITHIN_S`: who is not answered by then kills this process."""
_READ_BYTES = 1 << 16
_UNSENT_BYTES_MAX = 1 << 20
_CREDENTIALS = struct.Struct("3i")


class Connection:
    """One daemon's connection. Owned by the door.

    Attributes:
        pid: the process that connected, as the kernel says.
    """

    def __init__(self, end: socket.socket, pid: int) -> None:
        self.end = end
        self.pid = pid
        self.incoming = bytearray()
        self.outgoing = b""
        self.searched = 0


class Door:
    """All connections.

    Args:
        listener: the socket that daemons connect to, listening.
        selector: of the loop; its keys' data are functions without arguments.
        obey: told of each line, without its end.
        closed: told of each connection that has ended.
        clock: seconds.
    """

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        obey: Callable[[Connection, bytes], None],
        closed: Callable[[Connection], None],
        clock: Callable[[], float],
    ) -> None:
        self._listener = listener
        self._selector = selector
        self._obey = obey
        self._closed = closed
        self._clock = clock
        self._connections: List[Connection] = []
        self._accept_again_at: Optional[float] = None
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self._accept)

    @property
    def is_in_use(self) -> bool:
        """Tell whether anybody is connected."""
        return bool(self._connections)

    @property
    def next_at(self) -> Optional[float]:
        """Return when `work` has something to do, None for never."""
        return self._accept_again_at

    def work(self, now: float) -> None:
        """Be open to daemons again, if the pause is over."""
        if self._accept_again_at is not None and now >= self._accept_again_at:
            self._accept_again_at = now + ACCEPT_PAUSE_S  # if that fails, too
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
            self._accept_again_at = None

    def read_all(self) -> None:
        """Have everything obeyed that has arrived."""
        for connection in list(self._connections):
            self._read(connection)

    def answer(self, connection: Connection, answer: Answer) -> None:
        """Send at once what the daemon takes, the rest when it takes it."""
        connection.outgoing += encode(answer)
        self._send(connection)

    def close(self, connection: Connection) -> None:
        """End a connection; one that has ended is no matter."""
        if connection not in self._connections:
            return
        self._connections.remove(connection)
        self._selector.unregister(connection.end)
        connection.end.close()
        self._closed(connection)

    def _accept(self) -> None:
        try:
            end, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # it has gone again
        except OSError:
            # Out of descriptors or memory: the daemon waits in the queue. Trying at once would spin.
            self._selector.unregister(self._listener)
            self._accept_again_at = self._clock() + ACCEPT_PAUSE_S
            return
        credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, user, _group = _CREDENTIALS.unpack(credentials)
        if user not in (0, os.geteuid()) or len(self._connections) >= CONNECTIONS_MAX:
            end.close()
            return
        end.setblocking(False)
        connection = Connection(end, pid)
        self._selector.register(end, selectors.EVENT_READ, lambda: self._read(connection))
        self._connections.append(connection)  # not before: if that fails, it is none of ours

    def _read(self, connection: Connection) -> None:
        """Read and obey all that has arrived."""
        while connection in self._connections:
            try:
                data = connection.end.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.close(connection)
                return
            connection.incoming += data
            self._take_lines(connection)

    def _take_lines(self, connection: Connection) -> None:
        begin = 0
        while connection in self._connections:
            end = connection.incoming.find(b"\n", max(begin, connection.searched))
            if end < 0:
                break
            self._obey(connection, bytes(connection.incoming[begin:end]))
            begin = end + 1
        del connection.incoming[:begin]
        connection.searched = len(connection.incoming)
        if connection.searched > LINE_BYTES_MAX:
            self.answer(connection, Refusal(0, f"a line has at most {LINE_BYTES_MAX} bytes"))
            self.close(connection)

    def _send(self, connection: Connection) -> None:
        if connection not in self._connections:
            return
        had_more = bool(self._selector.get_key(connection.end).events & selectors.EVENT_WRITE)
        try:
            sent = connection.end.send(connection.outgoing, socket.MSG_NOSIGNAL)
            connection.outgoing = connection.outgoing[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self.close(connection)
            return
        if len(connection.outgoing) > _UNSENT_BYTES_MAX:
            self.close(connection)
            return
        has_more = bool(connection.outgoing)
        if has_more != had_more:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if has_more else 0)
            self._selector.modify(connection.end, events, lambda: self._on_ready(connection))

    def _on_ready(self, connection: Connection) -> None:
        self._read(connection)
        self._send(connection)
