"""The states of an instance: OpenHA's ten, and the one that OpenHA overloads.

OpenHA writes START_READY (7) both for "about to start" (down) and for "frozen started"
(up). Inside, the two are told apart: FROZEN_START is a state of its own, whose wire and
legacy value is 7.
"""

from __future__ import annotations

import enum


class State(enum.IntEnum):
    """State of one instance. Values 0 to 9 are OpenHA's, on the wire and in its files."""

    STOPPED = 0
    STOPPING = 1
    STARTED = 2
    STARTING = 3
    START_FAILED = 4
    STOP_FAILED = 5
    FROZEN_STOP = 6
    START_READY = 7
    UNKNOWN = 8
    FORCE_STOP = 9
    FROZEN_START = 10

    @property
    def openha(self) -> State:
        """The state as OpenHA knows it: FROZEN_START is its START_READY."""
        return State.START_READY if self is State.FROZEN_START else self


RUNNING = frozenset({State.STARTED, State.STARTING, State.STOPPING, State.FROZEN_START, State.STOP_FAILED})
"""States in which resources of the instance may be up here."""

PERMISSIVE = frozenset({State.STOPPED, State.FROZEN_STOP})
"""What a peer must announce before we may start (an announced UNKNOWN permits nothing)."""

FROZEN = frozenset({State.FROZEN_STOP, State.FROZEN_START})
"""States that only an operator changes."""


class Role(enum.Enum):
    """Place of a node in the ordered list of nodes of a service."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    """Any node behind the first."""


class Verb(enum.Enum):
    """What an operator may ask for one service (OpenHA's `service -A` words)."""

    START = "start"
    STOP = "stop"
    FREEZE_STOP = "freeze-stop"
    FREEZE_START = "freeze-start"
    UNFREEZE = "unfreeze"
    FORCE_START = "force-start"
    FORCE_STOP = "force-stop"
    SWITCH = "switch"
    """Ours: stop it here and leave it to the next node."""


class ActionVerb(enum.Enum):
    """What core asks the agent to do with one service on this node."""

    START = "start"
    STOP = "stop"
    VERIFY = "verify"
    """Tell whether the service's resources are up here; changes nothing."""
    ANNOUNCE = "announce"
    """Announce the service's addresses again (gratuitous ARP)."""
    RESTART = "restart"
    """Start one resource of a running service again."""
    PREPARE = "prepare"
    """Run the command that the service wants run before its monitor action."""


GIVES_WAY = frozenset({ActionVerb.START, ActionVerb.RESTART, ActionVerb.PREPARE})
"""Actions that are cancelled when the service is to end; its stop begins when they have ended."""


class Answer(enum.Enum):
    """What the agent says of one monitored resource on this node."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"
    """The probe hangs, fails or cannot tell: that never moves a service."""


class Avail(enum.Enum):
    """What the agent says of the resources of a service on this node."""

    UP = "up"
    DOWN = "down"
    MIXED = "mixed"
    """Some are up: warn, or up and down together."""
    NOT_EVALUATED = "n/a"
    """The service has nothing that can be evaluated: the exit status alone speaks."""
    UNKNOWN = "unknown"
    """The agent could not tell, or did not answer in time."""
