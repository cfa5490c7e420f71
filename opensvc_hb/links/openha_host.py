"""What the C program's structure says of the machine it comes from: name, hostid, clock, process.

Answers: how does `uname -n` spell this node, and what would gethostid() return? The hostid may take
a look-up of the node's name, which a dead name server makes slow: a thread of its own does it,
and beats say 0 until it is known, as C's do where the name does not resolve. Receivers never
use it. The wall clock is read for the wire alone: nothing here decides by it.

Source: glibc's gethostid: /etc/hostid, else the host's IPv4 address with its halves swapped.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Callable

HOSTID_FILE = Path("/etc/hostid")
_HOSTID_BYTES = 4


class Host:
    """The machine of this node, as its structures describe it.

    Args:
        name: the node's name, as `uname -n` spells it.
        pid: the process that sends.
        find_hostid: returns the hostid; may take as long as a name server's silence.
        wall_s: seconds since 1970.
    """

    def __init__(
        self,
        name: str,
        pid: int,
        find_hostid: Callable[[], int] = lambda: 0,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.pid = pid
        self.hostid = 0
        """0 until it was found; set once, by the thread that looks for it."""
        self._find_hostid = find_hostid
        self._wall_s = wall_s

    def start(self) -> None:
        """Have the hostid found."""
        threading.Thread(target=self._find, name="hostid", daemon=True).start()

    def elapsed(self) -> int:
        """Return the wall clock as structures have it: whole seconds."""
        return int(self._wall_s())

    def _find(self) -> None:
        self.hostid = self._find_hostid()


def this_host(node: str) -> Host:
    """Return the machine that we run on.

    Args:
        node: this node, lower case; C compares names exactly, so the system's spelling is sent.
    """
    system_name = os.uname().nodename
    name = system_name if system_name.lower() == node else node
    return Host(name, os.getpid(), lambda: hostid(name))


def hostid(name: str, path: Path = HOSTID_FILE, resolve: Callable[[str], str] = socket.gethostbyname) -> int:
    """Return what glibc's gethostid() would, as 32 bits without sign; 0 when nothing is known.

    Args:
        name: the node's name.
        path: what `sethostid` wrote, if anybody did.
        resolve: gives the IPv4 address of a name, or raises OSError.
    """
    try:
        stored = path.read_bytes()[:_HOSTID_BYTES]
    except OSError:
        stored = b""
    if len(stored) == _HOSTID_BYTES:
        return int.from_bytes(stored, sys.byteorder)
    try:
        address = int.from_bytes(socket.inet_aton(resolve(name)), "little")
    except (OSError, UnicodeError):
        return 0
    return (address << 16 | address >> 16) & 0xFFFFFFFF
