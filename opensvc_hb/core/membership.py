"""Is the peer alive? Beats, links, silence, promises, last words.

Liveness is the age of the last authentic, advancing beat by our own clock, and nothing else:
a path that errors, hangs or lost its thread is silence, never life. Silence counts only when
everything already received has been processed, on all links: before a peer is called UNKNOWN
its listeners are asked to hand over what has arrived.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

from opensvc_hb.core import effects as fx
from opensvc_hb.core import lease, legacy
from opensvc_hb.core.events import BeatReceived, LegacyBeat, LinkDrained, LinkFailed, SlotFound
from opensvc_hb.core.messages import Beat, Entry, Hearing, link_tag
from opensvc_hb.core.node_state import Drain, Liveness, NodeState, Offer, Peer, PeerLink, Phase
from opensvc_hb.core.records import replace
from opensvc_hb.core.states import RUNNING, State
from opensvc_hb.core.turn import Turn, age_text, sent_at
from opensvc_hb.core.watching import moved_there

PERMISSION_SHARE = 0.6
"""A permission is void at this share of the timeout, counted from our own beat's sending."""

REBIRTH_PAUSE_S = 10.0
"""An incarnation is raised for a peer's sake no more often than this."""

DRAIN_SHARE = 0.05
DRAIN_MAX_S = 0.25
"""How long listeners have to say that they handed over all: a share of the timeout, at most so
many seconds. One that does not answer (a hung disk) is silent all the same."""


def new_peer(state: NodeState, node: str, now: float) -> Peer:
    """Return what is known of a peer at first: the links to listen on, and nothing else."""
    links = {link.id: PeerLink(link.id, link.timeout_s) for link in state.config.links_from(node)}
    return Peer(node=node, links=links, silent_from=now)


# -- a beat arrives -------------------------------------------------------------------------


def hear(turn: Turn, event: BeatReceived) -> None:
    """Take in a beat: liveness of its link always, its content when it is the newest."""
    beat = event.beat
    peer = turn.peers.get(beat.sender)
    if peer is None or event.link_id not in peer.links or beat.incarnation < peer.incarnation:
        return
    reborn = peer.heard and beat.incarnation > peer.incarnation
    first = not peer.heard or reborn or peer.is_legacy
    if first:
        peer = replace(_first_beat(turn, peer, beat), legacy=None)
    peer = _hear_link(turn, peer, event)
    newest = beat.sequence > peer.sequence
    completes = beat.sequence == peer.sequence and beat.table is not None and not peer.table_current
    if newest or completes:
        peer = _take_in(turn, peer, beat)
    if newest:
        turn.answer()
    if peer.confirmed_dead:
        turn.persist()
    peer = replace(peer, drain=None, confirmed_dead=False, claim=None)
    turn.put_peer(peer)
    judge(turn, peer.node)


def hear_legacy(turn: Turn, event: LegacyBeat) -> None:
    """Take in a structure of a node that runs the C program."""
    peer = turn.peers.get(event.node)
    if peer is None or event.link_id not in peer.links:
        return
    if peer.confirmed_dead:
        turn.persist()
    turn.put_peer(legacy.take_in(turn, peer, event))
    judge(turn, peer.node)


def _first_beat(turn: Turn, peer: Peer, beat: Beat) -> Peer:
    if beat.incarnation != peer.incarnation:
        turn.persist()
    turn.journal("", "peer", f"{peer.node} heard", f"incarnation {beat.incarnation}")
    return replace(
        peer,
        # What was read of an earlier life says nothing of this one's sequences.
        links={i: replace(link, sequence=0) for i, link in peer.links.items()},
        incarnation=beat.incarnation,
        heard=True,
        heard_from_at=turn.now,
        sequence=0,
        settled_sequence=0,
        table={},
        table_digest=b"",
        table_current=False,
        left_until=None,
        holds_digest=b"",
        hears={},
        hears_us_at=None,
        acked=0,
        acked_at=None,
        trusted_until=0.0,
    )


