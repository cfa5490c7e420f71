"""A peer that runs the C program: what its structures say, and what they permit.

It announces states and nothing else: no incarnation, no acknowledgement, no epoch. So there is
no dialogue with it; its rules are times. An offer stands for five seconds, in which both sides see
each other's states, and becomes a start only if the peer kept the service stopped all that time.
What cannot be known is not made up: it is alive while it is heard, never one-way, never LEFT, never
restarting.

Its word is not authentic, so nothing it says stops anything here, and a node that speaks natively
is not taken for a legacy one before its own beats have been silent for the timeout. What it froze
started is maintenance, as on any peer: its silence is no leave to take that over.

Source: OpenHA's start procedure: START_READY, 5 s, both states read again; a secondary rolls back
on any change of the peer's, a primary on STARTED and STARTING. We ask for stopped, unchanged, of both
roles: what the C program would start, we start, some of it 5 s later.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, Mapping, Optional, Tuple

from opensvc_hb.core.events import LegacyBeat
from opensvc_hb.core.messages import Entry
from opensvc_hb.core.node_state import Instance, Legacy, Liveness, NodeState, Peer
from opensvc_hb.core.records import replace
from opensvc_hb.core.states import PERMISSIVE, State
from opensvc_hb.core.summary import summary_of
from opensvc_hb.core.turn import Turn

OFFER_S = 5.0
"""How long an offer stands before it may become a start."""
FROZEN_AFTER_S = 10.0
"""The C program's own offer ends within its five seconds, two of its rounds and a beat: a
START_READY that stands for longer is a service frozen while started, which it shows alike."""
_TRUSTED_SHARE = 0.6
"""Of a link's timeout: for so long after a beat the peer cannot have taken us for dead over it."""


def take_in(turn: Turn, peer: Peer, event: LegacyBeat) -> Peer:
    """Take in a structure. The caller judges the peer afterwards."""
    legacy = peer.legacy if peer.legacy is not None else Legacy()
    mark = (event.elapsed, event.pid, event.states)
    if legacy.marks.get(event.link_id) == mark:
        return peer
    legacy = replace(legacy, marks={**legacy.marks, event.link_id: mark})
    if not legacy.speaks and any(link.up for link in peer.links.values()):
        return replace(peer, legacy=replace(legacy, kept=(event, turn.now)))
    return _believed(turn, replace(peer, legacy=legacy), event, turn.now)


def instead_of_silence(turn: Turn, peer: Peer) -> Peer:
    """Return the peer as its structures show it, where its native beats have just fallen silent."""
    legacy = peer.legacy
    if legacy is None or legacy.kept is None or any(link.up for link in peer.links.values()):
        return peer
    event, at = legacy.kept
    link = peer.links.get(event.link_id)
    if link is None or turn.now >= at + link.timeout_s:
        return replace(peer, legacy=replace(legacy, kept=None))
    return _believed(turn, peer, event, at)


def _believed(turn: Turn, peer: Peer, event: LegacyBeat, at: float) -> Peer:
    """Return the peer with what a structure, heard at `at`, says of it."""
    legacy = peer.legacy
    assert legacy is not None, "the structure was noted before it is believed"
    if not legacy.speaks:
        turn.journal("", "peer", f"{peer.node} runs the C program", "its beats are OpenHA's structures")
        peer = _forgotten(peer)
        turn.persist()
        turn.all_dirty()
        legacy = Legacy(speaks=True, marks=legacy.marks)
    if turn.state.unconfirmed_from is not None and all(
        known.is_legacy or known.node == peer.node for known in turn.peers.values()
    ):
        turn.update(unconfirmed_from=None)  # nobody is there who could confirm it
    link = peer.links[event.link_id]
    if not link.up:
        turn.journal("", "link", f"{link.link_id} from {peer.node} is UP")
    again = not any(known.up for known in peer.links.values())
    links = {**peer.links, link.link_id: replace(link, heard_at=at, up=True, error="")}
    table, changed_at = _table(turn, peer, legacy, event)
    maintenance = _maintenance(peer, table)
    if maintenance != peer.maintenance:
        turn.persist()
    return replace(
        peer,
        links=links,
        maintenance=maintenance,
        legacy=replace(legacy, changed_at=changed_at, kept=None),
        heard=True,
        heard_from_at=at if again else peer.heard_from_at,
        table=table,
        table_current=True,
        trusted_until=max(peer.trusted_until, at + _TRUSTED_SHARE * link.timeout_s),
        confirmed_dead=False,
        drain=None,
        claim=None,
    )


