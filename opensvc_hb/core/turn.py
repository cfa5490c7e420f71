"""One turn of the core: the state being rewritten, and the effects asked for so far.

A turn handles one event or a batch of them at one `now`, then closes: at most one `Persist`
(before everything else), the journal and the actions in the order asked, at most one
`SendNow`, and the timer. The records are copied on first write, never changed in place.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, List, Mapping, Optional, Set, Tuple

from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import Config
from opensvc_hb.core.events import Stored, StoredPeer
from opensvc_hb.core.messages import Beat, Hearing, LinkHeard, link_tag
from opensvc_hb.core.node_state import (
    Instance,
    Liveness,
    NodeState,
    Peer,
    Phase,
    Purpose,
    RunningAction,
    Sent,
    Waiting,
    is_going,
)
from opensvc_hb.core.records import replace
from opensvc_hb.core.states import FROZEN, ActionVerb, State, Verb
from opensvc_hb.core.summary import Summary, summary_of
from opensvc_hb.errors import ExitCode

BEATS_PER_TIMEOUT = 5
"""A peer is sent so many beats in its timeout, at the least; by a follower that hears none, 4.5."""

FOLLOWER_SHARE = 1.1
"""A follower's own beat is due so many intervals after its last: its leader's comes before, as a rule."""

ANSWER_SHARE = 0.5
"""Within this share of the interval after its last beat, a follower answers none."""

SENT_STEPS = 200
"""Our beats' times are kept in this many steps over the longest timeout."""


UNDECIDED_PHASES = (Phase.BORN, Phase.VERIFYING, Phase.GONE)
"""Phases in which nothing is decided."""


