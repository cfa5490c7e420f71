"""What is this service on this node: which resources, in which sets, with which options?

Turns a file (`config`) into a `Service` with its drivers, or refuses it as a whole with
one line for everything that is wrong: unlike the agents, which built a service without the
file system whose section was bad. Reads and starts nothing. Called by `loader`.

Source: A.2 to A.9.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, Optional, Sequence, Set, Tuple, Type

from opensvc_hb.agent.config import SCOPE_GROUPS, scopes_of
from opensvc_hb.agent.drivers import DriverFinder, Missing
from opensvc_hb.agent.keywords import Keyword, boolean, node_list
from opensvc_hb.agent.resource import Resource, ResourceContext
from opensvc_hb.agent.sections import (
    DEFAULT_KEYWORDS,
    INTERNAL_SYNCS,
    RESERVATION_KEYWORDS,
    RESOURCE_KEYWORDS,
    SERVICE_TYPES,
    SUBSET_KEYWORDS,
    TRIGGERS,
    WITHOUT_EFFECT,
    resource_id,
    subset_name,
)
from opensvc_hb.errors import ConfigurationError, ConfigurationErrors, HbError
from opensvc_hb.ini import DEFAULT, Configuration, Entry, Notice

HEARTBEAT_GROUPS = ("hb", "stonith")
"""Groups that do not exist on a disaster recovery node (A.5)."""


class NotManagedHereError(HbError):
    """This node is none of the service's."""

    def __init__(self, svcname: str) -> None:
        super().__init__(f"service {svcname} not managed here")


class NotAllowedHereError(HbError):
    """A service that is not for production, on a production node."""

    def __init__(self, svcname: str, service_type: str) -> None:
        super().__init__(
            f"service {svcname} type {service_type} is not allowed to run on this node (host mode PRD)"
        )


@dataclass(frozen=True)
class Member:
    """A resource with what the agent itself makes of its section.

    Args:
        set_name: its type, or `type:subset`.
        standby: this node is one of `always_on`.
        triggers: commands by `pre_start`, `post_stop` ...; only those given.
    """

    resource: Resource
    set_name: str
    subset: str = ""
    disable: bool = False
    optional: bool = False
    monitor: bool = False
    standby: bool = False
    restart_count_max: int = 0
    tags: Tuple[str, ...] = ()
    triggers: Mapping[str, Tuple[str, ...]] = field(default_factory=dict)

    @property
    def rid(self) -> str:
        """The section's name, shown everywhere."""
        return self.resource.rid

    @property
    def group(self) -> str:
        """Its family in the tree."""
        return self.resource.group

    def is_named(self, name: str) -> bool:
        """Tell whether an item of --rid means this resource: its name, or its family's."""
        return name in (self.rid, self.rid.partition("#")[0], self.group)


@dataclass(frozen=True)
class Service:
    """A service as this node sees it.

    Args:
        members: in display order: by set, inside a set by the driver's sort key.
        parallel_sets: names of the sets whose members act at the same time.
        defaults: the values of [DEFAULT] on this node, converted, by keyword.
    """

    name: str
    path: str
    node: str
    nodes: Tuple[str, ...]
    drpnodes: Tuple[str, ...]
    service_type: str
    members: Tuple[Member, ...]
    parallel_sets: FrozenSet[str]
    defaults: Mapping[str, Any]
    notices: Tuple[Notice, ...] = ()

    @property
    def mode(self) -> str:
        """Svcmon's container type: `hosted`."""
        return str(self.defaults["mode"])

    @property
    def app_code(self) -> str:
        """The application code, for people."""
        return str(self.defaults["app"])

    @property
    def autostart_nodes(self) -> Tuple[str, ...]:
        """Nodes where `boot` starts the service."""
        return tuple(self.defaults["autostart_node"])

    def of_group(self, *groups: str) -> Tuple[Member, ...]:
        """Return the members of these groups in display order."""
        return tuple(member for member in self.members if member.group in groups)


def log_name(rid: str, type_name: str, subset: str) -> str:
    """Return a resource's name in log lines: `FS#1`, `CONTAINER.DOCKER:01APPSERVERS#2`.

    Source: C.9.
    """
    if not subset:
        return rid.upper()
    return f"{type_name}:{subset}#{rid.partition('#')[2]}".upper()


def named_by_subset(member: Member, name: str) -> bool:
    """Tell whether a section [subset#NAME] speaks of this resource's set.

    Source: A.8: the name is `type:subset`, or as the later agents have it `family:subset`.
    """
    return name == member.set_name or (bool(member.subset) and name == f"{member.group}:{member.subset}")


