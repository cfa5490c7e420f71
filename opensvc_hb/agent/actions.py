"""What does an action do to the resources of a service, in which order, and what if one fails?

`run_action` is the one way in, for a command and for the daemon alike: frozen and cluster
checks, the service's lock, vetoes, the sequence, rollback. Every resource speaks through
its own log; the result is an exit status. The sequences are data.

Source: C.2 (order, idempotence, rollback, standby, dry run), C.3, C.4, C.10, A.6 (triggers,
optional).
"""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import dataclass, field
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

from opensvc_hb.agent import frozen, safety_net, started_mark
from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.lock import WAIT_S, LockHeldError, service_lock
from opensvc_hb.agent.log import ServiceLog
from opensvc_hb.agent.marking import marked, now_by
from opensvc_hb.agent.parallel import answer_all
from opensvc_hb.agent.progress import Progress
from opensvc_hb.agent.resource import ActionError, Status
from opensvc_hb.agent.service import Member, Service
from opensvc_hb.agent.triggers import run_triggers

START, STOP = "start", "stop"

START_ORDER = ("ip", "disk", "fs", "share", "container", "app", "hb")
STOP_ORDER = ("hb", "app", "container", "share", "fs", "disk", "ip")

SEQUENCES: Mapping[str, Tuple[Tuple[str, Tuple[str, ...]], ...]] = {
    "start": ((START, START_ORDER),),
    "stop": ((STOP, STOP_ORDER),),
    "shutdown": ((STOP, STOP_ORDER),),
    "restart": ((STOP, STOP_ORDER), (START, START_ORDER)),
    "startstandby": ((START, START_ORDER),),
    "startip": ((START, ("ip",)),),
    "stopip": ((STOP, ("ip",)),),
    "startdisk": ((START, ("disk",)),),
    "stopdisk": ((STOP, ("disk",)),),
    "startvg": ((START, ("disk.scsireserv", "disk.vg")),),
    "stopvg": ((STOP, ("disk.vg", "disk.scsireserv")),),
    "startloop": ((START, ("disk.loop",)),),
    "stoploop": ((STOP, ("disk.loop",)),),
    "prstart": ((START, ("disk.scsireserv",)),),
    "prstop": ((STOP, ("disk.scsireserv",)),),
    "startfs": ((START, ("disk", "fs")),),
    "stopfs": ((STOP, ("fs", "disk")),),
    "startshare": ((START, ("share",)),),
    "stopshare": ((STOP, ("share",)),),
    "startcontainer": ((START, ("container",)),),
    "stopcontainer": ((STOP, ("container",)),),
    "startapp": ((START, ("app",)),),
    "stopapp": ((STOP, ("app",)),),
}
"""Each action: the verbs it does, each on these groups, or types of resources, in this order."""

VETOED_ACTIONS = ("start", "restart")
"""Actions before which every resource may object (`may_start`)."""


APP_STOP_ERRORS = (
    "there were errors during app stop. please check the quality of the scripts. continuing anyway."
)


@dataclass(frozen=True)
class Options:
    """Options of an action, as on the command line.

    Args:
        rids: resource names or families; () for all.
        tags: only resources that have one of these; () for all.
        force: standby resources too.
    """

    cluster: bool = False
    force: bool = False
    dry_run: bool = False
    disable_rollback: bool = False
    rids: Tuple[str, ...] = ()
    tags: Tuple[str, ...] = ()
    wait_lock_s: float = WAIT_S

    @property
    def is_whole(self) -> bool:
        """Tell whether the action is about the whole service."""
        return not self.rids and not self.tags


@dataclass
class _Run:
    """What one running action has done so far."""

    activated: List[Member] = field(default_factory=list)


class _StoppedError(Exception):
    """A resource failed, its reason is logged: the action stops."""


def run_action(
    loader: Loader, service: Service, action: str, options: Options, progress: Optional[Progress] = None
) -> int:
    """Do an action on a service; everything worth knowing is logged.

    Args:
        loader: loads the services of this node.
        service: the service.
        action: one of `SEQUENCES`, or boot.
        options: as on the command line.
        progress: shows what is worked on; None where nobody looks.

    Returns:
        0 when done (also when there was nothing to do), 1 when refused or failed.
    """
    log = loader.log(service.name)
    if is_refused(loader, service, action, options, log):
        return 1
    shown = Progress() if progress is None else progress
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(service_lock(loader.root, service.name, options.wait_lock_s, action))
            held.enter_context(marked(loader.root, service.name, START))
        except LockHeldError as error:
            log.error(str(error))
            return 1
        except OSError as error:
            log.error(f"'{action}' not begun: {reason_of(error)}")
            return 1
        held.enter_context(shown.shown())
        try:
            return _Action(loader, service, log, options, shown).do(action)
        except OSError as error:  # not a resource's: these are caught around each of them
            log.error(f"'{action}' not completed: {reason_of(error)}")
            return 1


