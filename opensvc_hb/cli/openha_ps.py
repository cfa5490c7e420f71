"""`openha ps` and `ez_ps`: a line for each link and one for the monitor, in the columns of ps.

OpenHA runs a process for each of them; here they are threads of one daemon, which the kernel knows
by name. Each is shown under the name that OpenHA's operators look for (heartd sends, heartc listens,
nmond decides) with the thread's own id, state and processor time; memory is that of the daemon.

Reads /proc and the daemon's lock; asks the daemon, where it answers, for the links' names. Runs in: the
process of a command.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from opensvc_hb.cli.openha_view import LinkView, links_view
from opensvc_hb.client import DaemonError, is_locked
from opensvc_hb.paths import Root

HEADER = "UID          PID    PPID  C STIME TTY          TIME CMD"
BINARIES = "/usr/lib/openha/bin"
"""Where the later layout has its programs; `EZ_BIN` says otherwise."""
ASK_LIMIT_S = 2.0
_ENDS = {"sender": ">", "listener": "<"}
_PROGRAMS = {
    ("net", "sender"): "heartd",
    ("net", "listener"): "heartc",
    ("unicast", "sender"): "heartd_unicast",
    ("unicast", "listener"): "heartc_unicast",
    ("dio", "sender"): "heartd_dio",
    ("dio", "listener"): "heartc_dio",
    ("disk", "sender"): "heartd_raw",
    ("disk", "listener"): "heartc_raw",
}
_THREAD_NAME_BYTES = 15


@dataclass(frozen=True)
class ThreadFacts:
    """What the kernel says of one thread.

    Args:
        thread_id: the same as the process's for the first one, which is the monitor.
        state: a letter, and `<` where it has more than the usual priority.
        cpu_s: processor time used; began_at: seconds since 1970.
    """

    thread_id: int
    name: str
    state: str
    cpu_s: float
    began_at: float


@dataclass(frozen=True)
class DaemonFacts:
    """The daemon's process and its threads, in the order in which they were made.

    Args:
        age_s: since it was made; rss_bytes, vsz_bytes: its memory; memory_share: of the machine's, percent.
    """

    pid: int
    parent: int
    user: str
    terminal: str
    age_s: float
    rss_bytes: int
    vsz_bytes: int
    memory_share: float
    threads: Tuple[ThreadFacts, ...]


def daemon_pid(place: Root) -> Optional[int]:
    """Return the process of a root's daemon, None when none runs."""
    if not is_locked(str(place.lock)):
        return None
    try:
        text = place.lock.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def daemon_facts(pid: int) -> Optional[DaemonFacts]:
    """Return what the kernel says of the daemon, None when it has just ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        memory = process.memory_info()
        booted_at = psutil.boot_time()
        threads = [_thread_facts(pid, thread.id, booted_at) for thread in process.threads()]
        return DaemonFacts(
            pid=pid,
            parent=process.ppid(),
            user=process.username(),
            terminal=(process.terminal() or "?").replace("/dev/", ""),
            age_s=max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - (process.create_time() - booted_at)),
            rss_bytes=memory.rss,
            vsz_bytes=memory.vms,
            memory_share=process.memory_percent(),
            threads=tuple(sorted((t for t in threads if t is not None), key=lambda t: t.thread_id)),
        )
    except (psutil.Error, OSError):
        return None


def _thread_facts(pid: int, thread_id: int, booted_at: float) -> Optional[ThreadFacts]:
    """Return what /proc says of a thread, None when it has just ended. Source: proc(5), stat."""
    directory = Path(f"/proc/{pid}/task/{thread_id}")
    try:
        name = (directory / "comm").read_text(errors="replace").rstrip("\n")
        fields = (directory / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    ticks_per_s = os.sysconf("SC_CLK_TCK")
    is_hasty = int(fields[16]) < 0 or int(fields[15]) < 0  # nice below 0, or a real-time priority
    return ThreadFacts(
        thread_id=thread_id,
        name=name,
        state=fields[0].decode() + ("<" if is_hasty else ""),
        cpu_s=(int(fields[11]) + int(fields[12])) / ticks_per_s,
        began_at=booted_at + int(fields[19]) / ticks_per_s,
    )


def thread_name(link: LinkView) -> str:
    """Return the name that the kernel knows a link's thread by."""
    name = f"{link.type}{_ENDS[link.role]}{Path(link.device).name}"
    return name.encode()[:_THREAD_NAME_BYTES].decode(errors="replace")


