"""What can happen to a node: the events that `step` takes, as past participles."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Mapping, Optional, Tuple, Union

from opensvc_hb.core.config import Config
from opensvc_hb.core.messages import Beat
from opensvc_hb.core.states import ActionVerb, Answer, Avail, State, Verb


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
class SlotView:
    """What a listener has seen of the other end's slot, by its reads at their usual pace.

    Args:
        read_at: when the newest read began, which was after the question that this answers.
        unchanged_since: when the read that first showed the present content had ended. A first
            sight, and content that cannot be read, is torn, foreign, never written or of an older
            life, was seen first by the newest read, however often it was seen.
        digest: of the whole slot; equal for equal content.
        problem: why this content is no lease's, one line; "" for the slot of a node of ours.
        longest_timeout_s: T as the slot's lease block says; 0 when it says none.
    """

    read_at: float
    unchanged_since: float
    digest: bytes
    problem: str = ""
    longest_timeout_s: float = 0.0


@dataclass(frozen=True)
class LinkDrained:
    """A listener answers `AskLinks`: all that had arrived was handed over before this event.

    Args:
        slot: of a disk link, what its newest read showed; that read began after the question.
            None for other links, and when the slot could not be read.
    """

    link_id: str
    token: int
    slot: Optional[SlotView] = None


@dataclass(frozen=True)
class SlotWritten:
    """Our slot was written, read back past every cache, and is as we wrote it.

    Args:
        incarnation, sequence: of the beat in it.
        began_at: clock seconds, from before the write.
    """

    link_id: str
    incarnation: int
    sequence: int
    began_at: float


@dataclass(frozen=True)
class SlotFound:
    """Our own slot holds an authentic beat of this node, above the one to be written there.

    Nobody who has read it accepts less. The slot is left as it is until our beats are above it; as
    long as they are not, each of them brings this event again.

    Args:
        incarnation, sequence: of the beat found there.
    """

    link_id: str
    incarnation: int
    sequence: int


@dataclass(frozen=True)
class GuardianActed:
    """The guardian did something to instances of this node, or cannot be reached.

    Args:
        services: the services concerned, () for all.
        what: one line.
        alarm: an operator should look; with services: it ends them, or could not.
    """

    services: Tuple[str, ...]
    what: str
    alarm: bool = True


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
class ResourceReport:
    """What the agent says of one resource; `detail` is its own message, one line, or ""."""

    rid: str
    answer: Answer
    detail: str = ""


@dataclass(frozen=True)
class ResourcesReported:
    """The background evaluation of a service ended: what the agent says of it here.

    Args:
        resources: the monitored ones; one that is missing could not be asked.
        restarts_spent: whoever reports has restarted in vain what is down.
    """

    service: str
    avail: Avail
    resources: Tuple[ResourceReport, ...] = ()
    restarts_spent: bool = False


@dataclass(frozen=True)
class NodeNotReset:
    """`ResetNode` was not carried out; `why` is one line."""

    service: str
    why: str


@dataclass(frozen=True)
class ConfigurationChanged:
    """The configuration was read anew, and is valid. `is_whole` as in `DaemonStarted`."""

    config: Config
    is_whole: bool = True


@dataclass(frozen=True)
class StoredInstance:
    """What the store held of one of this node's instances.

    Args:
        excused: it is FROZEN_START, and every peer has acknowledged that: no lease is needed.
    """

    state: State
    state_sequence: int
    epoch: int
    highest_epoch: int
    frozen_by: str = ""
    frozen_reason: str = ""
    frozen_wall: str = ""
    excused: bool = False


@dataclass(frozen=True)
class StoredPeer:
    """What the store held of one peer.

    Args:
        incarnation: the highest accepted.
        restarting_for_s: a restart promise not yet used up, seconds; 0 for none.
        maintenance: services that this peer announced as FROZEN_START.
        confirmed_dead: an operator vouched for its death, and it was not heard since.
        longest_timeout_s: T as it told last; 0 when it never did.
    """

    incarnation: int = 0
    restarting_for_s: float = 0.0
    maintenance: Tuple[str, ...] = ()
    confirmed_dead: bool = False
    longest_timeout_s: float = 0.0


@dataclass(frozen=True)
class Stored:
    """The whole content of the store: what a new daemon inherits."""

    incarnation: int = 0
    instances: Mapping[str, StoredInstance] = field(default_factory=dict)
    peers: Mapping[str, StoredPeer] = field(default_factory=dict)


@dataclass(frozen=True)
class DaemonStarted:
    """A daemon begins its life. `booted` tells a boot of the node from a restart of the daemon.

    Args:
        lease_until: the deadline that the guardian holds for this node's instances: from then on it
            ends them. None when it knows of none: it guards nothing, or has just begun itself.
        lease_timeout_s: T as that deadline counts it; 0 when there is none.
        lease_services: hb name and svcname of each instance that it is held for.
        is_whole: the agent has said of every service's file what it is; else a service that is not in
            the configuration may run here all the same.
    """

    config: Config
    stored: Stored
    booted: bool
    lease_until: Optional[float] = None
    lease_timeout_s: float = 0.0
    lease_services: Tuple[Tuple[str, str], ...] = ()
    is_whole: bool = True


@dataclass(frozen=True)
class LegacyBeat:
    """A beat of a node that runs the C program, fresh on this link: no dialogue, states only.

    Args:
        node: who sent it; the link's own node, never this one.
        states: its services in its order, with the states there; services unknown here included.
        elapsed: the sender's wall clock, seconds; compared for equality only.
        pid: the sending process.
    """

    link_id: str
    node: str
    states: Tuple[Tuple[str, State], ...]
    elapsed: int
    pid: int


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
    LegacyBeat,
    LinkFailed,
    LinkDrained,
    SlotWritten,
    SlotFound,
    GuardianActed,
    Ticked,
    ActionFinished,
    CommandGiven,
    PeerConfirmedDead,
    ResourcesReported,
    NodeNotReset,
    ConfigurationChanged,
    DaemonStarted,
    DaemonStopping,
    StallDetected,
]
