"""Who keeps a mount busy, and how to end them: the ladder of an unmount.

A process holds a mount by its working directory, its root, its program, an open file or a
mapped file. Whether that is on *this* mount is told by the kernel's mount id and not by the
device number: a bind mount of `/` has the device number of everything.

Never ended: process 1, this process and its ancestors, and our own daemon and commands.
They are reported as holders like the others. Processes are signalled by pidfd, after a
second look, so that a number used again hits nobody else.
"""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import FrozenSet, Iterable, List, Optional, Sequence, Tuple

OUR_COMMANDS = frozenset({"hbmgr", "svcmgr", "svcmon"})
LINKS = ("cwd", "root", "exe")


@dataclass(frozen=True)
class Holder:
    """A process that keeps a mount busy.

    Args:
        pid: its number.
        command: its command line, at most 60 characters.
        may_end: False for process 1, our ancestors and our own programs.
    """

    pid: int
    command: str
    may_end: bool

    def __str__(self) -> str:
        """`1234 (sleep 300)`, as the log shows it."""
        return f"{self.pid} ({self.command})"


def find_holders(mount_id: int, device: str, proc: Path) -> List[Holder]:
    """Return the processes that hold a mount, by number.

    Args:
        mount_id: the mount, as in mountinfo.
        device: its `major:minor`, to spare most processes a closer look.
        proc: where procfs is mounted.
    """
    spared = _ancestors(os.getpid(), proc) | {1}
    found = []
    for folder in proc.iterdir():
        if folder.name.isdigit() and _holds(folder, mount_id, device):
            words = _command_line(folder)
            pid = int(folder.name)
            may_end = pid not in spared and not _is_ours(words)
            found.append(Holder(pid, " ".join(words)[:60], may_end))
    return sorted(found, key=lambda holder: holder.pid)


def end_holders(
    holders: Iterable[Holder], number: signal.Signals, grace_s: float, mount_id: int, device: str, proc: Path
) -> None:
    """Send a signal to holders that may be ended, and wait until they have, at most `grace_s` seconds."""
    poll = select.poll()
    running = set()
    try:
        for holder in holders:
            if not holder.may_end:
                continue
            try:
                descriptor = os.pidfd_open(holder.pid)
            except ProcessLookupError:
                continue
            running.add(descriptor)
            if not _holds(proc / str(holder.pid), mount_id, device):
                running.discard(descriptor)
                os.close(descriptor)
                continue
            poll.register(descriptor, select.POLLIN)
            _send(descriptor, number)
        deadline = _now() + grace_s
        while running:
            ended = poll.poll(max(0.0, deadline - _now()) * 1000)
            if not ended:
                return
            for descriptor, _ in ended:
                poll.unregister(descriptor)
                running.discard(descriptor)
                os.close(descriptor)
    finally:
        for descriptor in running:
            os.close(descriptor)


def named(holders: Sequence[Holder]) -> str:
    """Return holders as text for the log: `1234 (sleep 300), 1240 (db)`."""
    return ", ".join(str(holder) for holder in holders)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _send(descriptor: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return  # it ended by itself: what was wanted


def _holds(folder: Path, mount_id: int, device: str) -> bool:
    if any(_mount_of_link(folder / name) == mount_id for name in LINKS):
        return True
    if any(_mount_of_descriptor(info) == mount_id for info in _entries(folder / "fdinfo")):
        return True
    return any(_mount_of_link(folder / "map_files" / area) == mount_id for area in _areas(folder, device))


def _mount_of_link(link: Path) -> Optional[int]:
    """Return the mount id behind a magic link of procfs; opening with O_PATH does no I/O there."""
    try:
        descriptor = os.open(link, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None  # the process ended, or is a kernel thread
    try:
        return _mount_of_descriptor(Path(f"/proc/self/fdinfo/{descriptor}"))
    finally:
        os.close(descriptor)


def _mount_of_descriptor(info: Path) -> Optional[int]:
    try:
        lines = info.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("mnt_id:"):
            return int(line.split()[1])
    return None


def _entries(folder: Path) -> Tuple[Path, ...]:
    try:
        return tuple(folder.iterdir())
    except OSError:
        return ()


def _areas(folder: Path, device: str) -> List[str]:
    """Return the address ranges of files of `device` that a process has mapped."""
    try:
        lines = (folder / "maps").read_text(errors="replace").splitlines()
    except OSError:
        return []
    major, _, minor = device.partition(":")
    wanted = (int(major), int(minor))
    areas = []
    for line in lines:
        fields = line.split(None, 5)
        mapped = fields[3].partition(":")
        if fields[4] != "0" and (int(mapped[0], 16), int(mapped[2], 16)) == wanted:
            # maps pads addresses to eight digits, map_files does not
            areas.append("-".join(f"{int(address, 16):x}" for address in fields[0].split("-")))
    return areas


def _command_line(folder: Path) -> Tuple[str, ...]:
    try:
        words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        return tuple(word for word in words if word) or ((folder / "comm").read_text().strip(),)
    except OSError:
        return ("?",)


def _is_ours(words: Sequence[str]) -> bool:
    """Tell whether a command line is that of a program of ours, run directly or by an interpreter."""
    return any(
        word.rpartition("/")[2] in OUR_COMMANDS or word.startswith("opensvc_hb.") for word in words[:4]
    )


def _ancestors(pid: int, proc: Path) -> FrozenSet[int]:
    """Return a process and all its ancestors."""
    line = {pid}
    while pid > 1:
        try:
            stat = (proc / str(pid) / "stat").read_text(errors="replace")
        except OSError:
            break
        pid = int(stat.rpartition(")")[2].split()[1])
        line.add(pid)
    return frozenset(line)
