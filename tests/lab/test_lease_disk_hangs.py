"""The way of n1 to the shared disk hangs: whoever touches it waits in state D, and nothing ends it."""

from __future__ import annotations

import time

import pytest
from lease_scene import (
    alarms,
    assert_handed_over,
    decisions,
    now,
    places,
    ready,
    the_decision,
    wait_for_takeover,
    wait_until_both_agree,
)

pytestmark = pytest.mark.lab

TIMEOUT_S = 4.0
SHORT_TIMEOUT_S = 2.0
ANSWER_S = 5.0
"""A command is a new interpreter on a loaded machine; a daemon that hangs never answers."""


def hangs(lab):
    """Tell whether a thread of n1 waits in state D: the daemon writes its slot in one of its own."""
    script = "grep -l '^State:.D' /proc/[0-9]*/task/[0-9]*/status"
    return bool(lab.node("n1").run(["sh", "-c", f"{script} 2>/dev/null"]).out.strip())


def answers(node):
    """Tell whether the daemon answers at once."""
    begun_at = time.monotonic()
    node.status()
    took_s = time.monotonic() - begun_at
    assert took_s < ANSWER_S, f"status took {took_s:.1f} s"
    return True


def test_a_hung_disk_moves_nothing_while_the_networks_live(hanging_lab):
    """The disk of n1 hangs for three timeouts: acknowledged beats renew the lease, web stays, n1 answers."""
    lab = hanging_lab
    ready(lab, SHORT_TIMEOUT_S)
    n1, n2 = lab.nodes
    lab.disk.hang("n1")
    lab.wait(lambda: hangs(lab), 5, "a thread of the daemon is in state D")
    lab.hold(lambda: answers(n1) and places(lab) == ["n1"], 3 * SHORT_TIMEOUT_S, "web stays, and n1 answers")
    for node in lab.nodes:
        assert node.states("web") == {"n1": "STARTED", "n2": "STOPPED"}
        assert alarms(node, "web") == []
        assert not [text for text in alarms(node) if "did not run" in text]
        assert decisions(node, "L1") == decisions(node, "U12") == []
    assert any("dio:" in text for text in alarms(n2)), "that the disk is silent is said"
    lab.disk.resume("n1")
    lab.wait(lambda: not alarms(n1) and not alarms(n2), 15, "the disk is back")
    assert len(lab.spans("web")) == 1


def test_a_hung_disk_and_cut_networks_end_the_owner_in_time(hanging_lab):
    """The disk of n1 hangs and its networks are cut: web ends there by 0.9 T and begins on n2 after T.

    When all is mended, n1 is in order again: what waited for the disk went on, and renewed nothing.
    """
    lab = hanging_lab
    ready(lab, TIMEOUT_S)
    n1, n2 = lab.nodes
    begun_at = now()
    lab.disk.hang("n1")
    for cable in lab.interfaces:
        lab.cut("n1", cable)
    done_at = now()
    wait_for_takeover(lab, TIMEOUT_S)
    assert hangs(lab)
    assert answers(n1)
    assert_handed_over(lab, TIMEOUT_S, begun_at, done_at)
    assert "lease" in the_decision(n1, "L1")["inputs"]
    assert "-> STARTING" in the_decision(n2, "U12")["text"]
    lab.disk.resume("n1")
    lab.hold(lambda: places(lab) == ["n2"], TIMEOUT_S, "old writes of n1 bring nothing back")
    for cable in lab.interfaces:
        lab.heal("n1", cable)
    wait_until_both_agree(lab)
    assert len(lab.spans("web")) == 2


def test_a_contender_whose_disk_hangs_takes_nothing_over(hanging_lab):
    """n2, which runs web, dies while the disk of n1 hangs: n1 cannot claim, says so, and claims later."""
    lab = hanging_lab
    ready(lab, SHORT_TIMEOUT_S, first="n2")
    n1, n2 = lab.nodes
    lab.disk.hang("n1")
    lab.wait(lambda: hangs(lab), 5, "a thread of the daemon is in state D")
    n2.kill()
    lab.wait(lambda: "lease cannot be had" in " ".join(alarms(n1, "web")), SHORT_TIMEOUT_S + 15, "it says so")
    lab.hold(lambda: answers(n1) and not lab.living("web"), SHORT_TIMEOUT_S, "n1 waits")
    lab.disk.resume("n1")
    wait_for_takeover(lab, SHORT_TIMEOUT_S + 20, by="n1")
    assert not lab.overlaps()
