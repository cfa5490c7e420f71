"""How long does a person wait for a command?

Commands are run as a person runs them, a new process each time, on the node that runs all
services, so that each service's script has to be asked too. `warm`: results that the daemon
keeps are used. `cold`: every service is evaluated now. `first`: also, nothing is in memory yet,
neither the interpreter nor the services' files.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import List, Sequence, Tuple

import command_timer
from clusters import READY_LIMIT_S
from lab import Node
from machine import LabError

from opensvc_hb.client import request

PROGRAMS = Path(sys.executable).parent
"""Where this environment installed the commands."""

START_UP: Tuple[Tuple[str, ...], ...] = (
    ("hbmgr", "--version"),
    ("hbmgr", "--help"),
    ("hbmgr", "status"),
    ("hbmgr", "links"),
    ("hbmgr", "events"),
    ("svcmgr", "--version"),
    ("svcmgr", "--help"),
    ("svcmon", "--version"),
    ("svcmon", "--help"),
)


def time_command(node: Node, argv: Sequence[str], repetitions: int) -> List[float]:
    """Return how long each run of one of our commands took, seconds.

    Raises:
        LabError: it failed.
    """
    whole = [str(PROGRAMS / argv[0]), *argv[1:]]
    timer = [sys.executable, "-I", "-S", command_timer.__file__, str(repetitions), *whole]
    *seconds, status = node.run(timer, timeout_s=READY_LIMIT_S).check().out.split()
    if status != "0":
        raise LabError(f"{' '.join(argv)}: exit status {status}: {node.run(whole).err}")
    return [float(text) for text in seconds]


def kept_results(node: Node) -> int:
    """Return of how many services the daemon keeps a result."""
    socket_path = str(node.root / "run/opensvc/hb.sock")
    return len(request(socket_path, {"request": "statuses"})["services"])


def drop_page_cache() -> None:
    """Have the kernel forget all files that it keeps in memory."""
    Path("/proc/sys/vm/drop_caches").write_text("1")


def time_first(node: Node, argv: Sequence[str], repetitions: int) -> List[float]:
    """Return how long a command takes with nothing in memory, seconds."""
    seconds = []
    for _ in range(repetitions):
        node.run(["sync"]).check()
        drop_page_cache()
        seconds += time_command(node, argv, 1)
    return seconds
