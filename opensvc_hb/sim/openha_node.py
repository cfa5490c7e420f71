"""A node that runs the C program, in the simulated world: states in beats, five seconds, two roles.

Made from what OpenHA was seen to do, and from nothing of ours: it is what our core must get along
with. A beat a second on each network link; a monitor that looks every two seconds, begins a start
whenever the other side is STOPPED, FROZEN_STOP or UNKNOWN, waits five seconds, looks at the other
side again, and starts or rolls back; commands that write a state and nothing more.

Disk links are left out: on them the C program is slower, not different. Nor does it wait for the
slowest service before it looks again: what it decides late, it decides alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Set, Tuple

from opensvc_hb.core.effects import RunAction
from opensvc_hb.core.events import ActionFinished, LegacyBeat, Outcome
from opensvc_hb.core.states import ActionVerb, Role, State, Verb

if TYPE_CHECKING:
    from opensvc_hb.sim.world import World

BEAT_S = 1.0
LOOK_S = 2.0
OFFER_S = 5.0
CONVERGE_S = 2.0
"""From the start of its heartbeats to that of its monitor."""
LINK_DELAY_S = 0.001

_WANTED = frozenset({State.STOPPED, State.FROZEN_STOP, State.UNKNOWN})
_WIRE = {State.FROZEN_START: State.START_READY}
"""OpenHA has one number for both."""


class OpenHaNode:
    """The C program on one machine. Its scripts are the machine's runner's."""

    def __init__(self, world: World, node: str) -> None:
        self._world = world
        self._node = node
        self._config = world.hosts[node].config
        self._is_dead = False
        self._heard_at: Dict[str, float] = {}
        self._freezes: Dict[str, bool] = {}
        self._scripts: Set[int] = set()
        self.states: Dict[str, State] = {}
        self.theirs: Dict[str, State] = {}
        for name in self._config.services:
            runs = name in world.hosts[node].running
            self.states[name] = State.STARTED if runs else State.STOPPED
            self.theirs[name] = State.FROZEN_STOP
        self._beat()
        self._after(CONVERGE_S, self._look)

    def end(self) -> None:
        """It is killed, or its machine is: not another word."""
        self._is_dead = True

    def hear(self, link_id: str, states: Dict[str, State]) -> None:
        """Take in a beat of the other node."""
        if self._is_dead:
            return
        self._heard_at[link_id] = self._world.now
        for name in self.states:
            if name in states:
                self.theirs[name] = _WIRE.get(states[name], states[name])

    def command(self, verb: Verb, name: str) -> bool:
        """Do what `service -A` does; tell whether the state allowed it."""
        state = self.states[name]
        if verb is Verb.UNFREEZE and state is State.FROZEN_STOP:
            self._become(name, State.STOPPED)
        elif verb is Verb.UNFREEZE and state is State.START_READY:
            self._become(name, State.STARTED)
        elif verb is Verb.FREEZE_START and state is State.STARTED:
            self._become(name, State.START_READY)
        elif verb is Verb.FREEZE_STOP and state in (State.STOPPED, State.START_FAILED, State.STOP_FAILED):
            self._become(name, State.FROZEN_STOP)
        elif verb in (Verb.FREEZE_STOP, Verb.STOP) and state is State.STARTED:
            self._freezes[name] = verb is Verb.FREEZE_STOP
            self._become(name, State.STOPPING)
            self._run(name, ActionVerb.STOP)
        elif verb is Verb.FORCE_STOP:
            self._become(name, State.STOPPED)
        else:
            return False
        return True

    def action_ended(self, event: ActionFinished) -> None:
        """Take in the end of a script of its own; one that another program began is nobody's here."""
        if self._is_dead or event.action_id not in self._scripts:
            return
        name, done = event.service, event.outcome is Outcome.DONE
        if event.verb is ActionVerb.START:
            self._become(name, State.STARTED if done else State.START_FAILED)
        elif self._freezes.get(name, False) and done:
            self._become(name, State.FROZEN_STOP)
        else:
            self._become(name, State.STOPPED if done else State.STOP_FAILED)

    # -- inside --------------------------------------------------------------------------------

    def _after(self, seconds: float, do: object, *arguments: object) -> None:
        def if_alive() -> None:
            if not self._is_dead:
                do(*arguments)  # type: ignore[operator]  # a method of this very class

        self._world.timeline.after(seconds, if_alive)

    def _beat(self) -> None:
        world = self._world
        states: Tuple[Tuple[str, State], ...] = tuple(self.states.items())
        for link in self._config.links_from(self._node):
            if link.type.is_disk:
                continue
            event = LegacyBeat(link.id, self._node, states, int(world.now), 4711)
            for listener, other in world.hosts.items():
                if listener == self._node or (link.id, listener) in world.cuts:
                    continue
                if other.core is not None:
                    world.inboxes.later(LINK_DELAY_S, listener, event)
                elif other.openha is not None:
                    world.timeline.after(LINK_DELAY_S, other.openha.hear, link.id, dict(states))
        self._after(BEAT_S, self._beat)

    def _look(self) -> None:
        """One round of its monitor."""
        now = self._world.now
        links = [link for link in self._config.links if link.node != self._node and not link.type.is_disk]
        silent = all(now - self._heard_at.get(link.id, -1e9) >= link.timeout_s for link in links)
        for name, state in list(self.states.items()):
            if silent:
                self.theirs[name] = State.UNKNOWN
            if state in (State.STOPPED, State.UNKNOWN) and self.theirs[name] in _WANTED:
                self._become(name, State.START_READY)
                self._after(OFFER_S, self._decide, name, self.theirs[name])
        self._after(LOOK_S, self._look)

    def _decide(self, name: str, theirs_before: State) -> None:
        """The end of the five seconds: its own state is not looked at, as it never was."""
        theirs = self.theirs[name]
        if self._config.services[name].role(self._node) is Role.PRIMARY:
            goes_on = theirs not in (State.STARTED, State.STARTING)
        else:
            goes_on = theirs is theirs_before
        if not goes_on:
            self._become(name, State.STOPPED)
            return
        self._become(name, State.STARTING)
        self._run(name, ActionVerb.START)

    def _run(self, name: str, verb: ActionVerb) -> None:
        service = self._config.services[name]
        number = self._world.timeline.number()
        self._scripts.add(number)
        self._world.hosts[self._node].runner.run(
            RunAction(name, service.svcname, number, verb, service.start_limit_s, None), None
        )

    def _become(self, name: str, state: State) -> None:
        self.states[name] = state
        self._world.say(self._node, f"{name} [C] {state.name}")