def _hear_link(turn: Turn, peer: Peer, event: BeatReceived) -> Peer:
    link = peer.links[event.link_id]
    if not link.up:
        turn.journal("", "link", f"{link.link_id} from {peer.node} is UP")
    again = not any(known.up for known in peer.links.values())
    links = dict(peer.links)
    links[link.link_id] = replace(link, heard_at=turn.now, sequence=event.beat.sequence, up=True, error="")
    return replace(peer, links=links, heard_from_at=turn.now if again else peer.heard_from_at)


def _take_in(turn: Turn, peer: Peer, beat: Beat) -> Peer:
    """Read the newest beat: its table, what it says of us, its promises."""
    table: Optional[Dict[str, Entry]] = None
    if beat.table is not None:
        table = {entry.service: entry for entry in beat.table}
    current = table is not None or beat.table_digest == peer.table_digest
    if 0 < beat.longest_timeout_s < peer.longest_timeout_s:
        turn.send()  # it takes us for dead sooner from now on
    if beat.longest_timeout_s > peer.longest_timeout_s:
        turn.persist()  # before it is acknowledged: its lease counts with it from then on
    if table is not None and beat.table_digest != peer.table_digest:
        _note_changes(turn, peer, table)
        peer = replace(peer, table=table, table_digest=beat.table_digest)
        peer = _note_maintenance(turn, peer)
    peer = replace(
        peer,
        sequence=beat.sequence,
        settled_sequence=beat.sequence if current else peer.settled_sequence,
        table_current=current,
        longest_timeout_s=beat.longest_timeout_s,
    )
    hearing = beat.hearing_of(turn.config.node)
    if hearing is not None:
        peer = _heard_of_us(turn, peer, hearing)
    peer = _note_promise(turn, peer, beat)
    if beat.left and current and turn.now < peer.trusted_until:
        peer = _note_last_word(turn, peer)
        turn.send()  # it waits for this acknowledgement
    if beat.config_digest != peer.config_digest:
        if beat.config_digest != turn.config.digest:
            turn.journal(
                "",
                "alarm",
                f"the configuration of {peer.node} differs from ours",
                "compare nodes, monitor and the services' files on both nodes",
            )
        peer = replace(peer, config_digest=beat.config_digest)
        turn.all_dirty()  # who goes first may have changed
    return peer


def _note_changes(turn: Turn, peer: Peer, table: Dict[str, Entry]) -> None:
    """Journal the peer's changes, learn epochs, and look again at what they concern."""
    for name, entry in table.items():
        before = peer.table.get(name)
        if before == entry:
            continue
        turn.dirty.add(name)
        instance = turn.instances.get(name)
        if instance is None:
            continue
        seen = max(entry.epoch, entry.highest_epoch)
        if seen > instance.highest_epoch:
            ran_here = 0 < instance.epoch == instance.highest_epoch
            if ran_here and entry.epoch == seen and turn.config.services[name].monitoring.resources:
                instance = replace(instance, watching=moved_there(instance.watching, turn.now))
            turn.put(replace(instance, highest_epoch=seen))
            turn.persist()
        if before is None or before.state is not entry.state:
            was = before.state.name if before else State.UNKNOWN.name
            turn.journal(name, "peer state", f"{peer.node}: {was} -> {entry.state.name}")
    turn.dirty.update(set(peer.table) - set(table))
    turn.send()  # our acknowledgement is what the peer may be waiting for


def _note_maintenance(turn: Turn, peer: Peer) -> Peer:
    """Remember, before it is acknowledged, what the peer's operator froze started."""
    frozen = frozenset(n for n, e in peer.table.items() if e.state is State.FROZEN_START)
    # What a daemon that has just started does not name yet, it has not said otherwise of.
    frozen |= peer.maintenance - frozenset(peer.table)
    if frozen == peer.maintenance:
        return peer
    turn.persist()
    return replace(peer, maintenance=frozen)


