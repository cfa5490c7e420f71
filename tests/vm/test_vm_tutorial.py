"""The whole tutorial "Docker High Availability" as it was written: its files, its command lines, its outputs.

Two docker services on volume groups of a shared disk get a cluster on two networks and a heartbeat disk;
the owner of both loses its power, the other has every container; then they are given back. Nothing stands
for anything else here but the ids of two images, which cannot be chosen. Outputs are compared byte for
byte but for ids, dates, durations, pids and the width at which docker cuts a command.

`tests/lab/test_tutorial_services.py` replays the same on namespaces, faster, with stand-ins.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import attach_and_detach
from cluster import Cluster, hosts_file
from docker_node import write_image
from lab import TREE
from machine_uml import File, wait
from openha_transcript import read_transcript
from tutorial_replay import COMMAND_LIMIT_S, EZ, groups
from tutorial_services import START_LIMIT_S, TEXT, Services

SESSION = TREE / "tests/data/openha/tutorial/session.txt"
PLACE = "/root/tutorial"
"""Where the tutorial's files are on the nodes."""
PYTHON = "/usr/bin/python3"
COMMAND_PATH = "/etc/opensvc:/usr/sbin:/usr/bin:/sbin:/bin"
REGISTRY_PROGRAM = """#!/bin/sh
busybox httpd -p 5000 -h $STORAGE_PATH
while trap exit TERM; do date >$STORAGE_PATH/newest; sleep 10 & wait; done
"""
DATES = "while trap exit TERM; do date; sleep 10 & wait; done"
"""Programs that seldom start another: seven containers with a date a second would be half the node's work."""
NEWEST = "http://registry.opensvc.com:5000/newest"
FETCH = (
    f"{PYTHON} -c 'import urllib.request as u; print(u.urlopen(\"{NEWEST}\", timeout=10).read().decode())'"
)
PUBLISHED = re.compile(r"[\d.]+:\d+->\d+/tcp")
MAKE_DISKS = """\
set -e
make_volume() { lvcreate --quiet --yes -W n -n $2 -L $3 $1; mkfs.ext4 -q -E nodiscard /dev/$1/$2; }
vgcreate --quiet --yes --setautoactivation n vgregistry /dev/shared-registry
make_volume vgregistry lvregistryroot 32M
make_volume vgregistry lvdockerdata 256M
make_volume vgregistry lvregistrydata 64M
vgcreate --quiet --yes --setautoactivation n vgbusybox /dev/shared-busybox
make_volume vgbusybox lvbusyboxroot 32M
make_volume vgbusybox lvbusyboxdata 256M
vgchange --quiet --activate n vgregistry vgbusybox
"""


class RealServices(Services):
    """The tutorial's services on machines that are all their own, and that a look keeps busy for a second."""

    pause_s = 4.0

    def place(self, node):
        """Return where the node's root directory is: where it should be."""
        return ""

    def shell(self, node, command):
        """Programs of the tests are at a place of their own on the nodes."""
        argv = super().shell(node, command)
        if " docker attach " in command:
            return [PYTHON, f"{PLACE}/attach_and_detach.py", argv[-1]]
        return [PYTHON, *argv[1:]] if argv[0] == sys.executable else argv

    def run(self, node, command, timeout_s=COMMAND_LIMIT_S):
        """Tell how long each command took, for whoever wants this test faster."""
        began = time.monotonic()
        said = super().run(node, command, timeout_s)
        print(f"         {time.monotonic() - began:6.1f} s  {node.name}# {command}", flush=True)
        return said

    def neutral(self, command, output):
        """Published ports are compared, too."""
        ports = sorted(PUBLISHED.findall(output)) if command.endswith("docker ps") else []
        return super().neutral(command, output) + "".join(f"{port}\n" for port in ports)


def fetched(node, seen):
    """Ask the registry from a node, and tell how many different answers there were."""
    seen.add(node.run(FETCH).check().out)
    return len(seen)


def test_the_tutorial_as_it_was_written(bed, tell):
    """From two docker services to their failover and failback, on real disks, networks and power."""
    cluster = Cluster(bed)
    deb1, deb2 = bed.nodes
    archive = write_image(bed.workdir / "image.tar", {"docker-registry": REGISTRY_PROGRAM})
    paths = (archive, Path(attach_and_detach.__file__), *TEXT.glob("*.env"))
    for node in bed.nodes:
        node.write(hosts_file(), *(File(f"{PLACE}/{path.name}", path.read_bytes()) for path in paths))
    deb1.run(MAKE_DISKS, 120).check()
    replay = RealServices(bed, COMMAND_PATH, PLACE, f"{PLACE}/{archive.name}", 10, DATES)
    replay.install()
    tell("both services are up, their configuration is on both nodes")
    for group in groups(read_transcript(TEXT / "services.txt")):
        replay.play(group)
    replay.check_copies()
    tell("the files name the cluster, and both services are stopped")

    for node in bed.nodes:
        node.write(
            *(File(f"/etc/opensvc/hb/{name}", (TEXT / name).read_bytes()) for name in ("nodes", "monitor"))
        )
        replay.must(node, "hbmgr compat install")
        replay.must(node, f"test -e {EZ}/env.sh")
    replay.must(deb1, "hbmgr keygen")
    replay.must(deb1, "scp -p hb/key deb2.opensvc.com:/etc/opensvc/hb/")
    replay.must(deb1, "hbmgr check")

    steps = groups(read_transcript(SESSION))
    halt = next(at for at, group in enumerate(steps) if "; ez_hb" in group[0].command)
    for group in steps[:halt]:
        replay.play(group, START_LIMIT_S)
        if group[0].command == "registry.opensvc.com docker ps":
            served = {deb2.run(FETCH).check().out}
            wait(lambda seen=served: fetched(deb2, seen) > 1, 30, "registry serves what is new", bed.report)
            tell("registry was started by the cluster, and deb2 reaches its published port")
    tell("registry and busybox were started by the cluster")
    before, *samples = steps[halt]
    replay.play([before])
    deb1.pull_plug()
    cut_at = time.monotonic()
    replay.play(samples, START_LIMIT_S)
    tell(f"deb2 has both, {time.monotonic() - cut_at:.1f} s after deb1 lost its power")
    for group in steps[halt + 1 : halt + 3]:
        replay.play(group)

    deb1.power_on()
    deb1.wait_booted()
    replay.must(deb1, "$EZ/ezha start")
    for group in steps[halt + 3 :]:
        replay.play(group)
    assert deb1.run("lvs --noheadings --options lv_active").check().out.split() == []
    tell("deb1 is back, and holds nothing")
    replay.must(deb2, "hbmgr switch registry", START_LIMIT_S)
    cluster.wait_state(deb1, "registry", "STARTED", START_LIMIT_S)
    shown = replay.must(deb1, "registry.opensvc.com print status")
    assert re.search(r"(?m)^overall +up *$", shown), shown
    tell("deb1 has registry again")
