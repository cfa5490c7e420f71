"""A daemon begins, or a service is new: what runs here, whatever was stored."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from core_builders import (
    NOW,
    TIMEOUT_S,
    make_config,
    make_entry,
    make_instance,
    make_node,
    make_peer,
    only,
    reply_code,
)

from opensvc_hb.core import effects as fx
from opensvc_hb.core.adoption import VERIFY_LIMIT_S, adopted_state
from opensvc_hb.core.config import Service
from opensvc_hb.core.events import (
    ActionFinished,
    CommandGiven,
    ConfigurationChanged,
    DaemonStarted,
    Outcome,
    ResourcesReported,
    Stored,
    StoredInstance,
    StoredPeer,
    Ticked,
)
from opensvc_hb.core.node_state import Freeze, Liveness, Phase, new_node
from opensvc_hb.core.outcome import QUESTION_GRACE_S
from opensvc_hb.core.states import FROZEN, PERMISSIVE, ActionVerb, Avail, State, Verb
from opensvc_hb.core.step import step
from opensvc_hb.core.turn import make_beat as make_our_beat
from opensvc_hb.daemon.report import Notices, alarms
from opensvc_hb.errors import ExitCode

ALIVE_BEFORE = (State.STARTED, State.STARTING, State.STOPPING)


def begin(record=None, booted=False, services=("svc1",), incarnation=6):
    """A daemon starts with what the store held of its one service."""
    config = make_config(services=services)
    instances = {"svc1": record} if record is not None else {}
    return step(new_node(config), DaemonStarted(config, Stored(incarnation, instances), booted), NOW)


def answer(state, effects, avail, now=NOW + 0.1):
    """The agent tells what runs here."""
    (action,) = only(effects, fx.RunAction)
    assert action.verb is ActionVerb.VERIFY
    event = ActionFinished(action.service, action.action_id, action.verb, Outcome.DONE, avail)
    return step(state, event, now)


def stored(state, **rest):
    """A record of an instance."""
    return replace(StoredInstance(state, 5, 3, 8), **rest)


# -- the state -------------------------------------------------------------------------------

EVERY = list(itertools.product(State, (False, True), Avail))


@pytest.mark.parametrize("avail", [Avail.UP, Avail.MIXED])
def test_nothing_that_permits_the_peer_is_announced_while_resources_are_up(avail):
    """Whatever was stored, booted or not."""
    for before, booted in itertools.product(State, (False, True)):
        assert adopted_state(before, booted, avail) not in PERMISSIVE


def test_nothing_transient_is_adopted():
    """No start, stop or offer goes on: nobody runs the action, nobody knows the stamp."""
    for case in EVERY:
        transient = (State.STARTING, State.STOPPING, State.START_READY)
        assert adopted_state(*case) not in transient, case


def test_a_frozen_instance_stays_frozen():
    """Whatever the agent says, and across a boot."""
    for before, booted, avail in EVERY:
        if before in FROZEN:
            assert adopted_state(before, booted, avail) in FROZEN


def test_nothing_is_frozen_that_was_not():
    """Only an operator freezes."""
    for before, booted, avail in EVERY:
        if before not in FROZEN:
            assert adopted_state(before, booted, avail) not in FROZEN


@pytest.mark.parametrize("before", ALIVE_BEFORE)
@pytest.mark.parametrize("avail", [Avail.UP, Avail.MIXED, Avail.NOT_EVALUATED, Avail.UNKNOWN])
def test_what_ran_counts_as_running_unless_the_agent_says_down(before, avail):
    """STARTING counts as running; unknown never moves a service."""
    assert adopted_state(before, False, avail) is State.STARTED


@pytest.mark.parametrize("before", ALIVE_BEFORE)
def test_what_ran_and_is_down_is_stopped(before):
    """The services did not run on."""
    assert adopted_state(before, False, Avail.DOWN) is State.STOPPED


@pytest.mark.parametrize("before", State)
def test_a_boot_resets_every_state_but_frozen(before):
    """As in OpenHA, where FROZEN_STOP alone survives a boot; frozen started becomes that, too."""
    expected = State.FROZEN_STOP if before in FROZEN else State.STOPPED
    assert adopted_state(before, True, Avail.DOWN) is expected


@pytest.mark.parametrize("before", [State.START_FAILED, State.STOP_FAILED, State.FORCE_STOP])
def test_what_an_operator_must_clear_survives_a_restart_of_the_daemon(before):
    """A restart is no repair."""
    assert adopted_state(before, False, Avail.DOWN) is before


@pytest.mark.parametrize("booted", [False, True])
def test_a_stored_confirmation_of_death_permits_nothing_before_this_daemon_has_listened(booted):
    """The node may have come back while no daemon listened here; a boot forgets it altogether."""
    config = make_config()
    known = Stored(6, {"svc1": stored(State.STOPPED)}, {"deb2": StoredPeer(4, 0.0, (), True)})
    state, effects = step(new_node(config), DaemonStarted(config, known, booted), NOW)
    state, _ = answer(state, effects, Avail.DOWN)
    assert state.peers["deb2"].liveness is Liveness.UNPROVEN
    assert state.instances["svc1"].state is State.STOPPED
    for tick in range(1, 10):
        state, _ = step(state, Ticked(), NOW + 0.1 * TIMEOUT_S * tick)
        assert state.instances["svc1"].state is State.STOPPED
    state, _ = step(state, Ticked(), NOW + TIMEOUT_S)
    expected = (False, State.STOPPED) if booted else (True, State.STARTING)
    assert (state.peers["deb2"].confirmed_dead, state.instances["svc1"].state) == expected


@pytest.mark.parametrize("before", [State.STOPPED, State.UNKNOWN, State.START_READY])
def test_a_stopped_service_that_the_agent_cannot_see_is_unknown(before):
    """An announced UNKNOWN permits nothing."""
    assert adopted_state(before, False, Avail.UNKNOWN) is State.UNKNOWN


@pytest.mark.parametrize("before", [State.STOPPED, State.START_READY, State.UNKNOWN])
def test_a_stopped_service_found_half_up_is_a_failed_stop(before):
    """Somebody must look."""
    assert adopted_state(before, False, Avail.MIXED) is State.STOP_FAILED


# -- the daemon's first moments --------------------------------------------------------------


def test_a_daemon_begins_with_a_new_incarnation_and_asks_the_agent_about_every_service():
    """Stored first; no beat before the last answer."""
    state, effects = begin(services=("svc1", "svc2"))
    assert (state.incarnation, effects[0].stored.incarnation) == (7, 7)
    assert [(a.service, a.verb) for a in only(effects, fx.RunAction)] == [
        ("svc1", ActionVerb.VERIFY),
        ("svc2", ActionVerb.VERIFY),
    ]
    assert state.phase is Phase.VERIFYING
    state, later = step(state, Ticked(), NOW + 1.5)
    assert [sent.beat.table for sent in only(later, fx.SendNow)] == [()]
    first, second = only(effects, fx.RunAction)
    event = ActionFinished("svc1", first.action_id, first.verb, Outcome.DONE, Avail.DOWN)
    state, later = step(state, event, NOW + 1.6)
    assert only(later, fx.SendNow) == []
    event = replace(event, service="svc2", action_id=second.action_id)
    state, later = step(state, event, NOW + 1.7)
    assert [entry.service for entry in only(later, fx.SendNow)[0].beat.table] == ["svc1", "svc2"]
    assert state.phase is Phase.RUNNING


def test_a_daemon_without_services_beats_at_once():
    """There is nothing to ask about."""
    state, effects = begin(services=())
    assert state.phase is Phase.RUNNING
    assert len(only(effects, fx.SendNow)) == 1


def test_a_service_seen_for_the_first_time_is_frozen_stopped():
    """As the tutorial shows; its operator unfreezes it on each node."""
    state, effects = begin()
    state, effects = answer(state, effects, Avail.DOWN)
    assert state.instances["svc1"].state is State.FROZEN_STOP
    assert effects[0].stored.instances["svc1"].state is State.FROZEN_STOP


def test_a_service_seen_for_the_first_time_that_runs_is_frozen_started():
    """It is left to run, and announced as running."""
    state, effects = begin()
    state, _ = answer(state, effects, Avail.UP)
    assert state.instances["svc1"].state is State.FROZEN_START


def test_an_adopted_instance_keeps_its_epochs():
    """It was started with them; it was not started now."""
    state, effects = begin(stored(State.STARTED))
    state, effects = answer(state, effects, Avail.UP)
    instance = state.instances["svc1"]
    assert (instance.state, instance.epoch, instance.highest_epoch) == (State.STARTED, 3, 8)
    assert only(effects, fx.RunAction) == []


@pytest.mark.parametrize(
    ("booted", "avail", "grows"), [(False, Avail.UP, 0), (False, Avail.DOWN, 1), (True, Avail.DOWN, 1)]
)
def test_the_state_sequence_grows_with_each_change_across_lives(booted, avail, grows):
    """A peer that remembers an earlier life sees that the state changed."""
    state, effects = begin(stored(State.STARTED), booted)
    state, _ = answer(state, effects, avail)
    assert state.instances["svc1"].state_sequence == 5 + grows


def test_who_froze_an_instance_and_why_survives_a_restart():
    """It is shown as long as the freeze lasts."""
    record = stored(State.FROZEN_STOP, frozen_by="root", frozen_reason="a disk", frozen_wall="today")
    state, effects = begin(record)
    state, _ = answer(state, effects, Avail.DOWN)
    assert state.instances["svc1"].freeze == Freeze("root", "a disk", "today")


def test_an_agent_that_does_not_answer_in_time_is_an_unknown():
    """The verify action's end comes in any case."""
    state, effects = begin(stored(State.STARTED))
    (action,) = only(effects, fx.RunAction)
    assert action.limit_s > 0
    event = ActionFinished("svc1", action.action_id, action.verb, Outcome.TIMED_OUT, Avail.UNKNOWN)
    state, _ = step(state, event, NOW + 60.0)
    assert state.instances["svc1"].state is State.STARTED


