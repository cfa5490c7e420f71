"""The whole tutorial of June 2014 with its own services: docker containers, file systems, addresses, sync.

From the services as its readers have them, through OpenHA's configuration and the failover, to the
failback: its command lines in their own words, and what each prints, byte for byte but for ids, dates,
durations, pids and the width at which docker cuts a command. Real engines, real mounts, real addresses,
real rsync over ssh. On the way every command line of docs/docker.md is run, too. What differs from the
text of the tutorial:

- `run_image`: an image's id cannot be chosen, so the words de9a91835513 and b073e328878e stand for ours.
- The timeout of the monitor file is 4 s where the tutorial has 10.
- A logical volume is an image file behind the same name, a volume group the stand-in `lab_lvm`.
- Published ports are taken and not served, so docker's column PORTS is empty.
"""

from __future__ import annotations

import re
import sys
import time
from typing import Dict, List, Tuple

import attach_and_detach
import pytest
from conftest import LABS
from docker_node import FOREVER, write_image
from lab import TREE
from tutorial_bed import ROOT, TutorialLab
from tutorial_replay import EZ, SERVICES, Replay, groups

sys.path.insert(0, str(TREE / "tests"))
from openha_transcript import read_transcript

pytestmark = pytest.mark.lab

TEXT = TREE / "tests/data/tutorial"
GUIDE = TREE / "docs/docker.md"
SESSION = TREE / "tests/data/openha/tutorial/session.txt"
TIMEOUT_S = 4
START_LIMIT_S = 180.0
"""Seven containers and two engines on a loaded machine of two cores."""
CONTAINERS = {
    "registry": {1: "e9828ec4620a"},
    "busybox": {
        1: "c37b83887947",
        2: "a189884f060a",
        3: "fb2513423499",
        4: "3a7e545bced2",
        5: "1b6a3d00661e",
        6: "173a812f4ed5",
        7: "59fca3cd2745",
    },
}
"""Ids of the tutorial's containers, by service and number."""
IMAGES = {
    "registry": ("de9a91835513", "registry:latest", "exec docker-registry"),
    "busybox": ("b073e328878e", "opensvc/busybox:date", FOREVER),
}
"""By service: the id that its file names, the image's name, and what runs in it."""
REGISTRY_PROGRAM = """#!/bin/sh
while trap exit TERM; do date >$STORAGE_PATH/newest; sleep 0.2 & wait; done
"""
COMMAND_WIDTH = 18
"""What both docker of 2014 and that of today show of a command."""
TABLE = ("CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS")
DATE = re.compile(r"\w{3} \w{3} +\d+ \d\d:\d\d:\d\d UTC \d{4}")


class Services(Replay):
    """The tutorial's services on its two servers."""

    def __init__(self, lab: TutorialLab) -> None:
        super().__init__(lab, lab.nodes[0].machine.environment["PATH"])
        self.ours: Dict[str, str] = {}
        """{id in the tutorial: id here}, of images and containers."""
        self.archive = write_image(lab.workdir / "registry.tar", {"docker-registry": REGISTRY_PROGRAM})

    def place(self, node):
        """Return where the node's root directory is: on both nodes the same."""
        return ROOT

    def here(self, node, text):
        """Return a text of the tutorial with the paths and ids of this run."""
        for theirs, ours in self.ours.items():
            text = text.replace(theirs, ours)
        return super().here(node, text).replace("\\n", "\n")

    def shell(self, node, command):
        """Attaching ends when the keys to detach are typed."""
        argv = super().shell(node, command)
        attaches = " docker attach " in command
        return [sys.executable, attach_and_detach.__file__, argv[-1]] if attaches else argv

    def neutral(self, command, output):
        """Return an output without what differs from run to run."""
        for theirs, ours in self.ours.items():
            output = output.replace(theirs, ours)
        if command.startswith("svcmon"):
            rows = [line.split() for line in output.splitlines() if " hosted " in line]
            return "".join(f"{' '.join(words)}\n" for words in rows)
        if command.endswith("docker ps"):
            return containers_shown(output)
        if " docker attach " in command:
            dates = [line for line in output.splitlines() if DATE.fullmatch(line)]
            return "two dates or more\n" if len(dates) >= 2 else output
        if command == "ez_ps" or command.endswith("conf/monitor"):
            output = re.sub(r"(?m)^(.*(heartc|/conf/|net eth|dio /).*) 10$", rf"\1 {TIMEOUT_S}", output)
        if command.startswith(("allupservices", "cp ", "cat >")) or command.endswith("--cluster"):
            return ""  # the tutorial shows no output of these
        return super().neutral(command, output)

    def install(self) -> None:
        """Lay both services out on deb1 as the tutorial's reader has them: up, their copies sent to deb2."""
        deb1, deb2 = self.lab.nodes
        for node in self.lab.nodes:
            node.write("etc/opensvc/node.conf", "[node]\nhost_mode = DEV\n")
        for name in SERVICES:
            self.bring_up(deb1, name)
        for name in SERVICES:
            self.must(deb1, f"{name}.opensvc.com syncnodes --force")
            file = f"etc/opensvc/{name}.opensvc.com.env"
            assert (deb2.root / file).read_text() == (deb1.root / file).read_text()

    def bring_up(self, node, name) -> None:
        """Mount a new service's file systems, make its image in its own engine, and start it."""
        svcname = f"{name}.opensvc.com"
        theirs, image, program = IMAGES[name]
        self.must(node, f"svcmgr -s {svcname} create --config {TEXT}/{svcname}.env")
        self.must(node, f"{svcname} startfs")
        change = f'CMD ["/bin/sh", "-c", "{program}"]'
        made = self.must(node, f"{svcname} docker import --change '{change}' {self.archive} {image}")
        self.ours[theirs] = made.strip().partition(":")[2][:12]
        pairs = [f"--param container#{n}.run_image --value {self.ours[theirs]}" for n in CONTAINERS[name]]
        self.must(node, f"{svcname} set {' '.join(pairs)}")
        self.must(node, f"{svcname} start", START_LIMIT_S)
        shown = self.must(node, f"{svcname} docker ps --format '{{{{.Names}}}} {{{{.ID}}}}'")
        ids = dict(line.split() for line in shown.splitlines())
        for number, container in CONTAINERS[name].items():
            self.ours[container] = ids[f"{svcname}.container.{number}"]

    def guided(self) -> List[Tuple[str, str]]:
        """Return the command lines of the guide, node and words, with this run's files and ids."""
        words = {
            "FILE": f"{TEXT}/registry.opensvc.com.env",
            "registry.tar": str(self.archive),
            "ID": self.ours["de9a91835513"],
        }
        lines = re.findall(r"(?m)^ {4,}(deb[12])# (.+)$", GUIDE.read_text())
        return [
            (host, re.sub(r"FILE|\bregistry\.tar|\bID\b", lambda m: words[m[0]], line))
            for host, line in lines
        ]


