"""The life of a daemon: alone on its root, after a boot or a restart, prompt if it may be."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from opensvc_hb import client
from opensvc_hb.daemon.life import (
    AlreadyRunning,
    BootUnknownError,
    LockError,
    boot_identity,
    remember_boot,
    shutdown_in_progress,
    take_lock,
    was_booted,
)

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "hb.lock"


def run_python(script, *arguments):
    finished = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_a_second_daemon_is_refused_by_the_first_ones_name(path, tmp_path):
    """A second daemon on one root is refused, with the first one's process id and the root."""
    lock = take_lock(path, tmp_path)
    assert path.read_text() == f"{os.getpid()}\n"
    with pytest.raises(AlreadyRunning) as caught:
        take_lock(path, tmp_path)
    assert str(caught.value) == f"a daemon (pid {os.getpid()}) already runs on {tmp_path}"
    assert path.read_text() == f"{os.getpid()}\n"
    lock.release()
    take_lock(path).release()


def test_the_lock_of_a_killed_daemon_is_free(path):
    """kill -9 frees the lock, and the file that stays is no obstacle."""
    script = (
        "import signal, sys\nfrom pathlib import Path\nfrom opensvc_hb.daemon.life import take_lock\n"
        "lock = take_lock(Path(sys.argv[1]))\nprint('held', flush=True)\nsignal.pause()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, cwd=REPOSITORY
    ) as daemon:
        assert daemon.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunning) as caught:
            take_lock(path)
        assert caught.value.pid == daemon.pid
        daemon.send_signal(signal.SIGKILL)
    take_lock(path).release()


def test_a_command_sees_the_lock_without_disturbing_it(path):
    """A command tells whether a daemon holds the lock, and leaves it as it is."""
    assert not client.is_locked(str(path))
    lock = take_lock(path)
    for _ in range(2):
        assert client.is_locked(str(path))
    lock.release()
    assert not client.is_locked(str(path))


def test_a_command_that_looks_does_not_keep_a_daemon_from_starting(path):
    """A lock that a command looks at in that very moment is waited for, not taken for a daemon's."""
    path.parent.mkdir()
    with path.open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import sys\nfrom pathlib import Path\nfrom opensvc_hb.daemon.life import take_lock\n"
                "print('begin', flush=True)\ntake_lock(Path(sys.argv[1]))\nprint('held', flush=True)\n",
                str(path),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        with child:
            assert child.stdout.readline() == b"begin\n"
            fcntl.flock(looking, fcntl.LOCK_UN)
            assert child.stdout.readline() == b"held\n", child.stderr.read()


def test_a_lock_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    """A place where no lock can be is one error with the path."""
    (tmp_path / "run").write_text("no directory")
    with pytest.raises(LockError, match=r"run/hb\.lock: cannot be locked: "):
        take_lock(tmp_path / "run" / "hb.lock")


def make_proc(directory, boot_id="6ef0", program="(init)", start=42):
    (directory / "sys/kernel/random").mkdir(parents=True, exist_ok=True)
    (directory / "sys/kernel/random/boot_id").write_text(f"{boot_id}\n")
    (directory / "1").mkdir(exist_ok=True)
    before = " ".join(str(number) for number in range(3, 22))
    (directory / "1/stat").write_text(f"1 {program} {before} {start} 1 2 3\n")
    return directory


def test_a_boot_is_known_by_the_kernel_and_by_process_1(tmp_path):
    """The identity changes with the kernel's boot id and with the start of process 1."""
    same = boot_identity(make_proc(tmp_path / "a"))
    assert same == "6ef0 42"
    assert boot_identity(make_proc(tmp_path / "b", program="((x) R 1 (y)")) == same
    assert boot_identity(make_proc(tmp_path / "c", start=43)) != same
    assert boot_identity(make_proc(tmp_path / "d", boot_id="77aa")) != same
    assert boot_identity() == boot_identity()


def test_without_proc_a_boot_cannot_be_told(tmp_path):
    """A missing or strange /proc is an error that says what to look for."""
    with pytest.raises(BootUnknownError, match="is /proc mounted"):
        boot_identity(tmp_path)
    (make_proc(tmp_path) / "1/stat").write_text("1 (init) S\n")
    with pytest.raises(BootUnknownError, match="is /proc mounted"):
        boot_identity(tmp_path)


