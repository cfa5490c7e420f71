"""The texts of `print status` and `svcmon`, byte for byte those of June 2014.

Pure: a status in, a text out. Trailing blanks are part of the text. The look of the later
agents is in `render_later`.

Source: B.6 (tree), B.9 (table).
"""

from __future__ import annotations

from typing import List, Sequence, Tuple

from opensvc_hb.agent.document import Row
from opensvc_hb.agent.resource import Status
from opensvc_hb.agent.status import AVAIL_GROUPS, ResourceStatus, ServiceStatus

FLAGS_AT, STATUS_AT, LABEL_AT, TREE_COLUMNS = 21, 26, 35, 78
STATUS_WIDTH = 8

TABLE_WIDTHS: Tuple[int, ...] = (7, 9, 9, 9, 10, 10, 10, 10, 9, 9, 10, 10, 6)
TABLE_HEADS: Tuple[Tuple[str, str, str], ...] = (
    ("service", "type", "-------"),
    ("container", "type", "---------"),
    ("container", "status", "---------"),
    ("ip", "status", "------"),
    ("disk", "status", "------"),
    ("fs", "status", "------"),
    ("share", "status", "------"),
    ("app", "status", "------"),
    ("hb", "status", "------"),
    ("sync", "status", "------"),
    ("avail", "status", "------"),
    ("overall", "status", "-------"),
    ("", "frozen", "------"),
)
"""First header row, second, and dashes of each column behind the service's name."""


def render_tree(status: ServiceStatus) -> str:
    """Return the tree of `print status`, each line ended."""
    totals = status.totals
    lines = [status.svcname, _group_line("overall", totals.overall)]
    groups = (
        ("|- avail", totals.avail, AVAIL_GROUPS, "|  "),
        ("|- sync", totals.groups["sync"], ("sync",), "|  "),
        ("'- hb", totals.groups["hb"], ("hb",), "   "),
    )
    for head, group_status, names, indent in groups:
        lines.append(_group_line(head, group_status))
        members = [resource for resource in status.resources if resource.group in names]
        for number, resource in enumerate(members, start=1):
            lines.extend(_resource_lines(resource, indent, number == len(members)))
    return "".join(f"{line}\n" for line in lines)


def _group_line(head: str, status: Status) -> str:
    return f"{head:<{STATUS_AT}}{status.text:<{STATUS_WIDTH}} "


def flags(resource: ResourceStatus) -> str:
    """Return the four characters: monitored, disabled, optional, encap."""
    marks = (
        ("M", resource.monitor),
        ("D", resource.disable),
        ("O", resource.optional),
        ("E", resource.encap),
    )
    return "".join(letter if there else "." for letter, there in marks)


def _resource_lines(resource: ResourceStatus, indent: str, is_last: bool) -> List[str]:
    head = f"{indent}{chr(39) if is_last else '|'}- {resource.rid}"
    line = f"{head:<{FLAGS_AT}}{flags(resource)} {resource.status.text:<{STATUS_WIDTH}} {resource.label}"
    under = f"{indent}{'   ' if is_last else '|  '}"
    if resource.group == "container" and not is_last:
        under += "|  "
    return [line, *message_lines(resource.messages, under)]


def message_lines(messages: Sequence[str], under: str) -> List[str]:
    """Return a resource's messages as one paragraph, wrapped at 78 columns, long words cut."""
    if not messages:
        return []
    import textwrap

    paragraph = " ".join(f"# {message}" for message in messages)
    width = TREE_COLUMNS - LABEL_AT
    return [
        f"{under:<{LABEL_AT}}{part}"
        for part in textwrap.wrap(paragraph, width=width, break_on_hyphens=False, break_long_words=True)
    ]


def render_table(rows: Sequence[Row]) -> str:
    """Return svcmon's table, each line ended, trailing blanks kept."""
    name_width = max([7, *(len(row.svcname) for row in rows)])
    heads = [
        _table_line(name_width, "service", [head[0] for head in TABLE_HEADS]),
        _table_line(name_width, "name", [head[1] for head in TABLE_HEADS]),
        _table_line(name_width, "-------", [head[2] for head in TABLE_HEADS]),
    ]
    return "".join(f"{line}\n" for line in [*heads, *(_table_row(name_width, row) for row in rows)])


def _table_row(name_width: int, row: Row) -> str:
    statuses = [
        row.statuses[group] for group in ("container", "ip", "disk", "fs", "share", "app", "hb", "sync")
    ]
    return _table_line(
        name_width,
        row.svcname,
        [row.service_type, row.mode, *statuses, row.avail, row.overall, str(row.frozen)],
    )


def _table_line(name_width: int, name: str, cells: Sequence[str]) -> str:
    columns = (f"{cell:<{width}}" for cell, width in zip(cells, TABLE_WIDTHS))
    return " ".join([f"{name:<{name_width}}", *columns])