def test_nothing_is_started_before_the_agent_was_asked():
    """Neither by a rule nor by a verb."""
    state, _ = begin(stored(State.STOPPED))
    state, effects = step(state, Ticked(), NOW + 50.0)
    assert only(effects, fx.RunAction) == []
    _, effects = step(state, CommandGiven(99, "svc1", Verb.START), NOW + 50.0)
    assert reply_code(effects) is None
    assert only(effects, fx.RunAction) == []


def test_a_command_given_while_the_agent_was_asked_is_answered_then():
    """A script that unfreezes right after the daemon's start need not try again."""
    state, verifying = begin(stored(State.FROZEN_STOP))
    state, effects = step(state, CommandGiven(99, "svc1", Verb.UNFREEZE), NOW + 0.05)
    assert reply_code(effects) is None
    state, effects = answer(state, verifying, Avail.DOWN)
    assert reply_code(effects) is ExitCode.DONE
    assert state.instances["svc1"].state is State.STOPPED
    assert state.held == ()


# -- configuration changes -------------------------------------------------------------------


def running():
    """A node in the middle of its life."""
    config = make_config()
    return make_node(config, [make_instance(State.STARTED)], make_peer(config))


def changed(state, *names):
    """Give the node a configuration with these services."""
    made = {name: Service(name, name, state.config.nodes) for name in names}
    return step(state, ConfigurationChanged(replace(state.config, services=made)), NOW)


