"""Conversations: small plays in text, performed by a deterministic world of unchanged cores.

A file is a comment that tells what happens and what must follow, then blocks. A block is
commands, a line `----`, and what the world then said: its log, and where every instance
stands at the end. `perform` gives the whole file back with the answers of today.

    cluster [NODE ...] [links=net,unicast,dio] [timeout=5] [services=svc1,svc2] [wait_for_peer=0]
            [takeover=ask] [takeover_frozen=yes] [heal=stop] [restart_within=60] [leave_within=600]
    booted                       every node boots, and hears the others
    started SVC on NODE          unfrozen everywhere, running on NODE
    boot NODE                    power on
    kill NODE                    power off
    daemon-start NODE            the node was not off
    daemon-stop NODE             in order: the services run on
    daemon-kill NODE             without a word
    leave NODE                   a halt in order
    pause NODE / resume NODE
    cut LINK FROM>TO             LINK is a type, or `all`; FROM<>TO cuts both directions
    heal [LINK FROM>TO]          everything, when nothing is named
    VERB SVC on NODE [force]     freeze-stop, freeze-start, unfreeze, force-start, force-stop, start, stop,
                                 switch
    confirm-dead NODE on OTHER
    action SVC start|stop on NODE takes 60s | fails | works
    resources SVC up|down on NODE
    lose-store NODE
    stored SVC STATE on NODE     what the store holds, while the daemon does not run
    configure NODE services=svc1,svc2@NODE
                                 a service with a node is that node's alone; svc1@deb2+deb1 lists
                                 the nodes in this order
    run 20s
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

from core_builders import make_config, rule_ids

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import HealPolicy, Policies, Service, TakeoverPolicy
from opensvc_hb.core.events import StopKind
from opensvc_hb.core.states import ActionVerb, Avail, State, Verb
from opensvc_hb.sim.world import World

SEPARATOR = "----"
VERBS = {verb.value: verb for verb in Verb}


class Play:
    """One conversation being performed. `rules` collects the rows that decided anything."""

    def __init__(self):
        self.world = None
        self.rules = set()
        self._heard = 0

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
        if core is None or name not in core.instances:
            return "-"
        instance = core.instances[name]
        return instance.state.name if instance.verified else "(asking the agent)"

    # -- commands ------------------------------------------------------------------------

    def _do(self, line):
        word, *rest = line.split()
        if word == "cluster":
            self._cluster(rest)
        elif word in VERBS:
            force = rest[-1] == "force"
            self.world.command(rest[2], rest[0], VERBS[word], force, "as told")
        else:
            getattr(self, "_do_" + word.replace("-", "_"))(*rest)

    def _cluster(self, words):
        nodes = [word for word in words if "=" not in word] or ["deb1", "deb2"]
        options = dict(word.split("=") for word in words if "=" in word)
        policies = Policies(
            wait_for_peer_s=float(options.pop("wait_for_peer", 90)),
            takeover=TakeoverPolicy(options.pop("takeover", "automatic")),
            takeover_frozen=options.pop("takeover_frozen", "no") == "yes",
            heal=HealPolicy(options.pop("heal", "freeze")),
            restart_within_s=float(options.pop("restart_within", 60)),
            leave_within_s=float(options.pop("leave_within", 600)),
        )
        links = options.pop("links", "net").split(",")
        timeout_s = float(options.pop("timeout", 5))
        services = options.pop("services", "svc1").split(",")
        assert not options, f"what is {options}?"
        made = [make_config(node, links, timeout_s, services, nodes, policies) for node in nodes]
        self.world = World(tuple(made))
        self.world.on_step = self._note_rules

    def _note_rules(self, node, effects, performed):
        self.rules.update(e.rule for e in effects if isinstance(e, fx.Journal) and e.rule)
        core = self.world.hosts[node].core
        if core is not None:
            self.rules.update(rule_ids(core, self.world.now))

    def _do_booted(self):
        for node in self.world.hosts:
            self.world.boot(node)
        self.world.run(1)
        self._heard = len(self.world.log)

    def _do_started(self, name, _on, node):
        if self.world.hosts[node].core is None:
            self._do_booted()
        for each in [node, *self.world.hosts]:
            self.world.command(each, name, Verb.UNFREEZE)
            self.world.run(2)
        assert self.world.state(node, name) == "STARTED", self._states()
        self._heard = len(self.world.log)

    def _do_boot(self, node):
        self.world.boot(node)

    def _do_kill(self, node):
        self.world.kill(node)

    def _do_daemon_start(self, node):
        self.world.boot(node, booted=False)

    def _do_daemon_stop(self, node):
        self.world.stop(node, StopKind.RESTART)

    def _do_daemon_kill(self, node):
        self.world.kill_daemon(node)

    def _do_leave(self, node):
        self.world.stop(node, StopKind.LEAVE)

    def _do_pause(self, node):
        self.world.pause(node)

    def _do_resume(self, node):
        self.world.resume(node)

    def _paths(self, kind, direction):
        both = "<>" in direction
        first, second = re.split("<?>", direction)
        for sender, listener in [(first, second), (second, first)] if both else [(first, second)]:
            for link in self.world.hosts[sender].config.links_from(sender):
                if kind in ("all", link.type.value):
                    yield link.id, listener

    def _do_cut(self, kind, direction):
        for path in self._paths(kind, direction):
            self.world.cut(*path)

    def _do_heal(self, kind="", direction=""):
        for path in self._paths(kind, direction) if kind else list(self.world.cuts):
            self.world.heal(*path)

    def _do_confirm_dead(self, dead, _on, node):
        self.world.confirm_dead(node, dead)

    def _do_action(self, name, verb, _on, node, how, seconds=""):
        key = (node, name, ActionVerb(verb))
        if how == "takes":
            self.world.action_s[key] = float(seconds.rstrip("s"))
        elif how == "fails":
            self.world.failing.add(key)
        else:
            assert how == "works", how
            self.world.failing.discard(key)

    def _do_resources(self, name, avail, _on, node):
        self.world.resources(node, name, Avail(avail))

    def _do_lose_store(self, node):
        self.world.lose_store(node)

    def _do_stored(self, name, state, _on, node):
        host = self.world.hosts[node]
        assert host.core is None, f"the daemon of {node} runs"
        kept = replace(host.stored.instances[name], state=State[state])
        host.stored = replace(host.stored, instances={**host.stored.instances, name: kept})

    def _do_configure(self, node, services):
        config = self.world.hosts[node].config
        made = {}
        for word in services.partition("=")[2].split(","):
            name, _, alone = word.partition("@")
            made[name] = Service(name, name, tuple(alone.split("+")) if alone else config.nodes)
        self.world.reconfigure(
            node,
            replace(config, services=made, digest=hashlib.blake2b(services.encode(), digest_size=8).digest()),
        )

    def _do_run(self, seconds):
        self.world.run(float(seconds.rstrip("s")))


def perform(text):
    """Perform a conversation; return its text as it would be today, and the rows it used."""
    play = Play()
    return play.perform(text), frozenset(play.rules)
