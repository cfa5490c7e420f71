"""What a beat's head looks like as bytes, before it is sealed and after it was opened.

Answers: which bytes say this beat, and what do these bytes say? A beat has two halves: the
*head* (everything but the table; a steady beat is a head alone), here, and the *table*
(`table_bytes`).

Pure, and independent of keys, datagrams and slots; called by `codec_native` only. Decoding
raises `MalformedError` for bytes that say nothing; `codec_native` turns it into a value.

Numbers are big-endian. A text is its length (1 byte) and UTF-8.
"""

from __future__ import annotations

import math
import struct
from typing import Tuple

from opensvc_hb.core.messages import Beat, Hearing, LinkHeard

NODE_NAME_MAX_BYTES = 127

_HEAD = struct.Struct("!QQddB")
_HEARING = struct.Struct("!QQ")
_LINK_HEARD = struct.Struct("!IQ")
_LEFT = 0x01


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
        node = text_of(reader.short(), NODE_NAME_MAX_BYTES)
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


def _short(data: bytes) -> bytes:
    assert len(data) < 256, "names and digests are short"
    return bytes([len(data)]) + data


def text_of(data: bytes, bytes_max: int) -> str:
    """Return a name; raises `MalformedError` when it is none, or too long."""
    if not 1 <= len(data) <= bytes_max:
        raise MalformedError(f"a name has {len(data)} bytes, 1 to {bytes_max} are allowed")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MalformedError("a name is not UTF-8") from None
