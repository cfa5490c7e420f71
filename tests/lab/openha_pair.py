"""A pair of nodes of which each runs the C program's stand-in or our daemon, and changes over.

Both kinds find what they need on every node: the stand-in's tree below usr/local/cluster of the
node's root, with OpenHA's configuration and state files; our files where a test writes them, or an
import. Which of the two runs is the test's choice.

What is told by state files is read from them, without a process: the stand-in keeps its own, our
daemon keeps those of the compatible tree (`openha_tree`), in a directory beside it.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

import openha_program
from lab import TREE, BaseLab, Lab, Node
from lab_config import FIRST_PORT, ProbeService
from machine import LabError, Process, Result

CLUSTER = "usr/local/cluster"
OUR_TREE = "srv/openha"
"""Below a node's root; the compatible tree would be refused where OpenHA is installed."""
SLOT_BLOCKS = 40
GUIDE = (TREE / "docs/migration.md").read_text()
LOOK_S = 0.01

LAUNCHER = """#!/bin/sh
EZ={top} exec {python} -I -S {program} {word} "$@"
"""


@dataclass(frozen=True)
class HbService:
    """A service of the pair.

    Args:
        is_agents: it has a file of the agent's, and its script is a link to svcmgr.
    """

    name: str
    nodes: Tuple[str, str] = ("n1", "n2")
    is_agents: bool = False

    @property
    def probe(self) -> ProbeService:
        """What runs when it is started."""
        return ProbeService(self.name, nodes=self.nodes)


def monitor(timeout_s: int) -> str:
    """Return a monitor file with a link of each type the C program is met on."""
    lines = []
    for number, node in enumerate(("n1", "n2"), start=1):
        peer = 3 - number
        port = FIRST_PORT + 10 * number
        lines.append(f"{node} net eth1 239.131.50.{9 + number} {port} {timeout_s}")
        lines.append(f"{node} unicast eth2 10.102.0.{peer} {port + 1} {timeout_s}")
    return "".join(f"{line}\n" for line in lines)


