"""The sender of a disk slot: each beat is a write, and each write is read back.

Answers: what goes into the next write of our slot, and is it on the disk? A beat is written as
soon as it is offered and the write before is done. The write carries its lease block, a claim
in it too. Then the slot is read back past every cache and compared, every byte of it: only that
is `SlotWritten`, from which core counts the lease; anything else is a failure of the link.

A path that was just opened is read before it is written: the slot remembers this node's lives also
when its store does not. What stands there is authentic (its lease block is) or nothing. A beat below
it is not written, since no reader would accept it, and nothing else may know how far our lives
went: core is told (`SlotFound`), takes an incarnation above, and its next beat is written. That is
all that is made of it: no beat of anybody, no acknowledgement, no renewal.

Each write replaces the one before. So the pieces of a long table go one at a time, each with
the newest head, and each stands until its slowest reader has seen it: a beat that is offered
earlier repeats the piece, and is not held up by it.

Runs in: the sending thread of one link.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from typing import Callable, Optional, Tuple

from opensvc_hb.core.events import SlotFound, SlotWritten
from opensvc_hb.core.messages import Beat, LeaseBlock, Table
from opensvc_hb.links.carrier import SlotCarrier
from opensvc_hb.links.codec_native import Sealer
from opensvc_hb.links.lease_block import LeaseSeal, NoLease
from opensvc_hb.links.link_thread import Clock, PutEvent
from opensvc_hb.links.sender import Offer, Sender
from opensvc_hb.links.slot import SLOT_BYTES, SlotProblem, decode_slot, encode_slot

_WRITES_PER_S = 1_000_000


@dataclass(frozen=True)
class _Piece:
    """The piece of a table that stands in the slot, or is to be written first.

    Args:
        table, digest: the table, which later beats stand for as long as they have its digest.
        start: where the piece starts.
        next_start: where the next one starts; 0 after the last, and before this one was written.
        since: clock seconds of its first write; None before it.
        is_wanted_again: the table was asked for once more while it was on its way.
    """

    table: Table
    digest: bytes
    start: int = 0
    next_start: int = 0
    since: Optional[float] = None
    is_wanted_again: bool = False


def write_and_read_back(path: SlotCarrier, content: bytes) -> None:
    """Write a slot and see that it is there; raises OSError when it is not."""
    path.write(content)
    if path.read() != content:
        raise OSError(
            errno.EIO,
            f"{path.link.device}: what is read back from {path.link.address} differs: "
            "written by another node, or the write was lost",
        )


def nothing_before(_beat: Beat) -> bytes:
    """Return what stands before a native slot that stands alone."""
    return b""


class SlotSender(Sender):
    """Writes one slot of ours.

    Args:
        before: returns what stands before the native slot, in the same write: whole blocks.
    """

    def __init__(
        self,
        carrier: SlotCarrier,
        sealer: Sealer,
        seal: LeaseSeal,
        put: PutEvent,
        clock: Clock,
        before: Callable[[Beat], bytes] = nothing_before,
    ) -> None:
        super().__init__(carrier, put, clock)
        self._before = before
        self._path = carrier
        self._sealer = sealer
        self._lease_seal = seal
        self._writes = 0
        self._newest: Optional[Offer] = None
        self._piece: Optional[_Piece] = None
        self._found: Optional[Tuple[int, int]] = None
        """Incarnation and sequence in the slot as it was opened, (0, 0) for none; None: not read yet."""
        self._held = ""

    def _sends_again_in_s(self) -> Optional[float]:
        """Wait until the piece has stood long enough; a path that failed waits for a beat."""
        piece = self._piece
        if piece is None or piece.since is None or piece.next_start == 0 or not self._is_open:
            return None
        return max(0.0, piece.since + self._path.piece_pause_s - self._clock())

    def _overdue(self) -> Optional[Offer]:
        """Return the newest beat again, for the next piece, if that is due."""
        if self._newest is None or self._sends_again_in_s() != 0.0:
            return None
        return Offer(self._newest.beat, with_table=False)

    def _close_carrier(self) -> None:
        self._found = None
        super()._close_carrier()

    def _note(self) -> str:
        return self._held or super()._note()

    def _is_below(self, beat: Beat) -> bool:
        """Tell whether the slot held a later beat of ours as it was opened; core is told of it."""
        if self._found is None:
            self._found = self._look()
        is_below = (beat.incarnation, beat.sequence) < self._found
        self._held = ""
        if is_below:
            self._held = "not written: it holds incarnation {} sequence {} of this node".format(*self._found)
            self._put(SlotFound(self.link.id, *self._found))
        return is_below

    def _look(self) -> Tuple[int, int]:
        """Read our slot; return incarnation and sequence of what is authentic in it, else (0, 0)."""
        slot = decode_slot(self._path.read()[-SLOT_BYTES:], self._path.cluster_tag)
        if isinstance(slot, SlotProblem):
            return 0, 0
        lease = self._lease_seal.decode(slot.lease, slot.datagram)
        return (0, 0) if isinstance(lease, NoLease) else (lease.incarnation, lease.sequence)

    def _write(self, offer: Offer, began_at: float) -> bool:
        if self._is_below(offer.beat):
            return False
        self._newest = offer
        self._piece = self._piece_due(offer, began_at)
        datagram, next_start = self._datagram(offer.beat)
        slot = encode_slot(datagram, self._path.cluster_tag, self._lease(offer.beat, began_at, datagram))
        write_and_read_back(self._path, self._before(offer.beat) + slot)
        self._sent += 1
        if self._piece is not None:
            since = self._clock() if self._piece.since is None else self._piece.since
            self._piece = replace(self._piece, next_start=next_start, since=since)
        self._put(SlotWritten(self.link.id, offer.beat.incarnation, offer.beat.sequence, began_at))
        return True

    def _piece_due(self, offer: Offer, now: float) -> Optional[_Piece]:
        """Return the piece of a table that belongs into the write of this beat, None for none.

        Once begun, a table is written to its end although later beats ask for no table: its
        pieces go on with their heads as long as these stand for the same table.
        """
        beat, piece = offer.beat, self._piece
        wanted = beat.table if offer.with_table else None
        if piece is None or piece.digest != beat.table_digest:
            return None if wanted is None else _Piece(wanted, beat.table_digest)
        stands = piece.since is None or now < piece.since + self._path.piece_pause_s
        again = piece.is_wanted_again or (wanted is not None and (piece.start > 0 or not stands))
        if stands:
            return replace(piece, is_wanted_again=again)
        if piece.next_start:
            return _Piece(piece.table, piece.digest, piece.next_start, is_wanted_again=again)
        return _Piece(piece.table, piece.digest) if again else None

    def _datagram(self, beat: Beat) -> Tuple[bytes, int]:
        """Return the sealed beat, with the piece that is due, and where the next piece starts."""
        piece, limit_bytes = self._piece, self._path.limit_bytes
        if piece is None:
            return self._sealer.seal(beat, with_table=False, limit_bytes=limit_bytes)[0], 0
        return self._sealer.seal_piece(replace(beat, table=piece.table), piece.start, limit_bytes)

    def _lease(self, beat: Beat, began_at: float, datagram: bytes) -> bytes:
        """Return the lease block of this write.

        Writes are numbered by the clock, so that those of the next sender of this incarnation
        (after a reload) are above those of this one.
        """
        self._writes = max(self._writes + 1, int(began_at * _WRITES_PER_S))
        block = LeaseBlock(
            node=beat.sender,
            incarnation=beat.incarnation,
            sequence=beat.sequence,
            writes=self._writes,
            longest_timeout_s=beat.longest_timeout_s,
            claims=beat.claims,
        )
        return self._lease_seal.encode(block, datagram)


class StructureSlotSender(Sender):
    """Writes a slot of ours that holds the C program's structure alone: no lease, no acknowledgement.

    Args:
        content: makes a beat's slot, whole.
    """

    def __init__(
        self, carrier: SlotCarrier, content: Callable[[Beat], bytes], put: PutEvent, clock: Clock
    ) -> None:
        super().__init__(carrier, put, clock)
        self._path = carrier
        self._content = content

    def _write(self, offer: Offer, began_at: float) -> bool:
        write_and_read_back(self._path, self._content(offer.beat))
        self._sent += 1
        return True
