"""`ezha`, OpenHA's init script: start, stop, kill and restart of the daemon, in its words.

    start    starts the daemon, by systemd where that has our unit, and waits until it answers
    stop     ends the services here, tells the other node, ends the daemon
    kill     ends the daemon, the services run on
    restart  kill and start

The later layout's script has other texts and is the same otherwise; which one it is, is told from the
name by which it is called. Two tunables are read: HEARTBEAT_TALK_DELAY_ON_START is only said, since
nothing waits for a fixed time here, and FREEZE_SERVICE_SECONDARY_INSTANCE_ON_START = yes freezes what has
its primary elsewhere as soon as the daemon answers.

Runs in: the process of a command.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Mapping, NoReturn, Optional, Protocol, Sequence, Tuple

from opensvc_hb.cli.openha_command import end_daemon
from opensvc_hb.cli.openha_console import (
    ANSWER_LIMIT_S,
    CALLED_AS,
    COMMAND_LIMIT_S,
    Ask,
    Console,
    ask_daemon,
    run_command,
    this_console,
)
from opensvc_hb.cli.openha_ps import daemon_pid
from opensvc_hb.cli.openha_view import agents_file_test, service_lines, services_view
from opensvc_hb.client import DaemonDown, DaemonError
from opensvc_hb.core.states import State
from opensvc_hb.errors import HbError
from opensvc_hb.paths import Root, root

WRONG = 1
START_LIMIT_S = 60.0
_POLL_S = 0.1
UNIT = "opensvc-hb.service"
TUNABLES = ("etc/default/openha", "etc/sysconfig/openha")
"""Below the root; both are read, the later one wins."""
DELAY = "HEARTBEAT_TALK_DELAY_ON_START"
FREEZE = "FREEZE_SERVICE_SECONDARY_INSTANCE_ON_START"


@dataclass(frozen=True)
class Texts:
    """What one of the two scripts says; lines for the console of the machine are tuples."""

    kill: str
    restart_stop: str
    restart_start: str
    start_console: str
    stop_console: Tuple[str, ...]


EZHA = Texts(
    kill="Stopping EZ-HA daemons",
    restart_stop="Stopping EZ-HA daemons",
    restart_start="Starting EZ-HA daemons",
    start_console="Starting EZ-HA heartbeat process",
    stop_console=("Stopping EZ-HA node monitor", "Stopping services if started", "Stopping EZ-HA heartbeat"),
)
OPENHA = Texts(
    kill="Killing OpenHA daemons",
    restart_stop="Stopping OpenHA daemons",
    restart_start="Starting OpenHA daemons",
    start_console="Starting OpenHA heartbeat process",
    stop_console=(
        "Stopping OpenHA node monitor",
        "Stopping services if started",
        "Stopping OpenHA heartbeat",
    ),
)


class NotStarted(HbError):
    """The daemon did not come up."""


class Starter(Protocol):
    """Starts a daemon; tests lend another one."""

    def __call__(self) -> None:
        """Start it; raises NotStarted."""

    def problem(self) -> str:
        """Return why the daemon has ended already, "" while it has not."""


class DaemonStarter:
    """Starts the daemon of a root, in the background.

    Args:
        place: the root; systemd's unit is used for the machine's own alone.
    """

    def __init__(self, place: Root) -> None:
        self._place = place
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._log = place.log / "hb.daemon.log"

    def __call__(self) -> None:
        """Start it; raises NotStarted."""
        if self._place.top == Path("/") and self._has_unit():
            finished = subprocess.run(
                ["systemctl", "start", UNIT], capture_output=True, text=True, check=False
            )
            if finished.returncode:
                raise NotStarted(finished.stderr.strip() or f"systemctl start {UNIT} failed")
            return
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "opensvc_hb.cli.hbmgr", "daemon"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env={name: value for name, value in os.environ.items() if name != CALLED_AS},
                    start_new_session=True,
                )
        except OSError as error:
            raise NotStarted(f"the daemon cannot be started: {error}") from error

    def problem(self) -> str:
        """Return why the daemon has ended already, "" while it has not."""
        if self._process is None or self._process.poll() is None:
            return ""
        try:
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        except OSError:
            last = []
        return last[0] if last else f"the daemon ended with code {self._process.returncode}"

    @staticmethod
    def _has_unit() -> bool:
        if not Path("/run/systemd/system").is_dir():
            return False
        places = ("/etc/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system")
        return any((Path(place) / UNIT).exists() for place in places)


def read_tunables(top: Path) -> Mapping[str, str]:
    """Return the assignments of the files of tunables; any other line of theirs is not ours to run."""
    found: Dict[str, str] = {}
    for name in TUNABLES:
        with contextlib.suppress(OSError):
            for line in (top / name).read_text(errors="replace").splitlines():
                found.update(_assignment(line))
    return found


def _assignment(line: str) -> Mapping[str, str]:
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return {}
    words = words[1:] if words[:1] == ["export"] else words
    name, equals, value = words[0].partition("=") if len(words) == 1 else ("", "", "")
    return {name: value} if equals and name.isidentifier() else {}


@dataclass(frozen=True)
class InitCommand:
    """The script, with what it needs of its surroundings.

    Args:
        path: by which it was called.
        starter: starts the daemon; `problem` says why it has ended.
        console_device: the console of the machine, None for a node that has none of its own.
    """

    path: str
    place: Root
    console: Console
    ask: Ask
    starter: Starter
    texts: Texts
    tunables: Mapping[str, str]
    console_device: Optional[Path] = None
    end: Callable[[Root], bool] = end_daemon

    def run(self, words: Sequence[str]) -> int:
        """Do what the one word says; return the exit code."""
        tasks: Mapping[str, Callable[[], int]] = {
            "start": self._start,
            "stop": self._stop,
            "kill": self._kill,
            "restart": self._restart,
        }
        task = tasks.get(words[0]) if len(words) == 1 else None
        if task is None:
            self.console.show(f"Usage: {self.path} {{start|stop|kill|restart}}")
            return WRONG
        missing = [name for name in ("nodes", "monitor") if not (self.place.hb / name).exists()]
        if missing:
            self.console.complain(f"{self.place.hb / missing[0]} does not exist: nothing was done")
            return WRONG
        return task()

    def _start(self) -> int:
        self._tell_console(self.texts.start_console)
        return self._start_daemon()

    def _start_daemon(self) -> int:
        if daemon_pid(self.place) is not None:
            self.console.complain("the hb daemon of this node runs already")
            return 0
        self.starter()
        self.console.show(f"waiting {self.tunables.get(DELAY, '2')} seconds for heartbeat to converge")
        document = self._wait_for_answer()
        if self.tunables.get(FREEZE, "").lower() == "yes":
            self._freeze_secondaries(document)
        return 0

    def _wait_for_answer(self) -> Mapping[str, object]:
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            problem = self.starter.problem()
            if problem:
                raise NotStarted(problem)
            try:
                answer = self.ask({"request": "status"}, ANSWER_LIMIT_S)
                if answer.get("ok") and answer["status"]["phase"] == "running":
                    document: Mapping[str, object] = answer["status"]
                    return document
            except DaemonError as error:
                if time.monotonic() >= deadline:
                    raise NotStarted(str(error)) from error
            if time.monotonic() >= deadline:
                raise NotStarted(f"the daemon does not answer after {START_LIMIT_S:g} s")
            time.sleep(_POLL_S)  # nothing tells when a daemon begins to answer

    def _freeze_secondaries(self, document: Mapping[str, object]) -> None:
        node = str(document["node"])
        for service in services_view(document, service_lines(self.place), agents_file_test(self.place)):
            if not service.is_ours or service.primary == node:
                continue
            if service.own_state(node) is not State.FROZEN_STOP:
                message = {
                    "request": "command",
                    "verb": "freeze-stop",
                    "services": [service.name],
                    "force": False,
                    "reason": FREEZE,
                }
                if service.own_state(node) is not State.STOPPED:
                    continue  # it runs here, or failed: an operator's matter
                answer = self.ask(message, COMMAND_LIMIT_S)
                if not answer.get("ok"):
                    self.console.complain(str(answer.get("error")))
                    continue
            self.console.show(f"set local secondary instance of service {service.name} in FROZEN_STOP state")

    def _stop(self) -> int:
        for line in self.texts.stop_console:
            self._tell_console(line)
        try:
            answer = self.ask({"request": "leave"}, COMMAND_LIMIT_S)
        except DaemonDown as error:
            self.console.complain(str(error))
            return 0
        if not answer.get("ok"):
            self.console.complain(str(answer.get("error") or answer.get("text")))
            return WRONG
        deadline = time.monotonic() + ANSWER_LIMIT_S
        while daemon_pid(self.place) is not None and time.monotonic() < deadline:
            time.sleep(_POLL_S)  # a lock cannot be waited for without taking it
        return 0

    def _kill(self) -> int:
        self.console.show(self.texts.kill)
        self.end(self.place)
        return 0

    def _restart(self) -> int:
        self.console.show(self.texts.restart_stop)
        self.end(self.place)
        self.console.show(self.texts.restart_start)
        return self._start_daemon()

    def _tell_console(self, line: str) -> None:
        """Write a line to the machine's console, where there is one that takes it."""
        if self.console_device is None:
            return
        with contextlib.suppress(OSError), self.console_device.open("w") as device:
            device.write(f"{line}\n")


def init(words: Sequence[str]) -> int:
    """Run one command line; return its exit code or raise an HbError."""
    place = root()
    path = os.environ.get(CALLED_AS) or sys.argv[0]
    is_own_machine = place.top == Path("/")
    command = InitCommand(
        path=path,
        place=place,
        console=this_console(),
        ask=ask_daemon(place),
        starter=DaemonStarter(place),
        texts=OPENHA if Path(path).name.startswith("openha.") or Path(path).name == "openha" else EZHA,
        tunables=read_tunables(place.top),
        console_device=Path("/dev/console") if is_own_machine else None,
    )
    return command.run(words)


def main(argv: Optional[List[str]] = None) -> NoReturn:
    """Run the command line and exit."""
    run_command("ezha", init, argv)


if __name__ == "__main__":
    main()
