"""Is the peer alive? Beats, links, silence, promises, last words, stalls: one sentence each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from core_builders import (
    NODES,
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
)

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import Policies
from opensvc_hb.core.events import (
    BeatReceived,
    DaemonStarted,
    LinkDrained,
    LinkFailed,
    SlotFound,
    StallDetected,
    Stored,
    StoredPeer,
    Ticked,
)
from opensvc_hb.core.messages import Entry, link_tag, table_digest
from opensvc_hb.core.node_state import Claim, Liveness, Phase, Sent, new_node
from opensvc_hb.core.states import ActionVerb, State, Verb
from opensvc_hb.core.step import step
from opensvc_hb.core.turn import make_beat as make_our_beat
from opensvc_hb.core.turn import sent_at
from opensvc_hb.daemon.report import Notices, alarms
from opensvc_hb.sim.world import World

LINKS = ("net", "unicast", "dio")
OWN_SLOT = "dio:/dev/shared:0"


def node(links=("net",), own=State.STOPPED, peer_state=State.STARTED, **rest):
    """A node in the middle of its life that heard its peer just now."""
    config = make_config(links=links)
    peer = make_peer(config, [make_entry(peer_state)], **rest)
    return make_node(config, [make_instance(own)], peer)


def wait(state, seconds, start=NOW, step_s=0.5):
    """Let time pass without a beat of the peer; return the state, all effects, and the time."""
    effects, now = [], start
    while now < start + seconds:
        now = min(now + step_s, start + seconds)
        state, more = step(state, Ticked(), now)
        effects.extend(more)
        for asked in only(more, fx.AskLinks):
            for link in state.config.links_from("deb2"):
                state, more = step(state, LinkDrained(link.id, asked.token), now)
                effects.extend(more)
    return state, effects, now


def liveness(state):
    """What the node thinks of its peer."""
    return state.peers["deb2"].liveness


# -- silence ---------------------------------------------------------------------------------


def test_a_peer_is_unknown_after_its_links_were_silent_for_the_timeout():
    """Not before, and exactly then."""
    state, _, _ = wait(node(), TIMEOUT_S - 0.01)
    assert liveness(state) is Liveness.ALIVE
    state, _, _ = wait(node(), TIMEOUT_S)
    assert liveness(state) is Liveness.UNKNOWN


@pytest.mark.parametrize("living", range(3))
def test_a_peer_lives_while_one_link_is_heard(living):
    """Any one of three is enough, for however long the others are silent."""
    state, now, sequence = node(LINKS), NOW, 60
    for _ in range(30):
        now, sequence = now + 1.0, sequence + 1
        beat = make_beat(state.config, [make_entry(State.STARTED)], sequence, acked=state.sequence)
        state, _ = receive(state, beat, now, link=living)
    assert liveness(state) is Liveness.ALIVE
    assert [link.up for link in state.peers["deb2"].links.values()].count(True) == 1


def test_each_link_has_its_own_timeout():
    """A listener is DOWN after its own timeout, the peer after that of its last one."""
    state = node(("net", "dio"))
    peer = state.peers["deb2"]
    first, second = peer.links.values()
    links = {first.link_id: replace(first, timeout_s=2.0), second.link_id: second}
    state = replace(state, peers={"deb2": replace(peer, links=links)})
    state, effects, _ = wait(state, 4.0)
    down = [j.text for j in only(effects, fx.Journal) if j.text.endswith("is DOWN")]
    assert down == [f"{first.link_id} from deb2 is DOWN"]
    assert liveness(state) is Liveness.ALIVE
    assert liveness(wait(state, 1.0, NOW + 4.0)[0]) is Liveness.UNKNOWN


def test_before_a_peer_is_unknown_its_listeners_hand_over_what_has_arrived():
    """Silence counts only when everything already received has been processed, on all links."""
    state = node(("net", "dio"))
    now = NOW + TIMEOUT_S
    state, effects = step(replace(state, last_at=now), Ticked(), now)
    (asked,) = only(effects, fx.AskLinks)
    assert liveness(state) is Liveness.ALIVE
    first, second = state.config.links_from("deb2")
    state, _ = step(state, LinkDrained(first.id, asked.token), now)
    assert liveness(state) is Liveness.ALIVE
    state, _ = step(state, LinkDrained(second.id, asked.token), now)
    assert liveness(state) is Liveness.UNKNOWN


def test_a_beat_that_was_waiting_takes_the_silence_back():
    """What a listener hands over when asked counts like any other beat."""
    state = node()
    now = NOW + TIMEOUT_S
    state, _ = step(replace(state, last_at=now), Ticked(), now)
    state, effects = receive(state, make_beat(state.config, [make_entry(State.STARTED)]), now)
    assert liveness(state) is Liveness.ALIVE
    assert only(effects, fx.RunAction) == []


def test_a_listener_that_does_not_answer_is_silent_all_the_same():
    """A hung disk delays a takeover by a quarter of a second at most."""
    state = node()
    now = NOW + TIMEOUT_S
    state, effects = step(replace(state, last_at=now), Ticked(), now)
    assert only(effects, fx.ArmTimer)[0].at == pytest.approx(now + 0.25)
    state, _ = step(state, Ticked(), now + 0.25)
    assert liveness(state) is Liveness.UNKNOWN


def test_an_answer_to_an_earlier_question_does_not_count():
    """Each silence is asked about anew."""
    state = node()
    now = NOW + TIMEOUT_S
    state, effects = step(replace(state, last_at=now), Ticked(), now)
    token = only(effects, fx.AskLinks)[0].token
    link = state.config.links_from("deb2")[0]
    state, _ = step(state, LinkDrained(link.id, token - 1), now)
    assert liveness(state) is Liveness.ALIVE


def test_a_link_that_fails_is_silence_and_never_life():
    """An error is noted for people; the age of the last beat decides as before."""
    state = node()
    link = state.config.links_from("deb2")[0]
    after, effects = step(state, LinkFailed(link.id, "no such device"), NOW)
    assert [j.text for j in only(effects, fx.Journal)] == [f"{link.id}: no such device"]
    assert after.peers["deb2"].links[link.id].error == "no such device"
    assert liveness(after) is Liveness.ALIVE
    assert liveness(wait(after, TIMEOUT_S)[0]) is Liveness.UNKNOWN


def test_a_beat_of_a_stranger_is_ignored():
    """Unknown senders, and links that are not theirs, change nothing."""
    state = node()
    beat = make_beat(state.config, [make_entry(State.STOPPED)])
    own_link = state.config.links_from("deb1")[0].id
    for event in (
        BeatReceived(state.config.links_from("deb2")[0].id, replace(beat, sender="deb3")),
        BeatReceived(own_link, beat),
        BeatReceived(state.config.links_from("deb2")[0].id, replace(beat, incarnation=2)),
    ):
        after, _ = step(state, event, NOW)
        assert after.peers == state.peers


# -- what a beat says ------------------------------------------------------------------------


def test_an_older_beat_on_another_link_is_life_but_not_news():
    """Beats overtake each other between links: the newest table stands."""
    state = node(("net", "dio"))
    state, _ = receive(state, make_beat(state.config, [make_entry(State.STOPPING, sequence=3)], 62), link=0)
    state, _ = receive(state, make_beat(state.config, [make_entry(State.STARTED)], 61), NOW + 1.0, link=1)
    peer = state.peers["deb2"]
    assert peer.table["svc1"].state is State.STOPPING
    assert peer.sequence == 62
    assert [link.heard_at for link in peer.links.values()] == [NOW, NOW + 1.0]


def test_a_new_table_is_acknowledged_at_once():
    """Nobody waits for a period: the acknowledgement goes out in the same step."""
    state = node()
    _, effects = receive(state, make_beat(state.config, [make_entry(State.STOPPING, sequence=2)]))
    (sent,) = only(effects, fx.SendNow)
    hearing = sent.beat.hearing_of("deb2")
    assert (hearing.incarnation, hearing.sequence) == (3, 60)


def test_a_steady_beat_is_not_answered():
    """Two nodes at rest send one beat an interval each, and nothing more."""
    state = node()
    _, effects = receive(state, make_beat(state.config, [make_entry(State.STARTED)]))
    assert only(effects, fx.SendNow) == []


def test_a_beat_whose_table_is_not_held_is_not_acknowledged():
    """An acknowledgement means processed, states included."""
    state = node()
    beat = make_beat(state.config, [make_entry(State.STOPPED, sequence=2)])
    after, _ = receive(state, replace(beat, table=None))
    peer = after.peers["deb2"]
    assert (peer.sequence, peer.settled_sequence, peer.table_current) == (60, 50, False)
    after, _ = receive(after, beat)
    peer = after.peers["deb2"]
    assert (peer.settled_sequence, peer.table_current) == (60, True)


def test_a_beat_names_the_links_on_which_the_peer_is_heard():
    """One-way links are shown as such on the other side."""
    state = node(LINKS)
    state, _ = receive(state, make_beat(state.config, [make_entry(State.STOPPED, sequence=9)]), NOW + 4.0, 2)
    state, effects, _ = wait(state, 2.0, NOW + 4.0)
    heard = only(effects, fx.SendNow)[-1].beat.hearing_of("deb2").links
    assert [(link.tag, link.sequence) for link in heard] == [
        (link_tag(state.config.links_from("deb2")[2].id), 60)
    ]


def test_epochs_seen_in_a_table_are_stored_before_they_are_acknowledged():
    """The highest epoch seen, not only held, is persisted."""
    state = node()
    entry = make_entry(State.STARTED, epoch=4, sequence=2, highest_epoch=9)
    after, effects = receive(state, make_beat(state.config, [entry]))
    assert after.instances["svc1"].highest_epoch == 9
    assert effects[0].stored.instances["svc1"].highest_epoch == 9


def test_a_configuration_that_differs_is_said_once():
    """An alarm, and never a reason to hold a takeover."""
    state = node()
    beat = make_beat(state.config, [make_entry(State.STARTED)], config_digest=b"other   ")
    state, effects = receive(state, beat)
    assert [j.kind for j in only(effects, fx.Journal) if j.kind != "hold"] == ["alarm"]
    _, effects = receive(state, replace(beat, sequence=61))
    assert only(effects, fx.Journal) == []


def test_a_table_is_sent_until_the_peer_says_that_it_holds_it():
    """A steady beat carries a digest only to a peer that knows the table."""
    state = node()
    state, effects, _ = wait(state, 2.2)
    assert [sent.with_table for sent in only(effects, fx.SendNow)] == [True, True]
    digest = only(effects, fx.SendNow)[-1].beat.table_digest
    beat = make_beat(state.config, [make_entry(State.STARTED)], acked=state.sequence)
    beat = replace(beat, hearings=(replace(beat.hearings[0], table_digest=digest),))
    state, _ = receive(state, beat, NOW + 2.2)
    _, effects, _ = wait(state, 3.0, NOW + 2.2)
    assert [sent.with_table for sent in only(effects, fx.SendNow)] == [False, False]


@pytest.mark.parametrize(
    "change",
    [
        {"state": State.STARTED},
        {"state_sequence": 2},
        {"epoch": 1},
        {"highest_epoch": 1},
        {"resources_up": False},
        {"confirmed": False},
    ],
)
def test_every_field_of_a_table_counts_in_its_digest(change):
    """A change that the digest did not show would never be sent."""
    entry = Entry("svc1", State.STOPPED, 1, 0)
    assert table_digest((entry,)) != table_digest((replace(entry, **change),))


# -- one way ---------------------------------------------------------------------------------


def deaf_peer(state, seconds):
    """The peer's beats arrive, and say that it hears none of ours."""
    effects = []
    for number in range(int(seconds)):
        beat = make_beat(state.config, [make_entry(State.STARTED)], 60 + number, hears=False)
        state, more = receive(state, beat, NOW + 1.0 + number)
        effects.extend(more)
    return state, effects


def test_a_peer_that_does_not_hear_us_lives():
    """No takeover, an alarm: silence one way is no silence."""
    state, effects = deaf_peer(node(), 12)
    assert liveness(state) is Liveness.ONE_WAY
    assert only(effects, fx.RunAction) == []
    assert ("alarm", "S7") in [(j.kind, j.rule) for j in only(effects, fx.Journal)]


def test_one_beat_that_was_not_heard_makes_no_one_way_link():
    """The peer must have missed us for our own timeout."""
    state, _ = deaf_peer(node(), 4)
    assert liveness(state) is Liveness.ALIVE


def test_a_peer_heard_again_after_a_cut_is_alive_at_once():
    """How long it was not heard says nothing of whether it hears us now: no alarm for a moment."""
    state, _, now = wait(node(), 20.0)
    beat = make_beat(state.config, [make_entry(State.STARTED, sequence=2)], 80, hears=False)
    state, effects = receive(state, beat, now)
    assert liveness(state) is Liveness.ALIVE
    assert "S7" not in [j.rule for j in only(effects, fx.Journal)]


# -- permissions age -------------------------------------------------------------------------


def test_a_permission_counts_from_the_sending_of_our_beat():
    """0.6 of the timeout after the beat of ours that the peer last heard on a link."""
    state = replace(node(), sent=(Sent(190, NOW - 2.0), Sent(200, NOW - 1.0)))
    beat = make_beat(state.config, [make_entry(State.STARTED)], acked=195)
    after, _ = receive(state, beat)
    assert after.peers["deb2"].trusted_until == pytest.approx(NOW - 2.0 + 0.6 * TIMEOUT_S)


