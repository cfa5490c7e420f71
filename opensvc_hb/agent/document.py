"""The JSON documents of a status: what is written, and what is read back.

`status_document` is the shape of `print status --format json`, of the daemon's kept results
and of what `svcmon` reads; `line_document` is the one-line shape of `json status`. Pure.

Source: B.8. Ours in addition: `service` (type, mode, nodes that svcmon prints) and
`unknown` (resources that could not tell).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Tuple

from opensvc_hb.agent.resource import Status
from opensvc_hb.agent.status import GROUPS, Merged, ResourceStatus, ServiceStatus, merge_all, overall_of

_STATUS_OF_TEXT = {status.text: status for status in Status}


def status_document(status: ServiceStatus, wall_clock_s: float) -> Dict[str, Any]:
    """Return the document of one service.

    Args:
        status: as evaluated.
        wall_clock_s: when the evaluation began, seconds since the epoch, for people, and to
            tell whether the service's file is newer.
    """
    document: Dict[str, Any] = {group: status.totals.groups[group].text for group in GROUPS}
    document.update(
        avail=status.totals.avail.text,
        overall=status.totals.overall.text,
        encap={},
        frozen=status.frozen,
        mtime=wall_clock_s,
        resources={resource.rid: _resource(resource) for resource in status.resources},
        service={
            "type": status.service_type,
            "mode": status.mode,
            "app": status.app_code,
            "node": status.node,
        },
        stonith=Status.NA.text,
        task=Status.NA.text,
        unknown=list(status.unknown),
        updated=utc_text(wall_clock_s),
    )
    return document


def utc_text(wall_clock_s: float) -> str:
    """Return a time as the later agents write it: `2026-11-22T12:07:17.776262Z`."""
    whole_s, microseconds = divmod(int(wall_clock_s * 1_000_000), 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole_s))}.{microseconds:06d}Z"


def message_level(resource: ResourceStatus) -> str:
    """Return the level that the later agents print before a resource's messages."""
    late = resource.group == "sync" and resource.status is Status.DOWN
    return "warn" if late or resource.status is Status.WARN else "info"


def _resource(resource: ResourceStatus) -> Dict[str, Any]:
    level = message_level(resource)
    return {
        "disable": resource.disable,
        "encap": resource.encap,
        "label": resource.label,
        "log": "".join(f"{level}: {message}\n" for message in resource.messages),
        "monitor": resource.monitor,
        "optional": resource.optional,
        "status": resource.status.text,
        "tags": list(resource.tags),
        "type": resource.type,
    }


def line_document(status: ServiceStatus) -> Dict[str, Any]:
    """Return the document of `json status` as in June 2014: messages raw, `# text` a line."""
    document: Dict[str, Any] = {group: status.totals.groups[group].text for group in GROUPS}
    document["avail"] = status.totals.avail.text
    document["overall"] = status.totals.overall.text
    document["resources"] = {
        resource.rid: {
            "status": resource.status.text,
            "monitor": resource.monitor,
            "label": resource.label,
            "disable": resource.disable,
            "encap": resource.encap,
            "optional": resource.optional,
            "log": "".join(f"# {message}\n" for message in resource.messages),
        }
        for resource in status.resources
    }
    return document


@dataclass(frozen=True)
class Row:
    """One service as svcmon's table shows it: texts of statuses by group, and frozen."""

    svcname: str
    service_type: str
    mode: str
    statuses: Mapping[str, str]
    avail: str
    overall: str
    frozen: bool


def row_of_document(svcname: str, document: Mapping[str, Any]) -> Row:
    """Read one row from a status document; a missing field is shown as undef.

    A document comes from the daemon or from a child of ours, of the same version or not.
    """
    service = document.get("service", {})
    return Row(
        svcname=svcname,
        service_type=str(service.get("type", "")),
        mode=str(service.get("mode", "hosted")),
        statuses={group: str(document.get(group, Status.UNDEF.text)) for group in GROUPS},
        avail=str(document.get("avail", Status.UNDEF.text)),
        overall=str(document.get("overall", Status.UNDEF.text)),
        frozen=bool(document.get("frozen")),
    )


def with_live_heartbeat(
    document: Mapping[str, Any], heartbeats: Mapping[str, Tuple[Status, Tuple[str, ...]]]
) -> Dict[str, Any]:
    """Return the document with the hb of this very moment, and the overall that follows.

    Args:
        document: a status document.
        heartbeats: status and messages of enabled hb resources, by rid; the others stay as they are.
    """
    resources = {rid: dict(resource) for rid, resource in document.get("resources", {}).items()}
    for rid, (status, messages) in heartbeats.items():
        level = "warn" if status is Status.WARN else "info"
        log = "".join(f"{level}: {message}\n" for message in messages)
        resources[rid].update(status=status.text, log=log)
    statuses = (status_of_text(str(resources[rid].get("status"))) for rid in heartbeat_rids(document))
    hb = merge_all((Merged(int(status)) for status in statuses), start=Merged.NA).shown
    syncs = [
        status_of_text(str(resource.get("status")))
        for rid, resource in resources.items()
        if rid.startswith("sync#") and not resource.get("disable")
    ]
    overall = overall_of(status_of_text(str(document.get("avail"))), hb, syncs)
    return {**document, "resources": resources, "hb": hb.text, "overall": overall.text}


def heartbeat_rids(document: Mapping[str, Any]) -> Tuple[str, ...]:
    """Return the rids of the document's enabled hb resources."""
    resources = document.get("resources", {})
    return tuple(
        rid for rid, resource in resources.items() if rid.startswith("hb#") and not resource.get("disable")
    )


def status_of_text(text: str) -> Status:
    """Return the status of its text; undef for any other text."""
    return _STATUS_OF_TEXT.get(text, Status.UNDEF)
