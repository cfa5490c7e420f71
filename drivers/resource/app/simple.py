"""An application started, stopped and checked by a launcher script: `[app#N]`.

The script is called as `SCRIPT start`, `SCRIPT stop` and `SCRIPT status`. It is executed by
the path as written, symbolic links not resolved: a launcher may act by the name it was
called by. What a script writes goes to a file and never to a pipe of ours, so that a
daemon that it leaves behind holds nothing that someone waits for.

The script stays in our session and process group: the time limit of the whole action,
which kills the group, reaches a launcher that hangs. The end of an action kills nothing.

This driver never decides whether a launcher may be run on a passive node: the agent does.
"""

from __future__ import annotations

import errno
import os
import select
import subprocess
import time
from datetime import timedelta
from pathlib import Path
from typing import Dict, Mapping, Optional, Tuple, Union

from opensvc_hb.agent.resource import (
    ActionError,
    Keyword,
    Resource,
    ResourceContext,
    Status,
    integer,
)

from ._descendants import end_with_descendants

LOG_ROOM_BYTES = 65536
"""Free space below which a script's output is thrown away rather than written."""

CHECK_TIMEOUT_S = 30.0
"""How long a check may take when the section has no `timeout`: a status has a bounded time."""
TERM_GRACE_S = 5.0
"""Between SIGTERM and SIGKILL for a script that outlived its `timeout`."""
LAST = 1 << 31
"""Sequence number of a script without one: behind the others."""


def seconds(text: str) -> int:
    """Convert a number of seconds, one or more."""
    value = integer(text)
    if value < 1:
        raise ValueError(f"'{text}' is not a number of seconds, 1 or more")
    return value


def refused_user(text: str) -> str:
    """Refuse `run_as`: the agent of the tutorial made the script setuid, which we never do."""
    raise ValueError(f"not supported: change to user {text} in the script itself, with runuser or setpriv")


class ScriptTimedOutError(ActionError):
    """A launcher did not end within its `timeout`; it and its descendants were killed."""


