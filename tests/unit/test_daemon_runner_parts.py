"""The parts of the action runner that need no process: the wire, the end of a session, the scope."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opensvc_hb.core.events import Outcome
from opensvc_hb.core.states import Avail
from opensvc_hb.daemon.runner_orders import Report, read_report
from opensvc_hb.daemon.runner_wire import (
    Began,
    Cancel,
    Channel,
    Finished,
    LineSplitter,
    Ping,
    Pong,
    Printed,
    Ready,
    Request,
    Unable,
    Warned,
    Work,
    decode,
    encode,
)
from opensvc_hb.daemon.scope import enter_scope
from opensvc_hb.daemon.sessions import (
    Process,
    Progress,
    Session,
    SessionEnd,
    list_processes,
    look_at,
    members_of,
    signal_process,
)


@pytest.mark.parametrize(
    "message",
    [
        Request(1, Work.START, "svc1", 2.5),
        Cancel(1),
        Ping(3),
        Ready(),
        Unable("no"),
        Pong(3),
        Began(1, 2, 3),
        Printed("svc1", 'a "line"\té\n'),
        Warned("oh"),
        Finished(1, Outcome.TIMED_OUT, Avail.MIXED, 4, "why", {"avail": "up"}),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_survives_the_wire(message):
    """What is decoded is what was encoded, on one line."""
    line = encode(message)
    assert line.index(b"\n") == len(line) - 1
    assert decode(line) == message


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"7", b"{}", b'{"message": "Ready", "x": 1}', b'{"message": "No"}', b"\xff"]
)
def test_a_line_that_is_no_message_is_refused(line):
    """Anything else is a ValueError with the line in it."""
    with pytest.raises(ValueError, match="not a runner's message"):
        decode(line)


def test_lines_are_cut_wherever_the_reads_fall():
    """Lines come out whole however the bytes were split; too long ones come in pieces."""
    splitter = LineSplitter(longest=4)
    lines = [line for byte in b"ab\n\nabcdefghi\nxyz" for line in splitter.feed(bytes([byte]))]
    assert lines == [b"ab", b"", b"abcd", b"efgh", b"i"]
    assert splitter.rest() == b"xyz"
    assert splitter.rest() == b""
    assert LineSplitter(longest=4).feed(b"ab\n\nabcdefghi\n") == [b"ab", b"", b"abcd", b"efgh", b"i"]


def test_a_channel_waits_for_nobody():
    """With an end that does not read, messages wait in the queue, and later arrive in order."""
    left, right = socket.socketpair()
    with left, right:
        sender, receiver = Channel(left), Channel(right)
        sent = []
        for number in range(20000):
            sender.send(Ping(number), when_sent=lambda number=number: sent.append(number))
        sender.flush()
        assert sender.waiting_bytes > 0
        assert len(sent) < 20000
        received = []
        while len(received) < 20000:
            received += receiver.receive()
            sender.flush()
        assert received == [Ping(number) for number in range(20000)]
        assert sent == list(range(20000))
        assert sender.waiting_bytes == 0


def test_a_channel_tells_half_from_whole_silence():
    """An end that says no more still hears; one that is closed does not."""
    left, right = socket.socketpair()
    with left, right:
        ours, theirs = Channel(left), Channel(right)
        theirs.say_no_more()
        assert ours.receive() == []
        assert ours.at_end
        assert ours.is_heard()
        ours.send(Pong(1))
        ours.flush()
        assert theirs.receive() == [Pong(1)]
        theirs.close()
        assert not ours.is_heard()
        ours.send(Pong(2), when_sent=lambda: pytest.fail("nobody got it"))
        ours.flush()


class Bed:
    """A list of processes that signals act upon, for the end of session 10."""

    def __init__(self, *processes):
        self.processes = {process.pid: process for process in processes}
        self.sent = []
        self.immune = set()

    def send(self, process, number):
        self.sent.append((process.pid, signal.Signals(number).name))
        if process.pid not in self.immune and number in (signal.SIGTERM, signal.SIGKILL):
            self.processes.pop(process.pid)


def test_only_processes_of_this_very_session_are_its_members():
    """A number used again by another leader names another session; zombies do not live."""
    session = Session(10, 100)
    leader, child = Process(10, 10, 100, True), Process(11, 10, 105, True)
    zombie, other = Process(12, 10, 106, False), Process(13, 13, 107, True)
    everyone = {process.pid: process for process in (leader, child, zombie, other)}
    assert members_of(session, everyone) == (leader, child)
    del everyone[10]
    assert members_of(session, everyone) == (child,)
    everyone[10] = Process(10, 10, 999, True)
    assert members_of(session, everyone) == ()


def test_a_session_that_obeys_is_gone_at_the_next_look():
    """Each process is asked once to end, and woken in case it was stopped."""
    bed = Bed(Process(10, 10, 100, True), Process(11, 10, 101, True))
    end = SessionEnd(Session(10, 100), 0.0, send=bed.send)
    assert end.step(0.0, bed.processes) is Progress.GOING
    assert bed.sent == [(10, "SIGTERM"), (10, "SIGCONT"), (11, "SIGTERM"), (11, "SIGCONT")]
    assert end.look_at_s == pytest.approx(0.05)
    assert end.step(0.05, bed.processes) is Progress.GONE


def test_a_process_that_ignores_the_request_is_killed_after_the_grace():
    """SIGTERM is sent once, SIGKILL from the end of the grace on."""
    bed = Bed(Process(10, 10, 100, True))
    bed.immune.add(10)
    end = SessionEnd(Session(10, 100), 0.0, grace_s=5.0, send=bed.send)
    for now in (0.0, 2.0, 4.9, 5.0):
        assert end.step(now, bed.processes) is Progress.GOING
    assert [name for _, name in bed.sent] == ["SIGTERM", "SIGCONT", "SIGKILL"]


def test_what_survives_the_kill_is_left_behind_but_never_the_leader():
    """Past the bound others are named and left; the action's own process is waited for."""
    bed = Bed(Process(10, 10, 100, True), Process(11, 10, 101, True))
    bed.immune = {10, 11}
    end = SessionEnd(Session(10, 100), 0.0, grace_s=5.0, bound_s=10.0, send=bed.send)
    assert end.step(1000.0, bed.processes) is Progress.GOING
    assert end.look_at_s == 1001.0
    del bed.processes[10]
    assert end.step(1001.0, bed.processes) is Progress.LEFT_BEHIND
    assert [process.pid for process in end.remaining] == [11]


