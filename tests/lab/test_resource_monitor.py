"""An application dies while its node lives: restarted, moved to the other node, or held there."""

from __future__ import annotations

import pytest
from lab_config import ProbeService

pytestmark = pytest.mark.lab

TIMEOUT_S = 2.0
PACE = "monitor_interval = 1\n"


def watched(restarts, **rest):
    """A service whose application is watched, and restarted so often."""
    return ProbeService("web", app_more=f"monitor = true\nrestart = {restarts}\n", **rest)


def kill_application(lab, node):
    """Kill the process of the service, as a bug in it would; return its run's name."""
    [span] = [span for span in lab.living("web") if span.node == node]
    lab.node(node).run(["kill", "-9", str(span.pid)]).check()
    return span


def texts(lab, node, rule):
    """The journal's entries of one rule."""
    return [entry["text"] for entry in lab.node(node).events("web") if entry["rule"] == rule]


def test_an_application_that_dies_is_restarted_where_it_ran(lab):
    """Its process is killed; a new one runs on the same node, and nothing has moved."""
    lab.configure(TIMEOUT_S, [watched(restarts=2)], more=PACE)
    lab.start_daemons()
    lab.hand_over("web")
    kill_application(lab, "n1")
    lab.wait(lambda: len(lab.spans("web")) == 2 and lab.living("web"), 90, "web lives again")
    assert [span.node for span in lab.spans("web")] == ["n1", "n1"]
    assert lab.node("n1").states("web") == {"n1": "STARTED", "n2": "STOPPED"}
    lab.wait(lambda: texts(lab, "n1", "M1"), 60, "it is seen up again")
    assert texts(lab, "n1", "M4") == ["app#1 is down: restart 1/2"]


def test_an_application_that_cannot_be_restarted_moves_and_stays_frozen_behind(lab):
    """No restart is allowed: freeze-stop here, takeover there; the frozen side says why."""
    lab.configure(TIMEOUT_S, [watched(restarts=0)], more=PACE)
    lab.start_daemons()
    lab.hand_over("web")
    kill_application(lab, "n1")
    lab.wait_state("n2", "web", "STARTED", 90)
    assert lab.node("n1").states("web") == {"n1": "FROZEN_STOP", "n2": "STARTED"}
    assert [span.node for span in lab.living("web")] == ["n2"]
    assert not lab.overlaps()
    page = lab.node("n1").hbmgr("status").check().out
    assert "app#1 was down here" in " ".join(page.split())


def test_nothing_moves_to_a_node_that_cannot_take_it(lab):
    """The service is frozen on the other node: it stays here, with an alarm; unfrozen there, it moves."""
    lab.configure(TIMEOUT_S, [watched(restarts=0)], more=PACE)
    lab.start_daemons()
    lab.hand_over("web")
    n1, n2 = lab.nodes
    n2.hbmgr("freeze-stop", "web").check()
    kill_application(lab, "n1")
    lab.wait(lambda: texts(lab, "n1", "M9"), 90, "an alarm says that the other node cannot take it")
    assert n1.states("web") == {"n1": "STARTED", "n2": "FROZEN_STOP"}
    words = " ".join(n1.hbmgr("status").check().out.split())
    assert "ALARM web: app#1 is down" in words
    assert "M9" in words
    n2.hbmgr("unfreeze", "web").check()
    lab.wait_state("n2", "web", "STARTED", 90)


def test_the_command_restarts_as_the_agents_do(lab):
    """`svcmgr resource monitor` says nothing while all is up; else it restarts, in the agents' words."""
    lab.configure(TIMEOUT_S, [watched(restarts=1)], more="monitor_interval = 3600\n")
    lab.start_daemons()
    lab.hand_over("web")
    n1 = lab.node("n1")
    quiet = n1.svcmgr("-s", "web", "resource", "monitor").check()
    assert quiet.out + quiet.err == ""
    kill_application(lab, "n1")
    told = n1.svcmgr("-s", "web", "resource", "monitor").check()
    words = told.out + told.err
    assert "restart resource app#1. try number 1/1" in words
    assert "monitored resource app#1 restarted. abording TOC." in words
    assert [span.node for span in lab.living("web")] == ["n1"]
