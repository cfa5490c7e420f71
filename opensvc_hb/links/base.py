"""All links of this node: one sending thread per own line, one listening thread per other.

Starts the threads of a configuration, gives every sender the beat, asks every listener, and
tells what they counted. No method waits for a thread but `close`, so that a hung disk is its
own thread's affair. The way of a beat: `send` here, `sender` or `slot_sender` (mailbox, then the
codec seals), a carrier (`net`, `unicast`, `dio`, `disk`), and on the other node a carrier,
`listener` (the codec opens; of a slot, `slot_watch` looks first), an event in the monitor's inbox.
Which codec, and which threads, is the protocol's affair: `link_ends`.

Runs in: the thread that owns the object; the threads it starts talk back by events only.
"""

from __future__ import annotations

import time
from functools import partial
from types import MappingProxyType
from typing import Callable, Iterable, List, Mapping, Optional, Tuple, Union

from opensvc_hb.core.config import Config, Link, LinkType, Protocol
from opensvc_hb.core.messages import Beat
from opensvc_hb.links.carrier import Carrier, Shape, SlotCarrier
from opensvc_hb.links.dio import DioCarrier
from opensvc_hb.links.disk import DiskCarrier
from opensvc_hb.links.keyring import Keyring
from opensvc_hb.links.link_ends import Surroundings, make_listener, make_sender, shape_of
from opensvc_hb.links.link_thread import Clock, LinkCounters, PutEvent
from opensvc_hb.links.listener import DatagramListener, Listener, SlotLooker
from opensvc_hb.links.net import NetCarrier
from opensvc_hb.links.openha_host import Host, this_host
from opensvc_hb.links.sender import Sender
from opensvc_hb.links.table_bytes import TableDecoder, TableEncoder
from opensvc_hb.links.unicast import UnicastCarrier

__all__ = ["CARRIERS", "CarrierMaker", "LinkCounters", "Links"]

CarrierMaker = Callable[[Link, bytes, Shape], Union[Carrier, SlotCarrier]]

CARRIERS: Mapping[LinkType, CarrierMaker] = MappingProxyType(
    {
        LinkType.NET: NetCarrier,
        LinkType.UNICAST: UnicastCarrier,
        LinkType.DIO: DioCarrier,
        LinkType.DISK: DiskCarrier,
    }
)
"""Every link type: a new one is a carrier and a line here (and a word in the monitor file)."""


class Links:
    """The links of one configuration, from `start` to `close`.

    Args:
        config: its links, the protocol on them, and which node this is; of its services, their order.
        keyring: seals and opens the beats.
        floors: the highest incarnation accepted from each node so far: lower ones are replays.
        put: takes every event, at once; called from the links' threads.
        clock: seconds of CLOCK_BOOTTIME.
        carriers: what to make for each link type.
        host: this node as the C program's structures describe it; None for the machine we run on.
    """

    def __init__(
        self,
        config: Config,
        keyring: Keyring,
        floors: Mapping[str, int],
        put: PutEvent,
        clock: Clock,
        carriers: Mapping[LinkType, CarrierMaker] = CARRIERS,
        host: Optional[Host] = None,
    ) -> None:
        self._services = tuple(config.services)
        self._host = this_host(config.node) if host is None else host
        self._has_structures = config.protocol is not Protocol.NATIVE
        self._senders: List[Sender] = []
        self._listeners: List[Listener] = []
        self._threads: List[Union[Sender, Listener]] = []
        around = Surroundings(
            node=config.node,
            protocol=config.protocol,
            links=config.links,
            keyring=keyring,
            floors=floors,
            host=self._host,
            order=lambda: self._services,
            put=put,
            clock=clock,
            encoder=TableEncoder(),
            decoders={link.node: TableDecoder() for link in config.links},
        )
        for link in config.links:
            shape = shape_of(link, config.protocol, config.links)
            carrier = carriers[link.type](link, keyring.cluster_tag, shape)
            if link.node == config.node:
                self._senders.append(make_sender(link, carrier, around))
                self._threads.append(self._senders[-1])
            else:
                self._listeners.append(make_listener(link, carrier, around))
                self._threads.append(self._listeners[-1])
        self._introduce()

    def start(self) -> None:
        """Start a thread per line, once; a path that cannot be opened is reported as an event."""
        if self._has_structures:
            self._host.start()
        for thread in self._threads:
            thread.start()

    def _introduce(self) -> None:
        """Have what a network brings from a node point its slots' listeners to what it writes."""
        for listener in self._listeners:
            slots = [
                other
                for other in self._listeners
                if isinstance(other, SlotLooker) and other.link.node == listener.link.node
            ]
            if isinstance(listener, DatagramListener) and slots:
                listener.tell(partial(_expect, slots))

    def order_services(self, names: Iterable[str]) -> None:
        """List our services in this order from now on, where beats are the C program's structures."""
        self._services = tuple(names)

    def send(self, beat: Beat, with_table: bool) -> None:
        """Send a beat on every link of ours, as soon as each can; what still waits is replaced."""
        for sender in self._senders:
            sender.offer(beat, with_table)

    def ask(self, token: int) -> Tuple[str, ...]:
        """Ask every listener for `LinkDrained(token)`; return the ids of the links asked.

        A link that hangs does not answer: who waits for all of them needs a limit.
        """
        for listener in self._listeners:
            listener.ask(token)
        return tuple(listener.link.id for listener in self._listeners)

    def counters(self) -> Tuple[LinkCounters, ...]:
        """Return what each link counted, in file order."""
        return tuple(thread.counters for thread in self._threads)

    def close(self, timeout_s: float) -> Tuple[str, ...]:
        """End the threads; return the ids of links whose thread did not end in time (hung).

        What was offered just before is still sent where the path does not hang.
        """
        for thread in self._threads:
            thread.stop()
        deadline = time.clock_gettime(time.CLOCK_BOOTTIME) + timeout_s
        return tuple(
            thread.link.id
            for thread in self._threads
            if not thread.join(deadline - time.clock_gettime(time.CLOCK_BOOTTIME))
        )


def _expect(slots: Iterable[SlotLooker]) -> None:
    for slot in slots:
        slot.expect()
