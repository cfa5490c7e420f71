"""Resources asked by a thread each: answers in order, limits that hold, nobody spoils another's."""

import threading

from opensvc_hb.agent.parallel import Answer
from opensvc_hb.agent.probe_threads import answer_in_threads

LIMIT_S = 30.0


def test_answers_come_in_the_order_of_the_tasks():
    """Whoever is quickest, each answer stands in the place of its task."""
    first_may_end = threading.Event()

    def slow():
        assert first_may_end.wait(LIMIT_S)
        return "slow"

    def quick():
        first_may_end.set()
        return "quick"

    assert answer_in_threads([slow, quick], LIMIT_S) == [Answer(value="slow"), Answer(value="quick")]


def test_no_more_run_at_once_than_allowed():
    """The third of three tasks begins when one of two has ended."""
    running = threading.Semaphore(2)

    def task():
        assert running.acquire(blocking=False), "more than two at once"
        running.release()
        return 1

    assert [answer.value for answer in answer_in_threads([task] * 20, LIMIT_S, 2)] == [1] * 20


def test_a_task_that_breaks_down_is_told_with_its_reason():
    """An exception, also one that would end a process, is the answer of its task alone."""

    def breaks():
        raise KeyError("fs#1")

    def leaves():
        raise SystemExit(3)

    broken, left, well = answer_in_threads([breaks, leaves, lambda: 1], LIMIT_S)
    assert broken.problem == "KeyError: 'fs#1'"
    assert "in breaks" in broken.trace
    assert left.problem == "SystemExit: 3"
    assert well == Answer(value=1)


def test_a_task_that_hangs_is_left_alone():
    """Behind its limit it has no answer, and what it says later is ignored."""
    hung = threading.Event()

    def hangs():
        hung.wait()

    try:
        late, well = answer_in_threads([hangs, lambda: 1], 0.05)
        assert late == Answer(problem="no answer within 0.05 s")
        assert well == Answer(value=1)
    finally:
        hung.set()
