"""The demo tells its story: it exits 0 after a real takeover, in under a minute, 80 columns wide."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import demo
import pytest

pytestmark = pytest.mark.lab

LIMIT_S = 60.0


def run_demo(*options):
    began = time.monotonic()
    argv = [sys.executable, demo.__file__, *options]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demonstration:
        told, complaints = demonstration.communicate(timeout=2 * LIMIT_S)
    assert demonstration.returncode == 0, told + complaints
    assert complaints == ""
    assert time.monotonic() - began < LIMIT_S
    assert max(map(len, told.splitlines())) <= demo.WIDTH
    assert not list(Path("/var/tmp").glob(f"hb{demonstration.pid}-*"))
    return told


def test_the_demo_on_real_nodes(needs_root):
    """As root: real nodes, a service with address and file system, the rule that took it over."""
    told = run_demo()
    for words in ("n1 is killed", "[U12]", "fs#1           .... up", "ip#1           .... up", "Takeover "):
        assert words in told, told


def test_the_demo_without_namespaces():
    """Without root: plain processes on the loopback interface, and what differs is said."""
    told = run_demo("--loopback")
    for words in (
        "no networks or mounts of their own",
        "n1 is killed",
        "[U12]",
        "app#1          .... up",
        "Takeover ",
    ):
        assert words in told, told


def test_a_wide_table_is_folded_between_its_columns():
    """Columns stay whole and under their titles when a table is cut to the width of a page."""
    ruler = "  ".join(["-" * 10] * 12)
    rows = ["  ".join(f"title{column:<5}" for column in range(12)), ruler]
    narrow = demo.folded(rows)
    assert all(len(line) <= demo.WIDTH for line in narrow)
    assert [word for line in narrow for word in line.split() if word.startswith("title")] == [
        f"title{column}" for column in range(12)
    ]
