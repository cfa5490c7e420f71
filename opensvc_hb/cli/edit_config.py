"""svcmgr edit config: the service's file in the operator's editor, checked before it counts.

The editor gets a copy; the file itself is replaced, at once, by a copy that has no error. A copy
with errors is edited again or thrown away, as who sits at the terminal says; without a terminal,
and whenever its text would otherwise be lost, it is kept and its path told.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Callable, List, Mapping

from opensvc_hb.agent.file_change import (
    ChangedMeanwhileError,
    FileText,
    RefusedTextError,
    read_text,
    replace_text,
)
from opensvc_hb.agent.loader import Loader
from opensvc_hb.cli.svcmgr_options import CommandLine
from opensvc_hb.errors import ExitCode, HbError

QUESTION = "(e)dit again or (d)iscard? "
LAST_RESORT = "vi"


class BadEditorError(HbError):
    """The variable that names the editor cannot be split into words."""

    def __init__(self, name: str, text: str, reason: str) -> None:
        super().__init__(f"{name}: '{text}' cannot be split into words: {reason}")


def handlers(loader: Loader, line: CommandLine) -> Mapping[str, Callable[[str], int]]:
    """Return the action by its name."""
    return {"edit_config": lambda svcname: edit(loader, svcname, line.has("dry-run"))}


def editor_of(environment: Mapping[str, str]) -> List[str]:
    """Return the operator's editor and its arguments: VISUAL, EDITOR, else vi.

    Raises:
        BadEditorError: a variable is no words of a shell.
    """
    import shlex

    for name in ("VISUAL", "EDITOR"):
        text = environment.get(name, "")
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise BadEditorError(name, text, str(error).lower()) from None
        if words:
            return words
    return [LAST_RESORT]


def edit(loader: Loader, svcname: str, dry_run: bool) -> int:
    """Edit the file of one service.

    Raises:
        HbError: there is no such service, the file cannot be read or replaced, or no editor is named.
    """
    before = read_text(loader, svcname)
    editor = editor_of(os.environ)
    if dry_run:
        import shlex

        loader.log(svcname).info(f"exec {shlex.join([*editor, str(before.path)])}, on a copy")
        return int(ExitCode.DONE)
    copy = _copy(loader, svcname, before)
    try:
        return _until_right(loader, svcname, before, copy, editor)
    except BaseException:
        _end(copy, before.text)
        raise


def _until_right(loader: Loader, svcname: str, before: FileText, copy: Path, editor: List[str]) -> int:
    import subprocess

    while True:
        try:
            status = subprocess.call([*editor, str(copy)])
        except OSError as error:
            _say(f"{editor[0]}: {error.strerror}: set EDITOR to the editor that you want")
            status = 127
        if status != 0:
            _say(f"{before.path}: left as it is: the editor failed (exit status {status})")
            return _end(copy, before.text)
        try:
            text = copy.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            _say(f"{copy}: this is not UTF-8 text")
        else:
            try:
                changed = replace_text(loader, svcname, before, text.lstrip("\ufeff"))
            except ChangedMeanwhileError as error:
                _say(str(error))
                return _end(copy, before.text)
            except RefusedTextError as error:
                _say(str(error))
            else:
                copy.unlink()
                if not changed:
                    _say(f"{before.path}: not changed")
                return int(ExitCode.DONE)
        if not _wants_to_edit_again():
            return _end(copy, before.text, is_wanted=not _has_terminal())


def _copy(loader: Loader, svcname: str, before: FileText) -> Path:
    folder = loader.root.top / "var/tmp/opensvc"
    folder.mkdir(parents=True, exist_ok=True)
    import tempfile

    descriptor, name = tempfile.mkstemp(prefix=f"{svcname}.", suffix=before.path.suffix, dir=folder)
    with os.fdopen(descriptor, "wb") as file:
        file.write(before.text.encode("utf-8"))
    return Path(name)


def _end(copy: Path, original: str, is_wanted: bool = True) -> int:
    """Keep a copy that somebody worked on, and say where; returns the exit code of a failure."""
    if is_wanted and copy.exists() and copy.read_bytes() != original.encode("utf-8"):
        _say(f"your text is kept in {copy}")
    else:
        copy.unlink(missing_ok=True)
    return int(ExitCode.FAILED)


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _wants_to_edit_again() -> bool:
    """Ask who sits at the terminal; nobody does not want to."""
    while _has_terminal():
        sys.stderr.write(QUESTION)
        sys.stderr.flush()
        answer = sys.stdin.readline()
        if not answer or answer.strip().lower() in ("d", "discard"):
            return False
        if answer.strip().lower() in ("e", "edit"):
            return True
    return False


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
