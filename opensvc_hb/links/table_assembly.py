"""A table that arrives in pieces, in any order, some of them twice.

Answers: is the table complete, and what are its bytes? Belongs to one `Opener` of
`codec_native`, which decides which pieces are of one table.

Pure; used in the thread of one link.
"""

from __future__ import annotations

from typing import Dict, Tuple

from opensvc_hb.links.beat_bytes import MalformedError
from opensvc_hb.links.table_bytes import TABLE_COMPRESSED_MAX_BYTES


class TableAssembly:
    """The pieces of one table, by where they start.

    Args:
        key: what the pieces of one table have in common.
        total: the table's compressed length, as every piece says.
    """

    def __init__(self, key: Tuple[bytes, bytes, int], total: int) -> None:
        if not 1 <= total <= TABLE_COMPRESSED_MAX_BYTES:
            raise MalformedError(f"a table of {total} bytes is not allowed")
        self.key = key
        self._total = total
        self._bytes = bytearray(total)
        self._ranges: Dict[int, int] = {}
        self.have_bytes = 0

    def add(self, start: int, piece: bytes) -> bool:
        """Keep a piece; tell whether it brought bytes that were missing.

        Pieces may overlap: heads of different lengths were in front of them.

        Raises:
            MalformedError: the piece lies outside of the table.
        """
        end = start + len(piece)
        if not piece or end > self._total:
            raise MalformedError("a piece of the table lies outside of it")
        self._bytes[start:end] = piece
        for known_start, known_end in sorted(self._ranges.items()):
            if known_start <= end and start <= known_end:
                start, end = min(start, known_start), max(end, known_end)
                del self._ranges[known_start]
        self._ranges[start] = end
        have_before = self.have_bytes
        self.have_bytes = sum(known_end - known_start for known_start, known_end in self._ranges.items())
        return self.have_bytes > have_before

    def joined(self) -> bytes:
        """Return the table's bytes; missing ones are zeros."""
        return bytes(self._bytes)
