"""Status documents: when each service is evaluated, and what is made of the answers."""

import logging
import queue
import threading
import time

import pytest

from opensvc_hb.core.config import Service
from opensvc_hb.core.states import Avail
from opensvc_hb.daemon.runner import NotEvaluated, StatusEvaluated
from opensvc_hb.daemon.statuses import Statuses, StatusSchedule, avail_of

DEADLINE_S = 30.0


def play(schedule, until, took=0.0, now=0.0):
    """Evaluate what is due, each service taking `took` seconds; return (moment, group) pairs."""
    done = []
    while True:
        at = schedule.next_at()
        if at is None or at > until:
            return done
        now = max(now, at)
        group = schedule.take_due(now)
        done.append((now, " ".join(group)))
        for name in group:
            now += took
            schedule.ended(name, now)


def test_each_service_is_evaluated_once_per_interval_evenly_spread():
    """After a quick first pass, evaluations of N services come an N-th of the interval apart."""
    schedule = StatusSchedule(60.0, group_max=1)
    schedule.set_services(["a", "b", "c", "d"], 0.0)
    done = play(schedule, until=179.0)
    assert done[:4] == [(0.0, "a"), (1.0, "b"), (2.0, "c"), (3.0, "d")]
    assert done[4:] == [
        (15.0, "b"), (30.0, "c"), (45.0, "d"), (60.0, "a"),
        (75.0, "b"), (90.0, "c"), (105.0, "d"), (120.0, "a"),
        (135.0, "b"), (150.0, "c"), (165.0, "d"),
    ]  # fmt: skip


def test_services_that_are_due_soon_are_taken_along():
    """A group shares one process; each of its services still has one turn in each interval."""
    schedule = StatusSchedule(60.0, group_max=4)
    schedule.set_services([f"{number:02}" for number in range(30)], 0.0)
    play(schedule, until=59.9)
    done = play(schedule, until=659.9)
    names = " ".join(names for _moment, names in done).split()
    assert {name: names.count(name) for name in names} == {f"{number:02}": 10 for number in range(30)}
    assert max(len(group.split()) for _moment, group in done) == 4
    assert len(done) <= 10 * 30 / 4 + 1


def test_no_more_run_at_once_than_allowed():
    """A thousand services due at once are taken in two groups; the next when one of them is done."""
    schedule = StatusSchedule(60.0, parallel=2, group_max=2)
    schedule.set_services([f"svc{n:03}" for n in range(1000)], 0.0)
    assert schedule.take_due(60.0) == ("svc000", "svc001")
    assert schedule.take_due(60.0) == ("svc002", "svc003")
    assert schedule.take_due(60.0) == ()
    assert schedule.next_at() is None
    schedule.ended("svc000", 61.0)
    assert schedule.take_due(61.0) == ()
    schedule.ended("svc001", 61.0)
    assert schedule.take_due(61.0) == ("svc004", "svc005")


def test_what_is_late_is_not_made_up_for():
    """When evaluations take longer than the interval, each service still has its turn."""
    schedule = StatusSchedule(10.0, parallel=1, group_max=1)
    schedule.set_services(["a", "b", "c"], 0.0)
    names = [name for _moment, name in play(schedule, until=200.0, took=7.0)]
    assert {name: names.count(name) for name in "abc"} == pytest.approx({"a": 10, "b": 10, "c": 10}, abs=2)
    schedule.take_due(5000.0)
    assert schedule.next_at() is None or schedule.next_at() <= 5010.0


def test_an_action_brings_an_evaluation_at_once_and_none_meanwhile():
    """While an action runs the service is not evaluated; when it ends the service is next."""
    schedule = StatusSchedule(60.0)
    schedule.set_services(["a", "b"], 0.0)
    play(schedule, until=5.0)
    schedule.action_began("b")
    assert [name for _moment, name in play(schedule, until=200.0)] == ["a", "a", "a"]
    schedule.action_ended("b", 200.0)
    assert schedule.take_due(200.0) == ("b",)


def test_what_an_action_has_changed_waits_for_no_company():
    """Services whose actions have ended are evaluated together, and not behind others."""
    schedule = StatusSchedule(60.0)
    schedule.set_services([f"{number:02}" for number in range(60)], 0.0)
    play(schedule, until=59.0)
    for name in ("07", "40"):
        schedule.action_began(name)
        schedule.action_ended(name, 59.5)
    assert schedule.take_due(59.5) == ("07", "40")


def test_a_service_that_may_have_spoilt_its_group_is_asked_alone():
    """One that was not reached is evaluated at once, alone; after that in company again."""
    schedule = StatusSchedule(60.0)
    schedule.set_services(["a", "b", "c"], 0.0)
    assert schedule.take_due(2.0) == ("a", "b", "c")
    assert schedule.ended("a", 3.0) == 2.0
    assert schedule.ended("b", 30.0, again_alone=True) is None
    assert schedule.ended("c", 30.0, again_alone=True) is None
    assert schedule.take_due(30.0) == ("b",)
    assert schedule.take_due(30.0) == ("c",)
    assert (schedule.ended("b", 60.0), schedule.ended("c", 31.0)) == (30.0, 30.0)
    assert sorted(schedule.take_due(125.0)) == ["a", "b", "c"]


