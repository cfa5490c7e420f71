"""The command line of svcmgr: options before or behind the action, its words apart or joined.

Data and a small reader, for the agents' shapes fit no standard parser: `print status` is
`print_status`, `-s a,b` may stand anywhere, `--service=a` too. Source: C.1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

ACTION_HELP: Mapping[str, str] = {
    "start": "start the service",
    "stop": "stop the service",
    "restart": "stop, then start the service",
    "boot": "start, or start the standby resources, as the node boots",
    "shutdown": "stop the service, standby resources included",
    "startstandby": "start the resources that are standby on this node",
    "startip": "start the ip resources",
    "stopip": "stop the ip resources",
    "startdisk": "start the disk resources",
    "stopdisk": "stop the disk resources",
    "startvg": "start the volume groups and the reservations of disks",
    "stopvg": "stop the volume groups and the reservations of disks",
    "startloop": "start the loop devices",
    "stoploop": "stop the loop devices",
    "prstart": "take the reservations of disks",
    "prstop": "give the reservations of disks back",
    "startfs": "start the disk and fs resources",
    "stopfs": "stop the fs and disk resources",
    "startshare": "start the share resources",
    "stopshare": "stop the share resources",
    "startcontainer": "start the container resources",
    "stopcontainer": "stop the container resources",
    "startapp": "start the app resources",
    "stopapp": "stop the app resources",
    "syncnodes": "send copies of the service's file and data to its other nodes, if it is time",
    "syncdrp": "send them to its disaster recovery nodes",
    "syncall": "send them to both",
    "presync": "judge the service's file before it is sent",
    "postsync": "judge the service's file as it has arrived from another node",
    "status": "exit with the code of the overall status",
    "print_status": "print the status of every resource as a tree",
    "json_status": "print the status as one line of JSON",
    "print_config": "print the service's file",
    "print_config_keywords": "print every keyword and what it does",
    "validate_config": "judge the service's file: one line per error",
    "print_node": "print this node's name, its root directory and its host mode",
    "freeze": "refuse actions until thaw",
    "thaw": "allow actions again",
    "frozen": "exit 1 if frozen, else 0",
    "get": "print the text of one keyword (--param SECTION.KEYWORD)",
    "set": "set keywords (--param SECTION.KEYWORD --value TEXT, as often as needed)",
    "unset": "remove keywords (--param SECTION.KEYWORD)",
    "enable": "let the service, or the resources of --rid, take part again",
    "disable": "leave the service, or the resources of --rid, out of every action",
    "delete": "remove the resources of --rid from the service's file",
    "create": "make the file of a new service (--config FILE, --param, --value)",
    "edit_config": "edit the service's file; it is replaced when the new text is right",
    "logs": "print the service's log",
    "switch": "stop the service here and start it on the other node",
    "resource_monitor": "look at the monitored resources, restart one that is down, tell the heartbeat",
    "freezestop": "have the heartbeat stop the service here, and keep it stopped",
    "docker": "run docker's client on the service's containers; all that follows is for it",
}
"""Every action, in the order in which help lists them."""


ALIASES: Mapping[str, str] = {
    "sync_nodes": "syncnodes",
    "sync_drp": "syncdrp",
    "sync_all": "syncall",
}
"""Actions by their names in the later agents."""


PASSES_ON = "docker"
"""The action behind which no word and no option is ours."""


@dataclass(frozen=True)
class OptionShape:
    """One option: its spellings, the name of its value ("" for a switch), its text."""

    spellings: Tuple[str, ...]
    value: str
    text: str

    @property
    def name(self) -> str:
        """Its long spelling without dashes."""
        return self.spellings[-1].lstrip("-")


OPTIONS: Tuple[OptionShape, ...] = (
    OptionShape(("-s", "--service"), "SVC[,SVC]", "services to act on"),
    OptionShape(("-c", "--cluster"), "", "act although a heartbeat drives the service"),
    OptionShape(("-f", "--force"), "", "override protections, stop standby resources too"),
    OptionShape(("--rid",), "RID[,RID]", "only these resources; a family's name takes all of it"),
    OptionShape(("--tags",), "TAG[,TAG]", "only resources that have one of these tags"),
    OptionShape(("--to",), "NODE", "node to switch to"),
    OptionShape(("--dry-run",), "", "say what would be done"),
    OptionShape(("--disable-rollback",), "", "leave what was started when a start fails"),
    OptionShape(("--waitlock",), "SECONDS", "how long to wait for another action (60)"),
    OptionShape(
        ("--param",), "SECTION.KEYWORD", "keyword to get, set or unset, its scope behind it: fs#1.dev@n2"
    ),
    OptionShape(("--value",), "TEXT", "what to set the keyword to; once for each --param"),
    OptionShape(("--eval",), "", "get: the value that holds on this node, scopes and all"),
    OptionShape(("--config",), "FILE", "create: a file to begin with"),
    OptionShape(("--lines",), "N", "logs: only the last lines"),
    OptionShape(("--follow",), "", "logs: go on with what is written from now on"),
    OptionShape(("--cron",), "", "syncnodes: say nothing of what is not sent now"),
    OptionShape(("--format",), "json", "print JSON"),
    OptionShape(("--refresh",), "", "accepted: a status is always evaluated"),
    OptionShape(("-h", "--help"), "", "show this help and exit"),
    OptionShape(("--version",), "", "show the version and exit"),
)


class UsageError(Exception):
    """The command line cannot be understood; the text is the error line's end."""


