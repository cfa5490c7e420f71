"""How does a service's file change, so that nobody ever reads half of it, or a wrong one?

The new text is judged as `validate config` does before it replaces the old one; the file is
replaced at once (temporary file, fsync, rename), with its mode and owner. Two changes at the same
time follow one another, under a lock of the file's own: a running action holds up no change, and
no change an action. A file that somebody else changed since it was read is never overwritten.

Called by the commands. The daemon notices the new file by itself.
"""

from __future__ import annotations

import contextlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, Sequence, Tuple

from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.lock import service_lock
from opensvc_hb.agent.names import NOT_SERVICES, SUFFIXES, service_file
from opensvc_hb.errors import ConfigurationError, ConfigurationErrors, HbError
from opensvc_hb.files import replace_file
from opensvc_hb.ini import parse

LOCK_WAIT_S = 10.0
"""How long another change of the same file is waited for; it takes a moment."""

NEW_FILE_MODE = 0o644
_MARK = "\ufeff"
"""What some editors put before the first line."""


class RefusedTextError(HbError):
    """The file would be wrong: it stays as it is. The text has a line for each reason."""

    def __init__(self, path: Path, errors: Sequence[ConfigurationError]) -> None:
        self.errors = tuple(errors)
        lines = "\n".join(str(error) for error in errors)
        super().__init__(f"{lines}\n{path}: left as it is: the lines above are of what it would say")


class ChangedMeanwhileError(HbError):
    """Somebody else changed the file since it was read."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: was changed by somebody else meanwhile, left as it is")


class ServiceExistsError(HbError):
    """A service is to be created that has a file already."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: exists already; change it with: svcmgr edit config, set, unset")


class BadNameError(HbError):
    """A name that no service can have."""

    def __init__(self, svcname: str) -> None:
        super().__init__(
            f"'{svcname}' cannot name a service: letters, digits, dots, dashes and underscores, "
            f"beginning with a letter or digit, and none of {', '.join(sorted(NOT_SERVICES))}"
        )


@dataclass(frozen=True)
class FileText:
    """A service's file as it was read.

    Args:
        path: where it really is, symbolic links followed.
        text: what it says.
    """

    path: Path
    text: str


def read_text(loader: Loader, svcname: str) -> FileText:
    """Read a service's file as text.

    Raises:
        NoSuchServiceError; ConfigurationError: it cannot be read, or is no text.
    """
    path = service_file(loader.root, svcname).resolve()
    try:
        return FileText(path, path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigurationError(str(path), 0, "", "this is not UTF-8 text") from None
    except OSError as error:
        raise ConfigurationError(str(path), 0, "", f"cannot be read: {error.strerror}") from None


def change_file(loader: Loader, svcname: str, edit: Callable[[str], str], dry_run: bool = False) -> bool:
    """Change a service's file by `edit`, which gets its text and returns the new one.

    Args:
        loader: of the service's root.
        svcname: the service.
        edit: may raise an HbError: nothing is changed.
        dry_run: judge the result, replace nothing.

    Returns:
        False when the text is what it was before.

    Raises:
        NoSuchServiceError, ConfigurationError, LockHeldError, WriteError.
        ConfigurationErrors: `edit` could not read the text that is there.
        RefusedTextError: the result would be wrong.
    """
    with _lock(loader, svcname):
        before = read_text(loader, svcname)
        mark = _MARK if before.text.startswith(_MARK) else ""
        try:
            text = edit(before.text[len(mark) :])
        except ConfigurationErrors:
            parse(before.text[len(mark) :], str(before.path))  # the same errors, under the file's name
            raise
        if mark + text == before.text:
            return False
        must_be_right(loader, svcname, before.path, text)
        if not dry_run:
            now = before.path.stat()
            data = (mark + text).encode("utf-8")
            replace_file(before.path, data, stat.S_IMODE(now.st_mode), (now.st_uid, now.st_gid))
        return True


def replace_text(loader: Loader, svcname: str, before: FileText, text: str) -> bool:
    """Replace a service's file, if it still says what it said before.

    Returns:
        False when the text is what it was before.

    Raises:
        ChangedMeanwhileError: it says something else by now; and as `change_file`.
    """

    def edit(now: str) -> str:
        if now != before.text.lstrip(_MARK):
            raise ChangedMeanwhileError(before.path)
        return text

    return change_file(loader, svcname, edit)


def create_file(loader: Loader, svcname: str, text: str, suffix: str, dry_run: bool = False) -> Path:
    """Make the file of a new service.

    Args:
        loader: of the service's root.
        svcname: its name.
        text: what the file says.
        suffix: one of `names.SUFFIXES`.
        dry_run: judge it, write nothing.

    Returns:
        The file.

    Raises:
        BadNameError, ServiceExistsError, RefusedTextError, LockHeldError, WriteError.
    """
    assert suffix in SUFFIXES, "a service's file has one of two suffixes"
    if not is_service_name(svcname):
        raise BadNameError(svcname)
    with _lock(loader, svcname):
        for known in SUFFIXES:
            path = loader.root.etc / f"{svcname}{known}"
            if path.exists() or path.is_symlink():
                raise ServiceExistsError(path)
        path = loader.root.etc / f"{svcname}{suffix}"
        must_be_right(loader, svcname, path, text)
        if not dry_run:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, text.encode("utf-8"), NEW_FILE_MODE)
        return path


def must_be_right(loader: Loader, svcname: str, path: Path, text: str) -> None:
    """Judge a text as the service's file.

    Raises:
        RefusedTextError: something in it is wrong.
    """
    judged = loader.judge_text(svcname, path, text)
    if judged.errors:
        raise RefusedTextError(path, judged.errors)


def is_service_name(name: str) -> bool:
    """Tell whether a service can be called so: its name is a file's, a command's and a lock's."""
    allowed = all(letter.isalnum() or letter in ".-_" for letter in name)
    ends = tuple(f"{suffix}" for suffix in (*SUFFIXES, ".cluster", ".stonith", ".d", ".dir"))
    return (
        bool(name)
        and allowed
        and name.isascii()
        and name[0].isalnum()
        and not (name in NOT_SERVICES or name.endswith(ends))
    )


def split_parameter(parameter: str) -> Tuple[str, str]:
    """Take `SECTION.KEYWORD` apart; section and key, either "" where it is none.

    A section's name may have dots (`subset#container.docker:app.parallel`), a keyword has none but
    in its scope, which is a node's name: `fs#1.dev@n2.example.com`.
    """
    head, at, scope = parameter.partition("@")
    section, _, key = head.rpartition(".")
    return section, f"{key}{at}{scope}".lower() if key else ""


@contextlib.contextmanager
def _lock(loader: Loader, svcname: str) -> Iterator[None]:
    with service_lock(loader.root, f"{svcname}.config", LOCK_WAIT_S):
        yield
