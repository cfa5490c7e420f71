"""The ends of a disk link at work: what is written is read back, and what is asked is read anew."""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from pathlib import Path

import pytest
from links_builders import (
    KEYRING,
    NODES,
    HandClock,
    MemoryDisk,
    boot_clock,
    make_beat,
    make_config,
    make_lease,
    make_link,
    make_seal,
    make_slot,
    take_until,
    wait_until,
)

from opensvc_hb.core.config import LinkType
from opensvc_hb.core.events import BeatReceived, LinkDrained, LinkFailed, SlotFound, SlotWritten
from opensvc_hb.core.messages import Beat
from opensvc_hb.links.base import CARRIERS, Links
from opensvc_hb.links.carrier import LinkRole
from opensvc_hb.links.codec_native import Opener, PieceKept, RejectReason
from opensvc_hb.links.dio import DioCarrier
from opensvc_hb.links.disk import BUFFERED_NOTE, DiskCarrier
from opensvc_hb.links.slot import SLOT_BYTES, decode_slot

SLOW = 3600.0
"""A timeout with which a piece of a table stands for half a second."""


class End:
    """One node's end of one disk link over a disk in memory."""

    def __init__(self, node, timeout_s=SLOW, content=bytes(SLOT_BYTES), clock=boot_clock, floors=None):
        self.link = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0, timeout_s=timeout_s)
        self.disk = MemoryDisk(content)
        self.inbox = queue.SimpleQueue()
        config = make_config(node, [self.link])
        carriers = {LinkType.DIO: self.disk.carrier}
        self.links = Links(config, KEYRING, floors or {}, self.inbox.put, clock, carriers)
        self.links.start()

    def send(self, beat, with_table=False):
        """Offer a beat."""
        self.links.send(beat, with_table)

    def written(self, sequence):
        """Take events until the write of this beat was read back."""
        return take_until(
            self.inbox, lambda event: isinstance(event, SlotWritten) and event.sequence == sequence
        )[-1]

    def failed(self):
        """Take events until the link failed."""
        return take_until(self.inbox, lambda event: isinstance(event, LinkFailed))[-1]

    def ask(self, token):
        """Ask; return all events up to the answer."""
        self.links.ask(token)
        return take_until(self.inbox, lambda event: isinstance(event, LinkDrained) and event.token == token)

    def view(self, token):
        """Ask; return the view."""
        return self.ask(token)[-1].slot

    def lease(self, index=-1):
        """The lease block of a write."""
        slot = decode_slot(self.disk.written[index], KEYRING.cluster_tag)
        return make_seal(self.link).decode(slot.lease, slot.datagram)


@pytest.fixture
def ends():
    """Makes ends; ended whatever happens."""
    made = []

    def make(node, **options):
        made.append(End(node, **options))
        return made[-1]

    yield make
    for end in made:
        end.disk.let_go.set()
        assert end.links.close(5.0) == ()


# --- the sender -----------------------------------------------------------------------------


def test_links_each_write_is_read_back_and_told(ends):
    """The event names the beat, and a time from before the write."""
    end = ends(NODES[0])
    for sequence in (1, 2, 3):
        before = boot_clock()
        end.send(make_beat(sequence))
        event = end.written(sequence)
        assert event == SlotWritten(end.link.id, 7, sequence, event.began_at)
        assert before <= event.began_at <= boot_clock()
    assert end.disk.reads == 4, "one before the first write, one behind each"


def test_links_a_write_that_hung_counts_from_before_it(ends):
    """However long the disk holds a write, its time is from before it, and a later one has its own."""
    end = ends(NODES[0])
    end.disk.let_go.clear()
    end.send(make_beat(1))
    assert end.disk.is_hanging.wait(5.0)
    while_hanging = boot_clock()
    end.send(make_beat(2))
    end.disk.let_go.set()
    assert end.written(1).began_at < while_hanging < end.written(2).began_at


@pytest.mark.parametrize("is_lost", [True, False])
def test_links_a_write_that_is_not_there_is_a_failure(ends, is_lost):
    """A carrier that says it wrote, and did not, or that another node overwrote, renews nothing."""
    end = ends(NODES[0], timeout_s=0.2)
    end.send(make_beat(1))
    end.written(1)
    end.disk.loses_writes = is_lost
    end.disk.overwritten_by = make_slot(end.link, 9)
    end.send(make_beat(2))
    assert end.failed().reason == (
        "/made/up: what is read back from 0 differs: written by another node, or the write was lost"
    )
    wait_until(lambda: end.links.counters()[0].failing)
    assert end.inbox.empty(), "and no SlotWritten"


