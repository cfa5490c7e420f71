"""Whose leave to run services still holds: ours, and that of a peer that is silent?

A node has one lease for all its instances. It counts from before the sending of its newest beat
that every peer acknowledged, or from before the newest write of its own slot that was read back
(`SlotWritten`), and nobody else may start what runs here before it is T old, T being the longest
timeout of the monitor file. So at `END_SHARE` of T what runs here begins to end (`rules`, L1), and
the guardian, told by `Guard` orders, sees to it whatever becomes of this daemon. Without a lease
(no disk link of every node) the same deadline follows from the beats that are made: then the
guardian only watches that the daemon lives.

A contender looks at the silent peer's slot, writes its claim into its own, reads that back and
looks again with a new read: unchanged for T and still unchanged, the peer's lease has run out.
Two that claim at once cannot both see the other's slot unchanged.

Once a lease has run out nothing renews it until what ran here has ended: the peer may have claimed
it meanwhile.

T may change while a lease runs. Who contends counts with the T that it read last from us: a longer
one counts for us from the first beat that tells it, a shorter one at once.

Called by `step` (every turn), `membership` (acknowledgements), `negotiation` (claims).
"""

from __future__ import annotations

from typing import List, Optional, Tuple

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import Config
from opensvc_hb.core.events import GuardianActed, LinkDrained, SlotWritten
from opensvc_hb.core.guardian import END_SHARE, Order
from opensvc_hb.core.node_state import (
    Claim,
    Drain,
    Instance,
    Lease,
    Liveness,
    NodeState,
    Peer,
    Phase,
    Purpose,
)
from opensvc_hb.core.records import replace
from opensvc_hb.core.rules import Guard, Lapse
from opensvc_hb.core.states import GIVES_WAY, ActionVerb, State, Verb
from opensvc_hb.core.summary import needs_lease, rivals, summary_of
from opensvc_hb.core.turn import Turn, change_state, lease_evidence, sent_at
from opensvc_hb.errors import ExitCode

FRESH_LOOK_SHARE = 0.1
"""A look at the peer's slot is good for the claim for this share of T; else it is asked again."""

CLAIM_RETRY_MAX_S = 30.0
CLAIM_ANSWER_SHARE = 0.5
CLAIM_ANSWER_MIN_S = 0.5
"""A claim whose disk does not answer within this share of T, and at least so many seconds, is refused."""

PROMISE_SHARE = 0.9
PROMISE_ENDING_SHARE = 0.3
"""A restart promise of D lets instances run until so much of D, less so much of T to end them."""

ORDER_STEP_SHARE = 0.02
"""The guardian is told a later deadline when it is later by this share of T."""

_ENDED_BY_GUARDIAN = frozenset({State.STARTED, State.STARTING, State.FROZEN_START})
_ASKS_FOR_IT = (Verb.START, Verb.FREEZE_START)
_SILENT = frozenset({Liveness.UNKNOWN, Liveness.WAITING})


def is_leased(state: NodeState) -> bool:
    """Tell whether this cluster's nodes hold leases on a shared disk."""
    return bool(state.config.lease_links)


def is_vouched(state: NodeState) -> bool:
    """Tell whether operators vouched for the death of every peer: nobody acknowledges, nobody claims.

    What runs here then needs no disk. The guardian still watches that this daemon lives: who else
    would hear that a dead node is back?
    """
    return bool(state.peers) and all(peer.confirmed_dead for peer in state.peers.values())


def lapse(state: NodeState, instance: Instance, now: float) -> Lapse:
    """Tell whether the leave to run this instance has run out."""
    if not needs_lease(state, instance):
        return Lapse.NONE
    leased = is_leased(state) and not is_vouched(state)
    until = deadline(state)
    if state.lease.is_broken or (until is not None and now >= until):
        return Lapse.LEASE if leased else Lapse.STOOD_STILL
    return Lapse.NONE


