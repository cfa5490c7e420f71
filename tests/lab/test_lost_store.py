"""Nodes installed anew find each other again, also where nothing but a disk connects them."""

from __future__ import annotations

import pytest
from lease_scene import ready

pytestmark = pytest.mark.lab

TIMEOUT_S = 2.0


def test_nodes_that_lost_their_stores_are_heard_over_the_disk_alone(lab):
    """Both lose power and their stores: no record knows of earlier lives, but each slot holds
    its node's second one.

    Each begins above what its slot holds, so that the other takes its beats for new ones: both are
    heard, and web is handed over as in a new cluster.
    """
    lab.interfaces = ()
    ready(lab, TIMEOUT_S)
    for node in lab.nodes:
        assert node.stop_daemon() == 0
    lab.start_daemons()
    lab.wait_state("n2", "web", "STOPPED")
    for node in lab.nodes:
        node.kill()
    for node in lab.nodes:
        (node.root / "var/lib/opensvc/hb.store").unlink()
        lab.boot(node.name)
    lab.start_daemons()
    lab.hand_over("web")
    assert [span.node for span in lab.spans("web")] == ["n1", "n1"]
    for node in lab.nodes:
        told = [entry["reason"] for entry in node.hbmgr("events", "--format", "json").json()]
        assert any(reason.endswith("its store was lost") for reason in told), node.journal_tail()
        assert node.states("web") == {"n1": "STARTED", "n2": "STOPPED"}
