"""The agent made ready for the daemon's runner: everything imported before the first fork.

Commands start quickly because they import late and little; the runner wants the opposite,
once, so that no action pays for an import. A driver, or a library, that cannot be imported
is no matter here: the service that needs it says so when it is acted on.

Runs in: the runner process, at its start.
"""

from __future__ import annotations

import contextlib
import importlib

from opensvc_hb.agent.adapter import AgentAdapter
from opensvc_hb.agent.loader import Loader
from opensvc_hb.paths import Root

_IMPORTED_LATE = ("opensvc_hb.client", "psutil", "pyroute2", "subprocess", "traceback")
"""What the agent and its drivers import only where they use it."""


def warm_agent(root: Root, node: str) -> AgentAdapter:
    """Return the agent of this node, with its drivers and their libraries imported."""
    for name in _IMPORTED_LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    loader = Loader(root, node)
    loader.finder.all()
    return AgentAdapter(root, node, loader)
