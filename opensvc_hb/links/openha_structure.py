"""The C program's structure: 9,384 bytes, written and read byte for byte.

Answers: what does one of OpenHA's beats say, and which bytes say that? The same structure travels
in UDP datagrams and lies in disk slots. It has no magic, version or checksum, and whoever reaches
the port can send one: `decode` refuses whatever no program of ours or theirs would have written,
and the rest is a claim. Any bytes give a `Structure` or a `Rejected`.

Layout, numbers little-endian:

    0     node name (128)
    128   up (4), srv_lock (4, never set)
    136   port as text (5), address as text (15): both without a terminator when they are full
    156   128 service names of 64 bytes; the first empty one ends the list
    8348  128 states (4 each), then 128 locks (4 each, never set)
    9372  hostid (4), wall clock in seconds (4), process id (4)

Behind the structure a datagram may carry a native beat (protocol `both`): a C listener cuts what
is longer. In a slot it is followed by zeros up to 19 blocks; C leaves whatever it had in memory.

Pure; called by `codec_openha`, and by whoever decodes a capture.
Source: measured on OpenHA 0.5.0: captured beats and slots of its four heartbeat types.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Optional, Tuple, Union

from opensvc_hb.core.states import State
from opensvc_hb.links.codec_native import MAGIC, Rejected, RejectReason
from opensvc_hb.links.slot import BLOCK_BYTES

STRUCTURE_BYTES = 9384
SLOT_BLOCKS = 19
SLOT_BYTES = SLOT_BLOCKS * BLOCK_BYTES
"""What a slot takes; C's own limit is that slots are further apart than a structure."""

SERVICES_MAX = 128
SERVICE_NAME_MAX_BYTES = 63
NODE_NAME_MAX_BYTES = 127

_ZEROED_STATES = 16
"""C clears the first so many states to STOPPED and the others to UNKNOWN, whatever it meant."""

_HEAD = struct.Struct("<128sii5s15s")
_NAMES_AT = _HEAD.size
_NAME_BYTES = 64
_STATES_AT = _NAMES_AT + SERVICES_MAX * _NAME_BYTES
_STATES = struct.Struct(f"<{SERVICES_MAX}i")
_TAIL_AT = _STATES_AT + 2 * _STATES.size
_TAIL = struct.Struct("<IIi")
_EMPTY = bytes(STRUCTURE_BYTES)

assert _TAIL_AT + _TAIL.size == STRUCTURE_BYTES, "the fields fill the structure"


@dataclass(frozen=True)
class Structure:
    """What one structure says.

    Args:
        node: the sender's name, as `uname -n` prints it there.
        services: its services and their states there, in the order of its services file.
        elapsed: the sender's wall clock, seconds since 1970, 32 bits.
        pid: the sending process.
        hostid: of the sender; 0 when its name does not resolve.
        port, address: of the link, as text; "" on a disk.
        up: 0 in a slot whose sender never had a service, else 1.
        is_cleared: False when the sender had never read a services file: the states that mean
            nothing are then all zero.
    """

    node: str
    services: Tuple[Tuple[str, State], ...]
    elapsed: int
    pid: int
    hostid: int = 0
    port: str = ""
    address: str = ""
    up: int = 1
    is_cleared: bool = True


def encode(structure: Structure) -> bytes:
    """Return the `STRUCTURE_BYTES` bytes.

    Names and their number must be within the limits above, and states must be OpenHA's: the
    configuration is refused before (`openha_limits`), so that what is too much here is a defect.
    """
    services = structure.services
    assert len(services) <= SERVICES_MAX, "the structure has 128 places"
    data = bytearray(STRUCTURE_BYTES)
    node = structure.node.encode()
    assert 0 < len(node) <= NODE_NAME_MAX_BYTES, "a node name fits, with its terminator"
    port, address = structure.port.encode(), structure.address.encode()
    _HEAD.pack_into(data, 0, node, structure.up, 0, port, address)
    unused = [
        State.UNKNOWN if structure.is_cleared and place >= _ZEROED_STATES else State.STOPPED
        for place in range(len(services), SERVICES_MAX)
    ]
    for place, (name, _) in enumerate(services):
        text = name.encode()
        assert 0 < len(text) <= SERVICE_NAME_MAX_BYTES, "a service name fits, with its terminator"
        at = _NAMES_AT + place * _NAME_BYTES
        data[at : at + len(text)] = text
    _STATES.pack_into(data, _STATES_AT, *(int(state.openha) for _, state in services), *unused)
    _TAIL.pack_into(data, _TAIL_AT, structure.hostid, structure.elapsed & 0xFFFFFFFF, structure.pid)
    return bytes(data)


