"""What does a node cost that has nothing to do but to run its services and to beat?"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from typing import Dict

import node_init
from clusters import Cluster
from lab import Node
from machine import Machine
from takeover import now_s
from wire import Wire

SETTLE_S = 5.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
WRITES_FIELD = 4
"""Writes completed, in a block device's stat file: the kernel's Documentation/block/stat.rst."""


@dataclass(frozen=True)
class IdleCost:
    """What one node used, all its processes together.

    Args:
        cpu_percent: of one processor.
        pss_mib: memory, pages shared with others counted in parts.
        rss_mib: memory, shared pages counted in full in each process: the upper bound.
        bytes_per_s, packets_per_s: sent on its cables, IP packets or UDP payloads.
        beat_bytes: median of a beat's size.
        disk_writes_per_s: writes to the shared disk; 0 without one.
        stored_bytes_per_s: bytes on their way to any disk, the shared one too.
    """

    cpu_percent: float
    pss_mib: float
    rss_mib: float
    bytes_per_s: float
    packets_per_s: float
    beat_bytes: float
    disk_writes_per_s: float
    stored_bytes_per_s: float


def measure(cluster: Cluster, node: Node, for_s: float) -> IdleCost:
    """Watch a node that is left alone."""
    time.sleep(SETTLE_S)
    before_cpu_s = _cpu_s(node.machine)
    before_disk = _disk_writes(cluster, node)
    before_bytes = _written_bytes(node.machine)
    began = now_s()
    with Wire(cluster.lab.switch.machine) as wire:
        time.sleep(for_s)
    took_s = now_s() - began
    cpu_s = _cpu_s(node.machine) - before_cpu_s
    disk_writes = _disk_writes(cluster, node) - before_disk
    written = _written_bytes(node.machine) - before_bytes
    frames = [f for f in wire.frames if f.node == node.number and f.kind == cluster.frames]
    memory = _memory_mib(node.machine)
    return IdleCost(
        cpu_percent=100 * cpu_s / took_s,
        pss_mib=memory["Pss"],
        rss_mib=memory["Rss"],
        bytes_per_s=sum(f.size_bytes for f in frames) / for_s,
        packets_per_s=len(frames) / for_s,
        beat_bytes=statistics.median(f.size_bytes for f in frames) if frames else 0.0,
        disk_writes_per_s=disk_writes / took_s,
        stored_bytes_per_s=written / took_s,
    )


def _processes(machine: Machine) -> Dict[int, str]:
    """Return the processes of a node but its process 1, which is the lab's."""
    return node_init.descendants(machine.pid)


def _cpu_s(machine: Machine) -> float:
    """Return the processor time of a node, that of ended children included."""
    total = 0
    for pid in [*_processes(machine), machine.pid]:
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:  # it ended: its time is in its parent's
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / TICKS_PER_S


def _memory_mib(machine: Machine) -> Dict[str, float]:
    total = {"Pss": 0.0, "Rss": 0.0}
    for pid in _processes(machine):
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                for line in file:
                    word = line.split(":")[0]
                    if word in total:
                        total[word] += int(line.split()[1]) / 1024
        except OSError:  # it ended
            continue
    return total


def _written_bytes(machine: Machine) -> int:
    """Return the bytes that the node's living processes sent towards block devices, its shared disk too."""
    total = 0
    for pid in _processes(machine):
        try:
            with open(f"/proc/{pid}/io") as file:
                total += sum(int(line.split()[1]) for line in file if line.startswith("write_bytes"))
        except OSError:
            continue
    return total


def _disk_writes(cluster: Cluster, node: Node) -> int:
    if not cluster.with_disk:
        return 0
    device = cluster.lab.disk.device_of(node.name).rpartition("/")[2]
    with open(f"/sys/block/{device}/stat") as file:
        return int(file.read().split()[WRITES_FIELD])
