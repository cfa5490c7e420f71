"""The lease, step by step: what renews it, what its end does, how a silent peer's is claimed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core_builders import (
    NOW,
    TIMEOUT_S,
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
from opensvc_hb.core.config import LeasePolicy, Policies, TakeoverPolicy
from opensvc_hb.core.events import (
    ActionFinished,
    ConfigurationChanged,
    DaemonStarted,
    DaemonStopping,
    GuardianActed,
    LinkDrained,
    Outcome,
    PeerConfirmedDead,
    SlotView,
    SlotWritten,
    StopKind,
    Stored,
    StoredInstance,
    Ticked,
)
from opensvc_hb.core.guardian import END_SHARE
from opensvc_hb.core.lease import claimable_at
from opensvc_hb.core.messages import repeated, table_digest
from opensvc_hb.core.negotiation import holding_rule
from opensvc_hb.core.node_state import Lease, Liveness, Phase, Purpose, RunningAction, Sent, new_node
from opensvc_hb.core.states import ActionVerb, Avail, State, Verb
from opensvc_hb.core.step import step, steps
from opensvc_hb.daemon.report import Notices, alarms
from opensvc_hb.errors import ExitCode

LINKS = ("net", "dio")
OWN_SLOT = "dio:/dev/shared:0"
PEER_SLOT = "dio:/dev/shared:10"
PEER_NET = "net:eth0:239.131.50.10:1244"
HOLD_S = END_SHARE * TIMEOUT_S


def config(**policies):
    """Two nodes with a network and a disk."""
    return make_config(links=LINKS, policies=Policies(wait_for_peer_s=0.0, **policies))


def running(until=NOW + HOLD_S, peer_liveness=Liveness.UNKNOWN, state=State.STARTED, policies=None, **rest):
    """A node that runs svc1, its lease good until `until`."""
    made = config(**(policies or {}))
    entries = [make_entry(State.STOPPED)] if peer_liveness is Liveness.ALIVE else []
    peer = make_peer(made, entries, peer_liveness, acked=150)
    instance = make_instance(state, epoch=3, highest_epoch=3)
    return make_node(made, [instance], peer, lease=Lease(until, until - HOLD_S, "its slot"), **rest)


def seen(read_at, unchanged_since=NOW - 100 * TIMEOUT_S, digest=b"same", problem="", timeout_s=0.0):
    """What a listener tells of the peer's slot."""
    return SlotView(read_at, unchanged_since, digest, problem, timeout_s)


def idle(slot=None, peer=None, **policies):
    """A node without svc1, whose peer has been silent for long."""
    made = config(**policies)
    peer = peer or make_peer(made, [make_entry(State.STARTED, 3)], Liveness.UNKNOWN, slot=slot)
    return make_node(made, [make_instance(State.STOPPED)], peer, lease=Lease(NOW + 1, NOW, "its slot"))


def rule_of(state, now=NOW):
    """The row that holds svc1."""
    return holding_rule(state, state.instances["svc1"], now).id


def drained(state, slot, now, effects):
    """Both listeners answer the question in `effects`."""
    token = only(effects, fx.AskLinks)[-1].token
    return steps(state, (LinkDrained(PEER_NET, token), LinkDrained(PEER_SLOT, token, slot)), now)


# -- ours ---------------------------------------------------------------------------------------


def test_a_slot_written_and_read_back_renews_the_lease_from_before_the_write():
    """The age counts from before the write; the guardian hears of it."""
    state, effects = step(running(), SlotWritten(OWN_SLOT, 7, 200, NOW + 0.9), NOW + 1.0)
    assert state.lease.until == NOW + 0.9 + HOLD_S
    assert only(effects, fx.Guard)[0].until == state.lease.until


@pytest.mark.parametrize(
    "event",
    [
        SlotWritten(PEER_SLOT, 7, 200, NOW + 0.9),
        SlotWritten(OWN_SLOT, 6, 200, NOW + 0.9),
        SlotWritten("dio:/dev/other:0", 7, 200, NOW + 0.9),
    ],
    ids=["another slot", "an earlier life", "another disk"],
)
def test_only_this_lifes_own_slot_on_the_lease_disk_renews(event):
    """Anything else says nothing of our lease."""
    state, _ = step(running(), event, NOW + 1.0)
    assert state.lease.until == NOW + HOLD_S


def test_an_acknowledged_beat_renews_the_lease_from_its_sending():
    """Not from when the acknowledgement came."""
    state = running(peer_liveness=Liveness.ALIVE, sent=(Sent(198, NOW - 1.5), Sent(200, NOW)), sequence=200)
    state = replace(state, lease=Lease(NOW + 0.5, NOW - 2.5, "before"))
    beat = make_beat(state.config, [make_entry(State.STOPPED)], acked=199)
    after, _ = receive(state, beat, NOW + 0.1)
    assert after.lease.until == pytest.approx(NOW - 1.5 + HOLD_S)


