"""One trial: a scene, its schedule, the invariants after every step, then the liveness phase.

Safety first: the deeds happen at their times. Then every fault stops, what is off is booted, an
operator clears what failed, and every service that is not frozen must be up on exactly one node
within the bound. A trial is named by its profile, seed and round; the same name gives the same
trace, whose hash tells.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from random import Random
from typing import Dict, List, Optional, Sequence, Tuple

from opensvc_hb.core.node_state import Phase
from opensvc_hb.core.states import State, Verb
from opensvc_hb.sim.deeds import Deed, Hands
from opensvc_hb.sim.faults import Profile, draw_deeds, draw_scene
from opensvc_hb.sim.invariants import Violation, Watch, log_lines
from opensvc_hb.sim.network import Network
from opensvc_hb.sim.scenes import NODES, Scene
from opensvc_hb.sim.world import World

CORE_RAISED = "core raised"
NOT_UP = "not up once"

_RAISED = (AssertionError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass
class Tally:
    """What happened, counted.

    Args:
        takeovers: starts against a silent peer; lease_ends: instances whose lease had run out.
        restarts: of monitored resources; moves: of services by the resource monitor.
        claims: claims announced; guardian_deeds: stops and kills by guardians.
    """

    trials: int = 0
    steps: int = 0
    simulated_s: float = 0.0
    takeovers: int = 0
    claims: int = 0
    lease_ends: int = 0
    guardian_deeds: int = 0
    resets: int = 0
    restarts: int = 0
    moves: int = 0

    def add(self, other: Tally) -> None:
        """Count another one's, too."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Args:
        violation: what did not hold; None when all did.
        trace: the hash of all its steps, hexadecimal.
        rules: ids of rows journaled, with their number.
        is_live: it got as far as the liveness phase.
    """

    scene: Scene
    deeds: Tuple[Deed, ...]
    violation: Optional[Violation]
    trace: str
    tally: Tally
    rules: Dict[str, int] = field(default_factory=dict)
    is_live: bool = False


def drawn(profile: Profile, seed: int, number: int, only: Sequence[str] = ()) -> Tuple[Scene, List[Deed]]:
    """Return the scene and the schedule of a trial; `only` names plots, none for all of the profile's."""
    random = Random(f"{profile.value} {seed} {number}")  # noqa: S311  # repeatable is what it must be
    scene = draw_scene(profile, random)
    return scene, draw_deeds(profile, scene, random, only)


def try_one(profile: Profile, seed: int, number: int, only: Sequence[str] = ()) -> Outcome:
    """Draw a trial and perform it."""
    scene, deeds = drawn(profile, seed, number, only)
    return perform(scene, deeds)


def perform(scene: Scene, deeds: Sequence[Deed], with_liveness: bool = True) -> Outcome:
    """Perform a schedule in a scene, with all that must hold, liveness included unless told otherwise."""
    world, network = scene.world()
    trace = hashlib.blake2b(digest_size=8)
    world.trace = trace
    watch = Watch(world, one_instance=scene.judged)
    violation: Optional[Violation] = None
    try:
        trial = Trial(scene, world, network, watch)
        trial.safety(deeds)
        if with_liveness:
            trial.liveness()
    except Violation as found:
        violation = found
    except _RAISED as error:
        violation = Violation(CORE_RAISED, f"{type(error).__name__}: {error}", world.now, log_lines(world))
    for line in world.log:
        trace.update(f"{line.at:.6f} {line.node} {line.text}".encode())
    return Outcome(
        scene,
        tuple(deeds),
        violation,
        trace.hexdigest(),
        _tally(world, watch),
        dict(watch.rules),
        watch.is_live,
    )


def _tally(world: World, watch: Watch) -> Tally:
    count = 0
    claimed = dict.fromkeys(world.hosts, "")
    for _, node, beat in world.beats:
        if beat.claims and not claimed[node]:
            count += 1
        claimed[node] = beat.claims
    return Tally(
        trials=1,
        steps=world.steps_count,
        simulated_s=world.now,
        takeovers=watch.starts_against_silence,
        claims=count,
        lease_ends=watch.lease_ends,
        guardian_deeds=sum(line.text.startswith("the guardian ") for line in world.log),
        resets=world.resets_count,
        restarts=watch.restarts,
        moves=watch.monitor_moves,
    )


