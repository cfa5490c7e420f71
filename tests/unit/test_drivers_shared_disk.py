"""Two nodes start, stop, take over and lose power around one disk, in any order of their commands.

Each node's action runs in a thread of its own that waits before each command until it is let go, so
that one command of one node is a step, and the order of steps is what Hypothesis draws. After each
step: no two nodes that use the volume group can write to its disk, and none that lost it while it
used it has a key again.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Iterator, List, Optional, Sequence, Tuple

import pytest
from disk_of_two_nodes import Node, SharedDisk, start, stop
from hypothesis import example, given, settings
from hypothesis import strategies as st

from opensvc_hb.agent.resource import ActionError

WAIT_S = 60.0
"""A thread that does not come to its next command within this time has broken down."""
COMMANDS_MAX = 40
"""More than any action has."""

HAND, CLUSTER, FORCE, STOP, POWER_CUT = "start", "start --cluster", "start --force", "stop", "power cut"


class PowerCutError(BaseException):
    """The node has no power: what it was doing ends here."""


class Stepper:
    """One node, whose actions are done command by command."""

    def __init__(self, disk: SharedDisk, name: str, reserve: bool) -> None:
        self.node = Node(disk, name, reserve, self._wait_for_turn)
        self.using = False
        self.stale = False
        self._thread: Optional[threading.Thread] = None
        self._cut = False
        self._go = threading.Semaphore(0)
        self._at_rest = threading.Semaphore(0)
        self.failure: Optional[BaseException] = None

    @property
    def busy(self) -> bool:
        """Whether an action is under way."""
        return self._thread is not None

    def begin(self, action: str) -> None:
        """Begin an action, up to its first command; a power cut is done at once."""
        if action == POWER_CUT:
            self._power_cut()
        elif not self.busy:
            if action == STOP:
                self.using = self.stale = self.node.in_use = False  # its file system is unmounted before
            self._thread = threading.Thread(target=self._act, args=(action,))
            self._thread.start()
            self._rest()

    def step(self) -> None:
        """Do one command."""
        if self.busy:
            self._go.release()
            self._rest()

    def finish(self) -> None:
        """Go on to the end of the action."""
        while self.busy:
            self.step()

    def _power_cut(self) -> None:
        if self.busy:
            self._cut = True
            self.finish()
            self._cut = False
        self.using = self.stale = False
        self.node.power_cut()

    def _rest(self) -> None:
        assert self._at_rest.acquire(timeout=WAIT_S), "the action hangs"
        if self._thread is not None and self.failure is None and not self._ended:
            return
        assert self._thread is not None
        self._thread.join(WAIT_S)
        self._thread = None
        if self.failure is not None:
            raise self.failure

    def _act(self, action: str) -> None:
        self._ended = False
        try:
            if action == STOP:
                stop(self.node)
            else:
                start(self.node, cluster=action == CLUSTER, force=action == FORCE)
                self.using = self.node.in_use = True  # its file system is mounted at once
        except (ActionError, PowerCutError):
            pass
        except BaseException as error:  # shown by the thread of the test
            self.failure = error
        self._ended = True
        self._at_rest.release()

    def _wait_for_turn(self, _argv: Sequence[str]) -> None:
        if threading.current_thread() is not self._thread:
            return  # the test itself asks
        self._at_rest.release()
        self._go.acquire()
        if self._cut:
            raise PowerCutError


Drawn = List[Tuple[int, str, int]]
"""Node, what it begins (while it is busy only a power cut), how many commands it then does."""


def played(turns: Drawn, reserve: bool, nodes: Sequence[Stepper]) -> None:
    """Play drawn turns, checking after every step."""
    for number, action, count in turns:
        node = nodes[number]
        node.begin(action)
        check(nodes, reserve)
        for _ in range(count):
            node.step()
            check(nodes, reserve)


def finished(nodes: Sequence[Stepper], reserve: bool) -> None:
    """Let both nodes come to the end of what they do, one after the other."""
    for node in nodes:
        while node.busy:
            node.step()
            check(nodes, reserve)


@contextlib.contextmanager
def two_nodes(reserve: bool) -> Iterator[Tuple[Stepper, Stepper]]:
    """Give two nodes on a new disk; what they still do is ended behind the test."""
    with TemporaryDirectory() as folder:
        disk = SharedDisk(Path(folder))
        nodes = Stepper(disk, "deb1", reserve), Stepper(disk, "deb2", reserve)
        try:
            yield nodes
        finally:
            for node in nodes:
                node.failure = None
                node.begin(POWER_CUT)


def check(nodes: Sequence[Stepper], reserve: bool) -> None:
    """Check what must hold after every step."""
    if reserve:
        writers = [each.node.name for each in nodes if each.using and each.node.may_write]
        assert len(writers) < 2, writers
        for each in nodes:
            # what it still has to write is older than what the other node has written since
            each.stale = each.stale or (each.using and not each.node.may_write)
            assert not (each.stale and each.node.key in each.node.disk.keys), each.node.name
    else:
        active = [each.node.name for each in nodes if each.node.active]
        assert len(active) < 2, active


def turns_of(*actions: str) -> st.SearchStrategy[Drawn]:
    """Turns of two nodes: some actions go on undisturbed, some command by command."""
    count = st.one_of(st.integers(0, 6), st.integers(0, 6), st.just(COMMANDS_MAX))
    turn = st.tuples(st.integers(0, 1), st.sampled_from(actions), count)
    return st.lists(turn, min_size=6, max_size=24)


@settings(max_examples=40, deadline=None)
@given(turns_of(HAND, HAND, STOP, POWER_CUT))
def test_by_hand_two_nodes_are_never_both_active(turns):
    """Tags alone: of two nodes that start by hand, in whatever order, one at most is ever active."""
    with two_nodes(reserve=False) as nodes:
        played(turns, False, nodes)
        finished(nodes, False)


@settings(max_examples=40, deadline=None)
@given(turns_of(HAND, CLUSTER, CLUSTER, FORCE, STOP, POWER_CUT))
@example([(0, HAND, 40), (0, CLUSTER, 2), (1, CLUSTER, 40), (0, HAND, 40)])  # looked before, acts behind
@example([(0, HAND, 40), (1, CLUSTER, 40), (1, STOP, 40), (0, FORCE, 40)])  # in use, and the disk is free
def test_with_reservations_two_nodes_never_both_write(turns):
    """Takeovers of both orders, at once, by force, with power cuts in between: one node at most can write."""
    with two_nodes(reserve=True) as nodes:
        played(turns, True, nodes)
        finished(nodes, True)


@settings(max_examples=30, deadline=None)
@given(turns_of(HAND, CLUSTER, STOP, POWER_CUT))
def test_a_takeover_left_alone_succeeds(turns):
    """Whatever went before: once one node is off, the other's takeover brings the group up there."""
    with two_nodes(reserve=True) as nodes:
        played(turns, True, nodes)
        for node in nodes:
            node.begin(POWER_CUT)
        nodes[1].begin(CLUSTER)
        nodes[1].finish()
        disk = nodes[1].node.disk
        assert nodes[1].using
        assert (disk.tags, disk.holder) == (["deb2"], nodes[1].node.key)


@pytest.mark.parametrize("first", range(10))
def test_two_starts_by_hand_interleaved_at_every_point(first):
    """Some commands of one, some of the other, then each to its end: tags alone let one in at most."""
    for second in range(10):
        with two_nodes(reserve=False) as nodes:
            played([(0, HAND, first), (1, HAND, second)], False, nodes)
            finished(nodes, False)
            assert sum(node.using for node in nodes) < 2


@pytest.mark.parametrize("count", range(40))
def test_preempted_at_every_point_of_a_start(count, tmp_path):
    """A takeover after any number of commands of the other node's start: the later one has the disk."""
    disk = SharedDisk(tmp_path)
    one, two = Stepper(disk, "deb1", reserve=True), Stepper(disk, "deb2", reserve=True)
    one.begin(CLUSTER)
    for _ in range(count):
        one.step()
    two.begin(CLUSTER)
    two.finish()
    assert two.using
    assert two.node.may_write
    while one.busy:
        one.step()
        check([one, two], reserve=True)
    writers = [each.node.name for each in (one, two) if each.using and each.node.may_write]
    assert len(writers) == 1