class Turn:
    """The working copy of one turn. Questions read it; answers write through its methods."""

    def __init__(self, state: NodeState, now: float) -> None:
        self.state = state
        self.now = now
        self.instances: Mapping[str, Instance] = state.instances
        self.peers: Dict[str, Peer] = dict(state.peers)
        self.effects: List[fx.Effect] = []
        self.dirty: Set[str] = set()
        self.must_persist = False
        self.must_send = False
        self._changed: Optional[Dict[str, Instance]] = None

    # -- reading -----------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.state.config

    @property
    def going(self) -> bool:
        """Tell whether this daemon is on its way out: it starts nothing."""
        return is_going(self.state.phase)

    @property
    def next_sequence(self) -> int:
        """The sequence of the next beat: the stamp of whatever this turn announces."""
        return self.state.sequence + 1

    def summary(self) -> Summary:
        """Return the summary of the instances as they stand now.

        It belongs to this mapping of them: what changes from here on changes a copy.
        """
        summary = summary_of(replace(self.state, instances=self.instances, peers=self.peers))
        self.update(summary=summary)
        self._changed = None
        return summary

    # -- writing -----------------------------------------------------------------------

    def put(self, instance: Instance) -> Instance:
        """Store a changed instance and look at it again before the turn ends."""
        self.note(instance)
        self.dirty.add(instance.service)
        return instance

    def note(self, instance: Instance) -> None:
        """Store a changed instance whose change asks for no other look at it."""
        self._own_instances()[instance.service] = instance

    def drop(self, name: str) -> Instance:
        """Forget an instance; return what it was."""
        return self._own_instances().pop(name)

    def _own_instances(self) -> Dict[str, Instance]:
        """Return the instances of this turn, copied from the state's with the first change."""
        if self._changed is None or self.instances is not self._changed:
            self.instances = self._changed = dict(self.instances)
        return self._changed

    def put_peer(self, peer: Peer) -> Peer:
        """Store what is now known of a peer."""
        self.peers[peer.node] = peer
        return peer

    def update(self, **changes: object) -> None:
        """Change fields of the node's own state."""
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]  # names are checked by replace

    def all_dirty(self) -> None:
        """Look at every instance again before the turn ends."""
        self.dirty.update(self.instances)

    def journal(
        self,
        service: str,
        kind: str,
        text: str,
        reason: str = "",
        rule: str = "",
        inputs: Tuple[Tuple[str, str], ...] = (),
    ) -> None:
        """Write one entry of the event journal."""
        self.effects.append(fx.Journal(service, kind, rule, text, reason, inputs))

    def reply(self, command_id: Optional[int], code: ExitCode, text: str) -> None:
        """Answer an operator, if one asked."""
        if command_id is not None:
            self.effects.append(fx.Reply(command_id, code, text))

    def new_id(self) -> int:
        """Return a number not used before in this daemon's life."""
        number = self.state.next_id
        self.update(next_id=number + 1)
        return number

    def run(
        self,
        instance: Instance,
        verb: ActionVerb,
        purpose: Purpose,
        then: State,
        limit_s: float,
        begin_by: Optional[float] = None,
        rid: str = "",
        attempt: str = "",
    ) -> Instance:
        """Ask for an action; its service must have none under way."""
        assert instance.action is None, f"{instance.service} already has an action"
        action_id = self.new_id()
        svcname = self.config.services[instance.service].svcname
        name = instance.service
        self.effects.append(fx.RunAction(name, svcname, action_id, verb, limit_s, begin_by, rid, attempt))
        return self.put(replace(instance, action=RunningAction(action_id, verb, purpose, then, self.now)))

    def drop_announcement(self, instance: Instance) -> Instance:
        """End the announcement of addresses that runs, if one does: something else is to be done."""
        if instance.action is None or instance.action.purpose is not Purpose.ANNOUNCE:
            return instance
        self.effects.append(fx.CancelAction(instance.service, instance.action.action_id))
        return self.put(replace(instance, action=None))

    def persist(self) -> None:
        """Store the state before anything of this turn is announced or done."""
        self.must_persist = True

    def send(self) -> None:
        """Announce the state at the end of this turn."""
        self.must_send = True

    def answer(self) -> None:
        """A peer's beat is new: acknowledge it at once, where this node is a follower.

        A lease counts from the beat that was acknowledged. With the acknowledgement in the follower's
        own next beat it would be older by up to an interval, a fifth of the timeout: time that the
        leader lacks when its machine stands still for a moment.
        """
        pause_s = self._pause_s()
        if pause_s > self._interval_s():
            last_at = self.state.next_beat_at - pause_s
            if self.now >= last_at + ANSWER_SHARE * self._interval_s():
                self.send()

    # -- closing -----------------------------------------------------------------------

    def close(self) -> Tuple[NodeState, List[fx.Effect]]:
        """Return the new state and the effects of the turn, in the order to perform them."""
        self.update(instances=self.instances, peers=self.peers, last_at=self.now)
        self.update(summary=summary_of(self.state))
        out: List[fx.Effect] = []
        if self.must_persist:
            out.append(fx.Persist(stored(self.state)))
        out.extend(self.effects)
        due = self.now >= self.state.next_beat_at
        # Silence would have a peer start what the agent is still being asked about: beats go out,
        # one an interval, without the services that are not verified, which permits nothing.
        speaks = self.state.phase not in UNDECIDED_PHASES or (due and self.state.phase is Phase.VERIFYING)
        if self.must_send and speaks:
            out.append(self._send())
        elif due:
            self.update(next_beat_at=self.now + self._pause_s())
        return self.state, out

    def _pause_s(self) -> float:
        """Return the seconds from a beat to the next one of our own accord.

        A node that runs nothing which needs a lease, and hears a peer, is that one's follower; the C
        program leads nobody, since it acknowledges nothing and keeps no lease.
        """
        leads = self.state.left_guarded or self.summary().guarded
        hears = any(p.liveness is Liveness.ALIVE and not p.is_legacy for p in self.peers.values())
        return self._interval_s() * (FOLLOWER_SHARE if hears and not leads else 1.0)

    def _interval_s(self) -> float:
        """Return the seconds to the next steady beat: no peer may miss it.

        A peer whose monitor file still has shorter timeouts than ours would take us for dead.
        """
        told = (p.longest_timeout_s for p in self.peers.values() if not p.confirmed_dead)
        return min([self.config.beat_interval_s, *(t / BEATS_PER_TIMEOUT for t in told if t > 0)])

    def _send(self) -> fx.SendNow:
        sequence = self.next_sequence
        self.update(
            sequence=sequence,
            sent=_remember_sent(self.state.sent, sequence, self.now, self.config.longest_timeout_s),
            next_beat_at=self.now + self._pause_s(),
        )
        beat = make_beat(self.state)
        known = all(peer.holds_digest == beat.table_digest for peer in self.peers.values() if peer.heard)
        unheard = any(not peer.heard for peer in self.peers.values())
        return fx.SendNow(beat, with_table=unheard or not known)


