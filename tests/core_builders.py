"""Builders for the core's tests, with defaults, so that a case says only what matters to it."""

from __future__ import annotations

from dataclasses import replace

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import Config, Link, LinkType, Policies, Service
from opensvc_hb.core.events import BeatReceived, CommandGiven
from opensvc_hb.core.messages import Beat, Entry, Hearing, LinkHeard, link_tag, table_digest
from opensvc_hb.core.monitoring import monitor_rows
from opensvc_hb.core.negotiation import holding_rule
from opensvc_hb.core.node_state import Instance, Liveness, NodeState, Offer, Peer, PeerLink, Phase, Sent
from opensvc_hb.core.states import Avail, Role, State
from opensvc_hb.core.step import step

NODES = ("deb1", "deb2")
TIMEOUT_S = 5.0
NOW = 1000.0
"""A moment long after the daemon's start."""

_LINK_TYPES = {
    "net": (LinkType.NET, "eth0", "239.131.50.10", 1234),
    "unicast": (LinkType.UNICAST, "eth1", "10.0.0.9", 1235),
    "dio": (LinkType.DIO, "/dev/shared", "0", 0),
    "disk": (LinkType.DISK, "/dev/other", "0", 0),
}


def make_config(
    node="deb1", links=("net",), timeout_s=TIMEOUT_S, services=("svc1",), nodes=NODES, policies=None
):
    """A cluster's configuration as `node` reads it; the first of `nodes` is primary everywhere."""
    made = []
    for number, sender in enumerate(nodes):
        for name in links:
            kind, device, address, port = _LINK_TYPES[name]
            where = str(number * 10) if kind.is_disk else address
            end = port + 10 * number if port else 0
            made.append(Link(sender, kind, device, where, end, timeout_s, len(made) + 1))
    return Config(
        node=node,
        nodes=tuple(nodes),
        links=tuple(made),
        services={name: Service(name, name, tuple(nodes)) for name in services},
        policies=policies or Policies(wait_for_peer_s=0.0),
        digest=b"same    ",
    )


def make_entry(state, epoch=0, service="svc1", sequence=1, **rest):
    """What a peer announces of an instance."""
    return Entry(service, state, sequence, epoch, **rest)


def make_peer(config, entries=(), liveness=Liveness.ALIVE, now=NOW, **rest):
    """What a node knows of its peer: heard just now when alive, silent for long otherwise."""
    node = config.peers[0]
    heard = liveness in (Liveness.ALIVE, Liveness.ONE_WAY)
    heard_at = now if heard else now - 100 * TIMEOUT_S
    links = {
        link.id: PeerLink(link.id, link.timeout_s, heard_at, 50, heard) for link in config.links_from(node)
    }
    table = {entry.service: entry for entry in entries}
    peer = Peer(
        node=node,
        links=links,
        silent_from=0.0,
        incarnation=3,
        heard=True,
        sequence=50,
        settled_sequence=50,
        table=table,
        table_digest=table_digest(tuple(table.values())),
        table_current=True,
        liveness=liveness,
        hears_us_at=now if liveness is Liveness.ALIVE else None,
        left_until=now + 3.0 if liveness is Liveness.LEFT else None,
        promised_until=now + 30.0 if liveness is Liveness.RESTARTING else None,
        promise_s=30.0 if liveness is Liveness.RESTARTING else 0.0,
    )
    return replace(peer, **rest)


def make_node(config, instances=(), peer=None, now=NOW, **rest):
    """A node in the middle of its life, with its last step just behind it."""
    state = NodeState(
        config=config,
        started_at=0.0,
        last_at=now,
        phase=Phase.RUNNING,
        incarnation=7,
        sequence=200,
        sent=(Sent(200, now),),
        next_beat_at=now + config.beat_interval_s,
        instances={i.service: i for i in instances},
        peers={peer.node: peer} if peer is not None else {},
    )
    return replace(state, **rest)


def make_instance(state, service="svc1", **rest):
    """An instance that the agent was asked about; running states have their resources up."""
    up = state in (State.STARTED, State.FROZEN_START)
    defaults = {"resources": Avail.UP if up else Avail.DOWN, "epoch": 0, "highest_epoch": 0}
    if state is State.START_READY:
        defaults["offer"] = Offer(7, 200, NOW)
    return Instance(service=service, state=state, **{**defaults, **rest})


def settled(peer, now=NOW):
    """The peer acknowledged our offer, in good time."""
    return replace(peer, acked=200, trusted_until=now + 3.0)


def make_beat(config, entries=(), sequence=60, incarnation=3, acked=0, us=7, hears=True, **rest):
    """A beat of the only peer, as `config.node` receives it.

    Args:
        acked: our highest sequence that it processed; us: our incarnation that it knows.
        hears: whether it hears us on every link of ours.
    """
    table = tuple(sorted(entries, key=lambda entry: entry.service))
    tags = [link_tag(link.id) for link in config.links_from(config.node)] if hears else []
    hearing = Hearing(config.node, us, acked, b"", tuple(LinkHeard(tag, acked) for tag in tags))
    beat = Beat(
        sender=config.peers[0],
        incarnation=incarnation,
        sequence=sequence,
        table_digest=table_digest(table),
        table=table,
        hearings=(hearing,),
        config_digest=config.digest,
        longest_timeout_s=config.longest_timeout_s,
    )
    return replace(beat, **rest)


def receive(state, beat, now=NOW, link=0):
    """Give a beat to a node, on the first of the sender's links unless told otherwise."""
    link_id = state.config.links_from(beat.sender)[link].id
    return step(state, BeatReceived(link_id, beat), now)


def command(state, verb, now=NOW, service="svc1", force=False):
    """Give an operator's command to a node; its id is 99."""
    event = CommandGiven(99, service, verb, force, "root", "a reason", "today")
    return step(state, event, now)


def only(effects, kind):
    """The effects of one kind, in order."""
    return [effect for effect in effects if isinstance(effect, kind)]


def reply_code(effects):
    """The code of the only reply, None when there is none yet."""
    replies = only(effects, fx.Reply)
    assert len(replies) <= 1
    return replies[0].code if replies else None


def announced(effects, service="svc1"):
    """The state that the effects announce for a service, None when nothing is sent."""
    for sent in only(effects, fx.SendNow):
        for entry in sent.beat.table:
            if entry.service == service:
                return entry.state
    return None


def rule_ids(state, now):
    """The ids of the rows that hold each instance of a node, as it stands, and its monitored resources."""
    held = [i for i in state.instances.values() if i.verified]
    watched = {row.id for i in held for _resource, row in monitor_rows(state, i, now)}
    return {holding_rule(state, i, now).id for i in held} | watched


ROLE_NODES = {Role.PRIMARY: NODES[0], Role.SECONDARY: NODES[1]}
"""A node in each role."""
