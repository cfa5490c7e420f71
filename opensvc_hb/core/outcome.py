"""An action has ended: what is the instance now?

Exit status and what the agent then says of the resources decide together. A state that
permits the peer to start (STOPPED, FROZEN_STOP) is never taken while resources are up here.
"""

from __future__ import annotations

from typing import Optional

from opensvc_hb.core.adoption import VERIFY_LIMIT_S, adopt
from opensvc_hb.core.departure import stop_to_leave
from opensvc_hb.core.events import ActionFinished, Outcome, ResourcesReported
from opensvc_hb.core.handover import hand_over
from opensvc_hb.core.healing import after_yielding, note_resources, stop_to_heal
from opensvc_hb.core.lease import stop_to_end
from opensvc_hb.core.monitoring import attempt_ended, reported
from opensvc_hb.core.node_state import Freeze, Instance, Purpose, RunningAction
from opensvc_hb.core.records import replace
from opensvc_hb.core.states import ActionVerb, Avail, State
from opensvc_hb.core.turn import Turn, change_state
from opensvc_hb.errors import ExitCode

_LEAVE_ALONE = frozenset({ActionVerb.VERIFY, ActionVerb.ANNOUNCE, ActionVerb.PREPARE})
"""Actions that touch no resource: what is seen meanwhile of one is true."""

QUESTION_GRACE_S = 20.0
"""From the time limit of a verify to the moment when nobody waits for its end any more."""


def action_finished(turn: Turn, event: ActionFinished) -> None:
    """Take in the end of an action that core asked for; any other is ignored."""
    instance = turn.instances.get(event.service)
    if instance is None or instance.action is None or instance.action.action_id != event.action_id:
        return
    action = instance.action
    took = turn.now - action.since
    instance = turn.put(replace(instance, action=None, interrupted=False, detail=event.detail))
    instance = note_resources(turn, instance, event.avail)
    if action.verb not in (ActionVerb.VERIFY, ActionVerb.ANNOUNCE):
        turn.journal(
            event.service,
            "action",
            f"{action.verb.value} {event.outcome.value} in {took:.1f} s",
            event.detail,
            inputs=(("exit status", str(event.exit_status)), ("resources", event.avail.value)),
        )
    if action.verb is ActionVerb.START:
        _start_ended(turn, instance, event)
    elif action.purpose is Purpose.MONITOR and action.verb is not ActionVerb.STOP:
        if not _gives_way(turn, instance, f"the {action.verb.value} was cancelled; the service stops"):
            attempt_ended(turn, instance, event)
    elif action.verb is ActionVerb.STOP:
        _stop_ended(turn, instance, action, event)
    elif action.purpose is Purpose.ADOPT:
        adopt(turn, instance, event.avail)
    elif action.purpose is Purpose.FORCE_STOP:
        _declared_stopped(turn, instance, action, event.avail)
    elif action.purpose is Purpose.LEASE:
        _killed_stop_seen(turn, instance, action, event)


def give_up_questions(turn: Turn) -> None:
    """Answer for a verify, or an announcement, that does not end although its limit has passed.

    It hangs in the kernel, where nothing ends it. It changes nothing, so nobody needs to wait for
    it: one dead file system must not keep the daemon of a whole node from deciding.
    """
    for name in turn.summary().asked:
        instance = turn.instances[name]
        action = instance.action
        assert action is not None, "the summary names those with such an action"
        if turn.now >= action.since + VERIFY_LIMIT_S + QUESTION_GRACE_S:
            why = "it hangs beyond its time limit"
            finished = ActionFinished(
                instance.service, action.action_id, action.verb, Outcome.TIMED_OUT, Avail.UNKNOWN, 0, why
            )
            action_finished(turn, finished)


def resources_reported(turn: Turn, event: ResourcesReported) -> None:
    """The background evaluation of a service has a new answer."""
    instance = turn.instances.get(event.service)
    if instance is not None and instance.verified and instance.action is None:
        before = instance.resources
        if instance.doubtful or instance.state is State.UNKNOWN:
            # The evaluation may have looked in the middle of an action of an earlier daemon, or of
            # an operator: only a verify, which waits for its end, is believed.
            turn.run(instance, ActionVerb.VERIFY, Purpose.ADOPT, instance.state, VERIFY_LIMIT_S)
            return
        instance = note_resources(turn, instance, event.avail)
        if before is not instance.resources and instance.state is State.STARTED:
            turn.journal(event.service, "resources", f"{before.value} -> {instance.resources.value}")
        if instance.declared and event.avail is Avail.UP:
            instance = turn.put(replace(instance, declared=False))
        reported(turn, instance, event)
    elif instance is not None and instance.action is not None and instance.action.verb in _LEAVE_ALONE:
        reported(turn, instance, event)


def _gives_way(turn: Turn, instance: Instance, reason: str) -> bool:
    """Begin the stop for which an action was cancelled; tell whether there is one."""
    if instance.yielding is None:
        return False
    if turn.going:
        stop_to_leave(turn, instance, reason)
    elif instance.yielding is Purpose.LEASE:
        stop_to_end(turn, instance, reason, "L1")
    else:
        stop_to_heal(turn, instance, reason, "H1")
    return True


