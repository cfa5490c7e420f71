"""A stand-in for the C program on a node of the lab: it beats, listens, decides and obeys as OpenHA does.

Run by path with the standard library alone; it imports nothing of the project, and packs and reads
the structure by itself, so that what it understands was not made by our codec. Written from what
OpenHA was seen to do, weaknesses included: no check of what is heard, a timer that one beat after a
silence switches off, an own state that is not looked at after the five seconds.

    openha_program.py daemon                       senders, listeners and monitor, in one process
    openha_program.py service -s -c | -A S ACTION  reads and writes the state files, asks nobody
    openha_program.py hb -s
    openha_program.py ezha start|stop|kill|restart

It lives in the tree that EZ names, laid out as before 2016: conf/{nodes,monitor,services},
services/SERVICE/STATE.NODE, log. What dies with a boot is in /run/openha: a file for each link in
place of shared memory, and the daemon's pid.

What differs from the C program: threads in place of processes, and no syslog (log/messages has it).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

EZ = Path(os.environ.get("EZ", "/usr/local/cluster"))
RUN = Path("/run/openha")
NODE = os.uname().nodename
ME = [sys.executable, "-I", "-S", os.path.abspath(__file__)]

NAMES = (
    "STOPPED",
    "STOPPING",
    "STARTED",
    "STARTING",
    "START_FAILED",
    "STOP_FAILED",
    "FROZEN_STOP",
    "START_READY",
    "UNKNOWN",
    "FORCE_STOP",
)
NUMBERS = {name: number for number, name in enumerate(NAMES)}
(STOPPED, STOPPING, STARTED, STARTING, START_FAILED, STOP_FAILED, FROZEN_STOP, START_READY, UNKNOWN, _) = (
    range(10)
)
WANTED = (STOPPED, FROZEN_STOP, UNKNOWN)

SERVICES_MAX = 128
HEAD = struct.Struct("<128sii5s15s")
NAME_BYTES = 64
STATES = struct.Struct("<128i")
TAIL = struct.Struct("<IIi")
NAMES_AT = HEAD.size
STATES_AT = NAMES_AT + SERVICES_MAX * NAME_BYTES
LOCKS_AT = STATES_AT + STATES.size
TAIL_AT = LOCKS_AT + STATES.size
BYTES = TAIL_AT + TAIL.size
assert BYTES == 9384
SLOT_BYTES = 9728
BLOCK_BYTES = 512

BEAT_S = 1.0
LOOK_S = 2.0
GRACE_S = 5.0
CONVERGE_S = 2.0
RESTART_S = 5.0
SIOCGIFADDR = 0x8915
NICE = -15


def log(text):
    """Write one line of what the C program tells syslog."""
    line = f"{time.clock_gettime(time.CLOCK_BOOTTIME):.3f} {NODE} {os.getpid()} {text}\n"
    with open(EZ / "log/messages", "a") as file:
        file.write(line)
    if sys.argv[1] == "service" and sys.stdin.isatty():
        print(text, flush=True)


# -- configuration and state files ----------------------------------------------------------


def columns(path, count):
    """Split a file of conf as the C program does: no comments; what is missing is empty."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    return [(line.split() + [""] * count)[:count] for line in lines]


def services():
    """Return (name, script, primary, secondary, check script) of each line."""
    return columns(EZ / "conf/services", 5)


def state_path(service, node):
    return EZ / "services" / service / f"STATE.{node}"


def read_state(service, node):
    """Return a state; a file that is missing is made, as FROZEN_STOP."""
    path = state_path(service, node)
    if not path.exists():
        path.parent.mkdir(mode=0o744, exist_ok=True)
        path.write_bytes(b"6\0")
    return number_in(path)


def number_in(path):
    try:
        first = path.read_bytes()[:1]
    except OSError:
        return UNKNOWN
    return int(first) if first.isdigit() else STOPPED if first == b"-" else UNKNOWN


def write_state(service, node, number):
    """Overwrite two bytes of a file that is there."""
    path = state_path(service, node)
    try:
        with open(path, "r+b") as file:
            file.write(str(number)[:1].encode() + b"\0")
    except OSError:
        log(f"failed to open {path} in r+ mode")


