"""May this node start a service? Offers, acknowledgements, and acting on the table's verdict.

START_READY is an offer, stamped with the incarnation and sequence of its first beat. It
becomes a start only when a beat of the peer acknowledges that stamp and announces STOPPED or
FROZEN_STOP in the same snapshot, and only while the peer cannot have taken us for dead. There
is no fixed sleep: nobody waits for longer than it takes to be heard.
"""

from __future__ import annotations

from typing import List, Optional

from opensvc_hb.core import lease, legacy
from opensvc_hb.core.config import Service, TakeoverPolicy
from opensvc_hb.core.healing import goes_first, order, settle_contest, yield_here
from opensvc_hb.core.membership import PERMISSION_SHARE
from opensvc_hb.core.node_state import Instance, Liveness, NodeState, Offer, Peer, Purpose, is_going
from opensvc_hb.core.records import replace
from opensvc_hb.core.rules import CLAIM_REFUSED, Guard, Order, Rule, Situation, Verdict, decide, strictest
from opensvc_hb.core.states import ActionVerb, Role, State
from opensvc_hb.core.turn import Turn, change_state, decision_inputs
from opensvc_hb.core.watching import moved_here

_BEGINS = (Verdict.START, Verdict.OFFER, Verdict.CLAIM)
_SILENT = (Liveness.UNKNOWN, Liveness.WAITING)


def offer_is_settled(offer: Offer, incarnation: int, peer: Peer, now: float) -> bool:
    """Tell whether the peer's newest beat makes a start of our offer.

    It must acknowledge the stamp, its states must be of the same snapshot, and the beats of
    ours that it last heard must be younger than 0.6 of their links' timeouts: until then it
    cannot have taken us for dead.
    """
    return (
        peer.table_current
        and offer.incarnation == incarnation
        and peer.acked >= offer.sequence
        and now < peer.trusted_until
    )


def situation(state: NodeState, instance: Instance, peer: Peer, now: float) -> Situation:
    """Return what the decision table needs to know of one service and one peer."""
    config = state.config
    service = config.services[instance.service]
    entry = peer.table.get(instance.service)
    announced = entry.state if entry is not None else State.UNKNOWN
    offer = instance.offer
    agreed = not peer.config_digest or peer.config_digest == config.digest
    role = Role.PRIMARY if goes_first(service, config.node, peer.node, agreed) else Role.SECONDARY
    return Situation(
        own=instance.state,
        role=role,
        liveness=peer.liveness,
        peer=announced,
        settled=offer is not None and offer_is_settled(offer, state.incarnation, peer, now),
        aged=legacy.settles(peer, instance, now),
        order=(
            Order.NONE
            if entry is None
            else order(service, config.node, instance, peer.node, entry, agreed, peer.is_legacy)
        ),
        maintenance=(
            instance.service in peer.maintenance
            and not peer.confirmed_dead
            and not (config.policies.takeover_frozen and announced is State.FROZEN_START)
        ),
        ask=(
            config.policies.takeover is TakeoverPolicy.ASK and not peer.confirmed_dead and not instance.called
        ),
        handing=instance.handing_until is not None and now < instance.handing_until,
        going=is_going(state.phase),
        lapse=lease.lapse(state, instance, now),
        broken=state.lease.is_broken,
        guard=lease.guard_answer(state, peer, now),
    )


def holding_rule(state: NodeState, instance: Instance, now: float) -> Rule:
    """Return the row that holds an instance where it is, or moves it.

    With several other nodes the one that allows least counts.
    """
    rules: List[Rule] = []
    for node in state.config.services[instance.service].nodes:
        peer = state.peers.get(node)
        if peer is not None:
            rules.append(decide(situation(state, instance, peer, now)))
    if not rules:
        going = is_going(state.phase)
        alone = Situation(instance.state, Role.PRIMARY, Liveness.NOBODY, State.UNKNOWN, going=going)
        rules.append(decide(alone))
    return strictest(rules)