def containers_shown(output: str) -> str:
    """Return the rows of `docker ps` without dates and ports; containers made at once are sorted."""
    head, *lines = output.splitlines()
    assert head.split() == [*TABLE, "NAMES"], output
    columns = {name: head.index(name) for name in TABLE}
    rows: List[str] = []
    for line in lines:
        command = line[columns["COMMAND"] : columns["CREATED"]].strip('" \n')[:COMMAND_WIDTH]
        is_up = line[columns["STATUS"] :].startswith("Up ")
        parts = (line[: columns["COMMAND"]].split(), command, "Up" if is_up else line, line.split()[-1])
        rows.append(f"{' '.join(parts[0])} {parts[1]} {parts[2]} {parts[3]}")
    parallel = [row for row in rows if row[-1] in "2345" and "busybox" in row]
    order = [row[-1] for row in rows if row not in parallel]
    assert order == sorted(order, reverse=True), output
    return "".join(f"{row}\n" for row in sorted(rows))


@pytest.fixture
def servers(workdir, needs_root, request):
    """The tutorial's two servers, booted, without its services."""
    with TutorialLab(workdir) as made:
        request.node.stash[LABS] = made
        yield made


def test_the_tutorial_from_its_services_to_its_failback(servers):
    """Two docker services get a cluster; deb1 loses its power, deb2 has every container; deb1 comes back."""
    replay = Services(servers)
    deb1, deb2 = servers.nodes
    began = time.monotonic()

    def tell(what):
        print(f"{time.monotonic() - began:6.1f} s  {what}")

    replay.install()
    tell("both services are up, their configuration is on both nodes")
    for group in groups(read_transcript(TEXT / "services.txt")):
        replay.play(group)
    for name in SERVICES:
        file = f"etc/opensvc/{name}.opensvc.com.env"
        assert (deb2.root / file).read_text() == (deb1.root / file).read_text()
    tell("the files name the cluster, and both services are stopped")

    for node in servers.nodes:
        node.write("etc/opensvc/hb/nodes", (TEXT / "nodes").read_text())
        monitor = re.sub(r"(?m) 10$", f" {TIMEOUT_S}", (TEXT / "monitor").read_text())
        node.write("etc/opensvc/hb/monitor", monitor)
        node.hbmgr("compat", "install").check()
        assert (node.root / EZ[1:] / "env.sh").exists()
    replay.must(deb1, "hbmgr keygen")
    replay.must(deb1, "scp -p hb/key deb2.opensvc.com:/etc/opensvc/hb/")
    replay.must(deb1, "hbmgr check")

    steps = groups(read_transcript(SESSION))
    halt = next(at for at, group in enumerate(steps) if "; ez_hb" in group[0].command)
    for group in steps[:halt]:
        replay.play(group, START_LIMIT_S)
    tell("registry and busybox were started by the cluster")
    before, *samples = steps[halt]
    replay.play([before])
    deb1.kill()
    halted = time.monotonic()
    replay.play(samples, TIMEOUT_S + START_LIMIT_S)
    tell(f"deb2 has both, {time.monotonic() - halted:.1f} s after deb1 lost its power")
    for group in steps[halt + 1 : halt + 3]:
        replay.play(group)
    newest = "/opt/registry.opensvc.com/registrydata/newest"
    first = deb2.run(["cat", newest]).check().out
    servers.wait(lambda: deb2.run(["cat", newest]).out not in ("", first), 15, "the registry writes its data")

    servers.boot(deb1.name)
    replay.must(deb1, "$EZ/ezha start")
    for group in steps[halt + 3 :]:
        replay.play(group)
    tell("deb1 is back, and holds nothing")

    replay.must(deb2, "hbmgr switch registry")
    servers.wait(lambda: deb1.state("registry") == "STARTED", START_LIMIT_S, "deb1 has registry again")
    for node in servers.nodes:
        replay.must(node, "svcmon --service=registry.opensvc.com")
        replay.must(node, "hbmgr status")
    replay.must(deb1, "hbmgr freeze-start registry")
    replay.must(deb1, "hbmgr unfreeze registry")
    replay.must(deb2, "hbmgr freeze-stop registry")
    replay.must(deb2, "hbmgr unfreeze registry")
    tell("deb1 has registry again")
    assert not [line for line in replay.guided() if line not in replay.typed]
