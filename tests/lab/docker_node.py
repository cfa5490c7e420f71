"""What the docker engine needs on a node of a lab, and an image to run there.

    docker = DockerNodes(lab)
    docker.prepare(node)       # after every boot of a node
    docker.close()             # after the nodes are off

The engine is started by who wants one, with whatever options, in the node's own namespaces: its
containers end with the node. What is made here is what a machine has and a namespace has not: the
control groups, mounted anew since the node's /sys is its own, and a configuration of the engine in
which no bridge and no packet filter is touched, so that published ports are taken and not served.

Control groups are no part of any namespace here. The containers' own are below one group for each
lab and node, and `close` removes them.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Mapping

from lab import BaseLab, Node
from machine import LabError

BUSYBOX = Path("/bin/busybox")
"""Of Debian's package busybox-static: it runs in a tree without libraries."""
APPLETS = ("sh", "date", "sleep", "true", "echo", "cat", "ls", "touch")
FOREVER = "while trap exit TERM; do date; sleep 1 & wait; done"
"""A container's work that ends when it is told to: without the trap a shell as process 1 ignores it."""
REMOVAL_LIMIT_S = 10.0

MOUNT_CONTROL_GROUPS = """
groups=/sys/fs/cgroup
if ! grep -qv '^0::' /proc/self/cgroup; then
    mount -t cgroup2 cgroup2 $groups
    exit
fi
mount -t tmpfs tmpfs $groups
while IFS=: read -r number controllers path; do
    case $controllers in
    '') continue ;;
    name=*) place=${controllers#name=}; options=none,$controllers ;;
    *) place=$controllers; options=$controllers ;;
    esac
    mkdir -p $groups/$place
    mount -t cgroup -o $options cgroup $groups/$place
done </proc/self/cgroup
"""
"""A hierarchy that exists can be mounted again, anywhere: what it shows is the machine's."""


class DockerNodes:
    """Control groups and configuration for engines on the nodes of a lab in namespaces."""

    def __init__(self, lab: BaseLab) -> None:
        self.lab = lab
        self.group = f"opensvc-hb-lab-{os.getpid()}-{lab.workdir.name}"
        self.folder = lab.workdir / "docker"
        self.folder.mkdir()

    def prepare(self, node: Node) -> None:
        """Let engines run on a node that has just booted."""
        node.run(["sh", "-euc", MOUNT_CONTROL_GROUPS]).check()
        settings = self.folder / node.name
        settings.mkdir(exist_ok=True)
        (settings / "daemon.json").write_text(
            json.dumps(
                {
                    "bridge": "none",
                    "iptables": False,
                    "ip6tables": False,
                    "cgroup-parent": f"/{self.group}/{node.name}",
                }
            )
        )
        node.run(["mount", "--bind", str(settings), "/etc/docker"]).check()

    def close(self) -> None:
        """Remove the control groups of containers that a power cut has ended."""
        remove = f"find /sys/fs/cgroup -depth -type d -path '*/{self.group}*' -exec rmdir {{}} +"
        script = f"({MOUNT_CONTROL_GROUPS})\n{remove}"
        deadline = time.monotonic() + REMOVAL_LIMIT_S
        while True:  # a process that was killed leaves its group when the kernel has collected it
            argv = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script]
            done = subprocess.run(argv, text=True, capture_output=True, timeout=60, check=False)
            if done.returncode == 0:
                return
            if time.monotonic() > deadline:
                raise LabError(f"control groups are left behind: {done.stderr}")


def write_image(path: Path, programs: Mapping[str, str]) -> Path:
    """Write a tree with a static busybox as an archive for `docker import`; return its path.

    Args:
        programs: {name: text} of scripts for its /bin.
    """
    with tarfile.open(path, "w") as archive:
        archive.add(BUSYBOX.resolve(), "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type = tarfile.SYMTYPE
            link.linkname = "busybox"
            archive.addfile(link)
        for name, text in programs.items():
            script = tarfile.TarInfo(f"bin/{name}")
            script.mode = 0o755
            script.size = len(text.encode())
            archive.addfile(script, io.BytesIO(text.encode()))
        for folder in ("tmp", "proc", "sys", "dev", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777 if folder == "tmp" else 0o755
            archive.addfile(entry)
    return path
