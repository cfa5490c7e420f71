"""xfs file systems: `[fs#N] type = xfs`. The kernel replays the log when it mounts."""

from __future__ import annotations

from ._file_system import DeviceFileSystem, fs_keywords


class FsXfs(DeviceFileSystem):
    """An xfs file system: mounted without a check, as the agents do."""

    types = ("xfs",)
    keywords = fs_keywords(types)
