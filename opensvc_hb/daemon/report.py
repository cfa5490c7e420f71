"""What does the daemon know? The documents that commands ask for, as JSON-ready values.

Pure: the core's frozen state and the links' counters in, plain dictionaries out. The state
names are ours (FROZEN_START); whoever speaks OpenHA's words maps them.

Runs in: control thread, on the state that the monitor thread published last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence

from opensvc_hb.core.config import Config, Link, Protocol, TakeoverPolicy
from opensvc_hb.core.guardian import END_SHARE
from opensvc_hb.core.healing import HEALED
from opensvc_hb.core.lease import guard_answer, is_leased, is_vouched
from opensvc_hb.core.messages import link_tag
from opensvc_hb.core.monitoring import MONITOR, monitor_rows
from opensvc_hb.core.negotiation import holding_rule
from opensvc_hb.core.node_state import Instance, Liveness, NodeState, Peer, Phase
from opensvc_hb.core.rules import Guard, Rule
from opensvc_hb.core.states import State
from opensvc_hb.core.summary import needs_lease
from opensvc_hb.links.base import LinkCounters

SCHEMA = "opensvc.hb.status/1"
STALL_SHOWN_S = 600.0
"""A stall stays among the alarms for so long."""
TWIN_SHOWN_S = 60.0
"""Another node of our name stays among the alarms for so long after its last trace."""


@dataclass(frozen=True)
class Notices:
    """What the shell itself has to say, beside the core.

    Args:
        store: why states cannot be stored, "" when they can.
        services: one line per service whose file cannot be read.
        journal: why the journal cannot be written, "" when it can.
        key_ids: the keys in use, the sealing one first.
        guardian: why nothing that needs the guardian can start, "" when it answers.
        state_files: why OpenHA's state files are not kept in step, "" when they are, or none are kept.
        pid: the daemon's process.
    """

    store: str = ""
    services: Sequence[str] = ()
    journal: str = ""
    realtime: str = ""
    key_ids: Sequence[int] = ()
    guardian: str = ""
    state_files: str = ""
    pid: int = 0


def status_document(
    state: NodeState, counters: Mapping[str, LinkCounters], notices: Notices, now: float
) -> Dict[str, Any]:
    """Return the whole status: node, peers, links, services, alarms."""
    rules = holding_rules(state, now)
    return {
        "schema": SCHEMA,
        "node": state.config.node,
        "phase": state.phase.value,
        "incarnation": state.incarnation,
        "running_for_s": round(now - state.started_at, 3),
        "realtime": notices.realtime,
        "key_ids": list(notices.key_ids),
        "lease": _lease(state, now),
        "peers": {node: _peer(state, peer, now) for node, peer in state.peers.items()},
        "links": [
            link_document(state, link, counters.get(link.id), now, notices.pid) for link in state.config.links
        ],
        "services": {
            name: service_document(state, instance, rules.get(name), now)
            for name, instance in sorted(state.instances.items())
        },
        "alarms": alarms(state, notices, now, rules),
        "notes": notes(state),
    }


def holding_rules(state: NodeState, now: float) -> Dict[str, Rule]:
    """Return the row that holds each service here, in their order; none of those the agent is asked about."""
    return {
        name: holding_rule(state, instance, now)
        for name, instance in sorted(state.instances.items())
        if instance.verified
    }


def _age(at: Optional[float], now: float) -> Optional[float]:
    return None if at is None else round(max(0.0, now - at), 3)


def _lease(state: NodeState, now: float) -> Optional[Dict[str, Any]]:
    """Return this node's lease; None where there is no disk to hold one on.

    `left_s` is what is left of `lasts_s` seconds until what runs here begins to end; None for not
    known. `needed`: something runs here that needs it.
    """
    if not is_leased(state):
        return None
    lease = state.lease
    return {
        "left_s": None if lease.until is None else round(max(0.0, lease.until - now), 3),
        "lasts_s": END_SHARE * state.config.longest_timeout_s,
        "renewed_by": lease.renewed_by,
        "renewed_s_ago": _age(lease.counts_from, now),
        "needed": any(needs_lease(state, instance) for instance in state.instances.values()),
        "broken": lease.is_broken,
    }


def _peer(state: NodeState, peer: Peer, now: float) -> Dict[str, Any]:
    heard = [link.heard_at for link in peer.links.values() if link.heard_at is not None]
    waits = state.started_at + state.config.policies.wait_for_peer_s - now
    return {
        "liveness": peer.liveness.value,
        "incarnation": peer.incarnation,
        "last_beat_age_s": _age(max(heard, default=None), now),
        "hears_us": peer.hears_us_at is not None and peer.liveness is Liveness.ALIVE,
        "same_configuration": not peer.config_digest or peer.config_digest == state.config.digest,
        "runs_openha": peer.is_legacy,
        "restarting_for_s": (
            None if peer.promised_until is None else round(max(0.0, peer.promised_until - now), 3)
        ),
        "waiting_for_s": round(waits, 3) if peer.liveness is Liveness.WAITING else None,
        "confirmed_dead": peer.confirmed_dead,
    }


def link_document(
    state: NodeState, link: Link, counters: Optional[LinkCounters], now: float, pid: int = 0
) -> Dict[str, Any]:
    """Return one line of the monitor file as it stands on this node.

    Its `pid` is the sender's process: ours, `pid`, on a link of ours; of others where they say it, as the
    C program does.
    """
    own = link.node == state.config.node
    document: Dict[str, Any] = {
        "id": link.id,
        "type": link.type.value,
        "role": "sender" if own else "listener",
        "node": link.node,
        "device": link.device,
        "address": link.address,
        "port": link.port or None,
        "timeout_s": link.timeout_s,
        "line": link.line,
        "pid": (pid if own else _sender_pid(state, link)) or None,
    }
    document.update(_sender(state, link, counters, now) if own else _listener(state, link, now))
    document.update(
        {
            "sent": counters.sent if counters else 0,
            "received": counters.received if counters else 0,
            "rejected": {r.value: n for r, n in counters.rejected.items()} if counters else {},
            "errors": counters.errors if counters else 0,
            "last_error": counters.last_error if counters else "",
            "note": counters.note if counters else "",
            "key_id": (counters.key_id if counters else 0) or None,
        }
    )
    return document


def _sender_pid(state: NodeState, link: Link) -> int:
    peer = state.peers.get(link.node)
    if peer is None or peer.legacy is None or not peer.is_legacy:
        return 0
    mark = peer.legacy.marks.get(link.id)
    return mark[1] if mark is not None else 0


def _sender(state: NodeState, link: Link, counters: Optional[LinkCounters], now: float) -> Dict[str, Any]:
    """Return how our own sending goes, and who hears it."""
    at = counters.last_at if counters else None
    tag = link_tag(link.id)
    alive = [p for p in state.peers.values() if p.liveness in (Liveness.ALIVE, Liveness.ONE_WAY)]
    # The C program does not say what it hears.
    deaf = sorted(
        p.node
        for p in alive
        if not p.is_legacy
        and now - max(p.hears.get(tag, 0.0), p.heard_from_at, p.silent_from) > link.timeout_s
    )
    fresh = at is not None and now - at < max(link.timeout_s, 2 * state.config.beat_interval_s)
    status = "UP" if fresh else "DOWN"
    return {"status": "ONE-WAY" if fresh and deaf else status, "age_s": _age(at, now), "not_heard_by": deaf}


def _listener(state: NodeState, link: Link, now: float) -> Dict[str, Any]:
    peer = state.peers.get(link.node)
    known = peer.links.get(link.id) if peer else None
    at = known.heard_at if known else None
    up = at is not None and now < at + link.timeout_s
    return {"status": "UP" if up else "DOWN", "age_s": _age(at, now), "not_heard_by": []}


def service_document(
    state: NodeState, instance: Instance, rule: Optional[Rule], now: float
) -> Dict[str, Any]:
    """Return one service: both sides' states, and the row that holds it; None while the agent is asked."""
    service = state.config.services[instance.service]
    instances: Dict[str, Any] = {}
    for node in service.nodes:
        if node == state.config.node:
            instances[node] = _own(state, instance, now)
        else:
            instances[node] = _theirs(state.peers.get(node), instance.service)
    return {
        "service": service.svcname,
        "nodes": list(service.nodes),
        "instances": instances,
        "rule": {
            "id": rule.id if rule else "",
            "sentence": rule.sentence if rule else "the agent is being asked what runs here",
        },
        "monitored": _monitored(state, instance, now),
    }