def test_links_a_read_back_that_fails_is_a_failure(ends):
    """A slot that cannot be read renews nothing, although it was written; the next write may."""
    end = ends(NODES[0], timeout_s=0.2)
    end.send(make_beat(1))
    end.written(1)
    end.disk.read_failure = OSError(5, "unreadable")
    end.send(make_beat(2))
    assert end.failed().reason == "unreadable"
    assert len(end.disk.written) == 2
    end.disk.read_failure = None
    sequence = 2

    def was_written():
        nonlocal sequence
        sequence += 1
        end.send(make_beat(sequence))
        return not end.inbox.empty()

    wait_until(was_written)
    assert isinstance(end.inbox.get_nowait(), SlotWritten)


def test_links_the_lease_block_is_of_its_beat(ends):
    """Node, life, sequence, T and claim are the beat's; the write number grows with each write."""
    end = ends(NODES[0])
    end.send(make_beat(1))
    end.written(1)
    end.send(make_beat(2, longest_timeout_s=0.5, claims=NODES[1]))
    end.written(2)
    first, second = end.lease(0), end.lease(1)
    assert first == make_lease(1, writes=first.writes)
    assert second == make_lease(2, writes=second.writes, longest_timeout_s=0.5, claims=NODES[1])
    assert second.writes > first.writes


def test_links_write_numbers_grow_over_a_reload(ends):
    """The next sender of the same life numbers its writes above those of the one before."""
    before, after = ends(NODES[0]), ends(NODES[0])
    for end in (before, after):
        end.send(make_beat(1))
        end.written(1)
    assert after.lease().writes > before.lease().writes


def own_link(**changes):
    """The line that `End` is an end of."""
    return make_link(type=LinkType.DIO, device="/made/up", address="0", port=0, **changes)


@pytest.mark.parametrize("incarnation", [7, 9])
def test_links_a_slot_above_our_beat_is_left_as_it_is_and_told(ends, incarnation):
    """The lives of a node whose store is lost are told by its slot, as long as no beat is above them."""
    content = make_slot(own_link(), 5, incarnation=incarnation)
    end = ends(NODES[0], content=content)
    for sequence in (1, 2):
        end.send(make_beat(sequence))
        found = take_until(end.inbox, lambda event: isinstance(event, SlotFound))
        assert found == [SlotFound(end.link.id, incarnation, 5)], "told again by every beat, and no failure"
    assert (end.disk.content, end.disk.written) == (content, [])
    counters = wait_until(lambda: end.links.counters()[0].note and end.links.counters()[0])
    assert counters.note == f"not written: it holds incarnation {incarnation} sequence 5 of this node"
    assert (counters.sent, counters.last_at, counters.failing) == (0, None, False)
    end.send(make_beat(1, incarnation=incarnation + 1))
    end.written(1)
    wait_until(lambda: end.links.counters()[0].sent == 1)
    assert end.links.counters()[0].note == ""


def contents_of_no_life():
    """Slots that say nothing of our lives, by what they are."""
    other = make_link(type=LinkType.DIO, device="/made/up", address="10", port=0)
    whole = make_slot(own_link(), 5, incarnation=9)
    yield "never written", bytes(SLOT_BYTES)
    yield "foreign", b"\x55" * SLOT_BYTES
    yield "torn", whole[:1024] + make_slot(own_link(), 6, incarnation=9)[1024:]
    yield "of another line", make_slot(other, 5, incarnation=9)
    yield "of another node", make_slot(own_link(), 5, incarnation=9, sender=NODES[1])
    yield "not authentic", whole[:1000] + b"x" + whole[1001:]
    yield "without a lease", make_slot(own_link(), 5, incarnation=9, lease=bytes(512))
    yield "of an earlier life", make_slot(own_link(), 5, incarnation=6)
    yield "of this life, before a reload", make_slot(own_link(), 1)


@pytest.mark.parametrize("content", [pytest.param(c, id=name) for name, c in contents_of_no_life()])
def test_links_a_slot_that_is_not_above_our_beat_is_written(ends, content):
    """Only what is authentically ours, and later, keeps a beat from being written."""
    end = ends(NODES[0], content=content)
    end.send(make_beat(1))
    assert isinstance(end.written(1), SlotWritten)
    assert end.inbox.empty()


