"""A service that does not exist, started and stopped a few times before anybody needs a real one.

The interpreter makes code faster as it runs it, and fills caches of many kinds. A worker of the
runner starts with what its parent has; what the parent never ran, each worker makes anew, in
memory that it first has to copy. So the runner goes the way of an action itself, some twenty
times, in a directory of its own: it costs a tenth of a second once, and every action, and so
every takeover, a fifth less from then on.

Nothing of it is seen: no log line leaves it, no other service is touched, and a rehearsal that
fails is no matter.

Runs in: the runner process, at its start.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from opensvc_hb.agent.adapter import AgentAdapter
from opensvc_hb.agent.drivers import DriverFinder
from opensvc_hb.agent.loader import Loader
from opensvc_hb.paths import Root

TIMES = 20
"""The interpreter looks at what it has run eight times or more."""
SCRIPT = "/bin/true"
_NAME = "rehearsal"
_TEXT = f"""[DEFAULT]
service_type = TST
nodes = {{node}} other-{{node}}

[app#1]
script = {SCRIPT}
start = 10
stop = 10

[hb#0]
type = OpenHA
"""


def rehearse(root: Root, node: str, finder: DriverFinder, times: int = TIMES) -> None:
    """Go the way of a start and a stop `times` times; leaves nothing behind but what it warmed."""
    stage = Root(root.run / f".{_NAME}.{os.getpid()}")
    with contextlib.suppress(OSError):
        stage.etc.mkdir(parents=True)
        (stage.etc / f"{_NAME}.env").write_text(_TEXT.format(node=node), encoding="utf-8")
        loader = Loader(stage, node, write_log=_ignore)
        loader.use_finder(finder)
        agent = AgentAdapter(stage, node, loader)
        for _ in range(times):
            agent.start(_NAME)
            agent.examine(_NAME, was_started=True)
        agent.stop(_NAME)
    _remove(stage.top)


def _ignore(_text: str) -> None:
    return None


def _remove(folder: Path) -> None:
    """Remove what was made here, and nothing that a link would lead to."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.is_dir(follow_symlinks=False):
                _remove(Path(entry.path))
            else:
                os.unlink(entry.path)  # noqa: PTH108  # the entry's own path
        folder.rmdir()
