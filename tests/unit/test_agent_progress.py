"""A long action shows on a terminal what it works on; elsewhere there are log lines alone."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agent_site import BASE, Site

from opensvc_hb.agent.progress import Progress, TerminalProgress, columns_of, terminal_of, write_at_once

TOP = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0
ERASE = "\r\x1b[K"


class Screen:
    """What was written, and a clock that stands still until it is moved."""

    def __init__(self, columns=80):
        self.text = ""
        self.now = 100.0
        self.progress = TerminalProgress(self.write, lambda: columns, lambda: self.now)

    def write(self, text):
        self.text += text

    @property
    def shown(self):
        """The text since it was last asked for."""
        text, self.text = self.text, ""
        return text


def test_the_line_says_what_is_worked_on_and_for_how_long():
    """From the first second on; it is erased when the work ends."""
    screen = Screen()
    with screen.progress.working("fs#1 start"):
        screen.progress.draw()
        assert screen.shown == ""
        screen.now += 12.4
        screen.progress.draw()
        assert screen.shown == f"{ERASE}fs#1 start 12 s"
    assert screen.shown == ERASE
    screen.progress.draw()
    assert screen.shown == ""


def test_a_log_line_takes_its_place():
    """What stays on the screen is the log alone."""
    screen = Screen()
    with screen.progress.working("fs#1 start"):
        screen.progress.log("12:00:00 INFO    SVC.FS#1 mount\n")
    assert screen.shown == f"{ERASE}12:00:00 INFO    SVC.FS#1 mount\n{ERASE}"


def test_work_inside_work_is_shown_and_counted_by_itself():
    """And the outer one goes on as if nothing had been."""
    screen = Screen()
    with screen.progress.working("fs stop"):
        screen.now += 5
        with screen.progress.working("fs#1 stop"):
            screen.now += 2
            screen.progress.draw()
            assert screen.shown.endswith("fs#1 stop 2 s")
        screen.progress.draw()
        assert screen.shown.endswith("fs stop 7 s")


def test_a_narrow_terminal_gets_as_much_as_fits():
    """A line that wraps could not be erased."""
    screen = Screen(columns=8)
    with screen.progress.working("container.docker:apps start"):
        screen.now += 3
        screen.progress.draw()
        assert screen.shown == f"{ERASE}contain"


def test_the_timer_is_gone_afterwards():
    """Whoever used the signal before has it again."""
    before = signal.getsignal(signal.SIGALRM)
    screen = Screen()
    with screen.progress.shown():
        assert signal.getitimer(signal.ITIMER_REAL)[1] == 1.0
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


def test_without_a_terminal_nothing_is_shown():
    """Nor on one that cannot rewrite a line."""
    before = signal.getsignal(signal.SIGALRM)
    with Progress().shown(), Progress().working("fs#1 start"):
        assert signal.getitimer(signal.ITIMER_REAL)[1] == 0.0, "no timer that repeats"
        assert signal.getsignal(signal.SIGALRM) is before
    with open(os.devnull, "w") as stream:
        assert not terminal_of(stream, {"TERM": "xterm"})
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "w"), os.fdopen(theirs, "w") as terminal:
        assert terminal_of(terminal, {"TERM": "xterm"})
        assert not terminal_of(terminal, {"TERM": "dumb"})
        assert not terminal_of(terminal, {})
        assert columns_of(theirs)() == 80


def test_a_terminal_that_went_away_stops_nothing():
    """The hand that draws may find the window closed."""
    read, write = os.pipe()
    os.close(read)
    write_at_once(write)("text")
    os.close(write)


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_start_that_takes_long_is_seen_on_a_terminal(tmp_path, term):
    """The real command: the line appears, goes for the log, and leaves nothing behind."""
    site = Site(tmp_path)
    script = tmp_path / "slow"
    go_on = tmp_path / "go-on"
    script.write_text(f"#!/bin/sh\nwhile [ ! -e {go_on} ]; do sleep 0.1; done\n")
    script.chmod(0o755)
    site.service("svc", BASE + f"[app#1]\nscript = {script}\nstart = 1\n")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "opensvc_hb.cli.svcmgr", "-s", "svc", "start"],
        env={
            **os.environ,
            "OSVC_ROOT": str(site.top),
            "OSVC_NODENAME": "n1",
            "PYTHONPATH": str(TOP),
            "TERM": term,
        },
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    screen = ""
    deadline = time.monotonic() + LIMIT_S
    try:
        while True:
            assert time.monotonic() < deadline, screen
            if not select.select([ours], [], [], 0.2)[0]:
                continue
            try:
                screen += os.read(ours, 65536).decode()
            except OSError:
                break  # the other end is closed
            if "app#1 start 2 s" in screen or (term == "dumb" and "spawn" in screen):
                go_on.touch()
    finally:
        go_on.touch()
        os.close(ours)
    assert process.wait(LIMIT_S) == 0
    last = screen.replace("\r\n", "\n").split("\n")
    if term == "dumb":
        assert ERASE not in screen
    else:
        assert f"{ERASE}app#1 start 2 s" in screen
        assert last[-1].endswith(ERASE)
    assert any("SVC.APP#1   start done in" in line for line in last)
