"""What now? Events in, effects out.

`step` routes an event to the module that answers its question, then looks again at every
service that may be concerned, and closes the turn. It reads no clock: `now` is the seconds of
CLOCK_BOOTTIME that the shell gives (the one monotonic clock that counts suspend).
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Tuple

from opensvc_hb.core import (
    departure,
    handover,
    lease,
    legacy,
    membership,
    monitoring,
    negotiation,
    operator,
    outcome,
)
from opensvc_hb.core import effects as fx
from opensvc_hb.core.adoption import add_service, begin, forget_guarded, keep_records, verified
from opensvc_hb.core.events import (
    ActionFinished,
    BeatReceived,
    CommandGiven,
    ConfigurationChanged,
    DaemonStarted,
    DaemonStopping,
    Event,
    GuardianActed,
    LegacyBeat,
    LinkDrained,
    LinkFailed,
    NodeNotReset,
    PeerConfirmedDead,
    ResourcesReported,
    SlotFound,
    SlotWritten,
    StallDetected,
    Ticked,
)
from opensvc_hb.core.node_state import Instance, NodeState, Peer, Phase
from opensvc_hb.core.records import replace
from opensvc_hb.core.states import RUNNING, ActionVerb, State
from opensvc_hb.core.summary import summary_of
from opensvc_hb.core.turn import UNDECIDED_PHASES, Turn
from opensvc_hb.errors import ExitCode

STALL_INTERVALS = 2.0
STALL_SLACK_S = 0.1
"""A gap between two steps above so many beat intervals, plus the slack, is a stall."""


def step(state: NodeState, event: Event, now: float) -> Tuple[NodeState, Tuple[fx.Effect, ...]]:
    """Take in one event at `now` (seconds) and return the new state and what to do, in order."""
    return steps(state, (event,), now)


def steps(state: NodeState, events: Iterable[Event], now: float) -> Tuple[NodeState, Tuple[fx.Effect, ...]]:
    """Take in several events that waited together: one turn, one store, one beat."""
    turn = Turn(state, now)
    if state.phase is not Phase.BORN:
        turn.update(lease=lease.check(state, now))
        limit_s = STALL_INTERVALS * state.config.beat_interval_s + STALL_SLACK_S
        if now - state.last_at > limit_s:
            membership.woke(turn, now - state.last_at)
    for event in events:
        _route(turn, event)
    if turn.state.phase is not Phase.BORN:
        outcome.give_up_questions(turn)
    _release(turn)
    for node in list(turn.peers):
        membership.judge(turn, node)
    if turn.state.phase is not Phase.BORN:
        lease.acknowledged(turn)
        lease.excuse(turn)
        lease.progress(turn)
        _look_at_the_lapsed(turn)
    summary = turn.summary()
    turn.dirty.update(summary.handing, summary.paused, summary.pausing)
    legacy.look_again(turn)
    if turn.state.phase not in UNDECIDED_PHASES:
        membership.confirm(turn)
        _settle(turn)
        departure.progress(turn)
        _settle(turn)
    if now >= turn.state.next_beat_at:
        turn.send()
    after, effects = turn.close()
    after, effects = _guarded(after, effects, now)
    after = _watched(after, effects)
    effects.append(fx.ArmTimer(_wake_at(after, turn.peers)))
    return after, tuple(effects)


def _look_at_the_lapsed(turn: Turn) -> None:
    """Look at every instance again when the lease has run out, and when what it ended has ended."""
    before, after = (
        turn.state.lease,
        lease.check(negotiation.seen(turn), turn.now),
    )
    turn.update(lease=after)
    if after.is_broken or before.is_broken:
        turn.all_dirty()


def _guarded(state: NodeState, effects: List[fx.Effect], now: float) -> Tuple[NodeState, List[fx.Effect]]:
    """Give the guardian its order where it changed: behind the store, before all else."""
    if state.phase is Phase.BORN:
        return state, effects
    if any(isinstance(effect, fx.SendNow) for effect in effects):
        state = replace(state, lease=lease.beat_made(state, now))
    order = lease.order_for(state, now)
    if order is None or not lease.is_worth_telling(state.guarded, order):
        return state, effects
    guard = fx.Guard(order.until, order.timeout_s, order.services, order.ending)
    at = 1 if effects and isinstance(effects[0], fx.Persist) else 0
    return replace(state, guarded=order), [*effects[:at], guard, *effects[at:]]


def _watched(state: NodeState, effects: List[fx.Effect]) -> NodeState:
    """Tell whose resources are watched, where that changed."""
    watched = summary_of(state).watched
    if watched == state.watched:
        return state
    effects.append(fx.WatchServices(watched))
    return replace(state, watched=watched)


def _settle(turn: Turn) -> None:
    """Look at every service that may be concerned until none changes any more."""
    rounds = 0
    while turn.dirty:
        rounds += 1
        assert rounds < 20, f"no rest for {sorted(turn.dirty)}"
        names, turn.dirty = sorted(turn.dirty), set()
        for name in names:
            if name in turn.instances:
                handover.progress(turn, name)
                negotiation.act(turn, name)
                monitoring.progress(turn, name)


def _wake_at(state: NodeState, peers: Dict[str, Peer]) -> float:
    times: List[float] = [state.next_beat_at]
    change = membership.next_change_at(state, peers, state.last_at)
    if change is not None:
        times.append(change)
    settled_at = legacy.next_change_at(state, state.last_at)
    if settled_at is not None:
        times.append(settled_at)
    lease_change = lease.next_change_at(state, state.last_at)
    if lease_change is not None:
        times.append(lease_change)
    if state.phase_until is not None:
        times.append(state.phase_until)
    handing = (state.instances[name].handing_until for name in summary_of(state).handing)
    times.extend(until for until in handing if until is not None)
    paused = (state.instances[name].paused_until for name in summary_of(state).paused)
    times.extend(until for until in paused if until is not None and until > state.last_at)
    pausing = (state.instances[name].watching.paused_until for name in summary_of(state).pausing)
    times.extend(until for until in pausing if until is not None and until > state.last_at)
    return min(times)


def _route(turn: Turn, event: Event) -> None:
    if isinstance(event, BeatReceived):
        membership.hear(turn, event)
    elif isinstance(event, LegacyBeat):
        membership.hear_legacy(turn, event)
    elif isinstance(event, Ticked):
        pass  # time alone: every turn judges the peers and looks at what that changes
    elif isinstance(event, LinkDrained):
        membership.drained(turn, event)
    elif isinstance(event, LinkFailed):
        membership.link_failed(turn, event)
    elif isinstance(event, SlotWritten):
        lease.slot_written(turn, event)
    elif isinstance(event, SlotFound):
        membership.slot_found(turn, event)
    elif isinstance(event, GuardianActed):
        lease.guardian_acted(turn, event)
    elif isinstance(event, ActionFinished):
        outcome.action_finished(turn, event)
    elif isinstance(event, ResourcesReported):
        outcome.resources_reported(turn, event)
    elif isinstance(event, NodeNotReset):
        turn.journal(event.service, "alarm", event.why, "the resource monitor asked for it")
    elif isinstance(event, CommandGiven):
        turn.update(held=(*turn.state.held, event))  # `_release` follows in this very turn
    elif isinstance(event, PeerConfirmedDead):
        operator.confirm_dead(turn, event)
    elif isinstance(event, ConfigurationChanged):
        _reconfigure(turn, event)
    elif isinstance(event, DaemonStarted):
        begin(turn, event)
    elif isinstance(event, DaemonStopping):
        departure.stopping(turn, event)
    elif isinstance(event, StallDetected):
        membership.woke(turn, event.seconds)
    else:
        _assert_never(event)


def _release(turn: Turn) -> None:
    """Take in the commands given, but for those on a service that is not verified yet."""
    for event in turn.state.held:
        instance = turn.instances.get(event.service)
        is_ready = instance is None or (instance.verified and _lease_is_known(turn, instance))
        if instance is not None and _gives_way(turn, instance):
            is_ready = False
        if turn.state.phase not in UNDECIDED_PHASES and is_ready:
            turn.update(held=tuple(e for e in turn.state.held if e is not event))
            operator.command(turn, event)


def _gives_way(turn: Turn, instance: Instance) -> bool:
    """Tell whether a restart of a resource is under way, which the operator's command ends first."""
    action = instance.action
    if action is None or action.verb not in (ActionVerb.RESTART, ActionVerb.PREPARE):
        return False
    if not instance.interrupted:
        turn.effects.append(fx.CancelAction(instance.service, action.action_id))
        turn.put(replace(instance, interrupted=True))
    return True


