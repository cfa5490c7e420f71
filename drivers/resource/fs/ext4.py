"""ext2, ext3 and ext4 file systems: `[fs#N] type = ext4`."""

from __future__ import annotations

from .._commands import must
from ._file_system import DeviceFileSystem, fs_keywords

CHECK_TIMEOUT_S = 570.0
"""Below the 600 s that a start has by default, so that the error names the tool."""
REPAIRED_OR_CLEAN = (0, 1, 32, 33)
"""Exit codes of e2fsck that the agents accept: clean, repaired, and each of them cancelled."""


class FsExt(DeviceFileSystem):
    """An ext file system: checked by e2fsck -p, then mounted."""

    types = ("ext4", "ext3", "ext2")
    keywords = fs_keywords(types)

    def check_file_system(self) -> None:
        """Repair what is safe to repair; an error is left to a person."""
        must(self.context, ["e2fsck", "-p", self.dev], CHECK_TIMEOUT_S, REPAIRED_OR_CLEAN)