def _note_last_word(turn: Turn, peer: Peer) -> Peer:
    """Take a LEFT as leave to start; what it could not end stays held beyond the timeout too."""
    left_behind = frozenset(n for n, e in peer.table.items() if e.state in RUNNING)
    if peer.left_until is None:
        what = (
            f"not ended there: {', '.join(sorted(left_behind))}"
            if left_behind
            else "its instances have ended"
        )
        turn.journal("", "peer", f"{peer.node} left in order", what)
    if not left_behind <= peer.maintenance:
        turn.persist()
    return replace(peer, left_until=peer.trusted_until, maintenance=peer.maintenance | left_behind)


def _heard_of_us(turn: Turn, peer: Peer, hearing: Hearing) -> Peer:
    state = turn.state
    if (hearing.incarnation, hearing.sequence) > (state.incarnation, state.sequence):
        # It accepted beats of ours that we never sent: our own record of our lives was lost.
        if not _is_too_soon(state.reborn_at, turn.now):
            is_first = state.reborn_at is None
            turn.update(reborn_at=turn.now)
            known = f"{peer.node} had accepted {hearing.incarnation} from this node"
            _begin_anew(turn, hearing.incarnation, is_first, known)
            peer = _unacknowledged(peer)
        return peer
    if hearing.incarnation != state.incarnation:
        return peer
    timeouts = {link_tag(link.id): link.timeout_s for link in state.config.links_from(state.config.node)}
    trusted = 0.0
    hears = dict(peer.hears)
    for heard in hearing.links:
        at = sent_at(state, heard.sequence)
        if heard.tag in timeouts and at is not None:
            # Its monitor file may still have shorter timeouts than ours.
            timeout_s = min(timeouts[heard.tag], peer.longest_timeout_s or timeouts[heard.tag])
            trusted = max(trusted, at + PERMISSION_SHARE * timeout_s)
        hears[heard.tag] = turn.now
    if hearing.sequence > peer.acked:
        turn.dirty.update(turn.summary().offering)
    acked = max(peer.acked, hearing.sequence)
    acked_at = peer.acked_at if acked == peer.acked else sent_at(state, acked)
    return replace(
        peer,
        acked=acked,
        acked_at=acked_at if acked_at is not None else peer.acked_at,
        trusted_until=trusted,
        hears=hears,
        hears_us_at=turn.now if hearing.links else peer.hears_us_at,
        holds_digest=hearing.table_digest,
    )


def slot_found(turn: Turn, event: SlotFound) -> None:
    """Take an incarnation above what stands in our own slot, if that is above all that we sent.

    Our own record of our lives was lost, and with disks alone no peer may be able to say so: one
    that began anew as well never heard us, and yet takes nothing that is not above what it found in
    our slot. What stands there is no peer's word: it acknowledges, permits and renews nothing.
    """
    state = turn.state
    is_ours = (event.incarnation, event.sequence) <= (state.incarnation, state.sequence)
    if is_ours or state.phase is Phase.BORN:
        return
    if not _is_too_soon(state.found_at, turn.now):
        is_first = state.found_at is None
        turn.update(found_at=turn.now)
        _begin_anew(turn, event.incarnation, is_first, f"its slot {event.link_id} held {event.incarnation}")


def _is_too_soon(raised_at: Optional[float], now: float) -> bool:
    """Tell whether an incarnation that was raised may not be raised again yet.

    That happens once in a life; more often it is another machine that speaks in our name, and
    two that outdo each other must not flood the journals and the peer.
    """
    return raised_at is not None and now - raised_at < REBIRTH_PAUSE_S


def _begin_anew(turn: Turn, above: int, is_first: bool, known: str) -> None:
    """Take the next incarnation above one that is known of us: our sequences begin again with it.

    Nothing that was said of earlier beats is said of these: no acknowledgement, no claim under way.
    """
    state = turn.state
    turn.update(incarnation=above + 1, sequence=0, sent=(), longer_from=0)
    if not is_first:
        turn.update(twin_at=turn.now)
    turn.journal(
        "",
        "node" if is_first else "alarm",
        f"incarnation {state.incarnation} -> {above + 1}",
        f"{known}: " + ("its store was lost" if is_first else "another machine sends beats in its name"),
    )
    stamp = Offer(turn.state.incarnation, turn.next_sequence, turn.now)
    for instance in list(turn.instances.values()):
        if instance.frozen_at is not None or instance.offer is not None:
            frozen_at = None if instance.frozen_at is None else stamp.sequence
            offer = None if instance.offer is None else stamp
            turn.put(replace(instance, frozen_at=frozen_at, offer=offer))
    if state.farewell is not None:
        turn.update(farewell=turn.next_sequence)
    if state.unconfirmed_from is not None:
        turn.update(unconfirmed_from=turn.next_sequence)
    for peer in list(turn.peers.values()):
        turn.put_peer(_unacknowledged(peer))
    turn.persist()
    turn.send()


