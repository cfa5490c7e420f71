"""A daemon goes: the services run on, or end here first; it exits when its last word was heard."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core_builders import (
    NOW,
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
from opensvc_hb.core.config import Policies
from opensvc_hb.core.events import (
    ActionFinished,
    DaemonStarted,
    DaemonStopping,
    Outcome,
    StopKind,
    Stored,
    StoredInstance,
    Ticked,
)
from opensvc_hb.core.node_state import Liveness, Phase, Purpose, RunningAction, new_node
from opensvc_hb.core.states import ActionVerb, Avail, State
from opensvc_hb.core.step import step
from opensvc_hb.errors import ExitCode


def node(*instances, liveness=Liveness.ALIVE, peer_state=State.STOPPED, **policies):
    """A node with these instances and a peer."""
    services = tuple(i.service for i in instances)
    settings = {"wait_for_peer_s": 0.0, "restart_within_s": 60.0, **policies}
    config = make_config(services=services, policies=Policies(**settings))
    entries = [make_entry(peer_state, service=name) for name in services]
    return make_node(config, instances, make_peer(config, entries, liveness), next_id=10)


def ask(state, kind, command_id=99):
    """Ask the daemon to stop."""
    return step(state, DaemonStopping(kind, command_id), NOW)


def acknowledge(state, sequence, now=NOW, number=60):
    """The peer acknowledges our beat of this sequence."""
    entries = [make_entry(State.STOPPED, service=name, sequence=number) for name in state.config.services]
    return receive(state, make_beat(state.config, entries, number, acked=sequence), now)


def end(state, effects, outcome=Outcome.DONE, avail=Avail.DOWN):
    """Let the actions that the effects ask for end, all alike."""
    for action in only(effects, fx.RunAction):
        event = ActionFinished(action.service, action.action_id, action.verb, outcome, avail)
        state, effects = step(state, event, NOW)
    return state, effects


def sent(effects):
    """The newest beat of the effects."""
    return only(effects, fx.SendNow)[-1].beat


# -- restart ---------------------------------------------------------------------------------


def test_a_restart_announces_a_duration_and_leaves_the_services_alone():
    """Never a time; nothing is stopped."""
    state, effects = ask(node(make_instance(State.STARTED)), StopKind.RESTART)
    assert sent(effects).restarting_for_s == 60.0
    assert only(effects, fx.RunAction) == []
    assert only(effects, fx.Exit) == []
    assert state.instances["svc1"].state is State.STARTED


def test_a_restart_exits_when_a_beat_acknowledges_the_announcement():
    """The peer has stored the promise before it said so."""
    state, effects = ask(node(make_instance(State.STARTED)), StopKind.RESTART)
    farewell = sent(effects).sequence
    state, effects = acknowledge(state, farewell - 1)
    assert only(effects, fx.Exit) == []
    state, effects = acknowledge(state, farewell, number=61)
    assert len(only(effects, fx.Exit)) == 1
    assert reply_code(effects) is ExitCode.DONE
    assert state.phase is Phase.GONE


def test_a_restart_that_is_not_acknowledged_exits_after_the_timeout():
    """The ordinary deadline stays, as for a daemon killed without a word."""
    state, effects = ask(node(make_instance(State.STARTED)), StopKind.RESTART)
    seen, now = list(effects), NOW
    while not only(seen, fx.Exit):
        assert now < NOW + 6.0, "it does not exit"
        now += 0.5
        state, seen = step(state, Ticked(), now)
    assert now == pytest.approx(NOW + 5.0)
    assert "not acknowledged in time" in only(seen, fx.Exit)[0].reason


def test_a_restart_with_a_silent_peer_exits_at_once():
    """There is nobody to ask."""
    state = node(make_instance(State.STARTED), liveness=Liveness.UNKNOWN)
    _, effects = ask(state, StopKind.RESTART)
    assert len(only(effects, fx.Exit)) == 1


def test_a_restart_before_the_peer_was_judged_waits_for_it():
    """A peer that may live, and may keep an earlier promise of ours, is told of this one."""
    state = node(make_instance(State.STARTED))
    peer = state.peers["deb2"]
    unheard = {i: replace(k, heard_at=None, up=False) for i, k in peer.links.items()}
    peer = replace(peer, heard=False, links=unheard, silent_from=NOW, liveness=Liveness.UNPROVEN)
    state, effects = ask(replace(state, peers={"deb2": peer}), StopKind.RESTART)
    assert only(effects, fx.Exit) == []
    _, effects = acknowledge(state, sent(effects).sequence)
    assert len(only(effects, fx.Exit)) == 1


def test_an_offer_that_is_out_is_taken_back_by_a_restart():
    """This daemon starts nothing any more, and says so."""
    state, effects = ask(node(make_instance(State.START_READY)), StopKind.RESTART)
    assert state.instances["svc1"].state is State.STOPPED
    assert [entry.state for entry in sent(effects).table] == [State.STOPPED]


def test_a_second_request_changes_nothing():
    """It is answered."""
    state, _ = ask(node(make_instance(State.STARTED)), StopKind.RESTART)
    after, effects = ask(state, StopKind.LEAVE, 100)
    assert after.phase is state.phase
    assert only(effects, fx.Reply) == [fx.Reply(100, ExitCode.DONE, "already stopping")]


def test_every_beat_of_a_restart_repeats_the_promise():
    """One lost beat loses nothing."""
    state, _ = ask(node(make_instance(State.STARTED)), StopKind.RESTART)
    _, effects = step(state, Ticked(), NOW + 1.0)
    assert sent(effects).restarting_for_s == 60.0


# -- leave -----------------------------------------------------------------------------------


def test_a_node_that_leaves_ends_its_instances_before_its_last_word():
    """All at once, each with its own limit."""
    state = node(make_instance(State.STARTED, "svc1"), make_instance(State.STARTED, "svc2"))
    state, effects = ask(state, StopKind.LEAVE)
    assert [(a.service, a.verb) for a in only(effects, fx.RunAction)] == [
        ("svc1", ActionVerb.STOP),
        ("svc2", ActionVerb.STOP),
    ]
    assert not sent(effects).left
    state, effects = end(state, effects)
    assert sent(effects).left
    assert [entry.state for entry in sent(effects).table] == [State.STOPPED, State.STOPPED]


def test_a_node_without_instances_leaves_at_once():
    """Its last word is its next beat."""
    _, effects = ask(node(make_instance(State.STOPPED)), StopKind.LEAVE)
    assert sent(effects).left


def test_a_last_word_is_waited_for_until_it_is_acknowledged():
    """Then the daemon exits; a beat of before is none."""
    state, effects = ask(node(make_instance(State.FROZEN_STOP)), StopKind.LEAVE)
    farewell = sent(effects).sequence
    state, effects = acknowledge(state, farewell - 1)
    assert only(effects, fx.Exit) == []
    _, effects = acknowledge(state, farewell, number=61)
    assert len(only(effects, fx.Exit)) == 1


def test_an_instance_whose_stop_failed_is_announced_as_such():
    """The peer must not start it."""
    state, effects = ask(node(make_instance(State.STARTED)), StopKind.LEAVE)
    _, effects = end(state, effects, Outcome.FAILED, Avail.UP)
    assert sent(effects).left
    assert [entry.state for entry in sent(effects).table] == [State.STOP_FAILED]


@pytest.mark.parametrize(
    ("outcome", "avail", "code", "end_text"),
    [
        (Outcome.DONE, Avail.DOWN, ExitCode.DONE, "LEFT: acknowledged by every live peer"),
        (
            Outcome.FAILED,
            Avail.UP,
            ExitCode.FAILED,
            "LEFT: acknowledged by every live peer; but what has not ended here, the other node does not "
            "start: svc1 (STOP_FAILED)",
        ),
    ],
)
def test_who_asked_a_node_to_leave_is_told_what_stayed_behind(outcome, avail, code, end_text):
    """A package is not removed below a service that would not stop."""
    state, effects = ask(node(make_instance(State.STARTED)), StopKind.LEAVE)
    state, effects = end(state, effects, outcome, avail)
    _, effects = acknowledge(state, sent(effects).sequence, number=61)
    assert only(effects, fx.Reply) == [fx.Reply(99, code, end_text)]
    assert [entry.reason for entry in only(effects, fx.Journal)][-1] == end_text


def test_an_instance_frozen_started_is_ended_and_stays_frozen():
    """The node goes, and with it what runs on it; the freeze is its operator's."""
    state, effects = ask(node(make_instance(State.FROZEN_START)), StopKind.LEAVE)
    state, effects = end(state, effects)
    assert [entry.state for entry in sent(effects).table] == [State.FROZEN_STOP]


