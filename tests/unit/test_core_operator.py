"""What an operator may do: every verb from every state, against what OpenHA does, and the protections."""

from __future__ import annotations

import pytest
from core_builders import (
    NOW,
    announced,
    command,
    make_beat,
    make_config,
    make_entry,
    make_instance,
    make_node,
    make_peer,
    only,
    receive,
    reply_code,
)

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import Policies, TakeoverPolicy
from opensvc_hb.core.events import ActionFinished, Outcome, PeerConfirmedDead, Ticked
from opensvc_hb.core.node_state import Freeze, Liveness, Phase, Purpose, RunningAction
from opensvc_hb.core.states import ActionVerb, Avail, State, Verb
from opensvc_hb.core.step import step
from opensvc_hb.errors import ExitCode

UNDER_WAY = {
    State.STARTING: RunningAction(1, ActionVerb.START, Purpose.RULE, State.STARTED, NOW),
    State.STOPPING: RunningAction(1, ActionVerb.STOP, Purpose.OPERATOR, State.STOPPED, NOW),
}


def node(own, peer_state=State.START_FAILED, liveness=Liveness.ALIVE, policies=None, **rest):
    """A node whose peer permits nothing, unless told otherwise; its instance as it would be."""
    config = make_config(policies=policies)
    entries = [] if peer_state is None else [make_entry(peer_state, epoch=4)]
    instance = make_instance(own, action=UNDER_WAY.get(own), epoch=3, highest_epoch=6, **rest)
    return make_node(config, [instance], make_peer(config, entries, liveness), next_id=10)


def finish(state, effects, outcome=Outcome.DONE, avail=None):
    """Let the action that the effects ask for end; the agent then sees what that brought."""
    for action in only(effects, fx.RunAction):
        seen = avail
        if seen is None:
            seen = Avail.UP if action.verb is ActionVerb.START else Avail.DOWN
        event = ActionFinished(action.service, action.action_id, action.verb, outcome, seen)
        state, effects = step(state, event, NOW)
    return state, effects


def own_state(state):
    """The state of the one instance."""
    return state.instances["svc1"].state


# -- every verb from every state -------------------------------------------------------------

DONE, REFUSED, FAILED = ExitCode.DONE, ExitCode.REFUSED, ExitCode.FAILED
SAME = None

TABLE = {
    Verb.STOP: {
        State.STOPPED: (SAME, DONE),
        State.FROZEN_STOP: (SAME, DONE),
        State.STARTED: (State.STOPPING, None),
        State.UNKNOWN: (State.STOPPING, None),
    },
    Verb.START: {
        State.STARTED: (SAME, DONE),
        State.STARTING: (SAME, None),
        State.START_READY: (SAME, None),
    },
    Verb.FREEZE_STOP: {
        State.STOPPED: (State.FROZEN_STOP, DONE),
        State.FROZEN_STOP: (SAME, DONE),
        State.STARTED: (State.STOPPING, None),
        State.UNKNOWN: (State.STOPPING, None),
        State.START_READY: (State.FROZEN_STOP, DONE),
        State.START_FAILED: (SAME, None),
        State.STOP_FAILED: (SAME, None),
        State.FORCE_STOP: (SAME, None),
    },
    Verb.FREEZE_START: {
        State.STARTED: (State.FROZEN_START, DONE),
        State.FROZEN_START: (SAME, DONE),
        State.STARTING: (SAME, None),
        State.START_READY: (SAME, None),
    },
    Verb.UNFREEZE: {
        State.FROZEN_STOP: (State.STOPPED, DONE),
        State.FROZEN_START: (State.STARTED, DONE),
        State.STOPPED: (SAME, DONE),
        State.STARTED: (SAME, DONE),
    },
    Verb.FORCE_START: {
        **dict.fromkeys(State, (State.STARTED, DONE)),
        State.STARTING: (SAME, REFUSED),
        State.STOPPING: (SAME, REFUSED),
        State.START_READY: (SAME, REFUSED),
    },
    Verb.FORCE_STOP: {
        **dict.fromkeys(State, (SAME, None)),
        State.STOPPED: (SAME, DONE),
        State.STARTING: (SAME, REFUSED),
        State.STOPPING: (SAME, REFUSED),
    },
    Verb.SWITCH: {},
}
"""(state in the same step, reply in the same step or None while it waits); not listed: refused."""


