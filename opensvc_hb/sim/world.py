"""A deterministic world: nodes with unchanged cores, links, disks, actions, operators, true time.

The world plays the shell's part: it performs effects, carries beats over networks and disks,
lets actions take their time, keeps what was persisted, holds the guardian's deadlines, and can
kill, crash, boot, pause and cut. Nothing happens by chance in it unless its `Nature` has a seed:
then delays vary, the same way for the same seed. Whoever drives it decides what goes wrong.

Every event carries the time of its node's own clock; `now` is the world's true time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Callable, Dict, FrozenSet, List, Mapping, Optional, Protocol, Set, Tuple

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import Config
from opensvc_hb.core.events import (
    ActionFinished,
    BeatReceived,
    CommandGiven,
    DaemonStarted,
    DaemonStopping,
    Event,
    GuardianActed,
    PeerConfirmedDead,
    ResourceReport,
    ResourcesReported,
    StopKind,
    Stored,
)
from opensvc_hb.core.messages import Beat
from opensvc_hb.core.node_state import new_node
from opensvc_hb.core.states import ActionVerb, Avail, Verb
from opensvc_hb.sim.actions import Action, ActionKey, Manners, Runner
from opensvc_hb.sim.chance import Chance
from opensvc_hb.sim.clocks import Clock
from opensvc_hb.sim.disks import Disk, Port, Reader, Writer
from opensvc_hb.sim.guardian import Guardian
from opensvc_hb.sim.hosts import Crash, CrashKind, Host
from opensvc_hb.sim.inboxes import Inboxes
from opensvc_hb.sim.openha_node import OpenHaNode
from opensvc_hb.sim.reloads import Reloads
from opensvc_hb.sim.timeline import Timeline

LINK_DELAY_S = 0.001
LOOK_AFTER_S = 0.3
"""The agent looks at a service so long after the guardian did something to it."""
LOOK_TAKES_S = 0.05
"""From the order to look at a service to the report."""


@dataclass(frozen=True)
class Line:
    """One line of the world's log: who did what, when, and why."""

    at: float
    node: str
    text: str


@dataclass(frozen=True)
class Nature:
    """What a world is like by itself, all faults apart.

    Args:
        seed: of the delays; None: they are all alike, and threads take turns in good order.
        rates: seconds that each node's clock counts in a true one; with none, all show true time.
        evaluate_every_s: the agent looks at every service so often; None: only when told to.
        reboot_s: a machine that was reset is up again after so long; None: it stays off.
        kill_s: from a kill to the death of the processes.
        holds_more: a killed service holds something until it is stopped (a mounted file system).
        resets: a guardian's reset ends the machine.
        skips_read_back: slots are not read back: to show that they must be.
    """

    seed: Optional[int] = None
    rates: Mapping[str, float] = field(default_factory=dict)
    evaluate_every_s: Optional[float] = None
    reboot_s: Optional[float] = None
    kill_s: float = 0.0
    holds_more: bool = False
    resets: bool = True
    skips_read_back: bool = False


class Hash(Protocol):
    """What a trace is hashed with."""

    def update(self, data: bytes, /) -> None:
        """Take in more."""


