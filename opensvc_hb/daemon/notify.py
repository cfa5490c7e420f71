"""How does systemd know that the daemon is ready, well, or about to end?

The notification protocol of sd_notify(3): lines of `NAME=value` in one datagram to the
socket that NOTIFY_SOCKET names. Without that variable every method does nothing. The
variables are taken out of the environment, since a child that inherited them could speak
in the daemon's name.

The watchdog must be fed by the loop that decides, never by a thread of its own: a daemon
whose decisions stand still has to be restarted. Nothing here waits: a message that
systemd cannot take at this moment is dropped, and the next one will do.

Runs in: main thread, then monitor thread.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import MutableMapping, Optional


class Notifier:
    """Speaks to the service manager that started us, if one did.

    Args:
        address: a socket's path, `@` in front for the abstract name space; "" for nobody.
        watchdog_s: the manager ends us when it is not fed for so long; None without watchdog.
    """

    def __init__(self, address: str = "", watchdog_s: Optional[float] = None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environment: Optional[MutableMapping[str, str]] = None) -> Notifier:
        """Return the notifier that the environment asks for, and take its variables out of it.

        Source: sd_notify(3), sd_watchdog_enabled(3).
        """
        variables = os.environ if environment is None else environment
        address = variables.pop("NOTIFY_SOCKET", "")
        microseconds_text = variables.pop("WATCHDOG_USEC", "")
        process_text = variables.pop("WATCHDOG_PID", "")
        watchdog_s = None
        if microseconds_text.isdecimal() and process_text in ("", str(os.getpid())):
            watchdog_s = int(microseconds_text) / 1e6 or None
        return cls(address, watchdog_s)

    @property
    def feed_interval_s(self) -> Optional[float]:
        """Return how often to call `feed_watchdog`: half its time, as sd_watchdog_enabled(3) advises."""
        return None if self.watchdog_s is None else self.watchdog_s / 2

    def ready(self, status: str = "") -> None:
        """Say that start-up, or a reload, is finished."""
        self._send("READY=1", *_status_line(status))

    def status(self, status: str) -> None:
        """Show one line in `systemctl status`."""
        self._send(*_status_line(status))

    def reloading(self) -> None:
        """Say that the configuration is read anew; `ready` must follow."""
        # systemd compares with its own CLOCK_MONOTONIC: BOOTTIME would be another clock.
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")

    def stopping(self, status: str = "") -> None:
        """Say that the daemon is about to end."""
        self._send("STOPPING=1", *_status_line(status))

    def feed_watchdog(self) -> None:
        """Say that the deciding loop turns; nothing without a watchdog."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address or not lines:
            return
        message = "\n".join(lines).encode("utf-8", "replace")
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(message, self._address)


def _status_line(status: str) -> list[str]:
    """Return the STATUS line of a text, made one line; none for an empty text."""
    return [f"STATUS={' '.join(status.split())}"] if status else []
