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
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, NoReturn, Optional, Protocol, Sequence, Tuple

from opensvc_hb.core.states import Avail
from opensvc_hb.daemon.runner_wire import Work
from opensvc_hb.errors import HbError

_BACKGROUND_NICE = 10
_SCOPE_WITHIN_S = 2.0


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
    """

    def declare(self) -> Declarations: ...  # noqa: D102  # said above
    def start(self, svcname: str) -> int: ...  # noqa: D102
    def stop(self, svcname: str) -> int: ...  # noqa: D102
    def announce(self, svcname: str) -> int: ...  # noqa: D102
    def avail(self, svcname: str, evaluate_apps: bool) -> str: ...  # noqa: D102
    def status(self, svcname: str) -> Dict[str, Any]: ...  # noqa: D102


@dataclass(frozen=True)
class Descriptors:
    """The child's ends of its three pipes.

    Args:
        output: becomes stdout and stderr.
        result: takes the `Report` lines.
        go: gives one byte when the action may begin; its end without one means: do nothing.
    """

    output: int
    result: int
    go: int


@dataclass(frozen=True)
class Report:
    """What the child has to say; a later line overrides an earlier one, field by field.

    Args:
        exit_status: of start, stop and announce, as soon as it is known.
        avail: value of `core.states.Avail`, after start, stop and verify.
        complete: the child did all that it was asked for.
        failure: the exception that ended it, one line.
        warning: something for the runner's log.
        document: the answer of status and declare.
    """

    exit_status: Optional[int] = None
    avail: Optional[str] = None
    complete: Optional[bool] = None
    failure: Optional[str] = None
    warning: Optional[str] = None
    document: Optional[Dict[str, Any]] = None

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
    """What every action of one runner shares.

    Args:
        lock_directory: where the agent keeps one lock per service (`var/lib/opensvc/lock`).
        files_max: soft limit of open files to give back to the action; the runner raises its own.
        in_scope: move starts and stops into a systemd scope.
    """

    lock_directory: Path
    files_max: int
    in_scope: bool


def run_child(
    work: Work, svcname: str, adapter: AgentAdapter, descriptors: Descriptors, settings: ChildSettings
) -> NoReturn:
    """Be the action: called right after the fork, ends the process."""
    status = 1
    try:
        _become_ordinary(work, svcname, descriptors, settings)
        if work.is_exclusive:
            hold_begun(settings.lock_directory / f".{svcname}.begun")
        if os.read(descriptors.go, 1):
            os.close(descriptors.go)
            _act(work, svcname, adapter, lambda report: _write(descriptors.result, report), settings)
        status = 0
    except HbError as error:
        with contextlib.suppress(OSError):
            _write(descriptors.result, Report(failure=str(error)))
    except (Exception, SystemExit) as error:  # the driver boundary: any code of a driver's runs inside
        with contextlib.suppress(Exception):  # stdout or the pipe may be what failed
            traceback.print_exc()
            reason = str(error).strip().splitlines()
            _write(
                descriptors.result,
                Report(failure=f"{type(error).__name__}: {reason[0]}" if reason else type(error).__name__),
            )
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _become_ordinary(work: Work, svcname: str, descriptors: Descriptors, settings: ChildSettings) -> None:
    os.setsid()
    os.dup2(descriptors.output, 1)
    os.dup2(descriptors.output, 2)
    os.close(descriptors.output)  # leaves a free one for the listing where they are scarce
    keep = (0, 1, 2, descriptors.result, descriptors.go)
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208  # names only
        if int(name) not in keep:
            with contextlib.suppress(OSError):  # the descriptor of this very listing is gone by now
                os.close(int(name))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):  # real-time signals kept by the C library
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.umask(0o022)
    os.chdir("/")
    # Refused where there was nothing to give back either: an unprivileged daemon.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with contextlib.suppress(OSError):
        nice = 0 if work.is_action else _BACKGROUND_NICE
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    with contextlib.suppress(OSError):
        adjustment = Path("/proc/self/oom_score_adj")
        if int(adjustment.read_text()) < 0:
            adjustment.write_text("0")
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_bytes(f"{work.value}:{svcname}".encode()[:15])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (settings.files_max, hard))
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
    work: Work,
    svcname: str,
    adapter: AgentAdapter,
    tell: Callable[[Report], None],
    settings: ChildSettings,
) -> None:
    if work is Work.STATUS:
        tell(Report(document=adapter.status(svcname)))
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
        act = adapter.start if work is Work.START else adapter.stop
        tell(Report(exit_status=act(svcname)))
        tell(Report(avail=Avail(adapter.avail(svcname, evaluate_apps=True)).value))
    tell(Report(complete=True))


def _declared(declarations: Declarations) -> Dict[str, Any]:
    services: List[Dict[str, Any]] = [
        {
            "svcname": service.svcname,
            "name": service.name,
            "nodes": list(service.nodes),
            "start_limit_s": service.start_limit_s,
            "stop_limit_s": service.stop_limit_s,
        }
        for service in declarations.services
    ]
    return {"services": services, "errors": list(declarations.errors)}


def hold_begun(path: Path) -> None:
    """Hold a lock, shared, until this process ends: an action that was let go is about to act.

    The agent takes the service's own lock a moment later. A daemon that was killed and started
    again in that moment would find nothing up and nothing locked, and say so to its peer.
    """
    with contextlib.suppress(OSError):  # a full disk stops no start; the service's lock protects it soon
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_SH)


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


def under_systemd() -> bool:
    """Tell whether systemd runs this node and started this process's daemon."""
    return Path("/run/systemd/system").is_dir() and "INVOCATION_ID" in os.environ


def enter_scope(
    svcname: str,
    pid: int,
    run: Callable[..., Any] = subprocess.run,
    own_group: Callable[[], str] = Path("/proc/self/cgroup").read_text,
) -> str:
    """Move this process into a transient scope in opensvc.slice; return "" or why not.

    The scope stops after the daemon when the node halts: the daemon ends the services itself.
    systemd answers before it has moved the process, so this waits until the kernel says so;
    there is no event to wait for.

    Args:
        svcname: names the scope, for people.
        pid: this process.
        run: `subprocess.run`, or a test's own.
        own_group: reads /proc/self/cgroup.

    Source: org.freedesktop.systemd1(5), StartTransientUnit.
    """
    name = f"opensvc-{''.join(c if c.isalnum() or c in '.-_' else '_' for c in svcname)}-{pid}.scope"
    argv = [
        *("busctl", "--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"),
        *("org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", "5"),
        *("Description", "s", f"OpenSVC service {svcname}"),
        *("PIDs", "au", "1", str(pid)),
        *("Slice", "s", "opensvc.slice"),
        *("CollectMode", "s", "inactive-or-failed"),
        *("Before", "as", "1", "opensvc-hb.service"),
        "0",
    ]
    try:
        answer = run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_SCOPE_WITHIN_S,
            check=False,
        )
        if answer.returncode != 0:
            words = answer.stderr.decode(errors="replace").strip().splitlines()
            return f"no scope for {svcname}: {words[0] if words else f'status {answer.returncode}'}"
        give_up_at = time.clock_gettime(time.CLOCK_BOOTTIME) + _SCOPE_WITHIN_S
        while not own_group().rstrip().endswith(name):
            if time.clock_gettime(time.CLOCK_BOOTTIME) >= give_up_at:
                return f"no scope for {svcname}: systemd did not move process {pid} in {_SCOPE_WITHIN_S:g} s"
            time.sleep(0.01)
    except (OSError, subprocess.SubprocessError) as error:
        return f"no scope for {svcname}: {error}"
    return ""
