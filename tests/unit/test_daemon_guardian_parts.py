"""What the guardian is made of: its words, what it finds, what it resets, and its place in the daemon."""

import contextlib
import errno
import itertools
import os
import queue
import selectors
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from guardian_site import short_of_descriptors, wait_for
from hypothesis import given
from hypothesis import strategies as st

from opensvc_hb.client import with_address
from opensvc_hb.core import effects as fx
from opensvc_hb.core.config import LeasePolicy, Link, LinkType, Policies, Service
from opensvc_hb.core.events import GuardianActed, Outcome, Ticked
from opensvc_hb.core.guardian import Order
from opensvc_hb.core.states import ActionVerb
from opensvc_hb.daemon import guardian_wire as wire
from opensvc_hb.daemon.configuration import ClusterFiles, _without_lease, combine, compose
from opensvc_hb.daemon.effects import Performer
from opensvc_hb.daemon.guardian import LOST, Connection, Guardian, Learned, Reached
from opensvc_hb.daemon.guardian_door import ACCEPT_PAUSE_S, Door
from opensvc_hb.daemon.guardian_held import NodeHoldings, describe, list_addresses
from opensvc_hb.daemon.guardian_keeper import Found, Keeper
from opensvc_hb.daemon.guardian_processes import ServiceProcesses, flock_takers, service_of_group
from opensvc_hb.daemon.guardian_reset import MACHINE_PID_NAMESPACE, Machine, ResetKind, Resetter
from opensvc_hb.daemon.monitor import Monitor
from opensvc_hb.daemon.runner import Declared, NotEvaluated
from opensvc_hb.daemon.sessions import Process
from opensvc_hb.daemon.settings import Settings
from opensvc_hb.held import Holding, HoldingKind, container_notes, marks_of, unmarked
from opensvc_hb.paths import Root

TOP = Path(__file__).resolve().parents[2]

# -- words ----------------------------------------------------------------------------------------

texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=12)
names = texts.filter(bool)
seconds = st.floats(0, 1e9)
orders = st.builds(
    Order,
    seconds,
    st.floats(0.001, 1e6),
    st.lists(st.tuples(names, names), max_size=4, unique_by=lambda pair: pair[0]).map(tuple),
    st.lists(texts, max_size=3).map(tuple),
)
numbers = st.integers(0, 1 << 40)
holdings = st.builds(Holding, st.sampled_from(HoldingKind), names)
requests = st.one_of(
    st.just(wire.Hello()),
    st.builds(
        wire.Know,
        numbers,
        st.lists(texts, max_size=3).map(tuple),
        texts,
        st.dictionaries(texts, texts, max_size=3),
        texts,
        texts,
        st.dictionaries(names, st.lists(holdings, max_size=3).map(tuple), max_size=3),
    ),
    st.builds(wire.Ordered, numbers, orders),
    st.builds(wire.Renewed, numbers, seconds),
)
deeds = st.builds(wire.Acted, st.lists(texts, max_size=3).map(tuple), texts, st.booleans())
answers = st.one_of(
    st.builds(wire.Greeting, numbers, texts, st.none() | orders, st.lists(deeds, max_size=2).map(tuple)),
    st.builds(wire.Done, numbers),
    st.builds(wire.Refusal, numbers, texts),
    deeds,
)


@given(requests)
def test_what_the_daemon_says_arrives_as_it_was_said(request_):
    line = wire.encode(request_)
    assert (line.count(b"\n"), wire.read_request(line)) == (1, request_)


@given(answers)
def test_what_the_guardian_says_arrives_as_it_was_said(answer):
    assert wire.read_answer(wire.encode(answer)) == answer


@given(st.binary(max_size=200))
def test_any_other_line_is_refused_with_a_reason(line):
    """No line ends the guardian."""
    for read in (wire.read_request, wire.read_answer):
        with pytest.raises(wire.WireError) as refused:
            read(line)
        assert str(refused.value)


def test_what_a_later_release_holds_is_left_out():
    """This one could not look for it."""
    known = Holding(HoldingKind.ADDRESS, "192.0.2.1")
    know = wire.Know(1, ("stop",), "/", {}, "none", "", {"svc1": (known,)})
    line = wire.encode(know).replace(b'[["ADDRESS"', b'[["QUORUM","q"],["ADDRESS"')
    assert wire.read_request(line) == know


# -- what is held ---------------------------------------------------------------------------------

MOUNTS = r"""22 1 0:20 / / rw - ext4 /dev/vda rw
40 22 253:3 / /srv/with\040space rw,noatime shared:1 - xfs /dev/mapper/web rw
"""