def _unacknowledged(peer: Peer) -> Peer:
    """Return a peer that has acknowledged nothing of our present incarnation yet."""
    return replace(peer, holds_digest=b"", acked=0, acked_at=None, trusted_until=0.0, claim=None)


def _note_promise(turn: Turn, peer: Peer, beat: Beat) -> Peer:
    """Keep a restart promise: stored before it is acknowledged, counted from its receipt."""
    if beat.restarting_for_s > 0:
        if peer.promise_s != beat.restarting_for_s:
            turn.persist()
            turn.send()
            turn.journal(
                "", "peer", f"{peer.node} restarts its daemon", f"promised within {beat.restarting_for_s:g} s"
            )
        return replace(peer, promise_s=beat.restarting_for_s, promised_until=turn.now + beat.restarting_for_s)
    if peer.promise_s > 0:
        turn.persist()
        return replace(peer, promise_s=0.0, promised_until=None)
    return peer


# -- silence --------------------------------------------------------------------------------


def silent_at(peer: Peer) -> float:
    """Return when the last of the peer's links has been silent for its timeout."""
    return max(
        (
            max(peer.silent_from, link.heard_at if link.heard_at is not None else peer.silent_from)
            + link.timeout_s
            for link in peer.links.values()
        ),
        default=peer.silent_from,
    )


def judge(turn: Turn, node: str) -> None:
    """Answer anew whether a peer is alive, and journal a changed answer."""
    peer = legacy.instead_of_silence(turn, _links_down(turn, turn.peers[node]))
    peer, liveness = _liveness(turn, peer)
    before = peer.liveness
    peer = replace(peer, liveness=liveness)
    turn.put_peer(peer)
    if before is liveness:
        return
    turn.all_dirty()
    ages = tuple((f"last beat {i}", age_text(k.heard_at, turn.now)) for i, k in peer.links.items())
    turn.journal("", "peer", f"{node} is {liveness.value}", f"was {before.value}", inputs=ages)
    if liveness is Liveness.ALIVE and before in (Liveness.UNKNOWN, Liveness.ONE_WAY):
        for instance in list(turn.instances.values()):
            if instance.state is State.STARTED and node in turn.config.services[instance.service].nodes:
                turn.put(replace(instance, contested=True))


def _links_down(turn: Turn, peer: Peer) -> Peer:
    links = dict(peer.links)
    for link_id, link in peer.links.items():
        due = link.heard_at is None or turn.now >= link.heard_at + link.timeout_s
        if link.up and due:
            links[link_id] = replace(link, up=False)
            turn.journal(
                "",
                "link",
                f"{link_id} from {peer.node} is DOWN",
                f"last beat {age_text(link.heard_at, turn.now)} ago",
            )
    return replace(peer, links=links)


def _liveness(turn: Turn, peer: Peer) -> Tuple[Peer, Liveness]:
    now = turn.now
    if peer.left_until is not None and now < peer.left_until:
        return peer, Liveness.LEFT
    if peer.left_until is not None and now < silent_at(peer):
        return peer, Liveness.UNPROVEN  # its last word is no longer leave, its silence not yet
    if any(link.up for link in peer.links.values()):
        return peer, Liveness.ONE_WAY if not peer.is_legacy and _one_way(turn, peer) else Liveness.ALIVE
    if peer.promised_until is not None and now < peer.promised_until:
        return peer, Liveness.RESTARTING
    if now < silent_at(peer):
        return peer, Liveness.UNPROVEN
    if peer.confirmed_dead:
        return peer, Liveness.UNKNOWN
    if peer.liveness is not Liveness.UNKNOWN and peer.liveness is not Liveness.WAITING:
        peer = _drain(turn, peer)
        if peer.drain is not None and peer.drain.missing and now < peer.drain.until:
            return peer, peer.liveness
    if not peer.heard and now < turn.state.started_at + turn.config.policies.wait_for_peer_s:
        return peer, Liveness.WAITING
    return peer, Liveness.UNKNOWN


