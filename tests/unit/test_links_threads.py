"""Links between two nodes of one process, over loopback and image files, and with made-up carriers."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import random
import shutil
import socket
import tempfile
import threading
from pathlib import Path

import pytest
from links_builders import (
    KEYRING,
    NODES,
    MemoryDisk,
    MemorySlot,
    boot_clock,
    make_beat,
    make_config,
    make_link,
    make_slot,
    make_table,
    take_until,
    wait_until,
)

from opensvc_hb.core.config import LinkType
from opensvc_hb.core.events import BeatReceived, LinkDrained, LinkFailed
from opensvc_hb.links.base import CARRIERS, Links
from opensvc_hb.links.carrier import LinkRole
from opensvc_hb.links.codec_native import Opener, RejectReason, Sealer
from opensvc_hb.links.keyring import ClusterKey, Keyring
from opensvc_hb.links.slot import SLOT_BYTES

TYPES = list(LinkType)
NETWORKS = [kind for kind in TYPES if not kind.is_disk]
DISKS = [kind for kind in TYPES if kind.is_disk]


@pytest.fixture
def image():
    """A sparse image file on a file system with direct I/O (a tmpfs may have none)."""
    directory = Path(tempfile.mkdtemp(prefix="links-", dir="/var/tmp"))
    path = directory / "hb.img"
    path.write_bytes(bytes(1 << 20))
    yield path
    shutil.rmtree(directory)


def free_port():
    """A UDP port that nobody has at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def real_link(kind, image, node=NODES[0], timeout_s=1.0, offset=0):
    """A line of a type, on loopback or on the image."""
    values = {"node": node, "type": kind, "timeout_s": timeout_s}
    if kind.is_disk:
        return make_link(**values, device=str(image), address=str(offset), port=0)
    # Another test process on this machine must not share the group.
    group = f"239.131.{random.randrange(256)}.{random.randrange(1, 255)}"
    address = group if kind is LinkType.NET else "127.0.0.1"
    return make_link(**values, device="lo", address=address, port=free_port())


class Cluster:
    """Links objects by node, each with its inbox; closed at the end of the test."""

    def __init__(self):
        self.inbox = {}
        self.links = {}

    def start(self, node, lines, keyring=KEYRING, floors=None, carriers=CARRIERS, clock=boot_clock):
        """Start the links of one node; wait until its carriers had their first try."""
        self.inbox[node] = queue.SimpleQueue()
        self.links[node] = Links(
            make_config(node, lines), keyring, floors or {}, self.inbox[node].put, clock, carriers
        )
        self.links[node].start()
        return self.links[node]

    def drain(self, node, token=1):
        """Ask the listeners of a node; return everything that came before the last answer."""
        asked = set(self.links[node].ask(token))

        def is_last(event):
            if isinstance(event, LinkDrained) and event.token == token:
                asked.discard(event.link_id)
            return not asked

        return take_until(self.inbox[node], is_last)

    def counters(self, node):
        """The counters of the only link of a node."""
        [counters] = self.links[node].counters()
        return counters

    def close(self):
        """End all threads."""
        for links in self.links.values():
            links.close(5.0)


@pytest.fixture
def cluster():
    """Two nodes; ended whatever happens."""
    made = Cluster()
    yield made
    made.close()


def beats_of(events):
    """The beats among the events."""
    return [event.beat for event in events if isinstance(event, BeatReceived)]


def is_beat(sequence):
    """A condition: the beat with this sequence was received."""
    return lambda event: isinstance(event, BeatReceived) and event.beat.sequence == sequence


