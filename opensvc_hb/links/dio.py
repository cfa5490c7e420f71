"""The `dio` link: a disk slot by direct I/O, past this node's page cache.

Every transfer is one whole slot from or to one page-aligned buffer, which is emptied before a
read: a device that says it read, and did not, shows nothing. Where the kernel refuses
O_DIRECT (some file systems under an image file) that is an error, said so: a quiet fall back
to buffered reads would show our own cache instead of the other node's beats.

Runs in: the thread of one link.
"""

from __future__ import annotations

import errno
import mmap
import os
from typing import Optional

from opensvc_hb.links.carrier import LinkRole
from opensvc_hb.links.slot_file import SlotFile, explained


class DioCarrier(SlotFile):
    """Direct I/O on a block device, or an image file."""

    _buffer: Optional[mmap.mmap] = None

    def open_device(self, role: LinkRole) -> int:
        """Open with O_DIRECT."""
        mode = os.O_RDONLY if role is LinkRole.LISTENER else os.O_RDWR
        device = self.link.device
        try:
            return os.open(device, mode | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EINVAL:
                what = f"{device}: no direct I/O: use a block device, or a file on ext4 or xfs"
                raise OSError(error.errno, what) from error
            raise explained(error, f"{device} cannot be opened") from error

    def read_slot(self, descriptor: int) -> bytes:
        """Read the slot into the aligned buffer, once."""
        with memoryview(self._aligned()) as whole, whole[: self.slot_bytes] as view:
            view[:] = bytes(self.slot_bytes)
            try:
                count = os.preadv(descriptor, [view], self.position_bytes)
            except OSError as error:
                raise self._refused(error, "read") from error
            return bytes(view[:count])

    def write_slot(self, descriptor: int, content: bytes) -> int:
        """Write the slot from the aligned buffer, once."""
        with memoryview(self._aligned()) as whole, whole[: self.slot_bytes] as view:
            view[:] = content
            try:
                return os.pwritev(descriptor, [view], self.position_bytes)
            except OSError as error:
                raise self._refused(error, "written") from error

    def _aligned(self) -> mmap.mmap:
        """Return the buffer: anonymous memory begins at a page, as direct I/O wants."""
        if self._buffer is None:
            self._buffer = mmap.mmap(-1, self.slot_bytes)
        return self._buffer

    def _refused(self, error: OSError, done: str) -> OSError:
        if error.errno == errno.EINVAL:
            return OSError(
                error.errno,
                f"{self.link.device}: a slot at {self.link.address} cannot be {done} directly: "
                "its sectors are longer than 512 bytes",
            )
        return explained(error, f"{self.link.device} cannot be {done}")
