"""What must a daemon still know after it was killed, or its node lost power?

The store keeps the `Stored` record of the core (own incarnation, instances, peers) in one
preallocated file of two copies. Each write goes in place over the older copy and ends with
fdatasync: no space is ever asked for, so a full disk stops no takeover, and a power cut in
the middle of a write leaves the other copy, which holds what was announced last. Every
copy carries a generation number and a checksum over itself; the newest valid one counts.

The store decides nothing and journals nothing. When neither copy can be read it says so
(`damaged`) and gives an empty record, so that the daemon starts, with an alarm.

On a file system that copies on write (btrfs, zfs) an overwrite takes new blocks: there a
full disk can make `write` fail, and the daemon then announces nothing new.

Runs in: main thread until the daemon is ready, then monitor thread. The caller holds the
daemon's lock.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Callable, List, Optional

from opensvc_hb.core.events import Stored
from opensvc_hb.daemon.store_format import Content, RecordTexts, content_of, copy_bytes_for, encode_copy
from opensvc_hb.errors import HbError
from opensvc_hb.files import WriteError, replace_file, sync_directory

log = logging.getLogger(__name__)


class StoreError(HbError):
    """The store could not be made, opened or written; what it held before still counts."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        super().__init__(f"{path}: {what}")


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data = data[written:]
        offset += written


