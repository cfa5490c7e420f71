"""What a listener may say of a slot after its reads: since when it has not changed, or why it cannot tell."""

from __future__ import annotations

import pytest
from links_builders import KEYRING, NODES, make_lease, make_link, make_seal, make_slot

from opensvc_hb.core.config import LinkType
from opensvc_hb.links.slot import BLOCK_BYTES, SLOT_BYTES, SlotBeat, decode_slot
from opensvc_hb.links.slot_watch import SlotWatch

LINK = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0)
SLOTS = {sequence: make_slot(LINK, sequence) for sequence in range(1, 6)}


def make_watch(floor=0):
    """A watch on deb1's slot."""
    return SlotWatch(make_seal(LINK), KEYRING.cluster_tag, floor)


def see(watch, content, at):
    """One read that took half a second; return its view."""
    watch.saw(content, at, at + 0.5)
    return watch.view


def without_lease(slot):
    """The slot as an earlier version wrote it."""
    return slot[:BLOCK_BYTES] + bytes(BLOCK_BYTES) + slot[2 * BLOCK_BYTES :]


def test_links_a_slot_that_does_not_change_is_unchanged_since_its_first_sight():
    """The count begins after the read that first showed the content, also when that is the first read."""
    watch = make_watch()
    for at in (10.0, 11.0, 12.0):
        view = see(watch, SLOTS[1], at)
        assert (view.read_at, view.unchanged_since, view.problem) == (at, 10.5, "")
        assert view.longest_timeout_s == 10.0
    changed = see(watch, SLOTS[2], 13.0)
    assert changed.unchanged_since == 13.5
    assert changed.digest != view.digest
    assert see(watch, SLOTS[2], 14.0).unchanged_since == 13.5


def test_links_a_slot_gives_its_datagram_once_and_its_first_one_as_a_baseline():
    """A baseline, then each change, and nothing for what was there before."""
    watch = make_watch()
    reads = [SLOTS[1], SLOTS[1], SLOTS[2], SLOTS[2]]
    arrivals = [watch.saw(content, 1.0, 1.0) for content in reads]
    assert [arrival and arrival.is_baseline for arrival in arrivals] == [True, None, False, None]
    assert arrivals[2].datagram == decode_slot(SLOTS[2], None).datagram


def test_links_the_view_is_of_the_whole_slot():
    """A change of any block, of the unused ones too, is a change."""
    for block in range(SLOT_BYTES // BLOCK_BYTES):
        watch = make_watch()
        first = see(watch, SLOTS[1], 1.0)
        changed = bytearray(SLOTS[1])
        changed[(block + 1) * BLOCK_BYTES - 1] ^= 1
        view = see(watch, bytes(changed), 2.0)
        assert view.unchanged_since == 2.5, block
        assert view.digest != first.digest


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (bytes(SLOT_BYTES), "never written"),
        (b"LABELONE".ljust(SLOT_BYTES, b"\0"), "foreign content"),
        (SLOTS[2][: 2 * BLOCK_BYTES] + SLOTS[1][2 * BLOCK_BYTES :], "torn"),
        (SLOTS[1][: 2 * BLOCK_BYTES] + SLOTS[2][2 * BLOCK_BYTES :], "torn"),
        (without_lease(SLOTS[2]), "written by a version without lease"),
        (
            SLOTS[2][:BLOCK_BYTES] + SLOTS[1][BLOCK_BYTES : 2 * BLOCK_BYTES] + SLOTS[2][2 * BLOCK_BYTES :],
            "its lease is of another write, or not authentic",
        ),
        (
            make_slot(LINK, 2, sender=NODES[1]),
            "the line is deb1.opensvc.com's, its lease says 'deb2.opensvc.com'",
        ),
    ],
    ids=[
        "never written",
        "foreign",
        "torn",
        "torn the other way",
        "no lease",
        "lease of another write",
        "another node",
    ],
)
def test_links_content_that_is_no_lease_is_seen_first_by_every_read(content, problem):
    """However long it stands there, nobody can say that its node was silent meanwhile."""
    watch = make_watch()
    see(watch, SLOTS[1], 1.0)
    for at in (2.0, 3.0, 4.0):
        view = see(watch, content, at)
        assert (view.unchanged_since, view.problem, view.longest_timeout_s) == (at + 0.5, problem, 0.0)
    assert watch.note == problem
    after = see(watch, SLOTS[3], 5.0)
    assert (after.unchanged_since, after.problem, watch.note) == (5.5, "", "")
    assert see(watch, SLOTS[3], 6.0).unchanged_since == 5.5


def test_links_a_slot_of_another_cluster_is_said():
    """Its tag tells it apart before any key is tried."""
    other = SlotWatch(make_seal(LINK), b"another!", 0)
    assert see(other, SLOTS[1], 1.0).problem == "of another cluster"


