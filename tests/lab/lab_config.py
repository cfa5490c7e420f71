"""Writes the configuration of a lab's cluster: the files an operator would write by hand."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import probe_service

FIRST_PORT = 5010


@dataclass(frozen=True)
class ProbeService:
    """A service of the lab: an app that leaves evidence, and what it stands on.

    Args:
        start_takes_s, stop_takes_s: how long its script sleeps in them.
        stubborn: its process ignores SIGTERM, and its stop script hangs.
        silent: its script drops its own output.
        fs_image: an image file that holds an ext4 file system, "" for none.
        fs_mount: where it is mounted.
        address: its address, "" for none; `interface` carries it.
        more: further lines of the file; app_more: of its app's section.
    """

    name: str
    nodes: Sequence[str] = ("n1", "n2")
    start_takes_s: float = 0.0
    stop_takes_s: float = 0.0
    stubborn: bool = False
    silent: bool = False
    fs_image: str = ""
    fs_mount: str = ""
    address: str = ""
    interface: str = "eth1"
    more: str = ""
    app_more: str = ""

    def env_text(self, script: Path) -> str:
        """Return the service's file, the same on every node."""
        parts = [f"[DEFAULT]\nservice_type = DEV\nnodes = {' '.join(self.nodes)}\n"]
        if self.address:
            parts.append(
                f"[ip#1]\nipname = {self.address}\nipdev = {self.interface}\nnetmask = 255.255.255.0\n"
            )
        if self.fs_image:
            parts.append(f"[fs#1]\ntype = ext4\ndev = {self.fs_image}\nmnt = {self.fs_mount}\nmnt_opt = rw\n")
        parts.append(f"[app#1]\nscript = {script}\nstart = 10\nstop = 10\ncheck = 10\n{self.app_more}")
        if self.more:
            parts.append(self.more)
        parts.append("[hb#0]\ntype = OpenHA\n")
        return "\n".join(parts)

    def script_text(self, log: Path) -> str:
        """Return its app script; which node it runs on, it asks its environment."""
        return (
            "#!/bin/sh\n"
            f"{'exec >/dev/null 2>&1' if self.silent else ''}\n"
            f"exec {sys.executable} -I -S {probe_service.__file__} --log {log} --service {self.name} \\\n"
            '    ${OSVC_NODENAME:+--node "$OSVC_NODENAME"} \\\n'
            f"    --start-takes {self.start_takes_s} --stop-takes {self.stop_takes_s}"
            f'{" --stubborn" if self.stubborn else ""} "$1"\n'
        )


def monitor_text(
    nodes: Sequence[str],
    interfaces: Sequence[str],
    disk: str,
    disk_type: str,
    timeout_s: float,
    ports_from: int,
) -> str:
    """Return a monitor file: one multicast link for each node and interface, one slot for each node."""
    lines = []
    port = ports_from
    for node in nodes:
        for interface in interfaces:
            lines.append(f"{node} net {interface} 239.131.50.{port - ports_from + 10} {port} {timeout_s:g}")
            port += 1
    if disk:
        lines += [f"{node} {disk_type} {disk} {10 * place} {timeout_s:g}" for place, node in enumerate(nodes)]
    return "\n".join(lines) + "\n"
