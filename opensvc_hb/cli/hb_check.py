"""Is the configuration right? Everything that is wrong at once, with file and line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Tuple

from opensvc_hb.daemon.configuration import compose, left_out, read_cluster_files, too_much
from opensvc_hb.daemon.report import guard_notes
from opensvc_hb.errors import ConfigurationErrors
from opensvc_hb.paths import Root


@dataclass(frozen=True)
class Findings:
    """What a check found.

    Args:
        errors: one line each; notes: accepted, but worth knowing.
        summary: what is fine, when there is no error.
    """

    errors: Tuple[str, ...]
    notes: Tuple[str, ...]
    summary: str


def check_files(place: Root, node: str, with_machine: bool) -> Findings:
    """Check the cluster's files and every service's file; with the machine, what it makes of them."""
    from opensvc_hb.agent.foreign import NodeAdapter

    errors: List[str] = []
    notes: List[str] = []
    files = None
    try:
        files = read_cluster_files(place, node, with_machine)
        notes.extend(files.notes)
    except ConfigurationErrors as found:
        errors.extend(str(error) for error in found.errors)
    declared = NodeAdapter(place, node).declare()
    errors.extend(error for error in declared.errors if error not in errors)
    if files is not None:
        from opensvc_hb.core.config import Service

        services = tuple(Service(d.name, d.svcname, tuple(d.nodes)) for d in declared.services)
        errors.extend(left_out(files, services))
        config = compose(node, files, services)
        errors.extend(str(error) for error in too_much(place, files, config))
        notes.extend(guard_notes(config))
    links = len(files.links) if files else 0
    count = len(declared.services)
    services_text = "1 service" if count == 1 else f"{count} services"
    if with_machine:
        from opensvc_hb.agent.concerns import concerns_here
        from opensvc_hb.agent.loader import Loader

        notes.extend(concerns_here(Loader(place, node)))
    summary = f"{node}: {links} links and {services_text} with a heartbeat are in order"
    return Findings(tuple(errors), tuple(notes), summary)