def test_links_a_slot_without_lease_still_beats():
    """An earlier version's slot is a beat like any other."""
    watch = make_watch()
    see(watch, SLOTS[1], 1.0)
    arrival = watch.saw(without_lease(SLOTS[2]), 2.0, 2.5)
    assert arrival.datagram == decode_slot(SLOTS[2], None).datagram


def test_links_content_older_than_what_was_accepted_is_seen_first_by_every_read():
    """A lower sequence, write or incarnation (a restored disk, a stale cache) counts for nothing."""
    watch = make_watch()
    see(watch, SLOTS[1], 0.0)
    see(watch, SLOTS[3], 1.0)
    lower_life = make_slot(LINK, 9, incarnation=6)
    for at, content in ((2.0, SLOTS[2]), (3.0, SLOTS[2]), (4.0, lower_life), (5.0, lower_life)):
        view = see(watch, content, at)
        assert view.unchanged_since == at + 0.5
        assert view.problem.startswith("older than what was read: incarnation ")
    again = see(watch, SLOTS[3], 6.0)
    assert (again.unchanged_since, again.problem) == (6.5, "")
    assert see(watch, SLOTS[3], 7.0).unchanged_since == 6.5
    assert see(watch, make_slot(LINK, 1, incarnation=8), 8.0).problem == ""


def test_links_content_below_a_first_sight_is_a_first_sight():
    """A node whose store is lost and whose slot was torn begins low: what it says next is a beat."""
    watch = make_watch()
    first, low, next_one, lower = SLOTS[5], make_slot(LINK, 2, incarnation=6), SLOTS[1], SLOTS[4]
    arrivals = []
    for at, content in enumerate((first, low, low, next_one, lower, make_slot(LINK, 3, incarnation=6))):
        arrivals.append(watch.saw(content, float(at), at + 0.5))
        if at in (1, 2):
            assert (watch.view.problem, watch.view.unchanged_since) == ("", 1.5), "it counts from then on"
    kinds = [arrival and arrival.is_baseline for arrival in arrivals]
    assert kinds == [True, True, None, False, False, False]
    assert watch.view.problem.startswith("older than what was read: incarnation 6"), "a beat is a floor"


def test_links_a_first_sight_stays_above_the_floor():
    """What core accepted in an earlier life of this daemon is refused, whatever is seen first."""
    watch = make_watch(floor=7)
    see(watch, SLOTS[5], 1.0)
    arrival = watch.saw(make_slot(LINK, 9, incarnation=6), 2.0, 2.5)
    assert watch.view.problem == "of an older life: incarnation 6, while 7 was heard"
    assert not arrival.is_baseline


def test_links_two_writes_of_one_position_are_not_believed():
    """Other content with the same incarnation, sequence and write number comes from a second writer."""
    watch = make_watch()
    see(watch, SLOTS[1], 1.0)
    assert see(watch, make_slot(LINK, 1), 2.0).problem.startswith("older than what was read")


def test_links_a_later_write_of_the_same_beat_is_a_change_and_no_problem():
    """The next piece of a table comes with the same sequence: its write number is above."""
    watch = make_watch()
    see(watch, SLOTS[1], 1.0)
    datagram = decode_slot(SLOTS[1], None).datagram
    later = make_slot(LINK, 1, lease=make_seal(LINK).encode(make_lease(1, writes=2), datagram))
    assert see(watch, later, 2.0).problem == "its lease is of another write, or not authentic"
    same = SLOTS[1][:BLOCK_BYTES] + later[BLOCK_BYTES : 2 * BLOCK_BYTES] + SLOTS[1][2 * BLOCK_BYTES :]
    view = see(watch, same, 3.0)
    assert (view.problem, view.unchanged_since) == ("", 3.5)


def test_links_a_life_below_the_one_heard_before_is_no_lease():
    """The slot of a life that ended before this daemon began cannot be the node's present word."""
    watch = make_watch(floor=8)
    for at in (1.0, 2.0):
        view = see(watch, SLOTS[1], at)
        assert view.problem == "of an older life: incarnation 7, while 8 was heard"
        assert view.unchanged_since == at + 0.5
    assert see(make_watch(floor=7), SLOTS[1], 1.0).problem == ""


def test_links_after_a_read_that_failed_everything_is_a_first_sight():
    """There is no view while the slot cannot be read; the same content counts anew after that."""
    watch = make_watch()
    assert watch.view is None
    see(watch, SLOTS[1], 1.0)
    watch.missed()
    assert watch.view is None
    assert watch.saw(SLOTS[1], 5.0, 5.5) is None, "it was there before: no beat"
    assert watch.view.unchanged_since == 5.5
    assert see(watch, SLOTS[1], 6.0).unchanged_since == 5.5


def test_links_a_slot_made_by_the_builder_is_whole():
    """The tests' own slots are what they say."""
    slot = decode_slot(SLOTS[1], KEYRING.cluster_tag)
    assert isinstance(slot, SlotBeat)
    assert make_seal(LINK).decode(slot.lease, slot.datagram) == make_lease(1)
