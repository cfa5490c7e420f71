"""Both run it: which one stays, and what becomes of the one that yields."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from core_builders import (
    NODES,
    NOW,
    announced,
    make_beat,
    make_config,
    make_entry,
    make_instance,
    make_node,
    make_peer,
    only,
    receive,
)

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import HealPolicy, Policies, Service
from opensvc_hb.core.events import ActionFinished, CommandGiven, Outcome, ResourcesReported, Ticked
from opensvc_hb.core.healing import CONTENDING, goes_first, order
from opensvc_hb.core.node_state import Liveness, Purpose, RunningAction
from opensvc_hb.core.rules import Order
from opensvc_hb.core.states import ActionVerb, Avail, State, Verb
from opensvc_hb.core.step import step
from opensvc_hb.core.summary import resources_up

START = RunningAction(5, ActionVerb.START, Purpose.RULE, State.STARTED, NOW)


def node(own=State.STARTED, epoch=3, peer_epoch=4, peer_state=State.STARTED, heal=HealPolicy.FREEZE, **rest):
    """A node that runs a service which its peer, heard, runs with another claim."""
    config = make_config(policies=Policies(wait_for_peer_s=0.0, heal=heal))
    action = START if own is State.STARTING else None
    instance = make_instance(own, epoch=epoch, highest_epoch=9, **{"action": action, **rest})
    return make_node(config, [instance], make_peer(config, [make_entry(peer_state, peer_epoch)]), next_id=10)


def look(state, now=NOW):
    """Let the node look at its services, as a configuration change or a new beat makes it do."""
    service = state.instances["svc1"]
    entry = state.peers["deb2"].table["svc1"]
    again = replace(entry, state_sequence=entry.state_sequence + 1)
    beat = make_beat(state.config, [again], sequence=state.peers["deb2"].sequence + 1, acked=state.sequence)
    assert service is not None
    return receive(state, beat, now)


def end(state, effects, outcome=Outcome.DONE, avail=Avail.DOWN, now=NOW):
    """Let the last action that was asked for end."""
    action = only(effects, fx.RunAction)[-1]
    return step(state, ActionFinished("svc1", action.action_id, action.verb, outcome, avail), now)


def own_state(state):
    """The state of the one instance."""
    return state.instances["svc1"].state


# -- the order -------------------------------------------------------------------------------

CLAIMS = list(
    itertools.product(sorted(CONTENDING), (1, 2), (Avail.UP, Avail.DOWN, Avail.UNKNOWN, Avail.NOT_EVALUATED))
)


def test_exactly_one_side_of_every_double_start_is_higher():
    """The order is total, and both sides compute it alike from what they announce."""
    service = make_config().services["svc1"]
    for here, there in itertools.product(CLAIMS, CLAIMS):
        sides = []
        for (state, epoch, avail), (other, other_epoch, other_avail), (me, them) in (
            (here, there, NODES),
            (there, here, NODES[::-1]),
        ):
            own = make_instance(state, epoch=epoch, resources=avail)
            peer = make_instance(other, epoch=other_epoch, resources=other_avail)
            entry = make_entry(other, other_epoch, resources_up=resources_up(peer))
            sides.append(order(service, me, own, them, entry))
        assert set(sides) == {Order.HIGHER, Order.LOWER}, (here, there)


def test_exactly_one_side_goes_first_where_the_lists_of_nodes_differ():
    """Two primaries would both stay, or wait for each other for ever; their names decide."""
    lists = {"deb1": ("deb1", "deb2"), "deb2": ("deb2", "deb1")}
    firsts = []
    for node, peer in (NODES, NODES[::-1]):
        service = Service("svc1", "svc1", lists[node])
        firsts.append(goes_first(service, node, peer, agreed=False))
        assert goes_first(service, node, peer, agreed=True)
    assert firsts == [True, False]


@pytest.mark.parametrize(("own", "peer"), list(itertools.product(State, State)))
def test_only_two_that_run_it_are_ordered(own, peer):
    """One side is enough for no contest."""
    service = make_config().services["svc1"]
    found = order(service, "deb1", make_instance(own), "deb2", make_entry(peer))
    assert (found is not Order.NONE) == (own in CONTENDING and peer in CONTENDING)


def test_the_higher_epoch_stays():
    """The newer claim was made knowing less of the other, but it is the one that lasts."""
    assert own_state(look(node(epoch=3, peer_epoch=4))[0]) is State.STOPPING
    assert own_state(look(node(epoch=4, peer_epoch=3))[0]) is State.STARTED


def test_between_equal_epochs_the_primary_stays():
    """A tie goes to the primary."""
    assert own_state(look(node(epoch=3, peer_epoch=3))[0]) is State.STARTED
    config = make_config("deb2")
    peer = make_peer(config, [make_entry(State.STARTED, 3)])
    state = make_node(config, [make_instance(State.STARTED, epoch=3, highest_epoch=3)], peer)
    beat = make_beat(config, [make_entry(State.STARTED, 3, sequence=2)])
    assert own_state(receive(state, beat)[0]) is State.STOPPING


def test_an_instance_whose_resources_are_down_yields_whatever_its_epoch():
    """What does not run has no claim."""
    assert own_state(look(node(epoch=5, peer_epoch=4, resources=Avail.DOWN))[0]) is State.STOPPING


@pytest.mark.parametrize("avail", [Avail.UP, Avail.MIXED, Avail.UNKNOWN, Avail.NOT_EVALUATED])
def test_only_a_plain_down_speaks_against_an_instance(avail):
    """A probe that hangs or cannot tell never moves a service."""
    assert own_state(look(node(epoch=5, peer_epoch=4, resources=avail))[0]) is State.STARTED


def test_a_report_that_resources_are_down_is_announced():
    """The other side must know that this one has no claim."""
    state = node(peer_state=State.STOPPED)
    after, effects = step(state, ResourcesReported("svc1", Avail.DOWN), NOW)
    assert [e.resources_up for e in only(effects, fx.SendNow)[0].beat.table] == [False]
    assert own_state(after) is State.STARTED
    _, effects = step(after, ResourcesReported("svc1", Avail.UNKNOWN), NOW)
    assert only(effects, fx.SendNow) == []


# -- the side that yields --------------------------------------------------------------------


def test_the_lower_side_raises_an_alarm_and_stops():
    """It says so before it stops."""
    state, effects = look(node())
    assert own_state(state) is State.STOPPING
    assert [action.verb for action in only(effects, fx.RunAction)] == [ActionVerb.STOP]
    assert ("alarm", "H1") in [(j.kind, j.rule) for j in only(effects, fx.Journal)]
    assert announced(effects) is State.STOPPING


def test_the_lower_side_yields_to_a_peer_that_does_not_hear_it():
    """It hears the higher one: that is enough."""
    state = node()
    state = replace(state, peers={"deb2": replace(state.peers["deb2"], liveness=Liveness.ONE_WAY)})
    entries = [make_entry(State.STARTED, 4, sequence=2)]
    state, _ = receive(state, make_beat(state.config, entries, hears=False))
    assert own_state(state) is State.STOPPING


@pytest.mark.parametrize("heal", HealPolicy)
def test_a_side_that_yielded_to_a_peer_still_heard_is_frozen_or_stopped(heal):
    """`heal` chooses."""
    state, effects = look(node(heal=heal))
    state, effects = end(state, effects)
    expected = {HealPolicy.FREEZE: State.FROZEN_STOP, HealPolicy.STOP: State.STOPPED}
    assert own_state(state) is expected[heal]
    freeze = state.instances["svc1"].freeze
    assert (freeze.who if freeze else "") == {
        HealPolicy.FREEZE: "healing of a double start",
        HealPolicy.STOP: "",
    }.get(heal)


def test_a_side_whose_higher_peer_fell_silent_meanwhile_is_not_frozen():
    """A record of a peer no longer heard, such as a dead node's slot, stops but never freezes."""
    state, effects = look(node())
    action = only(effects, fx.RunAction)[0]
    now = NOW
    for _ in range(12):
        now += 0.5
        state, _ = step(state, Ticked(), now)
    assert state.peers["deb2"].liveness is Liveness.UNKNOWN
    state, effects = step(
        state, ActionFinished("svc1", action.action_id, action.verb, Outcome.DONE, Avail.DOWN), now
    )
    assert own_state(state) is State.STARTING, "stopped, and taken over again in the same step"
    assert State.FROZEN_STOP not in [e.state for s in only(effects, fx.SendNow) for e in s.beat.table]


