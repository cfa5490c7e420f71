"""A file as a block device: `[loop#N]`, or `[disk#N] type = loop`.

Up while some loop device is bound to the file, read from sysfs without opening a device.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Tuple

from opensvc_hb.agent.resource import ActionError, Holding, HoldingKind, Keyword, Resource, Status

from .._commands import must
from .._loop_devices import devices_of
from .._reserved import must_be_reserved

LOSETUP_TIMEOUT_S = 30.0


def image_file(text: str) -> str:
    """Convert the path of an image file; it must be absolute."""
    if not text.startswith("/"):
        raise ValueError(f"'{text}' is not an absolute path")
    return text


class DiskLoop(Resource):
    """A loop device bound to a file."""

    group = "disk"
    type_name = "disk.loop"
    types = ("loop",)
    sections = ("loop", "disk")
    keywords = (
        Keyword("type", "Chooses this driver in a [disk#N] section: loop.", scopable=True, candidates=types),
        Keyword(
            "file",
            "The file that becomes a block device.",
            convert=image_file,
            required=True,
            scopable=True,
        ),
        Keyword("size", "Size of the file, for who makes it: no action reads it.", scopable=True),
    )

    sys_path: ClassVar[Path] = Path("/sys")

    @property
    def file(self) -> str:
        """The keyword `file`."""
        return str(self.options["file"])

    @property
    def label(self) -> str:
        """The file."""
        return self.file

    def status(self) -> Status:
        """Look for a loop device bound to the file."""
        return Status.UP if devices_of(self.file, self.sys_path) else Status.DOWN

    def holds(self) -> Tuple[Holding, ...]:
        """The file, as its loop device names it."""
        return (Holding(HoldingKind.LOOP_FILE, self.file),)

    def reservable_disks(self) -> Tuple[str, ...]:
        """The file itself where it is a block device; a file in a file system is protected with that."""
        return (self.file,) if Path(self.file).is_block_device() else ()

    def start(self) -> None:
        """Bind the first free loop device to the file."""
        self.activated = False
        if devices_of(self.file, self.sys_path):
            self.context.info(f"{self.file} is already up")
            return
        if not Path(self.file).exists():
            raise ActionError(f"file does not exist {self.file}")
        must_be_reserved(self)
        must(self.context, ["losetup", "-f", self.file], LOSETUP_TIMEOUT_S)
        devices = devices_of(self.file, self.sys_path)
        if not devices:
            raise ActionError(f"no loop device is bound to {self.file}, though losetup succeeded")
        self.activated = True
        self.context.info(f"{devices[0]} now loops to {self.file}")

    def stop(self) -> None:
        """Release every loop device bound to the file."""
        devices = devices_of(self.file, self.sys_path)
        if not devices:
            self.context.info(f"{self.file} is already down")
            return
        for device in devices:
            must(self.context, ["losetup", "-d", device], LOSETUP_TIMEOUT_S)
        # losetup succeeds on a device in use: the kernel then releases it at its last user's end
        left = devices_of(self.file, self.sys_path)
        if left:
            raise ActionError(f"{', '.join(left)} is still in use")
