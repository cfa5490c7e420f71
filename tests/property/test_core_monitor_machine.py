"""Reports in any order, restarts that end in any way: what the resource monitor never does."""

from __future__ import annotations

from dataclasses import replace

from core_builders import (
    make_beat,
    make_config,
    make_entry,
    make_instance,
    make_node,
    make_peer,
    only,
    settled,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import MonitorAction, Monitored, Monitoring
from opensvc_hb.core.events import (
    ActionFinished,
    BeatReceived,
    Outcome,
    ResourceReport,
    ResourcesReported,
    Ticked,
)
from opensvc_hb.core.node_state import Purpose
from opensvc_hb.core.states import ActionVerb, Answer, Avail, State
from opensvc_hb.core.step import step

BEGIN = 1000.0
PEER_STATES = (State.STOPPED, State.STOPPED, State.FROZEN_STOP, State.START_FAILED, State.UNKNOWN)

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["up", "down", "down", "down", "unknown", "end", "peer", "wait"]), st.integers(0, 9)
    ),
    max_size=60,
)


class Watched:
    """A node that runs a service with one monitored resource, its peer, and what the monitor may do."""

    def __init__(self, restarts, moves_max, action):
        config = make_config(timeout_s=50.0)
        self.monitoring = Monitoring((Monitored("app#1", restarts),), action, 60.0, moves_max, 60.0)
        service = replace(config.services["svc1"], monitoring=self.monitoring)
        config = replace(config, services={"svc1": service})
        peer = settled(make_peer(config, [make_entry(State.STOPPED)], now=BEGIN), BEGIN)
        instance = make_instance(State.STARTED, epoch=4, highest_epoch=4)
        self.state = make_node(config, [instance], peer, BEGIN)
        self.now = BEGIN
        self.beats = 60
        self.there = State.STOPPED
        self.told = []
        self.restarts = []
        self.moves = []

    def give(self, event):
        """Give an event to core, and check what it asks for."""
        self.state, effects = step(self.state, event, self.now)
        for effect in only(effects, fx.RunAction):
            if effect.verb is ActionVerb.RESTART:
                self.restart()
            elif effect.verb is ActionVerb.STOP:
                purpose = self.state.instances["svc1"].action.purpose
                assert purpose in (Purpose.MONITOR, Purpose.HAND_OVER)
                self.move()
        for _ in only(effects, fx.ResetNode):
            self.move()

    def restart(self):
        assert self.told[-1] is Answer.DOWN
        self.restarts = [at for at in self.restarts if self.now - at < 60.0] + [self.now]
        assert len(self.restarts) <= self.monitoring.resources[0].restart_count_max

    def move(self):
        assert self.told[-2:] == [Answer.DOWN, Answer.DOWN]
        assert self.there is State.STOPPED
        assert self.monitoring.action is not MonitorAction.NONE
        self.moves = [at for at in self.moves if self.now - at < 60.0] + [self.now]
        assert len(self.moves) <= self.monitoring.moves_max

    def report(self, answer):
        """An evaluation ends, unless an action runs: then it would be thrown away."""
        action = self.state.instances["svc1"].action
        if action is None:
            self.told.append(answer)
            self.give(ResourcesReported("svc1", Avail.MIXED, (ResourceReport("app#1", answer),)))

    def end(self, number):
        """The action that runs ends, well or not; after a stop the service is started again by hand."""
        action = self.state.instances["svc1"].action
        if action is None:
            return
        outcome = (Outcome.DONE, Outcome.FAILED, Outcome.TIMED_OUT)[number % 3]
        if action.verb is ActionVerb.STOP:
            outcome = Outcome.DONE
        avail = Avail.DOWN if action.verb is ActionVerb.STOP else Avail.UNKNOWN
        self.give(ActionFinished("svc1", action.action_id, action.verb, outcome, avail))
        if action.verb is ActionVerb.STOP:
            watching = self.state.instances["svc1"].watching
            again = replace(make_instance(State.STARTED, epoch=4, highest_epoch=4), watching=watching)
            self.state = replace(self.state, instances={"svc1": again})
            self.told.clear()

    def hear(self, state):
        """A beat of the peer, which acknowledges our newest."""
        self.beats += 1
        self.there = state
        entries = [make_entry(state, sequence=self.beats)]
        beat = make_beat(self.state.config, entries, self.beats, acked=self.state.sequence)
        self.give(BeatReceived(self.state.config.links_from("deb2")[0].id, beat))


@settings(max_examples=150, deadline=None)
@given(
    events=EVENTS,
    restarts=st.integers(0, 2),
    moves_max=st.integers(0, 2),
    action=st.sampled_from(list(MonitorAction)),
)
def test_the_monitor_acts_on_what_it_was_told_twice_and_no_more_often_than_it_may(
    events, restarts, moves_max, action
):
    """No restart or move but of what is down, no move to nobody, none beyond max_moves in the window."""
    watched = Watched(restarts, moves_max, action)
    for word, number in events:
        watched.now += 0.3 if word != "wait" else 1.0 + number
        watched.hear(watched.there)  # never silent for long: else there are other reasons to stop
        if word in ("up", "down", "unknown"):
            watched.report(Answer(word))
        elif word == "end":
            watched.end(number)
        elif word == "peer":
            watched.hear(PEER_STATES[number % len(PEER_STATES)])
        else:
            watched.give(Ticked())
