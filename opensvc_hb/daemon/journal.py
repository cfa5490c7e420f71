"""Why did this service move? The event journal answers without any log being read.

Each `Journal` effect of the core becomes one line of JSON in `var/log/opensvc/hb.journal`:

    {"version": 1, "at": 5123.25, "wall": "2014-06-12T08:01:02.123Z", "node": "deb1",
     "service": "svc1", "kind": "...", "rule": "...", "text": "...", "reason": "...",
     "inputs": {"name": "value", ...}}

`at` is CLOCK_BOOTTIME in seconds, by which entries of one boot compare; `wall` is for
people. A line is one write, so that a reader sees it whole or, behind a power cut or on a
full disk, torn: readers skip a line that is no entry. Files rotate by size and rename.

Writing never fails for the caller: what cannot be written waits in memory (the last
`UNWRITTEN_MAX` entries) and is written first once there is space again.

Runs in: `JournalThread.put` in the monitor thread, the writing in the journal thread, so
that a slow disk delays no decision; `read_entries` anywhere, also in other processes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional, Tuple

from opensvc_hb.core.effects import Journal
from opensvc_hb.errors import HbError

log = logging.getLogger(__name__)

VERSION = 1
ROTATE_BYTES = 4 * 1024 * 1024
ROTATED_FILES = 4
ROTATED_FILES_READ = 16
"""Older files than we keep now are read too: the number kept may have been larger."""
UNWRITTEN_MAX = 1000
QUEUE_MAX = 10_000
RETRY_S = 10.0
"""What waits for space is tried again so often, also when nothing new happens."""


class JournalUnreadable(HbError):
    """A journal file exists but may not, or cannot, be read."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.path = path
        self.error = error
        super().__init__(f"{path}: cannot be read: {error.strerror or error}")


@dataclass(frozen=True)
class JournalRecord:
    """One entry as written.

    Args:
        at_s: CLOCK_BOOTTIME of the node that wrote it, seconds.
        wall: the same moment, RFC 3339 in UTC, for people only.
        node: the node that wrote it.
        service, kind, rule, text, reason, inputs: as in the `Journal` effect.
    """

    at_s: float
    wall: str
    node: str
    service: str
    kind: str
    rule: str
    text: str
    reason: str
    inputs: Tuple[Tuple[str, str], ...] = ()

    def as_json(self) -> Dict[str, Any]:
        """Return the object of the line; commands print the same."""
        return {
            "version": VERSION,
            "at": self.at_s,
            "wall": self.wall,
            "node": self.node,
            "service": self.service,
            "kind": self.kind,
            "rule": self.rule,
            "text": self.text,
            "reason": self.reason,
            "inputs": dict(self.inputs),
        }


@dataclass(frozen=True)
class JournalStatistics:
    """How the journal fares: entries that wait for space, and entries lost since the start."""

    unwritten: int
    lost: int


