"""SCSI-3 persistent reservations of one disk: read on every path, taken, taken over, given back.

The kind is "write exclusive, registrants only": who is not registered cannot write. A node
registers under its key, and the holder's key tells who may run the service. Two nodes are
registered at the same time only between the registration of a new owner and its preempting
the old one, which it does before it uses the disk.

Commands are `sg_persist`, and `mpathpersist` for what changes a multipath device: it speaks to
all paths. Shared by the disk drivers; not a driver.

Source: SPC-4, persistent reservations; sg_persist(8), mpathpersist(8).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import List, Mapping, Optional, Tuple

from opensvc_hb.agent.resource import ActionError, CommandResult, ResourceContext

from .._commands import attempt
from ._scsi_disks import ScsiDisk

COMMAND_TIMEOUT_S = 10.0
UNIT_ATTENTION = 6
"""Exit status: the disk has something to tell first, such as that a registration was preempted."""
ATTENTION_COUNT = 5
"""A disk tells each such thing once; one that goes on is broken. So often its two answers may disagree."""
OUR_TYPE = "5"
_OUR_TYPE_TEXT = "write exclusive, registrants only"
_KEY_PREFIX = b"oh"


def key_of_node(node: str) -> int:
    """Return the key of a node that has none in node.conf: made of its name, so that its peers know it."""
    return int.from_bytes(_KEY_PREFIX + hashlib.sha256(node.lower().encode()).digest()[:6], "big")


def key_text(key: int) -> str:
    """Return a key as the tools print it."""
    return f"0x{key:x}"


@dataclass(frozen=True)
class PathView:
    """What one path says of its disk.

    Args:
        keys: one for each registered path of each node.
        holder: the key of the reservation; None when there is none.
        is_our_type: whether that is of the kind that we take.
        problem: why the path does not tell; "" when it does.
    """

    path: str
    keys: Tuple[int, ...] = ()
    holder: Optional[int] = None
    is_our_type: bool = False
    problem: str = ""


@dataclass(frozen=True)
class DiskView:
    """What all paths of a disk say; what it tells is taken from the first path that answers."""

    disk: ScsiDisk
    paths: Tuple[PathView, ...]

    @property
    def answering(self) -> Tuple[PathView, ...]:
        """The paths that tell."""
        return tuple(path for path in self.paths if not path.problem)

    @property
    def keys(self) -> Tuple[int, ...]:
        """The registered keys, as the first path tells."""
        return self.answering[0].keys if self.answering else ()

    @property
    def holder(self) -> Optional[int]:
        """The holder's key, as the first path tells."""
        return self.answering[0].holder if self.answering else None

    def is_held_by(self, key: int) -> bool:
        """Tell whether every path that answers, and one at least, shows the reservation as this key's."""
        return bool(self.answering) and all(
            path.holder == key and path.is_our_type and key in path.keys for path in self.answering
        )

    def is_registered(self, key: int) -> bool:
        """Tell whether this key is registered on every path that answers, and on one at least."""
        return 0 < len(self.answering) <= self.keys.count(key)

    def others(self, key: int) -> Tuple[int, ...]:
        """Return every key registered or holding beside this one, each once, the holder first."""
        known = [self.holder] if self.holder is not None else []
        return tuple(dict.fromkeys(other for other in (*known, *self.keys) if other != key))


def parse_keys(text: str) -> Tuple[int, ...]:
    """Return the keys that `sg_persist --in --read-keys` lists."""
    found = (re.fullmatch(r"\s*0x([0-9a-fA-F]{1,16})\s*", line) for line in text.splitlines())
    return tuple(int(match.group(1), 16) for match in found if match)


def parse_generation(text: str) -> Optional[str]:
    """Return the generation that either question is answered with: it changes with every registration."""
    found = re.search(r"\bPR generation\s*=\s*(\w+)", text)
    return found.group(1) if found else None


def parse_reservation(text: str) -> Tuple[Optional[int], bool]:
    """Return the holder's key (None without reservation), and whether it is of our type.

    Source: the output of `sg_persist --in --read-reservation`.
    """
    found = re.search(r"\bKey\s*=\s*0x([0-9a-fA-F]{1,16})\b", text)
    if found is None:
        return None, False
    return int(found.group(1), 16), _OUR_TYPE_TEXT in " ".join(text.lower().split())


