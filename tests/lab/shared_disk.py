"""The disk that all nodes see: one image file, and for each node a loop device of its own over it.

Every node reaches its device by the same path, mounted there in its own namespace. Two
devices, so that one node's can fail alone; both read and write the one file, and the lab's
test shows that what one wrote past its cache, the other reads.

A device is told to detach when its last user closes it, and the lab is one of its users, so
that none is left behind even by a test that was killed.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Dict

DISK_BYTES = 1 << 20
LOOP_SET_STATUS64 = 0x4C04
LOOP_GET_STATUS64 = 0x4C05
LOOP_INFO64_BYTES = 232
LOOP_INFO64_OFFSET_AT = 24


class SharedDisk:
    """One disk over `image`, which is made here, empty; the nodes see it at `path`."""

    def __init__(self, image: Path, path: Path) -> None:
        self.image = image
        self.path = path
        self._devices: Dict[str, str] = {}
        self._descriptors: Dict[str, int] = {}
        image.write_bytes(bytes(DISK_BYTES))
        path.touch()

    def device_of(self, node: str) -> str:
        """Return the node's own device, made at the first call."""
        if node not in self._devices:
            argv = ["losetup", "--find", "--show", str(self.image)]
            device = subprocess.run(argv, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()
            self._devices[node] = device
            self._descriptors[node] = os.open(device, os.O_RDONLY)
            subprocess.run(["losetup", "--detach", device], check=True)  # lazily: it is in use
        return self._devices[node]

    def fail(self, node: str) -> None:
        """Take every block of the node's device away: its reads and writes fail at once."""
        self._begin_at(node, DISK_BYTES)

    def mend(self, node: str) -> None:
        """Give the node its blocks back."""
        self._begin_at(node, 0)

    def _begin_at(self, node: str, offset_bytes: int) -> None:
        status = bytearray(LOOP_INFO64_BYTES)
        fcntl.ioctl(self._descriptors[node], LOOP_GET_STATUS64, status)
        struct.pack_into("Q", status, LOOP_INFO64_OFFSET_AT, offset_bytes)
        fcntl.ioctl(self._descriptors[node], LOOP_SET_STATUS64, bytes(status))

    def detach(self) -> None:
        """Let go of the devices; the kernel frees each when its node has, too."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()
        self._devices.clear()
