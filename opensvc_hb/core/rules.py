"""Who should run a service? The decision table: rows with an id and a sentence.

A row is chosen by what this node is in, what the peer announced, who goes first of the two,
and whether the peer is alive. Rows are tried in order; the first that matches decides. The
table never acts: `negotiation` and `healing` do what a verdict says. Dumped as a golden and
drawn into the documentation, so that it can be held against OpenHA's own table (own STOPPED
or UNKNOWN starts when the peer is STOPPED, FROZEN_STOP or UNKNOWN; nothing else moves), of
which every row here is a refinement.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import FrozenSet, Optional, Sequence, Tuple

from opensvc_hb.core.node_state import Liveness
from opensvc_hb.core.states import PERMISSIVE, Role, State


class Verdict(enum.IntEnum):
    """What a row asks for. Of several peers' verdicts the highest number counts."""

    START = 1
    """Start now: every permission is there."""
    OFFER = 2
    """Announce START_READY and wait for the peer's acknowledgement."""
    CLAIM = 3
    """Claim the silent peer's lease."""
    WAIT = 4
    """An offer, or a claim, is out: wait."""
    HOLD = 5
    """Stay as we are."""
    WITHDRAW = 6
    """Take the offer back: STOPPED."""
    YIELD = 7
    """Both run it: stop here."""
    END = 8
    """Our lease has run out: stop here."""


class Order(enum.Enum):
    """Of two nodes that both run a service, which one stays?"""

    NONE = "-"
    HIGHER = "higher"
    LOWER = "lower"
    FOREIGN = "foreign"
    """The other runs the C program, which never yields, and whose word is not authentic."""


class Lapse(enum.Enum):
    """Has this node's leave to run services run out?"""

    NONE = "-"
    LEASE = "lease"
    """Neither acknowledged nor written to the disk in time."""
    STOOD_STILL = "stood still"
    """There is no lease, but this daemon sent nothing for too long."""


class Guard(enum.Enum):
    """What must succeed before a start against a silent peer: how far is it?"""

    NONE = "none"
    """There is none, or an operator vouched for the peer's death."""
    EARLY = "early"
    """The peer may still hold its lease."""
    WANTED = "wanted"
    """To be asked now."""
    ASKED = "asked"
    PASSED = "passed"
    REFUSED = "refused"
    """It cannot be had now; it will be tried again."""


@dataclass(frozen=True)
class Situation:
    """All that the table looks at, for one service and one peer.

    Args:
        role: PRIMARY when this node stands before the peer in the service's list.
        peer: the state that the peer announced last; UNKNOWN when it announced none.
        settled: the peer acknowledged our offer, in a beat whose table we hold, in good time.
        aged: the peer runs the C program, and kept it stopped for as long as our offer had to stand.
        order: of a double start, seen from here.
        maintenance: the peer froze it started, or left without ending it, and has not said otherwise.
        ask: a takeover needs an operator, and none has spoken.
        handing: an operator switched it away, and the peer has not taken it yet.
        going: this daemon is stopping or its node is leaving: it starts nothing.
        lapse: of the leave to run what runs here; NONE where the instance needs none.
        broken: it ran out, and what ran here has not ended yet.
        guard: what must succeed before a start against this peer if it is silent.
    """

    own: State
    role: Role
    liveness: Liveness
    peer: State
    settled: bool = False
    order: Order = Order.NONE
    maintenance: bool = False
    ask: bool = False
    handing: bool = False
    going: bool = False
    lapse: Lapse = Lapse.NONE
    broken: bool = False
    guard: Guard = Guard.NONE
    aged: bool = False


CLAIM_REFUSED = "U13"
"""The row that holds a service whose silent peer's lease could not be had."""