def _start_ended(turn: Turn, instance: Instance, event: ActionFinished) -> None:
    if _gives_way(turn, instance, "the start was cancelled; what it began is stopped"):
        return
    if instance.stop_next is not None:
        then, limit_s = instance.stop_next, turn.config.services[instance.service].stop_limit_s
        reason = "an operator cancelled the start; what it began is stopped"
        instance = change_state(
            turn, replace(instance, stop_next=None), State.STOPPING, reason, kind="operator"
        )
        turn.run(instance, ActionVerb.STOP, Purpose.OPERATOR, then, limit_s)
        return
    if event.outcome is Outcome.NOT_BEGUN:
        instance = replace(instance, paused_until=turn.now + turn.config.beat_interval_s)
        change_state(turn, instance, State.STOPPED, event.detail)
        return
    problem = _start_problem(event)
    if problem is not None:
        change_state(turn, instance, State.START_FAILED, problem, kind="alarm")
        return
    freeze = instance.freeze_next
    if freeze is None:
        change_state(turn, instance, State.STARTED, "the start action succeeded")
        return
    change_state(turn, replace(instance, freeze=freeze), State.FROZEN_START, freeze.reason)


def _start_problem(event: ActionFinished) -> Optional[str]:
    """Return why a start that ended is a failure; None when it is none.

    Source: an exit status alone is not proof, an agent may return 0 after a failed launcher.
    """
    if event.outcome is not Outcome.DONE:
        return f"the start action {event.outcome.value}{_because(event)}"
    if event.avail in (Avail.DOWN, Avail.MIXED):
        return f"the start action succeeded, but resources are {event.avail.value}{_because(event)}"
    return None


def _stop_ended(turn: Turn, instance: Instance, action: RunningAction, event: ActionFinished) -> None:
    problem = _stop_problem(event)
    if problem is not None and action.purpose is Purpose.LEASE and event.avail is Avail.UNKNOWN:
        # The guardian kills what hangs, our stop with it, and stops the instance itself. A verify
        # waits for the service's lock, thus for that stop, and tells what has come of it.
        turn.run(instance, ActionVerb.VERIFY, Purpose.LEASE, action.then, VERIFY_LIMIT_S)
        return
    if action.purpose is Purpose.LEASE and event.avail is Avail.DOWN:
        problem = None  # the guardian ends actions that take too long: what counts is that it is down
    if problem is not None:
        change_state(turn, instance, State.STOP_FAILED, problem, kind="alarm")
    elif action.purpose is Purpose.HEAL:
        after_yielding(turn, instance)
    elif action.then is State.FROZEN_STOP:
        freeze = instance.freeze_next or instance.freeze or Freeze("", "", "")
        reason = freeze.reason or "the stop action succeeded"
        change_state(turn, replace(instance, freeze=freeze), State.FROZEN_STOP, reason)
    else:
        if action.purpose is Purpose.HAND_OVER:
            instance = hand_over(turn, instance)
        change_state(turn, instance, State.STOPPED, "the stop action succeeded")


def _killed_stop_seen(turn: Turn, instance: Instance, action: RunningAction, event: ActionFinished) -> None:
    if event.avail is Avail.DOWN:
        reason = "the stop action did not end, but the resources are down"
        change_state(turn, replace(instance, freeze=instance.freeze_next), action.then, reason)
        return
    cannot = f"the stop action did not end, and resources are {event.avail.value}{_because(event)}"
    change_state(turn, instance, State.STOP_FAILED, cannot, kind="alarm")


def _stop_problem(event: ActionFinished) -> Optional[str]:
    if event.outcome is not Outcome.DONE:
        return f"the stop action {event.outcome.value}{_because(event)}"
    if event.avail in (Avail.UP, Avail.MIXED):
        return f"the stop action succeeded, but resources are {event.avail.value}{_because(event)}"
    if event.avail is Avail.UNKNOWN:
        cannot = "the stop action succeeded, but the agent cannot tell whether resources are down"
        return cannot + _because(event)
    return None


def _because(event: ActionFinished) -> str:
    return f": {event.detail}" if event.detail else ""


def _declared_stopped(turn: Turn, instance: Instance, action: RunningAction, avail: Avail) -> None:
    """An operator says the service is stopped here: the resources agree, or it is refused."""
    waiting = instance.waiting
    if avail in (Avail.DOWN, Avail.NOT_EVALUATED):
        instance = replace(instance, freeze=instance.freeze_next)
        change_state(
            turn, instance, action.then, "an operator says so, the resources are down", kind="operator"
        )
        return
    turn.put(replace(instance, waiting=(), freeze_next=None))
    for waiter in waiting:
        turn.reply(
            waiter.command_id,
            ExitCode.REFUSED,
            f"{instance.service}: resources are {avail.value} here: stop them first "
            f"(svcmgr -s {turn.config.services[instance.service].svcname} --cluster stop), or use --force",
        )
