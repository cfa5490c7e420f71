"""Do beats keep their period while everybody asks the daemon for its status?

The beats are watched on the cables, not in the daemon: what counts is what the other node gets.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import Tuple

import asker
from clusters import Cluster
from false_takeovers import longest_gap_s
from lab import Node
from wire import Wire

SETTLE_S = 2.0


@dataclass(frozen=True)
class Asked:
    """What came of it.

    Args:
        answers_per_s: of all clients together.
        took_s: how long each answer took.
        longest_gap_s: longest pause between two beats on one cable.
    """

    answers_per_s: float
    took_s: Tuple[float, ...]
    longest_gap_s: float


def ask(cluster: Cluster, node: Node, clients: int, for_s: float) -> Asked:
    """Have clients ask for the status in a loop; none: just watch the beats."""
    time.sleep(SETTLE_S)
    socket_path = str(node.root / "run/opensvc/hb.sock")
    outputs = [cluster.lab.workdir / f"asker-{number}" for number in range(clients)]
    with Wire(cluster.lab.switch.machine) as wire:
        argv = [sys.executable, asker.__file__, socket_path, str(for_s)]
        processes = [node.spawn(argv, log=output) for output in outputs]
        if processes:
            for process in processes:
                process.wait(for_s + 120)
        else:
            time.sleep(for_s)
    took_s = tuple(second for output in outputs for second in json.loads(output.read_text())["took_s"])
    for output in outputs:
        output.unlink()
    return Asked(len(took_s) / for_s, took_s, longest_gap_s(wire, node.number, cluster.frames))
