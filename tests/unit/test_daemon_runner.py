"""The action runner as the daemon uses it: real processes, and an agent that does as told."""

import fcntl
import json
import logging
import os
import queue
import signal

import pytest
from runner_site import (
    ARGV,
    DEADLINE_S,
    BareRunner,
    World,
    is_gone,
    is_waited_for,
    parent_of,
    wait_for,
)

from opensvc_hb.core.config import Service
from opensvc_hb.core.effects import CancelAction
from opensvc_hb.core.events import Outcome
from opensvc_hb.core.states import ActionVerb, Avail
from opensvc_hb.daemon.runner import Declared, NotEvaluated, StatusEvaluated
from opensvc_hb.daemon.runner_wire import Began, Finished, Printed, Ready, Work
from opensvc_hb.daemon.sessions import boottime, look_at


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


def output_of(caplog, svcname):
    return [record.getMessage() for record in caplog.records if record.name == f"service.{svcname}"]


def test_a_start_is_answered_with_its_status_and_what_the_agent_then_says(world, caplog):
    """A start is answered with its exit status and avail; its output is logged under the service's name."""
    caplog.set_level(logging.INFO)
    world.service(
        "svc1",
        "import os, sys\n"
        "def start():\n"
        "    print('one')\n"
        "    os.system('echo two')\n"
        "    sys.stderr.write('three')\n"
        "def avail(evaluate_apps):\n"
        "    return 'mixed' if evaluate_apps else 'down'\n",
    )
    runner = world.runner()
    action = world.ask(runner, "svc1")
    finished = world.finished()
    assert (finished.service, finished.action_id, finished.verb) == (
        "hb-svc1",
        action.action_id,
        ActionVerb.START,
    )
    assert (finished.outcome, finished.exit_status, finished.avail) == (Outcome.DONE, 0, Avail.MIXED)
    assert finished.detail == ""
    assert output_of(caplog, "svc1") == ["one", "two", "three"]


@pytest.mark.parametrize(("status", "detail"), [(0, ""), (3, "exit status 3: ")])
def test_the_first_error_that_the_agent_logs_is_the_reason(world, status, detail):
    """Who is told that an action failed is told why, also where the exit status alone looks well."""
    world.service(
        "svc1",
        "def stop():\n"
        "    print('07:30:00 INFO    SVC1.APP#1   spawn: /srv/launcher stop')\n"
        "    print('07:30:00 ERROR   SVC1.APP#1   script /srv/launcher is not executable')\n"
        "    print('07:30:00 ERROR   SVC1         there were errors during app stop')\n"
        f"    return {status}\n",
    )
    world.ask(world.runner(), "svc1", ActionVerb.STOP)
    assert world.finished().detail == f"{detail}SVC1.APP#1 script /srv/launcher is not executable"


@pytest.mark.parametrize("verb", list(ActionVerb))
def test_every_verb_is_answered(world, verb):
    """Each verb of core is done; start, stop and verify say what became of the resources."""
    runner = world.runner()
    world.ask(runner, "svc1", verb)
    finished = world.finished()
    assert (finished.verb, finished.outcome) == (verb, Outcome.DONE)
    looks = verb in (ActionVerb.START, ActionVerb.STOP, ActionVerb.VERIFY)
    assert finished.avail is (Avail.UP if looks else Avail.UNKNOWN)


def test_a_failed_stop_is_failed_with_its_status(world):
    """An exit status other than 0 is a failure, and is told."""
    world.service("svc1", "def stop(): return 3\ndef avail(evaluate_apps): return 'mixed'\n")
    world.ask(world.runner(), "svc1", ActionVerb.STOP)
    finished = world.finished()
    assert (finished.outcome, finished.exit_status, finished.avail) == (Outcome.FAILED, 3, Avail.MIXED)
    assert finished.detail == "exit status 3"


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("def start(): raise RuntimeError('no\\ndisk')", "RuntimeError: no"),
        ("def start(): raise SystemExit(4)", "SystemExit: 4"),
        ("def start(): return 0\ndef avail(evaluate_apps): return 'perhaps'", "ValueError: 'perhaps' is not"),
        ("def start(): import os; os._exit(7)", "ended with status 7 before it had reported"),
        ("def start(): import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
    ],
    ids=["raises", "exits", "unknown-avail", "ends-early", "killed"],
)
def test_an_action_that_breaks_is_failed_with_the_reason(world, text, detail):
    """A process that raises, exits or dies by a signal is a failed action, with a reason line."""
    world.service("svc1", text + "\n")
    world.ask(world.runner(), "svc1")
    finished = world.finished()
    assert (finished.outcome, finished.avail) == (Outcome.FAILED, Avail.UNKNOWN)
    assert detail in finished.detail
    assert "\n" not in finished.detail


