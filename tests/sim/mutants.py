"""Safety rules, broken one at a time, by an edit of the very lines that keep them.

A mutant names the clause that it breaks, where it stands, the text there and what becomes of it.
The text must be found exactly once: a mutant that no longer fits the code says so. `applied`
changes the function in place, for whoever imported it, and puts it back.
"""

from __future__ import annotations

import contextlib
import inspect
import textwrap
from dataclasses import dataclass, replace
from typing import Callable, Optional, Tuple

from opensvc_hb.core import (
    adoption,
    healing,
    lease,
    membership,
    messages,
    monitoring,
    negotiation,
    outcome,
    rules,
    step,
    turn,
)
from opensvc_hb.core.rules import Verdict
from opensvc_hb.sim import disks
from opensvc_hb.sim.faults import Profile


@dataclass(frozen=True)
class Edit:
    """In a function, this text becomes another."""

    function: Callable
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """One broken rule: `edits`, or a `row` of the table that gets another verdict; None takes it away.

    Looked for in the runs of `profile` from `seed` on, with these `plots` only where some are named.
    """

    name: str
    clause: str
    profile: Profile
    edits: Tuple[Edit, ...] = ()
    row: str = ""
    verdict: Optional[Verdict] = None
    plots: Tuple[str, ...] = ()
    seed: int = 1

    def __str__(self):
        return self.name


@contextlib.contextmanager
def applied(mutant):
    """Break the rule inside, mend it afterwards."""
    with contextlib.ExitStack() as broken:
        if mutant.row:
            broken.enter_context(_altered_row(mutant.row, mutant.verdict))
        for edit in mutant.edits:
            broken.enter_context(_edited(edit))
        yield


@contextlib.contextmanager
def _altered_row(row, verdict):
    whole = rules.RULES
    assert any(rule.id == row for rule in whole), f"no row {row}"
    kept = [rule for rule in whole if rule.id != row or verdict is not None]
    rules.RULES = tuple(replace(r, verdict=verdict) if r.id == row else r for r in kept)
    try:
        yield
    finally:
        rules.RULES = whole