class World:
    """The cluster in one process. All methods act at the world's present `now`.

    Attributes:
        on_deliver: given (link id, listener, beat), answers with the delays (seconds) of the copies
            that arrive over a network: none is a loss, two a duplicate, different ones reorder.
        on_bare: given (link id, listener), whether the beat arrives without its table.
        on_step: given (node, effects, performed), sees what a step asked for, once before and once
            after it is performed.
        on_send: given (node, beat), sees what is announced.
        on_occupied: given (node, service), told that a service begins to be up, or may be.
        on_guardian: given (node, service), told that a guardian acts on it.
        trace: takes in every step.
        turned_at: when a machine was last turned on or off.
    """

    def __init__(self, configs: Tuple[Config, ...], nature: Optional[Nature] = None) -> None:
        self.nature = nature or Nature()
        self.timeline = Timeline()
        self.chance = Chance(self.nature.seed)
        self.manners = Manners()
        self.log: List[Line] = []
        self.beats: List[Tuple[float, str, Beat]] = []
        self.cuts: Set[Tuple[str, str]] = set()
        self.overlaps: List[Tuple[float, str]] = []
        self.replies: Dict[int, fx.Reply] = {}
        self.on_deliver: Optional[Callable[[str, str, Beat], FrozenSet[float]]] = None
        self.on_bare: Optional[Callable[[str, str], bool]] = None
        self.on_step: Optional[Callable[[str, Tuple[fx.Effect, ...], bool], None]] = None
        self.on_send: Optional[Callable[[str, Beat], None]] = None
        self.on_occupied: Optional[Callable[[str, str], None]] = None
        self.on_guardian: Optional[Callable[[str, str], None]] = None
        self.trace: Optional[Hash] = None
        self.steps_count = 0
        self.resets_count = 0
        self.turned_at = 0.0
        self.hosts: Dict[str, Host] = {}
        self._disks: Dict[Tuple[str, str], Disk] = {}
        self.inboxes = Inboxes(self)
        self._reloads = Reloads(self, self._connect, self._when_running)
        for config in configs:
            self.hosts[config.node] = self._new_host(config)

    @property
    def now(self) -> float:
        """The true time, seconds from the world's beginning."""
        return self.timeline.now

    @property
    def action_s(self) -> Dict[ActionKey, float]:
        """How long actions take; see `Manners`."""
        return self.manners.action_s

    @property
    def failing(self) -> Set[ActionKey]:
        """Actions that fail; see `Manners`."""
        return self.manners.failing

    # -- what a driver does to the world -------------------------------------------------

    def boot(self, node: str, booted: bool = True) -> None:
        """Start the daemon of a node; `booted` means that the machine was off before."""
        host = self.hosts[node]
        if booted:
            self.turned_at = self.now
            host.runner.power_off()
            host.guardian.power_off()
            host.guardian = self._new_guardian(node, host.runner)
            host.clock = self._new_clock(node)
            host.is_on, host.asleep = True, False
        self._forget_daemon(host)
        host.woke_at = self.now
        config = self._reloads.as_read(host)
        host.core = new_node(config)
        self._connect(host)
        self.say(node, "boots" if booted else "daemon starts")
        started = DaemonStarted(config, host.stored, booted, *host.guardian.lease())
        self.inboxes.give(node, started)
        for reader in list(host.readers.values()):
            reader.begin()

    def kill(self, node: str) -> None:
        """Power off: nothing runs there any more. What its disk path held may arrive yet, or not."""
        host = self.hosts[node]
        self.kill_daemon(node)
        host.runner.power_off()
        host.guardian.power_off()
        host.is_on, host.asleep = False, False
        self.turned_at = self.now
        arrives = f"stuck {node}"
        host.path.stuck = [late for late in host.path.stuck if self.chance.draw(arrives) >= 0.5]
        self.say(node, "is killed")

    def boot_openha(self, node: str, booted: bool = True) -> None:
        """Start the C program on a node, whose machine was off before if `booted`."""
        host = self.hosts[node]
        if booted:
            host.runner.power_off()
            host.is_on, host.asleep = True, False
        host.openha = OpenHaNode(self, node)

    def kill_daemon(self, node: str) -> None:
        """End the daemon, ours or the C program, without a word; its services run on."""
        host = self.hosts[node]
        if host.openha is not None:
            host.openha.end()
            host.openha = None
        host.core = None
        self._forget_daemon(host)

    def crash(self, node: str, effects: int, kind: CrashKind) -> None:
        """Have a node end, or stand still, in the middle of its next step that stores or begins something."""
        self.hosts[node].crash = Crash(effects, kind)

    def pause(self, node: str) -> None:
        """Stop all processes of a node; what runs there stays."""
        host = self.hosts[node]
        host.paused = host.asleep = True
        host.runner.sleep()
        host.guardian.sleep()
        self.say(node, "is paused")

    def pause_daemon(self, node: str) -> None:
        """Stop the daemon alone; guardian and services go on."""
        self.hosts[node].paused = True
        self.say(node, "its daemon is paused")

    def resume(self, node: str) -> None:
        """Let a paused node go on: first its timer, then what waited for it."""
        host = self.hosts[node]
        host.paused = False
        host.woke_at = self.now
        self.say(node, "goes on")
        if host.asleep:
            host.asleep = False
            host.runner.wake()
            host.guardian.wake()
        if host.core is not None and not host.paused:
            self.inboxes.wake(node, host)

    def resume_daemon(self, node: str) -> None:
        """Let the daemon go on, unless the whole machine stands still."""
        host = self.hosts[node]
        if host.paused and not host.asleep:
            self.resume(node)

    def cut(self, link_id: str, listener: str) -> None:
        """Nothing that is sent on a link reaches this listener any more."""
        self.cuts.add((link_id, listener))

    def heal(self, link_id: str, listener: str) -> None:
        """Undo `cut`."""
        self.cuts.discard((link_id, listener))

    def command(self, node: str, service: str, verb: Verb, force: bool = False, reason: str = "") -> int:
        """Have an operator ask for something on a node; the number finds the reply."""
        number = self.timeline.number()
        self.inboxes.give(node, CommandGiven(number, service, verb, force, "operator", reason))
        return number

    def confirm_dead(self, node: str, dead: str) -> int:
        """Have an operator vouch on `node` that another is dead."""
        number = self.timeline.number()
        self.inboxes.give(node, PeerConfirmedDead(number, dead, "operator", "seen dead"))
        return number

    def stop(self, node: str, kind: StopKind) -> None:
        """Ask a daemon to stop, in order."""
        self.inboxes.give(node, DaemonStopping(kind))

    def reconfigure(self, node: str, config: Config) -> None:
        """Give a node another configuration; its daemon, if it runs, reads it at once."""
        self._reloads.changed(node, config)

    def declare(self, node: str, is_known: bool) -> None:
        """Let the agent of a node say which services there are, or not any more."""
        if is_known:
            self._reloads.declared(node)
        else:
            self.hosts[node].is_undeclared = True

    def lose_store(self, node: str) -> None:
        """Empty a node's store, as a reinstallation does; its daemon must not run."""
        assert self.hosts[node].core is None, f"the daemon of {node} runs"
        self.hosts[node].stored = Stored()
        self.say(node, "loses its store")

    def resources(self, node: str, service: str, avail: Avail) -> None:
        """Let the resources of a service be so from now on, and the evaluation report it."""
        host = self.hosts[node]
        host.runner.set_resources(service, avail)
        answers = self._report(host, service).resources
        self.inboxes.give(node, ResourcesReported(service, avail, answers))

    def resource(self, node: str, service: str, is_up: bool) -> None:
        """Let the first monitored resource of a service that runs on a node be so from now on."""
        self.hosts[node].runner.set_resource(service, is_up)

    def run(self, seconds: float) -> None:
        """Let the time pass."""
        self.timeline.run_until(self.now + seconds)

    def run_until(self, moment: float) -> None:
        """Let the time pass up to a true time."""
        self.timeline.run_until(moment)

    def share_disk(self, node: str, device: str, disk: Disk) -> None:
        """Let a device of a node be this disk; without a word all nodes share one by its name.

        Daemons that run go on with what they have open.
        """
        self._disks[node, device] = disk

    # -- how the world answers -----------------------------------------------------------

    def state(self, node: str, service: str) -> str:
        """Return the state of an instance as its node announces it; `-` without a daemon."""
        host = self.hosts[node]
        if host.openha is not None:
            return host.openha.states[service].name
        return "-" if host.core is None else host.core.instances[service].state.name

    def say(self, node: str, text: str) -> None:
        """Add a line to the log."""
        self.log.append(Line(self.now, node, text))

    def local(self, node: str) -> float:
        """Return what a node's clock shows now."""
        return self.hosts[node].local(self.now)

    def where(self, service: str) -> List[str]:
        """Return the nodes where something of a service is up in truth, or may be."""
        return [node for node, host in self.hosts.items() if host.runner.occupies(service)]

    # -- beats -----------------------------------------------------------------------------

    def deliver(self, node: str, beat: Beat, with_table: bool) -> None:
        """Send a beat on every link of a node."""
        host = self.hosts[node]
        if host.relinks:
            return
        self.beats.append((self.now, node, beat))
        if self.on_send is not None:
            self.on_send(node, beat)
        said = beat if with_table else replace(beat, table=None)
        if said.claims:
            said = replace(said, claims="")
        for link in host.config.links_from(node):
            writer = host.writers.get(link.id)
            if writer is not None:
                writer.offer(beat, with_table)
                continue
            for listener, other in self.hosts.items():
                if listener == node or (link.id, listener) in self.cuts:
                    continue
                if other.openha is not None:
                    states = {entry.service: entry.state for entry in beat.table or ()}
                    self.timeline.after(LINK_DELAY_S, other.openha.hear, link.id, states)
                if other.core is None:
                    continue
                delays = frozenset({LINK_DELAY_S})
                if self.on_deliver is not None:
                    delays = self.on_deliver(link.id, listener, said)
                heard = said
                if self.on_bare is not None and self.on_bare(link.id, listener):
                    heard = replace(said, table=None)
                for delay_s in sorted(delays):
                    self.inboxes.later(delay_s, listener, BeatReceived(link.id, heard))

    # -- making hosts ----------------------------------------------------------------------

    def _new_host(self, config: Config) -> Host:
        node = config.node

        def finished(action: Action, event: ActionFinished) -> None:
            self._action_ended(node, action, event)

        def occupied(service: str) -> None:
            if self.on_occupied is not None:
                self.on_occupied(node, service)

        def lasts(seconds: float) -> float:
            return self.hosts[node].clock.lasts(seconds)

        runner = Runner(node, self.timeline, self.manners, finished, occupied, lasts)
        host = Host(config, runner, self._new_guardian(node, runner))
        if self.nature.evaluate_every_s is not None:
            self.timeline.after(self.nature.evaluate_every_s, self._evaluate, node)
        return host

    def _new_clock(self, node: str) -> Clock:
        rate = self.nature.rates.get(node)
        if rate is None:
            return Clock()
        return Clock(self.now, self.chance.uniform(f"clock {node}", 1.0, 1000.0), rate)

    def _new_guardian(self, node: str, runner: Runner) -> Guardian:
        def acted(service: str, text: str) -> None:
            self.say(node, text)
            if self.on_guardian is not None:
                self.on_guardian(node, service)
            self.inboxes.give(node, GuardianActed((service,) if service else (), text))
            if service:
                self.timeline.after(LOOK_AFTER_S, self._look_at, node, service)

        def true(reading: float) -> float:
            return self.hosts[node].clock.true(reading)

        guardian = Guardian(
            self.timeline, runner, lambda: self.local(node), true, acted, lambda: self._reset(node)
        )
        guardian.kill_s = self.nature.kill_s
        guardian.holds_more = self.nature.holds_more
        return guardian

    def _reset(self, node: str) -> None:
        self.resets_count += 1
        if not self.nature.resets:
            return
        self.kill(node)
        if self.nature.reboot_s is not None:
            self.timeline.after(self.nature.reboot_s, self._boot_again, node)

    def _boot_again(self, node: str) -> None:
        if not self.hosts[node].is_on:
            self.boot(node)

    def _connect(self, host: Host) -> None:
        """Start the disk threads of a new daemon, or of one whose links are new."""
        node, life, opened = host.config.node, host.life, host.links_opened

        def put(event: Event) -> None:
            if host.life == life and host.links_opened == opened:
                self.inboxes.give(node, event)

        def when_running(do: Callable[[], None]) -> None:
            if host.links_opened == opened:
                self._when_running(host, do, life)

        for link in host.config.links:
            if not link.type.is_disk:
                continue
            disk = self._disks.get((node, link.device))
            if disk is None:
                disk = self._disks.setdefault(("", link.device), Disk())
            port = Port(
                self.timeline,
                self.chance,
                host.path,
                put,
                lambda: self.local(node),
                when_running,
                host.clock.lasts,
            )
            if link.node == node:
                host.writers[link.id] = Writer(link, disk, port, self.nature.skips_read_back)
                continue
            record = host.stored.peers.get(link.node)
            floor = record.incarnation if record is not None else 0
            if host.core is not None and link.node in host.core.peers:
                floor = host.core.peers[link.node].incarnation
            host.readers[link.id] = Reader(link, disk, port, put, self._is_cut(link.id, node), floor)

    @staticmethod
    def _when_running(host: Host, do: Callable[[], None], life: Optional[int] = None) -> None:
        """Have a thread of a daemon do something now, or when that goes on; never in another life."""
        if host.core is None or (life is not None and host.life != life):
            return
        if host.paused:
            host.late.append(do)
        else:
            do()

    def _is_cut(self, link_id: str, listener: str) -> Callable[[], bool]:
        return lambda: (link_id, listener) in self.cuts

    @staticmethod
    def _forget_daemon(host: Host) -> None:
        host.life += 1
        host.links_opened += 1
        host.relinks = 0
        host.timer = None
        host.paused = host.asleep
        host.busy = False
        host.crash = None
        host.unstored = None
        host.announced = None
        host.unguarded = frozenset()
        for kept in (host.waiting, host.late):
            kept.clear()
        tables = (host.unread, host.newest, host.listens_at, host.writers, host.readers, host.answers)
        for table in tables:
            table.clear()
        host.effects.clear()

    # -- services --------------------------------------------------------------------------

    def _action_ended(self, node: str, action: Action, event: ActionFinished) -> None:
        host = self.hosts[node]
        owners = [n for n, h in self.hosts.items() if event.service in h.running]
        if len(owners) > 1:
            self.overlaps.append((self.now, event.service))
        if host.openha is not None:
            host.openha.action_ended(event)
        elif action.life == host.life:
            self.inboxes.give(node, event)
            if event.verb is ActionVerb.RESTART:
                self.look_again(node, event.service)

    def _look_at(self, node: str, service: str) -> None:
        host = self.hosts[node]
        if host.core is not None and not host.asleep and not host.runner.is_acting(service):
            self.inboxes.give(node, self._report(host, service))

    def look_again(self, node: str, service: str) -> None:
        """Have the agent look at a service on a node now."""
        self.timeline.after(LOOK_TAKES_S, self._look_at, node, service)

    def reset(self, node: str, how: str) -> None:
        """The daemon of a node resets its machine."""
        self.say(node, f"is {how}")
        self._reset(node)

    @staticmethod
    def _report(host: Host, service: str) -> ResourcesReported:
        configured = host.config.services.get(service)
        resources = configured.monitoring.resources if configured is not None else ()
        answers = tuple(
            ResourceReport(resource.rid, host.runner.answer(service)) for resource in resources[:1]
        )
        return ResourcesReported(service, host.runner.avail(service), answers)

    def _evaluate(self, node: str) -> None:
        assert self.nature.evaluate_every_s is not None, "asked by `_new_host`"
        for service in self.hosts[node].config.services:
            self._look_at(node, service)
        self.timeline.after(self.nature.evaluate_every_s, self._evaluate, node)