def test_watched_services_have_a_pace_of_their_own():
    """They are evaluated at the monitor's interval, the others once per interval as before."""
    schedule = StatusSchedule(60.0, group_max=1, watch_interval_s=10.0)
    schedule.set_services(["a", "b"], 0.0)
    play(schedule, until=59.0)
    schedule.set_watched(["b"], 60.0)
    done = [name for _moment, name in play(schedule, until=179.9, now=60.0)]
    assert done.count("a") == 2
    assert done.count("b") in (11, 12)
    schedule.set_watched([], 180.0)
    later = [name for _moment, name in play(schedule, until=299.9, now=180.0)]
    assert later.count("b") in (2, 3)


def test_who_is_to_be_looked_at_again_is_next():
    """An evaluation that runs at that moment does not count: it may have looked too early."""
    schedule = StatusSchedule(60.0, group_max=1)
    schedule.set_services(["a", "b"], 0.0)
    play(schedule, until=5.0)
    schedule.look_again("b", 6.0)
    assert schedule.take_due(6.0) == ("b",)
    schedule.look_again("b", 6.5)
    assert schedule.ended("b", 7.0) is None
    assert schedule.take_due(7.0) == ("b",)
    assert schedule.ended("b", 8.0) == 7.0


def test_an_evaluation_that_an_action_overlapped_is_thrown_away():
    """Its result shows neither before nor after; the service is evaluated anew."""
    schedule = StatusSchedule(60.0)
    schedule.set_services(["a"], 0.0)
    assert schedule.take_due(0.0) == ("a",)
    schedule.action_began("a")
    schedule.action_ended("a", 2.0)
    assert schedule.ended("a", 3.0) is None
    assert schedule.take_due(3.0) == ("a",)
    assert schedule.ended("a", 4.0) == 3.0


def test_services_come_and_go():
    """A removed service is forgotten, also while it is evaluated; a new one comes soon."""
    schedule = StatusSchedule(60.0, group_max=2)
    schedule.set_services(["a"], 0.0)
    assert schedule.take_due(0.0) == ("a",)
    schedule.set_services(["b", "c"], 1.0)
    assert schedule.ended("a", 2.0) is None
    assert schedule.take_due(2.0) == ("b", "c")
    schedule.set_services([], 3.0)
    schedule.ended("b", 3.0)
    schedule.ended("c", 3.0)
    assert schedule.next_at() is None


@pytest.mark.parametrize(
    ("word", "avail"),
    [
        ("up", Avail.UP),
        ("down", Avail.DOWN),
        ("stdby up", Avail.DOWN),
        ("stdby down", Avail.DOWN),
        ("n/a", Avail.UNKNOWN),
        ("undef", Avail.UNKNOWN),
    ],
)
def test_a_document_says_whether_the_resources_are_up(word, avail):
    """Standby alone is not up; what says nothing is unknown."""
    assert avail_of({"avail": word}) is avail
    assert avail_of({"avail": word, "unknown": []}) is avail
    assert avail_of({"avail": word, "unknown": ["fs#1"]}) is Avail.UNKNOWN
    assert avail_of({}) is Avail.UNKNOWN


def test_a_warning_is_mixed_only_where_something_is_up():
    """A warning alone (a name that does not resolve) tells nothing of an instance."""
    resources = {"ip#1": {"status": "warn"}, "fs#1": {"status": "up"}, "hb#0": {"status": "up"}}
    assert avail_of({"avail": "warn", "resources": resources}) is Avail.MIXED
    resources["fs#1"] = {"status": "down"}
    assert avail_of({"avail": "warn", "resources": resources}) is Avail.UNKNOWN


class Bench:
    """The statuses thread with an agent of our own, and a clock that stands still."""

    def __init__(self):
        self.now_s = 1000.0
        self.questions = queue.Queue()
        self.reports = queue.Queue()
        self.statuses = Statuses(
            lambda svcnames, callback, limit_s: self.questions.put((svcnames, callback, limit_s)),
            lambda name, avail, resources: self.reports.put(
                (name, avail, resources, threading.current_thread().name)
            ),
            logging.getLogger("test.statuses"),
            clock=lambda: self.now_s,
            limit_s=30.0,
        )
        self.statuses.start()

    def next_question(self, *svcnames):
        asked, callback, limit_s = self.questions.get(timeout=DEADLINE_S)
        assert (asked, limit_s) == (svcnames, 30.0)
        return callback

    def next_report(self):
        name, avail, self.resources, thread = self.reports.get(timeout=DEADLINE_S)
        assert thread == "statuses"
        return name, avail


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.statuses.close()