# --- what every type of link does -------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_links_a_beat_arrives_as_it_was_sent(cluster, image, kind):
    """Steady beats and beats with a table arrive on every type of link, and are counted."""
    link = real_link(kind, image)
    cluster.start(NODES[1], [link])
    cluster.drain(NODES[1])
    cluster.start(NODES[0], [link])
    cluster.links[NODES[0]].send(make_beat(sequence=1), with_table=False)
    [first] = beats_of(take_until(cluster.inbox[NODES[1]], is_beat(1)))
    assert first == make_beat(sequence=1)
    cluster.links[NODES[0]].send(make_beat(sequence=2, services=2), with_table=True)
    taken = take_until(cluster.inbox[NODES[1]], is_beat(2))
    assert taken[-1] == BeatReceived(link.id, make_beat(sequence=2, services=2))
    received = wait_until(lambda: (now := cluster.counters(NODES[1])).received == 2 and now)
    assert (received.role, received.link_id, received.rejected) == (LinkRole.LISTENER, link.id, {})
    assert received.last_at == pytest.approx(boot_clock(), abs=5)
    sent = wait_until(lambda: (now := cluster.counters(NODES[0])).sent == 2 and now)
    assert (sent.role, sent.errors, sent.failing, sent.note) == (LinkRole.SENDER, 0, False, "")


@pytest.mark.parametrize("kind", TYPES)
def test_links_a_table_of_a_thousand_services_arrives(cluster, image, kind):
    """A long table comes in several datagrams, or several writes of a slot."""
    link = real_link(kind, image, timeout_s=0.4)
    cluster.start(NODES[1], [link])
    cluster.drain(NODES[1])
    cluster.start(NODES[0], [link])
    beat = make_beat(sequence=1, services=1000)
    cluster.links[NODES[0]].send(beat, with_table=True)
    taken = take_until(cluster.inbox[NODES[1]], lambda event: event.beat.table is not None)
    assert taken[0].beat.table is None
    assert taken[-1].beat == beat


def test_links_a_network_rests_after_a_long_table_and_goes_on_with_the_newest(cluster):
    """What is offered during the rest goes out together: the peer has not twenty tables to read, but few."""
    link = real_link(LinkType.UNICAST, None)
    cluster.start(NODES[1], [link])
    cluster.drain(NODES[1])
    sender = cluster.start(NODES[0], [link])
    table = make_table(1000)
    for sequence in range(1, 21):
        sender.send(make_beat(sequence, table=table, table_digest=bytes([sequence])), with_table=True)
    heard = beats_of(take_until(cluster.inbox[NODES[1]], is_beat(20)))
    assert len({beat.sequence for beat in heard}) < 20
    assert heard[-1].sequence == 20


@pytest.mark.parametrize("kind", TYPES)
def test_links_asked_listeners_hand_over_everything_before_they_answer(cluster, image, kind):
    """What had arrived before the question comes before the answer, on every type of link."""
    link = real_link(kind, image, timeout_s=3600.0)
    cluster.start(NODES[1], [link])
    cluster.drain(NODES[1])
    cluster.start(NODES[0], [link])
    cluster.links[NODES[0]].send(make_beat(sequence=1), with_table=False)
    wait_until(lambda: cluster.counters(NODES[0]).sent == 1)
    taken = [*drain_inbox(cluster.inbox[NODES[1]]), *cluster.drain(NODES[1], token=7)]
    assert [beat.sequence for beat in beats_of(taken)] == [1]
    assert (taken[-1].link_id, taken[-1].token) == (link.id, 7)
    assert (taken[-1].slot is not None) == kind.is_disk


def drain_inbox(inbox):
    """Everything that is there now."""
    taken = []
    while not inbox.empty():
        taken.append(inbox.get_nowait())
    return taken


@pytest.mark.parametrize("kind", TYPES)
def test_links_beats_of_another_cluster_are_counted_and_nothing_else(cluster, image, kind):
    """Another cluster on the same group, address or slot is no beat, and is told."""
    link = real_link(kind, image)
    cluster.start(NODES[1], [link])
    cluster.drain(NODES[1])
    cluster.start(NODES[0], [link], keyring=Keyring(b"other cluster id", (ClusterKey(1, b"k" * 32),)))
    cluster.links[NODES[0]].send(make_beat(sequence=1), with_table=False)
    if kind.is_disk:
        counters = wait_until(
            lambda: (now := cluster.counters(NODES[1])).note == "of another cluster" and now
        )
    else:
        counters = wait_until(lambda: (now := cluster.counters(NODES[1])).rejected and now)
        assert counters.rejected == {RejectReason.FOREIGN_CLUSTER: 1}
        assert counters.last_rejection.startswith("of the cluster with tag ")
    assert counters.received == 0
    assert beats_of(cluster.drain(NODES[1])) == []


