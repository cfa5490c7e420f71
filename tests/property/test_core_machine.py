"""Whatever happens to two nodes, the invariants hold: state machines over the deterministic world.

Two profiles. In the first the network loses, doubles, delays and reorders beats, but is never
silent for the timeout: then no service is ever up twice. In the second anything goes, cuts and
pauses included; when the faults stop, one instance remains and runs.
"""

from __future__ import annotations

import random

import pytest
from core_builders import NODES, TIMEOUT_S, make_config
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from opensvc_hb.core.config import HealPolicy, Policies, TakeoverPolicy
from opensvc_hb.core.events import StopKind
from opensvc_hb.core.states import ActionVerb, Avail, State, Verb
from opensvc_hb.sim.invariants import Watch
from opensvc_hb.sim.world import LINK_DELAY_S, World

SERVICES = ("svc1", "svc2")
SILENCE_MAX_S = 2.0
DELAY_MAX_S = 0.9
"""Of beats on their way: with a beat a second, this network is never silent for the timeout of 5 s."""

PAUSE_MAX_S = 0.9
"""Of a node in the first profile: with all of the above still less than the timeout."""

PROFILE = {
    "deadline": None,
    "stateful_step_count": 30,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
}

nodes = st.sampled_from(NODES)
services = st.sampled_from(SERVICES)
seconds = st.one_of(st.floats(0.001, 0.02), st.floats(0.05, 3.0), st.floats(3.0, 12.0))


class LossyNetwork:
    """Decides what becomes of each beat: by a seed, and never silent for long when bounded."""

    def __init__(self, world, seed, bounded):
        self.world = world
        self.random = random.Random(seed)
        self.bounded = bounded
        self.loss = 0.0
        self.last = {}

    def __call__(self, link_id, listener, beat):
        """Return the delays of the copies that arrive."""
        path = (beat.sender, listener)
        silent = self.world.now - self.last.get(path, self.world.now - SILENCE_MAX_S)
        must = self.bounded and silent >= SILENCE_MAX_S
        if self.random.random() < self.loss and not must:
            return frozenset()
        if self.loss == 0.0:
            self.last[path] = self.world.now
            return frozenset({LINK_DELAY_S})
        copies = {self.random.choice((LINK_DELAY_S, self.random.uniform(0.0, DELAY_MAX_S)))}
        if self.random.random() < 0.2:
            copies.add(self.random.uniform(0.0, DELAY_MAX_S))
        self.last[path] = self.world.now
        return frozenset(copies)


