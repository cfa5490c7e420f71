"""Where is what belongs to a service's own docker daemon?

Two services never share a path, and two roots on one machine neither. Socket and pid file are
where the agents had them, since operators' scripts name them.

Pure but for the reading of the notes. Source: A.1.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import FrozenSet

from opensvc_hb.agent.resource import ResourceContext, container_notes

from ._knock import socket_path_excess

SYSTEM_SOCKET = "/var/run/docker.sock"
_LONGEST_SOCKET = "/containerd/containerd-debug.sock"
"""Of those that the daemon makes below its exec root."""


@dataclass(frozen=True)
class Places:
    """The paths of one private daemon, as text.

    Args:
        socket, pid_file: of the daemon.
        data_root: images and containers; on a file system of the service.
        exec_root: the daemon's sockets and mounts, which end with the node's life.
        log: what the daemon writes.
        start_lock: held while the daemon is started or ended.
        use_lock: held, shared, while a container is being started.
        first_steps_lock: one for all private daemons of the node, see `_daemon`.
        notes: see `container_notes`.
    """

    socket: str
    pid_file: str
    data_root: str
    exec_root: str
    log: str
    start_lock: str
    use_lock: str
    first_steps_lock: str
    notes: Path


def private_places(context: ResourceContext, data_root: str) -> Places:
    """Return where a service's own daemon has its things."""
    svcname = context.svcname
    own = f"{context.var}/{svcname}"
    return Places(
        socket=f"{own}/docker.sock",
        pid_file=f"{own}/docker.pid",
        data_root=data_root,
        exec_root=_exec_root(context.runtime, svcname),
        log=f"{context.log}/{svcname}.docker.log",
        start_lock=f"{context.runtime}/{svcname}.docker.lock",
        use_lock=f"{context.runtime}/{svcname}.docker.use",
        first_steps_lock=f"{context.runtime}/docker-engines.lock",
        notes=container_notes(context.runtime, svcname),
    )


def _exec_root(runtime: str, svcname: str) -> str:
    """Return a directory in which the path of every socket has room, whatever the service's name."""
    usual = f"{runtime}/{svcname}.docker"
    if not socket_path_excess(usual + _LONGEST_SOCKET):
        return usual
    return f"/run/opensvc-docker-{hashlib.sha256(os.fsencode(usual)).hexdigest()[:16]}"


def noted_containers(notes: Path) -> FrozenSet[str]:
    """Return the ids of the containers that were started for the service in this life of the node."""
    try:
        return frozenset(os.listdir(notes))  # noqa: PTH208  # names only
    except OSError:
        return frozenset()


def note_container(notes: Path, container_id: str) -> None:
    """Note a container before it is started: from then on its processes can be found without its daemon."""
    notes.mkdir(parents=True, exist_ok=True)
    (notes / container_id).touch()


def forget_container(notes: Path, container_id: str) -> None:
    """Forget a container that runs no more."""
    (notes / container_id).unlink(missing_ok=True)
