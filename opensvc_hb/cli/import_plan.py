"""What becomes of an OpenHA installation here: the files that would be written, service by service.

`make_plan` reads, converts and checks; it writes nothing. A file keeps its lines where they were,
so that an error found in what would be written names the line of what was read. What OpenHA
ignores is left as a comment, and said; what OpenHA accepts and we refuse is an error that says
what to write instead. Every error is found in one reading.

A service that runs here must go on running: nobody can look at one that scripts alone drive, so
its state file decides whether it is *marked* as started here. What may run is counted as running,
since a wrong "stopped" lets two nodes run it, and a wrong "running" only waits for an operator.

Called by `hbmgr import`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Optional, Tuple

from opensvc_hb.agent.adapter import AgentAdapter
from opensvc_hb.cli.import_source import NoState, Source, read_state
from opensvc_hb.core.config import LinkType, Protocol
from opensvc_hb.core.states import State
from opensvc_hb.daemon.settings import SECTION, Settings, read_settings
from opensvc_hb.errors import ConfigurationError, ConfigurationErrors
from opensvc_hb.links.cluster_files import read_monitor, read_nodes
from opensvc_hb.links.openha_limits import check_links
from opensvc_hb.links.openha_structure import SERVICES_MAX
from opensvc_hb.paths import Root
from opensvc_hb.services_table import COLUMNS, ServiceLine, agent_service, read_services

COUNTED_AS_RUNNING = frozenset({State.STARTED, State.START_READY, State.START_FAILED, State.STOP_FAILED})
"""States in which an instance runs here, or may."""
IN_BETWEEN = frozenset({State.STARTING, State.STOPPING, State.UNKNOWN})
"""States that do not say whether an instance runs here."""

_COLUMNS_OF = {
    kind.value: 5 if kind.is_disk else 6
    for kind in (LinkType.NET, LinkType.UNICAST, LinkType.DIO, LinkType.DISK)
}
_OLD_START = "START_READY: about to start, or frozen while started, which OpenHA does not tell apart"


@dataclass(frozen=True)
class PlannedFile:
    """One file of `etc/opensvc/hb`.

    Args:
        path: where it is, or will be.
        content: what it will hold.
        before: what it holds now; None when there is none.
        source: what it was made from; None for hb.conf.
    """

    path: Path
    content: bytes
    before: Optional[bytes]
    source: Optional[Path] = None

    @property
    def change(self) -> str:
        """What will happen to it: `new`, `replaced` or `unchanged`."""
        if self.before is None:
            return "new"
        return "unchanged" if self.before == self.content else "replaced"


@dataclass(frozen=True)
class PlannedService:
    """One service.

    Args:
        agent: the agent's name of it; None when scripts alone drive it.
        is_ours: this node is its primary or secondary.
        state: OpenHA's state of it on this node; None where it is not ours or not known.
        runs: it is counted as running here.
    """

    line: ServiceLine
    agent: Optional[str]
    is_ours: bool
    state: Optional[State]
    runs: bool

    @property
    def svcname(self) -> str:
        """The name under which actions, logs and marks know it."""
        return self.agent or self.line.name


@dataclass(frozen=True)
class Plan:
    """All that an import would do.

    Args:
        notes: accepted, but worth saying; in the order of the files.
        errors: with one, nothing is written.
    """

    source: Source
    files: Tuple[PlannedFile, ...]
    services: Tuple[PlannedService, ...]
    notes: Tuple[str, ...]
    errors: Tuple[ConfigurationError, ...]


class _Findings:
    """Collects what is found. Owned by `make_plan`."""

    def __init__(self) -> None:
        self.errors: List[ConfigurationError] = []
        self.notes: List[str] = []

    def note(self, path: Path, line: int, what: str) -> None:
        self.notes.append(f"{path}:{line}: {what}" if line else f"{path}: {what}")

    def error(self, path: Path, line: int, where: str, what: str) -> None:
        self.errors.append(ConfigurationError(str(path), line, where, what))


def make_plan(source: Source, root: Root, node: str) -> Plan:
    """Return what importing an installation on this node would do.

    Args:
        source: the installation.
        root: the tree of this node, which is read only.
        node: this node's name, lower case.
    """
    found = _Findings()
    found.errors.extend(source.errors)
    contents = {
        "nodes": _converted(source.nodes, _node_line, found),
        "monitor": _converted(source.monitor, _monitor_line, found),
        "services": _converted(source.services, _service_line, found, required=False),
        "hb.conf": with_keyword(_read(root.hb / "hb.conf", found) or b"", "protocol", "both"),
    }
    lines = _check(source, root, node, contents, found)
    agents = {declared.name: declared.svcname for declared in AgentAdapter(root, node).declare().services}
    services = tuple(_planned_service(source, root, node, line, agents, found) for line in lines)
    _tunables(source, found)
    sources: Mapping[str, Optional[Path]] = {
        "nodes": source.nodes,
        "monitor": source.monitor,
        "services": source.services,
        "hb.conf": None,
    }
    files = tuple(
        PlannedFile(root.hb / name, content, _read(root.hb / name, found), sources[name])
        for name, content in contents.items()
        if content is not None
    )
    return Plan(source, files, services, tuple(found.notes), tuple(found.errors))


def with_keyword(content: bytes, keyword: str, value: str) -> bytes:
    """Return an hb.conf in which a keyword has this value; all else stays, comments too."""
    lines = content.decode("utf-8", "surrogateescape").splitlines()
    setting = f"{keyword} = {value}"
    at = None
    section = ""
    for number, line in enumerate(lines):
        text = line.strip()
        if text.startswith("[") and text.endswith("]"):
            section = text[1:-1].strip()
            at = number if section == SECTION and at is None else at
        elif section == SECTION and text.partition("=")[0].strip().lower() == keyword and "=" in text:
            lines[number] = setting
            return _text("\n".join(lines) + "\n")
    if at is None:
        lines += [f"[{SECTION}]", setting]
    else:
        lines.insert(at + 1, setting)
    return _text("\n".join(lines) + "\n")


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _read(path: Path, found: _Findings) -> Optional[bytes]:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        found.error(path, 0, "", f"cannot be read: {error.strerror}")
        return None


_ConvertLine = Callable[[Path, int, str, _Findings], str]


def _converted(path: Path, convert: _ConvertLine, found: _Findings, required: bool = True) -> Optional[bytes]:
    """Return a file of OpenHA's in our grammar, line for line; None when it cannot be read."""
    content = _read(path, found)
    if content is None:
        if required and not any(error.path == str(path) for error in found.errors):
            found.error(path, 0, "", "does not exist: OpenHA does not run without it")
        return None if required else b""
    converted = []
    for number, raw in enumerate(content.decode("utf-8", "surrogateescape").splitlines(), start=1):
        line = raw.rstrip()
        text = line.strip()
        converted.append(line if not text or text.startswith("#") else convert(path, number, line, found))
        if text.startswith("#"):
            found.note(path, number, "a comment: it stays one here; OpenHA takes it for an entry")
    return _text("".join(f"{line}\n" for line in converted))


