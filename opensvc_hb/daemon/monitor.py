"""The monitor: take what waits, ask the core, do what it says, publish what is.

The one thread that owns the cluster's state. Everybody else puts events into its inbox and
reads the frozen state that it published last.

Runs in: main thread of the daemon.
"""

from __future__ import annotations

import logging
from typing import Callable, List, Optional

from opensvc_hb.core.events import (
    ActionFinished,
    CommandGiven,
    DaemonStopping,
    Event,
    PeerConfirmedDead,
    Ticked,
)
from opensvc_hb.core.node_state import NodeState
from opensvc_hb.core.step import steps
from opensvc_hb.daemon.effects import Performer
from opensvc_hb.daemon.guardian import Guardian, Learned, Reached
from opensvc_hb.daemon.inbox import Asked, Inbox, Item, Reconfigured

log = logging.getLogger("monitor")


class Monitor:
    """The decision loop.

    Args:
        publish: told the new state after every turn; must not wait.
        feed: called after every turn: this loop lives (systemd's watchdog).
        guardian: gets what the inbox brings for it.
    """

    def __init__(
        self,
        state: NodeState,
        inbox: Inbox,
        performer: Performer,
        clock: Callable[[], float],
        publish: Callable[[NodeState], None],
        feed: Callable[[], None],
        guardian: Optional[Guardian] = None,
    ) -> None:
        self._state = state
        self._inbox = inbox
        self._performer = performer
        self._clock = clock
        self._publish = publish
        self._feed = feed
        self._guardian = guardian

    def run(self) -> str:
        """Go on until core says that the daemon may end; return its reason."""
        while self._performer.exit_reason is None:
            items = self._inbox.take(self._performer.timer_at - self._clock())
            events = [event for event in map(self._unwrap, items) if event is not None]
            self._turn(events or [Ticked()])
        return self._performer.exit_reason

    def _turn(self, events: List[Event]) -> None:
        self._state, effects = steps(self._state, events, self._clock())
        self._performer.perform(effects)
        self._publish(self._state)
        self._feed()

    def _unwrap(self, item: Item) -> Optional[Event]:
        """Return the core's event in an item, None when it is for the shell alone."""
        if isinstance(item, Asked):
            event = item.event
            assert isinstance(event, (CommandGiven, PeerConfirmedDead, DaemonStopping)), event
            if event.command_id is not None:
                self._performer.expect_reply(event.command_id, item.reply)
            return event
        if isinstance(item, Reconfigured):
            if item.links is not None:
                self._performer.links = item.links
            self._performer.make_room(len(item.event.config.services))
            return item.event
        if isinstance(item, Reached):
            if self._guardian is not None:
                self._guardian.reached(item.connection)
            return item.event
        if isinstance(item, Learned):
            if self._guardian is not None:
                self._guardian.learn(item.know)
            return None
        if isinstance(item, ActionFinished):
            self._performer.action_ended(item.action_id)
        return item
