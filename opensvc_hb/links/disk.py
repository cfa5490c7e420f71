"""The `disk` link: a disk slot past the cache by whatever means the device has.

By direct I/O like `dio` where the kernel gives it, which is on every block device. Only where it
refuses (some file systems under an image file) by buffered I/O with the cache emptied around each
transfer, and that is a note on the link: a write is followed by fdatasync; a read throws the
pages away first, or it would show this node's memory instead of the other node's beats. The
kernel buffers whole pages: a write beside a page's edge first reads the page, and writes back
what a neighbour's slot held a moment ago. So the pages are thrown away before a write too, which
keeps that moment short; `machine` warns of slots that share a page.

Runs in: the thread of one link.
Source: OpenHA's disk type reads and writes through the page cache, without fsync, and so
works on one kernel only.
"""

from __future__ import annotations

import errno
import os

from opensvc_hb.links.carrier import LinkRole
from opensvc_hb.links.dio import DioCarrier
from opensvc_hb.links.slot_file import explained

PAGE_BYTES = 4096
BUFFERED_NOTE = "no direct I/O here: through the page cache"


class DiskCarrier(DioCarrier):
    """Direct I/O on a block device, or an image file; buffered I/O where there is no other."""

    _is_buffered = False

    def open_device(self, role: LinkRole) -> int:
        """Open for reading, or for both, and find out whether direct I/O is to be had."""
        try:
            descriptor = super().open_device(role)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return self._open_buffered(role)
        # Some file systems refuse the first transfer rather than the opening.
        self._is_buffered = False
        try:
            self.read_slot(descriptor)
        except OSError as error:
            os.close(descriptor)
            if error.errno != errno.EINVAL:
                raise
            return self._open_buffered(role)
        return descriptor

    def read_slot(self, descriptor: int) -> bytes:
        """Read directly, or forget the cached pages, then read."""
        if not self._is_buffered:
            return super().read_slot(descriptor)
        try:
            self._forget(descriptor)
            return os.pread(descriptor, self.slot_bytes, self.position_bytes)
        except OSError as error:
            raise explained(error, f"{self.link.device} cannot be read") from error

    def write_slot(self, descriptor: int, content: bytes) -> int:
        """Write directly, or write, wait until the disk has it, forget the pages."""
        if not self._is_buffered:
            return super().write_slot(descriptor, content)
        try:
            self._forget(descriptor)
            written = os.pwrite(descriptor, content, self.position_bytes)
            os.fdatasync(descriptor)
            self._forget(descriptor)
        except OSError as error:
            raise explained(error, f"{self.link.device} cannot be written") from error
        return written

    def _open_buffered(self, role: LinkRole) -> int:
        mode = os.O_RDONLY if role is LinkRole.LISTENER else os.O_RDWR
        self._is_buffered = True
        self.note = BUFFERED_NOTE
        try:
            return os.open(self.link.device, mode | os.O_CLOEXEC)
        except OSError as error:
            raise explained(error, f"{self.link.device} cannot be opened") from error

    def _forget(self, descriptor: int) -> None:
        """Drop the pages of the slot from the cache; pages are dropped whole or not at all."""
        start = self.position_bytes // PAGE_BYTES * PAGE_BYTES
        end = -(-(self.position_bytes + self.slot_bytes) // PAGE_BYTES) * PAGE_BYTES
        os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)
