"""svcmgr logs: what the log of a service says, the rotated files first.

Prints the lines as they stand in the files; --lines N the last N of them, --follow also what is
written from then on, over a rotation. A service that said nothing yet has an empty log.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO, Callable, Iterable, Iterator, List, Mapping, Optional

from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.log import KEPT_FILES
from opensvc_hb.agent.names import NoSuchServiceError, service_file
from opensvc_hb.cli.svcmgr_options import CommandLine, UsageError
from opensvc_hb.errors import ExitCode

LOOK_S = 0.25
"""How often a followed log is looked at: the kernel does not tell of a file that does not exist yet."""


def handlers(loader: Loader, line: CommandLine) -> Mapping[str, Callable[[str], int]]:
    """Return the action by its name."""
    return {"logs": lambda svcname: print_log(loader, svcname, line)}


def print_log(loader: Loader, svcname: str, line: CommandLine) -> int:
    """Print the log of one service.

    Raises:
        NoSuchServiceError: there is neither such a service nor a log of it.
    """
    count = _count(line.options.get("lines"))
    newest = loader.root.log / f"{svcname}.log"
    files = log_files(newest)
    if not files:
        from opensvc_hb.agent.foreign import foreign_line

        try:
            service_file(loader.root, svcname)
        except NoSuchServiceError:
            if foreign_line(loader.root, svcname) is None:
                raise
    opened = [path.open("rb") for path in files]
    for text in last_lines(opened, count):
        sys.stdout.buffer.write(text)
    sys.stdout.flush()
    if line.has("follow"):
        is_newest = bool(files) and files[-1] == newest
        for text in _followed(newest, opened[-1] if is_newest else None):
            sys.stdout.buffer.write(text)
            sys.stdout.flush()
    for file in opened:
        file.close()
    return int(ExitCode.DONE)


def log_files(newest: Path) -> List[Path]:
    """Return the files of a log, the oldest first."""
    rotated = [newest.with_name(f"{newest.name}.{number}") for number in range(KEPT_FILES, 0, -1)]
    return [path for path in (*rotated, newest) if path.exists()]


def last_lines(files: Iterable[BinaryIO], count: Optional[int]) -> Iterable[bytes]:
    """Return the last lines of several files together; None for all of them."""
    lines = itertools.chain.from_iterable(files)
    return lines if count is None else deque(lines, maxlen=count)


def _followed(path: Path, file: Optional[BinaryIO]) -> Iterator[bytes]:
    """Give what is written behind what was read, for ever; a new file of that name from its begin."""
    while True:
        if file is not None:
            text = file.read()
            if text:
                yield text
                continue
            if _is_same(path, file):
                time.sleep(LOOK_S)
                continue
            file.close()
        file = _open(path)
        if file is None:
            time.sleep(LOOK_S)


def _open(path: Path) -> Optional[BinaryIO]:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _is_same(path: Path, file: BinaryIO) -> bool:
    """Tell whether the file is still the one of this name; one that is gone is, until there is another."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return True


def _count(text: Optional[str]) -> Optional[int]:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise UsageError(f"invalid number of lines: '{text}'")
    return int(text)
