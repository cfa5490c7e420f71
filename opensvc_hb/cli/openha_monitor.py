"""How a line is added to the monitor file, or removed from it: what `hb -a` and `hb -r` do.

The words are checked as OpenHA checks them, in its order and with its lines; then the file that
would come out is read as the daemon reads it, so that what OpenHA accepts and cannot use
is refused. The file is replaced as a whole, its other lines as they were.

Nothing here prints or tells the daemon. Runs in: the process of a command.
Source: OpenHA `hb -a`; its `hb -r` never works.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import socket
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Sequence, Tuple

from opensvc_hb.core.config import LinkType
from opensvc_hb.errors import ConfigurationError, ConfigurationErrors, HbError
from opensvc_hb.files import replace_file
from opensvc_hb.links.cluster_files import read_monitor, read_nodes
from opensvc_hb.paths import Root

TIMEOUT_MIN_S, TIMEOUT_MAX_S = 2, 120
PORT_MIN, PORT_MAX = 1026, 65534


@dataclass(frozen=True)
class LinkWords:
    """A link, as the words of a command name it; None for what was not given."""

    node: Optional[str] = None
    type: Optional[str] = None
    device: Optional[str] = None
    address: Optional[str] = None
    port: Optional[str] = None
    timeout: Optional[str] = None


class LinkRefused(HbError):
    """The monitor file stays as it is.

    Args:
        part: the part of the link that is wrong, "" when it is none.
        lines: OpenHA's lines for standard error; shown: those for standard output.
    """

    def __init__(self, part: str, *lines: str, shown: Sequence[str] = ()) -> None:
        self.part = part
        self.lines = lines
        self.shown = tuple(shown)
        super().__init__("\n".join((*shown, *lines)))


@dataclass(frozen=True)
class Machine:
    """What this machine has; tests describe another one.

    Args:
        interface_problem: what is wrong with an interface, "" when it has an IPv4 address.
        opens: tells whether a device can be opened.
    """

    interface_problem: Callable[[str], str]
    opens: Callable[[str], bool]


def _interface_problem(name: str) -> str:
    import psutil

    addresses = psutil.net_if_addrs().get(name)
    if addresses is None:
        return "No such file or directory"
    if any(address.family == socket.AF_INET for address in addresses):
        return ""
    return "Cannot assign requested address"


def _opens(device: str) -> bool:
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except (OSError, ValueError):
        return False
    return True


def this_machine() -> Machine:
    """Return the machine that this process runs on."""
    return Machine(_interface_problem, _opens)


def add_link(place: Root, words: LinkWords, machine: Machine) -> None:
    """Add a line at the end of the monitor file, which is made when missing.

    Raises:
        LinkRefused: the first check that failed.
        ConfigurationErrors, WriteError: the files are wrong already, or cannot be written.
    """
    nodes = read_nodes(place.hb / "nodes")
    columns = _checked(place, words, nodes, machine)
    with _edited(place) as path:
        lines = _lines(path)
        if any(_is_same(line, columns) for line in lines):
            raise LinkRefused("", "Error: HeartBeat link already defined.")
        lines.append("\t".join(columns))
        _check_whole(path, lines, nodes)
        _write(path, lines)


def remove_link(place: Root, words: LinkWords) -> None:
    """Remove the line of a link; a timeout that is given must be the line's.

    Raises:
        LinkRefused: no line, or more than one, is meant.
        ConfigurationErrors, WriteError: the file cannot be read or written.
    """
    cannot = "Error: unable to remove HeartBeat link."
    with _edited(place) as path:
        lines = _lines(path)
        found = [line for line in lines if _is_meant(line, words)]
        if len(found) != 1:
            why = "no line" if not found else f"{len(found)} lines"
            raise LinkRefused("", f"{path}: {why} for such a link: name it by -n, -t, -i, -d and -p.", cannot)
        _write(path, [line for line in lines if line is not found[0]])


# -- OpenHA's checks ----------------------------------------------------------------------


def _checked(place: Root, words: LinkWords, nodes: Sequence[str], machine: Machine) -> Tuple[str, ...]:
    """Return the columns of a new line."""
    if words.node is None:
        raise LinkRefused("node", "Need the node that sends (-n).")
    node = words.node.lower()
    if node not in nodes:
        raise LinkRefused("node", f"Node {words.node} not found in EZ_NODES configuration file.")
    kind = _type(words.type)
    where = _checked_disk(words, machine) if kind.is_disk else _checked_network(kind, words, machine)
    return (node, kind.value, *where, _checked_timeout(words.timeout))


def _type(word: Optional[str]) -> LinkType:
    try:
        return LinkType((word or "").lower())
    except ValueError:
        said = f"Type {word} not valid" if word is not None else "Need a type (-t)"
        raise LinkRefused("type", f"{said} (must be disk, dio, unicast or net).") from None


def _checked_network(kind: LinkType, words: LinkWords, machine: Machine) -> Tuple[str, ...]:
    if words.device is None or words.address is None or words.port is None:
        raise LinkRefused("interface", "Need interface address and port.")
    problem = machine.interface_problem(words.device)
    if problem:
        raise LinkRefused("interface", f"set_mcast_if failed : {problem}", "Bad interface name ?")
    if not _is_address(kind, words.address):
        raise LinkRefused("interface", shown=("BAD Multicast address.",))
    if not words.port.isdigit() or not PORT_MIN <= int(words.port) <= PORT_MAX:
        said = f"BAD port number: {words.port}. Must be between 1025 and 65535."
        raise LinkRefused("interface", said, "BAD port value.")
    return (words.device, words.address, words.port)


def _is_address(kind: LinkType, text: str) -> bool:
    """Tell whether OpenHA takes an address: of a group, or of a node."""
    try:
        first, _, third, fourth = ipaddress.IPv4Address(text).packed
    except ValueError:
        return False
    is_group = 224 <= first <= 239
    if kind is LinkType.NET:
        return is_group and third >= 1 and fourth <= 254
    return not is_group and fourth <= 254


def _checked_disk(words: LinkWords, machine: Machine) -> Tuple[str, ...]:
    if words.device is None or words.address is None or words.port is not None:
        raise LinkRefused("interface", "Need interface and address.")
    if not machine.opens(words.device):
        raise LinkRefused("interface", f"Unable to check device {words.device}.")
    return (words.device, words.address)


def _checked_timeout(text: Optional[str]) -> str:
    if text is None or not text.isdigit() or not TIMEOUT_MIN_S <= int(text) <= TIMEOUT_MAX_S:
        raise LinkRefused(
            "timeout", f"BAD timeout value. Must be between {TIMEOUT_MIN_S} and {TIMEOUT_MAX_S} seconds."
        )
    return text


# -- the file -----------------------------------------------------------------------------


def _columns(line: str) -> List[str]:
    columns = []
    for column in line.split():
        if column.startswith("#"):
            break
        columns.append(column)
    return columns


def _is_same(line: str, columns: Sequence[str]) -> bool:
    """Tell whether a line is the link of `columns`, its timeout aside."""
    there = _columns(line)
    return len(there) > 1 and [there[0].lower(), *there[1:-1]] == list(columns[:-1])


def _is_meant(line: str, words: LinkWords) -> bool:
    there = _columns(line)
    if len(there) < 5 or None in (words.node, words.type, words.device, words.address):
        return False
    meant = [str(words.node).lower(), str(words.type).lower(), str(words.device), str(words.address)]
    meant += [words.port] if words.port is not None else []
    is_same = [there[0].lower(), there[1].lower(), *there[2:-1]] == meant
    return is_same and (words.timeout is None or words.timeout == there[-1])


def _check_whole(path: Path, lines: Sequence[str], nodes: Sequence[str]) -> None:
    """Refuse the new line where the daemon would refuse the file with it.

    A node without a line of its own is none of its errors: it may get one by the next command.
    """
    with tempfile.TemporaryDirectory() as directory:
        draft = Path(directory) / "monitor"
        draft.write_text(_text(lines), encoding="utf-8", errors="surrogateescape")
        try:
            read_monitor(draft, nodes)
        except ConfigurationErrors as errors:
            said = [
                str(ConfigurationError(str(path), error.line, error.where, error.what))
                for error in errors.errors
                if error.line
            ]
            if said:
                raise LinkRefused("interface", *said) from None


@contextlib.contextmanager
def _edited(place: Root) -> Iterator[Path]:
    """Lend the file's path, links followed, to one editor at a time."""
    try:
        descriptor = os.open(place.hb, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(str(place.hb), 0, "", f"cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield Path(os.path.realpath(place.hb / "monitor"))
    finally:
        os.close(descriptor)


def _lines(path: Path) -> List[str]:
    try:
        content = path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigurationError(str(path), 0, "", f"cannot be read: {error.strerror}") from error
    return content.removesuffix("\n").split("\n") if content else []


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _write(path: Path, lines: Sequence[str]) -> None:
    mode = 0o644
    with contextlib.suppress(FileNotFoundError):
        mode = stat.S_IMODE(path.stat().st_mode)
    replace_file(path, _text(lines).encode("utf-8", "surrogateescape"), mode)