def other_node(primary, secondary):
    """Return the other of the two nodes; None where this node is neither."""
    return {primary: secondary, secondary: primary}.get(NODE)


# -- the structure ---------------------------------------------------------------------------


def host_id():
    """Return gethostid(): the halves of the address swapped; 0 where the name does not resolve."""
    try:
        packed = socket.inet_aton(socket.gethostbyname(NODE))
    except OSError:
        return 0
    low, high = struct.unpack("<HH", packed)
    return low << 16 | high


def structure(node, up, port, address, states, numbers):
    """Return the 9384 bytes.

    Args:
        states: (service, number) of each service sent.
        numbers: host id, wall clock and pid.
    """
    unused = [0] * max(0, 16 - len(states))
    unused += [8] * (SERVICES_MAX - len(states) - len(unused))
    names = b"".join(name.encode()[: NAME_BYTES - 1].ljust(NAME_BYTES, b"\0") for name, _ in states)
    return b"".join(
        (
            HEAD.pack(node.encode(), up, 0, port.encode(), address.encode()),
            names.ljust(SERVICES_MAX * NAME_BYTES, b"\0"),
            STATES.pack(*(number for _, number in states), *unused),
            bytes(STATES.size),
            TAIL.pack(*numbers),
        )
    )


class Beat:
    """What one sender sends. On disks, `up` is 1 once a service was sent."""

    def __init__(self, port="", address="", is_disk=False):
        self.port, self.address = port, address
        self.up = 0 if is_disk else 1
        self.host_id = host_id()

    def packed(self):
        """Return the structure as it is now."""
        mine = [line[0] for line in services() if NODE in line[2:4]][:SERVICES_MAX]
        states = [(name, number_in(state_path(name, NODE))) for name in mine]
        self.up = 1 if mine else self.up
        numbers = (self.host_id, int(time.time()) & 0xFFFFFFFF, os.getpid())
        return structure(NODE, self.up, self.port, self.address, states, numbers)


def take_states(buffer):
    """Write every state of a structure to the file of the node that it names; return the sender's pid."""
    node = bytes(buffer[:128]).split(b"\0")[0].decode("utf-8", "replace")
    numbers = STATES.unpack_from(buffer, STATES_AT)
    for place in range(SERVICES_MAX):
        at = NAMES_AT + place * NAME_BYTES
        name = bytes(buffer[at : at + NAME_BYTES]).split(b"\0")[0].decode("utf-8", "replace")
        if not name:
            break
        write_state(name, node, numbers[place])
    return TAIL.unpack_from(buffer, TAIL_AT)[2]


# -- links -----------------------------------------------------------------------------------


class Segment:
    """What a sender or listener shows of its link: UP or DOWN, when, and whose process."""

    def __init__(self, device, address, port):
        self.path = RUN / f"{device.replace('/', '.')}-{address}-{port}"

    def show(self, is_up, pid=0):
        temporary = self.path.with_suffix(f".{threading.get_ident()}")
        temporary.write_text(f"{'UP' if is_up else 'DOWN'} {pid} {int(time.time())}\n")
        temporary.rename(self.path)

    def read(self):
        """Return (is up, pid, wall clock)."""
        try:
            status, pid, at = self.path.read_text().split()
        except OSError:
            return (False, 0, 0)
        return (status == "UP", int(pid), int(at))


def monitor_lines():
    """Return (node, type, device, address, port, timeout) of each line; no port on disks."""
    lines = []
    for node, kind, device, address, fifth, sixth in columns(EZ / "conf/monitor", 6):
        port, timeout = ("", fifth) if kind in ("dio", "disk") else (fifth, sixth)
        lines.append((node, kind, device, address, port, float(timeout)))
    return lines


def be_hasty():
    """Give this thread the priority of the C program's senders and listeners."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def interface_address(device):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        answer = fcntl.ioctl(asked, SIOCGIFADDR, struct.pack("256s", device.encode()[:15]))
    return answer[20:24]


def bound(device, port, group):
    """Return a socket bound to a port of a device, a member of the group unless that is empty."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode() + b"\0")
    if group:
        member = socket.inet_aton(group) + interface_address(device)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
    sock.bind(("", port))
    return sock


