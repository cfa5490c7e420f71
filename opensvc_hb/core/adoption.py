"""A daemon begins, or a service is new: what runs here, whatever was stored?

The agent is asked about every service before a beat says where it stands; until then it is
not in the table, which permits nothing. Boot is told from restart by the shell. A node never
announces STOPPED or FROZEN_STOP while an instance may live here, since these are permission.
"""

from __future__ import annotations

from typing import Mapping, Optional

from opensvc_hb.core import lease
from opensvc_hb.core.departure import stopping
from opensvc_hb.core.events import DaemonStarted, DaemonStopping, StoredInstance
from opensvc_hb.core.membership import new_peer
from opensvc_hb.core.node_state import Freeze, Instance, Lease, NodeState, Peer, Phase, Purpose
from opensvc_hb.core.records import replace
from opensvc_hb.core.states import FROZEN, ActionVerb, Avail, State
from opensvc_hb.core.turn import Turn

VERIFY_LIMIT_S = 60.0
"""Seconds that the agent has to tell what runs here; then the answer is unknown."""


def adopted_state(before: State, booted: bool, avail: Avail) -> State:
    """Return the state of an instance whose record says `before`, now that the agent was asked.

    Args:
        before: the stored state; FROZEN_STOP for a service seen for the first time.
        booted: the node was booted since: nothing that ran then runs now.
        avail: what the agent says of the resources here.

    Source: OpenHA resets every state but FROZEN_STOP to STOPPED at boot; a new service is
    FROZEN_STOP. An instance frozen while started stays frozen across a boot: FROZEN_STOP.
    """
    if booted:
        before = State.FROZEN_STOP if before in FROZEN else State.STOPPED
    if avail is Avail.UP:
        if before in FROZEN:
            return State.FROZEN_START
        return before if before in (State.START_FAILED, State.STOP_FAILED) else State.STARTED
    if avail is Avail.MIXED:
        if before in FROZEN:
            return State.FROZEN_START
        if before in (State.STARTED, State.STARTING, State.STOPPING):
            return State.STARTED
        return before if before is State.START_FAILED else State.STOP_FAILED
    if avail is Avail.DOWN:
        return before if before in _STAYS_DOWN else State.STOPPED
    running = before in (State.STARTED, State.STARTING, State.STOPPING)
    if running:
        return State.STARTED
    if avail is Avail.UNKNOWN and before in (State.STOPPED, State.START_READY, State.UNKNOWN):
        return State.UNKNOWN
    return State.STOPPED if before in (State.START_READY, State.UNKNOWN) else before


_STAYS_DOWN = frozenset(
    {State.FROZEN_STOP, State.FROZEN_START, State.START_FAILED, State.STOP_FAILED, State.FORCE_STOP}
)
"""States that an operator must clear even though the resources are down."""


def begin(turn: Turn, event: DaemonStarted) -> None:
    """Start this daemon's life: a new incarnation, all instances to be verified first.

    One that hangs, or waits for a start that an earlier daemon began, keeps this node from
    deciding, never from beating: the promise of a restart is kept by then.
    """
    state = NodeState(
        config=event.config,
        started_at=turn.now,
        last_at=turn.now,
        phase=Phase.VERIFYING,
        incarnation=event.stored.incarnation + 1,
        lease=_inherited_lease(event, turn.now),
        left_guarded=event.lease_services,
        # What runs here needs the lease renewed soon: the first beat does not wait.
        next_beat_at=turn.now + (event.config.beat_interval_s if event.lease_until is None else 0.0),
    )
    turn.state = state
    turn.instances = {}
    turn.peers = {
        node: _stored_peer(new_peer(state, node, turn.now), event, turn.now) for node in event.config.peers
    }
    turn.journal(
        "",
        "node",
        f"daemon started, incarnation {state.incarnation}",
        "the node was booted" if event.booted else "the daemon was restarted, the node was not",
    )
    records = {n: _after_boot(r) if event.booted else r for n, r in event.stored.instances.items()}
    keep_records(turn, records, event.is_whole)
    for name in event.config.services:
        add_service(turn, name, event.stored.instances.get(name), event.booted)
    forget_guarded(turn)
    turn.persist()
    verified(turn)


def _inherited_lease(event: DaemonStarted, now: float) -> Lease:
    """Return our lease as the guardian kept it.

    Where there is a disk, an age that is unknown or past ends what runs here. Without one there is
    no better knowledge to be had than that the daemon is back.
    """
    until = event.lease_until
    leased = bool(event.config.lease_links)
    is_unknown = leased if until is None else now >= until
    return lease.inherited(until, event.lease_timeout_s, is_unknown)


