"""The monitor thread's queue, and what travels in it beside the core's own events."""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Callable, List, Optional, Union

from opensvc_hb.core.effects import Reply
from opensvc_hb.core.events import ConfigurationChanged, Event
from opensvc_hb.daemon.guardian import Learned, Reached
from opensvc_hb.links.base import Links

BATCH_MAX = 1000
"""Events of one turn: what waited together is stored and announced together."""


@dataclass(frozen=True)
class Asked:
    """An operator's event, and where its `Reply` goes (called in the monitor thread)."""

    event: Event
    reply: Callable[[Reply], None]


@dataclass(frozen=True)
class Reconfigured:
    """A new configuration; `links` replaces the links in use when the monitor file changed."""

    event: ConfigurationChanged
    links: Optional[Links] = None


Item = Union[Event, Asked, Reconfigured, Reached, Learned]


class Inbox:
    """Many threads put, the monitor thread takes.

    `put` never blocks and may be called anywhere, in a signal handler too.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()

    def put(self, item: Item, /) -> None:
        """Add an item."""
        self._queue.put(item)

    def take(self, timeout_s: float) -> List[Item]:
        """Wait for an item, at most so many seconds; return all that wait, none after a time out."""
        items: List[Item] = []
        try:
            items.append(self._queue.get(timeout=max(0.0, timeout_s)))
            while len(items) < BATCH_MAX:
                items.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return items
