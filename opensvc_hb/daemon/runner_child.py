"""One worker of the runner: how it becomes an ordinary process, takes orders, and ends.

It is forked with everything imported, and must shed what it inherited: the runner's
descriptors, session, signal handling, priority and protection from the kernel's out-of-memory
killer. Then it reads orders, does them (`runner_action`), and writes what it knows to the
result pipe, line by line as it learns it, so that an action ended at its limit has still said
how far it came. stdout and stderr belong to the agent and to what it starts.

It takes another order only if the last one ended in perfect order, and if it is as it was
before (`runner_rest`): no process of the action lives, in whatever session. Otherwise it ends,
as it does when an exit status is not 0, after a declaration (which reads everything, and drivers
may remember what they read), and after a number of orders. What it leaves is process 1's.

What a start brings up must outlive the daemon and its control group, so under systemd the
worker first moves into a scope of its own in opensvc.slice. The scope is the service's by its
name, and where the worker has gone it stays: so it takes no order after a start or stop there.

Runs in: a worker process. It never returns into the runner's code.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, FrozenSet, NoReturn, Sequence, Tuple

from opensvc_hb.daemon.runner_action import AgentAdapter, act, told
from opensvc_hb.daemon.runner_births import Births, adopting_ancestors
from opensvc_hb.daemon.runner_orders import Order, Report, decode_order, write_line
from opensvc_hb.daemon.runner_rest import Rest
from opensvc_hb.daemon.runner_wire import Work
from opensvc_hb.daemon.scope import under_systemd

ORDERS_MAX = 200
"""Of one worker: whatever a driver may leak is given back."""
_BACKGROUND_NICE = 10
_IDLE_NAME = "idle worker"
_READ_BYTES = 65536
_OOM_ADJUSTMENT = Path("/proc/self/oom_score_adj")


@dataclass(frozen=True)
class Descriptors:
    """A worker's ends of its three pipes.

    Args:
        output: becomes stdout and stderr.
        result: takes the `Report` lines.
        orders: gives the `Order` lines; its end means: end, too.
        highest: no descriptor of the process has a higher number than this.
    """

    output: int
    result: int
    orders: int
    highest: int


@dataclass(frozen=True)
class ChildSettings:
    """What all workers of one runner share; what can be found out once is, before the forks.

    Args:
        lock_directory: where the agent keeps one lock per service (`var/lib/opensvc/lock`).
        files_max: soft limit of open files to give back to the action; the runner raises its own.
        in_scope: move starts and stops into a systemd scope.
        ancestors: who may be given a process whose parent ended.
        changed_signals: those that the runner does not leave to the kernel's default.
        is_protected: the runner is shielded from the out-of-memory killer.
    """

    lock_directory: Path
    files_max: int
    in_scope: bool
    ancestors: FrozenSet[int]
    changed_signals: Tuple[int, ...] = ()
    is_protected: bool = True


def settings_of_this_process(lock_directory: Path, files_max: int) -> ChildSettings:
    """Return the settings for the workers of this process, which is about to fork them."""
    changed = []
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is not signal.SIG_DFL:
            changed.append(int(number))
    try:
        is_protected = int(_OOM_ADJUSTMENT.read_text()) < 0
    except OSError:
        is_protected = False
    return ChildSettings(
        lock_directory,
        files_max,
        under_systemd(),
        adopting_ancestors(os.getpid()),
        tuple(sorted(changed)),
        is_protected,
    )


def run_worker(adapter: AgentAdapter, descriptors: Descriptors, settings: ChildSettings) -> NoReturn:
    """Be a worker: called right after the fork, ends the process."""
    status = 1
    try:
        _become_ordinary(descriptors, settings)
        rest = Rest(Births(os.getpid(), settings.ancestors))
        orders_left = ORDERS_MAX
        line = _next_line(descriptors.orders)
        while line:
            orders_left -= 1
            goes_on = _obey(decode_order(line), adapter, settings, descriptors, rest, orders_left > 0)
            line = _next_line(descriptors.orders) if goes_on else b""
        status = 0
    except (Exception, SystemExit) as error:  # the driver boundary: any code of a driver's runs inside
        with contextlib.suppress(Exception):  # stdout or the pipe may be what failed
            write_line(descriptors.result, Report(failure=told(error)).encode())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _next_line(descriptor: int) -> bytes:
    """Wait for the next order; it is the only one in the pipe. Empty: there is none any more."""
    line = b""
    while not line.endswith(b"\n"):
        data = os.read(descriptor, _READ_BYTES)
        if not data:
            return b""
        line += data
    return line


def _obey(
    order: Order,
    adapter: AgentAdapter,
    settings: ChildSettings,
    descriptors: Descriptors,
    rest: Rest,
    is_not_the_last: bool,
) -> bool:
    """Do one order; tell whether another may come."""
    _set_name(f"{order.work.value}:{order.svcname}")
    rest.leave(order.svcname, 0 if order.work.is_action else _BACKGROUND_NICE)

    def tell(report: Report) -> None:
        write_line(descriptors.result, report.encode())

    done = act(order, adapter, tell, settings.lock_directory, settings.in_scope)
    sys.stdout.flush()
    sys.stderr.flush()
    stays = settings.in_scope and order.work.is_exclusive  # in the scope of that service
    can_go_on = is_not_the_last and not stays and order.work is not Work.DECLARE
    free = can_go_on and done.in_order and rest.regain()
    hangs = threading.active_count() > 1
    tell(replace(done.report, complete=True, free=free or None, hangs=hangs or None))
    if free:
        _set_name(_IDLE_NAME)
    return free


def _become_ordinary(descriptors: Descriptors, settings: ChildSettings) -> None:
    os.setsid()
    os.dup2(descriptors.output, 1)
    os.dup2(descriptors.output, 2)
    _close_others((0, 1, 2, descriptors.result, descriptors.orders), descriptors.highest)
    for number in settings.changed_signals:
        with contextlib.suppress(OSError):  # real-time signals kept by the C library
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    os.chdir("/")
    # Refused where there was nothing to give back either: an unprivileged daemon.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)  # its session, and so its autogroup, is new and has no other
    with contextlib.suppress(OSError):
        if settings.is_protected and int(_OOM_ADJUSTMENT.read_text()) < 0:
            _OOM_ADJUSTMENT.write_text("0")
    _set_name(_IDLE_NAME)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (settings.files_max, hard))


def _close_others(keep: Sequence[int], highest: int) -> None:
    """Close every descriptor up to `highest` but those in `keep`: a call per gap, not per descriptor."""
    low = 0
    for kept in (*sorted(keep), highest + 1):
        if low < kept:
            os.closerange(low, kept)
        low = kept + 1


def _set_name(name: str) -> None:
    """Have the list of processes show this name, 15 characters of it."""
    with contextlib.suppress(OSError):
        descriptor = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, name.encode()[:15])
        finally:
            os.close(descriptor)


def take_streams() -> None:
    """Give this process, and the workers that it will fork, the three streams of an action.

    They only name the descriptors 0, 1 and 2: each worker has its own behind them.
    """
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # the process's own, open until it ends
    sys.stdout = _text_writer(1)
    sys.stderr = _text_writer(2)


def _text_writer(descriptor: int) -> Any:
    """Return a stream that never refuses a character and hands over every line at once."""
    return open(  # the process's own, open until it ends
        descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )
