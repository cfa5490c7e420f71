"""Workers of the runner: when one takes a second action, and that nobody ever notices."""

import json
import logging
import os
import signal
import subprocess

import pytest
from runner_site import DEADLINE_S, BareRunner, World, is_gone, wait_for

from opensvc_hb.core.effects import CancelAction
from opensvc_hb.core.events import Outcome
from opensvc_hb.core.states import ActionVerb, Avail
from opensvc_hb.daemon.runner_births import Births
from opensvc_hb.daemon.runner_job import Job
from opensvc_hb.daemon.runner_orders import Report
from opensvc_hb.daemon.runner_pace import BUSY_S, LOOK_EVERY_S, Pace
from opensvc_hb.daemon.runner_queue import LOOK_BACK_WITHIN_S, Waiting
from opensvc_hb.daemon.runner_wire import Began, Finished, Ready, Request, Work
from opensvc_hb.daemon.sessions import Process, Session, look_at, members_of

SAYS_PID = "import os\ndef stop(): print('pid', os.getpid())\n"


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def bare(world):
    bare = BareRunner(world)
    yield bare
    bare.close()


class Pids:
    """Asks for stops, one after the other, and tells which process did each."""

    def __init__(self, world, caplog, runner=None):
        caplog.set_level(logging.INFO)
        self._world, self._caplog = world, caplog
        self.runner = runner or world.runner()

    def stop(self, svcname, text=SAYS_PID, outcome=Outcome.DONE, limit_s=60.0):
        self._world.service(svcname, text)
        self._world.ask(self.runner, svcname, ActionVerb.STOP, limit_s)
        assert self._world.finished().outcome is outcome
        return self.said(svcname, "pid")

    def said(self, svcname, word):
        lines = [r.getMessage() for r in self._caplog.records if r.name == f"service.{svcname}"]
        return next((json.loads(line[len(word) :]) for line in lines if line.startswith(f"{word} ")), None)


def test_a_worker_takes_one_action_after_another(world, caplog):
    """Stops, a start and its second half, and questions, one after the other, are one process's."""
    pids = Pids(world, caplog)
    first = pids.stop("svc1")
    assert pids.stop("svc2") == first
    world.service(
        "svc3",
        "import os\n"
        "def start(): print('pid', os.getpid())\n"
        "def examine(): print('after', os.getpid()); return {'by': os.getpid()}\n",
    )
    world.ask(pids.runner, "svc3")
    assert world.finished().avail is Avail.UP
    assert (pids.said("svc3", "pid"), pids.said("svc3", "after")) == (first, first)
    assert pids.stop("svc4") == first


LEAVES = """
import os, subprocess, sys, time
def stop():
    print('pid', os.getpid(), flush=True)
    code = '''
import os, sys, time
for _ in range({forks}):
    if {sets_session}: os.setsid()
    if os.fork(): os._exit(0)
with open(sys.argv[1] + '.tmp', 'w') as f: f.write(str(os.getpid()))
os.rename(sys.argv[1] + '.tmp', sys.argv[1])
time.sleep(600)
'''
    subprocess.Popen([sys.executable, '-c', code, HERE + '/left.pid'], env={environment},
        start_new_session={sets_session} and not {forks})
    while not os.path.exists(HERE + '/left.pid'): time.sleep(0.002)
"""


