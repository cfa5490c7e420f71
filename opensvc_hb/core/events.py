"""What can happen to a node: the events that `step` takes, as past participles."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Mapping, Optional, Tuple, Union

from opensvc_hb.core.config import Config
from opensvc_hb.core.messages import Beat
from opensvc_hb.core.states import ActionVerb, Avail, State, Verb


@dataclass(frozen=True)
class BeatReceived:
    """An authentic beat, newer than the last one on this link, was read from it."""

    link_id: str
    beat: Beat


@dataclass(frozen=True)
class LinkFailed:
    """A link's thread reports an error; the path counts as silent. `reason` is one line."""

    link_id: str
    reason: str


@dataclass(frozen=True)
class LinkDrained:
    """A listener answers `AskLinks`: all that had arrived was handed over before this event."""

    link_id: str
    token: int


@dataclass(frozen=True)
class Ticked:
    """The timer that core armed is due."""


class Outcome(enum.Enum):
    """How an action ended."""

    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    """Its time limit passed, or it was cancelled; its process group was killed."""
    NOT_BEGUN = "not begun"
    """What permitted it had run out: nothing was done."""


@dataclass(frozen=True)
class ActionFinished:
    """An action that core asked for has ended, and nothing of it runs any more.

    Args:
        action_id: the id of the `RunAction`.
        exit_status: exit status of the action; 0 when it has none.
        avail: what the agent says of the service after the action.
        detail: one line for people, "" when there is nothing to add.
    """

    service: str
    action_id: int
    verb: ActionVerb
    outcome: Outcome
    avail: Avail
    exit_status: int = 0
    detail: str = ""


@dataclass(frozen=True)
class CommandGiven:
    """An operator's command on one service.

    Args:
        command_id: echoed in the `Reply`.
        who: who asked, as the control socket knows (user name, or uid).
        reason: why, in the operator's words; "" when none was given.
        wall: wall-clock text of the moment, for people only.
    """

    command_id: int
    service: str
    verb: Verb
    force: bool = False
    who: str = ""
    reason: str = ""
    wall: str = ""


@dataclass(frozen=True)
class PeerConfirmedDead:
    """An operator vouches that a node is dead (the one audited way around a guard)."""

    command_id: int
    node: str
    who: str
    reason: str


@dataclass(frozen=True)
class ResourcesReported:
    """The background evaluation of a service ended: what the agent says of it here."""

    service: str
    avail: Avail


@dataclass(frozen=True)
class ConfigurationChanged:
    """The configuration was read anew, and is valid."""

    config: Config


@dataclass(frozen=True)
class StoredInstance:
    """What the store held of one of this node's instances."""

    state: State
    state_sequence: int
    epoch: int
    highest_epoch: int
    frozen_by: str = ""
    frozen_reason: str = ""
    frozen_wall: str = ""


@dataclass(frozen=True)
class StoredPeer:
    """What the store held of one peer.

    Args:
        incarnation: the highest accepted.
        restarting_for_s: a restart promise not yet used up, seconds; 0 for none.
        maintenance: services that this peer announced as FROZEN_START.
    """

    incarnation: int = 0
    restarting_for_s: float = 0.0
    maintenance: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Stored:
    """The whole content of the store: what a new daemon inherits."""

    incarnation: int = 0
    instances: Mapping[str, StoredInstance] = field(default_factory=dict)
    peers: Mapping[str, StoredPeer] = field(default_factory=dict)


@dataclass(frozen=True)
class DaemonStarted:
    """A daemon begins its life. `booted` tells a boot of the node from a restart of the daemon."""

    config: Config
    stored: Stored
    booted: bool


class StopKind(enum.Enum):
    """Why a daemon stops."""

    RESTART = "restart"
    """The services run on; the peers are asked to wait `restart_within`."""
    LEAVE = "leave"
    """The node goes: instances end here first, then the peers may start them at once."""


@dataclass(frozen=True)
class DaemonStopping:
    """The daemon was asked to stop; `command_id` is None when a signal asked."""

    kind: StopKind
    command_id: Optional[int] = None


@dataclass(frozen=True)
class StallDetected:
    """This process did not run for `seconds` although it should have."""

    seconds: float


Event = Union[
    BeatReceived,
    LinkFailed,
    LinkDrained,
    Ticked,
    ActionFinished,
    CommandGiven,
    PeerConfirmedDead,
    ResourcesReported,
    ConfigurationChanged,
    DaemonStarted,
    DaemonStopping,
    StallDetected,
]
