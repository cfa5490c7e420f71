"""Which life is this: the only daemon of its root? After a boot, or a mere restart? At a shutdown?

- The lock says that no other daemon runs on the same root, and lets commands wait for a
  daemon that is about to have its socket. It is held by flock until the process ends,
  however it ends; its file stays, since removing it would let two daemons each lock one.
- A boot of the node is told from a restart of the daemon by the kernel's boot id together
  with the start time of process 1: a node that is a PID namespace boots too.
- A stop of the daemon means "the node leaves" only while the system shuts down.

No clock is read here, and nothing is decided.

Runs in: main thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
import weakref
from pathlib import Path
from typing import Callable, Optional, Sequence

from opensvc_hb.errors import HbError
from opensvc_hb.files import replace_file

PROBE_PATIENCE_S = 2.0
PROBE_RETRY_S = 0.02
SYSTEMCTL_LIMIT_S = 10.0
"""A machine that halts is busy; taking a reboot for a restart costs its peer `restart_within`."""


class AlreadyRunning(HbError):
    """Another daemon holds the lock.

    Args:
        pid: its process id in its own name space, 0 when it could not be read.
        place: the root, as the user knows it.
    """

    def __init__(self, pid: int, place: Path) -> None:
        self.pid = pid
        self.place = place
        super().__init__(f"a daemon (pid {pid or 'unknown'}) already runs on {place}")


class LockError(HbError):
    """The lock's file could not be made or locked."""

    def __init__(self, path: Path, error: OSError) -> None:
        self.path = path
        self.error = error
        super().__init__(f"{path}: cannot be locked: {error.strerror or error}")


class BootUnknownError(HbError):
    """The kernel does not say which boot this is (no /proc, or a foreign one)."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        super().__init__(f"{path}: cannot tell which boot of the node this is: {what}; is /proc mounted?")


class DaemonLock:
    """The lock, held; made by `take_lock`. Forked children do not inherit it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        # A child shares the lock and would hold it beyond the daemon's death: a runner with a
        # long start in hand must not keep the next daemon out. Closing its copy unlocks nothing.
        myself = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _close_in_child(myself()))

    def release(self) -> None:
        """Let another daemon start. The end of the process does the same."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _close_in_child(lock: Optional[DaemonLock]) -> None:
    if lock is not None:
        lock.release()


def _try_lock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_or_tell(descriptor: int) -> bool:
    """Lock the file; tell a daemon that holds it (False) from commands that look at it."""
    deadline = time.monotonic() + PROBE_PATIENCE_S
    while not _try_lock(descriptor, fcntl.LOCK_EX):
        # A command that looks for a starting daemon holds a shared lock for a moment: beside
        # that we get a shared one too, beside a daemon's we do not.
        if not _try_lock(descriptor, fcntl.LOCK_SH) or time.monotonic() >= deadline:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(PROBE_RETRY_S)
    return True


def take_lock(path: Path, place: Optional[Path] = None) -> DaemonLock:
    """Become the one daemon of a root; the lock lasts until `release` or the process's end.

    Args:
        path: the lock's file; it and its directory are made when missing.
        place: the root to name in the refusal, default `path`.

    Raises:
        AlreadyRunning: another process holds it.
        LockError: the file cannot be made or locked.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LockError(path, error) from error
    try:
        locked = _lock_or_tell(descriptor)
        pid = os.getpid() if locked else _pid_in(descriptor)
    except OSError as error:
        os.close(descriptor)
        raise LockError(path, error) from error
    if not locked:
        os.close(descriptor)
        raise AlreadyRunning(pid, place or path)
    # The pid is for people: a full disk must not keep the daemon from starting.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{pid}\n".encode(), 0)
    return DaemonLock(path, descriptor)


def _pid_in(descriptor: int) -> int:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def boot_identity(proc: Path = Path("/proc")) -> str:
    """Return a text that differs between any two boots of this node.

    Source: random(4) for the boot id; proc(5), field 22 of stat, for the start of process 1
    in clock ticks since the boot of the machine.

    Args:
        proc: where the proc file system of this node is mounted.

    Raises:
        BootUnknownError: one of the two cannot be read.
    """
    boot_id_path, stat_path = proc / "sys/kernel/random/boot_id", proc / "1/stat"
    try:
        boot_id = boot_id_path.read_text().strip()
        # The second field is the program's name in parentheses, and may hold any character.
        behind_name = stat_path.read_bytes().rpartition(b")")[2].split()
    except OSError as error:
        raise BootUnknownError(proc, str(error)) from error
    if not boot_id or len(behind_name) < 20:
        raise BootUnknownError(proc, f"{boot_id_path} or {stat_path} is not as proc(5) says")
    return f"{boot_id} {int(behind_name[19])}"


def remember_boot(path: Path, identity: str) -> None:
    """Note that a daemon has run in this boot; raises `files.WriteError`."""
    replace_file(path, f"{identity}\n".encode(), mode=0o644)


def was_booted(path: Path, identity: str) -> bool:
    """Tell whether the node has booted since `remember_boot`; yes when nothing readable was noted."""
    try:
        noted = path.read_text(errors="replace")
    except OSError:
        return True
    return noted.strip() != identity


def shutdown_in_progress(run: Optional[Callable[[Sequence[str], float], str]] = None) -> bool:
    """Tell whether the system is being halted or rebooted, as systemd says; no without systemd.

    Source: systemctl(1), is-system-running: `stopping` as soon as the shutdown job is queued.

    Args:
        run: gives the output of a command, "" when it cannot be run within a time limit
            (seconds).
    """
    state = (run or _output_of)(("systemctl", "is-system-running"), SYSTEMCTL_LIMIT_S)
    return state.strip() == "stopping"


def _output_of(argv: Sequence[str], limit_s: float) -> str:
    try:
        finished = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=limit_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return finished.stdout.decode(errors="replace")