@pytest.mark.parametrize(
    "environment", ["None", "{}", "{'OPENSVC_HB_SERVICE': 'svc1'}"], ids=["same", "none", "marked"]
)
@pytest.mark.parametrize("sets_session", [False, True], ids=["our-session", "own-session"])
@pytest.mark.parametrize("forks", [0, 1, 2], ids=["child", "orphan", "orphan-twice"])
def test_a_worker_that_left_a_process_takes_no_other_action(world, caplog, forks, sets_session, environment):
    """What an action leaves, however it daemonises, lives on, and outlives the limit of a later action."""
    if forks == 2:
        sets_session = False  # a leader of a session could not set another
    text = LEAVES.format(forks=forks, sets_session=sets_session, environment=environment)
    pids = Pids(world, caplog)
    first = pids.stop("svc1", text)
    left = world.held_pid("left")
    wait_for(lambda: look_at(first) is None, "the worker to end")
    assert pids.stop("svc2", "import signal\ndef stop(): signal.pause()\n", Outcome.TIMED_OUT, 0.3) is None
    assert pids.stop("svc3") not in (None, first)
    assert not is_gone(left)
    assert look_at(left).parent != first


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("    return 3\n", Outcome.FAILED),
        ("    raise KeyError('fs#1')\n", Outcome.FAILED),
        ("    os.kill(os.getpid(), 9)\n", Outcome.FAILED),
        ("    signal.pause()\n", Outcome.TIMED_OUT),
        ("    os.open('/dev/null', os.O_RDONLY)\n", Outcome.DONE),
        ("    os.dup2(0, 1)\n", Outcome.DONE),
        ("    sys.stdout = io.StringIO()\n", Outcome.DONE),
        ("    threading.Thread(target=threading.Event().wait, daemon=True).start()\n", Outcome.DONE),
        ("    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n", Outcome.DONE),
        ("    import colorsys\n", Outcome.DONE),
        ("def avail(evaluate_apps): return 'unknown'\n", Outcome.DONE),
    ],
    ids=[
        "status",
        "raises",
        "killed",
        "limit",
        "descriptor",
        "output",
        "stream",
        "thread",
        "limits",
        "import",
        "unknown",
    ],
)
def test_a_worker_that_is_not_as_it_was_takes_no_other_action(world, caplog, text, outcome):
    """What failed, or changed its process for good, is the last action of its worker."""
    begin = (
        "import io, os, resource, signal, sys, threading\n"
        "def stop():\n"
        "    print('pid', os.getpid(), flush=True)\n"
    )
    pids = Pids(world, caplog)
    first = pids.stop("svc1", begin + text, outcome, limit_s=1.0 if outcome is Outcome.TIMED_OUT else 60.0)
    assert first
    assert pids.stop("svc2") not in (None, first)


def test_what_can_be_put_back_is(world, caplog):
    """Working directory, umask, variables, signals, timers and priority of an action end with it."""
    tells = (
        "import json, os, signal\n"
        "def stop():\n"
        "    print('pid', os.getpid())\n"
        "    mask = os.umask(0); os.umask(mask)\n"
        "    print('state', json.dumps([os.getcwd(), mask, os.environ.get('ODD'),\n"
        "        os.environ['OSVC_NODENAME'],\n"
        "        int(signal.getsignal(signal.SIGUSR1)), len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),\n"
        "        signal.getitimer(signal.ITIMER_REAL)[0], os.getpriority(os.PRIO_PROCESS, 0),\n"
        "        open('/proc/self/autogroup').read().split()[-1]]))\n"
    )
    changes = (
        "    os.chdir('/tmp'); os.umask(0o077); os.environ['ODD'] = '1'; del os.environ['OSVC_NODENAME']\n"
        "    signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, {10, 12})\n"
        "    signal.setitimer(signal.ITIMER_REAL, 500); os.setpriority(os.PRIO_PROCESS, 0, 7)\n"
    )
    pids = Pids(world, caplog)
    first = pids.stop("svc1", tells + changes)
    assert pids.stop("svc2", tells) == first
    assert pids.said("svc2", "state") == pids.said("svc1", "state")
    assert pids.said("svc2", "state") == ["/", 0o022, None, "n1", 0, 0, 0.0, 0, "0"]


