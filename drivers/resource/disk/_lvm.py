"""What does LVM say of a volume group: is it there, whose tags has it, is it active, on which disks?

Answers come from LVM's JSON reports; what is active although no report can be had, from sysfs.
Reads only, within a bounded time. Shared by the disk drivers; not a driver.

Source: lvmreport(7), lvm.conf(5); lvm(8) for the names of device-mapper devices.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from opensvc_hb.agent.resource import ActionError, CommandResult, ResourceContext

REPORT_TIMEOUT_S = 10.0
"""A report reads the labels of all disks; one that hangs must not hold a status for long."""
ABSENT_STATUS = 5
"""Exit status of a report on a volume group that LVM does not find, and of other errors."""
MISSING_DISK = "[unknown]"
"""The name in a report of a physical volume that is not there."""

Row = Mapping[str, str]


@dataclass(frozen=True)
class LogicalVolume:
    """One logical volume: its name, its path `/dev/GROUP/NAME`, and whether it is active on this node."""

    name: str
    path: str
    is_active: bool


@dataclass(frozen=True)
class VolumeGroup:
    """A volume group as LVM reports it.

    Args:
        tags: without the sign `@`, as LVM keeps them.
        missing_count: physical volumes that are not there.
        activates_itself: its own property lets the system activate it, at boot or when its disks appear.
    """

    name: str
    tags: Tuple[str, ...]
    missing_count: int
    is_exported: bool
    activates_itself: bool
    volumes: Tuple[LogicalVolume, ...]

    @property
    def active(self) -> Tuple[LogicalVolume, ...]:
        """The volumes that are active on this node."""
        return tuple(volume for volume in self.volumes if volume.is_active)

    @property
    def is_up(self) -> bool:
        """Tell whether it counts as up: it has no volume, or one at least is active (B.4)."""
        return not self.is_exported and (not self.volumes or bool(self.active))


def parse_report(text: str, kind: str) -> Tuple[Row, ...]:
    """Return the rows of one kind (`vg`, `lv`, `pv`) of a JSON report.

    Raises:
        ValueError: this is no such report.
    """
    try:
        report: Any = json.loads(text)
        rows = [row for part in report["report"] for row in part.get(kind, ())]
        return tuple({str(name): str(value) for name, value in row.items()} for row in rows)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError("not a report of LVM in JSON") from None


def volume_group(context: ResourceContext, name: str) -> Optional[VolumeGroup]:
    """Ask LVM for a volume group; None when there is none of this name.

    Raises:
        ActionError: LVM cannot tell, or tells of two groups with this name.
    """
    # vg_all: LVM refuses a field by name that its version does not know
    groups = _report(context, ["vgs", "--reportformat", "json", "-o", "vg_all", name], "vg")
    if not groups:
        return None
    if len(groups) > 1:
        raise ActionError(f"{len(groups)} volume groups have the name {name}: rename all but one (vgrename)")
    if groups[0].get("vg_exported"):
        return group_of(groups[0], ())  # LVM reports no volume of such a group
    fields = "lv_name,lv_path,lv_active,lv_attr"
    rows = _report(context, ["lvs", "--reportformat", "json", "-o", fields, name], "lv")
    return group_of(groups[0], rows)


def group_of(group: Row, volumes: Sequence[Row]) -> VolumeGroup:
    """Return a volume group from its row of `vgs -o vg_all` and those of its volumes of `lvs`."""
    missing = group.get("vg_missing_pv_count", "0")
    return VolumeGroup(
        name=group.get("vg_name", ""),
        tags=tuple(tag for tag in group.get("vg_tags", "").split(",") if tag),
        missing_count=int(missing) if missing.isdecimal() else 0,
        is_exported=bool(group.get("vg_exported")),
        # an LVM that has no such property activates every group
        activates_itself=group.get("vg_autoactivation", "enabled") == "enabled",
        volumes=tuple(
            LogicalVolume(row.get("lv_name", ""), row.get("lv_path", ""), _is_active(row)) for row in volumes
        ),
    )


def disks_of_group(context: ResourceContext, name: str) -> Tuple[str, ...]:
    """Return the devices of a group's physical volumes, whether it is active or not; () without such a group.

    Those that are missing are left out.

    Raises:
        ActionError: LVM cannot tell.
    """
    argv = ["pvs", "--reportformat", "json", "-o", "pv_name", "-S", f"vg_name={name}"]
    names = {row.get("pv_name", "") for row in _report(context, argv, "pv")}
    return tuple(sorted(names - {"", MISSING_DISK}))


def active_devices(name: str, sys_path: Path) -> Tuple[str, ...]:
    """Return the device-mapper names of a group's active volumes, by sysfs: needs neither LVM nor a disk."""
    found = []
    for device in sorted((sys_path / "block").glob("dm-*")):
        if _text(device / "dm/uuid").startswith("LVM-"):
            mapped = _text(device / "dm/name")
            group = re.match(r"(?:[^-]|--)+", mapped)
            if group is not None and group.group().replace("--", "-") == name:
                found.append(mapped)
    return tuple(found)


