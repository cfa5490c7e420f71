"""The actions of svcmgr that send copies to other nodes, and those by which nodes tell each other.

`syncnodes`, `syncdrp`, `syncall` send; `presync` and `postsync` judge the service's file before and
after; `print node` answers a node that is about to send.

Source: C.1, C.5. Without --waitlock nobody is waited for: the next copy is never far.
"""

from __future__ import annotations

import sys
from typing import Callable, Mapping, Optional

from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.names import make_heartbeat_command
from opensvc_hb.agent.progress import Progress
from opensvc_hb.cli.svcmgr_options import CommandLine, seconds_of
from opensvc_hb.errors import ExitCode

PRINT_NODE = "print_node"
"""An action that is about no service."""


def handlers(
    loader: Loader, line: CommandLine, cluster: bool, progress: Optional[Progress] = None
) -> Mapping[str, Callable[[str], int]]:
    """Return what does each action on one service, by the action's name; each returns an exit code."""

    def send(svcname: str) -> int:
        from opensvc_hb.agent.actions import Options
        from opensvc_hb.agent.foreign import ForeignService, foreign_line
        from opensvc_hb.agent.sync_action import run_sync

        foreign = foreign_line(loader.root, svcname)
        if foreign is not None:
            return ForeignService(loader.root, foreign, loader.log(svcname)).act(line.action, cluster)
        options = Options(
            cluster=cluster,
            force=line.has("force"),
            dry_run=line.has("dry-run"),
            rids=line.items("rid"),
            tags=line.items("tags"),
            wait_lock_s=seconds_of(line.options.get("waitlock"), 0.0),
        )
        service = loader.service(svcname, cluster)
        if service.of_group("hb") and not options.dry_run:
            make_heartbeat_command(loader.root, svcname)
        return run_sync(loader, service, line.action, options, line.has("cron"), progress)

    def judge(svcname: str) -> int:
        from opensvc_hb.agent.sync_action import judge_arrived

        return judge_arrived(loader, svcname)

    return {"syncnodes": send, "syncdrp": send, "syncall": send, "presync": judge, "postsync": judge}


def print_node(loader: Loader, line: CommandLine) -> int:
    """Print what this node says of itself to one that is about to send it something."""
    from opensvc_hb.agent.remote import NodeFacts, facts_line

    configuration = loader.node_configuration
    environment = configuration.environment if configuration.is_environment_set else ""
    facts = NodeFacts(loader.node, str(loader.root.top), environment)
    if line.has("format"):
        sys.stdout.write(f"{facts_line(facts)}\n")
    else:
        sys.stdout.write(f"node {facts.node}\nroot {facts.top}\nhost mode {configuration.environment}\n")
    return int(ExitCode.DONE)
