"""What does the heartbeat daemon of this node know? Asked by its control socket, never by files.

That the daemon does not run, or does not answer, is an expected situation here and thus a
value. The client is imported when the first question is asked.
"""

from __future__ import annotations

from typing import Any, Mapping

from opensvc_hb.errors import ExitCode, HbError
from opensvc_hb.paths import Root

VERSION = 1
ANSWER_S = 5.0
"""How long a status waits for the daemon."""


def ask_daemon(root: Root, request: Mapping[str, Any], timeout_s: float = ANSWER_S) -> Mapping[str, Any]:
    """Ask the daemon one thing.

    Returns:
        Its answer, `{"ok": True, ...}` or `{"ok": False, "code": N, "error": TEXT}`;
        `{"ok": False, "running": False, "error": TEXT}` when it does not run.
    """
    if not root.socket.exists():
        return {"ok": False, "running": False, "error": f"{root.socket} does not exist"}
    from opensvc_hb.client import request as send

    try:
        return dict(send(str(root.socket), {"version": VERSION, **request}, timeout_s))
    except HbError as error:
        running = error.exit_code is not ExitCode.NOT_RUNNING
        return {"ok": False, "running": running, "error": str(error)}
