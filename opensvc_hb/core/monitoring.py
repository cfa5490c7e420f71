"""A resource that is watched has died while its node lives: restart it, move the service, or hold?

The agent's background evaluation says what is up (`ResourcesReported`); the rows of `monitor_rules`
decide; this module gathers what they look at and carries out what they say. Nothing is watched but
where the service is STARTED, and its own row says no more than that it runs here: a lease that has
run out, a double start or a daemon that goes come first. A frozen service is left alone.

A restart is an action like any other, one at a time for each service; it is cancelled when the
service is to end, and when an operator gives a command. A move is what an operator's freeze-stop or
switch would do; the other node starts the service by its own rules, nothing tells it to.

Called by `outcome` (reports, ends of restarts), `step` (every look at a service) and the status page.
"""

from __future__ import annotations

from typing import Callable, List, Mapping, Optional, Tuple

from opensvc_hb.core import effects as fx
from opensvc_hb.core import lease
from opensvc_hb.core.config import Monitored, Monitoring
from opensvc_hb.core.events import ActionFinished, ResourcesReported
from opensvc_hb.core.handover import may_take
from opensvc_hb.core.monitor_rules import (
    MonitorRule,
    MonitorSituation,
    MonitorVerdict,
    Taker,
    Tries,
    decide_monitored,
)
from opensvc_hb.core.negotiation import holding_rule, seen
from opensvc_hb.core.node_state import Freeze, Instance, Liveness, NodeState, Peer, Phase, Purpose
from opensvc_hb.core.records import replace
from opensvc_hb.core.states import FROZEN, ActionVerb, Answer, State
from opensvc_hb.core.summary import rivals
from opensvc_hb.core.turn import Turn, change_state, decision_inputs
from opensvc_hb.core.watching import (
    WatchedResource,
    answered,
    at_rest,
    moved_by_monitor,
    restarted,
    within,
)

MONITOR = "resource monitor"
"""Who froze what stopped because of a resource; an operator unfreezes it after the repair."""

RUNS_HERE = "O1"
"""The row of the decision table under which resources are watched."""

RESTART_PAUSE_S = 1.0
"""Between two restarts of a resource. Source: the agents."""

PREPARE_LIMIT_S = 60.0
"""Seconds that `pre_monitor_action` may take."""

_FAILED = frozenset({State.START_FAILED, State.STOP_FAILED})


def is_watched(state: NodeState, instance: Instance) -> bool:
    """Tell whether the resources of an instance are watched now."""
    service = state.config.services.get(instance.service)
    runs_here = instance.state is State.STARTED and not instance.declared
    return service is not None and bool(service.monitoring.resources) and runs_here


# -- what is reported ---------------------------------------------------------------------------


def reported(turn: Turn, instance: Instance, event: ResourcesReported) -> None:
    """Take in what an evaluation says of the monitored resources of a service that runs here."""
    if not is_watched(seen(turn), instance):
        return
    reports = {report.rid: report for report in event.resources}
    watching = instance.watching
    for monitored in turn.config.services[instance.service].monitoring.resources:
        report = reports.get(monitored.rid)
        answer = Answer.UNKNOWN if report is None else report.answer
        detail = "" if report is None else report.detail
        known = watching.resource(monitored.rid)
        watching = watching.with_resource(answered(known, answer, detail, event.restarts_spent))
    if all(r.answer is Answer.UP for r in watching.resources):
        watching = replace(watching, is_prepared=False)
    if watching != instance.watching:
        turn.put(replace(instance, watching=watching))


# -- what the table looks at ----------------------------------------------------------------------


def taker_of(state: NodeState, service: str, now: float) -> Taker:
    """Tell whether another node can take a service now; of several nodes the best answer counts.

    A node that has just acknowledged a beat of ours lives; one that was merely not silent for the
    timeout may be dead, and what is frozen here for its sake would run nowhere.
    """
    peers = rivals(state, state.instances[service])
    found = [_taker(peer, service, now) for peer in peers]
    return next((taker for taker in _BEST_FIRST if taker in found), Taker.NOBODY)


_BEST_FIRST = (Taker.READY, Taker.BUSY, Taker.FROZEN, Taker.FAILED, Taker.UNHEARD)


def _taker(peer: Peer, service: str, now: float) -> Taker:
    is_fresh = peer.is_legacy or now < peer.trusted_until  # the C program acknowledges nothing
    if peer.liveness is not Liveness.ALIVE or not is_fresh:
        return Taker.UNHEARD
    if may_take(peer, service):
        return Taker.READY
    entry = peer.table.get(service)
    if entry is None:
        return Taker.BUSY
    if entry.state in FROZEN:
        return Taker.FROZEN
    return Taker.FAILED if entry.state in _FAILED else Taker.BUSY


