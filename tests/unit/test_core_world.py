"""The deterministic world keeps its own promises: delays, cuts, replays, kills, pauses, stores."""

from __future__ import annotations

import pytest
from core_builders import make_config

from opensvc_hb.core import effects as fx
from opensvc_hb.core.events import StopKind
from opensvc_hb.core.states import ActionVerb, Avail, Verb
from opensvc_hb.sim.hosts import CrashKind
from opensvc_hb.sim.world import Nature, World


def two_nodes(links=("net",)):
    """Both nodes booted and hearing each other, the service running on deb1."""
    world = World((make_config("deb1", links), make_config("deb2", links)))
    for node in world.hosts:
        world.boot(node)
    world.run(1.0)
    for node in ("deb1", "deb2"):
        world.command(node, "svc1", Verb.UNFREEZE)
        world.run(2.0)
    assert world.state("deb1", "svc1") == "STARTED"
    return world


@pytest.mark.parametrize(
    ("first", "before_s", "after_s"),
    [("deb1", 0.5, 10.0), ("deb2", 10.0, 0.5)],
    ids=["longer where it runs", "shorter on the other"],
)
def test_another_timeout_on_one_node_first_is_no_silence(first, before_s, after_s):
    """Who waits for less than the sender's own timeout is sent beats often enough for that."""
    world = World(tuple(make_config(node, timeout_s=before_s) for node in ("deb1", "deb2")))
    for node in world.hosts:
        world.boot(node)
    world.run(1.0)
    for node in world.hosts:
        world.command(node, "svc1", Verb.UNFREEZE)
        world.run(2.13)
    assert world.where("svc1") == ["deb1"]
    world.reconfigure(first, make_config(first, timeout_s=after_s))
    for _ in range(100):
        world.run(0.05)
        assert world.where("svc1") == ["deb1"]


def heard(world, node):
    """The newest sequence that a node read from its only peer."""
    (peer,) = world.hosts[node].core.peers.values()
    return peer.sequence


def test_a_cut_is_one_way_and_heals():
    """Nothing reaches the listener named; the other direction goes on."""
    world = two_nodes()
    link = world.hosts["deb1"].config.links_from("deb1")[0].id
    before = heard(world, "deb2"), heard(world, "deb1")
    world.cut(link, "deb2")
    world.run(3.0)
    assert heard(world, "deb2") == before[0]
    assert heard(world, "deb1") > before[1]
    world.heal(link, "deb2")
    world.run(1.0)
    assert heard(world, "deb2") > before[0]


def test_copies_and_replays_reach_the_core_once():
    """A listener hands over only what is newer than the last on its link."""
    world = two_nodes()
    world.on_deliver = lambda link_id, listener, beat: frozenset({0.001, 0.4, 2.5})
    world.run(1.5)
    steps, beats = world.steps_count, len(world.beats)
    world.run(10.0)
    sent = len(world.beats) - beats
    assert world.steps_count - steps <= 2 * sent + 2


def test_overtaken_beats_are_not_handed_over():
    """The order on a link never goes back."""
    world = two_nodes()
    delays = iter([2.5, 0.001] * 100)
    world.on_deliver = lambda link_id, listener, beat: frozenset({next(delays)})
    newest = 0
    for _ in range(50):
        world.run(0.2)
        assert heard(world, "deb1") >= newest
        newest = heard(world, "deb1")


def test_what_is_lost_does_not_arrive():
    """No delay means no copy."""
    world = two_nodes()
    world.on_deliver = lambda link_id, listener, beat: frozenset()
    world.run(0.1)  # what was on its way arrives
    before = heard(world, "deb1")
    world.run(3.0)
    assert heard(world, "deb1") == before


def test_a_kill_ends_what_runs_and_what_is_under_way():
    """Power off: no resource, no action, no beat in flight is left; the store is."""
    world = two_nodes()
    world.action_s["deb1", "svc1", ActionVerb.STOP] = 3.0
    world.command("deb1", "svc1", Verb.FREEZE_STOP)
    world.kill("deb1")
    assert world.hosts["deb1"].running == set()
    kept = world.hosts["deb1"].stored
    world.boot("deb1")
    world.run(5.0)
    assert world.hosts["deb1"].core.incarnation == kept.incarnation + 1


def test_a_killed_daemon_leaves_its_services_running():
    """Only the daemon is gone."""
    world = two_nodes()
    world.kill_daemon("deb1")
    world.run(1.0)
    assert world.hosts["deb1"].running == {"svc1"}
    assert world.state("deb1", "svc1") == "-"


def test_a_paused_node_does_nothing_and_gets_everything_when_it_goes_on():
    """Its timer first, then what waited."""
    world = two_nodes()
    sent = [node for _, node, _ in world.beats].count("deb2")
    world.pause("deb2")
    world.run(4.0)
    assert [node for _, node, _ in world.beats].count("deb2") == sent
    waiting = len(world.hosts["deb2"].waiting)
    assert waiting >= 3
    world.resume("deb2")
    assert heard(world, "deb2") == world.hosts["deb1"].core.sequence
    assert world.hosts["deb2"].waiting == []


