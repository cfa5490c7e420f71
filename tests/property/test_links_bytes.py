"""Whatever beats say, they say it again after a journey; whatever bytes come, nothing raises."""

from __future__ import annotations

import contextlib
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from links_builders import KEYRING, NODES, make_beat, make_lease, make_link, make_seal, make_table

from opensvc_hb.core.messages import Beat, Entry, Hearing, LeaseBlock, LinkHeard, table_digest
from opensvc_hb.core.states import State
from opensvc_hb.links import beat_bytes, table_bytes
from opensvc_hb.links.codec_native import Opener, PieceKept, Rejected, RejectReason, Sealer, open_captured
from opensvc_hb.links.lease_block import NoLease, read_clear_lease
from opensvc_hb.links.slot import BLOCK_BYTES, SLOT_BYTES, SlotBeat, SlotProblem, decode_slot, encode_slot

LINK = make_link()
TAG = KEYRING.cluster_tag

numbers = st.integers(0, 2**64 - 1)
seconds = st.floats(0, 1e9)
digests = st.binary(max_size=8)
services = st.text(min_size=1, max_size=15).filter(
    lambda name: 1 <= len(name.encode("utf-8", "ignore")) <= 63
)
names = services.filter(lambda name: name.encode("utf-8", "ignore").decode() == name)
entries = st.builds(
    Entry, names, st.sampled_from(State), numbers, numbers, numbers, st.booleans(), st.booleans()
)
tables = st.lists(entries, max_size=30, unique_by=lambda entry: entry.service).map(
    lambda table: tuple(sorted(table, key=lambda entry: entry.service))
)
heard = st.builds(LinkHeard, st.integers(0, 2**32 - 1), numbers)
hearings = st.builds(Hearing, names, numbers, numbers, digests, st.lists(heard, max_size=6).map(tuple))


@st.composite
def beats(draw):
    """Any beat of deb1."""
    table = draw(st.none() | tables)
    return Beat(
        sender=NODES[0],
        incarnation=draw(numbers),
        sequence=draw(numbers),
        table_digest=draw(digests) if table is None else table_digest(table),
        table=table,
        hearings=tuple(draw(st.lists(hearings, max_size=3))),
        config_digest=draw(digests),
        longest_timeout_s=draw(seconds),
        restarting_for_s=draw(seconds),
        left=draw(st.booleans()),
    )


@given(beats(), st.integers(800, 4096))
def test_links_what_is_sealed_opens_as_it_was(beat, limit_bytes):
    """Any beat, at any size of datagram: the last datagram gives the beat with its table."""
    datagrams = Sealer(KEYRING, NODES[0], LINK.id).seal(beat, True, limit_bytes)
    opener = Opener(KEYRING, LINK, {}, NODES[1])
    opened = [opener.open(datagram) for datagram in datagrams]
    assert opened[-1] == beat
    assert all(len(datagram) <= limit_bytes for datagram in datagrams)
    assert all(opener.open(datagram).reason is RejectReason.REPLAYED for datagram in datagrams)


@given(beats(), st.randoms(use_true_random=False))
def test_links_datagrams_in_any_order_and_twice_give_the_table_once(beat, random):
    """Reordered and repeated datagrams: one steady beat at most, the table exactly once, the rest refused."""
    datagrams = Sealer(KEYRING, NODES[0], LINK.id).seal(beat, True, 800) * 2
    random.shuffle(datagrams)
    opener = Opener(KEYRING, LINK, {}, NODES[1])
    opened = [opener.open(datagram) for datagram in datagrams]
    assert opened.count(beat) == 1
    assert all(isinstance(one, (Beat, PieceKept, Rejected)) for one in opened)
    assert sum(isinstance(one, Beat) for one in opened) <= 2


@given(st.binary(max_size=2000))
def test_links_any_bytes_are_opened_or_refused(data):
    """Bytes of no meaning, also behind a true clear header, are refused with one line."""
    opener = Opener(KEYRING, LINK, {}, NODES[1])
    [good] = Sealer(KEYRING, NODES[0], LINK.id).seal(make_beat(), with_table=False)
    for candidate in (data, good[:60] + data, good[: len(data)], data[:44] + good[44:]):
        opened = opener.open(candidate)
        assert isinstance(opened, Rejected) or candidate == good
        assert candidate == good or "\n" not in opened.text
        assert isinstance(open_captured(candidate, KEYRING), Rejected) or candidate == good


class _OpenerOfAnything(Opener):
    """An opener behind a broken seal, to try what lies behind it."""

    def _decrypt(self, data, clear_length, key_id, session, counter):
        return data[clear_length:]


