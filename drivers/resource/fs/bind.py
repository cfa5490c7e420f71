"""A directory shown at a second place: `[fs#N] type = bind`, `dev` is the directory.

`type = none` with `mnt_opt = bind`, as fstab writes it, is the same.
"""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Tuple

from ._file_system import FileSystem, fs_keywords
from ._mounts import Mount, location


class FsBind(FileSystem):
    """A bind mount: up when the mount point shows the directory `dev`."""

    types = ("bind", "none")
    keywords = fs_keywords(types)

    def is_own(self, mount: Mount) -> bool:
        """Compare the place inside the file system that is mounted, by the mount table alone."""
        mounts = self.mounts()
        shown = (mount.device, mount.root)
        return location(mounts, self._directory) == shown or (
            location(mounts, os.path.realpath(self._directory)) == shown
        )

    def device_exists(self) -> bool:
        """Tell whether the directory exists."""
        return Path(self._directory).exists()

    def check_file_system(self) -> None:
        """Nothing to check: the file system is in use already."""

    def type_to_mount(self) -> str:
        """A bind mount has no type of its own."""
        return "none"

    def options_to_mount(self) -> Tuple[str, ...]:
        """The words of `mnt_opt`, with bind."""
        words = self.mount_options
        return words if {"bind", "rbind"} & set(words) else ("bind", *words)

    @property
    def _directory(self) -> str:
        return self.dev.rstrip("/") or "/"
