"""How long until the other node starts the services: after a power cut, a halt, a switch.

Each measurement is a function of a cluster that runs its services on one node and leaves them
on the other, so that it can be repeated; times are seconds of CLOCK_BOOTTIME, the same for
all nodes, since they share a kernel.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Optional

from clusters import READY_LIMIT_S, Cluster, Opensvc
from lab import Node
from wire import Wire

HALT_LIMIT_S = 120.0


@dataclass(frozen=True)
class PowerCut:
    """One takeover, seconds.

    Args:
        from_kill_s: from the power cut to the first start action, minus the detection time. The
            last beat was up to an interval old at the cut, so this is mostly negative.
        from_beat_s: from the last beat to the first start action, minus the detection time.
        spread_s: from the first start action to the last one.
        decision_s: from the decision, as the journal has it, to the last start action; None
            where the software keeps no such journal.
    """

    from_kill_s: float
    from_beat_s: float
    spread_s: float
    decision_s: Optional[float]


def now_s() -> float:
    """Return the seconds of CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def cut_power(cluster: Cluster, owner: str, chance: random.Random) -> PowerCut:
    """Kill the owner of all services at a random moment of its beat's period; then bring it back."""
    lab = cluster.lab
    victim, survivor = lab.node(owner), lab.peer_of(owner)
    with Wire(lab.switch.machine) as wire:
        time.sleep(2 * cluster.beat_interval_s + chance.random() * cluster.beat_interval_s)
        killed_at = now_s()
        victim.kill()
        limit_s = cluster.timeout_s + READY_LIMIT_S
        starts = cluster.stamps.wait(killed_at, survivor.name, "start", cluster.count, limit_s)
    first, last = starts[0].at, starts[-1].at
    beat_at = wire.last(victim.number, cluster.frames)
    decided_at = _decided_at(survivor, killed_at) if isinstance(cluster, Opensvc) else None
    cluster.return_node(owner)
    return PowerCut(
        from_kill_s=first - killed_at - cluster.detection_s,
        from_beat_s=first - beat_at - cluster.detection_s,
        spread_s=last - first,
        decision_s=None if decided_at is None else last - decided_at,
    )


def _decided_at(survivor: Node, killed_at: float) -> float:
    """Return when the survivor decided its first takeover since a moment."""
    entries = survivor.hbmgr("events", "--last", "0", "--format", "json", timeout_s=60).json()
    decisions = [
        entry["at"] for entry in entries if entry["at"] > killed_at and entry["service"] and entry["rule"]
    ]
    return min(decisions)


def halt(cluster: Cluster, owner: str) -> float:
    """Have the owner leave in order; return the seconds from its last stop to the first start."""
    lab = cluster.lab
    leaving, survivor = lab.node(owner), lab.peer_of(owner)
    begun_at = now_s()
    cluster.stop_in_order(leaving)
    stops = cluster.stamps.wait(begun_at, owner, "stopped", cluster.count, HALT_LIMIT_S)
    starts = cluster.stamps.wait(begun_at, survivor.name, "start", cluster.count, HALT_LIMIT_S)
    leaving.kill()
    cluster.return_node(owner)
    return starts[0].at - stops[-1].at


def planned_switch(cluster: Cluster, owner: str) -> float:
    """Move one service in order; return the seconds from the end of its stop to its start."""
    survivor = cluster.lab.peer_of(owner)
    begun_at = now_s()
    cluster.switch(cluster.lab.node(owner))
    stops = cluster.stamps.wait(begun_at, owner, "stopped", cluster.count, HALT_LIMIT_S)
    starts = cluster.stamps.wait(begun_at, survivor.name, "start", cluster.count, HALT_LIMIT_S)
    cluster.after_switch(cluster.lab.node(owner))
    return starts[0].at - stops[-1].at
