"""allservices, allupservices, alldownservices, allprimaryservices, allsecondaryservices: one action on many.

Which services are meant is told by the name of the command; what is done to each is svcmgr's
business. A service that this node does not run is nobody's here. By its path the program takes the
name as its first word: `python -m opensvc_hb.cli.mass_command allupservices status`.

Source: C.1, except that up and down are those of avail: by the overall status a service whose
heartbeat warns would be passed over in silence. And where the heartbeat drives a service, its
primary node is the first of `nodes`, for `autostart_node` cannot be set there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

from opensvc_hb import paths
from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.names import list_services
from opensvc_hb.agent.service import NotAllowedHereError, NotManagedHereError, Service
from opensvc_hb.cli import svcmgr
from opensvc_hb.cli.svcmgr_options import (
    ACTION_HELP,
    OPTIONS,
    CommandLine,
    OptionShape,
    UsageError,
    check_common,
    options_text,
    read_command_line,
)
from opensvc_hb.errors import ExitCode, HbError

ABOUT: Mapping[str, str] = {
    "allservices": "every service of this node",
    "allupservices": "every service that is up here",
    "alldownservices": "every service that is down here",
    "allprimaryservices": "every service whose primary node is this one",
    "allsecondaryservices": "every service whose primary node is another one",
}
"""The commands, and the services that each acts on."""

NONE: Mapping[str, str] = {
    "allservices": "no service is configured here",
    "allupservices": "no service is up here",
    "alldownservices": "no service is down here",
    "allprimaryservices": "this node is no service's primary node",
    "allsecondaryservices": "this node is no service's secondary node",
}
"""What is said when there is none; that is no failure."""

NOT_FOR_MANY = ("create", "edit_config", "print_node", "print_config_keywords", "logs", "docker")
"""Actions that are about one service, or about none."""

MASS_OPTIONS: Tuple[OptionShape, ...] = (
    *(shape for shape in OPTIONS if shape.name != "service"),
    OptionShape(("-p", "--parallel"), "", "act on all of them at the same time"),
)


def main(arguments: Optional[Sequence[str]] = None, command: Optional[str] = None) -> int:
    """Run a mass command.

    Args:
        arguments: without the command's name; the process's own by default.
        command: the name it is called by (argv[0]); the process's own by default.
    """
    name = Path(sys.argv[0] if command is None else command).name
    words = list(sys.argv[1:] if arguments is None else arguments)
    if name not in ABOUT and words and words[0] in ABOUT:
        name = words.pop(0)
    try:
        return _main(name, read_command_line(words, MASS_OPTIONS))
    except UsageError as error:
        sys.stderr.write(f"Usage: {name} [options] command\n\n{name}: error: {error}\n")
        return int(ExitCode.USAGE)
    except BrokenPipeError:
        sys.stderr.close()
        return int(ExitCode.FAILED)
    except KeyboardInterrupt:
        return 130


def usage(name: str) -> str:
    """Return the usage text."""
    return (
        f"Usage: {name} [options] command\n\n"
        f"Does what svcmgr does with this command, on {ABOUT[name]}, by name.\n\n"
        f"Options:\n{options_text(MASS_OPTIONS)}\n"
        "Commands: see svcmgr --help.\n\n"
        "Exit status: the sum of those of svcmgr over the services; 0 when there is none,\n"
        "2 for an error of usage.\n"
    )


def _main(name: str, line: CommandLine) -> int:
    if name not in ABOUT:
        raise UsageError(f"called as '{name}', which is none of {', '.join(ABOUT)}")
    if line.has("help"):
        sys.stdout.write(usage(name))
        return int(ExitCode.DONE)
    if line.has("version"):
        from opensvc_hb import __version__

        sys.stdout.write(f"{name} version {__version__}\n")
        return int(ExitCode.DONE)
    check_common(line)
    if line.action not in ACTION_HELP or line.action in NOT_FOR_MANY:
        raise UsageError("unsupported action")
    loader = Loader(paths.root(), paths.node_name())
    chosen, status = chosen_services(loader, name, line.has("cluster"))
    if not chosen and status == ExitCode.DONE:
        sys.stderr.write(f"{name}: {NONE[name]}\n")
    if line.has("parallel") and not line.has("format"):
        status += _at_once(loader, line, chosen)
    elif chosen:
        status += svcmgr.act_on(loader, line, line.has("cluster"), chosen)
    return min(status, svcmgr.EXIT_MAX)


def chosen_services(loader: Loader, name: str, cluster: bool = False) -> Tuple[List[str], int]:
    """Return the services that a mass command acts on, by name, and 1 when some cannot be told.

    What is wrong with a service's file is written on stderr.
    """
    chosen: List[str] = []
    status = int(ExitCode.DONE)
    for svcname in list_services(loader.root):
        try:
            if _is_meant(loader, loader.service(svcname, cluster), name):
                chosen.append(svcname)
        except (NotManagedHereError, NotAllowedHereError):
            continue
        except HbError as error:
            sys.stderr.write(f"{error}\n")
            status = int(ExitCode.FAILED)
    return chosen, status


def _is_meant(loader: Loader, service: Service, name: str) -> bool:
    if name == "allservices":
        return True
    if name in ("allprimaryservices", "allsecondaryservices"):
        return is_primary(service) == (name == "allprimaryservices")
    from opensvc_hb.agent.evaluate import evaluate
    from opensvc_hb.agent.resource import Status

    wanted = Status.UP if name == "allupservices" else Status.DOWN
    return evaluate(loader, service).totals.avail is wanted


def is_primary(service: Service) -> bool:
    """Tell whether this node is where the service is meant to run."""
    if service.autostart_nodes or not service.of_group("hb"):
        return service.node in [node.lower() for node in service.autostart_nodes]
    return service.nodes[:1] == (service.node,)


def _at_once(loader: Loader, line: CommandLine, names: Sequence[str]) -> int:
    """Act on all services at the same time, a child process each; every line has its service's name."""
    from opensvc_hb.agent.parallel import answer_all

    def task(svcname: str) -> Callable[[], Any]:
        return lambda: svcmgr.act_on(loader, line, line.has("cluster"), [svcname])

    status = 0
    for svcname, answer in zip(names, answer_all([task(svcname) for svcname in names], None)):
        if answer.problem:
            sys.stderr.write(f"{svcname}: {line.action}: {answer.problem}\n")
        status += int(ExitCode.FAILED) if answer.problem else int(answer.value)
    return status


if __name__ == "__main__":
    sys.exit(main())