def test_a_service_added_is_announced_when_the_agent_was_asked_about_it():
    """The others go on meanwhile."""
    state, effects = changed(running(), "svc1", "svc2")
    assert [entry.service for entry in only(effects, fx.SendNow)[0].beat.table] == ["svc1"]
    state, effects = answer(state, effects, Avail.DOWN)
    assert [entry.service for entry in only(effects, fx.SendNow)[0].beat.table] == ["svc1", "svc2"]
    assert state.instances["svc2"].state is State.FROZEN_STOP


def test_a_service_removed_is_no_longer_announced_and_not_stopped():
    """Nobody cares for it now; the journal says in which state it was."""
    state, effects = changed(running(), "svc2")
    assert "svc1" not in state.instances
    assert [action.service for action in only(effects, fx.RunAction)] == ["svc2"]
    assert "no longer configured, was STARTED" in [j.text for j in only(effects, fx.Journal)]


def test_a_service_that_ran_when_it_was_removed_is_an_alarm_until_it_is_back():
    """It runs on, and a takeover would not know of it."""
    state, _ = changed(running(), "svc2")
    assert state.abandoned == {"svc1": State.STARTED}
    (alarm,) = [a for a in alarms(state, Notices(), NOW) if a["service"] == "svc1"]
    assert "it was STARTED here: nobody cares for it; put the file back" in alarm["text"]
    state, _ = changed(state, "svc1", "svc2")
    assert state.abandoned == {}


