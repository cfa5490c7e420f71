"""The lab keeps its own promises, shown with plain programs: power, pause, cables, disk, evidence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab import Lab, LoopbackLab
from lab_config import ProbeService
from machine import LabError
from probe_log import overlaps, spans

pytestmark = pytest.mark.lab

HEAR_MULTICAST = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("239.131.50.99", 5999))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
             socket.inet_aton("239.131.50.99") + socket.inet_aton(sys.argv[1]))
print("listening", flush=True)
print("heard", s.recv(100).decode(), flush=True)
"""
SEND_MULTICAST = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
s.sendto(sys.argv[2].encode(), ("239.131.50.99", 5999))
"""
COUNT = """
import os, sys, time
while True:
    with open(sys.argv[1], "a") as log:
        log.write("%f\\n" % time.clock_gettime(time.CLOCK_BOOTTIME))
    time.sleep(0.01)
"""


def python(*words):
    return [sys.executable, "-I", "-S", "-c", *words]


def ping(lab, source, target, cable):
    number = lab.node(target).number
    address = lab.switch.address(number, cable)
    return lab.node(source).run(["ping", "-n", "-c", "1", "-W", "1", address]).status == 0


def lines_in(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


def probe(lab, service, node, verb):
    script = lab.workdir / "services" / service
    return lab.node(node).run([str(script), verb])


def test_a_node_has_its_own_name_processes_and_network(lab):
    """A node sees its own host name, few processes, its own interfaces, and its own root directory."""
    node = lab.node("n2")
    assert node.run(["uname", "-n"]).check().out == "n2\n"
    assert node.run(["cat", "/proc/1/comm"]).check().out.startswith("python")
    assert set(os.listdir("/sys/class/net")) != {"lo", "eth1", "eth2"}
    assert set(node.run(["ls", "/sys/class/net"]).check().out.split()) == {"lo", "eth1", "eth2"}
    assert node.run(["sh", "-c", "echo $OSVC_NODENAME $OSVC_ROOT"]).out == f"n2 {lab.workdir}/n2\n"


def test_a_command_gives_its_output_status_and_signal(lab):
    """Output, errors, exit status, death by signal, input and a time limit all come back."""
    node = lab.node("n1")
    result = node.run(["sh", "-c", "cat; echo bad >&2; exit 7"], text="given")
    assert (result.out, result.err, result.status) == ("given", "bad\n", 7)
    assert node.run(["sh", "-c", "kill -KILL $$"]).status == -9
    with pytest.raises(LabError, match="killed after"):
        node.run(["sleep", "1000"], timeout_s=0.2)
    with pytest.raises(LabError, match="No such file"):
        node.run(["/no/such/program"])


def test_nodes_reach_each_other_on_each_cable_and_nobody_else(lab):
    """Both cables carry both ways; a node reaches nothing outside the lab."""
    for cable in ("eth1", "eth2"):
        assert ping(lab, "n1", "n2", cable)
        assert ping(lab, "n2", "n1", cable)
    assert "unreachable" in lab.node("n1").run(["ping", "-c", "1", "-W", "1", "192.0.2.1"]).err


def test_a_cut_cable_carries_nothing_and_the_other_one_does(lab):
    """Cutting one end stops both directions and the carrier; healing brings them back."""
    lab.cut("n1", "eth1")
    assert not ping(lab, "n2", "n1", "eth1")
    assert not ping(lab, "n1", "n2", "eth1")
    assert ping(lab, "n1", "n2", "eth2")
    assert "NO-CARRIER" in lab.node("n1").run(["ip", "link", "show", "eth1"]).out
    assert "NO-CARRIER" not in lab.node("n2").run(["ip", "link", "show", "eth1"]).out
    lab.heal("n1", "eth1")
    lab.wait(lambda: ping(lab, "n2", "n1", "eth1"), 5, "eth1 is back")


def test_a_cut_cable_stays_cut_over_a_reboot(lab):
    """Turning a node off and on does not put a cable back."""
    lab.cut("n1", "eth2")
    lab.node("n1").kill()
    lab.boot("n1")
    assert ping(lab, "n2", "n1", "eth1")
    assert not ping(lab, "n2", "n1", "eth2")
    lab.heal("n1", "eth2")
    lab.wait(lambda: ping(lab, "n2", "n1", "eth2"), 5, "eth2 is back")


@pytest.mark.parametrize("cable", ["eth1", "eth2"])
def test_multicast_passes_between_nodes(lab, cable):
    """A group joined on a cable hears what the other node sends on that cable, and a cut stops it."""
    log = lab.workdir / "heard"
    there, here = (lab.switch.address(number, cable) for number in (1, 2))
    lab.node("n1").spawn(python(HEAR_MULTICAST, there), log)
    lab.wait(lambda: log.exists() and "listening" in log.read_text(), 5, "n1 listens")
    lab.cut("n2", cable)
    lab.node("n2").run(python(SEND_MULTICAST, here, "lost"))
    lab.heal("n2", cable)

    def heard():
        lab.node("n2").run(python(SEND_MULTICAST, here, "carried"))
        return "heard" in log.read_text()

    lab.wait(heard, 5, "the datagram arrives")
    assert "heard carried" in log.read_text()


def test_a_deaf_node_is_heard_and_hears_nothing(lab):
    """A cable cut in one direction carries multicast the other way only, until it is mended."""
    lab.deafen("n1", "eth1")
    logs = {number: lab.workdir / f"heard{number}" for number in (1, 2)}
    address = {number: lab.switch.address(number, "eth1") for number in (1, 2)}
    for number, log in logs.items():
        lab.nodes[number - 1].spawn(python(HEAR_MULTICAST, address[number]), log)
        lab.wait(lambda log=log: log.exists() and "listening" in log.read_text(), 5, "it listens")

    def passes(source, target):
        lab.nodes[source - 1].run(python(SEND_MULTICAST, address[source], f"from {source}"))
        return "heard" in logs[target].read_text()

    # Its own loop is closed, so that what n1 hears came over the cable.
    lab.wait(lambda: passes(1, 2), 5, "n2 hears n1")
    assert not passes(2, 1)
    lab.deafen("n1", "eth1", deaf=False)
    lab.wait(lambda: passes(2, 1), 5, "n1 hears again")


def test_power_off_ends_every_process_at_once(lab):
    """After kill() nothing of the node runs, daemons with sessions of their own included."""
    log = lab.workdir / "count"
    node = lab.node("n1")
    node.spawn(["setsid", "--fork", *python(COUNT, str(log))])
    lab.wait(lambda: lines_in(log) > 3, 5, "the counter runs")
    before = set(node.machine.processes()) | {node.machine.pid}
    assert len(before) >= 2
    node.kill()
    written = lines_in(log)
    assert not any(Path(f"/proc/{pid}/stat").exists() for pid in before)
    with pytest.raises(LabError, match="n1 is off"):
        node.run(["true"])
    time.sleep(0.05)
    assert lines_in(log) == written
    assert lab.node("n2").run(["true"]).status == 0


def test_a_booted_node_has_its_files_but_not_its_mounts(lab):
    """Its root directory survives a power cut; mounts, /run and processes do not."""
    node = lab.node("n1")
    node.write("etc/kept", "kept")
    node.write("run/lost", "lost")
    (node.root / "mounted").mkdir()
    node.run(["mount", "-t", "tmpfs", "tmpfs", str(node.root / "mounted")]).check()
    node.run(["touch", str(node.root / "mounted/file"), "/run/file"]).check()
    process = node.spawn(["sleep", "1000"])
    node.kill()
    assert process.wait(5) == -9
    lab.boot("n1")
    assert node.run(["cat", str(node.root / "etc/kept")]).check().out == "kept"
    assert node.run(["ls", str(node.root / "mounted")]).check().out == ""
    assert node.run(["ls", "/run/file"]).status != 0
    assert not (node.root / "run/lost").exists()
    assert len(node.run(["sh", "-c", "ls -d /proc/[0-9]*"]).out.split()) <= 4


def test_a_mount_of_one_node_is_not_seen_by_others(lab):
    """A file system mounted on one node is mounted on that node alone."""
    node = lab.node("n1")
    node.run(["mount", "-t", "tmpfs", "tmpfs", "/mnt"]).check()
    node.run(["touch", "/mnt/mine"]).check()
    assert lab.node("n2").run(["ls", "/mnt/mine"]).status != 0
    assert not Path("/mnt/mine").exists()


def test_a_paused_node_does_nothing_until_resumed(lab):
    """pause() stops every process, a forking one too, and resume() lets all run on."""
    log = lab.workdir / "count"
    node = lab.node("n1")
    counter = node.spawn(python(COUNT, str(log)))
    node.spawn(["sh", "-c", "while true; do true | true; done"])
    lab.wait(lambda: lines_in(log) > 3, 5, "the counter runs")
    node.pause()
    written = lines_in(log)
    assert not ping_of_paused(lab)
    assert lines_in(log) == written
    with pytest.raises(LabError, match="n1 is paused"):
        node.run(["true"])
    node.resume()
    lab.wait(lambda: lines_in(log) > written, 5, "the counter runs on")
    assert counter.running
    node.pause()
    node.kill()
    assert not node.machine.is_on


def ping_of_paused(lab):
    """The kernel answers pings for a node that is paused, so look at its programs instead."""
    return [state for state in lab.node("n1").machine.processes().values() if state not in "Tt"]


def test_the_shared_disk_is_one_disk(lab):
    """What one node writes past its cache to the shared device, the other reads."""
    write = f"printf 'beat of n1' | dd of={lab.disk.path} bs=512 count=1 conv=sync oflag=direct status=none"
    lab.node("n1").run(["sh", "-c", write]).check()
    read = f"dd if={lab.disk.path} bs=512 count=1 iflag=direct status=none | head -c 10"
    assert lab.node("n2").run(["sh", "-c", read]).check().out == "beat of n1"


def test_the_shared_disk_can_fail_on_one_node(lab):
    """A failed disk gives one node nothing and takes nothing from it; the other node notices nothing."""
    write = f"printf again | dd of={lab.disk.path} bs=512 count=1 conv=sync,notrunc oflag=direct status=none"
    read = f"dd if={lab.disk.path} bs=512 count=1 iflag=direct status=none | head -c 5"
    lab.disk.fail("n1")
    assert lab.node("n1").run(["sh", "-c", write]).status != 0
    assert lab.node("n1").run(["sh", "-c", read]).out == ""
    lab.node("n2").run(["sh", "-c", write]).check()
    lab.disk.mend("n1")
    assert lab.node("n1").run(["sh", "-c", read]).out == "again"


WRITE_AND_READ = """
import mmap, os, sys
disk = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
buffer = mmap.mmap(-1, 5120)
if sys.argv[2] == "write":
    buffer[:] = sys.argv[3].encode() * 5120
    os.pwritev(disk, [buffer], 5120)
