"""The tables of OpenHA's commands, to the last blank. Pure: views in, text out.

Source: the outputs of OpenHA 0.5.0; lines of the column table end with blanks, the first line of
the long one with two.
"""

from __future__ import annotations

import time
from typing import Sequence

from opensvc_hb.cli.openha_view import LinkView, ServiceView, state_word

_COLUMNS = "{:<16} {:<16} {:<14} {:<16} {:<14}"


def long_table(services: Sequence[ServiceView]) -> str:
    """Return what `service -s` prints."""
    lines = [f"{len(services)} service(s) defined:  "]
    for service in services:
        lines.append(f"Service: {service.name}")
        lines.append(f"\tPrimary  : {service.primary}, {state_word(service.states[0])}")
        lines.append(f"\tSecondary: {service.secondary or '-'}, {state_word(service.states[1])}")
    return "\n".join(lines)


def column_table(services: Sequence[ServiceView]) -> str:
    """Return what `service -s -c` prints."""
    lines = [_COLUMNS.format("service", "prinode", "pristate", "secnode", "secstate")]
    for service in services:
        primary, secondary = (state_word(state) for state in service.states)
        lines.append(
            _COLUMNS.format(service.name, service.primary, primary, service.secondary or "-", secondary)
        )
    return "\n".join(lines)


def info_lines(service: ServiceView, node: str) -> str:
    """Return what `service -i` prints."""
    role = {service.primary: "Primary", service.secondary: "Secondary"}.get(node)
    lines = [f"we are {role} for service {service.name}"] if role else []
    states = " , ".join(state_word(state) for state in service.states)
    lines.append(f"Service: {service.name}\t state: {states}")
    return "\n".join(lines)


def links_table(links: Sequence[LinkView], wall_now: float) -> str:
    """Return what `hb -s` prints.

    Args:
        links: in the order of the monitor file.
        wall_now: seconds since 1970, for the time at which a beat came or went.
    """
    lines = []
    for link in links:
        head = f"{link.type} {link.role} {link.device}:{link.address}"
        if not link.is_up or link.age_s is None:
            lines.append(f"{head} status DOWN")
            continue
        at = time.strftime("%b %d %H:%M:%S", time.localtime(wall_now - link.age_s))
        lines.append(f"{head} pid {link.pid} status UP, updated at {at}")
    return "\n".join(lines)