GRANDCHILD = """
import os, signal, subprocess, sys
def start():
    code = '''
import os, signal, sys
if {ignores}: signal.signal(signal.SIGTERM, signal.SIG_IGN)
if {group}: os.setpgid(0, 0)
with open(sys.argv[1] + '.tmp', 'w') as f: f.write(str(os.getpid()))
os.rename(sys.argv[1] + '.tmp', sys.argv[1])
while True: signal.pause()
'''
    subprocess.Popen([sys.executable, '-c', code, HERE + '/grandchild.pid'], start_new_session={session})
    while not os.path.exists(HERE + '/grandchild.pid'): pass
    {then}
"""


@pytest.mark.slow
def test_at_its_limit_the_whole_session_is_killed_whatever_it_ignores(world):
    """At the limit every process of the action is ended, one that ignores SIGTERM too."""
    world.service(
        "svc1", GRANDCHILD.format(ignores=True, group=True, session=False, then="while True: signal.pause()")
    )
    world.ask(world.runner(), "svc1", limit_s=4.0)
    pid = world.held_pid("grandchild")
    finished = world.finished()
    assert is_gone(pid)
    assert (finished.outcome, finished.avail) == (Outcome.TIMED_OUT, Avail.UNKNOWN)
    assert finished.detail == "its time limit of 4 s passed"


def test_what_an_action_killed_by_a_signal_leaves_is_ended(world):
    """An action whose own process is killed has ended only when nothing of its session runs."""
    world.service(
        "svc1", GRANDCHILD.format(ignores=False, group=False, session=False, then="os.kill(os.getpid(), 9)")
    )
    world.ask(world.runner(), "svc1")
    pid = world.held_pid("grandchild")
    assert world.finished().outcome is Outcome.FAILED
    assert is_gone(pid)


def test_a_daemon_that_keeps_the_output_open_is_not_waited_for(world):
    """A process that the action daemonised holds the output pipe, lives on, and delays no answer."""
    world.service("svc1", GRANDCHILD.format(ignores=False, group=False, session=True, then="return 0"))
    world.ask(world.runner(), "svc1")
    pid = world.held_pid("grandchild")
    finished = world.finished()
    assert (finished.outcome, finished.avail) == (Outcome.DONE, Avail.UP)
    assert not is_gone(pid)


def test_how_far_an_action_came_before_its_limit_is_said(world):
    """A start that ended, and whose evaluation hangs, says both."""
    world.service("svc1", "import signal\ndef start(): return 0\ndef avail(evaluate_apps): signal.pause()\n")
    world.ask(world.runner(), "svc1", limit_s=1.0)
    finished = world.finished()
    assert finished.outcome is Outcome.TIMED_OUT
    assert finished.detail.endswith("; start had ended with status 0")


def test_a_cancelled_action_is_ended_and_answered(world):
    """Cancelling ends the action's processes; its answer follows as for a limit."""
    world.holding("svc1")
    runner = world.runner()
    action = world.ask(runner, "svc1")
    pid = world.held_pid("svc1")
    runner.cancel(CancelAction(action.service, action.action_id))
    finished = world.finished()
    assert is_gone(pid)
    assert (finished.action_id, finished.outcome, finished.detail) == (
        action.action_id,
        Outcome.TIMED_OUT,
        "cancelled",
    )


def test_a_slow_action_holds_no_other_service(world):
    """While one service's start hangs, another's is done."""
    world.holding("slow")
    runner = world.runner()
    world.ask(runner, "slow")
    world.held_pid("slow")
    world.ask(runner, "quick")
    assert world.finished().service == "hb-quick"
    world.let_go("slow")
    assert world.finished().service == "hb-slow"


