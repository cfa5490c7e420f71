"""svcmgr switch and freezestop: who moves a service that a heartbeat drives, and one that none does?

The heartbeat moves what it drives: the words are passed on to this node's daemon, which both nodes
believe, with --cluster or without. A service without a heartbeat is stopped here, and then started
on the other node by its own svcmgr, over ssh; a stop that fails ends it there.

Source: C.11 (switch), D.3 (freezestop); that the agents' switch of a service with a heartbeat went
past the heartbeat is not copied.
"""

from __future__ import annotations

import sys
from typing import Any, Mapping, Optional

from opensvc_hb.agent import daemon_link, frozen, remote, safety_net
from opensvc_hb.agent.actions import Options, run_action
from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.progress import Progress
from opensvc_hb.agent.service import Service
from opensvc_hb.errors import ExitCode

COMMAND_LIMIT_S = 3600.0
"""The daemon answers when the actions that it causes have ended, which have limits of their own."""
SSH_EXTRA_S = 120.0
"""What a start on another node may take longer than its own limit: ssh, and the wait for its lock."""

NO_DESTINATION = "a destination node must be provided for the switch action"
NO_HEARTBEAT = "no heartbeat drives this service: use stop, then freeze"


class Handover:
    """The two actions, on one service after another.

    Args:
        loader: of this node.
        options: as on the command line.
        destination: the node of --to, None without it.
        progress: shows what is worked on.
    """

    def __init__(
        self,
        loader: Loader,
        options: Options,
        destination: Optional[str],
        progress: Optional[Progress] = None,
    ) -> None:
        self.loader = loader
        self.options = options
        self.destination = None if destination is None else destination.lower()
        self.progress = progress

    def switch(self, svcname: str) -> int:
        """Move a service to another node; returns an exit code.

        Raises:
            HbError: there is no such service, or its file is refused.
        """
        service = self.loader.service(svcname, self.options.cluster, self.options.force)
        log = self.loader.log(svcname)
        if frozen.is_frozen(self.loader.root, svcname):
            log.info(frozen.REFUSAL)
            return int(ExitCode.FAILED)
        driven = _is_driven(service)
        if self.destination is not None:
            problem = self._wrong_destination(service)
            if problem:
                log.error(problem)
                return int(ExitCode.FAILED)
        if driven:
            return self._ask(svcname, "switch")
        problem = safety_net.objection(service, "switch", self.options.cluster)
        if not problem and self.destination is None:
            problem = NO_DESTINATION
        if problem:
            log.error(problem)
            return int(ExitCode.FAILED)
        stopped = run_action(self.loader, service, "stop", self.options, self.progress)
        return stopped or self._start_there(service, str(self.destination))

    def freezestop(self, svcname: str) -> int:
        """Have the heartbeat stop a service here and keep it stopped; returns an exit code.

        Raises:
            HbError: there is no such service, or its file is refused.
        """
        if not _is_driven(self.loader.service(svcname, self.options.cluster)):
            self.loader.log(svcname).error(NO_HEARTBEAT)
            return int(ExitCode.FAILED)
        return self._ask(svcname, "freeze-stop")

    def _wrong_destination(self, service: Service) -> str:
        if self.destination not in (*service.nodes, *service.drpnodes):
            return f"destination node {self.destination} is not in service node list"
        if self.destination == service.node:
            return f"destination node {self.destination} is this node"
        return ""

    def _ask(self, svcname: str, verb: str) -> int:
        """Pass an operator's word on to the daemon, and wait for its end."""
        log = self.loader.log(svcname)
        if self.options.dry_run:
            log.info(f"ask the heartbeat: hbmgr {verb} {svcname}")
            return int(ExitCode.DONE)
        message = {
            "request": "command",
            "verb": verb,
            "services": [svcname],
            "force": self.options.force,
            "reason": f"svcmgr {verb}",
        }
        answer = self._answer(message)
        text = str(answer.get("text") or answer.get("error") or "no answer")
        if not answer.get("ok"):
            log.error(text)
            return int(ExitCode.FAILED)
        log.info(text)
        return int(ExitCode.DONE)

    def _answer(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.loader.ask is not None:
            return self.loader.ask(message)
        answer = daemon_link.ask_daemon(self.loader.root, message, COMMAND_LIMIT_S)
        if answer.get("ok") or answer.get("running", True):
            return answer
        return {"ok": False, "error": "the hb daemon of this node is not running: systemctl start opensvc-hb"}

    def _start_there(self, service: Service, node: str) -> int:
        log = self.loader.log(service.name)
        words = ("svcmgr", "-s", service.name, "start")
        log.info(f"exec '{' '.join(words)}' on node {node}")
        if self.options.dry_run:
            return int(ExitCode.DONE)
        limit_s = float(service.defaults["start_timeout"]) + SSH_EXTRA_S
        result = self.loader.run(remote.ssh_argv(node, words), timeout_s=limit_s)
        sys.stderr.write(result.stdout + result.stderr)
        if result.status == 0:
            return int(ExitCode.DONE)
        reason = f" ({remote.reason_of(result.stderr)})" if result.status == remote.SSH_FAILED else ""
        log.error(f"start on node {node} failed{reason}: the service is stopped here")
        return int(ExitCode.FAILED)


def _is_driven(service: Service) -> bool:
    """Tell whether a heartbeat drives the service: an hb resource that is not disabled."""
    return any(not member.disable for member in service.of_group("hb"))
