"""Where our files are: one root directory, and the name of this node.

`OSVC_ROOT` (default /) prefixes every directory of ours, `OSVC_NODENAME` overrides the
node's name, so that many nodes live on one machine. Nothing *inside* a service's file is
prefixed by `OSVC_ROOT`.
"""

from __future__ import annotations

import functools
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping, Optional


@dataclass(frozen=True)
class Root:
    """The tree of one node; every path of ours derives from `top`. Those asked for often are made once."""

    top: Path

    @functools.cached_property
    def etc(self) -> Path:
        """Services: SVC.env or SVC.conf, and their links."""
        return self.top / "etc/opensvc"

    @functools.cached_property
    def hb(self) -> Path:
        """The cluster: nodes, monitor, services, hb.conf, key."""
        return self.etc / "hb"

    @functools.cached_property
    def var(self) -> Path:
        """What survives a reboot: the store, flags, stamps."""
        return self.top / "var/lib/opensvc"

    @functools.cached_property
    def log(self) -> Path:
        """Service logs and the event journal."""
        return self.top / "var/log/opensvc"

    @functools.cached_property
    def run(self) -> Path:
        """What does not survive a reboot: sockets and locks."""
        return self.top / "run/opensvc"

    @property
    def socket(self) -> Path:
        """The daemon's control socket."""
        return self.run / "hb.sock"

    @property
    def lock(self) -> Path:
        """Held, by flock, by the one daemon of this root."""
        return self.run / "hb.lock"

    @property
    def guardian_socket(self) -> Path:
        """Where the daemon gives the guardian its orders."""
        return self.run / "guardian.sock"

    @property
    def guardian_lock(self) -> Path:
        """Held, by flock, by the one guardian of this root; its pid is in it."""
        return self.run / "guardian.lock"


def root(environment: Optional[Mapping[str, str]] = None) -> Root:
    """Return the root that the environment names (default: the process's own)."""
    variables = os.environ if environment is None else environment
    return Root(Path(variables.get("OSVC_ROOT") or "/").absolute())


def node_name(environment: Optional[Mapping[str, str]] = None) -> str:
    """Return this node's name, lower case: `OSVC_NODENAME`, else the host name.

    Source: the agents lower-case the name that gethostname returns.
    """
    variables = os.environ if environment is None else environment
    return (variables.get("OSVC_NODENAME") or socket.gethostname()).lower()
