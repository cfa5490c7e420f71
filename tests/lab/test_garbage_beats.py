"""A million datagrams that are no beats of this cluster change nothing."""

from __future__ import annotations

import sys

import beat_thrower
import pytest
from lab_config import ProbeService

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

TIMEOUT_S = 2.0
COUNT = 1_000_000


def listener(node, port):
    """What a node tells of its listener on a port."""
    for link in node.status()["links"]:
        if link.get("role") == "listener" and f":{port}" in str(link.get("id", link)):
            return link
    raise AssertionError(f"no listener on port {port} in {node.status()['links']}")


def test_a_million_false_beats_change_nothing(lab):
    """Garbage, truncated, flipped, replayed and foreign beats arrive where n2 listens to n1 on eth1.

    They come from n1's own network. Web stays where it is, no node counts as dead, and true
    beats are accepted all the while.
    """
    lab.configure(TIMEOUT_S, [ProbeService("web")])
    lab.start_daemons()
    lab.hand_over("web")
    n1, n2 = lab.nodes
    before = listener(n2, 5010)
    thrower = n1.spawn(
        [
            *(sys.executable, beat_thrower.__file__),
            *("--interface", "eth1", "--address", lab.switch.address(1, "eth1")),
            *("--group", "239.131.50.10", "--port", "5010", "--sender", "n1", "--count", str(COUNT)),
        ],
        lab.workdir / "thrower.log",
    )
    lab.hold(lambda: [span.node for span in lab.living("web")] == ["n1"], 5.0, "web stays on n1")
    lab.wait(lambda: not thrower.running, 300, "the thrower is done")
    print((lab.workdir / "thrower.log").read_text())
    assert thrower.wait(0) == 0
    assert [span.node for span in lab.spans("web")] == ["n1"]
    for node in lab.nodes:
        assert node.states("web") == {"n1": "STARTED", "n2": "STOPPED"}
    after = listener(n2, 5010)
    print("before", before, "after", after)
    assert after["received"] > before["received"]
    assert sum(after["rejected"].values()) > COUNT / 100
    assert n2.daemon.running
    lab.wait(lambda: listener(n2, 5010)["received"] > after["received"], 10, "true beats go on")