def peer_for(own):
    """A peer that leaves an instance where it is: an offer waits for the secondary's."""
    return State.START_READY if own is State.START_READY else State.START_FAILED


@pytest.mark.parametrize("own", State)
@pytest.mark.parametrize("verb", Verb)
def test_every_verb_from_every_state(verb, own):
    """Done at once, begun, waited for, or refused with nothing changed."""
    target, code = TABLE[verb].get(own, (SAME, REFUSED))
    after, effects = command(node(own, peer_for(own)), verb)
    assert own_state(after) is (own if target is SAME else target)
    assert reply_code(effects) is code
    if code is REFUSED:
        assert only(effects, fx.Persist) == []
        assert only(effects, fx.RunAction) == []


def test_a_refusal_says_what_to_do():
    """The text names the service, what it refuses, and the way out."""
    _, effects = command(node(State.STOP_FAILED), Verb.START)
    (reply,) = only(effects, fx.Reply)
    assert (
        reply.text == "svc1: cannot start from STOP_FAILED: stop its resources by hand, "
        "then force-stop or freeze-stop"
    )


# -- against OpenHA --------------------------------------------------------------------------

REFUSES = "refuses"

OPENHA = {
    Verb.STOP: {2: 0, 8: 0},
    Verb.START: {},
    Verb.FREEZE_STOP: {0: 6, 2: 6, 4: 6, 5: 6},
    Verb.FREEZE_START: {2: 7},
    Verb.UNFREEZE: {6: 0, 7: 2},
    Verb.FORCE_STOP: dict.fromkeys(range(10), 0),
    Verb.FORCE_START: dict.fromkeys(range(10), 2),
}
"""`service -A`: own state before -> after, the peer permitting no start, scripts succeeding."""

DIFFERENT = {
    "already so: a verb whose effect holds is done": {
        (Verb.STOP, State.STOPPED),
        (Verb.STOP, State.FROZEN_STOP),
        (Verb.START, State.STARTED),
        (Verb.FREEZE_STOP, State.FROZEN_STOP),
        (Verb.FREEZE_START, State.FROZEN_START),
        (Verb.UNFREEZE, State.STOPPED),
        (Verb.UNFREEZE, State.STARTED),
    },
    "a start is under way: its end is waited for": {
        (Verb.START, State.STARTING),
        (Verb.FREEZE_START, State.STARTING),
    },
    "a true START_READY is an offer, not the frozen state of the same number": {
        (Verb.FREEZE_STOP, State.START_READY),
        (Verb.UNFREEZE, State.START_READY),
    },
    "from a state that nobody knows, freeze-stop stops first": {(Verb.FREEZE_STOP, State.UNKNOWN)},
    "FORCE_STOP can be frozen like any stopped state": {(Verb.FREEZE_STOP, State.FORCE_STOP)},
    "an action is under way: nothing is declared behind its back": {
        (Verb.FORCE_START, State.STARTING),
        (Verb.FORCE_START, State.STOPPING),
        (Verb.FORCE_STOP, State.STARTING),
        (Verb.FORCE_STOP, State.STOPPING),
    },
    "stopped, and offered again by the table in the same step": {(Verb.FORCE_STOP, State.START_READY)},
    "the peer is heard in START_READY: force-start is refused": {(Verb.FORCE_START, State.START_READY)},
}


def outcome_of(verb, own):
    """OpenHA's number of the state in which a verb ends, its actions succeeding, or `REFUSES`."""
    state, effects = command(node(own, peer_for(own)), verb)
    if reply_code(effects) is REFUSED:
        return REFUSES
    if own is State.STARTING:
        running = UNDER_WAY[own]
        event = ActionFinished("svc1", running.action_id, running.verb, Outcome.DONE, Avail.UP)
        state, effects = step(state, event, NOW)
    state, effects = finish(state, effects)
    return int(own_state(state).openha)


