"""How long does a person wait for a command?

Commands are run as a person runs them, a new process each time, on the node that runs all
services, so that each service's script has to be asked too. `warm`: results that the daemon
keeps are used. `cold`: every service is evaluated now. `first`: also, nothing is in memory yet,
neither the interpreter nor the services' files.

What is run is the installed wheel: the development environment finds our modules by a detour,
which costs each command some 15 ms.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import List, Sequence, Tuple

import command_timer
from clusters import READY_LIMIT_S
from lab import Node
from machine import LabError

from opensvc_hb.client import request

_HERE = Path(__file__).resolve().parent
ENVIRONMENT = _HERE.parent.parent / "build/bench/environment"
"""Where the product is installed, as a user has it."""

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


def install_product() -> None:
    """Install this tree's wheel, anew.

    Raises:
        LabError: that failed.
    """
    argv = [str(_HERE / "install-product"), sys.executable, str(ENVIRONMENT)]
    done = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise LabError(f"{argv[0]}: exit status {done.returncode}: {done.stderr}")


def time_command(node: Node, argv: Sequence[str], repetitions: int) -> List[float]:
    """Return how long each run of one of our installed commands took, seconds.

    Raises:
        LabError: it failed.
    """
    whole = [str(ENVIRONMENT / "bin" / argv[0]), *argv[1:]]
    without_tree = ["env", "--unset=PYTHONPATH"]
    timer = [*without_tree, sys.executable, "-I", "-S", command_timer.__file__, str(repetitions), *whole]
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
