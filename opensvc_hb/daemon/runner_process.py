"""The warm action runner: a process with the agent imported, which forks workers for actions.

A thousand takeovers cost a few forks, and no interpreter start. This module only sets the
process up; `runner_loop` is what it does, `runner_child` what its workers do.

Runs in: the runner process, started by `runner_keeper` as
`python -m opensvc_hb.daemon.runner_process --fd N`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import resource
import signal
import socket
import sys
import traceback
from typing import Optional, Sequence

from opensvc_hb import paths
from opensvc_hb.daemon.runner_action import AgentAdapter
from opensvc_hb.daemon.runner_child import settings_of_this_process, take_streams
from opensvc_hb.daemon.runner_loop import RunnerLoop
from opensvc_hb.daemon.runner_rest import set_priority
from opensvc_hb.daemon.runner_wire import Channel, Unable

_NICE = -10
"""Of this process alone: each worker goes back to 0, or stays ordinary where this was refused."""
DEFAULT_ADAPTER = "opensvc_hb.agent.warm:warm_agent"


def load_adapter(place: str) -> AgentAdapter:
    """Return the adapter of `module:factory`, called with this node's root and name."""
    module, _, factory = place.partition(":")
    adapter: AgentAdapter = getattr(importlib.import_module(module), factory)(paths.root(), paths.node_name())
    return adapter


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the runner on the socket that the daemon left open for it; return its exit status."""
    parser = argparse.ArgumentParser(prog="runner_process", description="Forks processes for actions.")
    parser.add_argument("--fd", type=int, required=True, help="our end of the daemon's socketpair")
    parser.add_argument("--max", type=int, default=None, help="how many actions may run at once")
    parser.add_argument("--adapter", default=DEFAULT_ADAPTER, help="module:factory of the agent")
    options = parser.parse_args(arguments)
    # Our life hangs on the socket alone: a terminal's ^C, or a SIGTERM to the whole control
    # group, must not end actions that run.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=options.fd) as end:
        end.set_inheritable(False)
        channel = Channel(end)
        try:
            adapter = load_adapter(options.adapter)
        except Exception as error:  # any site driver may be imported here
            traceback.print_exc()
            end.setblocking(True)
            channel.send(Unable(f"cannot load the agent: {type(error).__name__}: {error}".splitlines()[0]))
            channel.flush()
            return 1
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        take_streams()
        gc.collect()
        gc.freeze()  # workers share these pages with us as long as nobody counts references in them
        settings = settings_of_this_process(paths.root().var / "lock", soft)
        # One that only forks and passes on must not queue behind the workers that it feeds.
        with contextlib.suppress(OSError):
            set_priority(_NICE)
        RunnerLoop(channel, adapter, settings, options.max).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