def monitor_situation(
    state: NodeState, instance: Instance, resource: Monitored, now: float
) -> Optional[MonitorSituation]:
    """Return what the table needs to know of one resource; None before anything is known of it."""
    watching = instance.watching
    known = watching.resource(resource.rid)
    if known.answer is None:
        return None
    monitoring = state.config.services[instance.service].monitoring
    moves = within(watching.moves, monitoring.move_window_s, now)
    return MonitorSituation(
        answer=known.answer,
        tries=_tries(instance, known, resource, monitoring, now),
        confirmed=known.downs_count >= 2,
        taker=taker_of(state, instance.service, now),
        moved_often=len(moves) >= monitoring.moves_max,
        action=monitoring.action,
        unprepared=monitoring.prepares and not watching.is_prepared,
    )


def _tries(
    instance: Instance, known: WatchedResource, resource: Monitored, monitoring: Monitoring, now: float
) -> Tries:
    counted = within(known.restarts, monitoring.restart_window_s, now)
    if known.is_spent or len(counted) >= resource.restart_count_max:
        return Tries.SPENT
    until = instance.watching.paused_until
    return Tries.PAUSED if until is not None and now < until else Tries.LEFT


def monitor_rows(state: NodeState, instance: Instance, now: float) -> List[Tuple[Monitored, MonitorRule]]:
    """Return each monitored resource of which something is known, with the row that it meets."""
    if not is_watched(state, instance):
        return []
    found = []
    for resource in state.config.services[instance.service].monitoring.resources:
        situation = monitor_situation(state, instance, resource, now)
        if situation is not None:
            found.append((resource, decide_monitored(situation)))
    return found


# -- what is done -----------------------------------------------------------------------------------


def progress(turn: Turn, name: str) -> None:
    """Look at the monitored resources of one service, and do what the rows say."""
    instance = turn.instances[name]
    if not turn.config.services[name].monitoring.resources or not instance.verified:
        return
    if instance.state is not State.STARTED:
        rest = at_rest(instance.watching)
        if rest is not instance.watching:
            turn.note(replace(instance, watching=rest))
        return
    if instance.watching.is_quiet or instance.action is not None or turn.state.phase is not Phase.RUNNING:
        return
    until = instance.watching.paused_until
    if until is not None and turn.now >= until:
        instance = replace(instance, watching=replace(instance.watching, paused_until=None))
        turn.note(instance)
    state = seen(turn)
    if holding_rule(state, instance, turn.now).id != RUNS_HERE:
        return
    rows = monitor_rows(state, instance, turn.now)
    if not rows:
        return
    for resource, rule in rows:
        instance = _note(turn, instance, resource, rule)
    first, rule = max(rows, key=lambda row: row[1].verdict)  # the first of those that ask for most
    act = _ACTS.get(rule.verdict)
    if act is not None:
        act(turn, instance, first, rule)


def _note(turn: Turn, instance: Instance, resource: Monitored, rule: MonitorRule) -> Instance:
    """Journal a row the first time that it holds for a resource."""
    known = instance.watching.resource(resource.rid)
    if known.held_by == rule.id:
        return instance
    changed = instance.watching.with_resource(replace(known, held_by=rule.id))
    instance = replace(instance, watching=changed)
    turn.note(instance)
    assert known.answer is not None, "a row was found for it"
    if rule.verdict is MonitorVerdict.REST and not known.held_by:
        return instance
    if rule.verdict is MonitorVerdict.LOOK:
        svcname = turn.config.services[instance.service].svcname
        turn.effects.append(fx.LookAgain(instance.service, svcname))
    if rule.verdict in (MonitorVerdict.REST, MonitorVerdict.HOLD, MonitorVerdict.LOOK):
        turn.journal(
            instance.service,
            "alarm" if rule.alarm else "monitor",
            f"{resource.rid} is {known.answer.value}{_because(known)}",
            rule.sentence,
            rule.id,
            monitor_inputs(turn, instance, resource),
        )
    return instance


def monitor_inputs(turn: Turn, instance: Instance, resource: Monitored) -> Tuple[Tuple[str, str], ...]:
    """Return what a row of the monitor looked at: restarts, moves, and the other node."""
    monitoring = turn.config.services[instance.service].monitoring
    known = instance.watching.resource(resource.rid)
    restarts = len(within(known.restarts, monitoring.restart_window_s, turn.now))
    moves = len(within(instance.watching.moves, monitoring.move_window_s, turn.now))
    own = (
        ("resource", resource.rid),
        ("restarts", f"{restarts} of {resource.restart_count_max} in {monitoring.restart_window_s:g} s"),
        ("moves", f"{moves} of {monitoring.moves_max} in {monitoring.move_window_s:g} s"),
    )
    return (*own, *decision_inputs(turn, instance))


def _because(known: WatchedResource) -> str:
    return f" ({known.detail})" if known.detail else ""