def test_a_permission_ages_by_the_peers_timeout_where_that_is_shorter():
    """Its monitor file was changed first: it counts us out sooner than ours would have it."""
    state = replace(node(), sent=(Sent(190, NOW - 1.0), Sent(200, NOW - 0.5)))
    beat = make_beat(state.config, [make_entry(State.STARTED)], acked=195)
    after, _ = receive(state, replace(beat, longest_timeout_s=2.0))
    assert after.peers["deb2"].trusted_until == pytest.approx(NOW - 1.0 + 0.6 * 2.0)


def test_the_time_of_a_beat_is_never_taken_for_later_than_it_was():
    """Times are kept coarsely: a look-up errs to the safe side."""
    state = replace(node(), sent=(Sent(10, 1.0), Sent(20, 2.0)))
    assert [sent_at(state, sequence) for sequence in (9, 10, 19, 20, 99)] == [None, 1.0, 1.0, 2.0, 2.0]


def test_an_acknowledgement_without_links_gives_no_trust():
    """A peer that hears us on no link may count us out already."""
    state = node()
    after, _ = receive(state, make_beat(state.config, [make_entry(State.STARTED)], acked=200, hears=False))
    assert after.peers["deb2"].trusted_until == 0.0


# -- incarnations ----------------------------------------------------------------------------


