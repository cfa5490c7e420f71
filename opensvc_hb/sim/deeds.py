"""What can be done to a world, in words: one line each, for schedules and for conversations.

A schedule is made before the run, so a line may meet a node that is in no state for it: then it
does nothing, and says so. That keeps a schedule meaningful when lines are dropped from it.

    boot NODE                    power on
    kill NODE                    power off
    boot-openha NODE             power on, with the C program in place of our daemon
    daemon-start NODE            the node was not off
    openha-start NODE            the same with the C program; `daemon-kill` ends it
    daemon-stop NODE             in order: the services run on
    daemon-kill NODE             without a word
    leave NODE                   a halt in order
    crash NODE daemon|machine|pause K
                                 in the middle of its next step that matters, behind K effects; -1: before
                                 the last one
    pause NODE / resume NODE     every process of it, guardian included
    daemon-pause NODE / daemon-resume NODE
    cut LINK FROM>TO             LINK is a type, a type with its number (net2), or `all`; FROM<>TO
                                 cuts both directions
    heal [LINK FROM>TO]          everything, when nothing is named
    weather loss=0.3 doubles=0.1 delay=0.5 bare=0.2
    disk NODE|all hangs|fails|readonly|works|slow S|loses K|tears K
    store NODE fails|works|takes S
    listeners NODE late S|prompt what arrives from networks is read so much later, unless asked for
    guardian NODE dies|mute|answers
    VERB SVC on NODE [force]     freeze-stop, freeze-start, unfreeze, force-start, force-stop, start, stop,
                                 switch
    confirm-dead NODE on OTHER
    action SVC start|stop|verify|restart on NODE takes 60s | fails | hangs | dirty | works
    agent SVC on NODE blind | sees
    processes SVC on NODE stuck | mortal
    resources SVC up|down|mixed on NODE
    resource SVC up|down on NODE its first monitored resource, where it runs
    lose-store NODE
    configure NODE services=svc1,svc2@NODE
                                 a service with a node is that node's alone; svc1@deb2+deb1 lists
                                 the nodes in this order
    timeout NODE SECONDS         every line of the monitor file, as that node reads it, gets this timeout
    services NODE unknown|known  its agent does not say which there are: a daemon that begins has none
    calm                         every fault ends
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from opensvc_hb.core.config import Service
from opensvc_hb.core.events import StopKind
from opensvc_hb.core.states import ActionVerb, Avail, Verb
from opensvc_hb.errors import HbError
from opensvc_hb.sim.hosts import CrashKind, Host
from opensvc_hb.sim.network import FAIR, Network, Weather
from opensvc_hb.sim.world import World

VERBS: Mapping[str, Verb] = {verb.value: verb for verb in Verb}


class NoSuchDeed(HbError):
    """A line of a schedule or a conversation says nothing that can be done."""


@dataclass(frozen=True)
class Deed:
    """A line of a schedule, and when it is due, true seconds."""

    at: float
    line: str


class Hands:
    """Does deeds in a world.

    Args:
        network: takes the weather; None: there is none.
        services: how configured services look, by name; others are made with the defaults.
        is_truthful: an operator confirms a node dead only when it is off, and loses a store only
            by installing a machine anew.
    """

    def __init__(
        self,
        world: World,
        network: Optional[Network] = None,
        services: Optional[Mapping[str, Service]] = None,
        is_truthful: bool = False,
    ) -> None:
        self.world = world
        self.network = network
        self.is_truthful = is_truthful
        self._services = services or {}
        self._shared: Dict[str, str] = {}
        self._timeouts: Dict[str, float] = {}

    def do(self, line: str) -> bool:
        """Do what a line says; tell whether there was anything to do."""
        word, *rest = line.split()
        if word in VERBS:
            return self._command(VERBS[word], rest)
        method: Optional[Callable[..., bool]] = getattr(self, "_do_" + word.replace("-", "_"), None)
        if method is None:
            raise NoSuchDeed(f"'{line}': no such deed")
        return method(*rest)

    def _host(self, node: str) -> Host:
        return self.world.hosts[node]

    # -- nodes and daemons ---------------------------------------------------------------------

    def _do_boot(self, node: str) -> bool:
        if self._host(node).is_on:
            return False
        self.world.boot(node)
        return True

    def _do_boot_openha(self, node: str) -> bool:
        if self._host(node).is_on:
            return False
        self.world.boot_openha(node)
        return True

    def _do_openha_start(self, node: str) -> bool:
        host = self._host(node)
        if not host.is_on or host.core is not None or host.openha is not None:
            return False
        self.world.boot_openha(node, booted=False)
        return True

    def _do_kill(self, node: str) -> bool:
        if not self._host(node).is_on:
            return False
        self.world.kill(node)
        return True

    def _do_daemon_start(self, node: str) -> bool:
        host = self._host(node)
        if not host.is_on or host.asleep or host.core is not None:
            return False
        self.world.boot(node, booted=False)
        return True

    def _if_daemon(self, node: str, do: Callable[[], object]) -> bool:
        if self._host(node).core is None:
            return False
        do()
        return True

    def _do_daemon_stop(self, node: str) -> bool:
        return self._if_daemon(node, lambda: self.world.stop(node, StopKind.RESTART))

    def _do_daemon_kill(self, node: str) -> bool:
        host = self._host(node)
        if host.core is None and host.openha is None:
            return False
        self.world.kill_daemon(node)
        return True

    def _do_leave(self, node: str) -> bool:
        return self._if_daemon(node, lambda: self.world.stop(node, StopKind.LEAVE))

    def _do_crash(self, node: str, what: str, effects: str) -> bool:
        return self._if_daemon(node, lambda: self.world.crash(node, int(effects), CrashKind(what)))

    def _do_pause(self, node: str) -> bool:
        host = self._host(node)
        if not host.is_on or host.asleep:
            return False
        self.world.pause(node)
        return True

    def _do_resume(self, node: str) -> bool:
        if not self._host(node).asleep:
            return False
        self.world.resume(node)
        return True

    def _do_daemon_pause(self, node: str) -> bool:
        return self._if_daemon(node, lambda: self.world.pause_daemon(node))

    def _do_daemon_resume(self, node: str) -> bool:
        return self._if_daemon(node, lambda: self.world.resume_daemon(node))

    def _do_lose_store(self, node: str) -> bool:
        host = self._host(node)
        if host.core is not None or (self.is_truthful and host.is_on):
            return False
        self.world.lose_store(node)
        return True

    # -- links and disks -----------------------------------------------------------------------

    def paths(self, kind: str, direction: str) -> Iterator[Tuple[str, str]]:
        """Return (link id, listener) of what a `cut` line names."""
        first, second = re.split("<?>", direction)
        for sender, listener in (
            [(first, second), (second, first)] if "<>" in direction else [(first, second)]
        ):
            numbers: Dict[str, int] = {}
            for link in self._host(sender).config.links_from(sender):
                name = link.type.value
                numbers[name] = numbers.get(name, 0) + 1
                if kind in ("all", name, f"{name}{numbers[name]}"):
                    yield link.id, listener

    def _do_cut(self, kind: str, direction: str) -> bool:
        for path in self.paths(kind, direction):
            self.world.cut(*path)
        return True

    def _do_heal(self, kind: str = "", direction: str = "") -> bool:
        for path in self.paths(kind, direction) if kind else sorted(self.world.cuts):
            self.world.heal(*path)
        return True

    def _do_weather(self, *words: str) -> bool:
        if self.network is None:
            return False
        said = {name: float(value) for name, _, value in (word.partition("=") for word in words)}
        delay_s = said.get("delay", FAIR.delay_s)
        weather = Weather(said.get("loss", 0.0), said.get("doubles", 0.0), delay_s, said.get("bare", 0.0))
        self.network.weather = FAIR if weather == FAIR else weather
        return True

    def _do_disk(self, node: str, how: str, number: str = "0") -> bool:
        hosts = list(self.world.hosts.values()) if node == "all" else [self._host(node)]
        for host in hosts:
            path = host.path
            if how == "hangs":
                path.hangs = True
            elif how == "fails":
                path.fails = True
            elif how == "readonly":
                path.is_read_only = True
            elif how == "slow":
                path.slow_s = float(number)
            elif how == "loses":
                path.loses = int(number)
            elif how == "tears":
                path.tears = int(number)
            else:
                path.clear()
        return True

    def _do_store(self, node: str, how: str, seconds: str = "0") -> bool:
        store = self._host(node).store
        store.fails = how == "fails"
        store.takes_s = float(seconds) if how == "takes" else 0.0
        return True

    def _do_listeners(self, node: str, how: str, seconds: str = "0") -> bool:
        self._host(node).reads_late_s = float(seconds) if how == "late" else 0.0
        return True

    def _do_guardian(self, node: str, how: str) -> bool:
        host = self._host(node)
        if how == "dies":
            if host.core is None or host.paused or not host.is_on:
                return False  # the daemon is there to begin a new one, and give it the last order
            host.guardian.forget()
        elif how == "mute":
            host.guardian.is_unreachable = True
        else:
            host.guardian.reach()
        return True

    # -- operators and services ----------------------------------------------------------------

    def _command(self, verb: Verb, words: List[str]) -> bool:
        name, _, node = words[:3]
        force = words[-1] == "force"
        openha = self._host(node).openha
        if openha is not None:
            return openha.command(verb, name)
        return self._if_daemon(node, lambda: self.world.command(node, name, verb, force, "as told"))

    def _do_confirm_dead(self, dead: str, _on: str, node: str) -> bool:
        if self.is_truthful and self._host(dead).is_on:
            return False
        return self._if_daemon(node, lambda: self.world.confirm_dead(node, dead))

    def _do_action(self, name: str, verb: str, _on: str, node: str, how: str, seconds: str = "") -> bool:
        manners = self.world.manners
        key = (node, name, ActionVerb(verb))
        if how == "takes":
            manners.action_s[key] = float(seconds.rstrip("s"))
        elif how == "fails":
            manners.failing.add(key)
        elif how == "hangs":
            manners.hanging.add(key)
        elif how == "dirty":
            manners.dirty.add(key)
        else:
            for kind in (manners.failing, manners.hanging, manners.dirty):
                kind.discard(key)
        return True

    def _do_agent(self, name: str, _on: str, node: str, how: str) -> bool:
        blind = self.world.manners.blind
        (blind.add if how == "blind" else blind.discard)((node, name))
        return True

    def _do_processes(self, name: str, _on: str, node: str, how: str) -> bool:
        stuck = self.world.manners.unkillable
        (stuck.add if how == "stuck" else stuck.discard)((node, name))
        return True

    def _do_resources(self, name: str, avail: str, _on: str, node: str) -> bool:
        if self.is_truthful and name not in self._host(node).running:
            return False
        self.world.resources(node, name, Avail(avail))
        return True

    def _do_resource(self, name: str, how: str, _on: str, node: str) -> bool:
        if name not in self._host(node).running:
            return False
        self.world.resource(node, name, how == "up")
        return True

    def _do_configure(self, node: str, services: str) -> bool:
        config = self._host(node).config
        made = {}
        for word in services.partition("=")[2].split(","):
            name, _, alone = word.partition("@")
            made[name] = self._services.get(name) or Service(
                name, name, tuple(alone.split("+")) if alone else config.nodes
            )
        self._shared[node] = services
        self.world.reconfigure(node, replace(config, services=made, digest=self._digest(node)))
        return True

    def _do_timeout(self, node: str, seconds: str) -> bool:
        self._timeouts[node] = float(seconds)
        config = self._host(node).config
        links = tuple(replace(link, timeout_s=float(seconds)) for link in config.links)
        self.world.reconfigure(node, replace(config, links=links, digest=self._digest(node)))
        return True

    def _digest(self, node: str) -> bytes:
        """Return the digest of a configuration that was changed: the same for equal ones."""
        timeout_s = self._timeouts.get(node)
        text = self._shared.get(node, "") + ("" if timeout_s is None else f" timeout={timeout_s!r}")
        return hashlib.blake2b(text.encode(), digest_size=8).digest()

    def _do_services(self, node: str, how: str) -> bool:
        self.world.declare(node, how == "known")
        return True

    def _do_calm(self) -> bool:
        world = self.world
        world.cuts.clear()
        world.manners.clear()
        if self.network is not None:
            self.network.weather = FAIR
        for node, host in world.hosts.items():
            host.path.clear()
            host.runner.broken.clear()
            host.store.fails, host.store.takes_s = False, 0.0
            host.guardian.reach()
            host.reads_late_s = 0.0
            host.crash = None
            world.declare(node, is_known=True)
            if host.asleep:
                world.resume(node)
            elif host.paused:
                world.resume_daemon(node)
        return True
