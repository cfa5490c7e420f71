"""A daemon's runner for tests: one root with fake services, the runner process, what it answered.

The agent is `tests/data/runner_fake_adapter.py`: each service is a Python file.
"""

import fcntl
import logging
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from opensvc_hb.core.effects import RunAction
from opensvc_hb.core.states import ActionVerb
from opensvc_hb.daemon.runner import Runner
from opensvc_hb.daemon.runner_wire import Channel, Request
from opensvc_hb.daemon.sessions import list_processes, look_at

DATA = Path(__file__).parent.parent / "data"
ADAPTER = "runner_fake_adapter:FakeAdapter"
ARGV = [sys.executable, "-m", "opensvc_hb.daemon.runner_process", "--adapter", ADAPTER]
DEADLINE_S = 30.0


def wait_for(condition, what):
    give_up_at = time.monotonic() + DEADLINE_S
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < give_up_at, f"waited {DEADLINE_S} s for {what}"
        time.sleep(0.01)


def is_gone(pid):
    process = look_at(pid)
    return process is None or not process.lives


def is_waited_for(path):
    """Tell whether a process waits for the lock of a file, as /proc/locks says."""
    return any(
        line.split()[1:2] == ["->"] and int(line.split()[5]) > 0
        for line in Path("/proc/locks").read_text().splitlines()
        if str(path.stat().st_ino) in line
    )


class World:
    """One node's root with fake services, the runner of its daemon, and what it answered."""

    def __init__(self, top):
        self.top = top
        self.etc = top / "etc/opensvc"
        self.etc.mkdir(parents=True)
        self.inbox = queue.Queue()
        self.environment = {
            "OSVC_ROOT": str(top),
            "OSVC_NODENAME": "n1",
            "PYTHONPATH": str(DATA),
            "NOTIFY_SOCKET": "/nowhere",
            "WATCHDOG_USEC": "1",
        }
        self.runners = []
        self.to_kill = []
        self.next_id = 1

    def runner(self, **options):
        options.setdefault("argv", ARGV)
        runner = Runner(self.inbox, logging.getLogger("test.runner"), self.environment, **options)
        self.runners.append(runner)
        runner.start()
        return runner

    def service(self, svcname, text):
        """Write what a service does; HERE in the text is this root."""
        (self.etc / f"{svcname}.py").write_text(text.replace("HERE", repr(str(self.top))))

    def holding(self, svcname, verb="start", more=""):
        """A service whose action writes its pid, then waits until the test opens its fifo."""
        os.mkfifo(self.top / f"{svcname}.fifo")
        self.service(
            svcname,
            f"def {verb}():\n"
            "    import os, pathlib\n"
            f"    path = pathlib.Path(HERE) / '{svcname}.tmp'\n"
            "    path.write_text(str(os.getpid()))\n"
            f"    path.rename(path.with_suffix('.pid'))\n"
            f"{more}"
            f"    open(path.with_suffix('.fifo')).read()\n"
            f"    path.with_suffix('.done').touch()\n",
        )

    def held_pid(self, svcname, suffix="pid"):
        path = self.top / f"{svcname}.{suffix}"
        pid = int(wait_for(lambda: path.exists() and path.read_text(), f"{svcname} to begin"))
        self.to_kill.append(pid)
        return pid

    def let_go(self, svcname):
        (self.top / f"{svcname}.fifo").write_text("go\n")

    def ask(self, runner, svcname, verb=ActionVerb.START, limit_s=60.0):
        action = RunAction(f"hb-{svcname}", svcname, self.next_id, verb, limit_s)
        self.next_id += 1
        runner.run(action)
        return action

    def finished(self):
        return self.inbox.get(timeout=DEADLINE_S)

    def close(self):
        for runner in self.runners:
            runner.close()
        for pid in self.to_kill:
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)
        for runner in self.runners:
            runner.close(wait_s=DEADLINE_S)
            assert not runner._thread.is_alive()


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


class BareRunner:
    """The runner process alone; the test is its daemon."""

    def __init__(self, world):
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.socket = ours
        self.channel = Channel(ours)
        with theirs:
            self.popen = subprocess.Popen(
                [*ARGV, "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **world.environment},
                stderr=subprocess.PIPE,
            )
        self.heard = []

    def ask(self, request_id, work, svcname, limit_s=60.0):
        self.channel.send(Request(request_id, work, svcname, limit_s))
        self.channel.flush()

    def hear(self, kind):
        def heard():
            self.heard += self.channel.receive()
            return [message for message in self.heard if isinstance(message, kind)]

        return wait_for(heard, kind.__name__)[0]

    def children(self):
        return [pid for pid in list_processes() if self._is_child(pid)]

    def names(self):
        return {process.name for pid, process in list_processes().items() if self._is_child(pid)}

    def has_read_all(self):
        """Tell whether the runner has taken what we sent."""
        unread = fcntl.ioctl(self.socket, termios.TIOCOUTQ, struct.pack("i", 0))
        return struct.unpack("i", unread)[0] == 0

    def _is_child(self, pid):
        try:
            return parent_of(pid) == self.popen.pid
        except OSError:
            return False

    def close(self):
        self.socket.close()
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        self.popen.stderr.close()
