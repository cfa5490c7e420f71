"""One machine of the lab: a process 1 of its own, whatever runs below it, and its power switch.

With namespaces (root) a machine has its own network, processes, host name, mounts and IPC,
and killing its process 1 is a power cut: the kernel ends everything in it at once. Without
them (anybody) it is a tree of processes below a subreaper, ended one by one.

Nothing outlives the test: process 1 ends when our end of its socket closes, however we ended.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Mapping, Optional, Sequence, Tuple

import node_init

NAMESPACES = ("unshare", "--fork", "--pid", "--net", "--uts", "--mount", "--mount-proc", "--ipc")
CREDENTIALS = struct.Struct("3i")
CONSENT = {"OPENSVC_HB_RESET": "process1"}
"""In its environment, process 1 of a machine agrees to be ended by a guardian: it is the lab's own."""
BOOT_LIMIT_S = 30.0


class LabError(AssertionError):
    """The lab could not do what the test asked, or did not see what it waited for."""


@dataclass(frozen=True)
class Result:
    """How a command ended: exit status (negative for a signal), and what it wrote."""

    argv: Tuple[str, ...]
    status: int
    out: str
    err: str

    def check(self) -> Result:
        """Return itself when the command succeeded, else fail with all it wrote."""
        if self.status != 0:
            raise LabError(
                f"{' '.join(self.argv)}\nexit status {self.status}\nstdout:\n{self.out}stderr:\n{self.err}"
            )
        return self

    def json(self):
        """Return the object that the command printed."""
        return json.loads(self.check().out)


class Process:
    """A program started on a machine by the lab. `pid` is its number on that machine."""

    def __init__(self, machine: Machine, argv: Sequence[str], pid: int) -> None:
        self.machine = machine
        self.argv = tuple(argv)
        self.pid = pid
        self.ended: concurrent.futures.Future = concurrent.futures.Future()

    @property
    def running(self) -> bool:
        """Tell whether it has not ended yet."""
        return not self.ended.done()

    def wait(self, timeout_s: float) -> int:
        """Return its exit status (negative for a signal; -9 when the power was cut)."""
        try:
            return self.ended.result(timeout_s)
        except concurrent.futures.TimeoutError:
            raise LabError(f"still running after {timeout_s} s: {' '.join(self.argv)}") from None

    def signal(self, number: int) -> None:
        """Send a signal to this one process."""
        self.machine.signal(self.pid, number)