def _remember_sent(sent: Tuple[Sent, ...], sequence: int, at: float, longest_s: float) -> Tuple[Sent, ...]:
    """Add a beat's time, coarsely: a later look-up may find an earlier time, never a later one."""
    if sent and at - sent[-1].at < longest_s / SENT_STEPS:
        return sent
    kept = sent
    if len(sent) > SENT_STEPS:
        kept = tuple(s for s in sent if at - s.at <= longest_s)
    return (*kept, Sent(sequence, at))


def sent_at(state: NodeState, sequence: int) -> Optional[float]:
    """Return when our beat of this sequence was made, or a little earlier; None if forgotten.

    None, too, for one that this incarnation has not made: a peer may still name another life's.
    """
    found = None
    if sequence > state.sequence:
        return None
    for sent in state.sent:
        if sent.sequence > sequence:
            break
        found = sent.at
    return found


def make_beat(state: NodeState) -> Beat:
    """Return our newest beat: one snapshot of states and acknowledgements."""
    summary = summary_of(state)
    table = summary.table
    hearings = tuple(
        Hearing(
            node=peer.node,
            incarnation=peer.incarnation,
            sequence=peer.settled_sequence,
            table_digest=peer.table_digest,
            links=tuple(
                LinkHeard(link_tag(link.link_id), link.sequence) for link in peer.links.values() if link.up
            ),
        )
        for peer in state.peers.values()
    )
    restarting = state.config.policies.restart_within_s if state.phase is Phase.RESTARTING else 0.0
    return Beat(
        sender=state.config.node,
        incarnation=state.incarnation,
        sequence=state.sequence,
        table_digest=summary.digest,
        table=table,
        hearings=hearings,
        config_digest=state.config.digest,
        longest_timeout_s=state.config.longest_timeout_s,
        restarting_for_s=restarting,
        left=state.phase is Phase.LEFT,
        claims=claimed_node(state),
    )


def claimed_node(state: NodeState) -> str:
    """Return the silent peer whose lease we claim now, "" for none."""
    for peer in state.peers.values():
        if peer.claim is not None and peer.claim.sequence is not None and not peer.claim.refused:
            return peer.node
    return ""


def stored(state: NodeState) -> Stored:
    """Return what must survive: own instances, epochs, promises, incarnations."""
    known = {name: part.record for name, part in summary_of(state).parts.items()}
    instances = {**state.kept, **known}
    peers = {
        p.node: StoredPeer(
            p.incarnation, p.promise_s, tuple(sorted(p.maintenance)), p.confirmed_dead, p.longest_timeout_s
        )
        for p in state.peers.values()
    }
    return Stored(state.incarnation, instances, peers)


def age_text(at: Optional[float], now: float) -> str:
    """Return the age of a moment for people: `3.2 s`, or `never`."""
    return "never" if at is None else f"{max(0.0, now - at):.1f} s"


