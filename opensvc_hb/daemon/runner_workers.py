"""Which processes does the runner have for its actions? Those that work, those that are free, one in advance.

A worker is forked when none is free, works, and is free again if it says so (`runner_child`).
Free ones are kept for some seconds, a few of them; one is always kept, forked at a quiet moment,
so that the next action, a takeover most of all, waits for no fork. The one that was free last
is taken first: what it needs is in its memory already.

A worker is told to end by the end of its orders, so that it ends with the runner as well.
This module decides nothing on actions, and watches nothing: the loop does.

Runs in: the runner process.
"""

from __future__ import annotations

import contextlib
import os
from typing import Callable, Dict, List, Optional, Tuple

from opensvc_hb.daemon.runner_action import AgentAdapter
from opensvc_hb.daemon.runner_child import ChildSettings, Descriptors, run_worker
from opensvc_hb.daemon.runner_orders import Order
from opensvc_hb.daemon.runner_wire import LineSplitter
from opensvc_hb.daemon.sessions import look_at

FREE_S = 5.0
"""So long a free worker is kept beside another."""
SPARE_EVERY_S = 1.0
"""One in advance is not forked more often: something may end it each time."""
ORDER_BYTES_MAX = 60000
"""What the pipe of a worker takes at once, whatever its reader does."""
_LONGEST_LINE = 8192


class Worker:
    """One worker process, and our ends of its pipes (-1: closed). Owned by the loop.

    `exit` is its wait status once it has ended; `label` names whose output it last wrote.
    """

    def __init__(
        self, pid: int, started_ticks: int, handle: int, output: int, result: int, orders: int
    ) -> None:
        self.pid = pid
        self.started_ticks = started_ticks
        self.handle = handle
        self.output = output
        self.result = result
        self.orders = orders
        self.output_lines = LineSplitter(_LONGEST_LINE)
        self.result_lines = LineSplitter()
        self.label = ""
        self.exit: Optional[Exit] = None
        self.free_since = 0.0

    def order(self, order: Order) -> None:
        """Give it an order. One that was killed a moment ago takes it, too: its handle will tell."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.orders, order.encode())

    def send_away(self) -> None:
        """Let it end when it has done what it was ordered to."""
        if self.orders >= 0:
            os.close(self.orders)
            self.orders = -1


class Exit:
    """How a process ended: `signal_number` is 0 when it ended by itself."""

    def __init__(self, ended: os.waitid_result) -> None:
        by_signal = ended.si_code != os.CLD_EXITED
        self.status = 0 if by_signal else ended.si_status
        self.signal_number = ended.si_status if by_signal else 0


class Workers:
    """The workers of one runner.

    Args:
        adapter: the agent.
        settings: what all workers share.
        places: how many workers there may be.
        free_max: how many free ones are kept when nothing waits.
        clock: seconds.
        watch: called with each new worker, before it has an order.
    """

    def __init__(
        self,
        adapter: AgentAdapter,
        settings: ChildSettings,
        places: int,
        free_max: int,
        clock: Callable[[], float],
        watch: Callable[[Worker], None],
    ) -> None:
        self._adapter = adapter
        self._settings = settings
        self._places = places
        self._free_max = free_max
        self._clock = clock
        self._watch = watch
        self._all: Dict[int, Worker] = {}
        self._free: List[Worker] = []
        self._spare_not_before = 0.0
        self._highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208  # names only

    @property
    def has_place(self) -> bool:
        """Tell whether there is place for one more."""
        return len(self._all) < self._places

    @property
    def has_free(self) -> bool:
        """Tell whether one is free."""
        return bool(self._free)

    def take(self) -> Worker:
        """Return a free worker, or a new one.

        Raises:
            OSError: it cannot be forked.
        """
        return self._free.pop() if self._free else self._fork()

    def set_free(self, worker: Worker) -> None:
        """Keep a worker that takes another order."""
        worker.free_since = self._clock()
        self._free.append(worker)

    def fork_spare(self) -> None:
        """Fork one in advance, if none is free and none was forked in advance a moment ago."""
        now = self._clock()
        if self._free or now < self._spare_not_before:
            return
        self._spare_not_before = now + SPARE_EVERY_S
        if self.has_place:
            with contextlib.suppress(OSError):  # the next action tries again, and says what it says
                self.set_free(self._fork())

    def spare_at(self) -> Optional[float]:
        """Return when one in advance may be forked, None when one is free."""
        return None if self._free else self._spare_not_before

    def retire(self) -> None:
        """Nothing waits: send away those above the number, and but for one those free for long."""
        while len(self._free) > self._free_max or (
            len(self._free) > 1 and self._clock() >= self._free[0].free_since + FREE_S
        ):
            self._free.pop(0).send_away()

    def retires_at(self) -> Optional[float]:
        """Return when the next is sent away for that."""
        return self._free[0].free_since + FREE_S if len(self._free) > 1 else None

    def send_all_away(self) -> None:
        """Let every free worker end."""
        while self._free:
            self._free.pop().send_away()

    def bury(self, worker: Worker) -> None:
        """Reap a worker that has ended, and close what is left of it; the loop watches it no more."""
        for descriptor in (worker.handle, worker.output, worker.result, worker.orders):
            if descriptor >= 0:
                os.close(descriptor)
        os.waitpid(worker.pid, 0)
        del self._all[worker.pid]
        if worker in self._free:
            self._free.remove(worker)

    def _fork(self) -> Worker:
        with contextlib.ExitStack() as opened:
            output, its_output = _pipe(opened)
            result, its_result = _pipe(opened)
            its_orders, orders = _pipe(opened)
            self._highest = max(self._highest, output, its_output, result, its_result, its_orders, orders)
            pid = os.fork()
            if pid == 0:
                ends = Descriptors(its_output, its_result, its_orders, self._highest)
                run_worker(self._adapter, ends, self._settings)
            try:
                handle = os.pidfd_open(pid)
            except OSError:
                opened.close()  # the worker sees the end of its orders, and ends
                os.waitpid(pid, 0)
                raise
            opened.pop_all()
        for end in (its_output, its_result, its_orders):
            os.close(end)
        for end in (output, result):
            os.set_blocking(end, False)
        self._highest = max(self._highest, handle)
        process = look_at(pid)
        assert process is not None, "an unreaped child is in the list of processes"
        worker = Worker(pid, process.started_ticks, handle, output, result, orders)
        self._all[pid] = worker
        self._watch(worker)
        return worker


def _pipe(opened: contextlib.ExitStack) -> Tuple[int, int]:
    """Return a new pipe (read end, write end) that `opened` closes."""
    ends = os.pipe()
    for end in ends:
        opened.callback(os.close, end)
    return ends
