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
from typing import Callable, List

from opensvc_hb.daemon.guardian_wire import LINE_BYTES_MAX, Answer, Refusal, encode

CONNECTIONS_MAX = 8
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
    """

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        obey: Callable[[Connection, bytes], None],
        closed: Callable[[Connection], None],
    ) -> None:
        self._listener = listener
        self._selector = selector
        self._obey = obey
        self._closed = closed
        self._connections: List[Connection] = []
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self._accept)

    @property
    def is_in_use(self) -> bool:
        """Tell whether anybody is connected."""
        return bool(self._connections)

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
        except OSError:
            return  # it has gone again
        credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, user, _group = _CREDENTIALS.unpack(credentials)
        if user not in (0, os.geteuid()) or len(self._connections) >= CONNECTIONS_MAX:
            end.close()
            return
        end.setblocking(False)
        connection = Connection(end, pid)
        self._connections.append(connection)
        self._selector.register(end, selectors.EVENT_READ, lambda: self._read(connection))

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
