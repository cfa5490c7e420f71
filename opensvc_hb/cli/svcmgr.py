"""svcmgr: one action on one or more services, or, called through a service's link, on that one.

Prints, and turns errors into exit codes; what an action does is `agent`'s business. The
exit code is the sum over the services (C.1), 2 for an error of usage.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Optional, Sequence

from opensvc_hb import paths
from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.names import CalledAs, called_as, list_services, make_heartbeat_command, service_file
from opensvc_hb.agent.node_config import LATER_LOOK
from opensvc_hb.agent.progress import TerminalProgress, columns_of, terminal_of, write_at_once
from opensvc_hb.cli import configure, docker_passthrough, edit_config, service_log, sync_commands
from opensvc_hb.cli.command_end import os_error_text
from opensvc_hb.cli.svcmgr_options import (
    ACTION_HELP,
    CommandLine,
    UsageError,
    check_common,
    read_command_line,
    seconds_of,
    usage,
)
from opensvc_hb.errors import ConfigurationError, ConfigurationErrors, ExitCode, HbError

if TYPE_CHECKING:
    from opensvc_hb.agent.actions import Options
    from opensvc_hb.cli.handover import Handover

EXIT_MAX = 255
KEYWORDS_ACTION = "print_config_keywords"
"""Its last word may name a kind of section: `print config keywords fs`."""
WITHOUT_SERVICE = ("print_status", "json_status", "status", "validate_config", "frozen")
"""Actions that change nothing: without -s they are for all services."""


def main(arguments: Optional[Sequence[str]] = None, command: Optional[str] = None) -> int:
    """Run svcmgr.

    Args:
        arguments: without the command's name; the process's own by default.
        command: the name it is called by (argv[0]); the process's own by default.
    """
    name = sys.argv[0] if command is None else command
    root = paths.root()
    called = called_as(name)
    shown = Path(name).name if called else "svcmgr"
    try:
        line = read_command_line(sys.argv[1:] if arguments is None else arguments)
        return _main(line, shown, called, root)
    except UsageError as error:
        sys.stderr.write(f"Usage: {shown} [options] command\n\n{shown}: error: {error}\n")
        return int(ExitCode.USAGE)
    except HbError as error:
        sys.stderr.write(f"{error}\n")
        return int(ExitCode.FAILED)
    except BrokenPipeError:
        sys.stderr.close()
        return int(ExitCode.FAILED)
    except OSError as error:
        sys.stderr.write(f"{shown}: {os_error_text(error)}\n")
        return int(ExitCode.FAILED)
    except KeyboardInterrupt:
        return 130


def _main(line: CommandLine, shown: str, called: Optional[CalledAs], root: paths.Root) -> int:
    if line.has("help"):
        sys.stdout.write(usage(shown))
        return int(ExitCode.DONE)
    if line.has("version"):
        from opensvc_hb import __version__

        sys.stdout.write(f"{shown} version {__version__}\n")
        return int(ExitCode.DONE)
    check_common(line)
    if line.action.startswith(KEYWORDS_ACTION):
        return _print_keywords(Loader(root, paths.node_name()), line)
    if line.action not in ACTION_HELP:
        raise UsageError("unsupported action")
    if line.action == sync_commands.PRINT_NODE:
        return sync_commands.print_node(Loader(root, paths.node_name()), line)
    names = (called.svcname,) if called else line.items("service")
    if not names:
        if line.has("service") or line.action not in WITHOUT_SERVICE:
            raise UsageError("no service given: use -s SVC[,SVC]")
        names = tuple(list_services(root))
    cluster = line.has("cluster") or (called is not None and called.cluster)
    return act_on(Loader(root, paths.node_name()), line, cluster, names)


def act_on(loader: Loader, line: CommandLine, cluster: bool, names: Sequence[str]) -> int:
    """Do what a command line says on one service after another; returns the exit code."""
    run = _Command(loader, line, cluster)
    return min(sum(run.on(name) for name in names) + run.finish(), EXIT_MAX)


class _Command:
    """One command line, run on service after service."""

    def __init__(self, loader: Loader, line: CommandLine, cluster: bool) -> None:
        self.progress: Optional[TerminalProgress] = None
        if terminal_of(sys.stderr, os.environ):
            terminal = sys.stderr.fileno()
            self.progress = TerminalProgress(write_at_once(terminal), columns_of(terminal))
            loader = replace(loader, write_log=self.progress.log)
        self.loader = loader
        self.line = line
        self.cluster = cluster
        self.documents: Dict[str, Any] = {}
        self.handlers: Mapping[str, Callable[[str], int]] = {
            "status": self._status,
            "print_status": self._print_status,
            "json_status": self._json_status,
            "print_config": self._print_config,
            "validate_config": self._validate,
            "freeze": self._freeze,
            "thaw": self._thaw,
            "frozen": self._frozen,
            **configure.handlers(loader, line),
            **docker_passthrough.handlers(loader, line),
            **edit_config.handlers(loader, line),
            **service_log.handlers(loader, line),
            **sync_commands.handlers(loader, line, cluster, self.progress),
            "switch": lambda svcname: self._handover().switch(svcname),
            "resource_monitor": self._resource_monitor,
            "freezestop": lambda svcname: self._handover().freezestop(svcname),
        }

    def on(self, svcname: str) -> int:
        """Do it on one service; returns its exit code."""
        try:
            return self.handlers.get(self.line.action, self._act)(svcname)
        except (ConfigurationError, ConfigurationErrors) as error:
            sys.stderr.write(f"{error}\n")
        except HbError as error:
            if str(error).startswith(f"{svcname}:"):
                sys.stderr.write(f"{error}\n")
            else:
                self.loader.log(svcname).error(str(error))
        except BrokenPipeError:
            raise
        except OSError as error:
            sys.stderr.write(f"{svcname}: {self.line.action}: {os_error_text(error)}\n")
        return int(ExitCode.FAILED)

    def finish(self) -> int:
        """Print what was collected over all services."""
        if self.documents:
            import json

            sys.stdout.write(json.dumps(self.documents, indent=4, sort_keys=True) + "\n")
        return int(ExitCode.DONE)

    def _act(self, svcname: str) -> int:
        from opensvc_hb.agent.actions import Options, run_action
        from opensvc_hb.agent.foreign import ForeignService, foreign_line

        line = foreign_line(self.loader.root, svcname)
        if line is not None:
            wait_s = seconds_of(self.line.options.get("waitlock"), Options.wait_lock_s)
            foreign = ForeignService(self.loader.root, line, self.loader.log(svcname))
            done = foreign.act(self.line.action, self.cluster, wait_s, self.line.has("dry-run"))
            return min(done, int(ExitCode.FAILED))
        service = self.loader.service(svcname, self.cluster, self.line.has("force"))
        if service.of_group("hb") and not self.line.has("dry-run"):
            make_heartbeat_command(self.loader.root, svcname)
        return run_action(self.loader, service, self.line.action, self._options(), self.progress)

    def _options(self) -> Options:
        from opensvc_hb.agent.actions import Options

        return Options(
            cluster=self.cluster,
            force=self.line.has("force"),
            dry_run=self.line.has("dry-run"),
            disable_rollback=self.line.has("disable-rollback"),
            rids=self.line.items("rid"),
            tags=self.line.items("tags"),
            wait_lock_s=seconds_of(self.line.options.get("waitlock"), Options.wait_lock_s),
        )

    def _resource_monitor(self, svcname: str) -> int:
        from opensvc_hb.agent.resource_monitor import ResourceMonitorCommand

        return ResourceMonitorCommand(self.loader).run(svcname, self.line.has("dry-run"))

    def _handover(self) -> Handover:
        from opensvc_hb.cli.handover import Handover

        return Handover(self.loader, self._options(), self.line.options.get("to"), self.progress)

    def _status(self, svcname: str) -> int:
        from opensvc_hb.agent.evaluate import evaluate

        return int(evaluate(self.loader, self.loader.service(svcname)).totals.overall)

    def _print_status(self, svcname: str) -> int:
        from opensvc_hb.agent import render, render_later
        from opensvc_hb.agent.document import status_document
        from opensvc_hb.agent.evaluate import evaluate

        status = evaluate(self.loader, self.loader.service(svcname))
        if self.line.has("format"):
            self.documents[svcname] = status_document(status, time.time())
        elif self.loader.node_configuration.status_look == LATER_LOOK:
            sys.stdout.write(render_later.render_tree(status))
        else:
            sys.stdout.write(render.render_tree(status))
        sys.stdout.flush()
        return int(ExitCode.DONE)

    def _json_status(self, svcname: str) -> int:
        import json

        from opensvc_hb.agent.document import line_document
        from opensvc_hb.agent.evaluate import evaluate

        status = evaluate(self.loader, self.loader.service(svcname))
        sys.stdout.write(json.dumps(line_document(status)) + "\n")
        return int(ExitCode.DONE)

    def _print_config(self, svcname: str) -> int:
        path = service_file(self.loader.root, svcname)
        text = path.read_text(encoding="utf-8", errors="replace")
        sys.stdout.write(text if text.endswith("\n") or not text else f"{text}\n")
        return int(ExitCode.DONE)

    def _validate(self, svcname: str) -> int:
        errors, notices = self.loader.validate(svcname)
        if self.line.has("format"):
            self.documents[svcname] = {
                "errors": [str(e) for e in errors],
                "notices": [str(n) for n in notices],
            }
        else:
            sys.stderr.write("".join(f"{error}\n" for error in errors))
            sys.stderr.write("".join(f"{notice} (notice)\n" for notice in notices))
        return int(ExitCode.FAILED if errors else ExitCode.DONE)

    def _freeze(self, svcname: str) -> int:
        from opensvc_hb.agent import frozen

        service_file(self.loader.root, svcname)
        if self._says_only("freeze", svcname):
            return int(ExitCode.DONE)
        frozen.freeze(self.loader.root, svcname)
        return int(ExitCode.DONE)

    def _thaw(self, svcname: str) -> int:
        from opensvc_hb.agent import frozen

        service_file(self.loader.root, svcname)
        if self._says_only("thaw", svcname):
            return int(ExitCode.DONE)
        frozen.thaw(self.loader.root, svcname)
        return int(ExitCode.DONE)

    def _says_only(self, action: str, svcname: str) -> bool:
        """With --dry-run say what would be done; tell whether that is all."""
        if self.line.has("dry-run"):
            self.loader.log(svcname).info(action)
        return self.line.has("dry-run")

    def _frozen(self, svcname: str) -> int:
        from opensvc_hb.agent import frozen

        service_file(self.loader.root, svcname)
        return int(frozen.is_frozen(self.loader.root, svcname))


def _print_keywords(loader: Loader, line: CommandLine) -> int:
    """Print every keyword, or those of the sections that a word names."""
    import json
    import shutil

    from opensvc_hb.cli import keywords_text

    tables, problems = keywords_text.all_tables(loader.finder)
    word = line.action[len(KEYWORDS_ACTION) :].strip("_")
    wanted = keywords_text.chosen(tables, word)
    if not wanted:
        known = sorted({name for table in tables for name in table.names if "." not in name})
        problems.append(f"no section '{word}' (have {', '.join(known)})")
    if line.has("format"):
        sys.stdout.write(json.dumps(keywords_text.keywords_document(wanted), indent=4) + "\n")
    else:
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
        sys.stdout.write(keywords_text.keywords_text(wanted, columns))
    sys.stderr.write("".join(f"{problem}\n" for problem in problems))
    return int(ExitCode.FAILED if problems else ExitCode.DONE)


if __name__ == "__main__":
    sys.exit(main())