def _monitored(state: NodeState, instance: Instance, now: float) -> List[Dict[str, Any]]:
    """Return each monitored resource of a service that runs here, with the row that it meets."""
    return [
        {
            "rid": resource.rid,
            "answer": instance.watching.resource(resource.rid).answer_text,
            "detail": instance.watching.resource(resource.rid).detail,
            "rule": {"id": row.id, "sentence": row.sentence},
        }
        for resource, row in monitor_rows(state, instance, now)
    ]


def shown_state(state: NodeState, instance: Instance, node: str) -> State:
    """Return the state of a service on one of its nodes, as everyone is shown it."""
    if node == state.config.node:
        return instance.state
    return State[_theirs(state.peers.get(node), instance.service)["state"]]


def _own(state: NodeState, instance: Instance, now: float) -> Dict[str, Any]:
    freeze = instance.freeze
    action = instance.action
    return {
        "state": instance.state.name,
        "epoch": instance.epoch,
        "since_s": round(now - instance.since, 3),
        "confirmed": state.unconfirmed_from is None,
        "resources": instance.resources.value,
        "frozen": None if freeze is None else {"who": freeze.who, "why": freeze.reason, "when": freeze.wall},
        "action": None
        if action is None
        else {"verb": action.verb.value, "running_for_s": round(now - action.since, 3)},
        "detail": instance.detail,
    }


