"""Both nodes boot at once: the service is started once, on its primary. LAB_ROUNDS says how often."""

from __future__ import annotations

import os

import pytest
from lab_config import ProbeService

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

ROUNDS = int(os.environ.get("LAB_ROUNDS", "8"))
TIMEOUT_S = 1.0


def test_nodes_that_boot_together_start_a_service_once(lab):
    """Time and again the power of both nodes is cut and comes back at once: one start each time."""
    lab.configure(TIMEOUT_S, [ProbeService("web")])
    lab.start_daemons()
    lab.hand_over("web")
    started_on = []
    for _round in range(ROUNDS):
        for node in lab.nodes:
            node.kill()
        before = len(lab.spans("web"))
        for node in lab.nodes:
            lab.boot(node.name)
        lab.start_daemons()
        lab.wait(lambda: lab.living("web"), 15, "web lives somewhere")
        place = lab.living("web")[0].node
        lab.wait_state(place, "web", "STARTED")
        lab.wait_state(lab.peer_of(place).name, "web", "STOPPED")
        lab.wait(lambda place=place: lab.peer_of(place).states("web")[place] == "STARTED", 5, "both agree")
        assert len(lab.spans("web")) == before + 1
        started_on.append(place)
    assert lab.overlaps() == []
    print("started on", started_on)
    assert started_on.count("n1") == ROUNDS, f"at a clean boot the primary should win: {started_on}"


def test_a_node_that_boots_alone_waits_for_its_peer_and_then_starts(lab):
    """Only n2, the secondary, gets its power back, and no lease settles it: it waits, then starts web."""
    lab.configure(TIMEOUT_S, [ProbeService("web")], wait_for_peer_s=6.0, more="lease = no\n")
    lab.start_daemons()
    lab.hand_over("web")
    for node in lab.nodes:
        node.kill()
    lab.boot("n2")
    lab.node("n2").start_daemon()
    lab.hold(lambda: not lab.living("web"), 3.0, "n2 waits")
    lab.wait_state("n2", "web", "STARTED")
    assert [span.node for span in lab.living("web")] == ["n2"]
