"""An address that moves with the service: `[ip#N]`.

Up when the address is on any interface of this node. A start refuses an address that
another host answers for, and then tells the neighbours that it is here. Both nodes having
the address is what this driver is written to prevent; it never takes one that answers.
"""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path
from typing import Any, ClassVar, List, Mapping, Optional, Tuple

from opensvc_hb.agent.resource import (
    ActionError,
    Holding,
    HoldingKind,
    Keyword,
    Resource,
    ResourceContext,
    Status,
)

from ._frames import Address, mac_text
from ._network import Interface, InterfaceAddress, KernelNetwork, Snapshot, subnet_of

RESOLVE_TIMEOUT_S = 5.0
PROBE_VALID_S = 10.0
"""A start that follows the veto's probe within this time does not probe again."""


def name_or_address(text: str) -> str:
    """Convert a host name or an address: one word that no tool takes for an option."""
    if not text or text.startswith("-") or len(text.split()) != 1:
        raise ValueError(f"'{text}' is neither a host name nor an address")
    return text


def prefix_length(text: str) -> int:
    """Return the length of a netmask written as `24`, `255.255.255.0` or `ffffff00`.

    Raises:
        ValueError: it is none of these.
    """
    word = text.strip().lower()
    if word.isdigit() and int(word) <= 128:
        return int(word)
    hexadecimal = word[2:] if word.startswith("0x") else word
    if len(hexadecimal) == 8 and all(digit in "0123456789abcdef" for digit in hexadecimal):
        word = str(ipaddress.IPv4Address(int(hexadecimal, 16)))
    try:
        network = ipaddress.IPv4Network(f"0.0.0.0/{word}")
    except ValueError:
        raise ValueError(f"'{text}' is not a netmask (such as 24 or 255.255.255.0)") from None
    if str(network.netmask) != word:
        raise ValueError(f"'{text}' is not a netmask (such as 24 or 255.255.255.0)")
    return network.prefixlen


def netmask(text: str) -> str:
    """Validate a netmask and keep it as written: scripts see it in OPENSVC_MASK."""
    prefix_length(text)
    return text.strip()


