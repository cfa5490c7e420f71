"""Effects become deeds: the monitor thread's hands.

Nothing here waits, but for the guardian's word that it guards what is about to start: the store
is one write in place, all else is handed to a thread of its own. A state that cannot be stored
is never announced: until the store takes it, beats repeat what was stored, and no start begins.

Runs in: monitor thread.
"""

from __future__ import annotations

import logging
from typing import Callable, Dict, Iterable, List, Optional, Protocol

from opensvc_hb.core import effects as fx
from opensvc_hb.core.events import ActionFinished, Event, NodeNotReset, Outcome, Stored
from opensvc_hb.core.messages import Beat, repeated
from opensvc_hb.core.states import ActionVerb, Avail
from opensvc_hb.daemon.journal import JournalThread
from opensvc_hb.daemon.runner import Runner
from opensvc_hb.daemon.sessions import boottime
from opensvc_hb.daemon.statuses import Statuses
from opensvc_hb.daemon.store import Store, StoreError
from opensvc_hb.links.base import Links

log = logging.getLogger("monitor")


class Sink(Protocol):
    """Takes events back into the monitor's queue."""

    def put(self, item: Event, /) -> None:
        """Add an event."""


class Guarding(Protocol):
    """What the hands need of the guardian; see `guardian.Guardian`."""

    def order(self, guard: fx.Guard, /) -> None:
        """Give an order."""

    def objection(self, service: str, /) -> str:
        """Return why a start may not begin, "" when it may."""

    def settle(self) -> None:
        """Wait, for a moment, until the last order is confirmed."""

    def look(self) -> None:
        """Take in what the guardian has confirmed."""


class Performer:
    """Does what core asks for.

    Args:
        reset: resets this node, given why and whether by a crash; returns why not, or how, in a line.

    Attributes:
        timer_at: when the next `Ticked` is due, seconds of the daemon's clock.
        exit_reason: set once the daemon may end.
        store_problem: why the last state could not be stored, "" when it could.
    """

    def __init__(
        self,
        links: Links,
        runner: Runner,
        store: Store,
        journal: JournalThread,
        statuses: Statuses,
        inbox: Sink,
        clock: Callable[[], float] = boottime,
        guardian: Optional[Guarding] = None,
        reset: Callable[[str, bool], str] = lambda _why, _crashes: "the node is not reset: it cannot be",
    ) -> None:
        self.links = links
        self.timer_at = 0.0
        self.exit_reason: Optional[str] = None
        self.store_problem = ""
        self._runner = runner
        self._store = store
        self._journal = journal
        self._statuses = statuses
        self._inbox = inbox
        self._clock = clock
        self._guardian = guardian
        self._reset = reset
        self._unstored: Optional[Stored] = None
        self._announced: Optional[Beat] = None
        self._replies: Dict[int, Callable[[fx.Reply], None]] = {}
        self._acting: Dict[int, str] = {}
        """svcname by the id of its action that changes resources."""

    def expect_reply(self, command_id: int, reply: Callable[[fx.Reply], None]) -> None:
        """Remember where the answer to a command goes."""
        self._replies[command_id] = reply

    def make_room(self, services: int) -> None:
        """Let the store hold so many services; a full disk leaves it as it is, and says so."""
        try:
            self._store.reserve(services)
        except StoreError as error:
            log.error("no room for the states of all services: %s", error)

    def action_ended(self, action_id: int) -> None:
        """Have its service evaluated if an action that has just ended changed resources."""
        svcname = self._acting.pop(action_id, None)
        if svcname is not None:
            self._statuses.action_ended(svcname)

    def perform(self, effects: Iterable[fx.Effect]) -> None:
        """Do a turn's effects, in order."""
        pending: List[fx.Effect] = list(effects)
        if self._unstored is not None and not any(isinstance(e, fx.Persist) for e in pending):
            self._persist(self._unstored)
        for effect in pending:
            self._perform(effect)
        if self._guardian is not None:
            self._guardian.look()

    def _perform(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.Persist):
            self._persist(effect.stored)
        elif isinstance(effect, fx.SendNow):
            self._send(effect)
        elif isinstance(effect, fx.AskLinks):
            self.links.ask(effect.token)
        elif isinstance(effect, fx.ArmTimer):
            self.timer_at = effect.at
        elif isinstance(effect, fx.RunAction):
            self._run_action(effect)
        elif isinstance(effect, fx.CancelAction):
            self._runner.cancel(effect)
        elif isinstance(effect, fx.Journal):
            self._note(effect)
        elif isinstance(effect, fx.Guard):
            if self._guardian is not None:
                self._guardian.order(effect)
        elif isinstance(effect, fx.Reply):
            reply = self._replies.pop(effect.command_id, None)
            if reply is not None:
                reply(effect)
        elif isinstance(effect, fx.WatchServices):
            self._statuses.watch(svcname for _name, svcname in effect.services)
        elif isinstance(effect, fx.LookAgain):
            self._statuses.look_again(effect.svcname)
        elif isinstance(effect, fx.ResetNode):
            log.critical("%s", effect.reason)
            self._inbox.put(NodeNotReset(effect.service, self._reset(effect.reason, effect.crashes)))
        else:
            if self._guardian is not None:
                self._guardian.settle()
            self.exit_reason = effect.reason

    def _send(self, effect: fx.SendNow) -> None:
        if self._unstored is None:
            self._announced = effect.beat
            self.links.send(effect.beat, effect.with_table)
        elif self._announced is not None:
            beat = repeated(self._announced, effect.beat)
            if beat is not None:
                self.links.send(beat, True)

    def _persist(self, stored: Stored) -> None:
        try:
            self._store.write(stored)
        except StoreError as error:
            self._unstored = stored
            if self.store_problem != str(error):
                log.error("states cannot be stored, so none is announced: %s", error)
            self.store_problem = str(error)
            return
        if self._unstored is not None:
            log.warning("states can be stored again")
        self._unstored = None
        self.store_problem = ""

    def _run_action(self, action: fx.RunAction) -> None:
        if action.verb is ActionVerb.START and self._unstored is not None:
            detail = f"not started, its state cannot be stored: {self.store_problem}"
            self._answer_unbegun(action, Outcome.FAILED, detail)
            return
        objection = ""
        if action.verb is ActionVerb.START and self._guardian is not None:
            objection = self._guardian.objection(action.service)
        if objection:
            self._answer_unbegun(action, Outcome.NOT_BEGUN, f"not begun: {objection}")
            return
        if action.begin_by is not None and self._clock() >= action.begin_by:
            detail = "not begun: storing its state took longer than the other node's leave to start lasts"
            self._answer_unbegun(action, Outcome.NOT_BEGUN, detail)
            return
        if action.verb in (ActionVerb.START, ActionVerb.STOP, ActionVerb.RESTART):
            self._acting[action.action_id] = action.svcname
            self._statuses.action_began(action.svcname)
        self._runner.run(action)

    def _answer_unbegun(self, action: fx.RunAction, outcome: Outcome, detail: str) -> None:
        self._inbox.put(
            ActionFinished(action.service, action.action_id, action.verb, outcome, Avail.UNKNOWN, 1, detail)
        )

    def _note(self, entry: fx.Journal) -> None:
        self._journal.put(entry)
        level = logging.WARNING if entry.kind in ("alarm", "stall") else logging.INFO
        subject = f"{entry.service}: " if entry.service else ""
        rule = f" [{entry.rule}]" if entry.rule else ""
        reason = f": {entry.reason}" if entry.reason else ""
        log.log(level, "%s%s%s%s", subject, entry.text, rule, reason)
