"""Every conversation in tests/golden/core goes as its file says, and together they use every rule."""

from __future__ import annotations

from pathlib import Path

import pytest
from conversation import perform

from opensvc_hb.core.monitor_rules import MONITOR_RULES
from opensvc_hb.core.rules import RULES

PLAYS = sorted(
    path for path in (Path(__file__).parent / "core").glob("*.txt") if not path.stem.endswith("rules")
)


@pytest.mark.parametrize("path", PLAYS, ids=lambda path: path.stem)
def test_a_conversation_goes_as_written(path, golden):
    """The world says today what the golden file says."""
    golden(path, perform(path.read_text(encoding="utf-8"))[0])


@pytest.mark.parametrize("path", PLAYS, ids=lambda path: path.stem)
def test_a_conversation_opens_with_a_comment_for_people(path):
    """The first lines tell what happens and what must follow."""
    first = path.read_text(encoding="utf-8").partition("\n\n")[0]
    assert all(line.startswith("# ") for line in first.splitlines()), "a comment, then an empty line"


def test_the_same_conversation_twice_gives_the_same_log():
    """Nothing in core or world depends on anything but the commands."""
    text = PLAYS[0].read_text(encoding="utf-8")
    assert perform(text) == perform(text)


def test_every_rule_is_used_by_a_conversation():
    """A row that no story needs has no reason to be in the table."""
    used = frozenset().union(*(perform(path.read_text(encoding="utf-8"))[1] for path in PLAYS))
    assert {rule.id for rule in (*RULES, *MONITOR_RULES)} - used == set()
