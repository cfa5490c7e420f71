"""The kernel's interfaces and addresses, and what the network answers: all I/O of the ip driver.

Interfaces and addresses through rtnetlink (`_netlink`); probes and announcements through raw
sockets. `KernelNetwork` is what a unit test replaces.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import select
import socket
import struct
import time
from dataclasses import dataclass
from typing import Optional, Tuple, Union

from opensvc_hb.agent.resource import ActionError

from . import _netlink
from ._frames import (
    ETHERTYPE_ARP,
    Address,
    advertised_mac,
    arp_announcements,
    arp_probe,
    echo_request,
    is_echo_reply,
    mac_text,
    neighbour_advertisement,
    neighbour_solicitation,
    parse_arp,
    solicited_group,
)

PROBE_COUNT = 3
PROBE_INTERVAL_S = 0.2
"""Three probes in 0.6 s, which a takeover waits for; RFC 5227 takes over 5 s, the agents one ping of 5 s."""
LATE_READS_MAX = 256
"""A network full of others' frames does not postpone the end of a probe for ever."""
ANNOUNCE_COUNT = 3
"""Announcements are not acknowledged; one may be lost."""

_INT = struct.Struct("@i")

ON_LINK_HOPS = 255
"""A neighbour's message that a router passed on has fewer left, and counts for nothing (RFC 4861, 7.1.2)."""

IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_NOARP = 0x80
ARPHRD_ETHER = 1
IFA_F_SECONDARY = 0x01
IFA_F_NODAD = 0x02


@dataclass(frozen=True)
class Interface:
    """A network interface.

    Args:
        index: the kernel's number.
        is_up: set up by the administrator; says nothing about its cable.
        has_arp: an Ethernet interface that resolves addresses.
        mac: its hardware address, empty where it has none.
    """

    index: int
    name: str
    is_up: bool
    is_loopback: bool
    has_arp: bool
    mac: bytes


@dataclass(frozen=True)
class InterfaceAddress:
    """An address on an interface; `is_secondary`: it goes away with another one of its subnet."""

    interface: str
    address: Address
    prefix_length: int
    is_secondary: bool


def subnet_of(held: InterfaceAddress) -> Union[ipaddress.IPv4Network, ipaddress.IPv6Network]:
    """Return the subnet that an address on an interface belongs to."""
    return ipaddress.ip_network(f"{held.address}/{held.prefix_length}", strict=False)


@dataclass(frozen=True)
class Snapshot:
    """All interfaces and addresses at one moment, in the kernel's order."""

    interfaces: Tuple[Interface, ...]
    addresses: Tuple[InterfaceAddress, ...]

    def interface(self, name: str) -> Optional[Interface]:
        """Return an interface by name."""
        return next((interface for interface in self.interfaces if interface.name == name), None)

    def holding(self, address: Address) -> Tuple[InterfaceAddress, ...]:
        """Return where this node has an address."""
        return tuple(held for held in self.addresses if held.address == address)


