"""How long, how often? Numbers that look random and depend on a seed and a count alone.

Each use draws from a stream of its own (a path of the network, the writes of a slot): what
happens on one changes no number of another. So a schedule from which a deed is dropped meets
nearly the same delays and losses, and can be shrunk.
"""

from __future__ import annotations

import zlib
from typing import Dict, Optional

_MASK = (1 << 64) - 1


class Chance:
    """Numbers from one seed. Without a seed every choice is the lowest one, and nothing is lost.

    Source: the mixing steps are those of SplitMix64.
    """

    def __init__(self, seed: Optional[int]) -> None:
        self._seed = seed
        self._counts: Dict[str, int] = {}
        self._streams: Dict[str, int] = {}

    def draw(self, stream: str) -> float:
        """Return the next number of a stream, from 0 up to below 1."""
        if self._seed is None:
            return 0.0
        count = self._counts.get(stream, 0) + 1
        self._counts[stream] = count
        start = self._streams.get(stream)
        if start is None:
            start = self._streams[stream] = zlib.crc32(stream.encode()) << 32 ^ self._seed
        mixed = (start + count * 0x9E3779B97F4A7C15) & _MASK
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
        return (mixed ^ mixed >> 31) / 18446744073709551616.0

    def uniform(self, stream: str, low: float, high: float) -> float:
        """Return a number between two, the lower one without a seed."""
        return low + (high - low) * self.draw(stream)
