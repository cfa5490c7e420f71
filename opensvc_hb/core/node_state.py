"""What one node's core remembers between two steps. Frozen; `step` makes a new one.

Nothing here can be derived from the rest, except where a comment says why it is kept.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, FrozenSet, Mapping, Optional, Tuple

from opensvc_hb.core.config import Config
from opensvc_hb.core.events import CommandGiven, LegacyBeat, SlotView, StopKind, StoredInstance
from opensvc_hb.core.guardian import Order
from opensvc_hb.core.messages import Entry
from opensvc_hb.core.states import ActionVerb, Avail, State, Verb
from opensvc_hb.core.watching import NOTHING_KNOWN, Watching

if TYPE_CHECKING:
    from opensvc_hb.core.summary import Summary  # made of these records


@dataclass(frozen=True)
class Freeze:
    """Who froze an instance, why, and when (wall-clock text, for people)."""

    who: str
    reason: str
    wall: str


@dataclass(frozen=True)
class Offer:
    """A START_READY that asks the peers for leave to start.

    Args:
        incarnation, sequence: the stamp: our first beat that carries the offer.
    """

    incarnation: int
    sequence: int
    made_at: float


class Purpose(enum.Enum):
    """Why an action runs; it decides what its end means."""

    RULE = "rule"
    """The decision table, or an operator through it."""
    OPERATOR = "operator"
    HEAL = "heal"
    """This side of a double start yields."""
    LEAVE = "leave"
    """The node goes."""
    LEASE = "lease"
    """This node's lease has run out: what it runs ends before another node may start it."""
    ADOPT = "adopt"
    """A new daemon, or a new service: what runs here?"""
    FORCE_STOP = "force-stop"
    """Are the resources down, as the operator says?"""
    ANNOUNCE = "announce"
    HAND_OVER = "hand over"
    """An operator, or the resource monitor, switches it to another node."""
    MONITOR = "monitor"
    """A monitored resource is down here."""


@dataclass(frozen=True)
class RunningAction:
    """The one action that runs for a service on this node.

    Args:
        then: the state that success means.
    """

    action_id: int
    verb: ActionVerb
    purpose: Purpose
    then: State
    since: float


@dataclass(frozen=True)
class Waiting:
    """An operator waits for the outcome of a command."""

    command_id: int
    verb: Verb


@dataclass(frozen=True)
class Instance:
    """This node's instance of one service.

    Args:
        state_sequence: grows by one with each change of state; survives restarts.
        epoch: what this instance holds; highest_epoch: the highest seen anywhere.
        verified: the agent was asked since this daemon started; only then is it announced.
        freeze_next: the freeze that the end of what is under way brings.
        frozen_at: of FROZEN_START, the sequence of our first beat that says so; excused: every peer has
            acknowledged it: it is maintenance, and needs no lease.
        called: an operator asked for this takeover (`takeover = ask`).
        yielding: why a start under way was cancelled: its end is a stop for that purpose.
        interrupted: a restart of a resource was cancelled for an operator's command, which waits.
        stop_next: an operator cancelled the start under way: what it began is stopped, then this.
        contested: another node ran it too, or was unheard: announce addresses once settled.
        doubtful: FROZEN_STOP by its record, but the agent could not tell whether it runs here:
            announced as UNKNOWN, which permits nothing.
        declared: STARTED by an operator's word alone (`force-start`), and never seen up here since:
            none of its resources is restarted, for they may be up elsewhere.
        handing_until: switched away: the peer goes first until then; None if not.
        paused_until: a start that was allowed could not be begun here: tried again then; None if not.
        held_by: id of the rule last found to hold it; kept so that the journal tells changes only.
        detail: what the last action said, for people.
        watching: what is known of its monitored resources.
    """

    service: str
    state: State
    state_sequence: int = 0
    epoch: int = 0
    highest_epoch: int = 0
    since: float = 0.0
    verified: bool = True
    resources: Avail = Avail.NOT_EVALUATED
    freeze: Optional[Freeze] = None
    freeze_next: Optional[Freeze] = None
    frozen_at: Optional[int] = None
    excused: bool = False
    called: bool = False
    offer: Optional[Offer] = None
    action: Optional[RunningAction] = None
    waiting: Tuple[Waiting, ...] = ()
    yielding: Optional[Purpose] = None
    interrupted: bool = False
    stop_next: Optional[State] = None
    contested: bool = False
    doubtful: bool = False
    declared: bool = False
    handing_until: Optional[float] = None
    paused_until: Optional[float] = None
    held_by: str = ""
    detail: str = ""
    watching: Watching = NOTHING_KNOWN


