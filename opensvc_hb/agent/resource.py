"""The resource interface: all that a driver sees of the agent.

A driver is one short file under `drivers/resource/<group>/<type>.py` that defines one
subclass of `Resource` and imports nothing of ours but this module (and `client` for hb).
The agent finds it by path; there is no registry.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Callable, ClassVar, List, Mapping, Optional, Sequence, Tuple

from opensvc_hb.agent import remote, synchronize
from opensvc_hb.agent.keywords import Keyword, boolean, integer, node_list, words
from opensvc_hb.errors import HbError
from opensvc_hb.held import Holding, HoldingKind, container_notes

__all__ = [
    "ActionError",
    "CommandResult",
    "Holding",
    "HoldingKind",
    "Keyword",
    "Peer",
    "Resource",
    "ResourceContext",
    "Status",
    "SyncResource",
    "boolean",
    "container_notes",
    "integer",
    "node_list",
    "remote",
    "synchronize",
    "words",
]


class Status(enum.IntEnum):
    """Status of a resource; the value is the exit code of `svcmgr status` (agents, B.1)."""

    UP = 0
    DOWN = 1
    WARN = 2
    NA = 3
    TODO = 4
    UNDEF = 5
    STDBY_UP = 6
    STDBY_DOWN = 7

    @property
    def text(self) -> str:
        """The word shown: `up`, `n/a`, `stdby up` ..."""
        return "n/a" if self is Status.NA else self.name.lower().replace("stdby_", "stdby ")


class ActionError(HbError):
    """An action on a resource failed; the text is the ERROR line under the resource's name."""


@dataclass(frozen=True)
class CommandResult:
    """How a command ended: exit status (negative: killed by that signal), and its output."""

    argv: Tuple[str, ...]
    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class ResourceContext:
    """What the agent lends to a resource. A unit test gives its own.

    Args:
        node: this node's name.
        svcname: the service's name.
        nodes: the service's `nodes`; drpnodes: its `drpnodes`.
        etc, var, log, tmp: directories of this root (`etc/opensvc`, `var/lib/opensvc`,
            `var/log/opensvc`, `var/tmp/opensvc`), as text.
        run: `run(argv, timeout_s) -> CommandResult`; raises ActionError on a time out and
            when the program does not exist. Never through a shell.
        info, warning, error: write one log line under the resource's name.
        default: `default(name)` reads a scoped keyword of [DEFAULT]; None when absent.
        service_resources: the service's resources, for the few that must look at others.
        environment: variables for scripts and triggers (OPENSVC_*).
        cluster: True under `--cluster`.
        runtime: directory for what does not outlive the node's life (`run/opensvc`), as text.
        is_conf: the service's file is a later agent's, `SVC.conf`.
        force: True under `--force`.
        reservation_key: this node's key for SCSI reservations where node.conf gives one (`prkey`).
        ask_daemon: one request to this node's daemon: `ask_daemon({"request": ...})` returns
            its answer; `{"ok": False, "running": False}` when it does not run. Never raises.
    """

    node: str
    svcname: str
    nodes: Tuple[str, ...]
    drpnodes: Tuple[str, ...]
    etc: str
    var: str
    log: str
    tmp: str
    run: Callable[..., CommandResult]
    info: Callable[[str], None]
    warning: Callable[[str], None]
    error: Callable[[str], None]
    default: Callable[[str], Any] = str
    service_resources: Callable[[], Sequence[Resource]] = tuple
    environment: Mapping[str, str] = field(default_factory=dict)
    cluster: bool = False
    runtime: str = "/run/opensvc"
    is_conf: bool = False
    force: bool = False
    reservation_key: Optional[int] = None
    ask_daemon: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda _request: {
        "ok": False,
        "running": False,
    }


