"""What a link type must be able to do: carry sealed datagrams, or keep a disk slot.

Answers: which interface do the sender loops and the listener loops work through? A link type
is a carrier with three small methods: open, read, write (and close). There are two kinds: a
`Carrier` sends and receives datagrams, a `SlotCarrier` reads and writes one slot as a whole.
Neither understands anything of what it carries.

A carrier that fails raises `OSError`, whose text is for people; the loops report it, close
the carrier, and open it again after a while. A carrier that hangs, hangs its own thread only.

Runs in: the thread of one link.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Optional

from opensvc_hb.core.config import Link
from opensvc_hb.links.codec_native import DATAGRAM_MAX_BYTES
from opensvc_hb.links.slot import BLOCK_BYTES, DATA_BYTES, SLOT_BLOCKS

READS_PER_TIMEOUT = 20
READ_PAUSE_MAX_S = 0.25


class LinkRole(enum.Enum):
    """Which end of a link this node is."""

    SENDER = "sender"
    LISTENER = "listener"


@dataclass(frozen=True)
class Arrival:
    """A sealed datagram that arrived.

    Args:
        is_baseline: it was there before we looked for the first time, so it tells nothing
            of the present: to be remembered, never to be taken for a beat.
    """

    datagram: bytes
    is_baseline: bool = False


@dataclass(frozen=True)
class Shape:
    """What the format of the beats asks of a carrier; as it stands: native beats.

    Args:
        slot_blocks: how many blocks of a disk a slot takes, all of them read and written at once.
        has_own_port: a multicast sender's datagrams leave from the port that they go to.
    """

    slot_blocks: int = SLOT_BLOCKS
    has_own_port: bool = False


NATIVE_SHAPE = Shape()


class LinkEnd(ABC):
    """One end of one link, of either kind.

    Args:
        link: the line of the monitor file.
        cluster_tag: 8 bytes naming our cluster, for carriers that look at what they find.
        shape: what the format of the beats asks.
    """

    limit_bytes = DATAGRAM_MAX_BYTES
    """The longest datagram that fits."""

    note = ""
    """See `LinkCounters.note`."""

    def __init__(self, link: Link, cluster_tag: bytes, shape: Shape = NATIVE_SHAPE) -> None:
        self.link = link
        self.cluster_tag = cluster_tag
        self.shape = shape

    @abstractmethod
    def open(self, role: LinkRole) -> None:
        """Get ready to send, or to listen; raises OSError."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back; may be called at any time, also twice."""


class Carrier(LinkEnd):
    """An end that carries datagrams."""

    backlog_max = 1
    """So many reads hand over everything that had arrived before the first of them."""

    refresh_every_s: Optional[float] = None
    """How often a listener calls `refresh`; None for never."""

    @abstractmethod
    def read(self) -> Optional[Arrival]:
        """Return what arrived next, None when there is nothing new; raises OSError."""

    @abstractmethod
    def write(self, datagram: bytes) -> None:
        """Send one datagram; raises OSError when it certainly did not leave."""

    @abstractmethod
    def fileno(self) -> Optional[int]:
        """Return the descriptor that becomes readable, None when the carrier is closed."""

    def refresh(self) -> None:
        """See that we still listen where we think; raises OSError to be opened anew."""


class SlotCarrier(LinkEnd):
    """An end that keeps one slot, which nodes read and write as a whole.

    A sender reads, too: what it wrote, to see that it is there.
    """

    limit_bytes = DATA_BYTES

    def __init__(self, link: Link, cluster_tag: bytes, shape: Shape = NATIVE_SHAPE) -> None:
        super().__init__(link, cluster_tag, shape)
        self.slot_bytes = shape.slot_blocks * BLOCK_BYTES
        self.reads_every_s = min(link.timeout_s / READS_PER_TIMEOUT, READ_PAUSE_MAX_S)
        """How often a listener looks."""
        self.piece_pause_s = 2 * self.reads_every_s
        """How long a piece of a table must stand: two looks of the slowest reader see it at least once."""

    @abstractmethod
    def read(self) -> bytes:
        """Return the slot as it is on the disk now, past every cache, whole; raises OSError."""

    @abstractmethod
    def write(self, content: bytes) -> None:
        """Write the slot; returns when it is where other nodes read it; raises OSError."""