def boottime_s() -> float:
    """Return CLOCK_BOOTTIME, seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall_text() -> str:
    """Return the wall clock's time for people: RFC 3339 in UTC, milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode_record(record: JournalRecord) -> bytes:
    """Return the line of a record, with its line end."""
    return json.dumps(record.as_json(), ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def decode_record(line: bytes) -> Optional[JournalRecord]:
    """Return the record of a line, None when it is torn or none of ours. Any bytes will do."""
    try:
        fields = json.loads(line)
        return JournalRecord(
            at_s=float(fields["at"]),
            wall=str(fields["wall"]),
            node=str(fields["node"]),
            service=str(fields["service"]),
            kind=str(fields["kind"]),
            rule=str(fields["rule"]),
            text=str(fields["text"]),
            reason=str(fields["reason"]),
            inputs=tuple((name, str(value)) for name, value in fields["inputs"].items()),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _rotated(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


class JournalWriter:
    """Appends entries to the journal of one node, and rotates it. One thread writes.

    Args:
        path: the newest file; older ones are `PATH.1` (newest) and so on.
        node: this node's name.
        rotate_bytes: no file grows larger than this, unless by a single longer line.
        rotated_files: how many older files are kept.
        clock: seconds of CLOCK_BOOTTIME.
        wall_clock: the wall clock as text.
    """

    def __init__(
        self,
        path: Path,
        node: str,
        rotate_bytes: int = ROTATE_BYTES,
        rotated_files: int = ROTATED_FILES,
        clock: Callable[[], float] = boottime_s,
        wall_clock: Callable[[], str] = wall_text,
    ) -> None:
        assert rotated_files >= 1, "a full file must have a name to go to"
        self._path = path
        self._node = node
        self._rotate_bytes = rotate_bytes
        self._rotated_files = rotated_files
        self._clock = clock
        self._wall_clock = wall_clock
        self._unwritten: Deque[bytes] = deque()
        self._lost = 0
        self._failing = False

    def stamp(self, entry: Journal) -> JournalRecord:
        """Return the record of an entry of this moment. Any thread may ask."""
        return JournalRecord(
            at_s=round(self._clock(), 6),
            wall=self._wall_clock(),
            node=self._node,
            service=entry.service,
            kind=entry.kind,
            rule=entry.rule,
            text=entry.text,
            reason=entry.reason,
            inputs=entry.inputs,
        )

    def write(self, entry: Journal) -> None:
        """Stamp and append one entry; never fails."""
        self.append([self.stamp(entry)])

    def append(self, records: Iterable[JournalRecord]) -> None:
        """Append records behind those that still wait; what cannot be written waits. Never fails."""
        self._unwritten.extend(encode_record(record) for record in records)
        try:
            self._append_unwritten()
        except OSError as error:
            if not self._failing:
                log.error("event journal %s: %s; entries wait in memory", self._path, error.strerror)
            self._failing = True
        else:
            if self._failing:
                log.warning("event journal %s: written again, %d entries lost", self._path, self._lost)
            self._failing = False
        while len(self._unwritten) > UNWRITTEN_MAX:
            self._unwritten.popleft()
            self._lost += 1

    @property
    def statistics(self) -> JournalStatistics:
        """Return how many entries wait, and how many were lost."""
        return JournalStatistics(len(self._unwritten), self._lost)

    def _append_unwritten(self) -> None:
        """Write what waits, oldest first; raises OSError with the rest still waiting."""
        while self._unwritten:
            if self._fill_file():
                self._rotate()

    def _fill_file(self) -> bool:
        """Write to the newest file what fits in it; tell whether it is full."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Opened anew each time: whoever moved or removed the file, we write to the one that has the name.
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            size = os.fstat(descriptor).st_size
            if size > 0 and os.pread(descriptor, 1, size - 1) != b"\n":
                # A torn line stays alone: readers skip it, and only it.
                size += os.write(descriptor, b"\n")
            while self._unwritten:
                line = self._unwritten[0]
                if size > 0 and size + len(line) > self._rotate_bytes:
                    return True
                written = os.write(descriptor, line)
                if written < len(line):
                    # The next write says why (or there is space again and the line is written whole).
                    os.write(descriptor, b"\n")
                    size += written + 1
                    continue
                size += written
                self._unwritten.popleft()
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        return False

    def _rotate(self) -> None:
        """Rename each file to the next older name, the oldest first, over the one that goes."""
        # In this order a reader that opens the newest name first meets every file at least once.
        for number in range(self._rotated_files, 0, -1):
            newer = self._path if number == 1 else _rotated(self._path, number - 1)
            with contextlib.suppress(FileNotFoundError):
                newer.replace(_rotated(self._path, number))


class JournalThread:
    """Owns a `JournalWriter`, so that no disk delays those who have something to journal.

    Args:
        writer: used by the thread alone from now on, but for its `stamp`.
        queue_max: entries that may wait for the disk; behind that the oldest is dropped and counted.
    """

    def __init__(self, writer: JournalWriter, queue_max: int = QUEUE_MAX) -> None:
        self._writer = writer
        self._queue_max = queue_max
        self._changed = threading.Condition()
        self._queue: Deque[JournalRecord] = deque()
        self._dropped = 0
        self._stopping = False
        self._of_writer = writer.statistics
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def start(self) -> None:
        """Start the thread; entries put before are kept."""
        self._thread.start()

    def put(self, entry: Journal) -> None:
        """Hand over an entry, stamped with this moment. Never waits, never fails."""
        record = self._writer.stamp(entry)
        with self._changed:
            self._queue.append(record)
            if len(self._queue) > self._queue_max:
                self._queue.popleft()
                self._dropped += 1
            self._changed.notify()

    def statistics(self) -> JournalStatistics:
        """Return how many entries wait (for the thread, or for space), and how many were lost."""
        with self._changed:
            waiting = len(self._queue) + self._of_writer.unwritten
            return JournalStatistics(waiting, self._dropped + self._of_writer.lost)

    def stop(self, limit_s: float = 2.0) -> None:
        """Write what waits, for at most `limit_s` seconds, and end the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(limit_s)

    def _run(self) -> None:
        try:
            while True:
                retry_s = RETRY_S if self._of_writer.unwritten else None
                with self._changed:
                    self._changed.wait_for(lambda: self._queue or self._stopping, retry_s)
                    records = list(self._queue)
                    self._queue.clear()
                    last = self._stopping
                self._writer.append(records)
                with self._changed:
                    self._of_writer = self._writer.statistics
                if last:
                    return
        except Exception:  # top of the thread: without a journal the daemon still does its work
            log.exception("the journal thread ended; events are not written any more")


def _open_once(path: Path, opened: List[int]) -> bool:
    """Open the files of a journal, newest first; tell whether none was met twice.

    Files move to older names, the oldest first, and we open from the newest name: none is
    missed. One met twice moved meanwhile, and others may have come between: the order of
    what was opened is then not that of their entries.
    """
    seen = set()
    for name in [path] + [_rotated(path, number) for number in range(1, ROTATED_FILES_READ + 1)]:
        try:
            opened.append(os.open(name, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            continue
        status = os.fstat(opened[-1])
        if (status.st_dev, status.st_ino) in seen:
            return False
        seen.add((status.st_dev, status.st_ino))
    return True


def _open_all(path: Path) -> List[int]:
    """Open the files of a journal, newest first, at a moment at which it did not rotate."""
    opened: List[int] = []
    try:
        while not _open_once(path, opened):
            _close_all(opened)
    except OSError as error:
        _close_all(opened)
        raise JournalUnreadable(path, error) from error
    return opened


def _close_all(descriptors: List[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())


def _records_of(descriptor: int, service: Optional[str]) -> List[JournalRecord]:
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        found = (decode_record(line) for line in file)
        return [record for record in found if record and (service is None or record.service == service)]


def read_entries(
    path: Path, service: Optional[str] = None, limit: Optional[int] = None
) -> List[JournalRecord]:
    """Return the entries of a journal, rotated files included, oldest first.

    Args:
        path: the newest file; none at all is an empty journal.
        service: only entries of this service ("" for those of the node and its links).
        limit: only so many, the newest.

    Raises:
        JournalUnreadable: a file is there but cannot be read.
    """
    newest_first: List[List[JournalRecord]] = []
    count = 0
    descriptors = _open_all(path)
    try:
        for descriptor in descriptors:
            if limit is not None and count >= limit:
                break
            newest_first.append(_records_of(descriptor, service))
            count += len(newest_first[-1])
    except OSError as error:
        raise JournalUnreadable(path, error) from error
    finally:
        _close_all(descriptors)
    records = [record for part in reversed(newest_first) for record in part]
    return records if limit is None else records[max(0, len(records) - limit) :]
