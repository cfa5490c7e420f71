"""The `services` file: services driven by scripts alone, in OpenHA's grammar.

Answers: which services does `etc/opensvc/hb/services` name, which scripts run them, on which
two nodes? Reads text only; whether a script exists is the machine's matter. Every mistake of
the file is found in one reading.

    service script primary secondary check_script

Columns are separated by blanks. Comments and blank lines are allowed, which OpenHA takes for
services. A line whose script is a link `SVC.cluster` to svcmgr, or whose name the agent knows,
names a service of the agent; any other is *foreign*: its scripts are all there is of it.

Called by the daemon at its start and reload, by the agent before each action, by commands.
Source: OpenHA conf/services; its limits, checked there only when a service is added by command.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from opensvc_hb.errors import ConfigurationError, ConfigurationErrors
from opensvc_hb.paths import Root

COLUMNS = ("service", "script", "primary", "secondary", "check_script")
SERVICE_NAME_MAX_BYTES = 63
NODE_NAME_MAX_BYTES = 127
FILE_MAX_BYTES = 1 << 20
CLUSTER_SUFFIX = ".cluster"
SVCMGR = "svcmgr"
_LINKS_MAX = 40

_NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")


@dataclass(frozen=True)
class ServiceLine:
    """One service of the file.

    Args:
        name: the service's name in the heartbeat.
        script: absolute path, called with `start` or `stop`.
        primary, secondary: the two nodes that may run it, lower case.
        check_script: absolute path, called with `start` before each start.
        line: 1-based line in the file.
    """

    name: str
    script: str
    primary: str
    secondary: str
    check_script: str
    line: int = 0

    @property
    def nodes(self) -> Tuple[str, str]:
        """The nodes that may run it, the primary first."""
        return (self.primary, self.secondary)


def services_path(root: Root) -> Path:
    """Return where the file is, or would be."""
    return root.hb / "services"


def read_services(path: Path) -> Tuple[ServiceLine, ...]:
    """Return the services of the file, in file order; none when there is no file.

    Raises:
        ConfigurationErrors: it cannot be read, or has wrong lines.
    """
    errors: List[ConfigurationError] = []
    found: Dict[str, ServiceLine] = {}
    for number, columns in split_lines(_content(path)):
        line = _parse(str(path), number, columns, errors)
        if line is None:
            continue
        if line.name in found:
            what = f"{line.name} is already on line {found[line.name].line}: remove one of them"
            errors.append(ConfigurationError(str(path), number, "service", what))
        else:
            found[line.name] = line
    if errors:
        raise ConfigurationErrors(errors)
    return tuple(found.values())


def find_service(path: Path, name: str) -> Optional[ServiceLine]:
    """Return the first line of this name that is right, whatever the others say; None without one."""
    try:
        content = _content(path)
    except ConfigurationErrors:
        return None
    for number, columns in split_lines(content):
        line = _parse(str(path), number, columns, []) if columns[0] == name else None
        if line is not None:
            return line
    return None


def split_lines(content: bytes) -> List[Tuple[int, Tuple[str, ...]]]:
    """Return number and columns of each line that says something.

    A `#` at the beginning of a column opens a comment. Undecodable bytes stay visible, escaped.
    """
    lines = []
    for number, raw in enumerate(content.split(b"\n"), start=1):
        columns: List[str] = []
        for column in raw.decode("utf-8", "backslashreplace").split():
            if column.startswith("#"):
                break
            columns.append(column)
        if columns:
            lines.append((number, tuple(columns)))
    return lines


def name_problem(name: str) -> str:
    """Return what is wrong with a service's name, "" for nothing.

    The name becomes part of the names of files (log, lock, state), so that it must be one.
    """
    if not name or not name.isprintable() or any(c.isspace() for c in name):
        return f"{name!r} is not a service name: printable characters without blanks are allowed"
    if "/" in name or name.startswith((".", "#", "-")):
        return f"{name!r} is not a service name: no '/' in it, and no '.', '-' or '#' at its beginning"
    length = len(name.encode("utf-8", "surrogatepass"))
    if length > SERVICE_NAME_MAX_BYTES:
        return f"{name!r} has {length} bytes: at most {SERVICE_NAME_MAX_BYTES} are allowed"
    return ""


def agent_service(script: str) -> Optional[str]:
    """Return the agent's service whose `SVC.cluster` link to svcmgr a script is; None for any other.

    The link may lead to svcmgr through other links. Reads links only.
    """
    path = Path(script)
    svcname = path.name[: -len(CLUSTER_SUFFIX)]
    if not path.name.endswith(CLUSTER_SUFFIX) or not svcname:
        return None
    for _ in range(_LINKS_MAX):
        try:
            target = path.readlink()
        except OSError:
            return None  # at the end of the links, and it was not svcmgr
        if target.name in (SVCMGR, f"{SVCMGR}.py"):
            return svcname
        path = path.parent / target
    return None


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        return b""
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise ConfigurationErrors([ConfigurationError(str(path), 0, "", what)]) from error
    if len(content) > FILE_MAX_BYTES:
        what = f"is longer than {FILE_MAX_BYTES} bytes"
        raise ConfigurationErrors([ConfigurationError(str(path), 0, "", what)])
    return content


def _parse(
    path: str, number: int, columns: Tuple[str, ...], errors: List[ConfigurationError]
) -> Optional[ServiceLine]:
    """Return the service of one line; append what is wrong and return None otherwise."""
    known_before = len(errors)

    def wrong(where: str, what: str) -> None:
        errors.append(ConfigurationError(path, number, where, what))

    if len(columns) != len(COLUMNS):
        count = f"{len(columns)} column{'s' * (len(columns) != 1)}"
        wrong("columns", f"{count}, a service has {len(COLUMNS)}: {' '.join(COLUMNS)}")
        return None
    name, script, primary, secondary, check_script = columns
    primary, secondary = primary.lower(), secondary.lower()
    problem = name_problem(name)
    if problem:
        wrong("service", problem)
    for where, text in (("script", script), ("check_script", check_script)):
        if not text.startswith("/"):
            wrong(where, f"{text!r} is not an absolute path: it is executed as it stands here")
    for where, node in (("primary", primary), ("secondary", secondary)):
        if not _NODE_NAME.fullmatch(node) or len(node) > NODE_NAME_MAX_BYTES:
            wrong(where, f"{node!r} is not a node name, as `uname -n` prints it")
    if primary == secondary:
        wrong("secondary", f"{secondary} is the primary, too: the two must differ")
    if len(errors) > known_before:
        return None
    return ServiceLine(name, script, primary, secondary, check_script, number)
