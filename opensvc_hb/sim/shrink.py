"""Which deeds does a failure need? A failing schedule made short, the same invariant failing.

Delta debugging: drop ever smaller pieces of the schedule as long as the trial still fails in the
same way; a deed that does not apply does nothing, so every subset is a schedule. Then the scene
is made plainer where that does not mend the failure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, List, Optional, Sequence, Tuple

from opensvc_hb.sim.deeds import Deed
from opensvc_hb.sim.scenes import Scene
from opensvc_hb.sim.trial import Outcome, perform

ATTEMPTS_MAX = 400


class Shrinker:
    """Shrinks one failure; `attempts` counts the trials it took."""

    def __init__(self, outcome: Outcome, attempts_max: int = ATTEMPTS_MAX) -> None:
        assert outcome.violation is not None, "there is a failure to shrink"
        self.attempts = 0
        self._attempts_max = attempts_max
        self._invariant = outcome.violation.invariant
        self._best = outcome

    def shrunk(self) -> Outcome:
        """Return the shortest failure found."""
        end = self._best.violation.at if self._best.violation is not None else 0.0
        self._fails(self._best.scene, [deed for deed in self._best.deeds if deed.at <= end])
        self._drop_deeds()
        self._plain_scene()
        self._drop_deeds()
        return self._best

    def _fails(self, scene: Scene, deeds: Sequence[Deed]) -> bool:
        """Try a scene and a schedule; keep them if they fail alike."""
        if self.attempts >= self._attempts_max:
            return False
        self.attempts += 1
        outcome = perform(scene, deeds, with_liveness=self._best.is_live)
        if outcome.violation is None or outcome.violation.invariant != self._invariant:
            return False
        self._best = outcome
        return True

    def _drop_deeds(self) -> None:
        size = max(1, len(self._best.deeds) // 2)
        while self.attempts < self._attempts_max:
            dropped = self._drop_pieces(size)
            if size == 1 and not dropped:
                return
            if not dropped:
                size = max(1, size // 2)

    def _drop_pieces(self, size: int) -> bool:
        """Drop every piece of so many deeds that the failure does not need, the last ones first."""
        dropped = False
        start = len(self._best.deeds)
        while start > 0:
            start = max(0, start - size)
            deeds = list(self._best.deeds)
            if self._fails(self._best.scene, deeds[:start] + deeds[start + size :]):
                dropped = True
        return dropped

    def _plain_scene(self) -> None:
        for plainer in _PLAINER:
            scene = plainer(self._best.scene)
            if scene is not None and scene != self._best.scene:
                self._fails(scene, self._best.deeds)


def _fewer_services(scene: Scene) -> Optional[Scene]:
    names = scene.services.split(",")
    return replace(scene, services=names[0], later=0) if len(names) > 1 else None


def _fewer_links(scene: Scene) -> Optional[Scene]:
    words = scene.links.split(",")
    kept: List[str] = []
    for word in words:
        if word.partition(":")[0] not in [other.partition(":")[0] for other in kept]:
            kept.append(word)
    return replace(scene, links=",".join(kept))


_PLAINER: Tuple[Callable[[Scene], Optional[Scene]], ...] = (
    _fewer_services,
    _fewer_links,
    lambda scene: replace(scene, rates="1.0,1.0"),
    lambda scene: replace(scene, uneven=1.0),
    lambda scene: replace(scene, holds_more=False),
    lambda scene: replace(scene, kill_s=0.0),
    lambda scene: replace(scene, takeover_frozen=False),
    lambda scene: replace(scene, heal="freeze"),
    lambda scene: replace(scene, wait_for_peer_s=0.0),
    lambda scene: replace(scene, seed=1),
)
"""Each gives a plainer scene, None where it is plain in this already."""
