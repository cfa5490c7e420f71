"""The kernel's interfaces and addresses by rtnetlink, in the few messages that an address needs.

A general netlink library is megabytes to import, paid by every `print status` and by every
process that the daemon's runner forks. Four messages of one family are little more than
their layouts: two listings, and an address added or deleted.

Source: netlink(7), rtnetlink(7), linux/rtnetlink.h, linux/if_addr.h.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Dict, Iterator, List, Tuple

NEW_ADDRESS, DELETE_ADDRESS, GET_ADDRESS, GET_LINK = 20, 21, 22, 18
ERROR, DONE = 2, 3
REQUEST, ACKNOWLEDGE, EXCLUSIVE, CREATE = 0x1, 0x4, 0x200, 0x400
DUMP, DUMP_INTERRUPTED = 0x300, 0x10
IFLA_ADDRESS, IFLA_IFNAME = 1, 3
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8

_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, hardware type, index, flags, change."""
_ADDRESS = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix length, flags, scope, index."""
_ATTRIBUTE = struct.Struct("=HH")
_CODE = struct.Struct("=i")
_FLAGS = struct.Struct("=I")
_RECEIVE_BYTES = 1 << 18
"""More than the kernel puts into one datagram of a listing."""
_TYPE_MASK = 0x3FFF
"""Without the bits that say how an attribute is nested."""
ANSWER_WITHIN_S = 10.0
"""The kernel answers at once; this bounds what cannot happen."""
_ATTEMPTS = 10
"""A listing during which something changed is taken again."""

Attributes = Dict[int, bytes]


class NetlinkError(OSError):
    """The kernel refused a request; `errno` says why."""


class InterruptedListing(NetlinkError):
    """Something changed while the kernel was listing."""


def links() -> List[Tuple[int, int, int, Attributes]]:
    """Return (index, flags, hardware type, attributes) of every interface, in the kernel's order."""
    found = []
    for body in _listing(GET_LINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        _family, kind, index, flags, _change = _LINK.unpack_from(body)
        found.append((index, flags, kind, attributes(body[_LINK.size :])))
    return found


def addresses() -> List[Tuple[int, int, int, int, Attributes]]:
    """Return (family, interface index, prefix length, flags, attributes) of every address."""
    found = []
    for body in _listing(GET_ADDRESS, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        family, prefix_length, flags, _scope, index = _ADDRESS.unpack_from(body)
        known = attributes(body[_ADDRESS.size :])
        if IFA_FLAGS in known:
            flags = _FLAGS.unpack(known[IFA_FLAGS])[0]
        found.append((family, index, prefix_length, flags, known))
    return found


def add_address(index: int, family: int, packed: bytes, prefix_length: int, flags: int = 0) -> None:
    """Add an address (its bytes in network order); raises NetlinkError."""
    body = _ADDRESS.pack(family, prefix_length, flags, 0, index) + _of_address(packed)
    _change(NEW_ADDRESS, CREATE | EXCLUSIVE, body)


def delete_address(index: int, family: int, packed: bytes, prefix_length: int) -> None:
    """Delete an address; raises NetlinkError."""
    _change(DELETE_ADDRESS, 0, _ADDRESS.pack(family, prefix_length, 0, 0, index) + _of_address(packed))


def attributes(data: bytes) -> Attributes:
    """Return the attributes of a message by type; what follows a malformed one is left out."""
    found: Attributes = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            break
        found[kind & _TYPE_MASK] = data[at + _ATTRIBUTE.size : at + length]
        at += _aligned(length)
    return found


def _of_address(packed: bytes) -> bytes:
    """Return the attributes that name an address; the kernel wants both, they differ on a tunnel only."""
    return _attribute(IFA_LOCAL, packed) + _attribute(IFA_ADDRESS, packed)


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _listing(kind: int, body: bytes) -> List[bytes]:
    for _ in range(_ATTEMPTS - 1):
        try:
            return list(_asked(kind, REQUEST | DUMP, body))
        except InterruptedListing:
            continue
    return list(_asked(kind, REQUEST | DUMP, body))


def _change(kind: int, flags: int, body: bytes) -> None:
    for _ in _asked(kind, REQUEST | ACKNOWLEDGE | flags, body):
        pass


def _asked(kind: int, flags: int, body: bytes) -> Iterator[bytes]:
    """Ask the kernel one thing; give the body of each message of its answer.

    Raises:
        NetlinkError: it refused.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as end:
        end.settimeout(ANSWER_WITHIN_S)
        end.bind((0, 0))
        end.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
        while True:
            yield from (messages := _Messages(end.recv(_RECEIVE_BYTES)))
            if messages.ended:
                return


class _Messages:
    """The bodies in one datagram from the kernel; `ended` once it said that no more follows."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.ended = False

    def __iter__(self) -> Iterator[bytes]:
        at = 0
        while at + _HEADER.size <= len(self._data) and not self.ended:
            length, kind, flags, _sequence, _port = _HEADER.unpack_from(self._data, at)
            body = self._data[at + _HEADER.size : at + length]
            if flags & DUMP_INTERRUPTED:
                raise InterruptedListing(4, "changed during the listing")
            if kind in (ERROR, DONE):
                self.ended = True
                code = -_CODE.unpack_from(body)[0] if len(body) >= _CODE.size else 0
                if code:
                    raise NetlinkError(code, os.strerror(code))
            else:
                yield body
            at += _aligned(max(length, _HEADER.size))
