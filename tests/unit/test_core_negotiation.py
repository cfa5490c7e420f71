"""May this node start a service? Offers, acknowledgements, and what a verdict does."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from core_builders import (
    NOW,
    ROLE_NODES,
    TIMEOUT_S,
    announced,
    make_beat,
    make_config,
    make_entry,
    make_instance,
    make_node,
    make_peer,
    only,
    receive,
    settled,
)

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import Policies, TakeoverPolicy
from opensvc_hb.core.events import ActionFinished, Outcome, Ticked
from opensvc_hb.core.messages import LinkHeard
from opensvc_hb.core.negotiation import act, holding_rule, offer_is_settled
from opensvc_hb.core.node_state import Liveness, Offer, Phase
from opensvc_hb.core.rules import Verdict
from opensvc_hb.core.states import FROZEN, PERMISSIVE, ActionVerb, Avail, Role, State
from opensvc_hb.core.step import step
from opensvc_hb.core.turn import Turn

ANNOUNCED = [None, *State]
"""What a peer says of a service; None when its table does not have it."""

OWN_EPOCH, PEER_EPOCH, SEEN_EPOCH = 3, 4, 6


def look(own, peer_state, role, liveness, acknowledged=False, **policies):
    """Have a node look at its one service; return the state before, after, and the effects."""
    config = make_config(ROLE_NODES[role], policies=Policies(wait_for_peer_s=0.0, **policies))
    entries = () if peer_state is None else (make_entry(peer_state, PEER_EPOCH),)
    peer = make_peer(config, entries, liveness)
    instance = make_instance(own, epoch=OWN_EPOCH, highest_epoch=SEEN_EPOCH)
    before = make_node(config, [instance], settled(peer) if acknowledged else peer)
    turn = Turn(before, NOW)
    act(turn, "svc1")
    after, effects = turn.close()
    return before, after, effects


EVERYTHING = list(itertools.product(State, ANNOUNCED, Role, Liveness, (False, True)))


def test_acting_does_what_the_table_says_in_every_situation():
    """The whole product of states, role and liveness: the verdict's deed, and nothing else."""
    for case in EVERYTHING:
        before, after, effects = look(*case)
        own = before.instances["svc1"].state
        now = after.instances["svc1"].state
        verdict = holding_rule(before, before.instances["svc1"], NOW).verdict
        target = {
            Verdict.START: State.STARTING,
            Verdict.OFFER: State.START_READY,
            Verdict.WITHDRAW: State.STOPPED,
            Verdict.YIELD: State.STOPPING,
        }.get(verdict, own)
        assert now is target, case
        verbs = [action.verb for action in only(effects, fx.RunAction)]
        expected = {Verdict.START: [ActionVerb.START], Verdict.YIELD: [ActionVerb.STOP]}
        assert verbs == expected.get(verdict, []), case


def test_a_start_stores_starting_with_an_epoch_above_all_seen_before_it_acts():
    """Every start of the product: stored first, then the action, then the beat that says so."""
    starts = 0
    for case in EVERYTHING:
        _, _, effects = look(*case)
        if not [a for a in only(effects, fx.RunAction) if a.verb is ActionVerb.START]:
            continue
        starts += 1
        kept = effects[0].stored.instances["svc1"]
        assert (kept.state, kept.epoch, kept.highest_epoch) == (State.STARTING, 7, 7), case
        kinds = [type(effect) for effect in effects]
        assert kinds.index(fx.Persist) < kinds.index(fx.RunAction) < kinds.index(fx.SendNow), case
        entry = only(effects, fx.SendNow)[0].beat.table[0]
        assert (entry.state, entry.epoch) == (State.STARTING, 7), case
    assert starts > 50


def test_what_changes_is_stored_before_it_is_announced_in_every_situation():
    """No beat tells a state that a crash could take back."""
    for case in EVERYTHING:
        before, after, effects = look(*case)
        if before.instances["svc1"].state is after.instances["svc1"].state:
            assert not only(effects, fx.SendNow), case
            continue
        assert isinstance(effects[0], fx.Persist), case
        assert effects[0].stored.instances["svc1"].state is announced(effects), case


def test_a_frozen_instance_is_left_alone_in_every_situation():
    """No state change, no action; only a double start ends one that was frozen started."""
    for own, peer_state, role, liveness, acknowledged in EVERYTHING:
        if own not in FROZEN:
            continue
        _before, after, effects = look(own, peer_state, role, liveness, acknowledged)
        if after.instances["svc1"].state is not own:
            heard = liveness in (Liveness.ALIVE, Liveness.ONE_WAY)
            active = peer_state in (State.STARTED, State.STARTING, State.FROZEN_START)
            assert own is State.FROZEN_START, "frozen while stopped"
            assert heard
            assert active
        else:
            assert not only(effects, fx.RunAction)


