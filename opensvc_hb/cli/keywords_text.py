"""Every keyword of a service's file, printed from the declarations that its reader follows.

For `svcmgr print config keywords`, as text or JSON, and for the manual page svc.env(5), which
`packaging/write-keywords-page` writes: nothing about a keyword stands in two places.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from dataclasses import dataclass, is_dataclass
from typing import Any, Dict, List, Sequence, Tuple, Type

from opensvc_hb.agent.drivers import DriverFinder, Missing
from opensvc_hb.agent.keywords import Keyword
from opensvc_hb.agent.resource import Resource
from opensvc_hb.agent.sections import (
    DEFAULT_KEYWORDS,
    RESERVATION_KEYWORDS,
    RESOURCE_KEYWORDS,
    SUBSET_KEYWORDS,
)

NAME_WIDTH = 20
NARROW = 64
"""Below so many columns a keyword's text stands on lines of its own."""


@dataclass(frozen=True)
class Table:
    """The keywords of one kind of section.

    Args:
        head: how the section's header is written, and what chooses its driver.
        names: words that select it: families, types, `fs.ext4`.
        text: what the section is for, one sentence.
    """

    head: str
    names: Tuple[str, ...]
    text: str
    keywords: Tuple[Keyword, ...]


def all_tables(finder: DriverFinder) -> Tuple[List[Table], List[str]]:
    """Return the tables in the order in which they are shown, and why a driver's is missing.

    Drivers of the same sections whose keywords differ in `type` alone share a table.
    """
    tables = [
        Table("[DEFAULT]", ("DEFAULT",), "What holds for the whole service.", DEFAULT_KEYWORDS),
        Table("every resource", ("resource",), "What every resource understands.", RESOURCE_KEYWORDS),
        Table(
            "every resource on disks",
            ("reservation",),
            "What resources understand whose disks can be reserved.",
            RESERVATION_KEYWORDS,
        ),
        Table(
            "[subset#TYPE:NAME]",
            ("subset",),
            "How the members of a subset act: those with subset = NAME.",
            SUBSET_KEYWORDS,
        ),
    ]
    problems: List[str] = []
    alike: Dict[Tuple[Any, ...], List[Type[Resource]]] = {}
    for driver in finder.all():
        if isinstance(driver, Missing):
            problems.append(driver.reason)
        elif driver.sections:
            own = tuple(repr(keyword) for keyword in driver.keywords if keyword.name != "type")
            alike.setdefault((driver.group, driver.sections, own), []).append(driver)
    tables.extend(_table(drivers) for drivers in alike.values())
    return tables, problems


def _table(drivers: Sequence[Type[Resource]]) -> Table:
    families = drivers[0].sections
    types = [name for driver in drivers for name in driver.types]
    heads = ", ".join(f"[{family}#N]" for family in families)
    head = f"{heads} type = {' or '.join(types)}" if types else heads
    names = (*families, drivers[0].group, *(f"{family}.{name}" for family in families for name in types))
    keywords = [keyword for keyword in drivers[0].keywords if keyword.name != "type" or len(drivers) == 1]
    sentences = [(inspect.getdoc(driver) or "").partition("\n\n")[0] for driver in drivers]
    text = " ".join(dict.fromkeys(" ".join(sentence.split()) for sentence in sentences))
    return Table(head, tuple(dict.fromkeys(names)), text, tuple(keywords))


def chosen(tables: Sequence[Table], words: str) -> List[Table]:
    """Return the tables that a word names: `fs`, `fs.ext4`, `DEFAULT`, `subset`; all of them for ""."""
    word = words.partition("#")[0].lower()
    return [table for table in tables if not word or word in [name.lower() for name in table.names]]


def default_text(keyword: Keyword) -> str:
    """Return the default as one would write it, "" where there is none worth saying."""
    value = keyword.default
    if value is None or value is False or value in ("", ()) or is_dataclass(value):
        return ""  # a record is what nothing at all was converted to
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple) and isinstance(value[0], tuple):
        return ", ".join(json.dumps(item) for item in value)
    if isinstance(value, tuple):
        return " ".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def notes_of(keyword: Keyword) -> List[str]:
    """Return what there is to say of a keyword beside its text."""
    notes = [
        name for name, holds in (("required", keyword.required), ("scopable", keyword.scopable)) if holds
    ]
    if default_text(keyword):
        notes.append(f"default {default_text(keyword)}")
    if keyword.candidates:
        notes.append(f"one of {' '.join(keyword.candidates)}")
    if keyword.aliases:
        notes.append(f"also written {' or '.join(keyword.aliases)}")
    if keyword.since:
        notes.append(f"since {keyword.since}")
    return notes


def keywords_text(tables: Sequence[Table], columns: int = 0) -> str:
    """Return the tables as text.

    Args:
        tables: what to show.
        columns: the width of the terminal; 0 for no terminal: one line for each keyword.
    """
    blocks = []
    for table in tables:
        lines = [table.head]
        for keyword in table.keywords:
            notes = notes_of(keyword)
            text = f"{keyword.text} ({', '.join(notes)})" if notes else keyword.text
            lines.extend(_wrapped(keyword.name, text, columns))
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _wrapped(name: str, text: str, columns: int) -> List[str]:
    head = f"    {name:<{NAME_WIDTH}} "
    if not columns:
        return [f"{head}{text}"]
    if columns < NARROW:
        indent = " " * 8
        lines = textwrap.wrap(text, max(columns, 20), initial_indent=indent, subsequent_indent=indent)
        return [f"    {name}", *lines]
    return textwrap.wrap(f"{head}{text}", columns, subsequent_indent=" " * len(head), break_on_hyphens=False)


def keywords_document(tables: Sequence[Table]) -> Dict[str, Any]:
    """Return the tables as JSON's objects, by the section's header."""
    return {
        table.head: {
            "names": list(table.names),
            "text": table.text,
            "keywords": [
                {
                    "name": keyword.name,
                    "text": keyword.text,
                    "aliases": list(keyword.aliases),
                    "required": keyword.required,
                    "scopable": keyword.scopable,
                    "default": default_text(keyword) or None,
                    "candidates": list(keyword.candidates) if keyword.candidates else None,
                    "since": keyword.since or None,
                }
                for keyword in table.keywords
            ],
        }
        for table in tables
    }