def _node_line(path: Path, number: int, line: str, found: _Findings) -> str:
    name, *others = line.split()
    if others:
        found.note(path, number, f"only the first column counts, as in OpenHA: {name}")
    _must_be_lower_case(path, number, "node", name, found)
    return name


def _must_be_lower_case(path: Path, number: int, where: str, name: str, found: _Findings) -> None:
    if name != name.lower():
        what = (
            f"{name} has capital letters: nodes are named in lower case here, and OpenHA on the other node "
            f"compares letter by letter: name the host {name.lower()} first, in all files of both nodes"
        )
        found.error(path, number, where, what)


def _monitor_line(path: Path, number: int, line: str, found: _Findings) -> str:
    columns = line.split()
    kind = columns[1] if len(columns) > 1 else ""
    wanted = _COLUMNS_OF.get(kind)
    if wanted is None:
        found.note(path, number, f"left out: OpenHA ignores a line of type '{kind}', too")
        return f"# left out by import: {line.strip()}"
    _must_be_lower_case(path, number, "node", columns[0], found)
    if len(columns) > wanted:
        extra = " ".join(columns[wanted:])
        found.note(path, number, f"'{extra}' is left out: OpenHA ignores what follows the timeout, too")
    return " ".join(columns[:wanted])


def _service_line(path: Path, number: int, line: str, found: _Findings) -> str:
    columns = line.split()
    if line[0] in " \t":
        found.note(path, number, f"begins with a blank: OpenHA reads no name there, here it is {columns[0]}")
    for where, index in (("primary", 2), ("secondary", 3)):
        if len(columns) > index:
            _must_be_lower_case(path, number, where, columns[index], found)
    if len(columns) > len(COLUMNS):
        extra = " ".join(columns[len(COLUMNS) :])
        found.note(path, number, f"'{extra}' is left out: OpenHA ignores what follows the check script, too")
    return "\t".join(columns[: len(COLUMNS)])