def act(turn: Turn, name: str) -> None:
    """Look at one service and do what the table says."""
    instance = turn.instances[name]
    if not instance.verified:
        return
    rule = holding_rule(seen(turn), instance, turn.now)
    if rule.verdict is Verdict.END:
        lease.end_here(turn, instance, rule.sentence, rule.id)
        return
    if rule.verdict is Verdict.YIELD:
        yield_here(turn, instance, rule)
        return
    if instance.action is not None:
        return
    if instance.paused_until is not None:
        if turn.now < instance.paused_until and rule.verdict in _BEGINS:
            return
        instance = replace(instance, paused_until=None)
        turn.note(instance)
    if rule.verdict is Verdict.START:
        start(turn, instance, rule.sentence, rule.id)
    elif rule.verdict is Verdict.OFFER:
        make_offer(turn, instance, rule.sentence, rule.id)
    elif rule.verdict is Verdict.WITHDRAW:
        withdraw(turn, instance, rule.sentence, rule.id)
    elif rule.verdict is Verdict.CLAIM:
        _claim(turn, instance)
        _note_hold(turn, turn.instances[name], rule)
    else:
        _note_hold(turn, instance, rule)


def _claim(turn: Turn, instance: Instance) -> None:
    """Claim the lease of the first peer that stands in the way; others follow when it is ours."""
    state = seen(turn)
    for node in turn.config.services[instance.service].nodes:
        peer = turn.peers.get(node)
        if peer is not None and decide(situation(state, instance, peer, turn.now)).verdict is Verdict.CLAIM:
            lease.claim(turn, node)
            return


def seen(turn: Turn) -> NodeState:
    """Return the node as it stands in the middle of a turn."""
    return replace(turn.state, instances=turn.instances, peers=turn.peers)


def _note_hold(turn: Turn, instance: Instance, rule: Rule) -> None:
    """Journal a row that holds a service the first time, if somebody may ask why."""
    if rule.id == "H2" and not instance.contested:
        instance = turn.put(replace(instance, contested=True))
    # A claim that is tried again is no news, until it ends otherwise.
    retried = rule.guard in (Guard.WANTED, Guard.ASKED) and instance.held_by == CLAIM_REFUSED
    if rule.id != instance.held_by and not retried:
        instance = replace(instance, held_by=rule.id)
        turn.note(instance)
        if rule.verdict is Verdict.HOLD and (rule.alarm or instance.state in (State.STOPPED, State.UNKNOWN)):
            kind = "alarm" if rule.alarm else "hold"
            turn.journal(
                instance.service,
                kind,
                f"stays {instance.state.name}",
                rule.sentence,
                rule.id,
                decision_inputs(turn, instance),
            )
    settle_contest(turn, instance)


def make_offer(turn: Turn, instance: Instance, reason: str, rule: str) -> None:
    """Announce START_READY; its stamp is the beat that this turn sends."""
    offer = Offer(turn.state.incarnation, turn.next_sequence, turn.now)
    change_state(turn, replace(instance, offer=offer), State.START_READY, reason, rule)


def withdraw(turn: Turn, instance: Instance, reason: str, rule: str) -> None:
    """Take an offer back. An operator who waits for the start is told why it is not."""
    change_state(turn, instance, State.STOPPED, reason, rule)


def start(turn: Turn, instance: Instance, reason: str, rule: str) -> None:
    """Begin to start: the epoch is above all seen, and stored before STARTING is announced.

    This is the one place where a start begins; what must succeed first against a silent peer
    (a guard) has been asked by then, as the table says.
    """
    service = turn.config.services[instance.service]
    if service.monitoring.resources and instance.highest_epoch > instance.epoch:
        instance = replace(instance, watching=moved_here(instance.watching, turn.now))
    epoch = max(instance.epoch, instance.highest_epoch) + 1
    instance = replace(instance, epoch=epoch, highest_epoch=epoch)
    instance = change_state(turn, instance, State.STARTING, reason, rule)
    by = _permitted_until(turn, service)
    turn.run(instance, ActionVerb.START, Purpose.RULE, State.STARTED, service.start_limit_s, by)


def _permitted_until(turn: Turn, service: Service) -> Optional[float]:
    """Return when what the peers said, or their silence, stops to be leave to start; None for never.

    The shell looks once more before it begins: storing the state may have taken that long.
    """
    moments = []
    for node in service.nodes:
        peer = turn.peers.get(node)
        if peer is not None and peer.liveness is Liveness.ALIVE:
            moments.append(peer.trusted_until)
        elif peer is not None and peer.liveness is Liveness.LEFT and peer.left_until is not None:
            moments.append(peer.left_until)
        elif peer is not None and peer.liveness in _SILENT and not peer.confirmed_dead:
            # Silence is no leave for long: a peer that came back meanwhile waits in the queue.
            claimed = lease.passed_until(turn.state, peer)
            silence = turn.now + PERMISSION_SHARE * turn.config.longest_timeout_s
            moments.append(silence if claimed is None else claimed)
    return min(moments, default=None)