def test_an_older_acknowledgement_never_shortens_the_lease():
    """What renewed it last was newer."""
    state = running(peer_liveness=Liveness.ALIVE, sent=(Sent(150, NOW - 2.0), Sent(200, NOW)))
    beat = make_beat(state.config, [make_entry(State.STOPPED)], acked=160)
    after, _ = receive(state, beat, NOW + 0.1)
    assert after.lease.until == NOW + HOLD_S


def test_at_its_end_what_runs_here_is_stopped():
    """L1, with the evidence; the guardian knows that this daemon does it."""
    state, effects = step(running(), Ticked(), NOW + HOLD_S)
    assert announced(effects) is State.STOPPING
    (action,) = only(effects, fx.RunAction)
    assert action.verb is ActionVerb.STOP
    assert state.instances["svc1"].action.purpose is Purpose.LEASE
    entry = next(e for e in only(effects, fx.Journal) if e.rule == "L1")
    assert ("lease", "3.0 s old, by its slot") in entry.inputs
    (guard,) = only(effects, fx.Guard)
    assert guard.ending == ("svc1",)
    assert guard.until == NOW + HOLD_S


def test_a_timer_is_set_for_its_end():
    """Nobody needs to wake the core for it."""
    _, effects = step(running(next_beat_at=NOW + 100.0), Ticked(), NOW + 0.1)
    assert only(effects, fx.ArmTimer)[0].at <= NOW + HOLD_S


def test_what_waited_during_a_pause_does_not_revive_it():
    """The write that is told of on waking may be older than the other's claim."""
    events = (SlotWritten(OWN_SLOT, 7, 200, NOW + HOLD_S - 0.1),)
    state, effects = steps(running(), events, NOW + HOLD_S + 0.5)
    assert announced(effects) is State.STOPPING
    assert state.lease.is_broken


def test_a_lease_that_ran_out_is_renewed_only_when_what_ran_has_ended():
    """Until then nothing is started here either."""
    state, effects = step(running(), Ticked(), NOW + HOLD_S)
    (action,) = only(effects, fx.RunAction)
    state, _ = step(state, SlotWritten(OWN_SLOT, 7, 220, NOW + HOLD_S + 0.1), NOW + HOLD_S + 0.2)
    assert state.lease.is_broken
    ended = ActionFinished("svc1", action.action_id, ActionVerb.STOP, Outcome.DONE, Avail.DOWN)
    state, effects = step(state, ended, NOW + HOLD_S + 0.5)
    assert state.instances["svc1"].state is State.STOPPED
    assert not state.lease.is_broken
    assert only(effects, fx.Guard)[-1].services == ()
    state, _ = step(state, SlotWritten(OWN_SLOT, 7, 221, NOW + HOLD_S + 0.6), NOW + HOLD_S + 0.7)
    assert state.lease.until == NOW + HOLD_S + 0.6 + HOLD_S


def test_a_stop_that_the_guardian_ended_counts_when_the_resources_are_down():
    """It kills actions that take too long; what matters is that nothing runs."""
    state, effects = step(running(), Ticked(), NOW + HOLD_S)
    (action,) = only(effects, fx.RunAction)
    ended = ActionFinished(
        "svc1", action.action_id, ActionVerb.STOP, Outcome.FAILED, Avail.DOWN, 137, "killed"
    )
    state, _ = step(state, ended, NOW + HOLD_S + 1.0)
    assert state.instances["svc1"].state is State.STOPPED


@pytest.mark.parametrize(
    ("avail", "state"),
    [(Avail.DOWN, State.STOPPED), (Avail.UP, State.STOP_FAILED), (Avail.UNKNOWN, State.STOP_FAILED)],
)
def test_a_stop_that_the_guardian_killed_is_looked_at_again(avail, state):
    """The guardian stops the instance itself: a verify waits for that, and says what is true."""
    ending, _ = step(running(), Ticked(), NOW + HOLD_S)
    killed = ActionFinished(
        "svc1", ending.instances["svc1"].action.action_id, ActionVerb.STOP, Outcome.FAILED, Avail.UNKNOWN
    )
    after, effects = step(ending, killed, NOW + HOLD_S + 0.5)
    (action,) = only(effects, fx.RunAction)
    assert (action.verb, after.instances["svc1"].state) == (ActionVerb.VERIFY, State.STOPPING)
    seen_then = ActionFinished("svc1", action.action_id, ActionVerb.VERIFY, Outcome.DONE, avail)
    after, _ = step(after, seen_then, NOW + HOLD_S + 1.0)
    assert after.instances["svc1"].state is state


