"""What do the workers say? Reads their output and their reports, and hears of their end.

It understands nothing of it: lines go to whoever listens. What a worker said before it ended, or
before it took the next order, is read before either is told (`drain`).

Runs in: the runner process.
"""

from __future__ import annotations

import contextlib
import os
import selectors
from typing import Callable, List, Optional

from opensvc_hb.daemon.runner_workers import Exit, Worker

_READ_BYTES = 65536
_DRAIN_BYTES = 1 << 20
"""A process that an action left behind may write for ever."""

TakeLines = Callable[[Worker, List[bytes]], None]


class Ears:
    """Listens to workers.

    Args:
        selector: calls what is registered there with its mask.
        take_output: lines that an action wrote.
        take_report: lines that the worker itself wrote.
        take_exit: it has ended; it is a zombie until it is buried.
    """

    def __init__(
        self,
        selector: selectors.BaseSelector,
        take_output: TakeLines,
        take_report: TakeLines,
        take_exit: Callable[[Worker, Exit], None],
    ) -> None:
        self._selector = selector
        self._take_output = take_output
        self._take_report = take_report
        self._take_exit = take_exit

    def listen_to(self, worker: Worker) -> None:
        """Hear a new worker from now on."""
        self._selector.register(worker.handle, selectors.EVENT_READ, lambda _mask: self._on_exit(worker))
        self._selector.register(worker.output, selectors.EVENT_READ, lambda _mask: self._on_output(worker))
        self._selector.register(worker.result, selectors.EVENT_READ, lambda _mask: self._on_result(worker))

    def drain(self, worker: Worker) -> None:
        """Read what it and its action have written so far, a last line without an end included."""
        while self._on_result(worker):
            pass
        taken = 0
        while taken < _DRAIN_BYTES:
            count = self._on_output(worker)
            if not count:
                break
            taken += count
        rest = worker.output_lines.rest()
        if rest:
            self._take_output(worker, [rest])

    def close(self, worker: Worker) -> None:
        """Hear no more than its end."""
        worker.output, worker.result = self._closed(worker.output), self._closed(worker.result)

    # The next two are called when there is something to read; it may have been read since, and
    # the pipe closed, by the end of a job in the same turn. Both return how much there was.

    def _on_output(self, worker: Worker) -> int:
        data = _read(worker.output)
        if data is None:
            return 0
        if not data:
            worker.output = self._closed(worker.output)
        self._take_output(worker, worker.output_lines.feed(data))
        return len(data)

    def _on_result(self, worker: Worker) -> int:
        data = _read(worker.result)
        if data is None:
            return 0
        if not data:
            worker.result = self._closed(worker.result)
        self._take_report(worker, worker.result_lines.feed(data))
        return len(data)

    def _on_exit(self, worker: Worker) -> None:
        self._selector.unregister(worker.handle)
        ended = os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        assert ended is not None, "the handle of a process becomes readable when it has ended"
        worker.exit = Exit(ended)
        self._take_exit(worker, worker.exit)

    def _closed(self, descriptor: int) -> int:
        """Close a watched descriptor; the returned -1 is its new value."""
        if descriptor >= 0:
            with contextlib.suppress(KeyError):
                self._selector.unregister(descriptor)
            os.close(descriptor)
        return -1


def _read(descriptor: int) -> Optional[bytes]:
    """Return what a pipe has to read, empty at its end; None when there is nothing, or it is closed."""
    if descriptor < 0:
        return None
    try:
        return os.read(descriptor, _READ_BYTES)
    except BlockingIOError:
        return None