def test_a_peers_new_incarnation_is_stored_before_it_is_acknowledged():
    """What it said in its earlier life is forgotten: offers, tables, permissions."""
    state = node()
    beat = make_beat(state.config, [make_entry(State.STOPPED)], sequence=1, incarnation=4)
    after, effects = receive(state, beat)
    assert effects[0].stored.peers["deb2"].incarnation == 4
    peer = after.peers["deb2"]
    assert (peer.incarnation, peer.sequence, peer.table["svc1"].state) == (4, 1, State.STOPPED)


def test_a_node_that_lost_its_store_takes_the_incarnation_heard_plus_one():
    """A peer accepted beats that this life never sent: they must not be sent again."""
    state = node()
    after, effects = receive(state, make_beat(state.config, [make_entry(State.STARTED)], us=12, acked=7))
    assert (after.incarnation, after.sequence) == (13, 1)
    assert effects[0].stored.incarnation == 13
    assert only(effects, fx.SendNow)[0].beat.incarnation == 13


def test_another_machine_of_our_name_is_an_alarm_and_no_flood():
    """Two that outdo each other's incarnations would fill journals and stores within minutes."""
    state = node()
    state, _ = receive(state, make_beat(state.config, [make_entry(State.STARTED)], us=12, acked=7))
    soon, effects = receive(
        state, make_beat(state.config, [make_entry(State.STARTED)], sequence=99, us=14, acked=7)
    )
    assert (soon.incarnation, only(effects, fx.Journal)) == (13, [])
    later = replace(state, reborn_at=NOW - 11.0)
    later, effects = receive(
        later, make_beat(state.config, [make_entry(State.STARTED)], sequence=99, us=14, acked=7)
    )
    assert later.incarnation == 15
    (entry,) = [j for j in only(effects, fx.Journal) if j.text == "incarnation 13 -> 15"]
    assert entry.reason.endswith("another machine sends beats in its name")
    texts = [alarm["text"] for alarm in alarms(later, Notices(), NOW)]
    assert "another machine sends beats as deb1: stop its daemon, and rename it" in texts


def test_a_node_takes_an_incarnation_above_what_its_slot_holds():
    """With disks alone no peer may be able to say what was accepted: the slot itself does."""
    state = node()
    after, effects = step(state, SlotFound(OWN_SLOT, 12, 900), NOW)
    assert (after.incarnation, after.sequence, after.found_at) == (13, 1, NOW)
    assert effects[0].stored.incarnation == 13
    assert only(effects, fx.SendNow)[0].beat.incarnation == 13
    (entry,) = [j for j in only(effects, fx.Journal) if j.text == "incarnation 7 -> 13"]
    assert (entry.kind, entry.reason) == ("node", f"its slot {OWN_SLOT} held 12: its store was lost")


def test_a_slot_of_the_same_incarnation_that_is_ahead_is_of_another_life():
    """Both lives began with 1, and the first was longer: its numbers must not be sent again."""
    state = node()
    after, _ = step(state, SlotFound(OWN_SLOT, 7, state.sequence + 1), NOW)
    assert (after.incarnation, after.sequence) == (8, 1)


