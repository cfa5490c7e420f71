"""The kernel's mount table: what is mounted where, without touching any file system.

Answers from the text of /proc/self/mountinfo only. A stat of a mount point is what hangs
when its storage does; reading the table never hangs. Shared by the fs drivers.

Source: proc(5), /proc/pid/mountinfo.
"""

from __future__ import annotations

import functools
import os.path
import re
from dataclasses import dataclass
from pathlib import Path
from typing import FrozenSet, Optional, Sequence, Tuple

READ_ONLY_WORDS = frozenset({"ro", "shutdown", "emergency_ro"})
"""Options that the kernel shows on a file system that takes no writes."""


@dataclass(frozen=True)
class Mount:
    """One line of the mount table.

    Args:
        mount_id: the kernel's id of this mount, as in /proc/PID/fdinfo.
        device: `major:minor` of the file system.
        root: the path inside the file system that is mounted; not `/` for a bind mount.
        mount_point: absolute path.
        options: of this mount and of the file system together.
        fs_type: the kernel's name of the type.
        source: what was given as device, as text.
    """

    mount_id: int
    device: str
    root: str
    mount_point: str
    options: FrozenSet[str]
    fs_type: str
    source: str

    @property
    def is_read_only(self) -> bool:
        """Tell whether writes are refused, by mount, by file system, or after an I/O error."""
        return bool(self.options & READ_ONLY_WORDS)


def parse_mountinfo(text: str) -> Tuple[Mount, ...]:
    """Return the mounts, oldest first as the kernel lists them; lines of other shapes are left out."""
    mounts = []
    for line in text.splitlines():
        head, separator, tail = line.partition(" - ")
        fields = head.split(" ")
        rest = tail.split(" ")
        if not separator or len(fields) < 6 or len(rest) < 2 or not fields[0].isdecimal():
            continue
        super_options = rest[2] if len(rest) > 2 else ""
        mounts.append(
            Mount(
                mount_id=int(fields[0]),
                device=fields[2],
                root=_unescaped(fields[3]),
                mount_point=_unescaped(fields[4]),
                options=frozenset(fields[5].split(",")) | frozenset(super_options.split(",")),
                fs_type=rest[0],
                source=_unescaped(rest[1]),
            )
        )
    return tuple(mounts)


def mounts_at(mounts: Sequence[Mount], path: str) -> Tuple[Mount, ...]:
    """Return the mounts on a mount point, the one on top (the one that is seen) last.

    The path is compared as written; only when nothing is mounted there are the symbolic
    links of its parents resolved.
    """
    here = tuple(mount for mount in mounts if mount.mount_point == path)
    if here:
        return here
    parent, name = os.path.split(path)
    resolved = os.path.join(os.path.realpath(parent), name)  # noqa: PTH118 - text, never looked at
    return tuple(mount for mount in mounts if mount.mount_point == resolved)


def mounts_below(mounts: Sequence[Mount], mount_point: str) -> Tuple[str, ...]:
    """Return the mount points inside a mount point, sorted."""
    prefix = mount_point.rstrip("/") + "/"
    return tuple(sorted({m.mount_point for m in mounts if m.mount_point.startswith(prefix)}))


def location(mounts: Sequence[Mount], path: str) -> Optional[Tuple[str, str]]:
    """Return (device, path inside the file system) of an absolute path: what a bind mount of it shows.

    None when no mount contains it.
    """
    containing = [
        m for m in mounts if path == m.mount_point or path.startswith(m.mount_point.rstrip("/") + "/")
    ]
    if not containing:
        return None
    longest = max(len(m.mount_point) for m in containing)
    seen = [m for m in containing if len(m.mount_point) == longest][-1]
    inside = path[len(seen.mount_point.rstrip("/")) :].lstrip("/")
    return seen.device, f"{seen.root.rstrip('/')}/{inside}".rstrip("/") or "/"


def on_root_file_system(mount_points: FrozenSet[str], path: str) -> bool:
    """Tell whether an absolute path leads nowhere but to the root file system, as written."""
    while path != "/":
        if path in mount_points:
            return False
        path = os.path.dirname(path)  # noqa: PTH120 - text, never looked at
    return True


@functools.lru_cache(maxsize=1)
def mount_points_of(proc_path: Path, _pid: int) -> FrozenSet[str]:
    """Return every mount point, read once by a process: one that reads a thousand sections is short."""
    text = (proc_path / "self/mountinfo").read_text(errors="surrogateescape")
    return frozenset(mount.mount_point for mount in parse_mountinfo(text))


def _unescaped(field: str) -> str:
    r"""Undo the kernel's \040 for a space and its likes."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), field)
