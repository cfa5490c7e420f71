"""The power goes while the store is written: what was acknowledged is there after the boot."""

from __future__ import annotations

import random
import time

from services import APP_ONLY, LAUNCHER, LAUNCHER_PLACE

WEB = "web.opensvc.com"
STATES = {"STOPPED", "FROZEN_STOP"}


def test_state_survives_a_power_cut_in_the_middle_of_a_write(cluster):
    """A service is frozen and unfrozen without end, the plug is pulled: one of the two states is back.

    And a freeze that was acknowledged before the cut is in force after it.
    """
    cluster.add_service(WEB, APP_ONLY, [(LAUNCHER_PLACE, LAUNCHER)])
    cluster.start_daemons()
    cluster.hand_over(WEB)
    deb2 = cluster.deb2
    loop = f"while :; do hbmgr freeze-stop {WEB}; hbmgr unfreeze {WEB}; done"
    deb2.write("/root/loop", f"#!/bin/sh\n{loop}\n", 0o755)
    deb2.run("systemd-run --quiet --unit loop /root/loop").check()
    delay_s = random.uniform(2.0, 6.0)
    print(f"the power is cut after {delay_s:.3f} s")
    time.sleep(delay_s)  # the moment of the cut is the point: no condition is waited for
    deb2.pull_plug()
    restart(cluster)
    assert cluster.states(deb2, WEB)[deb2.name] in STATES
    assert "damaged" not in deb2.run("journalctl --no-pager --boot --unit opensvc-hb").out

    deb2.run(f"hbmgr unfreeze {WEB}")
    cluster.wait_state(deb2, WEB, "STOPPED")
    deb2.run(f"hbmgr freeze-stop {WEB}").check()
    deb2.pull_plug()
    restart(cluster)
    assert cluster.states(deb2, WEB)[deb2.name] == "FROZEN_STOP"
    assert cluster.states(cluster.deb1, WEB) == {
        "deb1.opensvc.com": "STARTED",
        "deb2.opensvc.com": "FROZEN_STOP",
    }


def restart(cluster):
    """Boot deb2, and wait until it knows where its service stands."""
    deb2 = cluster.deb2
    deb2.power_on()
    deb2.wait_booted()
    cluster.wait_links(deb2)
