"""The reservation of a resource's disks: RIDpr, made by the agent where `scsireserv = true`.

No section of its own: it protects the disks of the resource whose name it extends, starts before
it and stops behind it. While it is up no other node can write to these disks, whatever that node
believes. A node whose reservation was taken away sees it down, and does not take it back while
anything above the disk is still in use here: what that wrote late would destroy what the other
node has written since.

Source: B.4, C.2.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar, Dict, List, Optional, Tuple

from opensvc_hb.agent.resource import ActionError, Keyword, Resource, Status

from ._reservations import DiskView, Reservations, key_of_node, key_text
from ._scsi_disks import FoundDisks, ScsiDisk, claimed_above, disks_below, is_claimed

NO_DISK = "preserv 0 scsi disk"
TOOL = "sg_persist"
NO_TOOL = "sg_persist is not installed: install sg3-utils"
TOOLS_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


class DiskScsireserv(Resource):
    """Persistent reservations on the disks of another resource: up when all are this node's."""

    group = "disk"
    type_name = "disk.scsireserv"
    tells_activation = True
    keywords = (
        Keyword("protects", "The resource whose disks are reserved; set by the agent, no text of a file."),
        Keyword("no_preempt_abort", "As in the section of that resource.", default=False),
    )

    sys_path: ClassVar[Path] = Path("/sys")
    tools_path: ClassVar[str] = TOOLS_PATH

    _found: Optional[FoundDisks] = None

    @property
    def label(self) -> str:
        """The disks, once they were looked for."""
        if self._found is None:
            return f"disks of {self._protected.rid}"
        return ", ".join(disk.device for disk in self._found.disks) or NO_DISK

    @property
    def key(self) -> int:
        """This node's key: `prkey` of node.conf, else made of its name."""
        own = self.context.reservation_key
        return key_of_node(self.context.node) if own is None else own

    def status(self) -> Status:
        """Ask each disk on each path who holds it."""
        if not self._has_tool(TOOL):
            self.say(NO_TOOL)
            return Status.NA
        try:
            found = self._find()
        except ActionError as error:
            self.say(str(error))
            return Status.WARN
        for other in found.others:
            self.say(f"{other} takes no reservations")
        told = [self._status_of(disk) for disk in found.disks]
        if found.others or Status.WARN in told or len(set(told)) > 1:
            return Status.WARN
        return told[0] if told else Status.NA

    def concerns(self) -> Tuple[str, ...]:
        """Whether the disks can be reserved at all."""
        if not self._has_tool(TOOL):
            return (NO_TOOL,)
        try:
            found = self._find()
        except ActionError as error:
            return (str(error),)
        notes = [f"{other} takes no reservations" for other in found.others]
        if any(disk.is_multipath for disk in found.disks) and not self._has_tool("mpathpersist"):
            notes.append("mpathpersist is not installed: install multipath-tools")
        return tuple(notes)

    def start(self) -> None:
        """Reserve every disk, or none."""
        self.activated = False
        if not self._has_tool(TOOL):
            raise ActionError(NO_TOOL)
        found = self._find()
        if found.others:
            raise ActionError(
                f"{', '.join(found.others)}: no disk that takes reservations. set scsireserv = false"
            )
        reservations = self._reservations()
        taken: List[ScsiDisk] = []
        try:
            for disk in found.disks:
                if self._take(reservations, disk):
                    taken.append(disk)
        except ActionError:
            for disk in reversed(taken):
                self._give_back(reservations, disk)
            raise
        self.activated = bool(taken)

    def stop(self) -> None:
        """Give every disk back; one whose reservation was taken away is left as it is."""
        if not self._has_tool(TOOL):
            self.context.info(f"{self.label} is already down")
            return
        reservations = self._reservations()
        ours: List[DiskView] = []
        for disk in self._find().disks:
            view = reservations.view(disk)
            if not view.answering:
                raise ActionError("; ".join(path.problem for path in view.paths))
            if reservations.key in view.keys:
                ours.append(view)
        if not ours:
            self.context.info(f"{self.label} is already down")
        for view in reversed(ours):
            reservations.give_back(view.disk, view)

    def is_in_use(self, device: str) -> bool:
        """Tell whether a device is mounted, or claimed by a layer above it."""
        return is_claimed(device)

    def _has_tool(self, name: str) -> bool:
        return shutil.which(name, path=self.tools_path) is not None

    @property
    def _protected(self) -> Resource:
        protected = self.options["protects"]
        assert isinstance(protected, Resource), "the agent makes this resource for another one"
        return protected

    def _find(self) -> FoundDisks:
        self._found = disks_below(self._protected.reservable_disks(), self.sys_path)
        return self._found

    def _reservations(self) -> Reservations:
        nodes = (*self.context.nodes, *self.context.drpnodes)
        names: Dict[int, str] = {key_of_node(node): node for node in nodes}
        names[self.key] = self.context.node
        return Reservations(self.context, self.key, names, abort=not self.options["no_preempt_abort"])

    def _status_of(self, disk: ScsiDisk) -> Status:
        reservations = self._reservations()
        view = reservations.view(disk)
        for path in view.paths:
            if path.problem:
                self.say(path.problem)
        if not view.answering:
            return Status.WARN
        if view.holder is not None:
            paths = ", ".join(path.path for path in view.answering)
            on = f" on {paths}" if disk.is_multipath else ""
            self.say(f"{disk.device} is reserved by {reservations.owner(view.holder)}{on}")
        if not view.is_held_by(self.key):
            return Status.DOWN
        count = view.keys.count(self.key)
        if count < len(view.answering):
            self.say(
                f"{disk.device}: {key_text(self.key)} is registered on {count} of {len(disk.paths)} paths"
            )
            return Status.WARN
        return Status.UP

    def _take(self, reservations: Reservations, disk: ScsiDisk) -> bool:
        """Reserve one disk; False when it is ours already."""
        view = reservations.view(disk)
        if not view.answering:
            raise ActionError("; ".join(path.problem for path in view.paths))
        if view.is_held_by(self.key) and view.is_registered(self.key):
            self.context.info(f"{disk.device} is already reserved for {self.context.node}")
            return False
        others = view.others(self.key)
        if others and not (self.context.cluster or self.context.force):
            owners = ", ".join(reservations.owner(other) for other in others)
            self.context.error(f"{disk.device} belongs to {owners}")
            raise ActionError(f"{disk.device} is already reserved. use --force to override this safety net")
        in_use = claimed_above(disk, self.sys_path, self.is_in_use)
        if in_use and not view.is_registered(self.key):
            # another node may have had the disk meanwhile
            raise ActionError(
                f"{disk.device} is in use on this node ({', '.join(in_use)}) without its reservation: "
                "stop the service here first"
            )
        reservations.take(disk, view, register=not in_use)
        return True

    def _give_back(self, reservations: Reservations, disk: ScsiDisk) -> None:
        try:
            reservations.give_back(disk, reservations.view(disk))
        except ActionError as error:
            self.context.error(str(error))
