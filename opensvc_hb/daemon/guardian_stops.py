"""The guardian's children: its stop actions, and the writer of its log. None is ever waited for.

A stop action is the command that the daemon named, forked and executed here, in a session of
its own, as an ordinary process. Reading the program from disk is the child's matter: where
that disk hangs, the child hangs. Many services are stopped some at a time, in the order of
their deadlines, since a thousand interpreters at once would stop nothing in time.

The log is written by a child, too: a log file system that hangs costs lines, never a deadline.

Runs in: the guardian process.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import AbstractSet, Callable, Deque, Dict, List, Optional, Sequence, Tuple

from opensvc_hb.daemon import realtime
from opensvc_hb.daemon.guardian_wire import SERVICE_PLACE, Know
from opensvc_hb.held import STOP_ACTION, marks_of

STOPS_MAX = 32
"""Stop actions at a time: most of them wait for a script."""
OUTPUT_BYTES_MAX = 8192
LOG_BYTES_MAX = 1 << 20
_LINES_MAX = 2000
_READ_BYTES = 4096


@dataclass(frozen=True)
class StopEnded:
    """A stop action has ended.

    Args:
        status: its exit status, negative for a signal.
        took_s: from its start.
        last_words: the last line that it wrote, "" for none.
    """

    service: str
    svcname: str
    status: int
    took_s: float
    last_words: str


class _Stop:
    """One stop action, from its request to its end. Owned by `Stops`."""

    def __init__(self, service: str, svcname: str, limit_s: float) -> None:
        self.service = service
        self.svcname = svcname
        self.limit_s = limit_s
        self.pid = 0
        self.handle = -1
        self.output = -1
        self.written = b""
        self.began_at = 0.0
        self.end_at = 0.0


class Stops:
    """Runs stop actions.

    Args:
        top: the root directory, for the marks of what they start.
        selector: of the guardian's loop; its keys' data are functions without arguments.
        ended: told of each end.
        clock: seconds.
    """

    def __init__(
        self,
        top: Path,
        selector: selectors.BaseSelector,
        ended: Callable[[StopEnded], None],
        clock: Callable[[], float],
    ) -> None:
        self._top = top
        self._selector = selector
        self._ended = ended
        self._clock = clock
        self._queue: Deque[_Stop] = deque()
        self._running: Dict[int, _Stop] = {}
        self._killed: List[int] = []

    @property
    def busy(self) -> bool:
        """Tell whether a stop action runs or waits."""
        return bool(self._queue or self._running)

    def next_at(self) -> Optional[float]:
        """Return when the first limit passes, None for never."""
        return min((stop.end_at for stop in self._running.values()), default=None)

    def add(self, service: str, svcname: str, limit_s: float) -> None:
        """Have a stop action run as soon as there is room."""
        self._queue.append(_Stop(service, svcname, limit_s))

    def drop_waiting(self, kept: AbstractSet[str] = frozenset()) -> None:
        """Forget what has not begun, but for these services."""
        if self._queue:
            self._queue = deque(stop for stop in self._queue if stop.service in kept)

    def work(self, know: Know) -> None:
        """Begin what there is room for, and kill what has passed its limit."""
        now = self._clock()
        # Those whose end nobody is told of; one that hangs in the kernel is asked again, not waited for.
        self._killed = [pid for pid in self._killed if not os.waitpid(pid, os.WNOHANG)[0]]
        for stop in self._running.values():
            if now >= stop.end_at:
                stop.end_at = now + 1.0  # asked again: one in the kernel dies late
                with contextlib.suppress(OSError):
                    os.killpg(stop.pid, signal.SIGKILL)
        while self._queue and len(self._running) < STOPS_MAX:
            self._begin(self._queue.popleft(), know)

    def _begin(self, stop: _Stop, know: Know) -> None:
        argv = [stop.svcname if word == SERVICE_PLACE else word for word in know.stop]
        environment = {**know.environment, **marks_of(self._top, stop.svcname, STOP_ACTION)}
        child_output = -1
        try:
            stop.output, child_output = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            os.set_blocking(child_output, True)
            stop.pid = fork(lambda: _execute(argv, know.directory, environment, child_output))
            stop.handle = os.pidfd_open(stop.pid)
            self._selector.register(stop.handle, selectors.EVENT_READ, lambda: self._on_end(stop))
            self._selector.register(stop.output, selectors.EVENT_READ, lambda: self._on_output(stop))
        except OSError as error:
            self._take_back(stop)
            self._ended(StopEnded(stop.service, stop.svcname, 1, 0.0, f"no process: {error.strerror}"))
            return
        finally:
            if child_output >= 0:
                os.close(child_output)
        stop.began_at = self._clock()
        stop.end_at = stop.began_at + stop.limit_s
        self._running[stop.pid] = stop

    def _take_back(self, stop: _Stop) -> None:
        """Leave nothing of one that could not be begun: without a handle it would have no limit."""
        for descriptor in (stop.handle, stop.output):
            if descriptor >= 0:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(descriptor)
                os.close(descriptor)
        if stop.pid:
            with contextlib.suppress(OSError):
                os.killpg(stop.pid, signal.SIGKILL)  # with what it has started, if it came so far
            os.kill(stop.pid, signal.SIGKILL)
            self._killed.append(stop.pid)

    def _on_output(self, stop: _Stop) -> None:
        """Read what it wrote; at the end of it, or once it has ended, the pipe is closed."""
        while stop.output >= 0:
            try:
                data = os.read(stop.output, _READ_BYTES)
            except BlockingIOError:
                return
            stop.written = (stop.written + data)[-OUTPUT_BYTES_MAX:]
            if not data:
                self._close_output(stop)

    def _close_output(self, stop: _Stop) -> None:
        self._selector.unregister(stop.output)
        os.close(stop.output)
        stop.output = -1

    def _on_end(self, stop: _Stop) -> None:
        _, wait_status = os.waitpid(stop.pid, 0)
        self._on_output(stop)
        if stop.output >= 0:
            self._close_output(stop)  # what it left behind may hold its end for ever
        self._selector.unregister(stop.handle)
        os.close(stop.handle)
        del self._running[stop.pid]
        status = -os.WTERMSIG(wait_status) if os.WIFSIGNALED(wait_status) else os.WEXITSTATUS(wait_status)
        lines = stop.written.decode("utf-8", "replace").split("\n")
        words = next((line.strip() for line in reversed(lines) if line.strip()), "")
        self._ended(StopEnded(stop.service, stop.svcname, status, self._clock() - stop.began_at, words))


def fork(child: Callable[[], None]) -> int:
    """Run a function in a process of its own, which ends with it; return its number.

    This process has one thread, so that the child may do anything.
    """
    pid = os.fork()
    if pid == 0:
        status = 127
        try:
            child()
            status = 0
        finally:
            os._exit(status)
    return pid


def _execute(argv: Sequence[str], directory: str, environment: Dict[str, str], output: int) -> None:
    os.setsid()
    realtime.become_ordinary()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    os.dup2(output, 1)
    os.dup2(output, 2)
    _close_all()
    try:
        os.chdir(directory)
        os.execve(argv[0], list(argv), environment)  # noqa: S606  # never through a shell
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        raise


def _close_all() -> None:
    """Let go of what only this process may hold: a child that hangs outlives it, lock and socket too."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


