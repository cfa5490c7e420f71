"""The `nodes` and `monitor` files: what the cluster is made of, in OpenHA's grammar.

Answers: which nodes are there, and on which links does each of them send? Reads text only:
nothing here asks whether an interface or a device exists on this machine (`machine_check`
does). Every mistake of a file is found in one reading, so that nobody repairs line by line.

    nodes     one node name per line
    monitor   node net     interface  group    port    timeout
              node unicast interface  address  port    timeout
              node dio     device     offset   timeout
              node disk    device     offset   timeout

`node` is the *sender* of a link, every other node listens. Columns are separated by blanks.
Refinements of ours: comments and blank lines are allowed, a timeout may be a fraction of a
second, and a slot takes 10 blocks of 512 bytes where OpenHA's takes 19 (`openha_limits` says what else its
format asks, where that is chosen).

Called by the daemon at its start and reload, and by every command that names links.
Source: OpenHA conf/nodes, conf/monitor; the limits are checked by its daemons one by one at
run time, here before anything starts.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from opensvc_hb.core.config import Link, LinkType, Service
from opensvc_hb.core.messages import DIGEST_BYTES
from opensvc_hb.errors import ConfigurationError, ConfigurationErrors
from opensvc_hb.links.slot import BLOCK_BYTES, SLOT_BLOCKS

TIMEOUT_MIN_S = 0.2
TIMEOUT_MAX_S = 3600.0
NODE_NAME_MAX_BYTES = 127
FILE_MAX_BYTES = 1 << 20

_NETWORK_COLUMNS = "node type interface address port timeout"
_DISK_COLUMNS = "node type device offset timeout"
_TYPES = ", ".join(kind.value for kind in LinkType)
_NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_DECIMAL = re.compile(r"[0-9]{1,18}")
_PORT_NUMBER = re.compile(r"[0-9][0-9a-zA-Z]*")


@dataclass(frozen=True)
class _Line:
    """The columns of one line, and how to say what is wrong with one of them."""

    path: str
    number: int
    columns: Tuple[str, ...]

    def error(self, where: str, what: str) -> ConfigurationError:
        return ConfigurationError(self.path, self.number, where, what)


def read_nodes(path: Path) -> Tuple[str, ...]:
    """Return the node names of the file, lower case, in file order.

    Raises:
        ConfigurationErrors: the file is missing, empty, or has wrong lines.
    """
    errors: List[ConfigurationError] = []
    seen: Dict[str, int] = {}
    for line in _read_lines(path):
        name = line.columns[0].lower()
        if len(line.columns) > 1:
            errors.append(
                line.error("node", f"one name per line is allowed, not {len(line.columns)} columns")
            )
        elif not _NODE_NAME.fullmatch(name) or len(name) > NODE_NAME_MAX_BYTES:
            errors.append(
                line.error(
                    "node",
                    f"{line.columns[0]!r} is not a node name: letters, digits, '.', '-' and '_', "
                    f"at most {NODE_NAME_MAX_BYTES}, as `uname -n` prints it",
                )
            )
        elif name in seen:
            errors.append(line.error("node", f"{name} is already on line {seen[name]}"))
        else:
            seen[name] = line.number
    if not seen and not errors:
        errors.append(ConfigurationError(str(path), 0, "", "names no node: one node name per line is needed"))
    if errors:
        raise ConfigurationErrors(errors)
    return tuple(seen)


def read_monitor(path: Path, nodes: Sequence[str]) -> Tuple[Link, ...]:
    """Return the links of the file, in file order.

    Args:
        path: the monitor file.
        nodes: what `read_nodes` returned.

    Raises:
        ConfigurationErrors: the file is missing, or has wrong lines, or lines that do not
            go together.
    """
    errors: List[ConfigurationError] = []
    links: List[Link] = []
    for line in _read_lines(path):
        link = _parse_link(line, nodes, errors)
        if link is not None:
            links.append(link)
    # A node whose only line is wrong has been told so: say nothing more about it.
    if not errors:
        errors.extend(_silent_nodes(str(path), links, nodes))
    errors.extend(_clashes(str(path), links))
    if errors:
        raise ConfigurationErrors(sorted(errors, key=lambda error: error.line))
    return tuple(links)


def shared_digest(nodes: Sequence[str], links: Sequence[Link], services: Mapping[str, Service]) -> bytes:
    """Return `DIGEST_BYTES` bytes, equal on two nodes when what they must agree on is equal.

    The order of lines, comments and time limits of actions do not count, nor do services of one
    node alone, which no other knows; the order of the nodes of a service does, since it makes
    the primary.
    """
    lines = [f"node {name}" for name in sorted(nodes)]
    lines += sorted(f"link {link.node} {link.id} {link.timeout_s!r}" for link in links)
    shared = [services[name] for name in sorted(services) if len(services[name].nodes) > 1]
    lines += [f"service {service.name} {' '.join(service.nodes)}" for service in shared]
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=DIGEST_BYTES).digest()


def slots_overlap(one: Link, other: Link) -> bool:
    """Tell whether two disk links of one device would write the same blocks, in any format."""
    return abs(int(one.address) - int(other.address)) < SLOT_BLOCKS


def _missing(path: Path) -> str:
    what = "a node name per line" if path.name == "nodes" else "a link per line"
    return f"does not exist: it holds {what}, the same on every node"


def _read_lines(path: Path) -> List[_Line]:
    """Return the lines that say something, split into columns."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigurationErrors([ConfigurationError(str(path), 0, "", _missing(path))]) from None
    except OSError as error:
        raise ConfigurationErrors(
            [ConfigurationError(str(path), 0, "", f"cannot be read: {error.strerror}")]
        ) from error
    if len(content) > FILE_MAX_BYTES:
        raise ConfigurationErrors(
            [ConfigurationError(str(path), 0, "", f"is longer than {FILE_MAX_BYTES} bytes")]
        )
    lines = []
    for number, raw in enumerate(content.split(b"\n"), start=1):
        # Undecodable bytes stay visible in the error about their column.
        columns = _without_comment(raw.decode("utf-8", "backslashreplace").split())
        if columns:
            lines.append(_Line(str(path), number, columns))
    return lines


