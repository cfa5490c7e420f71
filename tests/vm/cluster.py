"""A cluster on the bed: the files an operator writes, and what an operator then asks and waits for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Dict

from bed import NETWORKS, NODES, Bed
from machine_uml import File, Vm, wait
from services import LAUNCHER, LAUNCHER_PLACE

TIMEOUT_S = 10
MONITOR = """\
deb1.opensvc.com net eth1 239.131.50.10 5010 {0}
deb1.opensvc.com net eth2 239.131.50.11 5011 {0}
deb2.opensvc.com net eth1 239.131.50.12 5012 {0}
deb2.opensvc.com net eth2 239.131.50.13 5013 {0}
deb1.opensvc.com dio /dev/mapper/disk.hb.0 0 {0}
deb2.opensvc.com dio /dev/mapper/disk.hb.0 10 {0}
"""
"""The tutorial's own, with a timeout of 10."""
ETC = "/etc/opensvc"
HOSTS = {
    "registry.opensvc.com": "37.59.71.25",
    "busybox.opensvc.com": "37.59.71.24",
    "web.opensvc.com": "37.59.71.26",
}
STATE_LIMIT_S = 90.0


def hosts_file() -> File:
    """Return the names of the nodes and the services, for both nodes."""
    network = NETWORKS["eth0"]
    lines = ["127.0.0.1 localhost"]
    lines += [f"{network}.{n} {name} {name.partition('.')[0]}" for n, name in enumerate(NODES, 1)]
    lines += [f"{address} {name}" for name, address in HOSTS.items()]
    return File.of("/etc/hosts", "\n".join(lines) + "\n")


class Cluster:
    """Two configured nodes.

    Args:
        timeout_s: of every link.
    """

    def __init__(self, bed: Bed, timeout_s: int = TIMEOUT_S) -> None:
        self.bed = bed
        self.timeout_s = timeout_s
        self.deb1, self.deb2 = bed.nodes
        self._key = self._make_key()

    # -- files --------------------------------------------------------------------------------------

    def configure(self, svcname: str, env: str, *others: File, settings: str = "") -> None:
        """Write the cluster's files and a service's on both nodes.

        Args:
            others: more files for both.
            settings: more lines of hb.conf's section [hb].
        """
        files = (
            hosts_file(),
            File.of(f"{ETC}/hb/nodes", "".join(f"{name}\n" for name in NODES)),
            File.of(f"{ETC}/hb/monitor", MONITOR.format(self.timeout_s)),
            File.of(f"{ETC}/hb/hb.conf", f"[hb]\nwait_for_peer = 20\n{settings}"),
            File(f"{ETC}/hb/key", self._key, 0o600),
            File.of(LAUNCHER_PLACE, LAUNCHER, 0o755),
            File.of(f"{ETC}/{svcname}.env", env),
            *others,
        )
        for node in self.bed.nodes:
            node.write(*files)

    def _make_key(self) -> bytes:
        """Make the cluster's key here: a command of ours takes a second on a node."""
        root = self.bed.workdir / "key"
        argv = [sys.executable, "-m", "opensvc_hb.cli.hbmgr", "keygen"]
        subprocess.run(argv, env={**os.environ, "OSVC_ROOT": str(root)}, check=True, capture_output=True)
        return (root / "etc/opensvc/hb/key").read_bytes()

    # -- an operator ----------------------------------------------------------------------------------

    def start_daemons(self) -> None:
        """Start the daemon on both nodes, at the same time."""
        for node in self.bed.nodes:
            node.run("systemctl start --no-block opensvc-hb").check()
        for node in self.bed.nodes:
            self.wait_links(node)

    def hand_over(self, svcname: str) -> None:
        """Unfreeze a new service on deb1, which starts it, then on deb2."""
        self.wait_state(self.deb2, svcname, "FROZEN_STOP")
        self.deb1.run(f"hbmgr unfreeze {svcname}").check()
        self.wait_state(self.deb1, svcname, "STARTED")
        self.deb2.run(f"hbmgr unfreeze {svcname}").check()
        self.wait_state(self.deb2, svcname, "STOPPED")

    # -- what a node says -----------------------------------------------------------------------------

    def states(self, node: Vm, svcname: str) -> Dict[str, str]:
        """Return {node: state} of a service, as one node sees it; {} while no daemon answers there."""
        said = node.run("hbmgr status --format json")
        service = json.loads(said.out)["services"].get(svcname) if said.status == 0 else None
        return {name: each["state"] for name, each in service["instances"].items()} if service else {}

    def wait_state(self, node: Vm, svcname: str, state: str, limit_s: float = STATE_LIMIT_S) -> None:
        """Return when a node says that its own instance of a service is in a state."""
        what = f"{svcname} is {state} on {node.name}"
        wait(lambda: self.states(node, svcname).get(node.name) == state, limit_s, what, self.bed.report)

    def wait_links(self, node: Vm, limit_s: float = STATE_LIMIT_S) -> None:
        """Return when every link of a node is up."""

        def all_up() -> bool:
            said = node.run("hbmgr links")
            return said.status == 0 and said.out.count(" UP ") == 6

        wait(all_up, limit_s, f"every link of {node.name} is up", self.bed.report)
