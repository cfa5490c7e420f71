"""How is this node reset when something of an instance cannot be ended in time?

Four ways, chosen by `reset` and `watchdog` of hb.conf, and each one refused unless this process
can prove that it would hit this very node and nothing else:

- sysrq: the kernel reboots at once, without sync or unmount. Only where this PID namespace is
  the machine's own and the node has no root directory of its own: what runs in a container, or
  under OSVC_ROOT, shares its machine with others.
- watchdog: the device is opened and fed while something is guarded; the deed is not to feed it.
  It also resets a machine that does not run this process any more.
- process1: ends process 1 of this PID namespace, and with it all of the node. Only under
  OSVC_ROOT, in a namespace that is not the machine's, and whose process 1 carries
  `OPENSVC_HB_RESET=process1` in its environment: a namespace made to be a node says so itself. A
  container's, or a machine's, process 1 never does.
- none: said in the log, not done.

Whether it is time is not decided here. Every way out of this process is a function of `Machine`,
so that no test comes near a machine's own.

Runs in: the guardian process; for the resource monitor, which opens no watchdog, in the monitor thread.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

MACHINE_PID_NAMESPACE = 0xEFFFFFFC
"""Inode of the machine's own PID namespace. Source: Linux, include/linux/proc_ns.h, PROC_PID_INIT_INO."""
CONSENT = b"OPENSVC_HB_RESET=process1"

WATCHDOG_SHARE = 0.1
"""The device resets when it was not fed for this share of T: from the reset's moment to T."""
_FEEDS_PER_TIMEOUT = 4

_REBOOT_RESTART = 0x01234567
_WATCHDOG_SET_TIMEOUT = 0xC0045706
_WATCHDOG_CLOSE = b"V"


class ResetKind(enum.Enum):
    """The keyword `reset` of hb.conf."""

    AUTO = "auto"
    """By the watchdog when one is named, and sysrq; none where sysrq is refused."""
    WATCHDOG = "watchdog"
    SYSRQ = "sysrq"
    PROCESS1 = "process1"
    NONE = "none"


def _set_watchdog_timeout(descriptor: int, timeout_s: int) -> None:
    fcntl.ioctl(descriptor, _WATCHDOG_SET_TIMEOUT, struct.pack("i", timeout_s))


def _end_process_1() -> None:
    """Source: reboot(2) and pid_namespaces(7): inside a PID namespace its process 1 is killed."""
    import ctypes  # the guardian process has it already; who only reads hb.conf needs it not

    library = ctypes.CDLL(None, use_errno=True)
    library.reboot(_REBOOT_RESTART)
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Machine:
    """What this module does to the machine, and asks of it; a test gives its own.

    Args:
        pid_namespace: returns the inode of this process's PID namespace.
        sees_itself: tells whether /proc is that of this PID namespace.
        process_1: returns the environment of process 1, as /proc has it.
        write: writes to a file of the kernel.
        end_process_1: never returns, or raises OSError.
    """

    pid_namespace: Callable[[], int] = lambda: Path("/proc/self/ns/pid").stat().st_ino
    sees_itself: Callable[[], bool] = lambda: os.readlink("/proc/self") == str(os.getpid())  # noqa: PTH115
    process_1: Callable[[], bytes] = Path("/proc/1/environ").read_bytes
    write: Callable[[str, bytes], None] = _write
    end_process_1: Callable[[], None] = _end_process_1
    open_watchdog: Callable[[str], int] = lambda path: os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    set_watchdog_timeout: Callable[[int, int], None] = _set_watchdog_timeout
    feed_watchdog: Callable[[int, bytes], int] = os.write
    close_watchdog: Callable[[int], None] = os.close


