"""What the reads of a slot with OpenHA's structure show: a beat is a clock that went on."""

from __future__ import annotations

import pytest
from links_builders import NODES, make_link

from opensvc_hb.core.config import LinkType
from opensvc_hb.core.events import LegacyBeat
from opensvc_hb.core.states import State
from opensvc_hb.links.codec_native import RejectReason
from opensvc_hb.links.codec_openha import StructureReader
from opensvc_hb.links.openha_structure import SLOT_BYTES, Structure, encode, encode_slot
from opensvc_hb.links.structure_watch import NEVER_WRITTEN, StructureWatch

LINK = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0)


def slot(elapsed, state=State.STARTED, node=NODES[0]):
    """A slot of deb1 as C writes it, with garbage behind the structure."""
    data = encode_slot(encode(Structure(node, (("web", state),), elapsed, 471)))
    return data[:-20] + b"garbage of a process"


@pytest.fixture
def watch():
    """Watches deb1's slot from deb2."""
    return StructureWatch(StructureReader(LINK, NODES[1], None), LINK.timeout_s)


def beat(elapsed, state=State.STARTED):
    """The event of a slot."""
    return LegacyBeat(LINK.id, NODES[0], (("web", state),), elapsed, 471)


def test_openha_the_first_content_is_no_sign_of_life(watch):
    """A stale slot is not taken for a node that lives; the first change of its clock is a beat."""
    assert watch.saw(slot(1000), 0.0) is None
    assert watch.saw(slot(1000), 0.25) is None
    assert watch.saw(slot(1001, State.STOPPED), 0.5) == beat(1001, State.STOPPED)


def test_openha_a_clock_that_was_set_back_counts_too(watch):
    """Only that it is another time counts, not which."""
    watch.saw(slot(1000), 0.0)
    assert watch.saw(slot(900), 0.5) == beat(900)


def test_openha_a_slot_never_written_is_nothing(watch):
    """Zeros are no structure, and what is written there first is a beat: nobody wrote it before we looked."""
    assert watch.saw(bytes(SLOT_BYTES), 0.0) is None
    assert watch.note == NEVER_WRITTEN
    assert watch.saw(slot(1000), 0.5) == beat(1000)
    assert watch.note == ""


def test_openha_a_slot_without_a_clock_is_nothing(watch):
    """C takes a clock of 0 for a node that lives for ever."""
    watch.saw(slot(1000), 0.0)
    assert watch.saw(slot(0), 0.5) is None


def test_openha_what_stands_there_after_a_failed_read_is_a_first_sight(watch):
    """Nobody knows when it was written."""
    watch.saw(slot(1000), 0.0)
    watch.missed()
    assert watch.saw(slot(1500), 5.0) is None
    assert watch.saw(slot(1501), 5.5) == beat(1501)


def test_openha_what_was_written_during_a_pause_is_a_first_sight(watch):
    """After a pause as long as the timeout, a changed slot may be as old as that."""
    watch.saw(slot(1000), 0.0)
    assert watch.saw(slot(1010), 10.5) is None
    assert watch.saw(slot(1011), 11.0) == beat(1011)


def test_openha_bad_content_is_refused_once_a_change(watch):
    """Foreign content and another node's structure are refused when they appear, and stay noted."""
    watch.saw(slot(1000), 0.0)
    refused = watch.saw(b"A" * SLOT_BYTES, 0.25)
    assert refused.reason is RejectReason.UNTERMINATED
    assert watch.note == refused.text
    assert watch.saw(b"A" * SLOT_BYTES, 0.5) is None
    assert watch.saw(slot(1001, node="deb3"), 0.75).reason is RejectReason.WRONG_SENDER
    assert watch.saw(slot(1001, node=NODES[1]), 1.0).reason is RejectReason.OWN_BEAT
    assert watch.saw(slot(1002), 1.25) == beat(1002)
