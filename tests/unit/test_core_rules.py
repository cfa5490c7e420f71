"""The decision table over the whole product of what it looks at, and against OpenHA's own table."""

from __future__ import annotations

import functools
import gc
import itertools

import pytest

from opensvc_hb.core.node_state import Liveness
from opensvc_hb.core.rules import RULES, Guard, Lapse, Order, Situation, Verdict, decide, strictest
from opensvc_hb.core.states import FROZEN, PERMISSIVE, Role, State

BOOLEANS = (False, True)
pytestmark = pytest.mark.xdist_group("whole product")
"""It takes seconds to make: one process does."""

ACTIVE = frozenset({State.STARTED, State.STARTING, State.FROZEN_START})


@functools.cache
def whole_product():
    """Every situation there is without a lease, with one, and against a node that runs the C program.

    Each with the row that decides it.
    """
    without = itertools.product(
        State, Role, Liveness, State, BOOLEANS, Order, BOOLEANS, BOOLEANS, BOOLEANS, BOOLEANS
    )
    no, none = (False,), (Order.NONE,)
    leased = itertools.product(
        State, Role, Liveness, State, no, none, BOOLEANS, BOOLEANS, no, BOOLEANS, Lapse, BOOLEANS, Guard
    )
    legacy = itertools.product(
        State,
        Role,
        Liveness,
        State,
        no,
        tuple(Order),
        no,
        no,
        no,
        BOOLEANS,
        (Lapse.NONE,),
        no,
        (Guard.NONE,),
        BOOLEANS,
    )
    product = itertools.chain(without, leased, legacy)
    made = tuple((situation, decide(situation)) for situation in itertools.starmap(Situation, product))
    gc.freeze()  # three quarters of a million: no collection of a later test needs to look at them
    return made


def situations(*verdicts):
    """The situations in which one of these verdicts falls."""
    return [situation for situation, rule in whole_product() if rule.verdict in verdicts]


def test_the_table_has_a_row_for_every_situation():
    """Nothing that can happen is left without an answer."""
    leased = 11 * 2 * 8 * 11 * 2 * 2 * 2 * 3 * 2 * 6
    legacy = 11 * 2 * 8 * 11 * 4 * 2 * 2
    assert len(whole_product()) == 11 * 2 * 8 * 11 * 2 * 4 * 2 * 2 * 2 * 2 + leased + legacy


def test_every_row_is_reached():
    """No row is hidden behind those above it."""
    assert {rule.id for _, rule in whole_product()} == {rule.id for rule in RULES}


