"""A volume group that moves with the service: `[vg#N]`, or `[disk#N] type = lvm`.

Which node may activate it is written in the group itself, as a tag: the node's name. A start
writes its tag, reads it back to see that it is the only one, and only then activates; a stop
deactivates, then removes the tag. So of two nodes that start by hand at the same time one at
most goes on, and a node that was away finds the tag of the one that took over. A tag is no
lock on a disk: what makes a paused node harmless is the reservation (`scsireserv`).

Every tag of the group means a node, and others are removed, as with the agents. With
`volume_list = ["@*"]` in lvm.conf LVM itself keeps to the tags.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import ClassVar, Tuple

from opensvc_hb.agent.resource import ActionError, Holding, HoldingKind, Keyword, Resource, Status

from .._commands import attempt, must
from .._reserved import must_be_reserved
from ._lvm import VolumeGroup, active_devices, boot_activation, disks_of_group, lvm_settings, volume_group

CHANGE_TIMEOUT_S = 60.0
KPARTX_TIMEOUT_S = 30.0
DEACTIVATION_COUNT = 3
"""A volume may be open for a moment: udev looks at each that changes."""
TOOLS_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+_.-")


def group_name(text: str) -> str:
    """Convert the name of a volume group; source: lvm(8), valid names."""
    if not 0 < len(text) < 128 or text[0] == "-" or text in (".", "..") or not _NAME_LETTERS.issuperset(text):
        raise ValueError(f"'{text}' is not the name of a volume group")
    return text


class DiskVg(Resource):
    """A volume group: up when it is there and one of its volumes at least is active."""

    group = "disk"
    type_name = "disk.vg"
    tells_activation = True
    types = ("lvm", "vg")
    sections = ("vg", "disk")
    keywords = (
        Keyword("type", "Chooses this driver in a [disk#N] section: lvm.", scopable=True, candidates=types),
        Keyword(
            "vgname",
            "The volume group; its logical volumes are activated all together.",
            convert=group_name,
            required=True,
            scopable=True,
            aliases=("name",),
        ),
    )

    sys_path: ClassVar[Path] = Path("/sys")
    retry_s: ClassVar[float] = 1.0
    """Between two tries to deactivate."""
    tools_path: ClassVar[str] = TOOLS_PATH

    @property
    def name(self) -> str:
        """The keyword `vgname`."""
        return str(self.options["vgname"])

    @property
    def tag(self) -> str:
        """This node's tag, as LVM keeps it: without the sign `@`."""
        return self.context.node

    @property
    def label(self) -> str:
        """The name of the group."""
        return self.name

    def status(self) -> Status:
        """Ask LVM; a group that is active here under another node's tag is a warning."""
        try:
            group = volume_group(self.context, self.name)
            settings = lvm_settings(self.context) if group is not None else {}
        except ActionError as error:
            self.say(str(error))
            return Status.WARN
        if group is None:
            self.say(f"volume group {self.name} not found")
            return Status.DOWN
        status = Status.UP if group.is_up else Status.DOWN
        if group.missing_count:
            self.say(self._lacks(group))
            status = Status.WARN if group.active else status
        if group.active and self._foreign(group):
            self.say(f"active here, though it has the tag of {', '.join(self._foreign(group))}")
            status = Status.WARN
        reason = boot_activation(group, settings, self.tag)
        if reason:
            self.say(reason)
        return status

    def concerns(self) -> Tuple[str, ...]:
        """Whether LVM answers, the group is there, and nothing but the service activates it."""
        try:
            group = volume_group(self.context, self.name)
            if group is None:
                return (f"volume group {self.name} not found",)
            reason = boot_activation(group, lvm_settings(self.context), self.tag)
        except ActionError as error:
            return (str(error),)
        return tuple(text for text in (self._lacks(group) if group.missing_count else "", reason) if text)

    def holds(self) -> Tuple[Holding, ...]:
        """The volume group."""
        return (Holding(HoldingKind.VOLUME_GROUP, self.name),)

    def reservable_disks(self) -> Tuple[str, ...]:
        """The disks of its physical volumes."""
        return disks_of_group(self.context, self.name)

    def start(self) -> None:
        """Take the group by its tag, then activate it."""
        self.activated = False
        must_be_reserved(self)
        group = self._existing()
        if group.is_up and group.tags == (self.tag,):
            self.context.info(f"{self.name} is already up")
            return
        self._check(group)
        if group.active and self._foreign(group):
            # its volumes may have changed since they were activated here
            self.context.warning(
                f"{self.name} is active here, though it is not this node's: deactivated first"
            )
            self._deactivate()
        self._take(group)
        try:
            self._activate()
        except ActionError:
            self._give_up()
            raise
        self.activated = not group.active or bool(self._foreign(group))

    def stop(self) -> None:
        """Deactivate every volume, then remove the tag."""
        group = volume_group(self.context, self.name)
        if group is None:
            left = active_devices(self.name, self.sys_path)
            if left:
                raise ActionError(
                    f"{self.name} cannot be found on any disk, and is active: {', '.join(left)}"
                )
        if group is None or not (group.active or self.tag in group.tags):
            self.context.info(f"{self.name} is already down")
            return
        if group.active:
            self._remove_partitions(group)
            self._deactivate()
            group = self._existing()
        if group.active:
            names = ", ".join(volume.name for volume in group.active)
            raise ActionError(f"{self.name} is still active: {names}")
        if self.tag in group.tags:
            self._remove_tag()

    def _existing(self) -> VolumeGroup:
        group = volume_group(self.context, self.name)
        if group is None:
            raise ActionError(f"volume group {self.name} not found")
        return group

    def _foreign(self, group: VolumeGroup) -> Tuple[str, ...]:
        return tuple(tag for tag in group.tags if tag != self.tag)

    def _lacks(self, group: VolumeGroup) -> str:
        count = group.missing_count
        disks = "1 physical volume" if count == 1 else f"{count} physical volumes"
        return f"{disks} of {self.name} missing"

    def _check(self, group: VolumeGroup) -> None:
        """Refuse what cannot be activated, and a group of another node unless the cluster gives it to us."""
        if group.missing_count:
            raise ActionError(
                f"{self._lacks(group)}: bring the disk back, or see vgreduce --removemissing. Not activated"
            )
        if group.is_exported:
            raise ActionError(f"{self.name} is exported: run vgimport {self.name}")
        foreign = self._foreign(group)
        if foreign and not (self.context.cluster or self.context.force):
            raise ActionError(
                f"{self.name} has the tag of {', '.join(foreign)}: it may be active there. "
                "use --force to override this safety net"
            )

    def _take(self, group: VolumeGroup) -> None:
        """Make our tag the only one, in one change of the group, and read it back."""
        foreign = self._foreign(group)
        if foreign:
            self.context.warning(f"{self.name} had the tag of {', '.join(foreign)}: replaced")
        if group.tags != (self.tag,):
            removed = [word for tag in foreign for word in ("--deltag", f"@{tag}")]
            must(
                self.context, ["vgchange", *removed, "--addtag", f"@{self.tag}", self.name], CHANGE_TIMEOUT_S
            )
        self._must_be_ours(self._existing())

    def _must_be_ours(self, group: VolumeGroup) -> None:
        if group.tags == (self.tag,):
            return
        if self.tag in group.tags:
            self._remove_tag()
        others = ", ".join(self._foreign(group)) or "nobody"
        raise ActionError(
            f"{self.name} now has the tag of {others}: another node is taking it. Not activated"
        )

    def _activate(self) -> None:
        """Activate; then look again, for the tag may have been replaced while this node stood still."""
        must(self.context, ["vgchange", "-a", "y", self.name], CHANGE_TIMEOUT_S)
        group = self._existing()
        self._must_be_ours(group)
        if not group.is_up:
            raise ActionError(f"{self.name}: no volume is active, though vgchange succeeded: see lvm.conf")
        inactive = [volume.name for volume in group.volumes if not volume.is_active]
        if inactive:
            self.context.warning(f"{self.name}: not active: {', '.join(inactive)}")

    def _give_up(self) -> None:
        """Leave neither an active volume nor our tag behind, as far as that can be done."""
        try:
            self._deactivate()
            if self.tag in self._existing().tags:
                self._remove_tag()
        except ActionError as error:
            self.context.error(str(error))

    def _deactivate(self) -> None:
        for left in reversed(range(DEACTIVATION_COUNT)):
            result = attempt(self.context, ["vgchange", "-a", "n", self.name], CHANGE_TIMEOUT_S)
            if result.status == 0:
                return
            if left:
                time.sleep(self.retry_s)  # who has a volume open tells nobody when he closes it
        raise ActionError(f"{self.name} cannot be deactivated: {' '.join(result.stderr.split())}")

    def _remove_tag(self) -> None:
        """Remove our tag; that it stays hinders a start by hand elsewhere, and endangers nothing."""
        result = attempt(self.context, ["vgchange", "--deltag", f"@{self.tag}", self.name], CHANGE_TIMEOUT_S)
        if result.status != 0:
            self.context.warning(f"{self.name} keeps the tag of {self.tag}")

    def _remove_partitions(self, group: VolumeGroup) -> None:
        """Remove the devices of partitions inside volumes, which keep these open; source: C.2."""
        if shutil.which("kpartx", path=self.tools_path) is None:
            return
        for volume in group.active:
            attempt(self.context, ["kpartx", "-d", volume.path], KPARTX_TIMEOUT_S)
