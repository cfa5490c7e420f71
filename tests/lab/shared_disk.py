"""The disk that all nodes see: one image file, and for each node a loop device of its own over it.

Every node reaches its device by the same path, mounted there in its own namespace. Two
devices, so that one node's can fail alone; both read and write the one file, and the lab's
test shows that what one wrote past its cache, the other reads.

A device can fail (every access an error, at once), and hang, if it was made so: see `hung_disk`.

A device is told to detach when its last user closes it, and the lab is one of its users, so
that none is left behind even by a test that was killed.
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path
from typing import Collection, Dict

from hung_disk import Passthrough

DISK_BYTES = 1 << 20
LOOP_SET_STATUS64 = 0x4C04
LOOP_GET_STATUS64 = 0x4C05
LOOP_INFO64_BYTES = 232
LOOP_INFO64_OFFSET_AT = 24


class SharedDisk:
    """One disk over `image`, which is made here, empty; the nodes see it at `path`.

    Args:
        hangable: the nodes whose device can be made to hang.
    """

    def __init__(self, image: Path, path: Path, hangable: Collection[str] = ()) -> None:
        self.image = image
        self.path = path
        self._hangable = frozenset(hangable)
        self._ways: Dict[str, Passthrough] = {}
        self._devices: Dict[str, str] = {}
        self._descriptors: Dict[str, int] = {}
        image.write_bytes(bytes(DISK_BYTES))
        path.touch()

    def device_of(self, node: str) -> str:
        """Return the node's own device, made at the first call."""
        if node not in self._devices:
            if node in self._hangable:
                self._ways[node] = Passthrough(self.image)
                with self._ways[node].opened() as image:
                    self._attach(node, image, "--direct-io=on")
            else:
                self._attach(node, self.image)
        return self._devices[node]

    def _attach(self, node: str, image: Path, *options: str) -> None:
        argv = ["losetup", "--find", "--show", *options, str(image)]
        device = subprocess.run(argv, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()
        self._devices[node] = device
        self._descriptors[node] = os.open(device, os.O_RDONLY)
        subprocess.run(["losetup", "--detach", device], check=True)  # lazily: it is in use

    def hang(self, node: str) -> None:
        """Let every read and write of the node wait, in state D, where SIGKILL does not end it."""
        self._ways[node].hang()

    def resume(self, node: str) -> None:
        """Let what waits go on, and everything after it."""
        self._ways[node].resume()

    def hangs(self, node: str) -> bool:
        """Tell whether the node's device hangs now."""
        return node in self._ways and self._ways[node].hangs

    def resume_all(self) -> None:
        """Let every device go on: who waits for one cannot end."""
        for way in self._ways.values():
            if way.hangs:
                way.resume()

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
        for way in self._ways.values():
            way.close()
        self._ways.clear()
