"""The tutorial of June 2014, its cluster of two nodes, replayed with its own command lines and monitor file.

Each output is compared, but for pids, dates and what `ps` measures. Snapshots of START_READY and
STARTING come in their order or not at all: a native pair offers for milliseconds where OpenHA waits
five seconds. The services' containers and volume group are an app here, and not compared.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
from pathlib import Path

import pytest
from conftest import LABS
from lab import TREE, Lab
from lab_config import ProbeService
from lease_scene import now

sys.path.insert(0, str(TREE / "tests"))
from openha_transcript import read_transcript, states_in

pytestmark = pytest.mark.lab

SESSION = TREE / "tests/data/openha/tutorial/session.txt"
NODES = ("deb1.opensvc.com", "deb2.opensvc.com")
SERVICES = ("registry", "busybox")
EZ = "/usr/local/cluster"
DISK = "/dev/mapper/disk.hb.0"
TIMEOUT_S = 10.0
ORDER = ("FROZEN_STOP", "STOPPED", "START_READY", "STARTING", "STARTED")
IN_A_TERMINAL = (
    "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(['/bin/sh', '-c', sys.argv[1]])))"
)
DISTINCT = ("overall", "avail", "sync", "sync#i0", "hb", "hb#0")
"""Lines of a tree that do not depend on what the service is made of."""


class Cluster:
    """The tutorial's two nodes, in directories of the lab; outputs are told with the tutorial's paths."""

    def __init__(self, lab):
        self.lab = lab
        self.path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        lab.node(NODES[0]).hbmgr("keygen").check()
        key = (lab.nodes[0].root / "etc/opensvc/hb/key").read_text()
        for node in lab.nodes:
            node.write("etc/opensvc/hb/key", key, mode=0o600)
            self.name_hosts(node)
        for number, name in enumerate(SERVICES):
            self.add_service(name, number)

    def name_hosts(self, node):
        """Let the nodes' names resolve on a node that has just booted."""
        hosts = "".join(f"10.101.0.{other.number} {other.name}\n" for other in self.lab.nodes)
        node.write("hosts", f"127.0.0.1 localhost\n{hosts}")
        node.run(["mount", "--bind", str(node.root / "hosts"), "/etc/hosts"]).check()

    def add_service(self, name, number):
        """Write the agent's file of a service and its links, as its section of the tutorial leaves them."""
        svcname = f"{name}.opensvc.com"
        probe = ProbeService(
            svcname,
            nodes=NODES,
            start_takes_s=1.5 if name == "busybox" else 0.0,
            fs_image=str(self.lab.workdir / f"{name}.img"),
            fs_mount=f"/srv/{name}",
            address=f"10.101.0.{24 + number}",
        )
        self.lab.add_service(probe)
        stamp = time.strftime("%Y-%m-%d %H:%M:%S.000000", time.localtime())
        for node in self.lab.nodes:
            path = node.root / f"etc/opensvc/{svcname}.env"
            path.write_text(path.read_text() + f"name = {name}\n")
            for link in (svcname, f"{svcname}.cluster"):
                (node.root / "etc/opensvc" / link).symlink_to(Path(sys.executable).parent / "svcmgr")
            for other in NODES:  # what `syncnodes` leaves on both sides
                node.write(f"var/lib/opensvc/sync/{other}/{svcname}!sync#i0", stamp)

    def here(self, node, text):
        """Return a text of the tutorial with the paths of a node."""
        for place in (EZ, "/etc/opensvc"):
            text = text.replace(place, f"{node.root}{place}")
        return text.replace(DISK, str(self.lab.disk.path))

    def run(self, node, command):
        """Run a command line in the cluster's environment; return its output in the tutorial's words."""
        root = shlex.quote(str(node.root))
        setting = f"export PATH={root}/etc/opensvc:{self.path} EZ={root}{EZ}; . $EZ/env.sh; "
        whole = setting + self.here(node, command)
        in_terminal = "$EZ_BIN/service" in command
        shell = [sys.executable, "-c", IN_A_TERMINAL, whole] if in_terminal else ["/bin/sh", "-c", whole]
        ended = node.run(shell)
        assert ended.status == 0, f"{command}\n{ended.out}{ended.err}"
        said = (ended.out + ended.err).replace("\r\n", "\n")
        return said.replace(str(self.lab.disk.path), DISK).replace(str(node.root), "")