def services(*svcnames):
    return [Service(f"hb-{svcname}", svcname, ("n1", "n2")) for svcname in svcnames]


def test_an_evaluated_service_is_reported_and_served_with_its_age(bench):
    """The monitor hears the hb name and avail; readers get the document, aged from its beginning."""
    bench.statuses.set_services(services("svc1"))
    callback = bench.next_question("svc1")
    assert bench.statuses.fresh() == {}
    bench.now_s += 4.0
    callback(StatusEvaluated("svc1", {"avail": "down"}))
    assert bench.next_report() == ("hb-svc1", Avail.DOWN)
    bench.now_s += 3.0
    fresh = bench.statuses.fresh(["svc1", "svc2"])
    assert {name: (status.document, status.age_s) for name, status in fresh.items()} == {
        "svc1": ({"avail": "down"}, 7.0)
    }
    assert bench.statuses.fresh(["svc2"]) == {}


def test_a_service_that_cannot_be_evaluated_is_unknown_and_keeps_its_old_document(bench, caplog):
    """A failed evaluation reports unknown, once in the log; the old document ages on."""
    caplog.set_level(logging.INFO)
    bench.statuses.set_services(services("svc1"))
    bench.next_question("svc1")(StatusEvaluated("svc1", {"avail": "up"}))
    assert bench.next_report() == ("hb-svc1", Avail.UP)
    for answer, avail in [
        (NotEvaluated("svc1", "its time limit of 30 s passed"), Avail.UNKNOWN),
        (NotEvaluated("svc1", "again"), Avail.UNKNOWN),
        (StatusEvaluated("svc1", {"avail": "down"}), Avail.DOWN),
    ]:
        assert bench.statuses.fresh()["svc1"].document == {"avail": "up"}
        bench.now_s += 60.0
        bench.statuses.action_ended("svc1")
        bench.next_question("svc1")(answer)
        assert bench.next_report() == ("hb-svc1", avail)
    assert [record.getMessage() for record in caplog.records] == [
        "svc1 could not be evaluated: its time limit of 30 s passed",
        "svc1 is evaluated again",
    ]


def test_a_forgotten_service_is_no_longer_served(bench):
    """A service that left the configuration has no document, and its late answer is ignored."""
    bench.statuses.set_services(services("svc1", "svc2"))
    late = bench.next_question("svc1", "svc2")
    late(StatusEvaluated("svc1", {"avail": "up"}))
    assert bench.next_report() == ("hb-svc1", Avail.UP)
    bench.statuses.set_services(services("svc3"))
    late(StatusEvaluated("svc2", {"avail": "up"}))
    bench.next_question("svc3")(StatusEvaluated("svc3", {"avail": "down"}))
    assert bench.next_report() == ("hb-svc3", Avail.DOWN)
    assert list(bench.statuses.fresh()) == ["svc3"]


def test_a_document_that_came_with_a_start_is_as_old_as_that(bench):
    """What the runner knew already is aged from the moment at which it was true."""
    bench.statuses.set_services(services("svc1"))
    bench.next_question("svc1")(StatusEvaluated("svc1", {"avail": "up"}, age_s=3.0))
    assert bench.next_report() == ("hb-svc1", Avail.UP)
    assert bench.statuses.fresh()["svc1"].age_s == 3.0


def test_a_service_without_an_answer_among_others_is_asked_alone(bench, caplog):
    """Nobody is told that it is unknown before it was asked alone."""
    bench.statuses.set_services(services("svc1", "svc2"))
    callback = bench.next_question("svc1", "svc2")
    callback(StatusEvaluated("svc1", {"avail": "up"}))
    assert bench.next_report() == ("hb-svc1", Avail.UP)
    callback(NotEvaluated("svc2", "its time limit of 30 s passed", among_others=True))
    bench.next_question("svc2")(StatusEvaluated("svc2", {"avail": "down"}))
    assert bench.next_report() == ("hb-svc2", Avail.DOWN)
    assert not caplog.records


def test_the_thread_wakes_by_itself_when_an_evaluation_is_due():
    """With a real clock a service is evaluated again and again, without being asked."""
    count = threading.Semaphore(0)

    def ask(svcnames, callback, limit_s):
        assert svcnames == ("svc1",)
        count.release()
        callback(StatusEvaluated("svc1", {"avail": "up"}))

    statuses = Statuses(ask, lambda *_: None, logging.getLogger("test.statuses"), interval_s=0.05)
    statuses.start()
    try:
        began = time.monotonic()
        statuses.set_services(services("svc1"))
        for _ in range(5):
            assert count.acquire(timeout=DEADLINE_S)
        assert time.monotonic() - began >= 0.15
    finally:
        statuses.close()
