"""The owner of a service on a shared disk goes: by its plug, or by standing still. Who may write then?"""

from __future__ import annotations

import time

import pytest
from cluster import TIMEOUT_S
from machine_uml import wait
from services import (
    LAUNCHER,
    LAUNCHER_PLACE,
    LVM_LOCAL,
    MAKE_STACK_DISK,
    STACK,
    STACK_DISK,
    STACK_RESOURCES,
)

WEB = "web.opensvc.com"
WRITE_TO_THE_DISK = f"dd if=/dev/zero of={STACK_DISK} bs=4096 count=1 seek=100000 oflag=direct conv=notrunc"
"""Far behind the volume group's only volume."""


@pytest.fixture
def stack(cluster):
    """The service on its volume group, running on deb1, its other node ready."""
    for node in cluster.bed.nodes:
        node.write("/etc/lvm/lvmlocal.conf", LVM_LOCAL)
    making = MAKE_STACK_DISK.replace("lvcreate", "vgchange --quiet --addtag deb1.opensvc.com vgweb\nlvcreate")
    cluster.deb1.run(f"{making}vgchange --quiet --deltag deb1.opensvc.com vgweb").check()
    cluster.add_service(WEB, STACK, [(LAUNCHER_PLACE, LAUNCHER)])
    for node in cluster.bed.nodes:
        node.run(f"svcmgr -s {WEB} validate config").check()
    cluster.start_daemons()
    cluster.hand_over(WEB)
    assert_up(cluster, cluster.deb1)
    return cluster


def assert_up(cluster, node):
    """Every resource of the service is up on a node."""
    tree = cluster.print_status(node, WEB).out
    for rid in STACK_RESOURCES:
        line = next(line for line in tree.splitlines() if f" {rid} " in line)
        assert line.split()[-2] == "up" or " up " in line, tree


def tags(node):
    """The tags of the volume group, as a node reads them."""
    return node.run("vgs --noheadings --options tags vgweb").check().out.split()


def test_a_node_without_power_loses_its_service_and_its_way_back_to_the_data(stack):
    """deb1's plug is pulled; deb2 has the whole stack soon after the timeout, and what deb1 had written.

    deb1 boots: it activates nothing and writes nothing, whatever it tries, until the service is handed back.
    """
    deb1, deb2 = stack.deb1, stack.deb2
    deb1.run("echo written on deb1 >/srv/web/file && sync /srv/web/file").check()
    assert tags(deb1) == [deb1.name]
    deb1.pull_plug()
    cut_at = time.monotonic()
    stack.wait_state(deb2, WEB, "STARTED")
    took_s = time.monotonic() - cut_at
    print(f"deb2 has the service {took_s:.1f} s after the power cut; timeout {TIMEOUT_S} s")
    assert took_s > 0.9 * TIMEOUT_S
    assert_up(stack, deb2)
    assert deb2.read("/srv/web/file") == "written on deb1\n"
    assert tags(deb2) == [deb2.name]

    deb1.power_on()
    deb1.wait_booted()
    stack.wait_state(deb1, WEB, "STOPPED")
    assert deb1.run("lvs --noheadings --options lv_active vgweb").check().out.strip() == ""
    deb1.run("vgchange --activate y vgweb")
    assert deb1.run("test -e /dev/mapper/vgweb-data").status != 0, "LVM activated another node's volume"
    refused = deb1.run(f"svcmgr -s {WEB} start --rid vg#1")
    assert refused.status != 0
    assert deb1.run("test -e /dev/mapper/vgweb-data").status != 0, refused
    assert deb1.run(WRITE_TO_THE_DISK).status != 0, "a node without a key wrote"
    assert "reservation conflict" in deb1.run("dmesg").out
    deb2.run("echo written on deb2 >>/srv/web/file && sync /srv/web/file").check()

    deb2.run(f"hbmgr switch {WEB}", 120).check()
    stack.wait_state(deb1, WEB, "STARTED")
    assert_up(stack, deb1)
    assert deb1.read("/srv/web/file") == "written on deb1\nwritten on deb2\n"
    assert deb2.run(WRITE_TO_THE_DISK).status != 0, "the reservation did not move back"


def test_a_node_that_stood_still_wakes_up_without_its_key(stack):
    """deb1 is paused, as a virtual machine that is moved; deb2 takes the service, and the reservation.

    deb1 wakes believing that it owns the service. None of its writes reaches the disk; it ends its instance.
    """
    deb1, deb2 = stack.deb1, stack.deb2
    writer = "while :; do date +%s.%N >/srv/web/beat.new && sync /srv/web/beat.new; sleep 0.2; done"
    deb1.write("/root/writer", f"#!/bin/sh\n{writer}\n", 0o755)
    deb1.run("systemd-run --quiet --unit writer /root/writer").check()
    wait(lambda: deb1.run("test -s /srv/web/beat.new").status == 0, 20, "the writer writes")
    deb1.pause()
    stack.wait_state(deb2, WEB, "STARTED")
    assert_up(stack, deb2)
    deb2.run("rm -f /srv/web/beat.new && echo of deb2 >/srv/web/file && sync -f /srv/web").check()
    deb1.resume()
    stack.wait_state(deb1, WEB, "STOPPED")
    assert deb1.run(WRITE_TO_THE_DISK).status != 0
    assert "reservation conflict" in deb1.run("dmesg").out
    assert deb1.run("test -e /dev/mapper/vgweb-data").status != 0
    assert stack.states(deb2, WEB)[deb2.name] == "STARTED"
    assert_up(stack, deb2)
    deb2.run("umount /srv/web; fsck.ext4 -fn /dev/mapper/vgweb-data", 60)
    assert deb2.run("mount /dev/mapper/vgweb-data /srv/web && ls /srv/web").check().out.split() == [
        "file",
        "lost+found",
    ]