def test_a_start_under_way_is_cancelled_and_what_it_began_is_stopped():
    """Leaving does not wait for a start that takes five minutes."""
    action = RunningAction(5, ActionVerb.START, Purpose.RULE, State.STARTED, NOW)
    state, effects = ask(node(make_instance(State.STARTING, action=action)), StopKind.LEAVE)
    assert [cancel.action_id for cancel in only(effects, fx.CancelAction)] == [5]
    event = ActionFinished("svc1", 5, ActionVerb.START, Outcome.TIMED_OUT, Avail.MIXED)
    state, effects = step(state, event, NOW)
    assert [a.verb for a in only(effects, fx.RunAction)] == [ActionVerb.STOP]
    assert not [beat for beat in only(effects, fx.SendNow) if beat.beat.left]
    _, effects = end(state, effects)
    assert sent(effects).left


def test_leaving_is_bounded():
    """A stop that never ends does not hold the machine: LEFT says in which state it is."""
    state, effects = ask(node(make_instance(State.STARTED), leave_within_s=4.0), StopKind.LEAVE)
    for tenths in range(5, 40, 5):
        assert not [beat for beat in only(effects, fx.SendNow) if beat.beat.left]
        state, effects = step(state, Ticked(), NOW + tenths / 10)
    assert only(effects, fx.ArmTimer)[0].at <= NOW + 4.0
    _, effects = step(state, Ticked(), NOW + 4.0)
    assert sent(effects).left
    assert [entry.state for entry in sent(effects).table] == [State.STOPPING]


