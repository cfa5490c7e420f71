"""`openha`: OpenHA's wrapper, which calls the other commands.

    openha status | ps | kill | hb ... | service ...

`openha kill` ends the daemon and leaves the services running, as OpenHA's does; unlike there, the
other node is promised that the daemon comes back, and the services are ended when it does not.
`openha ez-ps` is what the alias ez_ps runs.

Runs in: the process of a command.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from typing import Callable, List, NoReturn, Optional, Sequence

from opensvc_hb.cli.openha_console import (
    CALLED_AS,
    Ask,
    Console,
    ask_daemon,
    run_command,
    this_console,
)
from opensvc_hb.cli.openha_hb import hb
from opensvc_hb.cli.openha_ps import (
    HEADER,
    binaries_directory,
    daemon_facts,
    daemon_pid,
    full_lines,
    links_of,
    user_lines,
)
from opensvc_hb.cli.openha_service import service
from opensvc_hb.paths import Root, root

WRONG = 1
"""Exit code of wrong words, and of what found no daemon."""
END_LIMIT_S = 30.0
_POLL_S = 0.05
_RULE = "----------------"


def end_daemon(place: Root, limit_s: float = END_LIMIT_S, send: Callable[[int, int], None] = os.kill) -> bool:
    """Tell the daemon of a root to end, its services left running, and wait; tell whether one ran.

    Raises:
        PermissionError: it is another user's.
    """
    pid = daemon_pid(place)
    if pid is None:
        return False
    try:
        send(pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    deadline = time.monotonic() + limit_s
    while daemon_pid(place) == pid and time.monotonic() < deadline:
        time.sleep(_POLL_S)  # a lock cannot be waited for without taking it
    return True


@dataclass(frozen=True)
class OpenhaCommand:
    """The wrapper, with what it needs of its surroundings.

    Args:
        path: by which it was called.
    """

    path: str
    place: Root
    console: Console
    ask: Ask
    hb: Callable[[Sequence[str]], int]
    service: Callable[[Sequence[str]], int]
    end: Callable[[Root], bool] = end_daemon

    def run(self, words: Sequence[str]) -> int:
        """Do what the words say; return the exit code."""
        if not words or words[0] in ("-h", "--help"):
            for usage in ("hb|service [options]", "kill", "ps", "status"):
                self.console.complain(f"{self.path} {usage}")
            return WRONG
        word, rest = words[0], words[1:]
        if word == "hb":
            return self.hb(rest)
        if word == "service":
            return self.service(rest)
        if word == "status":
            return self._status()
        if word in ("ps", "ez-ps"):
            return self._processes(with_header=word == "ps")
        if word == "kill":
            return self._kill()
        self.console.complain("unknown subsystem")
        return WRONG

    def _status(self) -> int:
        self.console.show(f"Hearbeat status:\n{_RULE}\n")
        self.hb(["-s"])
        self.console.show(f"\nServices status:\n{_RULE}\n")
        self.service(["-s", "-c"])
        self.console.show("")
        return 0

    def _processes(self, with_header: bool) -> int:
        """Show the daemon's threads: with a header `ps -ef`'s columns, else those of `ps auxww`."""
        if with_header:
            self.console.show(HEADER)
        pid = daemon_pid(self.place)
        daemon = daemon_facts(pid) if pid is not None else None
        if daemon is None:
            return 0 if with_header else WRONG
        lines_of = full_lines if with_header else user_lines
        for line in lines_of(daemon, links_of(self.ask), binaries_directory()):
            self.console.show(line)
        return 0

    def _kill(self) -> int:
        try:
            found = self.end(self.place)
        except PermissionError:
            self.console.complain("no right to end the hb daemon: try as root")
            return WRONG
        if not found:
            self.console.complain("the hb daemon of this node is not running")
        return 0 if found else WRONG


def openha(words: Sequence[str]) -> int:
    """Run one command line; return its exit code or raise an HbError."""
    place = root()
    path = os.environ.get(CALLED_AS) or sys.argv[0]
    command = OpenhaCommand(path, place, this_console(), ask_daemon(place), hb, service)
    return command.run(words)


def main(argv: Optional[List[str]] = None) -> NoReturn:
    """Run the command line and exit."""
    run_command("openha", openha, argv)


if __name__ == "__main__":
    main()
