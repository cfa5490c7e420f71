"""What the services did, and when: the benchmark's view of the stamper."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import List

import stamper
from machine import LabError


@dataclass(frozen=True)
class Stamp:
    """One line of a service's script: seconds of CLOCK_BOOTTIME, node, service, word.

    Words: `start`, first line of the start action; `stopped`, last line of the stop action.
    """

    at: float
    node: str
    service: str
    word: str


class Stamps:
    """A FIFO, and everything that was ever written to it."""

    def __init__(self, fifo: Path) -> None:
        self.fifo = fifo
        os.mkfifo(fifo)
        fifo.chmod(0o666)
        self._stamps: List[Stamp] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", stamper.__file__, str(fifo)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # an interrupt from the keyboard is for us alone
            text=True,
        )
        self._reader = threading.Thread(target=self._read, name="stamps", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Runs in: the stamps' thread."""
        for line in self._process.stdout:
            at, node, service, word = line.split()
            with self._changed:
                self._stamps.append(Stamp(float(at), node, service, word))
                self._changed.notify_all()

    def since(self, at: float, node: str, word: str) -> List[Stamp]:
        """Return what a node did since a moment, in order."""
        with self._changed:
            return [s for s in self._stamps if s.at >= at and s.node == node and s.word == word]

    def wait(self, at: float, node: str, word: str, count: int, limit_s: float) -> List[Stamp]:
        """Return the first `count` stamps since a moment as soon as they are there.

        Raises:
            LabError: they were not there within `limit_s`.
        """
        found: List[Stamp] = []
        looked_at = 0
        deadline = time.monotonic() + limit_s
        with self._changed:
            while len(found) < count:
                fresh, looked_at = self._stamps[looked_at:], len(self._stamps)
                found += [s for s in fresh if s.at >= at and s.node == node and s.word == word]
                left_s = deadline - time.monotonic()
                if len(found) < count and (left_s <= 0 or not self._changed.wait(left_s)):
                    raise LabError(
                        f"{node}: {len(found)} of {count} services: no '{word}' within {limit_s:g} s"
                    )
        return found[:count]

    def close(self) -> None:
        """End the stamper."""
        self._process.stdin.close()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()
