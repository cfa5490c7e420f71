"""The simulated disk keeps the promises of a real slot: read-back, views, stuck and lost writes."""

from __future__ import annotations

from dataclasses import replace

from core_builders import make_beat, make_config

from opensvc_hb.core.events import BeatReceived, LinkDrained, LinkFailed, SlotFound, SlotWritten
from opensvc_hb.sim.chance import Chance
from opensvc_hb.sim.disks import Disk, Path, Port, Reader, Writer
from opensvc_hb.sim.timeline import Timeline

CONFIG = make_config("deb1", ("dio",), timeout_s=2.0)
LINK = CONFIG.links_from("deb2")[0]


class Bench:
    """A writer of deb2's slot and a reader of it on deb1, each with its own path."""

    def __init__(self, floor=0):
        self.timeline = Timeline()
        self.disk = Disk()
        self.written, self.read = [], []
        self.paths = Path(), Path()
        self.cut = False
        self.writer = Writer(LINK, self.disk, self.port(0, self.written))
        self.reader = Reader(
            LINK, self.disk, self.port(1, self.read), self.read.append, lambda: self.cut, floor
        )

    def port(self, end, events):
        """What a thread at one end needs of its daemon."""
        return Port(
            self.timeline,
            Chance(None),
            self.paths[end],
            events.append,
            lambda: self.timeline.now,
            lambda do: do(),
            lambda seconds: seconds,
        )

    def offer(self, sequence, incarnation=3):
        """Have a beat of deb2 written."""
        self.writer.offer(make_beat(CONFIG, sequence=sequence, incarnation=incarnation), True)

    def run(self, seconds):
        """Let the time pass."""
        self.timeline.run_until(self.timeline.now + seconds)

    def view(self):
        """What the reader says of the slot, by a new read."""
        self.reader.ask(99)
        self.run(0.1)
        answers = [event for event in self.read if isinstance(event, LinkDrained)]
        return answers[-1].slot


def kinds(events, kind):
    """The events of one kind."""
    return [event for event in events if isinstance(event, kind)]


def test_a_write_that_was_read_back_counts_from_before_it():
    """`began_at` is when the write was begun, not when it was known to be there."""
    bench = Bench()
    bench.paths[0].slow_s = 0.5
    bench.run(1.0)
    bench.offer(60)
    bench.run(2.0)
    assert kinds(bench.written, SlotWritten) == [SlotWritten(LINK.id, 3, 60, 1.0)]


def test_the_newest_beat_replaces_one_that_waits():
    """A hung disk, awake again, writes what is true then, not a queue of the past."""
    bench = Bench()
    bench.paths[0].hangs = True
    for sequence in (60, 61, 62, 63):
        bench.offer(sequence)
        bench.run(0.1)
    bench.paths[0].release()
    bench.run(1.0)
    assert [event.sequence for event in kinds(bench.written, SlotWritten)] == [60, 63]


def test_lost_and_torn_writes_are_told_by_reading_back():
    """Neither is a renewal; the next one is."""
    bench = Bench()
    bench.paths[0].loses, bench.paths[0].tears = 1, 1
    for sequence in (60, 61, 62):
        bench.offer(sequence)
        bench.run(0.1)
    assert [event.sequence for event in kinds(bench.written, SlotWritten)] == [62]
    assert [event.reason for event in kinds(bench.written, LinkFailed)] == ["read back differs"]


def test_what_is_there_at_first_is_no_beat_but_has_a_view():
    """Unchanged since the first read has ended; then every change is a beat."""
    bench = Bench()
    bench.offer(60)
    bench.run(1.0)
    bench.reader.begin()
    bench.run(1.0)
    assert kinds(bench.read, BeatReceived) == []
    view = bench.view()
    assert view.problem == ""
    assert 1.0 < view.unchanged_since < 1.1
    assert view.read_at >= 2.0
    bench.offer(61)
    bench.run(0.3)
    assert [event.beat.sequence for event in kinds(bench.read, BeatReceived)] == [61]
    assert bench.view().unchanged_since > 2.0


def test_unreadable_and_older_content_is_seen_for_the_first_time_by_every_read():
    """Never written, torn, of an older life: none of these is a lease's."""
    bench = Bench(floor=4)
    bench.reader.begin()
    bench.run(0.5)
    assert bench.view().problem != ""
    bench.offer(60)
    bench.run(3.0)
    view = bench.view()
    assert view.problem == "older than what was read before"
    assert view.unchanged_since > 3.4
    assert kinds(bench.read, BeatReceived) == []
    bench.paths[0].tears = 1
    bench.offer(61, incarnation=5)
    bench.run(3.0)
    assert bench.view().problem == "cannot be read"


def test_content_below_a_first_sight_is_a_first_sight_until_something_was_above_it():
    """As `links.slot_watch`: a node that begins low after its slot was torn is heard."""
    bench = Bench()
    bench.offer(60)
    bench.run(1.0)
    bench.reader.begin()
    bench.run(0.5)
    beat = bench.disk.slots[LINK.id].beat
    for sequence, incarnation in ((5, 2), (6, 2), (4, 2)):
        low = replace(beat, sequence=sequence, incarnation=incarnation)
        bench.disk.slots[LINK.id] = bench.disk.content_of(low)
        bench.run(0.5)
    assert [event.beat.sequence for event in kinds(bench.read, BeatReceived)] == [6]
    assert bench.view().problem == "older than what was read before"


def test_what_stands_in_its_own_slot_is_told_and_not_written_below():
    """A node whose store is lost finds its earlier lives there; a failure has it look again."""
    bench = Bench()
    bench.offer(60)
    bench.run(1.0)
    del bench.written[:]
    bench.writer = Writer(LINK, bench.disk, bench.port(0, bench.written))
    bench.offer(1, incarnation=1)
    bench.run(1.0)
    assert bench.written == [SlotFound(LINK.id, 3, 60)]
    assert bench.disk.slots[LINK.id].beat.sequence == 60
    bench.offer(1, incarnation=4)
    bench.run(1.0)
    assert [type(event) for event in bench.written] == [SlotFound, SlotWritten]
    bench.paths[0].loses = 1
    bench.offer(2, incarnation=4)
    bench.run(1.0)
    bench.offer(9, incarnation=3)
    bench.run(1.0)
    assert bench.written[-1] == SlotFound(LINK.id, 4, 1)


def test_a_read_that_fails_makes_the_next_one_a_first_sight():
    """Nobody knows what stood there meanwhile; the answer has no view at all."""
    bench = Bench()
    bench.offer(60)
    bench.run(0.5)
    bench.reader.begin()
    bench.run(2.0)
    since = bench.view().unchanged_since
    bench.cut = True
    bench.run(0.5)
    assert bench.view() is None
    assert len(kinds(bench.read, LinkFailed)) == 1
    bench.cut = False
    bench.run(0.5)
    assert bench.view().unchanged_since > since + 2.0


def test_a_question_is_answered_by_a_read_begun_after_it():
    """One that hangs answers when it wakes."""
    bench = Bench()
    bench.offer(60)
    bench.run(0.5)
    bench.reader.begin()
    bench.run(0.5)
    bench.paths[1].hangs = True
    bench.reader.ask(7)
    asked_at = bench.timeline.now
    bench.run(5.0)
    assert kinds(bench.read, LinkDrained) == []
    bench.paths[1].release()
    bench.run(0.1)
    (answer,) = kinds(bench.read, LinkDrained)
    assert answer.slot.read_at >= asked_at