def test_the_work_of_an_idle_machine_is_done_in_the_background(world, caplog):
    """A question weighs less than an action, also where each session has a weight of its own."""
    world.service(
        "svc1",
        "import os\n"
        "def status():\n"
        "    print('pid', os.getpid())\n"
        "    group = open('/proc/self/autogroup').read().split()[-1]\n"
        "    return {'nice': [os.getpriority(os.PRIO_PROCESS, 0), group]}\n",
    )
    pids = Pids(world, caplog)
    answers = []
    pids.runner.status(["svc1"], answers.append)
    wait_for(lambda: answers, "the status")
    assert answers[0].document["nice"] == [10, "10"]
    first = pids.said("svc1", "pid")
    wait_for(lambda: look_at(first).name == "idle worker", "the question to end")
    assert pids.stop("svc2") == first


def test_a_burst_is_done_by_few_workers_and_each_is_answered_once(world, caplog):
    """Two hundred starts take fewer processes than starts; each is answered once, each looked at once."""
    caplog.set_level(logging.INFO)
    text = (
        "import os\n"
        "def start(): print('pid', os.getpid())\n"
        "def avail(evaluate_apps): print('looked'); return 'up'\n"
    )
    names = [f"svc{number}" for number in range(200)]
    for name in names:
        world.service(name, text)
    runner = world.runner()
    for name in names:
        world.ask(runner, name)
    answers = [world.finished() for _ in names]
    assert sorted(answer.service for answer in answers) == sorted(f"hb-{name}" for name in names)
    assert {(answer.outcome, answer.avail) for answer in answers} == {(Outcome.DONE, Avail.UP)}
    said = [r.getMessage() for r in caplog.records if r.name.startswith("service.svc")]
    assert said.count("looked") == len(names)
    assert len({line for line in said if line.startswith("pid")}) < len(names) / 2
    assert world.inbox.empty()


def test_a_hundred_slow_actions_hold_nobody(world):
    """All that wait for something run at once; what is asked for behind them is done meanwhile."""
    names = [f"slow{number}" for number in range(100)]
    for name in names:
        world.holding(name)
    runner = world.runner()
    for name in names:
        world.ask(runner, name)
    world.ask(runner, "quick")
    assert world.finished().service == "hb-quick"
    for name in names:
        world.held_pid(name)
    for name in names:
        world.let_go(name)
    assert {world.finished().outcome for _ in names} == {Outcome.DONE}


def test_an_idle_worker_that_is_killed_is_replaced(bare):
    """One worker is always there in advance; whoever kills it costs nobody an action."""
    bare.hear(Ready)
    (first,) = wait_for(bare.children, "the worker in advance")
    os.kill(first, signal.SIGKILL)
    (second,) = wait_for(lambda: [pid for pid in bare.children() if pid != first], "another")
    bare.ask(1, Work.STOP, "svc1")
    assert bare.hear(Began).pid == second
    assert bare.hear(Finished).outcome is Outcome.DONE


def test_idle_workers_end_with_the_runner(world, bare):
    """The daemon gone, nothing of the runner is left; nor when the runner itself is killed."""
    bare.hear(Ready)
    for number in range(20):
        bare.ask(number, Work.STOP, f"svc{number}")
    wait_for(lambda: len([1 for _ in iter_finished(bare)]) == 20, "all the answers")
    workers = wait_for(bare.children, "idle workers")
    bare.socket.close()
    assert bare.popen.wait(DEADLINE_S) == 0
    for pid in workers:
        wait_for(lambda pid=pid: is_gone(pid), "an idle worker to end")


def iter_finished(bare):
    bare.heard += bare.channel.receive()
    return [message for message in bare.heard if isinstance(message, Finished)]


def test_a_killed_worker_is_a_failed_action_and_no_other_suffers(world, caplog):
    """SIGKILL from a stranger fails the action that ran; the next one finds a worker."""
    pids = Pids(world, caplog)
    world.holding("svc1", "stop")
    world.ask(pids.runner, "svc1", ActionVerb.STOP)
    os.kill(world.held_pid("svc1"), signal.SIGKILL)
    finished = world.finished()
    assert (finished.outcome, finished.avail) == (Outcome.FAILED, Avail.UNKNOWN)
    assert finished.detail == "the action's process was killed by SIGKILL"
    assert pids.stop("svc2")


