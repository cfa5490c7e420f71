"""The implicit copies of a service: its own files (sync#i0), the system's (sync#i1).

Tells by the stamps that a transfer leaves on both sides whether the other nodes have what
they need; it looks at no file's content and transfers nothing. No section chooses this
driver: the agent adds these resources to every service of two nodes or more.

Source: A.9, B.5. The stamps hold wall clock times, since two nodes compare them.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import List, Tuple

from opensvc_hb.agent.resource import Keyword, Resource, Status, words

STAMP_FORMAT = "%Y-%m-%d %H:%M:%S"


class InternalSync(Resource):
    """An implicit sync: up when no node that needs a copy is late."""

    group = "sync"
    type_name = "sync.rsync"
    sections = ()
    keywords = (Keyword("options", "Options of rsync for this transfer.", convert=words, default=()),)

    @property
    def label(self) -> str:
        """What goes where; sync#i0 names its two targets always in this order."""
        if self.rid == "sync#i0":
            return "rsync svc config to drpnodes, nodes"
        return "rsync system files to drpnodes"

    @property
    def targets(self) -> Tuple[str, ...]:
        """Nodes that get a copy, sorted."""
        context = self.context
        nodes = (*context.nodes, *context.drpnodes) if self.rid == "sync#i0" else context.drpnodes
        return tuple(sorted(set(nodes)))

    def status(self) -> Status:
        """Compare the stamps with `sync_max_delay`."""
        context = self.context
        others = [node for node in self.targets if node != context.node]
        if not others:
            self.say("no destination nodes")
            return Status.NA
        if self.rest is not Status.UP:
            if context.node not in self.targets:
                self.say("passive node not in sync destination nodes")
                return Status.NA
            if self._is_late(context.node):
                self.say("passive node needs update")
                return Status.WARN
            return Status.UP
        if context.node in context.drpnodes:
            self.say("service up on drp node, sync disabled")
            return Status.NA
        late: List[str] = [node for node in others if self._is_late(node)]
        if late:
            self.say(f"{', '.join(late)} need update")
            return Status.DOWN
        return Status.UP

    def _is_late(self, node: str) -> bool:
        """Tell whether the node's copy is missing or older than `sync_max_delay` minutes."""
        stamp = Path(self.context.var) / "sync" / node / f"{self.context.svcname}!{self.rid}"
        try:
            text = stamp.read_text(encoding="ascii", errors="replace").partition(".")[0].strip()
            synced_at = time.mktime(time.strptime(text, STAMP_FORMAT))
        except (OSError, ValueError, OverflowError):
            return True
        delay_minutes = float(self.context.default("sync_max_delay") or 1500.0)
        return time.time() - synced_at > delay_minutes * 60
