"""The resource monitor: its table over the whole product, and what core makes of reports."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from core_builders import (
    NOW,
    announced,
    command,
    make_config,
    make_entry,
    make_instance,
    make_node,
    make_peer,
    only,
    reply_code,
    settled,
)

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import MonitorAction, Monitored, Monitoring
from opensvc_hb.core.events import (
    ActionFinished,
    NodeNotReset,
    Outcome,
    ResourceReport,
    ResourcesReported,
    Ticked,
)
from opensvc_hb.core.guardian import END_SHARE
from opensvc_hb.core.monitor_rules import (
    MONITOR_RULES,
    MonitorSituation,
    MonitorVerdict,
    Taker,
    Tries,
    decide_monitored,
)
from opensvc_hb.core.monitoring import MONITOR, monitor_rows, taker_of
from opensvc_hb.core.node_state import Lease, Liveness
from opensvc_hb.core.states import ActionVerb, Answer, Avail, State, Verb
from opensvc_hb.core.step import step
from opensvc_hb.errors import ExitCode

BOOLEANS = (False, True)
MOVES = frozenset(
    {MonitorVerdict.FREEZE_STOP, MonitorVerdict.SWITCH, MonitorVerdict.REBOOT, MonitorVerdict.CRASH}
)


def product():
    """Every situation of the table, with the row that decides it."""
    fields = itertools.product(Answer, Tries, BOOLEANS, Taker, BOOLEANS, MonitorAction, BOOLEANS)
    return [(s, decide_monitored(s)) for s in itertools.starmap(MonitorSituation, fields)]


# -- the table ----------------------------------------------------------------------------------


def test_every_situation_has_a_row_and_every_row_a_situation():
    """The table is complete, and no row is hidden behind those above it."""
    assert {rule.id for _, rule in product()} == {rule.id for rule in MONITOR_RULES}


def test_rows_have_ids_of_their_own_and_a_sentence():
    """The id shown in the journal finds one row, whose sentence reads as such."""
    assert [rule.id for rule in MONITOR_RULES] == [f"M{n + 1}" for n in range(len(MONITOR_RULES))]
    assert all(len(r.sentence) > 10 and not r.sentence.endswith(".") for r in MONITOR_RULES)


def test_only_a_resource_that_is_down_has_anything_done():
    """Unknown never restarts or moves anything, nor does up."""
    for situation, rule in product():
        if situation.answer is not Answer.DOWN:
            assert rule.verdict in (MonitorVerdict.REST, MonitorVerdict.HOLD), situation


def test_a_move_needs_everything():
    """No restart left, a second look, a node that can take it, and a move left."""
    for s, rule in product():
        if rule.verdict in MOVES | {MonitorVerdict.PREPARE}:
            assert s.tries is Tries.SPENT, s
            assert s.confirmed, s
            assert s.taker is Taker.READY, s
            assert not s.moved_often, s
            assert s.action is not MonitorAction.NONE, s


def test_what_holds_a_resource_that_is_down_is_an_alarm():
    """Nobody is left to find out by himself that the database is dead."""
    for s, rule in product():
        if s.answer is Answer.DOWN and rule.verdict is MonitorVerdict.HOLD:
            assert rule.alarm, s


# -- what is reported -----------------------------------------------------------------------------


def watched_config(restarts=0, action=MonitorAction.FREEZE_STOP, links=("net",), rids=("app#1",), **rest):
    """A cluster whose service has monitored resources."""
    config = make_config(links=links)
    monitoring = Monitoring(tuple(Monitored(rid, restarts) for rid in rids), action, **rest)
    service = replace(config.services["svc1"], monitoring=monitoring)
    return replace(config, services={"svc1": service})


def running_node(config, peer_state=State.STOPPED, now=NOW, liveness=Liveness.ALIVE, **rest):
    """A node that runs the service, and a peer that has just acknowledged its newest beat."""
    peer = settled(make_peer(config, [make_entry(peer_state)], liveness, now), now)
    instance = make_instance(State.STARTED, epoch=4, highest_epoch=4, **rest)
    return make_node(config, [instance], peer, now)


def report(*answers, rids=("app#1",), spent=False):
    """What an evaluation says."""
    reports = tuple(ResourceReport(rid, answer) for rid, answer in zip(rids, answers))
    return ResourcesReported("svc1", Avail.MIXED, reports, spent)


DOWN, UP, UNKNOWN = Answer.DOWN, Answer.UP, Answer.UNKNOWN


def tell(state, *answers, now=NOW, **rest):
    """Give reports to a node, one after another; all effects together."""
    effects = []
    for answer in answers:
        state, more = step(state, report(answer, **rest), now)
        effects += more
    return state, effects


def finish(state, outcome=Outcome.DONE, now=NOW, verb=ActionVerb.RESTART, avail=Avail.UNKNOWN):
    """End the action that runs for the service."""
    action_id = state.instances["svc1"].action.action_id
    return step(state, ActionFinished("svc1", action_id, verb, outcome, avail), now)


def actions(effects):
    """The verbs of the actions asked for."""
    return [effect.verb for effect in only(effects, fx.RunAction)]


def test_what_an_operator_only_declared_started_is_not_restarted_until_it_was_up_here():
    """`force-start` runs nothing, and what is down here may be up elsewhere."""
    config = watched_config(restarts=2)
    state = running_node(config)
    stopped = replace(state.instances["svc1"], state=State.FROZEN_STOP, resources=Avail.DOWN)
    state, _ = command(replace(state, instances={"svc1": stopped}), Verb.FORCE_START)
    assert state.instances["svc1"].state is State.STARTED
    state, effects = tell(state, DOWN, DOWN, DOWN)
    assert actions(effects) == []
    state, _ = step(state, ResourcesReported("svc1", Avail.UP, (ResourceReport("app#1", UP),), False), NOW)
    state, effects = tell(state, DOWN, DOWN)
    assert actions(effects) == [ActionVerb.RESTART]


def test_nothing_is_restarted_or_moved_while_it_is_up():
    """A report of up is no news."""
    state, effects = tell(running_node(watched_config()), UP, UP)
    assert actions(effects) == []
    assert state.instances["svc1"].state is State.STARTED
    assert [e for e in only(effects, fx.Journal) if e.rule] == []


def test_the_shell_is_told_once_whom_to_watch():
    """What runs here and has monitored resources is evaluated more often; when it ends, no more."""
    state, effects = tell(running_node(watched_config()), UP, UP)
    assert only(effects, fx.WatchServices) == [fx.WatchServices((("svc1", "svc1"),))]
    state, effects = command(state, Verb.STOP)
    assert only(effects, fx.WatchServices) == [fx.WatchServices(())]


def test_a_service_without_monitored_resources_has_nothing_of_it():
    """Nothing is journaled, watched or done."""
    config = make_config()
    state, effects = tell(running_node(config), DOWN, DOWN)
    assert actions(effects) == []
    assert only(effects, fx.WatchServices) == []
    assert monitor_rows(state, state.instances["svc1"], NOW) == []


def test_down_is_looked_at_once_more_before_the_service_moves():
    """One answer is not enough; an evaluation is asked for at once, and the second one decides."""
    state, effects = tell(running_node(watched_config()), DOWN)
    assert actions(effects) == []
    assert only(effects, fx.LookAgain) == [fx.LookAgain("svc1", "svc1")]
    state, effects = tell(state, DOWN)
    assert actions(effects) == [ActionVerb.STOP]
    assert announced(effects) is State.STOPPING
    state, effects = finish(state, verb=ActionVerb.STOP, avail=Avail.DOWN)
    instance = state.instances["svc1"]
    assert instance.state is State.FROZEN_STOP
    assert instance.freeze.who == MONITOR
    assert "app#1" in instance.freeze.reason


@pytest.mark.parametrize("between", [UP, UNKNOWN])
def test_only_downs_in_a_row_count(between):
    """What was up, or unknown, in between is looked at twice again."""
    state, effects = tell(running_node(watched_config()), DOWN, between, DOWN)
    assert actions(effects) == []
    state, effects = tell(state, DOWN)
    assert actions(effects) == [ActionVerb.STOP]


def test_unknown_is_an_alarm_and_moves_nothing():
    """However often the agent says that it cannot tell."""
    _, effects = tell(running_node(watched_config()), *[UNKNOWN] * 20)
    assert actions(effects) == []
    alarms = [e for e in only(effects, fx.Journal) if e.kind == "alarm"]
    assert [alarm.rule for alarm in alarms] == ["M2"]


def test_a_resource_of_which_nothing_is_said_is_unknown():
    """An evaluation that timed out names no resource."""
    state, _ = step(running_node(watched_config()), ResourcesReported("svc1", Avail.UNKNOWN), NOW)
    [(_, row)] = monitor_rows(state, state.instances["svc1"], NOW)
    assert row.id == "M2"


def test_restarts_come_first_a_second_apart():
    """Each is an action of its own; the answer after it decides what follows."""
    state, effects = tell(running_node(watched_config(restarts=2)), DOWN)
    [restart] = only(effects, fx.RunAction)
    assert (restart.verb, restart.rid, restart.attempt) == (ActionVerb.RESTART, "app#1", "1/2")
    assert announced(effects) is None
    state, effects = finish(state, Outcome.FAILED, NOW + 0.2)
    assert actions(effects) == []
    state, effects = tell(state, DOWN, now=NOW + 0.3)
    assert actions(effects) == []
    timer = only(effects, fx.ArmTimer)[-1]
    assert timer.at <= NOW + 1.2
    state, effects = step(state, Ticked(), NOW + 1.2)
    [restart] = only(effects, fx.RunAction)
    assert restart.attempt == "2/2"
    state, _ = finish(state, Outcome.FAILED, NOW + 1.3)
    state, effects = tell(state, DOWN, now=NOW + 1.4)
    assert actions(effects) == [ActionVerb.STOP]


def test_an_old_answer_restarts_nothing_again():
    """After a restart nothing is done before somebody has looked."""
    state, _ = tell(running_node(watched_config(restarts=3)), DOWN)
    state, _ = finish(state, now=NOW + 0.2)
    state, effects = step(state, Ticked(), NOW + 1.9)
    assert actions(effects) == []


def test_restarts_are_forgotten_after_their_window():
    """A service that needs a restart once a day does not move after a week."""
    state = running_node(watched_config(restarts=1, restart_window_s=60.0))
    for number in range(4):
        at = NOW + 100.0 * number
        fresh = settled(state.peers["deb2"], at)
        links = {n: replace(link, heard_at=at, up=True) for n, link in fresh.links.items()}
        peers = {"deb2": replace(fresh, links=links)}
        state = replace(state, last_at=at, peers=peers, lease=Lease())  # as if beats had gone on
        state, effects = tell(state, DOWN, now=at)
        assert actions(effects) == [ActionVerb.RESTART], number
        state, _ = finish(state, now=at + 0.1)
        state, _ = tell(state, UP, now=at + 0.2)


def test_who_has_restarted_it_in_vain_is_believed():
    """`svcmgr resource monitor` tells what it restarted: the daemon does not begin anew."""
    state, effects = tell(running_node(watched_config(restarts=5)), DOWN, spent=True)
    assert actions(effects) == []
    state, effects = tell(state, DOWN)
    assert actions(effects) == [ActionVerb.STOP]


def test_of_several_resources_the_one_that_asks_for_most_counts():
    """The database is unknown, and the file system down: the file system decides."""
    rids = ("fs#1", "app#1", "app#2")
    state = running_node(watched_config(rids=rids))
    for _ in range(2):
        state, effects = step(state, report(UNKNOWN, DOWN, UP, rids=rids), NOW)
    assert actions(effects) == [ActionVerb.STOP]
    told = [e for e in only(effects, fx.Journal) if e.rule == "M14"]
    assert "app#1" in told[0].text


# -- who can take it ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "liveness", "taker"),
    [
        (State.STOPPED, Liveness.ALIVE, Taker.READY),
        (State.STOPPED, Liveness.ONE_WAY, Taker.UNHEARD),
        (State.STOPPED, Liveness.UNKNOWN, Taker.UNHEARD),
        (State.STOPPED, Liveness.RESTARTING, Taker.UNHEARD),
        (State.FROZEN_STOP, Liveness.ALIVE, Taker.FROZEN),
        (State.START_FAILED, Liveness.ALIVE, Taker.FAILED),
        (State.STOP_FAILED, Liveness.ALIVE, Taker.FAILED),
        (State.UNKNOWN, Liveness.ALIVE, Taker.BUSY),
        (State.STARTED, Liveness.ALIVE, Taker.BUSY),
    ],
)
def test_who_can_take_a_service(state, liveness, taker):
    """Nobody but a node that is heard, hears us, and has it stopped and not frozen."""
    node = running_node(watched_config(), state, liveness=liveness)
    assert taker_of(node, "svc1", NOW) is taker


def test_a_peer_that_has_not_answered_lately_is_no_taker():
    """It may be dead already: what is frozen here for its sake would run nowhere."""
    node = running_node(watched_config())
    assert taker_of(node, "svc1", NOW + 2.9) is Taker.READY
    assert taker_of(node, "svc1", NOW + 3.1) is Taker.UNHEARD


def test_without_a_taker_it_stays_and_moves_when_there_is_one():
    """The reason is an alarm, once; it is looked at again when the peer says otherwise."""
    state, effects = tell(running_node(watched_config(), State.FROZEN_STOP), DOWN, DOWN, DOWN)
    assert actions(effects) == []
    assert [e.rule for e in only(effects, fx.Journal) if e.kind == "alarm"] == ["M9"]
    peer = replace(state.peers["deb2"], table={"svc1": make_entry(State.STOPPED, sequence=2)})
    state, effects = tell(replace(state, peers={"deb2": peer}), DOWN)
    assert actions(effects) == [ActionVerb.STOP]


# -- moves ------------------------------------------------------------------------------------------


def test_a_service_that_has_moved_as_often_as_it_may_stays():
    """Its start here counts when it ran elsewhere before."""
    config = watched_config(action=MonitorAction.SWITCH, moves_max=1)
    state = running_node(config)
    moved = replace(state.instances["svc1"].watching, moves=(NOW - 10.0,))
    state = replace(state, instances={"svc1": replace(state.instances["svc1"], watching=moved)})
    state, effects = tell(state, DOWN, DOWN)
    assert actions(effects) == []
    [(_, row)] = monitor_rows(state, state.instances["svc1"], NOW)
    assert row.id == "M12"


def test_a_switch_is_handed_over_as_an_operators():
    """It holds back until the other node has it; nothing is frozen."""
    state, effects = tell(running_node(watched_config(action=MonitorAction.SWITCH)), DOWN, DOWN)
    assert actions(effects) == [ActionVerb.STOP]
    state, _ = finish(state, verb=ActionVerb.STOP, avail=Avail.DOWN)
    instance = state.instances["svc1"]
    assert instance.state is State.STOPPED
    assert instance.handing_until is not None
    assert instance.watching.moves == (NOW,)


@pytest.mark.parametrize("action", [MonitorAction.REBOOT, MonitorAction.CRASH])
def test_a_reset_is_asked_for_and_its_failure_looked_at_anew(action):
    """A node that cannot be reset tries again after two more looks, as often as it may move."""
    state, effects = tell(running_node(watched_config(action=action)), DOWN, DOWN)
    [reset] = only(effects, fx.ResetNode)
    assert reset.crashes is (action is MonitorAction.CRASH)
    assert "app#1" in reset.reason
    state, effects = step(state, NodeNotReset("svc1", "the node is not reset: reset = none"), NOW)
    [told] = [e for e in only(effects, fx.Journal) if e.kind == "alarm"]
    assert "not reset" in told.text
    state, effects = tell(state, DOWN)
    assert only(effects, fx.ResetNode) == []
    state, effects = tell(state, DOWN, DOWN, DOWN, DOWN, DOWN)
    assert len(only(effects, fx.ResetNode)) == 1, "max_moves is 2"


def test_the_services_own_command_is_run_before_it_moves():
    """Its end, good or bad, lets the service move."""
    state, effects = tell(running_node(watched_config(prepares=True)), DOWN, DOWN)
    assert actions(effects) == [ActionVerb.PREPARE]
    state, effects = finish(state, Outcome.FAILED, verb=ActionVerb.PREPARE)
    assert actions(effects) == [ActionVerb.STOP]


# -- what comes first -------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.FROZEN_START, State.STARTING, State.STOPPED, State.START_FAILED])
def test_nothing_is_watched_but_what_is_started(state):
    """A frozen service is left alone."""
    node = running_node(watched_config(restarts=2))
    node = replace(node, instances={"svc1": make_instance(state)})
    _, effects = tell(node, DOWN, DOWN, DOWN)
    assert [v for v in actions(effects) if v in (ActionVerb.RESTART, ActionVerb.STOP)] == []


@pytest.mark.parametrize(
    ("verb", "after"),
    [
        (Verb.FREEZE_START, State.FROZEN_START),
        (Verb.STOP, State.STOPPING),
        (Verb.FREEZE_STOP, State.STOPPING),
        (Verb.SWITCH, State.STOPPING),
    ],
)
def test_a_restart_gives_way_to_an_operator(verb, after):
    """It is cancelled, once; the command is carried out when it has ended."""
    state, _ = tell(running_node(watched_config(restarts=2)), DOWN)
    state, effects = command(state, verb)
    assert len(only(effects, fx.CancelAction)) == 1
    assert reply_code(effects) is None
    state, effects = step(state, Ticked(), NOW + 0.05)
    assert only(effects, fx.CancelAction) == []
    state, effects = finish(state, Outcome.TIMED_OUT, NOW + 0.1)
    assert state.instances["svc1"].state is after
    assert ActionVerb.RESTART not in actions(effects)


def test_a_command_whose_effect_holds_is_answered_after_the_restart():
    """`unfreeze` of what is STARTED is done, and the resource is watched on."""
    state, _ = tell(running_node(watched_config(restarts=2)), DOWN)
    state, _ = command(state, Verb.UNFREEZE)
    state, effects = finish(state, Outcome.TIMED_OUT, NOW + 0.1)
    assert reply_code(effects) is ExitCode.DONE
    assert state.instances["svc1"].state is State.STARTED


def test_a_restart_gives_way_to_the_healing_of_a_double_start():
    """This side yields: the restart is cancelled, then the service stops."""
    state, _ = tell(running_node(watched_config(restarts=2)), DOWN)
    peer = replace(state.peers["deb2"], table={"svc1": make_entry(State.STARTED, 9, sequence=2)})
    state = replace(state, peers={"deb2": peer})
    state, effects = step(state, ResourcesReported("svc1", Avail.MIXED), NOW)
    state, effects = command(state, Verb.UNFREEZE)  # any turn that looks at the service
    assert len(only(effects, fx.CancelAction)) >= 1
    state, effects = finish(state, Outcome.TIMED_OUT, NOW + 0.1)
    assert state.instances["svc1"].state is State.STOPPING
    assert ActionVerb.STOP in actions(effects)


def test_a_restart_does_not_begin_after_the_lease():
    """Storing and waiting may take long: from the lease's deadline on it is not begun."""
    config = watched_config(restarts=1, links=("net", "dio"))
    state = running_node(config)
    lease = replace(state.lease, until=NOW + 2.0, counts_from=NOW - 1.0)
    state = replace(state, lease=lease)
    _, effects = tell(state, DOWN)
    [restart] = [e for e in only(effects, fx.RunAction) if e.verb is ActionVerb.RESTART]
    assert restart.begin_by is not None
    assert restart.begin_by <= NOW + END_SHARE * config.longest_timeout_s


def test_a_service_that_stops_and_starts_is_looked_at_anew():
    """What was down before says nothing of the new run; the moves go on to count."""
    state, _ = tell(running_node(watched_config()), DOWN)
    state, _ = command(state, Verb.STOP)
    watching = state.instances["svc1"].watching
    assert [r for r in watching.resources if r.answer is not None or r.downs_count] == []
