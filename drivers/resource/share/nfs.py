"""A directory exported to NFS clients: `[share#N] type = nfs`.

Up when every client of the section has the directory, with the options asked for at least. The
kernel's NFS server belongs to the node; a service brings its exports and takes them away.

Source: B.4, E; exports(5), exportfs(8).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Dict, FrozenSet, Sequence, Tuple

from opensvc_hb.agent.resource import ActionError, Keyword, Resource, Status

from .._commands import must
from ..fs._mounts import mounts_at, parse_mountinfo

EXPORTFS_TIMEOUT_S = 30.0
STATUS_TIMEOUT_S = 10.0
_CLIENT = re.compile(r"([^\s()]+)\(([^\s()]*)\)")
EVERYBODY = {"*": "<world>"}
"""How exportfs shows a client that stands for all."""

Clients = Tuple[Tuple[str, Tuple[str, ...]], ...]


class NotInstalledError(ActionError):
    """The node has no NFS server."""


@dataclass(frozen=True)
class Export:
    """One line of `exportfs -v`: a directory, a client as shown, the options in effect."""

    path: str
    client: str
    options: FrozenSet[str]


def clients(text: str) -> Clients:
    """Convert `client(opt,opt) client(opt)` to clients with their options, in their order."""
    words = text.split()
    found = [_CLIENT.fullmatch(word) for word in words]
    names = [match.group(1) for match in found if match]
    if not words or None in found or len(set(names)) != len(names):
        raise ValueError(f"malformed share opts: '{text}'. must be in client(opts) client(opts) format")
    return tuple(
        (match.group(1), tuple(option for option in match.group(2).split(",") if option))
        for match in found
        if match
    )


def shared_path(text: str) -> str:
    """Convert the path of a shared directory: absolute, without white space, no trailing slash."""
    if not text.startswith("/") or text.split() != [text]:
        raise ValueError(f"'{text}' is not an absolute path without white space")
    return text.rstrip("/") or "/"


def parse_exports(text: str) -> Tuple[Export, ...]:
    """Return what `exportfs -v` lists; a long path stands on a line of its own, before its client."""
    found = []
    path = ""
    for line in text.splitlines():
        words = line.split()
        if words and not line[0].isspace():
            path = words.pop(0)
        for word in words:
            match = re.fullmatch(r"(\S+?)\((\S*)\)", word)
            if match and path:
                found.append(Export(path, match.group(1), frozenset(match.group(2).split(","))))
    return tuple(found)


class ShareNfs(Resource):
    """An exported directory."""

    group = "share"
    type_name = "share.nfs"
    tells_activation = True
    types = ("nfs",)
    sections = ("share",)
    keywords = (
        Keyword("type", "Kind of share; chooses the driver.", required=True, scopable=True, candidates=types),
        Keyword("path", "The directory to export.", convert=shared_path, required=True, scopable=True),
        Keyword(
            "opts",
            "Clients with their export options: client(opt,opt) client(opt).",
            convert=clients,
            required=True,
            scopable=True,
        ),
    )

    proc_path: ClassVar[Path] = Path("/proc")

    @property
    def path(self) -> str:
        """The keyword `path`."""
        return str(self.options["path"])

    @property
    def clients(self) -> Clients:
        """The clients of `opts`, with the options that each must have."""
        found: Clients = self.options["opts"]
        return found

    @property
    def label(self) -> str:
        """`nfs:PATH`."""
        return f"nfs:{self.path}"

    def status(self) -> Status:
        """Compare the kernel's exports with what is asked for."""
        try:
            here = self._exported()
        except ActionError as error:
            self.say(str(error))
            return Status.WARN
        if not here or not self._is_mounted():
            return Status.DOWN
        status = Status.UP
        for client, wanted in self.clients:
            if client not in here:
                self.say(f"{self.path} not exported to client {client}")
                status = Status.WARN
            elif not here[client] >= frozenset(wanted):
                current = ",".join(sorted(here[client]))
                self.say(
                    f"{self.path} is exported to client {client} with missing options: "
                    f"current '{current}', minimum required '{','.join(wanted)}'"
                )
                status = Status.WARN
        return status

    def concerns(self) -> Tuple[str, ...]:
        """Whether exports can be asked for."""
        try:
            self._exported()
        except ActionError as error:
            return (str(error),)
        return ()

    def start(self) -> None:
        """Export the directory to each client that does not have it as wanted."""
        here = self._exported()
        missing = [
            (client, wanted)
            for client, wanted in self.clients
            if client not in here or not here[client] >= frozenset(wanted)
        ]
        self.activated = False
        if not missing:
            self.context.info(f"{self.path} is already up")
            return
        try:
            for client, wanted in missing:
                options = ["-o", ",".join(wanted)] if wanted else []
                must(self.context, ["exportfs", *options, self._target(client)], EXPORTFS_TIMEOUT_S)
        except ActionError:
            if not here:
                self._take_away(tuple(self._exported()))
            raise
        self.activated = not here

    def stop(self) -> None:
        """Take the directory away from each client of ours."""
        try:
            here = self._exported()
        except NotInstalledError:
            here = {}  # then nothing was ever exported
        ours = [client for client, _ in self.clients if client in here]
        if not ours:
            self.context.info(f"{self.path} is already down")
        self._take_away(ours)

    def _take_away(self, ours: Sequence[str]) -> None:
        for client in ours:
            must(self.context, ["exportfs", "-u", self._target(client)], EXPORTFS_TIMEOUT_S)

    def _is_mounted(self) -> bool:
        """Tell whether the service's file systems that the directory is in are mounted.

        The list of exports outlives a power cut; an export of an empty mount point is not the service's.
        """
        around = [
            str(other.options["mnt"])
            for other in self.context.service_resources()
            if other.group == "fs" and f"{self.path}/".startswith(f"{other.options['mnt']}/")
        ]
        mounts = parse_mountinfo((self.proc_path / "self/mountinfo").read_text(errors="surrogateescape"))
        return all(mounts_at(mounts, mount_point) for mount_point in around)

    def _target(self, client: str) -> str:
        """Return client and directory as exportfs takes them."""
        return f"[{client}]:{self.path}" if ":" in client else f"{client}:{self.path}"

    def _exported(self) -> Dict[str, FrozenSet[str]]:
        """Return the clients of ours that have the directory, by name, with the options in effect.

        Raises:
            NotInstalledError: there is no exportfs.
            ActionError: it fails.
        """
        try:
            result = self.context.run(["exportfs", "-v"], STATUS_TIMEOUT_S)
        except ActionError as error:
            if str(error).endswith("command not found"):
                raise NotInstalledError("exportfs is not installed") from None
            raise
        if result.status != 0:
            raise ActionError(f"exportfs -v failed: {' '.join(result.stderr.split())}")
        shown = {EVERYBODY.get(client, client): client for client, _ in self.clients}
        return {
            shown[export.client]: export.options
            for export in parse_exports(result.stdout)
            if export.path == self.path and export.client in shown
        }