def _stored_peer(peer: Peer, event: DaemonStarted, now: float) -> Peer:
    """Return what an earlier daemon knew of a peer.

    An operator's word that it is dead is of before: it holds on only once this daemon has heard
    nothing of the peer for the timeout, and not across a boot of this node, which takes so long
    that the peer may well be back by now.
    """
    record = event.stored.peers.get(peer.node)
    if record is None:
        return peer
    promised = now + record.restarting_for_s if record.restarting_for_s > 0 else None
    return replace(
        peer,
        incarnation=record.incarnation,
        promise_s=record.restarting_for_s,
        promised_until=promised,
        maintenance=frozenset(record.maintenance),
        confirmed_dead=record.confirmed_dead and not event.booted,
        longest_timeout_s=record.longest_timeout_s,
    )


def _after_boot(record: StoredInstance) -> StoredInstance:
    """Return what a record means once the node was booted: nothing that ran then runs now."""
    state = State.FROZEN_STOP if record.state in FROZEN else State.STOPPED
    return replace(record, state=state, state_sequence=record.state_sequence + (state is not record.state))


def add_service(turn: Turn, name: str, record: Optional[StoredInstance], booted: bool) -> None:
    """Take a service into our care; it is announced only when the agent was asked about it."""
    if record is None:
        record = StoredInstance(State.FROZEN_STOP, 0, 0, 0, "", "a new service is frozen", "")
    if booted:
        record = _after_boot(record)
    before = record.state
    # A peer may have announced the service before this node knew it.
    entries = [peer.table[name] for peer in turn.peers.values() if name in peer.table]
    highest_epoch = max([record.highest_epoch, *(max(e.epoch, e.highest_epoch) for e in entries)])
    freeze = None
    if before in FROZEN:
        freeze = Freeze(record.frozen_by, record.frozen_reason, record.frozen_wall)
    instance = turn.put(
        Instance(
            service=name,
            state=before,
            state_sequence=record.state_sequence,
            epoch=record.epoch,
            highest_epoch=highest_epoch,
            since=turn.now,
            verified=False,
            freeze=freeze,
            excused=record.excused and before is State.FROZEN_START,
        )
    )
    limit_s = VERIFY_LIMIT_S
    turn.run(instance, ActionVerb.VERIFY, Purpose.ADOPT, before, limit_s)


def adopt(turn: Turn, instance: Instance, avail: Avail) -> None:
    """The agent answered: this is what the instance is, and from now on it is announced."""
    before = instance.state
    target = adopted_state(before, False, avail)
    # An adopted running instance keeps the epoch it was started with: it was not started now.
    instance = turn.put(
        replace(
            instance,
            verified=True,
            doubtful=avail is Avail.UNKNOWN and target is State.FROZEN_STOP,
            state=target,
            state_sequence=instance.state_sequence + (target is not before),
            resources=avail,
            freeze=instance.freeze if target in FROZEN else None,
            frozen_at=turn.next_sequence if target is State.FROZEN_START else None,
            excused=instance.excused and target is State.FROZEN_START,
            since=turn.now,
        )
    )
    turn.journal(
        instance.service,
        "adopt",
        f"{before.name} -> {target.name}" if before is not target else f"{target.name}",
        f"stored {before.name}, the agent says resources are {avail.value}",
    )
    forget_guarded(turn)
    turn.persist()
    turn.send()
    verified(turn)


def keep_records(turn: Turn, records: Mapping[str, StoredInstance], is_whole: bool) -> None:
    """Keep what services were that are not configured, as long as one of them may only be unreadable.

    A file with a typing error, or an agent that says nothing, must not cost a service its freeze, its
    epoch, or the guardian's care. Nor must a directory that is not there yet: where no service at all is
    found, that is not believed.

    Args:
        turn: the turn.
        records: by hb name, those of earlier.
        is_whole: of every service's file it is known what it is.
    """
    is_whole = is_whole and bool(turn.config.services)
    kept = {} if is_whole else {n: r for n, r in records.items() if n not in turn.config.services}
    turn.update(kept=kept, is_whole=is_whole)


def forget_guarded(turn: Turn) -> None:
    """Let go of what an earlier daemon had guarded, and is not configured any more, or is verified."""
    instances, is_whole = turn.instances, turn.state.is_whole

    def stays(name: str) -> bool:
        return not instances[name].verified if name in instances else not is_whole

    if turn.state.left_guarded:
        turn.update(left_guarded=tuple(pair for pair in turn.state.left_guarded if stays(pair[0])))


def verified(turn: Turn) -> None:
    """Begin to decide once no service is left to verify."""
    if turn.state.phase is Phase.VERIFYING and all(i.verified for i in turn.instances.values()):
        turn.update(phase=Phase.RUNNING)
        turn.journal("", "node", "ready", f"{len(turn.instances)} services verified")
        turn.send()
        turn.all_dirty()
        if turn.state.stop_asked is not None:
            stopping(turn, DaemonStopping(turn.state.stop_asked, turn.state.farewell_command))
