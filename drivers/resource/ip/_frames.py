"""The packets that ask whether an address is in use, and that announce it: bytes in, bytes out.

Pure: no socket here. What cannot be parsed is None, whatever the bytes.

Source: RFC 826 (ARP), RFC 5227 (probe and announcement), RFC 792 and 4443 (echo),
RFC 4861 sections 4.3 and 4.4 (neighbour solicitation and advertisement), RFC 4291 section 2.7.1.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Optional, Tuple, Union

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

BROADCAST = b"\xff" * 6
ETHERTYPE_ARP = 0x0806
REQUEST = 1
REPLY = 2
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ETHERNET_BYTES = 14
_SOLICITATION, _ADVERTISEMENT = 135, 136
_NEIGHBOUR = struct.Struct("!BBHI16s")
_OPTION_OWN_MAC, _OPTION_TARGET_MAC = 1, 2


@dataclass(frozen=True)
class Arp:
    """What an ARP packet says.

    Args:
        sender_mac: hardware address of who says it.
        sender: the address that it says is its own; 0.0.0.0 in a probe.
        target: the address asked for or answered to.
    """

    sender_mac: bytes
    sender: ipaddress.IPv4Address
    target: ipaddress.IPv4Address


def arp_probe(mac: bytes, address: ipaddress.IPv4Address) -> bytes:
    """Return the broadcast frame "who has ADDRESS?" that claims nothing: its sender is 0.0.0.0."""
    return _arp_frame(mac, REQUEST, bytes(4), bytes(6), address.packed)


def arp_announcements(mac: bytes, address: ipaddress.IPv4Address) -> Tuple[bytes, bytes]:
    """Return the broadcast frames "ADDRESS is at MAC", as request and as reply.

    Both, because some hosts renew what they know from one form only.
    """
    packed = address.packed
    return (
        _arp_frame(mac, REQUEST, packed, bytes(6), packed),
        _arp_frame(mac, REPLY, packed, BROADCAST, packed),
    )


def parse_arp(frame: bytes) -> Optional[Arp]:
    """Return what an Ethernet frame says as ARP for IPv4; None when it is something else."""
    if len(frame) < _ETHERNET_BYTES + _ARP.size or frame[12:14] != ETHERTYPE_ARP.to_bytes(2, "big"):
        return None
    fields = _ARP.unpack_from(frame, _ETHERNET_BYTES)
    if fields[:4] != (1, 0x0800, 6, 4):
        return None
    return Arp(fields[5], ipaddress.IPv4Address(fields[6]), ipaddress.IPv4Address(fields[8]))


def echo_request(version: int, token: bytes) -> bytes:
    """Return an ICMP echo request carrying `token`; the kernel adds ICMPv6's checksum itself."""
    if version == 6:
        return struct.pack("!BBHHH", 128, 0, 0, 0, 1) + token
    without_sum = struct.pack("!BBHHH", 8, 0, 0, 0, 1) + token
    return without_sum[:2] + struct.pack("!H", _checksum(without_sum)) + without_sum[4:]


def is_echo_reply(version: int, packet: bytes, token: bytes) -> bool:
    """Tell whether what a raw socket received answers `echo_request(version, token)`.

    A raw IPv4 socket gives the IP header too, an IPv6 one does not.
    """
    if version == 6:
        return packet[:2] == b"\x81\x00" and packet[8:] == token
    header_bytes = (packet[0] & 0x0F) * 4 if packet else 0
    message = packet[header_bytes:]
    return message[:2] == b"\x00\x00" and message[8:] == token


def neighbour_solicitation(mac: bytes, address: ipaddress.IPv6Address) -> bytes:
    """Return the ICMPv6 message "who has ADDRESS?"; the kernel adds its checksum."""
    return _NEIGHBOUR.pack(_SOLICITATION, 0, 0, 0, address.packed) + _mac_option(_OPTION_OWN_MAC, mac)


def solicited_group(address: ipaddress.IPv6Address) -> str:
    """Return the multicast group that every host with this address is in."""
    return str(ipaddress.IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + address.packed[-3:]))


def neighbour_advertisement(mac: bytes, address: ipaddress.IPv6Address) -> bytes:
    """Return the unsolicited ICMPv6 message "ADDRESS is at MAC", overriding what hosts know."""
    override = 0x20000000
    message = _NEIGHBOUR.pack(_ADVERTISEMENT, 0, 0, override, address.packed)
    return message + _mac_option(_OPTION_TARGET_MAC, mac)


def advertised_mac(packet: bytes, address: ipaddress.IPv6Address) -> Optional[bytes]:
    """Return the hardware address in an ICMPv6 message "ADDRESS is at MAC"; None when it is another one."""
    mac_at = _NEIGHBOUR.size + 2
    if len(packet) < mac_at + 6:
        return None
    kind, code, _, _, packed = _NEIGHBOUR.unpack_from(packet)
    option = packet[_NEIGHBOUR.size : mac_at]
    if (kind, code, packed, option) != (_ADVERTISEMENT, 0, address.packed, bytes((_OPTION_TARGET_MAC, 1))):
        return None
    return packet[mac_at : mac_at + 6]


def _mac_option(number: int, mac: bytes) -> bytes:
    return struct.pack("!BB6s", number, 1, mac)


def mac_text(mac: bytes) -> str:
    """Return a hardware address as people write it."""
    return ":".join(f"{byte:02x}" for byte in mac)


def _arp_frame(mac: bytes, operation: int, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    head = BROADCAST + mac + ETHERTYPE_ARP.to_bytes(2, "big")
    return head + _ARP.pack(1, 0x0800, 6, 4, operation, mac, sender, target_mac, target)


def _checksum(data: bytes) -> int:
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