@dataclass(frozen=True)
class SectionKeywords:
    """The keywords of the sections of one driver: its own, and those common to all.

    Args:
        of_section: by name.
        options: the names of those that the driver itself gets.
    """

    of_section: Mapping[str, Keyword]
    options: Tuple[str, ...]


def keywords_of(driver: Type[Resource]) -> SectionKeywords:
    """Return the keywords of a driver's sections; made once for each driver."""
    made: SectionKeywords = _made_once(driver)  # type: ignore[arg-type]  # a class has its own hash
    return made


@functools.cache
def _made_once(driver: Type[Resource]) -> SectionKeywords:
    of_section = {keyword.name: keyword for keyword in driver.keywords}
    of_section.setdefault("type", Keyword("type", "Chooses the driver.", scopable=True))
    options = tuple(of_section)
    for keyword in _SHARED if is_on_disks(driver) else RESOURCE_KEYWORDS:
        of_section.setdefault(keyword.name, keyword)
    return SectionKeywords(of_section, options)


def is_on_disks(driver: Type[Resource]) -> bool:
    """Tell whether a driver's resources are on disks that can be reserved."""
    return driver.reservable_disks is not Resource.reservable_disks


_DEFAULT_BY_NAME = {keyword.name: keyword for keyword in DEFAULT_KEYWORDS}
_SUBSET_BY_NAME = {keyword.name: keyword for keyword in SUBSET_KEYWORDS}
_SHARED = (*RESOURCE_KEYWORDS, *RESERVATION_KEYWORDS)
_ANY_BY_NAME = {
    name: keyword for keyword in (*DEFAULT_KEYWORDS, *_SHARED) for name in (keyword.name, *keyword.aliases)
}

ContextMaker = Callable[[str, Tuple[str, ...], Tuple[str, ...], Callable[[str], Any]], ResourceContext]
"""Makes the context of a resource: (name in log lines, nodes, drpnodes, default reader)."""


