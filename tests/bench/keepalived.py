"""Keepalived as users would run it for this: one VRRP router for each service, a script that starts it.

VRRP detects a dead master after three advertisement intervals and a skew that depends on the
priority, so the interval is chosen such that this sum is the timeout, in the hundredths of a
second that VRRP version 3 counts in. Both nodes have the same priority and `nopreempt`: a node
that comes back does not take its services back, as with us. Each router moves an address too,
since Keepalived refuses one without.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from typing import List, Set

from bench_service import notify_text
from clusters import READY_LIMIT_S, Cluster
from lab import Node

PRIORITY = 254
ROUTERS_PER_CABLE = 250
"""A VRRP router's number is one byte, and its own on a cable."""


class Keepalived(Cluster):
    """Keepalived, with as many cables as the number of its routers asks for."""

    name = "keepalived"
    frames = "vrrp"

    def __init__(self, count: int, timeout_s: float) -> None:
        self.cables = max(2, -(-count // ROUTERS_PER_CABLE))
        self._interval_s = max(1, round(100 * timeout_s / (3 + (256 - PRIORITY) / 256))) / 100
        super().__init__(count, timeout_s)

    @classmethod
    def version(cls) -> str:
        """Return its version, "" when it is not installed."""
        if not shutil.which("keepalived"):
            return ""
        said = subprocess.run(["keepalived", "--version"], capture_output=True, text=True, check=False)
        return said.stderr.split()[1].lstrip("v")

    @property
    def detection_s(self) -> float:
        """Three intervals and the skew: RFC 5798, Master_Down_Interval."""
        return self._interval_s * (3 + (256 - PRIORITY) / 256)

    @property
    def beat_interval_s(self) -> float:
        """The advertisement interval."""
        return self._interval_s

    def begin(self) -> None:
        """Start n1 alone, so that it becomes master of all, then n2."""
        notify = self.lab.workdir / "notify"
        notify.write_text(notify_text(self.stamps.fifo))
        notify.chmod(0o755)
        for node in self.lab.nodes:
            node.write("keepalived.conf", self._configuration(str(notify)))
        self._launch(self.lab.node("n1"))
        self.stamps.wait(0.0, "n1", "start", self.count, READY_LIMIT_S)
        self.start_node("n2")

    def _configuration(self, notify: str) -> str:
        parts = ["global_defs {\n  vrrp_version 3\n  script_user root\n  enable_script_security\n}\n"]
        for number, name in enumerate(self.services):
            cable, router = divmod(number, ROUTERS_PER_CABLE)
            parts.append(
                f"vrrp_instance {name} {{\n  state BACKUP\n  nopreempt\n  interface eth{cable + 1}\n"
                f"  virtual_router_id {router + 1}\n  priority {PRIORITY}\n"
                f"  advert_int {self._interval_s:.2f}\n"
                f"  virtual_ipaddress {{\n    10.{110 + cable}.0.{router + 1}/32\n  }}\n"
                f'  notify_master "{notify} {name} start"\n  notify_backup "{notify} {name} stop"\n'
                f'  notify_fault "{notify} {name} stop"\n  notify_stop "{notify} {name} stop"\n}}\n'
            )
        return "".join(parts)

    def _launch(self, node: Node) -> None:
        run = node.root / "run"
        run.mkdir(exist_ok=True)
        node.daemon = node.spawn(
            ["keepalived", "--dont-fork", "--log-console", "--use-file", str(node.root / "keepalived.conf")]
        )

    def start_node(self, name: str) -> None:
        """Start it, and wait until all its routers listen: each says so once."""
        node = self.lab.node(name)
        begins_at = node.log_path.stat().st_size if node.log_path.exists() else 0
        self._launch(node)

        def backups() -> Set[str]:
            with node.log_path.open("rb") as log:
                log.seek(begins_at)
                return _backups(log.read().decode(errors="replace").splitlines())

        self.lab.wait(
            lambda: len(backups()) == self.count, READY_LIMIT_S, f"keepalived on {name} is backup for all"
        )

    def stop_in_order(self, node: Node) -> None:
        """SIGTERM: it tells the other that it goes."""
        node.daemon.signal(signal.SIGTERM)

    def switch(self, node: Node) -> None:
        """Keepalived moves a router away by ending, or by a change of its configuration."""
        self.stop_in_order(node)

    def after_switch(self, node: Node) -> None:
        """The one that ended begins again."""
        node.daemon.wait(READY_LIMIT_S)
        self.start_node(node.name)


def _backups(lines: List[str]) -> Set[str]:
    """Return the routers that say that they have become backup."""
    marked = [line for line in lines if "Entering BACKUP STATE" in line]
    return {line.partition("(")[2].partition(")")[0] for line in marked}