else:
    os.preadv(disk, [buffer], 5120)
    print(len(set(buffer[:])), chr(buffer[0]))
"""


def test_a_disk_that_can_hang_is_the_same_disk(hanging_lab):
    """What n1 writes through the passthrough n2 reads, and the other way round, whole and at once."""
    path = str(hanging_lab.disk.path)
    for number, letter in enumerate("abcdefghij"):
        writer, reader = hanging_lab.nodes if number % 2 else reversed(hanging_lab.nodes)
        writer.run(python(WRITE_AND_READ, path, "write", letter)).check()
        assert reader.run(python(WRITE_AND_READ, path, "read")).check().out == f"1 {letter}\n"


def test_a_disk_hangs_on_one_node_and_goes_on(hanging_lab):
    """n1's write waits in state D, where SIGKILL does not end it; n2 writes all the while; n1's goes on."""
    n1, n2 = hanging_lab.nodes
    path = str(hanging_lab.disk.path)
    hanging_lab.disk.hang("n1")
    writer = n1.spawn(python(WRITE_AND_READ, path, "write", "x"))
    hanging_lab.wait(lambda: "D" in n1.machine.processes().values(), 5, "the writer is in state D")
    n2.run(python(WRITE_AND_READ, path, "write", "y")).check()
    writer.signal(signal.SIGKILL)
    assert n2.run(python(WRITE_AND_READ, path, "read")).check().out == "1 y\n"
    assert writer.running
    hanging_lab.disk.resume("n1")
    assert writer.wait(5) == -signal.SIGKILL
    n1.run(python(WRITE_AND_READ, path, "write", "z")).check()
    assert n2.run(python(WRITE_AND_READ, path, "read")).check().out == "1 z\n"


def test_a_disk_that_hangs_keeps_no_lab_from_closing(workdir, needs_root):
    """With a writer in state D, close() leaves no process, mount or loop device."""
    interfaces = set(os.listdir("/sys/class/net"))
    lab = Lab(workdir, hangable=["n1"])
    lab.disk.hang("n1")
    lab.node("n1").spawn(python(WRITE_AND_READ, str(lab.disk.path), "write", "x"))
    lab.wait(lambda: "D" in lab.node("n1").machine.processes().values(), 5, "the writer is in state D")
    lab.close()
    assert_nothing_left(workdir, interfaces, lab)


def test_a_machine_that_resets_itself_is_off(lab):
    """Process 1 agrees to be ended from inside, as a guardian does; the node can be booted again."""
    node = lab.node("n1")
    assert "OPENSVC_HB_RESET=process1" in Path(f"/proc/{node.machine.pid}/environ").read_text().split("\0")
    node.spawn(python("import ctypes; ctypes.CDLL(None).reboot(0x01234567)"))
    lab.wait(lambda: node.machine.was_reset, 5, "the machine is gone")
    assert not node.machine.is_on
    with pytest.raises(LabError, match="n1 is off"):
        node.run(["true"])
    lab.boot("n1")
    assert node.run(["true"]).status == 0


def test_the_probe_service_tells_where_it_lived(lab):
    """Start, status and stop of a probe service; its log shows two instances at once, or none."""
    lab.add_service(ProbeService("web"))
    assert probe(lab, "web", "n1", "status").status == 1
    assert probe(lab, "web", "n1", "start").check().out == "up\n"
    assert probe(lab, "web", "n1", "start").check().out == "already up\n"
    assert probe(lab, "web", "n1", "status").status == 0
    assert probe(lab, "web", "n2", "status").status == 1
    probe(lab, "web", "n1", "stop").check()
    probe(lab, "web", "n2", "start").check()
    assert [(span.node, span.stopped) for span in lab.spans("web")] == [("n1", True), ("n2", False)]
    assert lab.overlaps() == []
    probe(lab, "web", "n1", "start").check()
    lab.wait(lambda: lab.overlaps("web") and lab.overlaps("web")[0].seconds > 0.2, 5, "an overlap")
    assert {span.node for span in lab.living("web")} == {"n1", "n2"}
    lab.node("n1").kill()
    assert not lab.spans("web")[-1].stopped


def test_a_pause_splits_a_span_and_hides_no_overlap(tmp_path):
    """Silence while paused is not life, but what runs on after it is."""
    log = tmp_path / "log"
    lines = [(1.0, "n1", "a", "started"), (1.2, "n1", "a", "alive"), (2.0, "n2", "b", "started")]
    lines += [(x / 10, "n2", "b", "alive") for x in range(21, 60)] + [(5.0, "n1", "a", "alive")]
    lines += [(5.2, "n1", "a", "stopped")]
    log.write_text("".join(f"{at} {node} web {run} 7 {word}\n" for at, node, run, word in lines))
    assert [round(overlap.seconds, 1) for overlap in overlaps(log)] == [3.2]
    assert [round(overlap.seconds, 1) for overlap in overlaps(log, pause_s=1.0)] == [0.2]
    assert len(spans(log, pause_s=1.0)) == 3


def test_a_condition_that_stays_false_shows_every_nodes_log(lab):
    """A wait that fails names what it waited for and shows what the nodes wrote."""
    lab.node("n2").spawn(["echo", "last words of n2"]).wait(5)
    with pytest.raises(LabError, match=r"the moon(.|\n)*last words of n2"):
        lab.wait(lambda: False, 0.1, "the moon")


def test_closing_leaves_nothing_behind(workdir, needs_root):
    """No process, loop device, mount or interface remains after close()."""
    interfaces = set(os.listdir("/sys/class/net"))
    lab = Lab(workdir)
    lab.node("n1").spawn(["sleep", "1000"])
    lab.node("n1").pause()
    pids = [pid for node in lab.nodes for pid in (*node.machine.processes(), node.machine.pid)]
    pids.append(lab.switch.machine.pid)
    lab.close()
    assert not any(Path(f"/proc/{pid}/stat").exists() for pid in pids)
    assert_nothing_left(workdir, interfaces, lab)


def test_a_killed_test_leaves_nothing_behind(workdir, needs_root):
    """The same after SIGKILL of the process that made the lab, with a disk that hangs."""
    interfaces = set(os.listdir("/sys/class/net"))
    script = (
        "import sys, time; from lab import Lab; lab = Lab(sys.argv[1], hangable=['n1'])\n"
        "lab.node('n1').spawn(['sleep', '1000']); lab.disk.hang('n1')\n"
        "lab.node('n1').spawn(['dd', 'if=/dev/zero', f'of={lab.disk.path}', 'bs=512', 'oflag=direct'])\n"
        "lab.wait(lambda: 'D' in lab.node('n1').machine.processes().values(), 5, 'dd hangs')\n"
        "print(lab.node('n1').machine.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(workdir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as maker:
        pid = int(maker.stdout.readline())
        assert Path(f"/proc/{pid}/stat").exists()
        maker.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/stat").exists():
        assert time.monotonic() < deadline, "the node outlived the test"
        time.sleep(0.05)
    assert_nothing_left(workdir, interfaces, None)


def assert_nothing_left(workdir, interfaces, _lab):
    """The kernel lets go of loop devices in its own time, so wait for that."""
    deadline = time.monotonic() + 10
    while subprocess.run(["losetup", "-j", workdir / "shared-disk.img"], capture_output=True).stdout:
        assert time.monotonic() < deadline, "the loop device remained"
        time.sleep(0.05)
    while subprocess.run(["pgrep", "-f", str(workdir)], capture_output=True).stdout:
        assert time.monotonic() < deadline, "a process remained"
        time.sleep(0.05)
    assert str(workdir) not in Path("/proc/self/mountinfo").read_text()
    assert set(os.listdir("/sys/class/net")) == interfaces


def test_loopback_nodes_can_be_killed_and_paused_too(workdir):
    """Without namespaces, kill() ends daemonised descendants as well, and the probe tells the nodes apart."""
    with LoopbackLab(workdir) as lab:
        lab.add_service(ProbeService("web"))
        probe(lab, "web", "n1", "start").check()
        assert [span.node for span in lab.living("web")] == ["n1"]
        assert probe(lab, "web", "n2", "status").status == 1
        lab.node("n1").pause()
        lab.wait(lambda: not lab.living("web"), 5, "the paused service is silent")
        lab.node("n1").resume()
        lab.wait(lambda: lab.living("web"), 5, "the service runs on")
        pids = lab.node("n1").machine.processes()
        assert pids
        lab.node("n1").kill()
        assert not any(Path(f"/proc/{pid}/stat").exists() for pid in pids)
        lab.boot("n1")
        assert probe(lab, "web", "n1", "status").status == 1
        probe(lab, "web", "n2", "start").check()
    assert [span.node for span in spans(workdir / "probe.log")] == ["n1", "n2"]
    assert not overlaps(workdir / "probe.log")
