"""`service -A`: OpenHA's actions, judged by its table of states, done by the daemon.

Each action has three parts: may it begin (OpenHA's table of pre-states, and its words for yes and
no), the daemon's `command` request, and what to say of its end. A service of the agent keeps the
daemon's two protections (force-start while it may run on the other node, force-stop while resources
are up here); a foreign one, of which only the scripts' word is known, is forced as in OpenHA.

Runs in: the process of a command; one thread for each service when an action is for all.
Source: OpenHA's actions, pre-state to post-state, and its messages. Where OpenHA fails in silence
we say why.
"""

from __future__ import annotations

import enum
import functools
import re
import threading
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from opensvc_hb.cli.openha_console import COMMAND_LIMIT_S, FAILED, Ask, Console
from opensvc_hb.cli.openha_view import ServiceView, state_word
from opensvc_hb.client import DaemonError
from opensvc_hb.core.states import State
from opensvc_hb.errors import ExitCode


class Action(enum.Enum):
    """The words of `service -A`; they are verbs of the daemon's `command` request too."""

    START = "start"
    STOP = "stop"
    FREEZE_STOP = "freeze-stop"
    FREEZE_START = "freeze-start"
    UNFREEZE = "unfreeze"
    FORCE_STOP = "force-stop"
    FORCE_START = "force-start"


_PERMITTING = (State.STOPPED, State.FROZEN_STOP, State.UNKNOWN)
"""States of the other node in which OpenHA starts a service."""
_FORCED = (Action.FREEZE_STOP, Action.FORCE_STOP, Action.FORCE_START)
"""Actions in which OpenHA does not look at the resources."""


@dataclass(frozen=True)
class Target:
    """One service as it stands when an action begins."""

    service: ServiceView
    own: State
    peer: State

    @property
    def names(self) -> Tuple[str, str, str]:
        """OpenHA's words: the service, the other node's state, ours."""
        return (self.service.name, state_word(self.peer), state_word(self.own))


def action_of(word: str) -> Optional[Action]:
    """Return the action of a word in any case; None when there is none."""
    try:
        return Action(word.lower())
    except ValueError:
        return None


def objection(action: Action, target: Target) -> str:
    """Return OpenHA's line when the action may not begin in these states, "" when it may."""
    own = target.own
    name, peer, own_word = target.names
    if action in (Action.START, Action.STOP):
        if action is Action.STOP:
            may = own in (State.STARTED, State.UNKNOWN)
        else:
            may = own in (State.STOPPED, State.UNKNOWN) and target.peer in _PERMITTING
        states = f"(partner node is {peer}, we are {own_word})"
        return "" if may else f"Cannot {action.value} {name}: service not in correct state {states}"
    if action is Action.FREEZE_STOP:
        may = own in (State.STOPPED, State.STARTED, State.START_FAILED, State.STOP_FAILED)
        wrong = f"Cannot FREEZE-STOP {name}: service not in STARTED/STOPPED state (we are {own_word})"
        return "" if may else wrong
    if action is Action.FREEZE_START:
        may = own is State.STARTED or (own is State.STOPPED and target.peer in _PERMITTING)
        wrong = f"Cannot FREEZE-START {name}: service not in STARTED/STOPPED state (we are {own_word}),"
        return "" if may else wrong
    if action is Action.UNFREEZE:
        # A START_READY that is an offer to start is not frozen, which OpenHA cannot tell.
        may = own in (State.FROZEN_STOP, State.FROZEN_START)
        return "" if may else f"Cannot UNFREEZE {name}: not in FREEZE state (we are {own_word})"
    return ""


def opening(action: Action, target: Target) -> List[str]:
    """Return what is said when the action begins."""
    name, peer, own = target.names
    if action is Action.FORCE_STOP:
        return [f"Ready to force stop {name}: partner node is {peer}, we are {own}"]
    if action is Action.FORCE_START:
        return [f"Ready to force start {name}: partner node is  {peer}, we are {own}"]
    if action is Action.UNFREEZE:
        return [f"Ready to UNFREEZE {name}: we are ({own})"]
    lines = []
    if action is Action.FREEZE_STOP:
        lines.append(f"Ready to FREEZE, we are {own}")
    if action is Action.FREEZE_START:
        lines.append(f"Ready to FREEZE {name}: we are {own}")
    if _stops(action, target):
        lines.append(f"Ready to stop {name}: partner node is {peer} we are {own}")
        if target.peer is not State.STOPPED:
            lines.append("PARTNER is not in STOPPED state: service will not migrate")
    if _starts(action, target):
        lines.append(f"Ready to start {name}: partner node is {peer} , we are {own}")
    return lines


def _stops(action: Action, target: Target) -> bool:
    return action is Action.STOP or (action is Action.FREEZE_STOP and target.own is State.STARTED)


def _starts(action: Action, target: Target) -> bool:
    return action is Action.START or (action is Action.FREEZE_START and target.own is State.STOPPED)


def script_words(detail: str) -> str:
    """Return how a script ended, in OpenHA's words; what an action left to say otherwise, as it is."""
    found = re.findall(r"/\S* (?:exited with|was terminated by signal) \d+", detail)
    return found[-1] if found else detail