def _without_comment(columns: Sequence[str]) -> Tuple[str, ...]:
    for index, column in enumerate(columns):
        if column.startswith("#"):
            return tuple(columns[:index])
    return tuple(columns)


def _parse_link(line: _Line, nodes: Sequence[str], errors: List[ConfigurationError]) -> Optional[Link]:
    """Return the link of one line; append what is wrong and return None otherwise."""
    known_before = len(errors)
    node = line.columns[0].lower()
    if node not in nodes:
        errors.append(
            line.error("node", f"{line.columns[0]!r} is not in the nodes file (it has {', '.join(nodes)})")
        )
    try:
        kind = LinkType(line.columns[1]) if len(line.columns) > 1 else None
    except ValueError:
        errors.append(line.error("type", f"{line.columns[1]!r} is unknown: {_TYPES} are allowed"))
        return None
    if kind is None:
        errors.append(line.error("type", f"is missing: {_TYPES} are allowed"))
        return None
    names = (_DISK_COLUMNS if kind.is_disk else _NETWORK_COLUMNS).split()
    if len(line.columns) != len(names):
        errors.append(
            line.error(
                "columns",
                f"{len(line.columns)} columns, a {kind.value} link has {len(names)}: {' '.join(names)}",
            )
        )
        return None
    value = dict(zip(names, line.columns))
    timeout_s = _parse_timeout(line, value["timeout"], errors)
    port = 0
    if kind.is_disk:
        device = value["device"]
        if not device.startswith("/"):
            errors.append(line.error("device", f"{device!r} is not an absolute path"))
        address = _parse_offset(line, value["offset"], errors)
    else:
        device = value["interface"]
        if len(device.encode()) > 15 or "/" in device:
            errors.append(
                line.error("interface", f"{device!r} is not an interface name: at most 15 bytes, no '/'")
            )
        address = _parse_address(line, kind, value["address"], errors)
        port = _parse_port(line, value["port"], errors)
    if len(errors) > known_before:
        return None
    return Link(node, kind, device, address, port, timeout_s, line.number)


def _parse_timeout(line: _Line, timeout_text: str, errors: List[ConfigurationError]) -> float:
    timeout_s = float(timeout_text) if _NUMBER.fullmatch(timeout_text) else -1.0
    if not TIMEOUT_MIN_S <= timeout_s <= TIMEOUT_MAX_S:
        errors.append(
            line.error(
                "timeout",
                f"{timeout_text!r} is not allowed: {TIMEOUT_MIN_S:g} to {TIMEOUT_MAX_S:g} seconds are",
            )
        )
    return timeout_s


