"""When does the guardian act? The deadlines of a lease, seen by the process that outlives the daemon.

The daemon ends its own instances when the lease has run for `END_SHARE` of T. The guardian
holds the deadlines that follow, whatever became of the daemon: a little later it runs the stop
action itself where the daemon does not, then it kills what is left, and at `RESET_SHARE`, when
something of an instance is still held here, it resets the node: from `1.0` T on the peer may
start. `look` is asked again and again; it remembers nothing but what it returns.

Pure. Called by the guardian process and by the simulator.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import FrozenSet, List, Mapping, Optional, Tuple, Union

from opensvc_hb.core.records import replace

END_SHARE = 0.6
"""The daemon begins to end its instances when the lease is this share of T old."""
STOP_SHARE = 0.65
"""The guardian runs the stop action of those that the daemon is not ending."""
KILL_SHARE = 0.75
"""The guardian kills what is left, and runs the stop action once more."""
RESET_SHARE = 0.9
"""The guardian resets the node if something is still held."""

LOOKS_PER_TIMEOUT = 50
LOOK_MAX_S = 0.2


class Done(enum.IntEnum):
    """How far the guardian has gone with one instance."""

    NOTHING = 0
    STOPPED = 1
    KILLED = 2
    RESET = 3


@dataclass(frozen=True)
class Order:
    """What the daemon told last; see `effects.Guard`."""

    until: float
    timeout_s: float
    services: Tuple[Tuple[str, str], ...] = ()
    ending: Tuple[str, ...] = ()

    def at(self, share: float) -> float:
        """Return the clock seconds at which the lease has run for `share` of T."""
        return self.until + (share - END_SHARE) * self.timeout_s


@dataclass(frozen=True)
class StopInstance:
    """Run the stop action of this service now, with what is left of the time as its limit."""

    service: str
    svcname: str
    limit_s: float


@dataclass(frozen=True)
class KillInstance:
    """Kill every process of this service now, those of its actions too."""

    service: str
    svcname: str


@dataclass(frozen=True)
class ResetNode:
    """Reset the node now: these instances still hold something here."""

    services: Tuple[str, ...]


Deed = Union[StopInstance, KillInstance, ResetNode]


@dataclass(frozen=True)
class Watch:
    """What the guardian knows: the order in force, how far it went with each service, when it killed."""

    order: Optional[Order] = None
    done: Mapping[str, Done] = field(default_factory=dict)
    killed_at: Mapping[str, float] = field(default_factory=dict)


def ordered(watch: Watch, order: Order) -> Watch:
    """Take in an order of the daemon. What was done for an instance that is renewed is forgotten."""
    names = {name for name, _ in order.services}
    if watch.order is None or order.until > watch.order.until:
        return Watch(order)
    return replace(watch, order=order, done={n: done for n, done in watch.done.items() if n in names})


def look(watch: Watch, gone: FrozenSet[str], now: float) -> Tuple[Watch, Tuple[Deed, ...], Optional[float]]:
    """Return what is to be done now, and when to look again at the latest (None: when told).

    Args:
        watch: the order in force, and what was done so far.
        gone: services of the order of which nothing is held here any more: no process, file
            system, volume group or address. It matters from the deadline on only.
        now: seconds of CLOCK_BOOTTIME.
    """
    order = watch.order
    if order is None or not order.services:
        return watch, (), None
    if now < order.at(STOP_SHARE):
        return watch, (), order.at(STOP_SHARE)
    deeds: List[Deed] = []
    done, killed_at = dict(watch.done), dict(watch.killed_at)
    look_s = min(LOOK_MAX_S, order.timeout_s / LOOKS_PER_TIMEOUT)
    left = [(service, svcname) for service, svcname in order.services if service not in gone]
    limit_s = max(0.0, order.at(RESET_SHARE) - now)
    for service, svcname in left:
        level = done.get(service, Done.NOTHING)
        if now >= order.at(KILL_SHARE) and level < Done.KILLED:
            done[service] = Done.KILLED
            killed_at[service] = now
            deeds.append(KillInstance(service, svcname))
            deeds.append(StopInstance(service, svcname, limit_s))
        elif level < Done.STOPPED and service not in order.ending:
            done[service] = Done.STOPPED
            deeds.append(StopInstance(service, svcname, limit_s))
    # A node that slept through all of it kills first: that has one look's time to be enough.
    held = tuple(s for s, _ in left if done.get(s) is Done.KILLED and now >= killed_at[s] + look_s)
    if now >= order.at(RESET_SHARE) and held:
        done.update(dict.fromkeys(held, Done.RESET))
        deeds.append(ResetNode(held))
    next_at = now + look_s if left else None
    return replace(watch, done=done, killed_at=killed_at), tuple(deeds), next_at
