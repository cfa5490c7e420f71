"""What the two disk carriers share: one slot of a device or image file, always whole.

Answers: where is the slot, is all of it there, and what does our first write replace? `dio`
and `disk` say only how bytes get past the caches. What a slot's content means is `slot_watch`'s
question, and how it is made `slot_sender`'s.

Runs in: the thread of one link.
"""

from __future__ import annotations

import errno
import os
from abc import abstractmethod

from opensvc_hb.core.config import Link
from opensvc_hb.links import openha_structure
from opensvc_hb.links.carrier import NATIVE_SHAPE, LinkRole, Shape, SlotCarrier
from opensvc_hb.links.slot import BLOCK_BYTES, SLOT_BYTES, SlotBeat, SlotProblem, decode_slot


class SlotFile(SlotCarrier):
    """One slot of a block device or image file."""

    def __init__(self, link: Link, cluster_tag: bytes, shape: Shape = NATIVE_SHAPE) -> None:
        super().__init__(link, cluster_tag, shape)
        self.position_bytes = int(link.address) * BLOCK_BYTES
        self._descriptor = -1

    def open(self, role: LinkRole) -> None:
        """Open the device; raises OSError."""
        self.close()
        self.note = ""
        self._descriptor = self.open_device(role)
        if role is LinkRole.SENDER:
            self._note_what_is_there()

    @abstractmethod
    def open_device(self, role: LinkRole) -> int:
        """Return a descriptor of the device, for reading, or for both; may set the note."""

    @abstractmethod
    def read_slot(self, descriptor: int) -> bytes:
        """Return `slot_bytes` bytes as they are on the disk now, or fewer at its end."""

    @abstractmethod
    def write_slot(self, descriptor: int, content: bytes) -> int:
        """Put `slot_bytes` bytes on the disk; return how many are there."""

    def read(self) -> bytes:
        """Return the slot, whole."""
        content = self.read_slot(self._descriptor)
        if len(content) != self.slot_bytes:
            raise OSError(
                errno.EIO,
                f"{self.link.device}: {len(content)} of {self.slot_bytes} bytes at {self.link.address}: "
                "too small",
            )
        return content

    def write(self, content: bytes) -> None:
        """Write the slot; returns when it is where other nodes read it."""
        written = self.write_slot(self._descriptor, content)
        if written != self.slot_bytes:
            raise OSError(errno.EIO, f"{self.link.device}: {written} of {self.slot_bytes} bytes written")

    def close(self) -> None:
        """Close the device."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def _note_what_is_there(self) -> None:
        """Say so when the first write replaces something that is not ours, in either format."""
        content = self.read()
        found = decode_slot(content[:SLOT_BYTES], self.cluster_tag)
        if isinstance(found, SlotBeat):
            return
        structure = openha_structure.decode(content[: openha_structure.STRUCTURE_BYTES])
        if isinstance(structure, openha_structure.Structure):
            if structure.node.lower() != self.link.node:
                self.note = f"replaced a slot: OpenHA's, of {structure.node}"
        elif found in (SlotProblem.FOREIGN, SlotProblem.OTHER_CLUSTER):
            self.note = f"replaced a slot: {found.value}"


def explained(error: OSError, what: str) -> OSError:
    """Return the error with a sentence that names what was tried and why it failed."""
    return OSError(error.errno, f"{what}: {os.strerror(error.errno or errno.EIO)}")
