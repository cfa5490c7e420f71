"""Transcripts of OpenHA's commands as data: entries of a host, a command line, its output, its exit code.

The transcripts in tests/data/openha/transcripts were recorded with OpenHA itself, standard output and
error merged. `states_in`, `links_in`, `threads_in` and `scene_of` read out of an expected output what
the daemon must have known for it.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from opensvc_hb.cli.openha_ps import ThreadFacts

TRANSCRIPTS = Path(__file__).parent / "data/openha/transcripts"
YEAR = 2026
_ENTRY = re.compile(r"\[(\d\d):(\d\d):(\d\d)\.\d+\] (\S+?)# (.*)")
_ROW = re.compile(r"^(\S+) +(\S+) +([A-Z_]+) +(\S+) +([A-Z_]+) *$")
_LINK = re.compile(
    r"^(\w+) (sender|listener) ([^: ]+):(\S+)(?: pid (\d+))? status (UP|DOWN)(?:, updated at (.*))?$"
)


@dataclass
class Entry:
    """One entry.

    Args:
        at: the wall clock of its prompt, seconds since 1970, in this machine's time zone.
        exit_code: None where the transcript does not say.
    """

    host: str
    command: str
    at: float
    lines: List[str] = field(default_factory=list)
    exit_code: Optional[int] = None

    @property
    def output(self):
        """The expected output."""
        return "".join(f"{line}\n" for line in self.lines)


def read_transcript(path):
    """Return the entries of a transcript; logs of the system and remarks are left out."""
    entries = []
    entry = None
    for line in path.read_text().splitlines():
        begin = _ENTRY.fullmatch(line)
        ended = re.fullmatch(r"(.*)\[exit (\d+)\]", line)
        if begin:
            hour, minute, second = (int(text) for text in begin.groups()[:3])
            at = time.mktime((YEAR, 11, 22, hour, minute, second, 0, 0, -1))
            entry = Entry(begin[4], begin[5], at)
            entries.append(entry)
        elif ended and entry is not None:
            if ended[1]:  # an output without a last line end
                entry.lines.append(ended[1])
            entry.exit_code = int(ended[2])
            entry = None
        elif line.startswith("### "):
            entry = None
        elif entry is not None:
            entry.lines.append(line)
    for entry in entries:
        if entry.exit_code is None and entry.lines[-1:] == [""]:
            entry.lines.pop()
    return entries


def states_in(output) -> Dict[str, Tuple[str, str, str, str]]:
    """Return primary, its state, secondary, its state by service, of every table in an output."""
    found = {}
    for row in map(_ROW.fullmatch, output.splitlines()):
        if row:
            name, primary, state, secondary, other = row.groups()
            found[name] = (primary, state, secondary, other)
    for name, primary, state, secondary, other in re.findall(
        r"^Service: (\S+)\n\tPrimary  : (\S+), (\w+)\n\tSecondary: (\S+), (\w+)$", output, re.MULTILINE
    ):
        found[name] = (primary, state, secondary, other)
    return found


def links_in(output, now):
    """Return links as the daemon's status document has them, of the lines of `hb -s`."""
    links = []
    for line in output.splitlines():
        found = _LINK.fullmatch(line)
        if not found:
            continue
        kind, role, device, address, pid, status, when = found.groups()
        at = None
        if when:
            at = time.mktime(time.strptime(f"{YEAR} {when}", "%Y %b %d %H:%M:%S"))
        links.append(
            {
                "type": kind,
                "role": role,
                "device": device,
                "address": address,
                "port": None if device.startswith("/") else 5000,
                "timeout_s": 10.0,
                "status": status,
                "age_s": None if at is None else now - at,
                "pid": int(pid) if pid and int(pid) else None,
            }
        )
    return links


_KINDS = {"heartd": "net", "heartd_unicast": "unicast", "heartd_dio": "dio", "heartd_raw": "disk"}


def processes_in(output, now):
    """Return the threads and links of a daemon that runs what the lines of `ps` show."""
    threads, links = [], []
    pattern = r"^root +(\d+) .*?(\d\d:\d\d).*? \S+/bin/(\w+) ?(.*)$"
    for pid, began, program, rest in re.findall(pattern, output, re.MULTILINE):
        hour, minute = began.split(":")
        began_at = time.mktime((YEAR, 11, 22, int(hour), int(minute), 0, 0, 0, -1))
        words = rest.split()
        name = "python3"
        if program != "nmond":
            kind = _KINDS[program.replace("heartc", "heartd")]
            role = "sender" if program.startswith("heartd") else "listener"
            port = None if words[0].startswith("/") else int(words[2])
            links.append(
                {
                    "type": kind,
                    "role": role,
                    "device": words[0],
                    "address": words[1],
                    "port": port,
                    "timeout_s": float(words[-1]) if role == "listener" else 10.0,
                    "status": "UP",
                    "age_s": 0.0,
                    "pid": None,
                }
            )
            name = f"{kind}{'>' if role == 'sender' else '<'}{Path(words[0]).name}"[:15]
        threads.append((program, ThreadFacts(int(pid), name, "S", 0.0, began_at)))
    return threads, links


@dataclass(frozen=True)
class Scene:
    """What happens while a command runs, by its expected output.

    Args:
        own, peer: states of the service when it begins, None where the output does not say.
        detail: what a script's failure leaves to say; becomes: the other node's state meanwhile.
    """

    own: Optional[str]
    peer: Optional[str]
    detail: str
    start_fails: bool
    stop_fails: bool
    rolls_back: bool
    becomes: str


def scene_of(output):
    """Return the scene of an expected output."""
    both = re.search(r"partner node is +(\w+) ?,? we are (\w+)", output)
    own = re.search(r"we are \(?(\w+)\)?", output)
    detail = re.search(r"^\S+ (?:exited with \d+|was terminated by signal \d+)$", output, re.MULTILINE)
    changed = re.search(r"on partner node from \w+ to (\w+)", output)
    return Scene(
        own=own[1] if own and own[1].isupper() else None,
        peer=both[1] if both else None,
        detail=detail[0] if detail else "",
        start_fails=("START_FAILED" in output and "check script failed" in output)
        or "failed to start" in output,
        stop_fails="failed to stop" in output,
        rolls_back="rollback service" in output,
        becomes=changed[1] if changed else "",
    )