@pytest.mark.parametrize(("limit_s", "cancels"), [(1.0, False), (60.0, True)], ids=["limit", "cancelled"])
def test_one_limit_holds_for_both_halves_of_a_start(world, limit_s, cancels):
    """A look back that does not end is ended as the start would have been; how that ended is told."""
    world.service(
        "svc1",
        "import os, pathlib, signal\n"
        "def start(): return 0\n"
        "def avail(evaluate_apps):\n"
        "    path = pathlib.Path(HERE) / 'svc1.tmp'\n"
        "    path.write_text(str(os.getpid()))\n"
        "    path.rename(path.with_suffix('.pid'))\n"
        "    signal.pause()\n",
    )
    runner = world.runner()
    action = world.ask(runner, "svc1", limit_s=limit_s)
    pid = world.held_pid("svc1")
    if cancels:
        runner.cancel(CancelAction(action.service, action.action_id))
    finished = world.finished()
    why = "cancelled" if cancels else "its time limit of 1 s passed"
    assert (finished.outcome, finished.avail) == (Outcome.TIMED_OUT, Avail.UNKNOWN)
    assert finished.detail == f"{why}; start had ended with status 0"
    wait_for(lambda: is_gone(pid), "the look back to end")


# --- without processes -----------------------------------------------------------------------


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def request(number, work=Work.START, limit_s=60.0):
    return Request(number, work, f"svc{number}", limit_s)


def test_a_look_back_waits_behind_starts_but_not_for_ever():
    """It comes when nothing else is to be begun; when it has waited for long, it takes turns with starts."""
    clock = Clock()
    waiting = Waiting(clock)
    job, other = Job(request(1), clock.now + 60.0), Job(request(2), clock.now + 60.0)
    waiting.add_look_back(job)
    waiting.add_look_back(other)
    for number in range(3, 8):
        waiting.add(request(number))
    assert waiting.next(True).request_id == 3
    clock.now += LOOK_BACK_WITHIN_S
    assert waiting.next(True) is job
    assert waiting.next(True).request_id == 4
    assert waiting.next(True) is other
    assert [waiting.next(True).request_id for _ in range(3)] == [5, 6, 7]
    assert waiting.next(True) is None


def test_a_look_back_waits_for_no_more_than_half_of_what_is_left():
    """A service with a short time limit does not spend it on waiting."""
    clock = Clock()
    waiting = Waiting(clock)
    job = Job(request(1), clock.now + 1.0)
    waiting.add_look_back(job)
    waiting.add(request(2))
    waiting.add(request(3))
    clock.now += 0.4
    assert waiting.next(True).request_id == 2
    clock.now += 0.1
    assert waiting.next(True) is job


def test_a_worker_that_hangs_after_a_start_takes_nothing_of_its_limit():
    """The look at what became of the start has the time that the request has left."""
    job = Job(request(1), limit_at=160.0)
    job.take([Report(exit_status=0, complete=True, hangs=True).encode()])
    job.is_complete = job.hangs = True
    job.deadline = 101.0
    assert job.begin_second_half()
    assert (job.deadline, job.hangs, job.order.was_started) == (160.0, False, True)


def test_what_may_not_act_holds_no_other_kind():
    """Where no more actions may run, second halves and questions are begun all the same."""
    waiting = Waiting(Clock())
    waiting.add(request(1))
    waiting.add(request(2, Work.STATUS))
    assert not waiting.is_empty(may_act=False)
    assert waiting.next(may_act=False).request_id == 2
    assert waiting.is_empty(may_act=False)
    assert waiting.next(may_act=False) is None
    assert waiting.take_out(1).request_id == 1
    assert waiting.is_empty(may_act=True)


