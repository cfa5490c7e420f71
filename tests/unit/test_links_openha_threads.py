"""Links between our nodes and one that runs the C program, over loopback and image files.

The C node is a socket, or a file, and a table of offsets of this test's own: what it sends is packed
here by hand, and what it reads is unpacked here, so that no mistake of our codec cancels itself.
"""

from __future__ import annotations

import os
import queue
import random
import shutil
import socket
import struct
import tempfile
from pathlib import Path

import pytest
from links_builders import KEYRING, NODES, boot_clock, make_beat, make_link, take_until, wait_until

from opensvc_hb.core.config import Config, LinkType, Protocol, Service
from opensvc_hb.core.events import BeatReceived, LegacyBeat, LinkDrained, LinkFailed, SlotFound, SlotWritten
from opensvc_hb.core.messages import Entry, table_digest
from opensvc_hb.core.states import State
from opensvc_hb.links.base import Links
from opensvc_hb.links.codec_native import RejectReason
from opensvc_hb.links.openha_host import Host

BLOCK = 512
NETWORKS = [LinkType.NET, LinkType.UNICAST]
DISKS = [LinkType.DIO, LinkType.DISK]
NOT_NATIVE = [Protocol.OPENHA, Protocol.BOTH]
SERVICES = {name: Service(name, name, NODES) for name in ("web", "db")}
PID = 4242
IP_RECVTTL = 12
"""From linux/in.h; the socket module does not name it."""


def c_structure(node, states, elapsed, pid=111, port=b"", address=b"", up=1):
    """The 9,384 bytes as the C program fills them."""
    data = bytearray(9384)
    data[: len(node)] = node.encode()
    struct.pack_into("<ii", data, 128, up, 0)
    data[136 : 136 + len(port)] = port
    data[141 : 141 + len(address)] = address
    values = [0] * 16 + [8] * 112
    for place, (name, state) in enumerate(states):
        data[156 + 64 * place : 156 + 64 * place + len(name)] = name.encode()
        values[place] = state
    struct.pack_into("<128i", data, 8348, *values)
    struct.pack_into("<IIi", data, 9372, 0x650A0100, elapsed, pid)
    return bytes(data)


def c_reads(data):
    """What the C program takes from a structure: node, services and states, clock, process."""
    node = data[:128].split(b"\0")[0].decode()
    services = []
    for place in range(128):
        name = data[156 + 64 * place : 220 + 64 * place].split(b"\0")[0].decode()
        if not name:
            break
        services.append((name, struct.unpack_from("<i", data, 8348 + 4 * place)[0]))
    elapsed, pid = struct.unpack_from("<Ii", data, 9376)
    return node, services, elapsed, pid


def free_port():
    """A UDP port that nobody has at the moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def network_line(kind, node=NODES[0], timeout_s=2.0):
    """A line over loopback, with a group that no other test process shares."""
    group = f"239.131.{random.randrange(256)}.{random.randrange(1, 255)}"
    address = group if kind is LinkType.NET else "127.0.0.1"
    return make_link(
        node=node, type=kind, device="lo", address=address, port=free_port(), timeout_s=timeout_s
    )


@pytest.fixture
def image():
    """A sparse image file on a file system with direct I/O (a tmpfs may have none)."""
    directory = Path(tempfile.mkdtemp(prefix="links-openha-", dir="/var/tmp"))
    path = directory / "hb.img"
    path.write_bytes(bytes(1 << 20))
    yield path
    shutil.rmtree(directory)


def disk_line(kind, image, offset=0, node=NODES[0]):
    """A slot of the image."""
    return make_link(node=node, type=kind, device=str(image), address=str(offset), port=0, timeout_s=2.0)


class Node:
    """The links of one node, its inbox, and a wall clock that the test sets."""

    def __init__(self, node, protocol, lines):
        self.wall_s = 1795348080.0
        self.inbox = queue.SimpleQueue()
        host = Host(node, PID, wall_s=lambda: self.wall_s)
        config = Config(node, NODES, tuple(lines), SERVICES, protocol=protocol)
        self.links = Links(config, KEYRING, {}, self.inbox.put, boot_clock, host=host)
        self.links.start()

    def drain(self, token):
        """Ask all listeners; return what came before the last answer."""
        asked = set(self.links.ask(token))

        def is_last(event):
            if isinstance(event, LinkDrained) and event.token == token:
                asked.discard(event.link_id)
            return not asked

        return take_until(self.inbox, is_last)

    def take(self, kind):
        """Take events until one of this kind."""
        return take_until(self.inbox, lambda event: isinstance(event, kind))[-1]

    @property
    def counters(self):
        """Of the only link."""
        [counters] = self.links.counters()
        return counters


@pytest.fixture
def nodes():
    """Starts nodes; ended whatever happens."""
    made = []

    def start(node, protocol, *lines):
        made.append(Node(node, protocol, lines))
        return made[-1]

    yield start
    for node in made:
        assert node.links.close(5.0) == ()


@pytest.fixture
def c_listener():
    """A socket that hears a line as the C program does; closed at the end."""
    made = []

    def listen(link):
        heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.append(heard)
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        heard.settimeout(5.0)
        heard.bind(("0.0.0.0", link.port))
        if link.type is LinkType.NET:
            member = struct.pack(
                "@4s4si", socket.inet_aton(link.address), bytes(4), socket.if_nametoindex("lo")
            )
            heard.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            heard.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        return heard

    yield listen
    for heard in made:
        heard.close()


def send(link, data):
    """Send a datagram as the C program's node would."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        if link.type is LinkType.NET:
            interface = struct.pack("@4s4si", bytes(4), bytes(4), socket.if_nametoindex("lo"))
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
        sender.sendto(data, (link.address, link.port))