def test_a_start_under_way_is_cancelled_and_what_it_began_stopped():
    """STARTING counts as running."""
    state = running(state=State.STARTING)
    action = RunningAction(41, ActionVerb.START, Purpose.RULE, State.STARTED, NOW - 1)
    starting = replace(state.instances["svc1"], action=action)
    state = replace(state, instances={"svc1": starting})
    state, effects = step(state, Ticked(), NOW + HOLD_S)
    assert [e.action_id for e in only(effects, fx.CancelAction)] == [41]
    ended = ActionFinished("svc1", 41, ActionVerb.START, Outcome.TIMED_OUT, Avail.MIXED, 1, "cancelled")
    state, effects = step(state, ended, NOW + HOLD_S + 0.1)
    assert only(effects, fx.RunAction)[0].verb is ActionVerb.STOP
    assert state.instances["svc1"].action.purpose is Purpose.LEASE


def test_without_a_disk_the_deadline_follows_the_beats_made():
    """The guardian then watches that this daemon lives, and nothing else."""
    made = make_config()
    instance = make_instance(State.STARTED)
    state = make_node(made, [instance], make_peer(made, liveness=Liveness.UNKNOWN), next_beat_at=NOW)
    state, effects = step(state, Ticked(), NOW)
    assert only(effects, fx.Guard)[0].until == NOW + HOLD_S
    assert rule_of(state, NOW + HOLD_S + 0.1) == "L2"
    _, effects = step(state, Ticked(), NOW + HOLD_S + 0.1)
    assert announced(effects) is State.STOPPING


def test_what_the_guardian_ends_does_not_count_as_running_though_the_lease_was_renewed_meanwhile():
    """It acted on a renewal that came late: nobody would start the service again."""
    state = running(NOW + 2 * HOLD_S)
    acted = GuardianActed(("svc1",), "not renewed for 0.2 s of 0.3 s: the guardian stops svc1")
    state, effects = step(state, acted, NOW)
    assert announced(effects) is State.STOPPING
    (action,) = only(effects, fx.RunAction)
    assert action.verb is ActionVerb.STOP
    assert next(e.text for e in only(effects, fx.Journal) if e.kind == "alarm") == acted.what
    again, effects = step(state, acted, NOW + 0.1)
    assert not only(effects, fx.RunAction)
    done = ActionFinished("svc1", action.action_id, ActionVerb.STOP, Outcome.DONE, Avail.DOWN, 0, "")
    state, _ = step(again, done, NOW + 0.2)
    assert state.instances["svc1"].state is State.STOPPED


@pytest.mark.parametrize("state", [State.STOPPED, State.FROZEN_STOP, State.STOP_FAILED])
def test_what_the_guardian_did_to_what_does_not_run_is_told_only(state):
    after, effects = step(running(state=state), GuardianActed(("svc1",), "it killed them"), NOW)
    assert after.instances["svc1"].state is state
    assert not only(effects, fx.RunAction)
    assert "it killed them" in [e.text for e in only(effects, fx.Journal)]


def test_the_end_of_a_stop_action_of_the_guardian_is_told_only():
    event = GuardianActed(("svc1",), "the guardian has stopped svc1 in 0.1 s", alarm=False)
    after, effects = step(running(), event, NOW)
    assert after.instances["svc1"].state is State.STARTED
    assert not only(effects, fx.RunAction)


def test_against_peers_confirmed_dead_the_beats_renew_the_lease():
    """An operator vouched: no disk is needed, but the guardian watches that this daemon lives."""
    state = running()
    peer = replace(state.peers["deb2"], confirmed_dead=True)
    state = replace(state, peers={"deb2": peer}, next_beat_at=NOW + 1.0)
    state, effects = step(state, Ticked(), NOW + 1.0)
    assert state.instances["svc1"].state is State.STARTED
    assert only(effects, fx.Guard)[0].until == NOW + 1.0 + HOLD_S


def test_a_start_against_a_peer_confirmed_dead_is_not_ended_by_an_old_lease():
    """The disk hangs here, which is why an operator was asked: the word itself renews it."""
    state = replace(idle(), lease=Lease(NOW - 100.0, NOW - 103.0, "its slot"))
    state, effects = step(state, PeerConfirmedDead(1, "deb2", "root", "seen dead"), NOW + 0.1)
    assert announced(effects) is State.STARTING
    assert only(effects, fx.CancelAction) == []


def test_lease_no_turns_it_off():
    """Networks and disks then carry beats only."""
    assert config(lease=LeasePolicy.NO).lease_links == {}
    assert set(config().lease_links) == {"deb1", "deb2"}


# -- another T ------------------------------------------------------------------------------------


def with_timeout(state, timeout_s, now):
    """The monitor file has another timeout."""
    return step(state, ConfigurationChanged(make_config(links=LINKS, timeout_s=timeout_s)), now)


