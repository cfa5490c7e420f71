"""An operator switches a service: it stops here, and the other node goes first.

The other node starts it by its own rules; nothing tells it to. This side only holds back until
the other has it, fails, or does not begin in time: then the ordinary rules are back in force.
"""

from __future__ import annotations

from typing import Optional

from opensvc_hb.core.node_state import Instance, Liveness, Peer
from opensvc_hb.core.records import replace
from opensvc_hb.core.states import State, Verb
from opensvc_hb.core.turn import Turn
from opensvc_hb.errors import ExitCode


def may_take(peer: Peer, service: str) -> bool:
    """Tell whether a peer is heard, hears us, and has the service STOPPED and not frozen."""
    entry = peer.table.get(service)
    return peer.liveness is Liveness.ALIVE and entry is not None and entry.state is State.STOPPED


def hand_over(turn: Turn, instance: Instance) -> Instance:
    """The stop has succeeded: hold back for as long as the other side may take to start."""
    limit_s = turn.config.services[instance.service].start_limit_s
    return turn.put(replace(instance, handing_until=turn.now + limit_s + turn.config.longest_timeout_s))


def progress(turn: Turn, name: str) -> None:
    """End a hand-over when the other node has the service, failed, or is not heard any more."""
    instance = turn.instances[name]
    if instance.handing_until is None:
        return
    taker = _taker(turn, instance)
    late = turn.now >= instance.handing_until
    if instance.state not in (State.STOPPED, State.UNKNOWN):
        _answer(turn, instance, ExitCode.FAILED, f"it is {instance.state.name} here")
    elif taker is None:
        _answer(turn, instance, ExitCode.FAILED, "no other node is heard: the ordinary rules decide")
    elif taker.table[name].state is State.STARTED:
        _answer(turn, instance, ExitCode.DONE, f"STARTED on {taker.node}")
    elif taker.table[name].state is State.START_FAILED:
        _answer(turn, instance, ExitCode.FAILED, f"its start failed on {taker.node}: see hbmgr events there")
    elif late:
        _answer(turn, instance, ExitCode.TIMED_OUT, f"{taker.node} did not start it in time")


def _taker(turn: Turn, instance: Instance) -> Optional[Peer]:
    for node in turn.config.services[instance.service].nodes:
        peer = turn.peers.get(node)
        if peer is not None and peer.liveness is Liveness.ALIVE and instance.service in peer.table:
            return peer
    return None


def _answer(turn: Turn, instance: Instance, code: ExitCode, text: str) -> None:
    for waiter in instance.waiting:
        if waiter.verb is Verb.SWITCH:
            turn.reply(waiter.command_id, code, f"{instance.service}: {text}")
    waiting = tuple(w for w in instance.waiting if w.verb is not Verb.SWITCH)
    turn.put(replace(instance, handing_until=None, waiting=waiting))