def test_an_instance_that_was_not_verified_is_not_looked_at():
    """Until the agent was asked what runs here, nothing is decided."""
    config = make_config()
    peer = make_peer(config, [make_entry(State.STOPPED)])
    state = make_node(config, [make_instance(State.STOPPED, verified=False)], peer)
    turn = Turn(state, NOW)
    act(turn, "svc1")
    assert turn.effects == []


# -- the acknowledgement ---------------------------------------------------------------------

OFFER = Offer(incarnation=7, sequence=200, made_at=NOW)


def acknowledging(**changes):
    """A peer whose newest beat makes a start of `OFFER`, but for the changes."""
    peer = settled(make_peer(make_config(), [make_entry(State.STOPPED)]))
    return replace(peer, **changes)


def test_an_offer_is_settled_by_an_acknowledgement_in_the_snapshot_of_its_states():
    """All conditions together make a start."""
    assert offer_is_settled(OFFER, 7, acknowledging(), NOW)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"acked": 199}, "it has processed our beats up to the one before the offer"),
        ({"table_current": False}, "its states are of an older beat than its acknowledgement"),
        ({"trusted_until": NOW}, "what it heard of us is 0.6 of the timeout old: it may count us out"),
    ],
)
def test_an_offer_is_not_settled_when_one_condition_fails(changes, why):
    """Each clause alone holds the start."""
    assert not offer_is_settled(OFFER, 7, acknowledging(**changes), NOW), why


def test_an_offer_of_another_life_is_not_settled():
    """An acknowledgement of an earlier incarnation's beats says nothing of this one's."""
    assert not offer_is_settled(OFFER, 8, acknowledging(), NOW)


def offering(role=Role.PRIMARY, peer_state=State.STOPPED):
    """A node whose offer is out, in its newest beat."""
    config = make_config(ROLE_NODES[role])
    return make_node(config, [make_instance(State.START_READY)], make_peer(config, [make_entry(peer_state)]))


@pytest.mark.parametrize("peer_state", sorted(PERMISSIVE))
@pytest.mark.parametrize("role", Role)
def test_a_beat_that_acknowledges_the_offer_and_permits_starts_at_once(role, peer_state):
    """No fixed sleep: the start is begun in the step that reads the acknowledgement."""
    state = offering(role, peer_state)
    beat = make_beat(state.config, [make_entry(peer_state)], acked=200)
    after, effects = receive(state, beat)
    assert after.instances["svc1"].state is State.STARTING
    assert announced(effects) is State.STARTING


@pytest.mark.parametrize("acked", [0, 199])
def test_a_beat_that_does_not_acknowledge_the_offer_starts_nothing(acked):
    """It was made before the peer knew."""
    state = offering()
    after, _ = receive(state, make_beat(state.config, [make_entry(State.STOPPED)], acked=acked))
    assert after.instances["svc1"].state is State.START_READY


@pytest.mark.parametrize(
    "peer_state", [s for s in State if s not in PERMISSIVE and s is not State.START_READY]
)
def test_a_beat_that_acknowledges_but_does_not_permit_takes_the_offer_back(peer_state):
    """UNKNOWN, announced, permits nothing; neither does anything that may run."""
    state = offering()
    after, effects = receive(state, make_beat(state.config, [make_entry(peer_state)], acked=200))
    assert after.instances["svc1"].state is not State.STARTING
    assert State.STOPPED in [announced(effects), after.instances["svc1"].state]


def test_an_acknowledgement_of_an_old_beat_of_ours_is_void():
    """A permission counts from our own beat's sending, and is void at 0.6 of the timeout."""
    state = offering()
    beat = make_beat(state.config, [make_entry(State.STOPPED)], acked=200)
    after, _ = receive(replace(state, last_at=NOW + 3.0), beat, NOW + 3.0)
    assert after.instances["svc1"].state is State.START_READY


def test_a_void_permission_is_renewed_by_the_next_beat():
    """The offer stands; an acknowledgement of a younger beat of ours settles it."""
    state = offering()
    beat = make_beat(state.config, [make_entry(State.STOPPED)], acked=200)
    after, _ = receive(replace(state, last_at=NOW + 3.0), beat, NOW + 3.0)
    again = make_beat(state.config, [make_entry(State.STOPPED)], sequence=61, acked=after.sequence)
    after, _ = receive(after, again, NOW + 3.1)
    assert after.instances["svc1"].state is State.STARTING