def test_links_a_slot_is_read_before_its_first_write_again_after_a_failure(ends):
    """What came there meanwhile, by a write that hung, is told and not lost."""
    end = ends(NODES[0], timeout_s=0.2)
    end.send(make_beat(1))
    end.written(1)
    end.disk.overwritten_by = make_slot(end.link, 3, incarnation=8)
    end.send(make_beat(2))
    end.failed()
    end.disk.overwritten_by = None

    def was_told():
        end.send(make_beat(3))
        return not end.inbox.empty()

    wait_until(was_told)
    assert end.inbox.get_nowait() == SlotFound(end.link.id, 8, 3)


def test_links_a_slot_that_hangs_holds_nobody_up(ends):
    """The read before the first write is the link's own thread's affair, as every other."""
    end = ends(NODES[0], content=make_slot(own_link(), 5, incarnation=9))
    end.disk.let_go.clear()
    end.send(make_beat(1))
    assert end.disk.is_hanging.wait(5.0)
    end.send(make_beat(2))
    assert end.inbox.empty()
    end.disk.let_go.set()
    assert end.inbox.get(timeout=5.0) == SlotFound(end.link.id, 9, 5)


def test_links_a_claim_does_not_wait_for_a_table(ends):
    """A beat offered while a long table is on its way is in the very next write, with its claim."""
    end = ends(NODES[0], clock=HandClock())
    beat = make_beat(1, services=1000)
    end.send(beat, with_table=True)
    end.written(1)
    end.send(make_beat(2, table_digest=beat.table_digest, claims=NODES[1]))
    end.written(2)
    assert len(end.disk.written) == 2
    assert (end.lease().sequence, end.lease().claims) == (2, NODES[1])


def opened(end):
    """What a reader who saw every write made of them."""
    opener = Opener(KEYRING, end.link, {}, NODES[1])
    return [opener.open(datagram) for datagram in end.disk.datagrams()]


def is_complete(end):
    """Tell whether the newest write completed a table."""
    newest = opened(end)[-1]
    return isinstance(newest, Beat) and newest.table is not None


def write_to_the_end(end, clock):
    """Let each piece stand for as long as it must, until the table is complete."""
    while not is_complete(end):
        count = len(end.disk.written)
        clock.now += 0.5
        wait_until(lambda count=count: len(end.disk.written) > count)


def test_links_a_piece_stands_until_it_was_seen(ends):
    """A beat offered too early repeats the piece that stands; the table is still complete in the end."""
    clock = HandClock()
    end = ends(NODES[0], clock=clock)
    beat = make_beat(1, services=1000)
    end.send(beat, with_table=True)
    end.written(1)
    for sequence in (2, 3, 4, 5):
        end.send(make_beat(sequence, table_digest=beat.table_digest))
        end.written(sequence)
    assert [one.table for one in opened(end)] == [None] * 5, "not even a table in five pieces is complete"
    write_to_the_end(end, clock)
    assert opened(end)[-1] == make_beat(5, services=1000)
    assert all(isinstance(one, (Beat, PieceKept)) for one in opened(end)), "nothing was shown twice"


def test_links_a_table_asked_for_once_more_on_its_way_is_written_again(ends):
    """Who missed the first piece gets it after the last one, with the next beat."""
    clock = HandClock()
    end = ends(NODES[0], clock=clock)
    end.send(make_beat(1, services=1000), with_table=True)
    end.written(1)
    write_to_the_end(end, clock)
    first_time = len(end.disk.written)
    end.send(make_beat(2, services=1000), with_table=True)
    end.written(2)
    clock.now += 0.5
    del end.disk.written[:]
    end.send(make_beat(3, table_digest=make_beat(1, services=1000).table_digest))
    end.written(3)
    write_to_the_end(end, clock)
    assert len(end.disk.written) == first_time
    assert opened(end)[-1] == make_beat(3, services=1000)


def test_links_a_table_in_one_piece_is_written_once(ends):
    """Nothing is written without a beat when the table has no more pieces; no reader counts a replay."""
    clock = HandClock()
    one, many = ends(NODES[0], clock=clock), ends(NODES[0], clock=clock)
    one.send(make_beat(1, services=3), with_table=True)
    one.written(1)
    many.send(make_beat(1, services=1000), with_table=True)
    many.written(1)
    write_to_the_end(many, clock)
    assert len(one.disk.written) == 1
    one.send(make_beat(2, services=3))
    one.written(2)
    assert opened(one) == [
        make_beat(1, services=3),
        make_beat(2, table_digest=make_beat(1, services=3).table_digest),
    ]


# --- the listener ---------------------------------------------------------------------------


