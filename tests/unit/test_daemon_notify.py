"""What the daemon says to systemd, and how it writes its log."""

import logging
import os
import socket
import time

import pytest

from opensvc_hb.daemon.logging_setup import LEVELS, is_journald, log_less, log_more, set_up_logging
from opensvc_hb.daemon.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A service manager's end: its socket and the address that it hands out."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(10)
        if request.param == "path":
            address = f"/proc/self/fd/{os.open(tmp_path, os.O_PATH)}/notify"
            receiver.bind(address)
            yield receiver, address
            os.close(int(address.split("/")[4]))
        else:
            receiver.bind(b"")  # the kernel chooses an abstract name
            yield receiver, "@" + receiver.getsockname()[1:].decode()


def said(receiver):
    return receiver.recv(65536).decode().splitlines()


def test_the_manager_hears_each_step_of_a_life(manager):
    """Ready, status, reloading, ready again, watchdog, stopping: each is one message."""
    receiver, address = manager
    notifier = Notifier(address, watchdog_s=10.0)
    notifier.ready("2 services,\n1 link")
    assert said(receiver) == ["READY=1", "STATUS=2 services, 1 link"]
    notifier.status("peer deb2 silent")
    assert said(receiver) == ["STATUS=peer deb2 silent"]
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    reloading, moment = said(receiver)
    assert reloading == "RELOADING=1"
    assert before <= int(moment.partition("=")[2]) <= time.monotonic_ns() // 1000
    notifier.ready()
    assert said(receiver) == ["READY=1"]
    notifier.feed_watchdog()
    assert said(receiver) == ["WATCHDOG=1"]
    notifier.stopping("services run on")
    assert said(receiver) == ["STOPPING=1", "STATUS=services run on"]


def test_the_variables_are_not_inherited_by_children():
    """The manager's variables are taken out of the environment; the rest stays."""
    environment = {
        "NOTIFY_SOCKET": "/run/systemd/notify",
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
        "PATH": "/bin",
    }
    notifier = Notifier.from_environment(environment)
    assert environment == {"PATH": "/bin"}
    assert notifier.watchdog_s == 30.0
    assert notifier.feed_interval_s == 15.0


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}],
)
def test_a_watchdog_that_is_not_ours_is_not_fed(environment):
    """No watchdog, a nonsense one, or one for another process: nothing is fed."""
    assert Notifier.from_environment(environment).feed_interval_s is None


def test_without_a_manager_nothing_happens(tmp_path):
    """Without a manager, or with one that is gone, every message is a no-op."""
    for notifier in (Notifier(), Notifier(str(tmp_path / "gone"), 1.0), Notifier("/" + "x" * 200)):
        notifier.ready()
        notifier.status("")
        notifier.reloading()
        notifier.feed_watchdog()
        notifier.stopping()


def test_a_manager_that_does_not_listen_holds_up_nobody(manager):
    """A manager whose queue is full is not waited for."""
    _, address = manager
    notifier = Notifier(address, 1.0)
    begin = time.monotonic()
    for _ in range(2000):
        notifier.feed_watchdog()
    assert time.monotonic() - begin < 10


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as reading, os.fdopen(writer, "w") as writing:
        yield reading, writing


@pytest.fixture
def logger():
    made = logging.Logger("opensvc_hb.test")
    yield made
    made.handlers.clear()


def test_people_get_time_level_name_and_text(pipe, logger):
    """Without journald a line begins with the local time and the level."""
    reading, writing = pipe
    set_up_logging(writing, {}, logger=logger)
    logger.warning("link %s is DOWN", "net")
    clock, level, rest = reading.read(4096).decode().split(" ", 2)
    assert time.strptime(clock, "%H:%M:%S")
    assert (level, rest) == ("WARNING", "opensvc_hb.test: link net is DOWN\n")


def test_journald_gets_the_level_on_each_line(pipe, logger):
    """With journald every line, of a traceback too, has its level in front."""
    reading, writing = pipe
    status = os.fstat(writing.fileno())
    environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    set_up_logging(writing, environment, logger=logger)
    logger.info("service svc1 STARTED")
    assert reading.read(4096) == b"<6>opensvc_hb.test: service svc1 STARTED\n"
    try:
        raise OSError("gone")
    except OSError:
        logger.exception("link net")
    lines = reading.read(65536).decode().splitlines()
    assert len(lines) > 2
    assert all(line.startswith("<3>") for line in lines)


def test_journald_is_known_by_its_very_stream(pipe):
    """JOURNAL_STREAM counts only for the stream that it names."""
    _, writing = pipe
    assert not is_journald(writing.fileno(), {})
    assert not is_journald(writing.fileno(), {"JOURNAL_STREAM": "1:2"})
    assert not is_journald(-1, {"JOURNAL_STREAM": "1:2"})


def test_a_log_reader_that_stalls_holds_up_nobody(pipe, logger):
    """When nobody reads the log, lines are dropped at once, and counted when somebody reads again."""
    reading, writing = pipe
    set_up_logging(writing, {}, logger=logger)
    begin = time.monotonic()
    for number in range(3000):
        logger.info("line %d %s", number, "x" * 500)
    assert time.monotonic() - begin < 10
    taken = 0
    os.set_blocking(reading.fileno(), False)
    while (part := reading.read(65536)) is not None:
        taken += part.count(b"\n")
    assert 0 < taken < 3000
    logger.info("again")
    assert reading.read(4096).decode().endswith(f"again ({3000 - taken} log lines dropped before)\n")


def test_a_log_reader_that_is_gone_does_no_harm(logger):
    """A pipe without a reader costs lines, nothing else."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as writing:
        set_up_logging(writing, {}, logger=logger)
        logger.info("to nobody")


def test_signals_step_the_level_up_and_down(pipe, logger):
    """Each step moves the level by one, stops at the ends, and is logged at the new level."""
    reading, writing = pipe
    set_up_logging(writing, {}, logger=logger)
    log_more(logger)
    assert logger.level == logging.DEBUG
    assert b"log level changed from INFO to DEBUG" in reading.read(4096)
    log_more(logger)
    assert logger.level == logging.DEBUG
    for _ in LEVELS:
        log_less(logger)
    assert logger.level == logging.ERROR
    assert reading.read(65536).splitlines()[-1].endswith(b"log level changed from ERROR to ERROR")