def test_a_shorter_timeout_shortens_the_lease_before_it_is_told():
    """Who hears of it counts with it from then on; the guardian hears of it before the beat goes out."""
    state, effects = with_timeout(running(), 1.0, NOW + 0.1)
    assert state.lease.until == pytest.approx(NOW + 0.1 + END_SHARE * 1.0)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(fx.Guard) < kinds.index(fx.SendNow)
    (order,) = only(effects, fx.Guard)
    assert (order.until, order.timeout_s) == (state.lease.until, 1.0)


@pytest.mark.parametrize("by", ["acknowledgement", "slot"])
def test_a_longer_timeout_counts_from_the_first_beat_that_told_it(by):
    """A contender that has not read it counts with the one before, the guardian too."""
    state, effects = with_timeout(running(peer_liveness=Liveness.ALIVE), 50.0, NOW + 0.1)
    (order,) = only(effects, fx.Guard) or [state.guarded]
    assert (order.until, order.timeout_s) == (NOW + HOLD_S, TIMEOUT_S)

    def renewed(sequence, now):
        if by == "slot":
            return step(state, SlotWritten(OWN_SLOT, 7, sequence, NOW + 0.1), now)
        return receive(state, make_beat(state.config, [make_entry(State.STOPPED)], acked=sequence), now)

    before, _ = renewed(200, NOW + 0.2)
    assert before.lease.until <= NOW + 0.1 + HOLD_S
    after, effects = renewed(201, NOW + 0.2)
    assert after.lease.until == pytest.approx(NOW + 0.1 + END_SHARE * 50.0, abs=0.3)
    assert only(effects, fx.Guard)[-1].timeout_s == 50.0


def test_a_new_daemon_goes_on_with_the_timeout_of_the_deadline_that_it_inherits():
    """It was made longer meanwhile, and nobody has heard of that yet."""
    made = make_config(links=LINKS, timeout_s=50.0)
    stored = Stored(6, {"svc1": StoredInstance(State.STARTED, 9, 3, 3)})
    event = DaemonStarted(made, stored, False, NOW + 1.0, TIMEOUT_S, (("svc1", "svc1"),))
    _, effects = step(new_node(made), event, NOW)
    (order,) = only(effects, fx.Guard)
    assert (order.until, order.timeout_s) == (NOW + 1.0, TIMEOUT_S)


def test_a_contender_that_was_restarted_still_counts_with_the_timeout_that_it_had_acknowledged():
    """The other's slot may be older than that: its disk hangs."""
    state = idle(peer=make_peer(config(), [make_entry(State.STARTED, 3)]))
    beat = make_beat(state.config, [make_entry(State.STARTED, 3)], longest_timeout_s=50.0)
    _, effects = receive(state, beat, NOW + 0.1)
    (persist,) = only(effects, fx.Persist)
    begun, _ = step(new_node(state.config), DaemonStarted(state.config, persist.stored, False), NOW + 1.0)
    assert claimable_at(begun, begun.peers["deb2"]) == NOW + 51.0


# -- maintenance and restarts ---------------------------------------------------------------------


def frozen(**rest):
    """svc1 frozen started; the peer is alive."""
    state = running(peer_liveness=Liveness.ALIVE)
    instance = make_instance(State.FROZEN_START, epoch=3, highest_epoch=3, **rest)
    return replace(state, instances={"svc1": instance})


def make_beat_table(state):
    """Our table, as a node with svc1 in this state announces it."""
    return (make_entry(state, 3, sequence=0, highest_epoch=3),)


def acknowledging(made, sequence, digest):
    """A beat of the peer, which has svc1 stopped, processed ours of `sequence` and holds that table of us."""
    beat = make_beat(made, [make_entry(State.STOPPED)], acked=sequence)
    return replace(beat, hearings=tuple(replace(each, table_digest=digest) for each in beat.hearings))


def test_maintenance_that_every_peer_acknowledged_outlives_the_lease():
    """It was stored before: a daemon that is killed then leaves it alone, too."""
    state = frozen(frozen_at=199)
    beat = acknowledging(state.config, 199, table_digest(make_beat_table(State.FROZEN_START)))
    state, effects = receive(state, beat, NOW + 0.1)
    assert only(effects, fx.Persist)[0].stored.instances["svc1"].excused
    assert not any(guard.services for guard in only(effects, fx.Guard))
    state, _ = step(state, Ticked(), NOW + 10 * TIMEOUT_S)
    assert state.instances["svc1"].state is State.FROZEN_START


def test_maintenance_is_not_excused_by_who_acknowledged_an_older_table():
    """While the store fails a beat repeats what was announced before, with the newest sequence."""
    before = running(peer_liveness=Liveness.ALIVE)
    before, effects = step(before, Ticked(), NOW + 1.0)
    (announcement,) = only(effects, fx.SendNow)
    state, effects = command(before, Verb.FREEZE_START, NOW + 1.1)
    said = repeated(announcement.beat, only(effects, fx.SendNow)[0].beat)
    state, _ = receive(state, acknowledging(state.config, said.sequence, said.table_digest), NOW + 1.2)
    assert state.peers["deb2"].acked >= state.instances["svc1"].frozen_at
    assert not state.instances["svc1"].excused


