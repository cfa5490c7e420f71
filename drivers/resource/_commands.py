"""Run a system tool as the agents did: its line in the log, then what it wrote.

Shared by drivers; not a driver. Runs in: the thread of the action.
"""

from __future__ import annotations

from typing import Sequence

from opensvc_hb.agent.resource import ActionError, CommandResult, ResourceContext


def attempt(context: ResourceContext, argv: Sequence[str], timeout_s: float) -> CommandResult:
    """Run a command, log its line and its output; the caller judges the exit status.

    Source: the agents' logs, a block `output:` or `stderr:` with the text as it came.

    Raises:
        ActionError: it does not exist, or did not end within `timeout_s` seconds.
    """
    context.info(" ".join(argv))
    result = context.run(list(argv), timeout_s)
    if result.stdout.strip():
        context.info(f"output:\n{result.stdout}")
    if result.stderr.strip():
        log = context.info if result.status == 0 else context.warning
        log(f"stderr:\n{result.stderr}")
    return result


def must(
    context: ResourceContext, argv: Sequence[str], timeout_s: float, accepted: Sequence[int] = (0,)
) -> CommandResult:
    """Run a command like `attempt`; an exit status that is not accepted is an ActionError."""
    result = attempt(context, argv, timeout_s)
    if result.status not in accepted:
        reason = " ".join((result.stderr or result.stdout).split())
        line = " ".join(argv)
        raise ActionError(f"{line} failed with status {result.status}" + (f": {reason}" if reason else ""))
    return result