@pytest.mark.parametrize("kind", TYPES)
def test_links_threads_end_and_are_named(cluster, image, kind):
    """A thread's name tells its type, end and path; closing ends it at once."""
    link = real_link(kind, image)
    cluster.start(NODES[1], [link])
    cluster.drain(NODES[1])
    name = f"{kind.value}-listen {link.device}:{link.address}"
    assert name in [thread.name for thread in threading.enumerate()]
    assert cluster.links[NODES[1]].close(5.0) == ()
    assert name not in [thread.name for thread in threading.enumerate()]
    cluster.links[NODES[1]].ask(9)  # a late question disturbs nobody


@pytest.mark.parametrize("kind", TYPES)
def test_links_what_was_said_last_is_still_sent(cluster, image, kind):
    """A beat offered right before the end leaves: it may say that this node goes."""
    link = real_link(kind, image)
    cluster.start(NODES[1], [link])
    cluster.drain(NODES[1])
    cluster.start(NODES[0], [link])
    cluster.links[NODES[0]].send(make_beat(sequence=1, left=True), with_table=False)
    assert cluster.links[NODES[0]].close(5.0) == ()
    assert take_until(cluster.inbox[NODES[1]], is_beat(1))[-1].beat.left


# --- networks -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
def test_links_junk_on_the_port_is_counted_by_reason(cluster, image, kind):
    """Junk, an OpenHA structure and a replay are counted by reason; the next beat counts as ever."""
    link = real_link(kind, image)
    cluster.start(NODES[1], [link])
    cluster.drain(NODES[1])
    carrier = CARRIERS[kind](link, KEYRING.cluster_tag)
    carrier.open(LinkRole.SENDER)
    sealer = Sealer(KEYRING, NODES[0], link.id)
    [first] = sealer.seal(make_beat(sequence=1), with_table=False)
    [second] = sealer.seal(make_beat(sequence=2), with_table=False)
    for data in (b"", b"junk", bytes(9384), first[:-1], first, first, first, second):
        carrier.write(data)
    carrier.close()
    taken = beats_of(take_until(cluster.inbox[NODES[1]], is_beat(2)))
    assert [beat.sequence for beat in taken] == [1, 2]
    counters = wait_until(lambda: (now := cluster.counters(NODES[1])).received == 2 and now)
    assert counters.rejected == {
        RejectReason.TOO_SHORT: 2,
        RejectReason.NOT_OURS: 1,
        RejectReason.NOT_AUTHENTIC: 1,
        RejectReason.REPLAYED: 2,
    }


@pytest.mark.parametrize("kind", NETWORKS)
def test_links_a_flood_does_not_keep_a_listener_from_answering(cluster, image, kind):
    """A question is answered while junk keeps coming without a pause."""
    link = real_link(kind, image)
    cluster.start(NODES[1], [link])
    cluster.drain(NODES[1])
    carrier = CARRIERS[kind](link, KEYRING.cluster_tag)
    carrier.open(LinkRole.SENDER)
    is_over = threading.Event()

    def flood():
        while not is_over.is_set():
            with contextlib.suppress(BlockingIOError):
                carrier.write(b"junk" * 50)

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        wait_until(lambda: cluster.counters(NODES[1]).rejected)
        for token in (1, 2, 3):
            assert cluster.drain(NODES[1], token)[-1] == LinkDrained(link.id, token)
    finally:
        is_over.set()
        flooding.join()
        carrier.close()


