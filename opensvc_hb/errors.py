"""The one root of every error an operator may see.

Expected situations are values; operators' mistakes are exceptions below `HbError`, one
class per situation; programmers' mistakes are assertions. Nothing below `cli` prints or
exits: a command turns an `HbError` into its one line and its exit code.
"""

from __future__ import annotations

import enum
from typing import Sequence


class ExitCode(enum.IntEnum):
    """Exit codes of our commands; the table stands in every manual page."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    """The daemon does not run, or there is no such service."""
    UNKNOWN = 4
    """The state could not be determined."""
    REFUSED = 5
    """Refused as unsafe: needs --force, or a condition."""
    CONFIGURATION = 6
    TIMED_OUT = 8
    PARTLY = 9
    """Done for some of the services named, not for all."""


class HbError(Exception):
    """An operator's situation: what is wrong, where, and what to do.

    `str(error)` is the one line shown, without a trailing full stop or line end.
    """

    exit_code = ExitCode.FAILED


class ConfigurationError(HbError):
    """A file says something that cannot be; nothing was started or changed.

    Args:
        path: the file, as the user knows it.
        line: 1-based line number, 0 when the whole file is meant.
        where: the column, section.keyword or field, "" when the line says it all.
        what: what is wrong, and what is allowed.
    """

    exit_code = ExitCode.CONFIGURATION

    def __init__(self, path: str, line: int, where: str, what: str) -> None:
        self.path = path
        self.line = line
        self.where = where
        self.what = what
        place = path if line == 0 else f"{path}:{line}"
        super().__init__(f"{place}: {where}: {what}" if where else f"{place}: {what}")


class ConfigurationErrors(HbError):
    """Everything that is wrong in what was read, in file order; `str` has a line for each."""

    exit_code = ExitCode.CONFIGURATION

    def __init__(self, errors: Sequence[ConfigurationError]) -> None:
        assert errors, "errors are raised when there are any"
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))
