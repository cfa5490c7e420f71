"""`hbmgr compat install | remove`: OpenHA's tree, for scripts and habits that know nothing else.

    PREFIX/bin/{hb,openha,service}  conf/{nodes,monitor,services}  doc  env.sh  ezha  ezha.init  log  services

What was made is written down before it is made, with the digest of every file, so that `remove` takes
away that and nothing else, also after an installation that was cut off. What is there and was not made
here is never overwritten: OpenHA's own installation is refused, and nothing is changed.

The daemon keeps the state files below `services` in step as long as hb.conf.d names the tree.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import importlib.util
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from opensvc_hb.daemon.state_file_format import remove_state_files
from opensvc_hb.errors import HbError
from opensvc_hb.files import WriteError, replace_file
from opensvc_hb.paths import Root

PREFIX = "usr/local/cluster"
"""OpenHA's own place, below the root."""
RECORD = "openha_tree.json"
SETTING = "openha_tree.conf"
C_PROGRAM = "bin/nmond"
"""Only OpenHA's own installation has it."""
_LAUNCHERS = (
    ("bin/service", "openha_service"),
    ("bin/hb", "openha_hb"),
    ("bin/openha", "openha_command"),
    ("ezha.init", "openha_init"),
)
_DIRECTORIES = ("bin", "conf", "doc", "services")


class Kind(enum.Enum):
    """What a piece of the tree is."""

    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"


@dataclass(frozen=True)
class Piece:
    """One piece of the tree.

    Args:
        path: below the prefix, "" for the prefix itself.
        content: of a file; mode: its permissions; target: of a link.
    """

    path: str
    kind: Kind
    content: bytes = b""
    mode: int = 0o644
    target: str = ""

    @property
    def mark(self) -> str:
        """What tells this piece from one that was changed or made by others."""
        if self.kind is Kind.LINK:
            return self.target
        return hashlib.sha256(self.content).hexdigest() if self.kind is Kind.FILE else ""


@dataclass(frozen=True)
class Record:
    """What was made: the prefix, and by path the kind and mark of each piece."""

    prefix: Path
    pieces: Tuple[Tuple[str, Kind, str], ...]


@dataclass(frozen=True)
class Removed:
    """What `remove` did: the prefix, and what it left there, a line each."""

    prefix: Path
    kept: Tuple[str, ...]


class CompatError(HbError):
    """Nothing was changed: the tree cannot be laid out, or is not there."""


def tree_pieces(
    place: Root, prefix: Path, templates: Path, python: str = sys.executable
) -> Tuple[Piece, ...]:
    """Return the pieces of a tree, directories before what is in them.

    Args:
        place: the root whose daemon answers.
        prefix: where the tree is to be.
        templates: directory of the texts that are shipped.
        python: runs the commands.
    """
    values = {
        "PREFIX": str(prefix),
        "ROOT": str(place.top),
        "HB": str(place.hb),
        "LOG": str(place.log),
        "PYTHON": python,
        "MODULES": str(Path(__file__).parent),
    }

    def text(name: str, **more: str) -> bytes:
        content = (templates / name).read_text(encoding="utf-8")
        for word, value in {**values, **more}.items():
            content = content.replace(f"@{word}@", value)
        return content.encode()

    pieces = [Piece("", Kind.DIRECTORY), *(Piece(name, Kind.DIRECTORY) for name in _DIRECTORIES)]
    pieces += [
        Piece(path, Kind.FILE, text("launcher", MODULE=module), mode=0o755) for path, module in _LAUNCHERS
    ]
    pieces.append(Piece("ezha", Kind.LINK, target="ezha.init"))
    pieces += [
        Piece(f"conf/{name}", Kind.LINK, target=str(place.hb / name))
        for name in ("nodes", "monitor", "services")
    ]
    pieces.append(Piece("doc/README", Kind.FILE, text("README")))
    pieces.append(Piece("env.sh", Kind.FILE, text("env.sh")))
    pieces.append(Piece("log", Kind.LINK, target=str(place.log)))
    return tuple(pieces)


def shipped_templates() -> Path:
    """Return the directory of the shipped texts: in the package, or in a source tree that runs as it is."""
    found = importlib.util.find_spec("opensvc_hb.conf_d")
    if found is None or not found.submodule_search_locations:
        return Path(__file__).resolve().parents[2] / "conf.d" / "openha"
    return Path(next(iter(found.submodule_search_locations))) / "openha"


def install(place: Root, prefix: Optional[Path] = None) -> Record:
    """Lay the tree out, or mend the one that is there; return what was made.

    Raises:
        CompatError: something is in the way, and nothing was changed.
        WriteError: a file could not be written; `remove` takes away what was made.
    """
    prefix = (prefix or place.top / PREFIX).absolute()
    before = read_record(place)
    if before is not None and before.prefix != prefix:
        raise CompatError(
            f"{before.prefix} is laid out already: take it away first with: hbmgr compat remove"
        )
    pieces = tree_pieces(place, prefix, shipped_templates())
    _refuse_others(prefix, pieces, before)
    made_before = [path for path, _, _ in before.pieces] if before else []
    # A directory that was there before us, empty or not, is not ours to remove.
    ours = [
        piece
        for piece in pieces
        if piece.path in made_before or piece.kind is not Kind.DIRECTORY or not (prefix / piece.path).is_dir()
    ]
    record = Record(prefix, tuple((piece.path, piece.kind, piece.mark) for piece in ours))
    place.var.mkdir(parents=True, exist_ok=True)
    _write_record(place, record)
    for piece in pieces:
        _make(prefix, piece)
    settings = place.hb / "conf.d"
    try:
        settings.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(settings, error) from error
    replace_file(settings / SETTING, f"[hb]\nopenha_tree = {prefix}\n".encode(), mode=0o644)
    return record