def test_a_node_that_may_run_it_from_now_on_has_not_heard_of_the_maintenance():
    """It would take over what it does not know to be frozen: until it acknowledges, the lease counts."""
    state = frozen(frozen_at=150, excused=True)
    wider = make_config(links=LINKS, nodes=("deb1", "deb2", "deb3"))
    state, effects = step(state, ConfigurationChanged(wider), NOW + 0.1)
    assert not state.instances["svc1"].excused
    assert only(effects, fx.Guard)[-1].services == (("svc1", "svc1"),)


def test_maintenance_that_nobody_acknowledged_ends_with_the_lease_and_stays_frozen():
    """The peer does not know of it and would take over."""
    state, _ = step(frozen(frozen_at=199), Ticked(), NOW + HOLD_S)
    assert state.instances["svc1"].action.then is State.FROZEN_STOP


def test_takeover_frozen_excuses_nobody():
    """The peer would take over what is frozen, too."""
    state = frozen(excused=True)
    state = replace(state, config=config(takeover_frozen=True))
    state, _ = step(state, Ticked(), NOW + HOLD_S)
    assert state.instances["svc1"].state is State.STOPPING


def test_unfreeze_is_refused_while_the_lease_is_not_held():
    """It would be ended at once; the words say what to do."""
    state = replace(frozen(excused=True), lease=Lease(NOW - 1.0, NOW - 4.0, "its slot"))
    after, effects = command(state, Verb.UNFREEZE)
    assert reply_code(effects) is ExitCode.REFUSED
    assert after.instances["svc1"].state is State.FROZEN_START


def begin(lease_until, stored=State.STARTED, links=LINKS, **record):
    """A daemon of a node that was not booted begins."""
    made = make_config(links=links)
    event = DaemonStarted(
        made, Stored(6, {"svc1": StoredInstance(stored, 9, 3, 3, **record)}), False, lease_until
    )
    return step(new_node(made), event, NOW)


def verified(state, effects, now, avail=Avail.UP):
    """The agent answers what runs here."""
    (action,) = only(effects, fx.RunAction)
    event = ActionFinished("svc1", action.action_id, action.verb, Outcome.DONE, avail)
    return step(state, event, now)


def test_a_new_daemon_inherits_the_guardians_deadline():
    """Its first beat leaves at once, and the services run on."""
    state, effects = begin(NOW + 2.0)
    assert only(effects, fx.Guard)[0].until == NOW + 2.0
    assert only(effects, fx.SendNow)
    state, _ = verified(state, effects, NOW + 0.1)
    assert state.instances["svc1"].state is State.STARTED


@pytest.mark.parametrize("until", [None, NOW - 0.1], ids=["unknown", "past"])
def test_an_age_that_is_unknown_or_past_ends_what_runs(until):
    """The peer may have taken over; no write of ours makes that undone."""
    state, effects = begin(until)
    state, _ = step(state, SlotWritten(OWN_SLOT, 7, 1, NOW + 0.05), NOW + 0.06)
    state, effects = verified(state, effects, NOW + 0.1)
    assert announced(effects) is State.STOPPING


def test_the_first_beat_of_a_new_daemon_ends_the_promise_of_the_old():
    """From the first beat on, silence is silence: the peer drops the promise, too."""
    state, _ = begin(NOW + 50.0)
    assert state.lease.until == NOW + HOLD_S


def test_without_a_disk_a_daemon_that_is_back_adopts_what_runs():
    """There is nothing better to go by; a double start heals."""
    state, effects = begin(None, links=("net",))
    state, _ = verified(state, effects, NOW + 0.1)
    assert state.instances["svc1"].state is State.STARTED


def test_excused_maintenance_survives_a_daemon_without_any_deadline():
    """The record says that every peer knew of it."""
    state, effects = begin(None, State.FROZEN_START, excused=True)
    state, _ = verified(state, effects, NOW + 0.1)
    assert state.instances["svc1"].state is State.FROZEN_START
    assert state.instances["svc1"].excused


def test_what_is_found_running_though_no_record_says_so_has_the_time_of_a_renewal():
    """A service that is new here: how fast the agent answers must not decide whether it is ended."""
    state, effects = begin(None, State.FROZEN_STOP)
    state, effects = verified(state, effects, NOW + 0.05)
    assert state.instances["svc1"].state is State.FROZEN_START
    assert only(effects, fx.Guard)[0].until == NOW + HOLD_S
    late, _ = step(state, Ticked(), NOW + HOLD_S)
    assert late.instances["svc1"].state is State.STOPPING
    renewed, _ = step(state, SlotWritten(OWN_SLOT, 7, 1, NOW + 0.1), NOW + 0.2)
    assert renewed.lease.until == NOW + 0.1 + HOLD_S


