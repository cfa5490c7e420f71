"""The heartbeat's view of the service: `[hb#N] type = OpenHA`.

Up where the heartbeat has started the service, down where it has stopped it; every other
state is a warning that names it. Asks this node's daemon and nothing else, never its files
on disk, and drives nothing: the daemon runs the service's start and stop, not the reverse.

Source: D.2 for the mapping and every message; D.3: start and stop do nothing. The links
`SVC.cluster` and `SVC.stonith` are not made here: a status has no side effect.
"""

from __future__ import annotations

from opensvc_hb.agent.resource import Keyword, Resource, Status

UNDETERMINED = "unable to determine cluster service state"
NOT_RUNNING = "open-ha daemons are not running"

PASSIVE_STATES = ("stopped", "frozen_stop", "unknown")
"""States in which no instance runs on this node. That the daemon does not run is none of
them: its services run on."""


class HbOpenHa(Resource):
    """An OpenHA heartbeat, here the daemon of this very package."""

    group = "hb"
    type_name = "hb.openha"
    types = ("openha",)
    sections = ("hb",)
    keywords = (
        Keyword("type", "OpenHA, in any case of letters.", required=True),
        Keyword("name", "The service's name in the heartbeat; the service's own by default."),
    )

    @property
    def label(self) -> str:
        """Its type: there is nothing else to say of it."""
        return self.type_name

    @property
    def hb_name(self) -> str:
        """The service's name in the heartbeat."""
        return str(self.options.get("name") or self.context.svcname)

    def status(self) -> Status:
        """Ask the daemon for the state of this node's instance."""
        self.passive = False
        answer = self.context.ask_daemon({"request": "instance", "service": self.hb_name})
        if not answer.get("ok"):
            self.passive = bool(answer.get("running", True))
            self.say(UNDETERMINED if self.passive else NOT_RUNNING)
            return Status.WARN
        for note in answer.get("notes", ()):
            self.say(str(note))
        state = str(answer.get("state") or "UNKNOWN").lower()
        if answer.get("marked") == "FROZEN_START" or state == "frozen_start":
            state = "start_ready"
        self.passive = state in PASSIVE_STATES
        if state == "started":
            return Status.UP
        if state == "stopped":
            return Status.DOWN
        self.say(UNDETERMINED if state == "unknown" else f"cluster service status is {state}")
        return Status.WARN
