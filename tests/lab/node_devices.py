"""Gives a lab node a /dev of its own, without the machine's disks, watchdog and device-mapper.

Run by path on a node that has just booted, once. Loop devices belong to the kernel and are shared
with the machine; every number that it may hand out has a file here.
"""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

NEW = Path("/srv/dev")
LOOP_DEVICES = 256
LOOP_MAJOR = 7
CHARACTERS = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "fd/0",
    "stdout": "fd/1",
    "stderr": "fd/2",
}


def mount(*argv: str) -> None:
    """Mount something, or fail."""
    subprocess.run(["mount", *argv], check=True)


def main() -> None:
    """Make the devices, and mount their directory over /dev."""
    NEW.mkdir()
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(NEW))
    os.umask(0)
    for name, numbers in CHARACTERS.items():
        os.mknod(NEW / name, 0o666 | stat.S_IFCHR, os.makedev(*numbers))
    os.mknod(NEW / "loop-control", 0o600 | stat.S_IFCHR, Path("/dev/loop-control").stat().st_rdev)
    for number in range(LOOP_DEVICES):
        os.mknod(NEW / f"loop{number}", 0o600 | stat.S_IFBLK, os.makedev(LOOP_MAJOR, number))
    for name, target in LINKS.items():
        (NEW / name).symlink_to(target)
    for name in ("pts", "shm", "mapper"):
        (NEW / name).mkdir(0o755)
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", str(NEW / "pts"))
    mount("-t", "tmpfs", "tmpfs", str(NEW / "shm"))
    mount("--rbind", str(NEW), "/dev")


if __name__ == "__main__":
    main()