def test_a_second_action_of_a_service_is_refused(world):
    """One action of a service at a time: the second is answered as failed, the first goes on."""
    world.holding("svc1")
    runner = world.runner()
    first = world.ask(runner, "svc1")
    world.held_pid("svc1")
    second = world.ask(runner, "svc1", ActionVerb.STOP)
    refused = world.finished()
    assert (refused.action_id, refused.outcome) == (second.action_id, Outcome.FAILED)
    assert refused.detail == "refused: another action of svc1 has not ended"
    world.let_go("svc1")
    assert world.finished().action_id == first.action_id
    third = world.ask(runner, "svc1", ActionVerb.STOP)
    assert (world.finished().action_id, third.verb) == (third.action_id, ActionVerb.STOP)


def test_a_service_is_stopped_while_its_addresses_are_announced(world):
    """An announcement changes nothing of the service: it holds up no action."""
    world.holding("svc1", "announce")
    runner = world.runner()
    announcement = world.ask(runner, "svc1", ActionVerb.ANNOUNCE)
    world.held_pid("svc1")
    stop = world.ask(runner, "svc1", ActionVerb.STOP)
    finished = world.finished()
    assert (finished.action_id, finished.outcome) == (stop.action_id, Outcome.DONE)
    world.let_go("svc1")
    assert world.finished().action_id == announcement.action_id


def test_a_bound_queues_actions_but_no_questions(world):
    """With a bound of one the second action waits for the first; a status is answered meanwhile."""
    world.holding("svc1")
    answers = queue.Queue()
    runner = world.runner(max_parallel=1)
    world.ask(runner, "svc1")
    world.held_pid("svc1")
    world.ask(runner, "svc2")
    waiting = world.ask(runner, "svc3")
    runner.status(["svc2"], answers.put)
    assert answers.get(timeout=DEADLINE_S) == StatusEvaluated("svc2", {"avail": "up", "resources": {}})
    runner.cancel(CancelAction(waiting.service, waiting.action_id))
    cancelled = world.finished()
    assert (cancelled.service, cancelled.outcome) == ("hb-svc3", Outcome.TIMED_OUT)
    assert cancelled.detail == "cancelled before it began"
    world.let_go("svc1")
    assert [world.finished().service for _ in range(2)] == ["hb-svc1", "hb-svc2"]


def test_two_hundred_actions_at_once(world):
    """A takeover of many services is answered completely, each service once."""
    runner = world.runner()
    for number in range(200):
        world.ask(runner, f"svc{number}")
    answers = [world.finished() for _ in range(200)]
    assert {answer.service for answer in answers} == {f"hb-svc{number}" for number in range(200)}
    assert {answer.outcome for answer in answers} == {Outcome.DONE}


def test_where_files_are_scarce_actions_wait_for_one_another(world):
    """With few descriptors allowed, many actions are done a few at a time."""
    limited = ["sh", "-c", 'ulimit -n 40; exec "$@"', "sh", *ARGV]
    runner = world.runner(argv=limited)
    for number in range(50):
        world.ask(runner, f"svc{number}")
    assert {world.finished().outcome for _ in range(50)} == {Outcome.DONE}


def test_an_action_is_an_ordinary_process(world, caplog):
    """An action has a session, scheduling, signals, input and environment as any program expects.

    Whatever the daemon has: as root it is urgent and protected, which must not be inherited.
    """
    odd = "trap '' USR1 HUP; "
    if os.geteuid() == 0:
        odd += "echo -500 > /proc/$$/oom_score_adj; exec chrt --rr 5 "
    else:
        odd += "exec "
    caplog.set_level(logging.INFO)
    world.service(
        "svc1",
        "import json, os, resource, signal\n"
        "def start():\n"
        "    status = open('/proc/self/status').read()\n"
        "    words = dict(line.split(':', 1) for line in status.splitlines())\n"
        "    print(json.dumps({\n"
        "        'leads': os.getsid(0) == os.getpid() == os.getpgid(0),\n"
        "        'policy': os.sched_getscheduler(0), 'nice': os.nice(0), 'cwd': os.getcwd(),\n"
        "        'input': os.readlink('/proc/self/fd/0'),\n"
        "        'oom': int(open('/proc/self/oom_score_adj').read()) >= 0,\n"
        "        'ignored': int(words['SigIgn'], 16), 'blocked': int(words['SigBlk'], 16),\n"
        "        'files': len(os.listdir('/proc/self/fd')),\n"
        "        'variables': sorted(set(os.environ) & {'NOTIFY_SOCKET', 'WATCHDOG_USEC', 'PATH'}),\n"
        "    }))\n",
    )
    world.ask(world.runner(argv=["sh", "-c", odd + '"$@"', "sh", *ARGV]), "svc1")
    assert world.finished().outcome is Outcome.DONE
    said = json.loads(output_of(caplog, "svc1")[0])
    assert said["leads"]
    assert said["oom"]
    assert (said["policy"], said["nice"], said["cwd"], said["input"]) == (os.SCHED_OTHER, 0, "/", "/dev/null")
    # Signals 32 and 33 are the C library's own: it lets no program set them back.
    own = 0b11 << 31
    assert (said["ignored"] & ~own, said["blocked"]) == (0, 0)
    assert said["files"] == 7, "stdin, stdout, stderr, results, orders, the lock, and the listing itself"
    assert said["variables"] == ["PATH"]


