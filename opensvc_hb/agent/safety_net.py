"""May this action be done by hand on a service that the heartbeat drives?

Pure. Source: C.4: with an enabled hb resource, actions that move resources need --cluster
(or the `.cluster` link); with all hb resources disabled, which means maintenance, plain
actions are allowed and those with --cluster refused, so that the heartbeat daemon does not
undo what the operator does. A refusal is exit 1: a daemon must not believe that its start
worked.
"""

from __future__ import annotations

from opensvc_hb.agent.frozen import ALLOWED_ACTIONS as ALLOWED_ON_FROZEN
from opensvc_hb.agent.service import Service

ALLOWED_ACTIONS = ALLOWED_ON_FROZEN | frozenset(
    [
        "boot",
        "docker",
        "startstandby",
        "resource_monitor",
        "toc",
        "presync",
        "postsync",
        "syncdrp",
        "syncnodes",
        "syncall",
    ]
)
"""Actions that need no --cluster."""

REFUSAL = (
    "this service is managed by a clusterware, thus direct service manipulation is disabled. "
    "the --cluster option circumvent this safety net."
)
MAINTENANCE = (
    "this service has heartbeat resources, but all disabled. this state is interpreted as a "
    "maintenance mode. actions submitted with --cluster are not allowed to inhibit actions "
    "triggered by the heartbeat daemon."
)


def objection(service: Service, action: str, cluster: bool) -> str:
    """Return the sentence that refuses an action, "" when it may be done."""
    heartbeats = service.of_group("hb")
    if not heartbeats or action in ALLOWED_ACTIONS:
        return ""
    if all(member.disable for member in heartbeats):
        return MAINTENANCE if cluster else ""
    return "" if cluster else REFUSAL