def _theirs(peer: Optional[Peer], name: str) -> Dict[str, Any]:
    """Return a peer's instance: UNKNOWN as soon as the peer is not heard, as OpenHA shows it."""
    entry = peer.table.get(name) if peer is not None else None
    known = peer is not None and peer.liveness in (
        Liveness.ALIVE,
        Liveness.ONE_WAY,
        Liveness.RESTARTING,
        Liveness.LEFT,
    )
    if entry is None or not known:
        last = entry.state.name if entry is not None else None
        return {"state": State.UNKNOWN.name, "last_heard_state": last, "epoch": entry.epoch if entry else 0}
    return {
        "state": entry.state.name,
        "last_heard_state": entry.state.name,
        "epoch": entry.epoch,
        "confirmed": entry.confirmed,
        "resources": "up" if entry.resources_up else "down",
    }


def instance_document(state: NodeState, instance: Instance) -> Dict[str, Any]:
    """Return what `print status` needs to know of one service here."""
    return {
        "service": state.config.services[instance.service].svcname,
        "state": instance.state.name if instance.verified else State.UNKNOWN.name,
        "notes": _instance_notes(state),
    }


def _instance_notes(state: NodeState) -> List[str]:
    """Return what whoever looks at a service on this node should know before it happens."""
    if not guards(state.config):
        return [UNGUARDED]
    silent = [peer.node for peer in state.peers.values() if peer.liveness is Liveness.UNKNOWN]
    if silent and not is_vouched(state) and is_leased(state):
        names = ", ".join(silent)
        return [f"{names} is silent: if the disk of the lease fails as well, this node ends its services"]
    return []