def program_words(link: LinkView) -> str:
    """Return OpenHA's program and arguments for a link."""
    words = [_PROGRAMS[link.type, link.role], link.device, link.address]
    words += [str(link.port)] if link.port else []
    words += [f"{link.timeout_s:g}"] if link.role == "listener" else []
    return " ".join(words)


def named_threads(
    threads: Sequence[ThreadFacts], pid: int, links: Sequence[LinkView]
) -> List[Tuple[ThreadFacts, str]]:
    """Return the links' threads and the monitor's, which comes last, with what each of them does.

    The kernel's names are cut, so two links may share one: their threads were made in the order of
    the monitor file. A link that nobody told us about goes by its thread's name.
    """
    waiting: List[LinkView] = list(links)
    found = []
    for thread in threads:
        if thread.thread_id == pid or not _is_link(thread.name):
            continue
        link = next((link for link in waiting if thread_name(link) == thread.name), None)
        if link is not None:
            waiting.remove(link)
        found.append((thread, program_words(link) if link is not None else thread.name))
    return found + [(thread, "nmond") for thread in threads if thread.thread_id == pid]


def _is_link(name: str) -> bool:
    return any(name.startswith(f"{kind}{end}") for kind, _ in _PROGRAMS for end in _ENDS.values())


def full_lines(daemon: DaemonFacts, links: Sequence[LinkView], binaries: str) -> List[str]:
    """Return lines in the columns of `ps -ef`, without their header."""
    lines = []
    for thread, words in named_threads(daemon.threads, daemon.pid, links):
        use = _percent(thread, daemon.age_s)
        hours, seconds = divmod(int(thread.cpu_s), 3600)
        cpu = f"{hours:02d}:{seconds // 60:02d}:{seconds % 60:02d}"
        lines.append(
            f"{daemon.user:<8.8} {thread.thread_id:>7} {daemon.parent:>7} {int(use):>2} "
            f"{_began(thread, daemon.age_s):<5} {daemon.terminal:<8} {cpu} {binaries}/{words}"
        )
    return lines


def user_lines(daemon: DaemonFacts, links: Sequence[LinkView], binaries: str) -> List[str]:
    """Return lines in the columns of `ps auxww`, without a header."""
    lines = []
    for thread, words in named_threads(daemon.threads, daemon.pid, links):
        minutes, seconds = divmod(int(thread.cpu_s), 60)
        lines.append(
            f"{daemon.user:<8.8} {thread.thread_id:>7} {_percent(thread, daemon.age_s):>4.1f} "
            f"{daemon.memory_share:>4.1f} {daemon.vsz_bytes // 1024:>6} {daemon.rss_bytes // 1024:>5} "
            f"{daemon.terminal:<8} {thread.state:<4} {_began(thread, daemon.age_s):<5} "
            f"{f'{minutes}:{seconds:02d}':>6} {binaries}/{words}"
        )
    return lines


def _percent(thread: ThreadFacts, age_s: float) -> float:
    return 100 * thread.cpu_s / age_s if age_s > 0 else 0.0


def _began(thread: ThreadFacts, age_s: float) -> str:
    """Return when a thread began, as ps does: the time within a day, else the date."""
    at = time.localtime(thread.began_at)
    return time.strftime("%H:%M" if age_s < 86400 else "%b%d", at)


def links_of(ask: Any) -> Tuple[LinkView, ...]:
    """Return the links, none when the daemon does not answer soon."""
    try:
        answer: Mapping[str, Any] = ask({"request": "status"}, ASK_LIMIT_S)
    except DaemonError:
        return ()
    return links_view(answer["status"]) if answer.get("ok") else ()


def binaries_directory(environment: Optional[Mapping[str, str]] = None) -> str:
    """Return the directory by which OpenHA's programs are shown."""
    return (os.environ if environment is None else environment).get("EZ_BIN") or BINARIES
