"""One cluster to be tried: its links, timeouts, services, policies, clocks; and as a line of text.

A scene says all that a world begins with. Drawn from a seed by `faults`, written into and read
from conversations, so that a failure found by chance can be kept as a text.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Dict, List, Mapping, Tuple

from opensvc_hb.core.config import (
    NOTHING_WATCHED,
    Config,
    HealPolicy,
    LeasePolicy,
    Link,
    LinkType,
    MonitorAction,
    Monitored,
    Monitoring,
    Policies,
    Service,
    TakeoverPolicy,
)
from opensvc_hb.sim.network import Network
from opensvc_hb.sim.world import Nature, World

NODES = ("deb1", "deb2")


@dataclass(frozen=True)
class Scene:
    """A cluster of two nodes. Seconds where a unit is meant; texts as in a conversation's words.

    Args:
        seed: of delays and losses.
        links: types with their timeouts, `net:2,dio:3`.
        uneven: deb2's monitor file gives so many times these timeouts.
        services: names, each with its nodes in order: `svc1,svc2@deb2+deb1`.
        later: how many of them, from the end, are configured later only.
        rates: seconds that each clock counts in a true one.
        judged: two instances at once are a violation.
        silence_max_s: the networks are never silent for longer; 0 for no such promise.
        monitor: the monitor action of all services, which then have a monitored resource; "": none has.
        restarts: restarts of it before that; max_moves, move_window_s: as in a service's file.
        start_s: what a start or stop takes of which no deed says anything; limit_s: their limits.
    """

    seed: int = 1
    links: str = "net:5"
    uneven: float = 1.0
    services: str = "svc1"
    later: int = 0
    rates: str = "1.0,1.0"
    judged: bool = True
    silence_max_s: float = 0.0
    start_s: float = 0.5
    limit_s: float = 600.0
    wait_for_peer_s: float = 0.0
    takeover: str = "automatic"
    takeover_frozen: bool = False
    heal: str = "freeze"
    lease: str = "auto"
    restart_within_s: float = 20.0
    leave_within_s: float = 30.0
    evaluate_every_s: float = 5.0
    reboot_s: float = 5.0
    kill_s: float = 0.0
    holds_more: bool = False
    resets: bool = True
    monitor: str = ""
    restarts: int = 0
    max_moves: int = 2
    move_window_s: float = 3600.0

    @property
    def timeout_s(self) -> float:
        """T as deb1's monitor file gives it."""
        return max(float(word.partition(":")[2]) for word in self.links.split(","))

    @property
    def longest_timeout_s(self) -> float:
        """The larger T of both."""
        return self.timeout_s * max(1.0, self.uneven)

    @property
    def is_leased(self) -> bool:
        """Tell whether the nodes hold leases."""
        return bool(self.config(NODES[0]).lease_links)

    @property
    def service_names(self) -> Tuple[str, ...]:
        """All services, those configured later included."""
        return tuple(word.partition("@")[0] for word in self.services.split(","))

    def all_services(self) -> Mapping[str, Service]:
        """Return every service, by name."""
        made: Dict[str, Service] = {}
        for word in self.services.split(","):
            name, _, order = word.partition("@")
            nodes = tuple(order.split("+")) if order else NODES
            made[name] = Service(name, name, nodes, self.limit_s, self.limit_s, self._monitoring())
        return made

    def _monitoring(self) -> Monitoring:
        if not self.monitor:
            return NOTHING_WATCHED
        return Monitoring(
            resources=(Monitored("app#1", self.restarts),),
            action=MonitorAction(self.monitor),
            restart_window_s=self.move_window_s / 2,
            moves_max=self.max_moves,
            move_window_s=self.move_window_s,
            prepares=self.restarts == 1,
        )

    def config(self, node: str) -> Config:
        """Return the configuration as a node reads it at first."""
        links: List[Link] = []
        for place, sender in enumerate(NODES):
            for number, word in enumerate(self.links.split(",")):
                kind_text, _, timeout_text = word.partition(":")
                timeout_s = float(timeout_text) * (self.uneven if node == NODES[1] else 1.0)
                kind = LinkType(kind_text)
                disk = kind.is_disk
                device = "/dev/shared" if disk else f"eth{number}"
                address = str(10 * place + 100 * number) if disk else f"10.0.{number}.{place}"
                links.append(
                    Link(sender, kind, device, address, 0 if disk else 1234, timeout_s, len(links) + 1)
                )
        services = self.all_services()
        names = list(services)[: len(services) - self.later]
        policies = Policies(
            self.wait_for_peer_s,
            TakeoverPolicy(self.takeover),
            self.takeover_frozen,
            LeasePolicy(self.lease),
            HealPolicy(self.heal),
            self.restart_within_s,
            self.leave_within_s,
        )
        digest = b"same    " if self.uneven == 1.0 else node.ljust(8).encode()
        return Config(node, NODES, tuple(links), {name: services[name] for name in names}, policies, digest)

    def world(self) -> Tuple[World, Network]:
        """Return a world in which nothing has happened yet."""
        rates = dict(zip(NODES, (float(rate) for rate in self.rates.split(","))))
        nature = Nature(
            seed=self.seed,
            rates=rates,
            evaluate_every_s=self.evaluate_every_s or None,
            reboot_s=self.reboot_s,
            kill_s=self.kill_s,
            holds_more=self.holds_more,
            resets=self.resets,
        )
        world = World(tuple(self.config(node) for node in NODES), nature)
        world.manners.default_s = self.start_s
        network = Network(world.chance, lambda: world.now, self.silence_max_s or None)
        world.on_deliver = network
        world.on_bare = network.bares
        return world, network

    def line(self) -> str:
        """Return the scene as the words of a conversation's `scene` line."""
        usual = Scene()
        words = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != getattr(usual, field.name):
                words.append(
                    f"{field.name}={value!r}" if isinstance(value, float) else f"{field.name}={value}"
                )
        return " ".join(["scene", *words])


def parsed(words: List[str]) -> Scene:
    """Return the scene that the words of a `scene` line describe."""
    usual = Scene()
    values: Dict[str, object] = {}
    for word in words:
        name, _, text = word.partition("=")
        kind = type(getattr(usual, name))
        values[name] = text == "True" if kind is bool else kind(text)
    return Scene(**values)  # type: ignore[arg-type]  # each value has the type of its field's default
