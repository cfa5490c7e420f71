"""Conversations: small plays in text, performed by a deterministic world of unchanged cores.

A file is a comment that tells what happens and what must follow, then blocks. A block is
commands, a line `----`, and what the world then said: its log, and where every instance
stands at the end. `perform` gives the whole file back with the answers of today.

    cluster [NODE ...] [links=net,unicast,dio] [timeout=5] [services=svc1,svc2] [wait_for_peer=0]
            [takeover=ask] [takeover_frozen=yes] [heal=stop] [restart_within=60] [leave_within=600]
            [lease=no] [monitor=freezestop restarts=2 max_moves=2 move_window=3600 prepares=yes]
            [evaluate=5]
    scene WORDS                  a cluster as the simulator draws it: clocks, delays, links with timeouts
    booted                       every node boots, and hears the others
    started SVC on NODE          unfrozen everywhere, running on NODE
    stored SVC STATE on NODE     what the store holds, while the daemon does not run
    run 20s
    at 12.5                      up to this moment

and everything that `opensvc_hb.sim.deeds` knows how to do.
"""

from __future__ import annotations

import re
from dataclasses import replace

from core_builders import make_config, rule_ids

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import (
    HealPolicy,
    LeasePolicy,
    MonitorAction,
    Monitored,
    Monitoring,
    Policies,
    Protocol,
    TakeoverPolicy,
)
from opensvc_hb.core.states import State, Verb
from opensvc_hb.sim.deeds import Hands
from opensvc_hb.sim.scenes import parsed
from opensvc_hb.sim.world import Nature, World

SEPARATOR = "----"


class Play:
    """One conversation being performed. `rules` collects the rows that decided anything."""

    def __init__(self):
        self.world = None
        self.hands = None
        self.rules = set()
        self._heard = 0
        self._openha = []

    def perform(self, text):
        """Return the file's text with the answers of today in place of those it holds."""
        blocks = []
        for block in re.split(r"\n\s*\n", text.strip()):
            lines = block.splitlines()
            commands = lines[: lines.index(SEPARATOR)] if SEPARATOR in lines else lines
            if all(line.startswith("#") for line in commands):
                blocks.append(block)
                continue
            for line in commands:
                if not line.startswith("#"):
                    self._do(line)
            blocks.append("\n".join([*commands, SEPARATOR, *self._said()]))
        return "\n\n".join(blocks) + "\n"

    def _said(self):
        new = self.world.log[self._heard :]
        self._heard = len(self.world.log)
        lines = [f"{line.at:6.1f} {line.node} {line.text}" for line in new]
        return [*lines, *self._states()]

    def _states(self):
        world = self.world
        lines = []
        for name in sorted({name for host in world.hosts.values() for name in host.config.services}):
            states = "  ".join(f"{node} {self._state(node, name)}" for node in world.hosts)
            up = ", ".join(node for node, host in world.hosts.items() if name in host.running)
            lines.append(f"{world.now:6.1f} {name}: {states}  (up on {up or 'no node'})")
        return lines

    def _state(self, node, name):
        core = self.world.hosts[node].core
        if self.world.hosts[node].openha is not None:
            return self.world.state(node, name)
        if core is None or name not in core.instances:
            return "-"
        instance = core.instances[name]
        return instance.state.name if instance.verified else "(asking the agent)"

    # -- commands ------------------------------------------------------------------------

    def _do(self, line):
        word, *rest = line.split()
        ours = getattr(self, "_do_" + word, None)
        if ours is not None:
            ours(*rest)
        else:
            assert self.hands.do(line), f"nothing to do: {line}"

    def _do_cluster(self, *words):
        nodes = [word for word in words if "=" not in word] or ["deb1", "deb2"]
        options = dict(word.split("=") for word in words if "=" in word)
        policies = Policies(
            wait_for_peer_s=float(options.pop("wait_for_peer", 90)),
            takeover=TakeoverPolicy(options.pop("takeover", "automatic")),
            takeover_frozen=options.pop("takeover_frozen", "no") == "yes",
            heal=HealPolicy(options.pop("heal", "freeze")),
            lease=LeasePolicy(options.pop("lease", "auto")),
            restart_within_s=float(options.pop("restart_within", 60)),
            leave_within_s=float(options.pop("leave_within", 600)),
        )
        links = options.pop("links", "net").split(",")
        timeout_s = float(options.pop("timeout", 5))
        services = options.pop("services", "svc1").split(",")
        evaluate = options.pop("evaluate", "2") if "monitor" in options else None
        monitoring = self._monitoring(options)
        self._openha = options.pop("openha", "").split(",")
        assert not options, f"what is {options}?"
        made = [make_config(node, links, timeout_s, services, nodes, policies) for node in nodes]
        if monitoring is not None:
            made = [_with_monitoring(config, monitoring) for config in made]
        if any(self._openha):
            made = [replace(config, protocol=Protocol.BOTH) for config in made]
        nature = Nature(evaluate_every_s=float(evaluate), reboot_s=12.0) if evaluate else None
        self._begin(World(tuple(made), nature))

    @staticmethod
    def _monitoring(options):
        """Take the options of the resource monitor out; None when nothing is watched."""
        if "monitor" not in options:
            return None
        return Monitoring(
            resources=(Monitored("app#1", int(options.pop("restarts", 0))),),
            action=MonitorAction(options.pop("monitor")),
            restart_window_s=float(options.pop("restart_window", 600)),
            moves_max=int(options.pop("max_moves", 2)),
            move_window_s=float(options.pop("move_window", 3600)),
            prepares=options.pop("prepares", "no") == "yes",
        )

    def _do_scene(self, *words):
        scene = parsed(words)
        world, network = scene.world()
        self._begin(world, network, scene.all_services(), is_truthful=True)

    def _begin(self, world, *hands, **how):
        self.world = world
        self.hands = Hands(world, *hands, **how)
        self.world.on_step = self._note_rules

    def _note_rules(self, node, effects, performed):
        self.rules.update(e.rule for e in effects if isinstance(e, fx.Journal) and e.rule)
        core = self.world.hosts[node].core
        if core is not None:
            self.rules.update(rule_ids(core, self.world.now))

    def _do_booted(self):
        for node in self.world.hosts:
            if node in self._openha:
                self.world.boot_openha(node)
            else:
                self.world.boot(node)
        self.world.run(1)
        self._heard = len(self.world.log)

    def _do_started(self, name, _on, node):
        if self.world.hosts[node].core is None:
            self._do_booted()
        for each in [node, *self.world.hosts]:
            if self.world.hosts[each].openha is None:
                self.world.command(each, name, Verb.UNFREEZE)
            self.world.run(9 if any(self._openha) else 2)
        assert self.world.state(node, name) == "STARTED", self._states()
        self._heard = len(self.world.log)

    def _do_stored(self, name, state, _on, node):
        host = self.world.hosts[node]
        assert host.core is None, f"the daemon of {node} runs"
        kept = replace(host.stored.instances[name], state=State[state])
        host.stored = replace(host.stored, instances={**host.stored.instances, name: kept})

    def _do_at(self, moment):
        self.world.run_until(float(moment))

    def _do_run(self, seconds):
        self.world.run(float(seconds.rstrip("s")))


def _with_monitoring(config, monitoring):
    watched = {name: replace(service, monitoring=monitoring) for name, service in config.services.items()}
    return replace(config, services=watched)


def perform(text):
    """Perform a conversation; return its text as it would be today, and the rows it used."""
    play = Play()
    return play.perform(text), frozenset(play.rules)
