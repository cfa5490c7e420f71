"""The tutorial's two servers: their names, networks, disks, and the data that both see.

What the tutorial takes for granted is here what it says: deb1.opensvc.com and deb2.opensvc.com, each
with eth0 for the services and eth1, eth2 for the heartbeats; logical volumes and the heartbeat disk
below /dev/mapper, the same on both; ssh from one to the other; the docker engine; /opt to mount in.

A node's root directory is /mnt on both nodes, so that a path means the same on either. Its /dev and
/opt are its own: devices are made there and mount points are left there, and none is the machine's.

Namespaces have no device-mapper. A logical volume is an image file here, which mount takes as it takes
a device, and a volume group is what the stand-in `lab_lvm` says about it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Tuple

import lab_lvm
import node_devices
from docker_node import DockerNodes
from lab import Lab
from ssh_node import SshNodes
from tutorial_replay import DISK, NODES

ROOT = "/mnt"
VOLUME_GROUPS = {
    "vgregistry": ("lvregistryroot", "lvdockerdata", "lvregistrydata"),
    "vgbusybox": ("lvbusyboxroot", "lvbusyboxdata"),
}
VOLUME_BYTES = 64 << 20
SERVICE_NETWORK = "37.59.71"
SERVICE_HOSTS = "37.59.71.24 busybox.opensvc.com\n37.59.71.25 registry.opensvc.com\n"
TOOLS = ("vgs", "lvs", "pvs", "vgchange", "lvmconfig")
MASS_COMMANDS = ("allservices", "allupservices")

OWN_OPT = """
mkdir /srv/opt
for entry in /opt/*; do
    [ -d "$entry" ] || continue
    mkdir "/srv$entry"
    mount --rbind "$entry" "/srv$entry"
done
mount --rbind /srv/opt /opt
"""
"""A machine's Python may be installed there."""


class TutorialLab(Lab):
    """Two nodes, booted, reachable by ssh, with everything but the services' files and the cluster's."""

    interfaces = ("eth0", "eth1", "eth2")

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir, nodes=NODES)

    def _build(self) -> None:
        tools = self._make_disks()
        path = f"{ROOT}/etc/opensvc:{tools}:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        for node in self.nodes:
            node.machine.environment.update(OSVC_ROOT=ROOT, PATH=path)
        self.ssh = SshNodes(self, SERVICE_HOSTS)
        self.docker = DockerNodes(self)
        super()._build()

    def _make_disks(self) -> Path:
        """Make the volume groups with a file system in each volume; return where the tools are."""
        disks, tools = self.workdir / "disks", self.workdir / "tools"
        for group, volumes in VOLUME_GROUPS.items():
            (disks / group).mkdir(parents=True)
            (disks / group / lab_lvm.TAGS).touch()
            for volume in volumes:
                image = disks / group / volume
                with open(image, "wb") as file:
                    file.truncate(VOLUME_BYTES)
                subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        tools.mkdir()
        for tool in TOOLS:
            self._make_command(tools / tool, "-I", "-S", lab_lvm.__file__, str(disks), tool)
        for name in MASS_COMMANDS:
            self._make_command(tools / name, "-m", "opensvc_hb.cli.mass_command", name)
        return tools

    def _make_command(self, path: Path, *words: str) -> None:
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {" ".join(words)} "$@"\n')
        path.chmod(0o755)

    def _disk(self) -> Tuple[str, str]:
        return DISK, "dio"

    def boot(self, name: str) -> None:
        """Turn a node on, and make of it one of the tutorial's servers."""
        super().boot(name)
        node = self.node(name)
        node.run(["mount", "--bind", str(node.root), ROOT]).check()
        node.run([sys.executable, "-I", "-S", node_devices.__file__]).check()
        node.run(["sh", "-euc", OWN_OPT]).check()
        node.run(["ip", "address", "add", f"{SERVICE_NETWORK}.{node.number}/24", "dev", "eth0"]).check()
        node.run(["ln", "-s", str(self.disk.path), DISK]).check()
        self.docker.prepare(node)
        self.ssh.start(node)

    def close(self) -> None:
        """End everything, and remove the containers' control groups."""
        super().close()
        if hasattr(self, "docker"):
            self.docker.close()