def switch_off(place: Root, prefix: Optional[Path] = None) -> Record:
    """Take the tree out of the daemon's settings; a reload makes it stop writing there.

    Args:
        place: the root whose tree it is.
        prefix: where the tree is said to be; None for wherever it is.

    Raises:
        CompatError: no tree is laid out, or not there; nothing was changed.
    """
    record = read_record(place)
    if record is None:
        raise CompatError("no tree with OpenHA's layout is laid out here (hbmgr compat install makes one)")
    if prefix is not None and prefix.absolute() != record.prefix:
        raise CompatError(f"the tree is at {record.prefix}, not at {prefix}; nothing was changed")
    with contextlib.suppress(FileNotFoundError):
        (place.hb / "conf.d" / SETTING).unlink()
    return record


def remove(place: Root, record: Record) -> Removed:
    """Take away what was made, after `switch_off` and the daemon's reload.

    What was changed since, or has something of others in it, stays and is named.
    """
    prefix = record.prefix
    kept: List[str] = []
    services = prefix / "services"
    with contextlib.suppress(OSError):
        for directory in sorted(
            path for path in services.iterdir() if path.is_dir() and not path.is_symlink()
        ):
            with contextlib.suppress(OSError):
                remove_state_files(prefix, directory.name)
    for path, kind, mark in reversed(record.pieces):
        where = prefix / path
        if not os.path.lexists(where):
            continue
        if kind is not Kind.DIRECTORY and not _is_ours(where, kind, mark):
            kept.append(f"{where}: changed since it was made: left there")
            continue
        try:
            if kind is Kind.DIRECTORY:
                where.rmdir()
            else:
                where.unlink()
        except OSError as error:
            kept.append(f"{where}: left there: {error.strerror}")
    with contextlib.suppress(FileNotFoundError):
        (place.var / RECORD).unlink()
    return Removed(prefix, tuple(kept))


# -- what is there ------------------------------------------------------------------------


def _refuse_others(prefix: Path, pieces: Sequence[Piece], before: Optional[Record]) -> None:
    """Refuse a place where anything of others would be overwritten."""
    if (prefix / C_PROGRAM).exists():
        raise CompatError(
            f"{prefix / C_PROGRAM}: OpenHA itself is installed there: remove its package first (hbmgr import "
            f"{prefix} takes its configuration over), or choose another --prefix; nothing was changed"
        )
    known = {path: (kind, mark) for path, kind, mark in before.pieces} if before else {}
    for piece in pieces:
        where = prefix / piece.path
        if not os.path.lexists(where):
            continue
        if piece.kind is Kind.DIRECTORY:
            if where.is_dir() and (not piece.path or piece.path in known or not any(where.iterdir())):
                continue
        elif _is_ours(where, piece.kind, piece.mark):
            continue
        elif piece.path in known and _is_ours(where, *known[piece.path]):
            continue  # of an earlier version
        raise CompatError(
            f"{where} is there and is not as hbmgr compat install makes it: move it away, or choose another "
            "--prefix; nothing was changed"
        )


def _is_ours(where: Path, kind: Kind, mark: str) -> bool:
    """Tell whether a file or link is what was made."""
    try:
        if kind is Kind.LINK:
            return where.is_symlink() and str(where.readlink()) == mark
        return not where.is_symlink() and hashlib.sha256(where.read_bytes()).hexdigest() == mark
    except OSError:
        return False


def _make(prefix: Path, piece: Piece) -> None:
    where = prefix / piece.path
    try:
        if piece.kind is Kind.DIRECTORY:
            where.mkdir(mode=0o755, parents=True, exist_ok=True)
        elif piece.kind is Kind.FILE:
            replace_file(where, piece.content, piece.mode)
        elif not _is_ours(where, piece.kind, piece.mark):
            with contextlib.suppress(FileNotFoundError):
                where.unlink()
            where.symlink_to(piece.target)
    except OSError as error:
        raise WriteError(where, error) from error


def read_record(place: Root) -> Optional[Record]:
    """Return what was made here, None for nothing; raises CompatError where nobody can tell."""
    path = place.var / RECORD
    try:
        fields: Dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        pieces = tuple((str(p), Kind(kind), str(mark)) for p, kind, mark in fields["pieces"])
        return Record(Path(fields["prefix"]), pieces)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CompatError(f"{path}: cannot be read: {error}: nobody can tell what was made") from error


def _write_record(place: Root, record: Record) -> None:
    fields = {
        "prefix": str(record.prefix),
        "pieces": [[path, kind.value, mark] for path, kind, mark in record.pieces],
    }
    replace_file(place.var / RECORD, (json.dumps(fields, indent=1) + "\n").encode(), mode=0o644)