def test_links_an_interface_that_is_missing_is_reported_once():
    """A missing interface is one event per end of a link, however often it is tried."""
    link = make_link(device="no-such-if", timeout_s=0.2)
    inbox = queue.SimpleQueue()
    links = Links(make_config(NODES[1], [link]), KEYRING, {}, inbox.put, boot_clock)
    links.start()
    try:
        wait_until(lambda: links.counters()[0].errors >= 3)
        assert drain_inbox(inbox) == [LinkFailed(link.id, "interface no-such-if does not exist")]
        assert links.counters()[0].failing
        links.ask(5)
        taken = take_until(inbox, lambda event: isinstance(event, LinkDrained))
        assert taken == [LinkDrained(link.id, 5)]
    finally:
        assert links.close(5.0) == ()


# --- disks --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DISKS)
def test_links_the_first_content_of_a_slot_is_no_beat(cluster, image, kind):
    """What a dead node left in its slot is never taken for a beat, nor what is below it, nor a replay."""
    link = real_link(kind, image, timeout_s=0.2)
    slots = [make_slot(link, sequence) for sequence in (1, 2, 3)]
    write_slot(image, slots[1])
    cluster.start(NODES[1], [link])
    assert beats_of(cluster.drain(NODES[1])) == []
    assert cluster.counters(NODES[1]).last_at is None
    write_slot(image, slots[0])
    assert beats_of(cluster.drain(NODES[1])) == []
    write_slot(image, slots[2])
    taken = take_until(cluster.inbox[NODES[1]], is_beat(3))
    assert [beat.sequence for beat in beats_of(taken)] == [3]
    write_slot(image, slots[1])
    assert beats_of(cluster.drain(NODES[1])) == []
    assert cluster.counters(NODES[1]).rejected == {RejectReason.REPLAYED: 1}


def write_slot(image, content, position=0):
    """Write a slot as another node would, in one piece."""
    descriptor = os.open(image, os.O_WRONLY)
    try:
        os.pwrite(descriptor, content, position)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("kind", DISKS)
def test_links_the_note_tells_what_a_slot_holds(cluster, image, kind):
    """Never written, foreign, torn: each is a note on the link, none of them a beat."""
    link = real_link(kind, image, timeout_s=0.2)
    cluster.start(NODES[1], [link])
    wait_until(lambda: cluster.counters(NODES[1]).note == "never written")
    write_slot(image, b"LABELONE".ljust(SLOT_BYTES, b"\0"))
    wait_until(lambda: cluster.counters(NODES[1]).note == "foreign content")
    slot = make_slot(link)
    write_slot(image, slot[:512])
    wait_until(lambda: cluster.counters(NODES[1]).note == "torn")
    write_slot(image, slot)
    take_until(cluster.inbox[NODES[1]], is_beat(1))
    wait_until(lambda: cluster.counters(NODES[1]).note == "")


@pytest.mark.parametrize("kind", DISKS)
def test_links_a_sender_says_when_it_replaces_what_is_not_ours(cluster, image, kind):
    """A slot that held something else is overwritten, as OpenHA does, and that is said."""
    write_slot(image, b"LABELONE".ljust(SLOT_BYTES, b"\0"))
    cluster.start(NODES[0], [real_link(kind, image)])
    cluster.links[NODES[0]].send(make_beat(), with_table=False)
    wait_until(lambda: cluster.counters(NODES[0]).note == "replaced a slot: foreign content")