def test_verify_waits_for_an_action_that_another_runner_left(world):
    """Verifying waits until the service's lock is free, then says what the agent says."""
    locks = world.top / "var/lib/opensvc/lock"
    locks.mkdir(parents=True)
    with (locks / "svc1").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runner = world.runner()
        world.ask(runner, "svc1", ActionVerb.VERIFY)
        world.ask(runner, "svc2", ActionVerb.VERIFY)
        assert world.finished().service == "hb-svc2"
        wait_for(lambda: is_waited_for(locks / "svc1"), "the verification to wait for the lock")
        assert world.inbox.empty()
    assert world.finished().avail is Avail.UP


def test_verify_waits_for_a_start_that_has_not_come_to_the_services_lock(world):
    """A daemon killed just then, and started again, must not find that nothing runs here."""
    world.holding("svc1")
    world.ask(world.runner(), "svc1")
    world.held_pid("svc1")
    after = world.runner()
    world.ask(after, "svc1", ActionVerb.VERIFY)
    world.ask(after, "svc2", ActionVerb.VERIFY)
    assert world.finished().service == "hb-svc2"
    begun = world.top / "var/lib/opensvc/lock/.svc1.begun"
    wait_for(lambda: is_waited_for(begun), "the verification to wait for the start")
    world.let_go("svc1")
    assert sorted(world.finished().verb.value for _ in range(2)) == ["start", "verify"]


def test_declarations_arrive_as_services(world):
    """The agent's declarations become services of core; unreadable ones are lines."""
    world.service(
        "declare",
        "def declare():\n"
        "    service = dict(svcname='svc1', name='hb1', nodes=('n1', 'n2'),"
        " start_limit_s=5, stop_limit_s=6.5)\n"
        "    return [service], ['svc2.env:1: no']\n",
    )
    answers = queue.Queue()
    world.runner().declare(answers.put)
    assert answers.get(timeout=DEADLINE_S) == Declared(
        (Service("hb1", "svc1", ("n1", "n2"), 5, 6.5),), ("svc2.env:1: no",)
    )


def test_a_question_that_fails_is_answered_with_the_reason(world):
    """A status that raises, or lasts too long, is an answer too."""
    world.service("svc1", "def status(): raise KeyError('fs#1')\n")
    world.service("svc2", "def status(): import signal; signal.pause()\n")
    world.service(
        "svc3",
        "from opensvc_hb.errors import ConfigurationError\n"
        "def status(): raise ConfigurationError('svc3.env', 7, 'fs#1.dev', 'must be set')\n",
    )
    answers = queue.Queue()
    runner = world.runner()
    runner.status(["svc1"], answers.put)
    assert answers.get(timeout=DEADLINE_S) == NotEvaluated("svc1", "KeyError: 'fs#1'")
    runner.status(["svc2"], answers.put, limit_s=0.2)
    assert answers.get(timeout=DEADLINE_S) == NotEvaluated("svc2", "its time limit of 0.2 s passed")
    runner.status(["svc3"], answers.put)
    assert answers.get(timeout=DEADLINE_S) == NotEvaluated("svc3", "svc3.env:7: fs#1.dev: must be set")


def test_services_asked_together_are_answered_one_by_one(world):
    """One that breaks down spares the others; what the time limit left over is told as such."""
    world.service("svc2", "def status(): raise KeyError('fs#1')\n")
    world.service("svc4", "def status(): import signal; signal.pause()\n")
    answers = queue.Queue()
    world.runner().status(["svc1", "svc2", "svc3", "svc4", "svc5"], answers.put, limit_s=2.0)
    well = {"avail": "up", "resources": {}}
    late = "its time limit of 2 s passed"
    assert [answers.get(timeout=DEADLINE_S) for _ in range(5)] == [
        StatusEvaluated("svc1", well),
        NotEvaluated("svc2", "KeyError: 'fs#1'"),
        StatusEvaluated("svc3", well),
        NotEvaluated("svc4", late, among_others=True),
        NotEvaluated("svc5", late, among_others=True),
    ]


