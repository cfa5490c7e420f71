"""What does an INI file say, and on which line?

An INI reader of our own, because every complaint must name file, line, section and
keyword, which the standard library's reader forgets. It knows the grammar only: sections,
keys, continuation lines, comments, scopes and the inheritance of [DEFAULT]; what a section
or a keyword means is its users' business: the agent reads services' files and node.conf
with it, the daemon hb.conf. Pure but for `read`.

Source: the agents' files (A.2, A.3): `key = value` or `key: value`, `#` and `;` comments,
continuation by leading white space, sections case sensitive, keys not; the same section
twice is merged, the same key twice: the last wins, of which a notice is kept here. There
is no interpolation.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, FrozenSet, Iterator, List, Mapping, Optional, Sequence, Tuple

from opensvc_hb.errors import ConfigurationError, ConfigurationErrors

DEFAULT = "DEFAULT"
"""The section whose keys every other section inherits."""


@dataclass(frozen=True)
class Entry:
    """One `key = value` of a file: key in lower case with its scope, line 1-based."""

    section: str
    key: str
    value: str
    line: int

    @property
    def keyword(self) -> str:
        """The key without its scope: `mnt` of `mnt@nodes`."""
        return self.key.partition("@")[0]

    @property
    def scope(self) -> str:
        """The scope without its sign: `nodes` of `mnt@nodes`, "" without one."""
        return self.key.partition("@")[2]


@dataclass(frozen=True)
class Notice:
    """Something odd that is accepted: a key twice, a keyword without effect."""

    path: str
    line: int
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.where}: {self.what}"


@dataclass(frozen=True)
class Configuration:
    """A file as read: sections and their entries in file order.

    Args:
        path: the file, as the user knows it.
        sections: entries by section and key.
        section_lines: 1-based line of each section's first header.
        notices: keys and sections that stand twice.
    """

    path: str
    sections: Mapping[str, Mapping[str, Entry]]
    section_lines: Mapping[str, int]
    notices: Tuple[Notice, ...] = ()

    @functools.cached_property
    def keywords(self) -> FrozenSet[str]:
        """The keywords that stand anywhere in the file: most of those asked for do not."""
        return frozenset(key.partition("@")[0] for entries in self.sections.values() for key in entries)

    def own(self, section: str, key: str) -> Optional[Entry]:
        """Return the entry that stands in this very section, scope and inheritance ignored."""
        return self.sections.get(section, {}).get(key)

    def lookup(self, section: str, keyword: str, scopes: Sequence[str] = ()) -> Optional[Entry]:
        """Return the entry that holds for a keyword, or None.

        Args:
            section: where it is asked for.
            keyword: without a scope.
            scopes: what `key@...` may be, in the order tried (see `agent.config.scopes_of`); () for a
                keyword that cannot be scoped.

        Source: A.3; as in the agents an inherited key with a better scope beats the
        section's own with a lesser one.
        """
        if keyword not in self.keywords:
            return None
        for scope in (*scopes, ""):
            key = f"{keyword}@{scope}" if scope else keyword
            for place in (section, DEFAULT):
                entry = self.own(place, key)
                if entry is not None:
                    return entry
        return None

    def value(self, section: str, keyword: str, scopes: Sequence[str] = ()) -> Optional[str]:
        """Return the text that holds for a keyword, or None."""
        entry = self.lookup(section, keyword, scopes)
        return None if entry is None else entry.value

    def entries(self, section: str) -> Iterator[Entry]:
        """Go through the section's own entries in file order."""
        return iter(self.sections.get(section, {}).values())


def parse(text: str, path: str) -> Configuration:
    """Read a text.

    Raises:
        ConfigurationErrors: every line that is neither section, key, continuation nor comment.
    """
    reader = _Reader(path)
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        reader.take(number, line)
    return reader.result()


def read(path: Path, shown: str = "") -> Configuration:
    """Read a file; the text `shown` stands in messages instead of its path.

    Raises:
        ConfigurationErrors: the file cannot be read, or says something that cannot be.
    """
    name = shown or str(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationErrors(
            [ConfigurationError(name, 0, "", f"cannot be read: {error.strerror}")]
        ) from None
    try:
        return parse(content.decode("utf-8-sig"), name)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationErrors([ConfigurationError(name, line, "", "this is not UTF-8 text")]) from None


class _Reader:
    """Takes lines one by one; keeps the section and key a continuation belongs to."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.sections: Dict[str, Dict[str, Entry]] = {}
        self.section_lines: Dict[str, int] = {}
        self.notices: List[Notice] = []
        self.errors: List[ConfigurationError] = []
        self.section = ""
        self.key = ""

    def take(self, number: int, line: str) -> None:
        words = line.strip()
        if not words or words[0] in "#;":
            return
        if line[0].isspace() and self.key:
            entry = self.sections[self.section][self.key]
            value = f"{entry.value}\n{words}" if entry.value else words
            self.sections[self.section][self.key] = Entry(entry.section, entry.key, value, entry.line)
        elif words[0] == "[":
            self._open_section(number, words)
        else:
            self._add_entry(number, words)

    def _open_section(self, number: int, words: str) -> None:
        self.key = ""
        name, closed, rest = words[1:].partition("]")
        rest = rest.strip()
        if not closed or not name.strip() or (rest and rest[0] not in "#;"):
            self._refuse(number, f"'{words}' is not a section header: write [name]")
            return
        self.section = name.strip()
        if self.section in self.sections:
            what = (
                f"stands twice (also on line {self.section_lines[self.section]}): both count, as one section"
            )
            self.notices.append(Notice(self.path, number, f"[{self.section}]", what))
        self.sections.setdefault(self.section, {})
        self.section_lines.setdefault(self.section, number)

    def _add_entry(self, number: int, words: str) -> None:
        place = min((at for at in (words.find("="), words.find(":")) if at >= 0), default=-1)
        key = words[: max(place, 0)].strip().lower()
        if not key:
            self.key = ""
            self._refuse(number, f"'{words}' is neither a [section] nor keyword = value")
            return
        if not self.section:
            self._refuse(number, f"'{words}' stands before any [section]")
            return
        known = self.sections[self.section]
        if key in known:
            what = f"stands twice (also on line {known[key].line}): this one, the last, holds"
            self.notices.append(Notice(self.path, number, f"{self.section}.{key}", what))
            del known[key]
        known[key] = Entry(self.section, key, words[place + 1 :].strip(), number)
        self.key = key

    def _refuse(self, number: int, what: str) -> None:
        self.errors.append(ConfigurationError(self.path, number, "", what))

    def result(self) -> Configuration:
        if self.errors:
            raise ConfigurationErrors(self.errors)
        return Configuration(self.path, self.sections, self.section_lines, tuple(self.notices))