def test_a_side_whose_stop_fails_says_so():
    """It may still run here."""
    state, effects = look(node())
    state, _ = end(state, effects, Outcome.FAILED, Avail.UP)
    assert own_state(state) is State.STOP_FAILED


def test_a_start_under_way_is_cancelled_and_what_it_began_is_stopped():
    """Yielding does not wait for a start that takes five minutes."""
    state, effects = look(node(State.STARTING))
    assert [cancel.action_id for cancel in only(effects, fx.CancelAction)] == [5]
    assert own_state(state) is State.STARTING
    state, effects = look(state)
    assert only(effects, fx.CancelAction) == [], "once"
    state, effects = step(
        state, ActionFinished("svc1", 5, ActionVerb.START, Outcome.TIMED_OUT, Avail.MIXED), NOW
    )
    assert own_state(state) is State.STOPPING
    state, _ = end(state, effects)
    assert own_state(state) is State.FROZEN_STOP


@pytest.mark.parametrize("own", [State.STARTED, State.FROZEN_START])
def test_a_frozen_started_side_yields_like_a_started_one(own):
    """Two instances at once are worse than a freeze that is not kept."""
    assert own_state(look(node(own))[0]) is State.STOPPING


def test_addresses_are_not_announced_behind_a_stop():
    """An announcement under way does not hold the yielding."""
    announcing = RunningAction(5, ActionVerb.ANNOUNCE, Purpose.ANNOUNCE, State.STARTED, NOW)
    state, _ = look(node(action=announcing))
    assert own_state(state) is State.STOPPING
    after, _ = step(state, ActionFinished("svc1", 5, ActionVerb.ANNOUNCE, Outcome.DONE, Avail.UP), NOW)
    assert own_state(after) is State.STOPPING


