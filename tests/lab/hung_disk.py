"""A way to a file that can be made to hang: a FUSE passthrough whose server is stopped by SIGSTOP.

    passthrough = Passthrough(image)
    with passthrough.opened() as path:      # attach a loop device to `path` here
        ...
    passthrough.hang()                      # who reads or writes that device waits, in state D
    passthrough.resume()                    # and goes on

The file that is reached is the very file below: the server (bindfs) keeps nothing to itself,
and a loop device with direct input and output has no cache of it either.

The mount is taken away as soon as the loop device holds the file, so that nobody sees it.
The server ends when the last user of the file has gone, or with the process that made it; who
hangs then gets an error.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Iterator

from machine import LabError

MOUNT_LIMIT_S = 10.0
END_LIMIT_S = 10.0


class Passthrough:
    """One server for the directory of one file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._place = file.with_name(f"{file.name}-passthrough")
        self._place.mkdir()
        self._complaints = file.with_name(f"{file.name}-passthrough.log")
        self.hangs = False
        with open(self._complaints, "wb") as complaints:
            # In the foreground and tied to this process, so that it cannot outlive a killed test.
            self._server = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "bindfs", "-f", str(file.parent), str(self._place)],
                stdin=subprocess.DEVNULL,
                stdout=complaints,
                stderr=complaints,
                start_new_session=True,
            )

    @contextlib.contextmanager
    def opened(self) -> Iterator[Path]:
        """Give the file by a path that exists inside the block only; who opened it there keeps it."""
        deadline = time.monotonic() + MOUNT_LIMIT_S
        while not os.path.ismount(self._place):
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise LabError(f"bindfs did not mount: {self._complaints.read_text()}")
            time.sleep(0.01)
        try:
            yield self._place / self._file.name
        finally:
            subprocess.run(["umount", "--lazy", str(self._place)], check=True)

    def hang(self) -> None:
        """Stop the server: every access waits."""
        self._server.send_signal(signal.SIGSTOP)
        self.hangs = True

    def resume(self) -> None:
        """Let the server go on."""
        self._server.send_signal(signal.SIGCONT)
        self.hangs = False

    def close(self) -> None:
        """End the server, which ends by itself when nobody has the file open any more."""
        if self.hangs:
            self.resume()
        try:
            self._server.wait(END_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
