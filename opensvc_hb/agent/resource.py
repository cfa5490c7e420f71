"""The resource interface: all that a driver sees of the agent.

A driver is one short file under `drivers/resource/<group>/<type>.py` that defines one
subclass of `Resource` and imports nothing of ours but this module (and `client` for hb).
The agent finds it by path; there is no registry.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Callable, ClassVar, List, Mapping, Optional, Sequence, Tuple

from opensvc_hb.agent.keywords import Keyword, boolean, integer, node_list, words
from opensvc_hb.errors import HbError
from opensvc_hb.held import Holding, HoldingKind

__all__ = [
    "ActionError",
    "CommandResult",
    "Holding",
    "HoldingKind",
    "Keyword",
    "Resource",
    "ResourceContext",
    "Status",
    "boolean",
    "integer",
    "node_list",
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

    def script_environment(self) -> Mapping[str, str]:
        """Return variables that this resource adds for scripts and triggers."""
        return {}
