"""The configuration as core needs it: nodes, links, services, policies. All frozen."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property
from typing import Dict, Mapping, Tuple

from opensvc_hb.core.states import Role


class LinkType(enum.Enum):
    """The heartbeat types of a monitor file."""

    NET = "net"
    UNICAST = "unicast"
    DIO = "dio"
    DISK = "disk"

    @property
    def is_disk(self) -> bool:
        """Tell whether beats of this type are slots on a shared disk."""
        return self in (LinkType.DIO, LinkType.DISK)


@dataclass(frozen=True)
class Link:
    """One line of the monitor file: a sender on `node`, a listener on every other node.

    Args:
        node: the sending node, lower case.
        device: interface name, or path of the device or image file.
        address: multicast group or destination address; for a disk the block offset as text.
        port: UDP port; 0 for a disk.
        timeout_s: seconds of silence after which a listener is DOWN, 0.2 to 3,600.
        line: 1-based line in the monitor file.
    """

    node: str
    type: LinkType
    device: str
    address: str
    port: int
    timeout_s: float
    line: int = 0

    @property
    def id(self) -> str:
        """Name of the link, the same on every node: `type:device:address[:port]`."""
        end = f":{self.port}" if self.port else ""
        return f"{self.type.value}:{self.device}:{self.address}{end}"


class Protocol(enum.Enum):
    """What beats look like on the wire."""

    NATIVE = "native"
    OPENHA = "openha"
    """The C program's structure and nothing else."""
    BOTH = "both"
    """The structure with a native beat behind it: C nodes and native ones hear the same datagram."""


class HealPolicy(enum.Enum):
    """What the lower side of a double start does when its stop has ended and the higher is heard."""

    FREEZE = "freeze"
    STOP = "stop"


class LeasePolicy(enum.Enum):
    """Whether what runs here needs the lease of the shared disk."""

    AUTO = "auto"
    """Yes where every node has a disk link."""
    NO = "no"
    YES = "yes"
    """As AUTO, and a monitor file without disk links is an error."""


class TakeoverPolicy(enum.Enum):
    """Whether a takeover from a silent peer needs an operator."""

    AUTOMATIC = "automatic"
    ASK = "ask"


class MonitorAction(enum.Enum):
    """What becomes of a service of which a monitored resource is down and no restart helped."""

    FREEZE_STOP = "freezestop"
    """It stops here and stays frozen; another node may start it."""
    SWITCH = "switch"
    """It stops here and another node goes first; nothing is frozen."""
    REBOOT = "reboot"
    """This node is reset: all that it runs is taken over."""
    CRASH = "crash"
    """The same by a crash of the kernel, which may leave a dump."""
    NONE = "none"
    """Nothing but an alarm."""


@dataclass(frozen=True)
class Monitored:
    """A resource that is watched while its service runs here.

    Args:
        rid: the section's name.
        restart_count_max: how often it is restarted before the monitor action.
    """

    rid: str
    restart_count_max: int = 0


@dataclass(frozen=True)
class Monitoring:
    """How the resources of a service are watched on this node.

    Args:
        resources: those that are watched, in the order in which they start; () watches nothing.
        restart_window_s: a restart counts for so long.
        moves_max: how often the service may change its node within `move_window_s` before the
            monitor moves it no more; whoever moved it counts.
        prepares: the service has a command to be run before the monitor action.
    """

    resources: Tuple[Monitored, ...] = ()
    action: MonitorAction = MonitorAction.FREEZE_STOP
    restart_window_s: float = 600.0
    moves_max: int = 2
    move_window_s: float = 3600.0
    prepares: bool = False


NOTHING_WATCHED = Monitoring()


@dataclass(frozen=True)
class Service:
    """A service under our care.

    Args:
        name: the hb name (wire, OpenHA's commands).
        svcname: the agent's name of the service.
        nodes: the nodes that may run it, the primary first.
        start_limit_s, stop_limit_s: time limits of its actions, seconds.
        monitoring: how its resources are watched here; each node has its own.
    """

    name: str
    svcname: str
    nodes: Tuple[str, ...]
    start_limit_s: float = 600.0
    stop_limit_s: float = 600.0
    monitoring: Monitoring = NOTHING_WATCHED

    def role(self, node: str) -> Role:
        """Return the role of `node`, which must be one of `nodes`."""
        return Role.PRIMARY if self.nodes[0] == node else Role.SECONDARY


@dataclass(frozen=True)
class Policies:
    """Cluster-wide settings (`hb.conf`), seconds where a unit is meant."""

    wait_for_peer_s: float = 90.0
    takeover: TakeoverPolicy = TakeoverPolicy.AUTOMATIC
    takeover_frozen: bool = False
    lease: LeasePolicy = LeasePolicy.AUTO
    heal: HealPolicy = HealPolicy.FREEZE
    restart_within_s: float = 60.0
    leave_within_s: float = 600.0


@dataclass(frozen=True)
class Config:
    """Everything core knows of the cluster's configuration, as read on one node.

    Args:
        node: this node.
        nodes: all nodes, this one included, as listed.
        links: the monitor file, in file order.
        services: by hb name; only those that list this node.
        digest: digest of the shared part (links, services, protocol), `DIGEST_BYTES` bytes.
        protocol: with a node that may run the C program there is no lease: it knows none.
    """

    node: str
    nodes: Tuple[str, ...]
    links: Tuple[Link, ...]
    services: Mapping[str, Service]
    policies: Policies = Policies()
    digest: bytes = b""
    protocol: Protocol = Protocol.NATIVE

    @cached_property
    def peers(self) -> Tuple[str, ...]:
        """The other nodes, in listed order."""
        return tuple(n for n in self.nodes if n != self.node)

    @cached_property
    def longest_timeout_s(self) -> float:
        """T of the design: the longest timeout of the monitor file."""
        return max((link.timeout_s for link in self.links), default=10.0)

    @cached_property
    def beat_interval_s(self) -> float:
        """Seconds between steady beats: 1, or a fifth of the shortest timeout if that is less."""
        return min([1.0] + [link.timeout_s / 5 for link in self.links if link.node == self.node])

    @cached_property
    def lease_links(self) -> Mapping[str, Link]:
        """By node, the link whose slot carries its lease: its first disk link. Empty: no lease.

        A lease needs a slot of every node; other disk links carry beats only.
        """
        if self.policies.lease is LeasePolicy.NO or len(self.nodes) < 2:
            return {}
        if self.protocol is not Protocol.NATIVE:
            return {}
        found: Dict[str, Link] = {}
        for link in self.links:
            if link.type.is_disk:
                found.setdefault(link.node, link)
        return found if all(node in found for node in self.nodes) else {}

    def links_from(self, node: str) -> Tuple[Link, ...]:
        """Return the links on which `node` sends."""
        return tuple(link for link in self.links if link.node == node)
