"""Which loop devices are bound to a file, read from sysfs.

No device is opened: the answer needs no working disk. Shared by drivers; not a driver.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Tuple

DELETED = " (deleted)"
"""What the kernel appends to the name of a backing file that was unlinked."""


def is_backed_by(block_device: Path, image: str) -> bool:
    """Tell whether a loop device is bound to the file `image`.

    Args:
        block_device: its folder in sysfs, such as /sys/block/loop0 or /sys/dev/block/7:0.
        image: path of the file as configured; symbolic links are followed.
    """
    try:
        bound = (block_device / "loop/backing_file").read_text().rstrip("\n")
    except OSError:
        return False  # no loop device, or bound to nothing
    if bound in (image, os.path.realpath(image)):
        return True
    if bound.endswith(DELETED):
        return False  # another file may have that name now
    try:
        return Path(bound).samefile(image)
    except OSError:
        return False


def devices_of(image: str, sys_path: Path) -> Tuple[str, ...]:
    """Return the loop devices bound to the file `image`: `/dev/loop0` ..., by number.

    Args:
        image: path of the file.
        sys_path: where sysfs is mounted.
    """
    folders = sorted(sys_path.glob("block/loop*"), key=lambda folder: (len(folder.name), folder.name))
    return tuple(f"/dev/{folder.name}" for folder in folders if is_backed_by(folder, image))
