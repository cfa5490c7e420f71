"""The control socket and its client: any client, well or ill behaved, and the daemon unharmed."""

import contextlib
import fcntl
import grp
import json
import os
import queue
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from opensvc_hb import client
from opensvc_hb.daemon.control import ControlError, ControlServer, Limits
from opensvc_hb.daemon.control_connection import PeerCredentials, read_request
from opensvc_hb.errors import ExitCode, HbError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def path():
    # A socket's address is short, pytest's directories are not.
    directory = Path(tempfile.mkdtemp(prefix="hbc"))
    yield directory / "hb.sock"
    shutil.rmtree(directory)


class Server:
    """A server whose requests are answered by name, and some of them later."""

    def __init__(self, path, **options):
        self.later = queue.Queue()
        self.seen = []
        self.server = ControlServer(path, self.handle, **options)
        self.server.start()

    def handle(self, request, peer, reply):
        self.seen.append((request, peer))
        verb = request["request"]
        if verb == "echo":
            reply({"ok": True, "text": request.get("text", "")})
        elif verb == "later":
            self.later.put(reply)
        elif verb == "big":
            reply({"ok": True, "text": "x" * request["size"]})
        elif verb == "twice":
            reply({"ok": True, "text": "first"})
            reply({"ok": True, "text": "second"})
        elif verb == "refused":
            raise HbError("svc9: there is no such service")
        elif verb == "unwritable":
            reply({"ok": True, "text": object()})
        else:
            raise RuntimeError(verb)


@contextlib.contextmanager
def serving(path, **options):
    server = Server(path, **options)
    try:
        yield server
    finally:
        server.server.stop()


@contextlib.contextmanager
def connected(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(path))  # before the timeout: a full queue is then waited for
        connection.settimeout(10)
        with connection.makefile("rb") as answers:
            yield connection, answers


