"""What the C program's format allows, and how a configuration beyond it is refused."""

from __future__ import annotations

import pytest
from links_builders import NODES, make_link

from opensvc_hb.core.config import LinkType, Protocol
from opensvc_hb.links.machine import DeviceFacts, Machine, check_machine
from opensvc_hb.links.openha_limits import check_links, check_services, has_native_slot, slot_blocks

NOT_NATIVE = [Protocol.OPENHA, Protocol.BOTH]


def check(*links, protocol=Protocol.OPENHA):
    """Check a monitor file; return (errors, notes) as texts."""
    errors, notes = check_links(links, protocol, "etc/monitor")
    return [str(error) for error in errors], list(notes)


def slot(offset, line=1, device="/dev/hb", kind=LinkType.DIO, node=NODES[0]):
    """A disk line."""
    return make_link(node=node, type=kind, device=device, address=str(offset), port=0, line=line)


@pytest.mark.parametrize("protocol", NOT_NATIVE)
def test_openha_a_file_within_the_limits_is_in_order(protocol):
    """Two networks and slots far apart, as the C program's own documents have them."""
    lines = [make_link(), make_link(type=LinkType.UNICAST, address="10.101.0.2"), slot(0), slot(40)]
    assert check(*lines, protocol=protocol) == ([], [])


def test_openha_nothing_is_asked_of_native_clusters():
    """Fractions of a second, IPv6 and close slots are theirs."""
    lines = [make_link(timeout_s=0.5, address="ff15::1"), slot(0), slot(10)]
    assert check(*lines, protocol=Protocol.NATIVE) == ([], [])
    assert check_services([f"svc{n}" for n in range(500)], Protocol.NATIVE, "etc/hb.conf") == ()


@pytest.mark.parametrize("timeout_s", [0.5, 1.0, 2.5])
def test_openha_timeouts_are_whole_seconds(timeout_s):
    """C reads a whole number, and its listeners refuse less than two."""
    assert check(make_link(timeout_s=timeout_s, line=3))[0] == [
        f"etc/monitor:3: timeout: {timeout_s:g} is not allowed with protocol = openha in hb.conf: "
        "the C program counts whole seconds, 2 or more"
    ]
    assert check(make_link(timeout_s=2.0)) == ([], [])


def test_openha_addresses_are_ipv4():
    """The structure has 15 characters for an address, and C no other family."""
    assert check(make_link(address="ff15::1", line=2), protocol=Protocol.BOTH)[0] == [
        "etc/monitor:2: address: ff15::1 is not an IPv4 address: "
        "the C program, with protocol = both in hb.conf, knows no other"
    ]


@pytest.mark.parametrize(("first", "second"), [(0, 18), (23, 5), (0, 10)])
def test_openha_slots_are_nineteen_blocks_apart(first, second):
    """As C's monitor asks, which would exit without a word."""
    errors, _ = check(slot(first, line=3), slot(second, line=4))
    assert errors == [
        f"etc/monitor:4: offset: {second} overlaps the slot of line 3 at {first}: with protocol = openha in "
        "hb.conf a slot takes 19 blocks of 512 bytes, so offsets are at least 19 apart "
        "(and 29 for both formats)"
    ]


@pytest.mark.parametrize(("first", "second"), [(0, 19), (24, 5), (0, 20)])
def test_openha_slots_nineteen_blocks_apart_are_in_order(first, second):
    """The nearest that C accepts; on another device they are never too near."""
    assert check(slot(first), slot(second)) == ([], [])
    assert check(slot(0), slot(5, device="/dev/other")) == ([], [])


def test_openha_a_native_slot_needs_ten_blocks_more():
    """Where the next slot is nearer than 29 blocks the structure stands alone, which is said."""
    close, far = [slot(0), slot(28, line=2)], [slot(0), slot(29, line=2)]
    assert not has_native_slot(close[0], close)
    assert has_native_slot(close[1], close)
    assert has_native_slot(far[0], far)
    assert [slot_blocks(link, Protocol.BOTH, close) for link in close] == [19, 29]
    assert [slot_blocks(link, Protocol.OPENHA, far) for link in far] == [19, 19]
    assert [slot_blocks(link, Protocol.NATIVE, far) for link in far] == [10, 10]
    assert check(*close, protocol=Protocol.BOTH)[1] == [
        "etc/monitor:1: offset: the next slot is less than 29 blocks away, so that this link carries the "
        "C program's structure only: native nodes hear each other on other links"
    ]


