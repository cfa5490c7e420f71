"""A daemon that stops, dies and comes back leaves the services alone: same process, same node."""

from __future__ import annotations

import signal

import pytest
from lab_config import ProbeService
from lease_scene import now

pytestmark = pytest.mark.lab

TIMEOUT_S = 6.0
"""A killed daemon's services run on if another is ready within 0.6 T: an interpreter, its imports and the
agent's answers take more than 2.4 s on a loaded machine."""
LONG_TIMEOUT_S = 8.0
"""The guardian's stop has 0.1 T before it kills: an interpreter and a script, on a loaded machine."""
WITHIN_S = 10.0


def hold_one_process(lab, for_s):
    """web stays the one process that it is."""
    runs = [span.run for span in lab.living("web")]
    assert len(runs) == 1
    lab.hold(lambda: [span.run for span in lab.living("web")] == runs, for_s, "web is the same process")


def ready(lab):
    lab.configure(TIMEOUT_S, [ProbeService("web")])
    lab.start_daemons()
    lab.hand_over("web")


def test_an_orderly_restart_leaves_the_service_running_and_adopted(lab):
    """SIGTERM, a wait of twice the timeout, a new start: no takeover, and the new daemon owns web."""
    ready(lab)
    n1, n2 = lab.nodes
    assert n1.stop_daemon(signal.SIGTERM) == 0
    hold_one_process(lab, 1.5 * TIMEOUT_S)
    assert n2.state("web") == "STOPPED"
    n1.start_daemon()
    lab.wait_state("n1", "web", "STARTED")
    lab.wait(lambda: n2.states("web")["n1"] == "STARTED", 5, "n2 hears it")
    hold_one_process(lab, 1.5 * TIMEOUT_S)
    assert len(lab.spans("web")) == 1


@pytest.mark.parametrize("node_dies", [True, False])
def test_a_promise_to_come_back_ends(lab, node_dies):
    """n1's daemon says that it restarts within 10 s, and never does: n2 waits these 10 s, not longer.

    So it is when n1 dies meanwhile, and when it lives: then its guardian stops web before the 10 s are over.
    """
    lab.configure(LONG_TIMEOUT_S, [ProbeService("web")], more=f"restart_within = {WITHIN_S:g}\n")
    lab.start_daemons()
    lab.hand_over("web")
    n1, n2 = lab.nodes
    assert n1.stop_daemon(signal.SIGTERM) == 0
    stopped_at = now()
    lab.hold(lambda: n2.state("web") == "STOPPED", 2.0, "n2 waits")
    if node_dies:
        n1.kill()
    lab.wait_state("n2", "web", "STARTED")
    first, second = lab.spans("web")
    print(
        f"web ended {first.last - stopped_at:.2f} s after the daemon, began {second.began - stopped_at:.2f} s"
    )
    assert WITHIN_S - 1.0 < second.began - stopped_at < WITHIN_S + 3.0
    assert node_dies or first.stopped
    assert not lab.overlaps()


def test_a_killed_daemon_that_is_back_in_time_adopts_its_service(lab):
    """SIGKILL and an immediate start: no takeover, the same process goes on."""
    ready(lab)
    n1, n2 = lab.nodes
    assert n1.stop_daemon(signal.SIGKILL) == -9
    n1.start_daemon()
    lab.wait_state("n1", "web", "STARTED")
    hold_one_process(lab, 1.5 * TIMEOUT_S)
    assert n2.states("web") == {"n1": "STARTED", "n2": "STOPPED"}
    assert len(lab.spans("web")) == 1


def test_both_daemons_killed_and_started_again_adopt_what_runs(lab):
    """Both daemons die at once; when they are back, web is where it was, the same process."""
    ready(lab)
    for node in lab.nodes:
        assert node.stop_daemon(signal.SIGKILL) == -9
    lab.start_daemons()
    lab.wait_state("n1", "web", "STARTED")
    lab.wait_state("n2", "web", "STOPPED")
    hold_one_process(lab, 1.5 * TIMEOUT_S)
    assert len(lab.spans("web")) == 1


def test_a_second_daemon_on_the_same_node_is_refused(lab):
    """Two daemons on one root would be two voices of one node: the second one goes, with a reason."""
    ready(lab)
    second = lab.node("n1").hbmgr("daemon", timeout_s=20)
    assert second.status not in (0, None)
    assert "already runs" in second.err
    hold_one_process(lab, 0.5)
