"""Both run it: which one stays? And what becomes of the one that yields?

The order is total and computed alike on both sides from what each announces: an instance
whose resources are not up yields whatever its epoch, then the higher epoch stays, then the
primary. Only the lower side acts, and only when it hears the higher one.
"""

from __future__ import annotations

from typing import Optional

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import HealPolicy, Service
from opensvc_hb.core.messages import Entry
from opensvc_hb.core.node_state import Freeze, Instance, Liveness, Purpose
from opensvc_hb.core.records import replace
from opensvc_hb.core.rules import Order, Rule
from opensvc_hb.core.states import GIVES_WAY, ActionVerb, Avail, State
from opensvc_hb.core.summary import resources_up
from opensvc_hb.core.turn import Turn, change_state

HEALED = "healing of a double start"
"""Who froze the side that yielded; an operator unfreezes it once the data were looked at."""

CONTENDING = frozenset({State.STARTED, State.STARTING, State.FROZEN_START})
"""States that make a double start when both sides are in one of them."""


def goes_first(service: Service, node: str, peer: str, agreed: bool) -> bool:
    """Tell whether `node` stands before `peer`, as both nodes compute it.

    Both read the same list when their configurations are `agreed`. Else both may be first in
    their own lists, or neither: then their names decide, which are the same on both.
    """
    if not agreed:
        return node < peer
    return service.nodes.index(node) < service.nodes.index(peer)


def order(
    service: Service,
    node: str,
    own: Instance,
    peer: str,
    entry: Entry,
    agreed: bool = True,
    is_legacy: bool = False,
) -> Order:
    """Tell which side of a double start this node is, against one peer's entry."""
    if own.state not in CONTENDING or entry.state not in CONTENDING:
        return Order.NONE
    if is_legacy:
        return Order.FOREIGN
    ours = (resources_up(own), own.epoch)
    theirs = (entry.resources_up, entry.epoch)
    if ours == theirs:
        return Order.HIGHER if goes_first(service, node, peer, agreed) else Order.LOWER
    return Order.HIGHER if ours > theirs else Order.LOWER


def yield_here(turn: Turn, instance: Instance, rule: Rule) -> None:
    """Stop this side: its start is cancelled first if it is still under way."""
    action = instance.action
    if action is not None and action.verb in GIVES_WAY:
        if instance.yielding is None:
            turn.effects.append(fx.CancelAction(instance.service, action.action_id))
            instance = turn.put(replace(instance, yielding=Purpose.HEAL))
            text = f"{action.verb.value} cancelled"
            turn.journal(instance.service, "alarm", text, rule.sentence, rule.id)
        return
    instance = turn.drop_announcement(instance)
    if instance.action is not None:
        return  # a verify ends by itself; the next look finds the double start again
    stop_to_heal(turn, instance, rule.sentence, rule.id)


def stop_to_heal(turn: Turn, instance: Instance, reason: str, rule: str) -> None:
    """Run the stop action of the side that yields."""
    service = turn.config.services[instance.service]
    instance = change_state(turn, replace(instance, yielding=None), State.STOPPING, reason, rule, "alarm")
    turn.run(instance, ActionVerb.STOP, Purpose.HEAL, State.STOPPED, service.stop_limit_s)


def after_yielding(turn: Turn, instance: Instance) -> Instance:
    """The lower side has stopped: frozen only if the higher one is still heard alive.

    A record of a peer no longer heard, such as a dead node's slot, stops but never freezes.
    """
    node = _higher_heard(turn, instance)
    if node is None or turn.config.policies.heal is HealPolicy.STOP:
        return change_state(turn, instance, State.STOPPED, "the double start is healed", kind="heal")
    reason = f"both nodes ran it; {node} has the higher claim and keeps it"
    freeze = Freeze(HEALED, reason, "")
    return change_state(turn, replace(instance, freeze=freeze), State.FROZEN_STOP, reason, kind="heal")


def _higher_heard(turn: Turn, instance: Instance) -> Optional[str]:
    for node in turn.config.services[instance.service].nodes:
        peer = turn.peers.get(node)
        if peer is None or peer.liveness not in (Liveness.ALIVE, Liveness.ONE_WAY):
            continue
        entry = peer.table.get(instance.service)
        if entry is not None and entry.state in CONTENDING:
            return node
    return None


def settle_contest(turn: Turn, instance: Instance) -> None:
    """Announce the addresses of the one that stayed, once no other side runs the service.

    Source: after a split the winner must say so; switches and hosts remember the loser.
    """
    if not instance.contested or instance.state is not State.STARTED or instance.action is not None:
        return
    for node in turn.config.services[instance.service].nodes:
        peer = turn.peers.get(node)
        if peer is None:
            continue
        if not peer.table_current:
            return
        entry = peer.table.get(instance.service)
        if entry is not None and entry.state in CONTENDING | {State.STOPPING}:
            return
    instance = turn.put(replace(instance, contested=False))
    turn.journal(instance.service, "heal", "addresses announced again", "this side keeps the service")
    turn.run(instance, ActionVerb.ANNOUNCE, Purpose.ANNOUNCE, instance.state, 30.0)


def note_resources(turn: Turn, instance: Instance, avail: Avail) -> Instance:
    """Take in what the agent says of the resources; unknown leaves the last answer standing."""
    if avail is Avail.UNKNOWN or avail is instance.resources:
        return instance
    before = resources_up(instance)
    instance = turn.put(replace(instance, resources=avail))
    if resources_up(instance) is not before:
        turn.send()
    return instance
