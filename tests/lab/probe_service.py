"""A service that leaves evidence: the lab's app script, run by path as `probe_service.py OPTIONS VERB`.

`start` leaves one process behind that writes a line to a log shared by all nodes when it
begins, every 50 ms while it lives, and when it is told to end. So it is the service itself
that tells where it ran and when, not the software under test. All nodes of a lab share one
kernel, hence one CLOCK_BOOTTIME, which each line begins with:

    BOOTTIME NODE SERVICE RUN PID WORD      (WORD: starting, started, alive, stopping, stopped)

RUN is the name of one life of the process: two starts never share it. The process is up
while it holds a lock on a file of its node, which no crash can leave behind.

With `--stubborn` it is an application at its worst: it ignores SIGTERM, and its stop hangs.

`status` exits 0 when up, 1 when down, as an app script must.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time
import uuid

ALIVE_EVERY_S = 0.05
END_LIMIT_S = 5.0
FLOCK = "hhqqi4x"
"""struct flock of the 64-bit machines: type, whence, start, length, pid."""


def write_line(options, run, word):
    """Append one line to the shared log, whole or not at all."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME)
    line = f"{now:.4f} {options.node} {options.service} {run} {os.getpid()} {word}\n"
    descriptor = os.open(options.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def lock_path(log, node, service):
    """The file that the process of this service on this node holds a lock on."""
    return f"{log}.{node}.{service}.lock"


def lock_holder(path):
    """Return the pid, in the caller's PID namespace, of the process that holds a lock, 0 for none."""
    with open(path, "a+") as file:
        asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _whence, _start, _length, pid = struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
        return 0 if kind == fcntl.F_UNLCK else pid


def holder(options):
    """Return the pid of the living process of this service on this node, 0 for none."""
    return lock_holder(lock_path(options.log, options.node, options.service))


def live(options, told):
    """Be the service, until SIGTERM. A second one at the same time does not get past the lock."""
    run = uuid.uuid4().hex[:8]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP, signal.SIGINT})
    lock = open(lock_path(options.log, options.node, options.service), "a+")  # noqa: SIM115  # held for life
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    write_line(options, run, "started")
    os.write(told, b"+")
    os.close(told)
    while not told_to_end() or options.stubborn:
        write_line(options, run, "alive")
    write_line(options, run, "stopped")


def told_to_end():
    """Wait a moment for SIGTERM. After a pause sigtimedwait may return without any signal: look twice."""
    received = signal.sigtimedwait({signal.SIGTERM}, ALIVE_EVERY_S)
    return received is not None and received.si_signo == signal.SIGTERM


def start(options):
    """Leave the process behind; idempotent."""
    if holder(options):
        print("already up")
        return 0
    write_line(options, "-", "starting")
    time.sleep(options.start_takes)
    heard, told = os.pipe()
    if os.fork() == 0:
        os.close(heard)
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        live(options, told)
        os._exit(0)
    os.close(told)
    up = os.read(heard, 1) == b"+"
    print("up" if up else "did not come up")
    return 0 if up else 1


def stop(options):
    """End the process, by force after 5 s; idempotent."""
    pid = holder(options)
    if pid == 0:
        print("already down")
        return 0
    write_line(options, "-", "stopping")
    while options.stubborn:
        signal.pause()
    time.sleep(options.stop_takes)
    process = os.pidfd_open(pid)
    if holder(options) != pid:
        print("went down by itself")
        return 0
    for number in (signal.SIGTERM, signal.SIGKILL):
        signal.pidfd_send_signal(process, number)
        if select.select([process], [], [], END_LIMIT_S)[0]:
            print("down")
            return 0
    print(f"process {pid} does not end")
    return 1


def status(options):
    """Exit 0 when up, 1 when down."""
    pid = holder(options)
    print(f"up, process {pid}" if pid else "down")
    return 0 if pid else 1


def main():
    """Do one verb."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--service", required=True)
    parser.add_argument("--node", default=os.environ.get("OSVC_NODENAME") or socket.gethostname())
    parser.add_argument("--start-takes", type=float, default=0.0, help="seconds")
    parser.add_argument("--stop-takes", type=float, default=0.0, help="seconds")
    parser.add_argument("--stubborn", action="store_true", help="SIGTERM is ignored, and stop hangs")
    parser.add_argument("verb", choices=("start", "stop", "status", "info"))
    options = parser.parse_args()
    if options.verb == "info":
        print(f"log: {options.log}")
        return 0
    return {"start": start, "stop": stop, "status": status}[options.verb](options)


if __name__ == "__main__":
    sys.exit(main())
