"""Keywords as data: one declaration per keyword, from which all else is derived.

Parsing, validation, `print config keywords` and the manual read the same declaration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Optional, Tuple


@dataclass(frozen=True)
class Keyword:
    """One keyword of a section.

    Args:
        name: lower case, as written in the file (without scope).
        text: what it does, one or two sentences; the manual prints it.
        convert: makes a value of the text; raises ValueError with a short reason.
        required: the section is refused without it.
        default: the value (already converted) when the keyword is absent.
        scopable: `name@node`, `name@nodes`, `name@drpnodes` are read before `name`.
        candidates: when given, the only texts allowed.
        since: agent version that brought it, for the manual; "" for all.
        missing: what is said of a section without it, {section} being its name; "" for the common words.
        aliases: other names that a section may write for it; its own name holds where both stand.
    """

    name: str
    text: str
    convert: Callable[[str], Any] = str
    required: bool = False
    default: Any = None
    scopable: bool = False
    candidates: Optional[Tuple[str, ...]] = None
    since: str = ""
    aliases: Tuple[str, ...] = ()
    missing: str = ""


def boolean(text: str) -> bool:
    """Convert `1 yes true on` / `0 no false off`, any case (the agents' booleans)."""
    word = text.strip().lower()
    if word in ("1", "yes", "true", "on"):
        return True
    if word in ("0", "no", "false", "off"):
        return False
    raise ValueError(f"'{text}' is not a boolean (1 yes true on, 0 no false off)")


def integer(text: str) -> int:
    """Convert a decimal integer."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"'{text}' is not an integer") from None


def words(text: str) -> Tuple[str, ...]:
    """Convert a white space separated list."""
    return tuple(text.split())


def node_list(text: str) -> Tuple[str, ...]:
    """Convert a white space separated list of node names, lower case as the agents do."""
    return tuple(text.lower().split())
