"""A node that leaves in order costs no timeout; a split that heals ends with one instance."""

from __future__ import annotations

import signal

import pytest
from lab_config import ProbeService

pytestmark = pytest.mark.lab

TIMEOUT_S = 3.0
LINKS = ("eth1", "eth2", "disk")


def nodes_living(lab, service):
    return [span.node for span in lab.living(service)]


def ready(lab, more=""):
    lab.configure(TIMEOUT_S, [ProbeService("web")], more=more)
    lab.start_daemons()
    lab.hand_over("web")


def test_leaving_hands_services_over_without_waiting_for_the_timeout(lab):
    """`hbmgr leave` on n1 stops web there, in order, and n2 starts it at once."""
    ready(lab)
    n1 = lab.node("n1")
    n1.hbmgr("leave").check()
    lab.wait(lambda: nodes_living(lab, "web") == ["n2"], 10, "web lives on n2")
    first, second = lab.spans("web")
    assert first.stopped
    gap_s = second.began - first.last
    print(f"web was down for {gap_s:.2f} s, timeout {TIMEOUT_S} s")
    assert gap_s < TIMEOUT_S / 2
    lab.wait_state("n2", "web", "STARTED")
    assert n1.daemon.wait(20) == 0


def test_a_split_that_heals_ends_with_one_instance(lab):
    """Without any guard, and with all links of n1 cut, both run web; mended, one of the two yields.

    That it can come to this is said beforehand, once, where an operator looks.

    The node that took over has the higher epoch and stays; the other one is FROZEN_STOP.
    """
    ready(lab, more="lease = no\n")
    n1, n2 = lab.nodes
    assert sum("split brain" in note for note in n1.status()["notes"]) == 1
    assert n1.svcmgr("-s", "web", "print", "status").out.count("split brain") == 1
    for link in LINKS:
        lab.cut_link("n1", link)
    lab.wait(lambda: sorted(nodes_living(lab, "web")) == ["n1", "n2"], TIMEOUT_S + 10, "the split brain")
    lab.hold(lambda: n1.state("web") == "STARTED", TIMEOUT_S, "n1 goes on")
    for link in LINKS:
        lab.heal_link("n1", link)
    lab.wait(lambda: n1.state("web") == "FROZEN_STOP", 15, "n1 yields")
    lab.wait(lambda: nodes_living(lab, "web") == ["n2"], 5, "web lives on n2 alone")
    lab.wait(lambda: n2.states("web") == {"n1": "FROZEN_STOP", "n2": "STARTED"}, 10, "both agree")
    frozen = n1.status()["services"]["web"]["instances"]["n1"]["frozen"]
    assert "both nodes" in frozen["why"], frozen
    n1.hbmgr("unfreeze", "web").check()
    lab.wait_state("n1", "web", "STOPPED")


def test_a_start_that_fails_leaves_the_service_to_an_operator(lab):
    """n2's script fails on takeover: START_FAILED with an alarm, no retries until force-stop asks for one."""
    ready(lab)
    n1, n2 = lab.nodes
    script = lab.workdir / "services" / "web"
    good = script.read_text()
    script.write_text("#!/bin/sh\necho the data base is gone\nexit 3\n")
    n1.kill()
    lab.wait_state("n2", "web", "START_FAILED", TIMEOUT_S + 10)
    assert any(alarm["service"] == "web" for alarm in n2.status()["alarms"])
    lab.hold(lambda: n2.state("web") == "START_FAILED", 2 * TIMEOUT_S, "it waits for an operator")
    script.write_text(good)
    n2.hbmgr("force-stop", "web").check()
    lab.wait_state("n2", "web", "STARTED", TIMEOUT_S + 15)
    assert nodes_living(lab, "web") == ["n2"]


def test_a_dead_action_runner_is_replaced(lab):
    """The process that runs actions is killed on both nodes; a switch works all the same."""
    ready(lab)
    for node in lab.nodes:
        found = node.run(["pgrep", "-f", "opensvc_hb.daemon.runner_process"]).check().out.split()
        node.run(["kill", "-KILL", *found])  # a worker may have ended meanwhile
    lab.node("n1").hbmgr("switch", "web", timeout_s=60).check()
    lab.wait_state("n2", "web", "STARTED", 20)
    lab.wait(lambda: nodes_living(lab, "web") == ["n2"], 5, "web lives on n2 alone")
    assert not lab.overlaps()


def test_a_daemon_killed_in_the_middle_of_a_start_finds_what_it_began(lab):
    """SIGKILL of n1's daemon while the start script sleeps: one instance in the end, and never two."""
    lab.configure(2 * TIMEOUT_S, [ProbeService("web", start_takes_s=2.0)])
    lab.start_daemons()
    lab.wait(lambda: lab.all_frozen("web"), 15, "web is frozen everywhere")
    n1 = lab.node("n1")
    n1.hbmgr("unfreeze", "web").check()
    lab.wait_state("n1", "web", "STARTING")
    n1.stop_daemon(signal.SIGKILL)
    n1.start_daemon()
    lab.wait_state("n1", "web", "STARTED", 20)
    assert nodes_living(lab, "web") == ["n1"]
    assert len(lab.spans("web")) == 1