def test_a_start_is_to_begin_while_its_permission_holds():
    """Storing the state takes time; begun later, it would meet the peer that took us for dead."""
    state = offering()
    beat = make_beat(state.config, [make_entry(State.STOPPED)], acked=200)
    after, effects = receive(state, beat, NOW + 1.0)
    (run,) = only(effects, fx.RunAction)
    assert run.begin_by == after.peers["deb2"].trusted_until == NOW + 3.0


def test_a_takeover_is_begun_only_while_the_peer_cannot_be_back_and_have_it():
    """No word of the peer permits it, and its silence is that of a moment ago, not of now."""
    _, _, effects = look(State.STOPPED, State.STARTED, Role.PRIMARY, Liveness.UNKNOWN)
    assert [run.begin_by for run in only(effects, fx.RunAction)] == [NOW + 0.6 * TIMEOUT_S]


def test_a_start_not_begun_is_stopped_and_offered_anew_after_a_beat():
    """Nothing was done, so nothing has failed; what kept it from beginning may last for a while."""
    state = offering()
    beat = make_beat(state.config, [make_entry(State.STOPPED)], acked=200)
    state, effects = receive(state, beat)
    (run,) = only(effects, fx.RunAction)
    late = ActionFinished("svc1", run.action_id, run.verb, Outcome.NOT_BEGUN, Avail.UNKNOWN, 1, "too late")
    state, effects = step(state, late, NOW + 1.0)
    assert state.instances["svc1"].state is State.STOPPED
    assert only(effects, fx.ArmTimer)[0].at <= NOW + 2.0
    state, _ = step(state, Ticked(), NOW + 2.0)
    assert state.instances["svc1"].state is State.START_READY
    assert state.instances["svc1"].offer.made_at == NOW + 2.0


def test_a_sequence_that_this_life_never_sent_gives_no_permission():
    """A peer that lost track of our lives names the sequences of another one."""
    state = offering()
    beat = make_beat(state.config, [make_entry(State.STOPPED)], acked=200)
    (hearing,) = beat.hearings
    links = tuple(LinkHeard(heard.tag, 5000) for heard in hearing.links)
    beat = replace(beat, hearings=(replace(hearing, links=links),))
    after, _ = receive(state, beat)
    assert after.peers["deb2"].trusted_until == 0.0
    assert after.instances["svc1"].state is State.START_READY


def test_a_beat_without_its_table_settles_nothing_until_the_table_is_held():
    """States and acknowledgement are one snapshot: without the states there is no permission."""
    state = offering()
    beat = make_beat(state.config, [make_entry(State.STOPPED, sequence=2)], acked=200)
    after, _ = receive(state, replace(beat, table=None))
    assert after.instances["svc1"].state is State.START_READY
    after, _ = receive(after, beat)
    assert after.instances["svc1"].state is State.STARTING


def test_the_secondary_withdraws_when_it_sees_the_primarys_offer():
    """Between two offers the primary goes first."""
    state = offering(Role.SECONDARY)
    after, effects = receive(state, make_beat(state.config, [make_entry(State.START_READY)], acked=200))
    assert announced(effects) is State.STOPPED
    assert after.instances["svc1"].offer is None


def test_the_primary_waits_to_read_that_the_secondary_withdrew():
    """An acknowledgement beside an offer of the secondary's own is not enough."""
    state = offering(Role.PRIMARY)
    after, _ = receive(state, make_beat(state.config, [make_entry(State.START_READY)], acked=200))
    assert after.instances["svc1"].state is State.START_READY
    again = make_beat(state.config, [make_entry(State.STOPPED, sequence=2)], sequence=61, acked=200)
    after, _ = receive(after, again)
    assert after.instances["svc1"].state is State.STARTING


def test_the_primary_answers_an_offer_in_the_beat_that_acknowledges_it():
    """At a clean boot the primary wins: the acknowledgement carries its own offer."""
    config = make_config(ROLE_NODES[Role.PRIMARY])
    peer = make_peer(config, [make_entry(State.STARTED)])
    state = make_node(config, [make_instance(State.STOPPED)], peer)
    after, effects = receive(state, make_beat(config, [make_entry(State.START_READY, sequence=2)]))
    sent = only(effects, fx.SendNow)[0].beat
    assert announced(effects) is State.START_READY
    assert sent.hearing_of("deb2").sequence == 60
    assert after.instances["svc1"].offer == Offer(7, sent.sequence, NOW)


