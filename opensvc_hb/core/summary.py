"""What is needed of all instances in every turn, and computed only where one of them changed.

A turn of a node with a thousand services must not cost a thousand looks when nothing changed, and
one change must not cost a thousand texts. The summary belongs to one mapping of instances (by
identity: a turn that changes none keeps the mapping) and is carried in the node's state; it holds
nothing that could not be computed anew from there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Dict, Mapping, Optional, Tuple

from opensvc_hb.core.config import Config
from opensvc_hb.core.events import StoredInstance
from opensvc_hb.core.messages import DIGEST_BYTES, Entry, Table, digest_line
from opensvc_hb.core.node_state import Freeze, Instance, NodeState, Peer
from opensvc_hb.core.states import Avail, State

_LIVING = frozenset({State.STARTING, State.STARTED, State.STOPPING, State.FROZEN_START})
_FAILED = frozenset({State.START_FAILED, State.STOP_FAILED})


@dataclass(frozen=True)
class Part:
    """What one instance adds to the summary.

    Args:
        entry, line: its entry in the table, and its line in the table's digest; None before the agent
            was asked about it.
        record: what the store keeps of it.
        guarded: hb name and svcname when it needs this node's lease; watched: when its resources are.
    """

    instance: Instance
    entry: Optional[Entry]
    line: bytes
    record: StoredInstance
    guarded: Optional[Tuple[str, str]]
    watched: Optional[Tuple[str, str]]


@dataclass(frozen=True)
class Summary:
    """See the module. Names are hb names.

    Args:
        instances, config, confirmed: what it was made of.
        parts: by name, in order.
        digest: of the table.
        guarded: the instances that need this node's lease, by name: hb name and svcname; ending: those
            that are being ended.
        acting: those with an action under way; offering: with an offer out; handing: switched away;
            paused: whose start could not be begun; pausing: whose next restart of a resource waits.
        watched: those that run here and have monitored resources: hb name and svcname.
        idle: those that a decision may start.
        unexcused: those frozen started that a peer has not acknowledged.
    """

    instances: Mapping[str, Instance]
    config: Config
    confirmed: bool
    parts: Mapping[str, Part]
    table: Table
    digest: bytes
    guarded: Tuple[Tuple[str, str], ...]
    ending: Tuple[str, ...]
    acting: Tuple[str, ...]
    offering: Tuple[str, ...]
    handing: Tuple[str, ...]
    paused: Tuple[str, ...]
    pausing: Tuple[str, ...]
    watched: Tuple[Tuple[str, str], ...]
    idle: Tuple[str, ...]
    unexcused: Tuple[str, ...]


def rivals(state: NodeState, instance: Instance) -> Tuple[Peer, ...]:
    """Return the peers that may start this service."""
    service = state.config.services.get(instance.service)
    nodes = service.nodes if service is not None else ()
    peers = (state.peers.get(node) for node in nodes)
    return tuple(peer for peer in peers if peer is not None)


def needs_lease(state: NodeState, instance: Instance) -> bool:
    """Tell whether an instance may live here and must not outlive this node's lease.

    Maintenance that every peer has acknowledged needs none: they hold their takeover.
    """
    if instance.state in _LIVING:
        excused = instance.state is State.FROZEN_START and instance.excused
        lives = not excused or state.config.policies.takeover_frozen
    else:
        lives = instance.state in _FAILED and instance.resources is not Avail.DOWN
    return lives and bool(rivals(state, instance))


def resources_up(instance: Instance) -> bool:
    """Tell whether the instance may claim that its resources are up.

    Only a plain "down" of the agent speaks against it: unknown never moves a service, and
    while its start action runs nothing can be said.
    """
    return instance.state is State.STARTING or instance.resources is not Avail.DOWN


def summary_of(state: NodeState) -> Summary:
    """Return the summary of this state; the one it carries where that still holds."""
    before = state.summary
    confirmed = state.unconfirmed_from is None
    if (
        before is not None
        and before.instances is state.instances
        and before.config is state.config
        and before.confirmed is confirmed
    ):
        return before
    return _summarise(state, confirmed, before)


def _summarise(state: NodeState, confirmed: bool, before: Optional[Summary]) -> Summary:
    parts = _parts(state, confirmed, before)
    spoken = [part for part in parts.values() if part.entry is not None]
    guarded = [part for part in parts.values() if part.guarded is not None]
    instances = state.instances
    return Summary(
        instances=instances,
        config=state.config,
        confirmed=confirmed,
        parts=parts,
        table=tuple([part.entry for part in spoken if part.entry is not None]),
        digest=hashlib.blake2b(b"\n".join([part.line for part in spoken]), digest_size=DIGEST_BYTES).digest(),
        guarded=tuple([part.guarded for part in guarded if part.guarded is not None]),
        ending=tuple([p.instance.service for p in guarded if p.instance.state is State.STOPPING]),
        acting=tuple([name for name in parts if instances[name].action is not None]),
        offering=tuple([name for name in parts if instances[name].offer is not None]),
        handing=tuple([name for name in parts if instances[name].handing_until is not None]),
        paused=tuple([name for name in parts if instances[name].paused_until is not None]),
        pausing=tuple([name for name in parts if instances[name].watching.paused_until is not None]),
        watched=tuple([part.watched for part in parts.values() if part.watched is not None]),
        idle=tuple([name for name in parts if instances[name].state in IDLE]),
        unexcused=tuple([name for name in parts if _is_unexcused(instances[name])]),
    )


def _parts(state: NodeState, confirmed: bool, before: Optional[Summary]) -> Dict[str, Part]:
    """Return every instance's part; made anew only where the instance is another than before."""
    instances = state.instances
    usable = (
        before is not None
        and before.config is state.config
        and before.confirmed is confirmed
        and before.parts.keys() == instances.keys()
    )
    if before is None or not usable:
        return {name: _part(state, instances[name], confirmed) for name in sorted(instances)}
    known = before.parts
    parts = dict(known)
    for name in [name for name, instance in instances.items() if known[name].instance is not instance]:
        parts[name] = _part(state, instances[name], confirmed)
    return parts


