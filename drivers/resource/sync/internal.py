"""The implicit copies of a service: its own files (sync#i0), the system's (sync#i1).

No section chooses this driver: the agent adds these resources to every service of two nodes or
more; a section [sync#i0] may carry options. What is sent stands under the same path on the other
node, below that node's own root directory, except for the system's files: those are for people
to look up, and are kept apart.

Source: A.9, C.5. Directories above what is sent keep their permissions on the other node, which
the agents changed to those of the sender.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import List, Tuple

from opensvc_hb.agent.resource import ActionError, Keyword, Peer, remote, synchronize, words

from ._rsync import RsyncCopy

SUFFIXES = (".env", ".conf", "", ".cluster", ".stonith", ".dir", ".d")
"""What belongs to a service in `etc/opensvc`, where it is there."""

SYSTEM_FILES = (
    "/etc/hosts",
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/exports",
    "/etc/multipath.conf",
    "/etc/lvm/lvm.conf",
    "/etc/sysctl.conf",
    "/etc/sysctl.d",
    "/etc/network/interfaces",
    "/etc/netplan",
    "/etc/systemd/network",
)
"""What tells how this node was set up. Nothing secret."""

RELATIVE = ("-R", "--no-implied-dirs", "--exclude=*.core")


class InternalSync(RsyncCopy):
    """An implicit copy: up when no node that needs it is late."""

    sections = ()
    keywords = (
        Keyword("options", "Options of rsync for this transfer.", convert=words, default=()),
        *synchronize.KEYWORDS,
    )

    @property
    def label(self) -> str:
        """What goes where; sync#i0 names its two targets always in this order."""
        if self.rid == "sync#i0":
            return "rsync svc config to drpnodes, nodes"
        return "rsync system files to drpnodes"

    @property
    def route(self) -> str:
        """Return what goes where, in short."""
        return "svc config => /" if self.rid == "sync#i0" else "system files => /"

    @property
    def target_kinds(self) -> Tuple[str, ...]:
        """Return who gets a copy: of the system's files only the disaster recovery nodes."""
        return ("nodes", "drpnodes") if self.rid == "sync#i0" else ("drpnodes",)

    @property
    def top(self) -> str:
        """Root directory of this node, "" for /."""
        return str(Path(self.context.etc).parents[1]).rstrip("/")

    def send(self, peer: Peer) -> str:
        """Send the files to one node; on success there is nothing to say (C.5)."""
        more = (*RELATIVE, *self.options["options"])
        if self.rid != "sync#i0":
            system = [f"/.{path}" for path in SYSTEM_FILES if os.path.lexists(path)]
            kept = Path(peer.top) / "var/lib/opensvc" / self.context.node
            self._make_folder(peer, str(kept))
            self.rsync(more, system, f"{peer.node}:{kept}/")
            return ""
        top_of_peer = peer.top.rstrip("/")
        own, asked_for = self._own_files(), self._asked_for()
        if not self.top and not top_of_peer:
            self.rsync(more, [*own, *asked_for], f"{peer.node}:/")
            return ""
        self.rsync(more, own, f"{peer.node}:{top_of_peer}/")
        if asked_for:
            self.rsync(more, asked_for, f"{peer.node}:/")
        return ""

    def _own_files(self) -> List[str]:
        """Return the service's files; what stands behind `/./` is their path on the other node."""
        folder = Path(self.context.etc)
        names = [f"{self.context.svcname}{suffix}" for suffix in SUFFIXES]
        found = [name for name in names if os.path.lexists(folder / name)]
        if not found:
            raise ActionError(f"no file of {self.context.svcname} in {folder}")
        return [f"{self.top}/./etc/opensvc/{name}" for name in found]

    def _asked_for(self) -> List[str]:
        """Return the files that other resources of the service want sent."""
        paths = dict.fromkeys(
            path for resource in self.context.service_resources() for path in resource.files_to_push()
        )
        return [f"/.{path}" for path in paths if path.startswith("/") and os.path.lexists(path)]

    def _make_folder(self, peer: Peer, folder: str) -> None:
        argv = remote.ssh_argv(peer.node, ("mkdir", "-p", folder))
        result = self.context.run(list(argv), remote.ANSWER_LIMIT_S)
        if result.status != 0:
            raise ActionError(remote.reason_of(result.stderr, result.stdout, result.status))
