"""The lease block of a slot: it says what it said, and nothing else is believed."""

from __future__ import annotations

import pytest
from links_builders import KEYRING, NODES, make_lease, make_link, make_seal

from opensvc_hb.links.keyring import ClusterKey, Keyring
from opensvc_hb.links.lease_block import ClearLease, LeaseSeal, NoLease, read_clear_lease
from opensvc_hb.links.slot import BLOCK_BYTES

LINK = make_link()
SEAL = make_seal(LINK)
DATAGRAM = b"the datagram of the same write"
NEXT_KEY = ClusterKey(2, b"n" * 32)


@pytest.mark.parametrize("claims", ["", NODES[1], "n" * 127])
def test_links_a_lease_block_says_what_it_said(claims):
    """A block fills 512 bytes, and gives back the lease, with a claim or without."""
    block = make_lease(5, writes=2**64 - 1, longest_timeout_s=0.3, claims=claims)
    data = SEAL.encode(block, DATAGRAM)
    assert len(data) == BLOCK_BYTES
    assert SEAL.decode(data, DATAGRAM) == block
    assert read_clear_lease(data) == ClearLease(
        1, KEYRING.cluster_tag, int.from_bytes(data[20:24], "big"), block
    )


def test_links_every_flipped_bit_of_a_lease_block_is_refused():
    """Whichever of the 4,096 bits is wrong, also in the unused part, the block says nothing."""
    data = SEAL.encode(make_lease(5, claims=NODES[1]), DATAGRAM)
    for bit in range(BLOCK_BYTES * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        refused = SEAL.decode(bytes(changed), DATAGRAM)
        assert isinstance(refused, NoLease), bit
        assert "\n" not in refused.reason


def test_links_a_lease_block_beside_the_datagram_of_another_write_is_refused():
    """A block is whole only beside the datagram that it was written with."""
    data = SEAL.encode(make_lease(5), DATAGRAM)
    for other in (b"", DATAGRAM + b"\0", DATAGRAM[:-1], b"another"):
        assert SEAL.decode(data, other) == NoLease("its lease is of another write, or not authentic")


def test_links_every_reason_for_refusing_a_lease_is_told_apart():
    """Another version, cluster, node, link or key, and an older version of ours, are different things."""
    block = make_lease(5)
    good = SEAL.encode(block, DATAGRAM)
    foreign = Keyring(b"x" * 16, KEYRING.keys)
    other_key = Keyring(KEYRING.cluster_id, (ClusterKey(9, b"k" * 32),))
    forged_key = Keyring(KEYRING.cluster_id, (ClusterKey(1, b"f" * 32),))
    stranger = make_seal(LINK, node="deb3\n").encode(make_lease(5, node="deb3\n"), DATAGRAM)
    by_foreign, by_other, by_forger = (
        make_seal(LINK, keyring).encode(block, DATAGRAM) for keyring in (foreign, other_key, forged_key)
    )
    cases = {
        bytes(BLOCK_BYTES): "written by a version without lease",
        b"": "foreign content where its lease should be",
        b"LABELONE".ljust(BLOCK_BYTES, b"\0"): "foreign content where its lease should be",
        good[:-1]: "foreign content where its lease should be",
        good[:8] + b"\2" + good[9:]: "its lease is of format version 2, 1 is known here",
        by_foreign: f"its lease is of the cluster with tag {foreign.cluster_tag.hex()}",
        stranger: "the line is deb1.opensvc.com's, its lease says 'deb3\\n'",
        by_other: "its lease is sealed with key 9, which we do not have",
        by_forger: "its lease is of another write, or not authentic",
    }
    for data, reason in cases.items():
        assert SEAL.decode(data, DATAGRAM) == NoLease(reason)
    elsewhere = make_seal(make_link(address="20")).encode(block, DATAGRAM)
    assert SEAL.decode(elsewhere, DATAGRAM).reason.startswith("its lease is of another link (tag ")


def test_links_a_lease_that_is_no_number_of_seconds_is_refused():
    """A timeout that is infinite, negative or no number comes from a defect, and is not used."""
    for seconds in (float("inf"), float("nan"), -1.0):
        data = SEAL.encode(make_lease(5, longest_timeout_s=seconds), DATAGRAM)
        assert SEAL.decode(data, DATAGRAM) == NoLease(
            "its lease is malformed: its timeout is not a number of seconds"
        )


def test_links_leases_outlive_the_rotation_of_the_key():
    """At each step of a rotation every node believes the leases of nodes one step behind or ahead."""
    [old] = KEYRING.keys
    steps = [KEYRING] + [Keyring(KEYRING.cluster_id, ids) for ids in ((old, NEXT_KEY), (NEXT_KEY, old))]
    steps.append(Keyring(KEYRING.cluster_id, (NEXT_KEY,)))
    for before, after in zip(steps, steps[1:]):
        for writer, reader in ((before, after), (after, before)):
            data = make_seal(LINK, writer).encode(make_lease(5), DATAGRAM)
            assert make_seal(LINK, reader).decode(data, DATAGRAM) == make_lease(5)


def test_links_the_seal_is_of_one_link_and_one_cluster():
    """The same lease beside the same datagram has another seal on another link, and in another cluster."""
    block = make_lease(5)
    seals = {
        LeaseSeal(keyring, NODES[0], tag).encode(block, DATAGRAM)[-16:]
        for keyring in (KEYRING, Keyring(b"x" * 16, KEYRING.keys))
        for tag in (1, 2)
    }
    assert len(seals) == 4
