"""The services of one node for the daemon: the agent's own, and those driven by scripts alone.

`NodeAdapter` is what the runner calls. A line of the `services` file whose script is a link
`SVC.cluster` to svcmgr, or whose name has a service's file, goes through the agent; any other
is a foreign service: start is its check script and then its script with `start`, stop is its
script with `stop`. Nobody looks whether a foreign service is up: it is what its last whole start
or stop in this life of the node made of it, or what an operator declared since.

The services file decides the order of services too, which is the order on the wire of OpenHA.

Runs in: the runner process and the children it forks; commands.
Source: OpenHA conf/services, its start procedure and its failures.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from opensvc_hb.agent import started_mark
from opensvc_hb.agent.adapter import AgentAdapter, Declaration, Declarations
from opensvc_hb.agent.document import status_document
from opensvc_hb.agent.foreign_script import ScriptEnd, run_script
from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.lock import WAIT_S, LockHeldError, service_lock
from opensvc_hb.agent.log import ServiceLog
from opensvc_hb.agent.marking import marked
from opensvc_hb.agent.names import NoSuchServiceError, service_file
from opensvc_hb.agent.resource import Status
from opensvc_hb.agent.safety_net import REFUSAL
from opensvc_hb.agent.status import ResourceStatus, ServiceStatus, aggregate
from opensvc_hb.errors import ConfigurationError, ConfigurationErrors, HbError
from opensvc_hb.paths import Root
from opensvc_hb.services_table import (
    ServiceLine,
    agent_service,
    find_service,
    read_services,
    services_path,
)

START_LIMIT_S = 600.0
STOP_LIMIT_S = 600.0
"""OpenHA waits for ever, and nothing else happens on the node meanwhile."""

CHECKS_NOTHING = ("/bin/true", "/usr/bin/true")
"""Check scripts whose answer is known."""

RunScript = Callable[[str, str, Path, Callable[[str], None]], ScriptEnd]
"""As `run_script`."""


def foreign_line(root: Root, svcname: str) -> Optional[ServiceLine]:
    """Return the line of a foreign service; None for a service of the agent, and for an unknown one.

    Other lines of the file may be wrong at the moment: what runs can be stopped all the same.
    """
    line = find_service(services_path(root), svcname)
    if line is None or agent_service(line.script) is not None or _has_file(root, svcname):
        return None
    return line


def _has_file(root: Root, svcname: str) -> bool:
    try:
        service_file(root, svcname)
    except NoSuchServiceError:
        return False
    except ConfigurationError:
        return True  # it has two: the agent says so
    return True


def declare_states(root: Root, states: Mapping[str, str]) -> None:
    """Keep what an operator has declared by force-start and force-stop, which run nothing.

    Args:
        root: the tree of this node.
        states: by svcname, the state in which the daemon has the service here now.

    Raises:
        OSError: a mark could not be changed.
    """
    for svcname, state in states.items():
        if state in ("STARTED", "STOPPED") and foreign_line(root, svcname) is not None:
            (started_mark.set_mark if state == "STARTED" else started_mark.remove_mark)(root, svcname)


class ForeignService:
    """One service that scripts alone drive.

    Args:
        root: the tree of this node.
        line: the service's line.
        log: the service's log.
        run: runs a script.
    """

    def __init__(self, root: Root, line: ServiceLine, log: ServiceLog, run: RunScript = run_script) -> None:
        self._root = root
        self._line = line
        self._log = log
        self._run = run

    def act(
        self, action: str, cluster: bool = True, wait_lock_s: float = WAIT_S, dry_run: bool = False
    ) -> int:
        """Start or stop the service; returns 0, or the exit status of the script that failed.

        Args:
            action: `start` or `stop`; any other is refused.
            cluster: asked for as the heartbeat does; by hand it is refused otherwise.
            wait_lock_s: seconds to wait for an action that runs already.
            dry_run: say which scripts would be called, call none.
        """
        if action not in ("start", "stop"):
            self._log.error(f"{action}: a service driven by scripts alone can start and stop, nothing else")
            return 1
        if not cluster:
            self._log.error(REFUSAL)
            return 1
        name = self._line.name
        if dry_run:
            check = self._line.check_script
            if action == "start" and check not in CHECKS_NOTHING:
                self._log.info(f"spawn: {check} {action}")
            self._log.info(f"spawn: {self._line.script} {action}")
            return 0
        try:
            with service_lock(self._root, name, wait_lock_s, action), marked(self._root, name, action):
                return self._start() if action == "start" else self._stop()
        except LockHeldError as error:
            self._log.error(str(error))
            return 1
        except OSError as error:
            self._log.error(f"{error.filename}: {error.strerror}")
            return 1

    def _start(self) -> int:
        check = self._line.check_script
        if check not in CHECKS_NOTHING:
            status = self._call(check, "start")
            if status != 0:
                self._log.error("check script failed")
                return status
            self._log.info("check script OK")
        # An earlier whole start says nothing once a later one has failed half-way.
        started_mark.remove_mark(self._root, self._line.name)
        status = self._call(self._line.script, "start")
        if status == 0:
            started_mark.set_mark(self._root, self._line.name)
            self._log.info("started")
        else:
            self._log.error("failed to start")
        return status

    def _stop(self) -> int:
        status = self._call(self._line.script, "stop")
        if status == 0:
            started_mark.remove_mark(self._root, self._line.name)
            self._log.info("stopped")
        else:
            self._log.error("failed to stop")
        return status

    def _call(self, script: str, verb: str) -> int:
        folder = self._root.top / "var/tmp/opensvc"
        output = folder / f"svc_{self._line.name}_{Path(script).name}.log"
        self._log.info(f"spawn: {script} {verb}")
        end = self._run(script, verb, output, self._log.info)
        for words in end.words:
            self._log.error(words)
        return end.status


class NodeAdapter:
    """All services of one node, for the daemon's runner.

    Args:
        root: the tree of this node.
        node: this node's name.
        loader: loads the agent's services; made from the two when not given.
        run: runs the scripts of foreign services.
    """

    def __init__(
        self, root: Root, node: str, loader: Optional[Loader] = None, run: RunScript = run_script
    ) -> None:
        self._root = root
        self._node = node
        self._loader = Loader(root, node) if loader is None else loader
        self._agent = AgentAdapter(root, node, self._loader)
        self._run = run

    def declare(self) -> Declarations:
        """Return the services of this node: in the order of the services file, then the agent's others."""
        own = self._agent.declare()
        errors: List[str] = list(own.errors)
        ordered: Dict[str, Declaration] = {}
        try:
            lines = read_services(services_path(self._root))
        except ConfigurationErrors as wrong:
            return Declarations(own.services, (*errors, *(str(error) for error in wrong.errors)))
        by_name = {declared.name: declared for declared in own.services}
        by_svcname = {declared.svcname: declared for declared in own.services}
        for line in lines:
            try:
                declared = self._declared(line, by_name, by_svcname)
            except HbError as error:
                errors.extend(str(error).splitlines())
                declared = by_name.get(line.name)
            if declared is not None:
                ordered[line.name] = declared
                by_svcname[declared.svcname] = declared
        ordered.update((name, declared) for name, declared in by_name.items() if name not in ordered)
        return Declarations(tuple(ordered.values()), tuple(errors))

    def start(self, svcname: str) -> int:
        """Start the service as the heartbeat does; returns the exit status, log lines on stderr."""
        line = foreign_line(self._root, svcname)
        if line is None:
            return self._agent.start(svcname)
        return self._foreign(line).act("start")

    def stop(self, svcname: str) -> int:
        """Stop the service as the heartbeat does; returns the exit status, log lines on stderr."""
        line = foreign_line(self._root, svcname)
        if line is None:
            return self._agent.stop(svcname)
        return self._foreign(line).act("stop")

    def restart(self, svcname: str, rid: str, attempt: str) -> int:
        """Start one resource of a running service again; a foreign service has none that is watched."""
        return self._agent.restart(svcname, rid, attempt)

    def prepare(self, svcname: str) -> int:
        """Run the service's command before its monitor action; the same."""
        return self._agent.prepare(svcname)

    def announce(self, svcname: str) -> int:
        """Announce the service's addresses again; a foreign service has none that we know."""
        return 0 if foreign_line(self._root, svcname) is not None else self._agent.announce(svcname)

    def avail(self, svcname: str, evaluate_apps: bool) -> str:
        """Tell whether an instance runs here; see `AgentAdapter.avail`."""
        if foreign_line(self._root, svcname) is None:
            return self._agent.avail(svcname, evaluate_apps)
        return "up" if self._is_started(svcname) else "down"

    def examine(self, svcname: str, was_started: bool) -> Tuple[str, Optional[Dict[str, Any]]]:
        """Tell, of a service that was just started, what `avail` and `status` say."""
        if foreign_line(self._root, svcname) is None:
            return self._agent.examine(svcname, was_started)
        avail = "up" if was_started else self.avail(svcname, evaluate_apps=True)
        return avail, self.status(svcname)

    def status(self, svcname: str) -> Dict[str, Any]:
        """Return the document of `print status --format json`.

        Raises:
            HbError: there is no such service, or its file is refused.
        """
        line = foreign_line(self._root, svcname)
        if line is None:
            return self._agent.status(svcname)
        status = Status.UP if self._is_started(svcname) else Status.DOWN
        script = ResourceStatus("app#script", "app", "app", "app", status, line.script)
        resources = (script,)
        whole = ServiceStatus(svcname, self._node, "", "", "", False, resources, aggregate(resources))
        return status_document(whole, time.time())

    def _is_started(self, svcname: str) -> bool:
        return started_mark.is_marked(self._root, svcname)

    def _foreign(self, line: ServiceLine) -> ForeignService:
        return ForeignService(self._root, line, self._loader.log(line.name), self._run)

    def _declared(
        self,
        line: ServiceLine,
        by_name: Mapping[str, Declaration],
        by_svcname: Mapping[str, Declaration],
    ) -> Optional[Declaration]:
        """Return the service of a line; None when it is not this node's.

        Raises:
            HbError: the line and the agent's files do not go together.
        """
        linked = agent_service(line.script)
        svcname = linked or line.name
        known = by_name.get(line.name)
        if known is not None:
            self._must_agree(line, linked, known)
            return known
        if svcname in by_svcname:
            name = by_svcname[svcname].name
            what = f"{svcname} is {name} in the heartbeat: write {name} here, on every node"
            raise self._error(line, "service", what)
        if self._node not in line.nodes:
            return None
        if linked is None and not _has_file(self._root, svcname):
            return Declaration(line.name, line.name, line.nodes, START_LIMIT_S, STOP_LIMIT_S)
        return self._agent.declare_as(svcname, line.name, line.nodes)

    def _must_agree(self, line: ServiceLine, linked: Optional[str], known: Declaration) -> None:
        if linked is not None and linked != known.svcname:
            what = f"{line.script} is {linked}, but {line.name} is the hb name of {known.svcname}"
            raise self._error(line, "script", what)
        if known.nodes[:2] != line.nodes:
            what = (
                f"{line.primary}, {line.secondary}, but the service's own file, which counts, begins its "
                f"nodes with {', '.join(known.nodes[:2])}: make them equal"
            )
            raise self._error(line, "primary, secondary", what)

    def _error(self, line: ServiceLine, where: str, what: str) -> ConfigurationError:
        return ConfigurationError(str(services_path(self._root)), line.line, where, what)
