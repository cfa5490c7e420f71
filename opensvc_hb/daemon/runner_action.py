"""What a worker does for an order: the agent is called, and what is known is told at once.

A start is done in two halves, each an order of its own: the start itself, and the look at what
became of it (`Work.EXAMINE`), which can wait until other services are started. A stop and the
look behind it stay together: the peer waits for that answer.

Runs in: a worker of the runner.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Protocol, Sequence, Tuple

from opensvc_hb.core.config import Monitoring
from opensvc_hb.core.states import Avail
from opensvc_hb.daemon.monitoring_wire import told_monitoring
from opensvc_hb.daemon.runner_orders import Order, Report
from opensvc_hb.daemon.runner_wire import Work
from opensvc_hb.daemon.scope import enter_scope
from opensvc_hb.errors import HbError
from opensvc_hb.held import Holding

Tell = Callable[[Report], None]


class Declaration(Protocol):
    """One service that registers itself with the daemon; fields as in `core.config.Service`."""

    @property
    def svcname(self) -> str: ...  # noqa: D102  # as in core.config.Service
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def nodes(self) -> Tuple[str, ...]: ...  # noqa: D102
    @property
    def start_limit_s(self) -> float: ...  # noqa: D102
    @property
    def stop_limit_s(self) -> float: ...  # noqa: D102
    @property
    def monitoring(self) -> Monitoring: ...  # noqa: D102
    @property
    def holds(self) -> Tuple[Holding, ...]: ...  # noqa: D102  # what its resources hold while it runs


class Declarations(Protocol):
    """The services that register themselves, and one line for each that could not be read."""

    @property
    def services(self) -> Sequence[Declaration]: ...  # noqa: D102  # said above
    @property
    def errors(self) -> Sequence[str]: ...  # noqa: D102


class AgentAdapter(Protocol):
    """What the runner needs of an agent; a worker calls one method after another, each for an order.

    `start`, `stop`, `announce`, `restart` and `prepare` print what they do and return an exit status. `avail`
    returns a value of `core.states.Avail`; with `evaluate_apps` (after an action) a service
    with nothing to evaluate (n/a) counts as "up": a start that ended with 0 is a start.
    `examine` says the same after a start, of which it is told whether it ended with 0, and gives
    the document of `status` with it. It is mostly another worker's that started the service. Each
    method reads again what may have changed on disk: it must do what it does in a new process.
    """

    def declare(self) -> Declarations: ...  # noqa: D102  # said above
    def start(self, svcname: str) -> int: ...  # noqa: D102
    def stop(self, svcname: str) -> int: ...  # noqa: D102
    def announce(self, svcname: str) -> int: ...  # noqa: D102
    def restart(self, svcname: str, rid: str, attempt: str) -> int: ...  # noqa: D102
    def prepare(self, svcname: str) -> int: ...  # noqa: D102
    def avail(self, svcname: str, evaluate_apps: bool) -> str: ...  # noqa: D102
    def examine(self, svcname: str, was_started: bool) -> Tuple[str, Optional[Dict[str, Any]]]: ...  # noqa: D102
    def status(self, svcname: str) -> Dict[str, Any]: ...  # noqa: D102


@dataclass(frozen=True)
class Done:
    """How an order ended.

    Args:
        report: what is still to be told of it.
        in_order: nothing failed, nothing was unexpected, nothing is unknown.
    """

    report: Report
    in_order: bool = True


def act(order: Order, adapter: AgentAdapter, tell: Tell, lock_directory: Path, in_scope: bool) -> Done:
    """Do what is ordered.

    Args:
        order: what.
        adapter: the agent.
        tell: says something now.
        lock_directory: see `runner_child.ChildSettings`.
        in_scope: move into a systemd scope of the service before a start or stop.
    """
    work, svcname = order.work, order.svcname
    if work is Work.STATUS:
        told_well = [_tell_status(name, adapter, tell) for name in (svcname, *order.others)]
        return Done(Report(), all(told_well))
    if work is Work.DECLARE:
        return Done(Report(document=_declared(adapter.declare())))
    if work is Work.VERIFY:
        wait_for_lock(lock_directory / f".{svcname}.begun")
        wait_for_lock(lock_directory / svcname)
        return _looked(Report(), adapter.avail(svcname, evaluate_apps=True))
    if work is Work.ANNOUNCE:
        return _acted(adapter.announce(svcname))
    if work is Work.PREPARE:
        return _acted(adapter.prepare(svcname))
    if work is Work.EXAMINE:
        avail, document = adapter.examine(svcname, order.was_started)
        return _looked(Report(document=document), avail)
    begun = hold_begun(lock_directory / f".{svcname}.begun")
    try:
        if in_scope:
            warning = enter_scope(svcname, os.getpid())
            if warning:
                tell(Report(warning=warning))
        acted = _acted(_change(order, adapter))
    finally:
        if begun >= 0:
            os.close(begun)  # what is asked now may hang; the action has ended
    if work in (Work.START, Work.RESTART):
        return acted
    tell(acted.report)
    looked = _looked(acted.report, adapter.avail(svcname, evaluate_apps=True))
    return Done(looked.report, acted.in_order and looked.in_order)


def _change(order: Order, adapter: AgentAdapter) -> int:
    """Start, stop, or restart a resource; return the exit status."""
    if order.work is Work.RESTART:
        return adapter.restart(order.svcname, order.rid, order.attempt)
    return (adapter.start if order.work is Work.START else adapter.stop)(order.svcname)


def _acted(exit_status: int) -> Done:
    return Done(Report(exit_status=exit_status), exit_status == 0)


def _looked(known: Report, avail: str) -> Done:
    return Done(replace(known, avail=Avail(avail).value), Avail(avail) is not Avail.UNKNOWN)


def told(error: BaseException) -> str:
    """Return what ended the work, one line or, of an operator's mistake, all of its lines.

    The traceback of anything unexpected goes to the action's output.
    """
    if isinstance(error, HbError):
        return str(error)
    traceback.print_exc()
    reason = str(error).strip().splitlines()
    return f"{type(error).__name__}: {reason[0]}" if reason else type(error).__name__


def _tell_status(svcname: str, adapter: AgentAdapter, tell: Tell) -> bool:
    """Tell of one service of a question; one that breaks down spares the others."""
    try:
        tell(Report(svcname=svcname, document=adapter.status(svcname)))
    except (Exception, SystemExit) as error:  # the driver boundary: any code of a driver's runs inside
        tell(Report(svcname=svcname, failure=told(error)))
        return isinstance(error, HbError)
    return True


def _declared(declarations: Declarations) -> Dict[str, Any]:
    services: List[Dict[str, Any]] = [
        {
            "svcname": service.svcname,
            "name": service.name,
            "nodes": list(service.nodes),
            "start_limit_s": service.start_limit_s,
            "stop_limit_s": service.stop_limit_s,
            "monitoring": told_monitoring(service.monitoring),
            "holds": [(holding.kind.name, holding.name) for holding in service.holds],
        }
        for service in declarations.services
    ]
    return {"services": services, "errors": list(declarations.errors)}


def hold_begun(path: Path) -> int:
    """Hold a lock, shared, as long as the returned descriptor is open: an action is about to act.

    The agent takes the service's own lock a moment later. A daemon that was killed and started
    again in that moment would find nothing up and nothing locked, and say so to its peer.
    -1 when it cannot be held.
    """
    with contextlib.suppress(OSError):  # a full disk stops no start; the service's lock protects it soon
        flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o644)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, flags, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor
    return -1


def wait_for_lock(path: Path) -> None:
    """Wait until nobody acts on the service: an action of a runner before this one may.

    Waits in the kernel, without a bound of its own: the runner ends this process at its limit.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)