def deadline(state: NodeState) -> Optional[float]:
    """Return when what needs the lease begins to end; None for never.

    A new daemon of which nothing needed the lease, by all records, and that finds something running
    here has as long as after a renewal to get one: how fast the agent answers decides nothing.
    """
    if state.lease.until is not None or not is_leased(state):
        return state.lease.until
    if state.lease.is_broken:
        return state.started_at
    return state.started_at + END_SHARE * state.config.longest_timeout_s


def holds(state: NodeState, now: float) -> bool:
    """Tell whether this node may run what needs its lease."""
    lease = state.lease
    if lease.until is None:
        return not is_leased(state)
    return not lease.is_broken and now < lease.until


# -- ours ---------------------------------------------------------------------------------------


def inherited(until: Optional[float], timeout_s: float, is_unknown: bool) -> Lease:
    """Return the lease of a daemon that begins: the guardian's deadline counts, and nothing else.

    Args:
        until: the deadline that the guardian holds; None when it knows of none.
        timeout_s: T as it counts it; 0 for that of now.
        is_unknown: something may run here that nobody held a deadline for.
    """
    by = "the guardian kept it" if until is not None else ""
    return Lease(until, None, by, is_broken=is_unknown, timeout_s=timeout_s)


def check(state: NodeState, now: float) -> Lease:
    """Return the lease as it stands at `now`, before anything that waited is taken in.

    What waited during a pause may be old news: a lease that has run out stays so, until what
    needed it has ended.
    """
    lease = state.lease
    if not _guarded(state):
        return replace(lease, is_broken=False) if lease.is_broken else lease
    until = deadline(state)
    if until is not None and now >= until and not lease.is_broken:
        return replace(lease, is_broken=True)
    return lease


def _guarded(state: NodeState) -> Tuple[Tuple[str, str], ...]:
    """Return what needs this node's lease.

    Until the agent has said of a service what runs here, or which services there are at all, that is
    what an earlier daemon had guarded, whatever the records say.
    """
    known = summary_of(state).guarded
    if not state.left_guarded:
        return known
    names = {name for name, _ in known}
    return (*known, *(pair for pair in state.left_guarded if pair[0] not in names))


def _renew(state: NodeState, counts_from: float, by: str, timeout_s: float) -> Lease:
    until = counts_from + END_SHARE * timeout_s
    lease = state.lease
    if lease.is_broken or (lease.until is not None and until <= lease.until):
        return lease
    return Lease(until, counts_from, by, timeout_s=timeout_s)


def _told_timeout_s(state: NodeState, sequence: int) -> float:
    """Return T as our beat of this sequence told it, or a shorter one."""
    timeout_s = state.config.longest_timeout_s
    return min(timeout_s, state.shorter_timeout_s) if sequence < state.longer_from else timeout_s


def reconfigured(turn: Turn, before: Config) -> None:
    """T may have changed with the configuration: what has been told of it so far still counts.

    A contender that hears of a shorter one hears it in a beat that this turn makes, or a later one.
    """
    old_s, new_s = before.longest_timeout_s, turn.config.longest_timeout_s
    lease = turn.state.lease
    until = turn.now + END_SHARE * new_s
    if new_s > old_s:
        pending_s = turn.state.shorter_timeout_s
        shorter_s = min(old_s, pending_s) if turn.state.longer_from else old_s
        turn.update(longer_from=turn.next_sequence, shorter_timeout_s=shorter_s)
        turn.update(lease=replace(lease, timeout_s=lease.timeout_s or old_s))
    elif new_s < old_s and lease.until is not None and not lease.is_broken:
        turn.update(lease=replace(lease, until=min(lease.until, until), timeout_s=new_s))


def slot_written(turn: Turn, event: SlotWritten) -> None:
    """Our slot was written and read back: the lease is renewed, and a claim in it is made."""
    state = turn.state
    link = state.config.lease_links.get(state.config.node)
    if link is None or link.id != event.link_id or event.incarnation != state.incarnation:
        return
    by, timeout_s = "its slot, written and read back", _told_timeout_s(state, event.sequence)
    turn.update(lease=_renew(state, event.began_at, by, timeout_s))
    for peer in list(turn.peers.values()):
        claim = peer.claim
        waits = claim is not None and not claim.refused and claim.written_at is None
        if claim is not None and waits and claim.sequence is not None and event.sequence >= claim.sequence:
            claim = replace(claim, written_at=event.began_at)
            _look(turn, replace(peer, claim=claim), claim)


