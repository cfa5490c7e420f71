"""Docker containers on a real engine: its life with the service, its death, and what it leaves.

The data of the service's daemon are on an ext4 image that both nodes see, mounted by the service
itself, as in real life: what the daemon or a container still held would keep it mounted.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from docker_node import FOREVER, DockerNodes, write_image

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

SVC = "web"
IMAGE = "opensvc/busybox:date"


class Site:
    """A service with containers on two nodes, and a shared image file under its data."""

    def __init__(self, lab, docker) -> None:
        self.lab = lab
        self.docker = docker
        self.disk = lab.workdir / "data.img"
        self.data = lab.workdir / "data"
        with self.disk.open("wb") as file:
            file.truncate(128 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(self.disk)], check=True)
        self.archive = write_image(lab.workdir / "image.tar", {"work": f"#!/bin/sh\n{FOREVER}\n"})
        for node in lab.nodes:
            docker.prepare(node)
            # the system's own containerd, for all that a daemon can tell: none of ours may take it
            node.run(["mkdir", "/run/containerd"]).check()
            node.run(["touch", "/run/containerd/containerd.sock"]).check()
            node.write(f"etc/opensvc/{SVC}.env", self.text())

    def text(self) -> str:
        """The service's file: one container first, then two at once."""
        return f"""[DEFAULT]
service_type = DEV
nodes = n1 n2
docker_data_dir = {self.data}
docker_daemon_args = --ip 127.0.0.1

[fs#1]
type = ext4
dev = {self.disk}
mnt = {self.data}

[container#1]
type = docker
run_image = {IMAGE}
subset = 00database

[container#2]
type = docker
run_image = {IMAGE}
run_args = -e COLOUR=green --net=host
run_command = work
subset = 01servers

[container#3]
type = docker
run_image = {IMAGE}
subset = 01servers

[subset#container.docker:01servers]
parallel = true
"""

    def bring_image(self, node) -> None:
        """Mount the data and import the image into them, as whoever sets a service up does."""
        node.svcmgr("-s", SVC, "startfs").check()
        importing = ["docker", "import", "-c", 'CMD ["/bin/work"]', str(self.archive), IMAGE]
        node.svcmgr("-s", SVC, *importing).check()

    def docker_on(self, node, *words):
        return node.svcmgr("-s", SVC, "docker", *words)

    def processes(self, node) -> dict:
        """Return {name: [pid]} of what of docker runs on a node, containers' own work included."""
        script = (
            "import json, os\n"
            "found = {}\n"
            "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
            "    try: words = open(f'/proc/{pid}/cmdline').read().split('\\0')\n"
            "    except OSError: continue\n"
            "    for name in ('dockerd', 'containerd', 'containerd-shim-runc-v2', 'work'):\n"
            "        if any(word.rpartition('/')[2] == name for word in words[:2]):\n"
            "            found.setdefault(name, []).append(int(pid))\n"
            "print(json.dumps(found))\n"
        )
        return json.loads(node.run([sys.executable, "-I", "-c", script]).check().out)

    def mounts(self, node) -> list:
        """Return the mount points below the data, and of the engine, on a node."""
        points = [line.split()[4] for line in node.run(["cat", "/proc/self/mountinfo"]).out.splitlines()]
        return [point for point in points if str(self.data) in point or f"{SVC}.docker" in point]

    def expect_nothing(self, node) -> None:
        """Nothing of the service is left on a node: the other may have it."""
        assert self.processes(node) == {}
        assert self.mounts(node) == []
        assert list((node.root / f"var/lib/opensvc/{SVC}").iterdir()) == []
        assert not (node.root / f"run/opensvc/{SVC}.docker").exists()

    def statuses(self, node) -> dict:
        resources = node.svcmgr("-s", SVC, "print", "status", "--format", "json").json()[SVC]["resources"]
        return {rid: (each["status"], each["log"]) for rid, each in resources.items()}


@pytest.fixture
def site(lab):
    """Two nodes whose engines' control groups are removed when the nodes are off."""
    docker = DockerNodes(lab)
    try:
        yield Site(lab, docker)
    finally:
        for node in lab.nodes:
            node.kill()
        docker.close()


