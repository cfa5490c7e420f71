"""Does a node take over from one that lives, when the machine is overloaded?

Both processors loop, memory is short, pages are written back and read all the time, while two
nodes beat. Whatever starts or stops then is false, since nothing failed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, List

import load
from clusters import Cluster, Opensvc
from takeover import now_s
from wire import Wire

LEAVE_MIB = 4096
PAGES_MIB = 2048
LOOPS_PER_CPU = 2


@dataclass(frozen=True)
class FalseMoves:
    """What happened under load.

    Args:
        starts: start actions on the node that did not run the service.
        stops: stop actions on the node that ran it, also those by which a lease ends.
        links_down: entries of the journals that a link went down; 0 where there is no journal.
        state_changes: entries of the journals that a service changed its state; 0 likewise.
        longest_gap_s: longest pause between two frames of the owner, on any cable.
        standstill_ms: longest time for which the whole machine stood still, as the program told
            that comes before all others there.
    """

    starts: int
    stops: int
    links_down: int
    state_changes: int
    longest_gap_s: float
    standstill_ms: float


@contextlib.contextmanager
def loaded_machine(directory: Path) -> Iterator[None]:
    """Overload this machine."""
    works = [["busy"]] * (LOOPS_PER_CPU * (os.cpu_count() or 1))
    works += [["memory", str(LEAVE_MIB)], ["pages", str(directory / "pages"), str(PAGES_MIB)]]
    processes = [
        subprocess.Popen(
            [sys.executable, "-I", "-S", load.__file__, *work],
            stdin=subprocess.PIPE,
            preexec_fn=_be_killed_first,
        )
        for work in works
    ]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
            process.stdin.close()


def _be_killed_first() -> None:
    """Offer this process to the kernel's memory killer."""
    Path("/proc/self/oom_score_adj").write_text("1000")


def watch_under_load(cluster: Cluster, for_s: float) -> FalseMoves:
    """Load the machine, and count what moves. n1 runs all services."""
    n1, n2 = cluster.lab.nodes
    begun_at = now_s()
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", load.__file__, "standstill"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with watcher, loaded_machine(cluster.lab.workdir), Wire(cluster.lab.switch.machine) as wire:
        time.sleep(for_s)
        # counted before the load goes: what it caused, not what its end did
        starts = len(cluster.stamps.since(begun_at, n2.name, "start"))
        stops = len(cluster.stamps.since(begun_at, n1.name, "stopped"))
        standstill_ms = float(watcher.communicate()[0])
    entries = _entries_since(cluster, begun_at)
    return FalseMoves(
        starts=starts,
        stops=stops,
        links_down=sum(entry["text"].endswith(" is DOWN") for entry in entries),
        state_changes=sum(entry["kind"] == "state" for entry in entries),
        longest_gap_s=longest_gap_s(wire, n1.number, cluster.frames),
        standstill_ms=standstill_ms,
    )


def _entries_since(cluster: Cluster, begun_at: float) -> List[dict]:
    """Return what both nodes' journals say since a moment; nothing for the others' software."""
    if not isinstance(cluster, Opensvc):
        return []
    entries: List[dict] = []
    for node in cluster.lab.nodes:
        entries += node.hbmgr("events", "--last", "0", "--format", "json", timeout_s=60).json()
    return [entry for entry in entries if entry["at"] > begun_at]


def longest_gap_s(wire: Wire, node: int, kind: str) -> float:
    """Return the longest pause between two frames of a node on the same cable."""
    longest = 0.0
    previous: dict = {}
    for frame in wire.frames:
        if frame.node == node and frame.kind == kind:
            longest = max(longest, frame.at - previous.get(frame.cable, frame.at))
            previous[frame.cable] = frame.at
    return longest
