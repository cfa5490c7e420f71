"""How a service's monitored resources cross the runner's wire, and what a status document says of them.

The agent tells which resources are watched with the rest of its declaration, as JSON; what an
evaluation says of them is read from its document. Pure.

A warning is neither up nor down: whoever wants a service moved because of it must have its check
say down. Nor is anything down that was looked at while an action, or an operator, had it in hand.

Called by the runner's worker (`told_monitoring`), the runner thread and the statuses thread.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Tuple

from opensvc_hb.core.config import NOTHING_WATCHED, MonitorAction, Monitored, Monitoring
from opensvc_hb.core.events import ResourceReport
from opensvc_hb.core.states import Answer

_ANSWERS: Mapping[str, Answer] = {
    "up": Answer.UP,
    "stdby up": Answer.UP,
    "down": Answer.DOWN,
    "stdby down": Answer.DOWN,
}
FROZEN_HERE = "the agent is frozen on this service (svcmgr thaw)"
IN_HAND = "another action of the service was under way"


def told_monitoring(monitoring: Monitoring) -> Optional[Mapping[str, Any]]:
    """Return a service's monitoring as JSON has it; None when nothing is watched."""
    if not monitoring.resources:
        return None
    return {
        "resources": [[resource.rid, resource.restart_count_max] for resource in monitoring.resources],
        "action": monitoring.action.value,
        "restart_window_s": monitoring.restart_window_s,
        "moves_max": monitoring.moves_max,
        "move_window_s": monitoring.move_window_s,
        "prepares": monitoring.prepares,
    }


def heard_monitoring(told: Optional[Mapping[str, Any]]) -> Monitoring:
    """Return what `told_monitoring` told."""
    if told is None:
        return NOTHING_WATCHED
    return Monitoring(
        resources=tuple(Monitored(rid, count_max) for rid, count_max in told["resources"]),
        action=MonitorAction(told["action"]),
        restart_window_s=told["restart_window_s"],
        moves_max=told["moves_max"],
        move_window_s=told["move_window_s"],
        prepares=told["prepares"],
    )


def reports_of(document: Mapping[str, Any]) -> Tuple[ResourceReport, ...]:
    """Return what a status document says of the monitored resources, `unknown` where it cannot tell."""
    unsure = FROZEN_HERE if document.get("frozen") else IN_HAND if document.get("in_hand") else ""
    unknown = document.get("unknown", ())
    found = []
    for rid, resource in document.get("resources", {}).items():
        if not resource.get("monitor") or resource.get("disable"):
            continue
        answer = _ANSWERS.get(str(resource.get("status")), Answer.UNKNOWN)
        detail = _first_message(str(resource.get("log", "")))
        if rid in unknown:
            answer = Answer.UNKNOWN
        elif unsure and answer is Answer.DOWN:
            answer, detail = Answer.UNKNOWN, unsure
        found.append(ResourceReport(rid, answer, detail))
    return tuple(found)


def _first_message(log: str) -> str:
    """Return the first message of a resource, without its level."""
    first = log.partition("\n")[0]
    return first.partition(": ")[2]
