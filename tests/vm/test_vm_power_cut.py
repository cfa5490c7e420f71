"""The owner of a service on a shared disk goes: by its plug, or by standing still. Who may write then?"""

from __future__ import annotations

import re
import time

from cluster import TIMEOUT_S, Cluster
from machine_uml import File, wait
from services import (
    LVM_LOCAL,
    MAKE_STACK_DISK,
    MOUNT_POINT,
    STACK,
    STACK_DISK,
    STACK_RESOURCES,
    STACK_VOLUME,
    WEB,
)

WRITE_TO_THE_DISK = f"dd if=/dev/zero of={STACK_DISK} bs=4096 count=1 seek=100000 oflag=direct conv=notrunc"
"""Far behind the volume group's only volume."""
WRITER = f"""#!/bin/sh
while :; do date +%s.%N >{MOUNT_POINT}/beat && sync {MOUNT_POINT}/beat; sleep 0.2; done
"""


def assert_up(cluster, node):
    """Every resource of the service is up on a node."""
    tree = node.run(f"svcmgr -s {WEB} print status").out
    for rid in STACK_RESOURCES:
        assert re.search(rf"(?m)^\|  [|']- {rid} +\.\.\.\. up ", tree), tree


def assert_kept_out(node):
    """A node that is not the owner has no volume, gets none from LVM or the agent, and cannot write."""
    node.run("vgchange --activate y vgweb")
    assert node.run(f"test -e {STACK_VOLUME}").status != 0, "LVM activated another node's volume"
    refused = node.run(f"svcmgr -s {WEB} start --rid vg#1")
    assert refused.status != 0, refused
    assert node.run(f"test -e {STACK_VOLUME}").status != 0, refused
    assert node.run(WRITE_TO_THE_DISK).status != 0, "a node without a key wrote"
    assert "reservation conflict" in node.run("dmesg").out


def test_an_owner_that_went_has_no_way_back_to_the_data(bed, tell):
    """deb1's plug is pulled: deb2 has the stack, and what deb1 had written. deb1 boots, and cannot write.

    The service is handed back. Then deb1 is paused, as a virtual machine that is moved, and wakes in the
    belief that it owns the service: none of its writes reaches the disk, and it ends its instance.
    """
    cluster = Cluster(bed)
    deb1, deb2 = bed.nodes
    cluster.configure(
        WEB, STACK, File.of("/etc/lvm/lvmlocal.conf", LVM_LOCAL), File.of("/root/writer", WRITER, 0o755)
    )
    deb1.run(MAKE_STACK_DISK).check()
    deb1.run(f"svcmgr -s {WEB} validate config").check()
    cluster.start_daemons()
    cluster.hand_over(WEB)
    assert_up(cluster, deb1)
    tell("deb1 has the service")
    loses_its_power(cluster, tell)
    deb2.run(f"hbmgr switch {WEB}", 120).check()
    cluster.wait_state(deb1, WEB, "STARTED")
    assert_up(cluster, deb1)
    assert deb1.read(f"{MOUNT_POINT}/file") == "written on deb1\nwritten on deb2\n"
    assert deb2.run(WRITE_TO_THE_DISK).status != 0, "the reservation did not move back"
    tell("the service is back on deb1")
    stands_still(cluster, tell)


def loses_its_power(cluster, tell):
    """The owner's plug is pulled; later it boots."""
    deb1, deb2 = cluster.bed.nodes
    deb1.run(f"echo written on deb1 >{MOUNT_POINT}/file && sync {MOUNT_POINT}/file").check()
    deb1.pull_plug()
    cut_at = time.monotonic()
    cluster.wait_state(deb2, WEB, "STARTED")
    took_s = time.monotonic() - cut_at
    tell(f"deb2 has the service {took_s:.1f} s after the power cut; timeout {TIMEOUT_S} s")
    assert took_s > 0.9 * TIMEOUT_S
    assert_up(cluster, deb2)
    assert deb2.read(f"{MOUNT_POINT}/file") == "written on deb1\n"
    assert deb2.run("vgs --noheadings --options tags vgweb").check().out.split() == [deb2.name]

    deb1.power_on()
    deb1.wait_booted()
    cluster.wait_state(deb1, WEB, "STOPPED")
    assert_kept_out(deb1)
    tell("deb1 has booted, and is kept out")
    deb2.run(f"echo written on deb2 >>{MOUNT_POINT}/file && sync {MOUNT_POINT}/file").check()


def stands_still(cluster, tell):
    """The owner is paused in the middle of its writing, and wakes when the other has the service."""
    deb1, deb2 = cluster.bed.nodes
    deb1.run("systemd-run --quiet --unit writer /root/writer").check()
    wait(lambda: deb1.run(f"test -s {MOUNT_POINT}/beat").status == 0, 20, "the writer writes")
    deb1.pause()
    cluster.wait_state(deb2, WEB, "STARTED")
    assert_up(cluster, deb2)
    deb2.run(f"rm {MOUNT_POINT}/beat && sync -f {MOUNT_POINT}").check()
    tell("deb2 has the service of a node that stands still")
    deb1.resume()
    # awake, or reset by its own guardian for what it could not let go: either way it comes to this
    cluster.wait_state(deb1, WEB, "STOPPED", 180)
    assert_kept_out(deb1)
    assert cluster.states(deb2, WEB)[deb2.name] == "STARTED"
    assert_up(cluster, deb2)
    deb2.run(f"umount {MOUNT_POINT} && fsck.ext4 -fn {STACK_VOLUME}").check()
    there = deb2.run(f"mount {STACK_VOLUME} {MOUNT_POINT} && ls {MOUNT_POINT}").check().out.split()
    assert there == ["file", "lost+found"]
    tell("deb1 woke, and nothing of it reached the disk")
