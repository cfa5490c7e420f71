"""What is told to a node that runs the C program, and what is taken from one."""

from __future__ import annotations

import sys

import pytest
from links_builders import KEYRING, NODES, make_beat, make_link, wait_until

from opensvc_hb.core.config import LinkType
from opensvc_hb.core.events import LegacyBeat
from opensvc_hb.core.messages import Beat, Entry
from opensvc_hb.core.states import State
from opensvc_hb.links.codec_native import Opener, PieceKept, Rejected, RejectReason, Sealer
from opensvc_hb.links.codec_openha import (
    NATIVE_MAX_BYTES,
    NativeReader,
    StructureReader,
    StructureSealer,
    StructureWriter,
)
from opensvc_hb.links.keyring import ClusterKey, Keyring
from opensvc_hb.links.openha_host import Host, hostid, this_host
from opensvc_hb.links.openha_structure import STRUCTURE_BYTES, Structure, decode, encode

LINK = make_link()
DIO = make_link(type=LinkType.DIO, device="/made/up", address="40", port=0)
ORDER = ("web", "db")
LIMIT = 1200


def host(name=NODES[0]):
    """A machine whose clock stands."""
    return Host(name, 4711, lambda: 0x650A0100, lambda: 1795348080.9)


def writer(link=LINK, order=ORDER):
    """Writes deb1's structures."""
    return StructureWriter(link, host(), lambda: order)


def beat_of(**states):
    """A beat of deb1 with this table."""
    table = tuple(Entry(name, state, 1, 1) for name, state in sorted(states.items()))
    return make_beat(table=table)


def sealer(keyring=KEYRING, sender=NODES[0], link=LINK):
    """Seals both formats."""
    return StructureSealer(writer(link), Sealer(keyring, sender, link.id))


def reader(opener=True, link=LINK, keyring=KEYRING, node=NODES[1]):
    """Reads deb1's line on deb2, native beats too unless told otherwise."""
    return StructureReader(link, node, Opener(keyring, link, {}, node) if opener else None)


# --- what is sent ---------------------------------------------------------------------------


def test_openha_the_services_are_told_in_the_order_of_their_file():
    """Names and states as the table has them, in the order that is in force when the beat is made."""
    order = list(ORDER)
    made = StructureWriter(LINK, host(), lambda: tuple(order))
    beat = beat_of(db=State.STOPPED, new=State.FROZEN_STOP, web=State.FROZEN_START)
    services = decode(made.structure(beat)).services
    assert services == (
        ("web", State.START_READY),
        ("db", State.STOPPED),
        ("new", State.FROZEN_STOP),
    )
    order.reverse()
    assert decode(made.structure(beat)).services[0] == ("db", State.STOPPED)


def test_openha_what_is_unknown_is_never_announced_as_such():
    """C starts what its other node does not know: a service not verified yet is told as STARTING."""
    beat = beat_of(db=State.UNKNOWN)
    assert dict(decode(writer().structure(beat)).services) == {"web": State.STARTING, "db": State.STARTING}
    unheard = make_beat(table=None)
    assert set(dict(decode(writer().structure(unheard)).services).values()) == {State.STARTING}


def test_openha_a_network_structure_names_port_and_address():
    """All that C defines, of a multicast line."""
    made = StructureWriter(LINK, ready(host()), lambda: ORDER)
    assert made.structure(beat_of(web=State.STARTED, db=State.STOPPED)) == encode(
        Structure(
            NODES[0],
            (("web", State.STARTED), ("db", State.STOPPED)),
            1795348080,
            4711,
            hostid=0x650A0100,
            port="5010",
            address="239.131.50.10",
        )
    )


def ready(machine):
    """The machine once its hostid was found."""
    machine.start()
    wait_until(lambda: machine.hostid)
    return machine


def test_openha_a_slot_is_up_from_its_first_service_on():
    """As C's is: 0 before, 1 for ever after; it names neither port nor address."""
    order = []
    made = StructureWriter(DIO, host(), lambda: tuple(order))
    first = decode(made.structure(beat_of()))
    assert (first.up, first.port, first.address) == (0, "", "")
    order.append("web")
    assert decode(made.structure(beat_of(web=State.STARTED))).up == 1
    order.clear()
    assert decode(made.structure(beat_of())).up == 1
    assert decode(writer(order=()).structure(beat_of())).up == 1


def test_openha_more_services_than_fit_are_cut_off():
    """The configuration refuses them; the structure's own bounds hold whatever happens."""
    order = tuple(f"svc{n:03d}" for n in range(130))
    services = decode(writer(order=order).structure(beat_of())).services
    assert [name for name, _ in services] == list(order[:128])


def test_openha_a_structure_alone_has_its_one_size():
    """With `openha` nothing follows the structure, whatever the table's size."""
    [datagram] = StructureSealer(writer(), None).seal(make_beat(services=100), True, LIMIT)
    assert len(datagram) == STRUCTURE_BYTES


def test_openha_every_native_beat_follows_a_structure():
    """A native datagram alone would be laid over the last structure by C: there is none."""
    beat = make_beat(services=120)
    datagrams = sealer().seal(beat, True, LIMIT)
    assert len(datagrams) > 1
    for datagram in datagrams:
        assert isinstance(decode(datagram[:STRUCTURE_BYTES]), Structure)
        assert len(datagram) <= STRUCTURE_BYTES + NATIVE_MAX_BYTES
    read = reader()
    results = [result for datagram in datagrams for result in read.read(datagram)]
    assert results[-1] == beat
    assert all(isinstance(result, (Beat, PieceKept)) for result in results)


