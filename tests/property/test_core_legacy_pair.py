"""Our core and the C program, each on one node: never two instances, whatever operators and power do.

The C side is a model made from what OpenHA was seen to do (`sim.openha_node`). Links deliver every
beat: with all of them cut OpenHA starts on both sides, and nothing of ours can change that.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from core_builders import NODES, make_config
from hypothesis import given, settings
from hypothesis import strategies as st

from opensvc_hb.core.config import Protocol
from opensvc_hb.sim.deeds import Hands
from opensvc_hb.sim.world import World

TIMEOUT_S = 5.0
CALM_S = 60.0

DEEDS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "freeze-stop svc1 on {a}",
                "freeze-start svc1 on {a}",
                "unfreeze svc1 on {a}",
                "stop svc1 on {a}",
                "kill {a}",
                "boot-again {a}",
                "moves {a}",
                "action svc1 start on {a} takes 7s",
                "action svc1 start on {a} takes 0.3s",
                "action svc1 stop on {a} takes 4s",
            ]
        ),
        st.sampled_from(NODES),
        st.floats(0.0, 12.0),
    ),
    max_size=25,
)


class Pair:
    """The two nodes, and who of them runs the C program."""

    def __init__(self, openha):
        configs = tuple(replace(make_config(node), protocol=Protocol.BOTH) for node in NODES)
        self.world = World(configs)
        self.world.on_occupied = self.watch
        self.hands = Hands(self.world)
        self.openha = set(openha)
        self.doubles = []
        for node in NODES:
            self.boot(node)
        self.world.run(3.0)
        for node in NODES:
            self.hands.do(f"unfreeze svc1 on {node}")

    def watch(self, _node, service):
        """Note every moment at which two nodes have something of it up."""
        places = self.world.where(service)
        if len(places) > 1:
            self.doubles.append((self.world.now, places))

    def boot(self, node):
        """Turn a node on, with the program that is its."""
        self.hands.do(f"boot-openha {node}" if node in self.openha else f"boot {node}")

    def move(self, node):
        """Replace the program of a node that runs by the other one, services running.

        Not while a script runs: the C program knows nothing of scripts that it did not begin, and says
        STOPPED of a service that one of them is starting.
        """
        host = self.world.hosts[node]
        if not host.is_on or any(host.runner.is_acting(name) for name in host.config.services):
            return
        self.hands.do(f"daemon-kill {node}")
        self.openha ^= {node}
        self.hands.do(f"openha-start {node}" if node in self.openha else f"daemon-start {node}")

    def do(self, deed, node):
        """Do one thing."""
        if deed.startswith("boot-again"):
            self.boot(node)
        elif deed.startswith("moves"):
            self.move(node)
        else:
            self.hands.do(deed.format(a=node))


def played(openha, deeds):
    """Play deeds with their pauses; return the pair."""
    pair = Pair(openha)
    for deed, node, seconds in deeds:
        pair.do(deed, node)
        pair.world.run(seconds)
    return pair


@pytest.mark.slow
@settings(max_examples=300, deadline=None, print_blob=True)
@given(st.sampled_from(NODES), DEEDS)
def test_the_c_program_and_ours_never_run_it_both(openha, deeds):
    """Whoever is killed, booted, frozen, moved to the other program, at whatever moment."""
    pair = played([openha], deeds)
    assert not pair.doubles, pair.world.log


@pytest.mark.slow
@settings(max_examples=60, deadline=None, print_blob=True)
@given(st.sampled_from(NODES), DEEDS)
def test_when_all_is_calm_again_it_runs_somewhere(openha, deeds):
    """Both nodes on, nothing frozen or failed: within a minute it is up on one of them."""
    pair = played([openha], [(d, n, s) for d, n, s in deeds if "moves" not in d])
    for node in NODES:
        pair.boot(node)
    pair.world.run(30.0)
    for node in NODES:
        pair.do("unfreeze svc1 on {a}", node)
        pair.world.run(CALM_S)
    assert len(pair.world.where("svc1")) == 1, pair.world.log
