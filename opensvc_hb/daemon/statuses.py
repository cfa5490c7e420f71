"""Every service's status document, kept fresh in the background for svcmon.

A check may be a process of seconds, and svcmon over many services must feel instant: so each
service is evaluated once per interval, the services spread evenly over it in small groups, and
at once after an action; whoever asks gets the last document with its age. What was evaluated while an
action of the service ran, even in part, shows neither before nor after: it is thrown away.

This module never decides anything: the monitor is told what each evaluation says of the
resources. The hb state inside a document is as old as the document; readers ask for the
present one themselves.

Runs in: statuses thread (the class `_StatusLoop`); `Statuses` in whichever thread calls it.
`StatusSchedule` is pure.
"""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass
from types import MappingProxyType
from typing import (
    AbstractSet,
    Any,
    Callable,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

from opensvc_hb.core.config import Service
from opensvc_hb.core.events import ResourceReport
from opensvc_hb.core.states import Avail
from opensvc_hb.daemon.monitoring_wire import reports_of
from opensvc_hb.daemon.runner import STATUS_LIMIT_S, NotEvaluated, StatusAnswer, StatusEvaluated
from opensvc_hb.daemon.sessions import boottime

DEFAULT_INTERVAL_S = 60.0
MONITOR_INTERVAL_S = 10.0
"""Between evaluations of a service whose resources are watched."""
PARALLEL = 2
GROUP_MAX = 16
AHEAD = 1 / 6
"""This part of the interval a service may be evaluated early, in the company of others."""
_FIRST_PASS_STEP_S = 1.0
"""The first evaluations come no further apart than this: a new daemon knows nothing yet."""

AskStatus = Callable[[Sequence[str], Callable[[StatusAnswer], None], float], None]
"""`Runner.status`: svcnames, callback (called for each), limit_s."""


@dataclass(frozen=True)
class FreshStatus:
    """A status document and its age: seconds since its evaluation began."""

    document: Mapping[str, Any]
    age_s: float


def avail_of(document: Mapping[str, Any]) -> Avail:
    """Return what a status document says of the resources of the instance here.

    `stdby up` is down: only what is always on is up. `n/a` and `undef` say nothing, nor does a
    document in which a resource could not tell (`unknown`), or a warning with nothing up beside it.
    Source: agents, aggregation of `avail` over the groups of resources.
    """
    words = {
        "up": Avail.UP,
        "down": Avail.DOWN,
        "stdby up": Avail.DOWN,
        "stdby down": Avail.DOWN,
        "warn": Avail.MIXED,
    }
    if document.get("unknown"):
        return Avail.UNKNOWN
    avail = words.get(str(document.get("avail")), Avail.UNKNOWN)
    return avail if avail is not Avail.MIXED or _anything_up(document) else Avail.UNKNOWN


def _anything_up(document: Mapping[str, Any]) -> bool:
    return any(
        resource.get("status") == "up" and not rid.startswith(("hb#", "sync#", "stonith#"))
        for rid, resource in document.get("resources", {}).items()
    )


class StatusSchedule:
    """Which services are evaluated when, and which of them together.

    Each evaluation is a process, and the services of a group share one: what is due soon is taken
    along with what is due. What is due because an action has ended is not kept waiting by that,
    and a service that may be why its group was not finished is asked alone.

    Pure: times come as arguments, seconds of one clock.

    Args:
        interval_s: each service is evaluated once in this time.
        parallel: how many groups may be evaluated at once.
        group_max: services of one group.
        watch_interval_s: the same for those that are watched; never more than `interval_s`.
    """

    def __init__(
        self,
        interval_s: float,
        parallel: int = PARALLEL,
        group_max: int = GROUP_MAX,
        watch_interval_s: float = MONITOR_INTERVAL_S,
    ) -> None:
        self._interval_s = interval_s
        self._watch_interval_s = min(watch_interval_s, interval_s)
        self._watched: FrozenSet[str] = frozenset()
        self._parallel = parallel
        self._group_max = group_max
        self._base = 0.0
        self._slots: Dict[str, float] = {}
        self._due: Dict[str, float] = {}
        self._running: Dict[str, float] = {}
        self._groups: Dict[str, FrozenSet[str]] = {}
        self._urgent: Set[str] = set()
        self._alone: Set[str] = set()
        self._in_action: Set[str] = set()
        self._spoilt: Set[str] = set()

    def set_services(self, svcnames: Iterable[str], now: float) -> None:
        """Replace the services. Those kept keep their due time; new ones come soon."""
        names = sorted(set(svcnames))
        if names == sorted(self._slots):
            return
        self._base = now
        step = self._interval_s / max(1, len(names))
        self._slots = {name: number * step for number, name in enumerate(names)}
        new = [name for name in names if name not in self._due]
        first_step = min(_FIRST_PASS_STEP_S, step)
        soon = {name: now + number * first_step for number, name in enumerate(new)}
        self._due = {name: self._due.get(name, soon.get(name, now)) for name in names}
        for some in (self._in_action, self._urgent, self._alone):
            some &= set(names)

    def set_watched(self, svcnames: Iterable[str], now: float) -> None:
        """Replace the services that are evaluated at the monitor's pace."""
        self._watched = frozenset(svcnames)
        for name in self._watched & self._due.keys():
            self._due[name] = min(self._due[name], self._next_slot(name, now))

    def look_again(self, svcname: str, now: float) -> None:
        """Evaluate a service next; what is being evaluated now does not count as that."""
        if svcname in self._slots:
            self._spoil(svcname)
            self._hasten(svcname, now)

    def action_began(self, svcname: str) -> None:
        """An action runs: what is evaluated meanwhile says nothing."""
        if svcname in self._slots:
            self._in_action.add(svcname)
            self._spoil(svcname)

    def action_ended(self, svcname: str, now: float) -> None:
        """An action has ended: the service is evaluated next."""
        if svcname in self._slots:
            self._in_action.discard(svcname)
            self._spoil(svcname)
            self._hasten(svcname, now)

    def _spoil(self, svcname: str) -> None:
        if svcname in self._running:
            self._spoilt.add(svcname)

    def _hasten(self, svcname: str, now: float) -> None:
        self._urgent.add(svcname)
        self._due[svcname] = min(self._due[svcname], now)

    def take_due(self, now: float) -> Tuple[str, ...]:
        """Return the services to evaluate now as one group, longest due first; they count as running.

        Call it again until it returns none.
        """
        at = self.next_at()
        if at is None or at > now:
            return ()
        taken_up = self._taken_up()
        waiting = sorted([(due, name) for name, due in self._due.items() if name not in taken_up])
        first = waiting[0][1]
        taken = [first] if first in self._alone else self._group(waiting, now)
        group = frozenset(taken)
        for name in taken:
            self._running[name] = now
            self._groups[name] = group
            self._due[name] = self._next_slot(name, max(now, self._due[name]))
            self._urgent.discard(name)
        return tuple(taken)

    def _group(self, waiting: Sequence[Tuple[float, str]], now: float) -> List[str]:
        urgent = waiting[0][1] in self._urgent
        until = now if urgent else now + self._interval_s * AHEAD
        fitting = [name for due, name in waiting if due <= until and name not in self._alone]
        if urgent:
            fitting = [name for name in fitting if name in self._urgent]
        return fitting[: self._group_max]

    def ended(self, svcname: str, now: float, again_alone: bool = False) -> Optional[float]:
        """An evaluation ended: return when it began, or None when its result is to be thrown away.

        Args:
            svcname: whose.
            now: seconds.
            again_alone: it came to nothing, perhaps for another of its group: it is evaluated
                next, alone.
        """
        began = self._running.pop(svcname)
        del self._groups[svcname]
        if svcname not in self._slots:
            self._spoilt.discard(svcname)
            return None
        if again_alone:
            self._alone.add(svcname)
        else:
            self._alone.discard(svcname)
        if svcname in self._spoilt or again_alone:
            self._spoilt.discard(svcname)
            self._hasten(svcname, now)
            return None
        return began

    def next_at(self) -> Optional[float]:
        """Return when `take_due` has something to give, None when that depends on an event first."""
        if self._is_full():
            return None
        taken_up = self._taken_up()
        return min([due for name, due in self._due.items() if name not in taken_up], default=None)

    def _is_full(self) -> bool:
        return len(set(self._groups.values())) >= self._parallel

    def _taken_up(self) -> AbstractSet[str]:
        """Return the services of which nothing can be evaluated now."""
        return self._running.keys() | self._in_action

    def _next_slot(self, svcname: str, now: float) -> float:
        """Return the service's next place on the grid: a late evaluation is not made up for."""
        interval_s = self._watch_interval_s if svcname in self._watched else self._interval_s
        first = self._base + self._slots[svcname] % interval_s
        if first > now:
            return first
        return first + ((now - first) // interval_s + 1) * interval_s


@dataclass(frozen=True)
class _SetServices:
    """Command: look after these, by svcname; the value is the hb name."""

    names: Mapping[str, str]


@dataclass(frozen=True)
class _ActionBegan:
    """Command: an action of this service runs."""

    svcname: str


@dataclass(frozen=True)
class _ActionEnded:
    """Command: an action of this service has ended."""

    svcname: str


@dataclass(frozen=True)
class _Watch:
    """Command: evaluate these at the monitor's pace, by svcname."""

    svcnames: Tuple[str, ...]


@dataclass(frozen=True)
class _LookAgain:
    """Command: evaluate this service next."""

    svcname: str


@dataclass(frozen=True)
class _Close:
    """Command: end the thread."""


_Command = Union[
    _SetServices,
    _ActionBegan,
    _ActionEnded,
    _Watch,
    _LookAgain,
    _Close,
    StatusEvaluated,
    NotEvaluated,
]

OnAvail = Callable[[str, Avail, Tuple[ResourceReport, ...]], None]
"""Told the hb name, what an evaluation says of it, and of its monitored resources."""


@dataclass(frozen=True)
class _Document:
    """What the last evaluation of a service said, and when it began."""

    document: Mapping[str, Any]
    began_at: float


class Statuses:
    """The status documents of this node's services.

    Args:
        ask: asks for some documents (`Runner.status`); must not block.
        on_avail: told what each evaluation says, on the statuses thread.
        log: gets one line when a service begins to be, or is no longer, impossible to evaluate.
        interval_s: `status_interval`.
        parallel, limit_s: evaluations at once, and the time limit of each.
        watch_interval_s: `monitor_interval`.
        clock: seconds, advancing also in suspend.
    """

    def __init__(
        self,
        ask: AskStatus,
        on_avail: OnAvail,
        log: logging.Logger,
        interval_s: float = DEFAULT_INTERVAL_S,
        parallel: int = PARALLEL,
        limit_s: float = STATUS_LIMIT_S,
        clock: Callable[[], float] = boottime,
        watch_interval_s: float = MONITOR_INTERVAL_S,
    ) -> None:
        self._clock = clock
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        schedule = StatusSchedule(interval_s, parallel, watch_interval_s=watch_interval_s)
        self._loop = _StatusLoop(self._commands, ask, on_avail, log, schedule, limit_s, clock)
        self._thread = threading.Thread(target=self._loop.run, name="statuses", daemon=True)

    def start(self) -> None:
        """Start the thread; commands given before are kept."""
        self._thread.start()

    def set_services(self, services: Iterable[Service]) -> None:
        """Look after these services from now on, and forget the others."""
        names = {service.svcname: service.name for service in services}
        self._commands.put(_SetServices(MappingProxyType(names)))

    def action_began(self, svcname: str) -> None:
        """Tell that an action of the service was asked for."""
        self._commands.put(_ActionBegan(svcname))

    def watch(self, svcnames: Iterable[str]) -> None:
        """Evaluate these services at the monitor's pace from now on, and no others."""
        self._commands.put(_Watch(tuple(svcnames)))

    def look_again(self, svcname: str) -> None:
        """Evaluate a service next."""
        self._commands.put(_LookAgain(svcname))

    def action_ended(self, svcname: str) -> None:
        """Tell that an action of the service has ended: it is evaluated next."""
        self._commands.put(_ActionEnded(svcname))

    def fresh(self, svcnames: Optional[Iterable[str]] = None) -> Mapping[str, FreshStatus]:
        """Return the documents known now, by svcname; a service without one is absent."""
        documents = self._loop.snapshot
        now = self._clock()
        wanted = list(documents) if svcnames is None else [name for name in svcnames if name in documents]
        return {
            name: FreshStatus(documents[name].document, max(0.0, now - documents[name].began_at))
            for name in wanted
        }

    def close(self) -> None:
        """End the thread; evaluations that run are left to their limit, and ignored."""
        self._commands.put(_Close())
        if self._thread.is_alive():
            self._thread.join()


class _StatusLoop:
    """The statuses thread. Others read `snapshot` only, which is replaced, never changed.

    It is replaced once for all answers that waited together, and before they are told.
    """

    def __init__(
        self,
        commands: queue.SimpleQueue[_Command],
        ask: AskStatus,
        on_avail: OnAvail,
        log: logging.Logger,
        schedule: StatusSchedule,
        limit_s: float,
        clock: Callable[[], float],
    ) -> None:
        self.snapshot: Mapping[str, _Document] = MappingProxyType({})
        self._commands = commands
        self._ask = ask
        self._on_avail = on_avail
        self._log = log
        self._schedule = schedule
        self._limit_s = limit_s
        self._clock = clock
        self._names: Mapping[str, str] = {}
        self._failing: Set[str] = set()
        self._documents: Dict[str, _Document] = {}
        self._to_publish = False
        self._to_tell: List[Tuple[str, Avail, Tuple[ResourceReport, ...]]] = []
        """What `on_avail` is to be told."""

    def run(self) -> None:
        """Work until closed."""
        while True:
            try:
                if not self._turn():
                    return
            except Exception:  # the top of the thread
                self._log.exception("the statuses thread failed on one event; it goes on with the next")

    def _turn(self) -> bool:
        """Take what is due, wait for a command, obey it; False when it says to end."""
        while True:
            group = self._schedule.take_due(self._clock())
            if not group:
                break
            self._ask(group, self._commands.put, self._limit_s)
        for command in self._wait():
            if isinstance(command, _Close):
                return False
            self._obey(command)
        self._publish()
        return True

    def _wait(self) -> List[_Command]:
        """Return the commands that wait, as soon as there is one or an evaluation is due."""
        at = self._schedule.next_at()
        commands: List[_Command] = []
        try:
            commands.append(self._commands.get(timeout=None if at is None else max(0.0, at - self._clock())))
            while True:
                commands.append(self._commands.get_nowait())
        except queue.Empty:
            return commands

    def _obey(self, command: _Command) -> None:
        now = self._clock()
        if isinstance(command, _SetServices):
            self._names = command.names
            self._schedule.set_services(command.names, now)
            self._documents = {n: known for n, known in self._documents.items() if n in command.names}
            self._to_publish = True
        elif isinstance(command, _ActionBegan):
            self._schedule.action_began(command.svcname)
        elif isinstance(command, _ActionEnded):
            self._schedule.action_ended(command.svcname, now)
        elif isinstance(command, _Watch):
            self._schedule.set_watched(command.svcnames, now)
        elif isinstance(command, _LookAgain):
            self._schedule.look_again(command.svcname, now)
        elif isinstance(command, (StatusEvaluated, NotEvaluated)):
            self._take(command, now)

    def _take(self, answer: StatusAnswer, now: float) -> None:
        again = isinstance(answer, NotEvaluated) and answer.among_others
        began = self._schedule.ended(answer.svcname, now, again)
        if began is None:
            return
        name = self._names[answer.svcname]
        if isinstance(answer, NotEvaluated):
            if answer.svcname not in self._failing:
                self._failing.add(answer.svcname)
                self._log.warning("%s could not be evaluated: %s", answer.svcname, answer.reason)
            self._to_tell.append((name, Avail.UNKNOWN, ()))
            return
        if answer.svcname in self._failing:
            self._failing.discard(answer.svcname)
            self._log.info("%s is evaluated again", answer.svcname)
        self._documents[answer.svcname] = _Document(answer.document, began - answer.age_s)
        self._to_publish = True
        self._to_tell.append((name, avail_of(answer.document), reports_of(answer.document)))

    def _publish(self) -> None:
        if self._to_publish:
            self._to_publish = False
            self.snapshot = MappingProxyType(dict(self._documents))
        told, self._to_tell = self._to_tell, []
        for name, avail, reports in told:
            self._on_avail(name, avail, reports)
