"""File systems in memory: `[fs#N] type = tmpfs`, `dev = none`. Empty after each start."""

from __future__ import annotations

from ._file_system import FileSystem, fs_keywords
from ._mounts import Mount


class FsTmpfs(FileSystem):
    """A tmpfs: up when one is mounted on the mount point; it has no device to compare."""

    types = ("tmpfs",)
    keywords = fs_keywords(types)

    def is_own(self, mount: Mount) -> bool:
        """Compare the type."""
        return mount.fs_type == "tmpfs"