@pytest.mark.parametrize("found", [(7, 0), (7, 50), (6, 9999), (1, 1)])
def test_a_slot_of_what_this_life_sent_or_of_an_earlier_one_changes_nothing(found):
    """A sender that begins anew after a reload finds our own words."""
    state = node()
    assert state.sequence >= 50
    after, effects = step(state, SlotFound(OWN_SLOT, *found), NOW)
    assert (after.incarnation, after.reborn_at, after.found_at) == (7, None, None)
    assert not any(isinstance(effect, (fx.Persist, fx.Journal)) for effect in effects)


def test_a_slot_is_no_word_of_a_peer():
    """It acknowledges nothing, renews no lease, makes nobody alive; what was acknowledged is void."""
    config = make_config(links=("net", "dio"))
    peer = make_peer(config, [make_entry(State.STOPPED)], Liveness.UNKNOWN)
    peer = replace(
        peer, acked=40, acked_at=NOW - 3, trusted_until=NOW + 1, holds_digest=b"x", claim=Claim(NOW - 1, NOW)
    )
    state = make_node(config, [make_instance(State.STOPPED)], peer)
    after, _ = step(state, SlotFound(OWN_SLOT, 12, 900), NOW)
    known = after.peers["deb2"]
    assert (known.acked, known.acked_at, known.trusted_until, known.holds_digest) == (0, None, 0.0, b"")
    assert known.claim is None or known.claim.sequence != 40
    assert known.liveness is Liveness.UNKNOWN
    assert known.links == peer.links
    assert after.lease == state.lease


def test_a_slot_that_a_machine_of_our_name_writes_is_an_alarm_and_no_flood():
    """As over a network: once it is a store that was lost, twice it is another machine."""
    state = node()
    state, _ = step(state, SlotFound(OWN_SLOT, 12, 1), NOW)
    soon, effects = step(state, SlotFound(OWN_SLOT, 14, 1), NOW + 1)
    assert (soon.incarnation, soon.twin_at) == (13, None)
    later, effects = step(replace(state, found_at=NOW - 11.0), SlotFound(OWN_SLOT, 14, 1), NOW + 1)
    assert (later.incarnation, later.twin_at) == (15, NOW + 1)
    (entry,) = [j for j in only(effects, fx.Journal) if j.text == "incarnation 13 -> 15"]
    assert entry.reason.endswith("another machine sends beats in its name")


def test_a_slot_that_is_behind_and_a_peer_that_knows_better_are_no_other_machine():
    """The disk missed the last life: each source is believed once before a name is in doubt."""
    state = node()
    state, _ = step(state, SlotFound(OWN_SLOT, 8, 1), NOW)
    state, _ = receive(state, make_beat(state.config, [make_entry(State.STOPPED)], us=12, acked=7))
    assert (state.incarnation, state.twin_at) == (13, None)


@pytest.mark.parametrize("phase", [Phase.RESTARTING, Phase.LEFT])
def test_a_last_word_is_acknowledged_anew_in_the_new_incarnation(phase):
    """Else an acknowledgement of any beat would count as one of the last word, or none would."""
    state = replace(node(), phase=phase, farewell=50, phase_until=NOW + 5, unconfirmed_from=50)
    after, _ = step(state, SlotFound(OWN_SLOT, 12, 900), NOW)
    assert (after.farewell, after.unconfirmed_from, after.sequence) == (1, 1, 1)


def test_maintenance_is_announced_anew_in_the_new_incarnation():
    """What peers know of a frozen instance counts from a beat that they can acknowledge."""
    config = make_config()
    frozen = make_instance(State.FROZEN_START, frozen_at=50)
    state = make_node(config, [frozen], make_peer(config, [make_entry(State.STOPPED)]))
    after, _ = step(state, SlotFound(OWN_SLOT, 12, 900), NOW)
    assert after.instances["svc1"].frozen_at == 1


def test_a_daemon_that_has_not_begun_takes_no_slot_in():
    """Its store is read first."""
    state = new_node(make_config())
    after, _ = step(state, SlotFound(OWN_SLOT, 12, 900), NOW)
    assert after.incarnation == 0


def test_a_node_that_lost_its_store_makes_its_offer_anew():
    """The old stamp would be settled by acknowledgements of another life."""
    config = make_config()
    state = make_node(
        config, [make_instance(State.START_READY)], make_peer(config, [make_entry(State.STOPPED)])
    )
    after, _ = receive(state, make_beat(config, [make_entry(State.STOPPED)], us=7, acked=900))
    assert after.instances["svc1"].state is State.START_READY
    assert (after.instances["svc1"].offer.incarnation, after.instances["svc1"].offer.sequence) == (8, 1)


