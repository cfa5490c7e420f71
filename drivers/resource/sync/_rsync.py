"""What the copies by rsync have in common: status, schedule, stamps, one transfer.

Shared by the sync drivers; not a driver. A status looks at the stamps that a transfer leaves on
both sides, at no file's content, and asks no other node.

Source: A.1 (stamps), B.5 (status), C.5 (rsync's flags). Of the agents' flags -v is left out: nobody
sees the list of files, and it would be kept in memory. The stamps hold wall clock times, since two
nodes compare them.
"""

from __future__ import annotations

import re
import shlex
import time
from pathlib import Path
from typing import Callable, Optional, Sequence, Tuple

from opensvc_hb.agent.resource import (
    ActionError,
    CommandResult,
    Status,
    SyncResource,
    remote,
    synchronize,
)

FLAGS = ("-HpogDtrlx", "--stats", "--delete", "--force", "--timeout=3600", "--protect-args")
KINDS = ("nodes", "drpnodes")

TRANSFER_LIMIT_S = 300.0
"""How long a transfer of a service's own files may take."""

VANISHED = 24
"""Exit status of rsync: files went away while it ran, and all that are left were sent."""

_STATISTICS = re.compile(
    r"Number of regular files transferred: (?P<files>[\d,.]+).*?"
    r"Total transferred file size: (?P<bytes>[\d,.]+) bytes",
    re.DOTALL,
)


class RsyncCopy(SyncResource):
    """A copy by rsync: up when no node that needs one is late."""

    wall_clock: Callable[[], float] = staticmethod(time.time)
    """Seconds since the epoch; stamps are dates."""

    @property
    def transfer_limit_s(self) -> float:
        """Return how long one transfer may take."""
        return TRANSFER_LIMIT_S

    @property
    def target_kinds(self) -> Tuple[str, ...]:
        """Return which of `KINDS` get a copy."""
        raise NotImplementedError

    def targets(self, kind: str) -> Tuple[str, ...]:
        """Return the nodes of a kind that get a copy, sorted, this node left out."""
        return tuple(node for node in self._all_targets((kind,)) if node != self.context.node)

    def _all_targets(self, kinds: Sequence[str] = KINDS) -> Tuple[str, ...]:
        members = {"nodes": self.context.nodes, "drpnodes": self.context.drpnodes}
        return tuple(sorted({node for kind in kinds if kind in self.target_kinds for node in members[kind]}))

    # -- status ---------------------------------------------------------------------------

    def status(self) -> Status:
        """Compare the stamps with `sync_max_delay`."""
        context = self.context
        targets = self._all_targets()
        others = [node for node in targets if node != context.node]
        if not others:
            self.say("no destination nodes")
            return Status.NA
        if self.rest is not Status.UP:
            if context.node not in targets:
                self.say("passive node not in sync destination nodes")
                return Status.NA
            if self._is_late(context.node):
                self.say("passive node needs update")
                return Status.WARN
            return Status.UP
        if context.node in context.drpnodes:
            self.say("service up on drp node, sync disabled")
            return Status.NA
        late = [node for node in others if self._is_late(node)]
        if late:
            self.say(f"{', '.join(late)} need update")
            return Status.DOWN
        return Status.UP

    def _is_late(self, node: str) -> bool:
        """Tell whether the node's copy is missing or older than `sync_max_delay` minutes."""
        name = synchronize.stamp_name(self.context.svcname, self.rid)
        sent_s = _stamp_in(Path(self.context.var) / "sync" / node / name)
        return synchronize.is_late(sent_s, self.wall_clock(), self.options["sync_max_delay"])

    # -- when -----------------------------------------------------------------------------

    def held_back(self) -> str:
        """Compare the schedule with the wall clock and with the last complete copy."""
        name = synchronize.last_sent_name(self.context.svcname, self.rid)
        last_s = _stamp_in(Path(self.context.var) / name)
        return synchronize.held_back(self.schedule, self.wall_clock(), last_s)

    @property
    def schedule(self) -> synchronize.Schedule:
        """The later agents' form, where it is given, else the three keywords of the tutorial's agent."""
        options = self.options
        if options["sync_schedule"] is not None:
            later: synchronize.Schedule = options["sync_schedule"]
            return later
        window = synchronize.Window(options["sync_period"], options["sync_days"], options["sync_interval"])
        return (window,)

    def stamp(self) -> str:
        """Return the content of a stamp of this moment."""
        return synchronize.stamp_text(self.wall_clock())

    # -- a transfer -----------------------------------------------------------------------

    def rsync(self, words: Sequence[str], sources: Sequence[str], destination: str) -> CommandResult:
        """Run rsync to its end.

        Args:
            words: options beside the flags that all transfers have.
            sources: what is sent.
            destination: `NODE:PATH`.

        Raises:
            ActionError: it failed, or did not end in time.
        """
        ssh = shlex.join(remote.SSH)
        argv = ["rsync", *FLAGS, *words, "-e", ssh, "--", *sources, destination]
        result = self.context.run(argv, self.transfer_limit_s)
        if result.status not in (0, VANISHED):
            raise ActionError(f"rsync: {remote.reason_of(result.stderr, result.stdout, result.status)}")
        return result


def said_of(result: CommandResult) -> str:
    """Return what rsync's statistics say, in short; "" when they cannot be read."""
    found = _STATISTICS.search(result.stdout)
    return f"{found['files']} files, {found['bytes']} bytes" if found else ""


def _stamp_in(path: Path) -> Optional[float]:
    try:
        return synchronize.stamp_time(path.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None
