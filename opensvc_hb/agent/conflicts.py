"""Do the resources of one service stand in each other's way?

Each section may be right by itself and the whole wrong: two file systems on one mount point, an
outer one mounted over an inner one, a service that both the heartbeat and the boot start. This
is judged from the file alone, on each of its nodes, for `validate config` and before a change of
the file is accepted. A start asks none of it: a service that runs is not refused its own stop.

Pure. Disabled resources stand in nobody's way; they are how a file has two variants.

Source: A.5 (autostart_node), A.8 (subsets), C.2 (the order in which resources start).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from opensvc_hb.agent.config import scopes_of
from opensvc_hb.agent.keywords import boolean
from opensvc_hb.agent.sections import subset_name
from opensvc_hb.agent.service import Member, Service, named_by_subset
from opensvc_hb.errors import ConfigurationError
from opensvc_hb.ini import DEFAULT, Configuration, Notice

SHARED_DEVICE_TYPES = ("tmpfs", "bind", "none", "nfs", "nfs4", "cifs", "btrfs", "proc", "sysfs")
"""Types of file systems whose `dev` may be mounted more than once: it is no device of their own."""


@dataclass(frozen=True)
class _Unique:
    """A keyword whose value belongs to one resource of the service.

    Args:
        group, type_name: the resources it is about.
        names: the keyword, in its spellings.
        role: what the value is to the resource, for the message.
    """

    group: str
    type_name: str
    names: Tuple[str, ...]
    role: str


_UNIQUE = (
    _Unique("fs", "fs", ("mnt",), "the mount point"),
    _Unique("fs", "fs", ("dev",), "the device"),
    _Unique("ip", "ip", ("ipname",), "the address"),
    _Unique("disk", "disk.loop", ("file",), "the file"),
    _Unique("disk", "disk.vg", ("vgname", "name"), "the volume group"),
)


@dataclass(frozen=True)
class _Place:
    """Where a value stands: its line, and its key with the scope that holds on the node."""

    line: int
    where: str


class _Reader:
    """Says where the values of one service, on one node, stand in its file."""

    def __init__(self, file: Configuration, service: Service) -> None:
        self.file = file
        encapnodes = service.defaults.get("encapnodes") or ()
        self.scopes = scopes_of(service.node, service.nodes, service.drpnodes, encapnodes)

    def place(self, section: str, keyword: str) -> _Place:
        entry = self.file.lookup(section, keyword, self.scopes)
        if entry is None:
            return _Place(self.file.section_lines.get(section, 0), f"{section}.{keyword}")
        return _Place(entry.line, f"{entry.section}.{entry.key}")

    def error(self, place: _Place, what: str) -> ConfigurationError:
        return ConfigurationError(self.file.path, place.line, place.where, what)


def conflicts(file: Configuration, service: Service) -> List[ConfigurationError]:
    """Return what cannot be, on the node that the service was built for.

    Args:
        file: as read.
        service: built from it without an error.
    """
    read = _Reader(file, service)
    enabled = [member for member in service.members if not member.disable]
    return [
        *_heartbeat_and_boot(read, service, enabled),
        *_twice(read, enabled),
        *_hidden_mounts(read, service, enabled),
        *_files_on_later_mounts(read, enabled),
    ]


def oddities(file: Configuration, services: Sequence[Service]) -> List[Notice]:
    """Return what is accepted and probably not meant.

    Args:
        file: as read.
        services: what it makes on each node where it can be built; one at least.
    """
    found: List[Notice] = []
    members = [member for service in services for member in service.members]
    for section, line in file.section_lines.items():
        name = subset_name(section)
        if name and not any(named_by_subset(member, name) for member in members):
            what = "no resource is in this subset: it has no effect"
            found.append(Notice(file.path, line, section, what))
    entry = file.own(DEFAULT, "autostart_node")
    for name in services[0].autostart_nodes:
        if entry is not None and name.lower() not in (*services[0].nodes, *services[0].drpnodes):
            what = f"'{name}' is no node of this service: nothing starts there"
            found.append(Notice(file.path, entry.line, f"{DEFAULT}.autostart_node", what))
    for key in ("scsireserv", "scsi_reserve"):
        entry = file.own(DEFAULT, key)
        reserves = any(member.resource.type_name == "disk.scsireserv" for member in members)
        if entry is not None and boolean(entry.value) and not reserves:
            what = "no resource of this service is on disks: nothing is reserved"
            found.append(Notice(file.path, entry.line, f"{DEFAULT}.{key}", what))
    return found


def _heartbeat_and_boot(
    read: _Reader, service: Service, enabled: Sequence[Member]
) -> Iterator[ConfigurationError]:
    """Source: A.5: autostart_node must be absent with an hb resource."""
    heartbeat = next((member for member in enabled if member.group == "hb"), None)
    if heartbeat is not None and service.autostart_nodes:
        place = read.place(DEFAULT, "autostart_node")
        what = f"remove it: {heartbeat.rid} hands the service to the heartbeat, which decides where it starts"
        yield read.error(place, what)


def _twice(read: _Reader, enabled: Sequence[Member]) -> Iterator[ConfigurationError]:
    """Find values that two resources claim; the one that stands later in the file is complained of."""
    for unique in _UNIQUE:
        owners: Dict[str, Tuple[str, _Place]] = {}
        of_kind = [member for member in enabled if member.group == unique.group]
        placed = [
            (read.place(member.rid, keyword), member, value)
            for member in of_kind
            if member.resource.type_name == unique.type_name
            for keyword, value in _first_given(member, unique.names)
            if keyword != "dev" or not _may_be_shared(member, value)
        ]
        for place, member, value in sorted(placed, key=lambda one: one[0].line):
            known = owners.setdefault(value, (member.rid, place))
            if known[0] != member.rid:
                yield read.error(
                    place, f"'{value}' is {unique.role} of {known[0]} already (line {known[1].line})"
                )


def _first_given(member: Member, names: Sequence[str]) -> Iterator[Tuple[str, str]]:
    """Give the first of these keywords that the resource has, with its value as text."""
    for name in names:
        value = member.resource.options.get(name)
        if value is not None and str(value):
            yield name, str(value)
            return


def _may_be_shared(member: Member, device: str) -> bool:
    """Tell whether a device is none of the file system's own: pseudo, of the network, subvolumes."""
    kind = str(member.resource.options.get("type") or "").lower()
    return kind in SHARED_DEVICE_TYPES or device == "none" or ":" in device or device.startswith("//")


