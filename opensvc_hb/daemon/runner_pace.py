"""How many actions are begun at once?

As many as are useful. A hundred processes on two processors end no sooner than four at a time,
and meanwhile each of them is forked, and none has started its service. But an action that waits
(for a disk, for a program that takes its time) uses no processor, and must hold nobody.

So an action counts as busy for a moment after it was begun, and another is begun only while
few are busy; one that takes longer is waiting for something, and counts no more. Nor does
anybody wait while a processor has nothing to do. There is no event that tells of that; so the
kernel is asked, every few milliseconds, and only while something is to be begun.

Runs in: the runner process.
"""

from __future__ import annotations

import os
from typing import Callable, Dict

BUSY_S = 0.05
"""So long after its begin an action counts as busy."""
LOOK_EVERY_S = 0.005
_FEWEST = 4
_PER_PROCESSOR = 2


def running_now() -> int:
    """Return how many threads of the machine run, or could, this one included.

    Source: proc(5), /proc/loadavg, the fourth field.
    """
    descriptor = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(descriptor, 128).split()[3].partition(b"/")[0])
    finally:
        os.close(descriptor)


class Pace:
    """Counts what is busy.

    Args:
        clock: seconds.
        processors: of this machine that we may use.
        running: see `running_now`.
    """

    def __init__(
        self, clock: Callable[[], float], processors: int = 0, running: Callable[[], int] = running_now
    ) -> None:
        self._clock = clock
        self._processors = processors or len(os.sched_getaffinity(0))
        self._running = running
        self._begun: Dict[int, float] = {}
        self._look_at = 0.0
        self._idle = 0
        self.most = max(_FEWEST, _PER_PROCESSOR * self._processors)
        """How many may be busy while every processor has something to do."""

    def began(self, number: int) -> None:
        """The action of this number was begun."""
        if len(self._begun) >= self.most:
            self._idle -= 1
        self._begun[number] = self._clock()

    def ended(self, number: int) -> None:
        """It has ended, if it was not forgotten before."""
        self._begun.pop(number, None)

    def has_room(self) -> bool:
        """Tell whether another may begin now."""
        now = self._clock()
        self._forget(now)
        if len(self._begun) < self.most:
            return True
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self._idle = self._processors - (self._running() - 1)
        return self._idle > 0

    @property
    def is_quiet(self) -> bool:
        """Tell whether nothing was begun a moment ago that has not ended."""
        self._forget(self._clock())
        return not self._begun

    def changes_at(self, is_eager: bool) -> float:
        """Return when there may be more room, or quiet, than now.

        Args:
            is_eager: something waits for room.
        """
        first = next(iter(self._begun.values()), 0.0) + BUSY_S
        return min(first, self._look_at) if is_eager else first

    def _forget(self, now: float) -> None:
        """Actions are kept in the order of their begin."""
        while self._begun:
            first = next(iter(self._begun))
            if now < self._begun[first] + BUSY_S:
                return
            del self._begun[first]
