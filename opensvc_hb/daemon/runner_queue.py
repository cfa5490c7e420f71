"""What is begun next? The order among all that waits in the runner.

Actions first, as they came. The look at what became of a start (its second half) waits while
there are actions to begin, but from `LOOK_BACK_WITHIN_S` after its start they take turns: core
waits for the answer, and a service is not to be forgotten for the sake of a thousand others.
Questions are asked when nothing else can be begun.

Pure. Called by the loop.
"""

from __future__ import annotations

from collections import deque
from typing import Callable, Deque, List, Optional, Union

from opensvc_hb.daemon.runner_job import Job
from opensvc_hb.daemon.runner_wire import Request

LOOK_BACK_WITHIN_S = 5.0
"""So long after a start the look at what became of it may wait for other starts."""


class Waiting:
    """All that waits to be begun.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._actions: Deque[Request] = deque()
        self._look_backs: Deque[Job] = deque()
        self._questions: Deque[Request] = deque()
        self._look_back_was_last = False

    @property
    def actions(self) -> int:
        """How many actions wait."""
        return len(self._actions)

    def add(self, request: Request) -> None:
        """Let a request wait behind others of its kind."""
        (self._actions if request.work.is_action else self._questions).append(request)

    def add_look_back(self, job: Job) -> None:
        """Let the second half of a start wait, that has just ended.

        What is left of its time limit is spent for half on waiting, no more.
        """
        now = self._clock()
        job.look_back_by = now + min(LOOK_BACK_WITHIN_S, max(0.0, job.deadline - now) / 2)
        self._look_backs.append(job)

    def put_back(self, first: Union[Request, Job]) -> None:
        """Let an action or second half, that could not be begun, be the next of its kind again."""
        if isinstance(first, Job):
            self._look_backs.appendleft(first)
        else:
            self._actions.appendleft(first)

    def is_empty(self, may_act: bool) -> bool:
        """Tell whether there is nothing to begin.

        Args:
            may_act: actions may be begun; else they do not count.
        """
        return not (self._look_backs or self._questions or (may_act and self._actions))

    def next(self, may_act: bool) -> Union[Request, Job, None]:
        """Return, and forget, what is to be begun now; None for nothing."""
        acts = may_act and bool(self._actions)
        if self._look_backs and (not acts or self._is_turn_of_look_backs()):
            return self._look_backs.popleft()
        if acts:
            return self._actions.popleft()
        return self._questions.popleft() if self._questions else None

    def take_out(self, request_id: int) -> Optional[Request]:
        """Return, and forget, an action that waits."""
        for request in self._actions:
            if request.request_id == request_id:
                self._actions.remove(request)
                return request
        return None

    def take_out_look_back(self, job: Job) -> None:
        """Forget a second half, if it waits."""
        if job in self._look_backs:
            self._look_backs.remove(job)

    def take_out_requests(self) -> List[Request]:
        """Return, and forget, every request that waits."""
        requests = [*self._actions, *self._questions]
        self._actions.clear()
        self._questions.clear()
        return requests

    def _is_turn_of_look_backs(self) -> bool:
        overdue = self._clock() >= self._look_backs[0].look_back_by
        self._look_back_was_last = overdue and not self._look_back_was_last
        return self._look_back_was_last
