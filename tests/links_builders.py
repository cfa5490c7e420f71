"""Builders for tests of links: a beat, a line, a keyring, with defaults."""

from __future__ import annotations

import queue
import random
import time

from opensvc_hb.core.config import Config, Link, LinkType
from opensvc_hb.core.messages import Beat, Entry, Hearing, LinkHeard, table_digest
from opensvc_hb.core.states import State
from opensvc_hb.links.keyring import ClusterKey, Keyring

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