class Resetter:
    """Resets the node, or says why not.

    Args:
        under_root: the node has a root directory of its own (OSVC_ROOT).
        machine: what it does it with.
    """

    def __init__(self, under_root: bool, machine: Machine) -> None:
        self._under_root = under_root
        self._machine = machine
        self._kind = ResetKind.NONE
        self._device = ""
        self._descriptor: Optional[int] = None
        self._is_armed = True
        self._period_s = 0.0
        self.feed_at: Optional[float] = None
        """When `feed` wants to be called next, clock seconds; None for never."""

    def configure(self, kind: ResetKind, device: str) -> None:
        """Take in what hb.conf says: `reset` and `watchdog`."""
        if (kind, device) != (self._kind, self._device):
            self._close()
        self._kind, self._device = kind, device

    # -- the watchdog device ----------------------------------------------------------------------

    def guard(self, timeout_s: Optional[float], now: float) -> str:
        """Open the watchdog while something is guarded, close it otherwise.

        Args:
            timeout_s: T of the order in force; None when nothing is guarded.
            now: clock seconds.

        Returns:
            What went wrong, one line; "" for nothing.
        """
        uses_it = self._kind in (ResetKind.AUTO, ResetKind.WATCHDOG) and self._device
        if timeout_s is None or not uses_it:
            self._close()
            return ""
        if self._descriptor is not None or not self._is_armed:
            return ""
        refused = self._refuses_the_machine()
        if refused:
            self._is_armed = False
            return f"the watchdog {self._device} is not used: {refused}"
        try:
            self._descriptor = self._machine.open_watchdog(self._device)
            device_s = max(1, math.floor(WATCHDOG_SHARE * timeout_s))
            self._machine.set_watchdog_timeout(self._descriptor, device_s)
        except OSError as error:
            self._close()
            self._is_armed = False
            return f"the watchdog {self._device} cannot be used: {error.strerror or error}"
        self._period_s = device_s / _FEEDS_PER_TIMEOUT
        self.feed_at = now
        self.feed(now)
        return ""

    def feed(self, now: float) -> None:
        """Feed the watchdog if it is time."""
        if self._descriptor is None or self.feed_at is None or now < self.feed_at:
            return
        self.feed_at = now + self._period_s
        with contextlib.suppress(OSError):  # a device that takes no food resets the node: its promise
            self._machine.feed_watchdog(self._descriptor, b"\0")

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        self.feed_at = None
        self._is_armed = True
        if descriptor is None:
            return
        with contextlib.suppress(OSError):  # a device that cannot be disarmed resets the node
            self._machine.feed_watchdog(descriptor, _WATCHDOG_CLOSE)
        with contextlib.suppress(OSError):
            self._machine.close_watchdog(descriptor)

    # -- the deed -----------------------------------------------------------------------------------

    def reset(self, why: str, crashes: bool = False) -> str:
        """Reset the node; return what was done, or why not, for people.

        Args:
            why: one line for the kernel's log, which may be all that is left.
            crashes: by a crash of the kernel, where that can be chosen: it may leave a dump.
        """
        if self._kind is ResetKind.NONE or (self._kind is ResetKind.AUTO and self._under_root):
            return "the node is not reset: reset = none"
        if self._kind is ResetKind.PROCESS1:
            return self._by_process_1()
        refused = self._refuses_the_machine()
        if refused:
            return f"the node is not reset: {refused}"
        words = []
        if self._descriptor is not None:
            words.append(self._by_watchdog())
        if self._kind is not ResetKind.WATCHDOG:
            words.append(self._by_sysrq(why, b"c" if crashes else b"b"))
        return "; ".join(words) or f"the node is not reset: the watchdog {self._device} is not open"

    def _by_watchdog(self) -> str:
        assert self._descriptor is not None, "only an open device is left to starve"
        self.feed_at = None
        with contextlib.suppress(OSError):  # then it takes as long as it was told before
            self._machine.set_watchdog_timeout(self._descriptor, 1)
        return f"the node is reset: the watchdog {self._device} is not fed any more"

    def _by_sysrq(self, why: str, command: bytes) -> str:
        with contextlib.suppress(OSError):  # the kernel's log is for people, the reset is not
            self._machine.write("/dev/kmsg", f"<2>opensvc-hb: {why}\n".encode())
        try:
            self._machine.write("/proc/sysrq-trigger", command)
        except OSError as error:
            return f"the node is not reset: sysrq: {error.strerror or error}"
        return "the node is reset by sysrq"

    def _by_process_1(self) -> str:
        refused = self._refuses_process_1()
        if not refused:
            try:
                self._machine.end_process_1()
            except OSError as error:
                refused = f"reboot: {error.strerror or error}"
        return f"the node is not reset: {refused}"

    # -- what must be certain -------------------------------------------------------------------------

    def _refuses_the_machine(self) -> str:
        """Return why the machine must not be reset, "" when it is this node and nothing else."""
        if self._under_root:
            return "the node has a root directory of its own (OSVC_ROOT), the machine is not all its own"
        try:
            if self._machine.pid_namespace() == MACHINE_PID_NAMESPACE:
                return ""
        except OSError as error:
            return f"whether this is a container cannot be told: {error.strerror or error}"
        return "this node is a container on its machine"

    def _refuses_process_1(self) -> str:
        """Return why process 1 must not be ended, "" when it is a node's and agrees."""
        if not self._under_root:
            return "reset = process1 is for nodes with a root directory of their own (OSVC_ROOT)"
        try:
            if self._machine.pid_namespace() == MACHINE_PID_NAMESPACE:
                return "process 1 is the machine's"
            if not self._machine.sees_itself():
                return "/proc is another PID namespace's"
            consent = CONSENT in self._machine.process_1().split(b"\0")
        except OSError as error:
            return f"whose process 1 is cannot be told: {error.strerror or error}"
        return "" if consent else "process 1 does not have OPENSVC_HB_RESET=process1 in its environment"
