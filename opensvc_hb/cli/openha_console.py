"""What OpenHA's commands share: where their words go, and how they ask the daemon.

OpenHA prints its log messages on the terminal only if standard *input* is one; tables, usage
texts and some answers are always printed. `Console` keeps that rule in one place. What OpenHA
keeps silent about although it fails, we say, on standard error, always.

Runs in: the process of a command.
Source: OpenHA `service`, `hb`: err and worse go to standard error, notice and info to standard output.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Optional, Sequence, TextIO

from opensvc_hb.cli.command_end import run_to_end
from opensvc_hb.client import DaemonDown, DaemonError, request
from opensvc_hb.paths import Root

FAILED = 255
"""OpenHA's exit code of everything that fails."""
COMMAND_LIMIT_S = 3600.0
"""Commands wait for the end of the actions that they cause, which have limits of their own."""
ANSWER_LIMIT_S = 10.0
RELOAD_LIMIT_S = 90.0
"""The agent is asked which services there are, which may take most of this."""
CALLED_AS = "OPENHA_CALLED_AS"
"""Set by the launchers of the compatible tree: the path by which the user called the command."""

Ask = Callable[[Mapping[str, object], float], Mapping[str, Any]]
"""Ask the daemon one thing, within so many seconds; raises `client.DaemonError`."""


@dataclass
class Console:
    """Where a command prints.

    Args:
        has_terminal: standard input is a terminal, so log messages are shown.
    """

    out: TextIO
    err: TextIO
    has_terminal: bool
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def show(self, text: str) -> None:
        """Print what is always printed."""
        self._print(self.out, text)

    def complain(self, text: str) -> None:
        """Print what went wrong, always."""
        self._print(self.err, text)

    def info(self, text: str) -> None:
        """Show a log message of level notice or info."""
        if self.has_terminal:
            self._print(self.out, text)

    def error(self, text: str) -> None:
        """Show a log message of level err or worse."""
        if self.has_terminal:
            self._print(self.err, text)

    def _print(self, stream: TextIO, text: str) -> None:
        with self._lock:  # actions on all services print from a thread each
            print(text, file=stream, flush=True)


def this_console() -> Console:
    """Return the console of this process."""
    return Console(sys.stdout, sys.stderr, sys.stdin is not None and sys.stdin.isatty())


def ask_daemon(place: Root) -> Ask:
    """Return how the daemon of a root is asked; one that is about to start is waited for."""

    def ask(message: Mapping[str, object], timeout_s: float) -> Mapping[str, Any]:
        fields: Dict[str, Any] = dict(message)
        return request(str(place.socket), fields, timeout_s, str(place.lock))

    return ask


def reload_daemon(ask: Ask, console: Console) -> None:
    """Have the daemon read its files again; say what it objects to. Without a daemon, nothing."""
    try:
        answer = ask({"request": "reload"}, RELOAD_LIMIT_S)
    except DaemonDown:
        return
    except DaemonError as error:
        console.complain(str(error))
        return
    if not answer.get("ok"):
        console.complain(f"the daemon goes on with what it read before:\n{answer.get('error', '')}")


def run_command(
    name: str, main: Callable[[List[str]], int], argv: Optional[Sequence[str]] = None
) -> NoReturn:
    """Run a command line and exit; an error becomes one line and code 255."""
    run_to_end(name, lambda: main(list(sys.argv[1:] if argv is None else argv)), FAILED)
