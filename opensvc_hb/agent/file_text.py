"""How is one keyword of a service's file changed, and every other byte left as it is?

A file belongs to the person who wrote it: comments, order, blank lines and the way of writing
`key = value` stay. So the text is edited at the line that holds, never written anew from what
was read. Each edit is read back with the file's own reader: a result that says anything else
than what was asked for is refused, whatever the key or the value looks like.

Pure: text in, text out. Called by `file_change`, which reads, judges and replaces the file.

Source of the refusals: C.11.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Container, Dict, List, Mapping, Sequence, Tuple

from opensvc_hb.errors import HbError
from opensvc_hb.ini import Configuration, parse

_ASSIGNMENT = re.compile(r"(?P<key>\s*[^=:]*?)(?P<sign>\s*[=:][ \t]*)")
_INDENT = "    "

Values = Dict[Tuple[str, str], str]
"""What a file says, by section and key."""


class MissingSectionError(HbError):
    """A section was named that the file does not have."""

    def __init__(self, section: str) -> None:
        super().__init__(f"section '{section}' not found")


class MissingKeyError(HbError):
    """A keyword was named that the section does not have."""

    def __init__(self, section: str, key: str) -> None:
        super().__init__(f"option '{key}' not found in section '{section}'")


class UnwritableError(HbError):
    """A key, a value or a section's name that the grammar of the file cannot hold."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} cannot be written into a service's file")


@dataclass(frozen=True)
class _Line:
    """One line of a file, its end included.

    Args:
        section: the section it belongs to, "" before the first.
        key: the key whose value it begins or continues, "" for any other line.
        begins: it is the `key = value` line itself.
        heads: it is the section's header.
    """

    text: str
    section: str
    key: str = ""
    begins: bool = False
    heads: bool = False

    @property
    def counts(self) -> bool:
        """Tell whether it says something: a header, or a part of a value."""
        return self.heads or bool(self.key)


def set_value(text: str, section: str, key: str, value: str, may_add_section: bool = False) -> str:
    """Return the text with one keyword set.

    The line that holds (the last, if the key stands more than once) is changed; a new key comes
    behind the last one of its section, a new section at the end of the file.

    Args:
        text: a file that can be read.
        section: its name.
        key: in any case of letters, with its scope: `dev@n2`.
        value: one line or more.
        may_add_section: make the section when it is missing.

    Raises:
        MissingSectionError, UnwritableError, ConfigurationErrors.
    """
    lines = _lines(text)
    key = key.strip().lower()
    end = _line_end(text)
    new = _value_lines(value, end)
    places = [at for at, line in enumerate(lines) if (line.section, line.key) == (section, key)]
    begins = [at for at in places if lines[at].begins]
    if begins:
        found = _ASSIGNMENT.match(lines[begins[-1]].text)
        assert found is not None, "a line that begins a value has a sign"
        sign = found.group("sign")
        sign = sign if sign.endswith((" ", "\t")) or not sign.startswith((" ", "\t")) else f"{sign} "
        texts: List[str] = []
        for at, line in enumerate(lines):
            if at == begins[-1]:
                texts.append(found.group("key") + sign + new)
            elif at < begins[-1] or at not in places:
                texts.append(line.text)
        return _checked(text, "".join(texts), {(section, key): value})
    of_section = [at for at, line in enumerate(lines) if line.section == section and line.counts]
    if not of_section and not may_add_section:
        raise MissingSectionError(section)
    texts = [line.text for line in lines]
    if of_section:
        at = of_section[-1] + 1
    else:
        at = len(texts)
        head = f"[{section}]{end}"
        new_head = f"{end}{head}" if texts and texts[-1].strip() else head
        _end_last_line(texts, end)
        texts.append(new_head)
        at += 1
    if at == len(texts):
        _end_last_line(texts, end)
    texts.insert(at, f"{key} = {new}")
    return _checked(text, "".join(texts), {(section, key): value})


