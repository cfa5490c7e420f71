"""The thread of one link: its name, what it counts, and how it fails and recovers.

Answers: what do we tell about a link, and when is a failed path tried again? The sender loop
(`sender`) and the listener loop (`listener`) are what the two kinds of thread do; this is
what they have in common. Nothing here decides that a link is up: that is core's, from the age
of what was received.

Runs in: the thread of one link, except `LinkCounters`, which everybody may read.
"""

from __future__ import annotations

import logging
import os
import threading
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Callable, Mapping, Optional

from opensvc_hb.core.events import Event, LinkFailed
from opensvc_hb.links.carrier import LinkEnd, LinkRole
from opensvc_hb.links.codec_native import RejectReason

LOG = logging.getLogger("opensvc_hb.links")

RETRY_MAX_S = 5.0
_RETRY_FIRST_S = 0.05
_DEFECT_PAUSE_S = 0.5

Clock = Callable[[], float]
"""Seconds of CLOCK_BOOTTIME."""

PutEvent = Callable[[Event], None]
"""The monitor's inbox; never blocks."""


@dataclass(frozen=True)
class LinkCounters:
    """What one thread counted since it started; replaced as a whole, never changed.

    Args:
        sent: datagrams handed to the kernel, or slots written.
        received: datagrams accepted as beats or pieces of tables.
        rejected: datagrams, or changes of a slot, that were refused, by reason.
        errors: how often the path failed.
        failing: whether it fails now.
        last_error: the last failure's reason, also after it is over; "" for none.
        last_rejection: why the last bytes were refused; "" for none.
        last_at: clock seconds of the last beat sent or accepted; None for none yet.
        note: what is particular about the path now, "" for nothing.
        key_id: the key that sealed the last beat accepted; 0 for none yet.
    """

    link_id: str
    role: LinkRole
    sent: int = 0
    received: int = 0
    rejected: Mapping[RejectReason, int] = field(default_factory=lambda: MappingProxyType({}))
    errors: int = 0
    failing: bool = False
    last_error: str = ""
    last_rejection: str = ""
    last_at: Optional[float] = None
    note: str = ""
    key_id: int = 0


class LinkThread(ABC):
    """The thread of one link: its name, its counters, and how it fails and recovers.

    Runs in: the link's thread, except `start`, `stop`, `join` and reading `counters`.
    """

    def __init__(self, carrier: LinkEnd, role: LinkRole, put: PutEvent, clock: Clock) -> None:
        link = carrier.link
        end = "send" if role is LinkRole.SENDER else "listen"
        self.link = link
        self.counters = LinkCounters(link.id, role)
        self._carrier = carrier
        self._role = role
        self._put = put
        self._clock = clock
        self._is_open = False
        self._failures = 0
        self._retry_at = 0.0
        self._sent = 0
        self._received = 0
        self._errors = 0
        self._rejected: Counter[RejectReason] = Counter()
        self._failing_with = ""
        self._last_error = ""
        self._last_rejection = ""
        self._last_at: Optional[float] = None
        self._key_id = 0
        self._stop_at = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f"{link.type.value}-{end} {link.device}:{link.address}", daemon=True
        )

    def start(self) -> None:
        """Begin; everything that may fail or hang happens in the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it gives its carrier back itself."""
        self._stop_at = self._clock()
        self._stopped.set()
        self._wake()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; tell whether it came (a thread in a hung disk may not end)."""
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    @abstractmethod
    def _wake(self) -> None:
        """Make the thread look at `_stopped` now. Runs in: any thread."""

    @abstractmethod
    def _loop(self) -> None:
        """Work until stopped, then return."""

    def _run(self) -> None:
        arrow = ">" if self._role is LinkRole.SENDER else "<"
        _name_kernel_thread(f"{self.link.type.value}{arrow}{Path(self.link.device).name}")
        while True:
            try:
                self._loop()
                break
            except Exception as error:  # the top of a thread
                LOG.exception("%s: the thread failed and begins anew", self.link.id)
                self._fail(f"internal error: {error!r}")
                if self._stopped.wait(_DEFECT_PAUSE_S):
                    break
        self._close_carrier()

    def _ensure_open(self) -> bool:
        """Open the carrier if it is closed and due; tell whether it is open. Reports failures."""
        if not self._is_open and self._clock() >= self._retry_at:
            try:
                self._carrier.open(self._role)
                self._is_open = True
            except OSError as error:
                self._fail(reason_of(error))
        return self._is_open

    def _fail(self, reason: str) -> None:
        """Close the carrier, count, and report the failure if it is another than before.

        The first retry comes with the next beat or look, later ones after up to a quarter of
        the timeout: a path that comes back must be heard well before it is missed.
        """
        self._close_carrier()
        self._errors += 1
        longest_s = min(RETRY_MAX_S, self.link.timeout_s / 4)
        self._retry_at = self._clock() + min(longest_s, _RETRY_FIRST_S * 2 ** min(self._failures, 10))
        self._failures += 1
        self._last_error = reason
        if reason != self._failing_with:
            self._failing_with = reason
            LOG.warning("%s %s: %s", self._role.value, self.link.id, reason)
            self._put(LinkFailed(self.link.id, reason))
        self._publish()

    def _worked(self) -> None:
        """Note that the path carries again."""
        self._failures = 0
        if self._failing_with:
            LOG.info("%s %s: works again, after: %s", self._role.value, self.link.id, self._failing_with)
            self._failing_with = ""

    def _close_carrier(self) -> None:
        self._is_open = False
        try:
            self._carrier.close()
        except OSError as error:
            LOG.warning("%s %s: %s", self._role.value, self.link.id, reason_of(error))

    def _note(self) -> str:
        """Return what is particular about the path now, "" for nothing."""
        return self._carrier.note

    def _publish(self) -> None:
        """Give others the counters as they are now: one assignment, so never half of them."""
        self.counters = LinkCounters(
            link_id=self.link.id,
            role=self._role,
            sent=self._sent,
            received=self._received,
            rejected=MappingProxyType(dict(self._rejected)),
            errors=self._errors,
            failing=bool(self._failing_with),
            last_error=self._last_error,
            last_rejection=self._last_rejection,
            last_at=self._last_at,
            note=self._note(),
            key_id=self._key_id,
        )


def reason_of(error: OSError) -> str:
    """Return one line for people."""
    return error.strerror or str(error) or type(error).__name__


def _name_kernel_thread(name: str) -> None:
    """Name the thread for `top` and `ps`, 15 bytes at most; a kernel without /proc shows none."""
    try:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_bytes(name.encode()[:15])
    except OSError as error:
        LOG.debug("thread %d of process %d not named: %s", threading.get_native_id(), os.getpid(), error)
