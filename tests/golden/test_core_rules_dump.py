"""The decision table as text: a change of a rule is read as a difference."""

from __future__ import annotations

from pathlib import Path

from opensvc_hb.core.monitor_rules import MONITOR_RULES, dump_monitored
from opensvc_hb.core.rules import RULES, dump


def test_the_table_is_the_one_reviewed(golden):
    """Rows, conditions, sentences and their order are those of the golden file."""
    golden(Path(__file__).parent / "core" / "rules.txt", dump())


def test_the_monitors_table_is_the_one_reviewed(golden):
    """So are those of the resource monitor."""
    golden(Path(__file__).parent / "core" / "monitor-rules.txt", dump_monitored())


def test_the_documentation_draws_every_row():
    """docs/rules.md has a line for each row, with its id and its sentence."""
    text = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    rows = [(rule.id, rule.sentence) for rule in (*RULES, *MONITOR_RULES)]
    missing = [name for name, sentence in rows if f"| {name} |" not in text or sentence not in text]
    assert missing == [], "run: make docs"
