"""A file system of a server: `[fs#N] type = nfs`, `dev = server:/path`.

Its server may be gone: whether it answers is asked by a program that can be killed, and an
unmount that hangs is made again by force.
"""

from __future__ import annotations

from opensvc_hb.agent.resource import ActionError, CommandResult

from .._commands import attempt
from ._file_system import FileSystem, fs_keywords
from ._mounts import Mount

ANSWER_TIMEOUT_S = 5.0
UNMOUNT_TIMEOUT_S = 60.0


class FsNfs(FileSystem):
    """A mount from an NFS server: up when the mount table names this server and path."""

    types = ("nfs", "nfs4")
    keywords = fs_keywords(types)

    def is_own(self, mount: Mount) -> bool:
        """Compare server and path as written."""
        return mount.fs_type in self.types and mount.source.rstrip("/") == self.dev.rstrip("/")

    def check_file_system(self) -> None:
        """Nothing to check: the server does."""

    def silence(self, mount: Mount) -> str:
        """Ask for the file system's size, which needs the server."""
        try:
            result = self.context.run(["stat", "-f", "-c", "%T", mount.mount_point], ANSWER_TIMEOUT_S)
        except ActionError:
            return f"{mount.source} does not answer within {ANSWER_TIMEOUT_S:g} s"
        return "" if result.status == 0 else f"{mount.source}: {' '.join(result.stderr.split())}"

    def run_umount(self) -> CommandResult:
        """Unmount; by force when the server does not answer, which gives up what it has not taken."""
        try:
            return attempt(self.context, ["umount", self.mnt], UNMOUNT_TIMEOUT_S)
        except ActionError as error:
            self.context.warning(str(error))
        return attempt(self.context, ["umount", "-f", self.mnt], UNMOUNT_TIMEOUT_S)