def acknowledged(turn: Turn) -> None:
    """Renew the lease from the newest beat that every peer has acknowledged."""
    state = turn.state
    if not is_leased(state):
        return
    peers = [peer for peer in turn.peers.values() if not peer.confirmed_dead]
    times = [peer.acked_at for peer in peers]
    known = [at for at in times if at is not None]
    if known and len(known) == len(times):
        names = " and ".join(peer.node for peer in peers)
        timeout_s = _told_timeout_s(state, min(peer.acked for peer in peers))
        turn.update(lease=_renew(state, min(known), f"{names} acknowledged our beat", timeout_s))


def beat_made(state: NodeState, now: float) -> Lease:
    """Return the lease after a beat was made: without a disk that is all there is to renew it.

    The first beat of this daemon also ends a restart promise: from then on a silence is a silence.
    """
    until = now + END_SHARE * state.config.longest_timeout_s
    lease = state.lease
    if not is_leased(state):
        return lease if lease.is_broken else Lease(until, now, "this daemon sends")
    if is_vouched(state):
        return vouched(state, now)
    if state.sequence <= 1 and lease.until is not None and lease.until > until:
        return replace(lease, until=until)
    return lease


def vouched(state: NodeState, now: float) -> Lease:
    """Return the lease where operators vouched for the death of every peer; else as it is."""
    if not is_vouched(state):
        return state.lease
    by = "an operator vouched for every peer's death"
    return _renew(state, now, by, state.config.longest_timeout_s)


def promised(turn: Turn) -> None:
    """Every peer has acknowledged that we restart: what runs here may run on for most of the promise."""
    state = turn.state
    farewell_at = None if state.farewell is None else sent_at(state, state.farewell)
    # One that is dead, confirmed or not, has not acknowledged it, and may be back meanwhile.
    heard = all(state.farewell is not None and p.acked >= state.farewell for p in turn.peers.values())
    lease = state.lease
    if farewell_at is None or not heard or lease.is_broken:
        return
    shares = PROMISE_SHARE * state.config.policies.restart_within_s
    until = farewell_at + shares - PROMISE_ENDING_SHARE * state.config.longest_timeout_s
    if lease.until is not None and until > lease.until:
        by = "the restart that every peer acknowledged"
        turn.update(lease=Lease(until, farewell_at, by, timeout_s=state.config.longest_timeout_s))


def excuse(turn: Turn) -> None:
    """Note which instances every peer knows to be frozen started: maintenance needs no lease.

    That they acknowledged the beat is not enough: while our store fails, beats repeat what was
    announced before (`messages.repeated`). They must hold the very table.
    """
    state = replace(turn.state, instances=turn.instances, peers=turn.peers)
    summary = turn.summary()
    for name in summary.unexcused:
        instance = turn.instances[name]
        if instance.frozen_at is None:
            continue
        peers = rivals(state, instance)
        if peers and all(p.acked >= instance.frozen_at and p.holds_digest == summary.digest for p in peers):
            turn.put(replace(instance, excused=True))
            turn.persist()


def end_here(turn: Turn, instance: Instance, reason: str, rule: str) -> None:
    """Stop an instance whose leave has run out; a start under way is cancelled first."""
    action = instance.action
    if action is not None and action.verb in GIVES_WAY:
        if instance.yielding is not Purpose.LEASE:
            if instance.yielding is None:
                turn.effects.append(fx.CancelAction(instance.service, action.action_id))
            turn.put(replace(instance, yielding=Purpose.LEASE))
            turn.journal(
                instance.service,
                "alarm",
                f"{action.verb.value} cancelled",
                reason,
                rule,
                lease_evidence(turn.state, turn.now),
            )
        return
    instance = turn.drop_announcement(instance)
    if instance.action is None:
        stop_to_end(turn, instance, reason, rule)


