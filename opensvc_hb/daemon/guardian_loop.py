"""The loop of the guardian: one daemon's orders in, deeds at their deadlines.

When something is due is decided by `core.guardian` (`ordered`, `look`); how it is done by the
modules beside this one. This loop waits for nothing but its descriptors: no file system, no
child, no daemon. All that the daemon has said is read before anything is done, so that a
guardian that was paused acts on the newest order.

What counts as gone, which `look` asks for: before the kill, an instance whose stop action,
begun here, ended well and of which nothing is held; after it, one of which nothing is held.
So one whose processes cannot be recognised still gets its stop action.

Runs in: the guardian process, whose only thread it is.
"""

from __future__ import annotations

import os
import selectors
import socket
from collections import deque
from dataclasses import dataclass
from typing import Callable, Deque, Dict, FrozenSet, List, Optional, Sequence, Set, Tuple

from opensvc_hb.core.guardian import (
    KILL_SHARE,
    RESET_SHARE,
    STOP_SHARE,
    Done,
    KillInstance,
    Order,
    ResetNode,
    StopInstance,
    Watch,
    look,
    ordered,
)
from opensvc_hb.daemon.guardian_door import Connection, Door
from opensvc_hb.daemon.guardian_held import NodeHoldings, describe
from opensvc_hb.daemon.guardian_processes import Member, ServiceProcesses
from opensvc_hb.daemon.guardian_reset import ResetKind, Resetter
from opensvc_hb.daemon.guardian_stops import Log, StopEnded, Stops
from opensvc_hb.daemon.guardian_wire import (
    Acted,
    Answer,
    Greeting,
    Hello,
    Know,
    Ordered,
    Refusal,
    Renewed,
    Request,
    Rested,
    WireError,
    read_request,
)
from opensvc_hb.daemon.guardian_wire import Done as Obeyed

FIRST_DAEMON_WITHIN_S = 10.0
"""A guardian to which no daemon comes within this time ends."""
UNTOLD_MAX = 200
"""Deeds that are remembered for the next daemon."""
_KILL_AGAIN_S = 0.005
_HELD_AGAIN_S = 1.0
"""What not even the last deed ended is looked at, and killed, so often."""
_STOP_AGAIN_S = 15.0
"""And so often a stop action is run for it. None is ended sooner but by the kill of its service."""


@dataclass(frozen=True)
class Parts:
    """What the loop works with.

    Args:
        release: of the package that this process runs from.
    """

    processes: ServiceProcesses
    holdings: NodeHoldings
    resetter: Resetter
    log: Log
    make_stops: Callable[[Callable[[StopEnded], None]], Stops]
    release: str