def test_links_an_answer_is_of_a_read_begun_after_the_question(ends):
    """Each question has a read of its own, however recently the slot was read."""
    content = make_slot(make_link(type=LinkType.DIO, device="/made/up", address="0", port=0))
    end = ends(NODES[1], content=content)
    reads = []
    for token in (1, 2, 3):
        asked_at = boot_clock()
        before = end.disk.reads
        view = end.view(token)
        assert asked_at <= view.read_at <= boot_clock()
        assert end.disk.reads > before
        reads.append(view)
    assert len({view.unchanged_since for view in reads}) == 1
    assert reads[0].unchanged_since >= reads[0].read_at
    assert (reads[0].problem, reads[0].longest_timeout_s) == ("", 10.0)


def test_links_reads_at_the_usual_pace_keep_the_view(ends):
    """A slot that stands still has one first sight over many reads, and none of them is a beat."""
    link = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0)
    end = ends(NODES[1], timeout_s=0.2, content=make_slot(link))
    first = end.view(1)
    wait_until(lambda: end.disk.reads > 10)
    later = end.view(2)
    assert (later.unchanged_since, later.digest) == (first.unchanged_since, first.digest)
    end.disk.content = make_slot(link, 2)
    taken = end.ask(3)
    assert [type(event) for event in taken] == [BeatReceived, LinkDrained]
    assert taken[-1].slot.unchanged_since > later.read_at
    assert taken[-1].slot.digest != first.digest


def test_links_a_failing_read_resets_the_view(ends):
    """While the path fails the answer has no view; what stands there afterwards is a first sight."""
    link = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0)
    end = ends(NODES[1], timeout_s=0.2, content=make_slot(link))
    first = end.view(1)
    end.disk.failure = OSError(5, "dead")
    assert end.failed().reason == "dead"
    assert end.view(2) is None
    assert end.view(3) is None
    end.disk.failure = None
    wait_until(lambda: not end.links.counters()[0].failing)
    after = end.view(4)
    assert after.unchanged_since > first.read_at
    assert after.digest == first.digest
    assert end.view(5).unchanged_since == after.unchanged_since


def test_links_a_torn_slot_is_a_first_sight_of_every_read(ends):
    """A write that was cut is no beat, and nobody can say since when the slot is unchanged."""
    link = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0)
    torn = make_slot(link, 2)[:1024] + make_slot(link, 1)[1024:]
    end = ends(NODES[1], content=torn)
    views = [end.view(token) for token in (1, 2, 3)]
    assert {view.problem for view in views} == {"torn"}
    assert all(view.unchanged_since >= view.read_at for view in views)
    assert wait_until(lambda: end.links.counters()[0].note) == "torn"


def test_links_a_read_that_hung_is_told_with_its_own_time(ends):
    """A question asked before a hang is answered after it, by a read begun before and seen after it."""
    link = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0)
    end = ends(NODES[1], content=make_slot(link))
    end.view(1)
    end.disk.let_go.clear()
    end.links.ask(2)
    assert end.disk.is_hanging.wait(5.0)
    hung_at = boot_clock()
    end.disk.content = make_slot(link, 2)
    end.links.ask(3)
    timer = threading.Timer(0.05, end.disk.let_go.set)
    timer.start()
    answers = take_until(end.inbox, lambda event: isinstance(event, LinkDrained) and event.token == 3)
    timer.join()
    first, second = [event for event in answers if isinstance(event, LinkDrained)]
    assert first.token == 2
    assert first.slot.read_at <= hung_at <= first.slot.unchanged_since
    assert second.slot.read_at > hung_at
    assert second.slot.unchanged_since == first.slot.unchanged_since


def test_links_a_lower_sequence_in_a_slot_is_told_and_refused(ends):
    """An older write that comes back is counted as a replay, and its view has the reason."""
    link = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0)
    end = ends(NODES[1], content=make_slot(link, 5))
    end.view(0)
    end.disk.content = make_slot(link, 6)
    end.view(1)
    end.disk.content = make_slot(link, 4)
    assert end.view(2).problem.startswith("older than what was read: incarnation 7 sequence 4")
    assert end.links.counters()[0].rejected == {RejectReason.REPLAYED: 1}


