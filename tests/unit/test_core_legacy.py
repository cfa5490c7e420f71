"""A peer that runs the C program: what its structures say, and what they permit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core_builders import (
    NOW,
    TIMEOUT_S,
    make_beat,
    make_config,
    make_entry,
    make_instance,
    make_node,
    make_peer,
    only,
    receive,
    rule_ids,
)

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import Protocol
from opensvc_hb.core.events import DaemonStopping, LegacyBeat, StallDetected, StopKind, Ticked
from opensvc_hb.core.legacy import FROZEN_AFTER_S, OFFER_S
from opensvc_hb.core.node_state import Liveness
from opensvc_hb.core.states import ActionVerb, State
from opensvc_hb.core.step import step

NET = "net:eth0:239.131.50.10:1244"
DIO = "dio:/dev/shared:10"


def config(links=("net",)):
    """Two nodes, of which one may run the C program."""
    return replace(make_config(links=links), protocol=Protocol.BOTH)


def rule_of(state):
    """The row that holds the one service now."""
    (rule,) = rule_ids(state, state.last_at)
    return rule


def fresh(own=State.STOPPED, links=("net",), **rest):
    """A node that has not heard its peer yet, and waits for it no longer."""
    made = config(links)
    peer = make_peer(made, liveness=Liveness.UNPROVEN, heard=False, incarnation=0, silent_from=NOW - 1.0)
    peer = replace(peer, links={i: replace(k, heard_at=None, up=False) for i, k in peer.links.items()})
    return make_node(made, [make_instance(own)], peer, **rest)


def hear(state, said, at=NOW, link_id=NET, elapsed=None, pid=17, service="svc1", node="deb2"):
    """A structure arrives: the sender's clock goes with ours unless it is said."""
    elapsed = int(at * 10) if elapsed is None else elapsed
    return step(state, LegacyBeat(link_id, node, ((service, said),), elapsed, pid), at)


def listen(state, said, start, seconds, link_id=NET):
    """The peer says the same once a second; return the state, what was begun, and when."""
    begun, at = [], start
    while at < start + seconds:
        at = min(at + 0.5, start + seconds)
        event = Ticked() if int(at * 2) % 2 else None
        state, effects = step(state, event, at) if event else hear(state, said, at, link_id)
        begun.extend((e.verb, at) for e in only(effects, fx.RunAction))
    return state, begun


def test_it_is_alive_while_it_is_heard():
    """No dialogue is asked for: never one-way, and unknown when all its links are silent."""
    state, effects = hear(fresh(), State.STARTED)
    peer = state.peers["deb2"]
    assert (peer.liveness, peer.is_legacy) == (Liveness.ALIVE, True)
    assert peer.table["svc1"].state is State.STARTED
    assert "deb2 runs the C program" in [j.text for j in only(effects, fx.Journal)]
    state, _ = listen(state, State.STARTED, NOW, 4 * TIMEOUT_S)
    assert state.peers["deb2"].liveness is Liveness.ALIVE


def test_the_same_structure_again_is_no_sign_of_life():
    """Delivered twice, or replayed: neither clock nor process nor a state has moved."""
    state, _ = hear(fresh(), State.STOPPED, elapsed=5)
    state, _ = hear(state, State.STOPPED, NOW + 1.0, elapsed=5)
    assert state.peers["deb2"].links[NET].heard_at == NOW
    state, _ = hear(state, State.STOPPED, NOW + 1.0, elapsed=5, pid=18)
    assert state.peers["deb2"].links[NET].heard_at == NOW + 1.0


def test_a_change_within_the_second_is_seen():
    """The sender's clock has whole seconds; ours sends every change at once."""
    state, _ = hear(fresh(), State.STOPPED, elapsed=5)
    state, _ = hear(state, State.STARTING, NOW + 0.3, elapsed=5)
    assert state.peers["deb2"].table["svc1"].state is State.STARTING


def test_its_structures_set_no_pace():
    """It acknowledges nothing and keeps no lease: nobody follows it, and it gets our beat every second."""
    state, _ = hear(fresh(State.FROZEN_STOP), State.STARTED)
    state, effects = step(state, Ticked(), NOW + 1.0)
    assert len(only(effects, fx.SendNow)) == 1
    assert state.next_beat_at == pytest.approx(NOW + 2.0)
    _, effects = hear(state, State.STARTED, NOW + 1.8)
    assert not only(effects, fx.SendNow)


