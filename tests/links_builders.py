"""Builders for tests of links: a beat, a line, a keyring, with defaults."""

from __future__ import annotations

import queue
import random
import threading
import time

from opensvc_hb.core.config import Config, Link, LinkType
from opensvc_hb.core.messages import Beat, Entry, Hearing, LeaseBlock, LinkHeard, link_tag, table_digest
from opensvc_hb.core.states import State
from opensvc_hb.links.carrier import NATIVE_SHAPE, SlotCarrier
from opensvc_hb.links.codec_native import Sealer
from opensvc_hb.links.keyring import ClusterKey, Keyring
from opensvc_hb.links.lease_block import LeaseSeal
from opensvc_hb.links.slot import SLOT_BYTES, decode_slot, encode_slot

NODES = ("deb1.opensvc.com", "deb2.opensvc.com")
KEYRING = Keyring(b"c" * 16, (ClusterKey(1, b"k" * 32),))


def boot_clock():
    """The clock of production: seconds since boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def make_link(**changes):
    """A line of deb1."""
    values = {
        "node": NODES[0],
        "type": LinkType.NET,
        "device": "eth1",
        "address": "239.131.50.10",
        "port": 5010,
        "timeout_s": 10.0,
        "line": 1,
    }
    return Link(**{**values, **changes})


def make_table(count, state=State.STARTED):
    """A table whose numbers differ from service to service, as in real life."""
    chance = random.Random(count)
    return tuple(
        Entry(
            f"svc{n:04d}.opensvc.com",
            state,
            chance.randrange(1, 500),
            chance.randrange(60),
            chance.randrange(60, 100),
            chance.random() < 0.5,
        )
        for n in range(count)
    )


def make_beat(sequence=1, services=0, **changes):
    """A beat of deb1 that hears deb2 on three links."""
    table = make_table(services) if services else None
    values = {
        "sender": NODES[0],
        "incarnation": 7,
        "sequence": sequence,
        "table_digest": table_digest(table or ()),
        "table": table,
        "hearings": (
            Hearing(NODES[1], 5, 999, b"12345678", tuple(LinkHeard(tag, 990 + tag) for tag in range(3))),
        ),
        "config_digest": b"87654321",
        "longest_timeout_s": 10.0,
    }
    return Beat(**{**values, **changes})


def make_seal(link, keyring=KEYRING, node=None):
    """The seal of the lease blocks in a line's slot."""
    return LeaseSeal(keyring, node or link.node, link_tag(link.id))


def make_lease(sequence=1, **changes):
    """The lease block of `make_beat(sequence)`."""
    values = {"node": NODES[0], "incarnation": 7, "sequence": sequence, "writes": sequence}
    return LeaseBlock(**{**values, "longest_timeout_s": 10.0, **changes})


def make_slot(link, sequence=1, keyring=KEYRING, lease=None, **changes):
    """The slot of a line as its node writes it; `changes` are the beat's, `lease` is the whole block."""
    beat = make_beat(sequence, **changes)
    [datagram] = Sealer(keyring, beat.sender, link.id).seal(beat, with_table=False, limit_bytes=4096)
    if lease is None:
        block = make_lease(sequence, node=beat.sender, incarnation=beat.incarnation, claims=beat.claims)
        lease = make_seal(link, keyring, beat.sender).encode(block, datagram)
    return encode_slot(datagram, keyring.cluster_tag, lease)


class HandClock:
    """A clock that stands still until it is set."""

    def __init__(self, now=100.0):
        self.now = now

    def __call__(self):
        return self.now


class MemoryDisk:
    """One slot in memory, which fails as told; `carrier` makes an end of a link of it.

    `failure` fails reads and writes, `read_failure` reads only; a write may be lost, or replaced
    at once by what another node writes.
    """

    def __init__(self, content=bytes(SLOT_BYTES)):
        self.content = content
        self.written = []
        self.failure = None
        self.read_failure = None
        self.loses_writes = False
        self.overwritten_by = None
        self.is_hanging = threading.Event()
        self.let_go = threading.Event()
        self.let_go.set()
        self.reads = 0

    def carrier(self, link, cluster_tag, shape=NATIVE_SHAPE):
        """A `CarrierMaker`."""
        return MemorySlot(link, cluster_tag, shape, self)

    def reach(self):
        """Hang or fail, if that is due."""
        if not self.let_go.is_set():
            self.is_hanging.set()
            self.let_go.wait()
        if self.failure is not None:
            raise self.failure

    def datagrams(self):
        """The datagrams of all writes."""
        return [decode_slot(content, None).datagram for content in self.written]


class MemorySlot(SlotCarrier):
    """An end of a link whose slot is a `MemoryDisk`."""

    def __init__(self, link, cluster_tag, shape, disk):
        super().__init__(link, cluster_tag, shape)
        self.disk = disk

    def open(self, role):
        """Nothing to open."""

    def read(self):
        """The slot."""
        self.disk.reach()
        if self.disk.read_failure is not None:
            raise self.disk.read_failure
        self.disk.reads += 1
        return self.disk.content

    def write(self, content):
        """The slot, unless it is lost or overwritten."""
        self.disk.reach()
        self.disk.written.append(content)
        if not self.disk.loses_writes:
            self.disk.content = self.disk.overwritten_by or content

    def close(self):
        """Nothing to close."""


def make_config(node, links, nodes=NODES):
    """The configuration of one node, without services."""
    return Config(node, nodes, tuple(links), {})


def take_until(events, condition, within_s=5.0):
    """Take events until one fulfils the condition; return all taken, that one last."""
    deadline = time.monotonic() + within_s
    taken = []
    while True:
        try:
            taken.append(events.get(timeout=max(0.0, deadline - time.monotonic())))
        except queue.Empty:
            raise AssertionError(
                f"nothing fulfilled the condition within {within_s} s; taken: {taken}"
            ) from None
        if condition(taken[-1]):
            return taken


def wait_until(condition, within_s=5.0):
    """Wait for a condition that no event tells of; return what it gave."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true within {within_s} s"
        time.sleep(0.005)
    return value
