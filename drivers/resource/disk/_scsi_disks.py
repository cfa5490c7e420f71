"""Which SCSI disks are below a block device, on which paths, and is anything above them in use?

Answers from sysfs alone, but for `is_claimed`, which asks the kernel by opening a device
exclusively. A volume, a partition or an encrypted device leads down to its disks; a multipath
device is one disk with several paths. Shared by the disk drivers; not a driver.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, List, Optional, Set, Tuple

MULTIPATH = "mpath-"
"""How the uuid of a multipath device begins."""


@dataclass(frozen=True)
class ScsiDisk:
    """A disk that takes reservations.

    Args:
        device: its device node, such as /dev/sda or /dev/mapper/mpatha.
        name: the kernel's name of it: sda, dm-3.
        paths: the device nodes that lead to it; of a plain disk itself.
    """

    device: str
    name: str
    paths: Tuple[str, ...]
    is_multipath: bool = False


@dataclass(frozen=True)
class FoundDisks:
    """What is below some devices: disks by device, and what takes no reservation (`vda (virtio)`)."""

    disks: Tuple[ScsiDisk, ...]
    others: Tuple[str, ...]


def disks_below(devices: Iterable[str], sys_path: Path) -> FoundDisks:
    """Return the disks below these devices, each once; a device that does not exist has none."""
    disks: Set[ScsiDisk] = set()
    others: Set[str] = set()
    waiting = [os.path.basename(os.path.realpath(device)) for device in devices]  # noqa: PTH119 - a name
    seen: Set[str] = set()
    while waiting:
        name = waiting.pop()
        folder = _folder(name, sys_path)
        if folder is None or name in seen:
            continue
        seen.add(name)
        uuid = _text(folder / "dm/uuid")
        if (folder / "partition").exists():
            waiting.append(folder.parent.name)
        elif uuid.startswith(MULTIPATH):
            paths = tuple(f"/dev/{slave}" for slave in _names(folder / "slaves"))
            disks.add(ScsiDisk(f"/dev/mapper/{_text(folder / 'dm/name')}", name, paths, is_multipath=True))
        elif _names(folder / "slaves"):
            waiting.extend(_names(folder / "slaves"))
        elif (bus := _bus(folder)) == "scsi":
            disks.add(ScsiDisk(f"/dev/{name}", name, (f"/dev/{name}",)))
        else:
            others.add(f"/dev/{name} ({bus})" if bus else f"/dev/{name}")
    return FoundDisks(tuple(sorted(disks, key=lambda disk: disk.device)), tuple(sorted(others)))


def claimed_above(disk: ScsiDisk, sys_path: Path, is_claimed: Callable[[str], bool]) -> Tuple[str, ...]:
    """Return the names of what is on top of a disk and in use: mounted, or claimed by another layer.

    A volume that is active and not used does not count.
    """
    waiting = [disk.name]
    seen: Set[str] = set()
    found: List[str] = []
    while waiting:
        name = waiting.pop()
        folder = _folder(name, sys_path)
        if folder is None or name in seen:
            continue
        seen.add(name)
        above = [*_names(folder / "holders"), *_partitions(folder)]
        waiting.extend(above)
        if not above and is_claimed(f"/dev/{name}"):
            found.append(_text(folder / "dm/name") or name)
    return tuple(sorted(found))


def is_claimed(device: str) -> bool:
    """Tell whether the kernel refuses a block device to an exclusive user; no I/O is done."""
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False


def _folder(name: str, sys_path: Path) -> Optional[Path]:
    link = sys_path / "class/block" / name
    return link.resolve() if name and link.exists() else None


def _bus(folder: Path) -> str:
    """Return the kind of hardware: `scsi`, `virtio`, `nvme`; "" where there is none (a loop device)."""
    subsystem = folder / "device/subsystem"
    return subsystem.resolve().name if subsystem.exists() else ""


def _partitions(folder: Path) -> List[str]:
    return sorted(path.parent.name for path in folder.glob("*/partition"))


def _names(folder: Path) -> List[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape").rstrip("\n")
    except OSError:
        return ""
