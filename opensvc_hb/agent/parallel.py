"""How are many questions asked at once, each with a time limit that really holds?

Each question is answered by a forked child, for a thread that hangs in the kernel (a dead
file system) could never be left behind: it would keep the whole process from ending. A
child that hangs is killed with its process group, and kills itself soon after should we be
dead by then; nobody waits for one that cannot die.

Runs in: a process without other threads (a command, or the runner's child).
"""

from __future__ import annotations

import json
import os
import select
import selectors
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Sequence

CHUNK_BYTES = 65536
SELF_DESTRUCT_S = 1.0
"""How much longer than its limit a child may live if its parent does not kill it."""

DEATH_S = 1.0
"""How long a killed child is waited for; longer only in an uninterruptible sleep."""

Task = Callable[[], Any]
"""Answers one question with what JSON can hold."""


@dataclass(frozen=True)
class Answer:
    """What became of one task: its value, or why there is none.

    Args:
        problem: "" when there is a value; else one line.
        trace: the traceback, for the log, when the task broke down.
    """

    value: Any = None
    problem: str = ""
    trace: str = ""


@dataclass
class _Child:
    """One running child; `deadline` in seconds of the monotonic clock."""

    index: int
    pid: int
    pipe: int
    deadline: Optional[float]
    chunks: List[bytes] = field(default_factory=list)


def monotonic() -> float:
    """Seconds since boot, suspend included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def answer_all(
    tasks: Sequence[Task],
    limit_s: Optional[float],
    parallel_max: int = 32,
    started: Optional[Callable[[int, int], None]] = None,
) -> List[Answer]:
    """Run tasks in children of their own, at most `parallel_max` at a time.

    Args:
        tasks: what each child does.
        limit_s: seconds for each task; None for no limit, and then the children stay in
            our process group, so that whoever kills us kills them.
        parallel_max: how many children there are at a time.
        started: called with (index, pid) for each child.

    Returns:
        One answer per task, in the order of the tasks.
    """
    answers: List[Answer] = [Answer(problem="not asked")] * len(tasks)
    waiting = list(range(len(tasks)))
    running: Dict[int, _Child] = {}
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < parallel_max:
                    index = waiting.pop(0)
                    try:
                        child = _fork(index, tasks[index], limit_s)
                    except OSError as error:  # no process left, or no file: those that run go on
                        answers[index] = Answer(problem=f"no child process: {error.strerror}")
                        continue
                    running[child.pipe] = child
                    selector.register(child.pipe, selectors.EVENT_READ)
                    if started is not None:
                        started(child.index, child.pid)
                for key, _ in selector.select(_until_next(running)):
                    child = running[key.fd]
                    chunk = os.read(child.pipe, CHUNK_BYTES)
                    if chunk:
                        child.chunks.append(chunk)
                        continue
                    answers[child.index] = _decoded(b"".join(child.chunks), _reap(child))
                    _forget(child, running, selector)
                for child in [
                    c for c in running.values() if c.deadline is not None and c.deadline <= monotonic()
                ]:
                    answers[child.index] = Answer(problem=f"no answer within {limit_s:g} s")
                    _kill(child)
                    _forget(child, running, selector)
        finally:
            for child in running.values():
                _kill(child)
                os.close(child.pipe)
    return answers


def _until_next(running: Dict[int, _Child]) -> Optional[float]:
    deadlines = [child.deadline for child in running.values() if child.deadline is not None]
    return max(0.0, min(deadlines) - monotonic()) if deadlines else None


def _forget(child: _Child, running: Dict[int, _Child], selector: selectors.BaseSelector) -> None:
    selector.unregister(child.pipe)
    del running[child.pipe]
    os.close(child.pipe)


def _fork(index: int, task: Task, limit_s: Optional[float]) -> _Child:
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        raise
    if pid == 0:
        os.close(reading)
        _answer_as_child(task, writing, limit_s)
    os.close(writing)
    if limit_s is not None:
        _own_group(pid)
    return _Child(index, pid, reading, None if limit_s is None else monotonic() + limit_s)


def _answer_as_child(task: Task, writing: int, limit_s: Optional[float]) -> None:
    """Answer and end; never returns to the parent's code."""
    status = 1
    try:
        if limit_s is not None:
            _own_group(0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, limit_s + SELF_DESTRUCT_S)
        try:
            result = {"value": task()}
        except Exception as error:  # the driver boundary: any driver may break in any way
            import traceback

            result = {"problem": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        data = json.dumps(result).encode("utf-8")
        while data:
            data = data[os.write(writing, data) :]
        sys.stdout.flush()
        sys.stderr.flush()
        status = 0
    finally:
        os._exit(status)


def _own_group(pid: int) -> None:
    try:
        os.setpgid(pid, 0)
    except (PermissionError, ProcessLookupError):
        return  # parent and child both ask for it: one of them was first


def _reap(child: _Child) -> int:
    _, status = os.waitpid(child.pid, 0)
    return os.waitstatus_to_exitcode(status)


def _kill(child: _Child) -> None:
    """Kill a child that is not wanted any more; one that cannot die is not waited for."""
    for send in (os.killpg, os.kill) if child.deadline is not None else (os.kill,):
        try:
            send(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    descriptor = os.pidfd_open(child.pid)
    try:
        select.select([descriptor], [], [], DEATH_S)
    finally:
        os.close(descriptor)
    os.waitpid(child.pid, os.WNOHANG)


def _decoded(data: bytes, exit_status: int) -> Answer:
    if exit_status != 0 or not data:
        return Answer(problem=f"ended without an answer (exit status {exit_status})")
    result = json.loads(data)
    if "problem" in result:
        return Answer(problem=str(result["problem"]), trace=str(result["trace"]))
    return Answer(value=result["value"])
