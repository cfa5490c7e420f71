"""A command that a service's file wants run before or after an action on a resource.

Called by the actions that have triggers: start and stop (`actions`), copies (`sync_action`).

Source: A.6: split on white space, no shell, the exit code is ignored, a failure is logged; that of a
blocking trigger of the later agents stops the action.
"""

from __future__ import annotations

from opensvc_hb.agent.resource import ActionError
from opensvc_hb.agent.service import Member

TRIGGER_LIMIT_S = 300.0
"""How long a trigger may take."""


def run_triggers(member: Member, moment: str, verb: str, dry_run: bool = False) -> bool:
    """Run the triggers of a resource before (`pre`) or after (`post`) a verb, the blocking one last.

    Returns:
        False when the blocking one failed: the action must not go on.
    """
    run_trigger(member, f"{moment}_{verb}", dry_run)
    return run_trigger(member, f"blocking_{moment}_{verb}", dry_run)


def run_trigger(member: Member, name: str, dry_run: bool = False) -> bool:
    """Run one trigger of a resource, `pre_start` for example, if it has that one.

    A failure is logged as an error (A.6).

    Returns:
        False when it failed, which counts for a blocking trigger only.
    """
    argv = member.triggers.get(name, ())
    if not argv:
        return True
    context = member.resource.context
    if dry_run:
        context.info(f"exec trigger {list(argv)}")
        return True
    context.info(" ".join(argv))
    try:
        result = context.run(argv, timeout_s=TRIGGER_LIMIT_S, environment=dict(context.environment))
    except ActionError as error:
        context.error(str(error))
        return False
    if result.status != 0:
        if result.stdout or not result.stderr:
            context.error(f"command failed with stdout:\n{result.stdout}")
        if result.stderr:
            context.error(f"stderr:\n{result.stderr}")
        return False
    if result.stdout:
        context.info(f"output:\n{result.stdout}")
    if result.stderr:
        context.warning(f"stderr:\n{result.stderr}")
    return True