class ServiceBuilder:
    """Builds one service from its file; collects everything that is wrong.

    Args:
        name: the service's.
        file: as read.
        node: the node to build it for.
        finder: where drivers are.
        context: makes each resource's context.
        is_conf: a `.conf` file, in which `service_type` may be left out.
        environment: kind of service that a `.conf` without `env` is.
    """

    def __init__(
        self,
        name: str,
        file: Configuration,
        node: str,
        finder: DriverFinder,
        context: ContextMaker,
        is_conf: bool = False,
        environment: str = "TST",
    ) -> None:
        self.name = name
        self.file = file
        self.node = node
        self.finder = finder
        self.make_context = context
        self.is_conf = is_conf
        self.environment = environment
        self.errors: List[ConfigurationError] = []
        self.notices: List[Notice] = list(file.notices)
        self.inherited: Set[str] = set()
        self.nodes = node_list(file.value(DEFAULT, "nodes") or "")
        self.drpnodes = self._drpnodes()
        self.encapnodes = node_list(file.value(DEFAULT, "encapnodes") or "")
        self.scopes = scopes_of(node, self.nodes, self.drpnodes, self.encapnodes)
        self.known_scopes = {*self.nodes, *self.drpnodes, *self.encapnodes, *SCOPE_GROUPS, node}

    def build(self) -> Service:
        """Build the service.

        Raises:
            ConfigurationErrors: something in the file cannot be.
        """
        service = self.assemble()
        if self.errors:
            raise ConfigurationErrors(sorted(self.errors, key=lambda error: error.line))
        return service

    def assemble(self) -> Service:
        """Build what can be built, to be judged and never acted on; what is wrong is in `errors`."""
        defaults = self._read_section(DEFAULT, _DEFAULT_BY_NAME)
        service_type = self._service_type()
        members: List[Member] = []
        parallel: Set[str] = set()
        for section in self.file.sections:
            if section == DEFAULT or section in INTERNAL_SYNCS:
                continue
            if subset_name(section):
                if self._read_section(section, _SUBSET_BY_NAME).get("parallel"):
                    parallel.add(subset_name(section))
                continue
            member = self._member(section)
            if member is not None:
                members.append(member)
                members.extend(self._reservation(member))
        if not self.errors:
            members.extend(self._internal_syncs())
        self._check_default_keys()
        if self.node in self.drpnodes:
            members = [member for member in members if member.group not in HEARTBEAT_GROUPS]
        members.sort(key=lambda member: (member.set_name, member.resource.sort_key))
        return Service(
            name=self.name,
            path=self.file.path,
            node=self.node,
            nodes=self.nodes,
            drpnodes=self.drpnodes,
            service_type=service_type,
            members=tuple(members),
            parallel_sets=frozenset(
                member.set_name for member in members for name in parallel if named_by_subset(member, name)
            ),
            defaults=defaults,
            notices=tuple(self.notices),
        )

    def _drpnodes(self) -> Tuple[str, ...]:
        first = node_list(self.file.value(DEFAULT, "drpnode") or "")
        others = node_list(self.file.value(DEFAULT, "drpnodes") or "")
        return (*first, *(name for name in others if name not in first))

    def _service_type(self) -> str:
        entry = self.file.own(DEFAULT, "service_type") or self.file.own(DEFAULT, "env")
        if entry is not None:
            return entry.value
        if not self.is_conf:
            line = self.file.section_lines.get(DEFAULT, 1)
            self._refuse(line, f"{DEFAULT}.service_type", f"must be set, one of {', '.join(SERVICE_TYPES)}")
        return self.environment

    def _member(self, section: str) -> Optional[Member]:
        line = self.file.section_lines[section]
        rid, reason = resource_id(section)
        if reason:
            self._refuse(line, section, reason)
            return None
        type_entry = self.file.lookup(section, "type", self.scopes)
        driver = self.finder.choose(rid.family, type_entry.value if type_entry else "")
        if isinstance(driver, Missing):
            where = f"{section}.type" if type_entry else section
            reason = driver.reason
            if reason.startswith("type must be set"):
                where, reason = f"{section}.type", f"type must be set in section {section}{reason[16:]}"
            self._refuse(type_entry.line if type_entry else line, where, reason)
            return None
        return self._make(section, driver)

    def _make(self, section: str, driver: Type[Resource]) -> Optional[Member]:
        errors_before = len(self.errors)
        keywords = keywords_of(driver)
        values = self._read_section(section, keywords.of_section)
        if "encap" in (values.get("tags") or ()):
            line = self.file.section_lines.get(section, 0)
            self._refuse(line, f"{section}.tags", "guests (encap) are not available")
        if len(self.errors) > errors_before:
            return None
        subset = str(values.get("subset") or "")
        name = log_name(section, driver.type_name, subset)
        context = self.make_context(name, self.nodes, self.drpnodes, self._default_reader)
        options = {name: values[name] for name in keywords.options}
        return Member(
            resource=driver(section, options, context),
            set_name=f"{driver.type_name}:{subset}" if subset else driver.type_name,
            subset=subset,
            disable=self._disabled(section, values),
            optional=bool(values.get("optional")) or self._on(values.get("optional_on", ())),
            monitor=bool(values.get("monitor")) or self._on(values.get("monitor_on", ())),
            standby=self._on(values.get("always_on", ())),
            restart_count_max=int(values.get("restart") or 0),
            tags=tuple(values.get("tags") or ()),
            triggers={trigger.name: values[trigger.name] for trigger in TRIGGERS if values.get(trigger.name)},
        )

    def _reservation(self, member: Member) -> List[Member]:
        """Return the resource RIDpr that reserves the disks of a resource, where `scsireserv` wants it.

        Source: A.7: it is no section of its own, and shares what the agent makes of the section.
        """
        section = member.rid
        driver = type(member.resource)
        if not is_on_disks(driver) or not self._value(section, RESERVATION_KEYWORDS[0]):
            return []
        rid = f"{section}pr"
        if rid in self.file.sections:
            line = self.file.section_lines[rid]
            self._refuse(line, rid, f"the reservation of {section} has this name: choose another number")
            return []
        reserving = self.finder.internal("disk", "scsireserv")
        context = self.make_context(rid.upper(), self.nodes, self.drpnodes, self._default_reader)
        options = {
            "protects": member.resource,
            "no_preempt_abort": self._value(section, RESERVATION_KEYWORDS[1]),
        }
        resource = reserving(rid, options, context)
        triggers: Mapping[str, Tuple[str, ...]] = {}
        return [
            replace(
                member,
                resource=resource,
                set_name=resource.type_name,
                subset="",
                restart_count_max=0,
                triggers=triggers,
            )
        ]

    def _disabled(self, section: str, values: Mapping[str, Any]) -> bool:
        """Source: A.5: a true `disable` of [DEFAULT] cannot be lifted per resource."""
        service_wide = self.file.value(DEFAULT, "disable", self.scopes)
        if service_wide is not None:
            try:
                if boolean(service_wide):
                    return True
            except ValueError:
                return False  # refused where [DEFAULT] is checked
        return bool(values.get("disable")) or self._on(values.get("disable_on", ()))

    def _on(self, names: Sequence[str]) -> bool:
        """Tell whether a list of nodes, `nodes` and `drpnodes` holds on this node."""
        groups = {"nodes": self.nodes, "drpnodes": self.drpnodes}
        return any(self.node == name or self.node in groups.get(name, ()) for name in names)

    def _internal_syncs(self) -> List[Member]:
        """Source: A.9: sync#i0 with two nodes or more, sync#i1 with disaster recovery nodes."""
        driver = self.finder.internal("sync", "internal")
        wanted = [bool(len(self.nodes) + len(self.drpnodes) >= 2), bool(self.drpnodes)]
        made = [self._make(rid, driver) for rid, exists in zip(INTERNAL_SYNCS, wanted) if exists]
        return [member for member in made if member is not None]

    def _default_reader(self, keyword: str) -> Any:
        known = _DEFAULT_BY_NAME.get(keyword)
        if known is not None:
            entry = self.file.lookup(DEFAULT, keyword, self.scopes if known.scopable else ())
            return known.default if entry is None else known.convert(entry.value)
        return self.file.value(DEFAULT, keyword, self.scopes)

    def _read_section(self, section: str, keywords: Mapping[str, Keyword]) -> Dict[str, Any]:
        """Return the value of each keyword; complain of what is unknown, missing or malformed."""
        if section != DEFAULT:
            aliases = {alias: keyword for keyword in keywords.values() for alias in keyword.aliases}
            by_name = {**aliases, **keywords}
            self.inherited.update(by_name)
            for entry in self.file.entries(section):
                self._check_key(entry, by_name)
        written = self.file.keywords
        return {
            name: self._value(section, keyword)
            if keyword.required or name in written or not written.isdisjoint(keyword.aliases)
            else keyword.default
            for name, keyword in keywords.items()
        }

    def _check_key(self, entry: Entry, by_name: Mapping[str, Keyword]) -> None:
        where = f"{entry.section}.{entry.key}"
        keyword = by_name.get(entry.keyword)
        if keyword is None:
            self._refuse(entry.line, where, "unknown keyword")
        elif entry.scope and not keyword.scopable:
            self._refuse(entry.line, where, f"{keyword.name} cannot be scoped")
        elif entry.scope and entry.scope not in self.known_scopes:
            self._note(entry, f"'{entry.scope}' is no node of this service: never holds")
        elif entry.keyword != keyword.name and self.file.own(
            entry.section, entry.key.replace(entry.keyword, keyword.name, 1)
        ):
            self._refuse(
                entry.line, where, f"is the same as {keyword.name}, which stands there too: keep one"
            )

    def _check_default_keys(self) -> None:
        """A key of [DEFAULT] is its own keyword, one that some section here inherits, or known."""
        names = _ANY_BY_NAME
        for entry in self.file.entries(DEFAULT):
            if entry.keyword in WITHOUT_EFFECT:
                self._note(entry, "accepted, without effect")
            elif entry.keyword in names:
                self._check_key(entry, names)
                self._convert(names[entry.keyword], entry)
            elif entry.keyword not in self.inherited:
                self._refuse(entry.line, f"{DEFAULT}.{entry.key}", "unknown keyword")

    def _value(self, section: str, keyword: Keyword) -> Any:
        entry = self._entry(section, keyword)
        if entry is None or (keyword.required and not entry.value):
            if keyword.required:
                line = entry.line if entry else self.file.section_lines[section]
                what = keyword.missing.format(section=section)
                what = what or f"{keyword.name} must be set in section {section}"
                self._refuse(line, f"{section}.{keyword.name}", what)
            return keyword.default
        if entry.section != section and entry.section == DEFAULT and keyword in _SHARED:
            return self._convert(keyword, entry, quiet=True)  # complained of once, with [DEFAULT]
        return self._convert(keyword, entry)

    def _entry(self, section: str, keyword: Keyword) -> Optional[Entry]:
        """Return the entry that holds for a keyword under any of its names; the section's own first."""
        scopes = self.scopes if keyword.scopable else ()
        names = (keyword.name, *keyword.aliases)
        entries = [entry for entry in (self.file.lookup(section, name, scopes) for name in names) if entry]
        return min(entries, key=lambda entry: entry.section != section, default=None)

    def _convert(self, keyword: Keyword, entry: Entry, quiet: bool = False) -> Any:
        allowed = keyword.candidates
        reason = ""
        if allowed is not None and entry.value not in allowed:
            reason = f"'{entry.value}' is not allowed (one of {', '.join(allowed)})"
        else:
            try:
                return keyword.convert(entry.value)
            except ValueError as error:
                reason = str(error)
        if not quiet:
            self._refuse(entry.line, f"{entry.section}.{entry.key}", reason)
        return keyword.default

    def _refuse(self, line: int, where: str, what: str) -> None:
        error = ConfigurationError(self.file.path, line, where, what)
        if str(error) not in {str(known) for known in self.errors}:
            self.errors.append(error)

    def _note(self, entry: Entry, what: str) -> None:
        self.notices.append(Notice(self.file.path, entry.line, f"{entry.section}.{entry.key}", what))
