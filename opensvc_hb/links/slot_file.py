"""What the two disk carriers share: one slot of a device or image file, always whole.

Answers: did the slot change since we looked, and what does it hold now? `dio` and `disk` say
only how bytes get past the caches. A slot's first content is a baseline: it may be the last
word of a node that died a year ago. Content that did not change is nothing new; content that
changed to something unreadable is a note for people, and nothing else.

Runs in: the thread of one link.
Source: OpenHA's disk listener takes a stale slot for a live peer at boot, and a slot never
written for one that lives for ever; neither can happen here.
"""

from __future__ import annotations

import errno
import os
from abc import abstractmethod
from typing import Optional

from opensvc_hb.core.config import Link
from opensvc_hb.links.carrier import Arrival, Carrier, LinkRole
from opensvc_hb.links.slot import BLOCK_BYTES, DATA_BYTES, SLOT_BYTES, SlotProblem, decode_slot, encode_slot

READS_PER_TIMEOUT = 20
READ_PAUSE_MAX_S = 0.25


class SlotCarrier(Carrier):
    """One slot, read and written as a whole."""

    limit_bytes = DATA_BYTES

    def __init__(self, link: Link, cluster_tag: bytes) -> None:
        super().__init__(link, cluster_tag)
        self.position_bytes = int(link.address) * BLOCK_BYTES
        self.reads_every_s = min(link.timeout_s / READS_PER_TIMEOUT, READ_PAUSE_MAX_S)
        # Two looks of the slowest reader: each piece of a table is seen at least once.
        self.piece_pause_s = 2 * self.reads_every_s
        self._descriptor = -1
        self._content: Optional[bytes] = None

    def open(self, role: LinkRole) -> None:
        """Open the device; raises OSError."""
        self.close()
        self._descriptor = self.open_device(role)
        if role is LinkRole.SENDER:
            self.note = ""
            self._note_what_is_there()

    @abstractmethod
    def open_device(self, role: LinkRole) -> int:
        """Return a descriptor of the device, for reading, or for both."""

    @abstractmethod
    def read_slot(self, descriptor: int) -> bytes:
        """Return `SLOT_BYTES` bytes as they are on the disk now, or fewer at its end."""

    @abstractmethod
    def write_slot(self, descriptor: int, content: bytes) -> int:
        """Put `SLOT_BYTES` bytes on the disk; return how many are there."""

    def read(self) -> Optional[Arrival]:
        """Return the slot's datagram if the slot changed since the last look."""
        content = self._read_whole()
        if content == self._content:
            return None
        is_baseline = self._content is None
        self._content = content
        decoded = decode_slot(content, self.cluster_tag)
        if isinstance(decoded, SlotProblem):
            self.note = decoded.value
            return None
        self.note = ""
        return Arrival(decoded.datagram, is_baseline)

    def write(self, datagram: bytes) -> None:
        """Write the slot; returns when it is where other nodes read it."""
        written = self.write_slot(self._descriptor, encode_slot(datagram, self.cluster_tag))
        if written != SLOT_BYTES:
            raise OSError(errno.EIO, f"{self.link.device}: {written} of {SLOT_BYTES} bytes written")

    def close(self) -> None:
        """Close the device; what the slot held is remembered, since it may not have changed."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _read_whole(self) -> bytes:
        content = self.read_slot(self._descriptor)
        if len(content) != SLOT_BYTES:
            raise OSError(
                errno.EIO,
                f"{self.link.device}: {len(content)} of {SLOT_BYTES} bytes at {self.link.address}: too small",
            )
        return content

    def _note_what_is_there(self) -> None:
        """Say so when the first write replaces something that is not ours."""
        found = decode_slot(self._read_whole(), self.cluster_tag)
        replaces = found in (SlotProblem.FOREIGN, SlotProblem.OTHER_CLUSTER)
        if isinstance(found, SlotProblem) and replaces:
            self.note = f"replaced a slot: {found.value}"


def explained(error: OSError, what: str) -> OSError:
    """Return the error with a sentence that names what was tried and why it failed."""
    return OSError(error.errno, f"{what}: {os.strerror(error.errno or errno.EIO)}")
