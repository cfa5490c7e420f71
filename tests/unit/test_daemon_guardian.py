"""The guardian with real processes: what it ends, when, and who tells it."""

import os
import queue
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from guardian_site import Site, limited, lives, short_of_descriptors, wait_for

from opensvc_hb.client import with_address
from opensvc_hb.core.guardian import KILL_SHARE, STOP_SHARE, Order
from opensvc_hb.daemon import guardian_wire as wire
from opensvc_hb.daemon.guardian_keeper import Found, Keeper
from opensvc_hb.daemon.sessions import boottime
from opensvc_hb.held import Holding, HoldingKind

T = 2.0


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.close()


def deadline(until, share):
    return Order(until, T).at(share)


# -- a daemon that is gone, paused, or there -----------------------------------------------------


def test_the_instances_of_a_daemon_that_is_gone_are_stopped_at_the_deadline(site):
    """Not before it, and the guardian ends when nothing is left to guard."""
    daemon = site.daemon()
    until = boottime() + 0.3
    daemon.order(until)
    daemon.close()
    ((at, service),) = wait_for(site.stops, "the stop action")
    assert service == "svc1"
    assert at >= deadline(until, STOP_SHARE) - 0.01  # /proc/uptime has hundredths
    wait_for(lambda: not lives(daemon.pid), "the end of the guardian")
    last = "nothing is guarded, and no daemon is connected"
    wait_for(lambda: last in site.log(), "the last line of the log, which a child writes")
    assert "the guardian stops svc1" in site.log()


def test_a_daemon_that_stands_still_is_no_better_than_one_that_is_gone(site):
    """It is connected, and renews nothing; what was done is told to it in words."""
    daemon = site.daemon()
    daemon.order(boottime() + 0.1)
    begun = daemon.event("the guardian stops svc1")
    assert (begun.services, begun.alarm) == (("svc1",), True)
    assert begun.what.startswith("not renewed for 1.3 s of 2 s:")
    ended = daemon.event("the guardian has stopped svc1")
    assert not ended.alarm
    assert lives(daemon.pid)


@pytest.mark.slow
def test_renewed_orders_keep_it_quiet(site):
    """For two timeouts the deadline is never more than a fraction away, and nothing is done."""
    daemon = site.daemon()
    give_up_at = boottime() + 2 * T
    while boottime() < give_up_at:
        daemon.order(boottime() + 0.4 * T)
        time.sleep(0.02)
    assert site.stops() == []


def test_what_the_daemon_is_ending_itself_gets_no_second_stop_action_before_the_kill(site):
    """Two stop actions of one service would wait for each other."""
    daemon = site.daemon()
    until = boottime()
    daemon.order(until, services=("svc1", "svc2"), ending=("svc1",))
    wait_for(lambda: len(site.stops()) == 2, "two stop actions")
    (first, of_first), (second, of_second) = site.stops()
    assert (of_first, of_second) == ("svc2", "svc1")
    assert first < second
    assert second >= deadline(until, KILL_SHARE) - 0.01


def test_a_later_order_calls_off_what_has_not_begun(site):
    """The daemon is back in time: the kill is called off."""
    process = site.stubborn()
    site.stop("exit 1")
    daemon = site.daemon()
    daemon.order(boottime() - Order(0.0, 60.0).at(STOP_SHARE), timeout_s=60.0)
    wait_for(site.stops, "the stop action")
    daemon.order(boottime() + 60, timeout_s=60.0)
    daemon.event("stop action of svc1 ended with status 1")
    assert process.poll() is None
    wait_for(lambda: "has renewed its order: nothing more is ended" in site.log(), "the log's word")


# -- what does not end by itself -----------------------------------------------------------------