def node(tmp_path, addresses=(b"\xc0\x00\x02\x0a", bytes(15) + b"\x01")):
    """A node with two mounts, two addresses, one volume group, one loop device."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text(MOUNTS)
    block = tmp_path / "block"
    for device, uuid, name in (("dm-0", "LVM-abc", "my--vg-lv0"), ("dm-1", "mpath-x", "plain-disk")):
        (block / device / "dm").mkdir(parents=True)
        (block / device / "dm/uuid").write_text(f"{uuid}\n")
        (block / device / "dm/name").write_text(f"{name}\n")
    (block / "loop0/loop").mkdir(parents=True)
    (block / "loop0/loop/backing_file").write_text("/images/a.img\n")
    (block / "loop1").mkdir()
    return NodeHoldings(str(tmp_path), str(tmp_path), lambda: frozenset(addresses))


@pytest.mark.parametrize(
    ("kind", "held", "free"),
    [
        (HoldingKind.MOUNT_POINT, "/srv/with space", "/srv"),
        (HoldingKind.ADDRESS, "192.0.2.10", "192.0.2.1"),
        (HoldingKind.ADDRESS, "::1", "::2"),
        (HoldingKind.ADDRESS, "0:0::1", "no address"),
        (HoldingKind.VOLUME_GROUP, "my-vg", "plain"),
        (HoldingKind.LOOP_FILE, "/images/a.img", "/images/b.img"),
    ],
)
def test_what_is_held_is_told_from_what_is_not(tmp_path, kind, held, free):
    both = (Holding(kind, held), Holding(kind, free))
    assert node(tmp_path).still_held(both) == both[:1]


def test_what_cannot_be_read_counts_as_held(tmp_path):
    """A node is better reset than believed."""

    def unreadable():
        raise OSError(errno.ENOBUFS, "no buffer")

    wanted = tuple(Holding(kind, "/x") for kind in HoldingKind)
    assert NodeHoldings(str(tmp_path), str(tmp_path / "none"), unreadable).still_held(wanted) == wanted


def test_the_kernel_lists_the_addresses_of_this_node():
    assert b"\x7f\x00\x00\x01" in list_addresses()


def test_a_loop_device_alone_is_no_danger_and_many_things_are_counted():
    assert [kind for kind in HoldingKind if not kind.endangers] == [HoldingKind.LOOP_FILE]
    assert describe("abcdefghi") == "a, b, c, d, e, f and 3 more"
    assert str(Holding(HoldingKind.MOUNT_POINT, "/srv/web")) == "mount point /srv/web"


# -- whose a process is ---------------------------------------------------------------------------

LOCKS = """1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF
1: -> FLOCK  ADVISORY  WRITE 4712 fe:00:1234 0 EOF
2: POSIX  ADVISORY  READ  4713 fe:00:99 128 128
3: FLOCK  ADVISORY  READ  -1 fe:00:99 0 EOF
"""


def test_who_took_a_lock_is_told_from_who_waits_for_it():
    assert flock_takers(LOCKS) == {4711}


def test_descent_stops_at_the_daemon_which_is_never_touched():
    """A daemon that a script of a service has started; what it started for itself is not the service's."""
    top = "/nowhere"
    marked = subprocess.Popen(
        ["/bin/sleep", "600"], env=marks_of(Path(top), "svc1", "start"), start_new_session=True
    )
    mine = Process(marked.pid, marked.pid, 100, True, 1, "app")
    child = Process(4_000_001, 1, 101, True, marked.pid, "child")
    daemon = Process(os.getppid(), 1, 102, True, marked.pid, "hbmgr")
    runner = Process(4_000_002, 1, 103, True, daemon.pid, "runner")
    zombie = Process(4_000_003, 1, 104, False, marked.pid, "zombie")
    everyone = {p.pid: p for p in (mine, child, daemon, runner, zombie)}
    sent = []
    processes = ServiceProcesses(
        top, "/nowhere/lock", False, lambda: everyone, lambda p, n: sent.append((p, n))
    )
    # For a moment after its exec a process shows no environment yet.
    wait_for(lambda: "svc1" in processes.find(frozenset({"svc1"})), "its marks are seen")
    found = processes.find(frozenset({"svc1", "svc2"}))
    assert {member.process for member in found["svc1"]} == {mine, child, daemon, runner}
    processes._spared = daemon
    found = processes.find(frozenset({"svc1"}))
    assert {member.process for member in found["svc1"]} == {mine, child}
    assert processes.find(frozenset({"svc2"})) == {}
    doomed = processes.end(frozenset({"svc1"}))
    assert [len(several) for several in doomed.values()] == [2]
    assert [number for _, number in sent] == [19, 19, 9, 9]
    marked.kill()
    marked.wait()


