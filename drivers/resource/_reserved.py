"""Is the reservation of a resource's disks held? Asked before the resource touches them.

An action on some resources only (`--rid`) may leave the reservation out; the disks must not be
used then. Shared by drivers; not a driver.
"""

from __future__ import annotations

from opensvc_hb.agent.resource import ActionError, Resource, Status

SUFFIX = "pr"
"""A reservation's name is that of the resource it protects, with this behind it."""


def must_be_reserved(resource: Resource) -> None:
    """Go on only when the reservation that belongs to a resource, if there is one, is this node's.

    A reservation without any disk, such as that of a volume that only exists once its group is
    active, protects nothing: the disks are those of the group, which has its own.

    Raises:
        ActionError: it is not held.
    """
    rid = f"{resource.rid}{SUFFIX}"
    for other in resource.context.service_resources():
        if other.rid != rid:
            continue
        other.messages.clear()
        status = other.status()
        if status is not Status.UP and (status is not Status.NA or other.messages):
            reasons = "; ".join(other.messages)
            raise ActionError(
                f"not started without its reservation: {rid} is {status.text}"
                + (f" ({reasons})" if reasons else "")
            )
