"""Beats through a shared disk: slots, the thread that writes one, the threads that read it.

A disk gives back what was written last, slot by slot, whole: a transfer takes effect at one
moment between its beginning and its end. What goes wrong is the machine's path to it: errors,
hangs, slowness, a write that is torn or never arrives though it was said to have. A write that
hangs outlives the daemon that began it, and may arrive after a newer one.

The writer has a mailbox of one place, as a link's sender: what was not written yet is replaced
by the newest beat. What it wrote it reads back; only then it says `SlotWritten`. Before its first
write, and after a failure, it reads its slot: what stands there of this node's earlier lives it
tells (`SlotFound`), and writes nothing below it. The reader looks at its usual pace, hands over
what is new, and answers a question with a new read.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Callable, Dict, List, Optional, Tuple

from opensvc_hb.core.config import Link
from opensvc_hb.core.events import (
    BeatReceived,
    Event,
    LinkDrained,
    LinkFailed,
    SlotFound,
    SlotView,
    SlotWritten,
)
from opensvc_hb.core.messages import Beat
from opensvc_hb.sim.chance import Chance
from opensvc_hb.sim.timeline import Timeline

TRANSFER_MIN_S, TRANSFER_MAX_S = 0.0005, 0.003
READS_PER_TIMEOUT = 20
READ_PAUSE_MAX_S = 0.25
RETRY_S = 1.0
"""A path that failed is tried again after so long, or when there is something new to write."""


@dataclass(frozen=True)
class Content:
    """What a slot holds. `beat` is None when it cannot be read: a torn write."""

    digest: bytes
    beat: Optional[Beat]


class Disk:
    """One shared disk: slots by link."""

    def __init__(self) -> None:
        self.slots: Dict[str, Content] = {}
        self.writes_count = 0

    def content_of(self, beat: Beat) -> Content:
        """Return the content of a write: no two are alike."""
        self.writes_count += 1
        return Content(self.writes_count.to_bytes(8, "big"), beat)


@dataclass
class Path:
    """One machine's way to its disks.

    Args:
        fails: every transfer ends with an error; is_read_only: every write does; hangs: none ends.
        slow_s: so much longer than usual each transfer takes.
        loses, tears: so many of the next writes are lost, or torn.
    """

    fails: bool = False
    is_read_only: bool = False
    hangs: bool = False
    slow_s: float = 0.0
    loses: int = 0
    tears: int = 0
    stuck: List[Callable[[], None]] = field(default_factory=list)

    def clear(self) -> None:
        """Work again; what was stuck goes on."""
        self.fails, self.is_read_only, self.slow_s, self.loses, self.tears = False, False, 0.0, 0, 0
        self.release()

    def release(self) -> None:
        """Let what hangs go on."""
        self.hangs = False
        stuck, self.stuck = self.stuck, []
        for go_on in stuck:
            go_on()


@dataclass
class Port:
    """What a disk thread needs of the daemon it belongs to.

    Args:
        put: gives the daemon an event; clock: what the node's clock shows.
        when_running: calls something now, or, while the daemon stands still, when it goes on; never
            when that daemon has ended.
        lasts: the true seconds that so many of the node's seconds last.
    """

    timeline: Timeline
    chance: Chance
    path: Path
    put: Callable[[Event], None]
    clock: Callable[[], float]
    when_running: Callable[[Callable[[], None]], None]
    lasts: Callable[[float], float]

    def transfer_s(self, stream: str) -> float:
        """Return how long a read or write of one slot takes now."""
        return self.chance.uniform(stream, TRANSFER_MIN_S, TRANSFER_MAX_S) + self.path.slow_s


class Writer:
    """The sending thread of one disk link, in one life of a daemon.

    `_found` is the incarnation and sequence in the slot before the first write since the path
    works; None before it was read.
    """

    def __init__(self, link: Link, disk: Disk, port: Port, skips_read_back: bool = False) -> None:
        self._link = link
        self._disk = disk
        self._port = port
        self._skips_read_back = skips_read_back
        self._mailbox: Optional[Tuple[Beat, bool]] = None
        self._busy = False
        self._failed = False
        self._found: Optional[Tuple[int, int]] = None

    def offer(self, beat: Beat, with_table: bool) -> None:
        """Have a beat written; it replaces the one that still waits, but for a table asked for."""
        waits = self._mailbox
        if waits is not None and waits[1] and waits[0].table_digest == beat.table_digest:
            with_table = True
        self._mailbox = (beat, with_table)
        if not self._busy:
            self._begin()

    def _begin(self) -> None:
        if self._mailbox is None:
            self._busy = False
            return
        self._busy = True
        (beat, with_table), self._mailbox = self._mailbox, None
        began_at = self._port.clock()
        if self._found is None:
            self._look(beat, with_table, began_at)
        else:
            self._put_down(beat, with_table, began_at)

    def _look(self, beat: Beat, with_table: bool, began_at: float) -> None:
        """Read what stands in our own slot."""
        path = self._port.path
        if path.hangs:
            path.stuck.append(lambda: self._look(beat, with_table, began_at))
            return
        takes_s = self._port.transfer_s(f"look {self._link.id}")
        self._port.timeline.after(takes_s, self._look_ends, beat, with_table, began_at)

    def _look_ends(self, beat: Beat, with_table: bool, began_at: float) -> None:
        path = self._port.path
        if path.hangs:
            path.stuck.append(lambda: self._look_ends(beat, with_table, began_at))
            return
        failed, content = path.fails, self._disk.slots.get(self._link.id)
        self._port.when_running(lambda: self._looked(failed, content, beat, with_table, began_at))

    def _looked(
        self, failed: bool, content: Optional[Content], beat: Beat, with_table: bool, began_at: float
    ) -> None:
        if failed:
            self._fail("the slot cannot be read")
            return
        there = content.beat if content is not None else None
        self._found = (there.incarnation, there.sequence) if there is not None else (0, 0)
        self._put_down(beat, with_table, began_at)

    def _put_down(self, beat: Beat, with_table: bool, began_at: float) -> None:
        """Write a beat, unless it is below what stood in the slot."""
        assert self._found is not None, "looked at before"
        if (beat.incarnation, beat.sequence) < self._found:
            self._port.put(SlotFound(self._link.id, *self._found))
            self._begin()
            return
        content = self._disk.content_of(beat if with_table else replace(beat, table=None))
        self._write(content, beat, began_at)

    def _write(self, content: Content, beat: Beat, began_at: float) -> None:
        path = self._port.path
        if path.hangs:
            path.stuck.append(
                lambda: self._port.timeline.after(
                    self._port.transfer_s(f"late {self._link.id}"), self._write, content, beat, began_at
                )
            )
            return
        stream = f"write {self._link.id}"
        self._port.timeline.after(self._port.transfer_s(stream), self._land, content, beat, began_at)

    def _land(self, content: Content, beat: Beat, began_at: float) -> None:
        """The transfer has ended: from now on reads see it."""
        path = self._port.path
        if path.hangs:
            path.stuck.append(lambda: self._land(content, beat, began_at))
            return
        failed = path.fails or path.is_read_only
        if failed:
            pass
        elif path.loses > 0:
            path.loses -= 1
        elif path.tears > 0:
            path.tears -= 1
            self._disk.slots[self._link.id] = replace(content, beat=None)
        else:
            self._disk.slots[self._link.id] = content
        self._port.when_running(lambda: self._written(failed, content, beat, began_at))

    def _written(self, failed: bool, content: Content, beat: Beat, began_at: float) -> None:
        if failed:
            self._fail("the write failed")
        elif self._skips_read_back:
            self._read_back(content, content, beat, began_at)
        else:
            stream = f"read back {self._link.id}"
            self._port.timeline.after(self._port.transfer_s(stream), self._read_ends, content, beat, began_at)

    def _read_ends(self, content: Content, beat: Beat, began_at: float) -> None:
        path = self._port.path
        if path.hangs:
            path.stuck.append(lambda: self._read_ends(content, beat, began_at))
            return
        found = None if path.fails else self._disk.slots.get(self._link.id)
        self._port.when_running(lambda: self._read_back(found, content, beat, began_at))

    def _read_back(self, found: Optional[Content], content: Content, beat: Beat, began_at: float) -> None:
        if found != content:
            self._fail("read back differs")
            return
        self._failed = False
        self._port.put(SlotWritten(self._link.id, beat.incarnation, beat.sequence, began_at))
        self._begin()

    def _fail(self, reason: str) -> None:
        self._found = None
        if not self._failed:
            self._failed = True
            self._port.put(LinkFailed(self._link.id, reason))
        self._begin()


class Reader:
    """The listening thread of one disk link, in one life of a daemon.

    Args:
        hand_over: takes a beat that is not a baseline and not seen before.
        is_cut: whether this slot cannot be read from here now.
        floor: the highest incarnation accepted from the slot's node so far.

    `_seen` is the content of the newest read that succeeded; None before, and after a failure.
    `_is_first_sight`: nothing was seen above what was there at first (see `links.slot_watch`).
    """

    def __init__(
        self,
        link: Link,
        disk: Disk,
        port: Port,
        hand_over: Callable[[BeatReceived], None],
        is_cut: Callable[[], bool],
        floor: int,
    ) -> None:
        self._link = link
        self._disk = disk
        self._port = port
        self._hand_over = hand_over
        self._is_cut = is_cut
        self._pace_s = port.lasts(min(link.timeout_s / READS_PER_TIMEOUT, READ_PAUSE_MAX_S))
        self._seen: Optional[Content] = None
        self._unchanged_since = 0.0
        self._is_baseline = True
        self._floor = floor
        self._accepted = (floor, 0, b"")
        self._is_first_sight = True
        self._tokens: List[int] = []
        self._looks = 0
        self._is_reading = False
        self._failed = False

    def begin(self) -> None:
        """Look for the first time."""
        self._read()

    def ask(self, token: int) -> None:
        """Answer `LinkDrained` after a read that begins from now on."""
        self._tokens.append(token)
        if not self._is_reading:
            self._read()

    def _due(self, number: int) -> None:
        if number == self._looks and not self._is_reading:
            self._port.when_running(self._read)

    def _read(self) -> None:
        if self._is_reading:
            return
        self._is_reading = True
        self._looks += 1
        tokens, self._tokens = self._tokens, []
        self._transfer(tokens, self._port.clock())

    def _transfer(self, tokens: List[int], began_at: float) -> None:
        path = self._port.path
        if path.hangs:
            path.stuck.append(lambda: self._transfer(tokens, began_at))
            return
        stream = f"read {self._link.id}"
        takes_s = self._port.transfer_s(stream)
        early = self._port.chance.draw(stream) < 0.5  # seen at its beginning, or its end
        seen = self._disk.slots.get(self._link.id) if early else None
        self._port.timeline.after(takes_s, self._ends, tokens, began_at, early, seen)

    def _ends(self, tokens: List[int], began_at: float, early: bool, seen: Optional[Content]) -> None:
        path = self._port.path
        if path.hangs:
            path.stuck.append(lambda: self._ends(tokens, began_at, early, seen))
            return
        failed = path.fails or self._is_cut()
        found = seen if early else self._disk.slots.get(self._link.id)
        self._port.when_running(lambda: self._take(tokens, began_at, failed, found))

    def _take(self, tokens: List[int], began_at: float, failed: bool, found: Optional[Content]) -> None:
        self._is_reading = False
        view: Optional[SlotView] = None
        if failed:
            self._seen = None
            if not self._failed:
                self._failed = True
                self._port.put(LinkFailed(self._link.id, "the read failed"))
        else:
            self._failed = False
            view = self._look(began_at, found)
        for token in tokens:
            self._port.put(LinkDrained(self._link.id, token, view))
        if self._tokens:
            self._read()
        else:
            self._port.timeline.after(self._pace_s, self._due, self._looks)

    def _look(self, read_at: float, found: Optional[Content]) -> SlotView:
        """Take in what a read showed."""
        now = self._port.clock()
        beat = found.beat if found is not None else None
        if found is None or beat is None:
            self._seen, self._is_baseline = None, False
            return SlotView(read_at, now, found.digest if found else b"", "cannot be read")
        position = (beat.incarnation, beat.sequence, found.digest)
        if position < self._accepted and self._is_first_sight and beat.incarnation >= self._floor:
            self._is_baseline = True  # nothing was seen above what was there at first
        elif position < self._accepted:
            self._seen, self._is_baseline = None, False
            return SlotView(read_at, now, found.digest, "older than what was read before")
        if found != self._seen:
            baseline, self._is_baseline = self._is_baseline, False
            self._seen, self._unchanged_since = found, now
            self._accepted, self._is_first_sight = position, baseline
            if not baseline:
                self._hand_over(BeatReceived(self._link.id, beat))
        return SlotView(read_at, self._unchanged_since, found.digest, "", beat.longest_timeout_s)