def _parse_offset(line: _Line, offset_text: str, errors: List[ConfigurationError]) -> str:
    """Return the offset in blocks, without leading zeros: it is part of the link's name."""
    # Eighteen digits may still pass the largest file offset the kernel knows.
    blocks = int(offset_text) if _DECIMAL.fullmatch(offset_text) else -1
    if not 0 <= blocks <= (1 << 63) // BLOCK_BYTES - SLOT_BLOCKS:
        errors.append(
            line.error(
                "offset",
                f"{offset_text!r} is not an offset: a whole number of {BLOCK_BYTES}-byte blocks is allowed",
            )
        )
    return str(blocks)


def _parse_address(line: _Line, kind: LinkType, address_text: str, errors: List[ConfigurationError]) -> str:
    """Return the address in its usual spelling: it is part of the link's name."""
    try:
        address = ipaddress.ip_address(address_text)
    except ValueError:
        errors.append(line.error("address", f"{address_text!r} is not an IP address"))
        return ""
    if kind is LinkType.NET and not address.is_multicast:
        errors.append(
            line.error(
                "address", f"{address_text} is not a multicast group: 224.0.0.0/4 or ff00::/8 is allowed"
            )
        )
    is_broadcast = address == ipaddress.ip_address("255.255.255.255")
    if kind is LinkType.UNICAST and (address.is_multicast or address.is_unspecified or is_broadcast):
        errors.append(
            line.error("address", f"{address_text} is not a node's address: the receiver's is needed")
        )
    return str(address)


def _parse_port(line: _Line, port_text: str, errors: List[ConfigurationError]) -> int:
    """Return the UDP port. Source: OpenHA takes decimal, 0x.. and 0.. numbers, and service names."""
    port = 0
    if _PORT_NUMBER.fullmatch(port_text):
        base = 16 if port_text.lower().startswith("0x") else 8 if port_text.startswith("0") else 10
        try:
            port = int(port_text, base)
        except ValueError:
            port = 0
    else:
        try:
            port = socket.getservbyname(port_text, "udp")
        except (OSError, UnicodeError):
            port = 0
    if not 1 <= port <= 65535:
        errors.append(
            line.error(
                "port",
                f"{port_text!r} is not a port: 1 to 65535, or the name of a udp service in /etc/services",
            )
        )
    return port


def _silent_nodes(path: str, links: Sequence[Link], nodes: Sequence[str]) -> List[ConfigurationError]:
    if len(nodes) < 2:
        return []
    if not links:
        return [ConfigurationError(path, 0, "", "has no link: every node needs at least one line of its own")]
    senders = {link.node for link in links}
    return [
        ConfigurationError(path, 0, "node", f"{node} has no line of its own: nobody would ever hear it")
        for node in nodes
        if node not in senders
    ]


def _clashes(path: str, links: Sequence[Link]) -> List[ConfigurationError]:
    """Return an error for each line that collides with one before it."""
    errors = []
    for index, link in enumerate(links):
        for before in links[:index]:
            if link.device != before.device or link.type.is_disk != before.type.is_disk:
                continue
            if link.type.is_disk and slots_overlap(link, before):
                errors.append(overlap_error(path, link, before))
            elif not link.type.is_disk and (link.address, link.port) == (before.address, before.port):
                errors.append(
                    ConfigurationError(
                        path,
                        link.line,
                        "port",
                        f"interface {link.device}, address {link.address} and port {link.port} "
                        f"are already taken by line {before.line}: each line needs its own",
                    )
                )
    return errors


def overlap_error(path: str, link: Link, before: Link, blocks: int = SLOT_BLOCKS) -> ConfigurationError:
    """Return the error of a slot that overlaps the slot of an earlier line.

    Args:
        path: the monitor file's path.
        link: the line with the error.
        before: the earlier line.
        blocks: how many the first slot of the two takes.
    """
    same = f" ({before.device} is the same device)" if link.device != before.device else ""
    return ConfigurationError(
        path,
        link.line,
        "offset",
        f"{link.address} overlaps the slot of line {before.line} at {before.address}{same}: a slot takes "
        f"{blocks} blocks of {BLOCK_BYTES} bytes, so offsets are at least {blocks} apart",
    )
