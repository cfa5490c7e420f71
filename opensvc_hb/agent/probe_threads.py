"""How are the resources of one service asked inside a process that somebody else ends?

By a thread each, with a time limit each: a child of the daemon's runner asks in this way. A
process each (`parallel`) would cost it a fork, and every page that it then writes a second
copy, which is most of what a takeover of many services costs. What forks there protect from
is dealt with by the process's end: `os._exit` leaves no thread behind, except one that hangs
in the kernel; the child says so before it ends (`runner_child.Report.hangs`), and is not
waited for.

Runs in: a process that ends with `os._exit`. Never in a command.
"""

from __future__ import annotations

import queue
import threading
from typing import Any, Dict, List, Sequence, Tuple

from opensvc_hb.agent.parallel import Answer, Task, monotonic

PARALLEL_MAX = 32


def answer_in_threads(
    tasks: Sequence[Task], limit_s: float, parallel_max: int = PARALLEL_MAX
) -> List[Answer]:
    """Run tasks in threads of their own, at most `parallel_max` at a time.

    Returns:
        One answer per task, in the order of the tasks; a thread without an answer within
        `limit_s` seconds is left alone, and its answer ignored.
    """
    answers: List[Answer] = [Answer(problem="not asked")] * len(tasks)
    waiting = list(range(len(tasks)))
    deadlines: Dict[int, float] = {}
    finished: queue.SimpleQueue[Tuple[int, Answer]] = queue.SimpleQueue()
    while waiting or deadlines:
        while waiting and len(deadlines) < parallel_max:
            index = waiting.pop(0)
            deadlines[index] = monotonic() + limit_s
            threading.Thread(target=_answer, args=(index, tasks[index], finished), daemon=True).start()
        try:
            index, answer = finished.get(timeout=max(0.0, min(deadlines.values()) - monotonic()))
        except queue.Empty:
            for index in [index for index, deadline in deadlines.items() if deadline <= monotonic()]:
                del deadlines[index]
                answers[index] = Answer(problem=f"no answer within {limit_s:g} s")
        else:
            if deadlines.pop(index, None) is not None:
                answers[index] = answer
    return answers


def _answer(index: int, task: Task, finished: queue.SimpleQueue[Tuple[int, Answer]]) -> None:
    finished.put((index, _answer_of(task)))


def _answer_of(task: Task) -> Answer:
    try:
        value: Any = task()
    except (Exception, SystemExit) as error:  # the driver boundary: any driver may break in any way
        import traceback

        return Answer(problem=f"{type(error).__name__}: {error}", trace=traceback.format_exc())
    return Answer(value=value)
