"""What one node tells the others: the beat, as core makes and reads it.

A beat is one snapshot of the sender's core: its states and its acknowledgements were true
together. Codecs turn a beat into bytes and back; they never change what it says.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Optional, Tuple

from opensvc_hb.core.records import replace
from opensvc_hb.core.states import PERMISSIVE, State

DIGEST_BYTES = 8


@dataclass(frozen=True)
class Entry:
    """One instance in the table of a beat.

    Args:
        service: the service's hb name, 1 to 63 bytes of UTF-8.
        state_sequence: grows by one with each change of state in this incarnation or before.
        epoch: the service's epoch that this instance holds; 0 before its first start.
        resources_up: what the agent last said; an instance whose resources are not up yields.
        confirmed: False after this node was paused, until a peer acknowledged a later beat.
    """

    service: str
    state: State
    state_sequence: int
    epoch: int
    highest_epoch: int = 0
    resources_up: bool = True
    confirmed: bool = True


Table = Tuple[Entry, ...]
"""Entries sorted by service name."""


@dataclass(frozen=True)
class LinkHeard:
    """A link of a peer that is UP at the sender, by tag, and the last sequence read on it."""

    tag: int
    sequence: int


@dataclass(frozen=True)
class Hearing:
    """What the sender says of one peer: an acknowledgement, processed by its core.

    Args:
        node: the peer meant.
        incarnation: the highest incarnation of that peer ever accepted, 0 for none.
        sequence: the highest sequence of that incarnation that was processed.
        table_digest: digest of that peer's table as the sender holds it; b"" for none.
        links: that peer's links on which the sender hears it now.
    """

    node: str
    incarnation: int
    sequence: int
    table_digest: bytes
    links: Tuple[LinkHeard, ...] = ()


@dataclass(frozen=True)
class Beat:
    """One beat. `(incarnation, sequence)` never repeats for a sender.

    Args:
        table: None in a steady beat, whose table is the one with `table_digest`.
        config_digest: digest of the shared configuration as the sender read it.
        longest_timeout_s: T, the longest timeout of the sender's monitor file.
        restarting_for_s: above 0, the sender's daemon restarts and asks its peers to wait so long.
        left: the last word of this incarnation: every instance has ended as the table says.
        claims: the silent node whose lease the sender claims, "" for none. It travels in the lease
            block of a slot only: a claim is for the disk.
    """

    sender: str
    incarnation: int
    sequence: int
    table_digest: bytes
    table: Optional[Table]
    hearings: Tuple[Hearing, ...] = ()
    config_digest: bytes = b""
    longest_timeout_s: float = 0.0
    restarting_for_s: float = 0.0
    left: bool = False
    claims: str = ""

    def hearing_of(self, node: str) -> Optional[Hearing]:
        """Return what the sender says of `node`, None when it says nothing."""
        for hearing in self.hearings:
            if hearing.node == node:
                return hearing
        return None


@dataclass(frozen=True)
class LeaseBlock:
    """What a node's slot says of its lease, in a block of its own, in every write.

    Args:
        sequence: of the beat in the same write.
        writes: grows with each write of this incarnation: no two writes are alike.
        longest_timeout_s: T of the writer: a contender uses the larger of both.
        claims: the silent node whose lease the writer claims, "" for none.
    """

    node: str
    incarnation: int
    sequence: int
    writes: int
    longest_timeout_s: float
    claims: str = ""


def repeated(announced: Beat, newest: Beat) -> Optional[Beat]:
    """Return what may be said in place of `newest`, whose states could not be stored; None for nothing.

    We live, and stand where we stood: silence would have the peers start what runs here. What was
    announced last is said again with the newest sequence: no new state, no new acknowledgement. What
    needs no store is new: a restart that is promised, T, a claim. Who acknowledges this beat is taken
    to have read them.
    A state that permits a peer to start and is not ours any more becomes UNKNOWN, which permits
    nothing.
    """
    if newest.incarnation != announced.incarnation:
        return None  # not stored either
    states = {entry.service: entry.state for entry in newest.table or ()}
    table = tuple(
        replace(entry, state=State.UNKNOWN)
        if entry.state in PERMISSIVE and states.get(entry.service) is not entry.state
        else entry
        for entry in announced.table or ()
    )
    return replace(
        announced,
        sequence=newest.sequence,
        table=table,
        table_digest=table_digest(table),
        longest_timeout_s=newest.longest_timeout_s,
        restarting_for_s=newest.restarting_for_s,
        claims=newest.claims,
    )


def link_tag(link_id: str) -> int:
    """Return the 32-bit tag by which beats name a link (both ends read the same monitor file)."""
    return zlib.crc32(link_id.encode())


def digest_line(entry: Entry) -> str:
    """Return what an entry adds to its table's digest: a line of its own."""
    return (
        f"{entry.service} {int(entry.state)} {entry.state_sequence} {entry.epoch} {entry.highest_epoch} "
        f"{entry.resources_up:d}{entry.confirmed:d}"
    )


def table_digest(table: Table) -> bytes:
    """Return the digest of a table: `DIGEST_BYTES` bytes, equal for equal tables."""
    text = "\n".join(digest_line(entry) for entry in table)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()