class Resource:
    """One resource of a service.

    A driver sets `group`, `type_name`, `keywords` and overrides `label`, `status`, `start`
    and `stop`. Options arrive converted and validated, by keyword name, in `self.options`;
    keywords common to all resources (`disable`, `optional`, `monitor`, `restart`, `subset`,
    `tags`, `always_on`, triggers) are handled by the agent.
    """

    group: ClassVar[str] = ""
    """Family in the status tree and in svcmon: container, ip, disk, fs, share, app, sync, hb."""
    type_name: ClassVar[str] = ""
    """Name of the resource's set: `fs`, `disk.loop`, `ip`, `app`, `hb.openha`, `container.docker`."""
    types: ClassVar[Tuple[str, ...]] = ()
    """The texts of the keyword `type` that choose this driver, lower case; () for the group's only one."""
    sections: ClassVar[Tuple[str, ...]] = ()
    """Families of section names it serves: `("fs",)`, `("loop",)` for the old [loop#N] ..."""
    keywords: ClassVar[Tuple[Keyword, ...]] = ()
    tells_activation: ClassVar[bool] = False
    """True when `start` always sets `activated`: the agent then asks no status before it."""
    asked_together: ClassVar[bool] = False
    """True when a service's resources of this type tell their statuses one after another in one process:
    what the first of them had to ask, the others know. Each of them is quick once it is known."""

    def __init__(self, rid: str, options: Mapping[str, Any], context: ResourceContext) -> None:
        self.rid = rid
        self.options = options
        self.context = context
        self.messages: List[str] = []
        self.rest: Status = Status.UNDEF
        """Overall of everything but app, sync and hb; set before `status` is called."""
        self.passive: bool = False
        """Set by an hb driver's `status`: the heartbeat says that no instance runs here."""
        self.activated: Optional[bool] = None
        """Set by `start` (see `tells_activation`): False when there was nothing to do, so that
        a rollback leaves the resource alone. None: it was activated unless it was up before."""

    @property
    def label(self) -> str:
        """The text behind the status in `print status`; needs no running system."""
        raise NotImplementedError

    @property
    def sort_key(self) -> Tuple[Any, ...]:
        """Order inside a set for start and display (reversed for stop): the rid as text."""
        return (self.rid,)

    @property
    def stop_sort_key(self) -> Optional[Tuple[Any, ...]]:
        """Order inside a set for stop, ascending; None (the default): `sort_key` reversed."""
        return None

    def say(self, message: str) -> None:
        """Add a message shown under the resource in `print status` (once)."""
        if message not in self.messages:
            self.messages.append(message)

    def status(self) -> Status:
        """Tell the resource's status. No side effect, bounded time; messages go to `say`."""
        raise NotImplementedError

    def start(self) -> None:
        """Bring the resource up. Idempotent; raises ActionError."""

    def stop(self) -> None:
        """Bring the resource down. Idempotent; raises ActionError."""

    def may_start(self) -> Optional[str]:
        """Veto a start of the service before anything is touched: None, or the reason against."""
        return None

    def announce(self) -> None:
        """Tell the network that the resource is here (gratuitous ARP); nothing by default."""

    def holds(self) -> Tuple[Holding, ...]:
        """Return what this resource holds on its node while it is up, as its section tells.

        Asked for every service when the configuration is read: runs no program, waits for nothing.
        An instance that must be gone is gone when nothing of this is held; the base holds nothing.
        """
        return ()

    def files_to_push(self) -> Tuple[str, ...]:
        """Return the paths of files that the other nodes need too: sync#i0 sends them with the service's own.

        Absolute, of this node; those that do not exist are left out. Runs no program.
        """
        return ()

    def reservable_disks(self) -> Tuple[str, ...]:
        """Return the block devices that a SCSI reservation protects, as paths; () while there are none.

        A driver that overrides it takes the keyword `scsireserv`: the agent then adds the
        resource RIDpr, which reserves these disks before this resource starts. May run programs.
        """
        return ()

    def concerns(self) -> Tuple[str, ...]:
        """Return what on this machine endangers or prevents the resource, one line each, for `hbmgr check`.

        Asked at any time, whether the resource is up or not. No side effect; may run programs.
        """
        return ()

    def script_environment(self) -> Mapping[str, str]:
        """Return variables that this resource adds for scripts and triggers."""
        return {}


@dataclass(frozen=True)
class Peer:
    """A node that gets a copy, as it told about itself.

    Args:
        node: its name.
        top: its root directory: "/", but for nodes that share a machine.
    """

    node: str
    top: str


class SyncResource(Resource):
    """A resource that copies to other nodes what they need; the sync actions ask it, in this order.

    Its `start` and `stop` do nothing. `rest` is set before any of its methods is called.
    """

    group = "sync"
    type_name = "sync.rsync"

    def targets(self, kind: str) -> Tuple[str, ...]:
        """Return the nodes of a kind, `nodes` or `drpnodes`, that get a copy, this node left out."""
        raise NotImplementedError

    @property
    def route(self) -> str:
        """Return `SRC => DST`, for a line that says what failed."""
        raise NotImplementedError

    def held_back(self) -> str:
        """Tell why the schedule lets nothing be sent now, "" when it does."""
        raise NotImplementedError

    @property
    def transfer_limit_s(self) -> float:
        """Return how long `send` may take."""
        raise NotImplementedError

    def send(self, peer: Peer) -> str:
        """Send the copy to one node; returns what is worth a log line, "" for nothing.

        Runs in: a child process of the action, which is killed when the action ends.

        Raises:
            ActionError: the node has no complete copy; the text says why, in one line.
        """
        raise NotImplementedError

    def stamp(self) -> str:
        """Return the content of a stamp of this moment."""
        raise NotImplementedError
