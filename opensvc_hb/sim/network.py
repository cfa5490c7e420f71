"""What becomes of a beat on a network: lost, late, doubled, overtaken.

A weather per direction and one for all; cuts are the world's own. When bounded, the network
keeps its word never to be silent between two nodes for longer than it promised, which is what a
cluster without a lease relies on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, FrozenSet, Optional, Tuple

from opensvc_hb.core.messages import Beat
from opensvc_hb.sim.chance import Chance

DELAY_S = 0.001
USUAL_DELAYS = frozenset({DELAY_S})
LATE_SHARE = 0.5
"""Of the beats in bad weather, so many are late; the others come at the usual time."""


@dataclass(frozen=True)
class Weather:
    """How a network treats beats.

    Args:
        loss, doubles: shares of the beats, 0 to 1; bare: of those that come without their table.
        delay_s: the longest delay of a beat, seconds; different ones reorder.
    """

    loss: float = 0.0
    doubles: float = 0.0
    delay_s: float = DELAY_S
    bare: float = 0.0


FAIR = Weather()


class Network:
    """Answers a world's `on_deliver`.

    Args:
        silence_max_s: never longer between two nodes while both send; None for no such promise.
    """

    def __init__(
        self, chance: Chance, clock: Callable[[], float], silence_max_s: Optional[float] = None
    ) -> None:
        self.weather = FAIR
        self.silence_max_s = silence_max_s
        self._chance = chance
        self._clock = clock
        self._passed_at: Dict[Tuple[str, str], float] = {}

    def __call__(self, link_id: str, listener: str, beat: Beat) -> FrozenSet[float]:
        """Return the delays of the copies that arrive, seconds."""
        weather = self.weather
        if weather is FAIR:
            return USUAL_DELAYS
        stream = f"{link_id}>{listener}"
        if self._chance.draw(stream) < weather.loss and not self._must_pass(beat.sender, listener):
            return frozenset()
        self._passed_at[beat.sender, listener] = self._clock()
        copies = {self._delay_s(stream)}
        if self._chance.draw(stream) < weather.doubles:
            copies.add(self._delay_s(stream))
        return frozenset(copies)

    def bares(self, link_id: str, listener: str) -> bool:
        """Tell whether the next beat loses its table on its way: the datagrams that carry it are lost."""
        share = self.weather.bare
        return share > 0 and self._chance.draw(f"bare {link_id}>{listener}") < share

    def _delay_s(self, stream: str) -> float:
        if self._chance.draw(stream) < LATE_SHARE:
            return DELAY_S
        return self._chance.uniform(stream, 0.0, self.weather.delay_s)

    def _must_pass(self, sender: str, listener: str) -> bool:
        if self.silence_max_s is None:
            return False
        passed_at = self._passed_at.get((sender, listener))
        return passed_at is None or self._clock() - passed_at >= self.silence_max_s