def texts(result) -> list:
    """The lines of a command's log without time and level, of containers alone."""
    found = []
    for line in result.err.splitlines():
        _, _, behind = line.partition("WEB.CONTAINER")
        if behind:
            found.append("CONTAINER" + " ".join(behind.split()))
    return found


def test_a_service_with_its_own_daemon_starts_stops_and_leaves_nothing(site):
    """Daemon first, then sets in order; again, nothing happens; behind the last container all is gone."""
    node = site.lab.node("n1")
    refused = site.docker_on(node, "ps")
    assert "the docker daemon data dir is handled by the fs#1 resource in down state." in refused.err
    assert refused.status == 1
    site.bring_image(node)
    started = node.svcmgr("-s", SVC, "start").check()
    sock = f"unix://{node.root}/var/lib/opensvc/{SVC}/docker.sock"
    assert (
        f"CONTAINER.DOCKER:00DATABASE#1 docker -H {sock} create -t -i --name={SVC}.container.1 {IMAGE}"
        in texts(started)
    )
    assert any(
        line.endswith(f"--name={SVC}.container.2 --env=COLOUR=green --net=host {IMAGE} work")
        for line in texts(started)
    )
    assert "CONTAINER.DOCKER:01SERVERS#3 wait for container operational" in texts(started)
    tree = node.svcmgr("-s", SVC, "print", "status").check().out
    assert tree.count("@opensvc/busybox:date\n") == 3
    assert all(
        status == "up" for rid, (status, _) in site.statuses(node).items() if not rid.startswith("sync")
    )
    again = node.svcmgr("-s", SVC, "start").check()
    assert sum("already started on n1" in line for line in texts(again)) == 3
    assert site.docker_on(node, "exec", f"{SVC}.container.2", "sh", "-c", "exit 7").status == 7
    names = site.docker_on(node, "ps", "--format", "{{.Names}}").check().out.split()
    assert sorted(names) == [f"{SVC}.container.{number}" for number in (1, 2, 3)]
    stopped = node.svcmgr("-s", SVC, "stop").check()
    assert texts(stopped)[-1].endswith("no more container handled by docker daemon. shut it down")
    assert "is held by" not in stopped.err, "the unmount has nobody to end"
    site.expect_nothing(node)
    once_more = node.svcmgr("-s", SVC, "stop").check()
    assert f"CONTAINER.DOCKER:00DATABASE#1 container {IMAGE} already stopped" in texts(once_more)
    # Started a second time the daemon is started by it, and the containers are those of before.
    second = node.svcmgr("-s", SVC, "start").check()
    assert any(line.endswith("starting docker daemon") for line in texts(second))
    assert not any(" create " in line for line in texts(second))


def test_containers_outlive_a_killed_daemon_and_are_found(site):
    """Their daemon killed, they are no "down": a status warns, a start begins anew, a stop ends them."""
    node = site.lab.node("n1")
    site.bring_image(node)
    node.svcmgr("-s", SVC, "start").check()
    (daemon,) = site.processes(node)["dockerd"]
    (watcher,) = site.processes(node)["containerd"]
    before = site.processes(node)["work"]
    node.machine.signal(watcher, signal.SIGKILL)
    site.lab.wait(lambda: "containerd" not in site.processes(node), 10, "containerd is gone")
    assert "containerd of the docker daemon has ended" in site.statuses(node)["container#1"][1]
    node.svcmgr("-s", SVC, "start").check()
    assert site.statuses(node)["container#1"] == ("up", "")
    assert site.processes(node)["work"] == before
    node.machine.signal(daemon, signal.SIGKILL)
    site.lab.wait(lambda: "dockerd" not in site.processes(node), 10, "dockerd is gone")
    assert site.processes(node)["work"] == before, "without live-restore, too, containers go on"
    status, log = site.statuses(node)["container#1"]
    assert status == "warn"
    assert "docker daemon is not running" in log
    assert "what it ran goes on without it" in log
    again = node.svcmgr("-s", SVC, "start").check()
    assert any("left by a docker daemon that is gone, and killed now" in line for line in texts(again))
    assert not set(before) & set(site.processes(node)["work"])
    assert site.statuses(node)["container#3"][0] == "up"
    (daemon,) = site.processes(node)["dockerd"]
    node.machine.signal(daemon, signal.SIGKILL)
    site.lab.wait(lambda: "dockerd" not in site.processes(node), 10, "dockerd is gone")
    node.svcmgr("-s", SVC, "stop").check()
    site.expect_nothing(node)