def _check(
    source: Source, root: Root, node: str, contents: Mapping[str, Optional[bytes]], found: _Findings
) -> Tuple[ServiceLine, ...]:
    """Read what would be written as the daemon will; return the services that are right."""
    lines: Tuple[ServiceLine, ...] = ()
    with tempfile.TemporaryDirectory(prefix="hbmgr-import-") as folder:
        stage = Path(folder)
        (stage / "conf.d").mkdir()
        for name, content in contents.items():
            if content is not None:
                (stage / name).write_bytes(content)
        for extra in sorted((root.hb / "conf.d").glob("*.conf")):
            (stage / "conf.d" / extra.name).write_bytes(_read(extra, found) or b"")
        shown: Dict[str, str] = {
            str(stage / "nodes"): str(source.nodes),
            str(stage / "monitor"): str(source.monitor),
            str(stage / "services"): str(source.services),
        }

        def attempt(read: Callable[[], object]) -> object:
            try:
                return read()
            except ConfigurationErrors as several:
                for one in several.errors:
                    path = shown.get(one.path, one.path.replace(str(stage), str(root.hb)))
                    found.errors.append(ConfigurationError(path, one.line, one.where, one.what))
                return None

        nodes = attempt(lambda: read_nodes(stage / "nodes")) if contents["nodes"] is not None else None
        if isinstance(nodes, tuple):
            links = attempt(lambda: read_monitor(stage / "monitor", nodes)) if contents["monitor"] else None
            if isinstance(links, tuple):
                impossible, notes = check_links(links, Protocol.BOTH, str(source.monitor))
                found.errors.extend(impossible)
                found.notes.extend(notes)
            if node not in nodes:
                have = ", ".join(nodes)
                found.error(source.nodes, 0, "", f"this node, {node}, is not listed (have {have})")
        read = attempt(lambda: read_services(stage / "services"))
        lines = read if isinstance(read, tuple) else ()
        settings = attempt(lambda: read_settings(stage, under_root=root.top != Path("/")))
        if isinstance(settings, Settings) and settings.protocol is not Protocol.BOTH:
            what = "is not both after all: remove it there, and import again"
            found.error(root.hb / "conf.d", 0, "protocol", what)
    if len(lines) > SERVICES_MAX:
        what = f"{len(lines)} services: beside a node with OpenHA at most {SERVICES_MAX} are possible"
        found.error(source.services, 0, "", what)
    for line in lines:
        strange = [name for name in line.nodes if isinstance(nodes, tuple) and name not in nodes]
        if strange and node in line.nodes:
            what = f"{', '.join(strange)} is not in {source.nodes}: add it there"
            found.error(source.services, line.line, "primary, secondary", what)
    return lines