def change_state(
    turn: Turn, instance: Instance, target: State, reason: str, rule: str = "", kind: str = "state"
) -> Instance:
    """Move an instance to another state: stored, journaled, announced, operators answered."""
    own = instance.state
    changed = turn.put(
        replace(
            instance,
            state=target,
            state_sequence=instance.state_sequence + 1,
            since=turn.now,
            offer=instance.offer if target is State.START_READY else None,
            freeze=instance.freeze if target in FROZEN else None,
            freeze_next=instance.freeze_next if target in _UNDER_WAY else None,
            frozen_at=turn.next_sequence if target is State.FROZEN_START else None,
            excused=False,
            called=False,
            held_by="",
            doubtful=False,
            declared=instance.declared and target in _DECLARED,
        )
    )
    turn.journal(
        instance.service,
        kind,
        f"{own.name} -> {target.name}",
        reason,
        rule,
        decision_inputs(turn, changed),
    )
    turn.persist()
    turn.send()
    return _answer_waiting(turn, changed, reason)


_DECLARED = frozenset({State.STARTED, State.FROZEN_START})
_UNDER_WAY = frozenset({State.START_READY, State.STARTING, State.STOPPING})

GOALS: Mapping[Verb, FrozenSet[State]] = {
    Verb.START: frozenset({State.STARTED}),
    Verb.STOP: frozenset({State.STOPPED, State.FROZEN_STOP}),
    Verb.FREEZE_STOP: frozenset({State.FROZEN_STOP}),
    Verb.FREEZE_START: frozenset({State.FROZEN_START}),
    Verb.UNFREEZE: frozenset({State.STOPPED, State.STARTED}),
    Verb.FORCE_START: frozenset({State.STARTED}),
    Verb.FORCE_STOP: frozenset({State.STOPPED}),
    Verb.SWITCH: frozenset(),
}
"""The states that make a verb done; it exits 0 where one already holds."""


def _answer_waiting(turn: Turn, instance: Instance, reason: str) -> Instance:
    """Answer the operators who wait, once the state is one that lasts."""
    if instance.state in _UNDER_WAY or not instance.waiting:
        return instance
    staying: List[Waiting] = []
    for waiter in instance.waiting:
        if waiter.verb is Verb.SWITCH and instance.state is State.STOPPED:
            staying.append(waiter)  # the switch is done when the peer has it
            continue
        done = instance.state in GOALS[waiter.verb]
        code = ExitCode.DONE if done else ExitCode.FAILED
        turn.reply(waiter.command_id, code, f"{instance.service}: {instance.state.name}: {reason}")
    return turn.put(replace(instance, waiting=tuple(staying)))


def decision_inputs(turn: Turn, instance: Instance) -> Tuple[Tuple[str, str], ...]:
    """Return what a decision looked at: epochs, peers' states, age of the last beat per link."""
    inputs = [("epoch", str(instance.epoch))]
    for node in turn.config.services[instance.service].nodes:
        peer = turn.peers.get(node)
        if peer is None:
            continue
        entry = peer.table.get(instance.service)
        inputs.append((f"{node}", peer.liveness.value))
        inputs.append((f"{node} state", entry.state.name if entry else State.UNKNOWN.name))
        if entry:
            inputs.append((f"{node} epoch", str(entry.epoch)))
        inputs.extend(
            (f"last beat {link.link_id}", age_text(link.heard_at, turn.now)) for link in peer.links.values()
        )
        inputs.extend(_claim_evidence(peer, turn.now))
    inputs.extend(lease_evidence(turn.state, turn.now))
    return tuple(inputs)


def lease_evidence(state: NodeState, now: float) -> Tuple[Tuple[str, str], ...]:
    """Return what a decision about our own lease looked at; nothing where there is none."""
    held = state.lease
    if not state.config.lease_links or held.counts_from is None:
        return ()
    return (("lease", f"{now - held.counts_from:.1f} s old, by {held.renewed_by}"),)


def _claim_evidence(peer: Peer, now: float) -> Tuple[Tuple[str, str], ...]:
    """Return what our claim of a silent peer's lease rests on."""
    claim = peer.claim
    if claim is None or not claim.passed or claim.seen is None or claim.written_at is None:
        return ()
    unchanged_s = claim.seen.read_at - claim.seen.unchanged_since
    return (
        (f"slot of {peer.node}", f"unchanged for {unchanged_s:.1f} s, and after our claim"),
        ("our claim", f"begun {now - claim.written_at:.3f} s ago, read back"),
    )