_IDLE = frozenset({State.STOPPED, State.UNKNOWN})
_OFFERING = frozenset({State.START_READY})
_HEARD = frozenset({Liveness.ALIVE})
_RUNS = frozenset({State.STARTED, State.STARTING, State.STOPPING, State.FROZEN_START})
_ACTIVE = frozenset({State.STARTED, State.STARTING, State.FROZEN_START})
_ANY_PEER = frozenset(Liveness) - {Liveness.NOBODY}
_SILENT = frozenset({Liveness.UNKNOWN})
_CLAIMABLE = frozenset({Liveness.UNKNOWN, Liveness.WAITING})
"""A lease settles it: nobody waits for a peer that never came."""


@dataclass(frozen=True)
class Rule:
    """One row. A field that is None matches anything.

    Args:
        id: stable name, shown in the journal and in `hbmgr status`.
        alarm: an operator should look.
        sentence: why, in words.
    """

    id: str
    verdict: Verdict
    sentence: str
    own: Optional[FrozenSet[State]] = None
    liveness: Optional[FrozenSet[Liveness]] = None
    peer: Optional[FrozenSet[State]] = None
    role: Optional[Role] = None
    settled: Optional[bool] = None
    aged: Optional[bool] = None
    order: Optional[Order] = None
    maintenance: Optional[bool] = None
    ask: Optional[bool] = None
    handing: Optional[bool] = None
    going: Optional[bool] = None
    lapse: Optional[Lapse] = None
    broken: Optional[bool] = None
    guard: Optional[Guard] = None
    alarm: bool = False

    def matches(self, s: Situation) -> bool:
        """Tell whether this row is about the situation."""
        return (
            (self.own is None or s.own in self.own)
            and (self.liveness is None or s.liveness in self.liveness)
            and (self.peer is None or s.peer in self.peer)
            and (self.role is None or s.role is self.role)
            and (self.settled is None or s.settled is self.settled)
            and (self.aged is None or s.aged is self.aged)
            and (self.order is None or s.order is self.order)
            and (self.maintenance is None or s.maintenance is self.maintenance)
            and (self.ask is None or s.ask is self.ask)
            and (self.handing is None or s.handing is self.handing)
            and (self.going is None or s.going is self.going)
            and (self.lapse is None or s.lapse is self.lapse)
            and (self.broken is None or s.broken is self.broken)
            and (self.guard is None or s.guard is self.guard)
        )


def _states(*states: State) -> FrozenSet[State]:
    return frozenset(states)