def wait_for(condition, limit_s=10.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def line_of(verb, **fields):
    return json.dumps({"version": 1, "request": verb, **fields}).encode() + b"\n"


def ask(path, verb, **fields):
    return client.request(str(path), {"request": verb, **fields})


def is_closed(connection):
    """The server's end is closed: all that comes is the end, or a reset."""
    connection.settimeout(10)
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_a_request_is_answered(path):
    """A request gets its answer, with a version, and the server knows who asked."""
    with serving(path) as server:
        assert ask(path, "echo", text="caf\u00e9") == {"version": 1, "ok": True, "text": "caf\u00e9"}
        request, peer = server.seen[0]
    assert request == {"version": 1, "request": "echo", "text": "caf\u00e9"}
    assert peer == PeerCredentials(os.getpid(), os.getuid(), os.getgid())


def test_a_connection_carries_requests_one_behind_the_other(path):
    """Several requests on one connection are answered in their order, one at a time."""
    with serving(path) as server, connected(path) as (connection, answers):
        connection.sendall(line_of("later") + line_of("echo", text="b") + line_of("echo", text="c"))
        reply = server.later.get(timeout=10)
        assert len(server.seen) == 1
        reply({"ok": True, "text": "a"})
        assert [json.loads(answers.readline())["text"] for _ in range(3)] == ["a", "b", "c"]


def test_a_thousand_quick_requests_are_answered(path):
    """A thousand requests at once on one connection, and a thousand connections in turn."""
    with serving(path) as server:
        with connected(path) as (connection, answers):
            connection.sendall(b"".join(line_of("echo", text=str(number)) for number in range(1000)))
            texts = [json.loads(answers.readline())["text"] for _ in range(1000)]
            assert texts == [str(number) for number in range(1000)]
        for number in range(1000):
            assert ask(path, "echo", text=str(number))["text"] == str(number)
        assert server.server.is_alive


def test_an_answer_may_come_later_from_another_thread(path):
    """An answer given by another thread reaches its client at once; others are served meanwhile."""
    with serving(path) as server, connected(path) as (connection, answers):
        connection.sendall(line_of("later"))
        reply = server.later.get(timeout=10)
        assert ask(path, "echo", text="meanwhile")["text"] == "meanwhile"
        threading.Thread(target=reply, args=({"ok": True, "text": "late"},)).start()
        assert json.loads(answers.readline())["text"] == "late"


def test_only_the_first_answer_counts(path):
    """A second answer to one request is ignored, also while the next request waits."""
    with serving(path) as server, connected(path) as (connection, answers):
        connection.sendall(line_of("twice") + line_of("later") + line_of("echo", text="last"))
        assert json.loads(answers.readline())["text"] == "first"
        server.later.get(timeout=10)({"ok": True, "text": "own"})
        assert json.loads(answers.readline())["text"] == "own"
        assert json.loads(answers.readline())["text"] == "last"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"service -A svc1 start\n", "one JSON object"),
        (b"\xff\xfe\x00\n", "one JSON object"),
        (b"\n", "one JSON object"),
        (b"[" * 100_000 + b"\n", "one JSON object"),
        (b"[1, 2]\n", "a JSON object"),
        (b'{"request": "echo"}\n', "version 1, not None"),
        (b'{"version": 2, "request": "echo"}\n', "version 1, not 2"),
        (b'{"version": 1}\n', "no text 'request'"),
        (b'{"version": 1, "request": 7}\n', "no text 'request'"),
    ],
)
def test_a_line_that_is_no_request_is_refused_with_a_reason(path, line, why):
    """A line that is no request is refused with a reason, and the connection goes on."""
    with serving(path) as server, connected(path) as (connection, answers):
        connection.sendall(line + line_of("echo", text="after"))
        refusal = json.loads(answers.readline())
        assert (refusal["version"], refusal["ok"], refusal["code"]) == (1, False, ExitCode.USAGE)
        assert why in refusal["error"]
        assert json.loads(answers.readline())["text"] == "after"
        assert len(server.seen) == 1


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_too_long_is_refused_and_its_connection_closed(path, end):
    """A line longer than the limit is refused, ended or not, and ends its connection only."""
    with serving(path, limits=Limits(line_bytes=1000)) as server, connected(path) as (connection, answers):
        connection.sendall(b"x" * 1001 + end)
        refusal = json.loads(answers.readline())
        assert refusal["code"] == ExitCode.USAGE
        assert "1000 bytes" in refusal["error"]
        assert is_closed(connection)
        assert ask(path, "echo", text="after")["ok"]
        assert len(server.seen) == 1


def test_a_line_of_the_full_length_is_taken(path):
    """A request of one mebibyte is taken."""
    padding = 1024 * 1024 - len(line_of("echo", text="")) + 1
    with serving(path):
        assert len(ask(path, "echo", text="y" * padding)["text"]) == padding


def test_an_operators_mistake_is_an_answer(path):
    """An error of ours that handling raises is the answer, with its exit code."""
    with serving(path):
        answer = ask(path, "refused")
    assert answer == {"version": 1, "ok": False, "code": 1, "error": "svc9: there is no such service"}


def test_a_fault_in_handling_costs_one_answer(path, caplog):
    """A fault of the program in one request is logged and answered; the next one is served."""
    with serving(path):
        for verb in ("boom", "unwritable"):
            answer = ask(path, verb)
            assert answer["ok"] is False
            assert "log" in answer["error"]
        assert ask(path, "echo", text="after")["ok"]
    assert len(caplog.records) == 2
    assert all(record.exc_info for record in caplog.records)


def test_a_client_that_goes_away_before_its_answer_does_no_harm(path):
    """An answer to a client that is gone is dropped, and its connection does not stay."""
    with serving(path, limits=Limits(connections=1)) as server:
        for _ in range(3):
            with connected(path) as (connection, _):
                connection.sendall(line_of("later"))
                reply = server.later.get(timeout=10)
            # The only place is free again although the answer is still owed.
            wait_for(lambda: ask(path, "echo", text="next")["ok"])
            reply({"ok": True})
        assert ask(path, "echo", text="after")["ok"]


