"""What must hold in every step of a cluster, whatever happens to it: the watcher of a world.

Give `Watch(world)` a world before its first boot. It looks at every step's effects before and
after they are performed, at every beat, and at every instance that begins to be up; what does
not hold raises `Violation`. It believes the world, never a core: two instances at once are two
machines on which something of a service is up in truth.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Dict, Iterator, List, Optional, Set, Tuple

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import TakeoverPolicy
from opensvc_hb.core.events import StoredInstance
from opensvc_hb.core.messages import Beat
from opensvc_hb.core.node_state import Instance, Liveness, NodeState, Peer, Phase, Purpose
from opensvc_hb.core.states import FROZEN, PERMISSIVE, ActionVerb, Answer, Avail, State
from opensvc_hb.sim.clocks import RATE_RATIO_MAX
from opensvc_hb.sim.hosts import Host
from opensvc_hb.sim.world import World

LOG_LINES = 60
AWAKE_S = 1.0
"""A daemon that has been awake for so long has had its time to act."""
MOMENT_S, STEPS_MAX = 0.001, 2000
"""A cluster whose time does not pass."""

ALONE = "two instances"
"""The name of the invariant that all others are there for."""


@dataclass(eq=False)
class Violation(AssertionError):
    """Something that must hold did not.

    Args:
        invariant: its name, the same for the same kind of failure.
        sentence: what was seen.
        at: true seconds of the world.
        lines: the end of the world's log.
    """

    invariant: str
    sentence: str
    at: float
    lines: Tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the sentence, and the log that led to it."""
        return "\n".join([f"{self.invariant}: {self.sentence} (at {self.at:.3f})", *self.lines])


def log_lines(world: World, count: int = LOG_LINES) -> Tuple[str, ...]:
    """Return the end of a world's log, one line each."""
    return tuple(f"{line.at:9.4f} {line.node} {line.text}" for line in world.log[-count:])


