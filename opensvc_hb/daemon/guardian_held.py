"""Is something of a service still held on this node, beside processes?

Asked after the deadline only: mount points, addresses, volume groups, and (for the report) loop
devices. Answers come from /proc, /sys and the kernel's list of addresses, never from a file
system or a device that could hang, and no program is run. What cannot be read counts as held:
a node is better reset than believed.

Runs in: the guardian process.
"""

from __future__ import annotations

import re
import socket
import struct
from pathlib import Path
from typing import Callable, Dict, FrozenSet, Iterable, List, Optional, Tuple

from opensvc_hb.held import Holding, HoldingKind

Names = Optional[FrozenSet[str]]
"""What the node holds of one kind, as comparable texts; None when that cannot be read."""

_DUMP_ADDRESSES = 22
_NEW_ADDRESS = 20
_REQUEST_DUMP = 0x301
_ERROR, _DONE = 2, 3
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_HEADER = struct.Struct("=IHHII")
_ADDRESS_HEADER_BYTES = 8
_ATTRIBUTE = struct.Struct("=HH")
_ANSWER_S = 0.1
SHOWN_MAX = 6
"""More things than these are counted, not named."""


class NodeHoldings:
    """What is held on this node now; each source is read when it is asked about.

    Args:
        proc, sys: where these are mounted.
        addresses: lists the node's addresses, packed; raises OSError.
    """

    def __init__(
        self,
        proc: str = "/proc",
        sys: str = "/sys",
        addresses: Optional[Callable[[], FrozenSet[bytes]]] = None,
    ) -> None:
        self._proc = Path(proc)
        self._sys = Path(sys)
        self._addresses = addresses or list_addresses

    def still_held(self, wanted: Iterable[Holding]) -> Tuple[Holding, ...]:
        """Return those of these things that are held now, in their order."""
        readers: Dict[HoldingKind, Callable[[], Names]] = {
            HoldingKind.MOUNT_POINT: self._mount_points,
            HoldingKind.ADDRESS: self._node_addresses,
            HoldingKind.VOLUME_GROUP: self._volume_groups,
            HoldingKind.LOOP_FILE: self._loop_files,
        }
        read: Dict[HoldingKind, Names] = {}
        held: List[Holding] = []
        for holding in wanted:
            if holding.kind not in read:
                read[holding.kind] = readers[holding.kind]()
            names = read[holding.kind]
            if names is None or _comparable(holding) in names:
                held.append(holding)
        return tuple(held)

    def _mount_points(self) -> Names:
        """Source: proc(5), mountinfo: the fifth field, with octal escapes."""
        try:
            lines = (self._proc / "self/mountinfo").read_text(errors="surrogateescape").splitlines()
        except OSError:
            return None
        fields = (line.split(" ") for line in lines)
        return frozenset(_unescaped(each[4]) for each in fields if len(each) > 4)

    def _node_addresses(self) -> Names:
        try:
            return frozenset(address.hex() for address in self._addresses())
        except OSError:
            return None

    def _volume_groups(self) -> Names:
        """An active logical volume is a device-mapper device whose name begins with its group's.

        Source: lvm(8): `GROUP-VOLUME`, in which a hyphen of either name is doubled.
        """
        found = set()
        try:
            for device in (self._sys / "block").iterdir():
                if device.name.startswith("dm-") and _text(device / "dm/uuid").startswith("LVM-"):
                    group = re.match(r"(?:[^-]|--)+", _text(device / "dm/name"))
                    if group is not None:
                        found.add(group.group().replace("--", "-"))
        except OSError:
            return None
        return frozenset(found)

    def _loop_files(self) -> Names:
        try:
            devices = [d for d in (self._sys / "block").iterdir() if d.name.startswith("loop")]
        except OSError:
            return None
        return frozenset(_text(device / "loop/backing_file") for device in devices)


def _comparable(holding: Holding) -> str:
    if holding.kind is not HoldingKind.ADDRESS:
        return holding.name
    family = socket.AF_INET6 if ":" in holding.name else socket.AF_INET
    try:
        return socket.inet_pton(family, holding.name).hex()
    except OSError:
        return ""  # not an address: no node holds it


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape").rstrip("\n")
    except OSError:
        return ""  # a loop device bound to nothing, or a device that has just gone


def _unescaped(field: str) -> str:
    r"""Undo the kernel's \040 for a space and its likes."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), field)


def list_addresses() -> FrozenSet[bytes]:
    """Return the addresses of this node's interfaces, packed, of IPv4 and IPv6.

    Source: rtnetlink(7), RTM_GETADDR.

    Raises:
        OSError: the kernel gave no answer, or not within a moment.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as ask:
        ask.settimeout(_ANSWER_S)
        length = _HEADER.size + _ADDRESS_HEADER_BYTES
        request = _HEADER.pack(length, _DUMP_ADDRESSES, _REQUEST_DUMP, 1, 0)
        ask.sendto(request + bytes(_ADDRESS_HEADER_BYTES), (0, 0))
        found: List[bytes] = []
        while True:
            data = ask.recv(1 << 17)
            while len(data) >= _HEADER.size:
                size, kind, _flags, _sequence, _port = _HEADER.unpack_from(data)
                if kind == _DONE:
                    return frozenset(found)
                if kind == _ERROR or size < _HEADER.size:
                    raise OSError(0, "the kernel does not list addresses")
                if kind == _NEW_ADDRESS:
                    found.extend(_own_address(data[_HEADER.size + _ADDRESS_HEADER_BYTES : size]))
                data = data[_aligned(size) :]


def _own_address(attributes: bytes) -> Tuple[bytes, ...]:
    """Return the address in one answer: the local one, else the only one."""
    values: Dict[int, bytes] = {}
    while len(attributes) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(attributes)
        if size < _ATTRIBUTE.size:
            break
        values[kind] = attributes[_ATTRIBUTE.size : size]
        attributes = attributes[_aligned(size) :]
    own = values.get(_IFA_LOCAL, values.get(_IFA_ADDRESS))
    return (own,) if own else ()


def _aligned(size: int) -> int:
    return (size + 3) & ~3


def describe(holdings: Iterable[object]) -> str:
    """Return what is held as one text for people, a few of many."""
    words = [str(holding) for holding in holdings]
    shown = ", ".join(words[:SHOWN_MAX])
    return shown if len(words) <= SHOWN_MAX else f"{shown} and {len(words) - SHOWN_MAX} more"
