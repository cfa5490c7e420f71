"""One action, in the process forked for it: how it becomes an ordinary process, and reports.

The child of the runner has everything imported, and must shed what it inherited: the
runner's descriptors, session, signal handling, priority and protection from the kernel's
out-of-memory killer. Then it waits for the runner's go, calls the agent, and writes what it
knows to the result pipe, line by line as it learns it, so that an action ended at its limit
has still said how far it came. stdout and stderr belong to the agent and to what it starts.

What a start brings up must outlive the daemon and its control group, so under systemd the
child first moves into a scope of its own in opensvc.slice.

Runs in: the process of one action. It never returns into the runner's code.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import sys
import threading
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, NoReturn, Optional, Protocol, Sequence, Tuple

from opensvc_hb.core.states import Avail
from opensvc_hb.daemon.runner_wire import Request, Work
from opensvc_hb.daemon.scope import enter_scope, under_systemd
from opensvc_hb.errors import HbError
from opensvc_hb.held import Holding

_BACKGROUND_NICE = 10
_AFTERWARDS_NICE = 5
HANGS = b'"hangs"'
"""Found in the line of a report that says so; the loop looks for no more than that."""
_OOM_ADJUSTMENT = Path("/proc/self/oom_score_adj")


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
    def holds(self) -> Tuple[Holding, ...]: ...  # noqa: D102  # what its resources hold while it runs


class Declarations(Protocol):
    """The services that register themselves, and one line for each that could not be read."""

    @property
    def services(self) -> Sequence[Declaration]: ...  # noqa: D102  # said above
    @property
    def errors(self) -> Sequence[str]: ...  # noqa: D102


class AgentAdapter(Protocol):
    """What the runner needs of an agent; each method runs in a process of its own.

    `start`, `stop` and `announce` print what they do and return an exit status. `avail`
    returns a value of `core.states.Avail`; with `evaluate_apps` (after an action) a service
    with nothing to evaluate (n/a) counts as "up": a start that ended with 0 is a start.
    `examine` says the same after a start, and gives the document of `status` with it.
    """

    def declare(self) -> Declarations: ...  # noqa: D102  # said above
    def start(self, svcname: str) -> int: ...  # noqa: D102
    def stop(self, svcname: str) -> int: ...  # noqa: D102
    def announce(self, svcname: str) -> int: ...  # noqa: D102
    def avail(self, svcname: str, evaluate_apps: bool) -> str: ...  # noqa: D102
    def examine(self, svcname: str) -> Tuple[str, Optional[Dict[str, Any]]]: ...  # noqa: D102
    def status(self, svcname: str) -> Dict[str, Any]: ...  # noqa: D102


@dataclass(frozen=True)
class Descriptors:
    """The child's ends of its three pipes.

    Args:
        output: becomes stdout and stderr.
        result: takes the `Report` lines.
        go: gives one byte when the action may begin; its end without one means: do nothing.
        highest: no descriptor of the process has a higher number than this.
    """

    output: int
    result: int
    go: int
    highest: int


@dataclass(frozen=True)
class Report:
    """What the child has to say; a later line overrides an earlier one, field by field.

    Args:
        exit_status: of start, stop and announce, as soon as it is known.
        avail: value of `core.states.Avail`, after start, stop and verify.
        complete: the child did all that it was asked for.
        hangs: it did, but a thread of it hangs in the kernel, and the process may never end.
        failure: the exception that ended it, one line.
        warning: something for the runner's log.
        document: the answer of declare; after a start, what status would say.
        svcname: this line is about one service of a question for statuses, and complete in
            itself: its `document`, or the `failure` to make one.
    """

    exit_status: Optional[int] = None
    avail: Optional[str] = None
    complete: Optional[bool] = None
    hangs: Optional[bool] = None
    failure: Optional[str] = None
    warning: Optional[str] = None
    document: Optional[Dict[str, Any]] = None
    svcname: Optional[str] = None

    def encode(self) -> bytes:
        """Return the report as one line."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(known).encode() + b"\n"


def read_report(lines: Sequence[bytes]) -> Report:
    """Return what complete lines from a result pipe say together."""
    known: Dict[str, Any] = {}
    for line in lines:
        known.update(json.loads(line))
    return Report(**known)


@dataclass(frozen=True)
class ChildSettings:
    """What every action of one runner shares; what can be found out once is, before the forks.

    Args:
        lock_directory: where the agent keeps one lock per service (`var/lib/opensvc/lock`).
        files_max: soft limit of open files to give back to the action; the runner raises its own.
        in_scope: move starts and stops into a systemd scope.
        changed_signals: those that the runner does not leave to the kernel's default.
        is_protected: the runner is shielded from the out-of-memory killer.
    """

    lock_directory: Path
    files_max: int
    in_scope: bool
    changed_signals: Tuple[int, ...] = ()
    is_protected: bool = True


def settings_of_this_process(lock_directory: Path, files_max: int) -> ChildSettings:
    """Return the settings for the children of this process, which is about to fork them."""
    changed = []
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is not signal.SIG_DFL:
            changed.append(int(number))
    try:
        is_protected = int(_OOM_ADJUSTMENT.read_text()) < 0
    except OSError:
        is_protected = False
    return ChildSettings(lock_directory, files_max, under_systemd(), tuple(sorted(changed)), is_protected)


