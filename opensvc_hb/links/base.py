"""All links of this node: one sending thread per own line, one listening thread per other.

Starts the threads of a configuration, gives every sender the beat, asks every listener, and
tells what they counted. No method waits for a thread but `close`, so that a hung disk is its
own thread's affair. The way of a beat: `send` here, `sender` or `slot_sender` (mailbox, then the
codec seals), a carrier (`net`, `unicast`, `dio`, `disk`), and on the other node a carrier,
`listener` (the codec opens; of a slot, `slot_watch` looks first), an event in the monitor's inbox.

Runs in: the thread that owns the object; the threads it starts talk back by events only.
"""

from __future__ import annotations

import time
from types import MappingProxyType
from typing import Callable, List, Mapping, Tuple, Union

from opensvc_hb.core.config import Config, Link, LinkType
from opensvc_hb.core.messages import Beat, link_tag
from opensvc_hb.links.carrier import Carrier, SlotCarrier
from opensvc_hb.links.codec_native import Opener, Sealer
from opensvc_hb.links.dio import DioCarrier
from opensvc_hb.links.disk import DiskCarrier
from opensvc_hb.links.keyring import Keyring
from opensvc_hb.links.lease_block import LeaseSeal
from opensvc_hb.links.link_thread import Clock, LinkCounters, PutEvent
from opensvc_hb.links.listener import DatagramListener, Listener, SlotListener
from opensvc_hb.links.net import NetCarrier
from opensvc_hb.links.sender import DatagramSender, Sender
from opensvc_hb.links.slot_sender import SlotSender
from opensvc_hb.links.slot_watch import SlotWatch
from opensvc_hb.links.unicast import UnicastCarrier

__all__ = ["CARRIERS", "CarrierMaker", "LinkCounters", "Links"]

CarrierMaker = Callable[[Link, bytes], Union[Carrier, SlotCarrier]]

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
        config: its links, and which node this is; the rest is not used here.
        keyring: seals and opens the beats.
        floors: the highest incarnation accepted from each node so far: lower ones are replays.
        put: takes every event, at once; called from the links' threads.
        clock: seconds of CLOCK_BOOTTIME.
        carriers: what to make for each link type.
    """

    def __init__(
        self,
        config: Config,
        keyring: Keyring,
        floors: Mapping[str, int],
        put: PutEvent,
        clock: Clock,
        carriers: Mapping[LinkType, CarrierMaker] = CARRIERS,
    ) -> None:
        self._senders: List[Sender] = []
        self._listeners: List[Listener] = []
        self._threads: List[Union[Sender, Listener]] = []
        for link in config.links:
            carrier = carriers[link.type](link, keyring.cluster_tag)
            seal = LeaseSeal(keyring, link.node, link_tag(link.id))
            if link.node == config.node:
                sealer = Sealer(keyring, config.node, link.id)
                if isinstance(carrier, SlotCarrier):
                    self._senders.append(SlotSender(carrier, sealer, seal, put, clock))
                else:
                    self._senders.append(DatagramSender(carrier, sealer, put, clock))
                self._threads.append(self._senders[-1])
            else:
                opener = Opener(keyring, link, floors, config.node)
                if isinstance(carrier, SlotCarrier):
                    watch = SlotWatch(seal, keyring.cluster_tag, floors.get(link.node, 0))
                    self._listeners.append(SlotListener(carrier, opener, watch, put, clock))
                else:
                    self._listeners.append(DatagramListener(carrier, opener, put, clock))
                self._threads.append(self._listeners[-1])

    def start(self) -> None:
        """Start a thread per line, once; a path that cannot be opened is reported as an event."""
        for thread in self._threads:
            thread.start()

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
