"""Freeze and unfreeze, step by step as an operator does it with two services on two new nodes."""

from __future__ import annotations

import pytest
from lab_config import ProbeService

pytestmark = pytest.mark.lab

TIMEOUT_S = 2.0


def test_new_services_stay_frozen_until_unfrozen_on_each_node(lab):
    """Both services begin FROZEN_STOP; each unfreeze moves one instance, and nothing else.

    n1 alone sees UNKNOWN for n2; with n2 up all are FROZEN_STOP; unfreeze on n1 starts the
    service there; unfreeze on n2 makes it STOPPED, ready to take over.
    """
    services = ("registry", "busybox")
    lab.configure(TIMEOUT_S, [ProbeService(name) for name in services])
    n1, n2 = lab.nodes
    n1.start_daemon()
    for name in services:
        lab.wait_state("n1", name, "FROZEN_STOP")
        assert n1.states(name)["n2"] == "UNKNOWN"
    n2.start_daemon()
    for name in services:
        lab.wait(lambda name=name: lab.all_frozen(name), 15, f"{name} is frozen everywhere")
    assert not lab.spans()

    n1.hbmgr("unfreeze", "registry").check()
    lab.wait_state("n1", "registry", "STARTED")
    lab.wait(lambda: n2.states("registry")["n1"] == "STARTED", 5, "n2 hears it")
    assert n2.states("registry")["n2"] == "FROZEN_STOP"
    assert n1.states("busybox") == {"n1": "FROZEN_STOP", "n2": "FROZEN_STOP"}
    assert [span.node for span in lab.living("registry")] == ["n1"]
    tree = n1.svcmgr("-s", "registry", "print", "status").out
    assert "hb#0           .... up " in tree
    told = n1.hbmgr("events", "registry").check().out
    steps = ["START_READY", "STARTING", "STARTED"]
    places = [told.index(step) for step in steps]
    assert places == sorted(places), told

    n2.hbmgr("unfreeze", "registry").check()
    lab.wait_state("n2", "registry", "STOPPED")
    assert "hb#0           .... down " in n2.svcmgr("-s", "registry", "print", "status").out
    assert "hb#0           .... warn " in n2.svcmgr("-s", "busybox", "print", "status").out

    n1.hbmgr("unfreeze", "busybox").check()
    lab.wait_state("n1", "busybox", "STARTED")
    n2.hbmgr("unfreeze", "busybox").check()
    lab.wait_state("n2", "busybox", "STOPPED")
    assert [span.node for span in lab.spans()] == ["n1", "n1"]
    n1.hbmgr("unfreeze", "busybox").check()  # holds already: done, and nothing moves
    assert len(lab.spans()) == 2


def test_a_frozen_instance_is_moved_by_operators_only(lab):
    """freeze-stop on the idle side forbids a takeover there; unfreeze allows it again."""
    lab.configure(TIMEOUT_S, [ProbeService("web")])
    lab.start_daemons()
    lab.hand_over("web")
    n1, n2 = lab.nodes
    n2.hbmgr("freeze-stop", "web").check()
    lab.wait_state("n2", "web", "FROZEN_STOP")
    n1.kill()
    lab.wait(lambda: n2.states("web")["n1"] == "UNKNOWN", TIMEOUT_S + 10, "n2 finds n1 silent")
    lab.hold(lambda: n2.state("web") == "FROZEN_STOP", 2 * TIMEOUT_S, "frozen means frozen")
    assert not lab.living("web")
    n2.hbmgr("unfreeze", "web").check()
    lab.wait_state("n2", "web", "STARTED")


def test_freeze_stop_of_a_running_service_lets_the_other_node_start_it(lab):
    """freeze-stop where it runs stops it, frozen, and the other node, not frozen, starts it."""
    lab.configure(TIMEOUT_S, [ProbeService("web")])
    lab.start_daemons()
    lab.hand_over("web")
    n1, n2 = lab.nodes
    n1.hbmgr("freeze-stop", "web").check()
    lab.wait_state("n2", "web", "STARTED")
    assert n2.states("web")["n1"] == "FROZEN_STOP"
    n1.hbmgr("unfreeze", "web").check()
    lab.wait_state("n1", "web", "STOPPED")
    assert [(span.node, span.stopped) for span in lab.spans()] == [("n1", True), ("n2", False)]
    assert not lab.overlaps()


def test_freeze_start_holds_a_takeover_until_the_node_is_confirmed_dead(lab):
    """A service frozen where it runs is under maintenance: its node may go, and nobody takes over.

    An operator who confirms the node dead ends that.
    """
    lab.configure(TIMEOUT_S, [ProbeService("web")])
    lab.start_daemons()
    lab.hand_over("web")
    n1, n2 = lab.nodes
    n1.hbmgr("freeze-start", "web").check()
    lab.wait(lambda: n2.states("web")["n1"] == "FROZEN_START", 5, "n2 hears the freeze")
    assert [span.node for span in lab.living("web")] == ["n1"]
    n1.kill()
    lab.wait(lambda: not lab.living("web"), 5, "web is gone with its node")
    lab.hold(lambda: not lab.living("web"), 3 * TIMEOUT_S, "n2 holds its takeover")
    assert n2.state("web") == "STOPPED"
    n2.hbmgr("confirm-dead", "n1", "--reason", "its plug is in my hand").check()
    lab.wait_state("n2", "web", "STARTED")
    assert "its plug is in my hand" in n2.hbmgr("events").check().out
