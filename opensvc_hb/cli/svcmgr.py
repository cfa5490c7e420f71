"""svcmgr: one action on one or more services, or, called through a service's link, on that one.

Prints, and turns errors into exit codes; what an action does is `agent`'s business. The
exit code is the sum over the services (C.1), 2 for an error of usage.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from opensvc_hb import paths
from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.names import CalledAs, called_as, list_services, service_file
from opensvc_hb.agent.node_config import LATER_LOOK
from opensvc_hb.cli.svcmgr_options import (
    ACTION_HELP,
    CommandLine,
    UsageError,
    read_command_line,
    seconds_of,
    usage,
)
from opensvc_hb.errors import ConfigurationError, ConfigurationErrors, ExitCode, HbError

EXIT_MAX = 255
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
    except BrokenPipeError:
        sys.stderr.close()
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
    if not line.action:
        raise UsageError("Missing action")
    if line.action == "print_config_keywords":
        return _print_keywords(Loader(root, paths.node_name()))
    if line.action not in ACTION_HELP:
        raise UsageError("unsupported action")
    if line.options.get("format", "json") != "json":
        raise UsageError(f"invalid format: '{line.options['format']}' (have json)")
    seconds_of(line.options.get("waitlock"), 0.0)
    names = (called.svcname,) if called else line.items("service")
    if not names:
        if line.has("service") or line.action not in WITHOUT_SERVICE:
            raise UsageError("no service given: use -s SVC[,SVC]")
        names = tuple(list_services(root))
    cluster = line.has("cluster") or (called is not None and called.cluster)
    run = _Command(Loader(root, paths.node_name()), line, cluster)
    return min(sum(run.on(name) for name in names) + run.finish(), EXIT_MAX)


class _Command:
    """One command line, run on service after service."""

    def __init__(self, loader: Loader, line: CommandLine, cluster: bool) -> None:
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
            "get": self._get,
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
            sys.stderr.write(f"{svcname}: {self.line.action}: {error.filename}: {error.strerror}\n")
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
            return min(foreign.act(self.line.action, self.cluster, wait_s), int(ExitCode.FAILED))
        service = self.loader.service(svcname, self.cluster)
        options = Options(
            cluster=self.cluster,
            force=self.line.has("force"),
            dry_run=self.line.has("dry-run"),
            disable_rollback=self.line.has("disable-rollback"),
            rids=self.line.items("rid"),
            wait_lock_s=seconds_of(self.line.options.get("waitlock"), Options.wait_lock_s),
        )
        return run_action(self.loader, service, self.line.action, options)

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
        frozen.freeze(self.loader.root, svcname)
        return int(ExitCode.DONE)

    def _thaw(self, svcname: str) -> int:
        from opensvc_hb.agent import frozen

        service_file(self.loader.root, svcname)
        frozen.thaw(self.loader.root, svcname)
        return int(ExitCode.DONE)

    def _frozen(self, svcname: str) -> int:
        from opensvc_hb.agent import frozen

        service_file(self.loader.root, svcname)
        return int(frozen.is_frozen(self.loader.root, svcname))

    def _get(self, svcname: str) -> int:
        """Source of the texts: C.11."""
        parameter = self.line.options.get("param", "")
        if not parameter:
            return _say("no parameter. set --param")
        section, dot, keyword = parameter.partition(".")
        if not dot or not keyword:
            return _say("malformed parameter. format as 'section.key'")
        file = self.loader.file(svcname)
        if section not in file.sections:
            return _say(f"section '{section}' not found")
        value = file.value(section, keyword.lower())
        if value is None:
            return _say(f"option '{keyword}' not found in section '{section}'")
        sys.stdout.write(f"{value}\n")
        return int(ExitCode.DONE)


def _say(text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return int(ExitCode.FAILED)


def _print_keywords(loader: Loader) -> int:
    """Print every keyword of every section, from the declarations that the reader follows."""
    from opensvc_hb.agent.drivers import Missing
    from opensvc_hb.agent.keywords import Keyword
    from opensvc_hb.agent.sections import DEFAULT_KEYWORDS, RESOURCE_KEYWORDS, SUBSET_KEYWORDS

    tables: List[Tuple[str, Sequence[Keyword]]] = [
        ("[DEFAULT]", DEFAULT_KEYWORDS),
        ("every resource", RESOURCE_KEYWORDS),
        ("[subset#TYPE:NAME]", SUBSET_KEYWORDS),
    ]
    status = int(ExitCode.DONE)
    for driver in loader.finder.all():
        if isinstance(driver, Missing):
            status = _say(driver.reason)
        elif driver.sections:
            heads = ", ".join(f"[{family}#N]" for family in driver.sections)
            types = f" type = {' or '.join(driver.types)}" if driver.types else ""
            tables.append((f"{heads}{types}", driver.keywords))
    for head, keywords in tables:
        sys.stdout.write(f"{head}\n")
        for keyword in keywords:
            marks = [
                mark
                for mark, there in (("required", keyword.required), ("scopable", keyword.scopable))
                if there
            ]
            if keyword.default not in (None, "", (), False):
                marks.append(f"default {keyword.default}")
            if keyword.candidates:
                marks.append(f"one of {' '.join(keyword.candidates)}")
            note = f" ({', '.join(marks)})" if marks else ""
            sys.stdout.write(f"    {keyword.name:<20} {keyword.text}{note}\n")
        sys.stdout.write("\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
