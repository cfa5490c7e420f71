"""A daemon as OpenHA's commands meet it over the control socket, with OpenHA's table of actions.

It knows services with their states, and links; it does what a `command` request orders at once. Its
answers have the shape of the daemon's own.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

from opensvc_hb.cli.openha_console import Console
from opensvc_hb.client import DaemonDown
from opensvc_hb.core.states import State

AFTER = {
    "start": "STARTED",
    "stop": "STOPPED",
    "freeze-stop": "FROZEN_STOP",
    "freeze-start": "FROZEN_START",
    "force-stop": "STOPPED",
    "force-start": "STARTED",
}


@dataclass
class FakeService:
    """One service and its state on each node."""

    nodes: List[str]
    states: Dict[str, str]
    svcname: str = ""
    detail: str = ""


@dataclass
class FakeDaemon:
    """The daemon of `node`.

    Args:
        answers: by verb, an answer to give in place of doing it.
        asked: every message, in order.
    """

    node: str
    services: Dict[str, FakeService] = field(default_factory=dict)
    links: List[Dict[str, Any]] = field(default_factory=list)
    is_up: bool = True
    phase: str = "running"
    start_fails: bool = False
    stop_fails: bool = False
    rolls_back: bool = False
    becomes: str = ""
    detail: str = ""
    answers: Dict[str, Dict[str, Any]] = field(default_factory=dict)
    asked: List[Dict[str, Any]] = field(default_factory=list)

    def ask(self, message, timeout_s):
        """Answer one request."""
        self.asked.append(dict(message))
        if not self.is_up:
            raise DaemonDown("/run/opensvc/hb.sock")
        if message["request"] == "status":
            return {"ok": True, "status": self.document()}
        if message["request"] == "command":
            verb, name = message["verb"], message["services"][0]
            return self.answers.get(verb) or self._command(verb, name)
        return self.answers.get(message["request"], {"ok": True, "text": "done"})

    def document(self):
        """Return the status document."""
        services = {
            name: {
                "service": service.svcname or name,
                "nodes": service.nodes,
                "instances": {
                    node: {"state": state, **({"detail": service.detail} if node == self.node else {})}
                    for node, state in service.states.items()
                },
            }
            for name, service in self.services.items()
            if self.node in service.nodes
        }
        return {"node": self.node, "phase": self.phase, "links": self.links, "services": services}

    def _command(self, verb, name):
        service = self.services[name]
        own = State[service.states[self.node]]
        target = AFTER.get(verb)
        if verb == "unfreeze":
            target = "STARTED" if own is State.FROZEN_START else "STOPPED"
        runs_start = verb in ("start", "freeze-start") and own in (State.STOPPED, State.UNKNOWN)
        runs_stop = verb in ("stop", "freeze-stop") and own in (State.STARTED, State.UNKNOWN)
        failed = ""
        if runs_start and self.start_fails:
            failed = "START_FAILED"
        elif runs_stop and self.stop_fails:
            failed = "STOP_FAILED"
        elif runs_start and self.rolls_back:
            failed = "STOPPED"
            peer = next(node for node in service.nodes if node != self.node)
            service.states[peer] = self.becomes
        service.detail = self.detail if failed else ""
        service.states[self.node] = failed or target
        if failed:
            return {"ok": False, "code": 1, "error": f"{name}: {failed}: it failed"}
        return {"ok": True, "code": 0, "text": f"{name}: {target}"}


def fake_console(has_terminal=True):
    """Return a console that keeps what is printed, both streams merged, and the stream."""
    stream = io.StringIO()
    return Console(stream, stream, has_terminal), stream


@dataclass
class FakeStarter:
    """Starts a fake daemon."""

    daemon: Optional[FakeDaemon] = None
    ended: str = ""
    started: int = 0

    def __call__(self):
        """Start it."""
        self.started += 1
        if self.daemon is not None:
            self.daemon.is_up = True

    def problem(self):
        """Return why it has ended."""
        return self.ended


def write_cluster(top, nodes=("n1", "n2"), monitor=""):
    """Write nodes and monitor below a root directory."""
    directory = Path(top) / "etc/opensvc/hb"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "nodes").write_text("".join(f"{node}\n" for node in nodes))
    (directory / "monitor").write_text(monitor)
    return directory