IDLE = frozenset({State.STOPPED, State.UNKNOWN, State.START_READY})
"""States from which a decision may start an instance."""


def _is_unexcused(instance: Instance) -> bool:
    return instance.state is State.FROZEN_START and not instance.excused


def _part(state: NodeState, instance: Instance, confirmed: bool) -> Part:
    entry = _entry(instance, confirmed) if instance.verified else None
    service = state.config.services.get(instance.service)
    names = (instance.service, service.svcname if service is not None else "")
    guarded = names if needs_lease(state, instance) else None
    runs = instance.state is State.STARTED and instance.verified
    watched = names if runs and service is not None and service.monitoring.resources else None
    line = b"" if entry is None else digest_line(entry).encode()
    return Part(instance, entry, line, _record(instance), guarded, watched)


def _entry(instance: Instance, confirmed: bool) -> Entry:
    return Entry(
        service=instance.service,
        state=State.UNKNOWN if instance.doubtful else instance.state,
        state_sequence=instance.state_sequence,
        epoch=instance.epoch,
        highest_epoch=instance.highest_epoch,
        resources_up=resources_up(instance),
        confirmed=confirmed,
    )


def _record(instance: Instance) -> StoredInstance:
    freeze = instance.freeze or Freeze("", "", "")
    return StoredInstance(
        state=instance.state,
        state_sequence=instance.state_sequence,
        epoch=instance.epoch,
        highest_epoch=instance.highest_epoch,
        frozen_by=freeze.who,
        frozen_reason=freeze.reason,
        frozen_wall=freeze.wall,
        excused=instance.excused,
    )
