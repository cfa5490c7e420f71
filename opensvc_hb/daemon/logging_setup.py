"""Where do the daemon's log lines go, and who may make them more?

To stderr: with `<N>` in front, the syslog level, when journald reads it (sd-daemon(3)),
else as `HH:MM:SS LEVEL name: text` for people. Files are not our business.

A log must never hold up a decision: when the reader of a pipe (journald included) does not
read, lines are dropped after `PATIENCE_S`, counted, and the count is logged later.

SIGUSR1 raises and SIGUSR2 lowers the level by one step, as OpenHA does; the daemon's main
module installs the signals and calls `log_more` and `log_less`.

Runs in: any thread.
"""

from __future__ import annotations

import logging
import os
import select
import sys
from typing import Mapping, Optional, TextIO

PATIENCE_S = 0.02
LINE_BYTES_MAX = 4096
"""A write of so much to a pipe that has room is whole and does not wait (PIPE_BUF)."""
LEVELS = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
"""From little to much; INFO at the start."""
_SYSLOG_LEVELS = {
    logging.CRITICAL: 2,
    logging.ERROR: 3,
    logging.WARNING: 4,
    logging.INFO: 6,
    logging.DEBUG: 7,
}


class JournaldFormatter(logging.Formatter):
    """Lines for journald: `<N>name: text`, `<N>` on each line of a traceback too."""

    def __init__(self) -> None:
        super().__init__("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines, each with its level."""
        mark = f"<{_SYSLOG_LEVELS.get(record.levelno, 6)}>"
        return "\n".join(mark + line for line in super().format(record).splitlines())


class PeopleFormatter(logging.Formatter):
    """Lines for a terminal or a file: local time, level, name, text."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S")


class NeverWaitingHandler(logging.Handler):
    """Writes lines to a file descriptor, and drops them rather than wait for its reader."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, line by line."""
        for line in self.format(record).splitlines():
            self._write(line)

    def _write(self, line: str) -> None:
        if not self._poll.poll(0 if self._dropped else PATIENCE_S * 1000):
            self._dropped += 1
            return
        encoded = line.encode("utf-8", "backslashreplace")
        if self._dropped:
            # Behind the text: journald wants its level first.
            encoded = encoded[: LINE_BYTES_MAX - 64] + b" (%d log lines dropped before)" % self._dropped
        try:
            os.write(self._descriptor, encoded[: LINE_BYTES_MAX - 1] + b"\n")
        except OSError:
            self._dropped += 1  # the reader is gone: nobody is left to be told
        else:
            self._dropped = 0


def is_journald(descriptor: int, environment: Mapping[str, str]) -> bool:
    """Tell whether this descriptor leads to journald.

    Source: systemd.exec(5), JOURNAL_STREAM: device and inode of the stream it was given.
    """
    stream = environment.get("JOURNAL_STREAM")
    if not stream:
        return False
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


def set_up_logging(
    stream: Optional[TextIO] = None,
    environment: Optional[Mapping[str, str]] = None,
    level: int = logging.INFO,
    logger: Optional[logging.Logger] = None,
) -> None:
    """Send the log to `stream`, and nowhere else.

    Args:
        stream: default stderr; must have a file descriptor.
        environment: default the process's own.
        level: one of `LEVELS`.
        logger: default the root of all loggers.
    """
    descriptor = (sys.stderr if stream is None else stream).fileno()
    variables = os.environ if environment is None else environment
    handler = NeverWaitingHandler(descriptor)
    handler.setFormatter(JournaldFormatter() if is_journald(descriptor, variables) else PeopleFormatter())
    target = logging.getLogger() if logger is None else logger
    target.handlers[:] = [handler]
    target.setLevel(level)


def log_more(logger: Optional[logging.Logger] = None) -> None:
    """Raise the level by one step, and log that."""
    _step(1, logger)


def log_less(logger: Optional[logging.Logger] = None) -> None:
    """Lower the level by one step, and log that."""
    _step(-1, logger)


def _step(steps: int, logger: Optional[logging.Logger]) -> None:
    target = logging.getLogger() if logger is None else logger
    before = target.level
    index = LEVELS.index(before) if before in LEVELS else LEVELS.index(logging.INFO)
    after = LEVELS[max(0, min(len(LEVELS) - 1, index + steps))]
    target.setLevel(after)
    # At the new level itself, so that it is seen whichever way it went.
    target.log(
        after, "log level changed from %s to %s", logging.getLevelName(before), logging.getLevelName(after)
    )
