"""The guardian on a whole machine: it ends what no daemon guards any more, and resets the node."""

from __future__ import annotations

import pytest
from cluster import STATE_LIMIT_S
from machine_uml import wait
from services import APP_ONLY, LAUNCHER, LAUNCHER_PLACE

WEB = "web.opensvc.com"
HELD = APP_ONLY.replace(
    "[app#1]",
    "[fs#1]\ntype = ext4\ndev = /root/web.img\nmnt = /srv/web\nmnt_opt = rw\n\n[app#1]",
)
WATCHDOG = "/dev/watchdog1"
"""softdog's. The first one is this kernel's own, which asks for help of the machine that runs it."""
NO_RESTART = "[Service]\nRestart=no\n"


def kill_daemon(node):
    """Kill the daemon of a node for good: systemd does not start another."""
    node.write("/etc/systemd/system/opensvc-hb.service.d/kept-dead.conf", NO_RESTART)
    node.run("systemctl daemon-reload && systemctl kill --kill-whom main --signal KILL opensvc-hb").check()


def test_an_instance_whose_daemon_was_killed_is_ended_then_started_by_the_other(cluster):
    """deb1's daemon is killed and stays dead: the guardian stops its instance, deb2 starts it."""
    cluster.add_service(WEB, APP_ONLY, [(LAUNCHER_PLACE, LAUNCHER)])
    cluster.start_daemons()
    cluster.hand_over(WEB)
    deb1, deb2 = cluster.deb1, cluster.deb2
    pid = deb1.read(f"/run/{WEB}.pid").strip()
    kill_daemon(deb1)
    cluster.wait_state(deb2, WEB, "STARTED")
    assert deb1.run(f"test -e /proc/{pid}").status != 0, "the instance outlived its lease"
    assert WEB in deb1.read("/var/log/opensvc/guardian.log")
    assert deb1.boots == 1, "a node that holds nothing is not reset"
    deb1.run("systemctl start opensvc-hb", 120).check()
    cluster.wait_state(deb1, WEB, "STOPPED")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param("reset = sysrq", id="sysrq"),
        pytest.param(f"reset = watchdog\nwatchdog = {WATCHDOG}", id="watchdog"),
    ],
)
def test_a_node_that_cannot_let_go_is_reset(cluster, settings):
    """deb1's daemon is dead and a file system of its instance cannot be unmounted: the node is reset.

    deb2 starts the service, and deb1 comes back without it.
    """
    deb1, deb2 = cluster.deb1, cluster.deb2
    cluster.configure(f"wait_for_peer = 20\n{settings}")
    for node in cluster.bed.nodes:
        node.run("truncate -s 16M /root/web.img && mkfs.ext4 -q -F /root/web.img && modprobe softdog").check()
    cluster.add_service(WEB, HELD, [(LAUNCHER_PLACE, LAUNCHER)])
    cluster.start_daemons()
    cluster.hand_over(WEB)
    # a loop device on a file in it holds the file system, and no process does
    deb1.run("truncate -s 4M /srv/web/inner && losetup --find /srv/web/inner").check()
    kill_daemon(deb1)
    wait(lambda: deb1.boots == 2, STATE_LIMIT_S, "deb1 is reset", cluster.bed.report)
    cluster.wait_state(deb2, WEB, "STARTED")
    deb1.wait_rebooted(2)
    assert deb1.run("mountpoint /srv/web").status != 0
    cluster.wait_state(deb1, WEB, "STOPPED")
