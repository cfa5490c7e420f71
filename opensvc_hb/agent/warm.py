"""The agent made ready for the daemon's runner: everything imported before the first fork.

Commands start quickly because they import late and little; the runner wants the opposite,
once, so that no action pays for an import. A driver, or a library, that cannot be imported
is no matter here: the service that needs it says so when it is acted on.

Runs in: the runner process, at its start.
"""

from __future__ import annotations

import codecs
import contextlib
import importlib
from typing import Set, Tuple

from opensvc_hb.agent.drivers import Missing
from opensvc_hb.agent.foreign import NodeAdapter
from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.names import list_services
from opensvc_hb.agent.rehearsal import rehearse
from opensvc_hb.agent.service import keywords_of
from opensvc_hb.agent.started_mark import this_life
from opensvc_hb.errors import HbError
from opensvc_hb.paths import Root

_IMPORTED_LATE = ("opensvc_hb.client", "subprocess", "traceback")
"""What the agent and its drivers import only where they use it."""
_LIBRARIES = {"container": ("docker",)}
"""What a driver of these families imports only when it needs it, and which is long in coming."""
_CODECS = ("ascii", "utf-8-sig")
"""A codec, too, is a module that is imported when it is first used."""


def warm_agent(root: Root, node: str) -> NodeAdapter:
    """Return the agent of this node, with its drivers and their libraries imported, and rehearsed."""
    loader = Loader(root, node)
    for name in (*_IMPORTED_LATE, *_libraries_needed(loader)):
        with contextlib.suppress(Exception):  # the driver boundary: any library may break in any way
            importlib.import_module(name)
    for name in _CODECS:
        codecs.lookup(name)
    for driver in loader.finder.all():
        if not isinstance(driver, Missing):
            keywords_of(driver)
    with contextlib.suppress(OSError):
        this_life()
    rehearse(root, node, loader.finder)
    return NodeAdapter(root, node, loader)


def _libraries_needed(loader: Loader) -> Tuple[str, ...]:
    """Return the libraries of families that some service of this node has; few nodes need all of them."""
    families: Set[str] = set()
    for svcname in list_services(loader.root):
        with contextlib.suppress(HbError, OSError):
            families.update(section.partition("#")[0] for section in loader.file(svcname).sections)
    return tuple(name for family in sorted(families) for name in _LIBRARIES.get(family, ()))