def test_few_are_busy_at_once_and_what_takes_long_counts_no_more():
    """With two processors four are begun; another when one has ended, or has taken its time."""
    clock, running = Clock(), [9]
    pace = Pace(clock, processors=2, running=lambda: running[0])
    for number in range(4):
        assert pace.has_room()
        pace.began(number)
    assert not pace.has_room()
    pace.ended(2)
    assert pace.has_room()
    pace.began(4)
    assert not pace.has_room()
    assert pace.changes_at(is_eager=True) == pytest.approx(clock.now + LOOK_EVERY_S)
    clock.now += BUSY_S
    assert pace.is_quiet
    assert pace.has_room()


def test_an_idle_processor_takes_another_at_once():
    """While a processor has nothing to do nobody waits; the kernel is asked now and then."""
    clock, running = Clock(), [1]
    pace = Pace(clock, processors=2, running=lambda: running[0])
    for number in range(4):
        pace.began(number)
    assert pace.has_room()
    pace.began(4)
    assert pace.has_room()
    pace.began(5)
    assert not pace.has_room()
    running[0] = 3
    clock.now += LOOK_EVERY_S
    assert not pace.has_room()


class Kernel:
    """Numbers given out so far, and who lives."""

    def __init__(self, *processes, last=100):
        self.last = last
        self.processes = {process.pid: process for process in processes}

    def births(self, clock=None):
        births = Births(50, frozenset({1, 20}), lambda: self.last, self.processes.get, clock or (lambda: 0.0))
        births.begin("svc1")
        return births


def test_a_process_of_somebody_who_lived_before_is_not_ours():
    """Lines of parents that lead to an older process, or to another worker, are others'."""
    kernel = Kernel(Process(60, 60, 1, True, 1))
    births = kernel.births()
    kernel.last = 103
    kernel.processes[101] = Process(101, 60, 9, True, 60)
    kernel.processes[102] = Process(102, 60, 9, True, 101)
    kernel.processes[103] = Process(103, 103, 9, False, 1)
    assert not births.may_be_left()


@pytest.mark.parametrize(
    "process",
    [
        Process(101, 50, 9, True, 7),
        Process(101, 101, 9, True, 50),
        Process(os.getpid(), 101, 9, True, 20),
    ],
    ids=["our-session", "our-child", "adopted"],
)
def test_a_process_of_ours_is_left(process):
    """One of our session, of our own, or without a parent of its own and unmarked."""
    kernel = Kernel(last=process.pid - 1)
    births = kernel.births()
    kernel.last = process.pid
    kernel.processes[process.pid] = process
    assert births.may_be_left()


def test_what_cannot_be_told_may_be_left():
    """Numbers all round, too many of them, too long a time, or a kernel that tells nothing."""
    now = [0.0]
    for last in (99, 5000, None):
        kernel = Kernel()
        births = kernel.births()
        kernel.last = last
        assert births.may_be_left()
    births = Kernel().births(lambda: now[0])
    now[0] = 1.0
    assert not births.may_be_left()
    now[0] = 10.0
    assert births.may_be_left()


def test_a_look_is_repeated_for_what_was_born_meanwhile():
    """A process that forks and ends while it is looked for does not escape."""
    kernel = Kernel()
    births = kernel.births()
    kernel.last = 101

    def look(pid):
        if pid == 101 and kernel.last == 101:
            kernel.last = 102
            kernel.processes[102] = Process(102, 50, 9, True, 1)
        return kernel.processes.get(pid)

    births._look = look
    assert births.may_be_left()


def test_what_is_older_than_an_action_is_none_of_its_session():
    """A leader is known by its start; others of its session only from the begin of the action on."""
    session = Session(10, 100, since_ticks=200)
    leader, older, younger = (
        Process(10, 10, 100, True),
        Process(11, 10, 199, True),
        Process(12, 10, 200, True),
    )
    assert members_of(session, {p.pid: p for p in (leader, older, younger)}) == (leader, younger)


def test_a_real_child_is_seen_and_a_real_stranger_is_not():
    """The kernel's own numbers and list tell a child of ours from nobody."""
    births = Births(os.getpid(), frozenset({1}))
    births.begin("svc1")
    assert not births.may_be_left()
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        assert births.may_be_left()
    finally:
        child.kill()
        child.wait()
