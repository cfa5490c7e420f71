"""What must hold in every step of a cluster, whatever happens to it: the watcher of a world.

Give `Watch(world)` a world before its first boot. It looks at every step's effects before and
after they are performed, and raises AssertionError with the last lines of the log.
"""

from __future__ import annotations

import contextlib

from opensvc_hb.core import effects as fx
from opensvc_hb.core.node_state import Phase, Purpose
from opensvc_hb.core.states import FROZEN, ActionVerb, State

OCCUPIES = frozenset({State.STARTING, State.STARTED, State.FROZEN_START, State.STOPPING})
"""States in which an instance counts as one that may be up."""


class Watch:
    """Checks each step.

    Args:
        one_instance: whether two instances at once are a violation, too.

    `failed` tells that something did not hold: the world stopped in the middle of a step.
    """

    def __init__(self, world, one_instance):
        self.world = world
        self.one_instance = one_instance
        self._last = {}
        self._numbers = {}
        self.failed = False
        self._operator = False
        world.on_step = self._look

    @contextlib.contextmanager
    def operator(self):
        """What happens inside is an operator's doing."""
        self._operator = True
        try:
            yield
        finally:
            self._operator = False

    def forget_numbers(self, node):
        """The node lost its store: what it sends until it is told so is read by nobody."""
        self._numbers.pop(node, None)

    def instances(self, service):
        """The nodes where a service is up, or may be."""
        found = []
        for node, host in self.world.hosts.items():
            instance = host.core.instances.get(service) if host.core is not None else None
            claimed = instance is not None and instance.verified and instance.state in OCCUPIES
            if claimed or service in host.running:
                found.append(node)
        return found

    def must(self, holds, sentence):
        """Fail with the sentence and the end of the log."""
        if not holds:
            self.failed = True
            lines = [f"{line.at:8.3f} {line.node} {line.text}" for line in self.world.log[-60:]]
            raise AssertionError("\n".join([f"{sentence} (at {self.world.now:.3f})", *lines]))

    def _look(self, node, effects, performed):
        if performed:
            self._after(node, effects)
        else:
            self._before(node, effects)

    def _before(self, node, effects):
        kinds = [type(effect) for effect in effects]
        self.must(fx.Persist not in kinds[1:], "what must be stored is stored before anything else")
        self.must(kinds[-1] is fx.ArmTimer and kinds.count(fx.ArmTimer) == 1, "one timer, at the end")
        self.must(effects[-1].at > self.world.now, "a timer in the past never lets time pass")
        self.must(kinds.count(fx.SendNow) <= 1, "one beat a step at most")
        host = self.world.hosts[node]
        life, last = self._last.get(node, (0, None))
        core, last = host.core, last if life == host.life else None
        # A command given while the agent is being asked is taken in by a later step.
        told = {e.service for e in effects if isinstance(e, fx.Journal) and e.kind == "operator"}
        for effect in effects:
            if isinstance(effect, fx.RunAction) and effect.verb is ActionVerb.START:
                self._start(node, core, last, effect, effect.service in told)
        for name, instance in core.instances.items():
            if name not in told:
                self._frozen(core, last, name, instance)
        self._last[node] = (host.life, core)

    def _start(self, node, core, last, effect, told):
        instance = core.instances[effect.service]
        self.must(instance.state is State.STARTING, f"{node} starts what it does not announce as STARTING")
        self.must(core.phase is Phase.RUNNING, f"{node} starts something while {core.phase.value}")
        before = last.instances[effect.service]
        if not self._operator and not told and not _asked_to_look(before):
            self.must(before.state not in FROZEN, f"{node} starts {effect.service}, which is frozen")
        seen = [peer.table[effect.service] for peer in core.peers.values() if effect.service in peer.table]
        highest = max([before.epoch, before.highest_epoch] + [max(e.epoch, e.highest_epoch) for e in seen])
        self.must(instance.epoch > highest, f"{node} starts {effect.service} without a new epoch")

    def _frozen(self, core, last, name, instance):
        """A frozen instance moves by an operator, by healing, or when its node leaves."""
        before = last.instances.get(name) if last is not None else None
        if before is None or not before.verified or before.state not in FROZEN or self._operator:
            return
        if instance.state is before.state:
            return
        if _asked_to_look(before):
            return
        healing = instance.action is not None and instance.action.purpose in (Purpose.HEAL, Purpose.LEAVE)
        started = before.state is State.FROZEN_START and instance.state is State.STOPPING
        self.must(healing and started, f"{name} was {before.state.name} and is {instance.state.name}")

    def _after(self, node, effects):
        host = self.world.hosts[node]
        for effect in effects:
            if isinstance(effect, fx.SendNow):
                self._sent(node, host, effect.beat)
        if self.one_instance:
            for service in host.config.services:
                where = self.instances(service)
                self.must(len(where) <= 1, f"{service} is up on {' and '.join(where)}")

    def _sent(self, node, host, beat):
        self.must(host.stored.incarnation == beat.incarnation, f"{node} sends an incarnation not stored")
        for entry in beat.table:
            kept = host.stored.instances.get(entry.service)
            announced = (entry.state, entry.state_sequence, entry.epoch, entry.highest_epoch)
            stored = kept and (kept.state, kept.state_sequence, kept.epoch, kept.highest_epoch)
            self.must(stored == announced, f"{node} announces {announced} and has stored {stored}")
        number = (beat.incarnation, beat.sequence)
        self.must(number > self._numbers.get(node, (0, 0)), f"{node} sends {number} again")
        self._numbers[node] = number


def _asked_to_look(instance):
    """Tell whether an operator's verb waited for what the agent says of the resources."""
    return instance.action is not None and instance.action.purpose is Purpose.FORCE_STOP
