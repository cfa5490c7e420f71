"""The stand-in for the C program says what the C program said: its structures, byte for byte."""

from __future__ import annotations

import openha_program
import pytest
from lab import TREE

CAPTURES = TREE / "tests/data/openha/captures"
DEB1 = "deb1.opensvc.com"
MULTICAST = ("5010", "239.131.50.10")
MANY = [(f"svc{number:03}", number % 10) for number in range(128)]


@pytest.mark.parametrize(
    ("capture", "up", "place", "states", "numbers"),
    [
        (
            "mcast-deb1-2svc-started-stopped",
            1,
            MULTICAST,
            [("registry", 2), ("busybox", 0)],
            (0x650A0100, 1795348080, 111),
        ),
        ("mcast-deb1-128svc", 1, MULTICAST, MANY, (0x650A0100, 1795348101, 406)),
        ("mcast-deb1-0svc", 1, MULTICAST, [], (0x650A0100, 1795348066, 71)),
        ("dio-deb1-slot0-0svc", 0, ("", ""), [], (0x650A0100, 1795348126, 493)),
    ],
)
def test_its_structure_is_the_captured_one(capture, up, place, states, numbers):
    """What the C program sent on a network or wrote to a disk, made again from its values."""
    made = openha_program.structure(DEB1, up, *place, states, numbers)
    assert made == (CAPTURES / f"{capture}.bin").read_bytes()[: openha_program.BYTES]


def test_a_captured_structure_moves_the_state_files(tmp_path, monkeypatch):
    """A listener writes what it hears into the files that are there, and tells the sender's process."""
    monkeypatch.setattr(openha_program, "EZ", tmp_path)
    (tmp_path / "log").mkdir()
    for name in ("registry", "busybox"):
        (tmp_path / "services" / name).mkdir(parents=True)
        openha_program.state_path(name, DEB1).write_bytes(b"6\0")
    heard = (CAPTURES / "mcast-deb1-2svc-started-stopped.bin").read_bytes()
    assert openha_program.take_states(heard) == 111
    shown = [openha_program.state_path(name, DEB1).read_bytes() for name in ("registry", "busybox")]
    assert shown == [b"2\0", b"0\0"]