def lvm_settings(context: ResourceContext) -> Dict[str, str]:
    """Return LVM's settings as text by name: `event_activation` is "1", a list is `["a", "b"]`.

    Raises:
        ActionError: LVM does not give them.
    """
    argv = ["lvmconfig", "--type", "full", "activation", "global"]
    result = context.run(argv, REPORT_TIMEOUT_S)
    if result.status != 0:
        raise ActionError(_reason(result))
    return parse_settings(result.stdout)


def parse_settings(text: str) -> Dict[str, str]:
    """Return what each line `name=value` of lvmconfig sets."""
    found = (line.strip().partition("=") for line in text.splitlines())
    return {name: value for name, sign, value in found if sign}


def boot_activation(group: VolumeGroup, settings: Mapping[str, str], node: str) -> str:
    """Tell that the system would activate a group by itself, at boot or as its disks appear; "" if not.

    Lists of names and tags are lvm.conf's: `group`, `group/volume`, `@tag`, and `@*` for the
    tags of this host. A group let in by this node's own tag alone is in order: the node that
    took it over has replaced the tag.
    """
    if not group.activates_itself or settings.get("event_activation", "1") == "0":
        return ""
    foreign_tags = {tag for tag in group.tags if tag != node}
    for name in ("volume_list", "auto_activation_volume_list"):
        listed = settings.get(name)
        if listed is None:
            continue
        words = re.findall(r'"((?:[^"\\]|\\.)*)"', listed)
        by_name = any(word.partition("/")[0] == group.name for word in words)
        if not by_name and not any(word.startswith("@") and word[1:] in foreign_tags for word in words):
            return ""
    return (
        f"the system would activate {group.name} by itself: run vgchange --setautoactivation n {group.name}"
        ", or leave it out of auto_activation_volume_list in lvm.conf"
    )


def _report(context: ResourceContext, argv: Sequence[str], kind: str) -> Tuple[Row, ...]:
    result = context.run(list(argv), REPORT_TIMEOUT_S)
    try:
        rows = parse_report(result.stdout, kind)
    except ValueError as error:
        raise ActionError(_reason(result) if result.status else f"{argv[0]}: {error}") from None
    if result.status != 0 and not (result.status == ABSENT_STATUS and _says_absent(result, rows)):
        raise ActionError(_reason(result))
    return rows


def _says_absent(result: CommandResult, rows: Sequence[Row]) -> bool:
    return not rows and "not found" in result.stderr


def _reason(result: CommandResult) -> str:
    """Return one line that says what a tool of LVM complains of."""
    stripped = (line.strip() for line in result.stderr.splitlines())
    lines: List[str] = [line for line in dict.fromkeys(stripped) if line]
    errors = [line for line in lines if not line.startswith("WARNING:")] or lines
    return f"{result.argv[0]}: {' '.join(errors) or f'exit status {result.status}'}"


def _is_active(row: Row) -> bool:
    """`lv_active` is "active", "" when not, or "unknown"; then the attributes' fifth letter tells."""
    told = row.get("lv_active", "")
    attributes = row.get("lv_attr", "")
    return told.startswith("active") or (len(attributes) > 4 and attributes[4] not in "-hX")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape").rstrip("\n")
    except OSError:
        return ""  # a device that has just gone
