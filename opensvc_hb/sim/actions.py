"""What do the agent's actions do to a service, and what runs here in truth?

Plays the runner and the agent of one machine: actions take their time, fail, hang until their
limit or until somebody kills them, and wait for each other's lock on a service. It outlives the
daemon, as the real runner's children do; what an action did stays done, whoever hears of it.
Never decides anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Dict, FrozenSet, List, Optional, Set, Tuple

from opensvc_hb.core.effects import RunAction
from opensvc_hb.core.events import ActionFinished, Outcome
from opensvc_hb.core.states import ActionVerb, Answer, Avail
from opensvc_hb.sim.timeline import Timeline

ACTION_S = 0.5
QUESTION_S = 0.01
VERIFY_LOOK_S = 0.05
LOCK_LOOK_S = 0.02

ActionKey = Tuple[str, str, ActionVerb]
"""Node, service, verb."""

_CHANGES = (ActionVerb.START, ActionVerb.STOP, ActionVerb.RESTART)


_BRINGS_UP = (ActionVerb.START, ActionVerb.RESTART)


@dataclass
class Manners:
    """How actions go from now on, in the whole world.

    Args:
        action_s: how long an action takes, true seconds.
        failing: those that fail; hanging: those that end only when they are killed.
        dirty: starts that leave something up when they fail or are killed.
        blind: (node, service) of which the agent cannot tell anything.
        unkillable: (node, service) whose processes a kill does not end.
        default_s: how long a start or a stop takes that nothing is said of.
    """

    action_s: Dict[ActionKey, float] = field(default_factory=dict)
    failing: Set[ActionKey] = field(default_factory=set)
    hanging: Set[ActionKey] = field(default_factory=set)
    dirty: Set[ActionKey] = field(default_factory=set)
    blind: Set[Tuple[str, str]] = field(default_factory=set)
    unkillable: Set[Tuple[str, str]] = field(default_factory=set)
    default_s: float = ACTION_S

    def lasts(self, key: ActionKey) -> float:
        """Return how long an action takes now."""
        return self.action_s.get(key, self.default_s if key[2] in _CHANGES else QUESTION_S)

    def clear(self) -> None:
        """Let everything work again."""
        self.action_s.clear()
        for kinds in (self.failing, self.hanging, self.dirty):
            kinds.clear()
        self.blind.clear()
        self.unkillable.clear()


@dataclass
class Action:
    """One action on this machine; `life` is that of the daemon which asked, None for the guardian."""

    request: RunAction
    life: Optional[int]
    is_running: bool = False
    has_ended: bool = False


class Runner:
    """The actions of one machine, and its services' resources.

    Attributes:
        running: services whose resources are up here: the truth, whatever a core believes.
        mixed: those of them of which only a part is up.
        broken: those of them whose monitored resource is down.

    `finished(action, event)` is called at the end of each; `occupied(service)` when something of
    a service begins to be up here, or may be.
    """

    def __init__(
        self,
        node: str,
        timeline: Timeline,
        manners: Manners,
        finished: Callable[[Action, ActionFinished], None],
        occupied: Callable[[str], None],
        lasts: Callable[[float], float],
    ) -> None:
        self.node = node
        self.running: Set[str] = set()
        self.mixed: Set[str] = set()
        self.broken: Set[str] = set()
        self.actions: List[Action] = []
        self._timeline = timeline
        self._manners = manners
        self._finished = finished
        self._occupied = occupied
        self._lasts = lasts
        self._asleep = False
        self._late: List[Callable[[], None]] = []

    # -- what is asked of it ---------------------------------------------------------------

    def run(self, request: RunAction, life: Optional[int]) -> Action:
        """Begin an action, or queue it behind the one that holds the service's lock."""
        action = Action(request, life)
        self.actions.append(action)
        self._timeline.after(self._lasts(request.limit_s), self._limit_passed, action)
        self._begin(action)
        return action

    def cancel(self, life: int, action_id: int) -> None:
        """Kill an action's process group."""
        for action in self.actions:
            if action.life == life and action.request.action_id == action_id:
                self._timeline.after(0.0, self._end, action, Outcome.TIMED_OUT, "cancelled")

    def kill_service(self, service: str, is_last: bool) -> None:
        """Kill every process of a service, those of its actions too.

        Args:
            service: its hb name.
            is_last: nothing of it is held when its processes are dead; else a stop must follow.
        """
        if (self.node, service) in self._manners.unkillable:
            return
        if is_last:
            self._clear(service)
        for action in list(self.actions):
            if action.request.service == service:
                self._end(action, Outcome.FAILED, "killed by the guardian")
        if is_last:
            self._clear(service)  # what a start that was killed left behind
        elif service in self.running:
            self.mixed.add(service)

    def set_resources(self, service: str, avail: Avail) -> None:
        """Let the resources of a service be so from now on."""
        if avail is Avail.DOWN:
            self._clear(service)
            return
        self.running.add(service)
        if avail is Avail.MIXED:
            self.mixed.add(service)
        else:
            self.mixed.discard(service)
        self.broken.discard(service)
        self._occupied(service)

    def set_resource(self, service: str, is_up: bool) -> None:
        """Let the monitored resource of a service that runs here be so from now on."""
        if is_up or service not in self.running:
            self.broken.discard(service)
        else:
            self.broken.add(service)

    def power_off(self) -> None:
        """Nothing runs here any more."""
        for action in self.actions:
            action.has_ended = True
        self.actions.clear()
        self.running.clear()
        self.mixed.clear()
        self.broken.clear()
        self._late.clear()
        self._asleep = False

    def sleep(self) -> None:
        """All processes of the machine stand still."""
        self._asleep = True

    def wake(self) -> None:
        """They go on: what would have ended meanwhile ends now."""
        self._asleep = False
        late, self._late = self._late, []
        for ended in late:
            ended()

    # -- what is so ------------------------------------------------------------------------

    def occupies(self, service: str) -> bool:
        """Tell whether something of a service is up on this machine, or may be: a start runs."""
        return service in self.running or any(
            a.is_running and a.request.service == service and a.request.verb in _BRINGS_UP
            for a in self.actions
        )

    def gone(self, services: FrozenSet[str]) -> FrozenSet[str]:
        """Return those of these services of which nothing is held here any more."""
        acting = {a.request.service for a in self.actions if a.is_running and a.request.verb in _CHANGES}
        return frozenset(s for s in services if s not in self.running and s not in acting)

    def avail(self, service: str) -> Avail:
        """Return what the agent says of a service here."""
        if (self.node, service) in self._manners.blind:
            return Avail.UNKNOWN
        if service in self.mixed or service in self.broken:
            return Avail.MIXED
        return Avail.UP if service in self.running else Avail.DOWN

    def answer(self, service: str) -> Answer:
        """Return what the agent says of the service's monitored resource here."""
        if (self.node, service) in self._manners.blind:
            return Answer.UNKNOWN
        whole = service in self.running and service not in self.mixed and service not in self.broken
        return Answer.UP if whole else Answer.DOWN

    def is_acting(self, service: str) -> bool:
        """Tell whether a start or stop of a service runs here, whoever asked for it."""
        return any(
            a.is_running and a.request.service == service and a.request.verb in _CHANGES for a in self.actions
        )

    # -- inside ----------------------------------------------------------------------------

    def _is_asked(self, service: str) -> bool:
        """Tell whether a start or stop of a service runs, or waits for the lock."""
        return any(a.request.service == service and a.request.verb in _CHANGES for a in self.actions)

    def _begin(self, action: Action) -> None:
        if action.has_ended:
            return
        verb, service = action.request.verb, action.request.service
        key = (self.node, service, verb)
        if verb not in _CHANGES:
            self._timeline.after(self._manners.lasts(key), self._answer, action)
            return
        if self.is_acting(service):
            self._timeline.after(LOCK_LOOK_S, self._begin, action)
            return
        action.is_running = True
        if verb in _BRINGS_UP:
            self._occupied(service)
        if key in self._manners.hanging:
            return
        outcome = Outcome.FAILED if key in self._manners.failing else Outcome.DONE
        detail = "it fails here" if outcome is Outcome.FAILED else ""
        self._timeline.after(self._manners.lasts(key), self._end, action, outcome, detail)

    def _answer(self, action: Action) -> None:
        """End a verify: it waits for the lock of whatever acts on the service."""
        if action.request.verb is ActionVerb.VERIFY and self._is_asked(action.request.service):
            if not action.has_ended:
                self._timeline.after(VERIFY_LOOK_S, self._answer, action)
            return
        key = (self.node, action.request.service, action.request.verb)
        failed = key in self._manners.failing
        self._end(action, Outcome.FAILED if failed else Outcome.DONE, "it fails here" if failed else "")

    def _limit_passed(self, action: Action) -> None:
        self._end(action, Outcome.TIMED_OUT, "its time limit passed")

    def _end(self, action: Action, outcome: Outcome, detail: str) -> None:
        """Make the action's result true in the world, and say what the agent then sees."""
        if action.has_ended:
            return
        if self._asleep:
            self._late.append(lambda: self._end(action, outcome, detail))
            return
        action.has_ended = True
        self.actions.remove(action)
        service, verb = action.request.service, action.request.verb
        if action.is_running:
            self._take_effect(service, verb, outcome)
        status = 0 if outcome is Outcome.DONE else 1
        avail = Avail.UNKNOWN if verb is ActionVerb.RESTART else self.avail(service)
        event = ActionFinished(service, action.request.action_id, verb, outcome, avail, status, detail)
        self._finished(action, event)

    def _take_effect(self, service: str, verb: ActionVerb, outcome: Outcome) -> None:
        if verb is ActionVerb.START and outcome is Outcome.DONE:
            self.running.add(service)
            self.mixed.discard(service)
            self.broken.discard(service)
            self._occupied(service)
        elif verb is ActionVerb.RESTART and outcome is Outcome.DONE:
            if service not in self.running:  # one resource of many
                self.running.add(service)
                self.mixed.add(service)
            self.broken.discard(service)
            self._occupied(service)
        elif verb is ActionVerb.START and (self.node, service, verb) in self._manners.dirty:
            self.running.add(service)
            self.mixed.add(service)
        elif verb is ActionVerb.STOP and outcome is Outcome.DONE:
            self._clear(service)

    def _clear(self, service: str) -> None:
        self.running.discard(service)
        self.mixed.discard(service)
        self.broken.discard(service)
