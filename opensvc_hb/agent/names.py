"""Which services are there, and which file is whose?

A `SVC.env` or `SVC.conf` in `etc/opensvc` alone makes a service; the links beside it are a
convenience and nobody's condition. A command called through the link `SVC` acts on SVC,
through `SVC.cluster` with --cluster.

Source: A.1, except that the agents ignore a file without its link.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional

from opensvc_hb.errors import ConfigurationError, HbError
from opensvc_hb.paths import Root

SUFFIXES = (".env", ".conf")

NOT_SERVICES = frozenset({"node", "auth", "sec", "cluster", "nodes"})
"""Files of `etc/opensvc` that are no service's."""

COMMAND_NAMES = frozenset({"svcmgr", "svcmgr.py", "__main__.py", "__main__"})
"""Names under which the command is itself, not a service."""


class NoSuchServiceError(HbError):
    """A service was named that has no file."""

    def __init__(self, svcname: str) -> None:
        self.svcname = svcname
        super().__init__(f"{svcname}: service does not exist")


@dataclass(frozen=True)
class CalledAs:
    """What the name of the command says: a service, and whether --cluster is meant."""

    svcname: str
    cluster: bool


def list_services(root: Root) -> List[str]:
    """Return the names of all services, sorted."""
    if not root.etc.is_dir():
        return []
    names = {
        p.name[: -len(p.suffix)]
        for p in root.etc.iterdir()
        if p.suffix in SUFFIXES and not p.name.startswith(".")
    }
    return sorted(names - NOT_SERVICES)


def service_file(root: Root, svcname: str) -> Path:
    """Return the file of a service.

    Raises:
        NoSuchServiceError: it has none.
        ConfigurationError: it has two.
    """
    present = []
    if svcname and "/" not in svcname and svcname not in NOT_SERVICES:
        present = [root.etc / f"{svcname}{suffix}" for suffix in SUFFIXES]
        present = [path for path in present if path.exists()]
    if not present:
        raise NoSuchServiceError(svcname)
    if len(present) > 1:
        raise ConfigurationError(str(present[0]), 0, "", f"{present[1].name} exists too: keep one of them")
    return present[0]


def make_heartbeat_command(root: Root, svcname: str) -> None:
    """Make `SVC.cluster`, which a heartbeat calls, beside the link `SVC`, where that is and this is not.

    For a service with an hb resource, before an action on it: so the link is there when the heartbeat
    is told of it, and is sent to the other nodes. A directory that takes no link is no obstacle to the
    action; whoever names the link to the heartbeat is told that it is missing.

    Source: A.1, except that the agents did it at each look at the service's status.
    """
    command, link = root.etc / svcname, root.etc / f"{svcname}.cluster"
    if command.is_symlink() and not os.path.lexists(link):
        with contextlib.suppress(OSError):
            link.symlink_to(command.readlink())


def called_as(command: str) -> Optional[CalledAs]:
    """Tell which service the name of the command (argv[0]) stands for; None for svcmgr itself."""
    name = Path(command).name
    if name in COMMAND_NAMES:
        return None
    if name.endswith(".cluster"):
        return CalledAs(name[: -len(".cluster")], cluster=True)
    return CalledAs(name, cluster=False)