class GuardianLoop:
    """Guards the instances of one root.

    Args:
        listener: the socket that daemons connect to, listening.
        selector: for all descriptors; the keys' data are functions without arguments.
        clock: seconds of CLOCK_BOOTTIME.
    """

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        parts: Parts,
        clock: Callable[[], float],
    ) -> None:
        self._selector = selector
        self._processes = parts.processes
        self._holdings = parts.holdings
        self._resetter = parts.resetter
        self._log = parts.log
        self._stops = parts.make_stops(self._stop_ended)
        self._door = Door(listener, selector, self._obey, self._closed, clock)
        self._release = parts.release
        self._clock = clock
        self._watch = Watch()
        self._know: Optional[Know] = None
        self._daemon: Optional[Connection] = None
        self._rest_awaited = False
        self._untold: Deque[Acted] = deque(maxlen=UNTOLD_MAX)
        self._ended_well: Set[str] = set()
        self._killing: Dict[str, StopInstance] = {}
        self._kill_done_by = 0.0
        self._alone_until = clock() + FIRST_DAEMON_WITHIN_S
        self._again_at = 0.0

    def run(self) -> None:
        """Guard until nothing is guarded and no daemon is connected."""
        while True:
            try:
                if self._is_over():
                    return
                self._turn()
            except Exception as error:  # the top of the process: whatever fails, the deadline is held
                self._log.say(f"a turn of the guardian failed: {_where(error)}")
                self._log.flush()
                self._selector.select(_KILL_AGAIN_S)

    def _turn(self) -> None:
        self._door.read_all()
        wake_at = self._act(self._clock())
        if self._rest_awaited and not self._is_ending and self._daemon is not None:
            self._rest_awaited = False
            self._door.answer(self._daemon, Rested())
        self._log.flush()
        wait_s = None if wake_at is None else max(0.0, wake_at - self._clock())
        for key, _mask in self._selector.select(wait_s):
            key.data()

    def _is_over(self) -> bool:
        order = self._watch.order
        now = self._clock()
        is_awaited = now < self._alone_until
        if is_awaited or self._door.is_in_use or self._is_ending:
            return False
        if order is not None and order.services:
            past = now >= order.at(STOP_SHARE)
            if not past or len(self._gone(order)) < len(order.services):
                return False
        self._resetter.guard(None, now)
        return True

    @property
    def _is_ending(self) -> bool:
        return self._stops.busy or bool(self._killing)

    # -- deadlines ----------------------------------------------------------------------------------

    def _act(self, now: float) -> Optional[float]:
        """Do what is due; return when to look again at the latest."""
        order = self._watch.order
        moments: List[Optional[float]] = []
        if order is not None and order.services:
            gone = self._gone(order) if now >= order.at(STOP_SHARE) else frozenset()
            self._watch, deeds, next_at = look(self._watch, gone, now)
            self._begin(order, [d for d in deeds if isinstance(d, StopInstance)], deeds, now)
            for deed in deeds:
                if isinstance(deed, ResetNode):
                    self._reset(deed, order, now)
            left = [pair for pair in order.services if pair[0] not in gone]
            done = [self._watch.done.get(service, Done.NOTHING) for service, _ in left]
            if next_at is not None and all(level is Done.RESET for level in done):
                self._go_on_ending(left, now)
                next_at = now + _HELD_AGAIN_S
            moments.append(next_at)
        if self._killing:
            self._kill(now)
            moments.append(now + _KILL_AGAIN_S if self._killing else None)
        if self._know is not None:
            self._stops.work(self._know)
        guarded_s = order.timeout_s if order is not None and order.services else None
        trouble = self._resetter.guard(guarded_s, now)
        if trouble:
            self._tell((), trouble, alarm=True)
        self._resetter.feed(now)
        self._door.work(now)
        moments += [self._stops.next_at(), self._resetter.feed_at, self._door.next_at]
        if not self._door.is_in_use and now < self._alone_until:
            moments.append(self._alone_until)
        known = [moment for moment in moments if moment is not None]
        return min(known) if known else None

    def _begin(
        self, order: Order, stops: Sequence[StopInstance], deeds: Sequence[object], now: float
    ) -> None:
        """Begin the kills of a look, and those of its stop actions that follow no kill."""
        killed = [deed for deed in deeds if isinstance(deed, KillInstance)]
        names = {deed.service for deed in killed}
        first = [stop for stop in stops if stop.service not in names]
        age_s = now - order.at(0.0)
        if first:
            services = tuple(stop.service for stop in first)
            what = f"not renewed for {age_s:.1f} s of {order.timeout_s:g} s: the guardian stops "
            self._tell(services, f"{what}{describe(services)}", alarm=True)
            for stop in first:
                self._add_stop(stop)
        if killed:
            services = tuple(deed.service for deed in killed)
            what = f"not ended {age_s:.1f} s of {order.timeout_s:g} s after the last renewal: the guardian "
            self._tell(services, f"{what}kills the processes of {describe(services)}", alarm=True)
            self._stops.drop_waiting({name for name, _ in order.services} - names)
            self._killing.update((stop.service, stop) for stop in stops if stop.service in names)
            self._kill_done_by = now + (RESET_SHARE - KILL_SHARE) * order.timeout_s / 3

    def _kill(self, now: float) -> None:
        """Kill again until none of their processes is left, then stop what else they hold."""
        found = self._processes.end(frozenset(stop.svcname for stop in self._killing.values()))
        for service, stop in list(self._killing.items()):
            left = found.get(stop.svcname, ())
            if left and now < self._kill_done_by:
                continue
            if left:
                self._tell((service,), f"{describe(left)} of {service} survived SIGKILL so far", alarm=True)
            del self._killing[service]
            self._add_stop(stop)

    def _add_stop(self, stop: StopInstance) -> None:
        """Begin a stop action. On a node that is not reset in time it is better late than killed."""
        self._stops.add(stop.service, stop.svcname, max(stop.limit_s, _STOP_AGAIN_S))

    def _go_on_ending(self, left: Sequence[Tuple[str, str]], now: float) -> None:
        """Go on with what is held on a node that was not reset: whoever died late lets it be stopped."""
        self._processes.end(frozenset(svcname for _, svcname in left), with_stops=False)
        if now < self._again_at or self._stops.busy:
            return
        self._again_at = now + _STOP_AGAIN_S
        for service, svcname in left:
            self._stops.add(service, svcname, _STOP_AGAIN_S)

    def _stop_ended(self, end: StopEnded) -> None:
        order = self._watch.order
        if end.status == 0:
            if order is not None and self._clock() >= order.at(STOP_SHARE):
                self._ended_well.add(end.service)  # else the daemon may have started it since
            self._tell((end.service,), f"the guardian has stopped {end.service} in {end.took_s:.1f} s")
            return
        how = f"was killed by signal {-end.status}" if end.status < 0 else f"ended with status {end.status}"
        words = f": {end.last_words}" if end.last_words else ""
        what = f"the guardian's stop action of {end.service} {how} after {end.took_s:.1f} s{words}"
        self._tell((end.service,), what, alarm=True)

    def _reset(self, deed: ResetNode, order: Order, now: float) -> None:
        held = self._held([pair for pair in order.services if pair[0] in deed.services])
        if not held:
            return  # it ended since the look
        named = describe([f"{thing} of {service}" for service in held for thing in held[service]])
        why = f"{now - order.at(0.0):.1f} s after the last renewal something is still held here: {named}"
        done = self._resetter.reset(f"{why}: reset")
        self._tell(deed.services, f"{why}: {done}", alarm=True)

    # -- what is left ---------------------------------------------------------------------------------

    def _gone(self, order: Order) -> FrozenSet[str]:
        """Return the services of the order of which nothing is here any more."""
        asked = [
            (service, svcname)
            for service, svcname in order.services
            if service not in self._killing
            and (self._watch.done.get(service, Done.NOTHING) >= Done.KILLED or service in self._ended_well)
        ]
        held = self._held(asked) if asked else {}
        return frozenset(service for service, _ in asked if service not in held)

    def _held(self, services: Sequence[Tuple[str, str]]) -> Dict[str, Tuple[object, ...]]:
        """Return what of each service keeps it from running elsewhere; nothing for who holds nothing."""
        found = self._processes.find(frozenset(svcname for _, svcname in services))
        known = self._know.held if self._know is not None else {}
        wanted = (thing for _, svcname in services for thing in known.get(svcname, ()))
        still = frozenset(self._holdings.still_held(thing for thing in wanted if thing.kind.endangers))
        held: Dict[str, Tuple[object, ...]] = {}
        for service, svcname in services:
            living: List[Member] = [member for member in found.get(svcname, ()) if not member.stops]
            things = [thing for thing in known.get(svcname, ()) if thing in still]
            if living or things:
                held[service] = (*things, *living)
        return held

    # -- what the daemon says -------------------------------------------------------------------------

    def _obey(self, connection: Connection, line: bytes) -> None:
        try:
            request = read_request(line)
            answer = self._take_in(connection, request)
        except WireError as error:
            self._log.say(f"a line of process {connection.pid} was refused: {error}")
            answer = Refusal(error.number, str(error))
        self._door.answer(connection, answer)

    def _take_in(self, connection: Connection, request: Request) -> Answer:
        """Do what one line says; raises WireError when it cannot be, and changes nothing then."""
        if isinstance(request, Hello):
            return self._greet(connection)
        if connection is not self._daemon:
            raise WireError("no hello yet", request.number)
        if isinstance(request, Know):
            self._learn(request)
        elif isinstance(request, Ordered):
            self._order(request.order)
        else:
            self._order(self._renewal(request))
        return Obeyed(request.number)

    def _greet(self, connection: Connection) -> Greeting:
        """The newest daemon is the one that is listened to."""
        before, self._daemon = self._daemon, connection
        self._alone_until = 0.0
        if before is not None and before is not connection:
            self._door.close(before)
        self._processes.spare(connection.pid)
        told = tuple(self._untold)
        self._untold.clear()
        self._log.say(f"the daemon, process {connection.pid}, is connected")
        self._rest_awaited = self._is_ending
        return Greeting(os.getpid(), self._release, self._watch.order, told, self._rest_awaited)

    def _learn(self, know: Know) -> None:
        if know.reset not in {kind.value for kind in ResetKind}:
            raise WireError(f"reset: '{know.reset}' is no way to reset a node", know.number)
        if not know.stop:
            raise WireError("stop: no command", know.number)
        self._know = know
        self._resetter.configure(ResetKind(know.reset), know.watchdog)

    def _renewal(self, request: Renewed) -> Order:
        order = self._watch.order
        if order is None:
            raise WireError("there is no order to renew", request.number)
        return Order(request.until, order.timeout_s, order.services, order.ending)

    def _order(self, order: Order) -> None:
        before, was_ending = self._watch.order, bool(self._watch.done)
        self._watch = ordered(self._watch, order)
        kept = {name for name, _ in order.services} if before is not None else set()
        if before is None or order.until > before.until:
            if was_ending:
                self._log.say("the daemon has renewed its order: nothing more is ended")
            kept = set()
        self._ended_well &= kept
        for name in [name for name in self._killing if name not in kept]:
            del self._killing[name]
        self._stops.drop_waiting(kept)
        if before is None or before.services != order.services:
            names = tuple(name for name, _ in order.services)
            self._log.say(f"guards {describe(names) or 'nothing'}, T = {order.timeout_s:g} s")

    # -- what it says ---------------------------------------------------------------------------------

    def _tell(self, services: Tuple[str, ...], what: str, alarm: bool = False) -> None:
        self._log.say(what)
        acted = Acted(services, what, alarm)
        if self._daemon is None:
            self._untold.append(acted)
        else:
            self._door.answer(self._daemon, acted)

    def _closed(self, connection: Connection) -> None:
        if connection is self._daemon:
            self._daemon = None
            self._log.say(f"the daemon, process {connection.pid}, is gone")


def _where(error: BaseException) -> str:
    """Return an exception and its places without reading the source from disk."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return f"{type(error).__name__}: {error} at {' < '.join(reversed(places))}"