def neutral(command, output):
    """Return an output without what differs from run to run."""
    if command == "ez_ps":
        output = re.sub(r"(?m)^root +\d+ .*? (/usr/local/\S+/bin/.*)$", r"root \1", output)
    if command.startswith("svcmon"):
        return "\n".join(row(line) for line in output.splitlines() if " hosted " in line)
    if command.endswith("print status"):
        lines = [line.strip(" |-'").split() for line in output.splitlines()]
        return "\n".join(" ".join(words) for words in lines if {*words[:2]} & {*DISTINCT})
    output = re.sub(r" pid \d+ ", " pid N ", output)
    return re.sub(r"updated at \w+ +\d+ [\d:]+", "updated at WHEN", output)


def row(line):
    """Return a row of svcmon without its columns container, disk and app: other things are behind them."""
    name, kind, mode, _container, ip, _disk, fs, share, _app, *rest = line.split()
    return " ".join((name, kind, mode, ip, fs, share, *rest))


def groups(entries):
    """Return the entries in groups: snapshots by one command on one node are told in one go."""
    found = []
    for entry in entries:
        before = found[-1][-1] if found else None
        if before and (before.host, before.command) == (entry.host, entry.command):
            found[-1].append(entry)
        else:
            found.append([entry])
    return found


def in_order(seen):
    """Tell whether no service went back in what was seen of one node after the other."""
    for name in SERVICES:
        series = [states_in(output)[name] for output in seen]
        silent = [state == "UNKNOWN" for _, state, _, _ in series]
        if silent != sorted(silent):
            return False
        for place in (1, 3):
            ranks = [ORDER.index(states[place]) for states in series if states[place] in ORDER]
            if ranks != sorted(ranks):
                return False
    return True


def replay(cluster, group, limit_s=20.0):
    """Run a command until it prints the last output of a group; what it prints before is in its order."""
    node = next(node for node in cluster.lab.nodes if node.name.startswith(group[0].host))
    command, expected = group[0].command, neutral(group[0].command, group[-1].output)
    seen = []
    deadline = time.monotonic() + limit_s
    once = "service -a" in command or "service -A" in command or "ezha" in command
    while True:
        said = cluster.run(node, command)
        if not seen or seen[-1] != said:
            seen.append(said)
        if neutral(command, said) == expected:
            break
        if once or time.monotonic() > deadline:
            assert neutral(command, said) == expected, cluster.lab.report()
    if "ez_svc_status" in command:
        assert in_order(seen), "\n".join(seen)
    return seen


@pytest.fixture
def debs(workdir, needs_root, request):
    """The tutorial's two nodes, booted."""
    with Lab(workdir, nodes=NODES) as made:
        request.node.stash[LABS] = made
        yield made


def test_the_tutorial_from_its_configuration_to_its_failback(debs):
    """Two services are made, started, unfrozen; deb1 is halted, deb2 takes both; deb1 comes back."""
    entries = read_transcript(SESSION)
    cluster = Cluster(debs)
    deb1, deb2 = debs.nodes
    files = {entry.command.rpartition("/")[2]: entry.output for entry in entries[:2]}
    for node in debs.nodes:
        for name in ("nodes", "monitor"):
            node.write(f"etc/opensvc/hb/{name}", cluster.here(node, files[name]))
        node.hbmgr("compat", "install").check()
        shown = sorted(path.name for path in (node.root / EZ[1:]).iterdir())
        assert {"bin", "conf", "doc", "env.sh", "ezha.init", "log", "services"} <= set(shown)

    steps = groups(entries)
    halt = next(at for at, group in enumerate(steps) if "; ez_hb" in group[0].command)
    for group in steps[:halt]:
        replay(cluster, group)
    before, *samples = steps[halt]
    replay(cluster, [before])
    deb1.kill()
    halted_at = now()
    took = {}
    seen = replay(cluster, samples, 2 * TIMEOUT_S)
    for name in SERVICES:
        span = debs.spans(f"{name}.opensvc.com")[-1]
        assert span.node == deb2.name
        took[name] = span.began - halted_at
    print("from the halt to the process on deb2:", {name: round(s, 2) for name, s in took.items()})
    print("snapshots of deb2 meanwhile:", [states_in(output)["busybox"][1::2] for output in seen])
    assert TIMEOUT_S - 1.0 < took["registry"] < TIMEOUT_S + 5.0
    replay(cluster, steps[halt + 1])

    debs.boot(deb1.name)
    cluster.name_hosts(deb1)
    cluster.run(deb1, "$EZ/ezha start")
    for group in steps[halt + 2 :]:
        replay(cluster, group)
    assert len(debs.spans()) == 4, debs.report()
    assert not debs.overlaps()