def test_what_was_guarded_stays_so_while_the_agent_cannot_say_which_services_there_are():
    """This daemon lives and renews the lease: the guardian must not end what runs."""
    made = make_config(links=LINKS, services=())
    guarded = (("svc1", "svc1"),)
    event = DaemonStarted(made, Stored(6), False, NOW + 2.0, TIMEOUT_S, guarded)
    state, effects = step(new_node(made), event, NOW)
    assert only(effects, fx.Guard)[0].services == guarded
    state, effects = step(state, SlotWritten(OWN_SLOT, 7, 1, NOW + 0.5), NOW + 0.6)
    assert only(effects, fx.Guard)[0].until == NOW + 0.5 + HOLD_S
    state, _ = step(state, Ticked(), NOW + 0.5 + HOLD_S)
    state, _ = step(state, SlotWritten(OWN_SLOT, 7, 2, NOW + 4.0), NOW + 4.1)
    assert state.lease.is_broken


def test_what_was_guarded_stays_so_while_its_file_cannot_be_read():
    """A typing error in one of two files, then a restart: the guardian keeps its deadline for both.

    The record of the one that cannot be read stays in the store, and it is taken up again with it.
    """
    made = make_config(links=LINKS, services=("db", "web"))
    torn = replace(made, services={"db": made.services["db"]})
    records = {name: StoredInstance(State.STARTED, 3, 5, 5) for name in ("db", "web")}
    event = DaemonStarted(
        torn, Stored(6, records), False, NOW + 2.0, TIMEOUT_S, (("db", "db"), ("web", "web")), is_whole=False
    )
    state, effects = step(new_node(torn), event, NOW)
    assert set(only(effects, fx.Persist)[-1].stored.instances) == {"db", "web"}
    verify = only(effects, fx.RunAction)[0]
    ended = ActionFinished("db", verify.action_id, ActionVerb.VERIFY, Outcome.DONE, Avail.UP)
    state, _ = step(state, ended, NOW + 0.1)
    state, effects = step(state, SlotWritten(OWN_SLOT, 7, state.sequence, NOW + 0.5), NOW + 0.6)
    assert state.phase is Phase.RUNNING
    assert only(effects, fx.Guard)[-1].services == (("db", "db"), ("web", "web"))
    told = [alarm["text"] for alarm in alarms(state, Notices(), NOW + 0.6) if alarm["service"] == "web"]
    assert told[0].startswith("it ran here as this daemon began, and its file cannot be read")

    mended, effects = step(state, ConfigurationChanged(made), NOW + 0.7)
    assert (mended.instances["web"].state, mended.instances["web"].epoch) == (State.STARTED, 5)
    assert [action.verb for action in only(effects, fx.RunAction)] == [ActionVerb.VERIFY]
    removed, effects = step(state, ConfigurationChanged(torn), NOW + 0.7)
    assert removed.guarded.services == (("db", "db"),)
    assert set(only(effects, fx.Persist)[-1].stored.instances) == {"db"}


def test_what_was_guarded_stays_so_until_the_agent_was_asked_though_the_store_was_lost():
    """No record says that it runs; a deadline that has passed ends it as soon as it is seen."""
    made = make_config(links=LINKS)
    event = DaemonStarted(made, Stored(), False, NOW + 2.0, TIMEOUT_S, (("svc1", "svc1"), ("gone", "gone")))
    begun, effects = step(new_node(made), event, NOW)
    assert only(effects, fx.Guard)[0].services == (("svc1", "svc1"),)
    state, _ = step(begun, SlotWritten(OWN_SLOT, 1, 1, NOW + 0.5), NOW + 0.6)
    state, _ = verified(state, effects, NOW + 0.7)
    assert state.instances["svc1"].state is State.FROZEN_START
    late, _ = step(begun, Ticked(), NOW + 2.0)
    late, _ = step(late, SlotWritten(OWN_SLOT, 1, 2, NOW + 2.1), NOW + 2.2)
    late, _ = verified(late, effects, NOW + 2.3)
    assert late.instances["svc1"].action.verb is ActionVerb.STOP
    down, _ = verified(begun, effects, NOW + 0.1, Avail.DOWN)
    assert down.guarded.services == ()


def restarting(before):
    """A node whose daemon was asked to stop, and the beat that promises to be back."""
    state, effects = step(before, DaemonStopping(StopKind.RESTART), NOW + 0.1)
    return state, only(effects, fx.SendNow)[0].beat