def is_refused(loader: Loader, service: Service, action: str, options: Options, log: ServiceLog) -> bool:
    """Tell whether an action may not begin, and say why: one that changes what runs, or sends copies."""
    if frozen.is_frozen(loader.root, service.name):
        log.info(frozen.REFUSAL)
        return True
    objection = safety_net.objection(service, action, options.cluster)
    if objection:
        log.error(objection)
        return True
    absent = [rid for rid in options.rids if not any(member.is_named(rid) for member in service.members)]
    if absent:
        log.error(f"no resource and no family {', '.join(absent)} in this service")
        return True
    unused = [tag for tag in options.tags if not any(tag in member.tags for member in service.members)]
    if unused:
        log.error(f"no resource has the tag {', '.join(unused)} in this service")
        return True
    return False


def reason_of(error: OSError) -> str:
    """Return what the system said, behind the file that it is about, if there is one."""
    reason = error.strerror or str(error)
    return reason if error.filename is None else f"{error.filename}: {reason}"


class _Action:
    """One action under the service's lock."""

    def __init__(
        self, loader: Loader, service: Service, log: ServiceLog, options: Options, progress: Progress
    ) -> None:
        self.loader = loader
        self.service = service
        self.log = log
        self.options = options
        self.progress = progress

    def do(self, action: str) -> int:
        if action == "boot":
            return self._boot()
        if action in VETOED_ACTIONS and not self._nobody_objects():
            return 1
        for verb, groups in SEQUENCES[action]:
            if not self._sequence(action, verb, groups):
                return 1
        return 0

    def _boot(self) -> int:
        """Source: C.2: an hb resource, or a node that is no autostart node: standby only."""
        if self.service.node not in [name.lower() for name in self.service.autostart_nodes]:
            return self.do("startstandby")
        if self.service.of_group("hb"):
            self.log.warning("cluster nodes should not be in autostart_nodes for HA configuration")
            return self.do("startstandby")
        status = self.do("start")
        if status != 0:
            self.log.error("start failed. try to start standby")
            self.do("startstandby")
        return status

    def _nobody_objects(self) -> bool:
        for group in START_ORDER:
            for member in self._selected("start", (group,)):
                reason = self._veto(member)
                if reason is not None:
                    member.resource.context.error(reason)
                    self.log.error(f"start aborted due to resource {member.rid} conflict")
                    return False
        return True

    def _veto(self, member: Member) -> Optional[str]:
        try:
            return member.resource.may_start()
        except ActionError as error:
            return str(error)
        except Exception as error:  # the driver boundary: any driver may break in any way
            self.log.trace(traceback.format_exc())
            return f"unexpected error: {type(error).__name__}: {error}"

    def _sequence(self, action: str, verb: str, groups: Sequence[str]) -> bool:
        run = _Run()
        now_by(verb)
        whole = not self.options.dry_run and self.options.is_whole and groups in (START_ORDER, STOP_ORDER)
        if whole and verb == START and action != "startstandby":
            # before, not after: a start that is killed half way may have left something running
            started_mark.set_mark(self.loader.root, self.service.name)
        try:
            for group in groups:
                self._group(action, verb, group, run)
        except _StoppedError:
            self.log.error(f"'{action}' action stopped on execution error")
            if verb == START and self._roll_back(run) and whole and action != "startstandby":
                started_mark.remove_mark(self.loader.root, self.service.name)
            return False
        if whole and verb == STOP:
            started_mark.remove_mark(self.loader.root, self.service.name)
        return True

    def _group(self, action: str, verb: str, group: str, run: _Run) -> None:
        """Act on a family: set by set in alphanumeric order, reversed for stop.

        Source: C.2: a launcher that fails to stop stops nothing.
        """
        members = self._selected(action, (group,))
        names = sorted({member.set_name for member in members}, reverse=verb == STOP)
        go_on = group == "app" and verb == STOP
        failed = False
        for name in names:
            in_set = in_order([m for m in members if m.set_name == name], verb)
            together = name in self.service.parallel_sets and len(in_set) > 1 and not self.options.dry_run
            for some in [in_set] if together else [[member] for member in in_set]:
                try:
                    self._act_on(action, verb, some, run)
                except _StoppedError:
                    if not go_on:
                        raise
                    failed = True
        if failed:
            self.log.error(APP_STOP_ERRORS)

    def _act_on(self, action: str, verb: str, members: Sequence[Member], run: _Run) -> None:
        if len(members) > 1:
            with self.progress.working(f"{members[0].set_name} {verb}"):
                self._parallel_set(action, verb, members, run)
        else:
            with self.progress.working(f"{members[0].rid} {verb}"):
                self._act(action, verb, members[0], run)

    def _selected(self, action: str, groups: Sequence[str]) -> List[Member]:
        """Return the members an action concerns, in display order."""
        rids, tags = self.options.rids, self.options.tags
        return [
            member
            for member in self.service.members
            if (member.group in groups or member.resource.type_name in groups)
            and not member.disable
            and (not rids or any(member.is_named(rid) for rid in rids))
            and (not tags or any(tag in member.tags for tag in tags))
            and (action != "startstandby" or member.standby)
            and "noaction" not in member.tags
        ]

    def _parallel_set(self, action: str, verb: str, members: Sequence[Member], run: _Run) -> None:
        """Act on all members at once, a child process each; an error counts when all have ended."""

        def task(member: Member) -> Callable[[], Any]:
            def act() -> Any:
                mine = _Run()
                try:
                    self._act(action, verb, member, mine)
                except _StoppedError:
                    return {"failed": True, "activated": bool(mine.activated)}
                return {"failed": False, "activated": bool(mine.activated)}

            return act

        def told(index: int, pid: int) -> None:
            members[index].resource.context.info(f"action {verb} started in child process {pid}")

        try:
            answers = answer_all([task(member) for member in members], None, len(members), told)
        except OSError as error:
            self.log.error(reason_of(error))
            raise _StoppedError from None
        failed = False
        for member, answer in zip(members, answers):
            if answer.problem:
                member.resource.context.error(answer.problem)
                self.log.trace(answer.trace or answer.problem)
                failed = failed or not member.optional
            else:
                failed = failed or bool(answer.value["failed"])
                if answer.value["activated"]:
                    run.activated.append(member)
        if failed:
            raise _StoppedError

    def _act(self, action: str, verb: str, member: Member, run: _Run) -> None:
        """Do one verb on one resource, its triggers around it.

        Raises:
            _StoppedError: it failed and is not optional; the reason is logged.
        """
        context = member.resource.context
        forced = self.options.force or action == "shutdown"
        if verb == STOP and member.standby and not forced:
            context.info("skip 'stop' on standby resource (--force to override)")
            return
        if not self._go_on("pre", verb, member):
            return
        if self.options.dry_run:
            context.info(f"{verb} {member.resource.label}")
        elif not self._carry_out(verb, member, run):
            if not member.optional:
                raise _StoppedError
            return
        self._go_on("post", verb, member)

    def _go_on(self, moment: str, verb: str, member: Member) -> bool:
        """Run the triggers of a resource; a blocking one that fails ends what is done with it.

        Raises:
            _StoppedError: it failed, and the resource is not optional.
        """
        if run_triggers(member, moment, verb, self.options.dry_run):
            return True
        if not member.optional:
            raise _StoppedError
        return False

    def _carry_out(self, verb: str, member: Member, run: _Run) -> bool:
        resource = member.resource
        resource.activated = None
        try:
            if verb == STOP:
                resource.stop()
                return True
            was_up = self._was_up(member)
            resource.start()
        except ActionError as error:
            if str(error):
                resource.context.error(str(error))
            return False
        except Exception as error:  # the driver boundary: any driver may break in any way
            self.log.trace(traceback.format_exc())
            resource.context.error(f"unexpected error: {type(error).__name__}: {error}")
            return False
        if resource.activated or (resource.activated is None and not was_up):
            run.activated.append(member)
        return True

    def _was_up(self, member: Member) -> bool:
        """Tell whether a start has nothing to do, for the day it must be rolled back."""
        if member.group == "hb":
            return True
        if member.resource.tells_activation:
            return False
        up = member.resource.status() is Status.UP
        member.resource.messages.clear()
        return up

    def _roll_back(self, run: _Run) -> bool:
        """Stop what this run activated, in reverse (C.2); tell whether nothing of it is left."""
        if not run.activated:
            self.log.info("skip rollback start: no resource activated")
            return True
        if self.options.disable_rollback:
            self.log.info("skip rollback start: as instructed by --disable-rollback")
            return False
        self.log.info(f"trying to rollback start on {', '.join(member.rid for member in run.activated)}")
        clean = True
        for member in reversed(run.activated):
            try:
                self._act("rollback", STOP, member, _Run())
            except _StoppedError:
                self.log.error(f"rollback of {member.rid} failed: it may be left up")
                clean = False
        return clean


def in_order(members: Sequence[Member], verb: str) -> List[Member]:
    """Return the members of one set in the order of a verb; given in display order.

    Source: C.2: reversed for stop, but launchers by their own stop number.
    """
    if verb == START:
        return list(members)
    keyed: List[Tuple[Any, Member]] = []
    for member in members:
        key = member.resource.stop_sort_key
        if key is None:
            return list(reversed(members))
        keyed.append((key, member))
    return [member for _, member in sorted(keyed, key=lambda pair: pair[0])]
