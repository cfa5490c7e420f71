"""The sender loop: the newest beat goes out on one link of ours, and nobody waits for it.

Answers: when does a beat leave on this link? A beat is put into a mailbox of one place: what
was not yet sent is replaced, because only the newest state of a node is worth sending. So a
hung disk delays no other link, and when it wakes it writes what is true then, not a queue of
the past.

On a network all datagrams of a beat leave at once (`DatagramSender`); a slot is another matter
(`slot_sender`).

Runs in: the sending thread of one link, except `offer` (any thread).
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import List, Optional, Protocol

from opensvc_hb.core.messages import Beat
from opensvc_hb.links.carrier import Carrier, LinkEnd, LinkRole
from opensvc_hb.links.codec_native import BeatTooLargeError
from opensvc_hb.links.link_thread import Clock, LinkThread, PutEvent, reason_of

LAST_WORD_WITHIN_S = 1.0

TABLE_REST_S = 25e-6
"""A network rests so long, for each service, after a table: a peer with thousands of services must have
done with one before the next comes. What is offered meanwhile goes out together."""

TABLE_REST_MAX_S = 0.1


@dataclass(frozen=True)
class Offer:
    """A beat to be sent; `with_table` asks for its table to go with it."""

    beat: Beat
    with_table: bool


class Mailbox:
    """One place: a newer offer replaces the one that waits. Used by two threads, under a lock."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: Optional[Offer] = None
        self._is_closed = False

    def put(self, offer: Offer) -> None:
        """Replace what waits. Never blocks for longer than a moment.

        A table asked for by an offer that never left is still asked for.
        """
        with self._changed:
            replaced = self._waiting
            if replaced is not None and replaced.with_table and not offer.with_table:
                table = offer.beat.table
                if table is None and replaced.beat.table_digest == offer.beat.table_digest:
                    table = replaced.beat.table
                offer = Offer(replace(offer.beat, table=table), table is not None)
            self._waiting = offer
            self._changed.notify()

    def take(self, timeout_s: Optional[float]) -> Optional[Offer]:
        """Return the newest offer, waiting for one; None after `timeout_s`, or when closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._is_closed, timeout_s)
            taken, self._waiting = self._waiting, None
            return taken

    def close(self) -> None:
        """Let `take` return at once from now on."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class Sender(LinkThread):
    """Sends on one line of ours."""

    def __init__(self, carrier: LinkEnd, put: PutEvent, clock: Clock) -> None:
        super().__init__(carrier, LinkRole.SENDER, put, clock)
        self._mailbox = Mailbox()

    def offer(self, beat: Beat, with_table: bool) -> None:
        """Have the thread send this beat as soon as it can. Runs in: any thread."""
        self._mailbox.put(Offer(beat, with_table))

    @abstractmethod
    def _write(self, offer: Offer, began_at: float) -> bool:
        """Send what this offer asks for; tell whether it was sent. Raises OSError or BeatTooLargeError.

        Args:
            offer: the newest beat, and whether its table goes with it.
            began_at: clock seconds, from before anything that may have blocked.
        """

    def _rest_s(self) -> float:
        """Return how long nothing may leave, seconds."""
        return 0.0

    def _sends_again_in_s(self) -> Optional[float]:
        """Return when `_overdue` is to be asked if nothing is offered before; None for never."""
        return None

    def _overdue(self) -> Optional[Offer]:
        """Return what is to be sent although nothing was offered."""
        return None

    def _wake(self) -> None:
        self._mailbox.close()

    def _loop(self) -> None:
        while True:
            self._stopped.wait(self._rest_s())
            taken = self._mailbox.take(self._sends_again_in_s())
            if self._stopped.is_set():
                self._say_last(taken)
                return
            if taken is None:
                taken = self._overdue()
            if taken is not None:
                self._send(taken)

    def _say_last(self, offer: Optional[Offer]) -> None:
        """Send what was offered just before the end: it may be this daemon's last word.

        Not when the thread hung meanwhile: by then it is no word of the present any more.
        """
        if offer is not None and self._clock() - self._stop_at < LAST_WORD_WITHIN_S:
            self._send(offer)

    def _send(self, offer: Offer) -> None:
        began_at = self._clock()
        if not self._ensure_open():
            return
        try:
            is_sent = self._write(offer, began_at)
        except BeatTooLargeError as error:
            self._fail(str(error))
        except OSError as error:
            self._fail(reason_of(error))
        else:
            if is_sent:
                self._last_at = self._clock()
            self._worked()
            self._publish()


class Sealing(Protocol):
    """Makes a beat's datagrams; a codec's sealer."""

    def seal(self, beat: Beat, with_table: bool, limit_bytes: int, /) -> List[bytes]:
        """Return the datagrams; raises BeatTooLargeError."""


class DatagramSender(Sender):
    """Sends datagrams: a beat's leave together."""

    def __init__(self, carrier: Carrier, sealer: Sealing, put: PutEvent, clock: Clock) -> None:
        super().__init__(carrier, put, clock)
        self._path = carrier
        self._sealer = sealer
        self._rests_until = 0.0

    def _rest_s(self) -> float:
        return max(0.0, self._rests_until - self._clock())

    def _write(self, offer: Offer, began_at: float) -> bool:
        services = len(offer.beat.table or ()) if offer.with_table else 0
        self._rests_until = began_at + min(services * TABLE_REST_S, TABLE_REST_MAX_S)
        for datagram in self._sealer.seal(offer.beat, offer.with_table, self._path.limit_bytes):
            self._path.write(datagram)
            self._sent += 1
        return True
