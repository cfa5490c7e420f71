"""Effects become deeds in a simulated world, in order, as the daemon's performer does them.

Storing and the guardian's confirmation may take time: then the rest of the step waits, and so
does all that arrives. A machine or its daemon may end between any two effects. A state that
cannot be stored is not announced, and nothing is started with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Tuple

from opensvc_hb.core import effects as fx
from opensvc_hb.core.events import ActionFinished, LinkDrained, Outcome, Stored
from opensvc_hb.core.messages import repeated
from opensvc_hb.core.states import ActionVerb, Avail
from opensvc_hb.sim.hosts import CrashKind

if TYPE_CHECKING:
    from opensvc_hb.sim.hosts import Host
    from opensvc_hb.sim.world import World

CONFIRM_WITHIN_S = 0.25
"""How long a daemon waits for its guardian to confirm an order that adds a service."""


class Performer:
    """Performs the effects of all nodes of a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def go_on(self, node: str, host: Host) -> None:
        """Perform what is left of a step, until it has to wait or the node ends."""
        life = host.life
        effects = host.effects
        if host.unstored is not None and effects and len(effects) == len(host.step_effects):
            self._retry_store(host)
        while effects and not host.is_busy:
            if host.crash is not None and self._crashes(node, host):
                return
            wait_s = self._perform(node, host, effects.popleft())
            if host.life != life:
                return
            if wait_s > 0:
                host.busy = True
                self._world.timeline.after(wait_s, self._world.inboxes.go_on, node, life)
                return
        if not effects and host.step_effects and self._world.on_step is not None:
            done, host.step_effects = host.step_effects, ()
            self._world.on_step(node, done, True)

    def _crashes(self, node: str, host: Host) -> bool:
        """End the node here, if this is the place: behind so many effects of a step that matters."""
        crash = host.crash
        assert crash is not None, "asked by `go_on`"
        matters = any(isinstance(e, (fx.Persist, fx.RunAction, fx.Exit)) for e in host.step_effects)
        done = len(host.step_effects) - len(host.effects)
        if not matters or done != crash.effects % len(host.step_effects):
            return False
        if crash.kind is CrashKind.PAUSE:
            host.crash = None
            self._world.pause_daemon(node)
        elif crash.kind is CrashKind.MACHINE:
            self._world.kill(node)
        else:
            self._world.kill_daemon(node)
            self._world.say(node, "its daemon dies")
        return True

    def _perform(self, node: str, host: Host, effect: fx.Effect) -> float:
        """Do one thing; return how long the monitor thread waits behind it, true seconds."""
        world = self._world
        if isinstance(effect, fx.SendNow):
            self._send(node, host, effect)
        elif isinstance(effect, fx.ArmTimer):
            world.inboxes.arm(node, effect.at)
        elif isinstance(effect, fx.Persist):
            return self._persist(host, effect.stored)
        elif isinstance(effect, fx.Journal):
            rule = f" {effect.rule}" if effect.rule else ""
            why = f"  {effect.reason}" if effect.reason else ""
            world.say(node, f"{effect.service or '-'} [{effect.kind}{rule}] {effect.text}{why}")
        elif isinstance(effect, fx.Guard):
            return self._guard(host, effect)
        elif isinstance(effect, fx.AskLinks):
            self._ask(node, host, effect.token)
        elif isinstance(effect, fx.RunAction):
            self._run_action(node, host, effect)
        elif isinstance(effect, fx.CancelAction):
            host.runner.cancel(host.life, effect.action_id)
        elif isinstance(effect, fx.Reply):
            world.replies[effect.command_id] = effect
            world.say(node, f"answers: {effect.code.name} {effect.text}")
        elif isinstance(effect, fx.WatchServices):
            pass  # the world evaluates all services at one pace
        elif isinstance(effect, fx.LookAgain):
            world.look_again(node, effect.service)
        elif isinstance(effect, fx.ResetNode):
            world.reset(node, "crashed" if effect.crashes else "rebooted")
        else:
            world.say(node, "daemon exits")
            world.kill_daemon(node)
        return 0.0

    def _persist(self, host: Host, stored: Stored) -> float:
        if host.store.fails:
            host.unstored = stored
        else:
            host.stored, host.unstored = stored, None
        return host.store.takes_s

    def _retry_store(self, host: Host) -> None:
        """Before a step that stores nothing: what could not be stored is tried again."""
        if not host.store.fails and not isinstance(host.effects[0], fx.Persist):
            assert host.unstored is not None, "asked by `go_on`"
            host.stored, host.unstored = host.unstored, None

    def _send(self, node: str, host: Host, effect: fx.SendNow) -> None:
        if host.unstored is None:
            host.announced = effect.beat
            self._world.deliver(node, effect.beat, effect.with_table)
        elif host.announced is not None:
            beat = repeated(host.announced, effect.beat)
            if beat is not None:
                self._world.deliver(node, beat, True)

    def _guard(self, host: Host, effect: fx.Guard) -> float:
        if host.guardian.order(effect):
            host.unguarded = frozenset()
            return 0.0
        known = frozenset(name for name, _ in effect.services if host.guardian.guards(name))
        before = host.unguarded
        host.unguarded = frozenset(name for name, _ in effect.services) - known
        return CONFIRM_WITHIN_S if host.unguarded - before else 0.0

    def _ask(self, node: str, host: Host, token: int) -> None:
        """Have every listener hand over what has arrived, then answer."""
        world = self._world
        for link in host.config.links:
            if link.node == node:
                continue
            reader = host.readers.get(link.id)
            if reader is not None:
                world.timeline.after(0.0, self._ask_reader, node, host.life, link.id, token)
            else:
                wait_s = max(0.0, host.listens_at.get(link.id, 0.0) - world.now)
                world.timeline.after(wait_s, world.inboxes.hand_over, node, host.life, link.id)
                world.inboxes.later(wait_s, node, LinkDrained(link.id, token))

    def _ask_reader(self, node: str, life: int, link_id: str, token: int) -> None:
        host = self._world.hosts[node]
        reader = host.readers.get(link_id)
        if host.life != life or reader is None:
            return
        if host.paused:
            host.late.append(lambda: self._ask_reader(node, life, link_id, token))
        else:
            reader.ask(token)

    def _run_action(self, node: str, host: Host, action: fx.RunAction) -> None:
        refused = self._refusal(node, host, action)
        if refused is None:
            host.runner.run(action, host.life)
            return
        outcome, detail = refused
        self._world.inboxes.later(
            0.0,
            node,
            ActionFinished(action.service, action.action_id, action.verb, outcome, Avail.UNKNOWN, 1, detail),
        )

    def _refusal(self, node: str, host: Host, action: fx.RunAction) -> Optional[Tuple[Outcome, str]]:
        starts = action.verb is ActionVerb.START
        if starts and host.unstored is not None:
            return Outcome.FAILED, "not started, its state cannot be stored"
        if action.begin_by is not None and self._world.local(node) >= action.begin_by:
            return Outcome.NOT_BEGUN, "not begun: what permitted it had run out"
        if starts and action.service in host.unguarded:
            return Outcome.NOT_BEGUN, "not begun: the guardian does not answer"
        return None