class Reservations:
    """The commands on disks, in the name of this node.

    Args:
        context: runs them, and logs those that change something.
        names: nodes by key, to tell whose a key is.
        abort: preempt-abort rather than preempt: what the other node has under way is dropped.
    """

    def __init__(self, context: ResourceContext, key: int, names: Mapping[int, str], abort: bool) -> None:
        self.context = context
        self.key = key
        self.names = names
        self.abort = abort

    def owner(self, key: int) -> str:
        """Return whose a key is, for people: `deb2 (key 0x...)`."""
        return f"{self.names.get(key, 'an unknown node')} (key {key_text(key)})"

    def view(self, disk: ScsiDisk) -> DiskView:
        """Ask every path of a disk; a path that does not tell says why."""
        return DiskView(disk, tuple(self._ask(path) for path in disk.paths))

    def take(self, disk: ScsiDisk, before: DiskView, register: bool) -> None:
        """Register, then reserve, or preempt who holds it or is registered; prove that it is ours alone.

        Without `register` only a registration that stands will do: the disk itself refuses the
        commands that follow once another node has removed it. One that is made anew, while
        something above the disk is in use here, would let through what is stale by then.

        Raises:
            ActionError: it is not ours; our registration is gone again, where that could be done.
        """
        key = key_text(self.key)
        if register:
            self._change(disk, "--register-ignore", f"--param-sark={key}")
        try:
            holder = before.holder
            if holder is None:
                self._change(disk, "--reserve", f"--param-rk={key}", f"--prout-type={OUR_TYPE}")
            for other in before.others(self.key):
                self.context.warning(f"{disk.device} is taken from {self.owner(other)}")
                self._preempt(disk, other)
            self._must_be_ours_alone(self.view(disk))
        except ActionError:
            self._withdraw(disk)
            raise

    def give_back(self, disk: ScsiDisk, before: DiskView) -> None:
        """Release the reservation if it is ours, and remove our registration if there is one.

        Raises:
            ActionError: a command failed.
        """
        try:
            self._remove(disk, before)
        except ActionError:
            after = self.view(disk)
            if not after.answering or self.key in after.keys:
                raise
            self.context.info(f"{disk.device} was taken by another node meanwhile")

    def _remove(self, disk: ScsiDisk, before: DiskView) -> None:
        key = key_text(self.key)
        if before.holder == self.key:
            self._change(disk, "--release", f"--param-rk={key}", f"--prout-type={OUR_TYPE}")
        if self.key in before.keys:
            self._change(disk, "--register", f"--param-rk={key}", "--param-sark=0")

    def _must_be_ours_alone(self, view: DiskView) -> None:
        rivals = view.others(self.key)
        if view.is_held_by(self.key) and not rivals:
            return
        whose = ", ".join(self.owner(other) for other in rivals) or "nobody"
        problems = "".join(f"; {path.problem}" for path in view.paths if path.problem)
        raise ActionError(
            f"{view.disk.device} is not reserved for this node alone: also for {whose}{problems}"
        )

    def _preempt(self, disk: ScsiDisk, other: int) -> None:
        action = "--preempt-abort" if self.abort else "--preempt"
        self._change(
            disk,
            action,
            f"--param-rk={key_text(self.key)}",
            f"--param-sark={key_text(other)}",
            f"--prout-type={OUR_TYPE}",
        )

    def _withdraw(self, disk: ScsiDisk) -> None:
        try:
            self.give_back(disk, self.view(disk))
        except ActionError as error:
            self.context.error(str(error))

    def _change(self, disk: ScsiDisk, action: str, *parameters: str) -> None:
        """Run a command that changes something, again after a Unit Attention."""
        tool = ["mpathpersist"] if disk.is_multipath else ["sg_persist", "--no-inquiry"]
        argv = [*tool, "--out", action, *parameters, disk.device]
        for _ in range(ATTENTION_COUNT):
            result = attempt(self.context, argv, COMMAND_TIMEOUT_S)
            if result.status != UNIT_ATTENTION:
                break
        if result.status != 0:
            hint = "; try no_preempt_abort = true" if action == "--preempt-abort" else ""
            raise ActionError(f"{' '.join(argv)} failed: {_reason(result)}{hint}")

    def _ask(self, path: str) -> PathView:
        for _ in range(ATTENTION_COUNT):
            texts: List[str] = []
            for question in ("--read-keys", "--read-reservation"):
                # read only: a device closed after writing makes udev look at it anew
                argv = ["sg_persist", "--no-inquiry", "--readonly", "--in", question, path]
                try:
                    result = self._asked(argv)
                except ActionError as error:
                    return PathView(path, problem=str(error))
                if result.status == UNIT_ATTENTION:
                    return PathView(path, problem=f"{path} keeps answering Unit Attention")
                if result.status != 0:
                    return PathView(path, problem=f"{path} does not answer: {_reason(result)}")
                texts.append(result.stdout)
            if parse_generation(texts[0]) == parse_generation(texts[1]):
                holder, is_our_type = parse_reservation(texts[1])
                return PathView(path, parse_keys(texts[0]), holder, is_our_type)
        return PathView(path, problem=f"{path}: its registrations change all the time")

    def _asked(self, argv: List[str]) -> CommandResult:
        for _ in range(ATTENTION_COUNT):
            result = self.context.run(argv, COMMAND_TIMEOUT_S)
            if result.status != UNIT_ATTENTION:
                break
        return result


def _reason(result: CommandResult) -> str:
    """Return what a tool complains of, as one line."""
    text = " ".join((result.stderr.strip() or result.stdout.strip()).split())
    return f"{text} (exit status {result.status})" if text else f"exit status {result.status}"
