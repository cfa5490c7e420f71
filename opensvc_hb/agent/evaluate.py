"""In which state is a service on this node, now?

Asks every resource, in parallel, each with a time limit that holds; the rules that say which
resource is not asked at all stand here. No side effect: a status starts, links and repairs
nothing. Called by `print status`, `svcmon` and the daemon's adapter.

Source: B.3, B.4, B.5. What the agents do not have: a probe that hangs or breaks down is
a warning that says so, and `known` is False.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from opensvc_hb.agent.frozen import is_frozen
from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.log import ServiceLog
from opensvc_hb.agent.parallel import Answer, answer_all
from opensvc_hb.agent.resource import Status
from opensvc_hb.agent.service import Member, Service
from opensvc_hb.agent.started_mark import is_marked
from opensvc_hb.agent.status import ResourceStatus, ServiceStatus, aggregate, rest_of

STATUS_LIMIT_S = 30.0
"""How long one resource may take to tell its status."""

_NO_STANDBY = ("app", "container", "hb", "sync")
"""Groups without standby; neither has disk.loop (B.4)."""


Ask = Callable[[Sequence[Callable[[], Any]], float], List[Answer]]
"""Asks many at once; a test may answer in its own process."""


def evaluate(
    loader: Loader,
    service: Service,
    evaluate_apps: bool = False,
    limit_s: float = STATUS_LIMIT_S,
    ask: Ask = answer_all,
    ask_heartbeat: bool = True,
) -> ServiceStatus:
    """Evaluate a service.

    Args:
        loader: gives the service's log and flags.
        service: the service.
        evaluate_apps: in a service with only app resources ask them even where the
            heartbeat says that nothing runs here.
        limit_s: seconds for each resource.
        ask: asks many resources at once.
        ask_heartbeat: False leaves the hb undefined: the daemon may be waiting for us.
    """
    log = loader.log(service.name)
    known: Dict[str, ResourceStatus] = {}

    def take(members: Sequence[Member]) -> None:
        known.update(_ask_members(members, log, limit_s, ask))

    first = [m for m in service.members if m.group not in ("app", "sync")]
    if not ask_heartbeat:
        beats = [m for m in first if m.group == "hb" and not m.disable]
        known.update((member.rid, _shown(member, Status.UNDEF, ())) for member in beats)
    take([member for member in first if member.rid not in known])
    rest = rest_of(known[member.rid] for member in first)
    apps = service.of_group("app")
    if apps_are_asked(service, rest, evaluate_apps):
        take(apps)
    else:
        known.update((member.rid, _shown(member, Status.NA, ())) for member in apps)
    runs_here = rest
    if rest is Status.NA:
        runs_here = _by_launchers(loader, service, known)
    for member in service.of_group("sync"):
        member.resource.rest = runs_here
        known[member.rid] = _in_process(member, log)
    resources = tuple(known[member.rid] for member in service.members)
    return ServiceStatus(
        svcname=service.name,
        node=service.node,
        service_type=service.service_type,
        mode=service.mode,
        app_code=service.app_code,
        frozen=is_frozen(loader.root, service.name),
        resources=resources,
        totals=aggregate(resources),
    )


def _by_launchers(loader: Loader, service: Service, known: Mapping[str, ResourceStatus]) -> Status:
    """Tell where a service runs that has nothing but launchers, for its copies.

    Source: ours; by the agents' rule (B.5) such a service is up nowhere, and never copied. What its
    launchers cannot tell either is what its last whole start or stop made of it.
    """
    by_launchers = aggregate(known[member.rid] for member in service.of_group("app")).avail
    if by_launchers is Status.NA and is_marked(loader.root, service.name):
        return Status.UP
    return by_launchers


def apps_are_asked(service: Service, rest: Status, evaluate_apps: bool) -> bool:
    """Tell whether launchers are run for their status, once the rest was asked.

    Source: B.4: not where the service has more than one node and the rest of it is not up.
    Ours: a service with only app resources would never be seen up on two nodes; there the
    heartbeat's word decides.
    """
    if len(service.nodes) + len(service.drpnodes) < 2:
        return True
    enabled = [m for m in service.members if not m.disable and m.group not in ("app", "sync", "hb")]
    if enabled:
        return rest is Status.UP
    if evaluate_apps:
        return True
    return not any(m.resource.passive for m in service.of_group("hb") if not m.disable)


def _ask_members(
    members: Sequence[Member], log: ServiceLog, limit_s: float, ask: Ask
) -> Mapping[str, ResourceStatus]:
    """Ask these resources: those that may hang in a process each, the others here."""
    found: Dict[str, ResourceStatus] = {}
    outside: List[Member] = []
    for member in members:
        if member.disable:
            found[member.rid] = replace(_shown(member, Status.NA, ("disabled",)), disable=True)
        elif member.group == "hb":
            found[member.rid] = _in_process(member, log)
        else:
            outside.append(member)
    together = _asked_together(outside)
    answers = ask([_task(some) for some in together], limit_s) if outside else []
    for some, answer in zip(together, answers):
        if answer.trace:
            log.trace(answer.trace)
        for place, member in enumerate(some):
            if answer.problem:
                found[member.rid] = _unknown(member, answer.problem)
            else:
                status, messages, label = answer.value[place]
                found[member.rid] = replace(_shown(member, Status(status), tuple(messages)), label=label)
    return found


def _asked_together(members: Sequence[Member]) -> List[List[Member]]:
    """Return the members by the process that asks them: one each, unless drivers share what they learn."""
    apart: List[List[Member]] = []
    shared: Dict[str, List[Member]] = {}
    for member in members:
        if not member.resource.asked_together:
            apart.append([member])
        elif member.resource.type_name in shared:
            shared[member.resource.type_name].append(member)
        else:
            shared[member.resource.type_name] = [member]
            apart.append(shared[member.resource.type_name])
    return apart


def _task(members: Sequence[Member]) -> Callable[[], Any]:
    def tell_one(member: Member) -> Any:
        member.resource.messages.clear()  # of an action before
        status = member.resource.status()
        return [int(status), member.resource.messages, member.resource.label]

    def tell() -> Any:
        return [tell_one(member) for member in members]

    return tell


def _in_process(member: Member, log: ServiceLog) -> ResourceStatus:
    """Ask a resource that only looks at small files or asks the daemon, each bounded."""
    if member.disable:
        return replace(_shown(member, Status.NA, ("disabled",)), disable=True)
    member.resource.messages.clear()
    try:
        status = member.resource.status()
    except Exception as error:  # the driver boundary: any driver may break in any way
        import traceback

        log.trace(traceback.format_exc())
        return _unknown(member, f"{type(error).__name__}: {error}")
    return _shown(member, status, tuple(member.resource.messages))


def _unknown(member: Member, problem: str) -> ResourceStatus:
    return replace(_shown(member, Status.WARN, (f"unable to determine status: {problem}",)), known=False)


def _shown(member: Member, status: Status, messages: Tuple[str, ...]) -> ResourceStatus:
    if member.standby and member.group not in _NO_STANDBY and member.resource.type_name != "disk.loop":
        status = {Status.UP: Status.STDBY_UP, Status.DOWN: Status.STDBY_DOWN}.get(status, status)
    return ResourceStatus(
        rid=member.rid,
        group=member.group,
        type=member.resource.type_name,
        set_name=member.set_name,
        status=status,
        label=member.resource.label,
        messages=messages,
        monitor=member.monitor,
        optional=member.optional,
        tags=member.tags,
    )
