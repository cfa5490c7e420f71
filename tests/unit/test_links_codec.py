"""The native codec: what is accepted, what is refused and why, and how large beats are."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from links_builders import KEYRING, NODES, make_beat, make_link

from opensvc_hb.core.messages import Beat
from opensvc_hb.links.codec_native import (
    DATAGRAM_MAX_BYTES,
    BeatTooLargeError,
    ClearHeader,
    Opener,
    PieceKept,
    Rejected,
    RejectReason,
    Sealer,
    open_captured,
    read_clear_header,
)
from opensvc_hb.links.keyring import ClusterKey, Keyring

LINK = make_link()


def make_sealer(keyring=KEYRING, sender=NODES[0], link=LINK, session=None):
    """A sealer of deb1's link."""
    return Sealer(keyring, sender, link.id, session)


def make_opener(keyring=KEYRING, link=LINK, floors=None, node=NODES[1]):
    """What deb2 opens deb1's link with."""
    return Opener(keyring, link, floors or {}, node)


def seal_one(beat, **changes):
    """The only datagram of a steady beat."""
    [datagram] = make_sealer(**changes).seal(beat, with_table=False)
    return datagram


def test_links_a_steady_beat_is_small(record_property):
    """Two nodes and three links: a steady beat stays under 300 bytes on the wire."""
    datagram = seal_one(make_beat(services=1000))
    record_property("steady_bytes", len(datagram))
    assert len(datagram) < 300
    assert make_opener().open(datagram) == replace(make_beat(services=1000), table=None)


@pytest.mark.parametrize(("services", "datagrams_max"), [(2, 1), (100, 1), (1000, 7)])
def test_links_a_table_fits_few_datagrams(record_property, services, datagrams_max):
    """A table is split into datagrams of at most 1,200 bytes; 1,000 services fit a handful."""
    beat = make_beat(services=services)
    datagrams = make_sealer().seal(beat, with_table=True)
    record_property("datagram_bytes", [len(datagram) for datagram in datagrams])
    assert len(datagrams) <= datagrams_max
    assert max(map(len, datagrams)) <= DATAGRAM_MAX_BYTES
    opener = make_opener()
    assert [opener.open(datagram) for datagram in datagrams][-1] == beat


def test_links_the_first_piece_counts_as_a_beat_and_the_last_brings_the_table():
    """A table in pieces: a steady beat at once, pieces kept, then the beat again with its table."""
    beat = make_beat(services=1000)
    opener = make_opener()
    datagrams = make_sealer().seal(beat, with_table=True)
    opened = [opener.open(datagram) for datagram in datagrams]
    assert opened[0] == replace(beat, table=None)
    assert all(isinstance(piece, PieceKept) for piece in opened[1:-1])
    assert opened[-1] == beat
    again = opener.open(datagrams[0])
    assert isinstance(again, Rejected)
    assert again.reason is RejectReason.REPLAYED


def test_links_a_lost_piece_costs_the_table_and_not_the_beat():
    """A beat whose table lost a piece is a steady beat; the next sending completes the table."""
    sealer, opener = make_sealer(), make_opener()
    first = make_beat(sequence=1, services=1000)
    datagrams = sealer.seal(first, with_table=True)
    opened = [opener.open(datagram) for datagram in datagrams[1:]]
    assert opened[0] == replace(first, table=None)
    second = make_beat(sequence=2, services=1000)
    opened = [opener.open(datagram) for datagram in sealer.seal(second, with_table=True)]
    # The piece that was lost is all that was missing: the table is there with its return.
    assert opened[0] == second
    assert isinstance(opened[1], Rejected)


def test_links_pieces_of_one_table_may_come_with_different_beats():
    """On disk each piece of a table comes with the newest head; the table is complete all the same."""
    sealer, opener = make_sealer(), make_opener()
    start, sequence, opened = 0, 0, []
    while not opened or start:
        sequence += 1
        beat = make_beat(sequence=sequence, services=1000)
        datagram, start = sealer.seal_piece(beat, start, DATAGRAM_MAX_BYTES)
        opened.append(opener.open(datagram))
    assert len(opened) > 2
    assert [beat.sequence for beat in opened] == list(range(1, sequence + 1))
    assert all(beat.table is None for beat in opened[:-1])
    assert opened[-1] == make_beat(sequence=sequence, services=1000)


