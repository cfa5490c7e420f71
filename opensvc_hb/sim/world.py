"""A deterministic world: nodes with unchanged cores, links, actions, operators, one clock.

The world plays the shell's part: it performs effects, delivers beats after a delay, lets
actions take their time, keeps what was persisted, and can kill, boot, pause and cut. It has
no randomness of its own; whoever drives it decides what happens next. Every node sees the one
clock of the world, whose seconds mean what CLOCK_BOOTTIME means to a real node.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, FrozenSet, List, Optional, Set, Tuple

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import Config
from opensvc_hb.core.events import (
    ActionFinished,
    BeatReceived,
    CommandGiven,
    ConfigurationChanged,
    DaemonStarted,
    DaemonStopping,
    Event,
    LinkDrained,
    Outcome,
    PeerConfirmedDead,
    ResourcesReported,
    StopKind,
    Stored,
    Ticked,
)
from opensvc_hb.core.messages import Beat
from opensvc_hb.core.node_state import NodeState, new_node
from opensvc_hb.core.states import ActionVerb, Avail, Verb
from opensvc_hb.core.step import step

LINK_DELAY_S = 0.001
VERIFY_LOOK_S = 0.05


@dataclass(frozen=True)
class Line:
    """One line of the world's log: who did what, when, and why."""

    at: float
    node: str
    text: str


@dataclass
class Host:
    """One node as the world sees it.

    Args:
        running: services whose resources are up here: the truth, whatever core believes.
        life: grows with each start of the daemon; events of an earlier life are lost.
        actions: what runs here, by life and id: an action goes on when its daemon has ended.
        newest: (incarnation, sequence) of the newest beat read on each link in this life, as a
            listener keeps it: what is not newer is a replay and never reaches the core.
    """

    config: Config
    core: Optional[NodeState] = None
    stored: Stored = field(default_factory=Stored)
    running: Set[str] = field(default_factory=set)
    actions: Dict[Tuple[int, int], fx.RunAction] = field(default_factory=dict)
    timer: Optional[float] = None
    life: int = 0
    paused: bool = False
    waiting: List[Event] = field(default_factory=list)
    newest: Dict[str, Tuple[int, int]] = field(default_factory=dict)


