"""How a service is added to the `services` file, or removed from it: what `service -a` and `-r` do.

The file is replaced as a whole, its comments and all other lines as they were; two commands at
a time come one after the other. Each refusal has the words that OpenHA prints, and says where
they go. Nothing here prints, tells the daemon, or makes a state file: the command does.

Runs in: the process of a command.
Source: OpenHA `service -a` and `-r`; checks, their order and their words are the C program's,
except where a class below says otherwise.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import socket
import stat
from pathlib import Path
from typing import Callable, Iterator, List, Tuple

from opensvc_hb.errors import ConfigurationError, HbError
from opensvc_hb.files import replace_file
from opensvc_hb.paths import Root
from opensvc_hb.services_table import SERVICE_NAME_MAX_BYTES, name_problem, services_path, split_lines

SERVICES_MAX = 128
"""More than so many do not fit into the C program's structure."""


class Stream(enum.Enum):
    """Where OpenHA prints a refusal."""

    STDOUT = "stdout"
    STDERR = "stderr"


class ServiceEditRefused(HbError):
    """The services file stays as it is; `str(error)` is OpenHA's line.

    Args:
        text: the line.
        stream: where OpenHA prints it.
        precedes_creating: it stands alone: neither `Creating service S :` nor `Failed.` is printed.
    """

    stream = Stream.STDERR
    precedes_creating = False


class TooManyServices(ServiceEditRefused):
    """The file is full."""

    precedes_creating = True

    def __init__(self) -> None:
        super().__init__(f"Error : Your already have created max services count ({SERVICES_MAX})")


class ServiceNameTooLong(ServiceEditRefused):
    """The name does not fit."""

    precedes_creating = True

    def __init__(self, length: int) -> None:
        super().__init__(f"Error : service name is too long. {length} out of {SERVICE_NAME_MAX_BYTES}")


class BadServiceName(ServiceEditRefused):
    """The name cannot be one. Ours: OpenHA accepts it and is broken afterwards."""

    precedes_creating = True


class ServiceAlreadyThere(ServiceEditRefused):
    """The file names the service already."""

    stream = Stream.STDOUT

    def __init__(self, name: str) -> None:
        super().__init__(f"Service {name} already created.")


class ScriptUnreadable(ServiceEditRefused):
    """The script is not there, or cannot be read."""

    def __init__(self, script: str) -> None:
        super().__init__(f"Error: unable to open startup script file {script}")


class CheckScriptUnreadable(ServiceEditRefused):
    """The check script is not there, or cannot be read."""

    def __init__(self, script: str) -> None:
        super().__init__(f"Error: unable to open check script file {script}")


class ScriptNotAbsolute(ServiceEditRefused):
    """A script is a relative path. Ours: OpenHA's daemon finds it or not, by where it was started."""

    def __init__(self, script: str) -> None:
        super().__init__(f"Error: {script} is not an absolute path: write it from / on, without blanks")


class UnknownHost(ServiceEditRefused):
    """A node's name does not resolve."""

    def __init__(self, node: str) -> None:
        super().__init__(f"Error: unknown host {node}")


class SameNode(ServiceEditRefused):
    """Primary and secondary are one node."""

    def __init__(self) -> None:
        super().__init__("ERROR: primary and secondary node must differ.")


class ScriptModeWrong(ServiceEditRefused):
    """The script's owner may neither read nor execute it."""

    stream = Stream.STDOUT

    def __init__(self, script: str) -> None:
        super().__init__(f"Startup script {script} mode not valid")


class ServiceNotFound(ServiceEditRefused):
    """`-r` of a service that the file does not name."""

    stream = Stream.STDOUT

    def __init__(self, name: str) -> None:
        super().__init__(f"Service {name} not found.")


def _resolves(node: str) -> bool:
    try:
        socket.gethostbyname(node)
    except (OSError, UnicodeError):
        return False
    return True


def add_service(
    root: Root,
    name: str,
    script: str,
    primary: str,
    secondary: str,
    check_script: str,
    resolves: Callable[[str], bool] = _resolves,
) -> None:
    """Add a service at the end of the file, which is made when missing.

    Args:
        root: the tree of this node.
        name: the service's name.
        script: called with `start` and `stop`.
        primary: the node that goes first.
        secondary: the other node.
        check_script: called with `start` before each start.
        resolves: tells whether a node's name is known.

    Raises:
        ServiceEditRefused: the first check that failed, in OpenHA's order.
        ConfigurationError, WriteError: the file cannot be read or written.
    """
    with _edited(root) as path:
        content = _read(path)
        names = _names(content)
        _check(names, name, script, primary, secondary, check_script, resolves)
        if content and not content.endswith(b"\n"):
            content += b"\n"
        line = "\t".join((name, script, primary, secondary, check_script))
        _write(path, content + line.encode("utf-8", "surrogateescape") + b"\n")


def remove_service(root: Root, name: str) -> None:
    """Remove a service from the file; all other lines stay as they are.

    Its instance, where one runs, is not stopped.

    Raises:
        ServiceNotFound: the file does not name it.
        ConfigurationError, WriteError: the file cannot be read or written.
    """
    with _edited(root) as path:
        content = _read(path)
        doomed = {number for number, columns in split_lines(content) if columns[0] == name}
        if not doomed:
            raise ServiceNotFound(name)
        lines = content.split(b"\n")
        _write(path, b"\n".join(line for at, line in enumerate(lines, start=1) if at not in doomed))


def _check(
    names: Tuple[str, ...],
    name: str,
    script: str,
    primary: str,
    secondary: str,
    check_script: str,
    resolves: Callable[[str], bool],
) -> None:
    """Raise the first refusal, in OpenHA's order; ours stand where they can change no other."""
    if len(names) >= SERVICES_MAX:
        raise TooManyServices
    length = len(name.encode("utf-8", "surrogateescape"))
    if length > SERVICE_NAME_MAX_BYTES:
        raise ServiceNameTooLong(length)
    problem = name_problem(name)
    if problem:
        raise BadServiceName(f"Error : {problem}")
    if name in names:
        raise ServiceAlreadyThere(name)
    for text, unreadable in ((script, ScriptUnreadable), (check_script, CheckScriptUnreadable)):
        if not _is_readable(text):
            raise unreadable(text)
        if not text.startswith("/") or any(c.isspace() or not c.isprintable() for c in text):
            raise ScriptNotAbsolute(text)
    for node in (primary, secondary):
        if not resolves(node):
            raise UnknownHost(node)
    if primary.lower() == secondary.lower():
        raise SameNode
    if not Path(script).stat().st_mode & (stat.S_IRUSR | stat.S_IXUSR):
        raise ScriptModeWrong(script)


def _is_readable(script: str) -> bool:
    try:
        with Path(script).open("rb"):
            return True
    except IsADirectoryError:
        return False
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def _edited(root: Root) -> Iterator[Path]:
    """Lend the file's path, links followed, to one editor at a time."""
    try:
        root.hb.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root.hb, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(str(root.hb), 0, "", f"cannot be made: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield Path(os.path.realpath(services_path(root)))
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise ConfigurationError(str(path), 0, "", f"cannot be read: {error.strerror}") from error


def _names(content: bytes) -> Tuple[str, ...]:
    """Return what the lines name, also the lines that are wrong otherwise."""
    names: List[str] = [columns[0] for _, columns in split_lines(content)]
    return tuple(dict.fromkeys(names))


def _write(path: Path, content: bytes) -> None:
    mode = 0o644
    with contextlib.suppress(FileNotFoundError):
        mode = stat.S_IMODE(path.stat().st_mode)
    replace_file(path, content, mode)