class Actor:
    """Carries actions out.

    Args:
        ask: asks the daemon.
        look: gives the services as they are now.
        node: this node.
    """

    def __init__(
        self, console: Console, ask: Ask, look: Callable[[], Sequence[ServiceView]], node: str
    ) -> None:
        self._console = console
        self._ask = ask
        self._look = look
        self._node = node

    def act(self, action: Action, service: ServiceView) -> int:
        """Do an action on one service; return the exit code."""
        target = self._begin(action, service)
        return FAILED if target is None else self._carry_out(action, target)

    def act_on_all(self, action: Action, services: Sequence[ServiceView]) -> int:
        """Do an action on all services of this node, side by side; 0 when all are done."""
        ours = [service for service in services if service.is_ours]
        targets = [self._begin(action, service) for service in ours]
        codes: Dict[str, int] = {}

        def carry_out(target: Target) -> None:
            codes[target.service.name] = FAILED
            try:
                codes[target.service.name] = self._carry_out(action, target)
            except DaemonError as error:
                self._console.complain(f"{target.service.name}: {error}")

        begun = [target for target in targets if target is not None]
        threads = [threading.Thread(target=functools.partial(carry_out, target)) for target in begun]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return FAILED if None in targets else max(codes.values(), default=0)

    def _begin(self, action: Action, service: ServiceView) -> Optional[Target]:
        """Return the target of an action that may begin; otherwise say why not."""
        if self._node not in (service.primary, service.secondary):
            self._console.error(f"we are not primary nor secondary for service {service.name}")
            return None
        if not service.is_ours:
            self._console.complain(f"{service.name}: the daemon does not care for it yet: hbmgr reload")
            return None
        target = Target(service, service.own_state(self._node), service.peer_state(self._node))
        wrong = objection(action, target)
        if wrong:
            self._console.info(wrong)
            return None
        for line in opening(action, target):
            self._console.info(line)
        return target

    def _carry_out(self, action: Action, target: Target) -> int:
        service = target.service
        message = {
            "request": "command",
            "verb": action.value,
            "services": [service.name],
            "force": service.is_foreign and action in _FORCED,
            "reason": "",
        }
        answer = self._ask(message, COMMAND_LIMIT_S)
        code = ExitCode(int(answer.get("code", 0 if answer.get("ok") else 1)))
        if code is ExitCode.DONE:
            self._say_done(action, target)
            return 0
        return self._say_failed(action, target, str(answer.get("error") or answer.get("text") or "failed"))

    def _say_done(self, action: Action, target: Target) -> None:
        console = self._console
        service = target.service
        name = service.name
        if _starts(action, target):
            if service.check_script:
                console.info(f"Check script for service {name} OK")
            console.info(f"Service {name} successfully started")
        if _stops(action, target) or action is Action.FORCE_STOP:
            console.info(f"Service {name} successfully stopped")
        if action is Action.FREEZE_STOP:
            console.info(f"Service {name} FROZEN-STOP")
        elif action is Action.FREEZE_START:
            console.show(f"Service {name} FROZEN-START")
        elif action is Action.UNFREEZE:
            console.info(f"Service {name} UNFROZEN")
        elif action is Action.FORCE_START:
            console.info(f"Service {name} forced to started")

    def _say_failed(self, action: Action, target: Target, text: str) -> int:
        """Say how an action failed, by the state in which it left the service."""
        now = self._service_now(target.service)
        own = now.own_state(self._node)
        if _starts(action, target) and own is State.START_FAILED:
            return self._say_start_failed(action, now)
        if _stops(action, target) and own is State.STOP_FAILED:
            self._console.error(script_words(now.detail) or text)
            self._console.error(f"failed to stop {now.name}")
            if action is Action.FREEZE_STOP:
                self._console.error(f"error in stopping service {now.name}")
            return FAILED
        if _starts(action, target) and target.own is not own and own is State.STOPPED:
            return self._say_rolled_back(action, target, now)
        peer = now.peer_state(self._node)
        if _starts(action, target) and peer not in _PERMITTING and own is State.STOPPED:
            return self._say_rolled_back(action, target, now)
        hint = f" (hbmgr {action.value} {now.name} --force)" if "--force" in text else ""
        self._console.complain(f"{text}{hint}")
        return FAILED

    def _say_start_failed(self, action: Action, now: ServiceView) -> int:
        console = self._console
        words = script_words(now.detail)
        check_failed = bool(now.check_script) and now.check_script != now.script and now.check_script in words
        if now.check_script and not check_failed:
            console.info(f"Check script for service {now.name} OK")
        if words:
            console.error(words)
        if check_failed:
            console.error(f"Service {now.name} check script failed. State is now START_FAILED")
        else:
            console.error(f"failed to start {now.name}. State is now start-failed")
        if action is Action.FREEZE_START:
            console.error(f"Warning: error in starting service {now.name}")
        return FAILED

    def _say_rolled_back(self, action: Action, target: Target, now: ServiceView) -> int:
        """The other node moved first: OpenHA calls that a success, of a start."""
        before, after = state_word(target.peer), state_word(now.peer_state(self._node))
        if before != after:
            self._console.info(
                f"service {now.name} state has changed on partner node from {before} to {after} "
                "during the grace period"
            )
        self._console.info(f"rollback service {now.name} state to STOPPED")
        if action is Action.START:
            return 0
        self._console.complain(f"Service {now.name} was not started, and is not frozen")
        return FAILED

    def _service_now(self, service: ServiceView) -> ServiceView:
        """Return the service as it is after an action; as it was, when nobody can tell."""
        try:
            found = [view for view in self._look() if view.name == service.name]
        except DaemonError:
            return service
        return found[0] if found else service