def test_openha_a_disk_line_of_cs_is_worth_a_note():
    """C's `disk` reads through the page cache of its own machine."""
    assert check(slot(0, kind=LinkType.DISK))[1] == [
        "etc/monitor:1: type: the C program's disk links go through each node's own page cache: "
        "between two machines use dio"
    ]


def test_openha_sixteen_lines_of_other_nodes_are_enough():
    """With one more the C program crashes."""
    lines = [make_link(port=5000 + n, line=n + 1) for n in range(17)]
    assert check(*lines[:16]) == ([], [])
    own = make_link(node=NODES[1], port=6000, line=18)
    assert check(*lines, own)[0] == [
        "etc/monitor:17: node: deb2.opensvc.com would listen on 17 lines: with protocol = openha in hb.conf "
        "a node has at most 16 lines of others, beyond which the C program crashes"
    ]


@pytest.mark.parametrize("protocol", NOT_NATIVE)
def test_openha_services_that_do_not_fit_are_refused(protocol):
    """The 129th would be written over the states, a long name into the next one."""
    names = [f"svc{n:03d}" for n in range(128)]
    assert check_services([*names[1:], "s" * 63], protocol, "etc/hb.conf") == ()
    errors = check_services([*names, "s" * 64], protocol, "etc/hb.conf")
    assert [str(error) for error in errors] == [
        f"etc/hb.conf: hb.protocol: {protocol.value} carries 128 services, this node has 129: have fewer of "
        "them, or set protocol = native once no node runs the C program",
        f"etc/hb.conf: hb.protocol: {protocol.value} carries service names of 63 bytes, {'s' * 64} has 64: "
        "give it a shorter one, or set protocol = native once no node runs the C program",
    ]


def on_machine(links, protocol, size_bytes=1 << 20, identities=None):
    """Check disk lines on a described machine; return the errors."""
    names = identities or {}
    machine = Machine(
        {},
        lambda path: DeviceFacts(
            names.get(path, path), is_image=False, size_bytes=size_bytes, sector_bytes=512
        ),
    )
    errors, _ = check_machine(links, NODES[0], "etc/monitor", machine, protocol)
    return [str(error) for error in errors]


def test_openha_a_device_must_hold_the_longer_slots():
    """19 blocks for the structure, 29 for both formats."""
    assert on_machine([slot(1)], Protocol.OPENHA, 20 * 512) == []
    assert on_machine([slot(2)], Protocol.OPENHA, 20 * 512) == [
        "etc/monitor:1: offset: 2 lies behind the end of /dev/hb: offsets 0 to 1 fit"
    ]
    assert on_machine([slot(1)], Protocol.BOTH, 29 * 512) == [
        "etc/monitor:1: offset: 1 lies behind the end of /dev/hb: offsets 0 to 0 fit"
    ]


def test_openha_two_names_of_one_device_do_not_hide_an_overlap():
    """What the monitor file cannot know the machine does: here a native slot would lie on a structure."""
    same = {"/dev/hb": "block 8:0", "/dev/other": "block 8:0"}
    lines = [slot(0), slot(19, line=2, device="/dev/other")]
    assert on_machine(lines, Protocol.OPENHA, identities=same) == []
    assert on_machine(lines, Protocol.BOTH, identities=same) == [
        "etc/monitor:2: offset: 19 overlaps the slot of line 1 at 0 (/dev/hb is the same device): "
        "a slot takes 29 blocks of 512 bytes, so offsets are at least 29 apart"
    ]
    close = [slot(0), slot(15, line=2, device="/dev/other")]
    assert "19 blocks" in on_machine(close, Protocol.OPENHA, identities=same)[0]
