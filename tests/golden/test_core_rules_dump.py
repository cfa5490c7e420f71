"""The decision table as text: a change of a rule is read as a difference."""

from __future__ import annotations

from pathlib import Path

from opensvc_hb.core.rules import RULES, dump


def test_the_table_is_the_one_reviewed(golden):
    """Rows, conditions, sentences and their order are those of the golden file."""
    golden(Path(__file__).parent / "core" / "rules.txt", dump())


def test_the_documentation_draws_every_row():
    """docs/rules.md has a line for each row, with its id and its sentence."""
    text = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    missing = [rule.id for rule in RULES if f"| {rule.id} |" not in text or rule.sentence not in text]
    assert missing == [], "run: make docs"
