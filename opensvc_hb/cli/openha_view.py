"""What OpenHA's commands see of the cluster: services in file order, states by OpenHA's names, links.

Made of the daemon's status document and the `services` file; nothing here asks or prints. A
service that the daemon does not care for on this node (it runs on other nodes, or was added a
moment ago) is shown as OpenHA shows one whose state files it has just made: FROZEN_STOP.

Runs in: the process of a command.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

from opensvc_hb.core.states import State
from opensvc_hb.paths import Root
from opensvc_hb.services_table import ServiceLine, agent_service, read_services, services_path


@dataclass(frozen=True)
class ServiceView:
    """One service, as OpenHA sees it: two nodes and a state on each.

    Args:
        primary, secondary: "" for the second where a service has one node alone.
        states: of primary and secondary; FROZEN_START is told from START_READY here.
        is_ours: this node is one of the two, and the daemon cares for the service.
        is_foreign: scripts are all there is of it; not a service of the agent.
        script, check_script: of its line in the services file, "" without one.
        detail: what the last action on this node left to say.
    """

    name: str
    svcname: str
    primary: str
    secondary: str
    states: Tuple[State, State]
    is_ours: bool = False
    is_foreign: bool = False
    script: str = ""
    check_script: str = ""
    detail: str = ""

    def own_state(self, node: str) -> State:
        """Return the state on this node, which must be one of the two."""
        return self.states[0] if node == self.primary else self.states[1]

    def peer_state(self, node: str) -> State:
        """Return the state on the other node."""
        return self.states[1] if node == self.primary else self.states[0]


@dataclass(frozen=True)
class LinkView:
    """One line of the monitor file.

    Args:
        is_up: beats come, or are sent.
        age_s: seconds since the last one; None when there was none.
        pid: the process that sends on it, 0 when the beats do not tell.
    """

    type: str
    role: str
    device: str
    address: str
    port: int
    timeout_s: float
    is_up: bool
    age_s: Optional[float]
    pid: int


def state_word(state: State) -> str:
    """Return OpenHA's name of a state."""
    return state.openha.name


def service_lines(root: Root) -> Tuple[ServiceLine, ...]:
    """Return the services file of a root; raises ConfigurationErrors."""
    return read_services(services_path(root))


def agents_file_test(root: Root) -> Callable[[str], bool]:
    """Return a function that tells whether the agent has a service of a name."""
    return lambda name: any((root.etc / f"{name}{end}").exists() for end in (".env", ".conf"))


def services_view(
    document: Mapping[str, Any],
    lines: Sequence[ServiceLine],
    is_agents: Callable[[str], bool],
) -> Tuple[ServiceView, ...]:
    """Return all services: those of the services file first, in its order.

    Args:
        document: the daemon's status document.
        lines: what `read_services` returned.
        is_agents: tells whether the agent has a service of that name.
    """
    known: Mapping[str, Mapping[str, Any]] = document["services"]
    found: List[ServiceView] = []
    for line in lines:
        told = known.get(line.name)
        foreign = agent_service(line.script) is None and not is_agents(line.name)
        found.append(
            _from_line(line, foreign) if told is None else _told(line.name, told, document, line, foreign)
        )
    named = {line.name for line in lines}
    found += [_told(name, told, document, None, False) for name, told in known.items() if name not in named]
    return tuple(found)


def _from_line(line: ServiceLine, foreign: bool) -> ServiceView:
    states = (State.FROZEN_STOP, State.FROZEN_STOP)
    return ServiceView(
        name=line.name,
        svcname=line.name,
        primary=line.primary,
        secondary=line.secondary,
        states=states,
        is_foreign=foreign,
        script=line.script,
        check_script=line.check_script,
    )


def _told(
    name: str,
    told: Mapping[str, Any],
    document: Mapping[str, Any],
    line: Optional[ServiceLine],
    foreign: bool,
) -> ServiceView:
    """Return a service of which the daemon knows the states."""
    nodes = [*told["nodes"], ""]
    instances = told["instances"]

    def state(node: str) -> State:
        return State[instances[node]["state"]] if node in instances else State.UNKNOWN

    own = instances.get(document["node"], {})
    return ServiceView(
        name=name,
        svcname=told["service"],
        primary=nodes[0],
        secondary=nodes[1],
        states=(state(nodes[0]), state(nodes[1])),
        is_ours=document["node"] in nodes[:2],
        is_foreign=foreign,
        script=line.script if line else "",
        check_script=line.check_script if line else "",
        detail=str(own.get("detail") or ""),
    )


def links_view(document: Mapping[str, Any]) -> Tuple[LinkView, ...]:
    """Return the links, in the order of the monitor file."""
    return tuple(
        LinkView(
            type=link["type"],
            role=link["role"],
            device=link["device"],
            address=link["address"],
            port=link["port"] or 0,
            timeout_s=link["timeout_s"],
            is_up=link["status"] != "DOWN",
            age_s=link["age_s"],
            pid=link.get("pid") or 0,
        )
        for link in document["links"]
    )
