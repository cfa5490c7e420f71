"""Runs a shell's command line on a terminal until two dates were shown, then types docker's keys to detach.

    python attach_and_detach.py COMMAND_LINE

Ends as the command ends, but in success when it was detached: docker's client counts that as an error.
"""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time

KEYS = b"\x10\x11"
"""Control-P, Control-Q."""
SHOWN = b"UTC"
ENOUGH = 2
LIMIT_S = 30.0


def main() -> int:
    """Attach, look, detach; return the command's exit status."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv("/bin/sh", ["/bin/sh", "-c", sys.argv[1]])
    seen = b""
    typed = False
    deadline = time.monotonic() + LIMIT_S
    while True:
        ready, _, _ = select.select([terminal], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            os.kill(pid, signal.SIGKILL)
            break
        try:
            data = os.read(terminal, 4096)
        except OSError:  # the other end of the terminal is closed
            break
        if not data:
            break
        os.write(1, data)
        seen += data
        if not typed and seen.count(SHOWN) >= ENOUGH:
            os.write(terminal, KEYS)
            typed = True
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 0 if typed and status >= 0 else status


if __name__ == "__main__":
    sys.exit(main())