class Cluster(RuleBasedStateMachine):
    """What both profiles share: time, operators, slow and failing actions, orderly stops."""

    bounded = True

    @initialize(
        links=st.sampled_from([("net",), ("net", "dio")]),
        wait_s=st.sampled_from([0.0, 12.0]),
        heal=st.sampled_from(HealPolicy),
        ask=st.sampled_from([TakeoverPolicy.AUTOMATIC, TakeoverPolicy.AUTOMATIC, TakeoverPolicy.ASK]),
        takeover_frozen=st.booleans(),
        seed=st.integers(0, 1 << 16),
        unfrozen=st.booleans(),
    )
    def begin(self, links, wait_s, heal, ask, takeover_frozen, seed, unfrozen):
        self.wait_s = wait_s
        policies = Policies(wait_s, ask, takeover_frozen, heal, restart_within_s=20.0, leave_within_s=30.0)
        self.build = lambda: World(
            tuple(make_config(node, links, TIMEOUT_S, SERVICES, policies=policies) for node in NODES)
        )
        self.seed = seed
        self.done = []
        self.world = self.build()
        self.watch = Watch(self.world, one_instance=self.bounded)
        self.network = LossyNetwork(self.world, seed, self.bounded)
        self.world.on_deliver = self.network
        for node in NODES:
            self.do("boot", node)
        if unfrozen:
            self.do("run", 1.0)
            for node in NODES:
                for service in SERVICES:
                    self.do("command", node, service, Verb.UNFREEZE)
        self.do("run", 2.0)

    def do(self, what, *how):
        """Do one thing to the world, and remember it for the replay."""
        self.done.append((what, how))
        if what in ("command", "confirm_dead"):
            with self.watch.operator():
                perform(self.world, self.network, what, how)
        else:
            perform(self.world, self.network, what, how)

    def is_running(self, node):
        """Tell whether a node's daemon runs and is not paused."""
        host = self.world.hosts[node]
        return host.core is not None and not host.paused

    @rule(for_s=seconds)
    def pass_time(self, for_s):
        self.do("run", for_s)

    @rule(loss=st.sampled_from([0.0, 0.3, 0.8]))
    def change_network(self, loss):
        self.do("loss", loss)

    @rule(
        node=nodes,
        service=services,
        verb=st.sampled_from([v for v in Verb if v is not Verb.FORCE_START]),
    )
    def command(self, node, service, verb):
        if self.is_running(node):
            self.do("command", node, service, verb)

    @rule(node=nodes, service=services, verb=st.sampled_from([ActionVerb.START, ActionVerb.STOP]), s=seconds)
    def slow_action(self, node, service, verb, s):
        self.do("action_s", (node, service, verb), s)

    @rule(node=nodes, service=services, verb=st.sampled_from([ActionVerb.START, ActionVerb.STOP]))
    def failing_action(self, node, service, verb):
        key = (node, service, verb)
        self.do("mend" if key in self.world.failing else "fail", key)

    @rule(node=nodes, service=services)
    def service_dies(self, node, service):
        if self.is_running(node) and service in self.world.hosts[node].running:
            self.do("resources", node, service, Avail.DOWN)

    @rule(node=nodes)
    def kill(self, node):
        if self.world.hosts[node].core is not None:
            self.do("kill", node)

    @rule(node=nodes)
    def boot(self, node):
        host = self.world.hosts[node]
        if host.core is None:
            if host.running:
                self.do("kill", node)
            self.do("boot", node)

    @rule(node=nodes, off_s=st.floats(0.0, 0.8))
    def restart_killed_daemon(self, node, off_s):
        if self.is_running(node):
            self.do("kill_daemon", node)
            self.do("run", off_s)
            self.do("daemon", node)

    @rule(node=nodes, off_s=st.floats(0.0, 12.0))
    def restart_daemon(self, node, off_s):
        if self.is_running(node):
            self.do("stop", node, StopKind.RESTART)
            self.do("run", 6.0 + off_s)
            if self.world.hosts[node].core is None:
                self.do("daemon", node)

    @rule(node=nodes)
    def leave(self, node):
        if self.is_running(node):
            self.do("stop", node, StopKind.LEAVE)

    @rule(node=nodes)
    def confirm_dead(self, node):
        other = NODES[1 - NODES.index(node)]
        host = self.world.hosts[node]
        if host.core is None and not host.running and self.is_running(other):
            self.do("confirm_dead", other, node)


def perform(world, network, what, how):
    """Do to a world what an entry of the list of deeds says."""
    if what == "loss":
        network.loss = how[0]
    elif what == "action_s":
        world.action_s[how[0]] = how[1]
    elif what == "fail":
        world.failing.add(how[0])
    elif what == "mend":
        world.failing.discard(how[0])
    elif what == "daemon":
        world.boot(how[0], booted=False)
    elif what == "calm":
        world.cuts.clear()
        world.failing.clear()
        world.action_s.clear()
        network.loss = 0.0
    else:
        getattr(world, what)(*how)


class NeverSilent(Cluster):
    """The network loses but is never silent for the timeout: never two instances at once."""

    bounded = True

    @rule(node=nodes, for_s=st.floats(0.01, PAUSE_MAX_S))
    def pause_for_a_moment(self, node, for_s):
        if self.is_running(node):
            self.do("pause", node)
            self.do("run", for_s)
            self.do("resume", node)

    def teardown(self):
        if hasattr(self, "world") and not self.watch.failed:
            assert self.world.overlaps == []