RULES: Tuple[Rule, ...] = (
    # What runs here has no leave any more: the peer may start it soon.
    Rule(
        "L1",
        Verdict.END,
        "this node's lease has run out (its beats are not acknowledged and its slot is not written): it "
        "ends here before the peer may start it",
        own=_ACTIVE,
        lapse=Lapse.LEASE,
        alarm=True,
    ),
    Rule(
        "L2",
        Verdict.END,
        "this node stood still for so long that the peer may take over soon: it ends here",
        own=_ACTIVE,
        lapse=Lapse.STOOD_STILL,
        alarm=True,
    ),
    # Both run it: exactly one of the two yields, by an order that both compute alike.
    Rule(
        "H1",
        Verdict.YIELD,
        "both nodes run it and the other side has the higher claim (resources up, then epoch, then "
        "primary): this side stops",
        own=_ACTIVE,
        peer=_ACTIVE,
        liveness=frozenset({Liveness.ALIVE, Liveness.ONE_WAY}),
        order=Order.LOWER,
        alarm=True,
    ),
    Rule(
        "H2",
        Verdict.HOLD,
        "both nodes run it and this side has the higher claim: it stays, the other side stops when it "
        "hears us",
        own=_ACTIVE,
        peer=_ACTIVE,
        liveness=frozenset({Liveness.ALIVE, Liveness.ONE_WAY}),
        order=Order.HIGHER,
        alarm=True,
    ),
    Rule(
        "H3",
        Verdict.HOLD,
        "both nodes run it and the other one is run by the C program, which never yields: stop one by hand",
        own=_ACTIVE,
        peer=_ACTIVE,
        liveness=frozenset({Liveness.ALIVE, Liveness.ONE_WAY}),
        order=Order.FOREIGN,
        alarm=True,
    ),
    # States that only an action or an operator ends.
    Rule("O1", Verdict.HOLD, "it runs here", own=_states(State.STARTED)),
    Rule("O2", Verdict.HOLD, "its start action is running here", own=_states(State.STARTING)),
    Rule("O3", Verdict.HOLD, "its stop action is running here", own=_states(State.STOPPING)),
    Rule(
        "O4",
        Verdict.HOLD,
        "frozen while stopped: only an operator moves it (unfreeze)",
        own=_states(State.FROZEN_STOP),
    ),
    Rule(
        "O5",
        Verdict.HOLD,
        "frozen while started: only an operator moves it (unfreeze)",
        own=_states(State.FROZEN_START),
    ),
    Rule(
        "O6",
        Verdict.HOLD,
        "its start failed here: after the repair, force-stop retries here, freeze-stop lets the peer start",
        own=_states(State.START_FAILED),
        alarm=True,
    ),
    Rule(
        "O7",
        Verdict.HOLD,
        "its stop failed here and resources may be up: stop them by hand, then force-stop or freeze-stop",
        own=_states(State.STOP_FAILED),
        alarm=True,
    ),
    Rule(
        "O8",
        Verdict.HOLD,
        "FORCE_STOP holds it: only an operator moves it (force-stop)",
        own=_states(State.FORCE_STOP),
    ),
    # This daemon goes: nothing new is begun.
    Rule(
        "G1",
        Verdict.WITHDRAW,
        "this daemon is stopping: the offer is taken back",
        own=_OFFERING,
        going=True,
    ),
    Rule("G2", Verdict.HOLD, "this daemon is stopping: it starts nothing", own=_IDLE, going=True),
    # What had to end has not ended: the leave to run comes back when it has.
    Rule(
        "L3",
        Verdict.WITHDRAW,
        "this node's lease ran out and what ran here has not ended: the offer is taken back",
        own=_OFFERING,
        liveness=_ANY_PEER,
        broken=True,
    ),
    Rule(
        "L4",
        Verdict.HOLD,
        "this node's lease ran out and what ran here has not ended: nothing is started here before it has",
        own=_IDLE,
        liveness=_ANY_PEER,
        broken=True,
        alarm=True,
    ),
    # Stopped here, the peer is heard.
    Rule(
        "W1",
        Verdict.HOLD,
        "it was switched away: the peer goes first",
        own=_IDLE,
        liveness=_HEARD,
        peer=PERMISSIVE | _OFFERING | _RUNS,
        handing=True,
    ),
    Rule(
        "S1",
        Verdict.OFFER,
        "the peer is alive and has it stopped: announce START_READY",
        own=_IDLE,
        liveness=_HEARD,
        peer=PERMISSIVE,
    ),
    Rule(
        "S2",
        Verdict.OFFER,
        "the secondary offers to start and the primary goes first: answer with our own offer",
        own=_IDLE,
        liveness=_HEARD,
        peer=_OFFERING,
        role=Role.PRIMARY,
    ),
    Rule(
        "S3",
        Verdict.HOLD,
        "the peer announces START_READY: it goes first",
        own=_IDLE,
        liveness=_HEARD,
        peer=_OFFERING,
        role=Role.SECONDARY,
    ),
    Rule("S4", Verdict.HOLD, "the peer is alive and has it", own=_IDLE, liveness=_HEARD, peer=_RUNS),
    Rule(
        "S5",
        Verdict.HOLD,
        "its start or stop failed on the peer, which is alive: an operator must act there",
        own=_IDLE,
        liveness=_HEARD,
        peer=_states(State.START_FAILED, State.STOP_FAILED),
        alarm=True,
    ),
    Rule(
        "S6",
        Verdict.HOLD,
        "the peer is alive and does not say where it stands: that permits nothing",
        own=_IDLE,
        liveness=_HEARD,
        peer=_states(State.UNKNOWN, State.FORCE_STOP),
    ),
    Rule(
        "S7",
        Verdict.HOLD,
        "the peer is heard but does not hear us: it lives, so no takeover",
        own=_IDLE,
        liveness=frozenset({Liveness.ONE_WAY}),
        alarm=True,
    ),
    # Stopped here, the peer is not heard.
    Rule(
        "U0",
        Verdict.START,
        "no other node may run it: start",
        own=_IDLE | _OFFERING,
        liveness=frozenset({Liveness.NOBODY}),
    ),
    Rule(
        "U1",
        Verdict.HOLD,
        "the peer has not been silent for the timeout since this daemon started or woke",
        own=_IDLE,
        liveness=frozenset({Liveness.UNPROVEN}),
    ),
    Rule(
        "U2",
        Verdict.HOLD,
        "the peer was not heard since this daemon started: waiting for it (wait_for_peer)",
        own=_IDLE,
        liveness=frozenset({Liveness.WAITING}),
        guard=Guard.NONE,
    ),
    Rule(
        "U3",
        Verdict.HOLD,
        "the peer's daemon restarts and its promise to be back has not run out",
        own=_IDLE,
        liveness=frozenset({Liveness.RESTARTING}),
    ),
    Rule(
        "U4",
        Verdict.START,
        "the peer left in order and had it stopped: start at once",
        own=_IDLE | _OFFERING,
        liveness=frozenset({Liveness.LEFT}),
        peer=PERMISSIVE,
    ),
    Rule(
        "U5",
        Verdict.HOLD,
        "the peer left in order, but it may still run there",
        own=_IDLE,
        liveness=frozenset({Liveness.LEFT}),
        alarm=True,
    ),
    Rule(
        "U6",
        Verdict.HOLD,
        "the peer is silent, but its last word keeps it there (frozen started, or not ended as it left): "
        "confirm the node dead to move it",
        own=_IDLE,
        liveness=_CLAIMABLE,
        maintenance=True,
        alarm=True,
    ),
    Rule(
        "U7",
        Verdict.HOLD,
        "the peer is silent and takeover = ask: start it by hand, or confirm the node dead",
        own=_IDLE,
        liveness=_CLAIMABLE,
        ask=True,
        alarm=True,
    ),
    Rule(
        "U8",
        Verdict.START,
        "the peer is silent on every link for the timeout: take over",
        own=_IDLE | _OFFERING,
        liveness=_SILENT,
        maintenance=False,
        ask=False,
        guard=Guard.NONE,
    ),
    Rule(
        "U9",
        Verdict.HOLD,
        "the peer is silent, but its lease may not have run out: waiting until it was silent, and its slot "
        "unchanged, for the longest timeout",
        own=_IDLE,
        liveness=_CLAIMABLE,
        guard=Guard.EARLY,
    ),
    Rule(
        "U10",
        Verdict.CLAIM,
        "the peer is silent on every link for the timeout: claim its lease on the shared disk",
        own=_IDLE | _OFFERING,
        liveness=_CLAIMABLE,
        maintenance=False,
        ask=False,
        guard=Guard.WANTED,
    ),
    Rule(
        "U11",
        Verdict.WAIT,
        "the peer is silent on every link for the timeout: its lease is being claimed on the shared disk",
        own=_IDLE | _OFFERING,
        liveness=_CLAIMABLE,
        maintenance=False,
        ask=False,
        guard=Guard.ASKED,
    ),
    Rule(
        "U12",
        Verdict.START,
        "the peer is silent on every link for the timeout and its lease has run out: take over",
        own=_IDLE | _OFFERING,
        liveness=_CLAIMABLE,
        maintenance=False,
        ask=False,
        guard=Guard.PASSED,
    ),
    Rule(
        CLAIM_REFUSED,
        Verdict.HOLD,
        "the peer is silent and its lease cannot be had, so it may still run there: mend the disk, or "
        "confirm the node dead; tried again",
        own=_IDLE,
        liveness=_CLAIMABLE,
        guard=Guard.REFUSED,
        alarm=True,
    ),
    # An offer of ours is out.
    Rule(
        "N1",
        Verdict.START,
        "the peer acknowledged our offer and has it stopped: start",
        own=_OFFERING,
        liveness=_HEARD,
        peer=PERMISSIVE,
        settled=True,
    ),
    Rule(
        "C1",
        Verdict.START,
        "the peer runs the C program and kept it stopped while our offer stood for 5 s: start",
        own=_OFFERING,
        liveness=_HEARD,
        peer=PERMISSIVE,
        aged=True,
    ),
    Rule(
        "N2",
        Verdict.WAIT,
        "our offer waits for the peer's acknowledgement",
        own=_OFFERING,
        liveness=_HEARD,
        peer=PERMISSIVE,
        settled=False,
    ),
    Rule(
        "N3",
        Verdict.WAIT,
        "both offered, the primary goes first: waiting to read that the peer withdrew",
        own=_OFFERING,
        liveness=_HEARD,
        peer=_OFFERING,
        role=Role.PRIMARY,
    ),
    Rule(
        "N4",
        Verdict.WITHDRAW,
        "both offered, the primary goes first: withdraw",
        own=_OFFERING,
        liveness=_HEARD,
        peer=_OFFERING,
        role=Role.SECONDARY,
    ),
    Rule(
        "N5",
        Verdict.WITHDRAW,
        "the peer is alive and no longer stopped: withdraw",
        own=_OFFERING,
        liveness=_HEARD,
    ),
    Rule(
        "N6",
        Verdict.WITHDRAW,
        "the peer is not heard in both directions and not known to be gone: withdraw",
        own=_OFFERING,
    ),
)


