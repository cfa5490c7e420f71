"""svcmgr logs: the service's own log, rotated files first, followed over a rotation."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agent_site import BASE, Site

from opensvc_hb.agent.names import NoSuchServiceError
from opensvc_hb.cli import service_log
from opensvc_hb.cli.service_log import last_lines, log_files
from opensvc_hb.cli.svcmgr_options import UsageError, read_command_line

TOP = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    site.root.log.mkdir(parents=True)
    return site


def logs(site, *words):
    line = read_command_line(["logs", *words])
    return service_log.handlers(site.loader, line)["logs"]("svc")


def test_the_files_of_a_log_are_read_from_the_oldest_to_the_newest(site):
    """Those that are missing are left out."""
    for name in ("svc.log", "svc.log.1", "svc.log.3", "svc.log.old", "svc2.log"):
        (site.root.log / name).touch()
    names = [path.name for path in log_files(site.root.log / "svc.log")]
    assert names == ["svc.log.3", "svc.log.1", "svc.log"]


def test_the_last_lines_may_stand_in_several_files():
    """None is all of them."""
    files = [io.BytesIO(b"1\n2\n"), io.BytesIO(b"3\n")]
    assert list(last_lines(files, 2)) == [b"2\n", b"3\n"]
    files = [io.BytesIO(b"1\n2\n"), io.BytesIO(b"3\n")]
    assert list(last_lines(files, None)) == [b"1\n", b"2\n", b"3\n"]


def test_the_log_is_printed_as_it_stands(site, capfdbinary):
    """Bytes that are no text too."""
    site.service("svc", BASE)
    (site.root.log / "svc.log.1").write_bytes(b"old \xff\n")
    (site.root.log / "svc.log").write_bytes(b"new\n")
    assert logs(site) == 0
    assert capfdbinary.readouterr().out == b"old \xff\nnew\n"
    assert logs(site, "--lines", "1") == 0
    assert capfdbinary.readouterr().out == b"new\n"


def test_a_service_that_said_nothing_has_an_empty_log_and_an_unknown_one_is_an_error(site, capfd):
    """A log without a service is printed: the file may be gone, what happened is not."""
    site.service("svc", BASE)
    assert logs(site) == 0
    (site.root.etc / "svc.env").unlink()
    with pytest.raises(NoSuchServiceError):
        logs(site)
    (site.root.log / "svc.log").write_text("it was\n")
    assert logs(site) == 0
    assert capfd.readouterr().out == "it was\n"


def test_a_number_of_lines_is_a_number(site):
    """Else it is wrong usage."""
    with pytest.raises(UsageError, match=r"^invalid number of lines: 'x'$"):
        logs(site, "--lines", "x")


def test_a_followed_log_goes_on_over_a_rotation(site):
    """No line is lost, none is printed twice; an interrupt ends it."""
    site.service("svc", BASE)
    log = site.root.log / "svc.log"
    log.write_text("1\n2\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "opensvc_hb.cli.svcmgr", "-s", "svc", "logs", "--follow", "--lines", "1"],
        env={**os.environ, "OSVC_ROOT": str(site.top), "OSVC_NODENAME": "n1", "PYTHONPATH": str(TOP)},
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + LIMIT_S
    try:
        assert process.stdout.readline() == "2\n"
        with log.open("a") as file:
            file.write("3\n")
        assert process.stdout.readline() == "3\n"
        log.rename(log.with_name("svc.log.1"))
        log.write_text("4\n")
        assert process.stdout.readline() == "4\n"
        assert time.monotonic() < deadline
    finally:
        process.kill()
        process.communicate(timeout=LIMIT_S)
