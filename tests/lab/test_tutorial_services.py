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
from typing import List, Tuple

import attach_and_detach
import pytest
from conftest import LABS
from docker_node import write_image
from lab import TREE
from tutorial_bed import ROOT, TutorialLab
from tutorial_replay import EZ, groups
from tutorial_services import REGISTRY_PROGRAM, START_LIMIT_S, TEXT, Services

sys.path.insert(0, str(TREE / "tests"))
from openha_transcript import read_transcript

pytestmark = pytest.mark.lab

GUIDE = TREE / "docs/docker.md"
SESSION = TREE / "tests/data/openha/tutorial/session.txt"
TIMEOUT_S = 4


class LabServices(Services):
    """The same on two nodes of the lab."""

    def __init__(self, lab: TutorialLab) -> None:
        archive = write_image(lab.workdir / "registry.tar", {"docker-registry": REGISTRY_PROGRAM})
        super().__init__(lab, lab.nodes[0].machine.environment["PATH"], str(TEXT), str(archive), TIMEOUT_S)

    def place(self, node):
        """Return where the node's root directory is: on both nodes the same."""
        return ROOT

    def shell(self, node, command):
        """Attaching ends when the keys to detach are typed."""
        argv = super().shell(node, command)
        attaches = " docker attach " in command
        return [sys.executable, attach_and_detach.__file__, argv[-1]] if attaches else argv

    def guided(self) -> List[Tuple[str, str]]:
        """Return the command lines of the guide, node and words, with this run's files and ids."""
        words = {
            "FILE": f"{self.texts}/registry.opensvc.com.env",
            "registry.tar": self.archive,
            "ID": self.ours["de9a91835513"],
        }
        lines = re.findall(r"(?m)^ {4,}(deb[12])# (.+)$", GUIDE.read_text())
        return [
            (host, re.sub(r"FILE|\bregistry\.tar|\bID\b", lambda m: words[m[0]], line))
            for host, line in lines
        ]


@pytest.fixture
def servers(workdir, needs_root, request):
    """The tutorial's two servers, booted, without its services."""
    with TutorialLab(workdir) as made:
        request.node.stash[LABS] = made
        yield made


def test_the_tutorial_from_its_services_to_its_failback(servers):
    """Two docker services get a cluster; deb1 loses its power, deb2 has every container; deb1 comes back."""
    replay = LabServices(servers)
    deb1, deb2 = servers.nodes
    began = time.monotonic()

    def tell(what):
        print(f"{time.monotonic() - began:6.1f} s  {what}")

    replay.install()
    tell("both services are up, their configuration is on both nodes")
    for group in groups(read_transcript(TEXT / "services.txt")):
        replay.play(group)
    replay.check_copies()
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
