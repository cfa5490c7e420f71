"""The `net` link: multicast on one interface.

Sends with a TTL of 6 as OpenHA does, and with loopback on, so that two daemons on one machine
hear each other, on `lo` too. A listener is bound to the group itself: other traffic to the
same port does not even wake it. It joins its group again every minute: switches that snoop
IGMP forget members when there is no querier, and beats that worked for minutes then stop.

Runs in: the thread of one link.
Source: OpenHA heartd/heartc (SO_BINDTODEVICE, IP_MULTICAST_IF, TTL 6, source port as the other).
"""

from __future__ import annotations

import socket
import struct

from opensvc_hb.links.carrier import LinkRole
from opensvc_hb.links.datagram import REFRESH_MAX_S, DatagramCarrier

TTL = 6

_IP_MULTICAST_ALL = 49
"""From linux/in.h; the socket module does not name it."""


class NetCarrier(DatagramCarrier):
    """Multicast, IPv4 or IPv6."""

    _refreshes = 0

    def needs_interface(self, role: LinkRole) -> bool:
        """Both ends use the line's interface."""
        return True

    def set_up_sender(self, made: socket.socket, interface_index: int) -> None:
        """Send on the interface only, whatever the routing says."""
        self.bind_to_device(made)
        if self.shape.has_own_port:
            self._bind_to_port(made)
        if self.is_ipv6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, interface_index)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, TTL)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, self._membership(interface_index))
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, TTL)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)

    def set_up_listener(self, made: socket.socket, interface_index: int) -> None:
        """Bind to the group and join it on the interface."""
        self._refreshes = 0
        self.bind_to_device(made)
        if not self.is_ipv6:
            # Hear what was joined by this socket, not by any socket of the machine.
            made.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        made.bind(self.address())
        self._join(made, interface_index)

    def _bind_to_port(self, made: socket.socket) -> None:
        """Send from the port that we send to, as C does; no receiver asks for it: a failure is a note."""
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Nobody reads here: hear no group, and keep next to nothing of what else is sent to the port.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        if not self.is_ipv6:
            made.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
        try:
            made.bind(("::" if self.is_ipv6 else "0.0.0.0", self.link.port))  # noqa: S104 - as C does
        except OSError as error:
            self.note = f"does not send from port {self.link.port}: {error.strerror}"

    def refresh(self) -> None:
        """See that the interface is still there; once a minute, leave the group and join it again."""
        super().refresh()
        self._refreshes += 1
        assert self.refresh_every_s is not None, "set by the constructor"
        if self._socket is not None and self._refreshes * self.refresh_every_s >= REFRESH_MAX_S:
            self._refreshes = 0
            self._leave(self._socket, self._interface_index)
            self._join(self._socket, self._interface_index)

    def _join(self, made: socket.socket, interface_index: int) -> None:
        if self.is_ipv6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, self._membership(interface_index))
        else:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, self._membership(interface_index))

    def _leave(self, made: socket.socket, interface_index: int) -> None:
        if self.is_ipv6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_LEAVE_GROUP, self._membership(interface_index))
        else:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, self._membership(interface_index))

    def _membership(self, interface_index: int) -> bytes:
        """Return the kernel's ip_mreqn or ipv6_mreq: a group and an interface, by number."""
        if self.is_ipv6:
            return struct.pack("@16sI", socket.inet_pton(socket.AF_INET6, self.link.address), interface_index)
        return struct.pack("@4s4si", socket.inet_aton(self.link.address), bytes(4), interface_index)
