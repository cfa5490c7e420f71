"""The guardian on a whole machine: it ends what no daemon guards any more, and resets the node."""

from __future__ import annotations

from cluster import STATE_LIMIT_S, Cluster
from machine_uml import File, wait
from services import IMAGE_PLACE, MOUNT_POINT, ON_AN_IMAGE, WEB

MAKE_IMAGE = f"truncate -s 16M {IMAGE_PLACE} && mkfs.ext4 -q -F {IMAGE_PLACE}"
HOLD = f"truncate -s 4M {MOUNT_POINT}/inner && losetup --find {MOUNT_POINT}/inner"
"""A loop device on a file in it holds the file system, and no process does."""
BY_SYSRQ = "reset = sysrq\n"
WATCHDOG = "/dev/watchdog1"
"""softdog's. The first one is this kernel's own, which asks for help of the machine that runs it."""
BY_WATCHDOG = f"reset = watchdog\nwatchdog = {WATCHDOG}\n"
TIMEOUT_S = 30
"""The guardian gives a stop action a tenth of it, and what follows the kill 15 %: on these machines
a stop takes two seconds when they do nothing else.
"""
KEPT_DEAD = "/etc/systemd/system/opensvc-hb.service.d/kept-dead.conf"


def kill_daemon(node):
    """Kill the daemon of a node for good: systemd does not start another."""
    node.write(File.of(KEPT_DEAD, "[Service]\nRestart=no\n"))
    node.run("systemctl daemon-reload && systemctl kill --kill-whom main --signal KILL opensvc-hb").check()


def test_an_instance_whose_daemon_was_killed_is_ended(bed, tell):
    """deb1's daemon is killed and stays dead: the guardian stops its instance, deb2 starts it.

    When a file system of the instance cannot be unmounted, the node is reset: by the kernel, or by the
    watchdog. Each time deb2 starts the service, and deb1 comes back without it.
    """
    cluster = Cluster(bed, TIMEOUT_S)
    deb1, deb2 = bed.nodes
    cluster.configure(WEB, ON_AN_IMAGE, settings=BY_SYSRQ)
    for node in bed.nodes:
        node.run(MAKE_IMAGE).check()
    cluster.start_daemons()
    cluster.hand_over(WEB)
    pid = deb1.read(f"/run/{WEB}.pid").strip()
    tell("the service runs on deb1")
    kill_daemon(deb1)
    cluster.wait_state(deb2, WEB, "STARTED")
    assert deb1.run(f"test -e /proc/{pid}").status != 0, "the instance outlived its lease"
    assert WEB in deb1.read("/var/log/opensvc/guardian.log")
    assert deb1.boots == 1, "a node that holds nothing is not reset"
    tell("deb1's guardian ended it, and deb2 has it")

    for name, settings in (("sysrq", BY_SYSRQ), ("the watchdog", BY_WATCHDOG)):
        bring_back(cluster, settings)
        tell("the service is back on deb1")
        boots = deb1.boots
        deb1.run(HOLD).check()
        kill_daemon(deb1)
        wait(lambda boots=boots: deb1.boots == boots + 1, STATE_LIMIT_S, "deb1 is reset", bed.report)
        cluster.wait_state(deb2, WEB, "STARTED")
        deb1.wait_rebooted(boots + 1)
        assert deb1.run(f"mountpoint {MOUNT_POINT}").status != 0
        tell(f"deb1 was reset by {name}, and deb2 has the service")


def bring_back(cluster, settings):
    """Let deb1's daemon live again, under other settings, and give it its service back."""
    deb1, deb2 = cluster.bed.nodes
    cluster.configure(WEB, ON_AN_IMAGE, settings=settings)
    deb1.run(f"rm {KEPT_DEAD} && systemctl daemon-reload && modprobe softdog").check()
    deb1.run("systemctl restart opensvc-hb", 120).check()
    cluster.wait_state(deb1, WEB, "STOPPED")
    deb2.run(f"hbmgr switch {WEB}", 120).check()
    cluster.wait_state(deb1, WEB, "STARTED")
    # a service that was handed away is taken back only when nobody has frozen it
    deb2.run(f"hbmgr unfreeze {WEB}")
    cluster.wait_state(deb2, WEB, "STOPPED")
