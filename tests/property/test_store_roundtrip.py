"""The store's copies: what is encoded is decoded, and any bytes give a copy or a reason."""

from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opensvc_hb.core.events import Stored, StoredInstance, StoredPeer
from opensvc_hb.core.states import State
from opensvc_hb.daemon.store import Store
from opensvc_hb.daemon.store_format import Copy, RecordTexts, Unreadable, decode_copy, encode_copy

NUMBERS = st.integers(min_value=0, max_value=2**64 - 1)
TEXTS = st.text(st.characters(), max_size=40)  # lone surrogates too, as a command line gives them
NAMES = st.text(min_size=1, max_size=20)
INSTANCES = st.builds(StoredInstance, st.sampled_from(State), NUMBERS, NUMBERS, NUMBERS, TEXTS, TEXTS, TEXTS)
PEERS = st.builds(
    StoredPeer,
    NUMBERS,
    st.floats(min_value=0, max_value=1e6),
    st.lists(NAMES, max_size=4).map(tuple),
)
RECORDS = st.builds(
    Stored,
    NUMBERS,
    st.dictionaries(NAMES, INSTANCES, max_size=6),
    st.dictionaries(NAMES, PEERS, max_size=3),
)


@given(RECORDS, NUMBERS)
def test_a_copy_says_what_was_stored(stored, generation):
    """A decoded copy says what was stored, whatever stands behind it in the file."""
    encoded = encode_copy(stored, generation, 65536)
    assert decode_copy(encoded + b"left over") == Copy(generation, 65536, stored)


@given(st.lists(RECORDS, max_size=4), st.randoms(use_true_random=False))
def test_what_is_kept_between_writes_changes_no_byte(records, random):
    """Records of which parts stay, written one after the other: as if each were the first."""
    texts = RecordTexts()
    last = {}
    for stored in records:
        kept = {name: instance for name, instance in last.items() if random.random() < 0.5}
        mixed = replace(stored, instances={**stored.instances, **kept})
        assert encode_copy(mixed, 1, 65536, texts) == encode_copy(mixed, 1, 65536)
        last = mixed.instances


@given(st.binary(max_size=300))
def test_any_bytes_are_a_reason(data):
    """Any bytes that we did not write give a reason of one line."""
    answer = decode_copy(data)
    assert isinstance(answer, Unreadable)
    assert answer.reason
    assert "\n" not in answer.reason


@given(RECORDS, st.data())
def test_a_cut_copy_is_a_reason(stored, data):
    """A copy cut anywhere gives a reason."""
    encoded = encode_copy(stored, 1, 65536)
    cut = data.draw(st.integers(min_value=0, max_value=len(encoded) - 1))
    assert isinstance(decode_copy(encoded[:cut]), Unreadable)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.data_too_large, HealthCheck.too_slow]
)
@given(st.lists(RECORDS, min_size=1, max_size=4))
def test_the_last_record_written_is_the_one_read(tmp_path_factory, records):
    """Of several records written, the last one is read by the next daemon."""
    path = tmp_path_factory.mktemp("store") / "store"
    for stored in records:
        with Store.open(path, 10) as store:
            store.write(stored)
    with Store.open(path, 10) as store:
        assert store.read() == records[-1]
