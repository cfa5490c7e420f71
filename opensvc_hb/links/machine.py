"""What the monitor file asks of *this* machine: interfaces, devices, slots.

Answers: can this node send and listen on its links as the file says? Errors refuse a start;
notes are accepted, and said. Looks only: opens devices for reading, reads no block of them
(a dead disk must not hold a daemon's start), changes nothing. What depends on the other nodes
cannot be known here.

Called by the daemon before anything starts, and by `hbmgr config check`. `Machine` is the
seam: tests describe a machine, `this_machine` looks at the real one.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from opensvc_hb.core.config import Link, LinkType, Protocol
from opensvc_hb.errors import ConfigurationError
from opensvc_hb.links.cluster_files import overlap_error
from opensvc_hb.links.disk import PAGE_BYTES
from opensvc_hb.links.openha_limits import slot_blocks
from opensvc_hb.links.slot import BLOCK_BYTES

_BLKSSZGET = 0x1268
"""Logical sector size, from linux/fs.h."""


@dataclass(frozen=True)
class DeviceFacts:
    """What is known of a device or image file.

    Args:
        identity: equal for two paths of one device.
        in_use_by: who else uses the device, in words; "" for nobody.
    """

    identity: str
    is_image: bool
    size_bytes: int
    sector_bytes: int
    in_use_by: str = ""


@dataclass(frozen=True)
class Machine:
    """What a check looks at.

    Args:
        interfaces: IP addresses, without masks and scopes, by interface name.
        device: facts of a path, or one line that says why there are none.
    """

    interfaces: Mapping[str, Tuple[str, ...]]
    device: Callable[[str], Union[DeviceFacts, str]]


def this_machine() -> Machine:
    """Return the machine we run on, its interfaces as they are now."""
    import socket

    import psutil

    interfaces: Dict[str, Tuple[str, ...]] = {}
    for name, entries in psutil.net_if_addrs().items():
        interfaces[name] = tuple(
            entry.address.split("%")[0]
            for entry in entries
            if entry.family in (socket.AF_INET, socket.AF_INET6)
        )
    # psutil leaves out interfaces that have no address of any kind.
    for _, name in socket.if_nameindex():
        interfaces.setdefault(name, ())
    return Machine(interfaces, device_facts)


def check_machine(
    links: Sequence[Link],
    node: str,
    path: str = "monitor",
    machine: Optional[Machine] = None,
    protocol: Protocol = Protocol.NATIVE,
) -> Tuple[Tuple[ConfigurationError, ...], Tuple[str, ...]]:
    """Return what is wrong here, and what is worth saying (`FILE:LINE: column: text`).

    Args:
        links: the monitor file.
        node: this node.
        path: the monitor file's path, for the texts.
        machine: what to look at; None for the real one.
        protocol: decides how long a slot is.
    """
    blocks = {link: slot_blocks(link, protocol, links) for link in links if link.type.is_disk}
    check = _Check(node, path, this_machine() if machine is None else machine, blocks)
    for link in links:
        if link.type.is_disk:
            check.disk(link)
        else:
            check.network(link)
    return tuple(check.errors), tuple(check.notes)


class _Check:
    """One check of one file: collects errors and notes, remembers the slots seen."""

    def __init__(self, node: str, path: str, machine: Machine, blocks: Mapping[Link, int]) -> None:
        self._blocks = blocks
        self._node = node
        self._path = path
        self._machine = machine
        self._slots: List[Tuple[Link, DeviceFacts]] = []
        self.errors: List[ConfigurationError] = []
        self.notes: List[str] = []

    def network(self, link: Link) -> None:
        """Check the interface where this node's end of the link uses it.

        Source: OpenHA's unicast sender leaves the interface to routing; ours does too.
        """
        sends = link.node == self._node
        if sends and link.type is LinkType.UNICAST:
            return
        known = self._machine.interfaces
        if link.device not in known:
            have = ", ".join(sorted(known))
            self._error(link, "interface", f"{link.device!r} does not exist on {self._node} (have {have})")
            return
        version = ipaddress.ip_address(link.address).version
        addresses = [a for a in known[link.device] if ipaddress.ip_address(a).version == version]
        if not addresses:
            self._error(link, "interface", f"{link.device} has no IPv{version} address on {self._node}")
        elif link.type is LinkType.UNICAST and not _hears(link, addresses):
            self._note(
                link,
                "address",
                f"{link.address} is not an address of {link.device} here (it has {', '.join(addresses)}): "
                f"{self._node} will not hear {link.node} on this link",
            )

    def disk(self, link: Link) -> None:
        """Check the device, and that the slot lies within it and beside all others."""
        facts = self._machine.device(link.device)
        if isinstance(facts, str):
            self._error(link, "device", f"{link.device} {facts}")
            return
        if facts.is_image:
            self._note(link, "device", f"{link.device} is an image file")
        if facts.in_use_by:
            self._error(
                link, "device", f"{link.device} is {facts.in_use_by}: a link needs a device of its own"
            )
        slot_bytes = self._blocks[link] * BLOCK_BYTES
        end_bytes = int(link.address) * BLOCK_BYTES + slot_bytes
        if facts.size_bytes == 0:
            # A disk that lost its array must not keep a node with live networks out of the cluster.
            self._note(link, "device", f"{link.device} has no blocks now: the link is DOWN until it has")
        elif end_bytes > facts.size_bytes:
            last = (facts.size_bytes - slot_bytes) // BLOCK_BYTES
            room = f"offsets 0 to {last} fit" if last >= 0 else "not even one slot fits"
            self._error(
                link,
                "offset",
                f"{link.address} lies behind the end of {link.device}: {room}",
            )
        if facts.sector_bytes > BLOCK_BYTES:
            self._error(
                link,
                "device",
                f"{link.device} has logical sectors of {facts.sector_bytes} bytes, of which a slot "
                f"of {slot_bytes} bytes is no multiple: a device with {BLOCK_BYTES}-byte sectors is needed",
            )
        self._beside(link, facts)
        self._slots.append((link, facts))

    def _beside(self, link: Link, facts: DeviceFacts) -> None:
        """Compare the slot with those before it on the same device, however that is called."""
        for before, before_facts in self._slots:
            if before_facts.identity != facts.identity:
                continue
            first, second = sorted((link, before), key=lambda one: int(one.address))
            if int(second.address) - int(first.address) < self._blocks[first]:
                # Under one name, the reading of the file has said so already.
                if link.device != before.device:
                    self.errors.append(overlap_error(self._path, link, before, self._blocks[first]))
            elif LinkType.DISK in (link.type, before.type) and self._share_page(first, second):
                self._note(
                    link,
                    "offset",
                    f"{link.address} shares a page with the slot of line {before.line}, so that buffered "
                    "writes of one may undo the other's for a moment: dio has no such trouble, nor have "
                    f"offsets that are multiples of {2 * PAGE_BYTES // BLOCK_BYTES}",
                )

    def _share_page(self, first: Link, second: Link) -> bool:
        """Tell whether two slots that do not overlap touch one page."""
        last_block = int(first.address) + self._blocks[first] - 1
        return last_block * BLOCK_BYTES // PAGE_BYTES == int(second.address) * BLOCK_BYTES // PAGE_BYTES

    def _error(self, link: Link, where: str, what: str) -> None:
        self.errors.append(ConfigurationError(self._path, link.line, where, what))

    def _note(self, link: Link, where: str, what: str) -> None:
        self.notes.append(f"{self._path}:{link.line}: {where}: {what}")


def device_facts(path: str) -> Union[DeviceFacts, str]:
    """Return the facts of a block device or image file, or why it is none (`does not exist`)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be opened: {os.strerror(error.errno or errno.EIO)}"
    try:
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            identity = f"file {status.st_dev}:{status.st_ino}"
            return DeviceFacts(identity, True, status.st_size, BLOCK_BYTES)
        if not stat.S_ISBLK(status.st_mode):
            return "is neither a block device nor an image file"
        size_bytes = os.lseek(descriptor, 0, os.SEEK_END)
        (sector_bytes,) = struct.unpack("i", fcntl.ioctl(descriptor, _BLKSSZGET, bytes(4)))
        number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        return DeviceFacts(f"block {number}", False, size_bytes, sector_bytes, _in_use_by(number))
    except OSError as error:
        return f"cannot be examined: {os.strerror(error.errno or errno.EIO)}"
    finally:
        os.close(descriptor)


def _in_use_by(number: str) -> str:
    """Tell who holds a block device: a mount of ours, or another device built on it."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        columns = line.split()
        if len(columns) > 4 and columns[2] == number:
            return f"mounted on {columns[4]}"
    try:
        holders = sorted(entry.name for entry in Path(f"/sys/dev/block/{number}/holders").iterdir())
    except OSError:
        # Without sysfs (a bare container) nothing more can be known.
        holders = []
    return f"part of {', '.join(holders)}" if holders else ""


def _hears(link: Link, addresses: Sequence[str]) -> bool:
    """Tell whether the link's address is one of its interface; loopback has all of 127.0.0.0/8."""
    return link.address in addresses or (
        link.device == "lo" and ipaddress.ip_address(link.address).is_loopback
    )
