"""After force-start and force-stop: what an operator declared, kept where a daemon finds it later.

Nobody can look whether a service driven by scripts alone is up: the mark of its last start or
stop tells. These two verbs run nothing, so the mark has to follow them, or a daemon that starts
later would believe the older story.

Runs in: the process of a command.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

from opensvc_hb.client import request
from opensvc_hb.errors import HbError
from opensvc_hb.paths import Root

FORCED_VERBS = ("force-start", "force-stop")


class NotKept(HbError):
    """The declaration holds now, but not beyond the daemon's life."""


def keep_forced(place: Root, verb: str, services: Optional[Sequence[str]]) -> None:
    """Let the marks of foreign services follow what the daemon says of them; other verbs are no matter.

    Args:
        place: the tree of this node.
        verb: what was asked of the daemon, and done.
        services: names or hb names; None for all.

    Raises:
        NotKept: this user may not write the mark.
        HbError: the daemon does not answer any more.
    """
    if verb not in FORCED_VERBS:
        return
    from opensvc_hb.agent.foreign import declare_states, foreign_line
    from opensvc_hb.agent.lock import LockHeldError, service_lock

    def ask(message: Dict[str, Any]) -> Dict[str, Any]:
        return request(str(place.socket), message, lock_path=str(place.lock))

    for name, one in ask({"request": "instances"}).get("instances", {}).items():
        svcname = str(one["service"])
        if services is not None and name not in services and svcname not in services:
            continue
        if foreign_line(place, svcname) is None:
            continue
        try:
            # The table may start it again at once: while we have the lock, no action changes the mark.
            with service_lock(place, svcname, 0.0):
                state = str(ask({"request": "instance", "service": name}).get("state"))
                declare_states(place, {svcname: state})
        except LockHeldError:
            continue  # an action runs, and leaves the mark that is right
        except OSError as error:
            why = f"{error.filename}: {error.strerror}"
            raise NotKept(
                f"done, but not kept for a daemon that starts later: {why}: repeat it as root"
            ) from error