FIRST_THREAD_ENDS = """
import ctypes, sys, threading
threading.Thread(target=sys.stdin.read).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_lives_as_long_as_one_of_its_threads():
    """When the first has ended the kernel calls the process a zombie; the others hold its files."""
    child = subprocess.Popen([sys.executable, "-S", "-c", FIRST_THREAD_ENDS], stdin=subprocess.PIPE)
    try:
        status = Path(f"/proc/{child.pid}/stat")
        give_up_at = time.monotonic() + 30
        while b") Z " not in status.read_bytes():
            assert time.monotonic() < give_up_at, "its first thread ends"
        assert look_at(child.pid).lives
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not look_at(child.pid).lives
    finally:
        child.kill()
        child.wait()
        child.stdin.close()


def test_a_real_process_is_found_and_signalled_and_no_other_by_its_number():
    """The list shows a process's session and start; a signal reaches that very process only."""
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        process = list_processes()[child.pid]
        assert (process.session, process.lives) == (child.pid, True)
        signal_process(Process(child.pid, child.pid, process.started_ticks + 1, True), signal.SIGKILL)
        assert child.poll() is None
        signal_process(process, signal.SIGKILL)
        assert child.wait(30) == -signal.SIGKILL
        signal_process(process, signal.SIGKILL)  # gone: no matter
        assert look_at(child.pid) is None
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def test_later_lines_of_a_report_add_to_earlier_ones():
    """A report grows field by field."""
    lines = [Report(exit_status=0).encode(), Report(avail="up").encode(), Report(complete=True).encode()]
    assert read_report(lines) == Report(exit_status=0, avail="up", complete=True)
    assert read_report([]) == Report()


def busctl(status=0, stderr=b"", error=None):
    """A busctl that answers so; `calls` holds what it was asked."""
    calls = []

    def run(argv, **options):
        calls.append(argv)
        if error is not None:
            raise error
        return subprocess.CompletedProcess(argv, status, b"", stderr)

    return run, calls


def test_a_scope_is_asked_for_and_waited_for():
    """systemd is asked to put this process into opensvc.slice; the kernel says when it is there."""
    run, calls = busctl()
    groups = iter(["0::/system.slice/opensvc-hb.service\n", "0::/opensvc.slice/opensvc-a_b.c-42.scope\n"])
    assert enter_scope("a@b.c", 42, run=run, own_group=lambda: next(groups)) == ""
    (argv,) = calls
    assert argv[argv.index("ssa(sv)a(sa(sv))") + 1 :][:2] == ["opensvc-a_b.c-42.scope", "fail"]
    assert argv[argv.index("PIDs") :][:4] == ["PIDs", "au", "1", "42"]
    assert argv[argv.index("Slice") :][:3] == ["Slice", "s", "opensvc.slice"]
    assert list(groups) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": 1, "stderr": b"Call failed: Access denied\nmore\n"}, "Call failed: Access denied"),
        ({"status": 1}, "status 1"),
        ({"error": FileNotFoundError(2, "No such file", "busctl")}, "No such file"),
        ({"error": subprocess.TimeoutExpired("busctl", 2)}, "timed out"),
    ],
    ids=["refused", "mute", "absent", "hangs"],
)
def test_a_scope_that_cannot_be_had_is_one_line(answer, words):
    """Without a scope the action goes on, and the reason is known."""
    run, _calls = busctl(**answer)
    warning = enter_scope("svc1", 42, run=run, own_group=lambda: pytest.fail("not asked"))
    assert warning.startswith("no scope for svc1: ")
    assert words in warning
    assert "\n" not in warning
