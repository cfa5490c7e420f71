"""The switch between the lab's machines: one bridge for each cable name, in a namespace of its own.

Nothing of it is in the machine's own network. A cable is a pair of virtual interfaces; its
end in the switch goes down when it is cut, so that the node sees its carrier go. A cut
cable stays cut while its node is off and on again.
"""

from __future__ import annotations

import subprocess
from typing import Set, Tuple

from machine import LabError, Machine

ALREADY_GONE = ("Cannot find device", "No such device")
"""What `ip` says of an interface that the kernel removed before it, or meanwhile."""


def run_ip(network_of: Machine, batch: str) -> None:
    """Run a batch of `ip` commands of this machine in the network of one of the lab."""
    argv = ["nsenter", f"--net=/proc/{network_of.pid}/ns/net", "ip", "-batch", "-"]
    done = subprocess.run(argv, input=batch, text=True, capture_output=True, timeout=30, check=False)
    if done.returncode != 0:
        raise LabError(f"ip on {network_of.name}: {done.stderr.strip()}\n{batch}")


class Switch:
    """The bridges, and the cables to the machines.

    Args:
        cables: names of the interfaces that every node has; the address of node number N
            on the first one is 10.101.0.N/24, on the second 10.102.0.N/24.
    """

    def __init__(self, machine: Machine, cables: Tuple[str, ...] = ("eth1", "eth2")) -> None:
        self.machine = machine
        self.cables = cables
        self._cut: Set[Tuple[int, str]] = set()

    def boot(self) -> None:
        """Turn the switch on; multicast is flooded, as a switch without a querier does."""
        self.machine.boot()
        lines = [
            f"link add br-{cable} type bridge mcast_snooping 0\nlink set br-{cable} up"
            for cable in self.cables
        ]
        run_ip(self.machine, "\n".join(lines))

    def address(self, number: int, cable: str) -> str:
        """Return the address of a node on a cable."""
        return f"10.{101 + self.cables.index(cable)}.0.{number}"

    def plug(self, node: Machine, number: int) -> None:
        """Connect a node that has just booted, cut cables included."""
        for cable in self.cables:
            end = self._end(node, number, cable)
            lines = [
                f"link add {end} type veth peer name {cable} address {self._station(number, cable)} "
                f"netns {node.pid}",
                f"link set {end} master br-{cable}",
                f"link set {end} {'down' if (number, cable) in self._cut else 'up'}",
            ]
            run_ip(self.machine, "\n".join(lines))
        lines = ["link set lo up"]
        for cable in self.cables:
            lines += [f"addr add {self.address(number, cable)}/24 dev {cable}", f"link set {cable} up"]
        run_ip(node, "\n".join(lines))

    def unplug(self, node: Machine, number: int) -> None:
        """Take the cables of a node that is off out: the kernel ends its network in its own time."""
        for cable in self.cables:
            end = self._end(node, number, cable)
            batch = f"link del {end}\n"
            argv = ["nsenter", f"--net=/proc/{self.machine.pid}/ns/net", "ip", "-force", "-batch", "-"]
            done = subprocess.run(argv, input=batch, text=True, capture_output=True, timeout=30, check=False)
            gone = any(text in done.stderr for text in ALREADY_GONE)
            if done.returncode != 0 and not gone:
                raise LabError(f"{end} on the switch: {done.stderr.strip()}")

    def cut(self, node: Machine, number: int, cable: str) -> None:
        """Pull one cable out."""
        self._cut.add((number, cable))
        if node.is_on:
            run_ip(self.machine, f"link set {self._end(node, number, cable)} down")

    def heal(self, node: Machine, number: int, cable: str) -> None:
        """Put one cable back."""
        self._cut.discard((number, cable))
        if node.is_on:
            run_ip(self.machine, f"link set {self._end(node, number, cable)} up")

    def deafen(self, node: Machine, number: int, cable: str, deaf: bool = True) -> None:
        """Let a node send on a cable but hear no multicast or broadcast from it; undone by a reboot, too."""
        flood = "off" if deaf else "on"
        end = self._end(node, number, cable)
        run_ip(self.machine, f"link set {end} type bridge_slave mcast_flood {flood} bcast_flood {flood}")

    def _station(self, number: int, cable: str) -> str:
        """Return the hardware address of a node's interface: as a real one's, the same in every life."""
        return f"02:00:00:00:{self.cables.index(cable) + 1:02x}:{number:02x}"

    def _end(self, node: Machine, number: int, cable: str) -> str:
        """Name of the switch's end: new with each life, as the kernel removes the old one in its own time."""
        return f"{cable}-{number}-{node.lives}"
