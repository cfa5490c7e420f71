"""Tell when something changes in a directory: the kernel's inotify, so nobody polls.

A burst of changes (an editor, a copied directory) gives one call, once it has been quiet for
a moment.

Runs in: watch thread.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import threading
from pathlib import Path
from typing import Callable, Sequence

log = logging.getLogger("configuration")

QUIET_S = 0.3
_IN_CLOSE_WRITE = 0x8
_IN_MOVED = 0x40 | 0x80
_IN_CREATE = 0x100
_IN_DELETE = 0x200
_MASK = _IN_CLOSE_WRITE | _IN_MOVED | _IN_CREATE | _IN_DELETE
_IN_CLOEXEC = os.O_CLOEXEC


class Watch:
    """Watches directories (not below them) from `start` to `close`.

    Args:
        changed: called on the watch thread after a burst of changes; must not wait.
    """

    def __init__(self, directories: Sequence[Path], changed: Callable[[], None]) -> None:
        self._directories = tuple(directories)
        self._changed = changed
        self._wake_reader, self._wake_writer = os.pipe()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        os.close(self._wake_writer)
        if self._thread.is_alive():
            self._thread.join(2.0)

    def _run(self) -> None:
        try:
            self._tell_changes()
        except Exception:  # the top of the thread: the daemon does its work without it
            log.exception("the watch thread ended; the configuration is read again by hbmgr reload only")

    def _tell_changes(self) -> None:
        """Call `changed` after each burst of changes, until closed."""
        try:
            descriptor = self._open()
        except OSError as error:
            log.warning("changes of services are not noticed by themselves, use SIGHUP: %s", error)
            return
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(self._wake_reader, select.POLLIN | select.POLLHUP)
        pending = False
        while True:
            ready = {fd for fd, _ in poll.poll(QUIET_S * 1000 if pending else None)}
            if self._wake_reader in ready:
                break
            if descriptor in ready:
                os.read(descriptor, 65536)
                pending = True
            elif pending:
                pending = False
                self._changed()
        os.close(descriptor)
        os.close(self._wake_reader)

    def _open(self) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = int(libc.inotify_init1(_IN_CLOEXEC))
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        for directory in self._directories:
            if not directory.is_dir():
                continue
            if libc.inotify_add_watch(descriptor, os.fsencode(directory), _MASK) < 0:
                error = ctypes.get_errno()
                os.close(descriptor)
                raise OSError(error, os.strerror(error), str(directory))
        return descriptor
