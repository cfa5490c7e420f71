"""A shared SCSI disk in memory with a volume group, and what LVM and sg_persist say of it on each node.

Tools answer in the shapes of the recordings in tests/data; a command is one step, and nothing is
done between two steps. A node without power does nothing, and comes back with nothing active.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Set, Tuple

from driver_loader import context, converted, driver

from opensvc_hb.agent.resource import CommandResult

DATA = Path(__file__).resolve().parents[1] / "data"
Answer = Tuple[int, str, str]


def recording(name: str) -> Dict[str, Answer]:
    """Read tests/data/lvm/NAME.txt: (exit status, stdout, stderr) by command line."""
    found = {}
    for block in re.split(r"^\$ ", (DATA / "lvm" / f"{name}.txt").read_text(), flags=re.MULTILINE)[1:]:
        match = re.fullmatch(r"(.*)\n--- stdout\n(.*?)--- stderr\n(.*?)\[(\d+)\]\n", block, re.DOTALL)
        assert match, block
        command, stdout, stderr, status = match.groups()
        found[command] = (int(status), stdout, stderr)
    return found


class SharedDisk:
    """One disk, its reservation, and the volume group vg1 with one volume.

    Args:
        folder: an empty directory, for a sysfs that shows the disk as sda.
    """

    def __init__(self, folder: Path) -> None:
        self.keys: List[int] = []
        self.holder: Optional[int] = None
        self.generation = 1
        self.tags: List[str] = []
        self.attention: Set[str] = set()
        self.nodes: Dict[str, Node] = {}
        self.sys = folder / "sys"
        self.folder = folder
        disk = self.sys / "devices/sda"
        (disk / "holders").mkdir(parents=True)
        (disk / "slaves").mkdir()
        (disk / "device").mkdir()
        (self.sys / "bus/scsi").mkdir(parents=True)
        (disk / "device/subsystem").symlink_to(self.sys / "bus/scsi")
        (self.sys / "class/block").mkdir(parents=True)
        (self.sys / "class/block/sda").symlink_to(disk)
        (self.sys / "block").mkdir()
        tools = folder / "tools"
        tools.mkdir()
        (tools / "sg_persist").write_text("#!/bin/sh\n")
        (tools / "sg_persist").chmod(0o755)
        self.tools = str(tools)


class Node:
    """One node that reaches the disk, with the two resources of a service.

    Args:
        gate: called before each command with its words; lets a test order the steps of two nodes.
        reserve: whether the group has a reservation.
    """

    def __init__(
        self,
        disk: SharedDisk,
        name: str,
        reserve: bool = True,
        gate: Callable[[Sequence[str]], None] = lambda _argv: None,
    ) -> None:
        self.disk = disk
        self.name = name
        self.reserve = reserve
        self.gate = gate
        self.active = False
        self.in_use = False
        self.said: List[Tuple[str, str]] = []
        self.ran: List[str] = []
        disk.nodes[name] = self

    def resources(self, cluster: bool = False, force: bool = False) -> list:
        """Return the resources in the order of a start, made anew as for each action."""
        made: list = []
        lent = context(
            self.disk.folder,
            self,
            node=self.name,
            cluster=cluster,
            force=force,
            service_resources=lambda: tuple(made),
        )
        kind = driver("disk.vg")
        group = kind("vg#1", converted(kind, vgname="vg1"), lent)
        if self.reserve:
            made.append(
                driver("disk.scsireserv")("vg#1pr", {"protects": group, "no_preempt_abort": False}, lent)
            )
            made[0].is_in_use = lambda _device: self.in_use
        made.append(group)
        for resource in made:
            resource.sys_path = self.disk.sys
            resource.tools_path = self.disk.tools
            resource.retry_s = 0.0
        return made

    @property
    def key(self) -> int:
        """Its key: the one that the driver makes of the node's name."""
        return self.resources()[0].key

    @property
    def may_write(self) -> bool:
        """What the disk lets this node do."""
        return self.disk.holder is None or self._key in self.disk.keys

    def log(self, level: str) -> Callable[[str], None]:
        """Keep the log lines."""
        return lambda text: self.said.append((level, text))

    def texts(self, level: str) -> List[str]:
        """The log lines of a level."""
        return [text for of, text in self.said if of == level]

    def power_cut(self) -> None:
        """Lose all that is in memory."""
        self.active = self.in_use = False

    @property
    def _key(self) -> int:
        from driver_loader import module

        return module("disk._reservations").key_of_node(self.name)

    def run(self, argv: Sequence[str], timeout_s: float) -> CommandResult:
        """Do one command, as one step."""
        assert timeout_s > 0
        words = [str(word) for word in argv]
        self.gate(words)
        self.ran.append(" ".join(words))
        status, stdout, stderr = getattr(self, f"_{words[0]}")(words)
        return CommandResult(tuple(words), status, stdout, stderr)

    def _vgs(self, _words: List[str]) -> Answer:
        row = {
            "vg_name": "vg1",
            "vg_exported": "",
            "vg_autoactivation": "",
            "vg_missing_pv_count": "0",
            "vg_tags": ",".join(sorted(self.disk.tags)),
        }
        return 0, json.dumps({"report": [{"vg": [row]}]}), ""

    def _lvs(self, _words: List[str]) -> Answer:
        row = {
            "lv_name": "lv1",
            "lv_path": "/dev/vg1/lv1",
            "lv_active": "active" if self.active else "",
            "lv_attr": "-wi-a-----" if self.active else "-wi-------",
        }
        return 0, json.dumps({"report": [{"lv": [row]}]}), ""

    def _pvs(self, _words: List[str]) -> Answer:
        return 0, json.dumps({"report": [{"pv": [{"pv_name": "/dev/sda"}]}]}), ""

    def _lvmconfig(self, _words: List[str]) -> Answer:
        return 0, "global {\n\tevent_activation=1\n}\n", ""

    def _vgchange(self, words: List[str]) -> Answer:
        if words[1] == "-a":
            if words[2] == "n" and self.in_use:
                return 5, "", "  Logical volume vg1/lv1 contains a filesystem in use.\n"
            self.active = words[2] == "y"
            return 0, f'  {int(self.active)} logical volume(s) in volume group "vg1" now active\n', ""
        if not self.may_write:
            return 5, "", "  Error writing device /dev/sda at 28672 length 1536.\n  Failed to write VG vg1.\n"
        for option, tag in zip(words[1:-1:2], words[2:-1:2]):
            name = tag[1:]
            if option == "--addtag" and name not in self.disk.tags:
                self.disk.tags.append(name)
            elif option == "--deltag" and name in self.disk.tags:
                self.disk.tags.remove(name)
        return 0, '  Volume group "vg1" successfully changed\n', ""

    def _sg_persist(self, words: List[str]) -> Answer:
        disk = self.disk
        if self.name in disk.attention:
            disk.attention.discard(self.name)
            return 6, "", "PR in (Read keys): Unit attention\nsg_persist failed: Unit attention\n"
        given = dict(re.findall(r"--param-(rk|sark)=(\S+)", " ".join(words)))
        generation = f"  PR generation=0x{disk.generation:x}"
        mine, other = int(given.get("rk", "0"), 16), int(given.get("sark", "0"), 16)
        if "--read-keys" in words:
            lines = "".join(f"    0x{key:x}\n" for key in disk.keys)
            return (
                0,
                f"{generation}, {len(disk.keys)} registered reservation keys follow:\n{lines}",
                "",
            )
        if "--read-reservation" in words:
            if disk.holder is None:
                return 0, f"{generation}, there is NO reservation held\n", ""
            text = (
                f"    Key=0x{disk.holder:x}\n    scope: LU_SCOPE,  type: Write Exclusive, registrants only\n"
            )
            return 0, f"{generation}, Reservation follows:\n{text}", ""
        conflict = (24, "", "PR out: Reservation conflict\nsg_persist failed: Reservation conflict\n")
        if "--register-ignore" in words:
            disk.keys = [key for key in disk.keys if key != self._key] + [other]
            disk.generation += 1
            return 0, "", ""
        if self._key not in disk.keys or mine != self._key:
            return conflict
        if "--register" in words:
            disk.keys.remove(self._key)
            disk.generation += 1
            disk.holder = None if disk.holder == self._key else disk.holder
        elif "--reserve" in words:
            if disk.holder not in (None, self._key):
                return conflict
            disk.holder = self._key
        elif "--release" in words:
            disk.holder = None if disk.holder == self._key else disk.holder
        elif "--preempt-abort" in words:
            if other not in disk.keys:
                return conflict
            disk.keys = [key for key in disk.keys if key != other]
            disk.generation += 1
            if disk.holder == other:
                disk.holder = self._key
            disk.attention |= {name for name, node in disk.nodes.items() if node._key == other}
        else:
            raise AssertionError(words)
        return 0, "", ""


def start(node: Node, cluster: bool = False, force: bool = False) -> None:
    """Start as the agent does: in order, undone in reverse where one fails; raises ActionError."""
    from opensvc_hb.agent.resource import ActionError

    begun = []
    try:
        for resource in node.resources(cluster, force):
            resource.start()
            if resource.activated:
                begun.append(resource)
    except ActionError:
        for resource in reversed(begun):
            resource.stop()
        raise


def stop(node: Node) -> None:
    """Stop as the agent does: in reverse; raises ActionError."""
    for resource in reversed(node.resources()):
        resource.stop()
