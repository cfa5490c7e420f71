"""A monitored resource was looked at: what now? A table of rows, each with an id and a sentence.

Asked only where the service is STARTED and nothing else is to be done with it. A row is chosen by
what the agent says of the resource, how often it was restarted, and whether another node can take
the service. Rows are tried in order; the first that matches decides. The table never acts:
`monitoring` does. Dumped behind the decision table, and drawn into the documentation.

Source: the agents' resource monitor (restart, then the monitor action). Ours: an answer "unknown"
never moves a service, nothing moves before a second look, nor to a node that cannot take it, nor
again and again.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from typing import FrozenSet, Optional, Tuple

from opensvc_hb.core.config import MonitorAction
from opensvc_hb.core.states import Answer


class MonitorVerdict(enum.IntEnum):
    """What a row asks for. Of several resources of a service the highest number counts."""

    REST = 1
    """Nothing is wrong."""
    HOLD = 2
    """Stay as we are."""
    WAIT = 3
    """Stay as we are for a moment."""
    LOOK = 4
    """Have it looked at again, at once."""
    RESTART = 5
    """Restart the resource here."""
    PREPARE = 6
    """Run the service's own command first."""
    FREEZE_STOP = 7
    """Stop the service here and freeze it."""
    SWITCH = 8
    """Stop the service here and leave it to the other node."""
    REBOOT = 9
    CRASH = 10


class Tries(enum.Enum):
    """May the resource be restarted?"""

    LEFT = "left"
    PAUSED = "paused"
    """The last one is too young."""
    SPENT = "spent"
    """As often as its section says, or it says never."""


class Taker(enum.Enum):
    """Can another node take the service?"""

    READY = "ready"
    """It is heard, hears us, and has the service stopped and not frozen."""
    NOBODY = "nobody"
    """No other node may run it."""
    UNHEARD = "unheard"
    """Silent, or heard in one direction only."""
    FROZEN = "frozen"
    FAILED = "failed"
    """Its start or stop failed there."""
    BUSY = "busy"
    """It has it in a state from which it takes nothing, or does not say."""


@dataclass(frozen=True)
class MonitorSituation:
    """All that the table looks at, for one monitored resource.

    Args:
        confirmed: down was seen twice in a row.
        moved_often: the service changed its node as often as it may for now.
        unprepared: the service has a command to be run first, and it was not run.
    """

    answer: Answer
    tries: Tries = Tries.SPENT
    confirmed: bool = False
    taker: Taker = Taker.READY
    moved_often: bool = False
    action: MonitorAction = MonitorAction.FREEZE_STOP
    unprepared: bool = False


@dataclass(frozen=True)
class MonitorRule:
    """One row; a field that is None matches anything. `alarm`: an operator should look."""

    id: str
    verdict: MonitorVerdict
    sentence: str
    answer: Optional[Answer] = None
    tries: Optional[Tries] = None
    confirmed: Optional[bool] = None
    taker: Optional[FrozenSet[Taker]] = None
    moved_often: Optional[bool] = None
    action: Optional[MonitorAction] = None
    unprepared: Optional[bool] = None
    alarm: bool = False

    def matches(self, s: MonitorSituation) -> bool:
        """Tell whether this row is about the situation."""
        return (
            (self.answer is None or s.answer is self.answer)
            and (self.tries is None or s.tries is self.tries)
            and (self.confirmed is None or s.confirmed is self.confirmed)
            and (self.taker is None or s.taker in self.taker)
            and (self.moved_often is None or s.moved_often is self.moved_often)
            and (self.action is None or s.action is self.action)
            and (self.unprepared is None or s.unprepared is self.unprepared)
        )