def test_openha_a_datagram_of_both_needs_no_fragment_more():
    """Seven fragments of 1,480 bytes hold the structure, the longest native beat, and UDP's header."""
    assert 6 * 1480 < STRUCTURE_BYTES + 8 < STRUCTURE_BYTES + NATIVE_MAX_BYTES + 8 <= 7 * 1480


# --- what is taken --------------------------------------------------------------------------

STRUCTURE = Structure(NODES[0], (("web", State.STARTED), ("strange", State.STOPPED)), 1795348080, 111)
CLAIM = LegacyBeat(LINK.id, NODES[0], STRUCTURE.services, 1795348080, 111)


@pytest.mark.parametrize("opener", [True, False])
def test_openha_a_structure_of_the_lines_node_is_a_legacy_beat(opener):
    """With every service that it names, in its order; the spelling of the node does not matter."""
    assert reader(opener).read(encode(STRUCTURE)) == (CLAIM,)
    shouted = Structure(NODES[0].upper(), STRUCTURE.services, 1795348080, 111)
    assert reader(opener).read(encode(shouted)) == (CLAIM,)


@pytest.mark.parametrize(
    ("node", "reason"), [("deb3", RejectReason.WRONG_SENDER), (NODES[1], RejectReason.OWN_BEAT)]
)
def test_openha_a_structure_of_another_node_is_refused(node, reason):
    """It speaks for its line's node only, and never for the one that listens."""
    [result] = reader().read(encode(Structure(node, (), 1, 1)))
    assert result.reason is reason
    assert "\n" not in result.text


def test_openha_a_native_beat_is_read_instead_of_its_structure():
    """One datagram, one beat: the authentic one."""
    beat = make_beat()
    [datagram] = sealer().seal(beat, False, LIMIT)
    assert reader().read(datagram) == (beat,)
    assert NativeReader(Opener(KEYRING, LINK, {}, NODES[1])).read(datagram) == (beat,)


def test_openha_a_native_beat_is_not_read_where_only_structures_count():
    """Two nodes take each other for the same thing, even if one of them sends both."""
    [datagram] = sealer().seal(beat_of(web=State.STARTED), False, LIMIT)
    [result] = reader(opener=False).read(datagram)
    assert isinstance(result, LegacyBeat)


def test_openha_a_native_beat_alone_is_read_where_native_beats_are():
    """A node that has left the C program behind already is heard, but not where only structures count."""
    [datagram] = Sealer(KEYRING, NODES[0], LINK.id).seal(make_beat(), False, LIMIT)
    assert reader().read(datagram) == (make_beat(),)
    assert reader(opener=False).read(datagram)[0].reason is RejectReason.TOO_SHORT


def test_openha_a_node_with_another_key_is_heard_as_its_structure():
    """It lives and says so: the beat that cannot be believed is counted, the structure counts."""
    other = Keyring(KEYRING.cluster_id, (ClusterKey(1, b"f" * 32),))
    [datagram] = sealer(keyring=other).seal(beat_of(web=State.STARTED), False, LIMIT)
    rejected, claim = reader().read(datagram)
    assert rejected.reason is RejectReason.NOT_AUTHENTIC
    assert isinstance(claim, LegacyBeat)


def test_openha_a_replayed_beat_takes_its_structure_with_it():
    """A datagram heard before is no sign of life, in either format."""
    [datagram] = sealer().seal(make_beat(), False, LIMIT)
    read = reader()
    read.read(datagram)
    [result] = read.read(datagram)
    assert result.reason is RejectReason.REPLAYED


def test_openha_bytes_behind_a_structure_that_are_no_beat_make_it_too_long():
    """C cuts them off; nobody whom we know sends them."""
    for opener in (True, False):
        [result] = reader(opener).read(encode(STRUCTURE) + b"more")
        assert isinstance(result, Rejected)
        assert result.reason is RejectReason.TOO_LONG


# --- the machine ------------------------------------------------------------------------------


def test_openha_the_hostid_is_the_address_with_its_halves_swapped(tmp_path):
    """10.101.0.1 gives 0x650a0100, as in the captures; no address gives 0."""
    absent = tmp_path / "hostid"
    assert hostid("deb1", absent, lambda _name: "10.101.0.1") == 0x650A0100
    assert hostid("deb1", absent, lambda _name: "255.254.253.252") == 0xFEFFFCFD

    def unresolved(_name):
        raise OSError

    assert hostid("n1", absent, unresolved) == 0


def test_openha_a_hostid_that_was_set_counts(tmp_path):
    """What sethostid wrote is used as it is; a file that is too short is none."""
    path = tmp_path / "hostid"
    path.write_bytes((0xDEADBEEF).to_bytes(4, sys.byteorder))
    assert hostid("deb1", path, lambda _name: "10.101.0.1") == 0xDEADBEEF
    path.write_bytes(b"\1\2")
    assert hostid("deb1", path, lambda _name: "10.101.0.1") == 0x650A0100


def test_openha_this_machine_has_a_name_and_a_clock():
    """A node that is not called like its machine keeps its own name."""
    machine = this_host("node-of-a-test")
    assert machine.name == "node-of-a-test"
    assert machine.hostid == 0
    assert machine.elapsed() > 1_700_000_000
