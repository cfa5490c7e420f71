"""How does the agent say what it does? On stderr for who watches, in SVC.log for later.

Runs in: the process of one command or action, single-threaded; several processes may
write the same file, each line by one write. The wall clock stands here for people to read
only. A log that cannot be written (full disk) never stops an action.

Source: C.9: `HH:MM:SS LEVEL   NAME  message`, NAME padded to the length of the service's
name + 8; in the file `YYYY-MM-DD HH:MM:SS,mmm - NAME - LEVEL - message`, rotated at 5 MiB,
5 kept.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

INFO, WARNING, ERROR = "INFO", "WARNING", "ERROR"
"""Levels, as printed."""

ROTATE_BYTES = 5 * 1024 * 1024
KEPT_FILES = 5


def _write_stderr(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


@dataclass(frozen=True)
class ServiceLog:
    """The log of one service.

    Args:
        svcname: the service.
        folder: `var/log/opensvc`; None writes no file.
        write: where lines for people go.
        wall_clock: seconds since the epoch, for people.
    """

    svcname: str
    folder: Optional[Path] = None
    write: Callable[[str], None] = _write_stderr
    wall_clock: Callable[[], float] = time.time

    def line(self, level: str, message: str, resource: str = "") -> None:
        """Write one line under the service's name, or a resource's (`FS#1`)."""
        name = f"{self.svcname.upper()}.{resource}" if resource else self.svcname.upper()
        now = self.wall_clock()
        at = time.localtime(now)
        width = len(self.svcname) + 8
        self.write(f"{time.strftime('%H:%M:%S', at)} {level:<7} {name:<{width}} {message}\n")
        milliseconds = int(now * 1000) % 1000
        self._file(
            f"{time.strftime('%Y-%m-%d %H:%M:%S', at)},{milliseconds:03d} - {name} - {level} - {message}\n"
        )

    def info(self, message: str) -> None:
        """Write an INFO line under the service's name."""
        self.line(INFO, message)

    def warning(self, message: str) -> None:
        """Write a WARNING line under the service's name."""
        self.line(WARNING, message)

    def error(self, message: str) -> None:
        """Write an ERROR line under the service's name."""
        self.line(ERROR, message)

    def trace(self, text: str) -> None:
        """Keep a traceback in the file only; nobody wants it on the terminal."""
        self._file(text if text.endswith("\n") else text + "\n")

    def _file(self, text: str) -> None:
        if self.folder is None:
            return
        path = self.folder / f"{self.svcname}.log"
        try:
            descriptor = _opened(path)
            if os.fstat(descriptor).st_size >= ROTATE_BYTES:
                os.close(descriptor)
                _rotate(path)
                descriptor = _opened(path)
            try:
                os.write(descriptor, text.encode("utf-8", "backslashreplace"))
            finally:
                os.close(descriptor)
        except OSError:
            return  # a log that cannot be written stops nothing; the line is on stderr


def _opened(path: Path) -> int:
    """Open a log for one line; its folder is made when missing."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o644)


def _rotate(path: Path) -> None:
    try:
        if path.stat().st_size < ROTATE_BYTES:
            return
    except FileNotFoundError:
        return
    for number in range(KEPT_FILES - 1, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number + 1}"))
    path.replace(path.with_name(f"{path.name}.1"))