@pytest.mark.parametrize("kind", DISKS)
def test_links_a_disk_that_comes_back_is_used_again(cluster, image, kind):
    """A missing device is reported once on each side; when it is there, beats flow without a restart."""
    away = image.with_suffix(".away")
    image.rename(away)
    link = real_link(kind, image, timeout_s=0.4)
    for node in NODES:
        cluster.start(node, [link])
    cluster.links[NODES[0]].send(make_beat(sequence=1), with_table=False)
    for node in NODES:
        [failed] = take_until(cluster.inbox[node], lambda event: isinstance(event, LinkFailed))
        assert failed == LinkFailed(link.id, f"{image} cannot be opened: No such file or directory")
    away.rename(image)
    wait_until(lambda: cluster.counters(NODES[1]).note == "never written")
    sequence = 1

    def a_beat_was_sent():
        nonlocal sequence
        sequence += 1
        cluster.links[NODES[0]].send(make_beat(sequence=sequence), with_table=False)
        return cluster.counters(NODES[0]).sent > 0

    wait_until(a_beat_was_sent)
    take_until(cluster.inbox[NODES[1]], lambda event: isinstance(event, BeatReceived))
    assert not wait_until(lambda: cluster.counters(NODES[0])).failing
    assert [event for event in drain_inbox(cluster.inbox[NODES[1]]) if isinstance(event, LinkFailed)] == []


@pytest.mark.parametrize("kind", DISKS)
def test_links_a_device_that_is_too_small_is_said(cluster, image, kind):
    """A slot behind the end of the device fails with its numbers, on both ends."""
    os.truncate(image, 4096)
    link = real_link(kind, image)
    for node in NODES:
        cluster.start(node, [link])
    cluster.links[NODES[0]].send(make_beat(), with_table=False)
    for node in NODES:
        [failed] = take_until(cluster.inbox[node], lambda event: isinstance(event, LinkFailed))
        assert failed.reason == f"{image}: 4096 of 5120 bytes at 0: too small"


@pytest.mark.parametrize("kind", DISKS)
def test_links_neighbouring_slots_leave_each_other_alone(cluster, image, kind):
    """The tutorial's offsets, 0 and 10: both nodes write in turn, and hear every beat of the other."""
    lines = [real_link(kind, image, node, 0.2, offset) for node, offset in zip(NODES, (0, 10))]
    for node in NODES:
        cluster.start(node, lines)
    for node in NODES:
        cluster.drain(node)
    for sequence in range(1, 6):
        for node in NODES:
            cluster.links[node].send(make_beat(sequence=sequence, sender=node), with_table=False)
            hears = NODES[1 - NODES.index(node)]
            take_until(cluster.inbox[hears], is_beat(sequence))


# --- made-up carriers -----------------------------------------------------------------------


@pytest.fixture
def hanging():
    """A disk that hangs until it is let go, and a map of carriers in which it is every dio link's."""
    disk = MemoryDisk()
    disk.let_go.clear()
    yield {**CARRIERS, LinkType.DIO: disk.carrier}, disk
    disk.let_go.set()


def test_links_a_hung_disk_delays_no_other_link(cluster, image, hanging):
    """While a disk hangs, sending does not block, the network's beats flow, and closing gives up on it."""
    carriers, disk = hanging
    net, dio = real_link(LinkType.NET, image), real_link(LinkType.DIO, image)
    cluster.start(NODES[1], [net])
    cluster.drain(NODES[1])
    cluster.start(NODES[0], [net, dio], carriers=carriers)
    for sequence in range(1, 51):
        cluster.links[NODES[0]].send(make_beat(sequence=sequence), with_table=False)
        take_until(cluster.inbox[NODES[1]], is_beat(sequence))
    assert disk.is_hanging.wait(5.0)
    assert disk.written == []
    assert cluster.links[NODES[0]].close(0.1) == (dio.id,)
    assert not disk.let_go.is_set()


def test_links_a_disk_that_wakes_writes_what_is_true_then(cluster, image, hanging):
    """After a hang the newest beat is written, not those of the past; a wanted table is not forgotten."""
    carriers, disk = hanging
    dio = real_link(LinkType.DIO, image)
    cluster.start(NODES[0], [dio], carriers=carriers)
    cluster.links[NODES[0]].send(make_beat(sequence=1), with_table=False)
    assert disk.is_hanging.wait(5.0)
    for sequence in range(2, 40):
        cluster.links[NODES[0]].send(make_beat(sequence=sequence, services=3), with_table=sequence == 5)
    disk.let_go.set()
    wait_until(lambda: len(disk.written) >= 2)
    opener = Opener(KEYRING, dio, {}, NODES[1])
    opened = [opener.open(datagram) for datagram in disk.datagrams()]
    assert [beat.sequence for beat in opened] == [1, 39]
    assert opened[-1] == make_beat(sequence=39, services=3)