# -- boot ------------------------------------------------------------------------------------


def booted(wait_for_peer_s, stored=None):
    """A node whose daemon starts at `NOW` with no service, so that it beats at once."""
    config = make_config(services=(), policies=Policies(wait_for_peer_s=wait_for_peer_s))
    state, _ = step(new_node(config), DaemonStarted(config, stored or Stored(), True), NOW)
    return state


def test_nobody_is_unknown_before_the_listeners_ran_for_the_timeout():
    """Whatever was stored: nothing is known at boot."""
    state, _, _ = wait(booted(0.0), TIMEOUT_S - 0.01)
    assert liveness(state) is Liveness.UNPROVEN
    assert liveness(wait(booted(0.0), TIMEOUT_S)[0]) is Liveness.UNKNOWN


def test_a_peer_not_heard_since_the_start_is_waited_for():
    """wait_for_peer counts from the daemon's start."""
    state, _, now = wait(booted(90.0), 89.9)
    assert liveness(state) is Liveness.WAITING
    assert liveness(wait(state, 0.1, now)[0]) is Liveness.UNKNOWN


def test_a_peer_heard_since_the_start_is_not_waited_for_again():
    """Heard once, its silence is judged by the timeout."""
    state = booted(90.0)
    beat = make_beat(state.config, [], sequence=1, incarnation=1, us=0)
    state, _ = receive(state, beat, NOW + 1.0)
    assert liveness(wait(state, TIMEOUT_S, NOW + 1.0)[0]) is Liveness.UNKNOWN


# -- promises --------------------------------------------------------------------------------


def promised(within_s=30.0):
    """A node whose peer announced the restart of its daemon at `NOW`."""
    state = node()
    beat = make_beat(state.config, [make_entry(State.STARTED)], restarting_for_s=within_s)
    return receive(state, beat)


def test_a_promise_is_stored_before_it_is_acknowledged():
    """A duration, counted from its receipt."""
    state, effects = promised()
    assert effects[0].stored.peers["deb2"].restarting_for_s == 30.0
    assert len(only(effects, fx.SendNow)) == 1
    assert state.peers["deb2"].promised_until == NOW + 30.0


def test_a_silent_peer_that_promised_is_waited_for_until_the_promise_runs_out():
    """Neither earlier nor later."""
    state, _, now = wait(promised()[0], 29.9)
    assert liveness(state) is Liveness.RESTARTING
    assert liveness(wait(state, 0.1, now)[0]) is Liveness.UNKNOWN


def test_a_promise_is_used_up_by_the_first_ordinary_beat():
    """The daemon is back: its next silence counts from its beats."""
    state, _ = promised()
    beat = make_beat(state.config, [make_entry(State.STARTED)], sequence=1, incarnation=4)
    state, effects = receive(state, beat, NOW + 2.0)
    assert effects[0].stored.peers["deb2"].restarting_for_s == 0.0
    assert liveness(wait(state, TIMEOUT_S, NOW + 2.0)[0]) is Liveness.UNKNOWN


def test_a_restarted_node_counts_a_stored_promise_anew():
    """It does not know how much of it was used up."""
    state = booted(0.0, Stored(peers={"deb2": StoredPeer(3, 30.0)}))
    state, _, now = wait(state, 29.9)
    assert liveness(state) is Liveness.RESTARTING
    assert liveness(wait(state, 0.1, now)[0]) is Liveness.UNKNOWN


# -- maintenance -----------------------------------------------------------------------------


def test_a_peers_freeze_start_is_stored_before_it_is_acknowledged():
    """So that the promise survives a restart of this node's daemon."""
    state = node()
    after, effects = receive(state, make_beat(state.config, [make_entry(State.FROZEN_START, sequence=2)]))
    assert effects[0].stored.peers["deb2"].maintenance == ("svc1",)
    assert len(only(effects, fx.SendNow)) == 1
    again, _ = receive(after, make_beat(state.config, [make_entry(State.STARTED, sequence=3)], 61))
    assert again.peers["deb2"].maintenance == frozenset()


def test_a_stored_maintenance_holds_after_a_restart():
    """The peer is not heard: what it said last, as stored, stands."""
    state = booted(0.0, Stored(peers={"deb2": StoredPeer(3, 0.0, ("svc1",))}))
    assert state.peers["deb2"].maintenance == frozenset({"svc1"})