class Wild(Cluster):
    """Anything goes; when the faults stop, one instance remains, and it runs."""

    bounded = False

    @rule(node=nodes, both=st.booleans(), all_links=st.booleans())
    def cut(self, node, both, all_links):
        for sender, listener in [NODES, NODES[::-1]]:
            if both or listener == node:
                links = self.world.hosts[sender].config.links_from(sender)
                for link in links if all_links else links[:1]:
                    self.do("cut", link.id, listener)

    @precondition(lambda self: self.world.cuts)
    @rule()
    def heal(self):
        for link_id, listener in sorted(self.world.cuts):
            self.do("heal", link_id, listener)

    @rule(node=nodes)
    def pause(self, node):
        if self.is_running(node):
            self.do("pause", node)

    @rule(node=nodes)
    def resume(self, node):
        if self.world.hosts[node].paused:
            self.do("resume", node)

    @rule(node=nodes)
    def kill_daemon(self, node):
        if self.is_running(node):
            self.do("kill_daemon", node)

    @rule(node=nodes)
    def start_daemon(self, node):
        if self.world.hosts[node].core is None:
            self.do("daemon", node)

    @rule(node=nodes, service=services)
    def force_start(self, node, service):
        if self.is_running(node):
            self.do("command", node, service, Verb.FORCE_START)

    @rule(node=nodes)
    def lose_store(self, node):
        if self.world.hosts[node].core is None:
            self.watch.forget_numbers(node)
            self.do("lose_store", node)

    def teardown(self):
        if not hasattr(self, "world") or self.watch.failed:
            return
        self.faults_stop()
        self.operators_clear_up()
        self.replay()

    def faults_stop(self):
        """Everything works again: nothing is up twice, and what nothing holds is up."""
        self.do("calm")
        for node in NODES:
            if self.world.hosts[node].paused:
                self.do("resume", node)
        self.do("run", 40.0)  # who was asked to leave or to restart has done so
        for node in NODES:
            if self.world.hosts[node].core is None:
                self.do("daemon", node)
        self.do("run", 3 * TIMEOUT_S + self.wait_s + 2.0)
        for service in SERVICES:
            states = {node: self.state(node, service) for node in NODES}
            where = [n for n in self.watch.instances(service) if states[n] is not State.STOP_FAILED]
            self.watch.must(len(where) <= 1, f"{service} is up on {where} after the faults: {states}")
            if all(state in (State.STOPPED, State.STARTED) for state in states.values()):
                started = [node for node, state in states.items() if state is State.STARTED]
                self.watch.must(len(started) == 1, f"{service} is not up after the faults: {states}")

    def operators_clear_up(self):
        """Unfrozen, and failures cleared, every service is up on one node."""
        for service in SERVICES:
            for node in NODES:
                if self.state(node, service) in (State.START_FAILED, State.STOP_FAILED):
                    self.do("resources", node, service, Avail.DOWN)
                    self.do("command", node, service, Verb.FORCE_STOP)
                self.do("command", node, service, Verb.UNFREEZE)
        self.do("run", TIMEOUT_S)
        for service in SERVICES:
            states = [self.state(node, service) for node in NODES]
            once = sorted(states) == [State.STOPPED, State.STARTED]
            self.watch.must(once, f"{service} is not up once: {states}")

    def state(self, node, service):
        """The state of an instance."""
        return self.world.hosts[node].core.instances[service].state

    def replay(self):
        """The same deeds again give the same log."""
        world = self.build()
        network = LossyNetwork(world, self.seed, self.bounded)
        world.on_deliver = network
        for what, how in self.done:
            perform(world, network, what, how)
        assert world.log == self.world.log
        assert world.beats == self.world.beats


TestNeverSilent = NeverSilent.TestCase
TestNeverSilent.settings = settings(max_examples=150, **PROFILE)
TestWild = pytest.mark.slow(Wild.TestCase)
TestWild.settings = settings(max_examples=50, **PROFILE)
