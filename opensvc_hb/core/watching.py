"""What is known of the monitored resources of one instance: records, and what each event makes of them.

Decides nothing: `monitoring` does, by the rows of `monitor_rules`. Answers are kept while the service
runs here, restarts and moves for as long as they count; a new daemon begins without any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple

from opensvc_hb.core.records import replace
from opensvc_hb.core.states import Answer

ALL_IS_WELL = "M1"
"""The row of a resource that is up."""

MOVES_KEPT = 100
"""More moves than that are never asked for."""


@dataclass(frozen=True)
class WatchedResource:
    """One monitored resource.

    Args:
        answer: the newest; None before the first, and after a restart until somebody has looked.
        downs_count: so many answers in a row said down, in this run of the service.
        detail: the resource's own message, one line.
        restarts: when it was restarted, clock seconds, oldest first; the old ones are forgotten.
        is_spent: whoever reported it down has restarted it in vain already.
        held_by: id of the row last found for it, kept so that the journal tells changes only.
    """

    rid: str
    answer: Optional[Answer] = None
    downs_count: int = 0
    detail: str = ""
    restarts: Tuple[float, ...] = ()
    is_spent: bool = False
    held_by: str = ""

    @property
    def answer_text(self) -> str:
        """The newest answer, for people."""
        return "not looked at yet" if self.answer is None else self.answer.value


@dataclass(frozen=True)
class Watching:
    """All of an instance's monitored resources.

    Args:
        moves: when the service changed its node, or was to, clock seconds, oldest first.
        is_moving: the newest of `moves` is the monitor's own; the other node's start is no other one.
        paused_until: the next restart does not begin before; None for no such moment.
        is_prepared: the command before the monitor action has been run.
    """

    resources: Tuple[WatchedResource, ...] = ()
    moves: Tuple[float, ...] = ()
    is_moving: bool = False
    paused_until: Optional[float] = None
    is_prepared: bool = False

    @property
    def is_quiet(self) -> bool:
        """Tell whether nothing is known that anybody would have to look at."""
        return all(r.answer in (None, Answer.UP) and r.held_by in ("", ALL_IS_WELL) for r in self.resources)

    def resource(self, rid: str) -> WatchedResource:
        """Return what is known of a resource."""
        return next((r for r in self.resources if r.rid == rid), WatchedResource(rid))

    def with_resource(self, changed: WatchedResource) -> Watching:
        """Return the same with this in place of what was known of that resource."""
        others = tuple(r for r in self.resources if r.rid != changed.rid)
        return replace(self, resources=(*others, changed))


NOTHING_KNOWN = Watching()


def answered(
    known: WatchedResource, answer: Answer, detail: str = "", is_spent: bool = False
) -> WatchedResource:
    """Take in an answer. Only answers in a row count: unknown between two downs begins anew."""
    is_down = answer is Answer.DOWN
    downs = known.downs_count + 1 if is_down else 0
    spent = is_down and (is_spent or known.is_spent)
    return replace(known, answer=answer, downs_count=downs, detail=detail, is_spent=spent)


def restarted(known: WatchedResource, now: float) -> WatchedResource:
    """A restart begins: what was seen before it says nothing of what comes of it."""
    return replace(known, answer=None, restarts=(*known.restarts, now))


def at_rest(watching: Watching) -> Watching:
    """The service does not run here: answers are forgotten, restarts and moves go on to count."""
    fresh = not any(r.answer or r.downs_count or r.held_by for r in watching.resources)
    if fresh and watching.paused_until is None and not watching.is_prepared:
        return watching
    kept = tuple(WatchedResource(r.rid, restarts=r.restarts) for r in watching.resources if r.restarts)
    return replace(watching, resources=kept, paused_until=None, is_prepared=False)


def within(moments: Tuple[float, ...], window_s: float, now: float) -> Tuple[float, ...]:
    """Return the moments that still count."""
    return tuple(at for at in moments if now - at < window_s)


def moved_by_monitor(watching: Watching, now: float) -> Watching:
    """The monitor moves the service away from here; it counts, also if nobody takes it."""
    return replace(watching, moves=_more(watching, now), is_moving=True, is_prepared=False)


def moved_here(watching: Watching, now: float) -> Watching:
    """The service, which ran elsewhere last, is started here."""
    return replace(watching, moves=_more(watching, now), is_moving=False)


def moved_there(watching: Watching, now: float) -> Watching:
    """The service, which ran here last, is started elsewhere."""
    if watching.is_moving:
        return replace(watching, is_moving=False)
    return replace(watching, moves=_more(watching, now))


def _more(watching: Watching, now: float) -> Tuple[float, ...]:
    return (*watching.moves, now)[-MOVES_KEPT:]
