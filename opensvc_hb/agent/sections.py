"""What may stand in a service's file besides the drivers' own keywords?

The keywords of [DEFAULT], those common to all resources, those of a subset, and how a
section's name is read. Data only: `service` reads files by it, `print config keywords` and
the manual print it. A driver's own keywords stand in the driver.

Source: A.2, A.5, A.6, A.8. `start_timeout` and `stop_timeout` are ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Tuple

from opensvc_hb.agent.keywords import Keyword, boolean, integer, node_list, words

SERVICE_TYPES = ("PRD", "PPRD", "REC", "INT", "DEV", "TST", "TMP", "DRP", "FOR", "PRA")
"""What `service_type` may be, in the order the agents name them."""

ENVIRONMENTS = (*SERVICE_TYPES, "PRJ", "STG", "UAT")
"""What `env` may be: the later agents know three more."""


def seconds(text: str) -> float:
    """Convert a positive number of seconds."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a number of seconds") from None
    if not 0 < value < 1e9:
        raise ValueError(f"'{text}' is not a positive number of seconds")
    return value


def minutes(text: str) -> float:
    """Convert a positive number of minutes, as the sync keywords have it; in minutes."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a number of minutes") from None
    if not 0 < value < 1e9:
        raise ValueError(f"'{text}' is not a positive number of minutes")
    return value


DEFAULT_KEYWORDS: Tuple[Keyword, ...] = (
    Keyword("nodes", "Nodes that may run the service, the primary first.", convert=node_list, default=()),
    Keyword("drpnodes", "Disaster recovery nodes; no hb exists there.", convert=node_list, default=()),
    Keyword("drpnode", "The first of the disaster recovery nodes.", convert=node_list, default=()),
    Keyword("encapnodes", "Guests of the service.", convert=node_list, default=()),
    Keyword(
        "autostart_node",
        "Nodes where `boot` starts the service; must be absent beside an hb resource.",
        convert=words,
        default=(),
    ),
    Keyword("service_type", "Kind of service; mandatory in a .env file.", candidates=SERVICE_TYPES),
    Keyword("env", "The same as service_type.", candidates=ENVIRONMENTS, since="1.8"),
    Keyword("app", "Application code, for the reader only.", default=""),
    Keyword("comment", "Free text.", default=""),
    Keyword("mode", "Shown by svcmon as container type.", default="hosted", candidates=("hosted",)),
    Keyword(
        "cluster_type",
        "How many instances there are: one (failover), or many.",
        default="failover",
        candidates=("failover",),
    ),
    Keyword(
        "start_timeout",
        "Seconds that the daemon grants a start before it kills it.",
        convert=seconds,
        default=600.0,
        scopable=True,
    ),
    Keyword(
        "stop_timeout",
        "Seconds that the daemon grants a stop before it kills it.",
        convert=seconds,
        default=600.0,
        scopable=True,
    ),
    Keyword(
        "sync_max_delay",
        "Minutes after which a copy on another node counts as late.",
        convert=minutes,
        default=1500.0,
        scopable=True,
    ),
)
"""The keywords of [DEFAULT] that have an effect here, those of every resource apart."""

WITHOUT_EFFECT = frozenset(
    [
        "docker_data_dir",
        "docker_daemon_args",
        "docker_exe",
        "dockerd_exe",
        "docker_daemon_private",
        "docker_swarm_args",
        "docker_swarm_managers",
        "docker_swarm_token",
        "flex_primary",
        "flex_min_nodes",
        "flex_max_nodes",
        "flex_cpu_low_threshold",
        "flex_cpu_high_threshold",
        "monitor_action",
        "pre_monitor_action",
        "no_preempt_abort",
        "anti_affinity",
        "affinity",
        "sync_interval",
        "sync_period",
        "sync_days",
        "bwlimit",
        "sync_schedule",
        "monitor_schedule",
        "status_schedule",
        "comp_schedule",
        "push_schedule",
        "resinfo_schedule",
        "lock_timeout",
        "rollback",
        "show_disabled",
        "presnap_trigger",
        "postsnap_trigger",
        "containerize",
        "container_cpus",
        "container_mems",
        "container_cpu_shares",
        "container_mem_limit",
        "container_vmem_limit",
        "drp_type",
        "svc_flex",
        "id",
    ]
)
"""Keywords of [DEFAULT] that the agents know and that change nothing here; `validate config`
mentions them. `scsireserv` is not among them: a protection that is not given is refused."""

_TRIGGER_ACTIONS = ("start", "stop", "syncnodes", "syncdrp", "syncresync")

TRIGGERS: Tuple[Keyword, ...] = tuple(
    Keyword(
        f"{moment}_{action}",
        f"Command run {when} {action} of the resource; its exit code is ignored.",
        convert=words,
        default=(),
        scopable=True,
    )
    for moment, when in (("pre", "before"), ("post", "after"))
    for action in _TRIGGER_ACTIONS
)

RESOURCE_KEYWORDS: Tuple[Keyword, ...] = (
    Keyword("disable", "The resource is skipped and shown as n/a.", boolean, default=False, scopable=True),
    Keyword("disable_on", "Nodes, `nodes` or `drpnodes` where it is disabled.", node_list, default=()),
    Keyword("optional", "An error of an action on it is logged and swallowed.", boolean, default=False),
    Keyword("optional_on", "Nodes, `nodes` or `drpnodes` where it is optional.", node_list, default=()),
    Keyword("monitor", "Watched by the resource monitor; flag M in the tree.", boolean, default=False),
    Keyword("monitor_on", "Nodes, `nodes` or `drpnodes` where it is monitored.", node_list, default=()),
    Keyword("restart", "Restarts tried before the monitor action.", integer, default=0, scopable=True),
    Keyword(
        "always_on", "Nodes, `nodes` or `drpnodes` where it is a standby resource.", node_list, default=()
    ),
    Keyword("tags", "White space separated words.", words, default=(), scopable=True),
    Keyword("subset", "Name of its set within the family.", default="", scopable=True),
    *TRIGGERS,
)
"""Keywords of every resource section."""

SUBSET_KEYWORDS: Tuple[Keyword, ...] = (
    Keyword(
        "parallel", "Start and stop the members at the same time.", boolean, default=False, scopable=True
    ),
)

INTERNAL_SYNCS = ("sync#i0", "sync#i1")
"""Sections that may carry options of the implicit syncs."""

_RESOURCE_ID = re.compile(r"([a-z]+)#([0-9][A-Za-z0-9_.-]*)\Z")


@dataclass(frozen=True)
class ResourceId:
    """A section's name taken apart: `fs#1` is family fs, number 1."""

    family: str
    number: str


def resource_id(section: str) -> Tuple[ResourceId, str]:
    """Take a section's name apart; returns it and "", or a reason why it is none.

    Source: A.2: [family#N], N must start with a digit ([fs#one] would be ignored by the
    agents; refused here).
    """
    found = _RESOURCE_ID.match(section)
    if found:
        return ResourceId(found.group(1), found.group(2)), ""
    family, sign, number = section.partition("#")
    reason = "a resource's number must start with a digit" if sign else "is no section of a service"
    return ResourceId(family, number), reason


def subset_name(section: str) -> str:
    """Return the set a subset section speaks of: `container.docker:01app`, "" if it is none."""
    family, _, name = section.partition("#")
    return name if family == "subset" else ""
