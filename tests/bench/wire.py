"""What went over the cables, and when: the benchmark's view of the sniffer."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import IO, List, Optional

import sniffer
from machine import LabError, Machine


@dataclass(frozen=True)
class Frame:
    """One frame that a node sent: seconds of CLOCK_BOOTTIME, the node's number, its cable, its kind.

    Args:
        kind: `udp`, `vrrp`, `other`.
        size_bytes: of a UDP datagram's payload, else of the IP packet.
    """

    at: float
    node: int
    cable: str
    kind: str
    size_bytes: int


class Wire:
    """Everything nodes send while it is open.

    with Wire(lab.switch.machine) as wire:
        ...
    wire.frames
    """

    def __init__(self, switch: Machine) -> None:
        self._switch = switch
        self._process: Optional[subprocess.Popen] = None
        self._written: Optional[IO[str]] = None
        self.frames: List[Frame] = []

    def __enter__(self) -> Wire:
        network = f"--net=/proc/{self._switch.pid}/ns/net"
        argv = ["nsenter", network, sys.executable, "-I", "-S", sniffer.__file__]
        self._written = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=self._written, stderr=subprocess.PIPE, text=True
        )
        first_word = self._process.stderr.readline()
        if first_word != "ready\n":
            raise LabError(f"the sniffer did not begin: {first_word}{self._process.stderr.read()}")
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stderr.close()
        self._written.seek(0)
        self.frames = [_frame(line) for line in self._written]
        self._written.close()

    def last(self, node: int, kind: str) -> float:
        """Return when a node sent its last frame of a kind.

        Raises:
            LabError: it sent none.
        """
        sent = [frame.at for frame in self.frames if frame.node == node and frame.kind == kind]
        if not sent:
            raise LabError(f"node {node} sent no {kind} on any cable")
        return max(sent)


def _frame(line: str) -> Frame:
    at, port, kind, size_bytes = line.split()
    cable, node, _life = port.split("-")  # as the switch names its ends
    return Frame(float(at), int(node), cable, kind, int(size_bytes))
