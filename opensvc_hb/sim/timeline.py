"""What happens next? The one queue of a simulated world, in the order of its true time.

Knows nothing of nodes: it calls what it was given, when it is due. Two things due at the same
moment happen in the order in which they were asked for, timers of daemons last, so that one
seed gives one trace.
"""

from __future__ import annotations

import heapq
from typing import Any, Callable, List, Tuple


class Timeline:
    """True time, seconds from the world's beginning, and what is due."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: List[Tuple[float, int, int, Callable[..., None], Tuple[Any, ...]]] = []
        self._count = 0

    def number(self) -> int:
        """Return a number not given before."""
        self._count += 1
        return self._count

    def after(self, delay_s: float, do: Callable[..., None], *arguments: object) -> None:
        """Have something done so many seconds from now."""
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay_s, 0, self._count, do, arguments))

    def timer(self, at: float, do: Callable[..., None], *arguments: object) -> None:
        """Have something done at a moment, behind all else that is due then."""
        self._count += 1
        heapq.heappush(self._heap, (at, 1, self._count, do, arguments))

    def run_until(self, end: float) -> None:
        """Let the time pass, doing what is due."""
        heap = self._heap
        while heap and heap[0][0] <= end:
            at, _, _, do, arguments = heapq.heappop(heap)
            self.now = max(self.now, at)
            do(*arguments)
        self.now = max(self.now, end)
