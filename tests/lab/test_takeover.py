"""Who runs a service when a node, or some of its links, go away: told by the service's own log."""

from __future__ import annotations

import time

import pytest
from lab_config import ProbeService

pytestmark = pytest.mark.lab

TIMEOUT_S = 2.0
LINKS = ("eth1", "eth2", "disk")


def nodes_living(lab, service):
    return [span.node for span in lab.living(service)]


def now():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def test_a_killed_node_loses_its_service_to_the_other(lab):
    """n1 runs web, with an address and a file system; its power is cut; n2 runs web soon after the timeout.

    The file system's content moves along, and the two instances never ran at once.
    """
    web = ProbeService(
        "web",
        fs_image=str(lab.workdir / "web.img"),
        fs_mount="/srv/web",
        address="10.101.0.100",
    )
    lab.configure(TIMEOUT_S, [web])
    lab.start_daemons()
    lab.hand_over("web")
    n1, n2 = lab.nodes
    n1.run(["sh", "-c", f"echo written on n1 > {web.fs_mount}/file && sync {web.fs_mount}/file"]).check()
    assert n2.run(["ping", "-n", "-c", "1", "-W", "1", web.address]).status == 0
    n1.kill()
    killed_at = now()
    lab.wait(lambda: nodes_living(lab, "web") == ["n2"], TIMEOUT_S + 10, "web lives on n2")
    first, second = lab.spans("web")
    assert (first.node, second.node) == ("n1", "n2")
    assert lab.overlaps() == []
    took_s = second.began - killed_at
    print(f"takeover {took_s:.2f} s after the kill, timeout {TIMEOUT_S} s")
    assert TIMEOUT_S - 1.0 < took_s < TIMEOUT_S + 3.0
    lab.wait_state("n2", "web", "STARTED")
    assert n2.states("web")["n1"] == "UNKNOWN"
    assert n2.run(["cat", f"{web.fs_mount}/file"]).check().out == "written on n1\n"
    assert f" {web.address}/24 " in n2.run(["ip", "addr", "show", "eth1"]).out
    told = n2.hbmgr("events", "web").check().out
    assert "STARTED" in told
    status = n2.svcmgr("-s", "web", "print", "status").out
    for resource in ("app#1", "fs#1", "ip#1", "hb#0"):
        assert f"{resource:14} .... up " in status, status


@pytest.mark.parametrize("alive", LINKS)
def test_no_takeover_while_one_link_lives(lab, alive):
    """Two of the three links are cut for three timeouts, the third one beats: nothing moves.

    When the last one is cut too, n2 does take over, so the silence before was a decision.
    """
    lab.configure(TIMEOUT_S, [ProbeService("web")])
    lab.start_daemons()
    lab.hand_over("web")
    for link in LINKS:
        if link != alive:
            lab.cut_link("n1", link)
    lab.hold(lambda: nodes_living(lab, "web") == ["n1"], 3 * TIMEOUT_S, f"{alive} alone holds web on n1")
    assert lab.node("n2").states("web") == {"n1": "STARTED", "n2": "STOPPED"}
    down = lab.node("n2").hbmgr("links").check().out
    assert down.count("DOWN") >= 2
    lab.cut_link("n1", alive)
    lab.wait(lambda: "n2" in nodes_living(lab, "web"), TIMEOUT_S + 10, "with no link at all n2 takes over")
    assert not lab.overlaps()


def make_deaf(lab):
    """n1 sends on its networks, and hears nothing at all."""
    lab.cut_link("n1", "disk")
    for cable in lab.interfaces:
        lab.deafen("n1", cable)


def mend_deafness(lab):
    for cable in lab.interfaces:
        lab.deafen("n1", cable, deaf=False)
    lab.heal_link("n1", "disk")


def test_a_deaf_owner_without_a_lease_keeps_its_service(lab):
    """n1, which runs web, hears n2 on no link, but n2 hears n1: nobody moves, and n2 raises an alarm."""
    lab.configure(TIMEOUT_S, [ProbeService("web")], more="lease = no\n")
    lab.start_daemons()
    lab.hand_over("web")
    n1, n2 = lab.nodes
    make_deaf(lab)
    lab.wait(lambda: n1.states("web")["n2"] == "UNKNOWN", TIMEOUT_S + 10, "n1 hears n2 no more")
    lab.hold(lambda: nodes_living(lab, "web") == ["n1"], 3 * TIMEOUT_S, "web stays on n1")
    assert n2.state("web") == "STOPPED"
    assert any("does not hear us" in alarm["text"] for alarm in n2.status()["alarms"])
    mend_deafness(lab)
    lab.wait(lambda: n1.states("web") == {"n1": "STARTED", "n2": "STOPPED"}, 10, "n1 hears n2 again")
    assert len(lab.spans("web")) == 1


