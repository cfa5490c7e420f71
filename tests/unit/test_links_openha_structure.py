"""OpenHA's structure byte for byte: every capture is read as listed, and written again as it was."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from opensvc_hb.core.states import State
from opensvc_hb.links.codec_native import RejectReason
from opensvc_hb.links.openha_structure import (
    SLOT_BYTES,
    STRUCTURE_BYTES,
    Structure,
    decode,
    encode,
    encode_slot,
    is_never_written,
    native_part,
    split,
)

CAPTURES = Path(__file__).parent.parent / "data/openha/captures"
EXPECTED = json.loads((CAPTURES / "expected.json").read_text())

PORT_TAIL = 140
"""The last byte of the port: C leaves it as it was where the port has fewer than four digits."""

PLAIN = Structure("n1", (("web", State.STARTED), ("db", State.STOPPED)), 1795348080, 111, port="5010")


def captured(name):
    """A capture, and the structure in it."""
    data = (CAPTURES / name).read_bytes()
    return data, data[:STRUCTURE_BYTES]


def test_openha_every_capture_is_expected():
    """No capture is left out of the table of what they hold, and none was changed."""
    names = {path.name for path in CAPTURES.glob("*.bin")} - {"dio-disk-first-64-blocks.bin"}
    assert names == set(EXPECTED)
    for name, says in EXPECTED.items():
        assert hashlib.sha256(captured(name)[0]).hexdigest() == says["sha256"]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_openha_a_capture_is_read_as_listed(name):
    """Every field of every capture."""
    says = EXPECTED[name]
    found = decode(captured(name)[1])
    assert isinstance(found, Structure)
    assert (found.node, found.up, found.pid) == (says["node"], says["up"], says["pid"])
    assert (found.hostid, found.elapsed) == (says["hostid"], says["elapsed"])
    assert (found.address, found.port) == (says["address"], "" if says["port"] is None else str(says["port"]))
    assert {service: state.name for service, state in found.services} == says["services"]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_openha_what_was_read_is_written_as_it_was(name):
    """In every byte that C defines, the states of places without a service included."""
    data, structure = captured(name)
    again = encode(decode(structure))
    differing = [at for at in range(STRUCTURE_BYTES) if again[at] != structure[at]]
    assert differing == ([PORT_TAIL] if "port3digits" in name else [])
    if len(data) == SLOT_BYTES:
        assert len(encode_slot(again)) == SLOT_BYTES
        assert encode_slot(again)[STRUCTURE_BYTES:] == bytes(SLOT_BYTES - STRUCTURE_BYTES)


def test_openha_both_slots_of_a_disk_are_read():
    """The slots of two nodes, at their blocks; behind them nothing was ever written."""
    data = (CAPTURES / "dio-disk-first-64-blocks.bin").read_bytes()
    nodes = [decode(data[at * 512 : at * 512 + STRUCTURE_BYTES]).node for at in (0, 40)]
    assert nodes == ["deb1.opensvc.com", "deb2.opensvc.com"]
    assert is_never_written(data[20 * 512 :][:STRUCTURE_BYTES])
    assert not is_never_written(data)


def test_openha_fields_lie_where_c_puts_them():
    """The offsets of the structure, packed here by hand."""
    data = encode(replace(PLAIN, address="239.131.50.10", hostid=0x650A0100))
    assert len(data) == 9384
    assert data[:3] == b"n1\0"
    assert struct.unpack_from("<ii", data, 128) == (1, 0)
    assert data[136:156] == b"5010\x00239.131.50.10\0\0"
    assert (data[156:160], data[220:223]) == (b"web\0", b"db\0")
    states = struct.unpack_from("<128i", data, 8348)
    assert states == (2, 0, *[0] * 14, *[8] * 112)
    assert data[8860:9372] == bytes(512)
    assert struct.unpack_from("<IIi", data, 9372) == (0x650A0100, 1795348080, 111)


def test_openha_a_service_frozen_while_started_is_written_as_start_ready():
    """OpenHA has no word of its own for it."""
    data = encode(replace(PLAIN, services=(("web", State.FROZEN_START),)))
    assert decode(data).services == (("web", State.START_READY),)


def test_openha_the_clock_is_cut_to_32_bits():
    """Past the year 2106 the clock begins anew, as C's does."""
    assert decode(encode(replace(PLAIN, elapsed=(1 << 32) + 5))).elapsed == 5


def put(data, at, new):
    """Bytes with others in their place."""
    return data[:at] + new + data[at + len(new) :]


GOOD = encode(PLAIN)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", RejectReason.TOO_SHORT),
        (GOOD[:-1], RejectReason.TOO_SHORT),
        (GOOD + b"\0", RejectReason.TOO_LONG),
        (b"A" * STRUCTURE_BYTES, RejectReason.UNTERMINATED),
        (put(GOOD, 0, b"n" * 128), RejectReason.UNTERMINATED),
        (put(GOOD, 156, b"s" * 64), RejectReason.UNTERMINATED),
        (put(GOOD, 0, b"\0"), RejectReason.MALFORMED),
        (put(GOOD, 0, b"\xff\xfe"), RejectReason.MALFORMED),
        (put(GOOD, 156, b"\x1b[2J"), RejectReason.MALFORMED),
        (put(GOOD, 156, b"a b"), RejectReason.MALFORMED),
        (bytes(STRUCTURE_BYTES), RejectReason.MALFORMED),
        (put(GOOD, 8348, struct.pack("<i", 10)), RejectReason.STATE),
        (put(GOOD, 8348, struct.pack("<i", -1)), RejectReason.STATE),
        (put(GOOD, 8348 + 4, struct.pack("<i", 1_000_000)), RejectReason.STATE),
    ],
)
def test_openha_what_c_takes_without_a_look_is_refused(data, reason):
    """Short, long, unterminated, no text, no such state: refused with one line."""
    found = decode(data)
    assert found.reason is reason
    assert "\n" not in found.text


def test_openha_nobody_looks_at_states_of_places_without_a_service():
    """What lies behind the first empty name means nothing."""
    data = put(GOOD, 8348 + 2 * 4, struct.pack("<i", 4711))
    assert decode(put(data, 156 + 3 * 64, b"later\0")).services == PLAIN.services


def test_openha_a_native_beat_is_found_behind_a_structure_only():
    """What follows a structure and begins like a native beat is one; other bytes are too many."""
    assert split(GOOD + b"OSHB...") == (GOOD, b"OSHB...")
    assert native_part(GOOD + b"OSHB...") == b"OSHB..."
    assert native_part(b"OSHB...") == b"OSHB..."
    assert split(GOOD + b"others") == (GOOD + b"others", None)
    assert split(GOOD) == (GOOD, None)