def test_links_pieces_of_two_tables_are_never_mixed():
    """A table that changed in the middle begins anew."""
    sealer, opener = make_sealer(), make_opener()
    old = make_beat(sequence=1, services=1000)
    opener.open(sealer.seal(old, with_table=True)[0])
    new = make_beat(sequence=2, services=999)
    opened = [opener.open(datagram) for datagram in sealer.seal(new, with_table=True)]
    assert opened[0] == replace(new, table=None)
    assert opened[-1] == new


def test_links_an_empty_table_is_a_table():
    """No service at all is something else than a steady beat."""
    beat = replace(make_beat(), table=())
    [datagram] = make_sealer().seal(beat, with_table=True)
    assert make_opener().open(datagram) == beat


def test_links_a_replayed_or_late_beat_is_refused():
    """On one link (incarnation, sequence) must grow."""
    sealer, opener = make_sealer(), make_opener()
    early, late = (sealer.seal(make_beat(sequence=n), with_table=False)[0] for n in (1, 2))
    assert isinstance(opener.open(late), Beat)
    for replayed in (late, early):
        rejected = opener.open(replayed)
        assert rejected.reason is RejectReason.REPLAYED
    assert rejected.text == "incarnation 7 sequence 1 is not above 7 sequence 2"
    next_life = make_beat(sequence=1, incarnation=8)
    assert isinstance(opener.open(seal_one(next_life)), Beat)
    assert (
        opener.open(sealer.seal(make_beat(sequence=3), with_table=False)[0]).reason is RejectReason.REPLAYED
    )


def test_links_an_incarnation_below_the_floor_is_refused():
    """What an earlier daemon of ours accepted is the least this one accepts."""
    opener = make_opener(floors={NODES[0]: 8})
    rejected = opener.open(seal_one(make_beat(incarnation=7)))
    assert rejected == Rejected(
        RejectReason.REPLAYED, "incarnation 7, while 8 was accepted before this daemon"
    )
    assert isinstance(opener.open(seal_one(make_beat(incarnation=8))), Beat)


def test_links_every_reason_for_refusing_is_told_apart():
    """Junk, strangers, other links, keys and nodes are counted under their own reasons."""
    good = seal_one(make_beat())
    foreign = Keyring(b"x" * 16, KEYRING.keys)
    other_key = Keyring(KEYRING.cluster_id, (ClusterKey(9, b"k" * 32),))
    forged_key = Keyring(KEYRING.cluster_id, (ClusterKey(1, b"f" * 32),))
    cases = {
        b"": RejectReason.TOO_SHORT,
        good[:50]: RejectReason.TOO_SHORT,
        bytes(9384): RejectReason.NOT_OURS,
        good[:4] + b"\x02" + good[5:]: RejectReason.VERSION,
        seal_one(make_beat(), keyring=foreign): RejectReason.FOREIGN_CLUSTER,
        seal_one(make_beat(), link=make_link(port=5011)): RejectReason.OTHER_LINK,
        seal_one(make_beat(), keyring=other_key): RejectReason.UNKNOWN_KEY,
        seal_one(make_beat(), keyring=forged_key): RejectReason.NOT_AUTHENTIC,
        seal_one(make_beat(sender=NODES[1]), sender=NODES[1]): RejectReason.OWN_BEAT,
        seal_one(make_beat(sender="deb3\n"), sender="deb3\n"): RejectReason.WRONG_SENDER,
        good[:-1]: RejectReason.NOT_AUTHENTIC,
        good + b"\0": RejectReason.NOT_AUTHENTIC,
        good[:-1] + bytes([good[-1] ^ 1]): RejectReason.NOT_AUTHENTIC,
    }
    opener = make_opener()
    for data, reason in cases.items():
        rejected = opener.open(data)
        assert rejected.reason is reason, data
        assert "\n" not in rejected.text
    wrong = opener.open(seal_one(make_beat(sender="deb3\n"), sender="deb3\n"))
    assert wrong.text == "the line is deb1.opensvc.com's, the beat says 'deb3\\n'"
    assert isinstance(opener.open(good), Beat)


