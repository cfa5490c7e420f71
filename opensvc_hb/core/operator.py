"""What an operator may do: the verbs, from which states, and what is refused.

Source: OpenHA's `service -A` (freeze-stop, freeze-start, unfreeze, force-stop, force-start,
start, stop) acts the same from the same states, with two protections for services run by the
agent: force-start is refused while the peer is heard in a state that may run the service, and
force-stop while resources are up here, both unless forced. A verb whose effect already holds
is done.
"""

from __future__ import annotations

from typing import Callable, Mapping

from opensvc_hb.core import effects as fx
from opensvc_hb.core import lease
from opensvc_hb.core.adoption import VERIFY_LIMIT_S
from opensvc_hb.core.events import CommandGiven, PeerConfirmedDead
from opensvc_hb.core.handover import may_take
from opensvc_hb.core.membership import judge
from opensvc_hb.core.negotiation import holding_rule, make_offer, seen, start
from opensvc_hb.core.node_state import Freeze, Instance, Liveness, Phase, Purpose, Waiting
from opensvc_hb.core.records import replace
from opensvc_hb.core.rules import Verdict
from opensvc_hb.core.states import ActionVerb, Avail, State, Verb
from opensvc_hb.core.summary import rivals
from opensvc_hb.core.turn import GOALS, Turn, change_state
from opensvc_hb.errors import ExitCode

_MAY_RUN_THERE = frozenset(
    {State.STOPPING, State.STARTED, State.STARTING, State.START_READY, State.FROZEN_START}
)


def command(turn: Turn, event: CommandGiven) -> None:
    """Take in an operator's command on one service; a `Reply` follows, now or at its end."""
    instance = turn.instances.get(event.service)
    if instance is None:
        known = ", ".join(sorted(turn.instances)) or "none"
        _refuse(turn, event, ExitCode.NOT_RUNNING, f"no such service on this node (have {known})")
        return
    who = event.who or "operator"
    turn.journal(event.service, "operator", f"{event.verb.value} by {who}", event.reason)
    if turn.going:
        _refuse(turn, event, ExitCode.REFUSED, "this daemon is stopping")
        return
    # A STOPPED service is as startable as before a force-start or start: those go on below.
    if instance.state in GOALS[event.verb]:
        turn.reply(event.command_id, ExitCode.DONE, f"{event.service}: already {instance.state.name}")
        return
    _VERBS[event.verb](turn, turn.drop_announcement(instance), event)


def _refuse(turn: Turn, event: CommandGiven, code: ExitCode, why: str) -> None:
    turn.reply(event.command_id, code, f"{event.service}: {why}")


def _wrong_state(turn: Turn, instance: Instance, event: CommandGiven) -> None:
    advice = {
        State.STARTING: "its start action is running: wait for its end, or use stop --force",
        State.STOPPING: "its stop action is running: wait for its end",
        State.START_FAILED: "after the repair: force-stop to retry here, freeze-stop to let the peer start",
        State.STOP_FAILED: "stop its resources by hand, then force-stop or freeze-stop",
        State.FROZEN_STOP: "unfreeze it first",
        State.FROZEN_START: "unfreeze it first",
        State.START_READY: "it is about to start: freeze-stop takes that back",
    }.get(instance.state, "nothing to do from there")
    why = f"cannot {event.verb.value} from {instance.state.name}: {advice}"
    _refuse(turn, event, ExitCode.REFUSED, why)


def _wait(turn: Turn, instance: Instance, event: CommandGiven) -> Instance:
    waiter = Waiting(event.command_id, event.verb)
    return turn.put(replace(instance, waiting=(*instance.waiting, waiter)))


def _freeze(event: CommandGiven) -> Freeze:
    return Freeze(event.who, event.reason, event.wall)


def _words(event: CommandGiven) -> str:
    who = f" by {event.who}" if event.who else ""
    why = f": {event.reason}" if event.reason else ""
    return f"{event.verb.value}{who}{why}"


def _stop(turn: Turn, instance: Instance, event: CommandGiven) -> None:
    """`stop` and `freeze-stop` of a service that runs here."""
    service = turn.config.services[instance.service]
    frozen = event.verb is Verb.FREEZE_STOP
    then = State.FROZEN_STOP if frozen else State.STOPPED
    freeze = _freeze(event) if frozen else None
    if instance.state is State.STARTING and event.force and instance.action is not None:
        turn.effects.append(fx.CancelAction(instance.service, instance.action.action_id))
        _wait(turn, replace(instance, stop_next=then, freeze_next=freeze), event)
        return
    if instance.state not in (State.STARTED, State.UNKNOWN) or instance.action is not None:
        _wrong_state(turn, instance, event)
        return
    instance = _wait(turn, replace(instance, freeze_next=freeze), event)
    instance = change_state(turn, instance, State.STOPPING, _words(event), kind="operator")
    turn.run(instance, ActionVerb.STOP, Purpose.OPERATOR, then, service.stop_limit_s)


