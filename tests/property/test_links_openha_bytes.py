"""Whatever bytes come as OpenHA's structure, they are one or a one-line reason, and nothing raises."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from links_builders import KEYRING, NODES, make_beat, make_link

from opensvc_hb.cli.hb_decode import CannotDecode, decode_file, decoded_text
from opensvc_hb.core.events import LegacyBeat
from opensvc_hb.core.messages import Beat
from opensvc_hb.core.states import State
from opensvc_hb.links.codec_native import Opener, PieceKept, Rejected, Sealer
from opensvc_hb.links.codec_openha import StructureReader
from opensvc_hb.links.openha_structure import STRUCTURE_BYTES, Structure, decode, encode
from opensvc_hb.links.structure_watch import StructureWatch

LINK = make_link()
PLAIN = encode(Structure(NODES[0], (("web", State.STARTED), ("db", State.STOPPED)), 1795348080, 111))

words = st.text(st.characters(whitelist_categories=("L", "N"), max_codepoint=0x2FF), min_size=1, max_size=31)
numbers = st.integers(0, 2**32 - 1)
states = st.sampled_from([state for state in State if state <= State.FORCE_STOP])
structures = st.builds(
    Structure,
    words,
    st.lists(st.tuples(words, states), max_size=128).map(tuple),
    numbers,
    st.integers(-(2**31), 2**31 - 1),
    numbers,
    st.integers(0, 65535).map(str),
    st.ip_addresses(v=4).map(str),
    st.sampled_from([0, 1]),
)


@given(structures)
def test_openha_any_structure_is_read_as_it_was_written(structure):
    """Names, states and numbers come back."""
    data = encode(structure)
    assert len(data) == STRUCTURE_BYTES
    assert decode(data) == structure


def damaged(data, position, new):
    """Bytes with others in their place, the length kept."""
    return (data[:position] + new + data[position + len(new) :])[: len(data)]


@given(st.binary(max_size=300), st.integers(0, STRUCTURE_BYTES - 1), st.integers(0, STRUCTURE_BYTES))
def test_openha_any_bytes_are_a_structure_or_a_reason(data, position, length):
    """Bytes of no meaning, damaged structures, cut and lengthened ones, with and without a native beat."""
    reader = StructureReader(LINK, NODES[1], Opener(KEYRING, LINK, {}, NODES[1]))
    [native] = Sealer(KEYRING, NODES[0], LINK.id).seal(make_beat(), with_table=False)
    broken = damaged(PLAIN, position, data)
    candidates = [data, broken, broken[:length], broken + data, broken + native, broken + b"OSHB" + data]
    for candidate in candidates:
        results = reader.read(candidate)
        assert 1 <= len(results) <= 2
        assert all(isinstance(result, (Beat, PieceKept, LegacyBeat, Rejected)) for result in results)
        assert all("\n" not in result.text for result in results if isinstance(result, Rejected))


@given(st.lists(st.tuples(st.binary(max_size=40), st.integers(0, STRUCTURE_BYTES - 1)), max_size=6))
def test_openha_any_reads_of_a_slot_are_beats_reasons_or_nothing(changes):
    """A slot that changes in any way is watched without an exception."""
    watch = StructureWatch(StructureReader(LINK, NODES[1], None), LINK.timeout_s)
    content = PLAIN
    for read_at, (new, position) in enumerate(changes):
        content = damaged(content, position, new)
        found = watch.saw(content, float(read_at))
        assert found is None or isinstance(found, (LegacyBeat, Rejected))
        assert "\n" not in watch.note


@given(st.binary(max_size=300), st.integers(0, STRUCTURE_BYTES - 1), st.integers(0, 20000))
def test_openha_any_file_is_decoded_or_refused(tmp_path_factory, data, position, length):
    """`hbmgr decode` of any file is a text or one line."""
    path = tmp_path_factory.mktemp("decode") / "captured"
    path.write_bytes((data + damaged(PLAIN, position, data) + data).ljust(length, b"\0"))
    try:
        assert decoded_text(decode_file(path, path.parent / "key")).endswith("\n")
    except CannotDecode as refused:
        assert "\n" not in str(refused)  # noqa: PT017 - either outcome is right