@dataclass(frozen=True)
class CommandLine:
    """A command line as read: the action's words joined by underscores, options by name.

    Args:
        given: every option with a value as often as it was given, in order.
        passed: what follows the action `docker`, for another program's eyes only.
    """

    action: str
    options: Mapping[str, str] = field(default_factory=dict)
    given: Tuple[Tuple[str, str], ...] = ()
    passed: Tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        """Tell whether a switch, or an option with a value, was given."""
        return name in self.options

    def values(self, name: str) -> Tuple[str, ...]:
        """Return the values of an option that may be given more than once, in order."""
        return tuple(value for known, value in self.given if known == name)

    def items(self, name: str) -> Tuple[str, ...]:
        """Return the comma separated items of an option."""
        return tuple(dict.fromkeys(part for part in self.options.get(name, "").split(",") if part))


def read_command_line(arguments: Sequence[str], shapes: Sequence[OptionShape] = OPTIONS) -> CommandLine:
    """Read arguments (without the command's own name).

    Raises:
        UsageError: an option that does not exist, or whose value is missing or not wanted.
    """
    by_spelling = {spelling: shape for shape in shapes for spelling in shape.spellings}
    options: Dict[str, str] = {}
    given: List[Tuple[str, str]] = []
    words: List[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if not words and argument == PASSES_ON:
            return CommandLine(argument, options, tuple(given), tuple(waiting))
        if not argument.startswith("-") or argument == "-":
            words.append(argument)
            continue
        spelling, equals, value = argument.partition("=")
        shape = by_spelling.get(spelling)
        if shape is None:
            raise UsageError(f"no such option: {spelling}")
        if not shape.value:
            if equals:
                raise UsageError(f"{spelling} option does not take a value")
            options[shape.name] = ""
            continue
        if not equals:
            if not waiting:
                raise UsageError(f"{spelling} option requires an argument")
            value = waiting.pop(0)
        options[shape.name] = value
        given.append((shape.name, value))
    action = "_".join(words)
    return CommandLine(ALIASES.get(action, action), options, tuple(given))


def check_common(line: CommandLine) -> None:
    """Judge what any action needs, or may have.

    Raises:
        UsageError: there is no action, or an option's value is none.
    """
    if not line.action:
        raise UsageError("Missing action")
    if line.options.get("format", "json") != "json":
        raise UsageError(f"invalid format: '{line.options['format']}' (have json)")
    seconds_of(line.options.get("waitlock"), 0.0)


def seconds_of(text: Optional[str], default: float) -> float:
    """Return the seconds of an option's text.

    Raises:
        UsageError: it is no number of seconds.
    """
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"invalid number of seconds: '{text}'") from None
    if not 0 <= value < 1e6:
        raise UsageError(f"invalid number of seconds: '{text}'")
    return value


def options_text(shapes: Sequence[OptionShape] = OPTIONS) -> str:
    """Return the list of options for a help text."""
    heads = [", ".join(s.spellings) + (f" {s.value}" if s.value else "") for s in shapes]
    width = max(len(head) for head in heads)
    return "".join(f"  {head:<{width}}  {shape.text}\n" for head, shape in zip(heads, shapes))


def usage(name: str) -> str:
    """Return the usage text of svcmgr under the name it was called by."""
    width = max(len(action) for action in ACTION_HELP)
    actions = "".join(
        f"  {action.replace('_', ' '):<{width}}  {text}\n" for action, text in ACTION_HELP.items()
    )
    return (
        f"Usage: {name} [options] command\n\n"
        f"Options:\n{options_text()}\n"
        f"Commands (words apart, or joined by an underscore):\n{actions}\n"
        "Exit status: the sum over the services of 0 (done) or 1 (failed, refused, no such service);\n"
        "2 for an error of usage; `status`: 0 up, 1 down, 2 warn, 3 n/a, 5 undef, 6 stdby up,\n"
        "7 stdby down.\n"
    )
