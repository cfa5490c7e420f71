"""Is a service, or the whole node, frozen by an operator of the agent?

A flag file each: `FROZEN.SVC` and `FROZEN` in `var/lib/opensvc`. This is the agent's own
freeze and has nothing to do with the heartbeat's FROZEN_STOP and FROZEN_START. Both flags
survive a reboot.

Source: C.3.
"""

from __future__ import annotations

import os
from pathlib import Path

from opensvc_hb.paths import Root

ALLOWED_ACTIONS = frozenset(
    [
        "get",
        "set",
        "unset",
        "update",
        "enable",
        "disable",
        "delete",
        "freeze",
        "thaw",
        "status",
        "frozen",
        "push",
        "push_appinfo",
        "printsvc",
        "print_status",
        "print_config",
        "print_config_keywords",
        "json_status",
        "validate_config",
    ]
)
"""Actions that a frozen service does not refuse; they take no lock either (C.10)."""

REFUSAL = "Abort action for frozen service"


def service_flag(root: Root, svcname: str) -> Path:
    """Return the flag of one service."""
    return root.var / f"FROZEN.{svcname}"


def node_flag(root: Root) -> Path:
    """Return the flag of the whole node."""
    return root.var / "FROZEN"


def is_frozen(root: Root, svcname: str) -> bool:
    """Tell whether the service or its node is frozen."""
    return service_flag(root, svcname).exists() or node_flag(root).exists()


def freeze(root: Root, svcname: str) -> None:
    """Set the service's flag; it is on disk when this returns."""
    root.var.mkdir(parents=True, exist_ok=True)
    service_flag(root, svcname).touch()
    _sync_folder(root.var)


def thaw(root: Root, svcname: str) -> None:
    """Remove the service's flag; the node's own, if set, still holds."""
    service_flag(root, svcname).unlink(missing_ok=True)
    if root.var.is_dir():
        _sync_folder(root.var)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
