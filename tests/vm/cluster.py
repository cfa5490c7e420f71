"""A cluster on the bed: the files an operator writes, and what an operator then asks and waits for."""

from __future__ import annotations

import json
from typing import Dict, Sequence

from bed import NETWORKS, NODES, Bed
from machine_uml import Result, Vm, wait

TIMEOUT_S = 10
MONITOR = f"""\
deb1.opensvc.com net eth1 239.131.50.10 5010 {TIMEOUT_S}
deb1.opensvc.com net eth2 239.131.50.11 5011 {TIMEOUT_S}
deb2.opensvc.com net eth1 239.131.50.12 5012 {TIMEOUT_S}
deb2.opensvc.com net eth2 239.131.50.13 5013 {TIMEOUT_S}
deb1.opensvc.com dio /dev/mapper/disk.hb.0 0 {TIMEOUT_S}
deb2.opensvc.com dio /dev/mapper/disk.hb.0 10 {TIMEOUT_S}
"""
"""The tutorial's own."""
ETC = "/etc/opensvc"
HOSTS = {
    "registry.opensvc.com": "37.59.71.25",
    "busybox.opensvc.com": "37.59.71.24",
    "web.opensvc.com": "37.59.71.26",
}
STATE_LIMIT_S = 90.0


class Cluster:
    """Two configured nodes."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.deb1, self.deb2 = bed.nodes

    # -- files --------------------------------------------------------------------------------------

    def name_hosts(self) -> None:
        """Let the nodes' and the services' names resolve on both nodes."""
        network = NETWORKS["eth0"]
        lines = ["127.0.0.1 localhost"]
        lines += [f"{network}.{n} {name} {name.partition('.')[0]}" for n, name in enumerate(NODES, 1)]
        lines += [f"{address} {name}" for name, address in HOSTS.items()]
        for node in self.bed.nodes:
            node.write("/etc/hosts", "\n".join(lines) + "\n")

    def configure(self, hb_conf: str = "") -> None:
        """Write nodes, monitor, key and hosts on both nodes.

        Args:
            hb_conf: lines of hb.conf's section [hb]; by default a node that boots alone does not wait long.
        """
        self.name_hosts()
        for node in self.bed.nodes:
            node.write(f"{ETC}/hb/nodes", "".join(f"{name}\n" for name in NODES))
            node.write(f"{ETC}/hb/monitor", MONITOR)
            node.write(f"{ETC}/hb/hb.conf", f"[hb]\n{hb_conf or 'wait_for_peer = 20'}\n")
        self.deb1.run(f"test -e {ETC}/hb/key || hbmgr keygen").check()
        key = self.deb1.read(f"{ETC}/hb/key")
        self.deb2.write(f"{ETC}/hb/key", key, 0o600)

    def add_service(self, svcname: str, env: str, others: Sequence[Sequence[str]] = ()) -> None:
        """Write a service's file on both nodes.

        Args:
            others: (path, text) of scripts that go with it.
        """
        for node in self.bed.nodes:
            for path, text in others:
                node.write(path, text, 0o755)
            node.write(f"{ETC}/{svcname}.env", env)

    # -- an operator ----------------------------------------------------------------------------------

    def start_daemons(self) -> None:
        """Enable and start the daemon on both nodes."""
        for node in self.bed.nodes:
            node.run("systemctl enable --now opensvc-hb", 120).check()
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

    def status(self, node: Vm) -> Dict[str, object]:
        """Return what `hbmgr status --format json` says; {} while there is no daemon that answers."""
        said = node.run("hbmgr status --format json")
        return json.loads(said.out) if said.status == 0 else {}

    def states(self, node: Vm, svcname: str) -> Dict[str, str]:
        """Return {node: state} of a service, as one node sees it."""
        service = self.status(node).get("services", {}).get(svcname, {})
        return {name: each["state"] for name, each in service.get("instances", {}).items()}

    def wait_state(self, node: Vm, svcname: str, state: str, limit_s: float = STATE_LIMIT_S) -> None:
        """Return when a node says that its own instance of a service is in a state."""
        what = f"{svcname} is {state} on {node.name}"
        wait(lambda: self.states(node, svcname).get(node.name) == state, limit_s, what, self.bed.report)

    def wait_links(self, node: Vm, limit_s: float = STATE_LIMIT_S) -> None:
        """Return when every link of a node is up."""

        def all_up() -> bool:
            said = node.run("hbmgr links")
            return said.status == 0 and said.out.count("UP") >= 6 and "DOWN" not in said.out

        wait(all_up, limit_s, f"every link of {node.name} is up", self.bed.report)

    def print_status(self, node: Vm, svcname: str) -> Result:
        """Return `svcmgr print status` of a service."""
        return node.run(f"svcmgr -s {svcname} print status")
