"""OpenHA's state files, one by one: where they are, what is in them, how they are made and removed.

`TREE/services/SERVICE/STATE.NODE` holds a digit and a zero byte: the state of a service on a node, by
OpenHA's number. Knows nothing of the daemon, so that a command that makes or removes the files of a
service starts at once.

Runs in: state-files thread, and the process of a command.
Source: OpenHA's state tree; its files are written in place, which two bytes can be.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Sequence, Tuple

from opensvc_hb.core.states import State

FILE_MODE = 0o644
DIRECTORY_MODE = 0o755


def state_file(tree: Path, service: str, node: str) -> Path:
    """Return where the state of a service on a node is."""
    return tree / "services" / service / f"STATE.{node}"


def content_of(state: State) -> bytes:
    """Return a state file's content: a digit and a zero byte."""
    return b"%d\0" % state.openha


def write_state(path: Path, state: State) -> None:
    """Give a state file its two bytes, in place; its directory is made when missing; raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, FILE_MODE)
    except FileNotFoundError:
        path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, FILE_MODE)
    try:
        content = content_of(state)
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


def make_new_state_files(tree: Path, service: str, nodes: Sequence[str]) -> Tuple[bool, Tuple[Path, ...]]:
    """Make the files of a new service, FROZEN_STOP on each node; those that are there stay as they are.

    Returns:
        whether the service's directory was made, and the files that were.

    Raises:
        OSError: one could not be made.
    """
    directory = state_file(tree, service, "").parent
    is_new = not directory.is_dir()
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    made = tuple(path for path in (state_file(tree, service, node) for node in nodes) if not path.exists())
    for path in made:
        write_state(path, State.FROZEN_STOP)
    return is_new, made


def remove_state_files(tree: Path, service: str) -> None:
    """Remove the state files of a service, and their directory where it is empty then; raises OSError."""
    directory = state_file(tree, service, "").parent
    for path in directory.glob("STATE.*"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        directory.rmdir()
