"""What a table of services looks like as bytes, and how a thousand of them stay cheap.

A table is compressed as a whole, so that the same table always gives the same bytes and can travel
in pieces, the pieces of one table with the heads of different beats. Its numbers are of variable
length (7 bits a byte, lowest first), its names are written as what differs from the name before,
both because a thousand services should fit few datagrams.

All links of a node send the same table, and a peer's table comes in over all of them; from one table
to the next few entries change. So the links share one `TableEncoder`, and those that listen to one
node share one `TableDecoder`: each table is made once, and of an entry that stayed what it was neither
bytes nor object are made again.

Independent of keys, datagrams and slots; called by `codec_native`.

Runs in: the threads of the links, under a lock that is held while bytes are computed, never for I/O.
"""

from __future__ import annotations

import threading
import zlib
from typing import Dict, List, Mapping, Sequence, Tuple

from opensvc_hb.core.messages import Entry, Table
from opensvc_hb.core.states import State
from opensvc_hb.links.beat_bytes import MalformedError, text_of

TABLE_MAX_BYTES = 4 << 20
"""Limit of a table before compression; some 40,000 services with long names."""

TABLE_COMPRESSED_MAX_BYTES = 1 << 20
SERVICE_NAME_MAX_BYTES = 63

COMPRESSION_LEVEL = 1
"""The cheapest: a tenth longer than the best, in a fifth of its time."""

_STATE_MASK = 0x0F
_RESOURCES_UP = 0x10
_CONFIRMED = 0x20
_NUMBER_MAX = (1 << 64) - 1
_NUMBER_MAX_BYTES = 10

_Key = Tuple[bytes, bytes]
"""An entry's name, and the bytes behind it: what they say is all that it is."""


def encode_table(table: Table) -> bytes:
    """Return the table, compressed; equal tables give equal bytes in one process."""
    return TableEncoder().encode(table)


def decode_table(data: bytes) -> Table:
    """Return the table of `encode_table`; raises `MalformedError` for bytes that say none."""
    return TableDecoder().decode(data)


class TableEncoder:
    """Makes the bytes of this node's tables; remembers the last one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._table: Table = ()
        self._parts: List[bytes] = []
        self._encoded = _compressed([])

    def encode(self, table: Table) -> bytes:
        """Return the table, compressed; equal tables give equal bytes in one process."""
        with self._lock:
            if table is not self._table:
                self._parts = _parts(table, self._table, self._parts)
                self._encoded = _compressed(self._parts)
                self._table = table
            return self._encoded


class TableDecoder:
    """Reads one peer's tables; remembers the last one, whose unchanged entries are used again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._data = b""
        self._table: Table = ()
        self._known: Dict[_Key, Entry] = {}

    def decode(self, data: bytes) -> Table:
        """Return the table that these bytes say; never expands beyond `TABLE_MAX_BYTES`.

        Raises:
            MalformedError: they say none.
        """
        with self._lock:
            if data != self._data:
                read = _entries(_decompressed(data), self._known)
                self._data, self._table, self._known = data, tuple(entry for _key, entry in read), dict(read)
            return self._table


def _compressed(parts: Sequence[bytes]) -> bytes:
    return zlib.compress(b"".join([_number(len(parts)), *parts]), COMPRESSION_LEVEL)


def _parts(table: Table, last: Table, last_parts: List[bytes]) -> List[bytes]:
    """Return each entry's bytes; those of the last table where neither it nor the name before changed."""
    parts: List[bytes] = []
    before = ""
    at = 0
    last_before = ""
    for entry in table:
        is_known = at < len(last) and last[at] is entry and last_before == before
        parts.append(last_parts[at] if is_known else _part(before, entry))
        before = entry.service
        if at < len(last):
            last_before = last[at].service
            at += 1
    return parts


def _part(before: str, entry: Entry) -> bytes:
    name = entry.service.encode()
    shared = _shared_length(before.encode(), name)
    flags = int(entry.state)
    flags |= _RESOURCES_UP if entry.resources_up else 0
    flags |= _CONFIRMED if entry.confirmed else 0
    return b"".join(
        (
            bytes([shared, len(name) - shared]),
            name[shared:],
            bytes([flags]),
            _number(entry.state_sequence),
            _number(entry.epoch),
            _number(entry.highest_epoch),
        )
    )


def _decompressed(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, TABLE_MAX_BYTES)
    except zlib.error as error:
        raise MalformedError(f"the table cannot be decompressed: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise MalformedError("the table is cut, too long, or followed by something else")
    return plain


def _entries(plain: bytes, known: Mapping[_Key, Entry]) -> List[Tuple[_Key, Entry]]:
    """Return the entries of a table, in order; one that is among `known` is that one."""
    entries: List[Tuple[_Key, Entry]] = []
    before = b""
    try:
        count, at = _number_at(plain, 0)
        for _ in range(count):
            shared, name_at = plain[at], at + 2
            name_end = name_at + plain[at + 1]
            if shared > len(before):
                raise MalformedError("a service name refers to more than the name before")
            before = before[:shared] + plain[name_at:name_end]
            at = name_end + 1
            for _number_of_three in range(3):
                while plain[at] >= 0x80:
                    at += 1
                at += 1
            key = (before, plain[name_end:at])
            entries.append((key, known.get(key) or _entry(*key)))
    except IndexError:
        raise MalformedError("the bytes end too early") from None
    if at != len(plain):
        raise MalformedError("bytes are left behind the table")
    return entries


def _entry(name: bytes, behind: bytes) -> Entry:
    """Return the entry of these bytes: flags, then three numbers."""
    service = text_of(name, SERVICE_NAME_MAX_BYTES)
    flags = behind[0]
    try:
        state = State(flags & _STATE_MASK)
    except ValueError:
        raise MalformedError(f"{flags & _STATE_MASK} is no state") from None
    state_sequence, at = _number_at(behind, 1)
    epoch, at = _number_at(behind, at)
    highest_epoch, _end = _number_at(behind, at)
    return Entry(
        service=service,
        state=state,
        state_sequence=state_sequence,
        epoch=epoch,
        highest_epoch=highest_epoch,
        resources_up=bool(flags & _RESOURCES_UP),
        confirmed=bool(flags & _CONFIRMED),
    )


def _number_at(data: bytes, at: int) -> Tuple[int, int]:
    """Return the number that begins at `at`, and where it ends; raises IndexError, MalformedError."""
    value = 0
    for place in range(_NUMBER_MAX_BYTES):
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            break
    else:
        raise MalformedError("a number is too long")
    if value > _NUMBER_MAX:
        raise MalformedError("a number is too large")
    return value, at + place + 1


def _number(value: int) -> bytes:
    assert 0 <= value <= _NUMBER_MAX, "a number of the table has 64 bits"
    if value < 0x80:
        return _ONE_BYTE[value]
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


_ONE_BYTE = tuple(bytes([value]) for value in range(0x80))


def _shared_length(one: bytes, other: bytes) -> int:
    count = 0
    for left, right in zip(one, other):
        if left != right:
            break
        count += 1
    return count