def _freeze_stop(turn: Turn, instance: Instance, event: CommandGiven) -> None:
    failed = instance.state in (State.START_FAILED, State.STOP_FAILED, State.FORCE_STOP)
    if failed and not event.force and instance.action is None:
        # FROZEN_STOP lets the peer start: the resources must be down, whoever says so.
        instance = _wait(turn, replace(instance, freeze_next=_freeze(event)), event)
        turn.run(instance, ActionVerb.VERIFY, Purpose.FORCE_STOP, State.FROZEN_STOP, VERIFY_LIMIT_S)
        return
    if (failed or instance.state in (State.STOPPED, State.START_READY)) and instance.action is None:
        instance = replace(_wait(turn, instance, event), freeze=_freeze(event))
        change_state(turn, instance, State.FROZEN_STOP, _words(event), kind="operator")
        return
    _stop(turn, instance, event)


def _freeze_start(turn: Turn, instance: Instance, event: CommandGiven) -> None:
    if instance.state is State.STARTED and instance.action is None:
        instance = replace(_wait(turn, instance, event), freeze=_freeze(event))
        change_state(turn, instance, State.FROZEN_START, _words(event), kind="operator")
        return
    if instance.state in (State.STARTING, State.START_READY):
        _wait(turn, replace(instance, freeze_next=_freeze(event)), event)
        return
    if instance.state in (State.STOPPED, State.UNKNOWN) and instance.action is None:
        _start(turn, replace(instance, freeze_next=_freeze(event)), event)
        return
    _wrong_state(turn, instance, event)


def _switch(turn: Turn, instance: Instance, event: CommandGiven) -> None:
    """`switch`: stop it here and leave it to the other node, which must be able to take it."""
    service = turn.config.services[instance.service]
    if instance.state is not State.STARTED or instance.action is not None:
        if instance.state in (State.STOPPED, State.FROZEN_STOP):
            _refuse(turn, event, ExitCode.REFUSED, "it does not run here: switch it on the node that runs it")
            return
        _wrong_state(turn, instance, event)
        return
    taker = next((p for n in service.nodes if (p := turn.peers.get(n)) and may_take(p, service.name)), None)
    if taker is None:
        why = "no other node can take it: it must be heard there in state STOPPED (unfreeze it there)"
        _refuse(turn, event, ExitCode.REFUSED, why)
        return
    instance = change_state(
        turn, _wait(turn, instance, event), State.STOPPING, _words(event), kind="operator"
    )
    turn.run(instance, ActionVerb.STOP, Purpose.HAND_OVER, State.STOPPED, service.stop_limit_s)


def _start(turn: Turn, instance: Instance, event: CommandGiven) -> None:
    """`start`: what the table would do by itself; an operator's word replaces takeover = ask."""
    if instance.state in (State.STARTING, State.START_READY):
        _wait(turn, instance, event)
        return
    if instance.state not in (State.STOPPED, State.UNKNOWN) or instance.action is not None:
        _wrong_state(turn, instance, event)
        return
    rule = holding_rule(seen(turn), instance, turn.now)
    if rule.id == "U7":
        instance = replace(instance, called=True)
        rule = holding_rule(seen(turn), instance, turn.now)
    if rule.verdict is Verdict.START:
        start(turn, _wait(turn, instance, event), _words(event), rule.id)
    elif rule.verdict in (Verdict.CLAIM, Verdict.WAIT):
        _wait(turn, instance, event)  # it is claimed by the table, and answered when that has ended
    elif rule.verdict is Verdict.OFFER:
        make_offer(turn, _wait(turn, instance, event), _words(event), rule.id)
    else:
        _refuse(turn, event, ExitCode.REFUSED, f"not started: {rule.sentence} (rule {rule.id})")


def _unfreeze(turn: Turn, instance: Instance, event: CommandGiven) -> None:
    target = {State.FROZEN_STOP: State.STOPPED, State.FROZEN_START: State.STARTED}.get(instance.state)
    if instance.doubtful:  # STOPPED would let the peer start what may run here
        change_state(turn, instance, State.UNKNOWN, _words(event), kind="operator")
        why = "UNKNOWN until the agent can tell what runs here"
        turn.reply(event.command_id, ExitCode.DONE, f"{event.service}: {why}")
        return
    if target is None:
        _wrong_state(turn, instance, event)
        return
    if target is State.STARTED and not _may_run(turn, instance, event):
        return
    change_state(turn, _wait(turn, instance, event), target, _words(event), kind="operator")