def guardian_acted(turn: Turn, event: GuardianActed) -> None:
    """The guardian ends an instance while this daemon lives: so does core, in order.

    A daemon that stood still may renew the lease before it hears of that. The instance must not
    count as running then: nobody would start it again.
    """
    kind = "alarm" if event.alarm else "guardian"
    for name in event.services or ("",):
        turn.journal(name, kind, event.what, "told by the guardian")
    for name in event.services if event.alarm else ():
        instance = turn.instances.get(name)
        if instance is None or not instance.verified or instance.state not in _ENDED_BY_GUARDIAN:
            continue
        if lapse(turn.state, instance, turn.now) is Lapse.NONE:  # else L1 or L2 ends it in this turn
            end_here(turn, instance, event.what, "")


def stop_to_end(turn: Turn, instance: Instance, reason: str, rule: str) -> None:
    """Run the stop action; what was frozen started stays frozen."""
    then = State.FROZEN_STOP if instance.state is State.FROZEN_START else State.STOPPED
    limit_s = turn.config.services[instance.service].stop_limit_s
    instance = replace(instance, freeze_next=instance.freeze, yielding=None)
    instance = change_state(turn, instance, State.STOPPING, reason, rule, "alarm")
    turn.run(instance, ActionVerb.STOP, Purpose.LEASE, then, limit_s)


def order_for(state: NodeState, now: float) -> Optional[Order]:
    """Return the order that the guardian must have now; None when it never needed one.

    A deadline that is unknown is now: whoever may run without leave is ended.
    """
    services = _guarded(state)
    if not services and state.guarded is None:
        return None
    until, timeout_s = deadline(state), state.config.longest_timeout_s
    if until is None:
        until = now + END_SHARE * timeout_s
    timeout_s = min(timeout_s, state.lease.timeout_s or timeout_s)
    return Order(until, timeout_s, services, summary_of(state).ending)


def is_worth_telling(before: Optional[Order], order: Order) -> bool:
    """Tell whether the guardian must hear of an order, and not only of a deadline a moment later."""
    if before is None or replace(before, until=order.until) != order:
        return True
    later_s = order.until - before.until
    return bool(order.services) and (later_s < 0 or later_s >= ORDER_STEP_SHARE * order.timeout_s)


# -- a silent peer's ----------------------------------------------------------------------------


def contender_timeout_s(state: NodeState, peer: Peer) -> float:
    """Return T against this peer: the larger one where its monitor file differs from ours."""
    said = peer.slot.longest_timeout_s if peer.slot is not None else 0.0
    return max(state.config.longest_timeout_s, peer.longest_timeout_s, said)


def claimable_at(state: NodeState, peer: Peer) -> float:
    """Return when its lease has run out as far as this node can know: nothing heard, nothing changed."""
    moments = [peer.silent_from]
    moments.extend(link.heard_at for link in peer.links.values() if link.heard_at is not None)
    if peer.slot is not None and not peer.slot.problem:
        moments.append(peer.slot.unchanged_since)
    return max(moments) + contender_timeout_s(state, peer)


def guard_answer(state: NodeState, peer: Peer, now: float) -> Guard:
    """Tell how far we are with what must succeed before a start against this peer."""
    if not is_leased(state) or peer.confirmed_dead:
        return Guard.NONE
    claim = peer.claim
    if claim is not None and claim.passed:
        passed = claim.written_at is not None and now < claim.written_at + _hold_s(state)
        return Guard.PASSED if passed else Guard.WANTED
    if claim is not None and claim.refused:
        return Guard.REFUSED if now < claim.retry_at else Guard.WANTED
    if claim is not None:
        return Guard.ASKED
    return Guard.EARLY if now < claimable_at(state, peer) else Guard.WANTED


def _hold_s(state: NodeState) -> float:
    return END_SHARE * state.config.longest_timeout_s


def passed_until(state: NodeState, peer: Peer) -> Optional[float]:
    """Return until when our claim is leave to start against this peer; None for no claim."""
    if peer.claim is None or not peer.claim.passed or peer.claim.written_at is None:
        return None
    return peer.claim.written_at + _hold_s(state)