def _planned_service(
    source: Source,
    root: Root,
    node: str,
    line: ServiceLine,
    agents: Mapping[str, str],
    found: _Findings,
) -> PlannedService:
    """Tell what a line becomes; `agents` has the agent's services by their names in the heartbeat."""
    agent = _agents_name(source, root, line, agents, found)
    is_ours = node in line.nodes
    if not is_ours:
        found.note(source.services, line.line, f"{line.name} is not this node's: kept, and not cared for")
        return PlannedService(line, agent, False, None, False)
    if agent is None:
        _look_at_scripts(source, line, found)
    state = _own_state(source, node, line, found)
    return PlannedService(line, agent, True, state, state in COUNTED_AS_RUNNING)


def _agents_name(
    source: Source, root: Root, line: ServiceLine, agents: Mapping[str, str], found: _Findings
) -> Optional[str]:
    """Return the agent's name of a service; None when scripts alone drive it."""
    linked = agent_service(line.script)
    name = linked or agents.get(line.name, line.name)
    files = [path for path in (root.etc / f"{name}.env", root.etc / f"{name}.conf") if path.exists()]
    if linked is not None and not files:
        what = f"{line.script} leads to svcmgr, but there is no {root.etc / name}.env or .conf: put it there"
        found.error(source.services, line.line, "script", what)
    if linked is None and files:
        what = (
            f"{line.name} has the file {files[0]}: it is the agent's service from now on, and {line.script} "
            "is no more called; to have it called, rename the file"
        )
        found.note(source.services, line.line, what)
    return name if files or linked else None


def _look_at_scripts(source: Source, line: ServiceLine, found: _Findings) -> None:
    for script in dict.fromkeys((line.script, line.check_script)):
        path = Path(script)
        if not path.exists():
            what = f"{script} does not exist here now (a start fails until it does)"
            found.note(source.services, line.line, what)
        elif not path.stat().st_mode & 0o111:
            found.note(source.services, line.line, f"{script} is not executable: a start fails: chmod +x it")


def _own_state(source: Source, node: str, line: ServiceLine, found: _Findings) -> Optional[State]:
    state = read_state(source, line.name, node)
    if isinstance(state, NoState):
        found.error(state.path, 0, "", f"{state.what}; {_say_which(line)}")
        return None
    path = source.states / line.name / f"STATE.{node}"
    if state in IN_BETWEEN:
        found.error(
            path, 0, "", f"{line.name} is {state.name}: wait until that has ended, or {_say_which(line)}"
        )
    elif state is State.START_READY:
        found.note(
            path, 0, f"{line.name} is {_OLD_START}; it is counted as running: look, before you unfreeze it"
        )
    elif state in (State.START_FAILED, State.STOP_FAILED):
        what = (
            f"{line.name} is {state.name}: something of it may run, so it is counted as running and nobody "
            f"takes it over; once you have looked: hbmgr freeze-stop {line.name}"
        )
        found.note(path, 0, what)
    return state


def _say_which(line: ServiceLine) -> str:
    return (
        f"say where it stands, with OpenHA's own service -A {line.name} force-start (it runs) or "
        f"service -A {line.name} force-stop (it does not), and import again"
    )


def _tunables(source: Source, found: _Findings) -> None:
    """Say of each tunable what becomes of it."""
    words = {
        "HEARTBEAT_TALK_DELAY_ON_START": "has no counterpart: wait_for_peer of hb.conf (90 s) is how long a "
        "node waits for a peer that it has not heard yet, and START_READY is offered, not slept",
        "FREEZE_SERVICE_SECONDARY_INSTANCE_ON_START": "has no counterpart: an instance that is frozen stays "
        "frozen across boots (hbmgr freeze-stop), one that is not is free",
    }
    for name, tunable in source.tunables.items():
        if name in words and source.tunables_path is not None:
            found.note(source.tunables_path, tunable.line, f"{name} {words[name]}")