class Watch:
    """Checks each step.

    Args:
        one_instance: whether two instances at once are a violation, too: the lease's assumptions
            hold, or, without a lease, the network is never silent for the timeout.

    Attributes:
        failed: something did not hold: the world stopped in the middle of a step.
        rules: ids of the rows that were journaled, with their number.
        starts_against_silence, lease_ends: how often a node took over, and ended what ran without leave.
        restarts, monitor_moves: how often the resource monitor restarted something, and moved a service.
        is_live: the liveness phase has begun.
        calm_since: true time since when nothing was done to the cluster from outside; None for
            worlds whose driver does not say.
        late_s: the longest delay that a beat may have had.
    """

    def __init__(self, world: World, one_instance: bool) -> None:
        self.world = world
        self.one_instance = one_instance
        self.failed = False
        self.rules: Dict[str, int] = {}
        self.starts_against_silence = 0
        self.lease_ends = 0
        self.is_live = False
        self.calm_since: Optional[float] = None
        self._asked_until: Dict[str, float] = {}
        self.late_s = 0.0
        self._last: Dict[str, Tuple[int, Optional[NodeState]]] = {}
        self._numbers: Dict[str, Tuple[int, int]] = {}
        self._moved: Dict[str, List[Tuple[float, Tuple[int, ...]]]] = {}
        self.restarts = 0
        self.monitor_moves = 0
        self._announced: Dict[Tuple[str, str], StoredInstance] = {}
        self._told_s: Dict[str, Set[float]] = {}
        self._operator = False
        self._moment = 0.0
        self._steps_then = 0
        world.on_step = self._look
        world.on_send = self._sent
        world.on_occupied = self._occupied
        world.on_guardian = self._guardian_acts

    @contextlib.contextmanager
    def operator(self) -> Iterator[None]:
        """What happens inside is an operator's doing."""
        self._operator = True
        try:
            yield
        finally:
            self._operator = False

    def forget_numbers(self, node: str) -> None:
        """The node lost its store: what it sends until it is told so is read by nobody."""
        self._numbers.pop(node, None)

    def instances(self, service: str) -> List[str]:
        """Return the nodes where a service is up in truth, or may be."""
        return self.world.where(service)

    def must(self, holds: bool, sentence: str, invariant: str = "") -> None:
        """Fail with the sentence and the end of the log, unless something holds."""
        if not holds:
            self.failed = True
            raise Violation(invariant or sentence, sentence, self.world.now, log_lines(self.world))

    # -- what the world tells -----------------------------------------------------------------

    def _look(self, node: str, effects: Tuple[fx.Effect, ...], performed: bool) -> None:
        if not performed:
            self._before(node, effects)

    def _occupied(self, node: str, service: str) -> None:
        if self.one_instance:
            where = self.world.where(service)
            if len(where) > 1:
                self.must(False, f"{service} is up on {' and '.join(where)}", ALONE)

    def _guardian_acts(self, node: str, service: str) -> None:
        """A daemon that is awake ends what has lost its lease before its guardian has to."""
        host = self.world.hosts[node]
        instance = host.core.instances.get(service) if host.core is not None else None
        if instance is None or host.is_busy or host.asleep or host.guardian.is_unreachable:
            return
        awake_s = self.world.now - host.woke_at
        runs = instance.state in (State.STARTED, State.FROZEN_START) and instance.action is None
        assert host.core is not None, "it has an instance"
        asks = host.core.phase is Phase.VERIFYING  # it decides nothing before it knows what runs
        if runs and not asks and awake_s > AWAKE_S:
            self.must(False, f"{node} leaves it to the guardian to end {service}", "left to the guardian")

    def _before(self, node: str, effects: Tuple[fx.Effect, ...]) -> None:
        host = self.world.hosts[node]
        life, last = self._last.get(node, (0, None))
        core = host.core
        assert core is not None, "it has just made a step"
        last = last if life == host.life else None
        self._time_passes()
        told = self._order(node, core, effects)
        for effect in effects:
            if isinstance(effect, fx.RunAction) and effect.verb is ActionVerb.START:
                assert last is not None, "a daemon's first step starts nothing"
                self._start(node, core, last, effect, effect.service in told)
                silent = any(peer.liveness is Liveness.UNKNOWN for peer in core.peers.values())
                self.starts_against_silence += silent
            elif isinstance(effect, fx.RunAction) and effect.verb is ActionVerb.STOP:
                self._stop(node, core, effect.service)
            elif isinstance(effect, fx.RunAction) and effect.verb is ActionVerb.RESTART:
                self._restart(node, core, effect.service)
            elif isinstance(effect, fx.ResetNode):
                self._moves(node, core, effect.service)
        if last is not None and core.instances is not last.instances:
            for name, instance in core.instances.items():
                before = last.instances.get(name)
                if before is not None and before.state is not instance.state and name not in told:
                    self._frozen(name, before, instance)
        self._last[node] = (host.life, core)
        if self.calm_since is not None:
            self._prompt(node, host, core)

    def _time_passes(self) -> None:
        """A core that arms its timer again and again for no time at all uses up its processor."""
        world = self.world
        if world.now > self._moment + MOMENT_S:
            self._moment, self._steps_then = world.now, world.steps_count
        many = world.steps_count - self._steps_then > STEPS_MAX
        self.must(not many, f"{STEPS_MAX} steps within {MOMENT_S} s", "no time passes")

    def _order(self, node: str, core: NodeState, effects: Tuple[fx.Effect, ...]) -> List[str]:
        """Check the order of a step's effects; return the services that an operator spoke of."""
        told = []
        sends = 0
        for place, effect in enumerate(effects):
            if isinstance(effect, fx.Journal):
                if effect.kind == "operator":
                    # A command given while the agent is being asked is taken in by a later step.
                    told.append(effect.service)
                if effect.rule:
                    self.rules[effect.rule] = self.rules.get(effect.rule, 0) + 1
            elif isinstance(effect, fx.Persist):
                self.must(place == 0, "what must be stored is stored before anything else")
            elif isinstance(effect, fx.SendNow):
                sends += 1
            elif isinstance(effect, fx.Guard):
                acts = any(isinstance(e, (fx.SendNow, fx.RunAction)) for e in effects[:place])
                self.must(not acts, "the guardian is told before anything is sent or begun")
        last = effects[-1]
        self.must(isinstance(last, fx.ArmTimer), "one timer, at the end")
        assert isinstance(last, fx.ArmTimer), "just checked"
        self.must(last.at > core.last_at, "a timer in the past never lets time pass")
        self.must(sends <= 1, "one beat a step at most")
        return told

    def _start(self, node: str, core: NodeState, last: NodeState, effect: fx.RunAction, told: bool) -> None:
        name = effect.service
        instance, before = core.instances[name], last.instances[name]
        self.must(
            instance.state is State.STARTING, f"{node} starts what it does not announce as STARTING", "start"
        )
        self.must(
            core.phase is Phase.RUNNING,
            f"{node} starts something while {core.phase.value}",
            "start while going",
        )
        if not self._operator and not told and not _asked_to_look(before):
            self.must(before.state not in FROZEN, f"{node} starts {name}, which is frozen", "frozen start")
        entries = [peer.table[name] for peer in core.peers.values() if name in peer.table]
        highest = max([before.epoch, before.highest_epoch] + [max(e.epoch, e.highest_epoch) for e in entries])
        self.must(instance.epoch > highest, f"{node} starts {name} without a new epoch", "epoch")
        nodes = core.config.services[name].nodes
        for peer in core.peers.values():
            if peer.node in nodes and peer.liveness is Liveness.ALIVE:
                self._offered(node, before, peer)

    def _offered(self, node: str, before: Instance, peer: Peer) -> None:
        """Against a peer that is heard nothing starts without an offer that it acknowledged in truth."""
        offer = before.offer
        starts = f"{node} starts {before.service}"
        self.must(offer is not None, f"{starts} against {peer.node} without an offer", "offer")
        assert offer is not None, "just checked"
        theirs = self.world.hosts[peer.node].core
        if theirs is None or node not in theirs.peers or peer.incarnation != theirs.incarnation:
            return  # whoever acknowledged it is dead
        seen = theirs.peers[node]
        known = (seen.incarnation, seen.sequence) >= (offer.incarnation, offer.sequence)
        self.must(known, f"{starts}: {peer.node} has not seen its offer", "offer")
        given_up = seen.liveness in (Liveness.UNKNOWN, Liveness.WAITING)
        self.must(not given_up, f"{starts}: {peer.node} takes it for dead", "offer")

    def _stop(self, node: str, core: NodeState, name: str) -> None:
        instance = core.instances[name]
        action = instance.action
        assert action is not None, "it was just asked for"
        if action.purpose is Purpose.LEASE:
            self.lease_ends += 1
        elif action.purpose is Purpose.HEAL:
            self._yields(node, core, instance)
        elif action.purpose is Purpose.MONITOR or self._is_monitors(instance):
            self._moves(node, core, name)

    @staticmethod
    def _is_monitors(instance: Instance) -> bool:
        """Tell a hand-over that the resource monitor began from an operator's."""
        watching = instance.watching
        began = instance.action is not None and instance.action.since
        return watching.is_moving and bool(watching.moves) and watching.moves[-1] == began

    def _restart(self, node: str, core: NodeState, name: str) -> None:
        instance = core.instances[name]
        self.restarts += 1
        self.must(instance.state is State.STARTED, f"{node} restarts a resource of {name}", "restart")
        told = self.world.hosts[node].answers.get(name, ())
        self.must(told[-1:] == (Answer.DOWN,), f"{node} restarts what it was told is {told}", "restart")

    def _moves(self, node: str, core: NodeState, name: str) -> None:
        """The monitor moves nothing that it cannot tell, nor to nobody, nor too often."""
        self.monitor_moves += 1
        told = self.world.hosts[node].answers.get(name, ())
        moves = f"{node} moves {name}"
        twice = told[-2:] == (Answer.DOWN, Answer.DOWN)
        self.must(twice, f"{moves} and was told {[a.value for a in told]}", "moved without being down")
        takers = [
            peer
            for peer in core.peers.values()
            if peer.liveness is Liveness.ALIVE
            and name in peer.table
            and peer.table[name].state is State.STOPPED
        ]
        self.must(bool(takers), f"{moves} and nobody can take it", "moved to nobody")
        monitoring = core.config.services[name].monitoring
        window_s = monitoring.move_window_s / RATE_RATIO_MAX
        lives = tuple(host.life for host in self.world.hosts.values())
        known = [move for move in self._moved.get(name, []) if move[1] == lives]
        counted = [at for at, _ in known if self.world.now - at < window_s]
        self.must(
            len(counted) < monitoring.moves_max,
            f"{moves} for the {len(counted) + 1}. time",
            "moved too often",
        )
        self._moved[name] = [*known, (self.world.now, lives)]

    def _yields(self, node: str, core: NodeState, instance: Instance) -> None:
        """Of a double start the side yields that is not up, has the lower epoch, or is the secondary."""
        name = instance.service
        nodes = core.config.services[name].nodes
        for peer in core.peers.values():
            entry = peer.table.get(name)
            if entry is None or entry.state not in _CONTENDS or peer.config_digest != core.config.digest:
                continue
            ours = (instance.resources is not Avail.DOWN, instance.epoch, -nodes.index(node))
            theirs = (entry.resources_up, entry.epoch, -nodes.index(peer.node))
            self.must(
                ours < theirs, f"{node} yields {name} {ours} to {peer.node} {theirs}", "wrong side yields"
            )

    def _frozen(self, name: str, before: Instance, instance: Instance) -> None:
        """A frozen instance moves by an operator, by healing, or when its node or its lease goes."""
        if not before.verified or before.state not in FROZEN or self._operator or _asked_to_look(before):
            return
        ends = instance.action is not None and instance.action.purpose in _ENDS
        started = before.state is State.FROZEN_START and instance.state is State.STOPPING
        self.must(
            ends and started, f"{name} was {before.state.name} and is {instance.state.name}", "frozen moved"
        )

    def _sent(self, node: str, beat: Beat) -> None:
        host = self.world.hosts[node]
        stored = host.stored
        self.must(
            stored.incarnation == beat.incarnation,
            f"{node} sends incarnation {beat.incarnation}, and has stored {stored.incarnation}",
            "incarnation not stored",
        )
        for entry in beat.table or ():
            kept = stored.instances.get(entry.service)
            announced = StoredInstance(entry.state, entry.state_sequence, entry.epoch, entry.highest_epoch)
            same = kept is not None and (
                (kept.state is entry.state or entry.state is State.UNKNOWN)
                and kept.state_sequence == entry.state_sequence
                and kept.epoch == entry.epoch
                and kept.highest_epoch == entry.highest_epoch
            )
            # While the store fails the last word is said again: that was stored when it was new.
            before = self._announced.get((node, entry.service))
            again = before is not None and (
                replace(before, state=entry.state) == announced
                and (entry.state is before.state or entry.state is State.UNKNOWN)
                and kept is not None
                and kept.state_sequence >= entry.state_sequence
            )
            self.must(
                same or again,
                f"{node} announces {announced} and has stored {kept}",
                "stored is not announced",
            )
            if same:
                self._announced[node, entry.service] = announced
            if entry.state in PERMISSIVE and self.one_instance:
                self.must(
                    not host.runner.occupies(entry.service),
                    f"{node} announces {entry.service} {entry.state.name} while it is up there",
                    "permission while up",
                )
        number = (beat.incarnation, beat.sequence)
        known = self._numbers.get(node, (0, 0))
        self.must(number > known, f"{node} sends {number} after {known}", "numbers repeat")
        self._numbers[node] = number
        self._told_s.setdefault(node, set()).add(beat.longest_timeout_s)

    # -- a dead peer is taken over from ---------------------------------------------------------

    def _prompt(self, node: str, host: Host, core: NodeState) -> None:
        """With its peer off and nothing in the way, a node has what it may run, within a bound."""
        others = [other for name, other in self.world.hosts.items() if name != node]
        if core.phase is not Phase.RUNNING:
            self._asked_until[node] = self.world.now  # the agent is still being asked what runs here
        if len(others) != 1 or others[0].is_on or core.phase is not Phase.RUNNING:
            return
        peer = core.peers[others[0].config.node]
        policies = core.config.policies
        # Its newest T may not have been heard, or not been told: what it did tell counts.
        read = (peer.longest_timeout_s, peer.slot.longest_timeout_s if peer.slot is not None else 0.0)
        told = [told_s for told_s in read if told_s in self._told_s.get(peer.node, ())]
        timeout_s = max(core.config.longest_timeout_s, others[0].config.longest_timeout_s, *told)
        bound_s = RATE_RATIO_MAX * (timeout_s + max(policies.wait_for_peer_s, 0.0)) + 0.2 * timeout_s
        bound_s += self.late_s + host.reads_late_s + 0.5  # its last beat may have waited unread so long
        assert self.calm_since is not None, "asked by `_before`"
        said_at = max(self.calm_since, self.world.turned_at, host.woke_at, self._asked_until.get(node, 0.0))
        late_s = self.world.now - said_at - bound_s
        if late_s < 0 or policies.takeover is TakeoverPolicy.ASK or not _works(host):
            return
        if peer.promised_until is not None and core.last_at < peer.promised_until + timeout_s:
            return
        if peer.claim is not None and (peer.claim.tries > 0 or peer.claim.refused):
            return
        for name, instance in core.instances.items():
            waits = instance.state is State.STOPPED and instance.verified and instance.action is None
            held = name in peer.maintenance or instance.handing_until is not None
            shared = others[0].config.node in core.config.services[name].nodes
            if waits and shared and not held:
                self.must(
                    False,
                    f"{node} has not taken {name} over {late_s + bound_s:.1f} s after all was said",
                    "no takeover",
                )


_CONTENDS = frozenset({State.STARTING, State.STARTED, State.FROZEN_START})
_ENDS = frozenset({Purpose.HEAL, Purpose.LEAVE, Purpose.LEASE})


def _asked_to_look(instance: Instance) -> bool:
    """Tell whether an operator's verb waited for what the agent says of the resources."""
    return instance.action is not None and instance.action.purpose is Purpose.FORCE_STOP


def _works(host: Host) -> bool:
    """Tell whether nothing is broken on a machine that would keep it from starting a service."""
    path = host.path
    broken = path.fails or path.hangs or path.loses or path.tears or path.slow_s > 0
    broken = broken or host.store.fails or host.store.takes_s > 0 or host.guardian.is_unreachable
    return not broken and not host.is_busy
