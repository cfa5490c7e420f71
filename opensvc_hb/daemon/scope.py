"""How does a process leave the daemon's control group? Into a transient scope of systemd's.

What a start brings up, and the guardian, outlive the daemon; systemd may end, or limit, a whole
control group. Without systemd there is nothing to leave.

Runs in: the process of an action; the guardian thread of the daemon.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any, Callable, Optional

from opensvc_hb.held import scope_part

_SCOPE_WITHIN_S = 2.0


def under_systemd() -> bool:
    """Tell whether systemd runs this node and started this process's daemon."""
    return Path("/run/systemd/system").is_dir() and "INVOCATION_ID" in os.environ


def enter_scope(
    svcname: str,
    pid: int,
    run: Callable[..., Any] = subprocess.run,
    own_group: Callable[[], str] = Path("/proc/self/cgroup").read_text,
) -> str:
    """Move this process, an action of a service, into a scope in opensvc.slice; return "" or why not.

    Args:
        svcname: names the scope: the guardian knows the service's processes by it.
        pid: this process.
        run: see `move_to_scope`.
        own_group: reads the process's cgroup file.
    """
    name = f"opensvc-{scope_part(svcname)}-{pid}.scope"
    why_not = move_to_scope(name, f"OpenSVC service {svcname}", pid, run, own_group)
    return f"no scope for {svcname}: {why_not}" if why_not else ""


def move_to_scope(
    name: str,
    description: str,
    pid: int,
    run: Callable[..., Any] = subprocess.run,
    group_of: Optional[Callable[[], str]] = None,
) -> str:
    """Move a process into a transient scope in opensvc.slice; return "" or why not.

    The scope stops after the daemon when the node halts: the daemon ends the services itself.
    systemd answers before it has moved the process, so this waits until the kernel says so;
    there is no event to wait for.

    Args:
        name: of the scope.
        description: of the scope, for people.
        pid: the process.
        run: `subprocess.run`, or a test's own.
        group_of: reads the process's cgroup file.

    Source: org.freedesktop.systemd1(5), StartTransientUnit.
    """
    read_group = group_of or Path(f"/proc/{pid}/cgroup").read_text
    argv = [
        *("busctl", "--quiet", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"),
        *("org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))", name, "fail", "5"),
        *("Description", "s", description),
        *("PIDs", "au", "1", str(pid)),
        *("Slice", "s", "opensvc.slice"),
        *("CollectMode", "s", "inactive-or-failed"),
        *("Before", "as", "1", "opensvc-hb.service"),
        "0",
    ]
    try:
        answer = run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_SCOPE_WITHIN_S,
            check=False,
        )
        if answer.returncode != 0:
            words = answer.stderr.decode(errors="replace").strip().splitlines()
            return words[0] if words else f"status {answer.returncode}"
        give_up_at = time.clock_gettime(time.CLOCK_BOOTTIME) + _SCOPE_WITHIN_S
        while not read_group().rstrip().endswith(name):
            if time.clock_gettime(time.CLOCK_BOOTTIME) >= give_up_at:
                return f"systemd did not move process {pid} in {_SCOPE_WITHIN_S:g} s"
            time.sleep(0.01)
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return ""