def test_what_only_a_stop_action_runs_is_no_part_of_the_instance():
    """It is killed where it hangs, and is no reason for a reset."""
    stop = subprocess.Popen(
        ["/bin/sleep", "600"], env=marks_of(Path("/nowhere"), "svc1", "stop"), start_new_session=True
    )
    listed = {stop.pid: Process(stop.pid, stop.pid, 1, True, 1, "sleep")}
    processes = ServiceProcesses("/nowhere", "/nowhere/lock", False, lambda: listed, lambda *_: None)
    # For a moment after its exec a process shows no environment yet.
    wait_for(lambda: "svc1" in processes.find(frozenset({"svc1"})), "its marks are seen")
    (member,) = processes.find(frozenset({"svc1"}))["svc1"]
    assert member.stops
    assert processes.end(frozenset({"svc1"}), with_stops=False) == {}
    assert str(member) == f"process {stop.pid} (sleep)"
    stop.kill()
    stop.wait()


@pytest.mark.parametrize(
    "group",
    [
        f"9:name=systemd:/docker/{'5' * 64}\n8:pids:/docker/{'5' * 64}\n0::/\n",
        f"0::/docker/{'5' * 64}\n",
        f"0::/system.slice/docker-{'5' * 64}.scope\n",
        f"0::/docker/{'6' * 64}/below/{'5' * 64}\n",
    ],
)
def test_a_control_group_tells_the_container_whoever_manages_it(group):
    """The engine by itself or by systemd, the first version of control groups or the second."""
    containers = {"5" * 64: "svc1", "7" * 64: "svc2"}
    assert service_of_group(group, containers) == "svc1"
    assert service_of_group(group.replace("5", "8"), containers) == ""
    assert service_of_group("0::/\n", containers) == ""


def test_containers_are_known_by_the_notes_of_the_services_asked_about(tmp_path):
    """A file each, named by the container's id; a service without a note has none."""
    notes = container_notes(str(tmp_path), "svc1")
    processes = ServiceProcesses("/nowhere", "/nowhere/lock", False, runtime=str(tmp_path))
    assert processes._containers(frozenset({"svc1"})) == {}
    notes.mkdir()
    (notes / ("5" * 64)).touch()
    assert processes._containers(frozenset({"svc1", "svc2"})) == {"5" * 64: "svc1"}
    assert processes._containers(frozenset({"svc2"})) == {}


def test_a_process_of_ours_has_no_marks_whoever_started_us():
    assert unmarked({"A": "1", **marks_of(Path("/"), "svc1", "start")}) == {"A": "1"}


# -- the reset --------------------------------------------------------------------------------------


class FakeMachine:
    """A machine that notes what is done to it; nothing of it is this one's."""

    def __init__(self, namespace=MACHINE_PID_NAMESPACE, environment=b"", fails=()):
        self.did = []
        self.fails = fails
        self.machine = Machine(
            pid_namespace=lambda: self._or_fail("namespace", namespace),
            sees_itself=lambda: "foreign" not in fails,
            process_1=lambda: self._or_fail("environ", environment),
            write=lambda path, data: self._do(f"write {path} {data!r}"),
            end_process_1=lambda: self._do("end process 1"),
            open_watchdog=lambda path: self._do(f"open {path}") or 7,
            set_watchdog_timeout=lambda descriptor, timeout_s: self._do(f"timeout {timeout_s}"),
            feed_watchdog=lambda descriptor, data: self._do(f"feed {data!r}") or 1,
            close_watchdog=lambda descriptor: self._do("close"),
        )

    def _or_fail(self, what, value):
        if what in self.fails:
            raise OSError(errno.EACCES, "Permission denied")
        return value

    def _do(self, what):
        self.did.append(what)
        if what.split()[0] in self.fails:
            raise OSError(errno.EACCES, "Permission denied")


def resetter(fake, kind, under_root=False, device=""):
    made = Resetter(under_root, fake.machine)
    made.configure(kind, device)
    return made


CONSENT = b"A=1\0OPENSVC_HB_RESET=process1\0"
CONTAINER = MACHINE_PID_NAMESPACE + 1


