"""btrfs file systems: `[fs#N] type = btrfs`. The kernel replays its log when it mounts."""

from __future__ import annotations

import os

from ._file_system import DeviceFileSystem, fs_keywords
from ._mounts import Mount


class FsBtrfs(DeviceFileSystem):
    """A btrfs file system: mounted without a check; the mount table has no disk's number for it."""

    types = ("btrfs",)
    keywords = fs_keywords(types)

    def is_own(self, mount: Mount) -> bool:
        """Compare the device that the mount table names; any disk of the file system may stand there."""
        if mount.fs_type != "btrfs":
            return False
        path = self._device_path()
        if path is None or not os.path.exists(path):  # noqa: PTH110 - a device node
            return mount.source == self.dev
        return _same_device(mount.source, path) or mount.source in self._disks_beside(path)

    def _disks_beside(self, path: str) -> frozenset[str]:
        """Return the device nodes of every disk of the file system that this device is part of."""
        name = os.path.basename(os.path.realpath(path))  # noqa: PTH119 - a name
        for folder in (self.sys_path / "fs/btrfs").glob("*/devices"):
            if (folder / name).exists():
                return frozenset(f"/dev/{disk.name}" for disk in folder.iterdir())
        return frozenset()


def _same_device(one: str, other: str) -> bool:
    try:
        return os.stat(one).st_rdev == os.stat(other).st_rdev != 0  # noqa: PTH116 - device numbers
    except OSError:
        return one == other