def _one_way(turn: Turn, peer: Peer) -> bool:
    """Tell whether a peer's beats have said for our own longest timeout that it does not hear us.

    Measured up to its newest beat: one that falls silent is silent, not deaf.
    """
    own = [link.timeout_s for link in turn.config.links_from(turn.config.node)]
    since = max(peer.hears_us_at or 0.0, peer.heard_from_at, peer.silent_from)
    newest = max((link.heard_at or 0.0 for link in peer.links.values()), default=0.0)
    return newest >= since + max(own, default=0.0)


def _drain(turn: Turn, peer: Peer) -> Peer:
    """Ask this peer's listeners for what has arrived, once per silence."""
    if peer.drain is not None:
        return peer
    token = turn.new_id()
    turn.effects.append(fx.AskLinks(token))
    limit = min(DRAIN_MAX_S, DRAIN_SHARE * max((k.timeout_s for k in peer.links.values()), default=0.0))
    return replace(peer, drain=Drain(token, frozenset(peer.links), turn.now + limit))


def drained(turn: Turn, event: LinkDrained) -> None:
    """A listener handed over all it had: one silence less in doubt."""
    for node in list(turn.peers):
        lease.slot_seen(turn, node, event)
        peer = turn.peers[node]
        drain = peer.drain
        if drain is not None and drain.token == event.token and event.link_id in drain.missing:
            turn.put_peer(replace(peer, drain=replace(drain, missing=drain.missing - {event.link_id})))
            judge(turn, node)


def link_failed(turn: Turn, event: LinkFailed) -> None:
    """Note a link's error for people; the path counts as silent by itself."""
    turn.journal("", "link", f"{event.link_id}: {event.reason}")
    for peer in list(turn.peers.values()):
        link = peer.links.get(event.link_id)
        if link is not None:
            links = dict(peer.links)
            links[event.link_id] = replace(link, error=event.reason)
            turn.put_peer(replace(peer, links=links))


def woke(turn: Turn, seconds: float) -> None:
    """This process did not run for `seconds`: silence is counted anew, our states are unconfirmed.

    Beats that wait in a queue have not been processed, so nothing that was silent during the
    stall may be called dead yet. A LEFT read before or in the stall is silence.
    """
    turn.journal("", "stall", f"this node did not run for {seconds:.1f} s", "silence is counted anew")
    turn.update(unconfirmed_from=turn.next_sequence, stalled_s=seconds, stalled_at=turn.now)
    for peer in list(turn.peers.values()):
        turn.put_peer(replace(peer, silent_from=turn.now, drain=None, left_until=None, claim=None))
    turn.send()


def confirm(turn: Turn) -> None:
    """Our states are confirmed again once a beat sent after waking is acknowledged."""
    since = turn.state.unconfirmed_from
    if since is not None and any(peer.acked >= since for peer in turn.peers.values()):
        turn.update(unconfirmed_from=None)
        turn.send()


def next_change_at(state: NodeState, peers: Dict[str, Peer], now: float) -> Optional[float]:
    """Return when time alone may next change an answer of this module; None for never."""
    times: List[float] = []
    for peer in peers.values():
        times.extend(
            link.heard_at + link.timeout_s
            for link in peer.links.values()
            if link.up and link.heard_at is not None
        )
        if peer.liveness is not Liveness.UNKNOWN:
            times.append(silent_at(peer))
        if peer.liveness is Liveness.WAITING:
            times.append(state.started_at + state.config.policies.wait_for_peer_s)
        times.extend(t for t in (peer.promised_until, peer.left_until) if t is not None)
        if peer.drain is not None and peer.drain.missing:
            times.append(peer.drain.until)
    return min((t for t in times if t > now), default=None)