@pytest.mark.parametrize("verb", OPENHA)
def test_every_verb_ends_as_in_openha_but_for_the_differences_listed(verb):
    """A table of ten states against the original's own, verified from outside."""
    differing = set()
    for own in State:
        theirs = OPENHA[verb].get(int(own.openha), REFUSES)
        if outcome_of(verb, own) != theirs:
            differing.add((verb, own))
    waiting = {(Verb.START, State.START_READY), (Verb.FREEZE_START, State.START_READY)}
    listed = {cell for cells in DIFFERENT.values() for cell in cells if cell[0] is verb}
    assert differing - waiting == listed


@pytest.mark.parametrize("own", [State.STOPPED, State.UNKNOWN])
@pytest.mark.parametrize("peer_state", [State.STOPPED, State.FROZEN_STOP])
def test_start_against_a_peer_that_permits_offers_and_waits(own, peer_state):
    """As in OpenHA: START_READY, STARTING, STARTED; the reply comes at the end."""
    state = node(own, peer_state)
    state, effects = command(state, Verb.START)
    assert own_state(state) is State.START_READY
    assert reply_code(effects) is None
    beat = make_beat(state.config, [make_entry(peer_state, epoch=4)], acked=state.sequence)
    state, effects = receive(state, beat)
    assert own_state(state) is State.STARTING
    state, effects = finish(state, effects)
    assert (own_state(state), reply_code(effects)) == (State.STARTED, DONE)


@pytest.mark.parametrize("own", [State.STOPPED, State.UNKNOWN])
def test_start_against_a_silent_peer_starts_at_once(own):
    """An UNKNOWN peer permits a start; an operator need not wait for a beat."""
    state, effects = command(node(own, State.STARTED, Liveness.UNKNOWN), Verb.START)
    assert own_state(state) is State.STARTING
    state, effects = finish(state, effects)
    assert (own_state(state), reply_code(effects)) == (State.STARTED, DONE)


@pytest.mark.parametrize(
    "peer_state", [s for s in State if s not in (State.STOPPED, State.FROZEN_STOP, State.START_READY)]
)
def test_start_is_refused_while_the_peer_permits_none(peer_state):
    """The reply names the rule that holds it."""
    state, effects = command(node(State.STOPPED, peer_state), Verb.START)
    assert (own_state(state), reply_code(effects)) == (State.STOPPED, REFUSED)
    assert "(rule S" in only(effects, fx.Reply)[0].text


def test_start_replaces_takeover_ask():
    """The operator who was asked for has spoken."""
    policies = Policies(wait_for_peer_s=0.0, takeover=TakeoverPolicy.ASK)
    state = node(State.STOPPED, State.STARTED, Liveness.UNKNOWN, policies)
    state, _ = command(state, Verb.START)
    assert own_state(state) is State.STARTING


def test_freeze_start_from_stopped_starts_and_freezes():
    """The freeze is the start's end, with who and why."""
    state, effects = command(node(State.STOPPED, State.STARTED, Liveness.UNKNOWN), Verb.FREEZE_START)
    state, effects = finish(state, effects)
    assert (own_state(state), reply_code(effects)) == (State.FROZEN_START, DONE)
    assert state.instances["svc1"].freeze == Freeze("root", "a reason", "today")


@pytest.mark.parametrize("verb", [Verb.STOP, Verb.FREEZE_STOP])
def test_a_stop_that_fails_ends_in_stop_failed(verb):
    """Nothing is frozen or stopped that may still run; the operator is told."""
    state, effects = command(node(State.STARTED), verb)
    state, effects = finish(state, effects, Outcome.FAILED, Avail.UP)
    assert (own_state(state), reply_code(effects)) == (State.STOP_FAILED, FAILED)
    assert state.instances["svc1"].freeze is None


@pytest.mark.parametrize("avail", [Avail.UP, Avail.MIXED, Avail.UNKNOWN])
def test_a_stop_that_succeeds_with_resources_not_down_has_failed(avail):
    """STOPPED is permission: it is never taken while something may be up."""
    state, effects = command(node(State.STARTED), Verb.STOP)
    state, effects = finish(state, effects, Outcome.DONE, avail)
    assert (own_state(state), reply_code(effects)) == (State.STOP_FAILED, FAILED)