def unset(text: str, section: str, key: str) -> str:
    """Return the text without a keyword, wherever it stands in its section.

    Raises:
        MissingSectionError, MissingKeyError, ConfigurationErrors.
    """
    key = key.strip().lower()
    lines = _lines(text)
    if not any(line.section == section for line in lines):
        raise MissingSectionError(section)
    kept = [line.text for line in lines if (line.section, line.key) != (section, key)]
    if len(kept) == len(lines):
        raise MissingKeyError(section, key)
    return _checked(text, "".join(kept), {}, {(section, key)})


def delete_sections(text: str, sections: Sequence[str]) -> str:
    """Return the text without these sections; comments above a header are left.

    Raises:
        MissingSectionError, ConfigurationErrors.
    """
    lines = _lines(text)
    for section in sections:
        if not any(line.section == section for line in lines):
            raise MissingSectionError(section)
    kept: List[str] = []
    goes = False  # we are between a header of these and the last thing that its section says
    for at, line in enumerate(lines):
        if line.section not in sections:
            kept.append(line.text)
            continue
        if line.counts:
            goes = True
        elif goes and not any(later.counts for later in _rest_of_block(lines, at)):
            goes = False
            if not line.text.strip() and (not kept or not kept[-1].strip()):
                continue  # the blank line that stood behind it: one is there already
        if not goes:
            kept.append(line.text)
    if [line.section for line in lines if line.counts][-1] in sections:
        while kept and not kept[-1].strip():
            kept.pop()  # the blank line that stood between it and the section before
    gone = {place for place in _values(parse(text, "")) if place[0] in sections}
    return _checked(text, "".join(kept), {}, gone)


def _rest_of_block(lines: Sequence[_Line], at: int) -> List[_Line]:
    """Return the lines from here to the next header."""
    block: List[_Line] = []
    for line in lines[at:]:
        if line.heads:
            break
        block.append(line)
    return block


def _lines(text: str) -> List[_Line]:
    """Take a text apart as the reader of these files does (`ini`)."""
    found: List[_Line] = []
    section = key = ""
    for raw in re.findall(r"[^\n]*\n|[^\n]+", text):
        words = raw.strip()
        if not words or words[0] in "#;":
            found.append(_Line(raw, section))
        elif raw[0].isspace() and key:
            found.append(_Line(raw, section, key))
        elif words[0] == "[":
            section, key = words[1:].partition("]")[0].strip(), ""
            found.append(_Line(raw, section, heads=True))
        else:
            key = re.split("[=:]", words, maxsplit=1)[0].strip().lower()
            found.append(_Line(raw, section, key, begins=True))
    return found


def _line_end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _end_last_line(texts: List[str], end: str) -> None:
    if texts and not texts[-1].endswith("\n"):
        texts[-1] += end


def _value_lines(value: str, end: str) -> str:
    """Return a value as it stands behind its sign: more lines are indented."""
    first, *others = [part.strip() for part in value.split("\n")]
    return "".join([first, end, *(f"{_INDENT}{other}{end}" for other in others)])


def _values(file: Configuration) -> Values:
    return {
        (section, key): entry.value
        for section, entries in file.sections.items()
        for key, entry in entries.items()
    }


def _checked(
    before: str, after: str, changed: Mapping[Tuple[str, str], str], gone: Container[Tuple[str, str]] = ()
) -> str:
    """Return the new text if it says what was asked for, and else what it said before."""
    wanted = {place: value for place, value in _values(parse(before, "")).items() if place not in gone}
    stripped = {place: "\n".join(part.strip() for part in v.split("\n")) for place, v in changed.items()}
    wanted.update(stripped)
    try:
        says = _values(parse(after, ""))
    except HbError:
        says = {}
    if says != wanted:
        section, key = next(iter(changed), ("", ""))
        raise UnwritableError(f"'[{section}] {key} = {changed[section, key]}'" if changed else "the rest")
    return after
