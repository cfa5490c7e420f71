"""What core asks of the shell, as imperatives. The shell performs them in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple, Union

from opensvc_hb.core.events import Stored
from opensvc_hb.core.messages import Beat
from opensvc_hb.core.states import ActionVerb
from opensvc_hb.errors import ExitCode


@dataclass(frozen=True)
class SendNow:
    """Send this beat on every link of ours. Without `with_table` its steady form is enough."""

    beat: Beat
    with_table: bool


@dataclass(frozen=True)
class AskLinks:
    """Have every listener hand over what has arrived, then answer `LinkDrained(token)`."""

    token: int


@dataclass(frozen=True)
class ArmTimer:
    """Give a `Ticked` at `at` (seconds of this node's clock). Replaces the timer before it."""

    at: float


@dataclass(frozen=True)
class RunAction:
    """Have the agent act on a service; `ActionFinished` with `action_id` must follow, always.

    Args:
        begin_by: seconds of this node's clock after which it must not be begun any more, but be
            answered as `NOT_BEGUN`; None for no such moment.
        rid: of a restart: the resource; attempt: which try it is, `1/2`, for the service's log.
    """

    service: str
    svcname: str
    action_id: int
    verb: ActionVerb
    limit_s: float
    begin_by: Optional[float] = None
    rid: str = ""
    attempt: str = ""


@dataclass(frozen=True)
class CancelAction:
    """End the action's process group; its `ActionFinished` still follows."""

    service: str
    action_id: int


@dataclass(frozen=True)
class Persist:
    """Store this before any later effect is performed.

    Until it can be stored nothing new is announced: the last beat whose states were stored is
    `messages.repeated`, since silence would have the peers start what runs here.
    """

    stored: Stored


@dataclass(frozen=True)
class Guard:
    """Have the guardian hold a deadline: every order replaces the one before.

    An order that adds a service is confirmed by the guardian before any later effect is
    performed; a start that it did not confirm is not begun (`NOT_BEGUN`).

    Args:
        until: clock seconds at which these instances begin to be ended, unless a later order says
            otherwise; the guardian's own deadlines follow from it and `timeout_s`.
        timeout_s: T, the longest timeout of the monitor file.
        services: hb name and svcname of each instance that may live here and needs the lease.
        ending: hb names of those that this daemon itself is ending now.
    """

    until: float
    timeout_s: float
    services: Tuple[Tuple[str, str], ...]
    ending: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Journal:
    """Write one entry of the event journal.

    Args:
        service: "" for an entry about the node or a link.
        rule: id of the rule that decided, "" when no rule was involved.
        text: what happened, one line.
        reason: the rule's sentence, or the operator's words.
        inputs: (name, value) pairs: states on both sides, age of the last beat on each link.
    """

    service: str
    kind: str
    rule: str
    text: str
    reason: str
    inputs: Tuple[Tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Reply:
    """Answer an operator's command; `text` is one line or several."""

    command_id: int
    code: ExitCode
    text: str


@dataclass(frozen=True)
class WatchServices:
    """Have these services evaluated at the monitor's pace, all others at the ordinary one.

    Args:
        services: hb name and svcname of each that runs here and has monitored resources.
    """

    services: Tuple[Tuple[str, str], ...]


@dataclass(frozen=True)
class LookAgain:
    """Have a service evaluated next; its `ResourcesReported` follows."""

    service: str
    svcname: str


@dataclass(frozen=True)
class ResetNode:
    """Reset this node, since a monitored resource of a service is down: nothing of it lives on.

    Args:
        crashes: by a crash of the kernel.
        reason: one line, for the kernel's log.
    """

    service: str
    crashes: bool
    reason: str


@dataclass(frozen=True)
class Exit:
    """Nothing more to say: the daemon may end."""

    reason: str


Effect = Union[
    SendNow,
    AskLinks,
    ArmTimer,
    RunAction,
    CancelAction,
    Persist,
    Guard,
    Journal,
    Reply,
    WatchServices,
    LookAgain,
    ResetNode,
    Exit,
]