def test_ids_are_unique_and_every_row_has_a_sentence():
    """The id shown in the journal finds one row, whose sentence reads as such."""
    assert len({rule.id for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert len(rule.sentence) > 10
        assert not rule.sentence.endswith(".")


# -- safety, over the whole product ----------------------------------------------------------


def test_only_an_idle_or_offering_instance_begins_to_start():
    """Frozen, failed, running, forced: none of them is ever started by the table."""
    idle = {State.STOPPED, State.UNKNOWN}
    assert {s.own for s in situations(Verdict.OFFER)} == idle
    assert {s.own for s in situations(Verdict.START)} == idle | {State.START_READY}


def test_a_start_needs_an_acknowledgement_or_a_peer_that_is_gone():
    """Each way to a start asks for all of its conditions; a service of one node alone has no peer."""
    for s in situations(Verdict.START):
        answered = s.settled or s.aged
        acknowledged = (
            s.liveness is Liveness.ALIVE and s.peer in PERMISSIVE and answered and s.own is State.START_READY
        )
        left = s.liveness is Liveness.LEFT and s.peer in PERMISSIVE
        unguarded = s.guard is Guard.NONE and s.liveness is Liveness.UNKNOWN
        claimed = s.guard is Guard.PASSED and s.liveness in (Liveness.UNKNOWN, Liveness.WAITING)
        silent = (unguarded or claimed) and not s.maintenance and not s.ask
        alone = s.liveness is Liveness.NOBODY
        assert acknowledged or left or silent or alone, s


def test_an_offer_needs_a_peer_that_is_heard_and_stopped_or_a_secondary_that_offers():
    """An offer is no more than a question, but it is not asked in vain."""
    for s in situations(Verdict.OFFER):
        assert s.liveness is Liveness.ALIVE, s
        answers = s.peer is State.START_READY and s.role is Role.PRIMARY
        assert s.peer in PERMISSIVE or answers, s


@pytest.mark.parametrize(
    "liveness", [Liveness.UNPROVEN, Liveness.WAITING, Liveness.RESTARTING, Liveness.ONE_WAY]
)
def test_nothing_begins_while_the_peer_may_live(liveness):
    """A peer neither heard in both directions nor known to be gone permits nothing."""
    found = [s for s in situations(Verdict.START, Verdict.OFFER) if s.liveness is liveness]
    # A lease that has run out settles it for a peer that never came.
    assert all(liveness is Liveness.WAITING and s.guard is Guard.PASSED for s in found)


def test_a_daemon_that_goes_starts_nothing():
    """Stopping or leaving: no start, no offer, and an offer that is out is taken back."""
    assert not [s for s in situations(Verdict.START, Verdict.OFFER, Verdict.WAIT) if s.going]
    for situation, rule in whole_product():
        if situation.going and situation.own is State.START_READY:
            assert rule.verdict is Verdict.WITHDRAW


def test_a_service_switched_away_is_left_to_the_peer_while_it_is_heard():
    """The side that was switched does not offer; a peer that is gone is taken over from as ever."""
    for s in situations(Verdict.START, Verdict.OFFER):
        own_offer = s.own is State.START_READY
        assert not s.handing or s.liveness is not Liveness.ALIVE or own_offer, s


def test_a_lease_that_ran_out_ends_what_runs_and_starts_nothing():
    """Whatever the peer says: what runs ends, and nothing is started before it has ended."""
    for situation, rule in whole_product():
        if situation.lapse is not Lapse.NONE and situation.own in ACTIVE:
            assert rule.verdict is Verdict.END, situation
        if situation.broken and situation.liveness is not Liveness.NOBODY:
            assert rule.verdict not in (Verdict.START, Verdict.OFFER, Verdict.CLAIM), situation


def test_only_a_lapse_ends():
    """Nothing but a lease that ran out, or standing still, ends a service by itself."""
    for s in situations(Verdict.END):
        assert s.lapse is not Lapse.NONE
        assert s.own in ACTIVE


def test_a_claim_is_begun_against_silence_only():
    """A peer that is heard is asked by an offer."""
    for s in situations(Verdict.CLAIM):
        assert s.liveness in (Liveness.UNKNOWN, Liveness.WAITING)
        assert s.guard is Guard.WANTED
        assert not s.maintenance
        assert not s.ask


def test_only_a_double_start_yields():
    """Nothing but the other side's higher claim ever stops a service that runs."""
    for s in situations(Verdict.YIELD):
        assert s.own in ACTIVE
        assert s.peer in ACTIVE
        assert s.order is Order.LOWER
        assert s.liveness in (Liveness.ALIVE, Liveness.ONE_WAY), "a record of the dead yields nothing"


def test_exactly_one_side_of_a_double_start_yields():
    """The order is total: whatever the two states and roles, one stops and one stays."""
    for own, peer, role in itertools.product(ACTIVE, ACTIVE, Role):
        other = Role.SECONDARY if role is Role.PRIMARY else Role.PRIMARY
        here = decide(Situation(own, role, Liveness.ALIVE, peer, order=Order.LOWER))
        there = decide(Situation(peer, other, Liveness.ALIVE, own, order=Order.HIGHER))
        assert [here.verdict, there.verdict] == [Verdict.YIELD, Verdict.HOLD]


def test_an_offer_that_nobody_may_answer_is_taken_back():
    """START_READY is transient: it starts, waits for a peer that is heard, or is withdrawn."""
    for situation, rule in whole_product():
        if situation.own is State.START_READY:
            assert rule.verdict in (Verdict.START, Verdict.CLAIM, Verdict.WAIT, Verdict.WITHDRAW)
            if rule.verdict is Verdict.WAIT:
                assert situation.liveness is Liveness.ALIVE or situation.guard is Guard.ASKED


def test_only_an_offer_waits_or_is_withdrawn():
    """WITHDRAW speaks of an offer that is out, WAIT of that or of a claim."""
    assert {s.own for s in situations(Verdict.WITHDRAW)} == {State.START_READY}
    unclaimed = {s.own for s in situations(Verdict.WAIT) if s.guard is not Guard.ASKED}
    assert unclaimed == {State.START_READY}


def test_frozen_instances_are_held_unless_a_double_start_heals_or_the_lease_runs_out():
    """Only an operator moves them; what the peer has, or may start, is the exception."""
    for situation, rule in whole_product():
        if situation.own in FROZEN and rule.verdict is not Verdict.HOLD:
            assert rule.verdict in (Verdict.YIELD, Verdict.END)
            assert situation.own is State.FROZEN_START


def test_between_two_offers_the_primary_goes_first():
    """Whoever reads the other's offer: the secondary withdraws, the primary waits for that."""
    for liveness, settled in itertools.product([Liveness.ALIVE], BOOLEANS):
        offers = State.START_READY
        primary = decide(Situation(offers, Role.PRIMARY, liveness, offers, settled))
        secondary = decide(Situation(offers, Role.SECONDARY, liveness, offers, settled))
        assert (primary.verdict, secondary.verdict) == (Verdict.WAIT, Verdict.WITHDRAW)


def test_the_strictest_of_several_peers_counts():
    """A start against one peer is held by another."""
    rules = {rule.id: rule for rule in RULES}
    assert strictest([rules["U8"], rules["S4"]]) is rules["S4"]
    assert strictest([rules["S1"], rules["U8"]]) is rules["S1"]


# -- against OpenHA's table ------------------------------------------------------------------


def openha_starts(own, peer):
    """OpenHA's whole table: own STOPPED or UNKNOWN starts against STOPPED, FROZEN_STOP, UNKNOWN."""
    return own in (0, 8) and peer in (0, 6, 8)


def as_openha_sees_it(situation):
    """The peer's state in OpenHA's files: UNKNOWN as soon as no link is UP, else what it said."""
    heard = situation.liveness in (Liveness.ALIVE, Liveness.ONE_WAY)
    return int(situation.peer.openha) if heard else int(State.UNKNOWN)


HELD_WHERE_OPENHA_STARTS = {
    "G2": "a daemon that stops begins nothing",
    "W1": "a service switched away is left to the peer",
    "S6": "an UNKNOWN that is announced permits nothing",
    "S7": "a peer that does not hear us lives",
    "U1": "silence is counted from the daemon's start, and from waking",
    "U2": "a node that boots alone waits for its peer",
    "U3": "a daemon's restart is announced and waited for",
    "U5": "a node that left may have failed to stop it",
    "U6": "an instance frozen while started is not taken over",
    "U7": "takeover = ask",
    "L4": "what ran here without a lease ends first",
    "U9": "a lease that has not run out is waited for",
    "U10": "OpenHA has no lease to claim",
    "U11": "a claim takes as long as the disk does",
    "U13": "a lease that cannot be had permits nothing",
}

STARTED_WHERE_OPENHA_DOES_NOTHING = {
    "C1": "an offer to the C program becomes a start at the end of its 5 s, as OpenHA's own does",
    "S2": "the primary answers a secondary's offer: OpenHA decides that in its 5 s, by rolling back",
    "N1": "an offer becomes a start: OpenHA does that at the end of its 5 s",
    "U0": "an offer becomes a start: no other node may run it any more",
    "U4": "an offer becomes a start: the peer left meanwhile",
    "U8": "an offer becomes a start: the peer fell silent meanwhile",
    "U12": "an offer becomes a start: the peer fell silent meanwhile, and its lease was had",
}

STOPPED_WHERE_OPENHA_DOES_NOTHING = {
    "H1": "OpenHA leaves two STARTED for ever",
    "L1": "OpenHA has no lease: a node that is cut off runs on while the other takes over",
    "L2": "OpenHA does not notice that it stood still",
}


def test_the_table_refines_openha_and_every_difference_is_listed():
    """Where both say the same nothing is listed, and each row listed does differ somewhere."""
    held, started, stopped = set(), set(), set()
    for situation, rule in whole_product():
        theirs = openha_starts(int(situation.own.openha), as_openha_sees_it(situation))
        ours = rule.verdict in (Verdict.START, Verdict.OFFER)
        if theirs and not ours:
            held.add(rule.id)
        if ours and not theirs:
            started.add(rule.id)
        if rule.verdict in (Verdict.YIELD, Verdict.END):
            stopped.add(rule.id)
    assert held == set(HELD_WHERE_OPENHA_STARTS)
    assert started == set(STARTED_WHERE_OPENHA_DOES_NOTHING)
    assert stopped == set(STOPPED_WHERE_OPENHA_DOES_NOTHING)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("own", [s for s in State if s is not State.FROZEN_START])
@pytest.mark.parametrize("peer", [s for s in State if s is not State.FROZEN_START])
def test_without_any_refinement_openhas_table_holds(own, peer, role):
    """Peer alive (or silent, where UNKNOWN), nothing special: the 200 combinations, both roles."""
    if peer is State.UNKNOWN:
        situation = Situation(own, role, Liveness.UNKNOWN, peer)
    else:
        situation = Situation(own, role, Liveness.ALIVE, peer)
    begins = decide(situation).verdict in (Verdict.START, Verdict.OFFER)
    in_the_middle = own is State.START_READY and peer is State.UNKNOWN
    answers = own in (State.STOPPED, State.UNKNOWN) and peer is State.START_READY and role is Role.PRIMARY
    assert begins == (openha_starts(int(own), int(peer)) or in_the_middle or answers)
