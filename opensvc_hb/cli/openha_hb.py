"""`hb`: OpenHA's command for the links, a thin client of the daemon.

    hb -s | -a -n NODE -t TYPE -i DEVICE -d ADDRESS [-p PORT] -T TIMEOUT | -r (the same, without -T)

Parses the words and prints; how a line comes into the monitor file is `openha_monitor`'s matter.
`-s` exits 0 always, as OpenHA's does.

Runs in: the process of a command.
"""

from __future__ import annotations

import getopt
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, NoReturn, Optional, Sequence

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
from opensvc_hb.cli.openha_monitor import (
    LinkRefused,
    LinkWords,
    Machine,
    add_link,
    remove_link,
    this_machine,
)
from opensvc_hb.cli.openha_tables import links_table
from opensvc_hb.cli.openha_usage import hb_usage
from opensvc_hb.cli.openha_view import links_view
from opensvc_hb.client import DaemonError
from opensvc_hb.errors import HbError
from opensvc_hb.paths import Root, root

_FIELDS: Dict[str, str] = {
    "-n": "node",
    "-t": "type",
    "-i": "device",
    "-d": "address",
    "-p": "port",
    "-T": "timeout",
}


@dataclass(frozen=True)
class HbCommand:
    """The command, with what it needs of its surroundings.

    Args:
        wall_clock: seconds since 1970, for the times shown.
        machine: what the links' devices are looked up in.
    """

    place: Root
    console: Console
    ask: Ask
    usage: str
    wall_clock: Callable[[], float] = time.time
    machine: Machine = field(default_factory=this_machine)

    def run(self, words: Sequence[str]) -> int:
        """Do what the words say; return the exit code."""
        try:
            found, rest = getopt.gnu_getopt(list(words), "sarn:t:i:d:p:T:")
        except getopt.GetoptError:
            return self._fail()
        tasks = [name for name, _ in found if name in ("-s", "-a", "-r")]
        if len(tasks) != 1:
            return self._fail("Incompatible options.")
        if rest:
            return self._fail(f"'{rest[0]}' belongs to no option.")
        link = LinkWords(**{_FIELDS[name]: value for name, value in found if name in _FIELDS})
        if tasks[0] == "-s":
            return self._show()
        return self._add(link) if tasks[0] == "-a" else self._remove(link)

    def _fail(self, *lines: str) -> int:
        for line in (*lines, self.usage):
            self.console.complain(line)
        return FAILED

    def _show(self) -> int:
        monitor = self.place.hb / "monitor"
        try:
            answer = self.ask({"request": "status"}, ANSWER_LIMIT_S)
        except DaemonError as error:
            self.console.complain(str(error))
            return 0
        if not monitor.exists():
            self.console.complain(f"unable to open {monitor}")
            return 0
        if not answer.get("ok"):
            self.console.complain(str(answer.get("error")))
            return 0
        document: Any = answer["status"]
        table = links_table(links_view(document), self.wall_clock())
        if table:
            self.console.show(table)
        return 0

    def _add(self, link: LinkWords) -> int:
        try:
            add_link(self.place, link, self.machine)
        except LinkRefused as refusal:
            return self._refuse(refusal, "heartbeat add failed.")
        except HbError as error:
            return self._fail(str(error), "heartbeat add failed.")
        reload_daemon(self.ask, self.console)
        self.console.show("heartbeat added.")
        return 0

    def _remove(self, link: LinkWords) -> int:
        try:
            remove_link(self.place, link)
        except LinkRefused as refusal:
            return self._refuse(refusal, "heartbeat remove failed.")
        except HbError as error:
            return self._fail(str(error), "heartbeat remove failed.")
        reload_daemon(self.ask, self.console)
        self.console.show("heartbeat removed.")
        return 0

    def _refuse(self, refusal: LinkRefused, otherwise: str) -> int:
        """Print a refusal: what is wrong, and the part of the link that it is wrong with."""
        for line in refusal.shown:
            self.console.show(line)
        what = f"{refusal.part} validation error." if refusal.part else otherwise
        return self._fail(*refusal.lines, what)


def hb(words: Sequence[str]) -> int:
    """Run one command line; return its exit code or raise an HbError."""
    place = root()
    return HbCommand(place, this_console(), ask_daemon(place), hb_usage()).run(words)


def main(argv: Optional[List[str]] = None) -> NoReturn:
    """Run the command line and exit."""
    run_command("hb", hb, argv)


if __name__ == "__main__":
    main()
