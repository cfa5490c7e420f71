"""Monitored resources: which are they, how is one restarted, and what does `resource monitor` do?

The heartbeat daemon decides by its own background evaluations when a resource is restarted and when
its service moves; it learns here what to watch, and has the restart done here. The command is the
agents', for whoever still calls it from cron: one look, restarts, and the daemon is told of what
stays down. It never moves a service itself.

Called by the daemon's adapter and by svcmgr. Source: C.7; A.6 (monitor, restart).
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import Callable, List, Optional, Tuple

from opensvc_hb.agent.actions import START_ORDER, Options, run_action
from opensvc_hb.agent.daemon_link import ask_daemon
from opensvc_hb.agent.evaluate import evaluate
from opensvc_hb.agent.frozen import REFUSAL, is_frozen
from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.lock import YIELDING
from opensvc_hb.agent.resource import ActionError, Status
from opensvc_hb.agent.service import Member, Service
from opensvc_hb.agent.status import ResourceStatus, ServiceStatus
from opensvc_hb.core.config import NOTHING_WATCHED, MonitorAction, Monitored, Monitoring
from opensvc_hb.core.states import Answer, Avail
from opensvc_hb.errors import HbError
from opensvc_hb.paths import Root

RESTART_PAUSE_S = 1.0
COMMAND_LIMIT_S = 60.0
"""How long `pre_monitor_action` may take; the daemon ends it then, too."""

_ANSWERS = {
    Status.UP: Answer.UP,
    Status.STDBY_UP: Answer.UP,
    Status.DOWN: Answer.DOWN,
    Status.STDBY_DOWN: Answer.DOWN,
}


def monitoring_of(service: Optional[Service]) -> Monitoring:
    """Return how a service's resources are watched on this node; nothing for a file that is bad."""
    if service is None:
        return NOTHING_WATCHED
    defaults = service.defaults
    return Monitoring(
        resources=tuple(Monitored(m.rid, m.restart_count_max) for m in watched_members(service)),
        action=MonitorAction(defaults["monitor_action"]),
        restart_window_s=float(defaults["restart_window"]),
        moves_max=int(defaults["max_moves"]),
        move_window_s=float(defaults["move_window"]),
        prepares=bool(defaults["pre_monitor_action"]),
    )


def watched_members(service: Service) -> Tuple[Member, ...]:
    """Return the monitored resources, in the order in which they start."""
    watched = [m for m in service.members if m.monitor and not m.disable and m.group in START_ORDER]
    in_order = sorted(watched, key=lambda member: START_ORDER.index(member.group))
    return tuple(member for member in in_order if member.group != "hb")


def restart_resource(loader: Loader, service: Service, rid: str, attempt: str) -> int:
    """Start one resource again; returns the exit status, 0 only when it is up then.

    Args:
        loader: gives log and lock.
        service: built as with --cluster.
        rid: the resource.
        attempt: which try it is, `1/2`.
    """
    log = loader.log(service.name)
    log.info(f"restart resource {rid}. try number {attempt}")
    status = run_action(loader, service, "start", Options(cluster=True, rids=(rid,)))
    if status != 0:
        return status
    member = next(member for member in service.members if member.rid == rid)
    member.resource.messages.clear()
    if member.resource.status() is not Status.UP:
        log.error(f"resource {rid} was started and is not up")
        return 1
    log.info(f"monitored resource {rid} restarted. abording TOC.")
    return 0


def run_prepare(loader: Loader, service: Service) -> int:
    """Run `pre_monitor_action`; a failure is logged, and stops nothing."""
    log = loader.log(service.name)
    argv = service.defaults["pre_monitor_action"]
    if not argv:
        return 0
    log.info(" ".join(argv))
    environment = {"OPENSVC_SVCNAME": service.name}
    try:
        result = loader.run(argv, timeout_s=COMMAND_LIMIT_S, environment=environment)
    except ActionError as error:
        log.error(str(error))
        return 1
    for text, write in ((result.stdout, log.info), (result.stderr, log.warning)):
        if text.strip():
            write(f"output:\n{text}")
    if result.status != 0:
        log.error(f"pre_monitor_action failed with status {result.status}")
    return result.status


