"""What the two network carriers share: one UDP socket, never blocking.

Answers: how are datagrams read and written, and is the interface still the one we opened?
`net` and `unicast` say only how their sockets are made.

Runs in: the thread of one link.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from abc import abstractmethod
from typing import Optional, Tuple, Union

from opensvc_hb.core.config import Link
from opensvc_hb.links.carrier import NATIVE_SHAPE, Arrival, Carrier, LinkRole, Shape

RECEIVE_BUFFER_BYTES = 1 << 20
READ_BYTES = 16384
"""Longer than any datagram of ours, of either format; the rest of a longer one is dropped, and it
is refused."""

SMALLEST_CHARGE_BYTES = 512
"""The least the kernel charges a receive buffer for one datagram, however short (more, in fact)."""

REFRESH_MIN_S = 1.0
REFRESH_MAX_S = 60.0

SocketAddress = Union[Tuple[str, int], Tuple[str, int, int, int]]


class DatagramCarrier(Carrier):
    """A UDP socket on one interface."""

    def __init__(self, link: Link, cluster_tag: bytes, shape: Shape = NATIVE_SHAPE) -> None:
        super().__init__(link, cluster_tag, shape)
        self._socket: Optional[socket.socket] = None
        self._interface_index = 0
        self.is_ipv6 = ipaddress.ip_address(link.address).version == 6
        self.refresh_every_s = min(REFRESH_MAX_S, max(REFRESH_MIN_S, link.timeout_s))

    def open(self, role: LinkRole) -> None:
        """Make the socket of this end; raises OSError."""
        self.close()
        self.note = ""
        self._interface_index = self._find_interface() if self.needs_interface(role) else 0
        family = socket.AF_INET6 if self.is_ipv6 else socket.AF_INET
        made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            made.setblocking(False)
            if role is LinkRole.SENDER:
                self.set_up_sender(made, self._interface_index)
            else:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
                granted = made.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
                self.backlog_max = granted // SMALLEST_CHARGE_BYTES + 1
                self.set_up_listener(made, self._interface_index)
        except OSError:
            made.close()
            raise
        self._socket = made

    @abstractmethod
    def needs_interface(self, role: LinkRole) -> bool:
        """Tell whether this end uses the interface of its line."""

    @abstractmethod
    def set_up_sender(self, made: socket.socket, interface_index: int) -> None:
        """Prepare a socket for `write`."""

    @abstractmethod
    def set_up_listener(self, made: socket.socket, interface_index: int) -> None:
        """Bind a socket to where the line's datagrams arrive."""

    def read(self) -> Optional[Arrival]:
        """Return the next datagram, None when there is none."""
        assert self._socket is not None, "opened before"
        try:
            return Arrival(self._socket.recv(READ_BYTES))
        except BlockingIOError:
            return None

    def write(self, datagram: bytes) -> None:
        """Send one datagram to the line's address."""
        assert self._socket is not None, "opened before"
        self._socket.sendto(datagram, self.address())

    def close(self) -> None:
        """Close the socket; the kernel leaves its groups."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def fileno(self) -> Optional[int]:
        """Return the socket's descriptor."""
        return None if self._socket is None else self._socket.fileno()

    def refresh(self) -> None:
        """Raise OSError when the interface we are bound to is gone, or made anew.

        A socket stays bound to the *number* of an interface, and hears nothing for ever
        after when the interface was removed and added again.
        """
        if self._interface_index and self._find_interface() != self._interface_index:
            raise OSError(errno.ENODEV, f"interface {self.link.device} was replaced")

    def address(self) -> SocketAddress:
        """Return the line's address as sockets want it."""
        if self.is_ipv6:
            return (self.link.address, self.link.port, 0, self._scope())
        return (self.link.address, self.link.port)

    def bind_to_device(self, made: socket.socket) -> None:
        """Use this interface only, where we may; say so where we may not.

        Kernels before 5.7 want a privilege for it.
        """
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.link.device.encode() + b"\0")
        except PermissionError:
            self.note = f"not bound to {self.link.device}: not permitted"

    def _scope(self) -> int:
        """Return the interface number that a link-local address needs, 0 for other addresses."""
        address = ipaddress.ip_address(self.link.address)
        if not (address.is_link_local or address.is_multicast):
            return 0
        return self._interface_index or self._find_interface()

    def _find_interface(self) -> int:
        try:
            return socket.if_nametoindex(self.link.device)
        except OSError:
            raise OSError(errno.ENODEV, f"interface {self.link.device} does not exist") from None