def test_who_waits_for_a_service_that_is_removed_is_answered():
    """Nothing more will ever be known of it here."""
    state, _ = step(running(), CommandGiven(7, "svc1", Verb.STOP), NOW)
    _, effects = changed(state)
    (reply,) = only(effects, fx.Reply)
    assert (reply.command_id, reply.code) == (7, ExitCode.FAILED)


def test_a_service_added_knows_the_epochs_that_the_peer_announced_before():
    """A start takes one above all seen, and a table that does not change is read once."""
    state = running()
    peer = state.peers["deb2"]
    table = {**peer.table, "svc2": make_entry(State.STOPPED, 8, "svc2", highest_epoch=9)}
    state = replace(state, peers={"deb2": replace(peer, table=table)})
    state, _ = changed(state, "svc1", "svc2")
    assert state.instances["svc2"].highest_epoch == 9


def test_the_end_of_an_action_of_a_service_removed_is_ignored():
    """It may come back under the same name before that."""
    state, _ = changed(running())
    event = ActionFinished("svc1", 1, ActionVerb.STOP, Outcome.DONE, Avail.DOWN)
    after, effects = step(state, event, NOW)
    assert after.instances == {}
    assert only(effects, fx.Journal) == []


def test_what_was_heard_of_a_peer_survives_a_configuration_change():
    """Its table, its incarnation and the links that stay; silence is counted anew."""
    state = running()
    after, _ = changed(state, "svc1")
    before, peer = state.peers["deb2"], after.peers["deb2"]
    assert (peer.table, peer.incarnation, peer.links) == (before.table, before.incarnation, before.links)
    assert peer.silent_from == NOW


def test_links_follow_the_configuration():
    """A link that is gone is not listened to; a new one begins unheard."""
    state = running()
    other = make_config(links=("net", "dio"))
    after, _ = step(state, ConfigurationChanged(other), NOW)
    links = after.peers["deb2"].links
    assert [link.up for link in links.values()] == [True, False]
    after, _ = step(after, ConfigurationChanged(make_config(links=("dio",))), NOW)
    assert [link.up for link in after.peers["deb2"].links.values()] == [False]


# -- an agent that cannot tell ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("avail", "expected"),
    [
        (Avail.DOWN, State.STOPPED),
        (Avail.NOT_EVALUATED, State.STOPPED),
        (Avail.UP, State.STARTED),
        (Avail.MIXED, State.STOP_FAILED),
        (Avail.UNKNOWN, State.UNKNOWN),
    ],
)
def test_an_unknown_instance_is_adopted_when_the_agent_can_tell(avail, expected):
    """Two nodes whose checks hung at boot would wait for each other for ever."""
    state, effects = begin(stored(State.STOPPED))
    state, _ = answer(state, effects, Avail.UNKNOWN)
    assert state.instances["svc1"].state is State.UNKNOWN
    state, effects = step(state, ResourcesReported("svc1", Avail.DOWN), NOW + 1.0)
    state, effects = answer(state, effects, avail)
    assert state.instances["svc1"].state is expected
    if expected is not State.UNKNOWN:
        assert effects[0].stored.instances["svc1"].state is expected