def test_what_a_start_found_answers_the_next_question_once(world):
    """The status document that came with a start needs no process of its own; an older one is dropped."""
    world.service(
        "svc1",
        "def examine(): return {'avail': 'up', 'by': 'start'}\n"
        "def status(): return {'avail': 'up', 'by': 'status'}\n",
    )
    answers = queue.Queue()
    runner = world.runner()
    world.ask(runner, "svc1")
    assert world.finished().outcome is Outcome.DONE
    runner.status(["svc1", "svc2"], answers.put)
    first = answers.get(timeout=DEADLINE_S)
    assert first.document["by"] == "start"
    assert 0.0 <= first.age_s < DEADLINE_S
    assert answers.get(timeout=DEADLINE_S).svcname == "svc2"
    runner.status(["svc1"], answers.put)
    assert answers.get(timeout=DEADLINE_S).document["by"] == "status"
    world.ask(runner, "svc1")
    assert world.finished().outcome is Outcome.DONE
    world.ask(runner, "svc1", ActionVerb.STOP)
    assert world.finished().outcome is Outcome.DONE
    runner.status(["svc1"], answers.put)
    assert answers.get(timeout=DEADLINE_S).document["by"] == "status"


def test_an_action_whose_process_cannot_end_is_answered_when_all_is_done(world):
    """A thread that hangs in the kernel keeps the process, not the answer; it is reaped when it ends."""
    world.service(
        "svc1",
        "def avail(evaluate_apps):\n"
        "    import os, pathlib, signal, threading\n"
        "    threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "    os._exit = lambda status: signal.pause()\n"
        "    (pathlib.Path(HERE) / 'svc1.pid').write_text(str(os.getpid()))\n"
        "    return 'unknown'\n",
    )
    runner = world.runner()
    world.ask(runner, "svc1")
    finished = world.finished()
    assert (finished.outcome, finished.avail) == (Outcome.DONE, Avail.UNKNOWN)
    pid = world.held_pid("svc1")
    assert not is_gone(pid)
    world.service("svc1", "")
    world.ask(runner, "svc1", ActionVerb.VERIFY)
    assert world.finished().avail is Avail.UP
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: look_at(pid) is None, "the child to be reaped")


def test_a_large_document_arrives_whole(world):
    """A document larger than any pipe or socket buffer arrives whole."""
    world.service("svc1", "def status(): return {'avail': 'up', 'log': 'x' * 3000000}\n")
    answers = queue.Queue()
    world.runner().status(["svc1"], answers.put)
    assert len(answers.get(timeout=DEADLINE_S).document["log"]) == 3000000


def test_a_killed_runner_is_replaced_and_its_actions_are_answered(world):
    """After kill -9 of the runner its action is ended and answered as failed; the next runner acts."""
    world.holding("svc1")
    runner = world.runner()
    world.ask(runner, "svc1")
    pid = world.held_pid("svc1")
    os.kill(parent_of(pid), signal.SIGKILL)
    finished = world.finished()
    assert is_gone(pid)
    assert (finished.service, finished.outcome, finished.avail) == ("hb-svc1", Outcome.FAILED, Avail.UNKNOWN)
    assert "killed by signal 9" in finished.detail
    world.ask(runner, "svc2")
    assert world.finished().outcome is Outcome.DONE


def test_a_runner_that_hangs_is_replaced(world):
    """A runner that answers no ping is killed, its action ended and answered."""
    ahead_s = [0.0]
    world.holding("svc1")
    runner = world.runner(clock=lambda: boottime() + ahead_s[0])
    world.ask(runner, "svc1")
    pid = world.held_pid("svc1")
    stopped = parent_of(pid)
    os.kill(stopped, signal.SIGSTOP)

    def answered():
        ahead_s[0] += 20.0  # first a ping is due, then its answer is overdue
        runner.cancel(CancelAction("nobody", 0))  # wakes the thread, which looks at its clock
        return not world.inbox.empty()

    wait_for(answered, "the answer for the action of the runner that hangs")
    finished = world.finished()
    assert finished.outcome is Outcome.FAILED
    assert "said nothing for 30 s" in finished.detail
    assert is_gone(stopped)
    assert is_gone(pid)


