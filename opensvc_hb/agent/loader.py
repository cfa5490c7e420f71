"""Gives the service of a name, as this node sees it, with all that its resources need.

The one place where files, drivers, logs, commands and the daemon's socket come together;
everything it lends to resources goes through `ResourceContext`. Called by the commands and
by the daemon's adapter.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from opensvc_hb.agent import command, daemon_link
from opensvc_hb.agent.conflicts import conflicts, oddities
from opensvc_hb.agent.drivers import DriverFinder
from opensvc_hb.agent.log import ERROR, INFO, WARNING, ServiceLog
from opensvc_hb.agent.names import service_file
from opensvc_hb.agent.node_config import NodeConfiguration, read_node_configuration
from opensvc_hb.agent.resource import CommandResult, Resource, ResourceContext
from opensvc_hb.agent.service import NotAllowedHereError, NotManagedHereError, Service, ServiceBuilder
from opensvc_hb.errors import ConfigurationError, ConfigurationErrors
from opensvc_hb.ini import Configuration, Notice, parse, read
from opensvc_hb.paths import Root


@dataclass(frozen=True)
class Judged:
    """What is to be said of a service's file, in file order.

    Args:
        errors: what is wrong; notices: what is merely odd.
        service: as this node reads it, to be asked and not acted on; None when it cannot be read so.
    """

    errors: List[ConfigurationError]
    notices: List[Notice]
    service: Optional[Service] = None


@dataclass(frozen=True)
class Loader:
    """Loads services of one root for one node.

    Args:
        root: the tree of this node.
        node: this node's name.
        run: runs the system's tools.
        ask: asks the daemon.
        write_log: where log lines for people go; None for stderr.
    """

    root: Root
    node: str
    run: Callable[..., CommandResult] = command.run
    ask: Optional[Callable[[Mapping[str, Any]], Mapping[str, Any]]] = None
    write_log: Optional[Callable[[str], None]] = None
    _kept: Dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def finder(self) -> DriverFinder:
        """Finds drivers; made at first use."""
        if "finder" not in self._kept:
            self._kept["finder"] = DriverFinder(self.root.etc / "drivers")
        finder: DriverFinder = self._kept["finder"]
        return finder

    def renewed(self) -> Loader:
        """Return a loader that reads node.conf again; it shares the drivers."""
        kept = {name: value for name, value in self._kept.items() if name != "node"}
        return replace(self, _kept=kept)

    def use_finder(self, finder: DriverFinder) -> None:
        """Share the drivers that another loader has found."""
        self._kept["finder"] = finder

    @property
    def node_configuration(self) -> NodeConfiguration:
        """node.conf, read at first use; raises ConfigurationError."""
        if "node" not in self._kept:
            self._kept["node"] = read_node_configuration(self.root)
        configuration: NodeConfiguration = self._kept["node"]
        return configuration

    @property
    def places(self) -> Mapping[str, str]:
        """The directories that are lent to resources, as text, by the context's names for them."""
        if "places" not in self._kept:
            root = self.root
            self._kept["places"] = {
                "etc": str(root.etc),
                "var": str(root.var),
                "log": str(root.log),
                "tmp": str(root.top / "var/tmp/opensvc"),
                "runtime": str(root.run),
            }
        places: Mapping[str, str] = self._kept["places"]
        return places

    def log(self, svcname: str) -> ServiceLog:
        """Return the service's log."""
        if self.write_log is None:
            return ServiceLog(svcname, self.root.log)
        return ServiceLog(svcname, self.root.log, self.write_log)

    def file(self, svcname: str) -> Configuration:
        """Read a service's file.

        Raises:
            NoSuchServiceError, ConfigurationError, ConfigurationErrors.
        """
        return read(service_file(self.root, svcname))

    def service(self, svcname: str, cluster: bool = False, force: bool = False) -> Service:
        """Build a service.

        Args:
            svcname: its name.
            cluster: what its resources are told of --cluster.
            force: what they are told of --force.

        Raises:
            NoSuchServiceError, NotManagedHereError, NotAllowedHereError,
            ConfigurationError, ConfigurationErrors.
        """
        path = service_file(self.root, svcname)
        resources: List[Resource] = []
        builder = self._builder(svcname, path, read(path), self.node, cluster, resources, force)
        if self.node not in (*builder.nodes, *builder.drpnodes):
            raise NotManagedHereError(svcname)
        service = builder.build()
        resources.extend(member.resource for member in service.members if not member.disable)
        if self.node_configuration.environment == "PRD" and service.service_type != "PRD":
            raise NotAllowedHereError(svcname, service.service_type)
        return service

    def validate(self, svcname: str) -> Tuple[List[ConfigurationError], List[Notice]]:
        """Judge a service's file alone, as each of its nodes would read it.

        Returns:
            Everything that is wrong, and what is merely odd, in file order.
        """
        judged = self.judge(svcname)
        return judged.errors, judged.notices

    def judge(self, svcname: str) -> Judged:
        """Judge a service's file alone, as each of its nodes would read it, and keep what we read."""
        path = service_file(self.root, svcname)
        try:
            return self._judge(svcname, path, read(path))
        except ConfigurationErrors as refused:
            return Judged(list(refused.errors), [])

    def judge_text(self, svcname: str, path: Path, text: str) -> Judged:
        """Judge a text as if it were the service's file at `path`, which need not exist yet."""
        try:
            return self._judge(svcname, path, parse(text, str(path)))
        except ConfigurationErrors as refused:
            return Judged(list(refused.errors), [])

    def _judge(self, svcname: str, path: Path, file: Configuration) -> Judged:
        seen: List[Service] = []
        errors: Dict[str, ConfigurationError] = {}
        notices: Dict[str, Notice] = {}
        first = self._builder(svcname, path, file, self.node, cluster=False)
        for node in (*first.nodes, *first.drpnodes) or (self.node,):
            builder = self._builder(svcname, path, file, node, cluster=False)
            service = builder.assemble()
            errors.update((str(error), error) for error in (*builder.errors, *conflicts(file, service)))
            if not builder.errors:
                notices.update((str(notice), notice) for notice in service.notices)
                seen.append(service)
        if not first.nodes:
            error = ConfigurationError(
                file.path, file.section_lines.get("DEFAULT", 1), "DEFAULT.nodes", "must be set"
            )
            errors[str(error)] = error
        if seen:
            notices.update((str(notice), notice) for notice in oddities(file, seen))
        in_order = sorted(errors.values(), key=lambda error: error.line)
        ours = next((service for service in seen if service.node == self.node), None)
        return Judged(in_order, sorted(notices.values(), key=lambda notice: notice.line), ours)

    def _builder(
        self,
        svcname: str,
        path: Path,
        file: Configuration,
        node: str,
        cluster: bool,
        resources: Optional[List[Resource]] = None,
        force: bool = False,
    ) -> ServiceBuilder:
        built: List[Resource] = [] if resources is None else resources
        log = self.log(svcname)
        environment = _ScriptVariables(svcname, built)

        def make_context(
            name: str, nodes: Tuple[str, ...], drpnodes: Tuple[str, ...], default: Callable[[str], Any]
        ) -> ResourceContext:
            return ResourceContext(
                node=node,
                svcname=svcname,
                nodes=nodes,
                drpnodes=drpnodes,
                **self.places,
                run=self.run,
                info=lambda message: log.line(INFO, message, name),
                warning=lambda message: log.line(WARNING, message, name),
                error=lambda message: log.line(ERROR, message, name),
                default=default,
                service_resources=lambda: tuple(built),
                environment=environment,
                cluster=cluster,
                is_conf=path.suffix == ".conf",
                force=force,
                reservation_key=self.node_configuration.reservation_key,
                ask_daemon=self._ask,
            )

        return ServiceBuilder(
            svcname,
            file,
            node,
            self.finder,
            make_context,
            is_conf=path.suffix == ".conf",
            environment=self.node_configuration.environment,
        )

    def _ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return daemon_link.ask_daemon(self.root, request) if self.ask is None else self.ask(request)


class _ScriptVariables(Mapping[str, str]):
    """The variables for scripts and triggers, made when a script is first run.

    A driver may have to resolve a name for them, which no status should wait for.
    """

    def __init__(self, svcname: str, resources: List[Resource]) -> None:
        self._svcname = svcname
        self._resources = resources
        self._made: Optional[Dict[str, str]] = None

    @property
    def _variables(self) -> Dict[str, str]:
        if self._made is None:
            self._made = {"OPENSVC_SVCNAME": self._svcname}
            for resource in self._resources:
                self._made.update(resource.script_environment())
        return self._made

    def __getitem__(self, name: str) -> str:
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)