def test_a_frozen_service_that_the_agent_cannot_see_is_announced_unknown():
    """FROZEN_STOP would permit the peer to start what may run here."""
    state, effects = begin(stored(State.FROZEN_STOP))
    state, effects = answer(state, effects, Avail.UNKNOWN)
    assert state.instances["svc1"].state is State.FROZEN_STOP
    assert [entry.state for entry in only(effects, fx.SendNow)[0].beat.table] == [State.UNKNOWN]


@pytest.mark.parametrize(
    ("avail", "expected"),
    [
        (Avail.DOWN, State.FROZEN_STOP),
        (Avail.NOT_EVALUATED, State.FROZEN_STOP),
        (Avail.UP, State.FROZEN_START),
        (Avail.MIXED, State.FROZEN_START),
    ],
)
def test_a_frozen_service_is_announced_as_it_is_when_the_agent_can_tell(avail, expected):
    """Once, when it is verified after a background evaluation, which alone is not believed.

    That one may have looked in the middle of a start that an earlier daemon, or an operator, began.
    """
    state, effects = begin(stored(State.FROZEN_STOP))
    state, _ = answer(state, effects, Avail.UNKNOWN)
    state, effects = step(state, ResourcesReported("svc1", Avail.DOWN), NOW + 1.0)
    assert [run.verb for run in only(effects, fx.RunAction)] == [ActionVerb.VERIFY]
    assert make_our_beat(state).table[0].state is State.UNKNOWN
    state, effects = answer(state, effects, avail)
    assert state.instances["svc1"].state is expected
    assert [entry.state for entry in only(effects, fx.SendNow)[0].beat.table] == [expected]


# -- an agent that says nothing at all -------------------------------------------------------


@pytest.mark.parametrize(
    ("booted", "avail", "expected"),
    [
        (False, Avail.UP, State.STARTED),
        (False, Avail.DOWN, State.STOPPED),
        (True, Avail.DOWN, State.STOPPED),
    ],
)
def test_a_daemon_that_was_told_no_services_at_first_forgets_none_of_their_records(booted, avail, expected):
    """Its agent could not say which there are; else all would be frozen from then on."""
    state, effects = begin(stored(State.STARTED), booted, services=())
    assert effects[0].stored.instances["svc1"].epoch == 3
    state, effects = changed(state, "svc1")
    state, effects = answer(state, effects, avail)
    instance = state.instances["svc1"]
    assert (instance.state, instance.epoch, instance.highest_epoch) == (expected, 3, 8)
    state, effects = changed(state, "svc2")
    assert set(effects[0].stored.instances) == {"svc2"}


def test_a_verify_that_hangs_in_the_kernel_does_not_keep_the_daemon_from_deciding():
    """The answer is unknown then; what ran counts as running, and the others are announced."""
    state, effects = begin(stored(State.STARTED), services=("svc1", "svc2"))
    hanging, other = only(effects, fx.RunAction)
    event = ActionFinished(other.service, other.action_id, other.verb, Outcome.DONE, Avail.DOWN)
    state, effects = step(state, event, NOW + 1.0)
    late = NOW + VERIFY_LIMIT_S + QUESTION_GRACE_S
    for second in range(2, int(VERIFY_LIMIT_S + QUESTION_GRACE_S) - 1):
        state, _ = step(state, Ticked(), NOW + second)  # a daemon that does not stand still
    state, effects = step(state, Ticked(), late - 1.0)
    assert [e.service for e in only(effects, fx.SendNow)[0].beat.table] == ["svc2"]
    assert state.phase is Phase.VERIFYING
    state, effects = step(state, Ticked(), late)
    table = only(effects, fx.SendNow)[0].beat.table
    assert [(e.service, e.state) for e in table] == [("svc1", State.STARTED), ("svc2", State.FROZEN_STOP)]
    event = ActionFinished(hanging.service, hanging.action_id, hanging.verb, Outcome.DONE, Avail.DOWN)
    state, _ = step(state, event, late + 1.0)
    assert state.instances["svc1"].state is State.STARTED
