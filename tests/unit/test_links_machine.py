"""The check of the monitor file against a machine: described machines, and the real one."""

from __future__ import annotations

import pytest
from links_builders import NODES, make_link

from opensvc_hb.core.config import LinkType
from opensvc_hb.links.machine import DeviceFacts, Machine, check_machine, device_facts

INTERFACES = {"lo": ("127.0.0.1", "::1"), "eth0": ("10.0.0.1", "fe80::1"), "eth9": ()}


def a_disk(**changes):
    """A disk of one megabyte."""
    values = {"identity": "block 8:0", "is_image": False, "size_bytes": 1 << 20, "sector_bytes": 512}
    return DeviceFacts(**{**values, **changes})


def check(*links, node=NODES[0], devices=None):
    """Check links on a described machine; return (errors, notes) as texts."""
    found = devices or {}
    machine = Machine(INTERFACES, lambda path: found.get(path, "does not exist"))
    errors, notes = check_machine(links, node, "etc/monitor", machine)
    return [str(error) for error in errors], list(notes)


def slot(device="/dev/hb", offset=0, **changes):
    """A dio line."""
    return make_link(type=LinkType.DIO, device=device, address=str(offset), port=0, **changes)


def test_links_an_unknown_interface_is_refused_with_those_that_exist():
    """A mistyped interface is named with the ones to choose from."""
    assert check(make_link(device="eht1", line=7))[0] == [
        "etc/monitor:7: interface: 'eht1' does not exist on deb1.opensvc.com (have eth0, eth9, lo)"
    ]


def test_links_an_interface_without_an_address_is_refused():
    """Multicast from an interface without an address of its family would leave with a wrong one."""
    assert check(make_link(device="eth9"))[0] == [
        "etc/monitor:1: interface: eth9 has no IPv4 address on deb1.opensvc.com"
    ]


def test_links_the_sender_of_a_unicast_link_needs_no_interface():
    """A unicast line's interface is the receiver's: only there it must exist."""
    link = make_link(type=LinkType.UNICAST, device="ens5", address="10.0.0.2")
    assert check(link) == ([], [])
    errors, _ = check(link, node=NODES[1])
    assert errors == [
        "etc/monitor:1: interface: 'ens5' does not exist on deb2.opensvc.com (have eth0, eth9, lo)"
    ]


def test_links_a_unicast_address_that_is_not_the_receivers_is_noted():
    """A listener whose address is not (yet) on its interface is worth a note, not a refusal."""
    link = make_link(type=LinkType.UNICAST, device="eth0", address="10.0.0.7")
    assert check(link, node=NODES[1]) == (
        [],
        [
            "etc/monitor:1: address: 10.0.0.7 is not an address of eth0 here (it has 10.0.0.1): "
            "deb2.opensvc.com will not hear deb1.opensvc.com on this link"
        ],
    )
    on_loopback = make_link(type=LinkType.UNICAST, device="lo", address="127.0.0.2")
    assert check(on_loopback, node=NODES[1]) == ([], [])


@pytest.mark.parametrize(
    ("facts", "offset", "expected"),
    [
        ("does not exist", 0, "device: /dev/hb does not exist"),
        (a_disk(size_bytes=10240), 11, "offset: 11 lies behind the end of /dev/hb: offsets 0 to 10 fit"),
        (a_disk(size_bytes=512), 0, "offset: 0 lies behind the end of /dev/hb: not even one slot fits"),
        (
            a_disk(sector_bytes=4096),
            0,
            "device: /dev/hb has logical sectors of 4096 bytes, of which a slot of 5120 bytes is "
            "no multiple: a device with 512-byte sectors is needed",
        ),
        (
            a_disk(in_use_by="mounted on /srv"),
            0,
            "device: /dev/hb is mounted on /srv: a link needs a device of its own",
        ),
    ],
)
def test_links_a_device_that_cannot_hold_the_slot_is_refused(facts, offset, expected):
    """Missing, too small, with long sectors, or used by somebody else: refused with the reason."""
    assert check(slot(offset=offset), devices={"/dev/hb": facts})[0] == [f"etc/monitor:1: {expected}"]


def test_links_an_image_file_is_accepted_and_said():
    """An image file in place of a device is a note."""
    assert check(slot(), devices={"/dev/hb": a_disk(is_image=True)}) == (
        [],
        ["etc/monitor:1: device: /dev/hb is an image file"],
    )


def test_links_overlaps_are_found_whatever_the_device_is_called():
    """Two names of one device whose slots overlap are refused here, as the file alone cannot know."""
    devices = {"/dev/hb": a_disk(), "/dev/disk/by-id/hb": a_disk()}
    errors, _ = check(slot(), slot("/dev/disk/by-id/hb", 5, line=2), devices=devices)
    assert errors == [
        "etc/monitor:2: offset: 5 overlaps the slot of line 1 at 0 (/dev/hb is the same device): "
        "a slot takes 10 blocks of 512 bytes, so offsets are at least 10 apart"
    ]
    assert check(slot(), slot("/dev/disk/by-id/hb", 10, line=2), devices=devices) == ([], [])


def test_links_buffered_slots_in_one_page_are_noted():
    """Buffered slots that share a page are worth a note; dio slots at the same places are not."""
    links = [slot(offset=0), slot(offset=10, line=2)]
    buffered = [make_link(**{**vars(link), "type": LinkType.DISK}) for link in links]
    _, notes = check(*buffered, devices={"/dev/hb": a_disk()})
    assert notes == [
        "etc/monitor:2: offset: 10 shares a page with the slot of line 1, so that buffered writes of one may "
        "undo the other's for a moment: dio has no such trouble, nor have offsets that are multiples of 16"
    ]
    assert check(*links, devices={"/dev/hb": a_disk()}) == ([], [])


def test_links_facts_of_real_files_are_seen(tmp_path):
    """The real look tells image files, directories, character devices and missing paths apart."""
    image = tmp_path / "image"
    image.write_bytes(bytes(8192))
    (tmp_path / "other-name").symlink_to(image)
    facts = device_facts(str(image))
    assert (facts.is_image, facts.size_bytes) == (True, 8192)
    assert device_facts(str(tmp_path / "other-name")) == facts
    assert device_facts(str(tmp_path / "none")) == "does not exist"
    assert device_facts(str(tmp_path)) == "is neither a block device nor an image file"
    assert device_facts("/dev/null") == "is neither a block device nor an image file"


def test_links_this_machine_has_its_loopback():
    """The check looks at the real machine when it is given none."""
    links = [make_link(device="lo"), make_link(device="no-such-if", line=2)]
    errors, notes = check_machine(links, NODES[0])
    assert [(error.line, error.where) for error in errors] == [(2, "interface")]
    assert "lo" in str(errors[0])
    assert notes == ()
