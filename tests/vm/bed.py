"""The bed of the VM tier: two nodes with kernels of their own, their networks, their shared disks.

    with Bed(image, workdir) as bed:
        bed.boot()
        bed.deb1.run("systemctl start opensvc-hb").check()
        bed.deb1.pull_plug()

Links are bridges in one network namespace that has no way out. Every machine has one port at each of its
links, and a port can be cut. The shared disks are served over iSCSI by a third machine, the array, whose
kernel keeps SCSI-3 persistent reservations as a storage array does; cutting the link `san` takes the
disks away from a node.

The names and addresses are those of the tutorial "Docker High Availability": deb1 and deb2.opensvc.com,
eth0 for services, eth1 and eth2 for heartbeats, /dev/mapper/disk.hb.0, the addresses 37.59.71.24 and .25
of its two services.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Tuple

from image import Image
from machine_uml import BOOT_LIMIT_S, Vm, wait

NODES = ("deb1.opensvc.com", "deb2.opensvc.com")
NETWORKS: Mapping[str, str] = {
    "eth0": "37.59.71",
    "eth1": "10.42.1",
    "eth2": "10.42.2",
    "san": "10.42.8",
    "mgmt": "10.42.9",
}
NODE_MIB = 768
ARRAY_MIB = 192
ARRAY_NUMBER = 253
LUNS: Mapping[str, int] = {"heartbeat": 16, "registry": 768, "busybox": 768}
"""The array's disks and their sizes in MiB. Sparse."""


class Network:
    """The links: a namespace, a bridge for each, a tap for each machine's port.

    It ends when our end of a pipe closes, however we ended.
    """

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--", "sh", "-c", "echo ready; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._holder.stdout.readline() == b"ready\n", "no network namespace"
        self.words: Tuple[str, ...] = ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--")
        """Words in front of a program's that run it in here."""
        self._ip("link", "set", "lo", "up")
        for name, network in NETWORKS.items():
            self._ip("link", "add", f"br-{name}", "type", "bridge", "mcast_snooping", "0")
            if name == "mgmt":
                self._ip("address", "add", f"{network}.254/24", "dev", f"br-{name}")
            self._ip("link", "set", f"br-{name}", "up")

    def add_port(self, link: str, tap: str) -> None:
        """Make a port for a machine at a link."""
        self._ip("tuntap", "add", "dev", tap, "mode", "tap")
        self._ip("link", "set", tap, "up")
        self.plug(link, tap)

    def plug(self, link: str, tap: str) -> None:
        """Connect a port."""
        self._ip("link", "set", tap, "master", f"br-{link}")

    def unplug(self, tap: str) -> None:
        """Cut a port: nothing passes, either way; the machine's own carrier stays."""
        self._ip("link", "set", tap, "nomaster")

    def close(self) -> None:
        """Let it all go."""
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait()

    def _ip(self, *words: str) -> None:
        subprocess.run([*self.words, "ip", *words], check=True, capture_output=True)


class Bed:
    """Two nodes and an array.

    Args:
        disks: what the nodes find on their own disks, by name: the file of an earlier machine that
            was turned off in order. None: the image as it is.
    """

    def __init__(self, image: Image, workdir: Path, disks: Optional[Mapping[str, Path]] = None) -> None:
        self.image = image
        self.workdir = workdir
        workdir.mkdir(parents=True, exist_ok=True)
        self.network = Network()
        self._taps: Dict[Tuple[str, str], str] = {}
        try:
            self.array = self._make_array()
            self.nodes: List[Vm] = [self._make_node(name, number + 1) for number, name in enumerate(NODES)]
            for node in self.nodes:
                if disks:
                    subprocess.run(["cp", "--sparse=always", disks[node.name], node.written], check=True)
        except BaseException:
            self.network.close()
            raise

    @property
    def deb1(self) -> Vm:
        """The primary node."""
        return self.nodes[0]

    @property
    def deb2(self) -> Vm:
        """The secondary node."""
        return self.nodes[1]

    def __enter__(self) -> Bed:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def boot(self) -> None:
        """Turn everything on; returns when both nodes have booted and have their shared disks."""
        for machine in (self.array, *self.nodes):
            machine.power_on()
        for node in self.nodes:
            node.wait_booted()

    def cut(self, node: Vm, link: str) -> None:
        """Cut a link of a node."""
        self.network.unplug(self._taps[node.name, link])

    def heal(self, node: Vm, link: str) -> None:
        """Connect it again."""
        self.network.plug(link, self._taps[node.name, link])

    def close(self) -> None:
        """Pull every plug, and forget what was on the disks."""
        for machine in (*self.nodes, self.array):
            machine.pull_plug()
        self.network.close()
        shutil.rmtree(self.workdir)

    def report(self) -> str:
        """Return what the machines have to say about a failure."""
        parts = []
        for machine in (*self.nodes, self.array):
            parts.append(f"--- {machine.name}: console\n{machine.console_tail()}")
            if machine.is_on and machine is not self.array:
                for command in (
                    "hbmgr status",
                    "journalctl --no-pager -q -n 60 -o short-precise -u opensvc-hb",
                    "tail -n 40 /var/log/opensvc/*.log",
                ):
                    parts.append(f"--- {machine.run(command, 30)}")
        return "\n".join(parts)

    # -- how they are made ------------------------------------------------------------------------

    def _ports(self, name: str, number: int, links: Tuple[str, ...]) -> Dict[str, str]:
        taps = {}
        for link in links:
            taps[link] = self._taps[name, link] = f"vm{number}-{link}"
            self.network.add_port(link, taps[link])
        return taps

    def _make_array(self) -> Vm:
        disks = []
        for name, mib in LUNS.items():
            disk = self.workdir / f"{name}.img"
            with open(disk, "wb") as file:
                file.truncate(mib << 20)
            disks.append(disk)
        initiators = ",".join(node.partition(".")[0] for node in NODES)
        links = ("san", "mgmt")
        return Vm(
            "array",
            self.image,
            self.network.words,
            self._ports("array", ARRAY_NUMBER, links),
            f"{NETWORKS['mgmt']}.{ARRAY_NUMBER}",
            self.workdir,
            ARRAY_MIB,
            disks,
            (
                "init=/usr/local/sbin/vm-array",
                _links_setting(links, ARRAY_NUMBER),
                f"vm.luns={','.join(LUNS)}",
                f"vm.initiators={initiators}",
            ),
        )

    def _make_node(self, name: str, number: int) -> Vm:
        links = tuple(NETWORKS)
        return Vm(
            name,
            self.image,
            self.network.words,
            self._ports(name, number, links),
            f"{NETWORKS['mgmt']}.{number}",
            self.workdir,
            NODE_MIB,
            settings=(
                _links_setting(links, number),
                f"vm.array={NETWORKS['san']}.{ARRAY_NUMBER}",
                f"vm.initiator={name.partition('.')[0]}",
                f"systemd.machine_id={number:032x}",
            ),
        )


def _links_setting(links: Tuple[str, ...], number: int) -> str:
    return "vm.links=" + ",".join(f"{name}={NETWORKS[name]}.{number}/24" for name in links)


__all__ = ["BOOT_LIMIT_S", "NODES", "Bed", "Vm", "wait"]