def test_the_other_node_takes_over_data_in_which_containers_run(site):
    """After a power cut they are marked running in the data; a pid file of before names a stranger."""
    first, second = site.lab.nodes
    site.bring_image(first)
    first.svcmgr("-s", SVC, "start").check()
    first.kill()
    stranger = second.spawn(["sleep", "600"])
    second.write(f"var/lib/opensvc/{SVC}/docker.pid", f"{stranger.pid}")
    started = second.svcmgr("-s", SVC, "start").check()
    assert not any(" create " in line for line in texts(started))
    statuses = site.statuses(second)
    assert {statuses[f"container#{number}"][0] for number in (1, 2, 3)} == {"up"}
    assert stranger.running
    second.svcmgr("-s", SVC, "stop").check()
    site.expect_nothing(second)


def test_a_container_that_would_start_by_itself_is_reported(site):
    """A restart policy, of our container or a stranger's, is a warning; strangers end with the daemon."""
    node = site.lab.node("n1")
    site.bring_image(node)
    node.svcmgr("-s", SVC, "start").check()
    site.docker_on(node, "update", "--restart=always", f"{SVC}.container.2").check()
    site.docker_on(node, "run", "-d", "--restart=unless-stopped", "--name=mine", IMAGE).check()
    statuses = site.statuses(node)
    assert statuses["container#1"][0] == "warn"
    assert "container mine has restart policy unless-stopped" in statuses["container#1"][1]
    assert statuses["container#2"][0] == "warn"
    assert f"run: svcmgr -s {SVC} docker update --restart=no {SVC}.container.2" in statuses["container#2"][1]
    assert statuses["container#3"] == ("up", "")
    stopped = node.svcmgr("-s", SVC, "stop").check()
    assert any("of no resource of this service end, too: mine" in line for line in texts(stopped))
    site.expect_nothing(node)


def test_a_start_that_fails_leaves_no_daemon_on_the_data(site):
    """The rollback can unmount: a daemon that only the failed start needed has ended before."""
    node = site.lab.node("n1")
    site.bring_image(node)
    node.svcmgr("-s", SVC, "stop").check()
    node.write(f"etc/opensvc/{SVC}.env", site.text().replace("run_command = work", "run_command = nosuch"))
    failed = node.svcmgr("-s", SVC, "start")
    assert failed.status == 1
    assert any("nosuch" in line for line in texts(failed))
    assert "trying to rollback start on fs#1, container#1" in failed.err
    site.expect_nothing(node)


FIND = """
import json, sys
from pathlib import Path
from opensvc_hb.daemon.guardian_processes import ServiceProcesses
top = Path(sys.argv[1])
lock, runtime = str(top / "var/lib/opensvc/lock"), str(top / "run/opensvc")
processes = ServiceProcesses(str(top), lock, False, runtime=runtime)
members = getattr(processes, sys.argv[2])(frozenset(["web"])).get("web", ())
print(json.dumps(sorted({member.process.name for member in members})))
"""


def test_the_guardian_finds_and_ends_every_process_of_the_containers(site):
    """Daemon, containerd, shims and what runs in containers, also one whose shim was killed."""
    node = site.lab.node("n1")
    site.bring_image(node)
    node.svcmgr("-s", SVC, "start").check()

    def guardian(verb):
        return node.run([sys.executable, "-c", FIND, str(node.root), verb]).json()

    assert {"dockerd", "containerd", "containerd-shim", "work"} <= set(guardian("find"))
    for name in ("dockerd", "containerd", "containerd-shim-runc-v2"):
        for pid in site.processes(node).get(name, ()):
            node.machine.signal(pid, signal.SIGKILL)
    site.lab.wait(lambda: set(site.processes(node)) == {"work"}, 10, "only the containers' work is left")
    assert "work" in guardian("find"), "neither its parent nor its environment tells whose it is"
    guardian("end")
    site.lab.wait(lambda: site.processes(node) == {}, 10, "all of it is dead")
    node.svcmgr("-s", SVC, "stop").check()
    site.expect_nothing(node)