def _begin_by(turn: Turn, instance: Instance) -> Optional[float]:
    """Return when nothing more may be begun here for this instance: its lease has run out by then."""
    return lease.deadline(turn.state) if rivals(seen(turn), instance) else None


def _restart(turn: Turn, instance: Instance, resource: Monitored, rule: MonitorRule) -> None:
    service = turn.config.services[instance.service]
    known = instance.watching.resource(resource.rid)
    counted = within(known.restarts, service.monitoring.restart_window_s, turn.now)
    known = restarted(replace(known, restarts=counted), turn.now)
    attempt = f"{len(counted) + 1}/{resource.restart_count_max}"
    turn.journal(
        instance.service,
        "monitor",
        f"{resource.rid} is down{_because(known)}: restart {attempt}",
        rule.sentence,
        rule.id,
        monitor_inputs(turn, instance, resource),
    )
    watching = replace(instance.watching.with_resource(known), paused_until=None)
    instance = replace(instance, watching=watching)
    turn.run(
        instance,
        ActionVerb.RESTART,
        Purpose.MONITOR,
        State.STARTED,
        service.start_limit_s,
        _begin_by(turn, instance),
        rid=resource.rid,
        attempt=attempt,
    )


def attempt_ended(turn: Turn, instance: Instance, event: ActionFinished) -> None:
    """A restart, or the command before a move, has ended: what came of it the next report tells."""
    watching = instance.watching
    if event.verb is ActionVerb.PREPARE:
        watching = replace(watching, is_prepared=True)
    else:
        watching = replace(watching, paused_until=turn.now + RESTART_PAUSE_S)
    turn.put(replace(instance, watching=watching))


def _prepare(turn: Turn, instance: Instance, resource: Monitored, rule: MonitorRule) -> None:
    _told(turn, instance, resource, rule, "pre_monitor_action begins")
    by = _begin_by(turn, instance)
    turn.run(instance, ActionVerb.PREPARE, Purpose.MONITOR, State.STARTED, PREPARE_LIMIT_S, by)


def _told(turn: Turn, instance: Instance, resource: Monitored, rule: MonitorRule, what: str) -> None:
    inputs = monitor_inputs(turn, instance, resource)
    because = _because(instance.watching.resource(resource.rid))
    text = f"{resource.rid} is down{because}: {what}"
    turn.journal(instance.service, "alarm", text, rule.sentence, rule.id, inputs)


def _freeze_stop(turn: Turn, instance: Instance, resource: Monitored, rule: MonitorRule) -> None:
    service = turn.config.services[instance.service]
    _told(turn, instance, resource, rule, "freeze-stop")
    reason = f"{resource.rid} was down here{_because(instance.watching.resource(resource.rid))}"
    moved = moved_by_monitor(instance.watching, turn.now)
    instance = replace(instance, watching=moved, freeze_next=Freeze(MONITOR, reason, ""))
    instance = change_state(turn, instance, State.STOPPING, rule.sentence, rule.id, "alarm")
    turn.run(instance, ActionVerb.STOP, Purpose.MONITOR, State.FROZEN_STOP, service.stop_limit_s)


def _switch(turn: Turn, instance: Instance, resource: Monitored, rule: MonitorRule) -> None:
    service = turn.config.services[instance.service]
    _told(turn, instance, resource, rule, "switch")
    instance = replace(instance, watching=moved_by_monitor(instance.watching, turn.now))
    instance = change_state(turn, instance, State.STOPPING, rule.sentence, rule.id, "alarm")
    turn.run(instance, ActionVerb.STOP, Purpose.HAND_OVER, State.STOPPED, service.stop_limit_s)


def _reset(turn: Turn, instance: Instance, resource: Monitored, rule: MonitorRule) -> None:
    """Reset the node. One that cannot be reset looks twice again before it tries once more."""
    crashes = rule.verdict is MonitorVerdict.CRASH
    _told(turn, instance, resource, rule, "crash" if crashes else "reboot")
    watching = moved_by_monitor(instance.watching, turn.now)
    known = replace(watching.resource(resource.rid), answer=None, downs_count=0)
    turn.put(replace(instance, watching=watching.with_resource(known)))
    reason = f"{instance.service}: monitored resource {resource.rid} is down"
    turn.effects.append(fx.ResetNode(instance.service, crashes, reason))


_ACTS: Mapping[MonitorVerdict, Callable[[Turn, Instance, Monitored, MonitorRule], None]] = {
    MonitorVerdict.RESTART: _restart,
    MonitorVerdict.PREPARE: _prepare,
    MonitorVerdict.FREEZE_STOP: _freeze_stop,
    MonitorVerdict.SWITCH: _switch,
    MonitorVerdict.REBOOT: _reset,
    MonitorVerdict.CRASH: _reset,
}