class Liveness(enum.Enum):
    """Is the peer alive? Answered from the age of its beats by our own clock, nothing else."""

    NOBODY = "nobody"
    """There is no other node that may run the service."""

    ALIVE = "alive"
    ONE_WAY = "one-way"
    """Heard, but it does not hear us: it lives."""
    UNPROVEN = "unproven"
    """Not heard, and not silent for the timeout since this daemon started or woke."""
    WAITING = "waiting"
    """Silent since this daemon started; `wait_for_peer` still runs."""
    RESTARTING = "restarting"
    """Silent, and its promise to come back has not run out."""
    LEFT = "left"
    """It said its last word in good time: its instances have ended as its table says."""
    UNKNOWN = "unknown"
    """Silent on every link for the timeout."""


@dataclass(frozen=True)
class PeerLink:
    """One link on which this node listens to a peer.

    Args:
        heard_at: when the last fresh beat was read, None before the first.
        sequence: the sequence of that beat.
        up: kept to tell changes; a link is UP while heard_at is younger than its timeout.
    """

    link_id: str
    timeout_s: float
    heard_at: Optional[float] = None
    sequence: int = 0
    up: bool = False
    error: str = ""


@dataclass(frozen=True)
class Drain:
    """Before a peer is called UNKNOWN, every listener hands over what has arrived."""

    token: int
    missing: FrozenSet[str]
    until: float


@dataclass(frozen=True)
class Claim:
    """Our attempt at the lease of a silent peer: look, write, look again.

    Args:
        deadline: the disk has until then to answer.
        look: the question that the listeners are to answer now; None when none is out.
        sequence: our first beat that carries the claim; None before it was announced.
        seen: the peer's slot as of the first look.
        written_at: from before the write of the claim that was read back; None until then.
        passed: the second look showed the same: the lease is ours.
        refused: why not, one line; tried again at `retry_at`.
        tries: refusals in a row; before: why the last one was.
    """

    begun_at: float
    deadline: float
    look: Optional[Drain] = None
    sequence: Optional[int] = None
    seen: Optional[SlotView] = None
    written_at: Optional[float] = None
    passed: bool = False
    refused: str = ""
    retry_at: float = 0.0
    tries: int = 0
    before: str = ""


@dataclass(frozen=True)
class Lease:
    """This node's leave to run services, which a silent peer may claim when it has run out.

    Args:
        until: what needs it begins to end then; None: not known (yet).
        counts_from: the moment of its last renewal; renewed_by: how, for people.
        timeout_s: T as this deadline counts it, which the guardian's must follow; 0 for that of now.
        is_broken: it had run out, or its age was unknown when this daemon began, and what ran has
            not ended since: nothing renews it until that has.
    """

    until: Optional[float] = None
    counts_from: Optional[float] = None
    renewed_by: str = ""
    is_broken: bool = False
    timeout_s: float = 0.0


@dataclass(frozen=True)
class Legacy:
    """A peer that runs the C program, or did.

    Args:
        speaks: its newest word is the C program's, and its table is of that.
        marks: by link, what the newest structure says in all: the sender's clock and process, and the
            states. One that says the same again is no sign of life.
        changed_at: by service, when its state there was seen to change, or first seen.
        kept: a structure that came while the peer spoke natively, and when: what it says counts as
            soon as it does not any more.
    """

    speaks: bool = False
    marks: Mapping[str, Tuple[int, int, Tuple[Tuple[str, State], ...]]] = field(default_factory=dict)
    changed_at: Mapping[str, float] = field(default_factory=dict)
    kept: Optional[Tuple[LegacyBeat, float]] = None


@dataclass(frozen=True)
class Peer:
    """What this node knows of another.

    Args:
        incarnation: the highest ever accepted (persisted); heard: any beat in our present life;
            heard_from_at: since when without a silence on all links.
        sequence: the newest beat of that incarnation; settled_sequence: the newest whose table
            we hold, which is what we acknowledge.
        table: its instances as of the newest settled beat; table_current: the newest beat's too.
        silent_from: silence counts from here at the earliest: our start, or our last waking.
        acked: the highest of our sequences that it processed, in our present incarnation.
        acked_at: when that beat was made; None for none yet.
        trusted_until: until then it cannot have taken us for dead: the permissions it gave hold.
        hears: our link tags that it hears, with the time it last said so.
        hears_us_at: when it last said that it hears us on any link; None for never.
        holds_digest: digest of our table as it holds it.
        promise_s, promised_until: its restart promise; 0 and None when there is none.
        left_until: its LEFT is a permission until then; None when it has not left.
        maintenance: services it announced as FROZEN_START, or could not end as it left, until
            it says otherwise.
        confirmed_dead: an operator vouched; until it is heard again.
        slot: what our listener has last told of its slot on the lease disk.
        claim: our claim of its lease, while it is silent.
        legacy: what is known of it as a node that runs the C program; None: nothing ever came.
    """

    node: str
    links: Mapping[str, PeerLink]
    silent_from: float
    incarnation: int = 0
    heard: bool = False
    heard_from_at: float = 0.0
    sequence: int = 0
    settled_sequence: int = 0
    table: Mapping[str, Entry] = field(default_factory=dict)
    table_digest: bytes = b""
    table_current: bool = False
    acked: int = 0
    acked_at: Optional[float] = None
    trusted_until: float = 0.0
    hears: Mapping[int, float] = field(default_factory=dict)
    hears_us_at: Optional[float] = None
    holds_digest: bytes = b""
    promise_s: float = 0.0
    promised_until: Optional[float] = None
    left_until: Optional[float] = None
    maintenance: FrozenSet[str] = frozenset()
    confirmed_dead: bool = False
    liveness: Liveness = Liveness.UNPROVEN
    drain: Optional[Drain] = None
    config_digest: bytes = b""
    longest_timeout_s: float = 0.0
    slot: Optional[SlotView] = None
    claim: Optional[Claim] = None
    legacy: Optional[Legacy] = None

    @property
    def is_legacy(self) -> bool:
        """Tell whether its newest word is the C program's."""
        return self.legacy is not None and self.legacy.speaks


