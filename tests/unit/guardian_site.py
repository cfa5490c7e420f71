"""A node of its own with a real guardian process, and a daemon's side of it in the test."""

from __future__ import annotations

import contextlib
import os
import queue
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from opensvc_hb.core import effects as fx
from opensvc_hb.daemon.guardian import Guardian, Reached
from opensvc_hb.daemon.guardian_keeper import Found, Keeper
from opensvc_hb.daemon.guardian_wire import SERVICE_PLACE, Know
from opensvc_hb.daemon.sessions import boottime, look_at
from opensvc_hb.held import marks_of
from opensvc_hb.paths import Root

DEADLINE_S = 30.0

STUBBORN = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch()
while True:
    time.sleep(600)
"""
"""A program that does not hear SIGTERM; it touches a file when it has begun."""


def wait_for(condition, what):
    give_up_at = time.monotonic() + DEADLINE_S
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < give_up_at, f"waited {DEADLINE_S} s for {what}"
        time.sleep(0.005)


def lives(pid):
    process = look_at(pid)
    return process is not None and process.lives


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def short_of_descriptors(room=0):
    """Let this process open only so many descriptors more; the others fail with EMFILE."""
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    taken = {number for number in numbers if is_open(number)}  # one was the listing's
    free = [number for number in range(len(taken) + room + 1) if number not in taken]
    return limited(0, free[room])


@contextlib.contextmanager
def limited(pid, descriptors):
    """Let a process, this one for 0, open no descriptor from this number on; those that it has stay."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


class Daemon:
    """What a daemon has of the guardian: the keeper's thread, and the monitor's hand."""

    def __init__(self, site):
        self.inbox = queue.Queue()
        self.keeper = Keeper(site.root, site.environment, self.inbox)
        self.found = self.keeper.reach()
        assert isinstance(self.found, Found), self.found
        self.guardian = Guardian(site.know(), self.keeper.confirmations, self.keeper.replace_it, boottime)
        self.guardian.reached(self.found.connection)
        self.keeper.start(self.found)

    @property
    def pid(self):
        return self.found.connection.pid

    def order(self, until, services=("svc1",), timeout_s=2.0, ending=()):
        pairs = tuple((name, name) for name in services)
        self.guardian.order(fx.Guard(until, timeout_s, pairs, ending))

    def event(self, words):
        """Return the next event whose text has these words; another guardian is taken up meanwhile."""
        give_up_at = time.monotonic() + DEADLINE_S
        while True:
            item = self.inbox.get(timeout=max(0.0, give_up_at - time.monotonic()))
            if isinstance(item, Reached):
                self.guardian.reached(item.connection)
                item = item.event
            if words in item.what:
                return item

    def close(self):
        self.keeper.close()


class Site:
    """One root, its guardian, and what a service of it does.

    The stop action is a script; `stop(text)` says what it does, and it leaves its time behind.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.root = Root(top)
        for path in (self.root.run, self.root.log, self.root.var / "lock"):
            path.mkdir(parents=True)
        self.environment = {"PATH": os.environ["PATH"], "OSVC_ROOT": str(top)}
        self.script = top / "stop-action"
        self.held = {}
        self.reset = "none"
        self.stop("")
        self._daemons = []
        self._processes = []

    def stop(self, text: str) -> None:
        """Say what the stop action does, in shell; $1 is the service."""
        line = f'read up _ < /proc/uptime; echo "$up $1" >> {self.top}/stopped\n'
        self.script.write_text(f"#!/bin/sh\n{line}{text}\n")
        self.script.chmod(0o755)

    def stops(self):
        """Return (clock seconds, service) of each stop action that has begun."""
        path = self.top / "stopped"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(float(line.split()[0]), line.split()[1]) for line in lines]

    def know(self) -> Know:
        return Know(0, (str(self.script), SERVICE_PLACE), "/", self.environment, self.reset, held=self.held)

    def daemon(self) -> Daemon:
        daemon = Daemon(self)
        self._daemons.append(daemon)
        return daemon

    def run(self, svcname, argv, verb="start", top=None, **options) -> subprocess.Popen:
        """Start a process as an action of a service would."""
        environment = {**self.environment, **marks_of(top or self.top, svcname, verb)}
        process = subprocess.Popen(argv, env=environment, start_new_session=True, **options)
        self._processes.append(process)
        return process

    def stubborn(self, svcname="svc1", **options) -> subprocess.Popen:
        """Start a process of a service that does not hear SIGTERM."""
        begun = self.top / f"begun.{len(self._processes)}"
        process = self.run(svcname, [sys.executable, "-S", "-c", STUBBORN, str(begun)], **options)
        wait_for(begun.exists, "the process of the service")
        return process

    def log(self) -> str:
        path = self.root.log / "guardian.log"
        return path.read_text() if path.exists() else ""

    def close(self) -> None:
        """End the guardian, whatever it guards, and every process that the test started."""
        for daemon in self._daemons:
            daemon.close()
        with contextlib.suppress(OSError, ValueError):
            pid = int(self.root.guardian_lock.read_text())
            if str(self.top).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        for process in self._processes:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