def test_services_and_nodes_that_are_not_configured_are_nothing():
    """Nothing from the wire makes a service."""
    state, _ = hear(fresh(), State.STARTED, service="unheard-of")
    assert dict(state.peers["deb2"].table) == {}
    before = fresh()
    after, _ = hear(before, State.STARTED, node="deb9")
    assert after.peers == before.peers
    after, _ = hear(before, State.STARTED, link_id="net:eth9:1.2.3.4:5")
    assert after.peers == before.peers


def test_our_offer_stands_five_seconds_and_becomes_a_start():
    """As in C, without an acknowledgement."""
    state, effects = hear(fresh(), State.STOPPED)
    assert rule_of(state) == "N2"
    assert only(effects, fx.SendNow)[0].beat.table[0].state is State.START_READY
    state, begun = listen(state, State.STOPPED, NOW, OFFER_S + 1.0)
    assert begun == [(ActionVerb.START, NOW + OFFER_S)]


def test_a_timer_is_set_for_the_end_of_the_five_seconds():
    """Nobody needs to beat for it."""
    state, _ = hear(fresh(), State.STOPPED)
    state, effects = hear(replace(state, next_beat_at=NOW + 100.0), State.STOPPED, NOW + OFFER_S - 0.3)
    assert only(effects, fx.ArmTimer)[0].at == NOW + OFFER_S


@pytest.mark.parametrize("said", [State.STARTING, State.STARTED, State.STOPPING, State.START_FAILED])
def test_an_offer_is_taken_back_when_the_peer_moves(said):
    """It goes first, or it failed: not ours to start."""
    state, _ = hear(fresh(), State.STOPPED)
    state, begun = listen(state, State.STOPPED, NOW, 3.0)
    state, _ = hear(state, said, NOW + 3.5)
    assert state.instances["svc1"].state is State.STOPPED
    assert begun == []


def test_five_seconds_count_from_the_peers_last_change():
    """A rollback, or a freeze: the C program's monitor may be about to begin again."""
    state, _ = hear(fresh(), State.STOPPED)
    state, begun = listen(state, State.STOPPED, NOW, 3.0)
    state, _ = hear(state, State.FROZEN_STOP, NOW + 3.5)
    state, begun = listen(state, State.FROZEN_STOP, NOW + 3.5, OFFER_S + 1.0)
    assert begun == [(ActionVerb.START, NOW + 3.5 + OFFER_S)]


def test_where_only_a_disk_is_left_an_offer_stands_for_a_timeout_more():
    """Its disk listeners look once in a timeout."""
    state, _ = hear(fresh(links=("net", "dio")), State.STOPPED, link_id=DIO)
    state, begun = listen(state, State.STOPPED, NOW, OFFER_S + TIMEOUT_S + 1.0, DIO)
    assert begun == [(ActionVerb.START, NOW + OFFER_S + TIMEOUT_S)]


def test_a_peer_that_has_it_unknown_permits_nothing():
    """OpenHA starts against it; what does not say where it stands is no leave for us."""
    state, _ = hear(fresh(), State.UNKNOWN)
    assert rule_of(state) == "S6"


def test_frozen_while_started_is_told_from_an_offer():
    """One number for both: after STARTED it is a freeze, and so it is when it stands too long."""
    state, _ = hear(fresh(), State.STARTED)
    state, _ = hear(state, State.START_READY, NOW + 1.0)
    assert state.peers["deb2"].table["svc1"].state is State.FROZEN_START
    state, _ = hear(state, State.START_READY, NOW + 2.0)
    assert state.peers["deb2"].table["svc1"].state is State.FROZEN_START
    state, _ = hear(fresh(State.FROZEN_STOP), State.START_READY)
    assert state.peers["deb2"].table["svc1"].state is State.START_READY
    state, _ = listen(state, State.START_READY, NOW, FROZEN_AFTER_S + 1.0)
    assert state.peers["deb2"].table["svc1"].state is State.FROZEN_START


def test_what_it_says_stops_nothing_here():
    """Its word is not authentic: a double start is an alarm, whoever has which role."""
    for own in (State.STARTED, State.STARTING, State.FROZEN_START):
        state, effects = hear(fresh(own), State.STARTED)
        assert rule_of(state) == "H3"
        assert not only(effects, fx.RunAction)


