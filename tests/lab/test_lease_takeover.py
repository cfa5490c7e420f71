"""A lease on a shared disk: whoever may no longer renew it ends what it runs before the other starts it.

Each test says what is cut, or who dies; never two instances, by the services' own log.
"""

from __future__ import annotations

import pytest
from lease_scene import (
    RELEASED_SHARE,
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
"""Long enough that a stop action fits between 0.6 T and 0.9 T on a loaded machine."""
SHORT_TIMEOUT_S = 2.0


def test_the_disk_alone_keeps_everything_where_it_is(lab):
    """Both networks are cut for three timeouts, the disk lives: nothing moves, no service has an alarm."""
    ready(lab, SHORT_TIMEOUT_S)
    n1, n2 = lab.nodes
    for cable in lab.interfaces:
        lab.cut("n1", cable)
    runs = [span.run for span in lab.living("web")]
    lab.hold(
        lambda: [span.run for span in lab.living("web")] == runs, 3 * SHORT_TIMEOUT_S, "web stays as it is"
    )
    for node in lab.nodes:
        assert node.states("web") == {"n1": "STARTED", "n2": "STOPPED"}
        other = lab.peer_of(node.name).name
        assert [text for text in alarms(node) if not text.startswith(f"{other} is not heard on net:")] == []
        assert decisions(node, "L1") == decisions(node, "U12") == []
    assert "split brain" not in " ".join(n2.status()["notes"])
    for cable in lab.interfaces:
        lab.heal("n1", cable)
    lab.wait(lambda: not alarms(n1) and not alarms(n2), 10, "all links are back, and no alarm is left")
    assert len(lab.spans("web")) == 1


def test_an_owner_cut_off_from_everything_ends_before_the_other_starts(lab):
    """n1's networks and its disk are cut: web ends there by 0.9 T, and begins on n2 after T.

    Both journals say why, with evidence. When the links are back, web stays on n2.
    """
    ready(lab, TIMEOUT_S)
    n1, n2 = lab.nodes
    begun_at = now()
    lab.isolate("n1")
    done_at = now()
    wait_for_takeover(lab, TIMEOUT_S)
    assert_handed_over(lab, TIMEOUT_S, begun_at, done_at)
    ended = the_decision(n1, "L1")
    assert "STARTED -> STOPPING" in ended["text"]
    assert ended["inputs"]["lease"].split()[0] >= "2"
    started = the_decision(n2, "U12")
    assert "-> STARTING" in started["text"]
    print("n1:", ended["reason"], ended["inputs"], "\nn2:", started["reason"], started["inputs"])
    assert any("unchanged for" in value for value in started["inputs"].values()), started
    lab.reunite("n1")
    wait_until_both_agree(lab)
    assert decisions(n1, "H1") == decisions(n2, "H2") == [], "they never ran it both"
    assert len(lab.spans("web")) == 2


def test_a_survivor_whose_disk_fails_ends_its_instance(lab):
    """n2 is dead and n1's disk fails: nobody can tell n1 that its lease holds, so web ends there.

    Status says why. When the disk is mended, n1 claims the dead node's lease and starts web again.
    """
    ready(lab, TIMEOUT_S)
    n1, n2 = lab.nodes
    n2.kill()
    lab.wait(lambda: n1.states("web")["n2"] == "UNKNOWN", TIMEOUT_S + 5, "n1 hears n2 no more")
    lab.hold(lambda: places(lab) == ["n1"], TIMEOUT_S, "the disk alone renews n1's lease")
    lab.disk.fail("n1")
    failed_at = now()
    lab.wait(lambda: places(lab) == [], TIMEOUT_S + 5, "web has ended")
    assert lab.spans("web")[-1].last - failed_at <= RELEASED_SHARE * TIMEOUT_S
    lab.wait_state("n1", "web", "STOPPED")
    assert "lease" in the_decision(n1, "L1")["inputs"]
    lab.wait(lambda: "lease cannot be had" in " ".join(alarms(n1, "web")), TIMEOUT_S + 5, "status says why")
    assert not lab.living("web")
    lab.disk.mend("n1")
    lab.wait(lambda: places(lab) == ["n1"], 2 * TIMEOUT_S + 15, "web is back on n1")
    assert "-> STARTING" in the_decision(n1, "U12")["text"]


def test_a_node_that_boots_alone_needs_no_long_wait(lab):
    """Only n2 gets its power back. The lease of n1, unchanged for T, settles it: no waiting for 90 s."""
    ready(lab, SHORT_TIMEOUT_S, wait_for_peer_s=90.0)
    n2 = lab.node("n2")
    for node in lab.nodes:
        node.kill()
    lab.boot("n2")
    booted_at = now()
    n2.start_daemon()
    lab.wait(lambda: places(lab) == ["n2"], 30, "web lives on n2")
    took_s = lab.spans("web")[-1].began - booted_at
    print(f"started {took_s:.2f} s after the boot, timeout {SHORT_TIMEOUT_S:g} s")
    assert SHORT_TIMEOUT_S < took_s < SHORT_TIMEOUT_S + 5.0
    assert "-> STARTING" in the_decision(n2, "U12")["text"]
    assert not lab.overlaps()


def test_a_takeover_that_asks_waits_for_the_operator(lab):
    """takeover = ask: n1 dies and n2 waits, with an alarm. `hbmgr start` claims the lease and starts."""
    ready(lab, SHORT_TIMEOUT_S, more="takeover = ask\n")
    n1, n2 = lab.nodes
    n1.kill()
    lab.wait(lambda: "takeover = ask" in " ".join(alarms(n2, "web")), SHORT_TIMEOUT_S + 10, "n2 asks")
    lab.hold(lambda: not lab.living("web"), 2 * SHORT_TIMEOUT_S, "n2 waits")
    n2.hbmgr("start", "web").check()
    wait_for_takeover(lab, SHORT_TIMEOUT_S)
    assert not lab.overlaps()


def test_an_operator_goes_around_a_lease_that_cannot_be_had(lab):
    """n1 dies and n2's disk fails: n2 cannot claim n1's lease, says so, and waits.

    `hbmgr confirm-dead` is the way around: web starts on n2, and goes on there without a disk.
    """
    ready(lab, SHORT_TIMEOUT_S)
    n1, n2 = lab.nodes
    lab.disk.fail("n2")
    n1.kill()
    lab.wait(lambda: "lease cannot be had" in " ".join(alarms(n2, "web")), SHORT_TIMEOUT_S + 10, "n2 says so")
    lab.hold(lambda: not lab.living("web"), 2 * SHORT_TIMEOUT_S, "n2 waits")
    assert n2.state("web") == "STOPPED"
    n2.hbmgr("confirm-dead", "n1", "--reason", "its plug is in my hand").check()
    wait_for_takeover(lab, SHORT_TIMEOUT_S)
    runs = [span.run for span in lab.living("web")]
    lab.hold(lambda: [span.run for span in lab.living("web")] == runs, 2 * SHORT_TIMEOUT_S, "web goes on")
    assert "its plug is in my hand" in n2.hbmgr("events").check().out


def test_maintenance_outlives_its_daemon(lab):
    """Freeze-start, daemon stopped for ten timeouts, daemon started, unfreeze: web never noticed."""
    ready(lab, SHORT_TIMEOUT_S)
    n1, n2 = lab.nodes
    runs = [span.run for span in lab.living("web")]

    def as_it_was():
        return [span.run for span in lab.living("web")] == runs

    n1.hbmgr("freeze-start", "web").check()
    lab.wait(lambda: n2.states("web")["n1"] == "FROZEN_START", 5, "n2 knows it")
    assert n1.stop_daemon() == 0
    lab.hold(as_it_was, 10 * SHORT_TIMEOUT_S, "web is the same process")
    assert n2.state("web") == "STOPPED"
    n1.start_daemon()
    lab.wait_state("n1", "web", "FROZEN_START")
    n1.hbmgr("unfreeze", "web").check()
    lab.wait_state("n1", "web", "STARTED")
    lab.wait(lambda: n2.states("web") == {"n1": "STARTED", "n2": "STOPPED"}, 10, "n2 hears it")
    lab.hold(as_it_was, 2 * SHORT_TIMEOUT_S, "web is the same process")
    assert len(lab.spans("web")) == 1
