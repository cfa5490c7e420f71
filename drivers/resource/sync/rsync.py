"""Data of a service copied to the nodes that do not run it: [sync#N].

Only the node on which the service is up sends, to the nodes of `target`, one copy of `src` into
`dst`; what is no longer in `src` is deleted there.

Source: A.7, B.6 (label), C.5. `snap`, a copy of a snapshot, is refused: a copy of files that are
being written would not be what was asked for. `timeout` is ours.
"""

from __future__ import annotations

import glob
from typing import List, Tuple

from opensvc_hb.agent.resource import (
    ActionError,
    Keyword,
    Peer,
    boolean,
    integer,
    remote,
    synchronize,
    words,
)

from ._rsync import KINDS, VANISHED, RsyncCopy, said_of

LABEL_SOURCES_MAX = 300
"""Characters of the sources that the label shows (B.6)."""


def target_kinds(text: str) -> Tuple[str, ...]:
    """Convert `target`: `nodes`, `drpnodes`, or both."""
    given = text.lower().split()
    wrong = [word for word in given if word not in KINDS]
    if wrong:
        raise ValueError(f"'{' '.join(wrong)}' is not allowed (nodes, drpnodes, or both)")
    return tuple(given)


def no_snapshot(text: str) -> bool:
    """Convert `snap`, which cannot be true."""
    if boolean(text):
        raise ValueError("snapshots are not available: the files would be copied while they are written")
    return False


def kibibytes(text: str) -> int:
    """Convert a positive number of KiB a second."""
    value = integer(text)
    if value <= 0:
        raise ValueError(f"'{text}' is not a positive number of KiB a second")
    return value


def seconds(text: str) -> float:
    """Convert a positive number of seconds."""
    value = float(integer(text))
    if value <= 0:
        raise ValueError(f"'{text}' is not a positive number of seconds")
    return value


class Rsync(RsyncCopy):
    """A copy of directories or files on other nodes."""

    sections = ("sync",)
    keywords = (
        Keyword("type", "Way of copying.", default="rsync", candidates=("rsync",), scopable=True),
        Keyword(
            "src",
            "What is copied: paths, patterns of the shell allowed. As rsync has it, a path that ends in / "
            "means what is in that directory.",
            convert=words,
            required=True,
            scopable=True,
        ),
        Keyword("dst", "Where the copies are put on the other nodes.", required=True, scopable=True),
        Keyword(
            "target",
            "Who gets a copy: nodes, drpnodes, or both. Without it nobody does.",
            convert=target_kinds,
            default=(),
            scopable=True,
        ),
        Keyword("options", "Further options of rsync.", convert=words, default=(), scopable=True),
        Keyword(
            "exclude",
            "What is left out: patterns of rsync, or its options --exclude=PATTERN.",
            convert=words,
            default=(),
            scopable=True,
        ),
        Keyword(
            "dstfs",
            "A mount point on the other nodes that must be mounted there: nothing is sent to a node where it "
            "is not, so that the file system above it does not fill up.",
            default="",
            scopable=True,
        ),
        Keyword(
            "snap",
            "Copy a snapshot of the file system. Not available, so it must be false.",
            convert=no_snapshot,
            default=False,
            scopable=True,
        ),
        Keyword("bwlimit", "KiB a second that a transfer may take; no limit by default.", convert=kibibytes),
        Keyword(
            "timeout",
            "Seconds that the transfer to one node may take.",
            convert=seconds,
            default=86400.0,
            scopable=True,
        ),
        Keyword(
            "schedule",
            "The same as sync_schedule, for this resource.",
            convert=synchronize.schedule,
            since="1.8",
        ),
        *synchronize.KEYWORDS,
    )

    @property
    def label(self) -> str:
        """What goes where."""
        sources = ", ".join(self.options["src"])
        return f"rsync {sources[:LABEL_SOURCES_MAX]} to {', '.join(self.options['target'])}"

    @property
    def route(self) -> str:
        """Return what is copied where."""
        return f"{' '.join(self.options['src'])} => {self.options['dst']}"

    @property
    def target_kinds(self) -> Tuple[str, ...]:
        """Return who gets a copy, as the section says."""
        kinds: Tuple[str, ...] = self.options["target"]
        return kinds

    @property
    def schedule(self) -> synchronize.Schedule:
        """The section's own `schedule`, if it has one."""
        own: synchronize.Schedule = self.options["schedule"]
        return super().schedule if own is None else own

    @property
    def transfer_limit_s(self) -> float:
        """Return how long one transfer may take."""
        return float(self.options["timeout"])

    def send(self, peer: Peer) -> str:
        """Send the copy to one node; returns the transfer's numbers."""
        options = self.options
        more: List[str] = [
            word if word.startswith("-") else f"--exclude={word}" for word in options["exclude"]
        ]
        if options["bwlimit"] is not None:
            more.append(f"--bwlimit={options['bwlimit']}")
        more += options["options"]
        sources = self._sources()
        if options["dstfs"]:
            self._must_be_mounted(peer, options["dstfs"])
        result = self.rsync(more, sources, f"{peer.node}:{options['dst']}")
        numbers = said_of(result)
        if result.status == VANISHED:
            numbers += " (some went away meanwhile)"
        return f"{' '.join(options['src'])} sent to {peer.node}:{options['dst']}: {numbers}"

    def _sources(self) -> List[str]:
        found: List[str] = []
        for pattern in self.options["src"]:
            paths = sorted(glob.glob(pattern))  # noqa: PTH207  # a Path loses the / at the end
            if not paths:
                raise ActionError(f"src {pattern} does not exist")
            found += paths
        return found

    def _must_be_mounted(self, peer: Peer, mount_point: str) -> None:
        argv = remote.ssh_argv(peer.node, ("mountpoint", "-q", mount_point))
        result = self.context.run(list(argv), remote.ANSWER_LIMIT_S)
        if result.status == remote.SSH_FAILED:
            raise ActionError(remote.reason_of(result.stderr, result.stdout, result.status))
        if result.status != 0:
            raise ActionError(f"dstfs {mount_point} is not mounted on {peer.node}")
