"""The tutorial of June 2014, its cluster of two nodes, replayed with its own command lines and monitor file.

The services' containers and volume group are an app here, and what shows them is not compared:
`test_tutorial_services` does that. Here the app's own log shows that no two instances ran at once.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from conftest import LABS
from lab import TREE, Lab
from lab_config import ProbeService
from lease_scene import now
from tutorial_replay import DISK, EZ, NODES, SERVICES, Replay, groups

sys.path.insert(0, str(TREE / "tests"))
from openha_transcript import read_transcript, states_in

pytestmark = pytest.mark.lab

SESSION = TREE / "tests/data/openha/tutorial/session.txt"
TIMEOUT_S = 10.0
DISTINCT = ("overall", "avail", "sync", "sync#i0", "hb", "hb#0")
"""Lines of a tree that do not depend on what the service is made of."""


class Cluster(Replay):
    """The tutorial's two nodes, in directories of the lab, with probe services."""

    def __init__(self, lab):
        super().__init__(lab, "")
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
        return super().here(node, text).replace(DISK, str(self.lab.disk.path))

    def told(self, node, text):
        """Return a text of a node with the paths of the tutorial."""
        return super().told(node, text.replace(str(self.lab.disk.path), DISK))

    def shell(self, node, command):
        """Return the program that runs a command line in the tutorial's setting."""
        self.path = f"{node.root}/etc/opensvc:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
        return super().shell(node, command)

    def neutral(self, command, output):
        """Return an output without what differs from run to run, and what the services are made of."""
        if command.startswith("svcmon"):
            return "\n".join(row(line) for line in output.splitlines() if " hosted " in line)
        if command.endswith("print status"):
            lines = [line.strip(" |-'").split() for line in output.splitlines()]
            return "\n".join(" ".join(words) for words in lines if {*words[:2]} & {*DISTINCT})
        return super().neutral(command, output)


def row(line):
    """Return a row of svcmon without its columns container, disk and app: other things are behind them."""
    name, kind, mode, _container, ip, _disk, fs, share, _app, *rest = line.split()
    return " ".join((name, kind, mode, ip, fs, share, *rest))


@pytest.fixture
def debs(workdir, needs_root, request):
    """The tutorial's two nodes, booted."""
    with Lab(workdir, nodes=NODES) as made:
        request.node.stash[LABS] = made
        yield made


def test_the_tutorial_from_its_configuration_to_its_failback(debs):
    """Two services are made, started, unfrozen; deb1 is halted, deb2 takes both; deb1 comes back."""
    entries = [entry for entry in read_transcript(SESSION) if " docker " not in entry.command]
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
        cluster.play(group)
    before, *samples = steps[halt]
    cluster.play([before])
    deb1.kill()
    halted_at = now()
    took = {}
    seen = cluster.play(samples, 2 * TIMEOUT_S)
    for name in SERVICES:
        span = debs.spans(f"{name}.opensvc.com")[-1]
        assert span.node == deb2.name
        took[name] = span.began - halted_at
    print("from the halt to the process on deb2:", {name: round(s, 2) for name, s in took.items()})
    print("snapshots of deb2 meanwhile:", [states_in(output)["busybox"][1::2] for output in seen])
    assert TIMEOUT_S - 1.0 < took["registry"] < TIMEOUT_S + 5.0
    cluster.play(steps[halt + 1])

    debs.boot(deb1.name)
    cluster.name_hosts(deb1)
    cluster.must(deb1, "$EZ/ezha start")
    for group in steps[halt + 2 :]:
        cluster.play(group)
    assert len(debs.spans()) == 4, debs.report()
    assert not debs.overlaps()
