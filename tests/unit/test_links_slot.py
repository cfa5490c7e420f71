"""The disk slot: its size and layout, and what its content is told apart as."""

from __future__ import annotations

import pytest
from links_builders import KEYRING, make_beat, make_link

from opensvc_hb.links.codec_native import Opener, Sealer
from opensvc_hb.links.slot import (
    BLOCK_BYTES,
    DATA_BLOCK,
    DATA_BYTES,
    LEASE_BLOCK,
    SLOT_BYTES,
    SlotBeat,
    SlotProblem,
    decode_slot,
    encode_slot,
)

TAG = KEYRING.cluster_tag
LEASE = b"lease block".ljust(BLOCK_BYTES, b"\0")


@pytest.mark.parametrize("length", [0, 1, 300, DATA_BYTES])
def test_links_a_slot_gives_back_its_datagram(length):
    """A slot is always 10 blocks of 512 bytes, and gives back what was put in."""
    slot = encode_slot(b"d" * length, TAG, LEASE)
    assert len(slot) == SLOT_BYTES == 5120
    assert decode_slot(slot, TAG) == SlotBeat(b"d" * length, TAG, LEASE)
    assert decode_slot(slot, None) == SlotBeat(b"d" * length, TAG, LEASE)


def test_links_a_slot_never_written_foreign_or_of_another_cluster_is_told_apart():
    """Zeros, other content, and another cluster's slot are three different things."""
    assert decode_slot(bytes(SLOT_BYTES), TAG) is SlotProblem.NEVER_WRITTEN
    assert decode_slot(b"\x7fELF".ljust(SLOT_BYTES, b"\0"), TAG) is SlotProblem.FOREIGN
    assert decode_slot(bytes(SLOT_BYTES - 1) + b"x", TAG) is SlotProblem.FOREIGN
    assert decode_slot(b"", TAG) is SlotProblem.FOREIGN
    assert decode_slot(encode_slot(b"d", b"another!", LEASE), TAG) is SlotProblem.OTHER_CLUSTER


@pytest.mark.parametrize("blocks_new", range(1, 10))
def test_links_a_write_cut_between_any_two_blocks_is_torn(blocks_new):
    """A slot of which some blocks are of the write before is torn, never a beat."""
    old, new = encode_slot(b"old" * 1300, TAG, LEASE), encode_slot(b"new" * 1300, TAG, LEASE)
    cut = blocks_new * BLOCK_BYTES
    mixed = new[:cut] + old[cut:]
    assert decode_slot(mixed, TAG) in (SlotProblem.TORN, SlotBeat(b"new" * 1300, TAG, LEASE))
    assert (decode_slot(mixed, TAG) is SlotProblem.TORN) == (mixed != new)
    first_write = new[:cut] + bytes(SLOT_BYTES - cut)
    assert decode_slot(first_write, TAG) in (SlotProblem.TORN, SlotBeat(b"new" * 1300, TAG, LEASE))


@pytest.mark.parametrize("lease", [bytes(BLOCK_BYTES), b"L" * BLOCK_BYTES])
def test_links_a_slot_is_a_beat_whatever_its_lease_block_holds(lease):
    """Block 1 comes back as it was written, and no content of it makes a slot torn."""
    slot = encode_slot(b"beat", TAG, LEASE)
    start, end = LEASE_BLOCK * BLOCK_BYTES, DATA_BLOCK * BLOCK_BYTES
    assert slot[start:end] == LEASE
    assert decode_slot(slot[:start] + lease + slot[end:], TAG) == SlotBeat(b"beat", TAG, lease)


def test_links_a_slot_of_another_version_is_said():
    """A newer format is neither torn nor foreign."""
    slot = bytearray(encode_slot(b"beat", TAG, LEASE))
    slot[8] = 2
    assert decode_slot(bytes(slot), TAG) is SlotProblem.VERSION


def test_links_a_thousand_services_need_few_slots():
    """A table of a thousand services is spread over two or three writes."""
    link = make_link()
    datagrams = Sealer(KEYRING, link.node, link.id).seal(make_beat(services=1000), True, DATA_BYTES)
    assert 2 <= len(datagrams) <= 3
    opener = Opener(KEYRING, link, {}, "deb2")
    slots = [decode_slot(encode_slot(datagram, TAG, LEASE), TAG) for datagram in datagrams]
    assert [opener.open(slot.datagram) for slot in slots][-1] == make_beat(services=1000)