def claim(turn: Turn, node: str) -> None:
    """Begin to claim a silent peer's lease: with what was just seen of its slot, or a new look."""
    peer = turn.peers[node]
    timeout_s = contender_timeout_s(turn.state, peer)
    last = peer.claim if peer.claim is not None and peer.claim.refused else None
    tries, before = (last.tries, last.refused) if last is not None else (0, "")
    deadline = turn.now + max(CLAIM_ANSWER_SHARE * timeout_s, CLAIM_ANSWER_MIN_S)
    begun = Claim(begun_at=turn.now, deadline=deadline, tries=tries, before=before)
    peer = replace(peer, claim=begun)
    slot = peer.slot
    fresh = (
        slot is not None
        and turn.now - slot.read_at <= FRESH_LOOK_SHARE * timeout_s
        and slot.read_at >= slot.unchanged_since + timeout_s
    )
    if fresh and tries == 0:
        _weigh(turn, peer, begun)
    else:
        _look(turn, peer, begun)


def slot_seen(turn: Turn, node: str, event: LinkDrained) -> None:
    """A listener of a peer answers a question: remember what it says of the slot, whoever asked."""
    peer = turn.peers[node]
    link = turn.config.lease_links.get(node)
    if link is not None and link.id == event.link_id:
        peer = replace(peer, slot=event.slot)
    claim = peer.claim
    if claim is not None and claim.look is not None and claim.look.token == event.token:
        look = replace(claim.look, missing=claim.look.missing - {event.link_id})
        peer = replace(peer, claim=replace(claim, look=look))
    turn.put_peer(peer)


def looked(turn: Turn, node: str) -> None:
    """A listener has answered, or had its time: go on with the claim if all that counts is there.

    The lease link must answer; any other that does not is silent all the same.
    """
    peer = turn.peers[node]
    claim = peer.claim
    if claim is None or claim.refused or claim.passed or claim.look is None:
        return
    link = turn.config.lease_links.get(node)
    waits = bool(claim.look.missing) and turn.now < claim.look.until
    if link is None or link.id in claim.look.missing or waits:
        return
    claim = replace(claim, look=None)
    if claim.written_at is None:
        _weigh(turn, peer, claim)
    else:
        _conclude(turn, peer, claim)


def progress(turn: Turn) -> None:
    """Give up claims whose disk does not answer; look at what waits for one that may be made now."""
    for peer in list(turn.peers.values()):
        claim = peer.claim
        if peer.liveness in _SILENT and guard_answer(turn.state, peer, turn.now) is Guard.WANTED:
            turn.dirty.update(turn.summary().idle)
        if claim is None or claim.refused or claim.passed:
            continue
        if turn.now >= claim.deadline:
            if claim.look is None:
                what = "our own slot was not written and read back"
            else:
                what = f"the slot of {peer.node} was not read"
            _refuse(
                turn,
                peer,
                claim,
                f"{what} within {turn.now - claim.begun_at:.1f} s: the disk does not answer",
            )
        else:
            looked(turn, peer.node)


def _look(turn: Turn, peer: Peer, claim: Claim) -> None:
    """Have every listener of this peer hand over what has arrived, and read its slot anew."""
    token = turn.new_id()
    turn.effects.append(fx.AskLinks(token))
    until = min(claim.deadline, turn.now + FRESH_LOOK_SHARE * contender_timeout_s(turn.state, peer))
    look = Drain(token, frozenset(peer.links), until)
    turn.put_peer(replace(peer, claim=replace(claim, look=look)))