def test_a_promise_stands_in_the_beat_that_is_acknowledged_though_the_store_fails():
    """The peer would take over long before the guardian ends what runs here."""
    before, effects = step(running(peer_liveness=Liveness.ALIVE), Ticked(), NOW + 1.0)
    state, farewell = restarting(before)
    said = repeated(only(effects, fx.SendNow)[0].beat, farewell)
    assert said.sequence == state.farewell
    assert said.restarting_for_s == farewell.restarting_for_s > 0


def test_another_promise_is_another_farewell():
    """The configuration changed while the first one was on its way: that one was of another time."""
    state, first = restarting(running(peer_liveness=Liveness.ALIVE))
    longer = Policies(wait_for_peer_s=0.0, restart_within_s=600.0)
    state, effects = step(state, ConfigurationChanged(make_config(links=LINKS, policies=longer)), NOW + 0.11)
    promise = only(effects, fx.SendNow)[0].beat
    assert promise.restarting_for_s == 600.0
    state, _ = receive(state, make_beat(state.config, acked=first.sequence), NOW + 0.12)
    assert state.phase is Phase.RESTARTING
    state, _ = receive(state, make_beat(state.config, sequence=61, acked=promise.sequence), NOW + 0.13)
    assert state.phase is Phase.GONE


# -- a silent peer's ------------------------------------------------------------------------------


def test_look_write_look_and_start():
    """The whole claim: nothing is asked twice, nothing waits."""
    state, effects = step(idle(slot=seen(NOW - 0.1)), Ticked(), NOW)
    assert only(effects, fx.SendNow)[0].beat.claims == "deb2"
    sequence = only(effects, fx.SendNow)[0].beat.sequence
    assert rule_of(state) == "U11"
    state, effects = step(state, SlotWritten(OWN_SLOT, 7, sequence, NOW + 0.01), NOW + 0.02)
    assert only(effects, fx.AskLinks)
    state, effects = drained(state, seen(NOW + 0.03), NOW + 0.04, effects)
    assert announced(effects) is State.STARTING
    (action,) = only(effects, fx.RunAction)
    assert action.begin_by == NOW + 0.01 + HOLD_S
    assert state.lease.until == NOW + 0.01 + HOLD_S
    kinds = [type(effect) for effect in effects]
    assert kinds.index(fx.Persist) < kinds.index(fx.Guard) < kinds.index(fx.RunAction)
    starting = next(e for e in only(effects, fx.Journal) if e.rule == "U12")
    assert any(name == "our claim" for name, _ in starting.inputs)


def test_a_write_from_before_the_claim_proves_nothing():
    """Only the claim's own write, or a later one, carries it."""
    state, effects = step(idle(slot=seen(NOW - 0.1)), Ticked(), NOW)
    sequence = only(effects, fx.SendNow)[0].beat.sequence
    state, effects = step(state, SlotWritten(OWN_SLOT, 7, sequence - 1, NOW + 0.01), NOW + 0.02)
    assert not only(effects, fx.AskLinks)


def test_without_a_fresh_look_the_slot_is_read_first():
    """What was seen long ago is asked for again."""
    state, effects = step(idle(slot=seen(NOW - TIMEOUT_S)), Ticked(), NOW)
    assert not any(beat.beat.claims for beat in only(effects, fx.SendNow))
    state, effects = drained(state, seen(NOW + 0.01), NOW + 0.02, effects)
    assert only(effects, fx.SendNow)[0].beat.claims == "deb2"


def claimed():
    """A node whose claim was written and read back, and the question it then asked."""
    state, effects = step(idle(slot=seen(NOW - 0.1)), Ticked(), NOW)
    sequence = only(effects, fx.SendNow)[0].beat.sequence
    return step(state, SlotWritten(OWN_SLOT, 7, sequence, NOW + 0.01), NOW + 0.02)


@pytest.mark.parametrize(
    ("slot", "word"),
    [
        (seen(NOW + 0.03, digest=b"other"), "changed"),
        (seen(NOW + 0.03, unchanged_since=NOW + 0.03), "changed"),
        (seen(NOW + 0.03, problem="torn"), "torn"),
        (None, "cannot be read"),
    ],
    ids=["other content", "seen anew", "torn", "unreadable"],
)
def test_a_slot_that_changed_or_cannot_be_read_refuses_the_claim(slot, word):
    """Nothing is started; the reason is said once, and it is tried again."""
    state, effects = claimed()
    state, effects = drained(state, slot, NOW + 0.04, effects)
    assert state.instances["svc1"].state is State.STOPPED
    assert rule_of(state, NOW + 0.05) == "U13"
    assert any(word in entry.reason for entry in only(effects, fx.Journal))
    again = state.peers["deb2"].claim.retry_at
    assert again > NOW + 0.04
    assert rule_of(state, again) == "U10"