# -- the side that stays ---------------------------------------------------------------------


def test_the_higher_side_stays_with_an_alarm():
    """While only the higher hears the lower, both stay."""
    state, effects = look(node(epoch=5))
    assert own_state(state) is State.STARTED
    assert ("alarm", "H2") in [(j.kind, j.rule) for j in only(effects, fx.Journal)]
    assert only(effects, fx.RunAction) == []


@pytest.mark.parametrize(
    ("peer_state", "settled"),
    [
        (State.STARTED, False),
        (State.STARTING, False),
        (State.STOPPING, False),
        (State.STOPPED, True),
        (State.FROZEN_STOP, True),
        (State.STOP_FAILED, True),
    ],
)
def test_the_side_that_stays_announces_its_addresses_once_the_other_has_stopped(peer_state, settled):
    """Switches and hosts remember the loser until they are told."""
    state, _ = look(node(epoch=5))
    beat = make_beat(state.config, [make_entry(peer_state, 4, sequence=9)], sequence=70, acked=state.sequence)
    state, effects = receive(state, beat)
    verbs = [action.verb for action in only(effects, fx.RunAction)]
    assert verbs == ([ActionVerb.ANNOUNCE] if settled else [])
    if settled:
        state, effects = end(state, effects, avail=Avail.UP)
        assert own_state(state) is State.STARTED
        _, effects = look(state)
        assert only(effects, fx.RunAction) == [], "once"


def test_a_service_that_ran_while_the_peer_was_unheard_announces_its_addresses():
    """The peer may have run it meanwhile, and stopped before it was heard again."""
    state = node(peer_state=State.STOPPED)
    now = NOW
    for _ in range(12):
        now += 0.5
        state, _ = step(state, Ticked(), now)
    beat = make_beat(state.config, [make_entry(State.STOPPED, 4, sequence=2)], acked=state.sequence)
    _, effects = receive(state, beat, now)
    assert [action.verb for action in only(effects, fx.RunAction)] == [ActionVerb.ANNOUNCE]


def test_an_announcement_that_runs_gives_way_to_an_operators_stop():
    """It is ended: addresses that are going down must not be announced."""
    running = RunningAction(5, ActionVerb.ANNOUNCE, Purpose.ANNOUNCE, State.STARTED, NOW)
    state = node(peer_state=State.STOPPED, action=running)
    state, effects = step(state, CommandGiven(1, "svc1", Verb.STOP), NOW)
    assert only(effects, fx.CancelAction) == [fx.CancelAction("svc1", 5)]
    assert [run.verb for run in only(effects, fx.RunAction)] == [ActionVerb.STOP]
    assert own_state(state) is State.STOPPING