def alarms(
    state: NodeState, notices: Notices, now: float, rules: Optional[Mapping[str, Rule]] = None
) -> List[Dict[str, str]]:
    """Return what an operator should look at, most urgent first; each says what to do.

    `rules` are the `holding_rules` of this state, where they are known already.
    """
    found: List[Dict[str, str]] = []

    def add(service: str, text: str) -> None:
        found.append({"service": service, "text": text})

    for name, rule in (holding_rules(state, now) if rules is None else rules).items():
        instance = state.instances[name]
        if rule.alarm:
            detail = (
                f" ({instance.detail})" if instance.detail and instance.state.name.endswith("FAILED") else ""
            )
            add(name, f"{instance.state.name}: {rule.sentence}{detail}")
        if instance.freeze is not None and instance.freeze.who == HEALED:
            add(name, "both nodes ran it, and this side yielded: look at its data, then unfreeze it here")
        if instance.freeze is not None and instance.freeze.who == MONITOR:
            why = instance.freeze.reason
            add(name, f"{why}, so the resource monitor stopped it: repair that, then unfreeze it here")
        for resource, row in monitor_rows(state, instance, now):
            if row.alarm:
                known = instance.watching.resource(resource.rid)
                detail = f" ({known.detail})" if known.detail else ""
                add(name, f"{resource.rid} is {known.answer_text}{detail}: {row.sentence}")
    if notices.store:
        add("", f"states cannot be stored: none is announced, nothing starts: {notices.store}")
    if notices.guardian:
        add("", f"the guardian does not answer, nothing starts: {notices.guardian}")
    for peer in state.peers.values():
        if peer.liveness is Liveness.UNKNOWN:
            add("", f"{peer.node} is silent on every link")
        elif peer.liveness is Liveness.ONE_WAY:
            add("", f"{peer.node} is heard but does not hear us: check our senders and its firewall")
        elif peer.liveness is Liveness.WAITING and guard_answer(state, peer, now) is Guard.NONE:
            until = state.started_at + state.config.policies.wait_for_peer_s
            add("", f"{peer.node} was never heard; waiting for it for another {max(0.0, until - now):.0f} s")
        elif peer.liveness is Liveness.WAITING:
            add("", f"{peer.node} was never heard; its slot on the shared disk tells what may start here")
        if peer.heard and peer.config_digest and peer.config_digest != state.config.digest:
            add("", f"{peer.node} has another configuration: compare nodes, monitor and services on both")
        down = [i for i, link in peer.links.items() if not link.up and peer.liveness is Liveness.ALIVE]
        if down:
            add("", f"{peer.node} is not heard on {', '.join(down)}")
    if state.stalled_at is not None and now - state.stalled_at < STALL_SHOWN_S:
        add("", f"this node did not run for {state.stalled_s:.1f} s, {now - state.stalled_at:.0f} s ago")
    for name, was in sorted(state.abandoned.items()):
        add(
            name,
            f"its file is gone, or has no heartbeat section any more, and it was {was.name} here: nobody "
            "cares for it; put the file back, or stop it with svcmgr first",
        )
    unread = [name for name, _svcname in state.left_guarded if name not in state.instances]
    for name in unread if state.phase is Phase.RUNNING else ():
        add(
            name,
            "it ran here as this daemon began, and its file cannot be read, or no file can: the guardian "
            "ends it when the lease runs out; mend the file, then look at it",
        )
    if state.twin_at is not None and now - state.twin_at < TWIN_SHOWN_S:
        add("", f"another machine sends beats as {state.config.node}: stop its daemon, and rename it")
    for line in notices.services:
        add("", line)
    if notices.journal:
        add("", f"the event journal cannot be written: {notices.journal}")
    if notices.state_files:
        add("", f"OpenHA's state files are not kept in step: {notices.state_files}")
    return found


def notes(state: NodeState) -> List[str]:
    """Return what is true all the time and good to know, once each."""
    return guard_notes(state.config)


def guard_notes(config: Config) -> List[str]:
    """Return what stands between this cluster and a split brain, and its price; nothing for one node."""
    if len(config.nodes) < 2:
        return []
    if config.lease_links:
        place = config.lease_links[config.node].device
        return [
            f"lease on {place}: a node that nobody hears and whose slot there cannot be written ends its "
            "services, also when the other node is dead"
        ]
    if guards(config):
        return []
    remedy = "add a disk link for each node"
    if config.protocol is not Protocol.NATIVE:
        remedy = (
            f"leave protocol = {config.protocol.value}, which knows no lease, as soon as no node needs it"
        )
    return [
        "no guard: if every link is cut while both nodes live, both start the services (split brain); "
        f"keep the links on separate paths, {remedy}, or set takeover = ask"
    ]


UNGUARDED = "no guard: a split brain is possible, see hbmgr status"


def guards(config: Config) -> bool:
    """Tell whether anything keeps two nodes that do not hear each other from starting the same service."""
    return len(config.nodes) < 2 or bool(config.lease_links) or config.policies.takeover is TakeoverPolicy.ASK