def beat(sequence=1, web=State.STARTED, db=State.FROZEN_STOP, **changes):
    """A beat of deb1 with both services."""
    table = (Entry("db", db, 1, 0), Entry("web", web, 1, 1))
    return make_beat(sequence, table=table, table_digest=table_digest(table), **changes)


# --- networks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NETWORKS)
def test_openha_c_hears_what_it_would_send(nodes, c_listener, kind):
    """With `openha` a datagram is a structure and no byte more, equal to the C program's in every byte."""
    link = network_line(kind)
    heard = c_listener(link)
    node = nodes(NODES[0], Protocol.OPENHA, link)
    node.links.send(beat(web=State.FROZEN_START), with_table=False)
    data, sender = heard.recvfrom(20000)
    services = [("web", 7), ("db", 6)]
    port, address = str(link.port).encode(), link.address.encode()
    expected = bytearray(c_structure(NODES[0], services, 1795348080, PID, port, address))
    expected[9372:9376] = bytes(4)  # of a name that does not resolve
    assert data == bytes(expected)
    assert (sender[1] == link.port) == (kind is LinkType.NET)
    assert node.counters.note == ""


def test_openha_multicast_travels_as_far_as_cs(nodes, c_listener):
    """A time to live of six."""
    link = network_line(LinkType.NET)
    heard = c_listener(link)
    nodes(NODES[0], Protocol.BOTH, link).links.send(beat(), with_table=False)
    _, ancillary, _, _ = heard.recvmsg(20000, 256)
    assert [struct.unpack("i", data)[0] for _, kind, data in ancillary if kind == socket.IP_TTL] == [6]


@pytest.mark.parametrize("kind", NETWORKS)
def test_openha_c_hears_the_beginning_of_both(nodes, c_listener, kind):
    """The C program cuts a datagram to its size, and what it keeps is a structure."""
    link = network_line(kind)
    heard = c_listener(link)
    nodes(NODES[0], Protocol.BOTH, link).links.send(beat(), with_table=True)
    data = heard.recv(9384)
    assert c_reads(data) == (NODES[0], [("web", 2), ("db", 6)], 1795348080, PID)


@pytest.mark.parametrize("protocol", NOT_NATIVE)
@pytest.mark.parametrize("kind", NETWORKS)
def test_openha_cs_beat_is_heard(nodes, kind, protocol):
    """Node, states in their order, unknown services too, clock and process."""
    link = network_line(kind)
    node = nodes(NODES[1], protocol, link)
    node.drain(1)
    send(link, c_structure(NODES[0], [("web", 2), ("strange", 4), ("db", 6)], 1795348080))
    states = (("web", State.STARTED), ("strange", State.START_FAILED), ("db", State.FROZEN_STOP))
    assert node.take(LegacyBeat) == LegacyBeat(link.id, NODES[0], states, 1795348080, 111)
    counters = wait_until(lambda: (now := node.counters).received and now)
    assert (counters.received, counters.rejected, counters.key_id) == (1, {}, 0)
    assert counters.last_at == pytest.approx(boot_clock(), abs=5)


