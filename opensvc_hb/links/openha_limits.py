"""What the C program's format allows: checked before a daemon starts, as long as it is chosen.

Answers: can the nodes that run the C program live with this monitor file and these services, and
how much of a disk does a slot take? C checks little of this itself: it writes beyond its tables,
crashes, or is silent. Every error says what to change; there is always the other way, not to
choose the protocol.

    services               128, names of at most 63 bytes
    node names             127 bytes (the `nodes` file allows no longer ones)
    addresses              IPv4, which are at most 15 characters
    timeouts               whole seconds, 2 or more
    lines of other nodes   16 on each node
    slots of one device    19 blocks of 512 bytes apart; 29 to carry a native slot, too

Called by the daemon at start and reload, by `hbmgr config check`, and by `link_ends` for the slots.
Source: OpenHA 0.5.0: 129 services, 17 lines and slots 18 blocks apart were tried.
"""

from __future__ import annotations

import ipaddress
from typing import Iterable, List, Sequence, Tuple

from opensvc_hb.core.config import Link, LinkType, Protocol
from opensvc_hb.errors import ConfigurationError
from opensvc_hb.links import openha_structure, slot

TIMEOUT_MIN_S = 2
LISTENERS_MAX = 16
BOTH_SLOT_BLOCKS = openha_structure.SLOT_BLOCKS + slot.SLOT_BLOCKS


def slot_blocks(link: Link, protocol: Protocol, links: Sequence[Link]) -> int:
    """Return how many blocks the slot of a disk link takes."""
    if protocol is Protocol.NATIVE:
        return slot.SLOT_BLOCKS
    if protocol is Protocol.BOTH and has_native_slot(link, links):
        return BOTH_SLOT_BLOCKS
    return openha_structure.SLOT_BLOCKS


def has_native_slot(link: Link, links: Sequence[Link]) -> bool:
    """Tell whether a native slot fits between the structure of a disk link and the next slot.

    The monitor file alone decides, so that both ends of the link come to the same answer.
    """
    start = int(link.address)
    return not any(
        start < int(other.address) < start + BOTH_SLOT_BLOCKS
        for other in links
        if other.type.is_disk and other.device == link.device
    )


def check_links(
    links: Sequence[Link], protocol: Protocol, path: str
) -> Tuple[Tuple[ConfigurationError, ...], Tuple[str, ...]]:
    """Return what of the monitor file the C program cannot do, and what is worth saying.

    Args:
        links: the monitor file.
        protocol: the one in force; NATIVE asks nothing.
        path: the monitor file's path, for the texts.
    """
    if protocol is Protocol.NATIVE:
        return (), ()
    because = f"with protocol = {protocol.value} in hb.conf"
    errors: List[ConfigurationError] = []
    notes: List[str] = []
    for index, link in enumerate(links):
        errors.extend(_timeout(link, path, because))
        if link.type.is_disk:
            errors.extend(_spacing(link, links[:index], path, because))
            notes.extend(_disk_notes(link, links, protocol, path))
        elif ipaddress.ip_address(link.address).version != 4:
            what = f"{link.address} is not an IPv4 address: the C program, {because}, knows no other"
            errors.append(ConfigurationError(path, link.line, "address", what))
    errors.extend(_lines(links, path, because))
    return tuple(errors), tuple(notes)


def check_services(names: Iterable[str], protocol: Protocol, path: str) -> Tuple[ConfigurationError, ...]:
    """Return what of the services of this node does not fit into the C program's structure.

    Args:
        names: hb names, in file order.
        protocol: the one in force; NATIVE asks nothing.
        path: of hb.conf, which chose the protocol.
    """
    if protocol is Protocol.NATIVE:
        return ()
    known = list(names)
    where = "hb.protocol"
    remedy = "or set protocol = native once no node runs the C program"
    errors = []
    if len(known) > openha_structure.SERVICES_MAX:
        what = (
            f"{protocol.value} carries {openha_structure.SERVICES_MAX} services, this node has "
            f"{len(known)}: have fewer of them, {remedy}"
        )
        errors.append(ConfigurationError(path, 0, where, what))
    for name in known:
        length = len(name.encode())
        if length > openha_structure.SERVICE_NAME_MAX_BYTES:
            what = (
                f"{protocol.value} carries service names of {openha_structure.SERVICE_NAME_MAX_BYTES} bytes, "
                f"{name} has {length}: give it a shorter one, {remedy}"
            )
            errors.append(ConfigurationError(path, 0, where, what))
    return tuple(errors)


def _timeout(link: Link, path: str, because: str) -> List[ConfigurationError]:
    if link.timeout_s >= TIMEOUT_MIN_S and link.timeout_s == int(link.timeout_s):
        return []
    what = (
        f"{link.timeout_s:g} is not allowed {because}: "
        f"the C program counts whole seconds, {TIMEOUT_MIN_S} or more"
    )
    return [ConfigurationError(path, link.line, "timeout", what)]


def _spacing(link: Link, before: Sequence[Link], path: str, because: str) -> List[ConfigurationError]:
    """Return an error for each earlier slot that is too near for a structure, and not for a native slot."""
    errors = []
    for other in before:
        if not other.type.is_disk or other.device != link.device:
            continue
        apart = abs(int(link.address) - int(other.address))
        # Nearer ones overlap in every format: the reading of the file has said so.
        if slot.SLOT_BLOCKS <= apart < openha_structure.SLOT_BLOCKS:
            what = (
                f"{link.address} overlaps the slot of line {other.line} at {other.address}: {because} a slot "
                f"takes {openha_structure.SLOT_BLOCKS} blocks of {slot.BLOCK_BYTES} bytes, so offsets are at "
                f"least {openha_structure.SLOT_BLOCKS} apart (and {BOTH_SLOT_BLOCKS} for both formats)"
            )
            errors.append(ConfigurationError(path, link.line, "offset", what))
    return errors


def _disk_notes(link: Link, links: Sequence[Link], protocol: Protocol, path: str) -> List[str]:
    notes = []
    if protocol is Protocol.BOTH and not has_native_slot(link, links):
        notes.append(
            f"{path}:{link.line}: offset: the next slot is less than {BOTH_SLOT_BLOCKS} blocks away, so that "
            "this link carries the C program's structure only: native nodes hear each other on other links"
        )
    if link.type is LinkType.DISK:
        notes.append(
            f"{path}:{link.line}: type: the C program's disk links go through each node's own page cache: "
            "between two machines use dio"
        )
    return notes


def _lines(links: Sequence[Link], path: str, because: str) -> List[ConfigurationError]:
    """Return an error for each node that would listen on more lines than the C program can."""
    errors = []
    for node in sorted({link.node for link in links}):
        others = [link for link in links if link.node != node]
        if len(others) > LISTENERS_MAX:
            what = (
                f"{node} would listen on {len(others)} lines: {because} "
                f"a node has at most {LISTENERS_MAX} lines of others, beyond which the C program crashes"
            )
            errors.append(ConfigurationError(path, others[LISTENERS_MAX].line, "node", what))
    return errors