def test_a_native_beat_ends_it_and_structures_do_not_count_while_it_speaks_natively():
    """A node that was moved to our daemon; nobody can talk it back by forging structures."""
    state, _ = hear(fresh(), State.STARTED)
    beat = make_beat(state.config, [make_entry(State.STOPPED)], us=7, acked=0)
    state, _ = receive(state, beat, NOW + 1.0)
    assert not state.peers["deb2"].is_legacy
    state, _ = hear(state, State.STARTED, NOW + 1.5)
    assert not state.peers["deb2"].is_legacy
    assert state.peers["deb2"].table["svc1"].state is State.STOPPED


def test_who_goes_back_to_the_c_program_is_not_dead_meanwhile():
    """Its structures were heard while its native beats fell silent: they count at that very moment."""
    made = config()
    state = make_node(made, [make_instance(State.FROZEN_STOP)], make_peer(made, [make_entry(State.STOPPED)]))
    seen = []
    for tenth in range(1, int(TIMEOUT_S * 10) + 3):
        at = NOW + tenth / 10
        state, _ = hear(state, State.STARTED, at) if tenth % 10 == 0 else step(state, Ticked(), at)
        seen.append(state.peers["deb2"].liveness)
    assert set(seen) == {Liveness.ALIVE}
    assert state.peers["deb2"].is_legacy
    assert state.peers["deb2"].table["svc1"].state is State.STARTED


def test_the_silent_one_is_taken_over_from_at_its_timeout():
    """No five seconds: nobody is there to be asked."""
    state, _ = hear(fresh(), State.STARTED)
    for tenth in range(1, int(TIMEOUT_S * 10)):
        state, effects = step(state, Ticked(), NOW + tenth / 10)
        assert not only(effects, fx.RunAction)
    state, effects = step(state, Ticked(), NOW + TIMEOUT_S)
    asked = only(effects, fx.AskLinks)
    assert asked or only(effects, fx.RunAction)


def test_what_it_froze_started_is_held_when_it_falls_silent():
    """Its operator's maintenance, as on a native node; the C program itself would take it over."""
    state, _ = hear(fresh(), State.STARTED)
    state, _ = hear(state, State.START_READY, NOW + 1.0)
    for tenth in range(11, int(TIMEOUT_S * 10) + 20):
        state, effects = step(state, Ticked(), NOW + tenth / 10)
        assert not only(effects, fx.RunAction)
    assert rule_of(state) == "U6"


def test_a_freeze_of_its_native_days_ends_when_it_says_otherwise():
    """It was frozen started, moved to the C program and unfrozen there: its silence is a takeover."""
    state = fresh()
    peer = replace(state.peers["deb2"], maintenance=frozenset({"svc1", "other"}))
    state, effects = hear(replace(state, peers={"deb2": peer}), State.STARTED)
    assert state.peers["deb2"].maintenance == {"other"}
    assert only(effects, fx.Persist)
    for tenth in range(1, int(TIMEOUT_S * 10) + 10):
        state, _ = step(state, Ticked(), NOW + tenth / 10)
    assert rule_of(state) != "U6"


def test_there_is_no_lease_where_a_node_may_run_the_c_program():
    """It knows none: a claim would prove nothing."""
    assert not config(("net", "dio")).lease_links
    assert make_config(links=("net", "dio")).lease_links


def test_a_restart_does_not_wait_for_an_answer_that_cannot_come():
    """The C program takes over at its timeout: the next daemon had better be back."""
    state, _ = hear(fresh(State.STARTED), State.STOPPED)
    _, effects = step(state, DaemonStopping(StopKind.RESTART), NOW + 0.1)
    (end,) = only(effects, fx.Exit)
    assert "the C program on the other node answers nothing" in end.reason


def test_a_node_that_stood_still_is_confirmed_by_hearing_it():
    """Nobody is there who could acknowledge a beat sent after waking."""
    state, _ = hear(fresh(State.STARTED), State.STOPPED)
    state, _ = step(state, StallDetected(1.0), NOW + 1.0)
    assert state.unconfirmed_from is not None
    state, _ = hear(state, State.STOPPED, NOW + 1.5)
    assert state.unconfirmed_from is None
