"""The `disk` link: a disk slot by buffered I/O, with the cache emptied around each transfer.

For devices where direct I/O is not to be had. A write is followed by fdatasync; a read throws
the pages away first, or it would show this node's memory instead of the other node's beats.
The kernel buffers whole pages: a write beside a page's edge first reads the page, and writes
back what a neighbour's slot held a moment ago. So the pages are thrown away before a write
too, which keeps that moment short; `machine_check` warns of slots that share a page.

Runs in: the thread of one link.
Source: OpenHA's disk type reads and writes through the page cache, without fsync, and so
works on one kernel only.
"""

from __future__ import annotations

import os

from opensvc_hb.links.carrier import LinkRole
from opensvc_hb.links.slot import SLOT_BYTES
from opensvc_hb.links.slot_file import SlotCarrier, explained

PAGE_BYTES = 4096


class DiskCarrier(SlotCarrier):
    """Buffered I/O on a block device, or an image file."""

    def open_device(self, role: LinkRole) -> int:
        """Open for reading, or for both."""
        mode = os.O_RDONLY if role is LinkRole.LISTENER else os.O_RDWR
        try:
            return os.open(self.link.device, mode | os.O_CLOEXEC)
        except OSError as error:
            raise explained(error, f"{self.link.device} cannot be opened") from error

    def read_slot(self, descriptor: int) -> bytes:
        """Forget the cached pages, then read."""
        try:
            self._forget(descriptor)
            return os.pread(descriptor, SLOT_BYTES, self.position_bytes)
        except OSError as error:
            raise explained(error, f"{self.link.device} cannot be read") from error

    def write_slot(self, descriptor: int, content: bytes) -> int:
        """Write, wait until the disk has it, forget the pages."""
        try:
            self._forget(descriptor)
            written = os.pwrite(descriptor, content, self.position_bytes)
            os.fdatasync(descriptor)
            self._forget(descriptor)
        except OSError as error:
            raise explained(error, f"{self.link.device} cannot be written") from error
        return written

    def _forget(self, descriptor: int) -> None:
        """Drop the pages of the slot from the cache; pages are dropped whole or not at all."""
        start = self.position_bytes // PAGE_BYTES * PAGE_BYTES
        end = -(-(self.position_bytes + SLOT_BYTES) // PAGE_BYTES) * PAGE_BYTES
        os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)
