"""What reaches a daemon, when, and in which turns: the monitor threads of a simulated world.

Events go to the core one by one as they come, or all that waited in one turn, when a monitor has
stood still or waited for its store. The listeners' threads of a daemon that goes on are behind
its monitor by chance. Every turn gets the time of its node's own clock.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Tuple

from opensvc_hb.core import effects as fx
from opensvc_hb.core.events import BeatReceived, Event, ResourcesReported, Ticked
from opensvc_hb.core.node_state import NodeState
from opensvc_hb.core.step import steps
from opensvc_hb.sim.hosts import Host
from opensvc_hb.sim.performer import Performer

if TYPE_CHECKING:
    from opensvc_hb.sim.world import World

LAG_MAX_S = 0.2
"""A thread of a daemon that goes on is behind the others by this at most."""


class Inboxes:
    """The inboxes of all daemons of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._performer = Performer(world)

    def give(self, node: str, event: Event) -> None:
        """Put an event into a daemon's inbox."""
        host = self._world.hosts[node]
        if host.core is None:
            return
        if host.is_busy:
            host.waiting.append(event)
        elif not isinstance(event, BeatReceived) or self._is_newer(host, event):
            self._step(node, host, (event,))

    def later(self, delay_s: float, node: str, event: Event) -> None:
        """Put an event into the inbox of the daemon that lives now, after a while."""
        self._world.timeline.after(delay_s, self._arrive, node, self._world.hosts[node].life, event)

    def _arrive(self, node: str, life: int, event: Event) -> None:
        host = self._world.hosts[node]
        if host.life != life or host.core is None:
            return
        if isinstance(event, BeatReceived) and self._world.nature.seed is not None:
            sleeps = host.paused or self._world.now < host.listens_at.get(event.link_id, 0.0)
            if sleeps or host.reads_late_s > 0:
                host.unread.setdefault(event.link_id, []).append(event)
                if host.reads_late_s > 0:
                    self._world.timeline.after(host.reads_late_s, self.hand_over, node, life, event.link_id)
                return
        self.give(node, event)

    def hand_over(self, node: str, life: int, link_id: str) -> None:
        """Have a network's listener read what has arrived."""
        host = self._world.hosts[node]
        if host.life == life and not host.paused:
            for event in host.unread.pop(link_id, []):
                self.give(node, event)

    def arm(self, node: str, at: float) -> None:
        """Set the timer of a daemon, by its own clock."""
        host = self._world.hosts[node]
        host.timer = at
        due = max(host.clock.true(at), self._world.now)
        self._world.timeline.timer(due, self._timer_due, node, host.life, at)

    def _timer_due(self, node: str, life: int, at: float) -> None:
        host = self._world.hosts[node]
        if host.life == life and host.timer == at and host.core is not None and not host.is_busy:
            host.timer = None
            self._step(node, host, (Ticked(),), at)

    def _step(self, node: str, host: Host, events: Tuple[Event, ...], at: float = 0.0) -> None:
        core = host.core
        assert core is not None, "a daemon takes it in"
        now = max(host.local(self._world.now), at)
        for event in events:
            if isinstance(event, ResourcesReported):
                for report in event.resources:
                    told = host.answers.get(event.service, ())
                    host.answers[event.service] = (*told[-1:], report.answer)
        host.core, effects = steps(core, events, now)
        self._world.steps_count += len(events)
        if self._world.trace is not None:
            self._note(node, host.core, events[0], effects)
        if self._world.on_step is not None:
            self._world.on_step(node, effects, False)
        host.step_effects = effects
        host.effects.extend(effects)
        self._performer.go_on(node, host)

    def _note(self, node: str, core: NodeState, event: Event, effects: Tuple[fx.Effect, ...]) -> None:
        assert self._world.trace is not None, "asked by `_step`"
        who = f"{node}{type(event).__name__}".encode()
        numbers = (self._world.now, core.incarnation, core.sequence, core.next_id, len(effects))
        self._world.trace.update(who + struct.pack("<dqqqq", *numbers))

    def go_on(self, node: str, life: int) -> None:
        """The monitor thread has waited for long enough: the rest of its step, then what waits."""
        host = self._world.hosts[node]
        if host.life != life or host.core is None:
            return
        host.busy = False
        host.woke_at = self._world.now
        if not host.paused:
            self._performer.go_on(node, host)
            self._take_waiting(node, host)

    def wake(self, node: str, host: Host) -> None:
        """A daemon goes on where it stood: in the middle of a step, or waiting for events."""
        if self._world.nature.seed is None:
            waiting, host.waiting = [Ticked(), *host.waiting], []
            for event in waiting:
                self.give(node, event)
            return
        late, host.late = host.late, []
        for go_on in late:
            self._world.timeline.after(self._world.chance.uniform(f"lag {node}", 0.0, LAG_MAX_S), go_on)
        for link in host.config.links:
            if link.node == node or link.type.is_disk:
                continue
            events = host.unread.get(link.id, [])
            # Its listener may have begun to read before the monitor takes anything in.
            begun = int(self._world.chance.draw(f"lag {node}") ** 2 * (len(events) + 1))
            host.waiting.extend(events[:begun])
            host.unread[link.id] = events[begun:]
            lag_s = self._world.chance.uniform(f"lag {node}", 0.0, LAG_MAX_S)
            host.listens_at[link.id] = self._world.now + lag_s
            self._world.timeline.after(lag_s, self.hand_over, node, host.life, link.id)
        if not host.busy:
            self._performer.go_on(node, host)
            self._take_waiting(node, host)

    def _take_waiting(self, node: str, host: Host) -> None:
        """Take in all that waits, in one turn; else what the timer asked for, if it is due."""
        if host.core is None or host.is_busy:
            return
        if host.waiting:
            events, host.waiting = host.waiting, []
            fresh = [e for e in events if not isinstance(e, BeatReceived) or self._is_newer(host, e)]
            if fresh:
                self._step(node, host, tuple(fresh))
        if host.core is not None and host.timer is not None and not host.is_busy:
            self._world.timeline.timer(
                max(host.clock.true(host.timer), self._world.now),
                self._timer_due,
                node,
                host.life,
                host.timer,
            )

    @staticmethod
    def _is_newer(host: Host, event: BeatReceived) -> bool:
        """Tell whether a listener would hand this beat over, and remember it."""
        number = (event.beat.incarnation, event.beat.sequence)
        if number <= host.newest.get(event.link_id, (0, 0)):
            return False
        host.newest[event.link_id] = number
        return True
