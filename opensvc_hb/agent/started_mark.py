"""Was this service started here, during this life of the node, and not stopped since?

Some services cannot tell whether they are up: their launchers have no check. For those, and
only for those, the last whole start or stop decides. The mark is a file in `run/opensvc`
that names the boot in which it was made, so that a mark left by an earlier life of the node
(a root directory on a disk) holds no more.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from opensvc_hb.paths import Root

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
FIRST_PROCESS = Path("/proc/1/stat")
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


@functools.cache
def this_life() -> str:
    """Name this life of the node: the kernel's boot id, and when its process 1 began.

    A node in a PID namespace of its own reboots without the kernel (field 22 of its stat).
    """
    boot = BOOT_ID.read_text(encoding="ascii").strip()
    started = FIRST_PROCESS.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    return f"{boot} {started}"


def mark_file(root: Root, svcname: str) -> Path:
    """Return the service's mark."""
    return root.run / f"{svcname}.started"


def set_mark(root: Root, svcname: str) -> None:
    """Note that the service was started as a whole.

    A mark that cannot be written (full disk) is told by `is_marked`, not here: the service
    is up all the same. It is not synced: a power cut ends the life of the node that it names.
    """
    path = mark_file(root, svcname)
    new = path.with_name(f"{path.name}.new")
    text = f"{this_life()}\n".encode("ascii")
    try:
        try:
            descriptor = os.open(new, _NEW_FILE, 0o644)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(new, _NEW_FILE, 0o644)
        try:
            os.write(descriptor, text)
        finally:
            os.close(descriptor)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)


def remove_mark(root: Root, svcname: str) -> None:
    """Note that the service was stopped as a whole."""
    mark_file(root, svcname).unlink(missing_ok=True)


def is_marked(root: Root, svcname: str) -> bool:
    """Tell whether the service was started in this life of the node and not stopped since."""
    try:
        return mark_file(root, svcname).read_text(encoding="ascii").strip() == this_life()
    except (OSError, UnicodeDecodeError):
        return False