def test_nothing_is_started_after_the_last_word():
    """It is the last of this incarnation, whatever the peer then says or does not say."""
    state, _ = ask(node(make_instance(State.STOPPED)), StopKind.LEAVE)
    now, ran = NOW, []
    for _ in range(20):
        now += 0.5
        state, effects = step(state, Ticked(), now)
        ran.extend(only(effects, fx.RunAction))
    assert ran == []
    assert state.phase is Phase.GONE


# -- before the daemon knows what runs here --------------------------------------------------


@pytest.mark.parametrize("kind", StopKind)
def test_nothing_is_said_before_every_service_was_verified(kind):
    """A last word with half a table, or none, would be a lie or a riddle."""
    config = make_config()
    kept = Stored(3, {"svc1": StoredInstance(State.STOPPED, 1, 1, 1)})
    state, effects = step(new_node(config), DaemonStarted(config, kept, False), NOW)
    (verify,) = only(effects, fx.RunAction)
    state, effects = step(state, DaemonStopping(kind, 99), NOW + 0.1)
    assert only(effects, fx.SendNow) == []
    assert only(effects, fx.Exit) == []
    event = ActionFinished("svc1", verify.action_id, verify.verb, Outcome.DONE, Avail.UP)
    state, effects = step(state, event, NOW + 0.2)
    if kind is StopKind.LEAVE:
        assert [a.verb for a in only(effects, fx.RunAction)] == [ActionVerb.STOP]
    else:
        assert [entry.state for entry in sent(effects).table] == [State.STARTED]
        assert sent(effects).restarting_for_s == 60.0
