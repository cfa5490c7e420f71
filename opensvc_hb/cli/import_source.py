"""Where are the files of an OpenHA installation, and in which state does it say that services are?

Reads a legacy tree (`/usr/local/cluster`: conf/, services/), an FHS tree (a root under which
etc/openha and var/lib/openha lie), or what the EZ_* variables name. Writes nothing, and runs
nothing: the tunables are a fragment of shell, of which only lines `NAME=VALUE` are understood.

Called by `hbmgr import`.
Source: OpenHA's two layouts, its environment variables, its state files.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Tuple, Union

from opensvc_hb.core.states import State
from opensvc_hb.errors import ConfigurationError, HbError
from opensvc_hb.paths import Root

TUNABLE_FILES = (
    "etc/defaults/openha",
    "etc/default/openha",
    "etc/sysconfig/openha",
    "etc/rc.config.d/openha",
)
"""Looked for in this order, the first counts."""
EZ_NAMES = ("EZ_NODES", "EZ_MONITOR", "EZ_SERVICES", "EZ_VAR")
PROGRAMS = frozenset(
    {
        "nmond",
        *(f"heart{end}{kind}" for end in "dc" for kind in ("", "_unicast", "_dio", "_raw")),
    }
)
"""OpenHA's daemons, by the name the kernel knows them by."""

_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_VALUE = re.compile(r"""'([^']*)'|"([^"$`\\]*)"|([^\s'"$`\\;&|<>()#]*)""")


class Layout(enum.Enum):
    """How an installation is laid out; the value is the word for people."""

    LEGACY = "legacy layout"
    FHS = "FHS layout"
    NAMED = "paths from EZ_* variables"


class NotOpenHA(HbError):
    """There is no installation of OpenHA where one was named."""

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"{directory}: no OpenHA here: neither conf/monitor (as in /usr/local/cluster) "
            "nor etc/openha; name the one, or the root of the other (/), or set EZ_NODES, EZ_MONITOR, "
            "EZ_SERVICES and EZ_VAR"
        )


@dataclass(frozen=True)
class Tunable:
    """One variable of the tunables, and the line that sets it."""

    value: str
    line: int


@dataclass(frozen=True)
class Source:
    """The files of an installation; any of them may be missing.

    Args:
        states: the directory with one directory for each service.
        tunables_path: None when there is no such file.
        errors: what is wrong with the tunables.
    """

    directory: Path
    layout: Layout
    nodes: Path
    monitor: Path
    services: Path
    states: Path
    tunables_path: Optional[Path] = None
    tunables: Mapping[str, Tunable] = field(default_factory=dict)
    errors: Tuple[ConfigurationError, ...] = ()


@dataclass(frozen=True)
class NoState:
    """A state file that says nothing that we could believe; `what` is why."""

    path: Path
    what: str


def find_source(directory: Path, root: Root, environment: Mapping[str, str]) -> Source:
    """Return the files of the installation in a directory.

    A variable EZ_NODES, EZ_MONITOR, EZ_SERVICES or EZ_VAR of the environment names a file as it
    stands; one of the tunables counts below that, and lies under the root of the installation.

    Args:
        directory: as the user named it.
        root: under it lie the tunables of a legacy installation.
        environment: variables.

    Raises:
        NotOpenHA: nothing of it is there.
    """
    if any((directory / "conf" / name).exists() for name in ("nodes", "monitor", "services")):
        layout, top = Layout.LEGACY, root.top
        conf, var = directory / "conf", directory
    elif (directory / "etc/openha").is_dir():
        layout, top = Layout.FHS, directory
        conf, var = directory / "etc/openha", directory / "var/lib/openha"
    elif all(environment.get(name) for name in EZ_NAMES):
        layout, top = Layout.NAMED, root.top
        conf = var = directory
    else:
        raise NotOpenHA(directory)
    path = next((top / name for name in TUNABLE_FILES if (top / name).is_file()), None)
    tunables, errors = read_tunables(path) if path is not None else ({}, [])

    def place(name: str, usual: Path) -> Path:
        given = environment.get(name)
        if given:
            return Path(given)
        if name in tunables and tunables[name].value.startswith("/"):
            return top / tunables[name].value.lstrip("/")
        return usual

    return Source(
        directory,
        layout,
        place("EZ_NODES", conf / "nodes"),
        place("EZ_MONITOR", conf / "monitor"),
        place("EZ_SERVICES", conf / "services"),
        place("EZ_VAR", var) / "services",
        path,
        tunables,
        tuple(errors),
    )


def read_tunables(path: Path) -> Tuple[Dict[str, Tunable], List[ConfigurationError]]:
    """Return the variables that a fragment of shell sets, and an error for each other line."""
    try:
        text = path.read_text(encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        return {}, [ConfigurationError(str(path), 0, "", f"cannot be read: {error.strerror}")]
    tunables: Dict[str, Tunable] = {}
    errors: List[ConfigurationError] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#") or line in ("export", "set -a", "set +a"):
            continue
        words = re.fullmatch(r"export((?:\s+[A-Za-z_][A-Za-z0-9_]*)+)", line)
        if words:
            continue
        assignment = _ASSIGNMENT.fullmatch(line)
        value = _value_of(assignment.group(2)) if assignment else None
        if assignment is None or value is None:
            what = f"{line!r} is not understood: write NAME=VALUE, without $, ` or commands, and import again"
            errors.append(ConfigurationError(str(path), number, "", what))
        else:
            tunables[assignment.group(1)] = Tunable(value, number)
    return tunables, errors


def _value_of(text: str) -> Optional[str]:
    """Return what the shell makes of a plain word, quoted or not; None for anything else."""
    found = _VALUE.match(text)
    assert found is not None, "the pattern matches the empty text"
    rest = text[found.end() :].strip()
    if rest and not rest.startswith("#"):
        return None
    return next((group for group in found.groups() if group is not None), "")


def read_state(source: Source, service: str, node: str) -> Union[State, NoState]:
    """Return the state of a service on a node, as OpenHA reads its file.

    A missing file is made by OpenHA when it looks, as FROZEN_STOP. `-` is a number below 0 that
    was cut, and reads as STOPPED there.
    """
    path = source.states / service / f"STATE.{node}"
    try:
        with path.open("rb") as file:
            first = file.read(1)
    except (FileNotFoundError, NotADirectoryError):
        return State.FROZEN_STOP
    except OSError as error:
        return NoState(path, f"cannot be read: {error.strerror}")
    if first == b"-":
        return State.STOPPED
    if not first.isdigit():
        return NoState(path, "holds no state: a digit 0 to 9 is one")
    return State(int(first))


def running_programs(proc: Path = Path("/proc")) -> Tuple[Tuple[int, str], ...]:
    """Return pid and name of OpenHA's daemons on this node."""
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            name = (entry / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue  # it has ended meanwhile
        if name in PROGRAMS:
            found.append((int(entry.name), name))
    return tuple(sorted(found))
