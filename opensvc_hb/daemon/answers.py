"""What a command asks over the control socket, and what it is told.

Questions are answered from the state that the monitor published last; what an operator orders
goes into the monitor's inbox, and its answer comes back when core gives it.

Runs in: control thread.
"""

from __future__ import annotations

import itertools
import pwd
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from opensvc_hb.core.config import Service
from opensvc_hb.core.effects import Reply
from opensvc_hb.core.events import (
    CommandGiven,
    DaemonStopping,
    PeerConfirmedDead,
    ResourceReport,
    ResourcesReported,
    StopKind,
)
from opensvc_hb.core.node_state import NodeState
from opensvc_hb.core.states import Answer, Avail, Verb
from opensvc_hb.daemon.configuration import Loaded
from opensvc_hb.daemon.control_connection import PeerCredentials, refusal
from opensvc_hb.daemon.inbox import Asked, Inbox
from opensvc_hb.daemon.journal import wall_text
from opensvc_hb.daemon.report import Notices, instance_document, status_document
from opensvc_hb.daemon.statuses import FreshStatus
from opensvc_hb.errors import ExitCode
from opensvc_hb.links.base import LinkCounters

VERSION = 1

ReplyTo = Callable[[Mapping[str, object]], None]


@dataclass(frozen=True)
class Sources:
    """Where answers come from; every call returns a frozen value at once.

    Args:
        state: the state published last, None before the first.
        reload: has the configuration read again, and calls back when that is done.
    """

    state: Callable[[], Optional[NodeState]]
    counters: Callable[[], Mapping[str, LinkCounters]]
    notices: Callable[[], Notices]
    fresh: Callable[[], Mapping[str, FreshStatus]]
    clock: Callable[[], float]
    reload: Callable[[Callable[[Loaded], None]], None]


class Answers:
    """The handler of the control server."""

    def __init__(self, inbox: Inbox, sources: Sources) -> None:
        self._inbox = inbox
        self._sources = sources
        self._numbers = itertools.count(1)

    def handle(self, request: Mapping[str, object], peer: PeerCredentials, reply: ReplyTo) -> None:
        """Answer one request, now or later."""
        word = str(request.get("request", ""))
        if word in _ORDERS:
            _ORDERS[word](self, request, peer, reply)
            return
        question = _QUESTIONS.get(word)
        if question is None:
            known = ", ".join(sorted([*_QUESTIONS, *_ORDERS]))
            reply(refusal(ExitCode.USAGE, f"unknown request '{word}' (have {known})"))
            return
        state = self._sources.state()
        if state is None:
            reply(refusal(ExitCode.TIMED_OUT, "the daemon is starting"))
            return
        reply({"version": VERSION, **question(self, state, request)})

    # -- questions -----------------------------------------------------------------------

    def _status(self, state: NodeState, request: Mapping[str, object]) -> Dict[str, Any]:
        sources = self._sources
        document = status_document(state, sources.counters(), sources.notices(), sources.clock())
        return {"ok": True, "status": document}

    def _instances(self, state: NodeState, request: Mapping[str, object]) -> Dict[str, Any]:
        return {"ok": True, "instances": {n: instance_document(state, i) for n, i in state.instances.items()}}

    def _instance(self, state: NodeState, request: Mapping[str, object]) -> Dict[str, Any]:
        name = hb_name(state.config.services, str(request.get("service", "")))
        if name is None or name not in state.instances:
            return dict(refusal(ExitCode.NOT_RUNNING, f"{request.get('service')}: no such service here"))
        return {"ok": True, **instance_document(state, state.instances[name])}

    def _statuses(self, state: NodeState, request: Mapping[str, object]) -> Dict[str, Any]:
        services = {
            name: {"age_s": round(fresh.age_s, 3), "status": fresh.document}
            for name, fresh in self._sources.fresh().items()
        }
        return {"ok": True, "services": services}

    # -- orders --------------------------------------------------------------------------

    def _command(self, request: Mapping[str, object], peer: PeerCredentials, reply: ReplyTo) -> None:
        """`{"request": "command", "verb": V, "services": [..] | null for all, "force", "reason"}`."""
        state = self._sources.state()
        if state is None:
            reply(refusal(ExitCode.TIMED_OUT, "the daemon is starting"))
            return
        try:
            verb = Verb(str(request.get("verb", "")))
        except ValueError:
            known = ", ".join(v.value for v in Verb)
            reply(refusal(ExitCode.USAGE, f"unknown verb '{request.get('verb')}' (have {known})"))
            return
        asked = request.get("services")
        if asked is not None and not isinstance(asked, list):
            reply(refusal(ExitCode.USAGE, "services: a list of names, or null for all"))
            return
        names = sorted(state.instances) if asked is None else [str(name) for name in asked]
        collector = _Collector(len(names), reply)
        if not names:
            collector.close()
        for name in names:
            known_name = hb_name(state.config.services, name) or name
            event = CommandGiven(
                command_id=next(self._numbers),
                service=known_name,
                verb=verb,
                force=bool(request.get("force")),
                who=who_is(peer),
                reason=str(request.get("reason") or ""),
                wall=wall_text(),
            )
            self._inbox.put(Asked(event, collector.add))

    def _monitor(self, request: Mapping[str, object], peer: PeerCredentials, reply: ReplyTo) -> None:
        """`{"request": "monitor", "service": S, "avail": A, "resources": [[rid, answer, detail] ..]}`.

        The resources that are down have been restarted in vain by whoever asks.
        """
        state = self._sources.state()
        if state is None:
            reply(refusal(ExitCode.TIMED_OUT, "the daemon is starting"))
            return
        name = hb_name(state.config.services, str(request.get("service", "")))
        if name is None:
            reply(refusal(ExitCode.NOT_RUNNING, f"{request.get('service')}: no such service here"))
            return
        told = request.get("resources")
        try:
            avail = Avail(str(request.get("avail")))
            reports = tuple(
                ResourceReport(str(rid), Answer(answer), str(detail))
                for rid, answer, detail in (told if isinstance(told, list) else ())
            )
        except (ValueError, TypeError) as error:
            reply(refusal(ExitCode.USAGE, f"not a report on monitored resources: {error}"))
            return
        self._inbox.put(ResourcesReported(name, avail, reports, restarts_spent=True))
        reply({"version": VERSION, "ok": True})

    def _confirm_dead(self, request: Mapping[str, object], peer: PeerCredentials, reply: ReplyTo) -> None:
        collector = _Collector(1, reply)
        event = PeerConfirmedDead(
            next(self._numbers),
            str(request.get("node", "")).lower(),
            who_is(peer),
            str(request.get("reason") or ""),
        )
        self._inbox.put(Asked(event, collector.add))

    def _leave(self, request: Mapping[str, object], peer: PeerCredentials, reply: ReplyTo) -> None:
        collector = _Collector(1, reply)
        self._inbox.put(Asked(DaemonStopping(StopKind.LEAVE, next(self._numbers)), collector.add))

    def _reload(self, request: Mapping[str, object], peer: PeerCredentials, reply: ReplyTo) -> None:
        self._sources.reload(lambda loaded: reply(_read_again(loaded)))


