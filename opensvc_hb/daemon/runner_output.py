"""Where does the output of actions go? To the daemon, line by line; to our stderr when that is gone.

A daemon that does not take its lines holds up no action: beyond a bound they are dropped, and
their number is told.

Runs in: the runner process.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import Dict, Sequence

from opensvc_hb.daemon.runner_wire import Channel, Printed

_UNSENT_BYTES_MAX = 4 << 20
"""Output beyond what the daemon has not taken yet is dropped, and counted."""


class Output:
    """Passes output on.

    Args:
        channel: to the daemon.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._dropped: Dict[str, int] = {}

    def pass_on(self, label: str, texts: Sequence[str]) -> None:
        """Pass on lines; `label` names whose they are."""
        heard = not texts or self._channel.is_heard()
        for text in texts:
            if not heard:
                say(f"{label}: {text}")
            elif self._channel.waiting_bytes > _UNSENT_BYTES_MAX:
                self._dropped[label] = self._dropped.get(label, 0) + 1
            else:
                self._channel.send(Printed(label, text))

    def end(self, label: str) -> None:
        """An action has ended: tell what is missing of its output."""
        dropped = self._dropped.pop(label, 0)
        if dropped:
            text = f"({dropped} lines of output were dropped: the daemon did not take them in time)"
            self._channel.send(Printed(label, text))


def say(text: str) -> None:
    """Write a line to stderr if that takes it at once: its reader may have gone with the daemon."""
    poll = select.poll()
    poll.register(2, select.POLLOUT)
    with contextlib.suppress(OSError):
        if poll.poll(0):
            os.write(2, text.encode(errors="replace")[: select.PIPE_BUF - 1] + b"\n")
