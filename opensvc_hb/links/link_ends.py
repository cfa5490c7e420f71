"""Which thread, carrier and codec a line of the monitor file gets, by the protocol in force.

Answers: how does this node send on a line of its own, and listen on another's? Three formats
(`Protocol`) times two kinds of path make six pairs of ends; they are put together here, and
nowhere else is the protocol asked for. Where a disk's slots stand too close for a native slot
behind the C program's structure, `both` means the structure alone on that line.

Pure but for the threads, which are made and not started; called by `base`.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple, Optional, Sequence, Union

from opensvc_hb.core.config import Link, LinkType, Protocol
from opensvc_hb.core.messages import Beat, link_tag
from opensvc_hb.links import openha_structure
from opensvc_hb.links.carrier import NATIVE_SHAPE, Carrier, Shape, SlotCarrier
from opensvc_hb.links.codec_native import Opener, Sealer
from opensvc_hb.links.codec_openha import (
    NativeReader,
    ServiceOrder,
    StructureReader,
    StructureSealer,
    StructureWriter,
)
from opensvc_hb.links.keyring import Keyring
from opensvc_hb.links.lease_block import LeaseSeal
from opensvc_hb.links.link_thread import Clock, PutEvent
from opensvc_hb.links.listener import DatagramListener, Listener, SlotListener, StructureSlotListener
from opensvc_hb.links.openha_host import Host
from opensvc_hb.links.openha_limits import has_native_slot, slot_blocks
from opensvc_hb.links.sender import DatagramSender, Sealing, Sender
from opensvc_hb.links.slot_sender import SlotSender, StructureSlotSender
from opensvc_hb.links.slot_watch import SlotWatch
from opensvc_hb.links.structure_watch import StructureWatch
from opensvc_hb.links.table_bytes import TableDecoder, TableEncoder


class Surroundings(NamedTuple):
    """What all ends of one node share.

    Args:
        node: this node.
        links: the monitor file.
        floors: the highest incarnation accepted from each node so far.
        host: this node as structures describe it.
        order: names of our services, in file order.
        encoder: of our tables; decoders: of each other node's.
    """

    node: str
    protocol: Protocol
    links: Sequence[Link]
    keyring: Keyring
    floors: Mapping[str, int]
    host: Host
    order: ServiceOrder
    put: PutEvent
    clock: Clock
    encoder: TableEncoder
    decoders: Mapping[str, TableDecoder]


def shape_of(link: Link, protocol: Protocol, links: Sequence[Link]) -> Shape:
    """Return what the protocol asks of a line's carrier."""
    if protocol is Protocol.NATIVE:
        return NATIVE_SHAPE
    if link.type.is_disk:
        return Shape(slot_blocks=slot_blocks(link, protocol, links))
    return Shape(has_own_port=link.type is LinkType.NET)


def make_sender(link: Link, carrier: Union[Carrier, SlotCarrier], around: Surroundings) -> Sender:
    """Return the sending end of a line of ours."""
    put, clock = around.put, around.clock
    is_native = around.protocol is Protocol.NATIVE
    writer = StructureWriter(link, around.host, around.order)
    sealer = None
    if is_native or _carries_native(link, around):
        sealer = Sealer(around.keyring, around.node, link.id, tables=around.encoder)
    if not isinstance(carrier, SlotCarrier):
        sealing: Sealing = sealer if is_native and sealer is not None else StructureSealer(writer, sealer)
        return DatagramSender(carrier, sealing, put, clock)

    def structure_slot(beat: Beat) -> bytes:
        return openha_structure.encode_slot(writer.structure(beat))

    if sealer is None:
        return StructureSlotSender(carrier, structure_slot, put, clock)
    if is_native:
        return SlotSender(carrier, sealer, _lease_seal(link, around), put, clock)
    return SlotSender(carrier, sealer, _lease_seal(link, around), put, clock, before=structure_slot)


def make_listener(link: Link, carrier: Union[Carrier, SlotCarrier], around: Surroundings) -> Listener:
    """Return the listening end of a line of another node."""
    put, clock = around.put, around.clock
    opener: Optional[Opener] = None
    if around.protocol is not Protocol.OPENHA:
        opener = Opener(around.keyring, link, around.floors, around.node, around.decoders[link.node])
    if around.protocol is Protocol.NATIVE:
        assert opener is not None, "made above"
        if isinstance(carrier, SlotCarrier):
            return SlotListener(carrier, NativeReader(opener), _slot_watch(link, around), put, clock)
        return DatagramListener(carrier, NativeReader(opener), put, clock)
    reader = StructureReader(link, around.node, opener)
    if not isinstance(carrier, SlotCarrier):
        return DatagramListener(carrier, reader, put, clock)
    watch = _slot_watch(link, around) if _carries_native(link, around) else None
    return StructureSlotListener(carrier, reader, StructureWatch(reader, link.timeout_s), watch, put, clock)


def _carries_native(link: Link, around: Surroundings) -> bool:
    if around.protocol is not Protocol.BOTH:
        return False
    return not link.type.is_disk or has_native_slot(link, around.links)


def _slot_watch(link: Link, around: Surroundings) -> SlotWatch:
    floor = around.floors.get(link.node, 0)
    return SlotWatch(_lease_seal(link, around), around.keyring.cluster_tag, floor)


def _lease_seal(link: Link, around: Surroundings) -> LeaseSeal:
    return LeaseSeal(around.keyring, link.node, link_tag(link.id))