# -- last words ------------------------------------------------------------------------------


def last_word(state, now=NOW, sequence=60, **rest):
    """The peer says LEFT, everything stopped."""
    beat = make_beat(state.config, [make_entry(State.STOPPED, sequence=9)], sequence, left=True, **rest)
    return receive(state, beat, now)


def test_a_last_word_that_acknowledges_a_young_beat_is_leave_at_once():
    """The peer left in order: nothing of it runs, and it heard us just now."""
    state, effects = last_word(node(), acked=200)
    assert liveness(state) is Liveness.LEFT
    assert state.instances["svc1"].state is State.STARTING
    assert len(only(effects, fx.SendNow)) == 1


def test_a_last_word_that_acknowledges_an_old_beat_is_silence():
    """Found in a slot, or taken from a queue after a pause: full timeout."""
    state, _ = last_word(replace(node(), last_at=NOW + 3.0), NOW + 3.0, acked=200)
    assert liveness(state) is Liveness.ALIVE
    assert state.instances["svc1"].state is State.START_READY


def test_a_last_word_is_leave_only_for_a_while():
    """After 0.6 of the timeout it permits nothing any more, and silence is not yet proven."""
    config = make_config(services=())
    state = make_node(config, [], make_peer(config))
    state, _ = receive(state, make_beat(config, [], left=True, acked=200))
    assert liveness(state) is Liveness.LEFT
    state, _, now = wait(state, 3.0)
    assert liveness(state) is Liveness.UNPROVEN
    assert liveness(wait(state, 2.0, now)[0]) is Liveness.UNKNOWN


@pytest.mark.parametrize("takeover_frozen", [False, True])
def test_a_service_that_the_leaving_node_could_not_stop_is_not_started_elsewhere(takeover_frozen):
    """Neither at once nor after any timeout: an operator confirms the node dead."""
    state = node()
    policies = Policies(wait_for_peer_s=0.0, takeover_frozen=takeover_frozen)
    state = replace(state, config=replace(state.config, policies=policies))
    beat = make_beat(state.config, [make_entry(State.STOP_FAILED, sequence=9)], left=True, acked=200)
    state, _ = receive(state, beat)
    state, effects, _ = wait(state, 20 * TIMEOUT_S)
    assert only(effects, fx.RunAction) == []
    assert state.instances["svc1"].state is State.STOPPED


# -- stalls ----------------------------------------------------------------------------------


def test_a_gap_between_two_steps_is_a_stall_and_silence_counts_anew():
    """This node did not run: what it did not hear meanwhile is no silence of the peer."""
    state, effects = step(node(), Ticked(), NOW + 100.0)
    assert "stall" in [j.kind for j in only(effects, fx.Journal)]
    assert liveness(state) is Liveness.UNPROVEN
    assert only(effects, fx.RunAction) == []
    state, _, _ = wait(state, TIMEOUT_S, NOW + 100.0)
    assert liveness(state) is Liveness.UNKNOWN


def test_a_stall_that_the_shell_detects_counts_too():
    """The process ran late although its timer was in time."""
    state, _ = step(node(), StallDetected(7.0), NOW)
    assert liveness(wait(state, TIMEOUT_S - 0.1)[0]) is not Liveness.UNKNOWN


def test_after_waking_states_are_unconfirmed_until_a_beat_sent_since_is_acknowledged():
    """The daemon keeps announcing the true state, marked."""
    state = node(own=State.STARTED, peer_state=State.STOPPED)
    state, effects = step(state, Ticked(), NOW + 100.0)
    woken = only(effects, fx.SendNow)[0].beat
    assert [(e.state, e.confirmed) for e in woken.table] == [(State.STARTED, False)]
    entries = [make_entry(State.STOPPED)]
    state, _ = receive(state, make_beat(state.config, entries, 61, acked=woken.sequence - 1), NOW + 100.1)
    assert state.unconfirmed_from is not None
    state, effects = receive(state, make_beat(state.config, entries, 62, acked=woken.sequence), NOW + 100.2)
    assert state.unconfirmed_from is None
    assert [e.confirmed for e in only(effects, fx.SendNow)[0].beat.table] == [True]


def test_a_last_word_read_before_a_stall_is_silence_after_it():
    """A permission does not keep while a node sleeps."""
    state = node(peer_state=State.STOP_FAILED)
    beat = make_beat(state.config, [make_entry(State.STOP_FAILED)], left=True, acked=200)
    state, _ = receive(state, beat)
    assert liveness(state) is Liveness.LEFT
    state, _ = step(state, StallDetected(1.0), NOW + 0.1)
    assert liveness(state) is not Liveness.LEFT


