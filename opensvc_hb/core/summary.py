"""What is needed of all instances in every turn, and computed only where one of them changed.

A turn of a node with a thousand services must not cost a thousand looks when nothing changed, and
one change must not cost a thousand texts. The summary belongs to one mapping of instances (by
identity: a turn that changes none keeps the mapping) and is carried in the node's state; it holds
nothing that could not be computed anew from there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Mapping, Optional, Tuple

from opensvc_hb.core.config import Config
from opensvc_hb.core.events import StoredInstance
from opensvc_hb.core.messages import DIGEST_BYTES, Entry, Table, digest_line
from opensvc_hb.core.node_state import Freeze, Instance, NodeState, Peer
from opensvc_hb.core.states import ActionVerb, Avail, State

_LIVING = frozenset({State.STARTING, State.STARTED, State.STOPPING, State.FROZEN_START})
_FAILED = frozenset({State.START_FAILED, State.STOP_FAILED})


@dataclass(frozen=True)
class Part:
    """What one instance adds to the summary.

    Args:
        entry, line: its entry in the table, and its line in the table's digest; None before the agent
            was asked about it.
        record: what the store keeps of it.
        groups: what it adds to each group of the summary, in the order of `_GROUPS`; None for nothing.
    """

    instance: Instance
    entry: Optional[Entry]
    line: bytes
    record: StoredInstance
    groups: Tuple[Any, ...]


@dataclass(frozen=True)
class Summary:
    """See the module. Names are hb names.

    Args:
        instances, config, confirmed: what it was made of.
        parts: by name, in order.
        digest: of the table.
        guarded: the instances that need this node's lease, by name: hb name and svcname; ending: those
            that are being ended.
        asked: those with an action of `ASKING`; offering: with an offer out; handing: switched away;
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
    asked: Tuple[str, ...]
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
    if before is None or not _is_usable(before, state, confirmed):
        parts = {name: _part(state, state.instances[name], confirmed) for name in sorted(state.instances)}
        groups = {group: _members(parts, at) for at, group in enumerate(_GROUPS)}
        return _summary(state, confirmed, parts, _spoken(parts), groups)
    known = before.parts
    changed = [name for name, instance in state.instances.items() if known[name].instance is not instance]
    parts = dict(known)
    parts.update((name, _part(state, state.instances[name], confirmed)) for name in changed)
    groups = {
        group: getattr(before, group)
        if all(known[name].groups[at] == parts[name].groups[at] for name in changed)
        else _members(parts, at)
        for at, group in enumerate(_GROUPS)
    }
    says_the_same = all(known[name].entry == parts[name].entry for name in changed)
    spoken = (before.table, before.digest) if says_the_same else _spoken(parts)
    return _summary(state, confirmed, parts, spoken, groups)


def _summary(
    state: NodeState,
    confirmed: bool,
    parts: Mapping[str, Part],
    spoken: Tuple[Table, bytes],
    groups: Mapping[str, Tuple[Any, ...]],
) -> Summary:
    table, digest = spoken
    return Summary(
        instances=state.instances,
        config=state.config,
        confirmed=confirmed,
        parts=parts,
        table=table,
        digest=digest,
        **groups,
    )


def _spoken(parts: Mapping[str, Part]) -> Tuple[Table, bytes]:
    """Return the table and its digest."""
    table = tuple([part.entry for part in parts.values() if part.entry is not None])
    lines = [part.line for part in parts.values() if part.entry is not None]
    return table, hashlib.blake2b(b"\n".join(lines), digest_size=DIGEST_BYTES).digest()


def _is_usable(before: Summary, state: NodeState, confirmed: bool) -> bool:
    """Tell whether the parts of an earlier summary hold where the instances are the same."""
    return (
        before.config is state.config
        and before.confirmed is confirmed
        and before.parts.keys() == state.instances.keys()
    )


def _members(parts: Mapping[str, Part], at: int) -> Tuple[Any, ...]:
    return tuple([part.groups[at] for part in parts.values() if part.groups[at] is not None])


IDLE = frozenset({State.STOPPED, State.UNKNOWN, State.START_READY})
"""States from which a decision may start an instance."""


ASKING = frozenset({ActionVerb.VERIFY, ActionVerb.ANNOUNCE})
"""Actions that change nothing, and for whose end nobody needs to wait."""

_GROUPS = (
    "guarded",
    "ending",
    "asked",
    "offering",
    "handing",
    "paused",
    "pausing",
    "watched",
    "idle",
    "unexcused",
)
"""The fields of `Summary` that name those of its instances of which something holds."""


def _part(state: NodeState, instance: Instance, confirmed: bool) -> Part:
    entry = _entry(instance, confirmed) if instance.verified else None
    line = b"" if entry is None else digest_line(entry).encode()
    return Part(instance, entry, line, _record(instance), _groups(state, instance))


def _groups(state: NodeState, instance: Instance) -> Tuple[Any, ...]:
    name = instance.service
    service = state.config.services.get(name)
    names = (name, service.svcname if service is not None else "")
    guarded = needs_lease(state, instance)
    runs = instance.state is State.STARTED and instance.verified
    return (
        names if guarded else None,
        name if guarded and instance.state is State.STOPPING else None,
        name if instance.action is not None and instance.action.verb in ASKING else None,
        name if instance.offer is not None else None,
        name if instance.handing_until is not None else None,
        name if instance.paused_until is not None else None,
        name if instance.watching.paused_until is not None else None,
        names if runs and service is not None and service.monitoring.resources else None,
        name if instance.state in IDLE else None,
        name if instance.state is State.FROZEN_START and not instance.excused else None,
    )


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