@pytest.mark.parametrize("kind", list(ResetKind))
@pytest.mark.parametrize("under_root", [False, True])
@pytest.mark.parametrize("namespace", [MACHINE_PID_NAMESPACE, CONTAINER])
@pytest.mark.parametrize("environment", [b"", CONSENT, b"XOPENSVC_HB_RESET=process1\0"])
def test_nothing_but_this_very_node_is_ever_reset(kind, under_root, namespace, environment):
    """Every combination: the machine only when it is the node, process 1 only when it agrees."""
    fake = FakeMachine(namespace, environment)
    words = resetter(fake, kind, under_root).reset("why")
    machine = namespace == MACHINE_PID_NAMESPACE and not under_root
    by_sysrq = machine and kind in (ResetKind.AUTO, ResetKind.SYSRQ)
    by_process_1 = (
        kind is ResetKind.PROCESS1 and under_root and namespace == CONTAINER and environment == CONSENT
    )
    assert ("write /proc/sysrq-trigger b'b'" in fake.did) == by_sysrq
    assert ("end process 1" in fake.did) == by_process_1
    if not by_sysrq and not by_process_1:
        assert fake.did == []
        assert words.startswith("the node is not reset: ")


@pytest.mark.parametrize("fails", ["namespace", "environ", "foreign", "end"])
def test_a_doubt_about_process_1_is_a_refusal(fails):
    fake = FakeMachine(CONTAINER, CONSENT, fails=(fails,))
    words = resetter(fake, ResetKind.PROCESS1, under_root=True).reset("why")
    assert words.startswith("the node is not reset: ")
    assert fake.did == (["end process 1"] if fails == "end" else [])


def test_a_crash_is_asked_for_where_the_kernel_can_be_reset():
    """The resource monitor may want a dump; nothing else changes."""
    fake = FakeMachine(MACHINE_PID_NAMESPACE)
    resetter(fake, ResetKind.SYSRQ).reset("app#1 is down", crashes=True)
    assert fake.did[-1] == "write /proc/sysrq-trigger b'c'"
    elsewhere = FakeMachine(CONTAINER)
    assert "not reset" in resetter(elsewhere, ResetKind.SYSRQ).reset("app#1 is down", crashes=True)
    assert elsewhere.did == []


def test_sysrq_says_why_in_the_kernels_log_and_goes_on_without_it():
    fake = FakeMachine()
    assert resetter(fake, ResetKind.SYSRQ).reset("svc1 is held") == "the node is reset by sysrq"
    assert fake.did == ["write /dev/kmsg b'<2>opensvc-hb: svc1 is held\\n'", "write /proc/sysrq-trigger b'b'"]
    fake = FakeMachine(fails=("write",))
    assert "sysrq: Permission denied" in resetter(fake, ResetKind.SYSRQ).reset("why")
    assert len(fake.did) == 2


def test_the_watchdog_is_open_and_fed_while_something_is_guarded():
    """And disarmed when nothing is, or another one is named."""
    fake = FakeMachine()
    dog = resetter(fake, ResetKind.AUTO, device="/dev/watchdog9")
    assert dog.guard(None, 0.0) == ""
    assert fake.did == []
    assert dog.guard(60.0, 1.0) == ""
    assert fake.did == ["open /dev/watchdog9", "timeout 6", "feed b'\\x00'"]
    assert dog.feed_at == 2.5
    dog.feed(2.4)
    assert (dog.guard(60.0, 2.5), len(fake.did)) == ("", 3)
    dog.feed(2.5)
    assert fake.did[3:] == ["feed b'\\x00'"]
    dog.configure(ResetKind.AUTO, "/dev/watchdog9")
    assert len(fake.did) == 4
    dog.guard(None, 3.0)
    assert fake.did[4:] == ["feed b'V'", "close"]
    assert dog.feed_at is None


def test_the_watchdog_resets_by_not_being_fed():
    """With auto sysrq comes on top: a device counts whole seconds, a timeout may have fewer."""
    fake = FakeMachine()
    dog = resetter(fake, ResetKind.WATCHDOG, device="/dev/watchdog9")
    dog.guard(2.0, 1.0)
    assert dog.reset("why") == "the node is reset: the watchdog /dev/watchdog9 is not fed any more"
    assert fake.did[-1] == "timeout 1"
    dog.feed(99.0)
    assert fake.did[-1] == "timeout 1"
    fake = FakeMachine()
    dog = resetter(fake, ResetKind.AUTO, device="/dev/watchdog9")
    dog.guard(2.0, 1.0)
    assert dog.reset("why").endswith("; the node is reset by sysrq")


def test_a_watchdog_that_cannot_be_had_is_said_once():
    fake = FakeMachine(fails=("open",))
    dog = resetter(fake, ResetKind.AUTO, device="/dev/watchdog9")
    assert dog.guard(2.0, 1.0) == "the watchdog /dev/watchdog9 cannot be used: Permission denied"
    assert dog.guard(2.0, 2.0) == ""
    fake = FakeMachine(CONTAINER)
    dog = resetter(fake, ResetKind.WATCHDOG, device="/dev/watchdog9")
    assert "is not used: this node is a container" in dog.guard(2.0, 1.0)
    assert fake.did == []


