"""What does a node's clock show? CLOCK_BOOTTIME of one boot, by the world's true time.

Nodes' clocks begin at another moment each and go at another rate. Everything a core is told
or tells is in the seconds of its own clock; what is truly so at once is the world's to judge.
"""

from __future__ import annotations

from dataclasses import dataclass

RATE_RATIO_MAX = 1.05
"""The lease holds while no clock goes faster than another by more than this."""


@dataclass(frozen=True)
class Clock:
    """A clock that showed `showed_s` at the true time `started_at`.

    Args:
        rate: seconds that it counts in one true second.
    """

    started_at: float = 0.0
    showed_s: float = 0.0
    rate: float = 1.0

    def reads(self, now: float) -> float:
        """Return what it shows at a true time."""
        return self.showed_s + (now - self.started_at) * self.rate

    def true(self, reading: float) -> float:
        """Return the true time at which it shows so much."""
        return self.started_at + (reading - self.showed_s) / self.rate

    def lasts(self, seconds: float) -> float:
        """Return how long, truly, so many of its seconds last."""
        return seconds / self.rate
