"""How is a status that the daemon kept made true for this moment?

The resources were evaluated a while ago, and that is shown only while it is fresh; but the
hb and the agent's own freeze are never shown as they were: both are asked now, and the
overall status follows. Called by svcmon.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Tuple

from opensvc_hb.agent.document import heartbeat_rids, with_live_heartbeat
from opensvc_hb.agent.drivers import DriverFinder, Missing
from opensvc_hb.agent.frozen import is_frozen
from opensvc_hb.agent.names import service_file
from opensvc_hb.agent.resource import ActionError, CommandResult, ResourceContext, Status
from opensvc_hb.errors import HbError
from opensvc_hb.paths import Root


def is_fresh(root: Root, svcname: str, document: Mapping[str, Any], age_s: float, max_age_s: float) -> bool:
    """Tell whether a kept status may be shown.

    Not one that could not be told, nor one of before a change of the service's file.
    """
    if age_s > max_age_s or document.get("unknown"):
        return False
    try:
        return service_file(root, svcname).stat().st_mtime <= float(document.get("mtime", 0.0))
    except (HbError, OSError):
        return False


def made_current(
    root: Root, svcname: str, document: Mapping[str, Any], instance: Mapping[str, Any]
) -> Dict[str, Any]:
    """Return the document with what holds now.

    Args:
        root: the tree of this node.
        svcname: the service.
        document: as kept.
        instance: the daemon's answer on the service's instance here, as an hb driver gets it.
    """
    heartbeats: Dict[str, Tuple[Status, Tuple[str, ...]]] = {}
    finder = DriverFinder(None)
    for rid in heartbeat_rids(document):
        kind = str(document["resources"][rid].get("type", "hb.openha")).partition(".")[2]
        driver = finder.choose("hb", kind)
        if isinstance(driver, Missing):
            continue  # a site's own, which may ask for more than we know here: as it was kept
        resource = driver(rid, {}, _context(svcname, instance))
        heartbeats[rid] = (resource.status(), tuple(resource.messages))
    current = with_live_heartbeat(document, heartbeats)
    current["frozen"] = is_frozen(root, svcname)
    return current


def _context(svcname: str, instance: Mapping[str, Any]) -> ResourceContext:
    """Lend an hb driver the answer that is known already, and nothing else."""

    def run(*_arguments: Any, **_keywords: Any) -> CommandResult:
        raise ActionError("no command is run for a kept status")

    def ignore(_message: str) -> None:
        return None

    return ResourceContext(
        node="",
        svcname=svcname,
        nodes=(),
        drpnodes=(),
        etc="",
        var="",
        log="",
        tmp="",
        run=run,
        info=ignore,
        warning=ignore,
        error=ignore,
        ask_daemon=lambda _request: instance,
    )
