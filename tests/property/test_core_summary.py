"""What is kept up from turn to turn is what would be made anew."""

from __future__ import annotations

from core_builders import NOW, make_config, make_entry, make_instance, make_node, make_peer
from hypothesis import given
from hypothesis import strategies as st

from opensvc_hb.core.events import ActionFinished, Outcome
from opensvc_hb.core.node_state import Offer, Purpose, RunningAction
from opensvc_hb.core.records import replace
from opensvc_hb.core.states import ActionVerb, Avail, State
from opensvc_hb.core.step import step
from opensvc_hb.core.summary import summary_of
from opensvc_hb.core.turn import Turn

SERVICES = ("svc1", "svc2", "svc3", "svc4")
CONFIG = make_config(services=SERVICES)

actions = st.builds(
    RunningAction,
    st.integers(1, 9),
    st.sampled_from(ActionVerb),
    st.just(Purpose.RULE),
    st.just(State.STARTED),
    st.just(NOW),
)
instances = st.builds(
    lambda state, resources, epoch, verified, excused, action, offer, until: make_instance(
        state,
        resources=resources,
        epoch=epoch,
        verified=verified,
        excused=excused,
        action=action,
        offer=offer,
        handing_until=until,
        paused_until=until,
    ),
    st.sampled_from(State),
    st.sampled_from(Avail),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
    st.none() | actions,
    st.none() | st.just(Offer(7, 200, NOW)),
    st.none() | st.just(NOW + 1.0),
)
changes = st.dictionaries(st.sampled_from(SERVICES), instances, max_size=len(SERVICES))


@given(st.lists(st.tuples(changes, st.booleans()), max_size=6))
def test_a_summary_kept_up_is_the_summary_made_anew(steps):
    """Whatever changes, and whether this daemon's first table was acknowledged meanwhile."""
    state = make_node(CONFIG, [make_instance(State.STOPPED, name) for name in SERVICES], make_peer(CONFIG))
    for changed, is_confirmed in steps:
        new = {name: replace(instance, service=name) for name, instance in changed.items()}
        state = replace(state, instances={**state.instances, **new})
        state = replace(state, unconfirmed_from=None if is_confirmed else 1)
        state = replace(state, summary=summary_of(state))
        assert state.summary == summary_of(replace(state, summary=None))


def test_a_summary_in_the_middle_of_a_turn_stays_what_it_was():
    """What the turn changes afterwards belongs to the next one."""
    state = make_node(CONFIG, [make_instance(State.STOPPED, name) for name in SERVICES], make_peer(CONFIG))
    turn = Turn(state, NOW)
    turn.put(replace(turn.instances["svc1"], state=State.STARTED))
    middle = turn.summary()
    turn.put(replace(turn.instances["svc2"], state=State.STARTED))
    assert [entry.state for entry in middle.table] == [State.STARTED] + [State.STOPPED] * 3
    assert [name for name, instance in middle.instances.items() if instance.state is State.STARTED] == [
        "svc1"
    ]
    assert [entry.state for entry in turn.summary().table] == [State.STARTED] * 2 + [State.STOPPED] * 2
    assert state.instances["svc1"].state is State.STOPPED


def test_what_does_not_change_is_not_made_again():
    """A table that says the same is the same table: its bytes need not be made again either."""
    peer = make_peer(CONFIG, [make_entry(State.STOPPED, service=name) for name in SERVICES])
    state = make_node(CONFIG, [make_instance(State.STARTED, name) for name in SERVICES], peer)
    acting = RunningAction(1, ActionVerb.ANNOUNCE, Purpose.ANNOUNCE, State.STARTED, NOW)
    announcing = replace(state.instances["svc2"], action=acting)
    state = replace(state, instances={**state.instances, "svc2": announcing})
    state = replace(state, summary=summary_of(state))
    ended = ActionFinished("svc2", 1, ActionVerb.ANNOUNCE, Outcome.DONE, Avail.UNKNOWN, 0, "")
    after, _ = step(state, ended, NOW)
    assert after.instances["svc2"].action is None
    assert after.summary.asked == ()
    assert after.summary.table is state.summary.table
    assert after.summary.parts["svc1"] is state.summary.parts["svc1"]
