"""svcmon: one row per service, also over very many services, at once.

With a daemon it shows the results that the daemon keeps fresh, those not older than
`status_max_age`; the others, and all of them without a daemon or with --refresh, it
evaluates itself, in parallel and each with a time limit. The hb column is never a kept one:
it is the daemon's word of this moment. What could not be evaluated is said on stderr.

Modules are imported where they are used: this command must start at once.

Source: B.9; the order is the one asked for in --service, else by name (F.4).
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Mapping, Optional, Sequence, Tuple

from opensvc_hb import paths
from opensvc_hb.agent.daemon_link import ask_daemon
from opensvc_hb.agent.names import list_services
from opensvc_hb.agent.node_config import LATER_LOOK, read_node_configuration
from opensvc_hb.cli.command_end import os_error_text
from opensvc_hb.cli.svcmgr_options import (
    CommandLine,
    OptionShape,
    UsageError,
    options_text,
    read_command_line,
    seconds_of,
)
from opensvc_hb.errors import ConfigurationError, ConfigurationErrors, ExitCode, HbError

if TYPE_CHECKING:
    from opensvc_hb.agent.loader import Loader
    from opensvc_hb.agent.service import Service

OPTIONS: Tuple[OptionShape, ...] = (
    OptionShape(("-s", "--service"), "SVC[,SVC]", "services to show, in this order"),
    OptionShape(("-v", "--verbose"), "", "print the status tree of each service (1.8's look: more columns)"),
    OptionShape(("-w", "--watch"), "", "show again every few seconds, until interrupted"),
    OptionShape(("--interval",), "SECONDS", "pause between two looks with --watch (2)"),
    OptionShape(("--refresh",), "", "evaluate every service now"),
    OptionShape(("--format",), "json", "print JSON"),
    OptionShape(("-h", "--help"), "", "show this help and exit"),
    OptionShape(("--version",), "", "show the version and exit"),
)

USAGE = f"""Usage: svcmon [options]

Display services status

Options:
{options_text(OPTIONS)}
Exit status: 0 whatever the statuses; 1 when a service could not be shown;
2 for an error of usage.
"""

SERVICE_LIMIT_S = 65.0
"""How long a whole service may take: its resources, then its launchers, have their own limits."""
PARALLEL_MAX = 16
MAX_AGE_S = 120.0
WATCH_S = 2.0
WATCH_MIN_S = 0.1

Documents = Dict[str, Mapping[str, Any]]


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run svcmon; arguments without the command's name, the process's own by default."""
    try:
        return _main(read_command_line(sys.argv[1:] if arguments is None else arguments, OPTIONS))
    except UsageError as error:
        sys.stderr.write(f"Usage: svcmon [options]\n\nsvcmon: error: {error}\n")
        return int(ExitCode.USAGE)
    except HbError as error:
        sys.stderr.write(f"{error}\n")
        return int(ExitCode.FAILED)
    except BrokenPipeError:
        sys.stderr.close()
        return int(ExitCode.FAILED)
    except OSError as error:
        sys.stderr.write(f"svcmon: {os_error_text(error)}\n")
        return int(ExitCode.FAILED)
    except KeyboardInterrupt:
        return 130