class KernelNetwork:
    """This network namespace."""

    def read(self) -> Snapshot:
        """Read interfaces and addresses."""
        interfaces = tuple(
            Interface(
                index=index,
                name=known.get(_netlink.IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
                is_up=bool(flags & IFF_UP),
                is_loopback=bool(flags & IFF_LOOPBACK),
                has_arp=kind == ARPHRD_ETHER and not flags & IFF_NOARP,
                mac=known.get(_netlink.IFLA_ADDRESS, b""),
            )
            for index, flags, kind, known in _netlink.links()
        )
        names = {interface.index: interface.name for interface in interfaces}
        addresses = tuple(
            InterfaceAddress(
                interface=names.get(index, ""),
                address=ipaddress.ip_address(known.get(_netlink.IFA_LOCAL) or known[_netlink.IFA_ADDRESS]),
                prefix_length=length,
                is_secondary=bool(flags & IFA_F_SECONDARY),
            )
            for family, index, length, flags, known in _netlink.addresses()
            if family in (socket.AF_INET, socket.AF_INET6)
        )
        return Snapshot(interfaces, addresses)

    def add(self, interface: Interface, address: Address, prefix_length: int) -> None:
        """Add an address; one that is there already is no error.

        An IPv6 address is usable at once: our own probe stands for duplicate detection.
        """
        self._change("add", interface, address, prefix_length, errno.EEXIST)

    def delete(self, interface: Interface, address: Address, prefix_length: int) -> None:
        """Delete an address; one that is gone already is no error."""
        self._change("del", interface, address, prefix_length, errno.EADDRNOTAVAIL)

    def promote_secondaries(self, interface: Interface) -> None:
        """Make the kernel keep the other addresses of a subnet when its first one is deleted."""
        setting = f"/proc/sys/net/ipv4/conf/{interface.name}/promote_secondaries"
        try:
            with open(setting, "w") as file:  # noqa: PTH123 - a kernel setting, never created
                file.write("1\n")
        except OSError as error:
            raise ActionError(f"cannot set {setting}: {error.strerror}") from error

    def other_host(self, interface: Interface, address: Address) -> Optional[str]:
        """Ask the network for an address; return who answers, None when nobody does.

        By ping, and by ARP or as a neighbour: hosts may ignore pings, and with IPv6 the kernel asks once
        a second only where the neighbour is that it is to ping, so that one lost packet would be silence.

        Takes PROBE_COUNT * PROBE_INTERVAL_S when nobody does; the first answer ends it. Silence counts
        only when all that had arrived was read, also where this process did not run for a while.
        """
        if interface.is_loopback:
            return None
        token = os.urandom(16)
        with contextlib.ExitStack() as sockets:
            try:
                arp = self._arp_socket(sockets, interface, address)
                ping = self._ping_socket(sockets, address)
            except OSError as error:
                raise ActionError(f"cannot probe on {interface.name}: {error.strerror}") from error
            poll = select.poll()
            for opened in (arp, ping):
                if opened is not None:
                    poll.register(opened, select.POLLIN)
            for _ in range(PROBE_COUNT):
                if arp is not None and address.version == 4:
                    _send(arp, arp_probe(interface.mac, address), (interface.name, ETHERTYPE_ARP))
                if address.version == 6 and interface.has_arp:
                    question = neighbour_solicitation(interface.mac, address)
                    _send(ping, question, (solicited_group(address), 0, 0, interface.index))
                _send(ping, echo_request(address.version, token), _destination(address, interface))
                deadline, late_count = _now() + PROBE_INTERVAL_S, 0
                while late_count < LATE_READS_MAX:
                    left_s = deadline - _now()
                    late_count += left_s <= 0
                    arrived = poll.poll(max(left_s, 0.0) * 1000)
                    for descriptor, _ in arrived:
                        answered = (
                            _arp_answer(arp, interface, address)
                            if arp is not None and descriptor == arp.fileno()
                            else _ping_answer(ping, interface, address, token)
                        )
                        if answered:
                            return answered
                    if left_s <= 0 and not arrived:
                        break
        return None

    def announce(self, interface: Interface, address: Address) -> None:
        """Tell all neighbours that the address is here: gratuitous ARP, or a neighbour advertisement.

        Raises:
            OSError: it could not be sent.
        """
        if interface.is_loopback or not interface.has_arp:
            return
        with contextlib.ExitStack() as sockets:
            if address.version == 4:
                arp = sockets.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
                for _ in range(ANNOUNCE_COUNT):
                    for frame in arp_announcements(interface.mac, address):
                        arp.sendto(frame, (interface.name, ETHERTYPE_ARP))
                return
            sender = sockets.enter_context(
                socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            )
            sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ON_LINK_HOPS)
            sender.bind((str(address), 0, 0, interface.index))
            for _ in range(ANNOUNCE_COUNT):
                all_nodes = ("ff02::1", 0, 0, interface.index)
                sender.sendto(neighbour_advertisement(interface.mac, address), all_nodes)

    @staticmethod
    def _change(verb: str, interface: Interface, address: Address, prefix_length: int, accepted: int) -> None:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:
            if verb == "add":
                flags = IFA_F_NODAD if address.version == 6 else 0
                _netlink.add_address(interface.index, family, address.packed, prefix_length, flags)
            else:
                _netlink.delete_address(interface.index, family, address.packed, prefix_length)
        except OSError as error:
            if error.errno != accepted:
                line = f"ip addr {verb} {address}/{prefix_length} dev {interface.name}"
                raise ActionError(f"{line} failed: {error.strerror}") from error

    @staticmethod
    def _arp_socket(
        sockets: contextlib.ExitStack, interface: Interface, address: Address
    ) -> Optional[socket.socket]:
        if not interface.has_arp or address.version != 4:
            return None
        opened = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETHERTYPE_ARP)
        )
        sockets.enter_context(opened)
        opened.bind((interface.name, ETHERTYPE_ARP))
        return opened

    @staticmethod
    def _ping_socket(sockets: contextlib.ExitStack, address: Address) -> socket.socket:
        family, protocol = (
            (socket.AF_INET, socket.IPPROTO_ICMP)
            if address.version == 4
            else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
        )
        opened = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        sockets.enter_context(opened)
        if address.version == 6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ON_LINK_HOPS)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        return opened


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _destination(address: Address, interface: Interface) -> Tuple[object, ...]:
    if address.version == 4:
        return (str(address), 0)
    return (str(address), 0, 0, interface.index if address.is_link_local else 0)


def _send(sender: socket.socket, data: bytes, destination: Tuple[object, ...]) -> None:
    try:
        sender.sendto(data, destination)
    except OSError:
        return  # no route, or the interface lost its carrier: then nobody can answer


def _received(receiver: socket.socket) -> Tuple[bytes, str, int]:
    """Return a packet, the host that sent it, and the hops that it had left (IPv6; else 0)."""
    try:
        packet, ancillary, _, source = receiver.recvmsg(2048, socket.CMSG_SPACE(_INT.size))
    except OSError:
        return b"", "", 0  # an error of the send before, such as "host unreachable"
    hops = [
        _INT.unpack(data)[0]
        for level, kind, data in ancillary
        if (level, kind, len(data)) == (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, _INT.size)
    ]
    return packet, str(source[0]).partition("%")[0], hops[0] if hops else 0


def _arp_answer(arp: socket.socket, interface: Interface, address: Address) -> str:
    """Return the hardware address of a host that says the address is its own; "" otherwise."""
    heard = parse_arp(_received(arp)[0])
    if heard is None or heard.sender != address or heard.sender_mac == interface.mac:
        return ""
    return mac_text(heard.sender_mac)


def _ping_answer(ping: socket.socket, interface: Interface, address: Address, token: bytes) -> str:
    """Return the hardware address of a neighbour that has it, or "ping" of any host; "" otherwise."""
    packet, host, hops = _received(ping)
    if address.version == 6 and hops == ON_LINK_HOPS:
        mac = advertised_mac(packet, address)
        if mac is not None and mac != interface.mac:
            return mac_text(mac)
    if not is_echo_reply(address.version, packet, token):
        return ""
    return "ping" if host and ipaddress.ip_address(host) == address else ""