def test_a_beat_of_the_peer_ends_the_claim():
    """It lives, on whatever link it is heard; rule 3 decides then."""
    state, effects = claimed()
    beat = make_beat(state.config, [make_entry(State.STARTED, 3)])
    state, _ = receive(state, beat, NOW + 0.03)
    assert state.peers["deb2"].claim is None
    state, _ = drained(state, seen(NOW + 0.03), NOW + 0.04, effects)
    assert state.instances["svc1"].state is State.STOPPED


def test_a_stall_ends_the_claim():
    """What was seen before it says nothing of now."""
    state, _ = claimed()
    state, _ = step(state, Ticked(), NOW + 3.0)
    assert state.peers["deb2"].claim is None
    assert rule_of(state, NOW + 3.0) in ("U1", "U9")


def test_a_disk_that_does_not_answer_refuses_the_claim():
    """It is given up after half the timeout, with the reason."""
    state, _ = claimed()
    for tenth in range(1, 40):
        state, _ = step(state, Ticked(), NOW + 0.02 + tenth / 10)
        if state.peers["deb2"].claim.refused:
            break
    assert "does not answer" in state.peers["deb2"].claim.refused
    assert rule_of(state, NOW + 0.02 + tenth / 10) == "U13"


@pytest.mark.parametrize(
    "peer_slot",
    [seen(NOW - 0.1, unchanged_since=NOW - 3.0), seen(NOW - 0.1, unchanged_since=NOW - 7.0, timeout_s=9.0)],
    ids=["changed lately", "its own T is larger"],
)
def test_a_lease_that_may_not_have_run_out_is_waited_for(peer_slot):
    """A timer is set for the moment at which it has."""
    state, effects = step(idle(slot=peer_slot), Ticked(), NOW)
    assert rule_of(state) == "U9"
    until = peer_slot.unchanged_since + max(TIMEOUT_S, peer_slot.longest_timeout_s)
    assert only(effects, fx.ArmTimer)[0].at <= until


def test_an_acknowledged_maintenance_is_never_claimed():
    """The peer froze it started and has not said otherwise: an operator must vouch."""
    made = config()
    peer = make_peer(made, [], Liveness.UNKNOWN, maintenance=frozenset({"svc1"}), slot=seen(NOW - 0.1))
    state, effects = step(idle(peer=peer), Ticked(), NOW)
    assert rule_of(state) == "U6"
    assert not any(beat.beat.claims for beat in only(effects, fx.SendNow))


def test_confirm_dead_goes_around_the_lease():
    """The one audited way."""
    _, effects = step(idle(), PeerConfirmedDead(99, "deb2", "root", "seen dead"), NOW)
    assert announced(effects) is State.STARTING


def test_an_operators_takeover_is_claimed_first():
    """takeover = ask: the command begins a claim, and is answered with its outcome."""
    state = idle(slot=seen(NOW - 0.1), takeover=TakeoverPolicy.ASK)
    assert rule_of(state) == "U7"
    state, effects = command(state, Verb.START)
    sequence = only(effects, fx.SendNow)[0].beat.sequence
    assert reply_code(effects) is None
    state, effects = step(state, SlotWritten(OWN_SLOT, 7, sequence, NOW + 0.01), NOW + 0.02)
    refused, answers = drained(state, None, NOW + 0.04, effects)
    assert reply_code(answers) is ExitCode.REFUSED
    assert rule_of(refused, NOW + 10.0) == "U7"
    state, effects = drained(state, seen(NOW + 0.03), NOW + 0.04, effects)
    assert announced(effects) is State.STARTING


def test_a_boot_alone_is_settled_by_the_lease_before_wait_for_peer_ends():
    """The slot has not changed for T since the first look: nobody lives there."""
    made = make_config(links=LINKS, policies=Policies(wait_for_peer_s=90.0))
    peer = make_peer(made, [], Liveness.WAITING, heard=False, incarnation=0, silent_from=NOW - 6.0)
    peer = replace(peer, slot=seen(NOW - 0.1, unchanged_since=NOW - 5.9))
    state = make_node(made, [make_instance(State.STOPPED)], peer, started_at=NOW - 6.0)
    assert rule_of(state) == "U10"


@pytest.mark.parametrize(
    ("links", "end"),
    [
        (LINKS, "its slot on the shared disk tells what may start here"),
        (LINKS[:1], "waiting for it for another 84 s"),
    ],
)
def test_a_boot_alone_tells_what_is_waited_for(links, end):
    """With a lease it is not wait_for_peer."""
    made = make_config(links=links, policies=Policies(wait_for_peer_s=90.0))
    peer = make_peer(made, [], Liveness.WAITING, heard=False, incarnation=0, silent_from=NOW - 6.0)
    state = make_node(made, [make_instance(State.STOPPED)], peer, started_at=NOW - 6.0)
    texts = [alarm["text"] for alarm in alarms(state, Notices(), NOW)]
    assert f"{peer.node} was never heard; {end}" in texts
