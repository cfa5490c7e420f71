"""What belongs to an instance on its node? How its processes are told from others, what it may hold.

Whatever an action starts inherits three variables of the environment, and keeps them however it
daemonises: which service, of which root, started by which verb. Two roots on one machine never
meet. Beside processes an instance holds what its resources say (`Holding`).

Names and records only. The agent sets the marks and asks the resources, the guardian looks for
both when an instance must be gone.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Mapping

SERVICE_MARK = "OPENSVC_HB_SERVICE"
"""Its value is the service's name."""
ROOT_MARK = "OPENSVC_HB_ROOT"
"""Its value is the root directory of the node."""
ACTION_MARK = "OPENSVC_HB_ACTION"
"""`start` or `stop`. What only a stop action runs is no part of the instance."""
STOP_ACTION = "stop"

MARKS = (SERVICE_MARK, ROOT_MARK, ACTION_MARK)


class HoldingKind(enum.Enum):
    """What a resource can hold on a node beside processes; the value is the word for people."""

    MOUNT_POINT = "mount point"
    ADDRESS = "address"
    VOLUME_GROUP = "volume group"
    LOOP_FILE = "loop device of"

    @property
    def endangers(self) -> bool:
        """Tell whether the service must not run elsewhere while this is held here.

        A loop device alone writes nothing: its file system does.
        """
        return self is not HoldingKind.LOOP_FILE


@dataclass(frozen=True)
class Holding:
    """One thing that an instance may hold.

    Args:
        name: the mount point; the address as text; the name of the volume group; the backing file.
    """

    kind: HoldingKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name}"


def marks_of(top: Path, svcname: str, verb: str) -> Dict[str, str]:
    """Return the variables that mark what an action starts.

    Args:
        top: the root directory of the node (`Root.top`).
        svcname: the service.
        verb: `start` or `stop`.
    """
    return {SERVICE_MARK: svcname, ROOT_MARK: str(top), ACTION_MARK: verb}


def container_notes(runtime: str, svcname: str) -> Path:
    """Return the directory in which each container of a service has an empty file, named by its id.

    What runs in a container has an environment of its own and, once the process that watches over it
    was killed, no parent of ours. Its control group still has the container's id in its path.

    Args:
        runtime: the directory for what does not outlive the node's life (`Root.run`), as text.
        svcname: the service.
    """
    return Path(runtime) / f"{svcname}.containers"


def scope_part(svcname: str) -> str:
    """Return a service's name as the scopes of its actions have it: `opensvc-NAME-PID.scope`."""
    return "".join(c if c.isalnum() or c in ".-_" else "_" for c in svcname)


def unmarked(environment: Mapping[str, str]) -> Dict[str, str]:
    """Return the environment for a process of ours, which belongs to no service, whoever started us."""
    return {name: value for name, value in environment.items() if name not in MARKS}
