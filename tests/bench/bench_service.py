"""The service of the benchmarks: a script as cheap as a script can be, the same for everybody.

It runs no program of its own: the shell's builtins tell the stamper what happens, and a file
that holds one word, in the memory of its node, is the service. So what is measured is the
cluster software, not the service. Three forms of the same script: a launcher with verbs, an
OCF agent, and the notify script of a router, which gets the service's name as an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

UP_FILE = "/run/bench-$name"
"""Below /run, which is a node's own and gone when its power is cut."""

_PARTS = """\
fifo={fifo}
read -r node < /proc/sys/kernel/hostname
bench_start() {{ echo "$node $name start" > $fifo; echo up > {up}; }}
bench_stop() {{ echo down > {up}; echo "$node $name stopped" > $fifo; }}
bench_is_up() {{ word=down; [ ! -e {up} ] || read -r word < {up}; [ $word = up ]; }}
"""

OCF_META_DATA = """\
<?xml version="1.0"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="stamp"><version>1.0</version>
<longdesc lang="en">Stamp</longdesc><shortdesc lang="en">Stamp</shortdesc><parameters/>
<actions><action name="start" timeout="20s"/><action name="stop" timeout="20s"/>
<action name="monitor" timeout="20s" interval="60s"/><action name="meta-data" timeout="5s"/></actions>
</resource-agent>
"""


def service_names(count: int) -> list[str]:
    """Return the names of that many services."""
    return [f"s{number:04}" for number in range(1, count + 1)]


def _parts(fifo: Path) -> str:
    return _PARTS.format(fifo=fifo, up=UP_FILE)


@dataclass(frozen=True)
class BenchService:
    """A service of ours: one app. Has what the lab asks of a service.

    Args:
        fifo: the stamper's.
    """

    name: str
    fifo: Path
    fs_image: str = ""

    def env_text(self, script: Path) -> str:
        """Return the service's file."""
        return (
            "[DEFAULT]\nservice_type = DEV\nnodes = n1 n2\n\n"
            f"[app#1]\nscript = {script}\nstart = 10\nstop = 10\ncheck = 10\n\n[hb#0]\ntype = OpenHA\n"
        )

    def script_text(self, _log: Path) -> str:
        """Return its launcher."""
        return (
            f"#!/bin/sh\nname={self.name}\n{_parts(self.fifo)}"
            "case $1 in\nstart) bench_start ;;\nstop) bench_stop ;;\nstatus) bench_is_up ;;\nesac\n"
        )


def ocf_text(fifo: Path) -> str:
    """Return the OCF agent."""
    return (
        f"#!/bin/sh\nname=$OCF_RESOURCE_INSTANCE\n{_parts(fifo)}"
        "case $1 in\nstart) bench_start ;;\nstop) bench_stop ;;\nmonitor) bench_is_up || exit 7 ;;\n"
        f"meta-data) cat <<'end'\n{OCF_META_DATA}end\n;;\n*) exit 3 ;;\nesac\nexit 0\n"
    )


def notify_text(fifo: Path) -> str:
    """Return the notify script, called as `notify NAME start|stop`."""
    return (
        f"#!/bin/sh\nname=$1\n{_parts(fifo)}"
        "case $2 in\nstart) bench_start ;;\nstop) ! bench_is_up || bench_stop ;;\nesac\n"
    )