# -- the rhythm ------------------------------------------------------------------------------


@pytest.mark.parametrize(("timeout_s", "interval_s"), [(10.0, 1.0), (5.0, 1.0), (2.0, 0.4), (0.2, 0.04)])
def test_a_beat_is_sent_every_second_or_every_fifth_of_a_shorter_timeout(timeout_s, interval_s):
    """The timer that core arms is the next beat's, or an earlier change."""
    config = make_config(timeout_s=timeout_s)
    assert config.beat_interval_s == pytest.approx(interval_s)
    state = make_node(config, [make_instance(State.STARTED)], make_peer(config, [make_entry(State.STOPPED)]))
    _, effects = step(state, Ticked(), NOW + interval_s)
    assert len(only(effects, fx.SendNow)) == 1
    assert only(effects, fx.ArmTimer)[0].at == pytest.approx(NOW + 2 * interval_s)


def test_a_node_that_runs_nothing_answers_a_beat_of_its_peer_at_once():
    """So that the acknowledgement, and the lease that it renews, is as young as it can be."""
    config = make_config()
    peer = make_peer(config, [make_entry(State.STARTED)])
    state = make_node(config, [make_instance(State.STOPPED)], peer)
    beat = make_beat(config, [make_entry(State.STARTED)], sequence=60)
    state, effects = receive(state, beat, NOW + 1.0)
    assert only(effects, fx.SendNow)[0].beat.hearings[0].sequence == 60
    assert only(effects, fx.ArmTimer)[0].at == pytest.approx(NOW + 1.0 + 1.1), (
        "the next of the peer comes before"
    )
    state, effects = receive(state, beat, NOW + 1.9)
    assert not only(effects, fx.SendNow), "over another link, the same beat is no news"
    state, effects = receive(state, replace(beat, sequence=61), NOW + 2.0)
    assert only(effects, fx.SendNow)[0].beat.hearings[0].sequence == 61
    _, effects = receive(state, replace(beat, sequence=62), NOW + 2.4)
    assert not only(effects, fx.SendNow), "its own last beat was too short a time ago"


def test_a_node_that_runs_something_keeps_its_own_pace():
    """Its beats are those that are answered; two that answered each other would only make noise."""
    config = make_config()
    state = make_node(config, [make_instance(State.STARTED)], make_peer(config, [make_entry(State.STOPPED)]))
    beat = make_beat(config, [make_entry(State.STOPPED)], sequence=60)
    _, effects = receive(state, beat, NOW + 0.9)
    assert not only(effects, fx.SendNow)
    assert only(effects, fx.ArmTimer)[0].at == pytest.approx(NOW + 1.0)


def test_a_peers_new_life_is_not_told_what_was_heard_of_the_one_before():
    """On a link where only the old life was heard, its sequence would look like a beat of now."""
    config = make_config(links=("net", "dio"))
    state = make_node(config, [make_instance(State.STOPPED)], make_peer(config, [make_entry(State.STARTED)]))
    beat = make_beat(config, [make_entry(State.STARTED)], sequence=1, incarnation=4)
    state, _ = receive(state, beat, NOW + 1.0)
    (hearing,) = make_our_beat(state).hearings
    assert [heard.sequence for heard in hearing.links] == [1, 0]


def test_maintenance_is_kept_while_a_restarted_peer_does_not_name_the_service_yet():
    """A daemon that still asks its agent has not said otherwise."""
    world = World((make_config(NODES[0]), make_config(NODES[1])))
    for name in NODES:
        world.boot(name)
    world.run(2)
    world.command(NODES[1], "svc1", Verb.UNFREEZE)
    world.run(3)
    world.command(NODES[1], "svc1", Verb.FREEZE_START)
    world.command(NODES[0], "svc1", Verb.UNFREEZE)
    world.run(3)
    assert world.hosts[NODES[0]].core.peers[NODES[1]].maintenance == {"svc1"}
    world.kill_daemon(NODES[1])
    world.action_s[(NODES[1], "svc1", ActionVerb.VERIFY)] = 30.0
    world.boot(NODES[1], booted=False)
    world.run(5)
    assert world.hosts[NODES[0]].core.peers[NODES[1]].maintenance == {"svc1"}
    world.kill(NODES[1])
    world.run(60)
    assert world.state(NODES[0], "svc1") == "STOPPED"