class World:
    """The cluster in one process. All methods act at the world's present `now`.

    `on_deliver(link_id, listener, beat)` answers with the delays (seconds) of the copies that
    arrive: none is a loss, two a duplicate, different ones reorder. `on_step(node, effects,
    performed)` sees what a step asked for, once before and once after it is performed.
    """

    def __init__(self, configs: Tuple[Config, ...]) -> None:
        self.now = 0.0
        self.hosts = {c.node: Host(config=c) for c in configs}
        self.log: List[Line] = []
        self.beats: List[Tuple[float, str, Beat]] = []
        self.cuts: Set[Tuple[str, str]] = set()
        self.action_s: Dict[Tuple[str, str, ActionVerb], float] = {}
        self.failing: Set[Tuple[str, str, ActionVerb]] = set()
        self.overlaps: List[Tuple[float, str]] = []
        self.replies: Dict[int, fx.Reply] = {}
        self.on_deliver: Optional[Callable[[str, str, Beat], FrozenSet[float]]] = None
        self.on_step: Optional[Callable[[str, Tuple[fx.Effect, ...], bool], None]] = None
        self.steps_count = 0
        self._queue: List[Tuple[float, int, str, int, Event]] = []
        self._count = itertools.count(1)

    # -- what a driver does to the world -------------------------------------------------

    def boot(self, node: str, booted: bool = True) -> None:
        """Start the daemon of a node; `booted` means that the machine was off before."""
        host = self.hosts[node]
        if booted:
            host.running.clear()
        host.life += 1
        host.newest.clear()
        host.core = new_node(host.config)
        self.say(node, "boots" if booted else "daemon starts")
        self._give(node, DaemonStarted(host.config, host.stored, booted))

    def kill(self, node: str) -> None:
        """Power off: nothing runs there any more."""
        self.kill_daemon(node)
        self.hosts[node].running.clear()
        self.hosts[node].actions.clear()
        self.say(node, "is killed")

    def kill_daemon(self, node: str) -> None:
        """End the daemon without a word; its services run on."""
        host = self.hosts[node]
        host.core = None
        host.timer = None
        host.paused = False
        host.waiting.clear()
        host.life += 1

    def pause(self, node: str) -> None:
        """Stop all processes of a node; what runs there stays."""
        self.hosts[node].paused = True
        self.say(node, "is paused")

    def resume(self, node: str) -> None:
        """Let a paused node go on: first its timer, then what waited for it."""
        host = self.hosts[node]
        host.paused = False
        self.say(node, "goes on")
        waiting = [Ticked(), *host.waiting]
        host.waiting = []
        for event in waiting:
            self._give(node, event)

    def cut(self, link_id: str, listener: str) -> None:
        """Nothing that is sent on a link reaches this listener any more."""
        self.cuts.add((link_id, listener))

    def heal(self, link_id: str, listener: str) -> None:
        """Undo `cut`."""
        self.cuts.discard((link_id, listener))

    def command(self, node: str, service: str, verb: Verb, force: bool = False, reason: str = "") -> int:
        """Have an operator ask for something on a node; the number finds the reply."""
        number = next(self._count)
        self._give(node, CommandGiven(number, service, verb, force, "operator", reason))
        return number

    def confirm_dead(self, node: str, dead: str) -> int:
        """Have an operator vouch on `node` that another is dead."""
        number = next(self._count)
        self._give(node, PeerConfirmedDead(number, dead, "operator", "seen dead"))
        return number

    def stop(self, node: str, kind: StopKind) -> None:
        """Ask a daemon to stop, in order."""
        self._give(node, DaemonStopping(kind))

    def reconfigure(self, node: str, config: Config) -> None:
        """Give a node another configuration; its daemon, if it runs, reads it at once."""
        self.hosts[node].config = config
        self._give(node, ConfigurationChanged(config))

    def lose_store(self, node: str) -> None:
        """Empty a node's store, as a reinstallation does; its daemon must not run."""
        assert self.hosts[node].core is None, f"the daemon of {node} runs"
        self.hosts[node].stored = Stored()
        self.say(node, "loses its store")

    def resources(self, node: str, service: str, avail: Avail) -> None:
        """Let the resources of a service be so from now on, and the evaluation report it."""
        running = self.hosts[node].running
        (running.discard if avail is Avail.DOWN else running.add)(service)
        self._give(node, ResourcesReported(service, avail))

    def run(self, seconds: float) -> None:
        """Let the time pass."""
        end = self.now + seconds
        while True:
            due = self._next_due()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self._do_next(due)
        self.now = end

    # -- how the world answers -----------------------------------------------------------

    def state(self, node: str, service: str) -> str:
        """Return the state of an instance as its node announces it; `-` without a daemon."""
        core = self.hosts[node].core
        return "-" if core is None else core.instances[service].state.name

    def say(self, node: str, text: str) -> None:
        """Add a line to the log."""
        self.log.append(Line(self.now, node, text))

    # -- inside --------------------------------------------------------------------------

    def _next_due(self) -> Optional[float]:
        times = [h.timer for h in self.hosts.values() if h.timer is not None and not h.paused]
        if self._queue:
            times.append(self._queue[0][0])
        return min(times, default=None)

    def _do_next(self, due: float) -> None:
        if self._queue and self._queue[0][0] <= due:
            _, _, node, life, event = heapq.heappop(self._queue)
            if self.hosts[node].life == life:
                self._give(node, event)
            elif isinstance(event, ActionFinished):
                self._end_action(self.hosts[node], life, event)  # a runner outlives its daemon
            return
        for node, host in sorted(self.hosts.items()):
            if host.timer is not None and host.timer <= due and not host.paused:
                host.timer = None
                self._give(node, Ticked())
                return

    def _later(self, delay_s: float, node: str, event: Event) -> None:
        life = self.hosts[node].life
        heapq.heappush(self._queue, (self.now + delay_s, next(self._count), node, life, event))

    def _give(self, node: str, event: Event) -> None:
        host = self.hosts[node]
        if isinstance(event, ActionFinished):
            if event.verb is ActionVerb.VERIFY and self._acts(host, event.service):
                self._later(VERIFY_LOOK_S, node, event)  # it waits for the service's lock
                return
            event = self._end_action(host, host.life, event)
        if host.core is None:
            return
        if host.paused:
            host.waiting.append(event)
            return
        if isinstance(event, BeatReceived) and not self._is_newer(host, event):
            return
        host.core, effects = step(host.core, event, self.now)
        self.steps_count += 1
        if self.on_step is not None:
            self.on_step(node, effects, False)
        for effect in effects:
            self._perform(node, effect)
        if self.on_step is not None:
            self.on_step(node, effects, True)

    def _is_newer(self, host: Host, event: BeatReceived) -> bool:
        """Tell whether a listener would hand this beat over, and remember it."""
        number = (event.beat.incarnation, event.beat.sequence)
        if number <= host.newest.get(event.link_id, (0, 0)):
            return False
        host.newest[event.link_id] = number
        return True

    @staticmethod
    def _acts(host: Host, service: str) -> bool:
        """Tell whether a start or stop of a service runs here, whichever daemon asked for it."""
        acting = (ActionVerb.START, ActionVerb.STOP)
        return any(a.service == service and a.verb in acting for a in host.actions.values())

    def _end_action(self, host: Host, life: int, event: ActionFinished) -> ActionFinished:
        """Make the action's result true in the world, and tell what the agent then sees."""
        action = host.actions.pop((life, event.action_id), None)
        if action is None:
            return event
        if event.outcome is Outcome.DONE and action.verb is ActionVerb.START:
            host.running.add(action.service)
        if event.outcome is Outcome.DONE and action.verb is ActionVerb.STOP:
            host.running.discard(action.service)
        avail = Avail.UP if action.service in host.running else Avail.DOWN
        owners = [n for n, h in self.hosts.items() if action.service in h.running]
        if len(owners) > 1:
            self.overlaps.append((self.now, action.service))
        return replace(event, avail=avail)

    def _perform(self, node: str, effect: fx.Effect) -> None:
        host = self.hosts[node]
        if isinstance(effect, fx.SendNow):
            self._deliver(node, effect)
        elif isinstance(effect, fx.AskLinks):
            for link in host.config.links:
                if link.node != node:
                    self._later(0.0, node, LinkDrained(link.id, effect.token))
        elif isinstance(effect, fx.ArmTimer):
            host.timer = effect.at
        elif isinstance(effect, fx.RunAction):
            self._run_action(node, effect)
        elif isinstance(effect, fx.CancelAction):
            action = host.actions.get((host.life, effect.action_id))
            if action is not None:  # else it has ended, and its end waits to be read
                self._later(0.0, node, _finished(action, Outcome.TIMED_OUT, "cancelled"))
        elif isinstance(effect, fx.Persist):
            host.stored = effect.stored
        elif isinstance(effect, fx.Journal):
            rule = f" {effect.rule}" if effect.rule else ""
            why = f"  {effect.reason}" if effect.reason else ""
            self.say(node, f"{effect.service or '-'} [{effect.kind}{rule}] {effect.text}{why}")
        elif isinstance(effect, fx.Reply):
            self.replies[effect.command_id] = effect
            self.say(node, f"answers: {effect.code.name} {effect.text}")
        elif isinstance(effect, fx.Exit):
            self.say(node, "daemon exits")
            host.life += 1
            host.core = None
            host.timer = None

    def _deliver(self, node: str, effect: fx.SendNow) -> None:
        beat = effect.beat if effect.with_table else replace(effect.beat, table=None)
        self.beats.append((self.now, node, effect.beat))
        for link in self.hosts[node].config.links_from(node):
            for listener, other in self.hosts.items():
                if listener == node or (link.id, listener) in self.cuts or other.core is None:
                    continue
                delays = frozenset({LINK_DELAY_S})
                if self.on_deliver is not None:
                    delays = self.on_deliver(link.id, listener, beat)
                for delay_s in sorted(delays):
                    self._later(delay_s, listener, BeatReceived(link.id, beat))

    def _run_action(self, node: str, action: fx.RunAction) -> None:
        host = self.hosts[node]
        host.actions[(host.life, action.action_id)] = action
        key = (node, action.service, action.verb)
        default_s = 0.5 if action.verb in (ActionVerb.START, ActionVerb.STOP) else 0.01
        outcome = Outcome.FAILED if key in self.failing else Outcome.DONE
        detail = "it fails here" if outcome is Outcome.FAILED else ""
        self._later(self.action_s.get(key, default_s), node, _finished(action, outcome, detail))


def _finished(action: fx.RunAction, outcome: Outcome, detail: str) -> ActionFinished:
    status = 0 if outcome is Outcome.DONE else 1
    return ActionFinished(
        action.service, action.action_id, action.verb, outcome, Avail.UNKNOWN, status, detail
    )