def test_links_a_hung_listener_does_not_answer_and_delays_no_other(cluster, image, hanging):
    """A listener that hangs gives no answer; the others answer at once."""
    carriers, disk = hanging
    net, dio = real_link(LinkType.NET, image), real_link(LinkType.DIO, image)
    cluster.start(NODES[1], [net, dio], carriers=carriers)
    assert disk.is_hanging.wait(5.0)
    assert cluster.links[NODES[1]].ask(3) == (net.id, dio.id)
    taken = take_until(cluster.inbox[NODES[1]], lambda event: isinstance(event, LinkDrained))
    assert taken == [LinkDrained(net.id, 3)]
    assert cluster.links[NODES[1]].close(0.1) == (dio.id,)


def failing_links(cluster, node, image):
    """A started node with one dio link; return its disk, which fails as told."""
    disk = MemoryDisk()
    line = real_link(LinkType.DIO, image, timeout_s=0.2)
    cluster.start(node, [line], carriers={LinkType.DIO: disk.carrier})
    return disk


def test_links_a_failure_is_told_once_per_reason(cluster, image):
    """The same reason is one event, another reason another, and after a recovery the first one again."""
    disk = failing_links(cluster, NODES[1], image)
    inbox = cluster.inbox[NODES[1]]
    for failure in (OSError(5, "first"), OSError(5, "second")):
        errors_before = cluster.counters(NODES[1]).errors
        disk.failure = failure
        wait_until(lambda before=errors_before: cluster.counters(NODES[1]).errors > before + 2)
    disk.failure = None
    wait_until(lambda: not cluster.counters(NODES[1]).failing)
    assert cluster.counters(NODES[1]).last_error == "second"
    disk.failure = OSError(5, "second")
    wait_until(lambda: cluster.counters(NODES[1]).failing)
    assert [event.reason for event in drain_inbox(inbox)] == ["first", "second", "second"]


def test_links_a_defect_in_a_thread_is_told_and_survived(cluster, image, caplog):
    """An exception that nobody foresaw is logged with its traceback, told, and the thread goes on."""
    disk = failing_links(cluster, NODES[1], image)
    disk.failure = ZeroDivisionError("a defect")
    [failed] = take_until(cluster.inbox[NODES[1]], lambda event: isinstance(event, LinkFailed))
    assert failed.reason == "internal error: ZeroDivisionError('a defect')"
    assert "Traceback" in caplog.text
    disk.failure = None
    wait_until(lambda: not cluster.counters(NODES[1]).failing)
    cluster.drain(NODES[1])


def test_links_a_beat_too_large_is_a_failure_of_the_link(cluster, image):
    """What cannot be sent is told like a path that fails, and the next beat is sent."""
    disk = failing_links(cluster, NODES[0], image)
    cluster.links[NODES[0]].send(make_beat(hearings=make_beat().hearings * 250), with_table=False)
    [failed] = take_until(cluster.inbox[NODES[0]], lambda event: isinstance(event, LinkFailed))
    assert failed.reason == "hearings of 250 peers do not fit 4096 bytes"

    def sent():
        cluster.links[NODES[0]].send(make_beat(sequence=2), with_table=False)
        return disk.written

    wait_until(sent)


def test_links_a_baseline_is_remembered_and_not_counted(cluster):
    """What a slot held at first is neither an event nor a received beat, and its repetition is a replay."""
    link = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0, timeout_s=0.2)
    disk = MemoryDisk(make_slot(link, sequence=2))
    cluster.start(NODES[1], [link], carriers={LinkType.DIO: disk.carrier})
    assert beats_of(cluster.drain(NODES[1])) == []
    disk.content = make_slot(link, sequence=2)
    counters = wait_until(lambda: (now := cluster.counters(NODES[1])).rejected and now)
    assert (counters.received, counters.rejected) == (0, {RejectReason.REPLAYED: 1})
    assert beats_of(cluster.drain(NODES[1])) == []


