"""What may stand in a service's file besides the drivers' own keywords?

The keywords of [DEFAULT], those common to all resources, those of a subset, and how a
section's name is read. Data only: `service` reads files by it, `print config keywords` and
the manual print it. A driver's own keywords stand in the driver.

Source: A.2, A.5, A.6, A.8. `start_timeout`, `stop_timeout`, `restart_window`, `max_moves` and `move_window`
are ours.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Tuple

from opensvc_hb.agent import synchronize
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


def moves(text: str) -> int:
    """Convert how often a service may move: 0 to 100."""
    value = integer(text)
    if not 0 <= value <= 100:
        raise ValueError(f"'{text}' is not a number from 0 to 100")
    return value


MONITOR_ACTIONS = ("freezestop", "switch", "reboot", "crash", "none")
"""What `monitor_action` may be."""


def data_directory(text: str) -> str:
    """Convert a directory of the node: absolute, without trailing slash, not the root."""
    path = text.rstrip("/")
    if not path.startswith("/"):
        raise ValueError(f"'{text}' is not the absolute path of a directory below the root")
    return path


_OF_THE_AGENT = {
    "-g": "docker_data_dir",
    "--graph": "docker_data_dir",
    "--data-root": "docker_data_dir",
    "-p": "the agent",
    "--pidfile": "the agent",
    "--exec-root": "the agent",
    "--containerd": "the agent",
}
"""Options of dockerd that are not the operator's, and who sets them."""


def daemon_arguments(text: str) -> Tuple[str, ...]:
    """Convert options of dockerd; those by which the agent finds the daemon again are refused."""
    try:
        arguments = tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"'{text}' cannot be split into words: {str(error).lower()}") from None
    for argument in arguments:
        # a short option's value may stand in the same word: -g/srv
        name = argument.partition("=")[0] if argument.startswith("--") else argument[:2]
        owner = _OF_THE_AGENT.get(name)
        if owner is not None:
            raise ValueError(f"option {argument} is set by {owner}")
    return arguments


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
        "docker_data_dir",
        "Data directory of a docker daemon that is this service's alone, on a file system of the service. "
        "Without it the containers are the system's daemon's.",
        convert=data_directory,
        scopable=True,
    ),
    Keyword(
        "docker_daemon_args",
        "Further options for the service's docker daemon, as words of a shell.",
        convert=daemon_arguments,
        default=(),
        scopable=True,
    ),
    Keyword(
        "docker_daemon_private",
        "With false the containers are the system's daemon's although docker_data_dir is set.",
        convert=boolean,
        default=True,
        scopable=True,
        since="1.8",
    ),
    Keyword(
        "docker_exe",
        "The docker client, by path or name; docker.io, else docker, when it is not given.",
        default="",
        scopable=True,
        since="1.8",
    ),
    Keyword(
        "dockerd_exe",
        "The docker daemon, by path or name.",
        default="dockerd",
        scopable=True,
        since="1.8",
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
        "monitor_action",
        "What becomes of a service that runs here when a monitored resource is down and no restart helped.",
        default="freezestop",
        candidates=MONITOR_ACTIONS,
        scopable=True,
    ),
    Keyword(
        "pre_monitor_action",
        "Command run before the monitor action; its exit code is ignored.",
        convert=words,
        default=(),
        scopable=True,
        since="1.8",
    ),
    Keyword(
        "restart_window",
        "Seconds for which a restart of a monitored resource counts.",
        convert=seconds,
        default=600.0,
        scopable=True,
    ),
    Keyword(
        "max_moves",
        "How often the service may change its node within move_window before the monitor lets it stay.",
        convert=moves,
        default=2,
        scopable=True,
    ),
    Keyword(
        "move_window",
        "Seconds for which a change of the service's node counts.",
        convert=seconds,
        default=3600.0,
        scopable=True,
    ),
    *synchronize.KEYWORDS,
)
"""The keywords of [DEFAULT] that have an effect here, those of every resource apart."""

WITHOUT_EFFECT = frozenset(
    [
        "docker_swarm_args",
        "docker_swarm_managers",
        "docker_swarm_token",
        "flex_primary",
        "flex_min_nodes",
        "flex_max_nodes",
        "flex_cpu_low_threshold",
        "flex_cpu_high_threshold",
        "anti_affinity",
        "affinity",
        "bwlimit",
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
mentions them."""

_TRIGGER_ACTIONS = ("start", "stop", "syncnodes", "syncdrp", "syncresync")

TRIGGERS: Tuple[Keyword, ...] = tuple(
    Keyword(
        f"{moment}_{action}",
        f"Command run {when} {action} of the resource; its exit code is ignored."
        if action != "syncresync"
        else "Accepted without effect: there is no syncresync here.",
        convert=words,
        default=(),
        scopable=True,
    )
    for moment, when in (("pre", "before"), ("post", "after"))
    for action in _TRIGGER_ACTIONS
) + tuple(
    Keyword(
        f"blocking_{moment}_{action}",
        f"Command run {when} {action} of the resource, after {moment}_{action}; its failure is the action's.",
        convert=words,
        default=(),
        scopable=True,
        since="1.8",
    )
    for moment, when in (("pre", "before"), ("post", "after"))
    for action in ("start", "stop")
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

RESERVATION_KEYWORDS: Tuple[Keyword, ...] = (
    Keyword(
        "scsireserv",
        "Take SCSI-3 persistent reservations on the disks of the resource before it starts, so that no other "
        "node can write to them; shown as the resource RIDpr.",
        boolean,
        default=False,
        scopable=True,
        aliases=("scsi_reserve",),
    ),
    Keyword(
        "no_preempt_abort",
        "Take a reservation over with preempt, not preempt-abort, for disks that do not know the latter.",
        boolean,
        default=False,
        scopable=True,
    ),
)
"""Keywords of every resource section whose resource is on disks; [DEFAULT] gives them to all."""

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
