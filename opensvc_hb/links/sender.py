"""The sender loop: the newest beat goes out on one link of ours, and nobody waits for it.

Answers: when does a beat leave on this link, and in how many datagrams? A beat is put into a
mailbox of one place: what was not yet sent is replaced, because only the newest state of a
node is worth sending. So a hung disk delays no other link, and when it wakes it writes what
is true then, not a queue of the past.

On a network all datagrams of a beat leave at once. In a slot each write replaces the one
before, so the pieces of a long table are written one at a time, each long enough for its
readers, and each with the newest head.

Runs in: the sending thread of one link, except `offer` (any thread).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Iterator, Optional

from opensvc_hb.core.messages import Beat, Table
from opensvc_hb.links.carrier import Carrier, LinkRole
from opensvc_hb.links.codec_native import BeatTooLargeError, Sealer
from opensvc_hb.links.link_thread import Clock, LinkThread, PutEvent, reason_of

LAST_WORD_WITHIN_S = 1.0


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

    def __init__(self, carrier: Carrier, sealer: Sealer, put: PutEvent, clock: Clock) -> None:
        super().__init__(carrier, LinkRole.SENDER, put, clock)
        self._sealer = sealer
        self._mailbox = Mailbox()
        self._cycle_table: Optional[Table] = None
        self._cycle_digest = b""
        self._cycle_start = 0

    def offer(self, beat: Beat, with_table: bool) -> None:
        """Have the thread send this beat as soon as it can. Runs in: any thread."""
        self._mailbox.put(Offer(beat, with_table))

    def _wake(self) -> None:
        self._mailbox.close()

    def _loop(self) -> None:
        newest: Optional[Offer] = None
        while True:
            pieces_left = self._cycle_table is not None and self._is_open
            taken = self._mailbox.take(self._carrier.piece_pause_s if pieces_left else None)
            if self._stopped.is_set():
                self._say_last(taken)
                return
            if taken is None and newest is not None:
                # The piece has stood long enough: the next one, with the same head.
                taken = Offer(newest.beat, with_table=False)
            if taken is not None:
                newest = taken
                self._send(taken)

    def _say_last(self, offer: Optional[Offer]) -> None:
        """Send what was offered just before the end: it may be this daemon's last word.

        Not when the thread hung meanwhile: by then it is no word of the present any more.
        """
        if offer is not None and self._clock() - self._stop_at < LAST_WORD_WITHIN_S:
            self._send(offer)

    def _send(self, offer: Offer) -> None:
        if not self._ensure_open():
            return
        try:
            for datagram in self._datagrams(offer):
                self._carrier.write(datagram)
                self._sent += 1
        except BeatTooLargeError as error:
            self._fail(str(error))
        except OSError as error:
            self._fail(reason_of(error))
        else:
            self._last_at = self._clock()
            self._worked()
            self._publish()

    def _datagrams(self, offer: Offer) -> Iterator[bytes]:
        """Return what to write now for this offer."""
        limit_bytes = self._carrier.limit_bytes
        if self._carrier.piece_pause_s == 0.0:
            return iter(self._sealer.seal(offer.beat, offer.with_table, limit_bytes))
        return iter([self._next_slot(offer, limit_bytes)])

    def _next_slot(self, offer: Offer, limit_bytes: int) -> bytes:
        """Return one datagram: the newest head, with the next piece of the table if one is due.

        Once begun, a table is written to its end although later beats ask for no table: its
        pieces go on with their heads as long as these stand for the same table.
        """
        beat = offer.beat
        is_same = self._cycle_table is not None and beat.table_digest == self._cycle_digest
        if not is_same:
            self._cycle_table = beat.table if offer.with_table else None
            self._cycle_digest = beat.table_digest
            self._cycle_start = 0
        if self._cycle_table is None:
            return self._sealer.seal(beat, with_table=False, limit_bytes=limit_bytes)[0]
        datagram, self._cycle_start = self._sealer.seal_piece(
            replace(beat, table=self._cycle_table), self._cycle_start, limit_bytes
        )
        if self._cycle_start == 0:
            self._cycle_table = None
        return datagram
