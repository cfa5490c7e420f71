"""What a listener makes of the reads of a slot that holds the C program's structure.

Answers: does this read show a sign of life? Only `elapsed`, the writer's clock, tells one write from
the next, so that a structure counts when `elapsed` is another than at the read before. The first
content read is a baseline, which may be the last word of a node that died a year ago; so is what
is read after a failed read, or after no read for the link's timeout. Zeros in its place are nothing.

C's listeners look once in a timeout. Ours look as often as at native slots, several times a second:
C writes once a second, so each of its beats is seen soon after it was written, and a change of
state within a second instead of a timeout. That is no stricter a judge of silence: silence is
counted from the last change, and a writer that is a second late is not missed.

Pure; belongs to the thread of one listener.
Source: OpenHA's disk listener takes a slot never written, and any slot at its first look, for a
node that lives.
"""

from __future__ import annotations

from typing import Optional, Union

from opensvc_hb.core.events import LegacyBeat
from opensvc_hb.links.codec_native import Rejected
from opensvc_hb.links.codec_openha import StructureReader
from opensvc_hb.links.openha_structure import STRUCTURE_BYTES, is_never_written

NEVER_WRITTEN = "never written"


class StructureWatch:
    """The reads of one slot, one after the other.

    Args:
        reader: knows whose structure it must be.
        timeout_s: of the link.
    """

    def __init__(self, reader: StructureReader, timeout_s: float) -> None:
        self._reader = reader
        self._timeout_s = timeout_s
        self._read_at: Optional[float] = None
        self._data = b""
        self._elapsed = 0
        self.note = ""
        """What is particular about the content; "" for nothing."""

    def saw(self, content: bytes, read_at: float) -> Union[LegacyBeat, Rejected, None]:
        """Take in what a read showed; return the beat in it, or why its new content is none.

        Args:
            content: the slot's blocks; what is behind the structure is not looked at.
            read_at: clock seconds from before the read.
        """
        is_baseline = self._read_at is None or read_at - self._read_at > self._timeout_s
        self._read_at = read_at
        data = content[:STRUCTURE_BYTES]
        if data == self._data:
            return None
        self._data = data
        if is_never_written(data):
            self.note = NEVER_WRITTEN
            return None
        claim = self._reader.claim(data)
        if isinstance(claim, Rejected):
            self.note = claim.text
            return claim
        self.note = ""
        is_new = claim.elapsed not in (0, self._elapsed)
        self._elapsed = claim.elapsed
        return claim if is_new and not is_baseline else None

    def missed(self) -> None:
        """Note that a read failed: what stands there when the path is back may be old."""
        self._read_at = None
