"""print config keywords, and the manual page that is written from the same declarations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from opensvc_hb.agent.drivers import DriverFinder
from opensvc_hb.agent.keywords import Keyword, integer
from opensvc_hb.cli.keywords_text import (
    Table,
    all_tables,
    chosen,
    default_text,
    keywords_document,
    keywords_text,
)

TOP = Path(__file__).resolve().parents[2]
SOME = Table(
    "[x#N]",
    ("x", "x.y"),
    "What it is.",
    (
        Keyword(
            "size", "How large it is, in units that everybody knows.", integer, required=True, scopable=True
        ),
        Keyword("kind", "Which one.", default="a", candidates=("a", "b"), since="1.8"),
    ),
)


def test_every_driver_has_a_table_and_every_table_a_text():
    """No keyword of ours is left out; drivers that differ in type alone share a table."""
    finder = DriverFinder()
    tables, problems = all_tables(finder)
    assert problems == []
    named = {name for table in tables for name in table.names}
    for driver in finder.all():
        for family in driver.sections:
            assert family in named
            assert {f"{family}.{name}" for name in driver.types} <= named
    assert all(table.text and table.keywords for table in tables)
    assert len({table.head for table in tables}) == len(tables)


def test_a_word_chooses_tables():
    """A family, a type, a section of a file as it stands there; case does not matter."""
    tables, _ = all_tables(DriverFinder())
    assert [table.head for table in chosen(tables, "default")] == ["[DEFAULT]"]
    assert all("[fs#N]" in table.head for table in chosen(tables, "fs#1"))
    assert len(chosen(tables, "fs.ext4")) == 1
    assert chosen(tables, "nosuch") == []
    assert chosen(tables, "") == tables


def test_without_a_terminal_a_keyword_is_one_line():
    """So that grep finds all of it."""
    assert keywords_text([SOME]) == (
        "[x#N]\n"
        "    size                 How large it is, in units that everybody knows. (required, scopable)\n"
        "    kind                 Which one. (default a, one of a b, since 1.8)\n"
    )


@pytest.mark.parametrize("columns", [80, 64, 63, 40, 10])
def test_on_a_terminal_no_line_is_wider(columns):
    """Narrow ones get the text below the name."""
    lines = keywords_text([SOME], columns).splitlines()
    assert max(len(line) for line in lines) <= max(columns, 24)
    assert " ".join(" ".join(lines).split()) == " ".join(keywords_text([SOME]).split())


def test_the_document_says_the_same():
    """For programs: absent is null."""
    document = json.loads(json.dumps(keywords_document([SOME])))
    assert document["[x#N]"]["keywords"][1] == {
        "name": "kind",
        "text": "Which one.",
        "aliases": [],
        "required": False,
        "scopable": False,
        "default": "a",
        "candidates": ["a", "b"],
        "since": "1.8",
    }


def test_a_default_is_shown_as_one_would_write_it():
    """A number without a trailing zero, a list as words; nothing where nothing is said."""
    values = [(600.0, "600"), (("a", "b"), "a b"), (True, "true"), (3, "3"), (0, "0"), ("", ""), (False, "")]
    assert [default_text(Keyword("k", "t", default=value)) for value, _ in values] == [t for _, t in values]


def test_the_manual_page_is_that_of_the_declarations():
    """docs/man/svc.env.5 follows the drivers; `make docs` writes it anew."""
    argv = [sys.executable, str(TOP / "packaging/write-keywords-page")]
    written = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout
    assert (TOP / "docs/man/svc.env.5").read_text(encoding="utf-8") == written, "run: make docs"
