"""What is the status of a service, given those of its resources?

The agents' merge table and their rules of aggregation, and nothing else: pure, no driver
is called here. `evaluate` asks the resources and calls this, `document` stores the result.

Source: B.1 (values), B.2 (merge), B.3 (aggregation).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Dict, Iterable, Mapping, Tuple

from opensvc_hb.agent.resource import Status

AVAIL_GROUPS = ("container", "ip", "disk", "fs", "share", "app")
"""The groups that make `avail`, in svcmon's order."""

GROUPS = (*AVAIL_GROUPS, "hb", "sync")
"""All groups, in svcmon's order."""


class Merged(enum.IntEnum):
    """A status inside a computation: the agents' two mixtures are no status of a resource."""

    UP = 0
    DOWN = 1
    WARN = 2
    NA = 3
    TODO = 4
    UNDEF = 5
    STDBY_UP = 6
    STDBY_DOWN = 7
    STDBY_UP_WITH_UP = 8
    STDBY_UP_WITH_DOWN = 9

    @property
    def shown(self) -> Status:
        """The status shown: up for 8, stdby up for 9."""
        if self is Merged.STDBY_UP_WITH_UP:
            return Status.UP
        if self is Merged.STDBY_UP_WITH_DOWN:
            return Status.STDBY_UP
        return Status(int(self))


_U, _D, _W, _T = Merged.UP, Merged.DOWN, Merged.WARN, Merged.TODO
_SU, _SD, _8, _9 = Merged.STDBY_UP, Merged.STDBY_DOWN, Merged.STDBY_UP_WITH_UP, Merged.STDBY_UP_WITH_DOWN

_ORDER = (_U, _D, _T, _SU, _SD, _8, _9)
_TABLE: Mapping[Merged, Tuple[Merged, ...]] = {
    _U: (_U, _W, _W, _8, _W, _8, _W),
    _D: (_W, _D, _W, _9, _SD, _W, _9),
    _T: (_W, _W, _T, _T, _T, _T, _T),
    _SU: (_8, _9, _T, _SU, _W, _8, _9),
    _SD: (_W, _SD, _T, _W, _SD, _W, _W),
    _8: (_8, _W, _T, _8, _W, _8, _W),
    _9: (_W, _9, _T, _9, _W, _W, _9),
}
"""B.2, row and column in the order of `_ORDER`."""


def merge(one: Merged, other: Merged) -> Merged:
    """Merge two statuses; commutative.

    Source: B.2: undef is neutral; n/a is neutral, except with todo: warn; warn with
    anything is warn; the rest is the table.
    """
    if one is Merged.UNDEF:
        return other
    if other is Merged.UNDEF:
        return one
    if _W in (one, other):
        return _W
    if Merged.NA in (one, other):
        rest = other if one is Merged.NA else one
        return _W if rest is _T else rest
    return _TABLE[one][_ORDER.index(other)]


def merge_all(statuses: Iterable[Merged], start: Merged = Merged.UNDEF) -> Merged:
    """Merge statuses from left to right, beginning with `start`."""
    result = start
    for status in statuses:
        result = merge(result, status)
    return result


@dataclass(frozen=True)
class ResourceStatus:
    """One resource as `print status` shows it.

    Args:
        group: container, ip, disk, fs, share, app, sync or hb.
        type: name of its type (`fs`, `disk.loop`, `hb.openha`).
        set_name: `type`, or `type:subset`.
        status: as shown, standby included.
        known: False when the evaluation hung or broke down: the status then is a guess.
    """

    rid: str
    group: str
    type: str
    set_name: str
    status: Status
    label: str
    messages: Tuple[str, ...] = ()
    monitor: bool = False
    disable: bool = False
    optional: bool = False
    encap: bool = False
    tags: Tuple[str, ...] = ()
    known: bool = True


@dataclass(frozen=True)
class Aggregate:
    """The statuses of a service: avail, overall, and each of `GROUPS`."""

    avail: Status
    overall: Status
    groups: Mapping[str, Status]


@dataclass(frozen=True)
class ServiceStatus:
    """A service's state on one node at one moment.

    Args:
        resources: in display order.
        totals: avail, overall and the groups.
        frozen: by the agent's own freeze.
        service_type, mode, app_code: for svcmon.
    """

    svcname: str
    node: str
    service_type: str
    mode: str
    app_code: str
    frozen: bool
    resources: Tuple[ResourceStatus, ...]
    totals: Aggregate

    @property
    def unknown(self) -> Tuple[str, ...]:
        """Names of the resources that could not tell."""
        return tuple(resource.rid for resource in self.resources if not resource.known)


def aggregate(resources: Iterable[ResourceStatus]) -> Aggregate:
    """Aggregate the statuses of a service's resources, given in display order.

    Source: B.3: a disabled resource (and a guest's) is left out of its set; a set merges
    its resources, a group its sets, avail the groups but sync and hb.
    """
    listed = tuple(resources)
    merged = _groups(listed)
    avail = merge_all((merged[group] for group in AVAIL_GROUPS), start=Merged.NA)
    shown = {group: status.shown for group, status in merged.items()}
    if avail is Merged.STDBY_UP_WITH_UP:
        avail = Merged.UP
        shown = {g: Status.UP if s is Status.STDBY_UP and g in AVAIL_GROUPS else s for g, s in shown.items()}
    syncs = [Merged(int(r.status)) for r in listed if r.group == "sync" and not r.disable]
    return Aggregate(avail.shown, overall_of(avail.shown, shown["hb"], (s.shown for s in syncs)), shown)


def overall_of(avail: Status, hb: Status, syncs: Iterable[Status]) -> Status:
    """Return the overall status: avail, merged with hb as is, then with each sync.

    Source: B.3.4: of a sync up counts for nothing, n/a and undef as themselves, anything
    else as warn.
    """
    result = merge(Merged(int(avail)), Merged(int(hb)))
    for sync in syncs:
        if sync in (Status.NA, Status.UNDEF):
            result = merge(result, Merged(int(sync)))
        elif sync is not Status.UP:
            result = merge(result, Merged.WARN)
    return result.shown


def rest_of(resources: Iterable[ResourceStatus]) -> Status:
    """Return the overall of everything but app, sync and hb, which decides on those three.

    Source: B.4 (app) and B.5 (R).
    """
    return aggregate(r for r in resources if r.group not in ("app", "sync", "hb")).avail


def _groups(resources: Tuple[ResourceStatus, ...]) -> Dict[str, Merged]:
    sets: Dict[str, Dict[str, Merged]] = {group: {} for group in GROUPS}
    for resource in resources:
        members = sets[resource.group]
        before = members.setdefault(resource.set_name, Merged.UNDEF)
        if not resource.disable and not resource.encap:
            members[resource.set_name] = merge(before, Merged(int(resource.status)))
    return {group: merge_all(members.values(), start=Merged.NA) for group, members in sets.items()}