MONITOR_RULES: Tuple[MonitorRule, ...] = (
    MonitorRule("M1", MonitorVerdict.REST, "the monitored resource is up", answer=Answer.UP),
    MonitorRule(
        "M2",
        MonitorVerdict.HOLD,
        "whether the monitored resource is up cannot be told: that never moves a service",
        answer=Answer.UNKNOWN,
        alarm=True,
    ),
    # Down: restart it here, as often as its section says.
    MonitorRule(
        "M3",
        MonitorVerdict.WAIT,
        "the monitored resource is down: it is restarted again one second after the last restart",
        tries=Tries.PAUSED,
    ),
    MonitorRule(
        "M4",
        MonitorVerdict.RESTART,
        "the monitored resource is down: it is restarted here",
        tries=Tries.LEFT,
    ),
    # No restart (any more): move the service, if that is any use.
    MonitorRule(
        "M5",
        MonitorVerdict.LOOK,
        "the monitored resource is down and not to be restarted: it is looked at once more before the "
        "service moves",
        confirmed=False,
    ),
    MonitorRule(
        "M6",
        MonitorVerdict.HOLD,
        "the monitored resource is down and monitor_action is none: repair it, or switch the service",
        action=MonitorAction.NONE,
        alarm=True,
    ),
    MonitorRule(
        "M7",
        MonitorVerdict.HOLD,
        "the monitored resource is down, and no other node may run the service: repair it here",
        taker=frozenset({Taker.NOBODY}),
        alarm=True,
    ),
    MonitorRule(
        "M8",
        MonitorVerdict.HOLD,
        "the monitored resource is down, and the other node is not heard in both directions, so it cannot "
        "take the service: repair the resource, or the other node",
        taker=frozenset({Taker.UNHEARD}),
        alarm=True,
    ),
    MonitorRule(
        "M9",
        MonitorVerdict.HOLD,
        "the monitored resource is down, and the service is frozen on the other node, so it cannot take it: "
        "repair the resource, or unfreeze the service there",
        taker=frozenset({Taker.FROZEN}),
        alarm=True,
    ),
    MonitorRule(
        "M10",
        MonitorVerdict.HOLD,
        "the monitored resource is down, and the service has failed on the other node, so it cannot take it: "
        "an operator must act on both",
        taker=frozenset({Taker.FAILED}),
        alarm=True,
    ),
    MonitorRule(
        "M11",
        MonitorVerdict.HOLD,
        "the monitored resource is down, and the other node does not say that it has the service stopped, so "
        "it cannot take it",
        taker=frozenset({Taker.BUSY}),
        alarm=True,
    ),
    MonitorRule(
        "M12",
        MonitorVerdict.HOLD,
        "the monitored resource is down, and the service has changed its node as often as max_moves allows: "
        "it stays until an operator moves it, or the window has passed",
        moved_often=True,
        alarm=True,
    ),
    MonitorRule(
        "M13",
        MonitorVerdict.PREPARE,
        "the monitored resource is down and the other node can take the service: its pre_monitor_action is "
        "run first",
        unprepared=True,
        alarm=True,
    ),
    MonitorRule(
        "M14",
        MonitorVerdict.FREEZE_STOP,
        "the monitored resource is down and the other node can take the service: it stops here and stays "
        "frozen here",
        action=MonitorAction.FREEZE_STOP,
        alarm=True,
    ),
    MonitorRule(
        "M15",
        MonitorVerdict.SWITCH,
        "the monitored resource is down and the other node can take the service: it is switched there",
        action=MonitorAction.SWITCH,
        alarm=True,
    ),
    MonitorRule(
        "M16",
        MonitorVerdict.REBOOT,
        "the monitored resource is down and the other node can take the service: this node is rebooted",
        action=MonitorAction.REBOOT,
        alarm=True,
    ),
    MonitorRule(
        "M17",
        MonitorVerdict.CRASH,
        "the monitored resource is down and the other node can take the service: this node is crashed",
        action=MonitorAction.CRASH,
        alarm=True,
    ),
)


def decide_monitored(situation: MonitorSituation) -> MonitorRule:
    """Return the first row that matches; the table is complete."""
    for rule in MONITOR_RULES:
        if rule.matches(situation):
            return rule
    raise AssertionError(f"the monitor's table has no row for {situation}")


def conditions(rule: MonitorRule) -> Tuple[Tuple[str, str], ...]:
    """Return what a row asks for, as (name, text) pairs."""
    found = []
    for field in fields(rule):
        value = getattr(rule, field.name)
        if field.name in ("id", "verdict", "sentence", "alarm") or value is None:
            continue
        if isinstance(value, frozenset):
            text = " ".join(sorted(member.value for member in value))
        else:
            text = str(value.value if isinstance(value, enum.Enum) else value)
        found.append((field.name, text))
    return tuple(found)


def dump_monitored() -> str:
    """Return the table as text, one row a line pair, as the golden holds it."""
    lines = []
    for rule in MONITOR_RULES:
        alarm = "  ALARM" if rule.alarm else ""
        lines.append(f"{rule.id} {rule.verdict.name}{alarm}: {rule.sentence}")
        lines.append("   " + ", ".join(f"{name}={text}" for name, text in conditions(rule)))
    return "\n".join(lines) + "\n"