@pytest.mark.parametrize("avail", [Avail.DOWN, Avail.MIXED])
def test_a_start_that_succeeds_with_resources_down_has_failed(avail):
    """An exit status alone is no proof."""
    state, effects = command(node(State.STOPPED, State.STARTED, Liveness.UNKNOWN), Verb.START)
    state, effects = finish(state, effects, Outcome.DONE, avail)
    assert (own_state(state), reply_code(effects)) == (State.START_FAILED, FAILED)


@pytest.mark.parametrize("avail", [Avail.UP, Avail.NOT_EVALUATED, Avail.UNKNOWN])
def test_a_start_that_succeeds_without_evidence_against_it_is_started(avail):
    """Exit 0 with avail up or n/a; an agent that cannot tell moves nothing."""
    state, effects = command(node(State.STOPPED, State.STARTED, Liveness.UNKNOWN), Verb.START)
    state, _ = finish(state, effects, Outcome.DONE, avail)
    assert own_state(state) is State.STARTED


# -- protections -----------------------------------------------------------------------------

MAY_RUN = [State.STOPPING, State.STARTED, State.STARTING, State.START_READY, State.FROZEN_START]


@pytest.mark.parametrize("liveness", [Liveness.ALIVE, Liveness.ONE_WAY])
@pytest.mark.parametrize("peer_state", MAY_RUN)
def test_force_start_is_refused_while_the_peer_is_heard_where_it_may_run(peer_state, liveness):
    """A double start by command needs the word force."""
    state = node(State.STOPPED, peer_state, liveness)
    after, effects = command(state, Verb.FORCE_START)
    assert (own_state(after), reply_code(effects)) == (State.STOPPED, REFUSED)
    _, effects = command(state, Verb.FORCE_START, force=True)
    assert reply_code(effects) is DONE


@pytest.mark.parametrize("peer_state", [s for s in State if s not in MAY_RUN])
def test_force_start_is_done_where_the_peer_does_not_run_it(peer_state):
    """As in OpenHA: nothing is run, the state is declared, with an epoch above all seen."""
    state, effects = command(node(State.FROZEN_STOP, peer_state), Verb.FORCE_START)
    assert (own_state(state), reply_code(effects)) == (State.STARTED, DONE)
    assert only(effects, fx.RunAction) == []
    assert state.instances["svc1"].epoch == 7


@pytest.mark.parametrize("liveness", [Liveness.UNKNOWN, Liveness.UNPROVEN, Liveness.LEFT])
def test_force_start_is_done_when_the_peer_is_not_heard(liveness):
    """What a peer said before it fell silent protects nothing."""
    _, effects = command(node(State.STOPPED, State.STARTED, liveness), Verb.FORCE_START)
    assert reply_code(effects) is DONE


@pytest.mark.parametrize("avail", [Avail.UP, Avail.MIXED, Avail.UNKNOWN])
@pytest.mark.parametrize("own", [State.STARTED, State.STOP_FAILED, State.FROZEN_START])
def test_force_stop_is_refused_while_resources_may_be_up(own, avail):
    """The agent is asked first; an answer that it cannot tell is none."""
    state, effects = command(node(own), Verb.FORCE_STOP)
    assert [action.verb for action in only(effects, fx.RunAction)] == [ActionVerb.VERIFY]
    state, effects = finish(state, effects, avail=avail)
    assert (own_state(state), reply_code(effects)) == (own, REFUSED)


@pytest.mark.parametrize("avail", [Avail.DOWN, Avail.NOT_EVALUATED])
@pytest.mark.parametrize(
    "own", [s for s in State if s not in (State.STOPPED, State.STARTING, State.STOPPING, State.START_READY)]
)
def test_force_stop_declares_a_service_stopped_whose_resources_are_down(own, avail):
    """From any state, as in OpenHA; nothing is run but the look."""
    state, effects = command(node(own), Verb.FORCE_STOP)
    state, effects = finish(state, effects, avail=avail)
    assert (own_state(state), reply_code(effects)) == (State.STOPPED, DONE)


def test_force_stop_forced_asks_nobody():
    """OpenHA's own behaviour."""
    state, effects = command(node(State.STARTED), Verb.FORCE_STOP, force=True)
    assert (own_state(state), reply_code(effects)) == (State.STOPPED, DONE)
    assert only(effects, fx.RunAction) == []


