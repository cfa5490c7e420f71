"""Whose is what an action starts? The variables that every program of an action inherits.

They are set for the time of the action and no longer, so that a status evaluation, before it or
after it, belongs to no service. Set here and not where the daemon forks: an action by hand must
be marked as well. The guardian finds the processes of an instance by them (`held`).

Runs in: the main thread of a process that does one action at a time.
"""

from __future__ import annotations

import contextlib
import os
from typing import Iterator

from opensvc_hb.held import ACTION_MARK, MARKS, marks_of
from opensvc_hb.paths import Root


@contextlib.contextmanager
def marked(root: Root, svcname: str, verb: str) -> Iterator[None]:
    """Mark what is started meanwhile as this service's, started by this verb."""
    before = {name: os.environ.get(name) for name in MARKS}
    os.environ.update(marks_of(root.top, svcname, verb))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def now_by(verb: str) -> None:
    """From here on the action starts what it starts by this verb: a restart stops, then starts."""
    os.environ[ACTION_MARK] = verb
