"""What a beat looks like as bytes, before it is sealed and after it was opened.

Answers: which bytes say this beat, and what do these bytes say? A beat has two halves: the
*head* (everything but the table; a steady beat is a head alone) and the *table*, compressed
as a whole, so that the same table always gives the same bytes and can travel in pieces, the
pieces of one table with the heads of different beats.

Pure, and independent of keys, datagrams and slots; called by `codec_native` only. Decoding
raises `MalformedError` for bytes that say nothing; `codec_native` turns it into a value.

Numbers are big-endian. A text is its length (1 byte) and UTF-8; a table's numbers are
variable-length (7 bits a byte, lowest first), its names are written as what differs from the
name before, both because a thousand services should fit few datagrams.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import List, Tuple

from opensvc_hb.core.messages import Beat, Entry, Hearing, LinkHeard, Table
from opensvc_hb.core.states import State

TABLE_MAX_BYTES = 4 << 20
"""Limit of a table before compression; some 40,000 services with long names."""

TABLE_COMPRESSED_MAX_BYTES = 1 << 20
SERVICE_NAME_MAX_BYTES = 63
NODE_NAME_MAX_BYTES = 127

_HEAD = struct.Struct("!QQddB")
_HEARING = struct.Struct("!QQ")
_LINK_HEARD = struct.Struct("!IQ")
_LEFT = 0x01

_STATE_MASK = 0x0F
_RESOURCES_UP = 0x10
_CONFIRMED = 0x20
_NUMBER_MAX = (1 << 64) - 1


class MalformedError(ValueError):
    """Bytes that say nothing, authentic or not."""


def encode_head(beat: Beat) -> bytes:
    """Return everything a beat says but its sender (who stands in clear) and its table."""
    parts = [
        _HEAD.pack(
            beat.incarnation,
            beat.sequence,
            beat.longest_timeout_s,
            beat.restarting_for_s,
            _LEFT if beat.left else 0,
        ),
        _short(beat.table_digest),
        _short(beat.config_digest),
        bytes([len(beat.hearings)]),
    ]
    for hearing in beat.hearings:
        parts.append(_short(hearing.node.encode()))
        parts.append(_HEARING.pack(hearing.incarnation, hearing.sequence))
        parts.append(_short(hearing.table_digest))
        parts.append(bytes([len(hearing.links)]))
        parts.extend(_LINK_HEARD.pack(link.tag, link.sequence) for link in hearing.links)
    return b"".join(parts)


def decode_head(data: bytes, sender: str) -> Beat:
    """Return the beat without its table."""
    reader = _Reader(data)
    incarnation, sequence, longest_timeout_s, restarting_for_s, flags = reader.unpack(_HEAD)
    for seconds in (longest_timeout_s, restarting_for_s):
        if not math.isfinite(seconds) or seconds < 0:
            raise MalformedError("a duration is not a number of seconds")
    table_digest = reader.short()
    config_digest = reader.short()
    hearings = []
    for _ in range(reader.byte()):
        node = _text(reader.short(), NODE_NAME_MAX_BYTES)
        heard_incarnation, heard_sequence = reader.unpack(_HEARING)
        heard_digest = reader.short()
        links = tuple(LinkHeard(*reader.unpack(_LINK_HEARD)) for _ in range(reader.byte()))
        hearings.append(Hearing(node, heard_incarnation, heard_sequence, heard_digest, links))
    if reader.at != len(data):
        raise MalformedError("bytes are left behind the head")
    return Beat(
        sender=sender,
        incarnation=incarnation,
        sequence=sequence,
        table_digest=table_digest,
        table=None,
        hearings=tuple(hearings),
        config_digest=config_digest,
        longest_timeout_s=longest_timeout_s,
        restarting_for_s=restarting_for_s,
        left=bool(flags & _LEFT),
    )


def encode_table(table: Table) -> bytes:
    """Return the table, compressed; equal tables give equal bytes in one process."""
    parts: List[bytes] = [_number(len(table))]
    before = b""
    for entry in table:
        name = entry.service.encode()
        shared = _shared_length(before, name)
        flags = int(entry.state)
        flags |= _RESOURCES_UP if entry.resources_up else 0
        flags |= _CONFIRMED if entry.confirmed else 0
        parts.append(bytes([shared, len(name) - shared]))
        parts.append(name[shared:])
        parts.append(bytes([flags]))
        parts += (_number(entry.state_sequence), _number(entry.epoch), _number(entry.highest_epoch))
        before = name
    return zlib.compress(b"".join(parts), 9)


def decode_table(data: bytes) -> Table:
    """Return the table of `encode_table`; never expands beyond `TABLE_MAX_BYTES`."""
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, TABLE_MAX_BYTES)
    except zlib.error as error:
        raise MalformedError(f"the table cannot be decompressed: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise MalformedError("the table is cut, too long, or followed by something else")
    reader = _Reader(plain)
    entries = []
    before = b""
    for _ in range(reader.number()):
        shared, rest = reader.byte(), reader.byte()
        if shared > len(before):
            raise MalformedError("a service name refers to more than the name before")
        before = before[:shared] + reader.take(rest)
        service = _text(before, SERVICE_NAME_MAX_BYTES)
        flags = reader.byte()
        try:
            state = State(flags & _STATE_MASK)
        except ValueError:
            raise MalformedError(f"{flags & _STATE_MASK} is no state") from None
        entries.append(
            Entry(
                service=service,
                state=state,
                state_sequence=reader.number(),
                epoch=reader.number(),
                highest_epoch=reader.number(),
                resources_up=bool(flags & _RESOURCES_UP),
                confirmed=bool(flags & _CONFIRMED),
            )
        )
    if reader.at != len(plain):
        raise MalformedError("bytes are left behind the table")
    return tuple(entries)


class _Reader:
    """Takes bytes from the front; raises `MalformedError` where they end too early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self._data):
            raise MalformedError("the bytes end too early")
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def byte(self) -> int:
        return self.take(1)[0]

    def short(self) -> bytes:
        return self.take(self.byte())

    def unpack(self, form: struct.Struct) -> Tuple[int, ...]:
        """Unpack numbers; the two floats of the head are floats all the same."""
        return form.unpack(self.take(form.size))

    def number(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        else:
            raise MalformedError("a number is too long")
        if value > _NUMBER_MAX:
            raise MalformedError("a number is too large")
        return value


def _short(data: bytes) -> bytes:
    assert len(data) < 256, "names and digests are short"
    return bytes([len(data)]) + data


def _text(data: bytes, bytes_max: int) -> str:
    if not 1 <= len(data) <= bytes_max:
        raise MalformedError(f"a name has {len(data)} bytes, 1 to {bytes_max} are allowed")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MalformedError("a name is not UTF-8") from None


def _shared_length(one: bytes, other: bytes) -> int:
    count = 0
    for left, right in zip(one, other):
        if left != right:
            break
        count += 1
    return count


def _number(value: int) -> bytes:
    assert 0 <= value <= _NUMBER_MAX, "a number of the table has 64 bits"
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
