"""The lab: two (or more) whole nodes on one machine, their network, their disk, their operator.

    with Lab(workdir) as lab:
        lab.configure(timeout_s=1.0, services=[ProbeService("web")])
        lab.start_daemons()
        lab.hand_over("web")               # as an operator does: unfreeze on each node
        lab.node("n1").kill()
        lab.wait(lambda: lab.node("n2").state("web") == "STARTED", 5, "n2 takes web over")

`Lab` needs root: every node has its own network, processes, host name, mounts and IPC, two
cables to a switch and one shared block device. `LoopbackLab` needs nothing: its nodes are
plain processes, their cables are multicast on the loopback interface, and they can be
killed and paused, but not cut off.

Everything is a child of the test and ends with it. Nothing here decides by sleeping: a test
waits for a condition, and a condition that does not come true shows what every node wrote.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple, TypeVar

from lab_config import FIRST_PORT, ProbeService, monitor_text
from machine import LabError, Machine, Process, Result
from probe_log import Overlap, Span, goes_on, overlaps, spans
from shared_disk import DISK_BYTES, SharedDisk
from switch import Switch

import opensvc_hb

TREE = Path(opensvc_hb.__file__).parent.parent
POLL_S = 0.05
LINES_SHOWN = 40
DAEMON_LIMIT_S = 20.0

Answer = TypeVar("Answer")


class Node:
    """One node: its machine, its root directory, and the project's commands on it."""

    def __init__(self, name: str, number: int, workdir: Path, namespaces: bool) -> None:
        self.name = name
        self.number = number
        self.root = workdir / name
        self.log_path = workdir / "logs" / f"{name}.log"
        self.machine = Machine(
            name,
            {
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOME": str(workdir),
                "LANG": "C.UTF-8",
                "OSVC_ROOT": str(self.root),
                "OSVC_NODENAME": name,
                "PYTHONPATH": str(TREE),
                "PYTHONUNBUFFERED": "1",
            },
            namespaces,
        )
        self.daemon: Optional[Process] = None
        self.unplug: Callable[[], None] = lambda: None
        """Takes its cables out, for a power cut."""

    # The machine.

    def run(self, argv: Sequence[str], timeout_s: float = 30.0, text: str = "") -> Result:
        """Run a program on the node to its end."""
        return self.machine.run(argv, timeout_s, text)

    def spawn(self, argv: Sequence[str], log: Optional[Path] = None) -> Process:
        """Start a program on the node; its output goes to the node's log."""
        return self.machine.spawn(argv, log or self.log_path)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the node, `path` being relative to its root directory."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)

    def kill(self) -> None:
        """Cut the power: every process is gone at once, and so are the mounts."""
        if self.machine.pid:
            self.machine.kill()
            self.unplug()
        self.daemon = None

    def pause(self) -> None:
        """Stop every process where it stands."""
        self.machine.pause()

    def resume(self) -> None:
        """Let every process run on."""
        self.machine.resume()

    # The project's commands.

    def hbmgr(self, *words: str, timeout_s: float = 30.0) -> Result:
        """Run `hbmgr WORDS` on the node."""
        return self.run([sys.executable, "-m", "opensvc_hb.cli.hbmgr", *words], timeout_s)

    def svcmgr(self, *words: str, timeout_s: float = 60.0) -> Result:
        """Run `svcmgr WORDS` on the node."""
        return self.run([sys.executable, "-m", "opensvc_hb.cli.svcmgr", *words], timeout_s)

    def svcmon(self, *words: str, timeout_s: float = 30.0) -> Result:
        """Run `svcmon WORDS` on the node."""
        return self.run([sys.executable, "-m", "opensvc_hb.cli.svcmon", *words], timeout_s)

    def status(self):
        """Return the object that `hbmgr status --format json` prints."""
        return self.hbmgr("status", "--format", "json").json()

    def states(self, service: str) -> Dict[str, str]:
        """Return {node: state} of a service as this node sees it."""
        instances = self.status()["services"][service]["instances"]
        return {name: instance["state"] for name, instance in instances.items()}

    def state(self, service: str) -> str:
        """Return the state of this node's own instance of a service."""
        return self.states(service)[self.name]

    def events(self, service: str):
        """Return what `hbmgr events SVC --format json` prints."""
        return self.hbmgr("events", service, "--format", "json").json()

    # Its daemon.

    def launch_daemon(self) -> None:
        """Start `hbmgr daemon` and return at once."""
        self.daemon = self.spawn([sys.executable, "-m", "opensvc_hb.cli.hbmgr", "daemon"])

    def daemon_answers(self) -> bool:
        """Tell whether the control socket takes connections; a daemon that has ended is an error."""
        if not self.daemon.running:
            raise LabError(
                f"the daemon of {self.name} ended with status {self.daemon.wait(0)}:\n{self.tail()}"
            )
        with socket.socket(socket.AF_UNIX) as attempt:
            try:
                attempt.connect(str(self.root / "run/opensvc/hb.sock"))
            except OSError:
                return False
        return True

    def start_daemon(self) -> None:
        """Start `hbmgr daemon`; returns when its control socket answers."""
        self.launch_daemon()
        deadline = time.monotonic() + DAEMON_LIMIT_S
        while not self.daemon_answers():
            if time.monotonic() > deadline:
                raise LabError(f"the daemon of {self.name} does not answer:\n{self.tail()}")
            time.sleep(POLL_S)

    def stop_daemon(self, number: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """End the daemon by a signal; return its exit status."""
        self.daemon.signal(number)
        status = self.daemon.wait(timeout_s)
        self.daemon = None
        return status

    # What it left to read.

    def tail(self, lines: int = LINES_SHOWN) -> str:
        """Return the end of what the node's programs wrote."""
        try:
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(nothing written)"

    def journal_tail(self, lines: int = LINES_SHOWN) -> str:
        """Return the end of the event journal, also where it lies on a mount of the node's own."""
        path = str(self.root / "var/log/opensvc/hb.journal")
        if self.machine.is_on and not self.machine.paused:
            return self.run(["tail", "-n", str(lines), path]).out
        try:
            return "\n".join(Path(path).read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""


class BaseLab:
    """What both labs share: nodes, configuration, operators' steps, waiting, evidence."""

    interfaces: Tuple[str, ...] = ()
    namespaces = True

    def __init__(self, workdir: Path, nodes: Sequence[str] = ("n1", "n2")) -> None:
        self.workdir = Path(workdir).resolve()
        (self.workdir / "logs").mkdir(parents=True, exist_ok=True)
        self.nodes: List[Node] = [
            Node(name, place + 1, self.workdir, self.namespaces) for place, name in enumerate(nodes)
        ]
        self.probe_log = self.workdir / "probe.log"
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> BaseLab:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _build(self) -> None:
        for node in self.nodes:
            self.boot(node.name)

    def _disk(self) -> Tuple[str, str]:
        """Return (device, link type) of the shared disk."""
        raise NotImplementedError

    def _first_port(self) -> int:
        return FIRST_PORT

    def node(self, name: str) -> Node:
        """Return a node by name."""
        return next(node for node in self.nodes if node.name == name)

    def peer_of(self, name: str) -> Node:
        """Return the other one of two nodes."""
        return next(node for node in self.nodes if node.name != name)

    def boot(self, name: str) -> None:
        """Turn a node on: what it held in memory is gone, its root directory is there."""
        node = self.node(name)
        shutil.rmtree(node.root / "run", ignore_errors=True)
        node.root.mkdir(exist_ok=True)
        node.machine.boot()

    def close(self) -> None:
        """End everything that was started, and undo everything that was made but the files."""
        for node in self.nodes:
            node.kill()

    # Configuration.

    def configure(
        self,
        timeout_s: float = 1.0,
        services: Iterable[ProbeService] = (),
        wait_for_peer_s: float = 3.0,
        more: str = "",
    ) -> None:
        """Write the cluster's files on every node, the key made once and copied.

        Args:
            more: further lines of hb.conf's section [hb].
        """
        disk, disk_type = self._disk()
        names = [node.name for node in self.nodes]
        monitor = monitor_text(names, self.interfaces, disk, disk_type, timeout_s, self._first_port())
        for node in self.nodes:
            node.write("etc/opensvc/hb/nodes", "".join(f"{name}\n" for name in names))
            node.write("etc/opensvc/hb/monitor", monitor)
            node.write("etc/opensvc/hb/hb.conf", f"[hb]\nwait_for_peer = {wait_for_peer_s:g}\n{more}")
        self.nodes[0].hbmgr("keygen").check()
        key = (self.nodes[0].root / "etc/opensvc/hb/key").read_text()
        for node in self.nodes[1:]:
            node.write("etc/opensvc/hb/key", key, mode=0o600)
        for service in services:
            self.add_service(service)

    def add_service(self, service: ProbeService) -> None:
        """Write a service's file on every node, and the script and file system it needs."""
        script = self.workdir / "services" / service.name
        script.parent.mkdir(exist_ok=True)
        script.write_text(service.script_text(self.probe_log))
        script.chmod(0o755)
        if service.fs_image and not Path(service.fs_image).exists():
            with open(service.fs_image, "wb") as image:
                image.truncate(16 << 20)
            subprocess.run(["mkfs.ext4", "-q", "-F", service.fs_image], check=True)
        for node in self.nodes:
            node.write(f"etc/opensvc/{service.name}.env", service.env_text(script))

    # An operator's steps.

    def start_daemons(self) -> None:
        """Start the daemon of every node, all at once."""
        for node in self.nodes:
            node.launch_daemon()
        self.wait(lambda: all(node.daemon_answers() for node in self.nodes), DAEMON_LIMIT_S, "daemons answer")

    def hand_over(self, service: str, first: str = "n1") -> None:
        """Unfreeze a new service on one node, which starts it, then on the others."""
        self.wait(lambda: self.all_frozen(service), 15, f"{service} is frozen everywhere")
        self.node(first).hbmgr("unfreeze", service).check()
        self.wait_state(first, service, "STARTED")
        for node in self.nodes:
            if node.name != first:
                node.hbmgr("unfreeze", service).check()
                self.wait_state(node.name, service, "STOPPED")

    def all_frozen(self, service: str) -> bool:
        """Tell whether every node sees a service FROZEN_STOP on every node."""
        return all(set(node.states(service).values()) == {"FROZEN_STOP"} for node in self.nodes)

    # Waiting.

    def wait(self, condition: Callable[[], Answer], deadline_s: float, what: str) -> Answer:
        """Return the condition's answer as soon as it is true; fail, with all logs, if it stays false."""
        deadline = time.monotonic() + deadline_s
        while True:
            answer = condition()
            if answer:
                return answer
            if time.monotonic() > deadline:
                raise LabError(f"not within {deadline_s:g} s: {what}\n{self.report()}")
            time.sleep(POLL_S)

    def wait_state(self, node: str, service: str, state: str, deadline_s: float = 15.0) -> None:
        """Wait until a node's own instance is in a state."""
        place = self.node(node)
        self.wait(lambda: place.state(service) == state, deadline_s, f"{service} is {state} on {node}")

    def hold(self, condition: Callable[[], object], for_s: float, what: str) -> None:
        """Fail, with all logs, if the condition is false at any look during `for_s` seconds."""
        end = time.monotonic() + for_s
        while time.monotonic() < end:
            if not condition():
                raise LabError(f"did not hold: {what}\n{self.report()}")
            time.sleep(POLL_S)

    def report(self) -> str:
        """Return what every node wrote of late: its log, its journal, the services' own log."""
        parts = []
        for node in self.nodes:
            state = "off" if not node.machine.is_on else "paused" if node.machine.paused else "on"
            parts.append(f"--- {node.name} ({state}): log\n{node.tail()}")
            parts.append(f"--- {node.name}: journal\n{node.journal_tail()}")
        parts += ["--- services, by their own log", *(str(span) for span in self.spans()[-20:])]
        return "\n".join(parts)

    # Evidence.

    def spans(self, service: Optional[str] = None, pause_s: Optional[float] = None) -> List[Span]:
        """Return where and when instances lived, by the services' own log."""
        return spans(self.probe_log, service, pause_s)

    def living(self, service: str) -> List[Span]:
        """Return the instances whose process exists and is not paused, however seldom it gets a CPU."""
        newest = {span.node: span for span in self.spans(service)}  # a new boot counts its pids anew
        return [span for span in newest.values() if not span.stopped and goes_on(self.probe_log, span)]

    def overlaps(self, service: Optional[str] = None, pause_s: Optional[float] = None) -> List[Overlap]:
        """Return every pair of instances of one service that ran at once."""
        return overlaps(self.probe_log, service, pause_s)


class Lab(BaseLab):
    """Real nodes, as root. Cables eth1 and eth2 to a switch, and one shared block device.

    Args:
        hangable: the nodes whose way to the disk can be made to hang, at the price of one more
            process each.
    """

    interfaces = ("eth1", "eth2")

    def __init__(
        self, workdir: Path, nodes: Sequence[str] = ("n1", "n2"), hangable: Sequence[str] = ()
    ) -> None:
        self._hangable = hangable
        super().__init__(workdir, nodes)

    def _build(self) -> None:
        self.switch = Switch(Machine("switch", {"PATH": os.environ["PATH"]}), self.interfaces)
        image = self.workdir / "shared-disk.img"
        self.disk = SharedDisk(image, self.workdir / "shared-disk", self._hangable)
        self.switch.boot()
        super()._build()

    def _disk(self) -> Tuple[str, str]:
        return str(self.disk.path), "dio"

    def boot(self, name: str) -> None:
        """Turn a node on: its own /run, /srv and /sys, its cables and its way to the disk included."""
        super().boot(name)
        node = self.node(name)
        for place in ("/run", "/srv"):
            node.run(["mount", "-t", "tmpfs", "tmpfs", place]).check()
        node.run(["mount", "-t", "sysfs", "sysfs", "/sys"]).check()
        node.run(["mount", "--bind", self.disk.device_of(name), str(self.disk.path)]).check()
        self.switch.plug(node.machine, node.number)
        node.unplug = functools.partial(self.switch.unplug, node.machine, node.number)

    def cut(self, name: str, cable: str) -> None:
        """Pull a cable of a node out: nothing passes, either way."""
        node = self.node(name)
        self.switch.cut(node.machine, node.number, cable)

    def heal(self, name: str, cable: str) -> None:
        """Put a cable back."""
        node = self.node(name)
        self.switch.heal(node.machine, node.number, cable)

    def deafen(self, name: str, cable: str, deaf: bool = True) -> None:
        """Cut one direction: the node's beats go out on the cable, the others' do not come in."""
        node = self.node(name)
        self.switch.deafen(node.machine, node.number, cable, deaf)

    def cut_link(self, name: str, link: str) -> None:
        """Cut one of a node's links: a cable by its name, or "disk"."""
        if link == "disk":
            self.disk.fail(name)
        else:
            self.cut(name, link)

    def heal_link(self, name: str, link: str) -> None:
        """Undo `cut_link`."""
        if link == "disk":
            self.disk.mend(name)
        else:
            self.heal(name, link)

    def isolate(self, name: str) -> None:
        """Cut a node off: its cables, and its disk fails."""
        for link in (*self.interfaces, "disk"):
            self.cut_link(name, link)

    def reunite(self, name: str) -> None:
        """Undo `isolate`."""
        for link in (*self.interfaces, "disk"):
            self.heal_link(name, link)

    def close(self) -> None:
        """End the nodes, the switch and the disk."""
        if hasattr(self, "disk"):
            self.disk.resume_all()
        super().close()
        if hasattr(self, "switch"):
            self.switch.machine.kill()
        if hasattr(self, "disk"):
            self.disk.detach()


class LoopbackLab(BaseLab):
    """Nodes as plain processes of the user, on the loopback interface of this machine.

    What it does not show: cut cables, own addresses, a real block device, and a power cut is
    SIGKILL of one process after the other.
    """

    interfaces = ("lo", "lo")
    namespaces = False

    def _disk(self) -> Tuple[str, str]:
        image = self.workdir / "shared-disk.img"
        if not image.exists():
            image.write_bytes(bytes(DISK_BYTES))
        try:
            os.close(os.open(image, os.O_RDONLY | os.O_DIRECT))
        except OSError:  # this file system, such as an older tmpfs, has no direct input and output
            return str(image), "disk"
        return str(image), "dio"

    def _first_port(self) -> int:
        """Return the first of four ports that nobody on this machine uses now."""
        for first in range(FIRST_PORT, FIRST_PORT + 4000, 10):
            attempts = []
            try:
                for port in range(first, first + len(self.nodes) * len(self.interfaces)):
                    attempt = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                    attempts.append(attempt)
                    attempt.bind(("", port))
            except OSError:
                continue
            finally:
                for attempt in attempts:
                    attempt.close()
            return first
        raise LabError("no free ports on this machine")
