"""The texts of `print status` and `svcmon` in the later agents' look (`status_look = 1.8`).

Pure, as `render`. Only the look differs: the statuses and their aggregation are those of
`status`. Without colours. Source: B.7, B.9.
"""

from __future__ import annotations

import textwrap
from typing import List, Sequence, Tuple

from opensvc_hb.agent.document import Row, message_level
from opensvc_hb.agent.render import flags
from opensvc_hb.agent.status import ResourceStatus, ServiceStatus

FLAGS_AT, STATUS_AT, LABEL_AT, STATUS_WIDTH = 21, 26, 37, 10
ORDER = ("ip", "disk", "fs", "container", "share", "app", "sync", "hb")
ACCESSORY = ("sync", "hb")
ACCESSORY_HEAD = "'- accessory"
COLUMNS = 80
NAME_WIDTH = 7
ESCAPE = "\x1b[000m"
"""Stands before each message line, also when there is no terminal."""


def render_tree(status: ServiceStatus) -> str:
    """Return the tree, each line ended."""
    totals = status.totals
    ordered = sorted(status.resources, key=lambda r: (ORDER.index(r.group), r.rid))
    accessories = [resource for resource in ordered if resource.group in ACCESSORY]
    avail = [resource for resource in ordered if resource.group not in ACCESSORY]
    frozen = "frozen" if status.frozen else ""
    avail_head = "|- avail" if accessories else "'- avail"
    lines = [
        status.svcname,
        f"{'overall':<{STATUS_AT}}{totals.overall.text:<{STATUS_WIDTH}} {frozen}",
        f"{avail_head:<{STATUS_AT}}{totals.avail.text:<{STATUS_WIDTH}} ",
    ]
    lines.extend(_resources(avail, "|  " if accessories else "   "))
    if accessories:
        lines.append(f"{ACCESSORY_HEAD:<{STATUS_AT}}{'':<{STATUS_WIDTH}} ")
        lines.extend(_resources(accessories, "   "))
    return "".join(f"{line}\n" for line in lines)


def _resources(resources: Sequence[ResourceStatus], indent: str) -> List[str]:
    lines: List[str] = []
    for number, resource in enumerate(resources, start=1):
        is_last = number == len(resources)
        head = f"{indent}{chr(39) if is_last else '|'}- {resource.rid}"
        status = f"{resource.status.text:<{STATUS_WIDTH}}"
        lines.append(f"{head:<{FLAGS_AT}}{flags(resource)} {status} {resource.label}")
        under = f"{indent}{'   ' if is_last else '|  '}"
        lines.extend(_messages(resource, under))
    return lines


def _messages(resource: ResourceStatus, under: str) -> List[str]:
    level = message_level(resource)
    return [
        f"{ESCAPE}{under:<{LABEL_AT}}{part}"
        for message in resource.messages
        if message != "disabled"
        for part in textwrap.wrap(f"{level}: {message}", COLUMNS - LABEL_AT, break_on_hyphens=False)
    ]


def render_table(rows: Sequence[Row], app_codes: Sequence[str], verbose: bool = False) -> str:
    """Return svcmon's table; with `verbose` the groups' statuses too.

    Args:
        rows: in the order shown.
        app_codes: the application code of each row's service.
        verbose: the groups too.
    """
    width = max([NAME_WIDTH, *(len(row.svcname) for row in rows)])
    heads, dashes = _heads(verbose)
    lines = [f"{'':<{width}} {heads}", f"{'':<{width}} {dashes}"]
    lines.extend(_row(row, code, width, verbose) for row, code in zip(rows, app_codes))
    return "".join(f"{line}\n" for line in lines)


def _heads(verbose: bool) -> Tuple[str, str]:
    heads = f"{'app':<10} {'type':<4} topology container | frozen disabled | {'avail':<10} {'overall':<10} "
    dashes = "-----------------------------------+-----------------+-----------------------"
    if verbose:
        columns = ("container ", "ip", "disk", "fs", "share", "app", "hb")
        heads += "| " + " ".join(f"{name:<10}" for name in columns) + " sync"
        dashes += "+" + "-" * 82
    return heads, dashes


def _row(row: Row, code: str, width: int, verbose: bool) -> str:
    shown = f"{code[:9]}*" if len(code) > 10 else code
    kind = "-" if row.mode == "hosted" else row.mode
    frozen = "yes" if row.frozen else "no"
    line = (
        f"{row.svcname:<{width}} {shown:<10} {row.service_type:<4} failover {kind:<9} | "
        f"{frozen:<6} {'no':<8} | {row.avail:<10} {row.overall:<10}"
    )
    if verbose:
        groups = ("container", "ip", "disk", "fs", "share", "app", "hb", "sync")
        line += " | " + " ".join(f"{row.statuses[group]:<10}" for group in groups)
    return line