def test_a_client_that_only_ends_its_writing_gets_its_answers(path):
    """A client that has no more to say still gets the answers it waits for, then the end."""
    with serving(path) as server, connected(path) as (connection, answers):
        connection.sendall(line_of("later") + line_of("echo", text="second") + b'{"version": 1')
        connection.shutdown(socket.SHUT_WR)
        server.later.get(timeout=10)({"ok": True, "text": "first"})
        assert [json.loads(line)["text"] for line in answers] == ["first", "second"]


def test_a_client_that_never_reads_blocks_nobody_and_is_dropped(path):
    """A client that does not read its answer holds up nobody, and is dropped in time."""
    with serving(path, limits=Limits(slow_s=0.3)), connected(path) as (connection, _):
        connection.sendall(line_of("big", size=20_000_000))
        begin = time.monotonic()
        assert ask(path, "echo", text="meanwhile")["ok"]
        assert time.monotonic() - begin < 5
        hangup = select.poll()
        hangup.register(connection, 0)
        assert hangup.poll(10_000), "the connection is still open"


def test_a_client_that_writes_its_line_too_slowly_is_dropped(path):
    """Half a line is not waited for longer than the limit, however busily it drips."""
    with serving(path, limits=Limits(slow_s=0.2, idle_s=60)), connected(path) as (connection, _):
        begin = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begin < 10:
                connection.sendall(b"x")
                time.sleep(0.01)  # the client's own slowness
        assert 0.1 < time.monotonic() - begin < 5


def test_an_idle_client_is_dropped(path):
    """A connection without a request is closed after a while; one that waits for us is not."""
    with (
        serving(path, limits=Limits(idle_s=0.2, slow_s=0.2)) as server,
        connected(path) as (waiting, answers),
    ):
        waiting.sendall(line_of("later"))
        reply = server.later.get(timeout=10)
        with connected(path) as (idle, _):
            assert is_closed(idle)
        reply({"ok": True, "text": "still here"})
        assert json.loads(answers.readline())["text"] == "still here"


def test_the_longest_idle_connection_makes_place(path):
    """With all places taken by idle clients, a new one is served, and the longest idle one goes."""
    with serving(path, limits=Limits(connections=4)), contextlib.ExitStack() as stack:
        held = []
        for number in range(4):
            connection, answers = stack.enter_context(connected(path))
            connection.sendall(line_of("echo", text=str(number)))
            answers.readline()
            held.append(connection)
        assert ask(path, "echo", text="new")["text"] == "new"
        assert is_closed(held[0])


def test_beyond_the_last_place_a_caller_is_told_so(path):
    """When every connection waits for an answer, one more is refused with a reason."""
    with serving(path, limits=Limits(connections=2)) as server, contextlib.ExitStack() as stack:
        waiting = []
        for _ in range(2):
            connection, answers = stack.enter_context(connected(path))
            connection.sendall(line_of("later"))
            waiting.append((server.later.get(timeout=10), answers))
        with connected(path) as (_, answers):
            assert json.loads(answers.readline())["code"] == ExitCode.TIMED_OUT
        for reply, answers in waiting:
            reply({"ok": True})
            assert json.loads(answers.readline())["ok"]


def test_three_hundred_silent_clients_keep_nobody_out(path):
    """More clients than places, all silent: a command is answered at once."""
    with serving(path), contextlib.ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connected(path))
        assert ask(path, "echo", text="served")["ok"]


def test_the_socket_is_for_root_unless_a_group_is_named(path):
    """The file's mode lets in its owner; with a group, that group too."""
    with serving(path):
        assert path.stat().st_mode & 0o777 == 0o600
    group = grp.getgrgid(os.getgid())
    with serving(path, group=group.gr_name):
        assert path.stat().st_mode & 0o777 == 0o660
        assert path.stat().st_gid == group.gr_gid


def test_a_group_that_does_not_exist_is_an_operators_mistake(path):
    """An unknown group is refused before anything is made."""
    with pytest.raises(ControlError, match="there is no group 'no-such-group'"):
        ControlServer(path, lambda *_: None, group="no-such-group")
    assert os.listdir(path.parent) == []