def send_net(kind, device, address, port, segment):
    """Send a beat each second; what cannot be sent is only logged."""
    be_hasty()
    if kind == "net":
        sock = bound(device, int(port), address)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface_address(device))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 6)
    else:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    beat = Beat(port, address)
    while True:
        try:
            sock.sendto(beat.packed(), (address, int(port)))
        except OSError as error:
            log(f"sento() failed: {error}")
        segment.show(True, os.getpid())
        time.sleep(BEAT_S)


def hear_net(kind, device, address, port, timeout, segment):
    """Take in every datagram; a shorter one leaves the rest of the one before where it was."""
    be_hasty()
    sock = bound(device, int(port), address if kind == "net" else "")
    buffer = bytearray(BYTES)
    segment.show(False)
    is_up, ran_out = False, False
    sock.settimeout(timeout)
    while True:
        try:
            if sock.recv_into(buffer, BYTES) == 0:
                continue
        except socket.timeout:
            is_up, ran_out = False, True
            segment.show(False)
            log(f"peer on @ {address} down !")
            sock.settimeout(None)
            continue
        segment.show(True, take_states(buffer))
        if ran_out:  # the first beat after a silence: nothing is said, and no timer runs
            ran_out = False
            continue
        if not is_up:
            is_up = True
            log(f"peer on @ {address} up !")
        sock.settimeout(timeout)


def opened_disk(device, flags):
    return os.open(device, flags | os.O_DIRECT)


def send_disk(device, address, segment):
    """Write the slot each second, 19 blocks, past the cache."""
    be_hasty()
    descriptor = opened_disk(device, os.O_RDWR)
    aligned = mmap.mmap(-1, SLOT_BYTES)
    beat = Beat(is_disk=True)
    while True:
        aligned[:BYTES] = beat.packed()
        try:
            os.pwritev(descriptor, [memoryview(aligned)[:SLOT_BYTES]], int(address) * BLOCK_BYTES)
            segment.show(beat.up == 1, os.getpid())
        except OSError as error:
            log(f"write on {device} failed: {error}")
        time.sleep(BEAT_S)


def hear_disk(device, address, timeout, segment):
    """Read the slot once in a timeout; it is UP if its time has changed, and while it is 0."""
    be_hasty()
    descriptor = opened_disk(device, os.O_RDONLY)
    aligned = mmap.mmap(-1, SLOT_BYTES)
    before, is_up = 0, False
    segment.show(False)
    while True:
        try:
            count = os.preadv(descriptor, [memoryview(aligned)[:SLOT_BYTES]], int(address) * BLOCK_BYTES)
        except OSError as error:
            log(f"read on {device} failed: {error}")
            count = 0
        if count == SLOT_BYTES:
            elapsed = TAIL.unpack_from(aligned, TAIL_AT)[1]
            was_up, is_up = is_up, elapsed != before or before == 0
            before = elapsed
            if is_up:
                segment.show(True, take_states(aligned))
            else:
                segment.show(False)
            if was_up != is_up:
                log(f"peer on {device}  {'up' if is_up else 'down'} !")
        time.sleep(timeout)


def start_links():
    """Start a thread for each line; return {node: segments of its lines} of the others."""
    heard = {}
    for node, kind, device, address, port, timeout in monitor_lines():
        segment = Segment(device, address, port)
        is_disk = kind in ("dio", "disk")
        if node == NODE:
            work = (send_disk, device, address) if is_disk else (send_net, kind, device, address, port)
        else:
            heard.setdefault(node, []).append(segment)
            work = (hear_disk, device, address) if is_disk else (hear_net, kind, device, address, port)
            work += (timeout,)
        threading.Thread(target=work[0], args=(*work[1:], segment), daemon=True).start()
    return heard


# -- starts, stops and decisions -------------------------------------------------------------

scripts_running = 0
scripts_lock = threading.Lock()