class Phase(enum.Enum):
    """Where a daemon is in its life."""

    BORN = "born"
    """Before `DaemonStarted`."""
    VERIFYING = "verifying"
    """Asking the agent what runs here; a beat says of a service nothing until that is known."""
    RUNNING = "running"
    RESTARTING = "restarting"
    """Services run on; the peers are asked to wait."""
    LEAVING = "leaving"
    """Instances end here first."""
    LEFT = "left"
    """The last word is said; waiting for its acknowledgement."""
    GONE = "gone"


def is_going(phase: Phase) -> bool:
    """Tell whether a daemon in this phase is on its way out: it starts nothing."""
    return phase not in (Phase.RUNNING, Phase.VERIFYING)


@dataclass(frozen=True)
class Sent:
    """When a beat of ours was made (at the latest when it was sent)."""

    sequence: int
    at: float


@dataclass(frozen=True)
class NodeState:
    """The whole state of one node's core.

    Args:
        started_at: when this daemon started; last_at: the last step.
        sequence: of our newest beat. sent: times of our beats, coarse, oldest first.
        unconfirmed_from: our states are marked unconfirmed until a beat from this sequence
            on is acknowledged; None when confirmed.
        stop_asked: a stop was asked for while the agent was still being asked what runs here.
        held: commands on services that the agent is still being asked about.
        is_whole: of every service's file it is known what it is.
        kept: records of services that are not configured, while that is not so.
        left_guarded: what the guardian held a deadline for as this daemon began, by hb name and svcname,
            and the agent was not asked about yet, or could not say anything of.
        abandoned: services that ran here, as far as known, when they left the configuration.
        reborn_at, found_at: when our incarnation was raised because a peer, or our own slot, knew a
            higher one; twin_at: the same, when either did not for the first time: another machine
            speaks in our name.
        summary: derived from the rest, kept since most turns change no instance.
        lease: ours; guarded: the last order to the guardian, kept to tell changes only.
        watched: the services whose resources are watched, kept to tell changes only.
        longer_from: T was made longer (by a reload), and our beats tell so from this sequence on; those
            before it told at least shorter_timeout_s.
        farewell: the sequence whose acknowledgement lets the daemon exit.
        phase_until: when the present phase ends by itself, at the latest.
    """

    config: Config
    started_at: float = 0.0
    last_at: float = 0.0
    phase: Phase = Phase.BORN
    phase_until: Optional[float] = None
    incarnation: int = 0
    sequence: int = 0
    sent: Tuple[Sent, ...] = ()
    next_beat_at: float = 0.0
    instances: Mapping[str, Instance] = field(default_factory=dict)
    peers: Mapping[str, Peer] = field(default_factory=dict)
    next_id: int = 1
    unconfirmed_from: Optional[int] = None
    stalled_s: float = 0.0
    stalled_at: Optional[float] = None
    stop_asked: Optional[StopKind] = None
    held: Tuple[CommandGiven, ...] = ()
    is_whole: bool = True
    kept: Mapping[str, StoredInstance] = field(default_factory=dict)
    left_guarded: Tuple[Tuple[str, str], ...] = ()
    abandoned: Mapping[str, State] = field(default_factory=dict)
    reborn_at: Optional[float] = None
    found_at: Optional[float] = None
    twin_at: Optional[float] = None
    lease: Lease = Lease()
    longer_from: int = 0
    shorter_timeout_s: float = 0.0
    summary: Optional[Summary] = field(default=None, compare=False, repr=False)
    guarded: Optional[Order] = None
    watched: Tuple[Tuple[str, str], ...] = ()
    farewell: Optional[int] = None
    farewell_command: Optional[int] = None


def new_node(config: Config) -> NodeState:
    """Return the state of a node whose daemon has not started yet."""
    return NodeState(config=config)
