"""Pacemaker over corosync as users would run it for this: two nodes, no fencing, one resource per service.

Corosync calls a node dead after its token's timeout and, while the rest agree, the consensus
timeout; the two together are the timeout asked for. Without fencing Pacemaker starts what a
lost node ran at once, which is what is compared; nobody should run it so with shared data.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from typing import Dict
from xml.etree import ElementTree

from bench_service import ocf_text
from clusters import READY_LIMIT_S, Cluster
from lab import Node

CONSENSUS_SHARE = 0.2
CONSENSUS_MIN_MS = 50
"""Not below the join timeout."""
OWN_DIRECTORIES = ("/dev/shm", "/var/lib/pacemaker", "/var/lib/corosync", "/var/log", "/etc/corosync")
PROVIDERS = "/usr/lib/ocf/resource.d"

_COROSYNC = """\
totem {{
  version: 2
  cluster_name: bench
  transport: knet
  crypto_cipher: aes256
  crypto_hash: sha256
  token: {token_ms}
  consensus: {consensus_ms}
}}
nodelist {{
{nodes}}}
quorum {{
  provider: corosync_votequorum
  two_node: 1
  wait_for_all: 0
}}
logging {{
  to_stderr: yes
  to_syslog: no
}}
"""
_NODE = "  node {{\n    name: {name}\n    nodeid: {number}\n{rings}  }}\n"
_CIB = """\
<cib validate-with="pacemaker-3.0" epoch="1" num_updates="0" admin_epoch="1">
<configuration><crm_config><cluster_property_set id="options">
<nvpair id="o1" name="stonith-enabled" value="false"/>
<nvpair id="o2" name="no-quorum-policy" value="ignore"/>
</cluster_property_set></crm_config><nodes/>
<resources>{resources}</resources><constraints/>
<rsc_defaults><meta_attributes id="defaults"><nvpair id="d1" name="resource-stickiness" value="INFINITY"/>
</meta_attributes></rsc_defaults></configuration><status/></cib>
"""
_RESOURCE = (
    '<primitive id="{name}" class="ocf" provider="bench" type="stamp"><operations>'
    '<op id="{name}-monitor" name="monitor" interval="60s"/></operations></primitive>'
)
"""Looked at every minute, as often as we look at ours."""


class Pacemaker(Cluster):
    """Pacemaker, over two networks."""

    name = "pacemaker"
    frames = "udp"

    @classmethod
    def version(cls) -> str:
        """Return the versions of both, "" when one is not installed."""
        if not shutil.which("pacemakerd") or not shutil.which("corosync"):
            return ""
        said = [
            subprocess.run([command, option], capture_output=True, text=True, check=False).stdout
            for command, option in (("pacemakerd", "--version"), ("corosync", "-v"))
        ]
        return f"{said[0].split()[1]}, corosync {said[1].split(chr(39))[1]}"

    def _timeouts_ms(self) -> Dict[str, int]:
        whole_ms = round(1000 * self.timeout_s)
        consensus_ms = max(CONSENSUS_MIN_MS, round(CONSENSUS_SHARE * whole_ms))
        return {"token_ms": whole_ms - consensus_ms, "consensus_ms": consensus_ms}

    @property
    def beat_interval_s(self) -> float:
        """How long the token takes to come round when nothing is to be told."""
        return self._timeouts_ms()["token_ms"] / 1000 / 4

    def begin(self) -> None:
        """Start n1 alone, have it run everything, then n2."""
        nodes = ""
        for node in self.lab.nodes:
            rings = "".join(
                f"    ring{ring}_addr: {self.lab.switch.address(node.number, cable)}\n"
                for ring, cable in enumerate(self.lab.interfaces)
            )
            nodes += _NODE.format(name=node.name, number=node.number, rings=rings)
        text = _COROSYNC.format(nodes=nodes, **self._timeouts_ms())
        resources = "".join(_RESOURCE.format(name=name) for name in self.services)
        for node in self.lab.nodes:
            node.write("corosync.conf", text)
            node.write("authkey", "b" * 128, mode=0o400)
            node.write("bench/stamp", ocf_text(self.stamps.fifo), mode=0o755)
            node.write("cib.xml", _CIB.format(resources=resources))
        n1 = self.lab.node("n1")
        self._launch(n1)
        self._wait_members(n1, 1)
        n1.run(["cibadmin", "--replace", "--xml-file", str(n1.root / "cib.xml")]).check()
        self._wait_ready(n1, members=1)
        self.start_node("n2")

    def _launch(self, node: Node) -> None:
        for directory in OWN_DIRECTORIES:
            node.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", directory]).check()
        node.run(["mount", "-t", "tmpfs", "tmpfs", PROVIDERS]).check()
        node.run(
            [
                "sh",
                "-ec",
                f"cp -p {node.root}/corosync.conf {node.root}/authkey /etc/corosync/\n"
                f"cp -rp {node.root}/bench {PROVIDERS}/\n"
                "mkdir -p /var/log/pacemaker /var/log/corosync /run/crm\n"
                "cd /var/lib/pacemaker\nmkdir cib pengine blackbox cores\n"
                "chown -R hacluster:haclient /var/lib/pacemaker /run/crm /var/log/pacemaker\n",
            ]
        ).check()
        node.spawn(["corosync", "-f"])
        self.lab.wait(
            lambda: node.run(["corosync-cmapctl", "-g", "totem.version"]).status == 0, 20, "corosync answers"
        )
        node.daemon = node.spawn(["pacemakerd", "-f"])

    def _seen(self, node: Node) -> Dict[str, int]:
        """Return the number of nodes that are there, and of resources started on each node."""
        answer = node.run(["crm_mon", "--one-shot", "--output-as=xml"])
        if answer.status != 0:
            return {}
        document = ElementTree.fromstring(answer.out)
        seen = {"members": 0}
        for member in document.findall("nodes/node"):
            there = member.get("online") == "true" and member.get("pending") == "false"
            seen["members"] += there and member.get("unclean") == "false"
        for place in document.findall("resources/resource[@role='Started']/node"):
            seen[place.get("name")] = seen.get(place.get("name"), 0) + 1
        return seen

    def _wait_members(self, node: Node, count: int) -> None:
        self.lab.wait(
            lambda: self._seen(node).get("members") == count, READY_LIMIT_S, f"{count} members on {node.name}"
        )

    def _wait_ready(self, owner: Node, members: int) -> None:
        """Wait until nothing is left to be done."""
        self._wait_members(owner, members)
        self.lab.wait(
            lambda: self._seen(owner).get(owner.name) == self.count,
            READY_LIMIT_S,
            f"all resources run on {owner.name}",
        )
        owner.run(["crm_resource", "--wait"], timeout_s=READY_LIMIT_S).check()

    def start_node(self, name: str) -> None:
        """Start both daemons, and wait until the cluster has settled."""
        self._launch(self.lab.node(name))
        self._wait_ready(self.lab.peer_of(name), members=2)

    def stop_in_order(self, node: Node) -> None:
        """SIGTERM, as an orderly halt does."""
        node.daemon.signal(signal.SIGTERM)

    def switch(self, node: Node) -> None:
        """Set the node on standby."""
        node.run(["crm_standby", "--node", node.name, "--update", "on"]).check()

    def after_switch(self, node: Node) -> None:
        """Take the standby away again."""
        owner = self.lab.peer_of(node.name)
        self._wait_ready(owner, members=2)
        node.run(["crm_standby", "--node", node.name, "--delete"]).check()
        self._wait_ready(owner, members=2)