def test_a_deaf_owner_whose_disk_fails_cannot_renew_its_lease(lab):
    """The same with a lease: no acknowledgement and no slot of its own, so n1 ends web; never two.

    n2 hears that n1 lives, and says that it is not heard. When n1 hears again, web is up in one place.
    """
    lab.configure(TIMEOUT_S, [ProbeService("web")])
    lab.start_daemons()
    lab.hand_over("web")
    n2 = lab.node("n2")
    make_deaf(lab)
    lab.wait(lambda: not lab.living("web"), TIMEOUT_S + 5, "web ends on n1")

    def is_told():
        return any("does not hear us" in alarm["text"] for alarm in n2.status()["alarms"])

    lab.wait(is_told, 2 * TIMEOUT_S + 5, "n2 says that n1 does not hear it")
    lab.hold(lambda: len(lab.living("web")) <= 1, 2 * TIMEOUT_S, "never two")
    mend_deafness(lab)
    lab.wait(lambda: len(lab.living("web")) == 1, 20, "web is up in one place")
    assert not lab.overlaps()


def test_switch_moves_a_service_and_back(lab):
    """`hbmgr switch` stops web here and starts it there, and the same again moves it back."""
    lab.configure(TIMEOUT_S, [ProbeService("web")])
    lab.start_daemons()
    lab.hand_over("web")
    lab.node("n1").hbmgr("switch", "web").check()
    lab.wait_state("n2", "web", "STARTED")
    lab.wait(lambda: nodes_living(lab, "web") == ["n2"], 5, "web lives on n2 alone")
    assert lab.node("n2").states("web")["n1"] in ("STOPPED", "FROZEN_STOP")
    lab.node("n2").hbmgr("switch", "web").check()
    lab.wait_state("n1", "web", "STARTED")
    lab.wait(lambda: nodes_living(lab, "web") == ["n1"], 5, "web lives on n1 alone")
    assert [span.node for span in lab.spans("web")] == ["n1", "n2", "n1"]
    assert [span.stopped for span in lab.spans("web")] == [True, True, False]
    assert lab.overlaps() == []


def test_a_service_on_a_node_that_comes_back_stays_where_it_is(lab):
    """n1 is killed, n2 takes web over, n1 boots again: web stays on n2 until somebody switches it."""
    lab.configure(TIMEOUT_S, [ProbeService("web")])
    lab.start_daemons()
    lab.hand_over("web")
    lab.node("n1").kill()
    lab.wait_state("n2", "web", "STARTED")
    lab.boot("n1")
    lab.node("n1").start_daemon()
    lab.wait_state("n1", "web", "STOPPED")
    lab.hold(lambda: nodes_living(lab, "web") == ["n2"], 2 * TIMEOUT_S, "web stays on n2")
    lab.node("n2").hbmgr("switch", "web").check()
    lab.wait_state("n1", "web", "STARTED")
    assert lab.overlaps() == []


def test_a_slow_start_delays_no_other_service(lab):
    """Two services fail over together; one takes 60 s to start, the other is up at once."""
    lab.configure(TIMEOUT_S, [ProbeService("quick")])
    lab.start_daemons()
    lab.hand_over("quick")
    # The slow one first starts without its sleep, on n1; n2 will have the script that sleeps.
    lab.add_service(ProbeService("slow"))
    for node in lab.nodes:
        node.daemon.signal(1)
    lab.wait(lambda: all("slow" in node.status()["services"] for node in lab.nodes), 15, "slow is known")
    lab.hand_over("slow")
    lab.add_service(ProbeService("slow", start_takes_s=60.0))
    lab.node("n1").kill()
    killed_at = now()
    lab.wait(lambda: nodes_living(lab, "quick") == ["n2"], TIMEOUT_S + 10, "quick lives on n2")
    assert lab.spans("quick")[-1].began - killed_at < TIMEOUT_S + 3.0
    lab.wait_state("n2", "slow", "STARTING")
    lab.hold(lambda: lab.node("n2").state("slow") == "STARTING", TIMEOUT_S, "slow goes on starting")
    assert lab.node("n2").state("quick") == "STARTED"
    assert not lab.living("slow")