@pytest.mark.parametrize("protocol", NOT_NATIVE)
def test_openha_bad_structures_are_counted_by_reason(nodes, protocol):
    """What the C program takes without a look: none of it is heard, all of it is counted."""
    link = network_line(LinkType.UNICAST)
    node = nodes(NODES[1], protocol, link)
    node.drain(1)
    good = c_structure(NODES[0], [("web", 2)], 1795348080)
    bad = [
        b"",
        b"x",
        good[:-1],
        good + bytes(2616),
        b"A" * 9384,
        c_structure(NODES[0], [("s" * 64, 2)], 1795348080),
        c_structure(NODES[0], [("web", 42)], 1795348080),
        c_structure(NODES[0], [("web", -1)], 1795348080),
        c_structure(NODES[1], [("web", 0)], 1795348080),
        c_structure("deb3.opensvc.com", [("web", 0)], 1795348080),
        c_structure("", [("web", 0)], 1795348080),
    ]
    for data in bad:
        send(link, data)
    send(link, good)
    assert node.take(LegacyBeat).states == (("web", State.STARTED),)
    counters = wait_until(lambda: (now := node.counters).received and now)
    assert counters.rejected == {
        RejectReason.TOO_SHORT: 3,
        RejectReason.TOO_LONG: 1,
        RejectReason.UNTERMINATED: 2,
        RejectReason.STATE: 2,
        RejectReason.OWN_BEAT: 1,
        RejectReason.WRONG_SENDER: 1,
        RejectReason.MALFORMED: 1,
    }


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("listening", [Protocol.BOTH, Protocol.NATIVE])
def test_openha_two_of_ours_understand_each_other_natively(nodes, kind, listening):
    """The native beat is heard, with a table in as many datagrams as it needs; the structure is not."""
    link = network_line(kind)
    listener = nodes(NODES[1], listening, link)
    listener.drain(1)
    sender = nodes(NODES[0], Protocol.BOTH, link)
    sent = make_beat(sequence=1, services=120)
    sender.links.send(sent, with_table=True)
    taken = take_until(listener.inbox, lambda event: event.beat.table is not None)
    assert taken[-1] == BeatReceived(link.id, sent)
    assert all(isinstance(event, BeatReceived) for event in taken)
    assert wait_until(lambda: listener.counters.key_id) == KEYRING.sealing.id
    assert listener.counters.rejected == {}


def test_openha_with_structures_only_nobody_is_heard_natively(nodes):
    """A node that is told to speak the C program's language takes the other for one that does."""
    link = network_line(LinkType.UNICAST)
    listener = nodes(NODES[1], Protocol.OPENHA, link)
    listener.drain(1)
    nodes(NODES[0], Protocol.BOTH, link).links.send(beat(), with_table=False)
    heard = listener.take((LegacyBeat, BeatReceived))
    assert heard.states == (("web", State.STARTED), ("db", State.FROZEN_STOP))


def test_openha_the_order_of_services_follows_the_configuration(nodes, c_listener):
    """A reload that orders the services otherwise is seen in the next structure."""
    link = network_line(LinkType.UNICAST)
    heard = c_listener(link)
    node = nodes(NODES[0], Protocol.OPENHA, link)
    node.links.order_services(("db", "web"))
    node.links.send(beat(), with_table=False)
    assert c_reads(heard.recv(20000))[1] == [("db", 6), ("web", 2)]