@pytest.mark.parametrize("own", [State.START_FAILED, State.STOP_FAILED, State.FORCE_STOP])
def test_freeze_stop_after_a_failure_is_refused_while_resources_may_be_up(own):
    """FROZEN_STOP permits the peer to start: it is not taken on the operator's word alone."""
    state, effects = command(node(own), Verb.FREEZE_STOP)
    refused, effects_refused = finish(state, effects, avail=Avail.UP)
    assert (own_state(refused), reply_code(effects_refused)) == (own, REFUSED)
    done, effects_done = finish(state, effects, avail=Avail.DOWN)
    assert (own_state(done), reply_code(effects_done)) == (State.FROZEN_STOP, DONE)
    assert done.instances["svc1"].freeze == Freeze("root", "a reason", "today")


# -- freezes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "verb", "frozen"),
    [
        (State.STARTED, Verb.FREEZE_START, State.FROZEN_START),
        (State.STOPPED, Verb.FREEZE_STOP, State.FROZEN_STOP),
        (State.STARTED, Verb.FREEZE_STOP, State.FROZEN_STOP),
    ],
)
def test_a_freeze_is_kept_with_who_when_and_why(own, verb, frozen):
    """Stored with the state, shown as long as it lasts, gone when unfrozen."""
    state, effects = command(node(own), verb)
    persisted = only(effects, fx.Persist)
    state, effects = finish(state, effects)
    assert own_state(state) is frozen
    kept = (only(effects, fx.Persist) or persisted)[-1].stored.instances["svc1"]
    assert (kept.frozen_by, kept.frozen_reason, kept.frozen_wall) == ("root", "a reason", "today")
    state, _ = command(state, Verb.UNFREEZE)
    assert state.instances["svc1"].freeze is None


def test_unfreezing_a_stopped_instance_may_start_it_at_once():
    """The table decides in the same step: its peer is silent, so it starts."""
    state, effects = command(node(State.FROZEN_STOP, State.STARTED, Liveness.UNKNOWN), Verb.UNFREEZE)
    assert own_state(state) is State.STARTING
    assert reply_code(effects) is DONE


def test_unfreezing_what_the_agent_cannot_see_permits_nothing():
    """An instance whose resources nobody could look at is not announced as STOPPED."""
    state = node(State.FROZEN_STOP, State.STARTED, doubtful=True)
    state, effects = command(state, Verb.UNFREEZE)
    assert announced(effects) is State.UNKNOWN
    assert reply_code(effects) is DONE


def test_an_operator_who_waits_is_told_when_an_offer_is_taken_back():
    """A start that does not come about is a failure with its reason."""
    state, _ = command(node(State.STOPPED, State.STOPPED), Verb.START)
    beat = make_beat(state.config, [make_entry(State.STARTED, epoch=4, sequence=2)], acked=state.sequence)
    state, effects = receive(state, beat)
    assert (own_state(state), reply_code(effects)) == (State.STOPPED, FAILED)


def test_several_operators_may_wait_for_one_start():
    """Each gets the answer."""
    state, effects = command(node(State.STOPPED, State.STARTED, Liveness.UNKNOWN), Verb.START)
    state, _ = command(state, Verb.FREEZE_START)
    state, effects = finish(state, effects)
    assert own_state(state) is State.FROZEN_START
    assert sorted(reply.code for reply in only(effects, fx.Reply)) == [DONE, FAILED]


def test_stop_forced_ends_a_start_under_way():
    """The action is cancelled; its end decides."""
    _, effects = command(node(State.STARTING), Verb.STOP, force=True)
    assert [cancel.action_id for cancel in only(effects, fx.CancelAction)] == [1]


# -- switch ----------------------------------------------------------------------------------


def switched():
    """A node that was told to switch its service to a peer that can take it, the stop done."""
    state, effects = command(node(State.STARTED, State.STOPPED), Verb.SWITCH)
    assert own_state(state) is State.STOPPING
    state, effects = finish(state, effects)
    assert reply_code(effects) is None
    return state


def peer_says(state, peer_state, sequence=60):
    """A beat of the peer that announces a state."""
    beat = make_beat(state.config, [make_entry(peer_state, epoch=8, sequence=sequence)], sequence)
    return receive(state, beat)