def _may_run(turn: Turn, instance: Instance, event: CommandGiven) -> bool:
    """Tell whether what is declared to run here needs no lease, or has it; else refuse."""
    state = seen(turn)
    if lease.holds(state, turn.now) or not rivals(state, instance):
        return True
    why = (
        "this node does not hold its lease now, so it would be ended here at once: see hbmgr status, and "
        "mend the networks or the disk first, or confirm the other node dead"
    )
    _refuse(turn, event, ExitCode.REFUSED, why)
    return False


def _force_start(turn: Turn, instance: Instance, event: CommandGiven) -> None:
    """`force-start`: declares the service STARTED here, runs nothing."""
    if instance.action is not None:
        _wrong_state(turn, instance, event)
        return
    for node in turn.config.services[instance.service].nodes:
        peer = turn.peers.get(node)
        entry = peer.table.get(instance.service) if peer is not None else None
        if peer is None or entry is None or peer.liveness not in (Liveness.ALIVE, Liveness.ONE_WAY):
            continue
        if entry.state in _MAY_RUN_THERE and not event.force:
            why = f"{node} is alive and has it {entry.state.name}: stop it there first, or use --force"
            _refuse(turn, event, ExitCode.REFUSED, why)
            return
    if not _may_run(turn, instance, event):
        return
    epoch = max(instance.epoch, instance.highest_epoch) + 1
    declared = instance.resources is not Avail.UP
    instance = replace(_wait(turn, instance, event), epoch=epoch, highest_epoch=epoch, declared=declared)
    change_state(turn, instance, State.STARTED, _words(event), kind="operator")


def _force_stop(turn: Turn, instance: Instance, event: CommandGiven) -> None:
    """`force-stop`: declares the service STOPPED here, runs nothing but a look at the resources."""
    if instance.action is not None:
        _wrong_state(turn, instance, event)
        return
    instance = _wait(turn, instance, event)
    if event.force:
        change_state(turn, instance, State.STOPPED, _words(event), kind="operator")
        return
    turn.run(instance, ActionVerb.VERIFY, Purpose.FORCE_STOP, State.STOPPED, VERIFY_LIMIT_S)


_VERBS: Mapping[Verb, Callable[[Turn, Instance, CommandGiven], None]] = {
    Verb.START: _start,
    Verb.STOP: _stop,
    Verb.FREEZE_STOP: _freeze_stop,
    Verb.FREEZE_START: _freeze_start,
    Verb.UNFREEZE: _unfreeze,
    Verb.FORCE_START: _force_start,
    Verb.FORCE_STOP: _force_stop,
    Verb.SWITCH: _switch,
}


def confirm_dead(turn: Turn, event: PeerConfirmedDead) -> None:
    """An operator vouches that a silent node is dead: what waited for that goes on."""
    peer = turn.peers.get(event.node)
    if peer is None:
        known = ", ".join(turn.config.peers) or "none"
        text = f"{event.node}: not a peer of this node (have {known})"
        turn.reply(event.command_id, ExitCode.NOT_RUNNING, text)
        return
    if turn.state.phase is Phase.VERIFYING or any(link.up for link in peer.links.values()):
        text = f"{event.node}: its beats are being heard: it is alive, and was not confirmed dead"
        turn.reply(event.command_id, ExitCode.REFUSED, text)
        return
    turn.journal("", "operator", f"{event.node} confirmed dead by {event.who or 'operator'}", event.reason)
    silence_s = max((link.timeout_s for link in peer.links.values()), default=0.0)
    turn.put_peer(
        replace(
            peer,
            confirmed_dead=True,
            promise_s=0.0,
            promised_until=None,
            left_until=None,
            claim=None,
            # It was silent for long enough, whatever we heard of it ourselves: no need to listen first.
            silent_from=min(peer.silent_from, turn.now - silence_s),
        )
    )
    # What runs here needs no disk from now on, nor does what is started in this very turn.
    turn.update(lease=lease.vouched(seen(turn), turn.now))
    turn.send()
    turn.persist()
    judge(turn, event.node)
    turn.all_dirty()
    turn.reply(event.command_id, ExitCode.DONE, f"{event.node}: confirmed dead; it may be taken over from")
