"""How is a script of OpenHA's kind run? As OpenHA runs it, with its output kept.

The path is executed as it stands, with one argument, `start` or `stop`, never by a shell; so a
`#!` line or a binary is needed. Exit 0 is success, all else failure. What it writes goes to a
file, and from there line by line to the service's log while it runs: a daemon that it leaves
behind holds no pipe of ours, so that nobody waits for it and no later write kills it.

What is otherwise than there: SIGINT, SIGQUIT and SIGTERM are not ignored in the script and what
it starts; the working directory is /; standard input is empty; standard output is that file and
not what the daemon inherited; a time limit holds, that of the whole action, which ends the
script's session from outside.

Runs in: the process of one action.
Source: OpenHA's execution of scripts, its words for failures.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Tuple

NOT_EXECUTED = 255
"""Exit status that stands for a script that could not be executed."""
LOOK_S = 0.2
"""So often is looked for new lines of a script that runs."""
LINE_MAX_BYTES = 4096
LOG_ROOM_BYTES = 65536
"""Free space below which a script's output is thrown away rather than written."""
_READ_BYTES = 65536


@dataclass(frozen=True)
class ScriptEnd:
    """How a script ended.

    Args:
        status: 0 for success, 1 to 255 for its exit status, 128 + number for a signal.
        words: what is to be logged as errors, in OpenHA's words; empty after success.
    """

    status: int
    words: Tuple[str, ...] = ()


def run_script(
    script: str, verb: str, output_path: Path, say: Callable[[str], None], look_s: float = LOOK_S
) -> ScriptEnd:
    """Run a script to its end.

    Args:
        script: absolute path.
        verb: `start` or `stop`.
        output_path: what it writes is kept there until the next run.
        say: gets each line of its output, while it runs.
        look_s: seconds between two looks for new lines.
    """
    output = _open_output(output_path, say)
    try:
        try:
            process = subprocess.Popen(
                [script, verb],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
            )
        except OSError as error:
            return ScriptEnd(
                NOT_EXECUTED,
                (f"Error: exec failed: {error.strerror}", f"{script} exited with {NOT_EXECUTED}"),
            )
        lines = _Lines(output, say)
        while not _ended_within(process.pid, look_s):
            lines.pass_on()
        status = process.wait()
        lines.pass_on()
        lines.close()
    finally:
        os.close(output)
    if status < 0:
        number = -status
        return ScriptEnd(128 + number, (f"{script} was terminated by signal {number}{_named(number)}",))
    return ScriptEnd(status, (f"{script} exited with {status}",) if status else ())


def _named(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""  # a real-time signal


def _ended_within(pid: int, limit_s: float) -> bool:
    """Wait for the end of a child, without reaping it."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(limit_s * 1000))
    finally:
        os.close(descriptor)


def _open_output(path: Path, say: Callable[[str], None]) -> int:
    """Open the output file, empty; a full disk costs the output, never the start.

    A script that cannot write to its output fails, so one is not given a file without room. The
    file is a new one each time: what an earlier start left behind goes on writing to its own.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        room = os.statvfs(path.parent)
        if room.f_bfree * room.f_frsize >= LOG_ROOM_BYTES:
            path.unlink(missing_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
            return os.open(path, flags, 0o644)
        why = os.strerror(errno.ENOSPC)
    except OSError as error:
        why = error.strerror or str(error)
    say(f"its output is lost: {path}: {why}")
    return os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)


class _Lines:
    """Reads what a script has written so far, and passes on whole lines."""

    def __init__(self, descriptor: int, say: Callable[[str], None]) -> None:
        self._descriptor = descriptor
        self._say = say
        self._at = 0
        self._rest = b""

    def pass_on(self) -> None:
        """Pass on the lines that are complete now."""
        while True:
            try:
                data = os.pread(self._descriptor, _READ_BYTES, self._at)
            except OSError:
                return  # a device without positions, or a disk that fails: the lines are lost
            if not data:
                return
            self._at += len(data)
            *whole, self._rest = (self._rest + data).split(b"\n")
            for line in whole:
                self._tell(line)
            if len(self._rest) >= LINE_MAX_BYTES:
                self.close()

    def close(self) -> None:
        """Pass on what has no line end."""
        rest, self._rest = self._rest, b""
        self._tell(rest)

    def _tell(self, line: bytes) -> None:
        for at in range(0, len(line), LINE_MAX_BYTES):
            text = line[at : at + LINE_MAX_BYTES].decode("utf-8", "backslashreplace").rstrip()
            if text:
                self._say(text)