class Pair:
    """Two nodes of a lab, their services, and both installations on each.

    Args:
        first: the state in which OpenHA begins, by service; STOPPED lets the stand-in start it.
    """

    def __init__(
        self, lab: Lab, services: Sequence[HbService], timeout_s: int, first: str = "STOPPED"
    ) -> None:
        self.lab = lab
        self.services = services
        self.timeout_s = timeout_s
        disk = lab.disk.path
        slots = "".join(
            f"{node.name} dio {disk} {SLOT_BLOCKS * place} {timeout_s}\n"
            for place, node in enumerate(lab.nodes)
        )
        self.monitor = monitor(timeout_s) + slots
        for service in services:
            script = self.script(service)
            script.parent.mkdir(exist_ok=True)
            script.write_text(service.probe.script_text(lab.probe_log))
            script.chmod(0o755)
        for node in lab.nodes:
            self._lay_out(node, first)

    def script(self, service: HbService) -> Path:
        """Return the script of a service, the same on every node."""
        return self.lab.workdir / "services" / service.name

    def services_text(self, node: Node) -> str:
        """Return the services file of a node; the agent's scripts lie in its own root."""
        lines = []
        for service in self.services:
            script = self.script(service)
            if service.is_agents:
                script = node.root / f"etc/opensvc/{service.name}.cluster"
            lines.append(f"{service.name}\t{script}\t{service.nodes[0]}\t{service.nodes[1]}\t/bin/true\n")
        return "".join(lines)

    def _lay_out(self, node: Node, first: str) -> None:
        nodes = "".join(f"{name}\n" for name in ("n1", "n2"))
        node.write(f"{CLUSTER}/conf/nodes", nodes)
        node.write(f"{CLUSTER}/conf/monitor", self.monitor)
        node.write(f"{CLUSTER}/conf/services", self.services_text(node))
        (node.root / CLUSTER / "log").mkdir()
        programs = ("bin/daemon", "daemon"), ("bin/service", "service"), ("bin/hb", "hb"), ("ezha", "ezha")
        for path, word in programs:
            text = LAUNCHER.format(
                top=node.root / CLUSTER, python=sys.executable, program=openha_program.__file__, word=word
            )
            node.write(f"{CLUSTER}/{path}", text, mode=0o755)
        number = openha_program.NUMBERS[first]
        for service in self.services:
            for name in ("n1", "n2"):
                node.write(f"{CLUSTER}/services/{service.name}/STATE.{name}", f"{number}\0")
            if service.is_agents:
                node.write(f"etc/opensvc/{service.name}.env", service.probe.env_text(self.script(service)))
                link = node.root / f"etc/opensvc/{service.name}.cluster"
                link.symlink_to(Path(sys.executable).parent / "svcmgr")

    # OpenHA on a node.

    def ezha(self, node: Node, word: str, timeout_s: float = 30.0) -> Result:
        """Run the stand-in's init script to its end."""
        return node.run([str(node.root / CLUSTER / "ezha"), word], timeout_s)

    def launch_ezha(self, node: Node, word: str = "start") -> Process:
        """Run the stand-in's init script in the background."""
        return node.spawn([str(node.root / CLUSTER / "ezha"), word])

    def run_openha(self) -> None:
        """Bring the stand-in up on both nodes, each service already running on its primary.

        Without the init script, which would begin with everything stopped.
        """
        for service in self.services:
            self.start_by_hand(service)
            self.service(self.lab.node(service.nodes[0]), "-A", service.name, "force-start").check()
        for node in self.lab.nodes:
            self.launch_openha(node)

    def start_by_hand(self, service: HbService) -> None:
        """Start a service on its primary, without anybody's knowing."""
        self.lab.node(service.nodes[0]).run([str(self.script(service)), "start"]).check()

    def launch_openha(self, node: Node) -> None:
        """Start the stand-in alone, with the state files as they are."""
        node.spawn([str(node.root / CLUSTER / "bin/daemon")])

    def service(self, node: Node, *words: str) -> Result:
        """Run the stand-in's command for services."""
        return node.run([str(node.root / CLUSTER / "bin/service"), *words])

    def links_shown(self, node: Node) -> List[str]:
        """Return the lines of the stand-in's `hb -s`, without their dates."""
        shown = node.run([str(node.root / CLUSTER / "bin/hb"), "-s"]).check().out
        return [line.partition(", updated")[0] for line in shown.splitlines()]

    # Our daemon on a node.

    def make_key(self) -> None:
        """Make the cluster's key on n1 and copy it, as an operator does."""
        n1, n2 = self.lab.nodes
        n1.hbmgr("keygen").check()
        n2.write("etc/opensvc/hb/key", (n1.root / "etc/opensvc/hb/key").read_text(), mode=0o600)

    def configure_ours(self, node: Node, protocol: str, more: str = "") -> None:
        """Write our files on a node, as an import would, with the tree of state files switched on."""
        node.write("etc/opensvc/hb/nodes", "n1\nn2\n")
        node.write("etc/opensvc/hb/monitor", self.monitor)
        node.write("etc/opensvc/hb/services", self.services_text(node))
        text = f"[hb]\nprotocol = {protocol}\nopenha_tree = {node.root / OUR_TREE}\n{more}"
        node.write("etc/opensvc/hb/hb.conf", text)

    # What is told.

    def theirs(self, node: Node, service: str) -> Dict[str, str]:
        """Return {node: state} by the stand-in's state files."""
        return state_files(node.root / CLUSTER, service)

    def ours(self, node: Node, service: str) -> Dict[str, str]:
        """Return {node: state} by the state files that our daemon keeps."""
        return state_files(node.root / OUR_TREE, service)

    def same_instances(self) -> List[Tuple[str, str, int, str]]:
        """Return (service, node, pid, run) of what lives; a restart would change the run."""
        return [
            (span.service, span.node, span.pid, span.run)
            for service in self.services
            for span in self.lab.living(service.name)
        ]


def state_files(tree: Path, service: str) -> Dict[str, str]:
    """Return {node: state} of the state files of a service."""
    states = {}
    for path in (tree / "services" / service).glob("STATE.*"):
        if not path.name.endswith(".tmp"):
            first = path.read_bytes()[:1]
            states[path.name.partition(".")[2]] = openha_program.NAMES[int(first)] if first else "UNKNOWN"
    return states


def by_the_guide(node: Node, words: str, service: str = "") -> Result:
    """Run a command line of the migration guide on a node, as it stands there.

    `SVC` becomes the service; OpenHA's programs are the stand-in's, and its tree is the node's.
    """
    assert words in GUIDE, f"the guide has no {words!r}"
    program, *rest = (
        words.replace("SVC", service).replace("/usr/local/cluster", str(node.root / CLUSTER)).split()
    )
    if program == "hbmgr":
        return node.hbmgr(*rest)
    place = {"service": "bin/service", "ezha": "ezha"}[program]
    return node.run([str(node.root / CLUSTER / place), *rest])


def seconds_until(condition: Callable[[], object], limit_s: float, lab: BaseLab, what: str) -> float:
    """Return the seconds until a condition that costs nothing is true."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > limit_s:
            raise LabError(f"not within {limit_s:g} s: {what}\n{lab.report()}")
        time.sleep(LOOK_S)
    return time.monotonic() - began


def figures(seconds: Sequence[float]) -> str:
    """Return measured times for people."""
    return f"{', '.join(f'{one:.2f}' for one in seconds)} s"
