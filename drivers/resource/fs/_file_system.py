"""What all file system drivers do alike: mounted or not, mount, unmount, and who is in the way.

A status reads the mount table and never the file system: it answers while the storage
hangs, and says so: requests that wait for the disk while none is done are counted by the
kernel. The agents of the tutorial wrote a file `.opensvc` at the root instead; here the
kernel's word that the file system is read-only gives the same warning.

A concrete driver says how a mount is recognised as its own, and what is checked before.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, List, Optional, Sequence, Tuple

from opensvc_hb.agent.resource import (
    ActionError,
    CommandResult,
    Holding,
    HoldingKind,
    Keyword,
    Resource,
    Status,
)

from .._commands import attempt, must
from .._loop_devices import is_backed_by
from .._reserved import must_be_reserved
from ._holders import end_holders, find_holders, named
from ._mounts import (
    Mount,
    mount_points_of,
    mounts_at,
    mounts_below,
    on_root_file_system,
    parse_mountinfo,
)

MOUNT_TIMEOUT_S = 300.0
"""A mount may replay a journal, an unmount may have much to write back."""
FIND_TIMEOUT_S = 10.0
SYNC_TIMEOUT_S = 30.0
RELEASE_S = 1.0
"""How long a mount namespace that just ended may take to let a device go."""
RELEASE_STEP_S = 0.02
APPEAR_STEP_S = 0.05
SILENCE_STEP_S = 0.1
LADDER = (signal.SIGTERM, signal.SIGKILL, signal.SIGKILL)
"""Signals, in turn, to the processes that keep a mount busy; the last is for those started meanwhile."""


def mount_point(text: str) -> str:
    """Convert a mount point: absolute, without trailing slash (as the agents strip it)."""
    path = text.rstrip("/") or "/"
    if not path.startswith("/"):
        raise ValueError(f"'{text}' is not an absolute path")
    if path == "/":
        raise ValueError("the root of the node cannot be a file system of a service")
    return path


def fs_keywords(types: Sequence[str]) -> Tuple[Keyword, ...]:
    """Return the keywords of an [fs#N] section whose type is one of `types`."""
    return (
        Keyword(
            "type",
            "Type of the file system, as mount takes it with -t.",
            required=True,
            scopable=True,
            candidates=tuple(types),
        ),
        Keyword(
            "dev",
            "The device or image file to mount (also LABEL=... or UUID=...); the directory for a bind mount; "
            "none for tmpfs.",
            required=True,
            scopable=True,
        ),
        Keyword(
            "mnt",
            "The mount point; made when it is missing.",
            convert=mount_point,
            required=True,
            scopable=True,
        ),
        Keyword(
            "mnt_opt",
            "Mount options separated by commas, as mount takes them with -o. An image file gets loop added.",
            default="",
            scopable=True,
        ),
    )


@dataclass(frozen=True)
class Requests:
    """Requests to a block device: how many are done since it is there, and how many wait now."""

    done: int
    waiting: int


def requests_of(folder: Path) -> Optional[Requests]:
    """Return what the kernel counts for a device, whose folder in sysfs this is; None without one.

    Source: the kernel's Documentation/block/stat: reads, writes, discards, flushes; in flight.
    """
    try:
        fields = [int(word) for word in (folder / "stat").read_text().split()]
    except (OSError, ValueError):
        return None
    if len(fields) < 9:
        return None
    return Requests(done=sum(fields[at] for at in (0, 4, 11, 15) if at < len(fields)), waiting=fields[8])


def mapper_name(device: str) -> str:
    """Return a volume's name below /dev/mapper: /dev/my-vg/lv is /dev/mapper/my--vg-lv; others as they are.

    Source: lvm(8): a hyphen of either name is doubled.
    """
    words = device.split("/")
    if len(words) != 4 or words[:2] != ["", "dev"] or words[2] in ("mapper", "disk"):
        return device
    return f"/dev/mapper/{words[2].replace('-', '--')}-{words[3].replace('-', '--')}"


class FileSystem(Resource):
    """A file system: up when it is mounted, from its device, on its mount point."""

    group = "fs"
    type_name = "fs"
    sections = ("fs",)

    proc_path: ClassVar[Path] = Path("/proc")
    sys_path: ClassVar[Path] = Path("/sys")
    grace_s: ClassVar[float] = 5.0
    """How long a process that keeps the mount busy has to end after each signal."""

    @property
    def label(self) -> str:
        """`dev@mnt`, as written."""
        return f"{self.dev}@{self.mnt}"

    @property
    def sort_key(self) -> Tuple[str, ...]:
        """By mount point, so that an outer file system is mounted before an inner one."""
        return (self.mnt, self.rid)

    @property
    def dev(self) -> str:
        """The keyword `dev`, as written."""
        return str(self.options["dev"])

    @property
    def mnt(self) -> str:
        """The keyword `mnt`, without trailing slash."""
        return str(self.options["mnt"])

    @property
    def mount_options(self) -> Tuple[str, ...]:
        """The words of `mnt_opt`."""
        return tuple(word for word in str(self.options.get("mnt_opt") or "").split(",") if word)

    def status(self) -> Status:
        """Read the mount table: up, down, or a warning when the file system takes no writes."""
        here = self._mounts_here()
        if not here:
            return Status.DOWN
        top = here[-1]
        if not self.is_own(top):
            if any(self.is_own(mount) for mount in here):
                self.say(f"{top.source} is mounted over it")
                return Status.WARN
            self.say(f"{top.source} is mounted there instead")
            return Status.DOWN
        if top.is_read_only and "ro" not in self.mount_options:
            self.say("fs is not writable")
            return Status.WARN
        silence = self.silence(top)
        if silence:
            self.say(silence)
            return Status.WARN
        return Status.UP

    def holds(self) -> Tuple[Holding, ...]:
        """The mount point, and what its kernel's name is where a parent of it is a symbolic link.

        Links are followed on the root file system only: another one may hang.
        """
        names = [self.mnt]
        parent, name = os.path.split(self.mnt)
        if on_root_file_system(mount_points_of(self.proc_path, os.getpid()), parent):
            resolved = os.path.join(os.path.realpath(parent), name)  # noqa: PTH118 - text, never looked at
            names += [resolved] if resolved != self.mnt else []
        return tuple(Holding(HoldingKind.MOUNT_POINT, name) for name in names)

    def start(self) -> None:
        """Check the device, make the mount point, check the file system, mount it."""
        here = self._mounts_here()
        if here and self.is_own(here[-1]):
            self.context.info(f"fs({self.dev} {self.mnt}) is already mounted")
            self.activated = False
            return
        if here:
            raise ActionError(f"{here[-1].source} is already mounted on {self.mnt}")
        if not self.device_exists():
            raise ActionError(f"device does not exist {self.dev}")
        must_be_reserved(self)
        self._make_mount_point()
        self.check_file_system()
        options = ",".join(self.options_to_mount())
        given = ["-o", options] if options else []
        argv = ["mount", "-t", self.type_to_mount(), *given, self.dev, self.mnt]
        must(self.context, argv, MOUNT_TIMEOUT_S)
        self.activated = True

    def stop(self) -> None:
        """Unmount; processes that hold this mount are ended when nothing else helps."""
        here = self._mounts_here()
        if not any(self.is_own(mount) for mount in here):
            self.context.info(f"fs({self.dev} {self.mnt}) is already umounted")
            return
        if not self.is_own(here[-1]):
            raise ActionError(f"{here[-1].source} is mounted over {self.dev} on {self.mnt}: unmount it first")
        for mount in reversed(here):
            if not self.is_own(mount):
                return
            self._unmount(mount)

    def is_own(self, mount: Mount) -> bool:
        """Tell whether a mount on our mount point is of our device."""
        raise NotImplementedError

    def device_exists(self) -> bool:
        """Tell whether there is something to mount."""
        return True

    def silence(self, mount: Mount) -> str:
        """Tell that the storage of a mounted file system does not answer; "" when it does, or is not asked.

        Bounded time; nothing that a dead storage could hold up is done in this process.
        """
        del mount
        return ""

    def check_file_system(self) -> None:
        """Repair the file system before it is mounted, where its type has a tool for that."""
        self.context.info(f"fsck not implemented for {self.options['type']}")

    def type_to_mount(self) -> str:
        """The text for `mount -t`."""
        return str(self.options["type"])

    def options_to_mount(self) -> Tuple[str, ...]:
        """The words for `mount -o`."""
        return self.mount_options

    def run_umount(self) -> CommandResult:
        """Run the unmount; raises ActionError when it does not end in its time."""
        return attempt(self.context, ["umount", self.mnt], MOUNT_TIMEOUT_S)

    def mounts(self) -> Tuple[Mount, ...]:
        """Return the mounts of this process's mount namespace."""
        return parse_mountinfo((self.proc_path / "self/mountinfo").read_text(errors="surrogateescape"))

    def _mounts_here(self) -> Tuple[Mount, ...]:
        return mounts_at(self.mounts(), self.mnt)

    def _make_mount_point(self) -> None:
        path = Path(self.mnt)
        if path.exists():
            return
        self.context.info(f"create missing mountpoint {self.mnt}")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ActionError(f"cannot create the mount point {self.mnt}: {error.strerror}") from error

    def _unmount(self, mount: Mount) -> None:
        """Unmount once, by the ladder: try, write back, try, TERM, try, KILL, try."""
        if self._unmounted(mount):
            return
        inner = mounts_below(self.mounts(), mount.mount_point)
        if inner:
            raise ActionError(f"{self.mnt} is busy: {', '.join(inner)} mounted below it")
        self._write_back()
        if self._unmounted(mount):
            return
        for number in LADDER:
            holders = find_holders(mount.mount_id, mount.device, self.proc_path)
            if not any(holder.may_end for holder in holders):
                break
            self.context.warning(f"{self.mnt} is held by {named(holders)}")
            self.context.info(f"send {number.name} to {named([h for h in holders if h.may_end])}")
            end_holders(holders, number, self.grace_s, mount.mount_id, mount.device, self.proc_path)
            if self._unmounted(mount):
                return
        holders = find_holders(mount.mount_id, mount.device, self.proc_path)
        keeper = f"held by {named(holders)}" if holders else "held by no process that can be seen from here"
        raise ActionError(f"{self.mnt} is busy: {keeper}")

    def _unmounted(self, mount: Mount) -> bool:
        """Try to unmount; False when it is busy.

        Raises:
            ActionError: it failed for another reason, for which nobody must be ended.
        """
        result = self.run_umount()
        if result.status == 0 or all(other.mount_id != mount.mount_id for other in self.mounts()):
            return True
        if "busy" not in result.stderr:
            raise ActionError(f"umount {self.mnt} failed: {' '.join(result.stderr.split())}")
        return False

    def _write_back(self) -> None:
        try:
            # only this file system: a plain sync would wait for every other that hangs
            attempt(self.context, ["sync", "-f", self.mnt], SYNC_TIMEOUT_S)
        except ActionError as error:
            self.context.warning(str(error))


class DeviceFileSystem(FileSystem):
    """A file system on a block device, or in an image file through a loop device."""

    appear_s: ClassVar[float] = 5.0
    """How long udev may take to make the node of a device that the service has just brought up."""
    silence_s: ClassVar[float] = 5.0
    """A disk that has requests to do and ends none of them for so long does not answer."""

    def is_own(self, mount: Mount) -> bool:
        """Compare device numbers, or the file behind the loop device."""
        path = self._device_path()
        try:
            info = None if path is None else os.stat(path)  # noqa: PTH116 - its mode and numbers are wanted
        except OSError:
            info = None
        if path is None or info is None:
            # the device node is gone, the mount may be there still
            return mount.source in (self.dev, mapper_name(self.dev))
        if stat.S_ISBLK(info.st_mode):
            return mount.device == f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
        return is_backed_by(self.sys_path / "dev/block" / mount.device, path)

    def stop(self) -> None:
        """Unmount, and make sure that no other mount namespace of this node still has it mounted.

        A process with mounts of its own can keep the file system alive where our unmount
        does not reach; the other node must not mount it then, so the stop has failed.
        """
        was_mounted = any(self.is_own(mount) for mount in self._mounts_here())
        super().stop()
        deadline = time.clock_gettime(time.CLOCK_BOOTTIME) + RELEASE_S
        while was_mounted and self._is_claimed():
            if time.clock_gettime(time.CLOCK_BOOTTIME) < deadline:
                time.sleep(RELEASE_STEP_S)  # the kernel has no event for the end of a file system
                continue
            raise ActionError(f"{self.dev} is still in use: mounted in another mount namespace, or claimed")

    def _is_claimed(self) -> bool:
        """Tell whether the kernel refuses the block device to an exclusive user, though not mounted here."""
        path = self._device_path()
        try:
            info = None if path is None else os.stat(path)  # noqa: PTH116 - its mode and numbers are wanted
            if path is None or info is None or not stat.S_ISBLK(info.st_mode):
                return False
            device = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}"
            if any(mount.device == device for mount in self.mounts()):
                return False  # mounted at a second place of this namespace, which is somebody's wish
            os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK))
        except OSError as error:
            return error.errno == errno.EBUSY
        return False

    def device_exists(self) -> bool:
        """Tell whether the device node, the image file, or a device with this label exists.

        Where the service has disks of its own the device is waited for: udev makes the node,
        or the link of the label, some time after the volume group is active.
        """
        deadline = time.clock_gettime(time.CLOCK_BOOTTIME) + self.appear_s
        while True:
            path = self._device_path()
            if path is not None and Path(path).exists():
                return True
            brought_up = any(other.group == "disk" for other in self.context.service_resources())
            if not brought_up or time.clock_gettime(time.CLOCK_BOOTTIME) >= deadline:
                return False
            time.sleep(APPEAR_STEP_S)

    def reservable_disks(self) -> Tuple[str, ...]:
        """The block device, while there is one; the disks below it are found by who reserves them."""
        path = self._device_path()
        return (path,) if path is not None and Path(path).is_block_device() else ()

    def silence(self, mount: Mount) -> str:
        """Look whether requests to the device wait, by the kernel's count, and none is done meanwhile."""
        folder = self.sys_path / "dev/block" / mount.device
        first = requests_of(folder)
        deadline = time.clock_gettime(time.CLOCK_BOOTTIME) + self.silence_s
        while first is not None and first.waiting:
            if time.clock_gettime(time.CLOCK_BOOTTIME) >= deadline:
                return (
                    f"{mount.source} does not answer: {first.waiting} requests wait for {self.silence_s:g} s"
                )
            time.sleep(SILENCE_STEP_S)
            now = requests_of(folder)
            if now is None or now.done != first.done:
                break
            first = replace(first, waiting=now.waiting)
        return ""

    def options_to_mount(self) -> Tuple[str, ...]:
        """The words of `mnt_opt`, and `loop` for an image file."""
        words: List[str] = list(self.mount_options)
        path = self._device_path()
        is_image = path is not None and Path(path).is_file()
        if is_image and not any(word == "loop" or word.startswith("loop=") for word in words):
            words.append("loop")
        return tuple(words)

    def _device_path(self) -> Optional[str]:
        """Return the path of the device; None for a label or UUID that no device has."""
        tag, separator, value = self.dev.partition("=")
        if not separator or self.dev.startswith("/"):
            return self.dev
        folder = {"LABEL": "by-label", "UUID": "by-uuid"}.get(tag)
        if folder is not None:
            link = Path("/dev/disk") / folder / value.strip('"')
            if link.exists():
                return str(link)
        try:
            result = self.context.run(["findfs", self.dev], FIND_TIMEOUT_S)
        except ActionError:
            return None
        return result.stdout.strip() or None
