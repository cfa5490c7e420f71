"""The power goes while the store is written: what was acknowledged is there after the boot."""

from __future__ import annotations

import random
import time

from cluster import Cluster
from machine_uml import File
from services import APP_ONLY, WEB

STATES = {"STOPPED", "FROZEN_STOP"}
LOOP = f"#!/bin/sh\nwhile :; do hbmgr freeze-stop {WEB}; hbmgr unfreeze {WEB}; done\n"


def test_state_survives_a_power_cut_in_the_middle_of_a_write(bed, tell):
    """A service is frozen and unfrozen without end, the plug is pulled: one of the two states is back.

    And a freeze that was acknowledged before the cut is in force after it.
    """
    cluster = Cluster(bed)
    deb1, deb2 = bed.nodes
    cluster.configure(WEB, APP_ONLY, File.of("/root/loop", LOOP, 0o755))
    cluster.start_daemons()
    cluster.hand_over(WEB)
    deb2.run("systemd-run --quiet --unit loop /root/loop").check()
    delay_s = random.uniform(2.0, 6.0)
    time.sleep(delay_s)  # the moment of the cut is the point: no condition is waited for
    cut(cluster)
    tell(f"the power was cut after {delay_s:.3f} s")
    assert cluster.states(deb2, WEB)[deb2.name] in STATES
    assert "damaged" not in deb2.run("journalctl --no-pager --boot --unit opensvc-hb").out

    deb2.run(f"hbmgr unfreeze {WEB}")
    cluster.wait_state(deb2, WEB, "STOPPED")
    deb2.run(f"hbmgr freeze-stop {WEB}").check()
    cut(cluster)
    assert cluster.states(deb2, WEB)[deb2.name] == "FROZEN_STOP"
    assert cluster.states(deb1, WEB) == {deb1.name: "STARTED", deb2.name: "FROZEN_STOP"}


def cut(cluster):
    """Cut the power of deb2, boot it, and wait until it knows where its service stands."""
    deb2 = cluster.deb2
    deb2.pull_plug()
    deb2.power_on()
    deb2.wait_booted()
    cluster.wait_links(deb2)
