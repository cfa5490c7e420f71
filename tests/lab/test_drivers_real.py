"""The fs, disk and ip drivers with the real kernel, in mount and network namespaces of their own.

Each test runs one scenario of this file as a script below `unshare`: what it mounts and
configures vanishes with it.
"""

import contextlib
import ctypes
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
for folder in (ROOT, ROOT / "tests/unit"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from driver_loader import Recorder, context, converted, driver, module  # noqa: E402

from opensvc_hb.agent.resource import ActionError, CommandResult, Status  # noqa: E402

pytestmark = pytest.mark.lab

DEADLINE_S = 60.0


def run(argv, timeout_s=30.0):
    """Run a command as the agent does: C locale, output captured."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise ActionError(f"{argv[0]}: command not found") from error
    return CommandResult(tuple(argv), done.returncode, done.stdout, done.stderr)


def sh(*argv):
    """Run a command of the scenario itself; it must succeed."""
    done = run(list(argv))
    assert done.status == 0, f"{argv}: {done.stderr}{done.stdout}"
    return done.stdout


class Made:
    """A resource with the log that it writes."""

    def __init__(self, driver_name, rid, work, **written):
        self.recorder = Recorder()
        kind = driver(driver_name)
        self.resource = kind(rid, converted(kind, **written), context(work, self.recorder, run=run))

    def status(self):
        self.resource.messages.clear()
        before = len(self.recorder.lines)
        status = self.resource.status()
        assert len(self.recorder.lines) == before, "a status writes no log line"
        return status

    def start(self):
        return self._lines(self.resource.start)

    def stop(self):
        return self._lines(self.resource.stop)

    def _lines(self, action):
        del self.recorder.lines[:]
        action()
        return self.recorder.texts()


def image(work, name="a.img", size_mib=32):
    path = work / name
    with path.open("wb") as file:
        file.truncate(size_mib << 20)
    return path


@contextlib.contextmanager
def child(argv, **options):
    """A process of the scenario, ended with it; it has told that it is ready by one line."""
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
    try:
        assert select.select([process.stdout], [], [], DEADLINE_S)[0], f"{argv} does not get ready"
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def idle(before="", **options):
    """A process that does `before`, says ready, and then waits."""
    code = f"import signal, sys, os, mmap\n{before}\nprint('ready', flush=True)\nsys.stdin.read()"
    return child([sys.executable, "-c", code], **options)


# --- file systems and loop devices ---------------------------------------------------------


def scenario_ext4_image(work):
    """An image file is checked, mounted through a loop device, and its loop device goes with it."""
    path = image(work)
    sh("mkfs.ext4", "-q", "-F", str(path))
    mnt = work / "mnt"
    made = Made("fs.ext4", "fs#1", work, type="ext4", dev=str(path), mnt=f"{mnt}/", mnt_opt="rw")
    assert made.status() is Status.DOWN
    lines = made.start()
    assert lines[0] == f"create missing mountpoint {mnt}"
    assert lines[1] == f"e2fsck -p {path}"
    assert re.fullmatch(rf"output:\n{path}: clean, .* files, .* blocks\n", lines[2])
    assert lines[3:] == [f"mount -t ext4 -o rw,loop {path} {mnt}"]
    assert made.status() is Status.UP
    assert made.start() == [f"fs({path} {mnt}) is already mounted"]
    assert Made("disk.loop", "loop#1", work, file=str(path)).status() is Status.UP
    sh("mount", "-o", "remount,ro", str(mnt))
    assert made.status() is Status.WARN
    assert made.resource.messages == ["fs is not writable"]
    assert made.stop() == [f"umount {mnt}"]
    assert made.status() is Status.DOWN
    assert made.stop() == [f"fs({path} {mnt}) is already umounted"]
    assert Made("disk.loop", "loop#1", work, file=str(path)).status() is Status.DOWN


def scenario_loop_then_xfs(work):
    """A loop device is bound by the disk driver; the fs driver mounts that device by its node."""
    path = image(work, size_mib=320)
    sh("mkfs.xfs", "-q", str(path))
    loop = Made("disk.loop", "loop#1", work, file=str(path))
    lines = loop.start()
    try:
        assert lines[0] == f"losetup -f {path}"
        device = re.fullmatch(rf"(/dev/loop\d+) now loops to {path}", lines[1]).group(1)
        assert loop.start() == [f"{path} is already up"]
        made = Made("fs.xfs", "fs#1", work, type="xfs", dev=device, mnt=str(work / "mnt"), mnt_opt="noatime")
        assert made.start() == [
            f"create missing mountpoint {work}/mnt",
            "fsck not implemented for xfs",
            f"mount -t xfs -o noatime {device} {work}/mnt",
        ]
        assert made.status() is Status.UP
        with pytest.raises(ActionError, match=f"{device} is still in use"):
            loop.stop()
        made.stop()
    finally:
        subprocess.run(["umount", str(work / "mnt")], capture_output=True, check=False)
        if loop.status() is Status.UP:
            loop.stop()
    assert loop.status() is Status.DOWN
    assert loop.stop() == [f"{path} is already down"]


def scenario_other_mount_namespace(work):
    """A stop fails while a process with mounts of its own keeps the device mounted."""
    path = image(work)
    sh("mkfs.ext4", "-q", "-F", str(path))
    loop = Made("disk.loop", "loop#1", work, file=str(path))
    device = loop.start()[-1].split()[0]
    try:
        made = Made("fs.ext4", "fs#1", work, type="ext4", dev=device, mnt=str(work / "mnt"))
        made.start()
        waits = [sys.executable, "-c", "import sys; print('ready', flush=True); sys.stdin.read()"]
        with (
            child(["unshare", "--mount", "--propagation", "private", *waits]),
            pytest.raises(ActionError, match=f"{device} is still in use"),
        ):
            made.stop()
        assert made.status() is Status.DOWN
        wait_until(lambda: not made.resource._is_claimed())
        made.start()
        made.stop()
    finally:
        loop.stop()


def scenario_label(work):
    """A device may be given by its label."""
    path = image(work)
    sh("mkfs.ext4", "-q", "-F", "-L", "drvlab", str(path))
    loop = Made("disk.loop", "loop#1", work, file=str(path))
    loop.start()
    try:
        made = Made("fs.ext4", "fs#1", work, type="ext4", dev="LABEL=drvlab", mnt=str(work / "mnt"))
        made.start()
        assert made.status() is Status.UP
        made.stop()
        assert made.status() is Status.DOWN
    finally:
        loop.stop()


def scenario_bind(work):
    """A directory is shown at a second place, read-only if asked, and recognised there."""
    (work / "data").mkdir()
    (work / "data/file").write_text("here")
    (work / "link").symlink_to(work / "data")
    for dev, options in ((work / "data", "ro"), (work / "link", "")):
        made = Made(
            "fs.bind", "fs#1", work, type="bind", dev=str(dev), mnt=str(work / "mnt"), mnt_opt=options
        )
        assert made.status() is Status.DOWN
        line = made.start()[-1]
        assert line == f"mount -t none -o {'bind,ro' if options else 'bind'} {dev} {work}/mnt"
        assert (work / "mnt/file").read_text() == "here"
        assert made.status() is Status.UP
        other = Made("fs.bind", "fs#1", work, type="bind", dev=str(work), mnt=str(work / "mnt"))
        assert other.status() is Status.DOWN
        assert "is mounted there instead" in other.resource.messages[0]
        made.stop()
        assert made.status() is Status.DOWN


def scenario_tmpfs(work):
    """A tmpfs without options is mounted with the agent's line."""
    made = Made("fs.tmpfs", "fs#1", work, type="tmpfs", dev="none", mnt=str(work / "a b"))
    assert made.start() == [
        f"create missing mountpoint {work}/a b",
        "fsck not implemented for tmpfs",
        f"mount -t tmpfs none {work}/a b",
    ]
    assert made.status() is Status.UP
    inner = Made("fs.tmpfs", "fs#2", work, type="tmpfs", dev="none", mnt=f"{work}/a b/in", mnt_opt="size=1m")
    inner.start()
    with pytest.raises(ActionError, match="a b/in mounted below it"):
        made.stop()
    inner.stop()
    made.stop()


HOLDS = {
    "cwd": "os.chdir({mnt!r})",
    "file": "f = open({mnt!r} + '/f')",
    "map": "f = open({mnt!r} + '/f', 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close(); f = None",
}


def scenario_busy(work):
    """Whoever holds the mount is named and ended, by TERM or, when that is ignored, by KILL."""
    made = Made("fs.tmpfs", "fs#1", work, type="tmpfs", dev="none", mnt=str(work / "mnt"))
    made.resource.grace_s = 0.5
    for how, code in HOLDS.items():
        for ignore in (False, True):
            made.start()
            (work / "mnt/f").write_text("x" * 5000)
            before = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if ignore else ""
            with idle(before + code.format(mnt=str(work / "mnt"))) as holder, idle() as bystander:
                lines = made.stop()
                assert made.status() is Status.DOWN, how
                assert holder.wait(timeout=DEADLINE_S) == -(signal.SIGKILL if ignore else signal.SIGTERM)
                assert bystander.poll() is None
            assert any(f"is held by {holder.pid} (" in line for line in lines), lines


def scenario_bind_of_root(work):
    """A busy bind mount of / costs the life of the one who is in it, and of nobody else."""
    made = Made("fs.bind", "fs#1", work, type="bind", dev="/", mnt=str(work / "mnt"))
    made.start()
    inside = f"os.chdir({str(work / 'mnt/usr')!r})"
    outside = f"os.chdir('/usr'); f = open({str(HERE)!r})"
    with idle(inside) as holder, idle(outside) as bystander:
        made.stop()
        assert made.status() is Status.DOWN
        assert holder.wait(timeout=DEADLINE_S) == -signal.SIGTERM
        assert bystander.poll() is None


def scenario_ours_are_spared(work):
    """The process that unmounts and our own daemon are named as holders and not ended."""
    made = Made("fs.tmpfs", "fs#1", work, type="tmpfs", dev="none", mnt=str(work / "mnt"))
    made.start()
    daemon = work / "hbmgr"
    daemon.write_text("import sys\nprint('ready', flush=True)\nsys.stdin.read()\n")
    with child([sys.executable, str(daemon), "daemon"], cwd=work / "mnt") as process:
        with (work / "mnt/mine").open("w"), pytest.raises(ActionError) as caught:
            made.stop()
        assert f"{work}/mnt is busy: held by" in str(caught.value)
        assert f"{os.getpid()} (" in str(caught.value)
        assert f"{process.pid} (" in str(caught.value)
        assert process.poll() is None
    made.stop()


def scenario_hung_storage(work):
    """A status answers at once while every write to the file system hangs."""
    path = image(work)
    sh("mkfs.ext4", "-q", "-F", str(path))
    mnt = work / "mnt"
    made = Made("fs.ext4", "fs#1", work, type="ext4", dev=str(path), mnt=str(mnt))
    made.start()
    sh("fsfreeze", "--freeze", str(mnt))
    try:
        writer = subprocess.Popen(["touch", str(mnt / "file")])
        began = time.monotonic()
        assert made.status() is Status.UP
        assert time.monotonic() - began < 2
        assert writer.poll() is None, "a write to a frozen file system hangs"
    finally:
        sh("fsfreeze", "--unfreeze", str(mnt))
    assert writer.wait(timeout=DEADLINE_S) == 0
    made.stop()


def scenario_refusals(work):
    """What cannot be mounted is refused with one line, before anything is made."""
    made = Made("fs.ext4", "fs#1", work, type="ext4", dev="/dev/mapper/nosuch-lv", mnt=str(work / "m/data"))
    with pytest.raises(ActionError, match=r"^device does not exist /dev/mapper/nosuch-lv$"):
        made.start()
    assert not (work / "m").exists()
    empty = image(work, "empty.img")
    made = Made("fs.ext4", "fs#1", work, type="ext4", dev=str(empty), mnt=str(work / "mnt"))
    with pytest.raises(ActionError, match=r"e2fsck -p .* failed with status 8"):
        made.start()
    sh("mount", "-t", "tmpfs", "other", str(work / "mnt"))
    assert made.status() is Status.DOWN
    assert made.resource.messages == ["other is mounted there instead"]
    with pytest.raises(ActionError, match="other is already mounted on"):
        made.start()
    sh("umount", str(work / "mnt"))


# --- addresses -------------------------------------------------------------------------------

CLONE_NEWNET = 0x40000000


class Peer:
    """A second network namespace behind a veth pair: eth1 on both sides."""

    def __init__(self, pid):
        self.pid = pid
        sh("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", str(pid))
        for command in (sh, self.sh):
            command("sysctl", "-qw", "net.ipv6.conf.eth1.accept_dad=0")
            command("ip", "link", "set", "lo", "up")
            command("ip", "link", "set", "eth1", "up")
        # Until the kernel's own worker has seen the cable on both sides, what is sent is lost without a word.
        for command in (sh, self.sh):
            wait_until(lambda command=command: "state UP" in command("ip", "link", "show", "eth1"))

    def sh(self, *argv):
        return sh("nsenter", "-t", str(self.pid), "-n", *argv)

    def socket(self, *arguments):
        """Open a socket that lives in the peer's namespace."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/self/ns/net") as own, open(f"/proc/{self.pid}/ns/net") as other:
            assert libc.setns(other.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            try:
                return socket.socket(*arguments)
            finally:
                assert libc.setns(own.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())

    def neighbour(self, address):
        """The hardware address that the peer's kernel knows for an address; "" when none."""
        found = re.search(r"lladdr (\S+)", self.sh("ip", "neigh", "show", address, "dev", "eth1"))
        return found.group(1) if found else ""


@contextlib.contextmanager
def two_nodes():
    with child(
        ["unshare", "--net", sys.executable, "-c", "import sys; print('ready', flush=True); sys.stdin.read()"]
    ) as process:
        yield Peer(process.pid)


def own_mac():
    return re.search(r"link/ether (\S+)", sh("ip", "link", "show", "eth1")).group(1)


def wait_until(question):
    """Wait for a condition of the kernel that has no event to wait for."""
    deadline = time.monotonic() + DEADLINE_S
    while not question():
        assert time.monotonic() < deadline, "the condition never came true"
        select.select([], [], [], 0.01)


def scenario_address(work):
    """An address comes with the interface's netmask, is announced, and goes again."""
    with two_nodes() as peer:
        sh("ip", "addr", "add", "10.9.0.1/24", "dev", "eth1")
        peer.sh("ip", "addr", "add", "10.9.0.2/24", "dev", "eth1")
        peer.sh(
            "ip",
            "neigh",
            "replace",
            "10.9.0.50",
            "lladdr",
            "02:00:00:00:00:99",
            "dev",
            "eth1",
            "nud",
            "stale",
        )
        sniffer = peer.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
        with sniffer:
            sniffer.settimeout(DEADLINE_S)
            made = Made("ip.host", "ip#1", work, ipname="10.9.0.50", ipdev="eth1")
            assert made.status() is Status.DOWN
            began = time.monotonic()
            assert made.resource.may_start() is None
            assert time.monotonic() - began < 1.5
            assert made.recorder.texts() == ["checking 10.9.0.50 availability"]
            assert made.start() == [
                "ip addr add 10.9.0.50/24 dev eth1",
                f"announced 10.9.0.50 at {own_mac()} on eth1",
            ]
            parse_arp = module("ip._frames").parse_arp
            seen = set()
            while seen != {(1, "10.9.0.50"), (2, "10.9.0.50")}:
                frame = sniffer.recv(2048)
                arp = parse_arp(frame)
                if str(arp.sender) == "10.9.0.50":
                    assert arp.sender_mac.hex(":") == own_mac()
                    seen.add((frame[21], str(arp.target)))
        assert peer.neighbour("10.9.0.50") == own_mac()
        assert made.status() is Status.UP
        assert made.start() == ["10.9.0.50 is already up on eth1"]
        assert made.resource.may_start() is None
        assert peer.sh("ping", "-c", "1", "-W", "5", "10.9.0.50")
        assert made.stop() == ["ip addr del 10.9.0.50/24 dev eth1"]
        assert made.stop() == ["10.9.0.50 is already down on eth1"]
        assert made.status() is Status.DOWN
        assert "10.9.0.1/24" in sh("ip", "addr", "show", "eth1")


def scenario_conflict(work):
    """An address that another host has is refused, by veto and by start, in well under a second."""
    with two_nodes() as peer:
        sh("ip", "addr", "add", "10.9.0.1/24", "dev", "eth1")
        for address in ("10.9.0.50/24", "fd00:9::50/64"):
            sh("ip", "addr", "replace", "fd00:9::1/64", "dev", "eth1")
            peer.sh("ip", "addr", "add", address, "dev", "eth1")
            name = address.partition("/")[0]
            made = Made("ip.host", "ip#1", work, ipname=name, ipdev="eth1")
            began = time.monotonic()
            assert made.resource.may_start() == f"{name} is already up on another host"
            assert time.monotonic() - began < 0.6 + 1
            with pytest.raises(ActionError, match=f"^{name} is already up on another host$"):
                made.start()
            assert name not in sh("ip", "addr", "show", "eth1")
            peer.sh("ip", "addr", "del", address, "dev", "eth1")
            made.start()
            assert made.status() is Status.UP
            made.stop()


def scenario_conflict_without_ping(work):
    """A host that ignores pings is found all the same: by ARP, or as a neighbour."""
    with two_nodes() as peer:
        for family in ("ipv4.icmp_echo_ignore_all", "ipv6.icmp.echo_ignore_all"):
            peer.sh("sysctl", "-qw", f"net.{family}=1")
        for address in ("10.9.0.50/24", "fd00:9::50/64"):
            name = address.partition("/")[0]
            made = Made("ip.host", "ip#1", work, ipname=name, ipdev="eth1")
            peer.sh("ip", "addr", "add", address, "dev", "eth1")
            assert made.resource.may_start() == f"{name} is already up on another host"
            peer.sh("ip", "addr", "del", address, "dev", "eth1")
            assert made.resource.may_start() is None


def scenario_address_without_network(work):
    """The other host is found by ARP though this node has no address of its subnet."""
    with two_nodes() as peer:
        peer.sh("ip", "addr", "add", "10.9.0.50/24", "dev", "eth1")
        made = Made("ip.host", "ip#1", work, ipname="10.9.0.50", ipdev="eth1")
        assert made.resource.may_start() == "10.9.0.50 is already up on another host"
        free = Made("ip.host", "ip#2", work, ipname="10.9.0.51", ipdev="eth1")
        assert free.start()[0] == "ip addr add 10.9.0.51/32 dev eth1"
        free.stop()


def scenario_address_six(work):
    """An IPv6 address is usable at once and its neighbours learn where it is."""
    with two_nodes() as peer:
        sh("ip", "addr", "add", "fd00:9::1/64", "dev", "eth1")
        peer.sh("ip", "addr", "add", "fd00:9::2/64", "dev", "eth1")
        peer.sh(
            "ip",
            "neigh",
            "replace",
            "fd00:9::50",
            "lladdr",
            "02:00:00:00:00:99",
            "dev",
            "eth1",
            "nud",
            "stale",
        )
        made = Made("ip.host", "ip#1", work, ipname="fd00:9::50", ipdev="eth1", netmask="64")
        assert made.start()[0] == "ip addr add fd00:9::50/64 dev eth1"
        assert "tentative" not in sh("ip", "addr", "show", "eth1")
        wait_until(lambda: peer.neighbour("fd00:9::50") == own_mac())
        made.stop()


def scenario_announce_again(work):
    """An announcement asked for later corrects what a neighbour learned meanwhile."""
    with two_nodes() as peer:
        sh("ip", "addr", "add", "10.9.0.1/24", "dev", "eth1")
        peer.sh("ip", "addr", "add", "10.9.0.2/24", "dev", "eth1")
        made = Made("ip.host", "ip#1", work, ipname="10.9.0.50", ipdev="eth1")
        made.start()
        peer.sh(
            "ip",
            "neigh",
            "replace",
            "10.9.0.50",
            "lladdr",
            "02:00:00:00:00:99",
            "dev",
            "eth1",
            "nud",
            "stale",
        )
        # the kernel keeps a changed entry for a second before an announcement may change it again
        peer.sh("sysctl", "-qw", "net.ipv4.neigh.eth1.locktime=0")
        made.resource.announce()
        wait_until(lambda: peer.neighbour("10.9.0.50") == own_mac())
        made.stop()


def scenario_other_addresses_stay(work):
    """Stopping one service's address leaves another's of the same subnet where it is."""
    with two_nodes():
        sh(
            "sysctl",
            "-qw",
            "net.ipv4.conf.eth1.promote_secondaries=0",
            "net.ipv4.conf.all.promote_secondaries=0",
        )
        first = Made("ip.host", "ip#1", work, ipname="10.9.0.50", ipdev="eth1", netmask="255.255.255.0")
        second = Made("ip.host", "ip#2", work, ipname="10.9.0.51", ipdev="eth1", netmask="24")
        first.start()
        second.start()
        assert first.stop() == [
            "sysctl net.ipv4.conf.eth1.promote_secondaries=1",
            "ip addr del 10.9.0.50/24 dev eth1",
        ]
        assert second.status() is Status.UP
        second.stop()


def scenario_address_refusals(work):
    """An interface that is not there or not up, and a name that nobody knows, are refused."""
    sh("ip", "link", "add", "down9", "type", "veth", "peer", "name", "peer9")
    for device, reason in (
        ("eth9", r"^interface eth9 not found\. Cannot stack over it\.$"),
        ("down9", "^interface down9 is not set up"),
    ):
        made = Made("ip.host", "ip#1", work, ipname="10.9.0.50", ipdev=device)
        assert made.resource.may_start() is None
        with pytest.raises(ActionError, match=reason):
            made.start()
    made = Made("ip.host", "ip#1", work, ipname="nosuch.invalid", ipdev="lo")
    assert made.status() is Status.WARN
    assert made.resource.messages == ["could not resolve nosuch.invalid to an ip address"]
    with pytest.raises(ActionError, match=r"could not resolve nosuch\.invalid to an ip address"):
        made.start()


def scenario_loopback(work):
    """On the loopback interface an address is neither probed nor announced."""
    sh("ip", "link", "set", "lo", "up")
    made = Made("ip.host", "ip#1", work, ipname="192.0.2.7", ipdev="lo", netmask="32")
    assert made.start() == ["ip addr add 192.0.2.7/32 dev lo"]
    assert made.status() is Status.UP
    made.stop()


# --- running a scenario ----------------------------------------------------------------------


def run_scenario(scenario, work):
    """Run a scenario in namespaces of its own; what it printed is the failure's text."""
    assert os.geteuid() == 0, "these tests need root"
    done = subprocess.run(
        [
            "unshare",
            "--mount",
            "--net",
            sys.executable,
            "-W",
            "error",
            str(HERE),
            scenario.__name__,
            str(work),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests/unit")])},
    )
    assert done.returncode == 0, f"{scenario.__doc__}\n{done.stdout}{done.stderr}"


def scenarios():
    return [value for name, value in sorted(globals().items()) if name.startswith("scenario_")]


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda scenario: scenario.__name__[len("scenario_") :])
def test_scenario(scenario, tmp_path):
    """Each driver does with the real kernel what its scenario's first line says."""
    run_scenario(scenario, tmp_path)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