def test_links_a_node_that_begins_below_our_first_sight_of_its_slot_is_heard(ends):
    """Its store is lost, its slot was torn, and we never heard it: its second write is a beat."""
    link = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0)
    end = ends(NODES[1], content=make_slot(link, 900))
    end.view(1)
    end.disk.content = make_slot(link, 1)
    assert [type(event) for event in end.ask(2)] == [LinkDrained], "first seen, no beat"
    end.disk.content = make_slot(link, 2)
    heard, _ = end.ask(3)
    assert (heard.beat.sequence, end.links.counters()[0].rejected) == (2, {})
    end.disk.content = make_slot(link, 1)
    assert end.view(4).problem.startswith("older than what was read")
    assert end.links.counters()[0].rejected == {RejectReason.REPLAYED: 1}


def test_links_the_slot_of_a_life_below_the_one_known_is_no_lease(ends):
    """What was accepted from a node before this daemon began counts for its slot, too."""
    link = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0)
    end = ends(NODES[1], content=make_slot(link), floors={NODES[0]: 8})
    assert end.view(1).problem == "of an older life: incarnation 7, while 8 was heard"


# --- devices --------------------------------------------------------------------------------


@pytest.fixture
def image():
    """An image file on a file system with direct I/O."""
    with tempfile.TemporaryDirectory(prefix="links-", dir="/var/tmp") as directory:
        path = Path(directory) / "hb.img"
        path.write_bytes(bytes(1 << 20))
        yield path


class NoDirect(DioCarrier):
    """A file system that refuses to open for direct I/O."""

    def open_device(self, role):
        """Refuse."""
        raise OSError(22, "no direct I/O")


class NoDirectTransfer(DioCarrier):
    """A file system that refuses direct I/O at the first transfer."""

    def read_slot(self, descriptor):
        """Refuse."""
        raise OSError(22, "no direct I/O")


class BufferedDisk(DiskCarrier, NoDirect):
    """A disk link on such a file system."""


class LateBufferedDisk(DiskCarrier, NoDirectTransfer):
    """A disk link on such a file system."""


@pytest.mark.parametrize("kind", [BufferedDisk, LateBufferedDisk])
def test_links_a_disk_link_does_without_direct_io_and_says_so(image, kind):
    """Where the kernel refuses direct I/O, a disk link works through the cache, which is a note."""
    link = make_link(type=LinkType.DISK, device=str(image), address="10", port=0)
    ends = [kind(link, KEYRING.cluster_tag) for _ in range(2)]
    for end, role in zip(ends, (LinkRole.SENDER, LinkRole.LISTENER)):
        end.open(role)
        assert end.note == BUFFERED_NOTE
    for sequence in (1, 2):
        content = make_slot(link, sequence)
        ends[0].write(content)
        assert ends[0].read() == ends[1].read() == content
        assert image.read_bytes()[5120:10240] == content
    for end in ends:
        end.close()


@pytest.mark.parametrize("kind", [LinkType.DIO, LinkType.DISK])
def test_links_a_write_to_a_file_is_read_back_past_the_cache(image, kind):
    """On a real file the beat is where other nodes read it before it is told to be."""
    link = make_link(type=kind, device=str(image), address="0", port=0)
    inbox = queue.SimpleQueue()
    links = Links(make_config(NODES[0], [link]), KEYRING, {}, inbox.put, boot_clock, CARRIERS)
    links.start()
    try:
        for sequence in (1, 2, 3):
            links.send(make_beat(sequence), with_table=False)
            event = take_until(inbox, lambda event: isinstance(event, SlotWritten))[-1]
            assert event.sequence == sequence
            descriptor = os.open(image, os.O_RDONLY)
            slot = decode_slot(os.pread(descriptor, SLOT_BYTES, 0), KEYRING.cluster_tag)
            os.close(descriptor)
            assert make_seal(link).decode(slot.lease, slot.datagram).sequence == sequence
        assert links.counters()[0].note == ""
    finally:
        assert links.close(5.0) == ()


@pytest.mark.parametrize("kind", [LinkType.DIO, LinkType.DISK])
def test_links_a_node_without_a_store_finds_its_lives_in_a_file(image, kind):
    """A daemon's first beat of a new life meets what the life before it wrote, on a real file."""
    link = make_link(type=kind, device=str(image), address="0", port=0)
    for beat, event_type in ((make_beat(900), SlotWritten), (make_beat(1), SlotFound)):
        inbox = queue.SimpleQueue()
        links = Links(make_config(NODES[0], [link]), KEYRING, {}, inbox.put, boot_clock, CARRIERS)
        links.start()
        try:
            links.send(beat, with_table=False)
            event = inbox.get(timeout=5.0)
        finally:
            assert links.close(5.0) == ()
        assert isinstance(event, event_type)
        assert (event.link_id, event.incarnation, event.sequence) == (link.id, 7, 900)