def run_script(path, verb):
    """Run a script to its end, without a limit; it ignores what would end it. Return its exit status."""
    global scripts_running
    if not os.access(path, os.X_OK):
        log(f"{path} exited with 255")
        return 255
    with scripts_lock:
        scripts_running += 1
    try:
        ignoring = ["/bin/sh", "-c", 'trap "" INT QUIT TERM; exec "$0" "$1"', path, verb]
        with open(EZ / "log/scripts", "ab") as output:
            status = subprocess.call(ignoring, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    finally:
        with scripts_lock:
            scripts_running -= 1
    if status:
        log(f"{path} exited with {status}")
    return status


def start(line):
    """The start procedure; return 0 also after a rollback."""
    name, script, primary, secondary, check = line
    other = other_node(primary, secondary)
    before, own = read_state(name, other), read_state(name, NODE)
    log(f"Ready to start {name}: partner node is {NAMES[before]} , we are {NAMES[own]}")
    write_state(name, NODE, START_READY)
    time.sleep(GRACE_S)
    after = read_state(name, other)
    if after != before:
        log(
            f"service {name} state has changed on partner node from {NAMES[before]} to {NAMES[after]} "
            "during the grace period"
        )
        if secondary == NODE or after in (STARTED, STARTING):
            log(f"rollback service {name} state to STOPPED")
            write_state(name, NODE, STOPPED)
            return 0
    write_state(name, NODE, STARTING)
    if run_script(check, "start"):
        log(f"Service {name} check script failed. State is now START_FAILED")
        write_state(name, NODE, START_FAILED)
        return 255
    log(f"Check script for service {name} OK")
    if run_script(script, "start"):
        log(f"failed to start {name}. State is now start-failed")
        write_state(name, NODE, START_FAILED)
        return 255
    log(f"Service {name} successfully started")
    write_state(name, NODE, STARTED)
    return 0


def stop(line):
    """Stop what runs here."""
    name, script, primary, secondary, _check = line
    peer = read_state(name, other_node(primary, secondary))
    log(f"Ready to stop {name}: partner node is {NAMES[peer]} we are {NAMES[read_state(name, NODE)]}")
    if peer != STOPPED:
        log("PARTNER is not in STOPPED state: service will not migrate")
    write_state(name, NODE, STOPPING)
    if run_script(script, "stop"):
        log(f"failed to stop {name}")
        write_state(name, NODE, STOP_FAILED)
        return 255
    log(f"Service {name} successfully stopped")
    write_state(name, NODE, STOPPED)
    return 0


def decide(line):
    """What the monitor does for one service in one round."""
    name, _script, primary, secondary, _check = line
    other = other_node(primary, secondary)
    if other is None:
        return
    peer, own = read_state(name, other), read_state(name, NODE)
    if own in (STOPPED, UNKNOWN) and peer in WANTED:
        start(line)


def watch(heard):
    """The monitor: silent nodes become UNKNOWN, then all services at once, the slowest is waited for."""
    while True:
        for node, segments in heard.items():
            if any(segment.read()[0] for segment in segments):
                continue
            for name, _script, primary, secondary, _check in services():
                if node in (primary, secondary) and read_state(name, node) != UNKNOWN:
                    log(f"setting service {name} to UNKNOWN for node {node}")
                    write_state(name, node, UNKNOWN)
        deciding = [threading.Thread(target=decide, args=(line,), daemon=True) for line in services()]
        for thread in deciding:
            thread.start()
        for thread in deciding:
            thread.join()
        time.sleep(LOOK_S)


# -- programs --------------------------------------------------------------------------------


def daemon():
    """Be the C program's daemons. SIGTERM ends it, but not while a script runs."""
    with open("/proc/self/comm", "w") as comm:
        comm.write("nmond")
    RUN.mkdir(exist_ok=True)
    (RUN / "pid").write_text(str(os.getpid()))

    def told_to_end(_number, _frame):
        if scripts_running == 0:
            os._exit(0)

    signal.signal(signal.SIGTERM, told_to_end)
    heard = start_links()
    time.sleep(CONVERGE_S)
    log("nmond starting ...")
    threading.Thread(target=watch, args=(heard,), daemon=True).start()
    while True:
        signal.pause()


def daemon_pid():
    """Return the daemon's pid, 0 when none runs."""
    try:
        pid = int((RUN / "pid").read_text())
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, ValueError):
        return 0
    return pid if comm == "nmond" else 0