def test_two_at_once_are_seen_whatever_the_cores_believe():
    """The world knows what runs; a node may not."""
    world = two_nodes()
    for link in world.hosts["deb1"].config.links:
        world.cut(link.id, "deb1" if link.node == "deb2" else "deb2")
    world.run(10.0)
    assert [service for _, service in world.overlaps] == ["svc1"]
    assert world.hosts["deb1"].running == world.hosts["deb2"].running == {"svc1"}


def test_an_action_that_fails_changes_nothing_and_says_what_the_agent_sees():
    """A stop that fails leaves the resources up."""
    world = two_nodes()
    world.failing.add(("deb1", "svc1", ActionVerb.STOP))
    number = world.command("deb1", "svc1", Verb.STOP)
    world.run(2.0)
    assert world.hosts["deb1"].running == {"svc1"}
    assert "it fails here" in world.replies[number].text


def test_resources_change_only_by_actions_and_by_whoever_drives_the_world():
    """A service that dies by itself is reported, and is down."""
    world = two_nodes()
    world.resources("deb1", "svc1", Avail.DOWN)
    assert world.hosts["deb1"].running == set()
    assert world.hosts["deb1"].core.instances["svc1"].resources is Avail.DOWN


def test_a_daemon_that_exits_is_gone():
    """Nothing more is given to it, and its timer is off."""
    world = two_nodes()
    world.stop("deb2", StopKind.RESTART)
    world.run(1.0)
    host = world.hosts["deb2"]
    assert (host.core, host.timer) == (None, None)


def test_whoever_watches_sees_every_step_twice():
    """What a step asks for, before and after it is performed."""
    world = two_nodes()
    seen = []
    world.on_step = lambda node, effects, performed: seen.append((node, effects, performed))
    world.run(1.5)
    before = [(node, effects) for node, effects, performed in seen if not performed]
    after = [(node, effects) for node, effects, performed in seen if performed]
    assert before == after
    assert all(isinstance(effects[-1], fx.ArmTimer) for _, effects in before)


def leased(nature=None):
    """Two nodes with a network and a shared disk, the service running on deb1."""
    links = ("net", "dio")
    world = World((make_config("deb1", links), make_config("deb2", links)), nature)
    for node in world.hosts:
        world.boot(node)
    world.run(1.0)
    for node in ("deb1", "deb2"):
        world.command(node, "svc1", Verb.UNFREEZE)
        world.run(2.0)
    assert world.where("svc1") == ["deb1"]
    return world


def test_a_guardian_outlives_its_daemon_and_ends_what_it_left():
    """The daemon alone stands still: the instance ends before the peer has it, and the guardian says so."""
    world = leased()
    acts = []
    world.on_guardian = lambda node, service: acts.append((world.now, node, service))
    began = world.now
    world.pause_daemon("deb1")
    world.run(20.0)
    assert acts
    assert {(node, service) for _, node, service in acts} == {("deb1", "svc1")}
    assert acts[0][0] < began + 5.0
    assert world.where("svc1") == ["deb2"]
    assert world.overlaps == []


def test_a_node_may_end_between_any_two_effects():
    """What was performed before is so, what stood behind it is not."""
    for effects in range(6):
        world = leased()
        world.crash("deb1", effects, CrashKind.MACHINE)
        stored = world.hosts["deb1"].stored
        world.command("deb1", "svc1", Verb.FREEZE_STOP)
        host = world.hosts["deb1"]
        assert not host.is_on
        assert (host.stored is not stored) is (effects > 0)


def test_what_cannot_be_stored_is_not_announced():
    """Until the store works again the last word is repeated, with new sequences."""
    world = leased()
    world.hosts["deb1"].store.fails = True
    world.command("deb1", "svc1", Verb.FREEZE_START)
    world.run(3.0)
    said = {beat.table[0].state.name for at, node, beat in world.beats if node == "deb1" and at > 5.0}
    assert said == {"STARTED"}
    world.hosts["deb1"].store.fails = False
    world.run(3.0)
    assert world.beats[-1][2].table[0].state.name in ("FROZEN_START", "STOPPED")
    assert heard(world, "deb2") > 0


def test_every_node_sees_its_own_clock():
    """Rates differ, and each boot counts from another number; timers are due by the node's own seconds."""
    world = leased(Nature(seed=1, rates={"deb1": 1.02, "deb2": 0.98}))
    before = world.local("deb1"), world.local("deb2")
    world.run(10.0)
    passed = world.local("deb1") - before[0], world.local("deb2") - before[1]
    assert [round(seconds, 3) for seconds in passed] == [10.2, 9.8]
    world.kill("deb2")
    world.boot("deb2")
    assert abs(world.local("deb2") - before[1] - passed[1]) > 0.5


def test_a_guardian_that_does_not_answer_lets_nothing_start():
    """The start is answered as not begun; nothing runs unguarded."""
    world = leased()
    world.hosts["deb2"].guardian.is_unreachable = True
    world.command("deb1", "svc1", Verb.SWITCH)
    world.run(3.0)
    assert "svc1" not in world.hosts["deb2"].running
    assert any("not begun: the guardian does not answer" in line.text for line in world.log)