def test_a_switched_service_is_left_to_the_peer():
    """This side offers nothing while the peer may take it."""
    state = switched()
    assert own_state(state) is State.STOPPED
    state, _ = step(state, Ticked(), NOW + 1.0)
    assert own_state(state) is State.STOPPED


@pytest.mark.parametrize(
    ("peer_state", "code"), [(State.STARTED, DONE), (State.START_FAILED, FAILED), (State.STARTING, None)]
)
def test_a_switch_is_answered_when_the_peer_has_it_or_failed(peer_state, code):
    """Not before."""
    _, effects = peer_says(switched(), peer_state)
    assert reply_code(effects) is code


@pytest.mark.parametrize(
    ("peer_state", "liveness"),
    [(s, Liveness.ALIVE) for s in State if s is not State.STOPPED]
    + [(State.STOPPED, v) for v in Liveness if v is not Liveness.ALIVE],
)
def test_switch_is_refused_unless_the_peer_is_heard_and_has_it_stopped(peer_state, liveness):
    """What the other side cannot take is not stopped here."""
    state = node(State.STARTED, peer_state, liveness)
    _, effects = command(state, Verb.SWITCH)
    assert reply_code(effects) is REFUSED


# -- beside the services ---------------------------------------------------------------------


def test_an_unknown_service_is_said_with_those_there_are():
    """A typing error is found at once."""
    _, effects = command(node(State.STOPPED), Verb.START, service="svcl")
    (reply,) = only(effects, fx.Reply)
    assert (reply.code, reply.text) == (
        ExitCode.NOT_RUNNING,
        "svcl: no such service on this node (have svc1)",
    )


def test_a_command_waits_until_the_service_is_verified():
    """Until the agent was asked, no state is known that a verb could act on."""
    state, effects = command(node(State.STOPPED, verified=False), Verb.START)
    assert reply_code(effects) is None
    assert [event.verb for event in state.held] == [Verb.START]


@pytest.mark.parametrize("phase", [Phase.RESTARTING, Phase.LEAVING, Phase.LEFT])
def test_a_daemon_on_its_way_out_takes_no_command(phase):
    """The next daemon, or the peer, does."""
    config = make_config()
    state = make_node(config, [make_instance(State.STOPPED)], make_peer(config), phase=phase, farewell=999)
    _, effects = command(state, Verb.START)
    assert reply_code(effects) is REFUSED


def confirm(state, dead="deb2"):
    """An operator vouches for a node's death."""
    return step(state, PeerConfirmedDead(99, dead, "root", "unplugged"), NOW)


@pytest.mark.parametrize(
    "liveness", [Liveness.UNKNOWN, Liveness.UNPROVEN, Liveness.WAITING, Liveness.RESTARTING]
)
def test_a_silent_node_confirmed_dead_is_taken_over_at_once(liveness):
    """Whatever promise, maintenance or wait held it; written to the journal with its reason."""
    state, effects = confirm(node(State.STOPPED, State.FROZEN_START, liveness))
    assert own_state(state) is State.STARTING
    assert reply_code(effects) is DONE
    assert "unplugged" in [j.reason for j in only(effects, fx.Journal)]


@pytest.mark.parametrize("liveness", [Liveness.ALIVE, Liveness.ONE_WAY])
def test_a_node_whose_beats_are_heard_is_not_dead(liveness):
    """The operator looked at the wrong machine."""
    state, effects = confirm(node(State.STOPPED, State.STARTED, liveness))
    assert (own_state(state), reply_code(effects)) == (State.STOPPED, REFUSED)


def test_only_a_peer_can_be_confirmed_dead():
    """A typing error is found at once."""
    _, effects = confirm(node(State.STOPPED), "deb3")
    assert reply_code(effects) is ExitCode.NOT_RUNNING


def test_a_beat_ends_the_belief_that_a_node_is_dead():
    """Confirmed dead lasts until it is heard again."""
    state, _ = confirm(node(State.FROZEN_STOP, State.STARTED, Liveness.UNKNOWN))
    assert state.peers["deb2"].confirmed_dead
    state, _ = peer_says(state, State.STARTED)
    assert not state.peers["deb2"].confirmed_dead
    assert state.peers["deb2"].liveness is Liveness.ALIVE