def _forgotten(peer: Peer) -> Peer:
    """Return a peer without what only native beats say; the highest incarnation stays known."""
    return replace(
        peer,
        sequence=0,
        settled_sequence=0,
        table={},
        table_digest=b"",
        acked=0,
        acked_at=None,
        hears={},
        hears_us_at=None,
        holds_digest=b"",
        trusted_until=0.0,
        promise_s=0.0,
        promised_until=None,
        left_until=None,
        config_digest=b"",
        longest_timeout_s=0.0,
        slot=None,
    )


def _table(
    turn: Turn, peer: Peer, legacy: Legacy, event: LegacyBeat
) -> Tuple[Mapping[str, Entry], Mapping[str, float]]:
    """Return its table, of services configured here, and since when each stands where it stands."""
    table: Dict[str, Entry] = {}
    changed_at: Dict[str, float] = {}
    for name, said in event.states:
        if name not in turn.config.services or peer.node not in turn.config.services[name].nodes:
            continue
        before = peer.table.get(name)
        state = _meant(said, before, legacy.changed_at.get(name, turn.now), turn.now)
        same = before is not None and before.state is state
        table[name] = before if before is not None and same else Entry(name, state, 0, 0)
        # That its offer turns out to be a freeze is no change of its own.
        unmoved = same or (before is not None and before.state is said)
        changed_at[name] = legacy.changed_at.get(name, turn.now) if unmoved else turn.now
        if not same:
            was = before.state.name if before is not None else State.UNKNOWN.name
            turn.journal(name, "peer state", f"{peer.node}: {was} -> {state.name}")
            turn.dirty.add(name)
    gone = set(peer.table) - set(table)
    turn.dirty.update(gone)
    return table, changed_at


def _maintenance(peer: Peer, table: Mapping[str, Entry]) -> FrozenSet[str]:
    """Return what it has frozen started, or could not end in its native days and does not name yet."""
    frozen = frozenset(name for name, entry in table.items() if entry.state is State.FROZEN_START)
    return frozen | (peer.maintenance - frozenset(table))


def _meant(said: State, before: Optional[Entry], since: float, now: float) -> State:
    """Tell an offer from a service frozen while started: the C program has one number for both."""
    if said is not State.START_READY or before is None:
        return said
    if before.state in (State.STARTED, State.FROZEN_START):
        return State.FROZEN_START
    stands = before.state is State.START_READY and now - since >= FROZEN_AFTER_S
    return State.FROZEN_START if stands else said


def settles(peer: Peer, instance: Instance, now: float) -> bool:
    """Tell whether an offer has stood long enough against a legacy peer that has it stopped."""
    at = settles_at(peer, instance)
    return at is not None and at <= now < peer.trusted_until


def settles_at(peer: Peer, instance: Instance) -> Optional[float]:
    """Return when an offer settles if the peer does not move; None when it cannot."""
    legacy, offer, entry = peer.legacy, instance.offer, peer.table.get(instance.service)
    if legacy is None or not legacy.speaks or offer is None or entry is None:
        return None
    if entry.state not in PERMISSIVE:
        return None
    return max(offer.made_at, legacy.changed_at.get(instance.service, offer.made_at)) + _offer_s(peer)


def _offer_s(peer: Peer) -> float:
    """Return how long it may take until the peer has seen our offer, and we its answer.

    Its disk listeners look once in a timeout only; which of our links it hears it does not say, so
    that where we hear it on disks alone we take it that it hears us on no more.
    """
    up = [link for link in peer.links.values() if link.up]
    slow = [link.timeout_s for link in up] if up and all(_is_disk(link.link_id) for link in up) else []
    return OFFER_S + max(slow, default=0.0)


def _is_disk(link_id: str) -> bool:
    return link_id.partition(":")[0] in ("dio", "disk")


def look_again(turn: Turn) -> None:
    """Have the offers looked at that time alone may settle."""
    if any(peer.is_legacy for peer in turn.peers.values()):
        turn.dirty.update(turn.summary().offering)


def next_change_at(state: NodeState, now: float) -> Optional[float]:
    """Return when time alone may settle an offer; None for never."""
    moments = []
    for peer in state.peers.values():
        if peer.is_legacy and peer.liveness is Liveness.ALIVE:
            for name in summary_of(state).offering:
                at = settles_at(peer, state.instances[name])
                if at is not None and at > now:
                    moments.append(at)
    return min(moments, default=None)
