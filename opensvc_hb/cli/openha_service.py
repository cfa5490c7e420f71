"""`service`: OpenHA's command for services, a thin client of the daemon.

    service -s [-c] | -i S | -A [S] ACTION | -a S SCRIPT PRIMARY SECONDARY CHECK | -r S

Words, streams and exit codes are OpenHA's (255 for every failure); what is true is known by the
daemon. `-a` and `-r` edit the services file, and the daemon reads it at once.

Installed in the compatible tree, and as a subcommand of `openha`; never as /usr/bin/service, which
is the system's.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, List, Mapping, NoReturn, Optional, Sequence, Tuple

from opensvc_hb.cli.openha_actions import Actor, action_of
from opensvc_hb.cli.openha_console import (
    ANSWER_LIMIT_S,
    FAILED,
    Ask,
    Console,
    ask_daemon,
    reload_daemon,
    run_command,
    this_console,
)
from opensvc_hb.cli.openha_tables import column_table, info_lines, long_table
from opensvc_hb.cli.openha_usage import service_usage
from opensvc_hb.cli.openha_view import ServiceView, agents_file_test, service_lines, services_view
from opensvc_hb.client import DaemonDown, DaemonError
from opensvc_hb.core.states import RUNNING
from opensvc_hb.daemon.services_file import (
    ServiceEditRefused,
    ServiceNotFound,
    Stream,
    add_service,
    remove_service,
)
from opensvc_hb.daemon.state_file_format import make_new_state_files, remove_state_files, state_file
from opensvc_hb.errors import HbError
from opensvc_hb.paths import Root, node_name, root

NO_DAEMON = 1
"""Exit code of `-s` without a daemon."""


class Refused(HbError):
    """The daemon refused to say what is asked."""


@dataclass(frozen=True)
class ServiceCommand:
    """The command, with what it needs of its surroundings.

    Args:
        add: adds to the services file (`services_file.add_service`).
    """

    place: Root
    node: str
    console: Console
    ask: Ask
    usage: str
    add: Callable[[Root, str, str, str, str, str], None] = add_service

    def run(self, words: Sequence[str]) -> int:
        """Do what the words say; return the exit code."""
        option, rest = (words[0], words[1:]) if words else ("", ())
        if option == "-s" and (not rest or list(rest) == ["-c"]):
            return self._show(columns=bool(rest))
        if option == "-i" and len(rest) == 1:
            return self._info(rest[0])
        if option == "-r" and len(rest) == 1:
            return self._remove(rest[0])
        if option == "-A" and len(rest) in (1, 2):
            return self._act(rest[0] if len(rest) == 2 else None, rest[-1])
        if option == "-a" and len(rest) == 5:
            name, script, primary, secondary, check = rest
            return self._add(name, script, primary, secondary, check)
        self.console.complain(self.usage)
        return FAILED

    # -- what is there -----------------------------------------------------------------

    def _document(self) -> Mapping[str, Any]:
        answer = self.ask({"request": "status"}, ANSWER_LIMIT_S)
        if not answer.get("ok"):
            raise Refused(str(answer.get("error") or "the daemon does not say what it knows"))
        document: Mapping[str, Any] = answer["status"]
        return document

    def _services(self) -> Tuple[ServiceView, ...]:
        return services_view(self._document(), service_lines(self.place), agents_file_test(self.place))

    def _find(self, name: str) -> Optional[ServiceView]:
        """Return a service by its heartbeat name or the agent's; None when there is none."""
        try:
            services = self._services()
        except DaemonDown:
            # It may be asked for what is nowhere named: that needs no daemon to be said.
            if all(line.name != name for line in service_lines(self.place)):
                return None
            raise
        for service in services:
            if service.name == name:
                return service
        return next((service for service in services if service.svcname == name), None)

    def _show(self, columns: bool) -> int:
        try:
            services = self._services()
        except DaemonError as error:
            self.console.complain(str(error))
            return NO_DAEMON
        self.console.show(column_table(services) if columns else long_table(services))
        return 0

    def _info(self, name: str) -> int:
        service = self._find(name)
        if service is None:
            self.console.complain(f"Error : service {name} does not exist")
            return FAILED
        self.console.show(info_lines(service, self.node))
        return 0

    # -- actions -----------------------------------------------------------------------

    def _act(self, name: Optional[str], word: str) -> int:
        action = action_of(word)
        service = None if name is None else self._find(name)
        if name is not None and service is None:
            self.console.error(f"service {name} not found")
            return FAILED
        if action is None:
            self.console.error(f"action {word} not found")
            return FAILED
        actor = Actor(self.console, self.ask, self._services, self.node)
        if service is None:
            return actor.act_on_all(action, self._services())
        return actor.act(action, service)

    # -- the services file -------------------------------------------------------------

    def _add(self, name: str, script: str, primary: str, secondary: str, check: str) -> int:
        try:
            self.add(self.place, name, script, primary, secondary, check)
        except ServiceEditRefused as refusal:
            if not refusal.precedes_creating:
                self.console.show(f"Creating service {name} :")
            self._say_refused(refusal)
            if not refusal.precedes_creating:
                self.console.show("Failed.")
            return FAILED
        self.console.show(f"Creating service {name} :")
        tree = self._tree()
        if tree is not None:
            self._make_state_files(tree, name, (primary, secondary))
        reload_daemon(self.ask, self.console)
        self.console.show("Done.")
        return 0

    def _make_state_files(self, tree: Path, name: str, nodes: Tuple[str, str]) -> None:
        try:
            made_directory, made = make_new_state_files(tree, name, nodes)
        except OSError as error:
            self.console.complain(f"{error.filename}: cannot be made: {error.strerror}")
            return
        if made_directory:
            self.console.info(f"Directory {state_file(tree, name, '').parent} created")
        for path in made:
            self.console.info(f"State file {path} created with initial state FROZEN_STOP")

    def _say_refused(self, refusal: ServiceEditRefused) -> None:
        say = self.console.show if refusal.stream is Stream.STDOUT else self.console.complain
        say(str(refusal))

    def _remove(self, name: str) -> int:
        try:
            service = self._find(name)
        except DaemonDown:
            service = None  # nobody can say whether it runs; OpenHA does not ask
        running = service is not None and service.is_ours and service.own_state(self.node) in RUNNING
        named = any(line.name == name for line in service_lines(self.place))
        if service is not None and running and named:
            state = service.own_state(self.node).openha.name
            self.console.complain(f"Service {name} is {state} here: freeze-stop it first")
            self.console.show("Failed.")
            return FAILED
        try:
            remove_service(self.place, name)
        except ServiceNotFound as refusal:
            if service is not None:
                self.console.complain(
                    f"Service {name} is declared in the file of {service.svcname}: remove its hb section"
                )
            else:
                self._say_refused(refusal)
            self.console.show("Failed.")
            return FAILED
        reload_daemon(self.ask, self.console)
        tree = self._tree()
        if tree is not None:
            with contextlib.suppress(OSError):  # a script may keep files of its own in there
                remove_state_files(tree, name)
        self.console.show(f"Remove of service {name} done")
        self.console.show("Done.")
        return 0

    def _tree(self) -> Optional[Path]:
        """Return the compatible tree, None without one; an hb.conf that is wrong names none."""
        from opensvc_hb.daemon.settings import read_settings

        try:
            return read_settings(self.place.hb, under_root=self.place.top != Path("/")).openha_tree
        except HbError:
            return None


def service(words: Sequence[str]) -> int:
    """Run one command line; return its exit code or raise an HbError."""
    place = root()
    command = ServiceCommand(place, node_name(), this_console(), ask_daemon(place), service_usage())
    return command.run(words)


def main(argv: Optional[List[str]] = None) -> NoReturn:
    """Run the command line and exit."""
    run_command("service", service, argv)


if __name__ == "__main__":
    main()