def encode_slot(structure: bytes) -> bytes:
    """Return the `SLOT_BYTES` bytes of a slot with an encoded structure."""
    assert len(structure) == STRUCTURE_BYTES, "a structure has one size"
    return structure.ljust(SLOT_BYTES, b"\0")


def decode(data: bytes) -> Union[Structure, Rejected]:
    """Return what exactly `STRUCTURE_BYTES` bytes say, or why they are no structure. Takes any bytes."""
    if len(data) != STRUCTURE_BYTES:
        return refuse_length(len(data))
    node_bytes, up, _, port, address = _HEAD.unpack_from(data)
    node = _name(node_bytes, "the node name")
    if isinstance(node, Rejected):
        return node
    if not node:
        return Rejected(RejectReason.MALFORMED, "names no node")
    states = _STATES.unpack_from(data, _STATES_AT)
    services = []
    for place in range(SERVICES_MAX):
        at = _NAMES_AT + place * _NAME_BYTES
        name = _name(data[at : at + _NAME_BYTES], f"the name of service {place}")
        if isinstance(name, Rejected):
            return name
        if not name:
            break
        if not 0 <= states[place] <= State.FORCE_STOP:
            return Rejected(RejectReason.STATE, f"service {place} has state {states[place]}: 0 to 9 exist")
        services.append((name, State(states[place])))
    hostid, elapsed, pid = _TAIL.unpack_from(data, _TAIL_AT)
    unused = states[max(len(services), _ZEROED_STATES) :]
    return Structure(
        node=node,
        services=tuple(services),
        elapsed=elapsed,
        pid=pid,
        hostid=hostid,
        port=_column(port),
        address=_column(address),
        up=up,
        is_cleared=not unused or any(unused),
    )


def refuse_length(length: int) -> Rejected:
    """Return the refusal of bytes that are too few, or too many, for a structure."""
    if length < STRUCTURE_BYTES:
        return Rejected(RejectReason.TOO_SHORT, f"{length} bytes, OpenHA's structure has {STRUCTURE_BYTES}")
    return Rejected(RejectReason.TOO_LONG, f"{length} bytes, OpenHA's structure has {STRUCTURE_BYTES}")


def is_never_written(data: bytes) -> bool:
    """Tell whether a slot holds zeros where a structure would be."""
    return data[:STRUCTURE_BYTES] == _EMPTY


def split(data: bytes) -> Tuple[bytes, Optional[bytes]]:
    """Return the structure's part of a datagram and the native beat behind it, None for none.

    Bytes behind a structure that do not begin like a native beat stay with it: it is too long.
    """
    if data[STRUCTURE_BYTES : STRUCTURE_BYTES + len(MAGIC)] == MAGIC:
        return data[:STRUCTURE_BYTES], data[STRUCTURE_BYTES:]
    return data, None


def native_part(data: bytes) -> bytes:
    """Return the native beat of a datagram: what is behind a structure, or else all of it."""
    _, native = split(data)
    return data if native is None else native


def _name(field: bytes, what: str) -> Union[str, Rejected]:
    """Return a name up to its terminator; "" when the field begins with it."""
    text, terminator, _ = field.partition(b"\0")
    if not terminator:
        return Rejected(RejectReason.UNTERMINATED, f"{what} has no end within its {len(field)} bytes")
    try:
        name = text.decode()
    except UnicodeDecodeError:
        return Rejected(RejectReason.MALFORMED, f"{what} is no text: {text[:20]!r}")
    if not name.isprintable() or " " in name:
        return Rejected(RejectReason.MALFORMED, f"{what} is no name: {name[:20]!a}")
    return name


def _column(field: bytes) -> str:
    """Return port or address, which receivers only show; what is behind a terminator is garbage."""
    return field.partition(b"\0")[0].decode("ascii", "backslashreplace")
