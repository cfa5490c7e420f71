"""Process 1 of a lab node: starts what the lab asks for, and reaps whatever ends.

Run by path, never imported by a node's own programs. The lab holds the other end of one
SEQPACKET socket; each message is one JSON object, and a request to start a program comes
with its standard input, output and error as file descriptors. When that socket closes,
because the lab said so or because the test was killed, this process ends, and with it
every process of the node: inside a PID namespace the kernel sees to that, without one
(`--subreaper`) this process ends its descendants itself.

    requests   {"id", "verb": "spawn", "argv", "environment"} with three descriptors
               {"id", "verb": "signal", "pid", "number"}
    answers    {"id", "pid"} or {"id", "error"};  {"ended": pid, "status"};  {"ready": true} once
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import sys

MESSAGE_BYTES = 1 << 17
PR_SET_CHILD_SUBREAPER = 36


def parents():
    """Return {pid: (parent's pid, state letter)} of every process visible here."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        found[int(name)] = (int(fields[1]), fields[0])
    return found


def descendants(top):
    """Return {pid: state letter} of every living process below `top`, itself left out."""
    table = parents()
    below, found = {top}, {}
    grown = True
    while grown:
        grown = False
        for pid, (parent, state) in table.items():
            if parent in below and pid not in below:
                below.add(pid)
                found[pid] = state
                grown = True
    return {pid: state for pid, state in found.items() if state not in "ZX"}


def signal_all(pids, number):
    """Send a signal to each process; those that have ended meanwhile do not matter."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def end_descendants():
    """Kill everything below this process; stopped first, so that nothing forks away."""
    while True:
        living = descendants(os.getpid())
        signal_all(living, signal.SIGSTOP)
        signal_all(living, signal.SIGKILL)
        reap(None)
        if not living:
            return


def receive(channel):
    """Return (request, descriptors), or None when the lab has closed its end."""
    data, ancillary, _flags, _address = channel.recvmsg(MESSAGE_BYTES, socket.CMSG_SPACE(3 * 4))
    if not data:
        return None
    descriptors = []
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors += [
                int.from_bytes(content[i : i + 4], sys.byteorder) for i in range(0, len(content), 4)
            ]
    return json.loads(data), descriptors


def answer(channel, **fields):
    """Send one answer; a lab that is gone is noticed by the next read."""
    with contextlib.suppress(OSError):
        channel.send(json.dumps(fields).encode())


def perform(channel, request, descriptors):
    """Do what one request asks."""
    try:
        if request["verb"] == "spawn":
            pid = os.posix_spawnp(
                request["argv"][0],
                request["argv"],
                request["environment"],
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, place) for place, fd in enumerate(descriptors)],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGCHLD, signal.SIGINT],
            )
            answer(channel, id=request["id"], pid=pid)
        else:
            os.kill(request["pid"], request["number"])
            answer(channel, id=request["id"], pid=request["pid"])
    except OSError as error:
        answer(channel, id=request["id"], error=str(error))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def reap(channel):
    """Collect every ended child, our own and the orphans of the node."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if channel is not None:
            code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            answer(channel, ended=pid, status=code)


def main():
    """Serve the lab until its end of the socket closes."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.set_inheritable(False)
    subreaper = "--subreaper" in sys.argv
    if subreaper:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    else:
        socket.sethostname(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wake_read, wake_write = socket.socketpair()
    wake_read.setblocking(False)
    wake_write.setblocking(False)
    signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    waiting = selectors.DefaultSelector()
    waiting.register(channel, selectors.EVENT_READ)
    waiting.register(wake_read, selectors.EVENT_READ)
    answer(channel, ready=True)
    while True:
        for key, _events in waiting.select():
            if key.fileobj is wake_read:
                wake_read.recv(4096)
                reap(channel)
                continue
            received = receive(channel)
            if received is None:
                if subreaper:
                    end_descendants()
                return
            perform(channel, *received)


if __name__ == "__main__":
    main()
