"""What does one client of the control socket want, and how far is it?

Lines become requests or reasons, answers become lines, and a `Connection` remembers what
of either is still under way. Waiting, closing and fairness are the business of the loop
in `daemon/control.py`.

Runs in: control thread.
"""

from __future__ import annotations

import json
import logging
import select
import socket
import struct
from dataclasses import dataclass
from typing import Dict, Mapping, Optional, Union

from opensvc_hb.client import VERSION
from opensvc_hb.errors import ExitCode

log = logging.getLogger(__name__)

_CREDENTIALS = struct.Struct("iII")


@dataclass(frozen=True)
class PeerCredentials:
    """Who is at the other end, as the kernel knows it."""

    pid: int
    uid: int
    gid: int


def refusal(code: ExitCode, error: str) -> Dict[str, object]:
    """Return the answer that something was not done, and why."""
    return {"ok": False, "code": int(code), "error": error}


def read_request(line: bytes) -> Union[Mapping[str, object], str]:
    """Return the request of a line, or one sentence on why it is none. Any bytes will do."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return "a request is one JSON object on a line"
    if not isinstance(fields, dict):
        return "a request is a JSON object"
    if fields.get("version") != VERSION:
        return f"this daemon speaks version {VERSION}, not {fields.get('version')!r}"
    if not isinstance(fields.get("request"), str):
        return "the request has no text 'request'"
    return fields


def encode_answer(answer: Mapping[str, object]) -> bytes:
    """Return the line of an answer, its version added; one that is no JSON is logged and refused."""
    try:
        return json.dumps({"version": VERSION, **answer}).encode() + b"\n"
    except (TypeError, ValueError):
        log.exception("an answer on the control socket is no JSON: %r", answer)
        return encode_answer(
            refusal(ExitCode.FAILED, "the daemon's answer could not be written; see its log")
        )


class Connection:
    """One client: what came from it, what goes to it, and by when it must have moved."""

    def __init__(self, number: int, accepted: socket.socket, peer: PeerCredentials, deadline: float) -> None:
        self.number = number
        self.socket = accepted
        self.peer = peer
        self.deadline: Optional[float] = deadline
        """When it is closed unless it moves; None while it waits for us."""
        self.incoming = bytearray()
        self.outgoing = memoryview(b"")
        self.awaiting = 0
        """Number of the request that has no answer yet, 0 for none."""
        self.requests = 0
        self.ended = False
        """The client writes no more; it may still read."""
        self.closing = False
        """Closed as soon as the answer is out."""
        self.interest = 0
        """What the selector looks for; 0 when it does not know this socket."""

    @property
    def is_idle(self) -> bool:
        """Tell whether nothing is under way, in either direction."""
        return not (self.awaiting or self.outgoing or self.incoming)

    def take_line(self) -> Optional[bytes]:
        """Return the next whole line without its end, None when there is none yet."""
        end = self.incoming.find(b"\n")
        if end < 0:
            return None
        line = bytes(self.incoming[:end])
        del self.incoming[: end + 1]
        return line

    def is_gone(self) -> bool:
        """Tell a client that closed its socket from one that only writes no more."""
        poll = select.poll()
        poll.register(self.socket, 0)
        return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))


def credentials_of(accepted: socket.socket) -> PeerCredentials:
    """Return who connected (source: unix(7), SO_PEERCRED: pid, uid, gid)."""
    data = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return PeerCredentials(*_CREDENTIALS.unpack(data))