class _Collector:
    """Joins the replies of one request into one answer. `add` runs in the monitor thread alone."""

    def __init__(self, wanted: int, reply: ReplyTo) -> None:
        self._wanted = wanted
        self._reply = reply
        self._got: List[Tuple[ExitCode, str]] = []

    def add(self, answer: Reply) -> None:
        """Take in one service's reply; the last one sends the answer."""
        self._got.append((answer.code, answer.text))
        if len(self._got) == self._wanted:
            self.close()

    def close(self) -> None:
        """Send what there is: done, the one failure, or partly done."""
        texts = [text for _, text in self._got]
        codes = {code for code, _ in self._got}
        failed = codes - {ExitCode.DONE}
        if not failed:
            code = ExitCode.DONE
        elif ExitCode.DONE in codes:
            code = ExitCode.PARTLY
        else:
            code = max(failed)
        self._reply(
            {
                "version": VERSION,
                "ok": not failed,
                "code": int(code),
                "text": "\n".join(texts),
                "error": "\n".join(texts) if failed else "",
            }
        )


def _read_again(loaded: Loaded) -> Mapping[str, object]:
    """Return what became of a reload: what is in force, or what is wrong first."""
    config = loaded.config
    in_force = f"{len(config.links)} links and {len(config.services)} services are in force"
    if loaded.waiting:
        in_force += f"; after a restart of the daemon also: {', '.join(loaded.waiting)}"
    if not loaded.problems:
        return {"version": VERSION, "ok": True, "text": f"read again: {in_force}"}
    end = "nothing was changed" if loaded.refused else f"the rest was read again: {in_force}"
    return refusal(ExitCode.CONFIGURATION, "\n".join((*loaded.problems, end)))


_QUESTIONS: Mapping[str, Callable[[Answers, NodeState, Mapping[str, object]], Dict[str, Any]]] = {
    "status": Answers._status,
    "instances": Answers._instances,
    "instance": Answers._instance,
    "statuses": Answers._statuses,
}

_ORDERS: Mapping[str, Callable[[Answers, Mapping[str, object], PeerCredentials, ReplyTo], None]] = {
    "command": Answers._command,
    "monitor": Answers._monitor,
    "confirm-dead": Answers._confirm_dead,
    "leave": Answers._leave,
    "reload": Answers._reload,
}


def hb_name(services: Mapping[str, Service], name: str) -> Optional[str]:
    """Return the hb name of a service given by either of its names; None when there is none."""
    if name in services:
        return name
    for service in services.values():
        if service.svcname == name:
            return service.name
    return None


def who_is(peer: PeerCredentials) -> str:
    """Return the name of a client's user, for the journal."""
    try:
        return pwd.getpwuid(peer.uid).pw_name
    except KeyError:
        return f"uid {peer.uid}"
