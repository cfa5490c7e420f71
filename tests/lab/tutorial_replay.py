"""Replays a transcript of the tutorial of June 2014 on the nodes of a lab: its command lines, its outputs.

A command that only looks is repeated until it prints what the tutorial shows, and what a table of states
prints before is in its order: a native pair offers a start for milliseconds where OpenHA waits five
seconds, so START_READY and STARTING come in their order or not at all. Every other command is run once.

Pids, dates and what `ps` measures are not compared. What else differs on the nodes of one test, its
subclass says.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from dataclasses import dataclass
from typing import List, Sequence, Tuple

from lab import POLL_S, TREE, BaseLab, Node

sys.path.insert(0, str(TREE / "tests"))
from openha_transcript import Entry, states_in

NODES = ("deb1.opensvc.com", "deb2.opensvc.com")
SERVICES = ("registry", "busybox")
EZ = "/usr/local/cluster"
DISK = "/dev/mapper/disk.hb.0"
ORDER = ("FROZEN_STOP", "STOPPED", "START_READY", "STARTING", "STARTED")
LOOKS = ("ez_svc_status", "ez_hb_status", "ez_ps", "svcmon", " print status", " docker ps")
COMMAND_LIMIT_S = 180.0
LOOK_LIMIT_S = 60.0
"""Both far from what a machine needs that does nothing else."""
IN_A_TERMINAL = (
    "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(['/bin/sh', '-c', sys.argv[1]])))"
)


@dataclass(frozen=True)
class Said:
    """What a command wrote, standard output and error in one, and its exit status."""

    text: str
    status: int


def groups(entries: Sequence[Entry]) -> List[List[Entry]]:
    """Return the entries in groups: snapshots by one command on one node are told in one go."""
    found: List[List[Entry]] = []
    for entry in entries:
        before = found[-1][-1] if found else None
        if before and (before.host, before.command) == (entry.host, entry.command):
            found[-1].append(entry)
        else:
            found.append([entry])
    return found


def in_order(seen: Sequence[str]) -> bool:
    """Tell whether no service went back in what was seen of one node after the other."""
    for name in SERVICES:
        series = [states_in(output)[name] for output in seen]
        silent = [state == "UNKNOWN" for _, state, _, _ in series]
        if silent != sorted(silent):
            return False
        for place in (1, 3):
            ranks = [ORDER.index(states[place]) for states in series if states[place] in ORDER]
            if ranks != sorted(ranks):
                return False
    return True


class Replay:
    """The tutorial's two nodes, and how its words are said on them.

    Args:
        path: the directories in which commands are found, the service's own links first.
    """

    pause_s = POLL_S
    """Between two looks at what is not yet as it shall be."""

    def __init__(self, lab: BaseLab, path: str) -> None:
        self.lab = lab
        self.path = path
        self.typed: List[Tuple[str, str]] = []
        """(node's short name, command line) of all that was run, in its order."""

    def place(self, node: Node) -> str:
        """Return where the node's root directory is, as its programs name it."""
        return str(node.root)

    def here(self, node: Node, text: str) -> str:
        """Return a text of the tutorial with the paths of a node."""
        for path in (EZ, "/etc/opensvc"):
            text = text.replace(path, f"{self.place(node)}{path}")
        return text

    def told(self, node: Node, text: str) -> str:
        """Return a text of a node with the paths of the tutorial."""
        return text.replace(self.place(node), "")

    def neutral(self, command: str, output: str) -> str:
        """Return an output without what differs from run to run."""
        if command == "ez_ps":
            output = re.sub(r"(?m)^root +\d+ .*? (/usr/local/\S+/bin/.*)$", r"root \1", output)
        output = re.sub(r" pid \d+ ", " pid N ", output)
        output = re.sub(r"updated at \w+ +\d+ [\d:]+", "updated at WHEN", output)
        return "".join(f"{line.rstrip()}\n" for line in output.splitlines())

    def shell(self, node: Node, command: str) -> List[str]:
        """Return the program that runs a command line in the tutorial's setting."""
        root = self.place(node)
        setting = (
            f"export PATH={shlex.quote(self.path)} EZ={shlex.quote(root + EZ)}; "
            f"cd {shlex.quote(root + '/etc/opensvc')}; [ ! -e $EZ/env.sh ] || . $EZ/env.sh; "
        )
        whole = setting + self.here(node, command)
        in_terminal = "$EZ_BIN/service" in command
        return [sys.executable, "-c", IN_A_TERMINAL, whole] if in_terminal else ["/bin/sh", "-c", whole]

    def run(self, node: Node, command: str, timeout_s: float = COMMAND_LIMIT_S) -> Said:
        """Run a command line; return its output in the tutorial's words."""
        self.typed.append((node.name.partition(".")[0], command))
        ended = node.run(self.shell(node, command), timeout_s)
        text = (ended.out + ended.err).replace("\r\n", "\n")
        return Said(self.told(node, text), ended.status)

    def must(self, node: Node, command: str, timeout_s: float = COMMAND_LIMIT_S) -> str:
        """Run a command line that has to succeed; return its output."""
        said = self.run(node, command, timeout_s)
        assert said.status == 0, f"{command}\n{said.text}\n{self.lab.report()}"
        return said.text

    def node_of(self, entry: Entry) -> Node:
        """Return the node on which an entry was typed."""
        return next(node for node in self.lab.nodes if node.name.partition(".")[0] == entry.host)

    def play(self, group: Sequence[Entry], limit_s: float = LOOK_LIMIT_S) -> List[str]:
        """Run a command until it prints the last output of a group; return what it printed in turn."""
        node, command = self.node_of(group[0]), group[0].command
        expected = self.neutral(command, group[-1].output)
        seen: List[str] = []
        deadline = time.monotonic() + limit_s
        while True:
            said = self.run(node, command)
            if not seen or seen[-1] != said.text:
                seen.append(said.text)
            found = self.neutral(command, said.text)
            right = (found, said.status) == (expected, group[-1].exit_code or 0)
            if right:
                break
            if not any(look in command for look in LOOKS) or time.monotonic() > deadline:
                shown = f"{node.name}# {command}\n{said.text}[exit {said.status}]"
                assert right, f"expected:\n{expected}\n{shown}\n{self.lab.report()}"
            time.sleep(self.pause_s)
        if "ez_svc_status" in command:
            assert in_order(seen), "\n".join(seen)
        return seen
