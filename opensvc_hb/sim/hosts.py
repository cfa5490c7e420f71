"""One machine of the simulated world: its daemon, its store, its paths, what stands still.

A record with hardly any conduct; `world` moves it. A machine is off, asleep (every process
stands still) or runs; on it a daemon lives, or not; a daemon may stand still on its own.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from typing import Callable, Deque, Dict, FrozenSet, List, Optional, Set, Tuple

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import Config
from opensvc_hb.core.events import Event, Stored
from opensvc_hb.core.messages import Beat
from opensvc_hb.core.node_state import NodeState
from opensvc_hb.core.states import Answer
from opensvc_hb.sim.actions import Runner
from opensvc_hb.sim.clocks import Clock
from opensvc_hb.sim.disks import Path, Reader, Writer
from opensvc_hb.sim.guardian import Guardian
from opensvc_hb.sim.openha_node import OpenHaNode


class CrashKind(enum.Enum):
    """What happens in the middle of a step."""

    DAEMON = "daemon"
    """The daemon dies."""
    MACHINE = "machine"
    """The power fails."""
    PAUSE = "pause"
    """The daemon stands still, until it is told to go on."""


@dataclass(frozen=True)
class Crash:
    """What happens in the middle of a step, and behind how many of its effects."""

    effects: int
    kind: CrashKind


@dataclass
class StoreManners:
    """How the store of a machine takes states: it may fail, or take its time (true seconds)."""

    fails: bool = False
    takes_s: float = 0.0


@dataclass
class Host:
    """One node as the world sees it.

    Args:
        life: grows with each start of the daemon; what is meant for an earlier life is lost.
        paused: its daemon stands still; asleep: so does everything else on the machine.
        woke_at: when its daemon began, or went on after it stood still.
        busy: the monitor thread waits for the store, or the guardian.
        waiting: what arrived meanwhile; unread: beats on networks that no listener has read yet.
        listens_at: when the listener of a network is awake again, behind the others.
        late: what threads of the daemon do when it goes on.
        newest: (incarnation, sequence) of the newest beat read on each link in this life, as a
            listener keeps it: what is not newer is a replay and never reaches the core.
        effects: of the step under way, not performed yet.
        unstored, announced: as the daemon's performer: a state that could not be stored, and the
            last beat that was announced while it could.
        openha: the C program, where that runs in place of our daemon.
        reads_late_s: listeners of networks hand over so much later, unless they are asked.
        answers: by service, what this life of the daemon was told last of its monitored resource.
        unguarded: services whose guardian did not confirm the order that names them.
        is_undeclared: its agent does not say which services there are.
        relinks: reloads whose links are being closed and opened: nothing is sent; links_opened: grows
            with each of them, and with each start of the daemon.
    """

    config: Config
    runner: Runner
    guardian: Guardian
    clock: Clock = field(default_factory=Clock)
    is_on: bool = False
    core: Optional[NodeState] = None
    stored: Stored = field(default_factory=Stored)
    timer: Optional[float] = None
    life: int = 0
    paused: bool = False
    asleep: bool = False
    woke_at: float = 0.0
    busy: bool = False
    waiting: List[Event] = field(default_factory=list)
    unread: Dict[str, List[Event]] = field(default_factory=dict)
    late: List[Callable[[], None]] = field(default_factory=list)
    listens_at: Dict[str, float] = field(default_factory=dict)
    newest: Dict[str, Tuple[int, int]] = field(default_factory=dict)
    effects: Deque[fx.Effect] = field(default_factory=deque)
    step_effects: Tuple[fx.Effect, ...] = ()
    crash: Optional[Crash] = None
    store: StoreManners = field(default_factory=StoreManners)
    unstored: Optional[Stored] = None
    announced: Optional[Beat] = None
    unguarded: FrozenSet[str] = frozenset()
    path: Path = field(default_factory=Path)
    writers: Dict[str, Writer] = field(default_factory=dict)
    reads_late_s: float = 0.0
    readers: Dict[str, Reader] = field(default_factory=dict)
    openha: Optional[OpenHaNode] = None
    answers: Dict[str, Tuple[Answer, ...]] = field(default_factory=dict)
    is_undeclared: bool = False
    relinks: int = 0
    links_opened: int = 0

    @property
    def running(self) -> Set[str]:
        """Services whose resources are up here: the truth, whatever core believes."""
        return self.runner.running

    @property
    def is_busy(self) -> bool:
        """Tell whether its monitor thread takes nothing in at the moment."""
        return self.paused or self.busy

    def local(self, now: float) -> float:
        """Return what its clock shows; it never goes back."""
        reading = self.clock.reads(now)
        if self.core is not None and self.core.last_at > reading:
            return self.core.last_at
        return reading