def _lease_is_known(turn: Turn, instance: Instance) -> bool:
    """Tell whether a new daemon knows its lease, where a command on this instance needs that.

    It is a matter of one beat; an operator need not give the command twice for that.
    """
    late = turn.now >= turn.state.started_at + turn.config.longest_timeout_s
    return late or instance.state is not State.FROZEN_START or lease.is_known(turn.state)


def _assert_never(event: object) -> None:
    raise AssertionError(f"no answer to {event!r}")


def _reconfigure(turn: Turn, event: ConfigurationChanged) -> None:
    """Take in a valid configuration: new and gone services, new and gone links."""
    before, config = turn.config, event.config
    turn.update(config=config)
    lease.reconfigured(turn, before)
    if turn.state.phase is Phase.RESTARTING:
        turn.update(farewell=turn.next_sequence)  # what is promised may have changed
    peers: Dict[str, Peer] = {}
    for node in config.peers:
        fresh = membership.new_peer(turn.state, node, turn.now)
        known = turn.peers.get(node)
        if known is not None:
            links = {i: known.links.get(i, link) for i, link in fresh.links.items()}
            links = {i: replace(link, timeout_s=fresh.links[i].timeout_s) for i, link in links.items()}
            fresh = replace(known, links=links, silent_from=turn.now, drain=None)
        peers[node] = fresh
    turn.peers = peers
    abandoned = {n: was for n, was in turn.state.abandoned.items() if n not in config.services}
    for name in sorted(set(turn.instances) - set(config.services)):
        gone = turn.drop(name)
        for waiter in gone.waiting:
            turn.reply(waiter.command_id, ExitCode.FAILED, f"{name}: it is no longer configured")
        turn.journal(
            name, "configuration", f"no longer configured, was {gone.state.name}", "nobody cares for it now"
        )
        turn.persist()
        if gone.state in RUNNING:
            abandoned[name] = gone.state
    turn.update(abandoned=abandoned)
    for name, instance in turn.instances.items():
        service = before.services.get(name)
        if instance.excused and service and not set(config.services[name].nodes) <= set(service.nodes):
            # Who may run it from now on has not heard that it is maintenance.
            turn.put(replace(instance, excused=False, frozen_at=turn.next_sequence))
    for name in sorted(set(config.services) - set(turn.instances)):
        turn.journal(name, "configuration", "new service")
        add_service(turn, name, turn.state.kept.get(name), False)
        turn.persist()
    kept = turn.state.kept
    keep_records(turn, kept, event.is_whole)
    if turn.state.kept != kept:
        turn.persist()
    forget_guarded(turn)
    turn.journal("", "configuration", f"{len(config.services)} services, {len(config.links)} links")
    turn.send()
    turn.all_dirty()
    verified(turn)
