"""A node that stood still for three timeouts comes back to a service that runs elsewhere."""

from __future__ import annotations

import time

import pytest
from lab_config import ProbeService

pytestmark = pytest.mark.lab

TIMEOUT_S = 2.0
GAP_S = 1.0


@pytest.mark.parametrize("lease", ["auto", "no"])
def test_a_paused_node_ends_its_instance_when_it_wakes(lab, lease):
    """n1, guardian included, is paused for three timeouts; n2 takes web over; n1 wakes and ends it.

    Exactly one instance remains, n2's, and n1 has an alarm. How long both ran after the waking is
    measured: a pause of the whole node is outside every guarantee but a watchdog device's or a fence's.
    """
    lab.configure(TIMEOUT_S, [ProbeService("web")], more=f"lease = {lease}\n")
    lab.start_daemons()
    lab.hand_over("web")
    n1, n2 = lab.nodes
    n1.pause()
    paused_at = time.monotonic()
    lab.wait(lambda: [span.node for span in lab.living("web")] == ["n2"], TIMEOUT_S + 10, "web lives on n2")
    lab.hold(lambda: True, max(0.0, paused_at + 3 * TIMEOUT_S - time.monotonic()), "three timeouts pass")
    n1.resume()
    lab.wait(lambda: n1.state("web") in ("STOPPED", "STOP_FAILED"), 20, "n1 ends it")
    lab.hold(
        lambda: [span.node for span in lab.living("web")] == ["n2"], 2 * TIMEOUT_S, "one instance, on n2"
    )
    assert n2.state("web") == "STARTED"
    assert [span.node for span in lab.spans("web")] == ["n1", "n2"]
    both_s = [overlap.seconds for overlap in lab.overlaps("web", pause_s=GAP_S)]
    print(f"both ran for {sum(both_s):.2f} s after the waking")
    assert sum(both_s) < 3.0
    assert n1.status()["alarms"]


def test_a_short_pause_moves_nothing(lab):
    """A node that stands still for a third of a timeout keeps its service, and takes none over on waking.

    Its lease is what bounds it: at 0.6 T without a renewal an instance ends, however young the pause. The
    timeout is long, so that a slow machine does not make a longer pause of this one.
    """
    timeout_s = 5.0
    lab.configure(timeout_s, [ProbeService("one"), ProbeService("two")])
    lab.start_daemons()
    lab.hand_over("one", first="n1")
    lab.hand_over("two", first="n2")
    n1 = lab.node("n1")
    n1.pause()
    end = time.monotonic() + timeout_s / 3
    lab.wait(lambda: time.monotonic() >= end, timeout_s, "a third of a timeout passes")
    n1.resume()
    lab.hold(lambda: len(lab.spans()) == 2, timeout_s, "nothing moves")
    assert n1.states("two") == {"n1": "STOPPED", "n2": "STARTED"}


def test_a_paused_observer_takes_nothing_over_on_waking(lab):
    """n2 stands still for three timeouts and wakes to a queue of old beats: it lets web where it is."""
    lab.configure(TIMEOUT_S, [ProbeService("web")])
    lab.start_daemons()
    lab.hand_over("web")
    n2 = lab.node("n2")
    n2.pause()
    end = time.monotonic() + 3 * TIMEOUT_S
    lab.wait(lambda: time.monotonic() >= end, 4 * TIMEOUT_S, "three timeouts pass")
    n2.resume()
    lab.hold(lambda: [span.node for span in lab.spans("web")] == ["n1"], 3 * TIMEOUT_S, "web stays on n1")
    assert n2.states("web") == {"n1": "STARTED", "n2": "STOPPED"}
