"""What a link type must be able to do: carry sealed datagrams.

Answers: which interface do the sender loop and the listener loop work through? A link type
is a carrier with three small methods: open, read, write (and close). A carrier understands
nothing of what it carries.

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


class LinkRole(enum.Enum):
    """Which end of a link this node is."""

    SENDER = "sender"
    LISTENER = "listener"


@dataclass(frozen=True)
class Arrival:
    """A sealed datagram that a carrier read.

    Args:
        is_baseline: it was there before we looked for the first time, so it tells nothing
            of the present: to be remembered, never to be taken for a beat.
    """

    datagram: bytes
    is_baseline: bool = False


class Carrier(ABC):
    """One end of one link: carries sealed datagrams, understands none.

    Args:
        link: the line of the monitor file.
        cluster_tag: 8 bytes naming our cluster, for carriers that frame what they write.
    """

    limit_bytes = DATAGRAM_MAX_BYTES
    """The longest datagram that `write` takes."""

    backlog_max = 1
    """So many reads hand over everything that had arrived before the first of them."""

    reads_every_s: Optional[float] = None
    """How often to look; None where `fileno` wakes us."""

    piece_pause_s = 0.0
    """How long a written datagram must stand before the next; 0 where none replaces another."""

    refresh_every_s: Optional[float] = None
    """How often a listener calls `refresh`; None for never."""

    note = ""
    """See `LinkCounters.note`."""

    def __init__(self, link: Link, cluster_tag: bytes) -> None:
        self.link = link
        self.cluster_tag = cluster_tag

    @abstractmethod
    def open(self, role: LinkRole) -> None:
        """Get ready to send, or to listen; raises OSError."""

    @abstractmethod
    def read(self) -> Optional[Arrival]:
        """Return what arrived next, None when there is nothing new; raises OSError."""

    @abstractmethod
    def write(self, datagram: bytes) -> None:
        """Send one datagram; raises OSError when it certainly did not leave."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back; may be called at any time, also twice."""

    def fileno(self) -> Optional[int]:
        """Return the descriptor that becomes readable, None when `reads_every_s` says when."""
        return None

    def refresh(self) -> None:  # noqa: B027 - most carriers have nothing to see to
        """See that we still listen where we think; raises OSError to be opened anew."""