def test_a_socket_that_cannot_be_made_is_an_error_that_names_it(path):
    """A place where no socket can be is one error with the path."""
    path.mkdir()
    with pytest.raises(ControlError, match=r"hb\.sock: cannot be made: "):
        ControlServer(path, lambda *_: None)


def test_a_socket_left_by_a_dead_daemon_is_replaced(path):
    """The file of a dead daemon's socket is no obstacle, and the end removes ours."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
    with serving(path):
        assert ask(path, "echo", text="new")["ok"]
        assert os.listdir(path.parent) == ["hb.sock"]
    assert os.listdir(path.parent) == []


def test_a_server_never_started_leaves_nothing(path):
    """A server that was made and stopped without a start leaves no file and no descriptor."""
    before = len(os.listdir("/proc/self/fd"))
    ControlServer(path, lambda *_: None).stop()
    assert os.listdir(path.parent) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_answer_given_before_the_stop_is_delivered(path):
    """An answer given just before the stop reaches its client, also a large one read late."""
    server = Server(path)
    with connected(path) as (connection, answers):
        connection.sendall(line_of("later"))
        reply = server.later.get(timeout=10)
        reply({"ok": True, "text": "z" * 5_000_000})
        stopping = threading.Thread(target=server.server.stop)
        stopping.start()
        assert len(json.loads(answers.readline())["text"]) == 5_000_000
        stopping.join()
        reply({"ok": True, "text": "too late, and harmless"})
    assert not server.server.is_alive


def test_a_stop_is_bounded_by_its_limit(path):
    """A client that does not read cannot hold up the daemon's end."""
    server = Server(path)
    with connected(path) as (connection, _):
        connection.sendall(line_of("later"))
        server.later.get(timeout=10)({"ok": True, "text": "z" * 5_000_000})
        begin = time.monotonic()
        server.server.stop(limit_s=0.2)
        assert time.monotonic() - begin < 5
    assert not server.server.is_alive


DAEMON_WITH_CHILD = """
import os, signal, sys, time
from pathlib import Path
from opensvc_hb.daemon.control import ControlServer
from opensvc_hb.daemon.life import take_lock

lock = take_lock(Path(sys.argv[2]))
server = ControlServer(Path(sys.argv[1]), lambda request, peer, reply: reply({"ok": True}))
server.start()
if os.fork() == 0:
    print(os.getpid(), flush=True)  # the child lives, and has let go what it must
signal.pause()
"""


def test_a_child_that_outlives_the_daemon_answers_nobody_and_holds_no_lock(path):
    """A forked child that outlives a killed daemon holds neither its socket nor its lock."""
    lock_path = path.with_name("hb.lock")
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON_WITH_CHILD, str(path), str(lock_path)],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    with daemon:
        child = int(daemon.stdout.readline())
        try:
            assert ask(path, "echo")["ok"]
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()
            with pytest.raises(client.DaemonDown):
                client.request(str(path), {"request": "echo"}, lock_path=str(lock_path))
        finally:
            os.kill(child, signal.SIGKILL)


def test_any_json_is_a_request_or_a_reason():
    """A request is read back as it was; what is none gives one sentence."""
    assert read_request(b'{"version":1,"request":"status"}') == {"version": 1, "request": "status"}
    assert isinstance(read_request(b""), str)


def test_the_client_says_that_the_daemon_is_not_running(path):
    """Without a daemon the client says so, and how to start it, whether a dead socket is there or not."""
    text = (
        f"the hb daemon of this node is not running ({path}): "
        "start it with: systemctl start opensvc-hb, or hbmgr daemon"
    )
    for _ in range(2):
        with pytest.raises(client.DaemonDown) as caught:
            ask(path, "status")
        assert str(caught.value) == text
        assert caught.value.exit_code is ExitCode.NOT_RUNNING
        if not path.exists():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
                left.bind(str(path))