class SimpleApp(Resource):
    """A launcher: up when `SCRIPT status` exits 0, down when 1, else a warning.

    Source: the agents' launchers, keywords `script start stop check info timeout`; the
    numbers are positions in the sequence, and a verb without a number is not run.
    """

    group = "app"
    type_name = "app"
    sections = ("app",)
    tells_activation = True
    keywords = (
        Keyword(
            "script",
            "The launcher: an absolute path, or a name in the directory SVC.d beside the service's file.",
            required=True,
            scopable=True,
        ),
        Keyword(
            "start",
            "Position in the start sequence. Without it the script is not called with start.",
            convert=integer,
            scopable=True,
        ),
        Keyword(
            "stop",
            "Position in the stop sequence, lowest first. Without it the script is not called with stop.",
            convert=integer,
            scopable=True,
        ),
        Keyword(
            "check",
            "With a number the script is called with status: exit 0 is up, 1 down, anything else a warning.",
            convert=integer,
            scopable=True,
        ),
        Keyword(
            "info",
            "Position among the launchers asked for information on the application; no action needs it.",
            convert=integer,
            scopable=True,
        ),
        Keyword(
            "timeout",
            "Seconds that one call of the script may take; it is killed then, with what it started. "
            "Without it a check may take 30 s, a start or stop as long as the whole action.",
            convert=seconds,
            scopable=True,
        ),
        Keyword(
            "run_as",
            "Not supported, and refused: change the user in the script itself, with runuser or setpriv.",
            convert=refused_user,
            scopable=True,
        ),
    )

    @property
    def label(self) -> str:
        """The base name of the script."""
        return Path(self.options["script"]).name

    @property
    def sort_key(self) -> Tuple[Union[int, str], ...]:
        """Start sequence; launchers that are not started come last."""
        return _position(self.options.get("start"), self.rid)

    @property
    def stop_sort_key(self) -> Tuple[Union[int, str], ...]:
        """Stop sequence: launchers are stopped in ascending order of this key."""
        return _position(self.options.get("stop"), self.rid)

    @property
    def script_path(self) -> Path:
        """The path that is executed: absolute, symbolic links kept."""
        folder = Path(self.context.etc).absolute() / f"{self.context.svcname}.d"
        return folder / str(self.options["script"])

    @property
    def log_path(self) -> Path:
        """Where the output of the last start or stop is."""
        return Path(self.context.tmp) / f"svc_{self.context.svcname}_{self.label}.log"

    def status(self) -> Status:
        """Ask the script; n/a without `check` or without a script."""
        if not self.script_path.exists():
            self.say(f"script {self.script_path} does not exist")
            self.say("script does not exist")
            return Status.NA
        if self.options.get("check") is None:
            self.say("check disabled")
            return Status.NA
        status, message = self._checked()
        if message:
            self.say(message)
        return status

    def start(self) -> None:
        """Run `SCRIPT start`, unless the check says that the application is up."""
        self.activated = False
        if self.options.get("start") is None:
            return
        if not self.script_path.exists():
            raise ActionError(f"script {self.script_path} does not exist")
        if self.options.get("check") is not None and self._checked()[0] is Status.UP:
            self.context.info(f"{self.label} is already started")
            return
        self._act("start")
        self.activated = True

    def stop(self) -> None:
        """Run `SCRIPT stop`; a script on a file system that is already unmounted is no failure."""
        if self.options.get("stop") is None:
            return
        if not self.script_path.exists():
            self.context.warning(f"script {self.script_path} does not exist: not stopped by it")
            return
        self._act("stop")

    def _checked(self) -> Tuple[Status, str]:
        """Run the check: the status, and the message that explains it."""
        limit_s = float(self.options.get("timeout") or CHECK_TIMEOUT_S)
        try:
            code = self._call("status", subprocess.DEVNULL, limit_s)
        except ActionError as error:
            return Status.WARN, str(error)
        if code == 0:
            return Status.UP, ""
        if code == 1:
            return Status.DOWN, ""
        return Status.WARN, f"check reports errors ({code})"

    def _act(self, verb: str) -> None:
        self.context.info(f"spawn: {self.script_path} {verb}")
        log_file, told = self._open_log()
        began = time.clock_gettime(time.CLOCK_BOOTTIME)
        try:
            code = self._call(verb, log_file, self.options.get("timeout"))
        finally:
            os.close(log_file)
        took = timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME) - began)
        line = f"{verb} done in {took} - ret {code} - logs in {told}"
        if code != 0:
            raise ActionError(line)
        self.context.info(line)

    def _open_log(self) -> Tuple[int, Path]:
        """Open the output file; a full disk costs the output, never the start.

        A script that cannot write to its output fails, so one is not given a file that
        has no room: an open succeeds on a full disk, the first write does not.
        """
        try:
            folder = self.log_path.parent
            try:
                room = os.statvfs(folder)
            except FileNotFoundError:
                folder.mkdir(parents=True, exist_ok=True)
                room = os.statvfs(folder)
            if room.f_bfree * room.f_frsize >= LOG_ROOM_BYTES:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
                return os.open(self.log_path, flags, 0o644), self.log_path
            why = os.strerror(errno.ENOSPC)
        except OSError as error:
            why = error.strerror or str(error)
        self.context.warning(f"the output of {self.label} is lost: {self.log_path}: {why}")
        return os.open(os.devnull, os.O_WRONLY), Path(os.devnull)

    def _call(self, verb: str, output: int, limit_s: Optional[float]) -> int:
        """Run the script and return its exit status (negative: killed by that signal).

        Args:
            verb: start, stop or status.
            output: descriptor for stdout and stderr, or subprocess.DEVNULL.
            limit_s: seconds, None for no limit of its own.

        Raises:
            ActionError: it cannot be executed, or the limit passed.
        """
        path = self.script_path
        try:
            # cwd: a daemon left behind must keep no directory of ours busy, by hand or not
            process = subprocess.Popen(
                [str(path), verb],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=self._environment(self.context),
            )
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                raise ActionError(f"exec format error: {path} lacks a #! line") from error
            if error.errno == errno.EACCES:
                raise ActionError(f"script {path} is not executable") from error
            raise ActionError(f"script {path}: {error.strerror}") from error
        if not _ended_within(process.pid, limit_s):
            end_with_descendants(process.pid, TERM_GRACE_S)
            process.poll()  # reaps it if it ended; one in an uninterruptible sleep is not waited for
            raise ScriptTimedOutError(f"{path} {verb} timed out after {limit_s:g} s")
        return process.wait()

    @staticmethod
    def _environment(context: ResourceContext) -> Dict[str, str]:
        added: Mapping[str, str] = context.environment
        return {**os.environ, **added}


def _position(number: Optional[int], rid: str) -> Tuple[Union[int, str], ...]:
    return (LAST if number is None else number, rid)


def _ended_within(pid: int, limit_s: Optional[float]) -> bool:
    """Wait for the end of a child, without reaping it."""
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(None if limit_s is None else limit_s * 1000))
    finally:
        os.close(descriptor)
