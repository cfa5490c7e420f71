"""Reads a `print status` tree back into the resources it shows, so that a captured tree can be
aggregated and rendered again and compared with itself, byte for byte."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import List, Tuple

from opensvc_hb.agent.resource import Status
from opensvc_hb.agent.status import Aggregate, ResourceStatus, ServiceStatus, aggregate

SET_NAMES = {
    "container": ("container", "container.docker"),
    "vg": ("disk", "disk.vg"),
    "loop": ("disk", "disk.loop"),
    "fs": ("fs", "fs"),
    "ip": ("ip", "ip"),
    "app": ("app", "app"),
    "sync": ("sync", "sync.rsync"),
    "hb": ("hb", "hb.openha"),
}
STATUS_OF_TEXT = {status.text: status for status in Status}
RESOURCE = re.compile(
    r"[| ]  [|']- (?P<rid>\S+) +(?P<flags>[MDOE.]{4}) (?P<status>stdby down|stdby up|[a-z/]+) +(?P<label>.+)"
)
CUT_WORD = re.compile(r"/STAT$|/STATE\.$")
"""Ends of lines in the captures at which a word was cut, not wrapped."""


def read_tree(text: str) -> ServiceStatus:
    """Return the service that a tree shows, aggregated anew."""
    lines = text.split("\n")
    entries: List[Tuple[re.Match[str], List[str]]] = []
    for line in lines[2:]:
        found = RESOURCE.match(line)
        if found:
            entries.append((found, []))
        elif not line.startswith(("|- avail", "|- sync", "'- hb")):
            entries[-1][1].append(line[35:])
    resources = tuple(_resource(found, messages) for found, messages in entries)
    return ServiceStatus(
        svcname=lines[0],
        node="deb1.opensvc.com",
        service_type="DEV",
        mode="hosted",
        app_code="",
        frozen=False,
        resources=resources,
        totals=aggregate(resources),
    )


def _resource(found: re.Match[str], parts: List[str]) -> ResourceStatus:
    group, set_name = SET_NAMES[found["rid"].partition("#")[0]]
    paragraph = ""
    for part in parts:
        glue = "" if not paragraph or CUT_WORD.search(paragraph) else " "
        paragraph += glue + part
    messages = tuple(message for message in re.split(r"(?:^| )# ", paragraph) if message)
    flags = found["flags"]
    return ResourceStatus(
        rid=found["rid"],
        group=group,
        type=set_name,
        set_name=set_name,
        status=STATUS_OF_TEXT[found["status"]],
        label=found["label"],
        messages=messages,
        monitor="M" in flags,
        disable="D" in flags,
        optional="O" in flags,
        encap="E" in flags,
    )


LATER_SET_NAMES = {**SET_NAMES, "disk": ("disk", "disk.any")}
LATER_RESOURCE = re.compile(
    r"[| ]  [|']- (?P<rid>\S+) +(?P<flags>[MDOE.]{4}) (?P<status>stdby down|stdby up|[a-z/]+) +(?P<label>.+)"
)


def read_later_tree(text: str) -> ServiceStatus:
    """Return the service that a tree in 1.8's look shows, its totals as printed."""
    lines = text.split("\n")
    resources: List[ResourceStatus] = []
    totals = {}
    for line in lines[1:]:
        found = LATER_RESOURCE.match(line)
        if line.startswith("\x1b"):
            part = line[6 + 37 :]
            last = resources.pop()
            level, colon, rest = part.partition(": ")
            messages = list(last.messages)
            if colon and level in ("info", "warn", "error"):
                messages.append(rest)
            else:
                messages[-1] += part if CUT_WORD.search(messages[-1]) else f" {part}"
            resources.append(replace(last, messages=tuple(messages)))
        elif found:
            group, set_name = LATER_SET_NAMES[found["rid"].partition("#")[0]]
            marks = dict(zip(("monitor", "disable", "optional", "encap"), (c != "." for c in found["flags"])))
            status = STATUS_OF_TEXT[found["status"]]
            resources.append(
                ResourceStatus(found["rid"], group, set_name, set_name, status, found["label"], **marks)
            )
        else:
            totals[line[:26].strip("|'- ")] = line[26:36].strip()
    return ServiceStatus(
        svcname=lines[0],
        node="deb1.opensvc.com",
        service_type="DEV",
        mode="hosted",
        app_code="",
        frozen=lines[1].endswith("frozen"),
        resources=tuple(resources),
        totals=Aggregate(STATUS_OF_TEXT[totals["avail"]], STATUS_OF_TEXT[totals["overall"]], {}),
    )
