"""What does a long action work on, and for how long already? One line on a terminal, rewritten.

`fs#1 start 12 s` stands below the log lines from the second second on, and is gone when the next
log line comes or the work ends: what stays on the terminal is the log alone. Where there is no
terminal nothing of it is written.

The line is drawn by a timer's signal, not by a thread: an action forks children, and a process
with threads must not. A child has no timer of its own, but every log line erases what its parent
may have drawn.

Runs in: the main thread of a command; never in the daemon or its runner.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Callable, Iterator, Mapping, TextIO

FIRST_S = 1.0
"""Work that is shorter shows nothing."""
STEP_S = 1.0
_ERASE = "\r\x1b[K"


def monotonic() -> float:
    """Seconds since boot, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Progress:
    """Shows nothing: the progress of an action without a terminal."""

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show what is worked on meanwhile; under the service's lock, whose wait uses the same signal."""
        yield

    @contextlib.contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Name what is worked on meanwhile: `fs#1 start`."""
        yield


class TerminalProgress(Progress):
    """The line on a terminal.

    Args:
        write: writes on the terminal at once; called from a signal's handler, too.
        columns: how wide it is now.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        columns: Callable[[], int],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._write = write
        self._columns = columns
        self._clock = clock
        self._what = ""
        self._since = 0.0

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Redraw the line each second meanwhile."""
        before = signal.signal(signal.SIGALRM, lambda _number, _frame: self.draw())
        signal.setitimer(signal.ITIMER_REAL, FIRST_S, STEP_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            self._write(_ERASE)

    @contextlib.contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Name what is worked on meanwhile, and begin to count."""
        outer = (self._what, self._since)
        self._what, self._since = what, self._clock()
        try:
            yield
        finally:
            self._what, self._since = outer
            self._write(_ERASE)

    def draw(self) -> None:
        """Draw the line as it is now; nothing for work that has just begun."""
        elapsed_s = self._clock() - self._since
        if self._what and elapsed_s >= FIRST_S:
            text = f"{self._what} {elapsed_s:.0f} s"
            self._write(f"{_ERASE}{text[: max(self._columns() - 1, 0)]}")

    def log(self, text: str) -> None:
        """Write a log line in the place of the progress line, which comes back below it."""
        self._write(f"{_ERASE}{text}")


def terminal_of(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Tell whether a stream is a terminal on which a line can be rewritten."""
    return stream.isatty() and environment.get("TERM", "dumb") not in ("", "dumb")


def write_at_once(descriptor: int) -> Callable[[str], None]:
    """Return what writes text to a descriptor without a buffer that a signal could find half full."""

    def write(text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):  # a terminal that went away stops no action
            while data:
                data = data[os.write(descriptor, data) :]

    return write


def columns_of(descriptor: int) -> Callable[[], int]:
    """Return what tells the width of a terminal at any moment."""

    def columns() -> int:
        try:
            return os.get_terminal_size(descriptor).columns or 80
        except OSError:
            return 80

    return columns