class Store:
    """The open store of one daemon; make it with `Store.open`.

    Attributes:
        fresh: nothing was ever written here: this node is new.
        damaged: None, or why the record read is empty, or may be old. One line, for an alarm.
    """

    def __init__(self, path: Path, sync: Callable[[int], None]) -> None:
        self.path = path
        self.fresh = False
        self.damaged: Optional[str] = None
        self._sync = sync
        self._descriptor = -1
        self._copy_bytes = 0
        self._newest = 1
        self._generation = 0
        self._stored = Stored()
        self._texts = RecordTexts()
        self._name_is_settled = True

    @classmethod
    def open(cls, path: Path, capacity_services: int, sync: Callable[[int], None] = os.fdatasync) -> Store:
        """Open the store, making or enlarging its file as needed, and read it.

        A file too small for `capacity_services` that cannot be enlarged now (full disk) is
        used as it is; a warning is logged.

        Args:
            path: the file; its directory is made when missing.
            capacity_services: the services that are configured now.
            sync: makes what was written to a file descriptor survive a power cut.

        Raises:
            StoreError: the file can neither be opened nor made.
        """
        store = cls(path, sync)
        try:
            store._prepare(capacity_services)
        except StoreError:
            store.close()
            raise
        return store

    def read(self) -> Stored:
        """Return the newest valid record: read at `open`, or written since."""
        return self._stored

    def write(self, stored: Stored) -> None:
        """Make `stored` survive a power cut, in place; may take as long as the disk does.

        Raises:
            StoreError: it may not be announced. The record before it still counts, and
                still would after a power cut.
        """
        encoded = encode_copy(stored, self._generation + 1, self._copy_bytes, self._texts)
        if encoded is None:
            raise StoreError(
                self.path,
                f"{len(stored.instances)} services do not fit in {self._copy_bytes} bytes: "
                "free some space on its file system, then reload the daemon",
            )
        # A write that failed may have left a valid copy of its number: never use one twice.
        self._generation += 1
        target = 1 - self._newest
        try:
            if os.fstat(self._descriptor).st_nlink == 0:
                # Someone removed the file, or put another in its place. What we know is newer.
                self._replace(self._copy_bytes, stored)
                return
            if not self._name_is_settled:
                sync_directory(self.path.parent)
                self._name_is_settled = True
            _write_all(self._descriptor, encoded, target * self._copy_bytes)
            self._sync(self._descriptor)
        except OSError as error:
            raise StoreError(self.path, f"cannot be written: {error.strerror or error}") from error
        self._newest = target
        self._stored = stored

    def reserve(self, capacity_services: int) -> None:
        """Make room for so many services, and as many again; never shrinks.

        Raises:
            StoreError: the file could not be enlarged and is used as it is.
        """
        wanted = copy_bytes_for(capacity_services)
        if wanted > self._copy_bytes:
            self._replace(wanted, None if self._generation == 0 else self._stored)

    def close(self) -> None:
        """Let the file go; the store cannot be used any more."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, capacity_services: int) -> None:
        """Find or make the file, and leave it whole and large enough if that can be."""
        content = self._read_file()
        if content is None:
            self.fresh = True
            self._replace(copy_bytes_for(capacity_services), None)
            return
        self.fresh, self.damaged = content.fresh, content.damaged
        self._copy_bytes, self._newest = content.copy_bytes, content.newest
        if content.copy is not None:
            self._generation, self._stored = content.copy.generation, content.copy.stored
        if not content.whole:
            self._replace(
                max(copy_bytes_for(capacity_services), content.copy_bytes if content.copy else 0),
                content.copy.stored if content.copy else None,
            )
            return
        if content.damaged is not None:
            # Another version's copy, unreadable for us, must not look newer than ours one day.
            self._blank()
        try:
            self.reserve(capacity_services)
        except StoreError as error:
            log.warning("%s; it keeps its size of %d bytes", error, 2 * self._copy_bytes)

    def _blank(self) -> None:
        """Overwrite both copies with zeros, in place."""
        try:
            _write_all(self._descriptor, bytes(2 * self._copy_bytes), 0)
            self._sync(self._descriptor)
        except OSError as error:
            raise StoreError(self.path, f"cannot be written: {error.strerror or error}") from error

    def _read_file(self) -> Optional[Content]:
        """Open the file and tell what it holds; None when there is none, or an empty one."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(self.path, f"cannot be opened: {error.strerror or error}") from error
        try:
            # What a killed daemon wrote may not be on the disk yet. And after a failed write the
            # kernel's cache may hold what the disk never got: drop it, believe the disk.
            self._sync(self._descriptor)
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            data = self._read_all()
        except OSError as error:
            self.close()
            raise StoreError(self.path, f"cannot be read: {error.strerror or error}") from error
        return content_of(data) if data else None

    def _read_all(self) -> bytes:
        parts: List[bytes] = []
        offset = 0
        while True:
            part = os.pread(self._descriptor, 1 << 20, offset)
            if not part:
                return b"".join(parts)
            parts.append(part)
            offset += len(part)

    def _replace(self, copy_bytes: int, stored: Optional[Stored]) -> None:
        """Put a whole new file in place, every block of it written; `stored` in its first copy."""
        encoded: Optional[bytes] = b""
        generation = self._generation
        if stored is not None:
            generation += 1
            encoded = encode_copy(stored, generation, copy_bytes)
            assert encoded is not None, "a new file is never smaller than what it must hold"
        assert encoded is not None
        problem: Optional[WriteError] = None
        try:
            replace_file(self.path, encoded.ljust(2 * copy_bytes, b"\0"))
            self._name_is_settled = True
        except WriteError as error:
            problem = error
        # Whether it failed before or after its rename shows in what the name leads to now.
        if not self._adopt_file(copy_bytes):
            what = problem.error.strerror if problem else "it was replaced meanwhile"
            raise StoreError(self.path, f"cannot be made with {2 * copy_bytes} bytes: {what}") from problem
        self._copy_bytes, self._generation = copy_bytes, generation
        self._newest = 1 if stored is None else 0
        if stored is not None:
            self._stored = stored
        if problem is not None:
            self._name_is_settled = False
            raise StoreError(self.path, f"may not survive a power cut: {problem}") from problem

    def _adopt_file(self, copy_bytes: int) -> bool:
        """Hold the file that `path` names if it is the new one, of two copies of so many bytes."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        if os.fstat(descriptor).st_size != 2 * copy_bytes or self._holds(descriptor):
            os.close(descriptor)
            return False
        self.close()
        self._descriptor = descriptor
        return True

    def _holds(self, descriptor: int) -> bool:
        """Tell whether `descriptor` is the very file that we have open."""
        return self._descriptor >= 0 and os.path.samestat(os.fstat(descriptor), os.fstat(self._descriptor))