class Log:
    """The guardian's log file, written by children, one at a time.

    Args:
        path: the file; beside it the one before it, `.1`.
    """

    def __init__(self, selector: selectors.BaseSelector, path: str, clock: Callable[[], float]) -> None:
        self._selector = selector
        self._path = path
        self._clock = clock
        self._lines: Deque[Tuple[float, str]] = deque()
        self._lost = 0
        self._handle = -1
        self._pid = 0

    def say(self, text: str) -> None:
        """Add a line; the oldest is lost where too many wait."""
        if len(self._lines) >= _LINES_MAX:
            self._lines.popleft()
            self._lost += 1
        self._lines.append((self._clock(), text))

    def flush(self) -> None:
        """Have what waits written, unless a writer is at work: its end asks again."""
        if self._lines and not self._is_writing():
            self._begin()

    def close(self) -> None:
        """Have the rest written before this process ends, whatever became of the writer before."""
        if self._lines:
            self._begin()

    def _is_writing(self) -> bool:
        """Tell whether the writer before is still at work; the end of one without a handle is asked for."""
        if self._pid and self._handle < 0 and os.waitpid(self._pid, os.WNOHANG)[0]:
            self._pid = 0
        return self._pid != 0

    def _begin(self) -> None:
        lines, self._lines = list(self._lines), deque()
        lost, self._lost = self._lost, 0
        try:
            self._pid = fork(lambda: self._write(lines, lost))
        except OSError:
            self._lost = lost + len(lines)  # no process to be had: the next flush says how many
            return
        try:
            self._handle = os.pidfd_open(self._pid)
            self._selector.register(self._handle, selectors.EVENT_READ, self._on_end)
        except OSError:
            self._close_handle()  # it writes all the same: the next flush asks whether it has ended

    def _on_end(self) -> None:
        os.waitpid(self._pid, 0)
        self._pid = 0
        self._selector.unregister(self._handle)
        self._close_handle()
        self.flush()

    def _close_handle(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def _write(self, lines: List[Tuple[float, str]], lost: int) -> None:
        """Be the writer, in the child: local time for people, from the age of each line."""
        _close_all()
        realtime.become_ordinary()
        shift_s = time.clock_gettime(time.CLOCK_REALTIME) - self._clock()
        times = [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at + shift_s)) for at, _ in lines]
        texts = [f"{when} {text}\n" for when, (_, text) in zip(times, lines)]
        if lost:
            texts.append(f"({lost} lines before were lost: the log could not be written)\n")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self._path, flags, 0o640)
        if os.fstat(file).st_size > LOG_BYTES_MAX:
            os.rename(self._path, f"{self._path}.1")  # noqa: PTH104  # text, here as everywhere
            file = os.open(self._path, flags, 0o640)
        os.write(file, "".join(texts).encode("utf-8", "backslashreplace"))
        os.fdatasync(file)  # a reset may follow, and these lines say why