class Trial:
    """One scene being tried."""

    def __init__(self, scene: Scene, world: World, network: Network, watch: Watch) -> None:
        self.scene = scene
        self.world = world
        self.watch = watch
        self.network = network
        self.hands = Hands(world, network, scene.all_services(), is_truthful=True)
        self._is_retimed = False

    # -- safety ------------------------------------------------------------------------------

    def safety(self, deeds: Sequence[Deed]) -> None:
        """Do what the schedule says, when it says."""
        self.watch.calm_since = 0.0
        for deed in deeds:
            self.world.run_until(deed.at)
            self.do(deed.line)
        self.world.run(self.scene.longest_timeout_s)

    def do(self, line: str) -> None:
        """Do one line, and tell the watch."""
        word = line.partition(" ")[0]
        if word == "lose-store":
            self.watch.forget_numbers(line.split()[1])
        self._is_retimed = self._is_retimed or word == "timeout"
        self.world.say("-", line)
        self.watch.calm_since = self.world.now  # what it asks for has the bound from now on
        if word in _VERBS:
            with self.watch.operator():
                self.hands.do(line)
        else:
            self.hands.do(line)
        self.watch.late_s = max(self.watch.late_s, self.network.weather.delay_s)

    # -- liveness ------------------------------------------------------------------------------

    def liveness(self) -> None:
        """Faults stop: within the bound, what nothing holds is up once; then what operators free, too."""
        scene, t = self.scene, self.scene.longest_timeout_s
        self.watch.is_live = True
        self.do("calm")
        if self._is_retimed:
            for node in self.world.hosts:
                self.do(f"timeout {node} {t:.4f}")
        actions_s = 2 * scene.limit_s
        self.world.run(scene.leave_within_s + scene.restart_within_s + scene.reboot_s + t)
        self._boot_all()
        bound_s = 3 * t + scene.wait_for_peer_s + 2.0
        self.world.run(bound_s)
        self._run_until_settled(actions_s)
        self._once_each()
        self._clear_failures()
        self._run_until_settled(actions_s)
        self._free()
        self.world.run(3 * t)
        self._run_until_settled(actions_s)
        self._once_each()

    def _boot_all(self) -> None:
        for node, host in self.world.hosts.items():
            if not host.is_on:
                self.do(f"boot {node}")
            elif host.core is None or host.core.phase is Phase.GONE:
                self.do(f"daemon-start {node}")
            if set(host.config.services) != set(self.scene.service_names):
                self.do(f"configure {node} services={self.scene.services}")

    def _run_until_settled(self, at_most_s: float) -> None:
        """Let actions end, which take their time."""
        end = self.world.now + at_most_s
        while self.world.now < end and any(
            instance.action is not None or instance.state in _MOVING
            for host in self.world.hosts.values()
            if host.core is not None
            for instance in host.core.instances.values()
        ):
            self.world.run(0.25 * self.scene.timeout_s)
        self.world.run(0.5 * self.scene.timeout_s)

    def _states(self, name: str) -> Dict[str, State]:
        found = {}
        for node, host in self.world.hosts.items():
            core = host.core
            self.watch.must(core is not None, f"the daemon of {node} does not run", NOT_UP)
            assert core is not None, "just checked"
            self.watch.must(name in core.instances, f"{node} does not know {name}", NOT_UP)
            found[node] = core.instances[name].state
        return found

    def _once_each(self) -> None:
        for name in self.scene.service_names:
            states = self._states(name)
            seen = f"{ {node: state.name for node, state in states.items()} }, up on {self.world.where(name)}"
            where = [node for node in self.world.where(name) if states[node] not in _FAILED]
            self.watch.must(len(where) <= 1, f"{name} is up twice after the faults: {seen}", NOT_UP)
            values = set(states.values())
            if values & _FAILED or values == {State.FROZEN_STOP}:
                continue
            running = [s for s in states.values() if s in (State.STARTED, State.FROZEN_START)]
            self.watch.must(len(running) == 1, f"{name} is not up once after the faults: {seen}", NOT_UP)

    def _clear_failures(self) -> None:
        for name in self.scene.service_names:
            for node, state in self._states(name).items():
                if state in _FAILED:
                    self.world.say("-", f"an operator clears {name} on {node}")
                    self.hands.do(f"resources {name} down on {node}")
                    self.do(f"force-stop {name} on {node}")

    def _free(self) -> None:
        """Unfreeze everything, those that run first."""
        for name in self.scene.service_names:
            states = self._states(name)
            for node in sorted(NODES, key=lambda node: states[node] is not State.FROZEN_START):
                if states[node] in (State.FROZEN_START, State.FROZEN_STOP):
                    self.do(f"unfreeze {name} on {node}")


_VERBS = frozenset(verb.value for verb in Verb) | {"confirm-dead"}
_FAILED = frozenset({State.START_FAILED, State.STOP_FAILED, State.FORCE_STOP})
_MOVING = frozenset({State.STARTING, State.STOPPING, State.START_READY})
