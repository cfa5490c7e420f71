"""`hbmgr decode` of what OpenHA wrote: beats, slots, and a piece of a disk, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from links_builders import KEYRING, NODES, make_beat, make_link, make_slot

from opensvc_hb.cli.hb_decode import CannotDecode, decode_file, decoded_text
from opensvc_hb.cli.hbmgr import run
from opensvc_hb.core.config import LinkType
from opensvc_hb.links import keyring as keys
from opensvc_hb.links.codec_native import Sealer
from opensvc_hb.links.openha_structure import STRUCTURE_BYTES, encode_slot

CAPTURES = Path(__file__).parent.parent / "data/openha/captures"
EXPECTED = json.loads((CAPTURES / "expected.json").read_text())
BEAT = CAPTURES / "mcast-deb1-2svc-started-stopped.bin"


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_openha_decode_gives_every_capture_as_json(name, tmp_path, monkeypatch, capsys):
    """By the command itself, with no configuration, key or daemon."""
    monkeypatch.setenv("OSVC_ROOT", str(tmp_path))
    assert run(["decode", str(CAPTURES / name), "--format", "json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    document = json.loads(printed.out)
    says = EXPECTED[name]
    for field in ("node", "services", "hostid", "elapsed", "pid", "address", "port", "up"):
        assert document[field] == says[field]
    assert document["kind"] == ("beat" if document["bytes"] == STRUCTURE_BYTES else "slot")


def test_openha_decode_gives_a_text(tmp_path):
    """One line for each thing; the clock also as a date, the hostid as it is usually written."""
    text = decoded_text(decode_file(BEAT, tmp_path / "key"))
    assert text == (
        f"file {BEAT}\n"
        "kind beat\ncodec openha\nbytes 9384\nnode deb1.opensvc.com\n"
        "service registry                         STARTED\n"
        "service busybox                          STOPPED\n"
        "hostid 0x650a0100\nelapsed 1795348080 (2026-11-22 11:48:00 UTC)\npid 111\n"
        "address 239.131.50.10\nport 5010\nup 1\n"
    )


def test_openha_decode_finds_every_slot_of_a_disk(tmp_path):
    """The first is the document, the others stand in it, each with its block."""
    document = decode_file(CAPTURES / "dio-disk-first-64-blocks.bin", tmp_path / "key")
    assert (document["block"], document["node"]) == (0, "deb1.opensvc.com")
    assert [(slot["block"], slot["node"], slot["pid"]) for slot in document["slots"]] == [
        (40, "deb2.opensvc.com", 482)
    ]
    assert "slot\n  block 40\n  kind slot\n" in decoded_text(document)


def test_openha_decode_shows_both_formats_of_one_datagram(tmp_path):
    """The structure is the document, the native beat behind it stands in it; likewise in a slot."""
    structure = BEAT.read_bytes()
    path, key_path = tmp_path / "captured", tmp_path / "key"
    keys.write(key_path, KEYRING)
    link = make_link()
    [native] = Sealer(KEYRING, NODES[0], link.id).seal(make_beat(sequence=9), with_table=False)
    path.write_bytes(structure + native)
    document = decode_file(path, key_path)
    assert (document["codec"], document["kind"], document["elapsed"]) == ("openha", "beat", 1795348080)
    assert (document["native"]["codec"], document["native"]["sequence"]) == ("native", 9)
    dio = make_link(type=LinkType.DIO, device="/made/up", address="0", port=0)
    path.write_bytes(encode_slot(structure) + make_slot(dio, 5))
    document = decode_file(path, key_path)
    assert (document["kind"], document["native"]["kind"]) == ("slot", "slot")
    assert document["native"]["lease"]["sequence"] == 5
    assert "native\n  kind slot\n" in decoded_text(document)
    path.write_bytes(encode_slot(structure) + bytes(5120))
    assert "problem" in decode_file(path, key_path)["native"]


def test_openha_decode_refuses_a_capture_of_packets(tmp_path):
    """With what to do instead: a structure comes in seven fragments, which only a tool puts together."""
    with pytest.raises(CannotDecode, match=r"a capture of packets: .*export the UDP payload"):
        decode_file(CAPTURES / "mcast-deb1-fragments-eth1.pcap", tmp_path / "key")


def test_openha_decode_refuses_a_structure_that_says_nothing(tmp_path):
    """The reason is the listener's."""
    path = tmp_path / "captured"
    path.write_bytes(b"A" * STRUCTURE_BYTES)
    with pytest.raises(CannotDecode, match="the node name has no end within its 128 bytes"):
        decode_file(path, tmp_path / "key")
