"""The `unicast` link: UDP to one address of the receiving node.

The interface of the line is the *receiver's*: a sender leaves the way to routing, as OpenHA's
does, and the listener takes only what came in by that interface, so that two unicast links
cannot both live on one cable without anybody's noticing.

Runs in: the thread of one link.
Source: OpenHA heartd_unicast/heartc_unicast: UDP, the address of the line is the receiver's.
"""

from __future__ import annotations

import socket

from opensvc_hb.links.carrier import LinkRole
from opensvc_hb.links.datagram import DatagramCarrier

_IP_FREEBIND = 15
_IPV6_FREEBIND = 78
"""From linux/in.h and linux/in6.h; the socket module does not name them."""


class UnicastCarrier(DatagramCarrier):
    """UDP to an address, IPv4 or IPv6."""

    def needs_interface(self, role: LinkRole) -> bool:
        """Only the listener uses the line's interface."""
        return role is LinkRole.LISTENER

    def set_up_sender(self, made: socket.socket, interface_index: int) -> None:
        """Nothing to prepare: routing finds the way."""

    def set_up_listener(self, made: socket.socket, interface_index: int) -> None:
        """Bind to the line's address, which may come later than we do (a slow DHCP at boot)."""
        self.bind_to_device(made)
        if self.is_ipv6:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        made.bind(self.address())