def test_a_process_that_ignores_everything_is_killed_and_the_service_stopped_once_more(site):
    process = site.stubborn()
    daemon = site.daemon()
    until = boottime()
    daemon.order(until)
    daemon.event("kills the processes of svc1")
    assert process.wait() == -signal.SIGKILL
    wait_for(lambda: len(site.stops()) == 2, "the second stop action")
    assert site.stops()[1][0] >= deadline(until, KILL_SHARE) - 0.01


def test_a_stop_action_that_hangs_is_killed_before_the_next_one_begins(site):
    """With all that it has started, the daemon's own stop action as well."""
    own = site.run("svc1", ["/bin/sleep", "600"], verb="stop")
    site.stop(f"until [ -e {site.top}/mended ]; do sleep 0.1; done")
    daemon = site.daemon()
    daemon.order(boottime())
    daemon.event("stop action of svc1 was killed by signal 9")
    (site.top / "mended").touch()
    assert own.wait() == -signal.SIGKILL
    daemon.event("the guardian has stopped svc1")
    assert len(site.stops()) == 2


def test_who_holds_the_lock_of_the_service_is_killed(site):
    """An action that hangs with it, a child of it that outlived it too, have no mark of their own."""
    lock = site.root.var / "lock/svc1"
    text = (
        "import fcntl, os, sys, time\n"
        "held = open(sys.argv[1], 'w')\n"
        "fcntl.flock(held, fcntl.LOCK_EX)\n"
        "child = os.fork()\n"
        "if child: open(sys.argv[1] + '.child', 'w').write(str(child)); os._exit(0)\n"
        "time.sleep(600)\n"
    )
    action = subprocess.Popen([sys.executable, "-S", "-c", text, str(lock)], start_new_session=True)
    assert action.wait() == 0
    child = int(wait_for(lambda: Path(f"{lock}.child").read_text(), "the child that holds the lock"))
    daemon = site.daemon()
    daemon.order(boottime() - deadline(0.0, KILL_SHARE))
    wait_for(lambda: not lives(child), "the end of the holder")
    daemon.event("the guardian has stopped svc1")


def test_only_processes_of_the_service_are_killed(site, tmp_path):
    """Not those of another service, of another root on this machine, of nobody; and not the daemon."""
    others = [
        site.stubborn("svc2"),
        site.stubborn("svc1", top=tmp_path / "elsewhere"),
        site.stubborn("svc11"),
        subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"]),
    ]
    mine = site.stubborn("svc1")
    daemon = site.daemon()
    daemon.order(boottime() - deadline(0.0, KILL_SHARE))
    assert mine.wait() == -signal.SIGKILL
    daemon.event("the guardian has stopped svc1")
    assert [other.poll() for other in others] == [None] * 4
    others[-1].kill()
    others[-1].wait()


def test_what_has_no_environment_of_its_own_goes_with_its_parent(site):
    """As in a container, or behind sudo: no mark, but a marked ancestor."""
    text = "import os, sys; os.spawnve(os.P_WAIT, '/bin/sleep', ['sleep', '600'], {})"
    parent = site.run("svc1", [sys.executable, "-S", "-c", text])
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    child = int(wait_for(children.read_text, "the child"))
    daemon = site.daemon()
    daemon.order(boottime() - deadline(0.0, KILL_SHARE))
    wait_for(lambda: not lives(child), "the end of the child")
    assert parent.wait() == -signal.SIGKILL


def test_what_is_still_held_is_said_when_the_node_may_not_be_reset(site):
    """A mount point that nobody unmounts; it is looked at again, and stopped again, and not forgotten."""
    site.held = {"svc1": (Holding(HoldingKind.MOUNT_POINT, "/proc"), Holding(HoldingKind.LOOP_FILE, "/x"))}
    daemon = site.daemon()
    daemon.order(boottime())
    told = daemon.event("something is still held here")
    assert told.what.endswith("held here: mount point /proc of svc1: the node is not reset: reset = none")
    assert (told.services, told.alarm) == (("svc1",), True)


