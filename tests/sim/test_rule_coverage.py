"""Every row of the decision table decides something in a conversation or in a trial."""

from __future__ import annotations

from pathlib import Path

import conversation
import pytest

from opensvc_hb.core import monitoring, negotiation
from opensvc_hb.core.monitor_rules import MONITOR_RULES, decide_monitored
from opensvc_hb.core.rules import RULES, decide
from opensvc_hb.sim.faults import Profile
from opensvc_hb.sim.trial import try_one

CONVERSATIONS = sorted((Path(__file__).parent.parent / "golden" / "core").glob("*.txt"))
TRIALS = 8
RESOURCE_TRIALS = 20
"""Of the profile about resources: each trial knows one monitor action only."""
NOT_BY_THESE_TRIALS = {"U0", "O8", "G1", "U2", "C1", "H3", "M7", "M10"}
"""A service of one node (U0, M7), FORCE_STOP and, but in conversations, a node with the C program (C1, H3)
are not the simulator's; the others are rare in so few trials."""


@pytest.fixture
def decided(monkeypatch):
    """The ids of the rows that decided: some act in the middle of a step, and leave no trace."""
    hit = set()

    def recorded(situation):
        rule = decide(situation)
        hit.add(rule.id)
        return rule

    def recorded_monitored(situation):
        rule = decide_monitored(situation)
        hit.add(rule.id)
        return rule

    monkeypatch.setattr(negotiation, "decide", recorded)
    monkeypatch.setattr(monitoring, "decide_monitored", recorded_monitored)
    return hit


@pytest.mark.slow
def test_every_row_decides_in_some_scenario(decided):
    """A row that nothing hits is a row that nothing tests: it is named."""
    for profile in Profile:
        for number in range(RESOURCE_TRIALS if profile is Profile.RESOURCES else TRIALS):
            outcome = try_one(profile, 1, number)
            assert outcome.violation is None, str(outcome.violation)
    by_trials = set(decided)
    for path in CONVERSATIONS:
        if not path.stem.endswith("rules"):
            conversation.perform(path.read_text(encoding="utf-8"))
    rows = {rule.id for rule in (*RULES, *MONITOR_RULES)}
    assert rows - decided == set(), "hit by no scenario"
    assert rows - by_trials <= NOT_BY_THESE_TRIALS, "hit by no trial"
