"""The monitor's hands: what cannot be stored is never announced, and nothing is forgotten."""

from dataclasses import replace

from opensvc_hb.core import effects as fx
from opensvc_hb.core.events import Outcome, Stored
from opensvc_hb.core.messages import Beat, Entry, Hearing, table_digest
from opensvc_hb.core.states import ActionVerb, State
from opensvc_hb.daemon.effects import Performer
from opensvc_hb.daemon.store import StoreError
from opensvc_hb.errors import ExitCode

BEAT = Beat("n1", 1, 1, b"", ())


class Recorder:
    """Stands for links, runner, journal, statuses and inbox: notes every call."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, *arguments))


class FlakyStore:
    """A store whose writes fail while `broken`."""

    def __init__(self, tmp_path):
        self.broken = False
        self.written = []
        self._path = tmp_path

    def write(self, stored):
        if self.broken:
            raise StoreError(self._path, "cannot be written: Input/output error")
        self.written.append(stored)


def make(tmp_path):
    store, rest = FlakyStore(tmp_path), Recorder()
    return store, rest, Performer(rest, rest, store, rest, rest, rest)


def start(number=7):
    return fx.RunAction("svc1", "svc1.env", number, ActionVerb.START, 60.0)


def test_a_state_is_stored_before_it_is_announced(tmp_path):
    store, rest, performer = make(tmp_path)
    performer.perform([fx.Persist(Stored(incarnation=3)), fx.SendNow(BEAT, with_table=True)])
    assert store.written == [Stored(incarnation=3)]
    assert rest.calls == [("send", BEAT, True)]


def test_a_state_that_cannot_be_stored_is_not_announced_until_it_is(tmp_path):
    store, rest, performer = make(tmp_path)
    store.broken = True
    performer.perform([fx.Persist(Stored(incarnation=3)), fx.SendNow(BEAT, with_table=True)])
    performer.perform([fx.SendNow(BEAT, with_table=False)])
    assert rest.calls == []
    assert "Input/output error" in performer.store_problem
    store.broken = False
    performer.perform([fx.SendNow(BEAT, with_table=False)])
    assert store.written == [Stored(incarnation=3)]
    assert rest.calls == [("send", BEAT, False)]
    assert performer.store_problem == ""


def test_while_states_cannot_be_stored_those_announced_last_are_repeated(tmp_path):
    """Silence would have the peer start what runs here; what permits it must be true still."""

    def beat(sequence, *states, acked=0):
        table = tuple(Entry(f"svc{n}", state, 1, 1) for n, state in enumerate(states))
        return Beat("n1", 1, sequence, table_digest(table), table, (Hearing("n2", 1, acked, b""),))

    store, rest, performer = make(tmp_path)
    performer.perform([fx.SendNow(beat(4, State.STARTED, State.STOPPED, State.STOPPED), with_table=False)])
    store.broken = True
    newest = beat(5, State.STOPPED, State.START_READY, State.STOPPED, acked=9)
    performer.perform([fx.Persist(Stored(incarnation=1)), fx.SendNow(newest, with_table=False)])
    said = beat(5, State.STARTED, State.UNKNOWN, State.STOPPED)
    assert rest.calls[1:] == [("send", said, True)]
    performer.perform([fx.SendNow(replace(newest, incarnation=2, sequence=1), with_table=False)])
    assert rest.calls[2:] == []


def test_no_start_begins_whose_state_cannot_be_stored(tmp_path):
    store, rest, performer = make(tmp_path)
    store.broken = True
    performer.perform([fx.Persist(Stored()), start()])
    ((name, finished),) = rest.calls
    assert name == "put"
    assert (finished.action_id, finished.outcome) == (7, Outcome.FAILED)
    assert "cannot be stored" in finished.detail


def test_no_start_begins_after_its_permission_ran_out(tmp_path):
    """A store that took long must not let a start loose on a peer that took us for dead."""
    now = [100.0]

    class SlowStore:
        def write(self, stored):
            now[0] += 4.0

    rest = Recorder()
    performer = Performer(rest, rest, SlowStore(), rest, rest, rest, lambda: now[0])
    permitted = fx.RunAction("svc1", "svc1.env", 7, ActionVerb.START, 60.0, begin_by=103.0)
    performer.perform([fx.Persist(Stored()), permitted])
    ((name, finished),) = rest.calls
    assert (name, finished.action_id, finished.outcome) == ("put", 7, Outcome.NOT_BEGUN)
    performer.perform([replace(permitted, begin_by=105.0)])
    assert rest.calls[-1][0] == "run"


def test_a_stop_runs_even_when_its_state_cannot_be_stored(tmp_path):
    store, rest, performer = make(tmp_path)
    store.broken = True
    stop = fx.RunAction("svc1", "svc1.env", 8, ActionVerb.STOP, 60.0)
    performer.perform([fx.Persist(Stored()), stop])
    assert ("run", stop) in rest.calls


def test_statuses_hear_of_the_begin_and_the_end_of_an_action(tmp_path):
    _, rest, performer = make(tmp_path)
    performer.perform([start()])
    performer.action_ended(start().action_id + 1)  # an announcement's late end, for example
    assert [call[0] for call in rest.calls] == ["action_began", "run"]
    performer.action_ended(start().action_id)
    performer.action_ended(start().action_id)
    names = [call[:2] for call in rest.calls]
    assert names == [("action_began", "svc1.env"), ("run", start()), ("action_ended", "svc1.env")]


def test_a_reply_reaches_the_one_who_asked_once(tmp_path):
    _, _, performer = make(tmp_path)
    got = []
    performer.expect_reply(5, got.append)
    reply = fx.Reply(5, ExitCode.DONE, "done")
    performer.perform([reply, reply])
    assert got == [reply]


def test_the_timer_and_the_exit_are_kept_for_the_loop(tmp_path):
    _, _, performer = make(tmp_path)
    performer.perform([fx.ArmTimer(12.5), fx.Exit("done with it")])
    assert (performer.timer_at, performer.exit_reason) == (12.5, "done with it")