def _main(line: CommandLine) -> int:
    if line.has("help"):
        sys.stdout.write(USAGE)
        return int(ExitCode.DONE)
    if line.has("version"):
        from opensvc_hb import __version__

        sys.stdout.write(f"svcmon version {__version__}\n")
        return int(ExitCode.DONE)
    if line.action:
        raise UsageError(f"unexpected argument: {line.action}")
    if line.options.get("format", "json") != "json":
        raise UsageError(f"invalid format: '{line.options['format']}' (have json)")
    pause_s = max(WATCH_MIN_S, seconds_of(line.options.get("interval"), WATCH_S))
    look = _Look(paths.root(), paths.node_name(), line.items("service"), line.has("refresh"))
    if not line.has("watch"):
        return look.show(line.has("format"), line.has("verbose"))
    while True:
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[H\x1b[2J")
        look.show(line.has("format"), line.has("verbose"))
        time.sleep(pause_s)


class _Look:
    """One look at the services.

    Args:
        wanted: names asked for, in order; () for all.
        refresh: evaluate all, whatever the daemon keeps.
    """

    def __init__(self, root: paths.Root, node: str, wanted: Tuple[str, ...], refresh: bool) -> None:
        self.root = root
        self.node = node
        self.wanted = wanted
        self.refresh = refresh
        self.failed = False

    def show(self, as_json: bool, verbose: bool) -> int:
        """Show the services; returns the exit code."""
        self.failed = False
        existing = list_services(self.root)
        names = list(self.wanted) or existing
        for name in [name for name in names if name not in existing]:
            self._complain(f"{name}: service does not exist")
        names = [name for name in names if name in existing]
        look = read_node_configuration(self.root).status_look
        if verbose and not as_json and look != LATER_LOOK:
            self._trees(names)
        else:
            documents = self._documents(names)
            shown = {name: documents[name] for name in names if name in documents}
            if as_json:
                self._json(shown)
            else:
                self._table(shown, look, verbose)
        sys.stdout.flush()
        return int(ExitCode.FAILED if self.failed else ExitCode.DONE)

    def _complain(self, text: str) -> None:
        self.failed = True
        sys.stderr.write(f"{text}\n")

    def _documents(self, names: Sequence[str]) -> Documents:
        documents = {} if self.refresh else self._kept(names)
        missing = [name for name in names if name not in documents]
        documents.update(self._evaluated(missing))
        return documents

    def _kept(self, names: Sequence[str]) -> Documents:
        """Return what the daemon keeps and is fresh enough, with the hb of this moment."""
        answer = ask_daemon(self.root, {"request": "statuses"})
        if not answer.get("ok"):
            return {}
        from opensvc_hb.agent.kept import is_fresh, made_current

        max_age_s = _status_max_age_s(self.root)
        fresh = {
            name: kept["status"]
            for name, kept in answer.get("services", {}).items()
            if name in names and is_fresh(self.root, name, kept["status"], float(kept["age_s"]), max_age_s)
        }
        if not fresh:
            return {}
        heartbeats = self._instances()
        return {
            name: made_current(self.root, name, document, heartbeats(name))
            for name, document in fresh.items()
        }

    def _instances(self) -> Callable[[str], Mapping[str, Any]]:
        """Ask once for all instances; returns what the daemon says of a service's, as for an hb driver."""
        answer = ask_daemon(self.root, {"request": "instances"})
        if not answer.get("ok"):
            return lambda _svcname: answer
        of_service = {
            str(fields.get("service", name)): fields for name, fields in answer["instances"].items()
        }

        def of(svcname: str) -> Mapping[str, Any]:
            if svcname not in of_service:
                return {"ok": False, "error": f"{svcname}: no such service"}
            return {"ok": True, **of_service[svcname]}

        return of

    def _evaluated(self, names: Sequence[str]) -> Documents:
        """Evaluate services here, each in a process of its own; what fails is said."""
        if not names:
            return {}
        from opensvc_hb.agent.loader import Loader
        from opensvc_hb.agent.parallel import answer_all

        loader = Loader(self.root, self.node)
        tasks: Dict[str, Callable[[], Any]] = {}
        for name in names:
            try:
                # here and not in the child: what is imported for one service serves all
                tasks[name] = _evaluation(loader, loader.service(name))
            except HbError as error:
                self._refused(name, error, loader)
        answers = answer_all(list(tasks.values()), SERVICE_LIMIT_S, PARALLEL_MAX)
        found: Documents = {}
        for name, answer in zip(tasks, answers):
            if answer.problem:
                self._complain(f"{name}: could not be evaluated: {answer.problem}")
                loader.log(name).trace(answer.trace or answer.problem)
                continue
            found[name] = answer.value
            for rid in answer.value["unknown"]:
                sys.stderr.write(f"{name}: {rid} could not be evaluated\n")
        return found

    def _refused(self, name: str, error: HbError, loader: Loader) -> None:
        self.failed = True
        if isinstance(error, (ConfigurationError, ConfigurationErrors)):
            sys.stderr.write(f"{error}\n")
        else:
            loader.log(name).error(str(error))

    def _table(self, documents: Documents, look: str, verbose: bool) -> None:
        from opensvc_hb.agent.document import row_of_document

        rows = [row_of_document(name, document) for name, document in documents.items()]
        if look == LATER_LOOK:
            from opensvc_hb.agent import render_later

            codes = [str(document.get("service", {}).get("app", "")) for document in documents.values()]
            sys.stdout.write(render_later.render_table(rows, codes, verbose))
        else:
            from opensvc_hb.agent import render

            sys.stdout.write(render.render_table(rows))

    def _json(self, documents: Documents) -> None:
        import json

        sys.stdout.write(json.dumps(documents, indent=4, sort_keys=True) + "\n")

    def _trees(self, names: Sequence[str]) -> None:
        from opensvc_hb.cli import svcmgr

        for name in names:
            if svcmgr.main(["-s", name, "print_status"], "svcmgr") != 0:
                self.failed = True


def _evaluation(loader: Loader, service: Service) -> Callable[[], Any]:
    from opensvc_hb.agent.document import status_document
    from opensvc_hb.agent.evaluate import evaluate

    began_s = time.time()
    return lambda: status_document(evaluate(loader, service), began_s)


def _status_max_age_s(root: paths.Root) -> float:
    """Return `status_max_age` of hb.conf and conf.d, the last file's over the others.

    As the daemon reads it (`daemon.settings`), whose import would take as long as all else here.
    What is wrong with these files is the daemon's to say.
    """
    from opensvc_hb.ini import read

    max_age_s = MAX_AGE_S
    try:
        for path in (root.hb / "hb.conf", *sorted((root.hb / "conf.d").glob("*.conf"))):
            entry = read(path).own("hb", "status_max_age") if path.exists() else None
            if entry is not None:
                max_age_s = float(entry.value)
    except (ValueError, ConfigurationErrors):
        return MAX_AGE_S
    return max_age_s if max_age_s > 0 else MAX_AGE_S


if __name__ == "__main__":
    sys.exit(main())