def _hidden_mounts(
    read: _Reader, service: Service, enabled: Sequence[Member]
) -> Iterator[ConfigurationError]:
    """Find file systems that are mounted before the one on whose mount point theirs lies.

    Source: C.2: sets in alphanumeric order, inside a set by mount point; the members of a parallel
    set at the same time.
    """
    order = _mounted_in_order(enabled)
    for at, inner in enumerate(order):
        for later, outer in enumerate(order):
            if not _is_below(_mount_point(inner), _mount_point(outer)):
                continue
            place = read.place(inner.rid, "mnt")
            if later > at:
                what = (
                    f"'{_mount_point(inner)}' lies on {_mount_point(outer)}, which {outer.rid} mounts later, "
                    f"over it: subset '{outer.subset}' comes after '{inner.subset}'"
                )
                yield read.error(place, what)
            elif inner.set_name == outer.set_name and inner.set_name in service.parallel_sets:
                what = (
                    f"'{_mount_point(inner)}' lies on {_mount_point(outer)}, which {outer.rid} mounts at the "
                    f"same time: the subset '{inner.subset}' cannot be parallel"
                )
                yield read.error(place, what)


def _files_on_later_mounts(read: _Reader, enabled: Sequence[Member]) -> Iterator[ConfigurationError]:
    """Find image files and directories that lie on a file system which is mounted after they are used."""
    order = _mounted_in_order(enabled)
    for at, member in enumerate(order):
        yield from _file_on(read, member, "dev", order[at + 1 :])
    for member in enabled:
        if member.resource.type_name == "disk.loop":
            yield from _file_on(read, member, "file", order)


def _file_on(
    read: _Reader, member: Member, keyword: str, later: Sequence[Member]
) -> Iterator[ConfigurationError]:
    path = str(member.resource.options.get(keyword) or "")
    for other in later:
        if path.startswith("/") and _is_below(path, _mount_point(other)):
            when = f"which {other.rid} mounts after {member.rid} needs it"
            what = f"'{path}' lies on {_mount_point(other)}, {when}"
            yield read.error(read.place(member.rid, keyword), what)
            return


def _mounted_in_order(enabled: Sequence[Member]) -> List[Member]:
    """Return the file systems as a start mounts them: members are in the order of sets and sort keys."""
    return [member for member in enabled if member.group == "fs" and _mount_point(member)]


def _mount_point(member: Member) -> str:
    value: Optional[object] = member.resource.options.get("mnt")
    return "" if value is None else str(value).rstrip("/")


def _is_below(path: str, folder: str) -> bool:
    return bool(folder) and path.rstrip("/") != folder and path.startswith(f"{folder}/")