def test_links_every_clear_byte_is_authenticated():
    """Whatever single byte of a datagram is changed, it is refused."""
    good = seal_one(make_beat())
    opener = make_opener()
    for position in range(len(good)):
        changed = bytearray(good)
        changed[position] ^= 0x01
        assert isinstance(opener.open(bytes(changed)), Rejected), position
    assert isinstance(opener.open(good), Beat)


def test_links_two_sealers_never_share_a_nonce():
    """Two lives of a daemon seal the same beat with other sessions, so with other keys."""
    one, other = (seal_one(make_beat()) for _ in range(2))
    headers = [read_clear_header(datagram) for datagram in (one, other)]
    assert headers[0].session != headers[1].session
    assert one[len(one) // 2 :] != other[len(other) // 2 :]
    sealer = make_sealer()
    counters = [
        read_clear_header(datagram).counter
        for sequence in (1, 2)
        for datagram in sealer.seal(make_beat(sequence=sequence, services=1000), with_table=True)
    ]
    assert counters == list(range(1, len(counters) + 1))


def test_links_the_clear_header_can_be_read_without_a_key():
    """Who decodes a capture sees whose beat it is, and of which cluster and link."""
    header = read_clear_header(seal_one(make_beat(), session=b"s" * 16))
    assert header == ClearHeader(1, KEYRING.cluster_tag, header.link_tag, b"s" * 16, 1, NODES[0])
    assert read_clear_header(b"OSHB").reason is RejectReason.TOO_SHORT
    assert read_clear_header(bytes(9384)).reason is RejectReason.NOT_OURS


def test_links_a_capture_is_opened_with_the_key_alone():
    """Who has the cluster's key reads any captured datagram, old or not, without the monitor file."""
    beat = make_beat(services=3)
    [datagram] = make_sealer().seal(beat, with_table=True)
    assert open_captured(datagram, KEYRING) == beat
    assert open_captured(datagram, KEYRING) == beat
    pieces = make_sealer().seal(make_beat(services=1000), with_table=True)
    assert {open_captured(piece, KEYRING) for piece in pieces} == {
        replace(make_beat(services=1000), table=None)
    }
    assert open_captured(seal_one(beat), KEYRING) == replace(beat, table=None)


def test_links_a_capture_that_cannot_be_opened_says_why():
    """A capture of strangers, of an unknown key, or damaged, is refused with its reason."""
    datagram = seal_one(make_beat())
    cases = [
        (b"OSHB", KEYRING, RejectReason.TOO_SHORT),
        (datagram, Keyring(b"x" * 16, KEYRING.keys), RejectReason.FOREIGN_CLUSTER),
        (datagram, Keyring(KEYRING.cluster_id, (ClusterKey(9, b"k" * 32),)), RejectReason.UNKNOWN_KEY),
        (datagram[:-1], KEYRING, RejectReason.NOT_AUTHENTIC),
    ]
    for data, keyring, reason in cases:
        assert open_captured(data, keyring).reason is reason


def test_links_many_sessions_keep_a_bounded_number_of_keys():
    """A peer that restarts a thousand times is still heard, at every restart."""
    opener = make_opener()
    for incarnation in range(1, 100):
        assert isinstance(opener.open(seal_one(make_beat(incarnation=incarnation))), Beat)


def test_links_a_beat_that_cannot_fit_is_said():
    """A head longer than a datagram is an error of its own, not a datagram that is too long."""
    hearings = make_beat().hearings * 100
    with pytest.raises(BeatTooLargeError, match="hearings of 100 peers do not fit 1200 bytes"):
        make_sealer().seal(make_beat(hearings=hearings), with_table=False)
    with pytest.raises(BeatTooLargeError, match="do not fit"):
        make_sealer().seal(make_beat(hearings=hearings, services=3), with_table=True)


def test_links_reasons_are_words_in_json():
    """Counters by reason go into JSON as they are."""
    assert json.loads(json.dumps({RejectReason.TOO_SHORT: 3})) == {"too short": 3}


def test_links_a_flood_of_junk_is_refused_at_once():
    """A hundred thousand junk datagrams are refused without an exception, and a beat still counts."""
    opener = make_opener()
    junk = [os.urandom(200) for _ in range(1000)]
    for _ in range(100):
        assert all(isinstance(opener.open(data), Rejected) for data in junk)
    assert isinstance(opener.open(seal_one(make_beat())), Beat)