def test_openha_a_port_that_is_taken_is_a_note(nodes, c_listener):
    """No receiver asks from which port a structure comes: the beat leaves from another one."""
    link = network_line(LinkType.NET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", link.port))  # and not for sharing
        node = nodes(NODES[0], Protocol.OPENHA, link)
        node.links.send(beat(), with_table=False)
        counters = wait_until(lambda: (now := node.counters).sent and now)
        assert counters.note == f"does not send from port {link.port}: Address already in use"
        assert counters.errors == 0


# --- disks ----------------------------------------------------------------------------------------


def put(image, offset, data):
    """Write to the image past the cache, as a node's slot: 19 blocks, garbage behind the structure."""
    content = data + b"g" * (19 * BLOCK - len(data))
    descriptor = os.open(image, os.O_WRONLY | os.O_DSYNC)
    try:
        assert os.pwrite(descriptor, content, offset * BLOCK) == len(content)
    finally:
        os.close(descriptor)


def get(image, offset, blocks=19):
    """Blocks of the image."""
    with image.open("rb") as file:
        file.seek(offset * BLOCK)
        return file.read(blocks * BLOCK)


@pytest.mark.parametrize("kind", DISKS)
def test_openha_a_slot_is_written_as_c_writes_it(nodes, image, kind):
    """19 blocks at the offset, with neither port nor address, zeros behind; no other block changes."""
    image.write_bytes(b"n" * (1 << 20))
    node = nodes(NODES[0], Protocol.OPENHA, disk_line(kind, image, offset=40))
    node.links.send(beat(), with_table=True)
    wait_until(lambda: node.counters.sent)
    expected = bytearray(c_structure(NODES[0], [("web", 2), ("db", 6)], 1795348080, PID))
    expected[9372:9376] = bytes(4)
    assert get(image, 40) == bytes(expected) + bytes(344)
    assert get(image, 39, 1) == get(image, 59, 1) == b"n" * BLOCK
    assert node.inbox.empty()


@pytest.mark.parametrize("protocol", NOT_NATIVE)
@pytest.mark.parametrize("kind", DISKS)
def test_openha_cs_slot_lives_while_its_clock_goes_on(nodes, image, kind, protocol):
    """What stands there first is no beat, nor is a clock that stands; each new time is one."""
    link = disk_line(kind, image, offset=19)
    put(image, 19, c_structure(NODES[0], [("web", 2)], 1000))
    node = nodes(NODES[1], protocol, link)
    assert [type(event) for event in [*node.drain(1), *node.drain(2)]] == [LinkDrained, LinkDrained]
    put(image, 19, c_structure(NODES[0], [("web", 0)], 1001))
    assert node.take(LegacyBeat) == LegacyBeat(link.id, NODES[0], (("web", State.STOPPED),), 1001, 111)
    assert [type(event) for event in node.drain(3)] == [LinkDrained]
    put(image, 19, b"A" * 9384)
    wait_until(lambda: node.counters.rejected)
    assert node.counters.rejected == {RejectReason.UNTERMINATED: 1}
    put(image, 19, c_structure(NODES[0], [("web", 0)], 1002))
    assert node.take(LegacyBeat).elapsed == 1002


def test_openha_a_slot_never_written_is_nothing(nodes, image):
    """A node that never ran does not live, and the link says why it hears nothing."""
    node = nodes(NODES[1], Protocol.OPENHA, disk_line(LinkType.DIO, image))
    assert [type(event) for event in [*node.drain(1), *node.drain(2)]] == [LinkDrained, LinkDrained]
    assert node.counters.note == "never written"
    assert node.counters.rejected == {}


@pytest.mark.parametrize("kind", DISKS)
def test_openha_a_disk_carries_both_where_there_is_room(nodes, image, kind):
    """The native slot lies behind the structure's 19 blocks: C reads the one, ours the other."""
    lines = [disk_line(kind, image, 0), disk_line(kind, image, 29, NODES[1])]
    listener = nodes(NODES[1], Protocol.BOTH, lines[0])
    listener.drain(1)
    sender = nodes(NODES[0], Protocol.BOTH, *lines)
    sender.links.send(beat(sequence=1), with_table=True)
    assert sender.take(SlotWritten).sequence == 1
    assert c_reads(get(image, 0)) == (NODES[0], [("web", 2), ("db", 6)], 1795348080, PID)
    heard = listener.take((BeatReceived, LegacyBeat))
    assert heard == BeatReceived(lines[0].id, beat(sequence=1))
    assert [type(event) for event in listener.drain(2)] == [LinkDrained]
    # The node goes back to the C program, which leaves the native slot as it was.
    put(image, 0, c_structure(NODES[0], [("web", 0)], 1795348090))
    assert listener.take((BeatReceived, LegacyBeat)).states == (("web", State.STOPPED),)


def test_openha_a_slot_behind_a_structure_tells_of_earlier_lives(nodes, image):
    """A node whose store is lost finds what it wrote natively behind its structure: nothing goes below."""
    lines = [disk_line(LinkType.DIO, image, 0), disk_line(LinkType.DIO, image, 29, NODES[1])]
    before = nodes(NODES[0], Protocol.BOTH, *lines)
    before.links.send(beat(sequence=5, incarnation=9), with_table=True)
    assert before.take(SlotWritten).incarnation == 9
    anew = nodes(NODES[0], Protocol.BOTH, *lines)
    anew.links.send(beat(sequence=1, incarnation=1), with_table=True)
    assert anew.take((SlotFound, SlotWritten)) == SlotFound(lines[0].id, 9, 5)
    anew.links.send(beat(sequence=1, incarnation=10), with_table=True)
    assert anew.take((SlotFound, SlotWritten)).incarnation == 10


def test_openha_a_disk_carries_the_structure_alone_where_slots_are_close(nodes, image):
    """Nineteen blocks apart there is no room for a native slot, and none is written or looked for."""
    lines = [disk_line(LinkType.DIO, image, 0), disk_line(LinkType.DIO, image, 19, NODES[1])]
    put(image, 19, b"n" * 9384)
    listener = nodes(NODES[1], Protocol.BOTH, *lines)
    sender = nodes(NODES[0], Protocol.BOTH, *lines)
    listener.drain(1)
    sender.links.send(beat(), with_table=True)
    heard = listener.take((BeatReceived, LegacyBeat))
    assert heard.states == (("web", State.STARTED), ("db", State.FROZEN_STOP))
    assert get(image, 19, 1) == b"n" * BLOCK


def test_openha_a_disk_that_ends_within_the_slot_is_a_failure(nodes, image):
    """A slot is written whole or not at all."""
    image.write_bytes(bytes(10 * BLOCK))
    node = nodes(NODES[0], Protocol.OPENHA, disk_line(LinkType.DIO, image))
    node.links.send(beat(), with_table=True)
    assert "5120 of 9728 bytes" in node.take(LinkFailed).reason
