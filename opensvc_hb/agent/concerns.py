"""What on this machine endangers or prevents the resources of the services, before anybody starts them?

Asks every resource of every service that can be built here; a file that is refused is told of
elsewhere. Changes nothing. Called by `hbmgr check`.
"""

from __future__ import annotations

import traceback
from typing import List, Tuple

from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.names import list_services
from opensvc_hb.agent.service import Member
from opensvc_hb.errors import HbError


def concerns_here(loader: Loader) -> Tuple[str, ...]:
    """Return one line `SERVICE: RID: text` for each concern of each resource, in the services' order."""
    found: List[str] = []
    for svcname in list_services(loader.root):
        try:
            service = loader.service(svcname)
        except HbError:
            continue
        for member in service.members:
            if not member.disable:
                texts = _of_member(loader, svcname, member)
                found.extend(f"{svcname}: {member.rid}: {text}" for text in texts)
    return tuple(found)


def _of_member(loader: Loader, svcname: str, member: Member) -> Tuple[str, ...]:
    try:
        return member.resource.concerns()
    except Exception as error:  # the driver boundary: any driver may break in any way
        loader.log(svcname).trace(traceback.format_exc())
        return (f"{type(error).__name__}: {error}",)