def is_in_hand(root: Root, svcname: str) -> bool:
    """Tell whether an action has the service's lock: what is looked at now is half done.

    A copy to other nodes holds it too, and touches nothing.
    """
    try:
        descriptor = os.open(root.var / "lock" / svcname, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.pread(descriptor, 64, 0).decode("ascii", "replace").split()
        return len(words) < 2 or words[1] not in YIELDING
    finally:
        os.close(descriptor)
    return False


class ResourceMonitorCommand:
    """`svcmgr -s SVC resource monitor`: one look at a service's monitored resources.

    Args:
        loader: loads the service.
        sleep: waits so many seconds between two restarts.
    """

    def __init__(self, loader: Loader, sleep: Callable[[float], None] = time.sleep) -> None:
        self._loader = loader
        self._sleep = sleep

    def run(self, svcname: str, dry_run: bool = False) -> int:
        """Look, restart, tell the daemon; returns the exit status, which is 0 whatever is down.

        Args:
            svcname: the service.
            dry_run: say what would be done, do none of it.
        """
        service = self._loader.service(svcname, cluster=True)
        log = self._loader.log(svcname)
        if is_frozen(self._loader.root, svcname):
            log.info(REFUSAL)
            return 1
        status = evaluate(self._loader, service)
        if not any(m for m in service.of_group("hb") if not m.disable):
            return 0
        if status.totals.groups["hb"] is not Status.UP:
            return 0
        down = self._first_down(service, status)
        if down is None:
            return 0
        member, seen = down
        for number in range(1, member.restart_count_max + 1):
            if number > 1 and not dry_run:
                self._sleep(RESTART_PAUSE_S)
            attempt = f"{number}/{member.restart_count_max}"
            if dry_run:
                log.info(f"restart resource {member.rid}. try number {attempt}")
                continue
            if restart_resource(self._loader, service, member.rid, attempt) == 0:
                return 0
        action = MonitorAction(service.defaults["monitor_action"])
        if action is MonitorAction.NONE:
            log.info("Would TOC but no (or unknown) resource monitor action set.")
            return 0
        words = f" ({', '.join(seen.messages)})" if seen.messages else ""
        log.info(f"monitored resource {member.rid} is in state {seen.status.text}{words}")
        log.info(f"start monitor action '{action.value}'")
        if not dry_run:
            self._tell_daemon(service, status)
        return 0

    @staticmethod
    def _first_down(service: Service, status: ServiceStatus) -> Optional[Tuple[Member, ResourceStatus]]:
        by_rid = {resource.rid: resource for resource in status.resources}
        for member in watched_members(service):
            resource = by_rid[member.rid]
            if resource.known and _ANSWERS.get(resource.status) is Answer.DOWN:
                return member, resource
        return None

    def _tell_daemon(self, service: Service, status: ServiceStatus) -> None:
        """Tell the daemon what is down: it looks again, and decides whether the service can move."""
        watched = {member.rid for member in watched_members(service)}
        told: List[List[str]] = [
            [r.rid, _answer(r).value, "; ".join(r.messages)] for r in status.resources if r.rid in watched
        ]
        request = {
            "request": "monitor",
            "service": service.name,
            "avail": Avail.UNKNOWN.value,
            "resources": told,
        }
        ask = self._loader.ask
        answer = ask_daemon(self._loader.root, request) if ask is None else ask(request)
        if not answer.get("ok"):
            raise NotToldError(str(answer.get("error", "it does not answer")))


def _answer(resource: ResourceStatus) -> Answer:
    return _ANSWERS.get(resource.status, Answer.UNKNOWN) if resource.known else Answer.UNKNOWN


class NotToldError(HbError):
    """The heartbeat daemon could not be told of a resource that is down."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the heartbeat daemon was not told, nothing moves: {why}")