ENDS_ITS_NODE = """
import os, subprocess, sys
from pathlib import Path
machine = int(sys.argv[1])
if os.getpid() == 1:
    sys.exit(subprocess.run([sys.executable, "-c", sys.argv[2], *sys.argv[1:]]).returncode)
assert Path("/proc/self/ns/pid").stat().st_ino != machine, "only in a namespace of the test's own"
from opensvc_hb.daemon.guardian_reset import Machine, ResetKind, Resetter
resetter = Resetter(True, Machine())
resetter.configure(ResetKind.PROCESS1, "")
print(resetter.reset("why"), flush=True)
"""


@pytest.mark.parametrize("agrees", [True, False])
def test_a_real_namespace_ends_with_its_process_1_if_that_agrees(agrees):
    """A PID namespace that the test makes; the machine's own is never asked."""
    wrapper = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("this user may not make a PID namespace")
    own = str(Path("/proc/self/ns/pid").stat().st_ino)
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    environment.pop("OPENSVC_HB_RESET", None)
    if agrees:
        environment["OPENSVC_HB_RESET"] = "process1"
    ended = subprocess.run(
        [*wrapper, sys.executable, "-c", ENDS_ITS_NODE, own, ENDS_ITS_NODE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if agrees:
        assert (ended.stdout, ended.stderr) == ("", "")
        assert ended.returncode in (-1, 129), "killed by SIGHUP, as reboot(2) says for a restart"
    else:
        assert ended.stdout.startswith("the node is not reset: process 1 does not have OPENSVC_HB_RESET")
        assert ended.returncode == 0


# -- orders on their way ----------------------------------------------------------------------------


class Line:
    """The monitor's hand with a socket whose other end is the test, and a clock that stands still."""

    def __init__(self):
        self.ours, self.theirs = socket.socketpair()
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        self.theirs.setblocking(False)
        self.confirmations = queue.SimpleQueue()
        self.given_up = []
        self.now = 100.0
        know = wire.Know(0, ("stop",), "/", {}, "none")
        self.guardian = Guardian(know, self.confirmations, self.given_up.append, self.clock)
        self.connection = Connection(self.ours, 5, 1)

    def clock(self):
        return self.now

    def order(self, *services, until=200.0):
        """Give an order while a quarter of a second passes at once."""
        self.guardian._clock = iter_clock(self.now)
        self.guardian.order(fx.Guard(until, 2.0, tuple((name, name) for name in services)))
        self.guardian._clock = self.clock

    def lines(self):
        """Return what was sent since the last look."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while True:
                data += self.theirs.recv(65536)
        return [wire.read_request(line) for line in data.splitlines()]

    def close(self):
        self.ours.close()
        self.theirs.close()


def iter_clock(now):
    """A clock on which every look is a second later."""
    return itertools.count(now, 1.0).__next__


@pytest.fixture
def line():
    made = Line()
    yield made
    made.close()


def test_without_a_guardian_nothing_that_needs_one_starts(line):
    """What is wanted is told to the next one, after what it must know."""
    line.order("svc1")
    assert line.guardian.objection("svc1") == "the guardian does not answer: it is being started again"
    assert line.guardian.objection("other") == ""
    assert line.guardian.problem
    line.guardian.reached(line.connection)
    know, order = line.lines()
    assert isinstance(know, wire.Know)
    assert order == wire.Ordered(2, Order(200.0, 2.0, (("svc1", "svc1"),)))
    line.confirmations.put((1, 2))
    assert line.guardian.objection("svc1") == ""
    assert line.guardian.problem == ""


def test_only_a_changed_order_is_sent_whole(line):
    line.guardian.reached(line.connection)
    line.order("svc1")
    line.confirmations.put((1, 2))
    line.order("svc1", until=201.0)
    line.order("svc1", until=199.0)
    line.order(until=199.0)
    kinds = [type(each) for each in line.lines()]
    assert kinds == [wire.Know, wire.Ordered, wire.Renewed, wire.Renewed, wire.Ordered]


def test_an_order_on_its_way_counts_against_a_service_that_it_left_out(line):
    """svc2 was guarded, then was not, and is wanted again: the last order must be confirmed."""
    line.guardian.reached(line.connection)
    line.order("svc1", "svc2")
    line.confirmations.put((1, 2))
    assert line.guardian.objection("svc2") == ""
    line.order("svc1")
    line.order("svc1", "svc2")
    line.confirmations.put((1, 3))
    assert line.guardian.objection("svc1") == ""
    assert line.guardian.objection("svc2") == "the guardian does not answer: it has not confirmed its order"
    line.confirmations.put((1, 4))
    assert line.guardian.objection("svc2") == ""


def test_what_an_earlier_guardian_confirmed_confirms_nothing(line):
    line.guardian.reached(line.connection)
    line.order("svc1")
    line.confirmations.put((0, 2))
    assert line.guardian.objection("svc1")
    line.confirmations.put((1, LOST))
    assert line.guardian.objection("svc1").endswith("it is being started again")


def test_a_socket_that_takes_no_more_is_a_guardian_that_does_not_answer(line):
    """It is given up after a moment, and another one asked for, once."""
    line.guardian.reached(line.connection)
    for number in range(1000):
        line.order("svc1", until=200.0 + number)
    assert line.given_up == [line.connection]
    assert line.guardian.objection("svc1")


def test_a_guardian_that_reads_a_little_later_loses_no_order(line):
    """While it looks for what is held, the end of many instances is many long orders at once."""
    line.guardian._clock = time.monotonic
    line.theirs.setblocking(True)
    line.theirs.settimeout(5.0)
    services = tuple((f"svc{number}", f"svc{number}.example.com") for number in range(1000))
    orders = 6
    received = bytearray()

    def read():
        while received.count(b"\n") < 1 + orders:
            received.extend(line.theirs.recv(65536))

    reader = threading.Timer(0.02, read)
    line.guardian.reached(line.connection)
    line.guardian._confirmed = frozenset(name for name, _ in services)
    reader.start()
    for number in range(orders):
        ending = tuple(name for name, _ in services[:number])
        line.guardian.order(fx.Guard(200.0, 2.0, services, ending))
    reader.join(5.0)
    assert line.given_up == []
    last = wire.read_request(bytes(received).splitlines()[-1])
    assert isinstance(last, wire.Ordered)
    assert len(last.order.ending) == orders - 1


def test_silence_is_counted_while_this_thread_runs(line):
    """A pause of the daemon is no silence of the guardian."""
    line.guardian.reached(line.connection)
    line.order("svc1")
    line.now += 60.0
    line.guardian.look()
    assert line.given_up == []
    for _ in range(20):
        line.now += 0.2
        line.guardian.look()
    assert line.given_up == [line.connection]


# -- in the daemon ----------------------------------------------------------------------------------


class Hand:
    """A guardian that confirms some services only, and notes what it was told."""

    def __init__(self, confirmed=()):
        self.confirmed = confirmed
        self.told = []

    def order(self, guard):
        self.told.append(guard)

    def objection(self, service):
        return "" if service in self.confirmed else "the guardian does not answer: it is being started again"

    def settle(self):
        self.told.append("settle")

    def look(self):
        self.told.append("look")


class Rest:
    """Stands for everything else that the hands use."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, *arguments))


def performer(hand):
    rest = Rest()
    return rest, Performer(rest, rest, rest, rest, rest, rest, guardian=hand)


def action(service, verb=ActionVerb.START):
    return fx.RunAction(service, f"{service}.env", 7, verb, 60.0)


def test_an_order_is_given_before_what_it_guards_and_a_start_without_it_is_not_begun():
    hand = Hand(confirmed=("svc1",))
    rest, hands = performer(hand)
    guard = fx.Guard(10.0, 2.0, (("svc1", "svc1.env"), ("svc2", "svc2.env")))
    hands.perform([guard, action("svc1"), action("svc2"), action("svc2", ActionVerb.STOP)])
    assert hand.told == [guard, "look"]
    runs = [call[1] for call in rest.calls if call[0] == "run"]
    assert runs == [action("svc1"), action("svc2", ActionVerb.STOP)]
    (finished,) = [call[1] for call in rest.calls if call[0] == "put"]
    assert (finished.service, finished.outcome) == ("svc2", Outcome.NOT_BEGUN)
    assert finished.detail == "not begun: the guardian does not answer: it is being started again"


def test_the_last_order_is_settled_before_the_daemon_may_end():
    hand = Hand()
    _, hands = performer(hand)
    hands.perform([fx.Guard(10.0, 2.0, ()), fx.Exit("done")])
    assert hand.told[1:] == ["settle", "look"]
    assert hands.exit_reason == "done"


def test_what_the_inbox_brings_for_the_guardian_reaches_it():
    """Another guardian comes with an event for core; new knowledge with none."""

    class Taker:
        def __init__(self):
            self.took = []

        def reached(self, connection):
            self.took.append(connection)

        def learn(self, know):
            self.took.append(know)

    taker = Taker()
    monitor = Monitor(None, None, None, None, None, None, taker)
    connection = Connection(None, 5, 1)
    event = GuardianActed((), "another one")
    know = wire.Know(0, ("stop",), "/", {}, "none")
    assert monitor._unwrap(Reached(connection, event)) is event
    assert monitor._unwrap(Learned(know)) is None
    assert monitor._unwrap(Ticked()) == Ticked()
    assert taker.took == [connection, know]


NODES = ("n1", "n2")
NET = tuple(Link(n, LinkType.NET, "eth1", f"239.0.0.{n[1]}", 5000, 10.0, 1) for n in NODES)
DISK = tuple(Link(n, LinkType.DIO, "/dev/sdx", str(10 * int(n[1])), 0, 10.0, 3) for n in NODES)


def files(links=NET, **policies):
    return ClusterFiles(NODES, links, None, Settings(policies=Policies(**policies)))


def test_a_lease_that_is_demanded_needs_a_slot_of_every_node():
    def found(links, lease=LeasePolicy.YES, nodes=NODES):
        return [str(error) for error in _without_lease("monitor", nodes, links, lease)]

    assert found(NET + DISK) == []
    assert found(NET, LeasePolicy.AUTO) == []
    assert found(NET[:1], nodes=("n1",)) == []
    assert found(NET + DISK[:1]) == [
        "monitor: n2: lease = yes in hb.conf, but this node has no dio or disk line: add one, "
        "or set lease = auto"
    ]


def test_nodes_that_disagree_on_the_lease_have_different_configurations():
    """Yes and auto are the same where every node has a slot."""
    digests = [compose("n1", files(NET + DISK, lease=policy), ()).digest for policy in LeasePolicy]
    assert len(set(digests)) == 2
    assert digests[0] == digests[2]
    assert len(digests[1]) == len(digests[0])


def test_what_a_service_holds_is_kept_while_its_file_is_bad(tmp_path):
    """An editor's half-written file must not end the guard of a mounted file system."""
    (tmp_path / "etc/opensvc").mkdir(parents=True)
    (tmp_path / "etc/opensvc/svc1.env").touch()
    service = Service("svc1", "svc1", NODES)
    mount = (Holding(HoldingKind.MOUNT_POINT, "/srv"),)

    def loaded(answer):
        return combine(Root(tmp_path), "n1", files(), answer, {"svc1": service}, {"svc1": mount}).held

    address = (Holding(HoldingKind.ADDRESS, "192.0.2.1"),)
    assert loaded(Declared((service,), (), {"svc1": address})) == {"svc1": address}
    assert loaded(Declared((service,), ())) == {"svc1": ()}
    assert loaded(Declared((service,), ("svc1.env:3: fs#1.type: wrong",))) == {"svc1": mount}
    assert loaded(Declared((), ("svc1.env:1: no INI",))) == {"svc1": mount}
    assert loaded(NotEvaluated("", "the agent hangs")) == {"svc1": mount}


def test_a_keeper_that_finds_no_way_to_a_guardian_says_why(tmp_path):
    """The daemon goes on, and nothing that needs a guardian starts."""
    keeper = Keeper(Root(tmp_path / "nowhere"), {"PATH": "/bin"}, queue.Queue())
    problem = keeper.reach()
    assert isinstance(problem, str)
    assert "No such file or directory" in problem


class FailsOnce(Keeper):
    """Looks for a guardian, and the first time something fails that nobody thought of."""

    def __init__(self, found, inbox):
        super().__init__(Root(Path("/nowhere")), {}, inbox)
        self.answers = [RuntimeError("unforeseen"), found]

    def reach(self, *_):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self):
        wait_for(lambda: self._reading is not None, "the keeper listens")
        self.close()


def a_guardian(generation):
    ours, theirs = socket.socketpair()
    return Found(Connection(ours, 5, generation), None, ()), theirs


def test_a_keeper_whose_search_fails_says_so_and_goes_on(caplog):
    """Nobody else looks for a guardian, and without one nothing starts."""
    inbox = queue.Queue()
    found, theirs = a_guardian(1)
    keeper = FailsOnce(found, inbox)
    keeper.start("no such file")
    assert inbox.get(timeout=30).what == "no guardian: no such file: nothing can start"
    reached = inbox.get(timeout=30)
    assert reached.connection is found.connection
    assert reached.event.what == "there was no guardian (no such file); process 5 is the guardian now"
    assert "RuntimeError: unforeseen" in caplog.text
    keeper.end()
    theirs.close()


def test_a_keeper_that_fails_while_it_listens_gives_the_guardian_up(caplog):
    """The monitor must not go on with a connection that nobody hears."""

    class Inbox(queue.Queue):
        def put(self, item):
            if isinstance(item, GuardianActed):
                raise RuntimeError("no room")
            super().put(item)

    inbox = Inbox()
    (first, speaks), (second, theirs) = a_guardian(1), a_guardian(2)
    keeper = FailsOnce(second, inbox)
    keeper.answers.pop(0)
    speaks.sendall(wire.encode(wire.Acted(("svc1",), "stopped", False)))
    keeper.start(first)
    reached = inbox.get(timeout=30)
    assert reached.connection is second.connection
    assert reached.event.what == "the guardian, process 5, was given up; process 5 is the guardian now"
    assert keeper.confirmations.get(timeout=30) == (1, LOST)
    assert first.connection.end.fileno() == -1
    assert "RuntimeError: no room" in caplog.text
    keeper.end()
    for end in (speaks, theirs):
        end.close()


# -- a guardian that is short of descriptors ---------------------------------------------------------


def test_the_door_pauses_when_a_connection_cannot_be_taken_and_then_takes_it(tmp_path):
    """Its listener stays readable: asked at once, it would fail at once, for ever."""
    now = 100.0
    with selectors.DefaultSelector() as selector, socket.socket(socket.AF_UNIX) as listener:
        with_address(str(tmp_path / "door"), listener.bind)
        listener.listen(8)
        door = Door(listener, selector, lambda *_: None, lambda _: None, lambda: now)

        def turn():
            ready = selector.select(0)
            for key, _ in ready:
                key.data()
            return len(ready)

        with socket.socket(socket.AF_UNIX) as daemon:
            with_address(str(tmp_path / "door"), daemon.connect)
            with short_of_descriptors():
                assert (turn(), door.next_at) == (1, now + ACCEPT_PAUSE_S)
                assert turn() == 0
            door.work(now)
            assert (turn(), door.is_in_use) == (0, False)
            door.work(now + ACCEPT_PAUSE_S)
            assert (turn(), door.is_in_use, door.next_at) == (1, True, None)
        turn()
        assert not door.is_in_use


SHORT = """
import os, selectors, sys, time
from pathlib import Path
from guardian_site import short_of_descriptors, wait_for
from opensvc_hb.daemon.guardian_stops import Log, Stops
from opensvc_hb.daemon.guardian_wire import Know

def has_children():
    return bool(Path(f"/proc/self/task/{os.getpid()}/children").read_text())

def descriptors():
    return len(os.listdir("/proc/self/fd"))

what, top = sys.argv[1:]
selector = selectors.DefaultSelector()
if what == "log":
    log = Log(selector, f"{top}/log", time.monotonic)
    before = descriptors()
    with short_of_descriptors():
        log.say("one")
        log.flush()
    log.say("two")
    def is_written():
        log.flush()
        selector.select(0)
        return "two" in Path(f"{top}/log").read_text() if Path(f"{top}/log").exists() else False
    wait_for(is_written, "the second line")
    print([line.split()[-1] for line in Path(f"{top}/log").read_text().splitlines()])
    [(key, _)] = selector.select(30)
    key.data()
else:
    ended = []
    know = Know(0, ("/bin/sleep", "600"), "/", {}, "none")
    stops = Stops(Path(top), selector, ended.append, time.monotonic)
    before = descriptors()
    stops.add("svc1", "svc1", 60.0)
    with short_of_descriptors(room=int(what)):
        stops.work(know)
    [end] = ended
    print(end.service, end.status, end.last_words, stops.busy, stops.next_at())
    wait_for(lambda: stops.work(know) or not has_children(), "the end of what was begun")
assert not has_children()
assert descriptors() == before
assert len(selector.get_map()) == 0
"""


def run_short(what, tmp_path):
    """Run in a process of one thread, as the guardian is: it forks."""
    environment = {**os.environ, "PYTHONPATH": f"{TOP}:{TOP / 'tests/unit'}"}
    argv = [sys.executable, "-c", SHORT, what, str(tmp_path)]
    ended = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.strip()


@pytest.mark.parametrize("room", ["0", "1", "2"])
def test_a_stop_action_that_cannot_be_begun_ends_with_the_reason(tmp_path, room):
    """Without a pipe, or without a handle of its process: nothing of it is left, and it is not lost."""
    assert run_short(room, tmp_path) == "svc1 1 no process: Too many open files False None"


def test_a_writer_of_the_log_without_a_handle_writes_and_is_followed_by_the_next(tmp_path):
    """One at a time, and its lines do not count as lost."""
    assert run_short("log", tmp_path) == "['one', 'two']"