def test_a_restart_is_told_from_a_boot(tmp_path):
    """Until a daemon noted this boot the node counts as booted, and again behind the next one."""
    noted = tmp_path / "boot"
    assert was_booted(noted, "6ef0 42")
    remember_boot(noted, "6ef0 42")
    assert not was_booted(noted, "6ef0 42")
    assert was_booted(noted, "6ef0 43")
    noted.write_bytes(b"\xff\xfe")
    assert was_booted(noted, "6ef0 42")


def test_a_pid_namespace_is_a_node_that_boots(tmp_path):
    """A node made of a PID namespace has an identity of its own, new with each of its lives."""
    wrapper = ["unshare", "--pid", "--fork", "--mount-proc"]
    if os.geteuid() != 0:
        wrapper += ["--user", "--map-root-user"]
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("this user may not make a PID namespace")
    script = "from opensvc_hb.daemon.life import boot_identity; print(boot_identity())"
    lives = [
        subprocess.run(
            [*wrapper, sys.executable, "-c", script],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for _ in range(2)
    ]
    assert len({*lives, boot_identity()}) == 3


@pytest.mark.parametrize(
    ("output", "shutting_down"),
    [("stopping\n", True), ("running\n", False), ("degraded\n", False), ("offline\n", False), ("", False)],
)
def test_a_shutdown_is_what_systemd_calls_stopping(output, shutting_down):
    """Only the state `stopping` is a shutdown; no answer is none."""
    asked = []

    def run(argv, limit_s):
        asked.append((argv, limit_s))
        return output

    assert shutdown_in_progress(run) is shutting_down
    assert [argv for argv, _ in asked] == [("systemctl", "is-system-running")]


def test_a_machine_that_runs_is_not_shutting_down():
    """On this machine, with systemd or without, no shutdown is seen."""
    assert shutdown_in_progress() is False


def test_a_realtime_thread_asks_for_what_it_may_have():
    """What is granted holds, what is refused has a reason, and a child is ordinary again."""
    script = """
import os, sys, threading
from opensvc_hb.daemon.realtime import become_ordinary, become_realtime

report = become_realtime()
assert [grant.what for grant in report.grants] == [
    "real-time priority", "locked memory", "out-of-memory shield"]
priority, memory, shield = report.grants
assert all(grant.detail for grant in report.grants), report
assert len(report.refused) == sum(not grant.granted for grant in report.grants)
if priority.granted:
    assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
    assert os.sched_getparam(0).sched_priority == 10
if memory.granted:
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    assert int(status["VmLck"].split()[0]) > 1000
    thread = threading.Thread(target=lambda: bytearray(50_000_000))
    thread.start()
    thread.join()
if shield.granted:
    assert open("/proc/self/oom_score_adj").read() == "-1000\\n"
child = os.fork()
if child == 0:
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    ordinary = become_ordinary()
    assert ordinary.grants[0].granted, ordinary
    assert ordinary.grants[1].granted, ordinary
    assert open("/proc/self/oom_score_adj").read() == "0\\n"
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    assert status["VmLck"].split()[0] == "0"
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
print(report)
"""
    assert run_python(script).startswith("real-time priority: ")


ROOT_EVERYWHERE = os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split()[-1] == str(2**32 - 1)


@pytest.mark.skipif(not ROOT_EVERYWHERE, reason="the limit on locked memory counts for all but root")
def test_root_locks_its_memory_also_where_it_may_not_raise_the_limit():
    """As in a container without CAP_SYS_RESOURCE: the limit does not count for it."""
    script = """
import resource
from opensvc_hb.daemon.realtime import lock_memory

def refuse(*_):
    raise ValueError("not allowed to raise maximum limit")

resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))
resource.setrlimit = refuse
print(lock_memory().granted, bytearray(50_000_000)[0])
"""
    assert run_python(script) == "True 0\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_user_without_rights_is_refused_with_reasons_and_works_on():
    """Without any right every request is refused with a reason, and the process goes on."""
    script = """
import ctypes, os, resource
from opensvc_hb.daemon.realtime import become_realtime

resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
report = become_realtime()
assert all(grant.detail for grant in report.refused), report
print(len(report.refused), bytearray(50_000_000)[0])
"""
    assert run_python(script) == "3 0\n"