def test_the_client_does_not_wait_for_a_daemon_that_does_not_start(path):
    """A lock that nobody holds, or that is not there, is not waited for."""
    lock_path = path.with_name("hb.lock")
    for _ in range(2):
        begin = time.monotonic()
        with pytest.raises(client.DaemonDown):
            client.request(str(path), {"request": "status"}, lock_path=str(lock_path))
        assert time.monotonic() - begin < 2
        lock_path.touch()


def test_the_client_waits_for_a_daemon_that_starts(path):
    """While a daemon holds the lock and has no socket yet, the client waits, then is answered."""
    lock_path = path.with_name("hb.lock")
    answers = queue.Queue()
    with lock_path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asking = threading.Thread(
            target=lambda: answers.put(
                client.request(str(path), {"request": "echo", "text": "hello"}, lock_path=str(lock_path))
            )
        )
        asking.start()
        with pytest.raises(queue.Empty):
            answers.get(timeout=0.2)
        with serving(path):
            assert answers.get(timeout=10)["text"] == "hello"
        asking.join()


def test_the_client_gives_up_on_a_daemon_that_does_not_answer(path):
    """A daemon that does not answer in time is busy, whether its queue is full or it is silent."""
    with serving(path), pytest.raises(client.DaemonBusy) as caught:
        client.request(str(path), {"request": "later"}, timeout_s=0.2)
    assert caught.value.exit_code is ExitCode.TIMED_OUT
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as deaf:
        deaf.bind(str(path))
        deaf.listen(0)
        with contextlib.ExitStack() as stack:
            filler = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            filler.connect(str(path))
            begin = time.monotonic()
            with pytest.raises(client.DaemonBusy, match=r"within 0\.3 s"):
                client.request(str(path), {"request": "status"}, timeout_s=0.3)
            assert time.monotonic() - begin < 5


@pytest.mark.parametrize("answer", [b"", b'{"version": 1, "ok"', b"hello\n", b"[1]\n"])
def test_an_answer_that_is_none_leaves_the_outcome_unknown(path, answer):
    """A daemon that ends in mid-answer, or talks nonsense, leaves the outcome unknown."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as odd:
        odd.bind(str(path))
        odd.listen(1)

        def serve():
            connection, _ = odd.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        serving_thread = threading.Thread(target=serve)
        serving_thread.start()
        with pytest.raises(client.DaemonLost) as caught:
            ask(path, "status")
        serving_thread.join()
    assert caught.value.exit_code is ExitCode.UNKNOWN


def test_a_root_directory_may_be_deep(path):
    """A path longer than a socket's address can hold works, for the server and for the client."""
    deep = path.parent / ("d" * 100) / ("e" * 100) / "hb.sock"
    with serving(deep):
        assert ask(deep, "echo", text="deep")["text"] == "deep"
        assert os.listdir(deep.parent) == ["hb.sock"]
    with pytest.raises(client.DaemonDown):
        ask(deep, "echo")
    with pytest.raises(client.DaemonDown):
        ask(deep.parent / "missing" / "hb.sock", "echo")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_not_ask_is_told_so(path):
    """A user without the right to the socket is told so, and not that the daemon is down."""
    path.parent.chmod(0o755)
    script = (
        "import os, sys\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from opensvc_hb import client\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try:\n"
        "    client.request(sys.argv[1], {'request': 'echo'})\n"
        "except client.DaemonForbidden as error:\n"
        "    print(error)\n"
    )
    with serving(path):
        finished = subprocess.run(
            [sys.executable, "-c", script, str(path), str(REPOSITORY)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert finished.stdout == f"no right to talk to the hb daemon ({path}): try as root\n", finished.stderr


def test_the_client_imports_little():
    """The client needs the standard library's json and socket, and of ours the errors alone."""
    script = "import sys; import opensvc_hb.client; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-S", "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    ours = [name for name in loaded if name.startswith("opensvc_hb")]
    assert ours == ["opensvc_hb", "opensvc_hb.client", "opensvc_hb.errors"]
    assert not {"logging", "dataclasses", "pathlib", "threading", "subprocess"} & set(loaded)