class Machine:
    """Process 1, the programs below it, and the switch that turns it off.

    Args:
        name: its host name.
        environment: of every program started on it.
        namespaces: False for a plain tree of processes on this machine.
    """

    def __init__(self, name: str, environment: Mapping[str, str], namespaces: bool = True) -> None:
        self.name = name
        self.environment = dict(environment)
        self.namespaces = namespaces
        self.pid = 0
        """Process 1 as this side numbers it; 0 while the power is off."""
        self.paused = False
        self.lives = 0
        self._starter: Optional[subprocess.Popen] = None
        self._channel: Optional[socket.socket] = None
        self._reader: Optional[threading.Thread] = None
        self._lock = threading.Lock()
        self._asked: Dict[int, Tuple[Optional[Sequence[str]], concurrent.futures.Future]] = {}
        self._processes: Dict[int, Process] = {}
        self._next_id = 0

    @property
    def is_on(self) -> bool:
        """Tell whether the machine has power and was not reset from inside."""
        return self.pid != 0 and not self.was_reset

    @property
    def was_reset(self) -> bool:
        """Tell whether process 1 ended by itself: something on the machine reset it."""
        return self.pid != 0 and self._starter.poll() is not None

    def boot(self) -> None:
        """Turn the power on; returns when process 1 takes requests."""
        if self.is_on:
            raise LabError(f"{self.name} runs already")
        self.kill()  # what is left of a machine that was reset
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        init = [sys.executable, "-I", "-S", node_init.__file__, str(theirs.fileno()), self.name]
        with tempfile.TemporaryFile() as complaints:
            self._starter = subprocess.Popen(
                [*NAMESPACES, *init] if self.namespaces else [*init, "--subreaper"],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stderr=complaints,
                start_new_session=True,
                env={**os.environ, **(CONSENT if self.namespaces else {})},
            )
            theirs.close()
            self._channel = ours
            self.pid = self._first_word(ours)
            if self.pid == 0:
                status = self._starter.wait()
                complaints.seek(0)
                raise LabError(f"{self.name} did not boot, status {status}: {complaints.read().decode()}")
        self.lives += 1
        self.paused = False
        self._reader = threading.Thread(target=self._read, args=(ours,), name=f"lab {self.name}", daemon=True)
        self._reader.start()

    def _first_word(self, channel: socket.socket) -> int:
        """Wait for {"ready"}; return the pid of its sender, which the kernel translates for us, or 0."""
        channel.settimeout(BOOT_LIMIT_S)
        data, ancillary, _flags, _address = channel.recvmsg(4096, socket.CMSG_SPACE(CREDENTIALS.size))
        channel.settimeout(None)
        if not data:
            return 0
        return CREDENTIALS.unpack(ancillary[0][2][: CREDENTIALS.size])[0]

    def _read(self, channel: socket.socket) -> None:
        """Hand the answers of process 1 to those who wait. Runs in: the machine's reader thread."""
        while True:
            try:
                data = channel.recv(node_init.MESSAGE_BYTES)
            except OSError:
                data = b""
            if not data:
                break
            said = json.loads(data)
            with self._lock:
                if "id" in said:  # comes before the end of the process it started: noted in time
                    argv, waiting = self._asked.pop(said["id"])
                    if argv and "pid" in said:
                        self._processes[said["pid"]] = Process(self, argv, said["pid"])
                        waiting.set_result(self._processes[said["pid"]])
                    else:
                        waiting.set_result(said.get("error"))
                elif said["ended"] in self._processes:  # else an orphan
                    self._processes.pop(said["ended"]).ended.set_result(said["status"])
        with self._lock:
            for process in self._processes.values():
                process.ended.set_result(-signal.SIGKILL)
            for _argv, waiting in self._asked.values():
                waiting.set_result("the power was cut")
            self._processes.clear()
            self._asked.clear()

    def _ask(self, fields: Mapping[str, object], descriptors: Sequence[int] = ()) -> Optional[Process]:
        """Have process 1 do one thing; return the process when it was to start one."""
        if not self.is_on or self.paused:
            raise LabError(f"{self.name} is {'paused' if self.is_on else 'off'}")
        answer: concurrent.futures.Future = concurrent.futures.Future()
        with self._lock:
            self._next_id += 1
            self._asked[self._next_id] = (fields.get("argv"), answer)
            message = json.dumps({"id": self._next_id, **fields}).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))]
        self._channel.sendmsg([message], rights if descriptors else [])
        got = answer.result(BOOT_LIMIT_S)
        if isinstance(got, str):
            raise LabError(f"{self.name}: {fields['verb']}: {got}")
        return got

    def spawn(self, argv: Sequence[str], log: Optional[Path] = None, **environment: str) -> Process:
        """Start a program; its output is appended to `log`, or dropped."""
        with open(os.devnull, "rb") as nothing, open(log or os.devnull, "ab") as output:
            return self._start(argv, environment, nothing.fileno(), output.fileno(), output.fileno())

    def _start(self, argv: Sequence[str], environment: Mapping[str, str], *descriptors: int) -> Process:
        fields = {
            "verb": "spawn",
            "argv": list(argv),
            "environment": {**self.environment, **environment},
        }
        return self._ask(fields, descriptors)

    def run(self, argv: Sequence[str], timeout_s: float = 30.0, text: str = "", **environment: str) -> Result:
        """Run a program to its end, with `text` as its input."""
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            given.write(text.encode())
            given.seek(0)
            process = self._start(argv, environment, given.fileno(), out.fileno(), err.fileno())
            try:
                status = process.wait(timeout_s)
            except LabError:
                self.signal(-process.pid, signal.SIGKILL)
                process.wait(timeout_s)
                out.seek(0)
                err.seek(0)
                raise LabError(
                    f"{self.name}: killed after {timeout_s} s: {' '.join(argv)}\n"
                    f"{out.read().decode()}{err.read().decode()}"
                ) from None
            out.seek(0)
            err.seek(0)
            return Result(tuple(argv), status, out.read().decode(), err.read().decode())

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a process of this machine (a negative number means a process group)."""
        self._ask({"verb": "signal", "pid": pid, "number": number})

    def processes(self) -> Dict[int, str]:
        """Return {pid as this side numbers it: state letter}, process 1 left out."""
        return node_init.descendants(self.pid)

    def pause(self) -> None:
        """Stop every process of the machine, process 1 included, as a paused VM stops."""
        self.paused = True
        os.kill(self.pid, signal.SIGSTOP)
        while True:  # a process may have forked before its turn came
            running = [pid for pid, state in self.processes().items() if state not in "Tt"]
            if not running:
                return
            node_init.signal_all(running, signal.SIGSTOP)

    def resume(self) -> None:
        """Let every process run on from where it stood."""
        node_init.signal_all([*self.processes(), self.pid], signal.SIGCONT)
        self.paused = False

    def kill(self) -> None:
        """Cut the power. Returns when every process of the machine is gone."""
        if self.pid == 0:
            return
        if self.was_reset:
            pass  # the kernel has ended all of it
        elif self.namespaces:
            os.kill(self.pid, signal.SIGKILL)
            self._starter.wait()
        else:  # stopped first, so that none sees the others go; process 1 then collects them
            self.pause()
            node_init.signal_all(self.processes(), signal.SIGKILL)
            os.kill(self.pid, signal.SIGCONT)
        self._channel.shutdown(socket.SHUT_RDWR)
        self._starter.wait()
        self._reader.join(BOOT_LIMIT_S)
        self._channel.close()
        self.pid = 0
        self.paused = False