def decide(situation: Situation) -> Rule:
    """Return the first row that matches; the table is complete.

    Source: OpenHA's decision table (start from STOPPED or UNKNOWN against STOPPED,
    FROZEN_STOP and UNKNOWN, the same for both roles), refined as the sentences say.
    """
    for rule in RULES:
        if rule.matches(situation):
            return rule
    raise AssertionError(f"the decision table has no row for {situation}")


def strictest(rules: Sequence[Rule]) -> Rule:
    """Of the rows chosen for several peers, return the one that allows least.

    With two nodes there is one; not proven for more than two.
    """
    return max(rules, key=lambda rule: rule.verdict)


def dump() -> str:
    """Return the table as text, one row a line pair, as the golden and the docs hold it."""

    def names(values: Optional[FrozenSet[State]]) -> str:
        return "any" if values is None else " ".join(s.name for s in sorted(values))

    lines = []
    for rule in RULES:
        live = "any" if rule.liveness is None else " ".join(sorted(v.value for v in rule.liveness))
        conditions = [
            f"{name}={value}"
            for name, value in (
                ("role", rule.role.value if rule.role else None),
                ("settled", rule.settled),
                ("aged", rule.aged),
                ("order", rule.order.value if rule.order else None),
                ("maintenance", rule.maintenance),
                ("ask", rule.ask),
                ("handing", rule.handing),
                ("going", rule.going),
                ("lapse", rule.lapse.value if rule.lapse else None),
                ("broken", rule.broken),
                ("guard", rule.guard.value if rule.guard else None),
            )
            if value is not None
        ]
        alarm = "  ALARM" if rule.alarm else ""
        lines.append(f"{rule.id} {rule.verdict.name}{alarm}: {rule.sentence}")
        lines.append(
            f"   own {names(rule.own)} | peer {names(rule.peer)} | {live}"
            + (f" | {', '.join(conditions)}" if conditions else "")
        )
    return "\n".join(lines) + "\n"