class IpHost(Resource):
    """An address of the service on an interface of the node."""

    group = "ip"
    type_name = "ip"
    sections = ("ip",)
    keywords = (
        Keyword(
            "ipname",
            "The address, or a name that resolves to it.",
            convert=name_or_address,
            required=True,
            scopable=True,
        ),
        Keyword(
            "ipdev",
            "The interface that gets the address.",
            convert=name_or_address,
            required=True,
            scopable=True,
        ),
        Keyword(
            "netmask",
            "Netmask, dotted or as a number of bits; by default that of the interface's own addresses.",
            convert=netmask,
            scopable=True,
        ),
        Keyword(
            "gateway",
            "Default route of a guest; an address of the node itself does not use it.",
            scopable=True,
        ),
    )

    hosts_path: ClassVar[Path] = Path("/etc/hosts")

    def __init__(self, rid: str, options: Mapping[str, Any], context: ResourceContext) -> None:
        super().__init__(rid, options, context)
        self.network = self.open_network()
        self._resolved: Optional[Address] = None
        self._probed_at: Optional[float] = None

    def open_network(self) -> KernelNetwork:
        """Return this node's network; opens nothing yet."""
        return KernelNetwork()

    @property
    def label(self) -> str:
        """`ipname@ipdev`, as written."""
        return f"{self.options['ipname']}@{self.options['ipdev']}"

    def status(self) -> Status:
        """Up when the address is on any interface, as with the agents."""
        address = self._address()
        if address is None:
            self.say(self._unresolved)
            return Status.WARN
        return Status.UP if self.network.read().holding(address) else Status.DOWN

    def holds(self) -> Tuple[Holding, ...]:
        """The address; of a name, those that /etc/hosts has: no name server is asked here."""
        name = str(self.options["ipname"])
        literal = _parsed(name)
        found = [literal] if literal is not None else hosts_of(name, self.hosts_path)
        return tuple(Holding(HoldingKind.ADDRESS, str(address)) for address in found)

    def may_start(self) -> Optional[str]:
        """Veto a start while another host answers for the address."""
        address = self._address()
        if address is None:
            return None  # the start itself says so
        self.context.info(f"checking {address} availability")
        network = self.network.read()
        interface = network.interface(self._ipdev)
        if network.holding(address) or interface is None or not interface.is_up:
            return None
        return self._conflict(interface, address)

    def start(self) -> None:
        """Add the address, unless another host has it, and announce it."""
        self.activated = False
        address = self._required_address()
        network = self.network.read()
        held = network.holding(address)
        if held:
            self.context.info(f"{address} is already up on {held[0].interface}")
            return
        interface = network.interface(self._ipdev)
        if interface is None:
            raise ActionError(f"interface {self._ipdev} not found. Cannot stack over it.")
        if not interface.is_up:
            raise ActionError(f"interface {self._ipdev} is not set up. Cannot stack over it.")
        conflict = None if self._was_just_probed() else self._conflict(interface, address)
        if conflict is not None:
            raise ActionError(conflict)
        bits = self._prefix_length(network, interface, address)
        self.context.info(f"ip addr add {address}/{bits} dev {interface.name}")
        self.network.add(interface, address, bits)
        self.activated = True
        self._announce_on(interface, address)

    def stop(self) -> None:
        """Delete the address, wherever on this node it is."""
        self._probed_at = None
        address = self._required_address()
        network = self.network.read()
        held = network.holding(address)
        if not held:
            self.context.info(f"{address} is already down on {self._ipdev}")
            return
        for place in held:
            self._delete(network, place)
        left = self.network.read().holding(address)
        if left:
            raise ActionError(f"{address} refuse to go down on {left[0].interface}")

    def announce(self) -> None:
        """Announce the address again, where this node has it."""
        address = self._address()
        if address is None:
            self.context.warning(self._unresolved)
            return
        network = self.network.read()
        for place in network.holding(address):
            interface = network.interface(place.interface)
            if interface is not None:
                self._announce_on(interface, address)

    def script_environment(self) -> Mapping[str, str]:
        """Variables as the agents name them; `None` stands for what is not known."""
        name, device = str(self.options["ipname"]), self._ipdev
        address, mask = str(self._address()), str(self.options.get("netmask"))
        number = self.rid.partition("#")[2]
        return {
            "OPENSVC_IPDEV": device,
            "OPENSVC_IPNAME": name,
            "OPENSVC_MASK": mask,
            "OPENSVC_IPADDR": address,
            f"OPENSVC_IP{number}": f"{name} {device} {address} {mask}",
        }

    @property
    def _ipdev(self) -> str:
        return str(self.options["ipdev"])

    @property
    def _unresolved(self) -> str:
        return f"could not resolve {self.options['ipname']} to an ip address"

    def _required_address(self) -> Address:
        address = self._address()
        if address is None:
            raise ActionError(self._unresolved)
        return address

    def _address(self) -> Optional[Address]:
        """Resolve `ipname`, within a bounded time; a success is kept for this action."""
        if self._resolved is None:
            self._resolved = self._resolve(str(self.options["ipname"]))
        return self._resolved

    def _resolve(self, name: str) -> Optional[Address]:
        try:
            return ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            pass  # a name, then
        # A process can be ended when the resolver hangs, a library call in this thread cannot.
        # IPv4 before IPv6: the agents know IPv4 names only.
        for database in ("ahostsv4", "ahostsv6"):
            try:
                result = self.context.run(["getent", database, name], RESOLVE_TIMEOUT_S)
            except ActionError:
                return None
            for line in result.stdout.splitlines():
                address = _parsed(line)
                if address is not None:
                    return address
        return None

    def _was_just_probed(self) -> bool:
        return self._probed_at is not None and _now() - self._probed_at < PROBE_VALID_S

    def _conflict(self, interface: Interface, address: Address) -> Optional[str]:
        """Ask the network; return the reason against a start, None when nobody answers."""
        host = self.network.other_host(interface, address)
        if host is None:
            self._probed_at = _now()
            return None
        self.context.info(f"{address} is answered for by {host}")
        return f"{address} is already up on another host"

    def _prefix_length(self, network: Snapshot, interface: Interface, address: Address) -> int:
        """Return the length of the netmask: the configured one, else the interface's.

        Of several the one whose subnet has the address, else the first (as the agents do).
        The loopback interface, whose netmask would claim a whole subnet for this node, and
        an interface without addresses give that of the address alone.
        """
        if self.options.get("netmask") is not None:
            bits = prefix_length(str(self.options["netmask"]))
            if bits > address.max_prefixlen:
                raise ActionError(f"netmask {self.options['netmask']} is too long for {address}")
            return bits
        beside = [
            held
            for held in network.addresses
            if held.interface == interface.name and held.address.version == address.version
        ]
        if interface.is_loopback or not beside:
            return address.max_prefixlen
        around = [held for held in beside if address in subnet_of(held)]
        return (around or beside)[0].prefix_length

    def _announce_on(self, interface: Interface, address: Address) -> None:
        if interface.is_loopback or not interface.has_arp:
            return
        try:
            self.network.announce(interface, address)
        except OSError as error:
            self.context.warning(f"{address} is not announced on {interface.name}: {error.strerror}")
            return
        self.context.info(f"announced {address} at {mac_text(interface.mac)} on {interface.name}")

    def _delete(self, network: Snapshot, place: InterfaceAddress) -> None:
        interface = network.interface(place.interface)
        if interface is None:
            return  # it vanished, and the address with it
        if _others_go_with(network, place):
            self.context.info(f"sysctl net.ipv4.conf.{interface.name}.promote_secondaries=1")
            self.network.promote_secondaries(interface)
        self.context.info(f"ip addr del {place.address}/{place.prefix_length} dev {interface.name}")
        self.network.delete(interface, place.address, place.prefix_length)


def hosts_of(name: str, path: Path) -> List[Address]:
    """Return the addresses that a hosts(5) file gives a name, in its order."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    rows = [line.partition("#")[0].split() for line in lines]
    found = [_parsed(row[0]) for row in rows if name.lower() in (word.lower() for word in row[1:])]
    return [address for address in found if address is not None]


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _parsed(line: str) -> Optional[Address]:
    """Return the address that a line of getent begins with; an IPv4 one in IPv6 notation is none."""
    words: List[str] = line.split()
    try:
        address = ipaddress.ip_address(words[0]) if words else None
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return None
    return address


def _others_go_with(network: Snapshot, place: InterfaceAddress) -> bool:
    """Tell whether the kernel would delete other addresses with this one: those of its subnet behind it."""
    if place.address.version != 4 or place.is_secondary:
        return False
    return any(
        held.is_secondary
        and held.interface == place.interface
        and held.prefix_length == place.prefix_length
        and held.address in subnet_of(place)
        for held in network.addresses
    )
