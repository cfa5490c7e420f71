"""`hbmgr decode` of a captured slot: what its lease block says, to people and to programs."""

from __future__ import annotations

import json

import pytest
from links_builders import KEYRING, NODES, make_beat, make_link, make_slot

from opensvc_hb.cli.hb_decode import CannotDecode, decode_file, decoded_text
from opensvc_hb.core.config import LinkType
from opensvc_hb.links import keyring as keys
from opensvc_hb.links.codec_native import Sealer
from opensvc_hb.links.keyring import ClusterKey, Keyring
from opensvc_hb.links.slot import BLOCK_BYTES, SLOT_BYTES

LINK = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0)


@pytest.fixture
def decoded(tmp_path):
    """Decodes bytes, with a key file or without."""

    def decode(data, keyring=None):
        path, key_path = tmp_path / "captured", tmp_path / "key"
        path.write_bytes(data)
        key_path.unlink(missing_ok=True)
        if keyring is not None:
            keys.write(key_path, keyring)
        return decode_file(path, key_path)

    return decode


def test_links_decode_shows_the_lease_of_a_slot(decoded):
    """Node, claim and T stand in the JSON and in the text, checked with the key."""
    document = decoded(make_slot(LINK, 5, claims=NODES[1]), KEYRING)
    assert document["kind"] == "slot"
    assert document["opened"]
    assert document["lease"] == {
        "node": NODES[0],
        "incarnation": 7,
        "sequence": 5,
        "writes": 5,
        "longest_timeout_s": 10.0,
        "claims": NODES[1],
        "problem": "",
    }
    json.dumps(document)
    assert (
        "lease of 'deb1.opensvc.com', claims that of 'deb2.opensvc.com', longest timeout 10 s, "
        "incarnation 7, sequence 5, write 5\n"
    ) in decoded_text(document)
    assert "claims nothing" in decoded_text(decoded(make_slot(LINK, 5), KEYRING))


def test_links_decode_says_when_a_lease_is_only_a_claim(decoded):
    """Without the key, or with another, what stands in clear is shown, and why it is not to be believed."""
    slot = make_slot(LINK, 5)
    assert decoded(slot)["lease"]["problem"] == "not checked, for want of the key"
    assert decoded_text(decoded(slot)).count("(not checked, for want of the key)") == 1
    forged = Keyring(KEYRING.cluster_id, (ClusterKey(1, b"f" * 32),))
    document = decoded(slot, forged)
    assert document["lease"]["problem"] == "its lease is of another write, or not authentic"
    assert document["lease"]["node"] == NODES[0]


def test_links_decode_of_a_slot_without_a_lease_says_so(decoded):
    """A slot of an earlier version is decoded as ever, and its lease is none."""
    slot = make_slot(LINK, 5, lease=bytes(BLOCK_BYTES))
    document = decoded(slot, KEYRING)
    assert document["opened"]
    assert document["lease"] == {"problem": "written by a version without lease"}
    assert "lease none: written by a version without lease\n" in decoded_text(document)


def test_links_decode_of_a_beat_has_no_lease(decoded):
    """A captured datagram of a network has none, and a file that is nothing is refused."""
    [datagram] = Sealer(KEYRING, NODES[0], LINK.id).seal(make_beat(1), with_table=False)
    document = decoded(datagram, KEYRING)
    assert (document["kind"], "lease" in document) == ("beat", False)
    assert "lease" not in decoded_text(document)
    for junk in (b"", bytes(SLOT_BYTES), b"junk" * 2000):
        with pytest.raises(CannotDecode, match="not a native beat or slot"):
            decoded(junk)
