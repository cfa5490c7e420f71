"""A daemon goes: the services run on (restart), or end here first (leave).

A restart is a promise to be back, made in beats and kept by the peer; leaving ends with LEFT,
the last word of this incarnation, which lets the peer start at once. Both exit when a beat of
every live peer acknowledges the word, or when that takes too long: then the peer counts the
ordinary timeout, as for a daemon that was killed.
"""

from __future__ import annotations

from typing import List

from opensvc_hb.core import effects as fx
from opensvc_hb.core import lease
from opensvc_hb.core.events import DaemonStopping, StopKind
from opensvc_hb.core.node_state import Instance, Liveness, Phase, Purpose
from opensvc_hb.core.records import replace
from opensvc_hb.core.states import GIVES_WAY, ActionVerb, State
from opensvc_hb.core.turn import Turn, change_state
from opensvc_hb.errors import ExitCode

FAREWELL_MAX_S = 5.0
"""The longest wait for the acknowledgement of a last word; the timeout if that is shorter."""

_GONE = (Liveness.UNKNOWN, Liveness.WAITING, Liveness.LEFT)
"""Peers that a last word does not wait for. One that may be heard any moment is waited for."""

_ENDING = frozenset({State.STARTED, State.FROZEN_START, State.STARTING, State.STOPPING})


def stopping(turn: Turn, event: DaemonStopping) -> None:
    """Begin to go. A second request changes nothing."""
    if turn.going:
        turn.reply(event.command_id, ExitCode.DONE, "already stopping")
        return
    turn.update(farewell_command=event.command_id)
    if turn.state.phase is Phase.VERIFYING:
        turn.update(stop_asked=event.kind)  # a last word needs a true table
        return
    turn.all_dirty()
    if event.kind is StopKind.LEAVE:
        turn.update(phase=Phase.LEAVING, phase_until=turn.now + turn.config.policies.leave_within_s)
        turn.journal("", "node", "this node leaves", "its instances end here first")
        return
    within_s = turn.config.policies.restart_within_s
    turn.journal(
        "", "node", "the daemon stops, services run on", f"the peers are asked to wait {within_s:g} s"
    )
    _say_farewell(turn, Phase.RESTARTING)


def _say_farewell(turn: Turn, phase: Phase) -> None:
    wait_s = min(FAREWELL_MAX_S, turn.config.longest_timeout_s)
    turn.update(phase=phase, farewell=turn.next_sequence, phase_until=turn.now + wait_s)
    turn.send()


def progress(turn: Turn) -> None:
    """Go on with leaving: stop what runs, say the last word, exit when it was heard."""
    if turn.state.phase is Phase.LEAVING:
        _end_instances(turn)
    if turn.state.phase not in (Phase.RESTARTING, Phase.LEFT):
        return
    farewell = turn.state.farewell
    assert farewell is not None, "a farewell is said before its acknowledgement is awaited"
    listening = [p for p in turn.peers.values() if p.liveness not in _GONE]
    deaf = [peer for peer in listening if peer.is_legacy]
    if turn.state.phase is Phase.RESTARTING:
        # The C program knows no restart: the sooner the next daemon is back, the better.
        listening = [peer for peer in listening if not peer.is_legacy]
    heard = all(peer.acked >= farewell for peer in listening)
    until = turn.state.phase_until
    if not heard and (until is None or turn.now < until):
        return
    if not listening:
        text = "the C program on the other node answers nothing" if deaf else "no peer hears this node"
    else:
        text = "acknowledged by every live peer" if heard else "not acknowledged in time"
    is_leaving = turn.state.phase is Phase.LEFT
    word = "LEFT" if is_leaving else "the restart"
    left_behind = _left_behind(turn) if is_leaving else []
    if left_behind:
        text += f"; but what has not ended here, the other node does not start: {', '.join(left_behind)}"
    turn.journal("", "node", "the daemon exits", f"{word}: {text}")
    code = ExitCode.FAILED if left_behind else ExitCode.DONE
    turn.reply(turn.state.farewell_command, code, f"{word}: {text}")
    if turn.state.phase is Phase.RESTARTING:
        lease.promised(turn)
    turn.effects.append(fx.Exit(f"{word}: {text}"))
    turn.update(phase=Phase.GONE, phase_until=None)


def _left_behind(turn: Turn) -> List[str]:
    """Return the instances that a node leaves with although they may run, each with its state."""
    may_run = _ENDING | {State.STOP_FAILED}
    return [
        f"{each.service} ({each.state.name})" for each in turn.instances.values() if each.state in may_run
    ]


def _end_instances(turn: Turn) -> None:
    for instance in list(turn.instances.values()):
        _end(turn, instance)
    until = turn.state.phase_until
    late = until is not None and turn.now >= until
    left = [i.service for i in turn.instances.values() if i.state in _ENDING]
    if left and not late:
        return
    if left:
        turn.journal("", "alarm", "leaving with instances not ended", ", ".join(left))
    _say_farewell(turn, Phase.LEFT)


def _end(turn: Turn, instance: Instance) -> None:
    """Stop one instance; a start under way is cancelled first."""
    action = instance.action
    if action is not None and action.verb in GIVES_WAY and instance.yielding is None:
        turn.effects.append(fx.CancelAction(instance.service, action.action_id))
        turn.put(replace(instance, yielding=Purpose.LEAVE))
        return
    instance = turn.drop_announcement(instance)
    if instance.action is not None or instance.state not in (State.STARTED, State.FROZEN_START):
        return
    stop_to_leave(turn, instance, "this node leaves")


def stop_to_leave(turn: Turn, instance: Instance, reason: str) -> None:
    """Run the stop action of an instance of a node that leaves; a frozen one stays frozen."""
    then = State.FROZEN_STOP if instance.state is State.FROZEN_START else State.STOPPED
    limit_s = turn.config.services[instance.service].stop_limit_s
    instance = replace(instance, freeze_next=instance.freeze, yielding=None)
    instance = change_state(turn, instance, State.STOPPING, reason)
    turn.run(instance, ActionVerb.STOP, Purpose.LEAVE, then, limit_s)
