"""How everyone asks the daemon: one JSON object per line over its control socket.

Commands, the hb driver and tests call `request`. This module imports the standard library
and our errors only, and little of it: `svcmon` and an agent's driver must start at once.
It never retries a request that was sent, since the daemon may have acted on it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from typing import Any, Callable, Dict

from opensvc_hb.errors import ExitCode, HbError

VERSION = 1
"""Version of the objects on the socket, in each of them."""
ADDRESS_BYTES_MAX = 107
"""A socket's address holds 108 bytes, the last one zero."""
START_WAIT_S = 10.0
"""A daemon that holds its lock but has no socket yet is waited for so long."""
RETRY_S = 0.05


class DaemonError(HbError):
    """The daemon of this node could not be asked; each situation is a subclass.

    Args:
        socket_path: where it was looked for.
    """

    def __init__(self, socket_path: str, text: str) -> None:
        self.socket_path = socket_path
        super().__init__(text)


class DaemonDown(DaemonError):
    """No daemon runs on this root."""

    exit_code = ExitCode.NOT_RUNNING

    def __init__(self, socket_path: str) -> None:
        super().__init__(
            socket_path,
            f"the hb daemon of this node is not running ({socket_path}): "
            "start it with: systemctl start opensvc-hb, or hbmgr daemon",
        )


class DaemonBusy(DaemonError):
    """The daemon runs, and gave no answer in time. It may still act on the request."""

    exit_code = ExitCode.TIMED_OUT

    def __init__(self, socket_path: str, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        super().__init__(
            socket_path, f"the hb daemon of this node did not answer within {timeout_s:g} s ({socket_path})"
        )


class DaemonLost(DaemonError):
    """The daemon ended, or spoke no sense, before its answer was whole. It may have acted."""

    exit_code = ExitCode.UNKNOWN

    def __init__(self, socket_path: str, what: str) -> None:
        super().__init__(
            socket_path, f"the hb daemon of this node {what} ({socket_path}): look with: hbmgr status"
        )


class DaemonForbidden(DaemonError):
    """This user may not talk to the daemon."""

    def __init__(self, socket_path: str) -> None:
        super().__init__(socket_path, f"no right to talk to the hb daemon ({socket_path}): try as root")


def with_address(path: str, use: Callable[[str], None]) -> None:
    """Call `use` with an address of the socket `path`: itself, or one that is short enough.

    A root directory may be deep, and a socket's address holds `ADDRESS_BYTES_MAX` bytes: a
    longer one goes through this process's own descriptor of the directory.
    """
    if len(os.fsencode(path)) <= ADDRESS_BYTES_MAX:
        use(path)
        return
    directory, _, name = path.rpartition("/")
    descriptor = os.open(directory or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{descriptor}/{name}")
    finally:
        os.close(descriptor)


def is_locked(lock_path: str) -> bool:
    """Tell whether a daemon holds this lock (see `daemon/life.py`)."""
    import fcntl  # needed only when there is no socket

    try:
        descriptor = os.open(lock_path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared: a daemon that starts at this very moment can tell us from another daemon.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def request(
    socket_path: str, message: Dict[str, Any], timeout_s: float = 10.0, lock_path: str = ""
) -> Dict[str, Any]:
    """Ask the daemon of this node one thing and return its answer, `ok` or not.

    Args:
        socket_path: the daemon's control socket.
        message: the request, `{"request": "...", ...}`; `version` is added.
        timeout_s: for the whole conversation, the wait for a starting daemon not counted.
        lock_path: the daemon's lock; with it, a daemon that starts is waited for.

    Raises:
        DaemonDown, DaemonBusy, DaemonLost, DaemonForbidden: all of them `DaemonError`.
    """
    line = json.dumps({"version": VERSION, **message}).encode() + b"\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        _connect(connection, socket_path, timeout_s, lock_path)
        deadline = time.monotonic() + timeout_s
        try:
            connection.settimeout(timeout_s)
            # A daemon with too many callers may have said so, and closed, before we ask.
            with contextlib.suppress(ConnectionError):
                connection.sendall(line)
            answer = _read_line(connection, deadline)
        except (BlockingIOError, socket.timeout) as error:
            raise DaemonBusy(socket_path, timeout_s) from error
        except OSError as error:
            raise DaemonLost(socket_path, "ended before it answered") from error
    if not answer.endswith(b"\n"):
        raise DaemonLost(socket_path, "ended before it answered")
    try:
        fields = json.loads(answer)
    except ValueError as error:
        raise DaemonLost(socket_path, "answered with something that is not JSON") from error
    if not isinstance(fields, dict):
        raise DaemonLost(socket_path, "answered with something that is no object")
    return fields


def _connect(connection: socket.socket, path: str, timeout_s: float, lock_path: str) -> None:
    """Connect, waiting for a daemon that starts or whose queue of callers is full."""
    begin = time.monotonic()
    connection.settimeout(timeout_s)
    while True:
        waited_s = time.monotonic() - begin
        try:
            with_address(path, connection.connect)
        except (BlockingIOError, socket.timeout) as error:
            if waited_s >= timeout_s:
                raise DaemonBusy(path, timeout_s) from error
        except PermissionError as error:
            raise DaemonForbidden(path) from error
        except OSError as error:
            if waited_s >= START_WAIT_S or not lock_path or not is_locked(lock_path):
                raise DaemonDown(path) from error
        else:
            return
        # Nothing tells when a daemon begins to listen: ask again.
        time.sleep(RETRY_S)


def _read_line(connection: socket.socket, deadline: float) -> bytes:
    """Return the first line, or what came before the end; raises socket.timeout, OSError."""
    parts = []
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise socket.timeout
        connection.settimeout(left_s)
        part = connection.recv(65536)
        parts.append(part)
        if not part or part.endswith(b"\n"):
            return b"".join(parts)
