"""What is compared: three clusters of two nodes, in the same kind of namespaces, run the same way.

A cluster knows how its software is configured, started and asked; the benchmarks know what to
do with it. `Opensvc` is ours; the others stand in `keepalived` and `pacemaker`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Sequence, Tuple

from bench_service import BenchService, service_names
from lab import Lab, Node
from machine import LabError
from stamps import Stamps

READY_LIMIT_S = 300.0
"""A thousand services on a slow machine are waited for."""


class BenchLab(Lab):
    """The lab with as many cables as asked for, and a shared disk only if asked for."""

    def __init__(self, workdir: Path, cables: int, with_disk: bool) -> None:
        self.interfaces = tuple(f"eth{number}" for number in range(1, cables + 1))
        self._with_disk = with_disk
        super().__init__(workdir)

    def _disk(self) -> Tuple[str, str]:
        return super()._disk() if self._with_disk else ("", "")


class Cluster(ABC):
    """Two nodes that run `count` services, all of them on one node.

        with Opensvc(100, 1.0) as cluster:
            cluster.begin()

    Args:
        timeout_s: silence after which the other node is to be called dead.
    """

    name: str
    """The software, as it stands in the table."""
    frames: str
    """Kind of the frames by which a node shows that it lives."""
    cables = 2
    with_disk = False

    def __init__(self, count: int, timeout_s: float) -> None:
        self.count = count
        self.timeout_s = timeout_s
        self.services = service_names(count)
        self._directory = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp"))
        self._directory.chmod(0o755)
        self.stamps = Stamps(self._directory / "fifo")
        try:
            self.lab = BenchLab(self._directory / "lab", self.cables, self.with_disk)
        except BaseException:
            self._remove()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: object, error: object, _traceback: object) -> None:
        if isinstance(error, LabError):
            print(f"{self.name}: {error}\n{self.lab.report()}", file=sys.stderr)
        self.lab.close()
        self._remove()

    def _remove(self) -> None:
        self.stamps.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Return its version, "" when it is not installed."""

    @property
    def detection_s(self) -> float:
        """Return the silence after which it is configured to call a node dead, exactly."""
        return self.timeout_s

    @property
    def beat_interval_s(self) -> float:
        """Return the pause between two signs of life."""
        return min(1.0, self.timeout_s / 5)

    @abstractmethod
    def begin(self) -> None:
        """Configure both nodes and run all services on n1; returns when n2 is ready to take over."""

    @abstractmethod
    def start_node(self, name: str) -> None:
        """Start the software on a node that has just booted; returns when it is ready to take over."""

    @abstractmethod
    def stop_in_order(self, node: Node) -> None:
        """Have a node leave in order; may return before its services have stopped."""

    @abstractmethod
    def switch(self, node: Node) -> None:
        """Move all services from a node to the other in order; may return before that is done."""

    @abstractmethod
    def after_switch(self, node: Node) -> None:
        """Make the node that was switched from ready to take over again."""

    def return_node(self, name: str) -> None:
        """Boot a node that was killed, and make it ready to take over."""
        self.lab.boot(name)
        self.start_node(name)


class Opensvc(Cluster):
    """opensvc_hb, over two networks."""

    name = "opensvc_hb"
    frames = "udp"

    @classmethod
    def version(cls) -> str:
        """Return its version."""
        from opensvc_hb import __version__

        return __version__

    def begin(self) -> None:
        """Configure, start, and hand all services over, to n1 first."""
        self.lab.configure(self.timeout_s, [BenchService(name, self.stamps.fifo) for name in self.services])
        self.lab.start_daemons()
        for node in self.lab.nodes:
            self._wait_states(node, {"FROZEN_STOP"})
        n1, n2 = self.lab.nodes
        n1.hbmgr("unfreeze", "--all", timeout_s=READY_LIMIT_S).check()
        self._wait_own(n1, "STARTED")
        n2.hbmgr("unfreeze", "--all", timeout_s=READY_LIMIT_S).check()
        self._wait_ready(n2)

    def _states(self, node: Node) -> Sequence[dict]:
        """Return {node: state} of each service, as a node sees them."""
        answer = node.hbmgr("status", "--format", "json").json()
        return [
            {name: instance["state"] for name, instance in service["instances"].items()}
            for service in answer["services"].values()
        ]

    def _wait_states(self, node: Node, wanted: set) -> None:
        self.lab.wait(
            lambda: all(set(states.values()) == wanted for states in self._states(node)),
            READY_LIMIT_S,
            f"{node.name} sees all services {wanted}",
        )

    def _wait_own(self, node: Node, wanted: str) -> None:
        self.lab.wait(
            lambda: all(states[node.name] == wanted for states in self._states(node)),
            READY_LIMIT_S,
            f"all services are {wanted} on {node.name}",
        )

    def _wait_ready(self, standby: Node) -> None:
        owner = self.lab.peer_of(standby.name).name
        wanted = {standby.name: "STOPPED", owner: "STARTED"}
        for node in self.lab.nodes:
            self.lab.wait(
                lambda node=node: all(states == wanted for states in self._states(node)),
                READY_LIMIT_S,
                f"{node.name} sees all services {wanted}",
            )

    def start_node(self, name: str) -> None:
        """Start the daemon, and wait until both nodes see it stopped here, started there."""
        node = self.lab.node(name)
        node.start_daemon()
        self._wait_ready(node)

    def stop_in_order(self, node: Node) -> None:
        """`hbmgr leave`: what a halt of the node does."""
        node.spawn([*hbmgr(), "leave"])

    def switch(self, node: Node) -> None:
        """`hbmgr switch --all`."""
        node.spawn([*hbmgr(), "switch", "--all"])

    def after_switch(self, node: Node) -> None:
        """Wait until both nodes see it."""
        self._wait_ready(node)


class OpensvcWithDisk(Opensvc):
    """opensvc_hb, over two networks and a shared disk, hence with the lease."""

    name = "opensvc_hb with disk"
    with_disk = True


def hbmgr() -> Tuple[str, ...]:
    """Return how a node calls hbmgr."""
    return (sys.executable, "-m", "opensvc_hb.cli.hbmgr")