def start_daemon():
    """Start the daemon and return when its monitor begins."""
    with open(EZ / "log/nmond.log", "ab") as output:
        subprocess.Popen(
            [*ME, "daemon"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    print("waiting 2 seconds for heartbeat to converge", flush=True)
    time.sleep(CONVERGE_S)


def kill_daemon():
    """End the daemon, and wait until it has ended; nothing else ends."""
    while True:
        pid = daemon_pid()
        if pid == 0:
            return
        os.kill(pid, signal.SIGTERM)
        time.sleep(0.05)


def ezha(words):
    """The init script."""
    if words == ["start"]:
        for name, _script, primary, secondary, _check in services():
            if NODE in (primary, secondary):
                path = state_path(name, NODE)
                frozen = path.exists() and number_in(path) == FROZEN_STOP
                read_state(name, NODE)
                if not frozen:
                    write_state(name, NODE, STOPPED)
        start_daemon()
    elif words == ["stop"]:
        kill_daemon()
        for line in services():
            if NODE in line[2:4] and read_state(line[0], NODE) in (STARTED, UNKNOWN):
                stop(line)
    elif words == ["kill"]:
        print("Stopping EZ-HA daemons")
        kill_daemon()
    elif words == ["restart"]:
        print("Stopping EZ-HA daemons", flush=True)
        kill_daemon()
        time.sleep(RESTART_S)
        print("Starting EZ-HA daemons", flush=True)
        start_daemon()
    else:
        print("Usage: ezha {start|stop|kill|restart}")
        return 1
    return 0


def act(line, action):
    """`service -A S ACTION`: a look at the state file, perhaps a script, a new state."""
    name, _script, primary, secondary, _check = line
    own, peer = read_state(name, NODE), read_state(name, other_node(primary, secondary))
    if action == "start":
        return start(line) if own in (STOPPED, UNKNOWN) and peer in WANTED else 255
    if action == "stop":
        return stop(line) if own in (STARTED, UNKNOWN) else 255
    if action == "freeze-stop":
        if own not in (STOPPED, START_FAILED, STOP_FAILED, STARTED):
            return 255
        if own == STARTED and stop(line):
            return 255
        write_state(name, NODE, FROZEN_STOP)
        return 0
    if action == "freeze-start":
        if own == STOPPED and peer in WANTED and start(line):
            return 255
        if own != STARTED and not (own == STOPPED and peer in WANTED):
            return 255
        write_state(name, NODE, START_READY)
        print(f"Service {name} FROZEN-START")
        return 0
    if action == "unfreeze":
        if own not in (FROZEN_STOP, START_READY):
            return 255
        write_state(name, NODE, STOPPED if own == FROZEN_STOP else STARTED)
        return 0
    if action in ("force-stop", "force-start"):
        write_state(name, NODE, STOPPED if action == "force-stop" else STARTED)
        return 0
    log(f"action {action} not found")
    return 255


def service(words):
    """The command for services."""
    if words == ["-s", "-c"]:
        form = "{:<16} {:<16} {:<14} {:<16} {:<14}"
        print(form.format("service", "prinode", "pristate", "secnode", "secstate"))
        for name, _script, primary, secondary, _check in services():
            states = [NAMES[read_state(name, node)] for node in (primary, secondary)]
            print(form.format(name, primary, states[0], secondary, states[1]))
        return 0
    if words[:1] == ["-A"] and len(words) == 3:
        line = next((line for line in services() if line[0] == words[1]), None)
        if line is None or other_node(line[2], line[3]) is None:
            log(f"service {words[1]} not found")
            return 255
        return act(line, words[2].lower())
    print("Usage: service [-s -c] [-A Service Action]", file=sys.stderr)
    return 255


def hb(words):
    """The command for links."""
    if words != ["-s"]:
        return 255
    for node, kind, device, address, port, _timeout in monitor_lines():
        is_up, pid, at = Segment(device, address, port).read()
        head = f"{kind} {'sender' if node == NODE else 'listener'} {device}:{address}"
        when = time.strftime("%b %d %H:%M:%S", time.localtime(at))
        print(f"{head} pid {pid} status UP, updated at {when}" if is_up else f"{head} status DOWN")
    return 0


def main():
    """Be the program that the first word names."""
    program, *words = sys.argv[1:]
    if program == "daemon":
        daemon()
    return {"service": service, "hb": hb, "ezha": ezha}[program](words)


if __name__ == "__main__":
    sys.exit(main())
