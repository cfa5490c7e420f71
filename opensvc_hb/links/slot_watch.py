"""What a listener makes of the reads of one slot: beats, and how long it has not changed.

Answers: does this read bring a datagram to be opened, and what may be said of the slot as a
record of its node's lease? A slot's first content is a baseline: it may be the last word of a
node that died a year ago. Content that did not change is nothing new.

`unchanged_since` counts only content that a living node of ours can have written last: a slot
never written, foreign, torn, without a valid lease block, or with one that is not above what was
accepted before, is seen for the first time by every read that shows it. So is whatever comes
after a read that failed: nobody knows what stood there meanwhile.

A first sight is a floor only for what was above it: what is below it, while nothing above it was
seen, is a first sight again. Else a node whose store is lost, and whose own slot is torn, would be
refused for ever by one that never heard it, and so cannot tell it what it refuses. As every first
sight that is no beat, and the slot's age counts from it. The floor that core gave stays.

Pure; belongs to the thread of one `SlotListener`.
Source: OpenHA's disk listener takes a stale slot for a live peer at boot, and a slot never
written for one that lives for ever; neither can happen here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Optional, Tuple

from opensvc_hb.core.events import SlotView
from opensvc_hb.core.messages import LeaseBlock
from opensvc_hb.links.carrier import Arrival
from opensvc_hb.links.lease_block import LeaseSeal, NoLease
from opensvc_hb.links.slot import SlotProblem, decode_slot

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class _Content:
    """What the slot holds since it changed last.

    Args:
        problem: why it is no lease's; "" for the slot of a node of ours.
    """

    data: bytes
    digest: bytes
    problem: str
    longest_timeout_s: float


class SlotWatch:
    """The reads of one slot, one after the other.

    Args:
        seal: opens the lease blocks of the slot's node.
        cluster_tag: the tag of our cluster.
        floor: the highest incarnation accepted from the node so far; lower ones are older lives.
    """

    def __init__(self, seal: LeaseSeal, cluster_tag: bytes, floor: int) -> None:
        self._seal = seal
        self._cluster_tag = cluster_tag
        self._floor = floor
        self._content: Optional[_Content] = None
        self._accepted: Optional[Tuple[int, int, int]] = None
        self._accepted_digest = b""
        self._is_first_sight = True
        """What was accepted last was there when it was first looked at: nothing was seen above it."""
        self.view: Optional[SlotView] = None
        """As of the newest read; None when it failed, or there was none yet."""

    @property
    def note(self) -> str:
        """What is particular about the slot's content; "" for nothing."""
        return "" if self._content is None else self._content.problem

    def saw(self, data: bytes, read_at: float, seen_at: float) -> Optional[Arrival]:
        """Take in what a read showed; return the datagram if the slot changed since the last read.

        Args:
            data: the slot, whole.
            read_at: clock seconds from before the read.
            seen_at: clock seconds from after it.
        """
        arrival = None
        before = self._content
        is_changed = before is None or data != before.data
        if is_changed:
            self._content, arrival = self._judge(data, is_baseline=before is None)
        content = self._content
        assert content is not None, "judged when it was new"
        last, unchanged_since = self.view, seen_at
        if last is not None and not is_changed and not content.problem:
            unchanged_since = last.unchanged_since
        self.view = SlotView(
            read_at, unchanged_since, content.digest, content.problem, content.longest_timeout_s
        )
        return arrival

    def missed(self) -> None:
        """Note that a read failed. What was seen is remembered: it may still be there, and is no beat."""
        self.view = None

    def _judge(self, data: bytes, is_baseline: bool) -> Tuple[_Content, Optional[Arrival]]:
        """Return what new content is, and its datagram."""
        digest = hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
        slot = decode_slot(data, self._cluster_tag)
        if isinstance(slot, SlotProblem):
            return _Content(data, digest, slot.value, 0.0), None
        lease = self._seal.decode(slot.lease, slot.datagram)
        if isinstance(lease, NoLease):
            self._is_first_sight = self._is_first_sight and is_baseline
            return _Content(data, digest, lease.reason, 0.0), Arrival(slot.datagram, is_baseline)
        is_baseline = is_baseline or self._begins_again(lease)
        problem = self._refuse_age(lease, digest, is_baseline)
        return _Content(data, digest, problem, lease.longest_timeout_s), Arrival(slot.datagram, is_baseline)

    def _begins_again(self, lease: LeaseBlock) -> bool:
        """Tell whether this is below a first sight above which nothing was seen."""
        if self._accepted is None or not self._is_first_sight or lease.incarnation < self._floor:
            return False
        return (lease.incarnation, lease.sequence, lease.writes) < self._accepted

    def _refuse_age(self, lease: LeaseBlock, digest: bytes, is_baseline: bool) -> str:
        """Return why the block is not above what was accepted before; "" when it is, or is the same."""
        if lease.incarnation < self._floor:
            return f"of an older life: incarnation {lease.incarnation}, while {self._floor} was heard"
        position = (lease.incarnation, lease.sequence, lease.writes)
        if is_baseline or self._accepted is None or position > self._accepted:
            self._accepted, self._accepted_digest = position, digest
            self._is_first_sight = is_baseline
            return ""
        if digest == self._accepted_digest:
            return ""
        return f"older than what was read: {_written(position)} is not above {_written(self._accepted)}"


def _written(position: Tuple[int, int, int]) -> str:
    return "incarnation {} sequence {} write {}".format(*position)