def test_an_instance_that_is_stopped_in_time_is_neither_killed_nor_a_reason_for_a_reset(site):
    """Nothing of it is left, and the guardian of a daemon that is gone ends."""
    process = site.run("svc1", ["/bin/sleep", "600"])
    site.stop(f"kill {process.pid}")
    daemon = site.daemon()
    daemon.order(boottime())
    daemon.event("the guardian has stopped svc1")
    assert process.wait() == -signal.SIGTERM
    daemon.close()
    wait_for(lambda: not lives(daemon.pid), "the end of the guardian")
    assert "kills" not in site.log()


def test_a_log_that_hangs_holds_up_no_deadline(site):
    """Its file is a pipe that nobody reads: who opens it waits for ever."""
    log = site.root.log / "guardian.log"
    os.mkfifo(log)
    process = site.stubborn()
    daemon = site.daemon()
    daemon.order(boottime() - deadline(0.0, KILL_SHARE))
    assert process.wait() == -signal.SIGKILL
    daemon.event("the guardian has stopped svc1")
    daemon.close()
    wait_for(lambda: not lives(daemon.pid), "the end of the guardian")
    read = []
    with os.fdopen(os.open(log, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as reader:

        def is_written():  # its writers go on, one after the other, and end
            read.append(reader.read(65536) or b"")
            return b"the guardian ends" in b"".join(read)

        wait_for(is_written, "the lines of both writers")
    assert b"kills the processes of svc1" in b"".join(read)


# -- the daemon and its guardian -------------------------------------------------------------------


def test_a_new_daemon_inherits_the_deadline_and_hears_what_was_done(site):
    first = site.daemon()
    assert first.found.lease[0] is None
    until = boottime() + 60
    first.order(until)
    first.close()
    second = site.daemon()
    assert second.pid == first.pid
    assert second.found.lease[0] == until
    site.held = {"svc1": (Holding(HoldingKind.MOUNT_POINT, "/proc"),)}
    second.guardian.learn(site.know())
    second.order(boottime())
    second.close()
    wait_for(lambda: "not reset" in site.log(), "the last deed")
    third = site.daemon()
    assert any("the guardian stops svc1" in acted.what for acted in third.found.acted)
    third.close()
    assert not any("the guardian stops svc1" in acted.what for acted in site.daemon().found.acted)


def test_a_new_daemon_waits_for_the_end_of_what_is_being_ended(site):
    """It asks the agent only then: in the middle of a stop the answer would be neither."""
    site.stop(f"while [ ! -e {site.top}/go ]; do sleep 0.01; done")
    first = site.daemon()
    first.order(boottime() + 0.1, timeout_s=300.0)  # the kill comes half a minute later
    first.close()
    wait_for(site.stops, "the stop action")
    keeper = Keeper(site.root, site.environment, queue.Queue())
    found = keeper.reach()
    assert found.ending
    assert not keeper.await_rest(found, within_s=0.05).acted[1:], "it said that the stop has ended"
    (site.top / "go").touch()
    found = keeper.await_rest(found)
    assert ["has stopped svc1" in acted.what for acted in found.acted] == [False, True]
    assert not found.ending
    found.connection.end.close()
    found = keeper.reach()
    assert not found.ending
    assert keeper.await_rest(found) == found
    found.connection.end.close()


def test_an_order_for_nothing_is_no_deadline(site):
    first = site.daemon()
    first.order(boottime() + 60, services=())
    first.keeper._closing.set()  # it must not come back by itself
    assert site.daemon().found.lease[0] is None


def test_the_newest_daemon_is_the_one_that_is_listened_to(site):
    """The one before it, which was paused, say, loses its connection."""
    first = site.daemon()
    first.order(boottime() + 60)
    first.keeper._closing.set()  # it must not come back by itself
    second = site.daemon()
    second.order(boottime() + 90, services=("svc2",))
    assert second.guardian.objection("svc2") == ""
    wait_for(lambda: not first.keeper._thread.is_alive(), "the end of the first connection")


def test_a_new_guardian_is_moved_out_of_the_daemons_control_group(site):
    """Once, by its number; one that is there already stays where it is."""
    moved = []

    def enter(pid):
        moved.append(pid)
        return "no scope today"

    keeper = Keeper(site.root, site.environment, None, enter)
    found = keeper.reach()
    again = keeper.reach()
    assert moved == [found.connection.pid]
    for each in (found, again):
        each.connection.end.close()


def test_there_is_one_guardian_of_a_root(site):
    """A second one says who the first is, and leaves it alone."""
    daemon = site.daemon()
    refused = Keeper(site.root, site.environment, daemon.inbox)._spawn()
    assert refused == f"another guardian, process {daemon.pid}, runs already"
    assert lives(daemon.pid)


def test_a_guardian_without_orders_ends_with_its_daemon(site):
    daemon = site.daemon()
    daemon.close()
    wait_for(lambda: not lives(daemon.pid), "the end of the guardian")


def test_sigterm_does_not_end_what_outlives_the_daemon(site):
    daemon = site.daemon()
    daemon.order(boottime() + 60)
    os.kill(daemon.pid, signal.SIGTERM)
    daemon.order(boottime() + 60, services=("svc1", "svc2"))
    assert daemon.guardian.objection("svc2") == ""


def test_a_guardian_that_was_killed_is_replaced_and_gets_the_order(site):
    """Between the two nothing starts; then it does, and the deadline holds."""
    daemon = site.daemon()
    until = boottime() + 60
    daemon.order(until)
    os.kill(daemon.pid, signal.SIGKILL)
    told = daemon.event("is the guardian now")
    assert told.alarm
    assert f"the guardian, process {daemon.pid}, has ended" in told.what
    wait_for(lambda: not daemon.guardian.objection("svc1"), "the confirmation")
    daemon.close()
    assert site.daemon().found.lease[0] == until


def test_a_daemon_that_was_short_of_descriptors_finds_a_guardian_as_soon_as_it_has_some(site):
    """Neither asking nor starting is possible meanwhile; the thread that does it goes on."""
    daemon = site.daemon()
    with short_of_descriptors():
        os.kill(daemon.pid, signal.SIGKILL)
        wait_for(lambda: daemon.keeper._pause_s > 0.1, "an attempt that failed")
    told = daemon.event("is the guardian now")
    assert f"the guardian, process {daemon.pid}, has ended" in told.what


def test_a_guardian_that_cannot_be_asked_for_want_of_descriptors_is_left_alone(site):
    """Nothing is known of it, and it holds the deadline."""
    daemon = site.daemon()
    daemon.order(boottime() + 60)
    with short_of_descriptors():
        problem = Keeper(site.root, site.environment, daemon.inbox).reach()
    assert problem == "cannot ask for the guardian: Too many open files"
    with short_of_descriptors(room=1):  # the pipe has two ends
        problem = Keeper(site.root, site.environment, daemon.inbox)._spawn()
    assert problem == "cannot start the guardian: [Errno 24] Too many open files"
    assert lives(daemon.pid)


def test_no_start_begins_that_the_guardian_has_not_confirmed(site):
    """It is waited for a quarter of a second; other services are not concerned."""
    daemon = site.daemon()
    daemon.order(boottime() + 60)
    assert daemon.guardian.objection("svc1") == ""
    os.kill(daemon.pid, signal.SIGSTOP)
    began = time.monotonic()
    daemon.order(boottime() + 60, services=("svc1", "svc2"))
    took_s = time.monotonic() - began
    assert daemon.guardian.objection("svc2").startswith("the guardian does not answer")
    assert daemon.guardian.objection("single") == ""
    os.kill(daemon.pid, signal.SIGCONT)
    wait_for(lambda: not daemon.guardian.objection("svc2"), "the confirmation")
    assert 0.2 < took_s < 2.0
    began = time.monotonic()
    daemon.order(boottime() + 60, services=("svc2",))
    assert time.monotonic() - began < 0.2


@pytest.mark.slow
def test_a_guardian_that_does_not_answer_for_long_is_replaced(site):
    daemon = site.daemon()
    daemon.order(boottime() + 60)
    os.kill(daemon.pid, signal.SIGSTOP)
    daemon.order(boottime() + 61)

    def looks():
        daemon.guardian.look()
        return not lives(daemon.pid)

    wait_for(looks, "the end of the guardian that hangs")
    daemon.event("is the guardian now")
    wait_for(lambda: not daemon.guardian.objection("svc1"), "the confirmation")


def test_a_guardian_that_was_paused_obeys_the_newest_order_before_it_acts(site):
    daemon = site.daemon()
    daemon.order(boottime() + 0.3)
    os.kill(daemon.pid, signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{daemon.pid}/stat").read_text().split()[2] == "T", "the pause")
    until = boottime() + 60
    daemon.order(until)
    past = deadline(boottime() + 0.3, 1.0)
    wait_for(lambda: boottime() > past, "the deadline to pass")
    os.kill(daemon.pid, signal.SIGCONT)
    daemon.order(until, services=("svc1", "svc2"))
    assert daemon.guardian.objection("svc2") == ""
    assert site.stops() == []


def test_one_of_another_release_hands_its_order_to_a_new_one(site):
    """An upgrade replaces the program of the guardian, not its deadline."""
    first = site.daemon()
    until = boottime() + 60
    first.order(until)
    first.close()
    keeper = older(site, first)
    found = keeper.reach(site.know())
    assert isinstance(found, Found)
    assert found.connection.pid != first.pid
    assert found.lease[0] == until
    assert not lives(first.pid)
    found.connection.end.close()


def test_one_that_takes_the_order_of_another_release_can_stop_what_it_guards(site):
    """The new daemon ends in the next moment: it was told how, together with the order."""
    first = site.daemon()
    first.order(boottime() + 0.5)
    first.close()
    found = older(site, first).reach(site.know())
    assert isinstance(found, Found)
    found.connection.end.close()
    wait_for(site.stops, "the stop action of the guardian")


def older(site, first):
    """Return a keeper that takes the guardian for one of another release, once."""

    class OlderKeeper(Keeper):
        seen = 0

        def _connect(self):
            found = super()._connect()
            OlderKeeper.seen += 1
            if OlderKeeper.seen > 1 or not isinstance(found, Found):
                return found
            from opensvc_hb.daemon.guardian_keeper import _Outdated

            found.connection.end.close()
            return _Outdated(found.connection.pid, "release 0", found.order, found.acted)

    return OlderKeeper(site.root, site.environment, first.inbox)


# -- the socket ---------------------------------------------------------------------------------------


def test_a_line_that_is_wrong_is_refused_and_changes_nothing(site):
    """Whatever it is; the order in force stays."""
    until = boottime() + 60
    good = wire.encode(wire.Ordered(1, Order(until, T, (("svc1", "svc1"),))))
    bad = [
        b"garbage\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"{}\n",
        b'{"v":2,"say":"ordered","number":3}\n',
        b'{"v":1,"say":"sing","number":4}\n',
        b'{"v":1,"say":"renewed","number":5,"until":NaN}\n',
        b'{"v":1,"say":"renewed","number":6,"until":1e999}\n',
        b'{"v":1,"say":"renewed","number":7,"until":"soon"}\n',
        b'{"v":1,"say":"renewed","number":true,"until":1}\n',
        good.replace(b'"timeout_s":2.0', b'"timeout_s":0'),
        good.replace(b'["svc1","svc1"]', b'["svc1","svc1"],["svc1","svc2"]'),
        good.replace(b'["svc1","svc1"]', b'["svc1"]'),
        good.replace(b'["svc1","svc1"]', b'["svc1","a\\u0000b"]'),
        wire.encode(replace(site.know(), number=9, reset="explode")),
        wire.encode(replace(site.know(), number=10, stop=())),
        b"[" * 100000 + b"\n",
    ]
    with socket.socket(socket.AF_UNIX) as end:
        assert Keeper(site.root, site.environment, None)._spawn() == ""
        with_address(str(site.root.guardian_socket), end.connect)
        lines = end.makefile("rb")
        end.sendall(good)
        assert wire.read_answer(lines.readline()) == wire.Refusal(1, "no hello yet")
        end.sendall(wire.encode(wire.Hello()) + good)
        assert isinstance(wire.read_answer(lines.readline()), wire.Greeting)
        assert wire.read_answer(lines.readline()) == wire.Done(1)
        for line in bad:
            end.sendall(line)
            answer = wire.read_answer(lines.readline())
            assert isinstance(answer, wire.Refusal), line[:60]
            assert answer.reason
            assert "\n" not in answer.reason
        end.sendall(wire.encode(wire.Hello()))
        assert wire.read_answer(lines.readline()).order == Order(until, T, (("svc1", "svc1"),))
        lines.close()


def test_the_socket_is_its_owners_only(site):
    site.daemon()
    assert site.root.guardian_socket.stat().st_mode & 0o777 == 0o600


def test_a_guardian_without_descriptors_sleeps_and_hears_the_daemon_when_it_has_some(site):
    """It has realtime priority: to try without a pause would take a processor from the node."""
    daemon = site.daemon()
    status = Path(f"/proc/{daemon.pid}/status")

    def sleeps():
        text = status.read_text()
        return int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])

    with socket.socket(socket.AF_UNIX) as end:
        with limited(daemon.pid, descriptors=3):
            before = sleeps()
            with_address(str(site.root.guardian_socket), end.connect)
            end.sendall(wire.encode(wire.Hello()))
            wait_for(lambda: sleeps() >= before + 3, "the guardian to fall asleep again and again")
        end.settimeout(30.0)
        with end.makefile("rb") as lines:
            assert isinstance(wire.read_answer(lines.readline()), wire.Greeting)


# -- what it costs ------------------------------------------------------------------------------------


def test_a_confirmation_takes_a_fraction_of_a_beat_and_the_guardian_little_memory(site):
    """A thousand services in one order, too; a renewal waits for nothing."""
    daemon = site.daemon()
    daemon.order(boottime() + 60)
    rounds = []
    for number in range(50):
        began = time.perf_counter()
        daemon.order(boottime() + 60, services=(f"svc{number}",))
        rounds.append(time.perf_counter() - began)
        assert daemon.guardian.objection(f"svc{number}") == ""
    many = [f"svc{number}" for number in range(1000)]
    began = time.perf_counter()
    daemon.order(boottime() + 60, services=many)
    thousand_s = time.perf_counter() - began
    assert [daemon.guardian.objection(name) for name in many] == [""] * 1000
    renewals = []
    for _ in range(100):
        began = time.perf_counter()
        daemon.order(boottime() + 60, services=many)
        renewals.append(time.perf_counter() - began)
    rollup = Path(f"/proc/{daemon.pid}/smaps_rollup").read_text()
    pss_kib = int(next(line for line in rollup.splitlines() if line.startswith("Pss:")).split()[1])
    figures = {
        "confirmed_ms": 1000 * sorted(rounds)[25],
        "thousand_ms": 1000 * thousand_s,
        "renewal_ms": 1000 * sorted(renewals)[50],
        "pss_mib": pss_kib / 1024,
    }
    print({name: round(value, 3) for name, value in figures.items()})
    assert figures["confirmed_ms"] < 50
    assert figures["thousand_ms"] < 250
    assert figures["renewal_ms"] < 20
    assert figures["pss_mib"] < 14
