"""The guardian: the small process that ends this node's instances when the daemon does not.

Started by the daemon as `python -S -E -m opensvc_hb.daemon.guardian_process`, it leaves the
daemon's session at once and outlives it: stopped, killed or paused. It is the only one of its
root (a lock), is reached through `run/opensvc/guardian.sock` (root only), and ends by itself
when nothing is guarded and no daemon is connected. SIGTERM does not end it: at a halt it goes
when the daemon has ended the instances and left.

It imports little, and everything at its start: once it guards, nothing is read from a disk
that could hang. This module only sets the process up; `guardian_loop` is what it does.

Runs in: the guardian process.
"""

from __future__ import annotations

import ctypes  # noqa: F401  # for the reset: nothing is imported from disk then
import fcntl
import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Callable, Optional, Sequence

from opensvc_hb import __version__
from opensvc_hb.client import with_address
from opensvc_hb.daemon import realtime
from opensvc_hb.daemon.guardian_held import NodeHoldings
from opensvc_hb.daemon.guardian_loop import GuardianLoop, Parts
from opensvc_hb.daemon.guardian_processes import ServiceProcesses
from opensvc_hb.daemon.guardian_reset import Machine, Resetter
from opensvc_hb.daemon.guardian_stops import Log, StopEnded, Stops
from opensvc_hb.paths import Root

PRIORITY = realtime.PRIORITY + 1
"""Above the daemon's: a daemon that spins is among what it ends."""
READY = b"ready"


def boottime() -> float:
    """Return the seconds of CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Become the guardian of a root and guard until it is over.

    Args:
        arguments: the root directory, and the descriptor of a pipe that is told `READY`, or why not.

    Returns:
        The exit status.
    """
    place, descriptor = sys.argv[1:] if arguments is None else arguments
    root, told = Root(Path(place)), int(descriptor)
    if os.fork():
        return 0  # the daemon reaps this one, and the guardian is no child of it
    try:
        lock = take_lock(root)
        listener = listen(root) if lock is not None else None
    except OSError as error:
        os.write(told, f"{error.filename or root.guardian_socket}: {error.strerror}".encode())
        return 1
    if listener is None:
        os.write(told, f"another guardian, process {holder(root)}, runs already".encode())
        return 1
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    selector = selectors.DefaultSelector()
    log = Log(selector, str(root.log / "guardian.log"), boottime)
    loop = GuardianLoop(listener, selector, _parts(root, log, selector), boottime)
    let_go()
    granted = realtime.become_realtime(PRIORITY)
    log.say(f"the guardian of {root.top} begins, process {os.getpid()}, release {__version__}; {granted}")
    os.write(told, READY)
    os.close(told)
    loop.run()
    log.say("nothing is guarded, and no daemon is connected: the guardian ends")
    log.close()
    return 0


def _parts(root: Root, log: Log, selector: selectors.BaseSelector) -> Parts:
    under_root = root.top != Path("/")
    has_scopes = not under_root and Path("/run/systemd/system").is_dir()

    def make_stops(ended: Callable[[StopEnded], None]) -> Stops:
        return Stops(root.top, selector, ended, boottime)

    return Parts(
        processes=ServiceProcesses(str(root.top), str(root.var / "lock"), has_scopes, runtime=str(root.run)),
        holdings=NodeHoldings(),
        resetter=Resetter(under_root, Machine()),
        log=log,
        make_stops=make_stops,
        release=__version__,
    )


def take_lock(root: Root) -> Optional[int]:
    """Become the only guardian of a root; return the lock's descriptor, None when there is another."""
    descriptor = os.open(root.guardian_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def holder(root: Root) -> int:
    """Return the process that has, or had last, the lock of a root; 0 when that cannot be read."""
    try:
        text = root.guardian_lock.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0


def listen(root: Root) -> socket.socket:
    """Return the socket that daemons connect to, root's only; raises OSError."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    root.guardian_socket.unlink(missing_ok=True)  # the lock is ours: it is a dead guardian's
    before = os.umask(0o177)
    try:
        with_address(str(root.guardian_socket), listener.bind)
    finally:
        os.umask(before)
    listener.listen(8)
    return listener


def let_go() -> None:
    """Keep nothing of the daemon's: no terminal, no working directory, no open pipe."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main())
