"""How does a driver run one of the system's tools? With a time limit, never by a shell.

The tool stays in our process group and session, so that the time limit of a whole action,
which kills the group, reaches it. Its output is read as it comes; a daemon that it leaves
behind with our pipe open is never waited for.
"""

from __future__ import annotations

import os
from typing import Dict, Mapping, Optional, Sequence

from opensvc_hb.agent.resource import ActionError, CommandResult

LEFT_PIPE_S = 1.0
"""How long output is still read once the tool itself has ended or was killed."""

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class TimedOutError(ActionError):
    """A tool did not end in its time and was killed."""


def tool_environment(base: Mapping[str, str], added: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """Return the environment of a tool: C locale, and the system's folders in PATH."""
    path = base.get("PATH") or SYSTEM_PATH
    missing = [folder for folder in SYSTEM_PATH.split(":") if folder not in path.split(":")]
    return {**base, "LC_ALL": "C", "PATH": ":".join([path, *missing]), **(added or {})}


def run(
    argv: Sequence[str], timeout_s: float = 60.0, environment: Optional[Mapping[str, str]] = None
) -> CommandResult:
    """Run one command to its end.

    Args:
        argv: program and arguments, passed as they are.
        timeout_s: seconds after which it is killed.
        environment: variables added to our own.

    Raises:
        ActionError: there is no such program, or it cannot be executed.
        TimedOutError: it did not end in time.
    """
    import subprocess

    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=tool_environment(os.environ, environment),
        )
    except FileNotFoundError:
        raise ActionError(f"{argv[0]}: command not found") from None
    except OSError as error:
        raise ActionError(f"{argv[0]}: {error.strerror}") from None
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        try:
            process.communicate(timeout=LEFT_PIPE_S)
        except subprocess.TimeoutExpired:
            # what it left behind keeps the pipes; the tool itself is dead, or cannot die
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
            process.poll()
        raise TimedOutError(f"'{' '.join(argv)}' did not end within {timeout_s:g} s, killed") from None
    return CommandResult(
        argv=tuple(argv),
        status=process.returncode,
        stdout=stdout.decode("utf-8", "replace"),
        stderr=stderr.decode("utf-8", "replace"),
    )
