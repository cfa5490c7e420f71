"""A full file system under var stops no takeover, and what was announced is what was stored."""

from __future__ import annotations

import signal

import pytest
from lab_config import ProbeService

pytestmark = pytest.mark.lab

TIMEOUT_S = 4.0
"""A killed daemon's services run on if another is ready within 0.6 T, which takes its time under load."""
TRANSITIONS = 10


def fill(node):
    """Leave not one byte on the node's var, whose journal and logs share it."""
    top = node.root / "var"
    node.run(["sh", "-c", f"cat /dev/zero > {top}/filler 2>/dev/null; cat /dev/zero > {top}/filler2"])
    free = node.run(["stat", "-f", "-c", "%f", str(top)]).check().out
    assert free.strip() == "0"


def small_var(lab):
    for node in lab.nodes:
        (node.root / "var").mkdir(exist_ok=True)
        argv = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(node.root / "var")]
        node.run(argv).check()


def test_a_script_that_writes_output_starts_on_a_full_disk(lab):
    """n2's var, where the output of web's script is kept, is full: the script's writes still succeed."""
    small_var(lab)
    lab.configure(TIMEOUT_S, [ProbeService("web")])
    lab.start_daemons()
    lab.hand_over("web")
    n1, n2 = lab.nodes
    fill(n2)
    n1.kill()
    lab.wait_state("n2", "web", "STARTED", TIMEOUT_S + 10)
    lab.wait(lambda: [span.node for span in lab.living("web")] == ["n2"], 5, "web lives on n2")


def test_a_full_disk_stops_no_takeover(lab):
    """n2's var is full to the last byte; n1 is killed; n2 takes web over as ever.

    Restarted by SIGKILL, its daemon knows what it had announced, whatever happened last.
    """
    small_var(lab)
    lab.configure(TIMEOUT_S, [ProbeService("web", silent=True), ProbeService("other")])
    lab.start_daemons()
    lab.hand_over("web")
    n1, n2 = lab.nodes
    fill(n2)
    n1.kill()
    lab.wait(lambda: [span.node for span in lab.living("web")] == ["n2"], TIMEOUT_S + 10, "web lives on n2")
    lab.wait_state("n2", "web", "STARTED")
    for _turn in range(TRANSITIONS):
        n2.hbmgr("freeze-start", "web").check()
        n2.hbmgr("unfreeze", "web").check()
    n2.hbmgr("freeze-start", "web").check()
    assert n2.stop_daemon(signal.SIGKILL) == -9
    n2.start_daemon()
    lab.wait_state("n2", "web", "FROZEN_START")
    assert n2.state("other") == "FROZEN_STOP"
    assert [span.node for span in lab.spans("web")] == ["n1", "n2"]
    n2.hbmgr("unfreeze", "web").check()
    lab.wait_state("n2", "web", "STARTED")
    assert n2.run(["stat", "-f", "-c", "%f", str(n2.root / "var")]).check().out.strip() == "0"
    assert lab.overlaps() == []