def test_an_agent_that_cannot_be_loaded_fails_actions_with_the_reason(world):
    """When no runner comes up, actions are answered after a few attempts, with the reason."""
    argv = [*ARGV[:-1], "runner_fake_adapter:Nothing"]
    world.ask(world.runner(argv=argv), "svc1")
    finished = world.finished()
    assert finished.outcome is Outcome.FAILED
    assert "cannot load the agent: AttributeError" in finished.detail


@pytest.mark.slow
def test_a_runner_that_cannot_even_be_started_fails_actions(world):
    """A missing interpreter is a reason like any other."""
    world.ask(world.runner(argv=["/nonexistent/python"]), "svc1")
    finished = world.finished()
    assert finished.outcome is Outcome.FAILED
    assert "cannot start the action runner" in finished.detail


def test_closing_lets_an_action_finish_and_begins_nothing_new(world):
    """After close a running action ends by itself, and is answered as long as the daemon lives."""
    world.holding("svc1")
    runner = world.runner()
    world.ask(runner, "svc1")
    world.held_pid("svc1")
    runner.close()
    late = world.ask(runner, "svc2")
    refused = world.finished()
    assert (refused.action_id, refused.outcome, refused.detail) == (
        late.action_id,
        Outcome.FAILED,
        "the daemon stops",
    )
    world.let_go("svc1")
    assert (world.finished().outcome, (world.top / "svc1.done").exists()) == (Outcome.DONE, True)


@pytest.fixture
def bare(world):
    bare = BareRunner(world)
    yield bare
    bare.close()


def test_when_the_daemon_is_gone_an_action_finishes_and_the_runner_ends(world, bare):
    """With the socket gone, the action goes on to its end, its output is on stderr, the runner exits."""
    world.holding("svc1", more="    print('still at it')\n")
    bare.hear(Ready)
    bare.ask(1, Work.START, "svc1")
    assert bare.hear(Began).pid == world.held_pid("svc1")
    bare.hear(Printed)
    bare.socket.close()
    world.let_go("svc1")
    assert bare.popen.wait(DEADLINE_S) == 0
    assert (world.top / "svc1.done").exists()
    assert bare.popen.stderr.read() == b"svc1: start: done \n"


def test_the_limit_holds_when_the_daemon_is_gone(world, bare):
    """Without a daemon an action is still ended at its limit."""
    world.holding("svc1")
    bare.hear(Ready)
    bare.ask(1, Work.START, "svc1", limit_s=1.0)
    pid = world.held_pid("svc1")
    bare.socket.close()
    assert bare.popen.wait(DEADLINE_S) == 0
    assert is_gone(pid)


def test_no_action_begins_before_its_process_is_named(world, bare):
    """As long as the daemon takes no line a forked action does nothing, nor when the runner dies then."""
    world.service("loud", "def start(): print('x' * 500000)\n")
    world.service("svc1", "def start(): open(HERE + '/touched', 'w')\n")
    bare.hear(Ready)
    bare.ask(1, Work.START, "loud")
    bare.hear(Began)
    wait_for(lambda: bare.names() == {"idle worker"}, "the loud action to end; its lines wait in the runner")
    bare.ask(2, Work.START, "svc1")
    wait_for(lambda: bare.has_read_all(), "the runner to take the request")
    bare.ask(3, Work.START, "svc2")
    wait_for(lambda: bare.has_read_all(), "the runner to be back in its loop")
    workers = bare.children()
    bare.popen.kill()
    for pid in workers:
        wait_for(lambda pid=pid: is_gone(pid), "the workers to end")
    assert not (world.top / "touched").exists()


def test_an_endless_line_is_cut_and_odd_bytes_are_no_matter(world, bare):
    """Output without line ends comes in pieces; what is no text is replaced."""
    world.service("svc1", "import os\ndef start(): os.write(1, b'y' * 20000 + b'\\xff\\n')\n")
    bare.hear(Ready)
    bare.ask(1, Work.START, "svc1")
    bare.hear(Finished)
    texts = [message.text for message in bare.heard if isinstance(message, Printed)]
    assert [len(text) for text in texts] == [8192, 8192, 20001 - 2 * 8192]
    assert texts[-1].endswith("\ufffd")
