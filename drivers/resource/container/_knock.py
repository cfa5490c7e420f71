"""Does a docker daemon listen behind a socket, and does it answer?

Asked before anything of it is: without the docker library, whose import costs more than most
statuses. Nobody there, and somebody who does not answer, are two things: the first has no
container under it that it could tell of, under the second they may all be running.

Runs in: the process that asks for a status or acts; waits no longer than it is told.
"""

from __future__ import annotations

import enum
import os
import re
import socket
from dataclasses import dataclass

SOCKET_PATH_BYTES_MAX = 107
"""Source: unix(7), sun_path, less the byte that ends it."""
_REQUEST = b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n"
_VERSION = re.compile(rb"^api-version: *([0-9.]+)\r?$", re.IGNORECASE | re.MULTILINE)
_HEAD_BYTES_MAX = 16384


class Listening(enum.Enum):
    """Who is behind a socket."""

    ANSWERS = "answers"
    SILENT = "silent"
    NOBODY = "nobody"


@dataclass(frozen=True)
class Knock:
    """What became of one question to a socket.

    Args:
        api_version: of the Engine API, as the daemon tells it; "" when it does not.
        reason: why it does not answer, for people.
    """

    listening: Listening
    api_version: str = ""
    reason: str = ""


def knock(path: str, limit_s: float) -> Knock:
    """Ask the daemon behind a socket whether it is there.

    Args:
        path: of the socket.
        limit_s: how long it may take to take the connection, and again to answer.
    """
    if socket_path_excess(path):
        return Knock(Listening.NOBODY, reason=f"no socket can have a path as long as {path}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.settimeout(limit_s)
        try:
            asking.connect(path)
        except (BlockingIOError, TimeoutError, socket.timeout):
            return Knock(Listening.SILENT, reason=f"takes no connection within {limit_s:g} s")
        except OSError as error:
            return Knock(Listening.NOBODY, reason=error.strerror or str(error))
        try:
            asking.sendall(_REQUEST)
            head = _head(asking)
        except (TimeoutError, socket.timeout):
            return Knock(Listening.SILENT, reason=f"does not answer within {limit_s:g} s")
        except OSError as error:
            return Knock(Listening.NOBODY, reason=error.strerror or str(error))
    if not head:
        return Knock(Listening.NOBODY, reason="hangs up")
    version = _VERSION.search(head)
    return Knock(Listening.ANSWERS, version.group(1).decode() if version else "")


def socket_path_excess(path: str) -> int:
    """Return by how many bytes a path is too long for a socket; 0 when it is not."""
    return max(0, len(os.fsencode(path)) - SOCKET_PATH_BYTES_MAX)


def _head(asking: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES_MAX:
        data = asking.recv(4096)
        if not data:
            break
        head += data
    return head