@given(st.binary(max_size=400), st.integers(0, 200), st.lists(st.tuples(numbers, numbers), max_size=3))
def test_links_even_authentic_nonsense_is_refused(data, cut, pieces):
    """A peer with the key and a defect cannot raise an exception either."""
    opener = _OpenerOfAnything(KEYRING, LINK, {}, NODES[1])
    [good] = Sealer(KEYRING, NODES[0], LINK.id).seal(make_beat(), with_table=False)
    clear = good[: 44 + len(NODES[0])]
    head = beat_bytes.encode_head(make_beat())
    framed = len(head).to_bytes(2, "big") + head
    candidates = [data, framed + data, framed[: cut % len(framed)] + data]
    candidates += [
        framed + (total % 2**32).to_bytes(4, "big") + (start % 2**32).to_bytes(4, "big") + data
        for total, start in pieces
    ]
    for candidate in candidates:
        assert isinstance(opener.open(clear + candidate.ljust(60, b"\0")), (Beat, PieceKept, Rejected))


@given(st.binary(max_size=300), st.integers(0, SLOT_BYTES))
def test_links_any_slot_content_is_a_beat_or_a_problem(data, position):
    """Any content of a slot, and any damage to a good one, is told apart without an exception."""
    assert isinstance(decode_slot(data, TAG), SlotProblem)
    good = encode_slot(b"datagram", TAG, bytes(BLOCK_BYTES))
    damaged = (good[:position] + data + good[position + len(data) :])[:SLOT_BYTES]
    decoded = decode_slot(damaged, TAG)
    assert isinstance(decoded, (SlotBeat, SlotProblem))
    if isinstance(decoded, SlotBeat):
        assert decoded.datagram == b"datagram"


nodes = st.text(max_size=60).filter(lambda name: len(name.encode("utf-8", "ignore")) <= 127)
lease_nodes = nodes.filter(lambda name: name.encode("utf-8", "ignore").decode() == name)


@given(
    st.builds(
        LeaseBlock, lease_nodes.filter(bool), numbers, numbers, numbers, st.floats(0, 3600), lease_nodes
    ),
    st.binary(max_size=300),
    st.binary(max_size=300),
)
def test_links_a_lease_block_comes_back_beside_its_own_datagram_only(block, datagram, other):
    """Any lease is read as it was written, beside the datagram of its write and no other."""
    seal = make_seal(LINK, node=block.node)
    data = seal.encode(block, datagram)
    assert len(data) == BLOCK_BYTES
    assert seal.decode(data, datagram) == block
    assert read_clear_lease(data).block == block
    assert other == datagram or isinstance(seal.decode(data, other), NoLease)


@given(st.binary(max_size=BLOCK_BYTES), st.integers(0, BLOCK_BYTES))
def test_links_any_lease_block_is_a_lease_or_a_reason(data, position):
    """Any bytes, whole or put into a good block, give a lease or one line, and never an exception."""
    seal = make_seal(LINK)
    good = seal.encode(make_lease(claims=NODES[1]), b"datagram")
    damaged = (good[:position] + data + good[position + len(data) :])[:BLOCK_BYTES]
    for candidate in (data, data.ljust(BLOCK_BYTES, b"\0"), damaged):
        decoded = seal.decode(candidate, b"datagram")
        assert isinstance(decoded, NoLease) or candidate == good
        assert candidate == good or "\n" not in decoded.reason
        clear = read_clear_lease(candidate)
        assert not isinstance(clear, NoLease) or "\n" not in clear.reason


@given(st.binary(max_size=300))
def test_links_a_table_of_any_bytes_is_a_table_or_malformed(data):
    """The table's decoder raises its own exception only, also behind a good compression."""
    for candidate in (data, zlib.compress(data)):
        with contextlib.suppress(beat_bytes.MalformedError):
            assert isinstance(table_bytes.decode_table(candidate), tuple)


@given(st.lists(tables, max_size=6), st.randoms(use_true_random=False))
def test_links_what_is_remembered_of_the_last_table_changes_no_byte_and_no_entry(given_tables, random):
    """One encoder and one decoder, through tables of which parts stay: as if each were the first."""
    encoder, decoder = table_bytes.TableEncoder(), table_bytes.TableDecoder()
    last = ()
    for given_table in given_tables:
        kept = [entry for entry in last if random.random() < 0.5]
        mixed = {entry.service: entry for entry in (*given_table, *kept)}
        table = tuple(mixed[name] for name in sorted(mixed))
        data = encoder.encode(table)
        assert data == table_bytes.encode_table(table)
        assert decoder.decode(data) == table
        last = table


def test_links_an_entry_that_stays_is_not_made_again():
    """Of a thousand entries the one that changed is new; bytes that say nothing forget none of them."""
    encoder, decoder = table_bytes.TableEncoder(), table_bytes.TableDecoder()
    table = make_table(1000)
    changed = (replace(table[0], epoch=table[0].epoch + 1), *table[1:])
    first = decoder.decode(encoder.encode(table))
    with pytest.raises(beat_bytes.MalformedError):
        decoder.decode(b"junk")
    second = decoder.decode(encoder.encode(changed))
    assert second == changed
    assert [one is other for one, other in zip(first, second)] == [False] + [True] * 999
