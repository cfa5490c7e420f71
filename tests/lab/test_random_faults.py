"""Random faults from a seed: what the network promises holds, so no service may ever run twice.

The faults keep one link alive between the nodes, and a killed daemon is started again at
once. That is the case in which no guard is needed: any overlap at all is a defect. When the
faults stop, the service must be up, on one node, within a bounded time.

LAB_SEED chooses the seed (`new`: any), LAB_FAULTS how many faults; both are printed.
"""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from lab_config import ProbeService

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(900)]

TIMEOUT_S = 4.0
WAIT_FOR_PEER_S = 8.0
LINKS = ("eth1", "eth2", "disk")
FAULTS = int(os.environ.get("LAB_FAULTS", "10"))
SEED = os.environ.get("LAB_SEED", "2026")


class Faults:
    """One random fault after the other; `told` says what was done, with its time."""

    def __init__(self, lab, chance):
        self.lab = lab
        self.chance = chance
        self.cut = {}
        self.told = []
        self.began = time.monotonic()

    def tell(self, text):
        self.told.append(f"{time.monotonic() - self.began:6.1f} s  {text}")
        print(self.told[-1], flush=True)

    def pause_between(self):
        """Let time pass, from nothing to two timeouts."""
        end = time.monotonic() + self.chance.choice((0.0, 0.2, 1.0, TIMEOUT_S, 2 * TIMEOUT_S))
        self.lab.wait(lambda: time.monotonic() >= end, 3 * TIMEOUT_S, "time passes")

    def start_daemon(self, node):
        """Start a daemon. A disk without blocks is refused as a wrong configuration: mend it first."""
        if "disk" in self.cut:
            self.lab.heal_link(self.cut.pop("disk"), "disk")
        node.start_daemon()

    def one(self):
        """Do one fault."""
        node = self.chance.choice(self.lab.nodes)
        kinds = (
            self.links,
            self.power,
            self.daemon_killed,
            self.daemon_restarted,
            self.switch,
            self.short_pause,
        )
        self.chance.choice(kinds)(node)

    def links(self, node):
        """Cut up to two of the three links, at one end; heal all others."""
        cut = self.chance.sample(LINKS, self.chance.randrange(3))
        self.tell(f"cut at {node.name}: {', '.join(cut) or 'nothing'}")
        for link, at in list(self.cut.items()):
            if link not in cut:
                self.lab.heal_link(at, link)
                del self.cut[link]
        for link in cut:
            if link not in self.cut:
                self.lab.cut_link(node.name, link)
                self.cut[link] = node.name

    def power(self, node):
        """Cut the power, let some time pass, boot."""
        self.tell(f"power off {node.name}")
        node.kill()
        self.pause_between()
        self.tell(f"power on {node.name}")
        self.lab.boot(node.name)
        self.start_daemon(node)

    def daemon_killed(self, node):
        """SIGKILL of the daemon, and a new one at once."""
        self.tell(f"kill -9 the daemon of {node.name}")
        node.stop_daemon(signal.SIGKILL)
        self.start_daemon(node)

    def daemon_restarted(self, node):
        """SIGTERM, some time, a new daemon."""
        self.tell(f"stop the daemon of {node.name}")
        node.stop_daemon(signal.SIGTERM)
        self.pause_between()
        self.tell(f"start the daemon of {node.name}")
        self.start_daemon(node)

    def switch(self, node):
        """Ask for a move; refusing is fine."""
        result = node.hbmgr("switch", "web", timeout_s=60)
        self.tell(f"switch on {node.name}: {result.status} {result.out.strip()}{result.err.strip()}")

    def short_pause(self, node):
        """Stop every process for a third of the timeout."""
        self.tell(f"pause {node.name}")
        node.pause()
        end = time.monotonic() + TIMEOUT_S / 3
        self.lab.wait(lambda: time.monotonic() >= end, TIMEOUT_S, "time passes")
        node.resume()

    def stop(self):
        """Mend everything."""
        for link, at in self.cut.items():
            self.lab.heal_link(at, link)
        self.cut.clear()
        self.tell("all mended")


def test_random_faults_never_give_two_instances_and_end_with_one(lab):
    """Power cuts, daemon deaths, restarts, cut links, switches: never two instances, in the end one."""
    seed = random.SystemRandom().randrange(1 << 32) if SEED == "new" else int(SEED)
    print(f"LAB_SEED={seed} LAB_FAULTS={FAULTS}")
    lab.configure(TIMEOUT_S, [ProbeService("web")], wait_for_peer_s=WAIT_FOR_PEER_S)
    lab.start_daemons()
    lab.hand_over("web")
    faults = Faults(lab, random.Random(seed))
    for _number in range(FAULTS):
        faults.one()
        assert not lab.overlaps(), lab.report()
        faults.pause_between()
    faults.stop()

    def in_order():
        states = [node.states("web") for node in lab.nodes]
        return states[0] == states[1] and sorted(states[0].values()) == ["STARTED", "STOPPED"]

    lab.wait(in_order, 3 * TIMEOUT_S + WAIT_FOR_PEER_S + 10, "web is up in one place")
    lab.wait(lambda: len(lab.living("web")) == 1, 5, "the service says so, too")
    assert not lab.overlaps(), lab.report()
    print(f"LAB_SEED={seed}: {len(lab.spans('web'))} instances, one after the other")