@contextlib.contextmanager
def _edited(edit):
    function = edit.function
    source = textwrap.dedent(inspect.getsource(function))
    assert source.count(edit.old) == 1, f"not once in {function.__qualname__}: {edit.old}"
    made = {}
    text = "from __future__ import annotations\n" + source.replace(edit.old, edit.new)
    exec(compile(text, f"<broken {function.__qualname__}>", "exec"), function.__globals__, made)
    whole = function.__code__
    function.__code__ = made[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = whole


MUTANTS = (
    # 3. Offers.
    Mutant(
        "an offer needs no acknowledgement",
        "an offer becomes a start only when a beat acknowledges its stamp",
        Profile.CHAOS,
        edits=(Edit(negotiation.offer_is_settled, "and peer.acked >= offer.sequence", ""),),
    ),
    Mutant(
        "an acknowledgement of another table",
        "states and acknowledgements are one snapshot",
        Profile.CHAOS,
        plots=("bare_return",),
        edits=(Edit(negotiation.offer_is_settled, "peer.table_current\n        and ", ""),),
    ),
    Mutant(
        "an acknowledgement without age",
        "a permission ages from the sending of our own beat that it answers",
        Profile.CHAOS,
        plots=("asleep_while_asking",),
        seed=2,
        edits=(
            Edit(
                membership._heard_of_us,
                "trusted = max(trusted, at + PERMISSION_SHARE * timeout_s)",
                "trusted = turn.now + PERMISSION_SHARE * timeout_s",
            ),
        ),
    ),
    Mutant(
        "an acknowledgement to an earlier life",
        "an offer is stamped with its incarnation",
        Profile.LOSSY,
        plots=("daemon_killed", "weather", "restart"),
        seed=12,
        edits=(
            Edit(
                membership._heard_of_us,
                "if hearing.incarnation != state.incarnation:\n        return peer",
                "",
            ),
            Edit(turn.sent_at, "if sequence > state.sequence:\n        return None", ""),
        ),
    ),
    Mutant(
        "a start that may begin for ever",
        "a start inherits its permission's age",
        Profile.CHAOS,
        plots=("slow_store",),
        seed=2,
        edits=(Edit(negotiation._permitted_until, "return min(moments, default=None)", "return None"),),
    ),
    Mutant(
        "an announced UNKNOWN permits",
        "an announced UNKNOWN permits nothing",
        Profile.CHAOS,
        plots=("slow_to_verify",),
        row="S6",
        verdict=Verdict.START,
    ),
    Mutant(
        "it starts what the peer has",
        "the peer is alive and has it",
        Profile.QUIET,
        row="S4",
        verdict=Verdict.START,
    ),
    # 5. The lease.
    Mutant(
        "read back skipped",
        "a slot write that was read back",
        Profile.DISK,
        plots=("lost_writes",),
        edits=(Edit(disks.Writer._written, "elif self._skips_read_back:", "elif True:"),),
    ),
    Mutant(
        "a lease without age",
        "a lease counts from before the sending of the beat that was acknowledged",
        Profile.CHAOS,
        plots=("slow_answers",),
        seed=8,
        edits=(Edit(lease.acknowledged, "min(known)", "turn.now"),),
    ),
    Mutant(
        "a write counts from its end",
        "a lease counts from before the slot write",
        Profile.DISK,
        plots=("slow_writes",),
        seed=5,
        edits=(Edit(lease.slot_written, "_renew(state, event.began_at,", "_renew(state, turn.now,"),),
    ),
    Mutant(
        "a lease acknowledged long ago",
        "the deadline is 0.6 T",
        Profile.PARTITION,
        plots=("isolated",),
        edits=(Edit(lease._renew, "END_SHARE * timeout_s", "1.6 * timeout_s"),),
    ),
    Mutant(
        "nobody tells the guardian",
        "the guardian is armed before the start, fed with each renewal",
        Profile.QUIET,
        edits=(Edit(step._guarded, "if order is None or not", "if True or not"),),
    ),
    Mutant(
        "claim not looked at again",
        "it writes its claim, reads it back, then issues a new read of the other slot",
        Profile.DISK,
        plots=("both_boot_apart",),
        edits=(
            Edit(
                lease.slot_written,
                "_look(turn, replace(peer, claim=claim), claim)",
                "turn.put_peer(replace(peer, claim=replace(claim, passed=True))); turn.all_dirty()",
            ),
        ),
    ),
    Mutant(
        "claim not written",
        "it writes its claim, reads it back",
        Profile.DISK,
        plots=("power_cut",),
        edits=(
            Edit(
                lease._weigh,
                "turn.put_peer(replace(peer, claim=replace(claim, seen=slot, sequence=turn.next_sequence)))",
                "turn.put_peer(replace(peer, claim=replace(claim, seen=slot, passed=True, "
                "written_at=turn.now)))",
            ),
        ),
    ),
    Mutant(
        "its own T",
        "where T differs a contender uses the larger",
        Profile.PARTITION,
        plots=("isolated",),
        seed=13,
        edits=(
            Edit(
                lease.contender_timeout_s,
                "max(state.config.longest_timeout_s, peer.longest_timeout_s, said)",
                "min(state.config.longest_timeout_s, peer.longest_timeout_s or 9999.0, said or 9999.0)",
            ),
        ),
    ),
    Mutant(
        "a restart that forgets the lease's age",
        "a new daemon inherits the lease's age",
        Profile.DISK,
        plots=("isolated",),
        seed=4,
        edits=(
            Edit(
                adoption._inherited_lease,
                "return lease.inherited(until, event.lease_timeout_s, is_unknown)",
                "return lease.inherited(now + 0.6 * event.config.longest_timeout_s, 0.0, is_unknown=False)",
            ),
        ),
    ),
    Mutant(
        "the lease ends nothing",
        "at 0.6 T it starts to end its instances",
        Profile.PARTITION,
        plots=("isolated",),
        row="L1",
    ),
    Mutant(
        "no claim",
        "a contender claims",
        Profile.PARTITION,
        plots=("isolated",),
        seed=2,
        row="U11",
        verdict=Verdict.START,
    ),
    # 6. Timeouts that change while leases run, and what is said while the store fails.
    Mutant(
        "a longer T counts at once",
        "a longer timeout counts from the first beat that tells it",
        Profile.RELOAD,
        plots=("timeouts",),
        edits=(
            Edit(
                lease.reconfigured,
                "turn.update(longer_from=turn.next_sequence, shorter_timeout_s=shorter_s)",
                "pass",
            ),
        ),
    ),
    Mutant(
        "a longer T for every beat",
        "a renewal counts with the timeout that its beat told",
        Profile.RELOAD,
        plots=("timeouts",),
        edits=(Edit(lease._told_timeout_s, "if sequence < state.longer_from", "if False"),),
    ),
    Mutant(
        "a shorter T cuts no lease",
        "a shorter timeout counts at once",
        Profile.RELOAD,
        plots=("timeouts",),
        seed=5,
        edits=(Edit(lease.reconfigured, "elif new_s < old_s and", "elif False and"),),
    ),
    Mutant(
        "a contender's T alone",
        "a contender uses the longer of both timeouts, as it read them last",
        Profile.RELOAD,
        plots=("timeouts",),
        seed=6,
        edits=(
            Edit(
                lease.contender_timeout_s,
                "max(state.config.longest_timeout_s, peer.longest_timeout_s, said)",
                "state.config.longest_timeout_s",
            ),
        ),
    ),
    Mutant(
        "a guardian that counts with the new T",
        "the guardian's deadlines follow the timeout of the lease that they end",
        Profile.RELOAD,
        plots=("timeouts",),
        edits=(Edit(lease.order_for, "min(timeout_s, state.lease.timeout_s or timeout_s)", "timeout_s"),),
    ),
    Mutant(
        "a permission as old as the longer T allows",
        "a permission is void before the peer, which may count with a shorter timeout, takes us for dead",
        Profile.RELOAD,
        plots=("asleep_with_a_longer_timeout",),
        seed=2,
        edits=(
            Edit(
                membership._heard_of_us,
                "min(timeouts[heard.tag], peer.longest_timeout_s or timeouts[heard.tag])",
                "max(timeouts[heard.tag], peer.longest_timeout_s)",
            ),
        ),
    ),
    Mutant(
        "a repeated beat without the newest promise",
        "who acknowledges a beat that repeats what was announced has read our newest promise",
        Profile.RELOAD,
        plots=("unstored",),
        edits=(Edit(messages.repeated, "        restarting_for_s=newest.restarting_for_s,\n", ""),),
    ),
    Mutant(
        "a repeated beat without the newest T",
        "who acknowledges a beat that repeats what was announced has read our newest timeout",
        Profile.RELOAD,
        plots=("longer_while_unstored",),
        seed=3,
        edits=(Edit(messages.repeated, "        longest_timeout_s=newest.longest_timeout_s,\n", ""),),
    ),
    Mutant(
        "maintenance that nobody was told of",
        "maintenance needs no lease once every peer holds the very table that says so",
        Profile.RELOAD,
        plots=("unstored",),
        seed=3,
        edits=(Edit(lease.excuse, " and p.holds_digest == summary.digest", ""),),
    ),
    Mutant(
        "what an earlier daemon had guarded",
        "until the agent has said what runs here, that is what the guardian holds",
        Profile.RELOAD,
        plots=("undeclared",),
        edits=(Edit(lease._guarded, "if not state.left_guarded:", "if True:"),),
    ),
    # 7. Booting.
    Mutant(
        "silent since ever",
        "no peer is UNKNOWN before the listeners have run for the timeout since this daemon started",
        Profile.QUIET,
        edits=(Edit(membership.new_peer, "silent_from=now", "silent_from=-1e9"),),
    ),
    Mutant(
        "epochs are not learned",
        "a start takes an epoch above all seen",
        Profile.QUIET,
        edits=(Edit(membership._note_changes, "if seen > instance.highest_epoch:", "if False:"),),
    ),
    Mutant(
        "the same epoch again",
        "a start takes one more than the highest seen",
        Profile.QUIET,
        edits=(
            Edit(
                negotiation.start,
                "max(instance.epoch, instance.highest_epoch) + 1",
                "max(instance.epoch, instance.highest_epoch)",
            ),
        ),
    ),
    Mutant(
        "the same incarnation again",
        "incarnations never repeat",
        Profile.QUIET,
        edits=(Edit(adoption.begin, "event.stored.incarnation + 1", "max(1, event.stored.incarnation)"),),
    ),
    # 8. Freezing.
    Mutant(
        "frozen but started",
        "a frozen instance is started by nobody",
        Profile.QUIET,
        row="O4",
        verdict=Verdict.OFFER,
    ),
    Mutant(
        "maintenance is not held",
        "the peer holds its takeover",
        Profile.QUIET,
        plots=("maintenance",),
        row="U6",
        verdict=Verdict.START,
    ),
    Mutant(
        "maintenance is forgotten",
        "the peer persists the word before acknowledging it",
        Profile.QUIET,
        plots=("maintenance",),
        edits=(
            Edit(membership._note_maintenance, "return replace(peer, maintenance=frozen)", "return peer"),
        ),
    ),
    # 9. Stalls.
    Mutant(
        "stall detection off",
        "a stall restarts the count for what this node would start",
        Profile.QUIET,
        plots=("daemon_paused",),
        seed=5,
        edits=(Edit(membership.woke, "for peer in list(turn.peers.values()):", "for peer in ():"),),
    ),
    Mutant(
        "silence before all is processed",
        "silence counts only when everything already received has been processed",
        Profile.LOSSY,
        plots=("late_listeners",),
        seed=7,
        edits=(Edit(membership._drain, "frozenset(peer.links)", "frozenset()"),),
    ),
    # 10. Healing.
    Mutant(
        "the healing order is not total",
        "the order is total, so that exactly one yields",
        Profile.PARTITION,
        plots=("both_boot_apart",),
        seed=7,
        edits=(
            Edit(
                healing.order,
                "Order.HIGHER if goes_first(service, node, peer, agreed) else Order.LOWER",
                "Order.HIGHER",
            ),
        ),
    ),
    Mutant(
        "epoch ignored",
        "the order is epoch, then primary before secondary",
        Profile.PARTITION,
        plots=("isolated",),
        edits=(Edit(healing.order, "ours == theirs", "own.state is not None"),),
    ),
    Mutant(
        "nobody yields",
        "the lower one stops",
        Profile.PARTITION,
        plots=("both_boot_apart",),
        seed=7,
        row="H1",
        verdict=Verdict.HOLD,
    ),
    # 11. Restarts.
    Mutant(
        "a promise is not kept",
        "the peer waits for D",
        Profile.QUIET,
        plots=("restart",),
        row="U3",
        verdict=Verdict.START,
    ),
    Mutant(
        "a promise is not stored",
        "the peer persists the promise",
        Profile.QUIET,
        plots=("both_restart",),
        edits=(Edit(adoption._stored_peer, "promised_until=promised", "promised_until=None"),),
    ),
    Mutant(
        "persistence skipped",
        "own state is persisted before it is announced",
        Profile.QUIET,
        edits=(Edit(turn.Turn.persist, "self.must_persist = True", "pass"),),
    ),
    Mutant(
        "what was stored is believed",
        "a new daemon verifies every service, whatever was persisted",
        Profile.QUIET,
        plots=("crash",),
        seed=4,
        edits=(Edit(adoption.adopt, "target = adopted_state(before, False, avail)", "target = before"),),
    ),
    Mutant(
        "a confirmation of death that outlives its truth",
        "what an operator vouched for is of before this daemon: it listens for the timeout first",
        Profile.LOSSY,
        seed=1010,
        edits=(
            Edit(
                adoption._stored_peer, "record.confirmed_dead and not event.booted", "record.confirmed_dead"
            ),
            Edit(
                adoption.begin,
                "_stored_peer(new_peer(state, node, turn.now), event, turn.now)",
                "replace(_stored_peer(new_peer(state, node, turn.now), event, turn.now), silent_from=0.0)",
            ),
        ),
    ),
    # 12. What the agent cannot tell.
    Mutant(
        "a stop that failed",
        "a state that permits the peer to start is never taken while resources are up",
        Profile.CHAOS,
        plots=("stop_hangs",),
        seed=3,
        edits=(Edit(outcome._stop_ended, "if problem is not None:", "if False:"),),
    ),
    # 14. Leaving.
    Mutant(
        "LEFT taken from a queue",
        "a LEFT found in a queue after a pause is silence; a permission ages from our own beat",
        Profile.DISK,
        plots=("last_word_in_a_queue",),
        edits=(
            Edit(
                membership._take_in,
                "if beat.left and current and turn.now < peer.trusted_until:",
                "if beat.left and current:",
            ),
            Edit(
                membership._note_last_word,
                "left_until=peer.trusted_until",
                "left_until=turn.now + turn.config.longest_timeout_s",
            ),
        ),
    ),
    Mutant(
        "LEFT whatever was left",
        "an instance whose stop failed is not started elsewhere",
        Profile.CHAOS,
        plots=("leaves_with_a_failed_stop",),
        row="U5",
        verdict=Verdict.START,
    ),
    # Liveness.
    Mutant(
        "nobody takes over",
        "a live node with a dead peer has the service started",
        Profile.QUIET,
        plots=("power_cut",),
        seed=6,
        row="U12",
        verdict=Verdict.HOLD,
    ),
    Mutant(
        "a slot does not tell of earlier lives",
        "a node whose store was lost begins above what its slot holds",
        Profile.LOSSY,
        seed=4,
        edits=(Edit(membership.slot_found, "if not _is_too_soon(state.found_at, turn.now):", "if False:"),),
    ),
    Mutant(
        "one way is no takeover",
        "the peer is heard but does not hear us",
        Profile.PARTITION,
        plots=("cut",),
        row="S7",
        verdict=Verdict.START,
    ),
    # 12. Resource monitoring.
    Mutant(
        "unknown counts as down",
        "unknown never moves a service",
        Profile.RESOURCES,
        edits=(
            Edit(
                monitoring.reported,
                "Answer.UNKNOWN if report is None else report.answer",
                "Answer.UP if report and report.answer is Answer.UP else Answer.DOWN",
            ),
        ),
    ),
    Mutant(
        "one look is enough",
        "a resource is seen down twice before its service moves",
        Profile.RESOURCES,
        edits=(Edit(monitoring.monitor_situation, "known.downs_count >= 2", "True"),),
    ),
    Mutant(
        "moved whoever can take it",
        "no move while the other side cannot take over",
        Profile.RESOURCES,
        edits=(Edit(monitoring.monitor_situation, "taker_of(state, instance.service, now)", "Taker.READY"),),
    ),
    Mutant(
        "moved again and again",
        "at most max_moves in the window",
        Profile.RESOURCES,
        edits=(Edit(monitoring.monitor_situation, "len(moves) >= monitoring.moves_max", "False"),),
        plots=("resource_dies_on_both",),
    ),
)
