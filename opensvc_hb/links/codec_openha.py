"""Beats as OpenHA's structures, alone or with a native beat behind them, and both read again.

Answers: what do we tell a node that runs the C program, and what do we take from it? The
structure says the states of our services and no more. With `protocol = both` a native beat follows
in the same datagram: C cuts it off, a native node reads nothing else. A native beat is never sent
without a structure in front: C puts whatever is shorter over the beginning of the last
structure, and believes the mixture. With `protocol = openha` what follows a structure is not read
either: two nodes must take each other for the same thing.

What is sent. C starts a service whose other node says STOPPED, FROZEN_STOP or UNKNOWN, so UNKNOWN
is never sent: a service of ours whose state is not known yet (a daemon that has just begun, a
state that could not be stored) is announced as STARTING, which makes C wait, and its primary, too.

What is taken. The structure's node must be the line's; what it says is not authentic, and an
event of its own (`LegacyBeat`). A native beat that cannot be believed (another key, another
cluster) is counted, and the structure before it counts: to take a node that speaks for a silent
one would start here what runs there. One that was replayed, or is another node's, takes its
structure with it.

A `StructureWriter` or `StructureReader` belongs to the thread of one link.
"""

from __future__ import annotations

from typing import Callable, List, Optional, Sequence, Tuple, Union

from opensvc_hb.core.config import Link
from opensvc_hb.core.events import LegacyBeat
from opensvc_hb.core.messages import Beat
from opensvc_hb.core.states import State
from opensvc_hb.links.codec_native import MAGIC, Opened, Opener, Rejected, RejectReason, Sealer
from opensvc_hb.links.openha_host import Host
from opensvc_hb.links.openha_structure import (
    SERVICES_MAX,
    STRUCTURE_BYTES,
    Structure,
    decode,
    encode,
    native_part,
    split,
)

NATIVE_MAX_BYTES = 968
"""The longest native beat behind a structure: with it the datagram still goes in the seven
fragments, on a network of 1,500 bytes, that the structure alone needs."""

UNKNOWN_IS_SENT_AS = State.STARTING

Result = Union[Opened, LegacyBeat]

ServiceOrder = Callable[[], Sequence[str]]
"""Names of our services as the configuration lists them now; any thread may ask."""

_DISBELIEVED = (
    RejectReason.TOO_SHORT,
    RejectReason.UNKNOWN_KEY,
    RejectReason.FOREIGN_CLUSTER,
    RejectReason.NOT_AUTHENTIC,
    RejectReason.VERSION,
    RejectReason.MALFORMED,
)
"""What makes a native beat worthless, and says nothing against the structure in front of it."""


def is_disbelieved(result: Result) -> bool:
    """Tell whether a native beat was refused in a way that says nothing against its structure."""
    return isinstance(result, Rejected) and result.reason in _DISBELIEVED


class StructureWriter:
    """Makes the structures of one link of ours.

    Args:
        order: names of our services, in file order.
    """

    def __init__(self, link: Link, host: Host, order: ServiceOrder) -> None:
        self._link = link
        self._host = host
        self._order = order
        self._had_services = False

    def structure(self, beat: Beat) -> bytes:
        """Return the structure that says what this beat's table says."""
        services = self._services(beat)
        self._had_services = self._had_services or bool(services)
        is_disk = self._link.type.is_disk
        return encode(
            Structure(
                node=self._host.name,
                services=services,
                elapsed=self._host.elapsed(),
                pid=self._host.pid,
                hostid=self._host.hostid,
                port="" if is_disk else str(self._link.port),
                address="" if is_disk else self._link.address,
                # C sets it for a disk when it copies the first service.
                up=int(self._had_services or not is_disk),
            )
        )

    def _services(self, beat: Beat) -> Tuple[Tuple[str, State], ...]:
        """Return names and states: those listed in their order, then what else the table has."""
        states = {entry.service: entry.state.openha for entry in beat.table or ()}
        listed = self._order()
        names = [*listed, *(name for name in states if name not in listed)]
        known = ((name, states.get(name, State.UNKNOWN)) for name in names[:SERVICES_MAX])
        return tuple((name, UNKNOWN_IS_SENT_AS if s is State.UNKNOWN else s) for name, s in known)


class StructureSealer:
    """Makes the datagrams of one link of ours: structures, each with a native beat where wanted.

    Args:
        sealer: seals the native beats; None sends structures alone.
    """

    def __init__(self, writer: StructureWriter, sealer: Optional[Sealer]) -> None:
        self._writer = writer
        self._sealer = sealer

    def seal(self, beat: Beat, with_table: bool, limit_bytes: int) -> List[bytes]:
        """Return the datagrams of a beat, the native part of none longer than `limit_bytes`.

        Raises:
            BeatTooLargeError: the native beat does not fit.
        """
        structure = self._writer.structure(beat)
        if self._sealer is None:
            return [structure]
        natives = self._sealer.seal(beat, with_table, min(limit_bytes, NATIVE_MAX_BYTES))
        return [structure + native for native in natives]


class NativeReader:
    """Opens what arrives where native beats are expected; a structure in front of one is skipped.

    So a node that speaks natively only understands one that speaks both.
    """

    def __init__(self, opener: Opener) -> None:
        self._opener = opener

    def read(self, data: bytes) -> Tuple[Result, ...]:
        """Return what the datagram says."""
        return (self._opener.open(native_part(data)),)

    def begin_again(self) -> None:
        """Forget what was accepted."""
        self._opener.begin_again()


class StructureReader:
    """Reads the structures that arrive on one line of another node.

    Args:
        node: this node.
        opener: opens native beats behind structures; None leaves them unread.
    """

    def __init__(self, link: Link, node: str, opener: Optional[Opener]) -> None:
        self._link = link
        self._node = node
        self._opener = opener

    def read(self, data: bytes) -> Tuple[Result, ...]:
        """Return what a datagram says: a beat of either kind, and why the other was refused.

        A native beat alone is read too, where native beats are.
        """
        structure, native = split(data)
        if native is None and len(data) < STRUCTURE_BYTES and data.startswith(MAGIC):
            structure, native = b"", data
        if native is None or self._opener is None:
            return (self.claim(structure),)
        opened = self._opener.open(native)
        if structure and is_disbelieved(opened):
            return (opened, self.claim(structure))
        return (opened,)

    def begin_again(self) -> None:
        """Forget what was accepted of native beats; structures have no order that could be."""
        if self._opener is not None:
            self._opener.begin_again()

    def claim(self, data: bytes) -> Union[LegacyBeat, Rejected]:
        """Return the beat that a structure is, or why it is none of this line's node."""
        structure = decode(data)
        if isinstance(structure, Rejected):
            return structure
        if structure.node.lower() != self._link.node:
            if structure.node.lower() == self._node:
                return Rejected(RejectReason.OWN_BEAT, "a structure in our own name")
            return Rejected(
                RejectReason.WRONG_SENDER,
                f"the line is {self._link.node}'s, the structure says {structure.node!a}",
            )
        return LegacyBeat(
            self._link.id, self._link.node, structure.services, structure.elapsed, structure.pid
        )