def run_child(
    request: Request, adapter: AgentAdapter, descriptors: Descriptors, settings: ChildSettings
) -> NoReturn:
    """Be the action: called right after the fork, ends the process."""
    status = 1

    def tell(report: Report) -> None:
        _write(descriptors.result, report)

    try:
        _become_ordinary(request, descriptors, settings)
        begun = -1
        if request.work.is_exclusive:
            begun = hold_begun(settings.lock_directory / f".{request.svcname}.begun")
        if os.read(descriptors.go, 1):
            os.close(descriptors.go)
            _act(request, adapter, tell, settings, begun)
            tell(Report(complete=True, hangs=threading.active_count() > 1 or None))
        status = 0
    except (Exception, SystemExit) as error:  # the driver boundary: any code of a driver's runs inside
        with contextlib.suppress(Exception):  # stdout or the pipe may be what failed
            tell(Report(failure=_told(error)))
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _told(error: BaseException) -> str:
    """Return what ended the work, one line or, of an operator's mistake, all of its lines.

    The traceback of anything unexpected goes to the action's output.
    """
    if isinstance(error, HbError):
        return str(error)
    traceback.print_exc()
    reason = str(error).strip().splitlines()
    return f"{type(error).__name__}: {reason[0]}" if reason else type(error).__name__


def _become_ordinary(request: Request, descriptors: Descriptors, settings: ChildSettings) -> None:
    os.setsid()
    os.dup2(descriptors.output, 1)
    os.dup2(descriptors.output, 2)
    _close_others((0, 1, 2, descriptors.result, descriptors.go), descriptors.highest)
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
        nice = 0 if request.work.is_action else _BACKGROUND_NICE
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    with contextlib.suppress(OSError):
        if settings.is_protected and int(_OOM_ADJUSTMENT.read_text()) < 0:
            _OOM_ADJUSTMENT.write_text("0")
    with contextlib.suppress(OSError):
        _write_setting("/proc/self/comm", f"{request.work.value}:{request.svcname}".encode()[:15])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (settings.files_max, hard))


def _close_others(keep: Sequence[int], highest: int) -> None:
    """Close every descriptor up to `highest` but those in `keep`: a call per gap, not per descriptor."""
    low = 0
    for kept in (*sorted(keep), highest + 1):
        if low < kept:
            os.closerange(low, kept)
        low = kept + 1


def _write_setting(path: str, value: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value)
    finally:
        os.close(descriptor)


def take_streams() -> None:
    """Give this process, and the children that it will fork, the three streams of an action.

    They only name the descriptors 0, 1 and 2: each child has its own behind them.
    """
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  # the process's own, open until it ends
    sys.stdout = _text_writer(1)
    sys.stderr = _text_writer(2)


def _text_writer(descriptor: int) -> Any:
    """Return a stream that never refuses a character and hands over every line at once."""
    return open(  # the process's own, open until it ends
        descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )


def _write(descriptor: int, report: Report) -> None:
    data = report.encode()
    while data:
        data = data[os.write(descriptor, data) :]


def _act(
    request: Request,
    adapter: AgentAdapter,
    tell: Callable[[Report], None],
    settings: ChildSettings,
    begun: int,
) -> None:
    work, svcname = request.work, request.svcname
    if work is Work.STATUS:
        for name in (svcname, *request.others):
            tell(_evaluated(name, adapter))
    elif work is Work.DECLARE:
        tell(Report(document=_declared(adapter.declare())))
    elif work is Work.VERIFY:
        wait_for_lock(settings.lock_directory / f".{svcname}.begun")
        wait_for_lock(settings.lock_directory / svcname)
        tell(Report(avail=Avail(adapter.avail(svcname, evaluate_apps=True)).value))
    elif work is Work.ANNOUNCE:
        tell(Report(exit_status=adapter.announce(svcname)))
    else:
        if settings.in_scope:
            warning = enter_scope(svcname, os.getpid())
            if warning:
                tell(Report(warning=warning))
        starts = work is Work.START
        tell(Report(exit_status=(adapter.start if starts else adapter.stop)(svcname)))
        if begun >= 0:
            os.close(begun)  # what is asked now may hang; the action has ended
        if starts:
            # The starts of other services come before our looking at what became of this one.
            os.setpriority(os.PRIO_PROCESS, 0, _AFTERWARDS_NICE)
            avail, document = adapter.examine(svcname)
            tell(Report(avail=Avail(avail).value, document=document))
        else:
            tell(Report(avail=Avail(adapter.avail(svcname, evaluate_apps=True)).value))


def _evaluated(svcname: str, adapter: AgentAdapter) -> Report:
    """Return the line of one service of a question; one that breaks down spares the others."""
    try:
        return Report(svcname=svcname, document=adapter.status(svcname))
    except (Exception, SystemExit) as error:  # the driver boundary: any code of a driver's runs inside
        return Report(svcname=svcname, failure=_told(error))


def _declared(declarations: Declarations) -> Dict[str, Any]:
    services: List[Dict[str, Any]] = [
        {
            "svcname": service.svcname,
            "name": service.name,
            "nodes": list(service.nodes),
            "start_limit_s": service.start_limit_s,
            "stop_limit_s": service.stop_limit_s,
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