class LazySlot(MemorySlot):
    """A slot whose listener looks of its own accord once an hour."""

    def __init__(self, link, cluster_tag, shape, disk):
        super().__init__(link, cluster_tag, shape, disk)
        self.reads_every_s = 3600.0


def test_links_a_beat_on_a_network_has_the_slot_of_its_sender_looked_at(cluster):
    """What a node writes beside its beats is seen then, not at the listener's own next look."""
    network = real_link(LinkType.UNICAST, None)
    slot = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0, timeout_s=1.0)
    disk = MemoryDisk(make_slot(slot, sequence=1))
    carriers = {**CARRIERS, LinkType.DIO: lambda *of: LazySlot(*of, disk)}
    cluster.start(NODES[1], [network, slot], carriers=carriers)
    cluster.drain(NODES[1])
    disk.content = make_slot(slot, sequence=2)
    sender = cluster.start(NODES[0], [network])
    sender.send(make_beat(2), with_table=False)
    heard = take_until(
        cluster.inbox[NODES[1]], lambda event: isinstance(event, BeatReceived) and event.link_id == slot.id
    )
    assert heard[-1].beat.sequence == 2
    assert heard[0].link_id == network.id


class LateSlot(LazySlot):
    """A slot whose next content is not there yet when it is first looked for."""

    def read(self):
        """The content before; from the next read on, what is to come."""
        content = super().read()
        self.disk.content, self.disk.to_come = self.disk.to_come or self.disk.content, None
        return content


def test_links_a_slot_that_is_written_late_is_looked_at_once_more(cluster):
    """A slow disk's write is found by a second look, not by the listener's own next one."""
    network = real_link(LinkType.UNICAST, None)
    slot = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0, timeout_s=1.0)
    disk = MemoryDisk(make_slot(slot, sequence=1))
    disk.to_come = None
    carriers = {**CARRIERS, LinkType.DIO: lambda *of: LateSlot(*of, disk)}
    cluster.start(NODES[1], [network, slot], carriers=carriers)
    cluster.drain(NODES[1])
    reads = disk.reads
    disk.to_come = make_slot(slot, sequence=2)
    sender = cluster.start(NODES[0], [network])
    sender.send(make_beat(2), with_table=False)
    heard = take_until(
        cluster.inbox[NODES[1]], lambda event: isinstance(event, BeatReceived) and event.link_id == slot.id
    )
    assert heard[-1].beat.sequence == 2
    assert disk.reads == reads + 2


def test_links_a_slot_is_looked_at_when_its_thread_stood_still_meanwhile(cluster):
    """The time that a write is given can be over before the wait for it begins: then nothing is waited for.

    A clock that moves on by 3 ms at every look stands for a machine on which every step takes long.
    """
    network = real_link(LinkType.UNICAST, None)
    slot = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0, timeout_s=1.0)
    disk = MemoryDisk(make_slot(slot, sequence=1))
    carriers = {**CARRIERS, LinkType.DIO: lambda *of: LazySlot(*of, disk)}
    moments = itertools.count()
    cluster.start(NODES[1], [network, slot], carriers=carriers, clock=lambda: 0.003 * next(moments))
    cluster.drain(NODES[1])
    sender = cluster.start(NODES[0], [network])
    for sequence in (2, 3, 4):
        disk.content = make_slot(slot, sequence=sequence)
        sender.send(make_beat(sequence), with_table=False)
        heard = take_until(
            cluster.inbox[NODES[1]],
            lambda event: isinstance(event, BeatReceived) and event.link_id == slot.id,
        )
        assert heard[-1].beat.sequence == sequence
