"""The guardian of one machine: the process that outlives the daemon, around the pure deadlines.

Does what `core.guardian.look` says: runs stop actions, kills, resets the machine. It has the
machine's clock, stands still only when the whole machine does, and is new after a boot.
"""

from __future__ import annotations

from typing import Callable, Optional, Tuple

from opensvc_hb.core.effects import Guard, RunAction
from opensvc_hb.core.guardian import KillInstance, Order, StopInstance, Watch, look, ordered
from opensvc_hb.core.states import ActionVerb
from opensvc_hb.sim.actions import Runner
from opensvc_hb.sim.timeline import Timeline

GUARDIAN_ACTION = 0
"""The id of its actions: no daemon's."""

ROUNDING_S = 1e-9
"""A clock set to the true time of a reading may show a hair less."""


class Guardian:
    """Holds the daemon's last order.

    Args:
        clock: what the machine's clock shows; true: the true time of a reading.
        acted: told in words what was done, with the service's name.
        reset: ends the machine.
        kill_s: true seconds from a kill to the death of the processes.
        holds_more: whether a dead service still holds something that only a stop gives back.
    """

    def __init__(
        self,
        timeline: Timeline,
        runner: Runner,
        clock: Callable[[], float],
        true: Callable[[float], float],
        acted: Callable[[str, str], None],
        reset: Callable[[], None],
    ) -> None:
        self.watch = Watch()
        self.kill_s = 0.0
        self.holds_more = False
        self.is_unreachable = False
        self._timeline = timeline
        self._runner = runner
        self._clock = clock
        self._true = true
        self._acted = acted
        self._reset = reset
        self._looks = 0
        self._asleep = False
        self._is_off = False
        self._untold: Optional[Guard] = None

    def order(self, guard: Guard) -> bool:
        """Take in an order; tell whether it was confirmed."""
        if self.is_unreachable:
            self._untold = guard
            return False
        self._untold = None
        self.watch = ordered(self.watch, Order(guard.until, guard.timeout_s, guard.services, guard.ending))
        self._look()
        return True

    def reach(self) -> None:
        """Answer again: the daemon gives the newest order once more."""
        self.is_unreachable = False
        if self._untold is not None:
            self.order(self._untold)

    def forget(self) -> None:
        """A new guardian in place of this one; the daemon gives it the last order."""
        order = self.watch.order
        self.watch = Watch()
        if order is not None:
            self.watch = ordered(self.watch, order)
            self._look()

    def lease(self) -> Tuple[Optional[float], float, Tuple[Tuple[str, str], ...]]:
        """Return what a new daemon is told: deadline, its T, services; None when nothing is guarded."""
        order = self.watch.order
        return (order.until, order.timeout_s, order.services) if order and order.services else (None, 0.0, ())

    def guards(self, service: str) -> bool:
        """Tell whether the confirmed order names a service."""
        order = self.watch.order
        return order is not None and any(name == service for name, _ in order.services)

    def power_off(self) -> None:
        """The machine is off: a new guardian begins with its next boot."""
        self._is_off = True

    def sleep(self) -> None:
        """Stand still with the machine."""
        self._asleep = True

    def wake(self) -> None:
        """Go on, and look at once."""
        self._asleep = False
        self._look()

    def _due(self, number: int) -> None:
        if number == self._looks:
            self._look()

    def _look(self) -> None:
        if self._asleep or self._is_off or self.watch.order is None:
            return
        self._looks += 1
        names = frozenset(name for name, _ in self.watch.order.services)
        self.watch, deeds, next_at = look(self.watch, self._runner.gone(names), self._clock())
        for deed in deeds:
            if isinstance(deed, StopInstance):
                self._acted(deed.service, f"the guardian stops {deed.service}")
                request = RunAction(
                    deed.service, deed.svcname, GUARDIAN_ACTION, ActionVerb.STOP, max(deed.limit_s, 0.001)
                )
                self._timeline.after(self.kill_s, self._stop, request)
            elif isinstance(deed, KillInstance):
                self._acted(deed.service, f"the guardian kills {deed.service}")
                self._timeline.after(self.kill_s, self._kill, deed.service)
            else:
                self._acted("", f"the guardian resets the node: {', '.join(deed.services)} held")
                self._reset()
                if self._is_off:
                    return
        if next_at is not None:
            at = max(self._true(next_at), self._timeline.now) + ROUNDING_S
            self._timeline.timer(at, self._due, self._looks)

    def _stop(self, request: RunAction) -> None:
        if not self._is_off:
            self._runner.run(request, None)

    def _kill(self, service: str) -> None:
        if not self._is_off:
            self._runner.kill_service(service, is_last=not self.holds_more)