def test_an_offers_stamp_is_the_beat_that_first_carries_it():
    """The peer acknowledges the sequence in which it read the offer."""
    config = make_config()
    state = make_node(config, [make_instance(State.STOPPED)], make_peer(config, [make_entry(State.STARTED)]))
    after, effects = receive(state, make_beat(config, [make_entry(State.STOPPED, sequence=2)]))
    beat = only(effects, fx.SendNow)[0].beat
    assert after.instances["svc1"].offer == Offer(beat.incarnation, beat.sequence, NOW)


# -- policies, phases ------------------------------------------------------------------------


def test_takeover_ask_holds_a_silent_peers_service():
    """takeover = ask raises an alarm instead of a start."""
    _, after, effects = look(
        State.STOPPED, State.STARTED, Role.SECONDARY, Liveness.UNKNOWN, takeover=TakeoverPolicy.ASK
    )
    assert after.instances["svc1"].state is State.STOPPED
    assert [(j.kind, j.rule) for j in only(effects, fx.Journal)] == [("alarm", "U7")]


def maintained(**policies):
    """A node whose silent peer froze the service started."""
    config = make_config(policies=Policies(wait_for_peer_s=0.0, **policies))
    peer = make_peer(config, [make_entry(State.FROZEN_START)], Liveness.UNKNOWN)
    return make_node(config, [make_instance(State.STOPPED)], replace(peer, maintenance=frozenset({"svc1"})))


def test_a_peers_maintenance_holds_its_takeover():
    """The peer's operator froze it started: silence of that node is no failure."""
    state = maintained()
    assert holding_rule(state, state.instances["svc1"], NOW).id == "U6"


def test_takeover_frozen_takes_over_in_spite_of_maintenance():
    """takeover_frozen = yes is OpenHA's behaviour."""
    state = maintained(takeover_frozen=True)
    assert holding_rule(state, state.instances["svc1"], NOW).id == "U8"


def test_a_node_confirmed_dead_is_taken_over_in_spite_of_maintenance_and_ask():
    """The operator's word is the one way around both."""
    state = maintained(takeover=TakeoverPolicy.ASK)
    peer = replace(state.peers["deb2"], confirmed_dead=True)
    state = replace(state, peers={"deb2": peer})
    assert holding_rule(state, state.instances["svc1"], NOW).id == "U8"


@pytest.mark.parametrize("phase", [Phase.RESTARTING, Phase.LEAVING, Phase.LEFT])
@pytest.mark.parametrize("own", [State.STOPPED, State.UNKNOWN, State.START_READY])
@pytest.mark.parametrize("liveness", [Liveness.ALIVE, Liveness.UNKNOWN, Liveness.LEFT])
def test_a_daemon_on_its_way_out_starts_nothing(phase, own, liveness):
    """Whatever the peer is in, and whatever was acknowledged."""
    config = make_config()
    peer = settled(make_peer(config, [make_entry(State.STOPPED)], liveness))
    state = make_node(config, [make_instance(own)], peer, phase=phase)
    turn = Turn(state, NOW)
    act(turn, "svc1")
    assert only(turn.effects, fx.RunAction) == []
    assert turn.instances["svc1"].state in (State.STOPPED, State.UNKNOWN)


def test_a_hold_is_journaled_once_with_its_rule_and_inputs():
    """The journal tells why a service stays, not every second that it still does."""
    config = make_config()
    state = make_node(config, [make_instance(State.STOPPED)], make_peer(config, [make_entry(State.STARTED)]))
    turn = Turn(state, NOW)
    act(turn, "svc1")
    (entry,) = only(turn.effects, fx.Journal)
    assert (entry.kind, entry.rule, entry.text) == ("hold", "S4", "stays STOPPED")
    assert ("deb2 state", "STARTED") in entry.inputs
    assert [name for name, _ in entry.inputs if name.startswith("last beat net:")]
    act(turn, "svc1")
    assert len(only(turn.effects, fx.Journal)) == 1


def test_a_slow_action_of_one_service_does_not_hold_another():
    """The decision never waits for an action: both takeovers begin in the same step."""
    services = ("slow", "swift")
    config = make_config(services=services)
    peer = make_peer(config, [make_entry(State.STARTED, service=name) for name in services])
    silent = {i: replace(link, heard_at=NOW - 5.0) for i, link in peer.links.items()}
    state = make_node(
        config, [make_instance(State.STOPPED, n) for n in services], replace(peer, links=silent)
    )
    state, effects = step(state, Ticked(), NOW)
    (asked,) = only(effects, fx.AskLinks)
    state, effects = step(state, Ticked(), NOW + 0.3)
    assert asked.token > 0
    assert [action.service for action in only(effects, fx.RunAction)] == ["slow", "swift"]
