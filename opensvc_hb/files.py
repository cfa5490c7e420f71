"""How a small file is replaced: the old content or the new one, never something between.

Whoever writes a file that must survive `kill -9`, a power cut or a full disk calls
`replace_file`. The store is the one exception: it writes in place, since a replacement
needs free space (see `daemon/store.py`, which uses this module only to make its file).
Nothing here reads, creates directories or takes locks.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Optional, Tuple

from opensvc_hb.errors import HbError


class WriteError(HbError):
    """A file could not be replaced; its old content stays.

    Args:
        path: the file that was to be replaced.
        error: what the system said.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        self.path = path
        self.error = error
        super().__init__(f"{path}: cannot be written: {error.strerror or error}")


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` survive a power cut; raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes, mode: int = 0o600, owner: Optional[Tuple[int, int]] = None) -> None:
    """Give `path` this content and mode: by temporary file, fsync, rename, fsync of the directory.

    A reader sees the old file or the new one, whole. A process killed on the way may leave
    a `.NAME.*` beside it, which nothing reads.

    Args:
        path: the file, in a directory that exists; a symbolic link is replaced, not followed.
        data: its whole content.
        mode: permissions of the new file, whatever the umask.
        owner: user and group of the new file, as numbers; None for ours.

    Raises:
        WriteError: the old file is still there, and nothing else is. One case is different:
            if only the last step (the directory) failed, the new file is in place, but a
            power cut may bring the old one back.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise WriteError(path, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if owner is not None:
                os.fchown(descriptor, *owner)
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise WriteError(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