def _weigh(turn: Turn, peer: Peer, claim: Claim) -> None:
    """The first look: has the slot been unchanged for long enough? Then the claim is announced."""
    slot = peer.slot
    if slot is None or slot.problem:
        why = slot.problem if slot is not None else "it cannot be read"
        _refuse(turn, peer, claim, f"the slot of {peer.node}: {why}")
        return
    if slot.read_at < slot.unchanged_since + contender_timeout_s(turn.state, peer):
        turn.put_peer(replace(peer, claim=None))  # `claimable_at` says when to come back
        turn.all_dirty()
        return
    turn.put_peer(replace(peer, claim=replace(claim, seen=slot, sequence=turn.next_sequence)))
    turn.send()
    if claim.tries == 0:
        why = f"it is silent, and its slot unchanged for {slot.read_at - slot.unchanged_since:.1f} s"
        turn.journal("", "lease", f"the lease of {peer.node} is claimed", why, "U10")


def _conclude(turn: Turn, peer: Peer, claim: Claim) -> None:
    """The second look, with a read begun after our claim was read back: is it still the same?"""
    slot, seen = peer.slot, claim.seen
    assert seen is not None, "a claim is written after a first look"
    assert claim.written_at is not None, "the second look follows the write"
    if slot is None or slot.problem:
        why = slot.problem if slot is not None else "it cannot be read"
        _refuse(turn, peer, claim, f"the slot of {peer.node}: {why}")
        return
    if slot.digest != seen.digest or slot.unchanged_since != seen.unchanged_since:
        _refuse(turn, peer, claim, f"the slot of {peer.node} changed while it was claimed: it lives")
        return
    inputs = (
        (f"slot of {peer.node}", f"unchanged for {slot.read_at - slot.unchanged_since:.1f} s"),
        ("our claim", f"written and read back, begun {turn.now - claim.written_at:.3f} s ago"),
    )
    turn.put_peer(replace(peer, claim=replace(claim, passed=True)))
    turn.journal("", "lease", f"the lease of {peer.node} is ours", "it has run out", inputs=inputs)
    turn.all_dirty()


def _refuse(turn: Turn, peer: Peer, claim: Claim, why: str) -> None:
    pause_s = min(CLAIM_RETRY_MAX_S, turn.config.beat_interval_s * 2.0 ** min(claim.tries, 10))
    refused = replace(
        claim, look=None, sequence=None, refused=why, retry_at=turn.now + pause_s, tries=claim.tries + 1
    )
    if why != claim.before:
        turn.journal(
            "",
            "alarm",
            f"the lease of {peer.node} was not had",
            f"{why}; tried again in {pause_s:.1f} s, then more seldom",
        )
    turn.put_peer(replace(peer, claim=refused))
    turn.all_dirty()
    for instance in list(turn.instances.values()):
        if instance.called or any(waiter.verb in _ASKS_FOR_IT for waiter in instance.waiting):
            _answer_called(turn, instance, why)


def _answer_called(turn: Turn, instance: Instance, why: str) -> None:
    """The operator who asked for this takeover is told; nothing starts later, unattended."""
    for waiter in instance.waiting:
        if waiter.verb in _ASKS_FOR_IT:
            turn.reply(waiter.command_id, ExitCode.REFUSED, f"{instance.service}: not started: {why}")
    waiting = tuple(w for w in instance.waiting if w.verb not in _ASKS_FOR_IT)
    turn.put(replace(instance, called=False, waiting=waiting))


def next_change_at(state: NodeState, now: float) -> Optional[float]:
    """Return when time alone may next change an answer of this module; None for never."""
    times: List[float] = []
    until = deadline(state)
    guards = state.guarded is not None and state.guarded.services
    if until is not None and not state.lease.is_broken and guards:
        times.append(until)
    if is_leased(state):
        for peer in state.peers.values():
            if peer.liveness not in _SILENT:
                continue
            claim = peer.claim
            if claim is None:
                times.append(claimable_at(state, peer))
                continue
            times.append(claim.retry_at if claim.refused else claim.deadline)
            if claim.look is not None:
                times.append(claim.look.until)
            until = passed_until(state, peer)
            if until is not None:
                times.append(until)
    return min((t for t in times if t > now), default=None)


def is_known(state: NodeState) -> bool:
    """Tell whether our lease is known yet: a new daemon's is, once a beat or its slot went through."""
    return not is_leased(state) or state.lease.until is not None or state.phase is not Phase.RUNNING
