"""Docker services as a user sees them: the tree, `SVC docker`, refusals of a service's file."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from agent_site import Site
from fake_engine import FakeContainer, FakeEngine, SilentEngine, short_directory

from opensvc_hb.agent import frozen
from opensvc_hb.cli.docker_passthrough import handlers
from opensvc_hb.cli.svcmgr_options import read_command_line

REPOSITORY = Path(__file__).resolve().parents[2]
SVC = "busybox.opensvc.com"
IMAGE = "c03c8902fb7a"

CONFIGURATION = f"""[DEFAULT]
app = OSVCLAB
service_type = DEV
nodes = n1
docker_data_dir = /nowhere/appdata
docker_daemon_args = --ip 37.59.71.24
docker_exe = CLIENT
dockerd_exe = CLIENT

[container#1]
type = docker
run_image = {IMAGE}
subset = 00database

[container#2]
type = docker
run_image = {IMAGE}
subset = 01appservers

[container#3]
type = docker
run_image = {IMAGE}
subset = 01appservers

[subset#container.docker:01appservers]
parallel = true
"""

DOWN = """busybox.opensvc.com
overall                   down     
|- avail                  down     
|  |- container#1    .... down     c03c8902fb7a
|  |  |                            # docker daemon is not running
|  |- container#2    .... down     c03c8902fb7a
|  |  |                            # docker daemon is not running
|  '- container#3    .... down     c03c8902fb7a
|                                  # docker daemon is not running
|- sync                   n/a      
'- hb                     n/a      
"""  # noqa: W291  # the blanks at the ends of lines are part of what is printed

UP = """busybox.opensvc.com
overall                   warn     
|- avail                  warn     
|  |- container#1    .... up       4ce254331de8@opensvc/busybox:date
|  |- container#2    .... up       61b3b6a17e9a@opensvc/busybox:date
|  '- container#3    .... down     178399d8935a@opensvc/busybox:date
|- sync                   n/a      
'- hb                     n/a      
"""  # noqa: W291  # the blanks at the ends of lines are part of what is printed

SILENT = """|  |- container#1    .... warn     c03c8902fb7a
|  |  |                            # docker daemon does not answer within 10 s
"""

CLIENT = """#!/bin/sh
echo "client of $OPENSVC_HB_SERVICE: $*"
cat
exit 7
"""


class DockerSite(Site):
    """A node with the service, a stand-in for docker's client, and room for a socket's path."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.client = top / "client"
        self.client.write_text(CLIENT)
        self.client.chmod(0o755)
        self.socket = self.root.var / SVC / "docker.sock"
        self.service(SVC, CONFIGURATION.replace("CLIENT", str(self.client)))

    def svcmgr(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess:
        environment = {
            **os.environ,
            "OSVC_ROOT": str(self.top),
            "OSVC_NODENAME": self.node,
            "PYTHONPATH": str(REPOSITORY),
        }
        return subprocess.run(
            [sys.executable, "-m", "opensvc_hb.cli.svcmgr", *arguments],
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def listening(self, svcname: str = SVC):
        """A daemon with its containerd; `close` ends both."""
        engine = FakeEngine(self.root.var / svcname / "docker.sock")
        containerd = SilentEngine(self.root.run / f"{svcname}.docker/containerd/containerd.sock")
        end = contextlib.ExitStack()
        end.callback(engine.close)
        end.callback(containerd.close)
        return end

    def passed_on(self, *arguments: str) -> int:
        """Run the action in this process; what would become of it is kept in `became`."""
        self.became = []
        line = read_command_line(arguments)
        act = handlers(self.loader, line, become=lambda *words: self.became.append(words))
        return act["docker"](SVC)


@pytest.fixture
def site():
    with short_directory() as top:
        yield DockerSite(top)


def container(number, digits, state="running"):
    made = FakeContainer(f"{SVC}.container.{number}", number, state=state)
    made.id = digits.ljust(64, "0")
    made.image_digits = IMAGE.ljust(64, "0")
    return made


# -- the tree ----------------------------------------------------------------------------


def test_the_tree_of_a_service_whose_daemon_does_not_run(site):
    """Bare image ids, and under each container the reason."""
    assert site.svcmgr("-s", SVC, "print", "status").stdout == DOWN


def test_the_tree_of_a_service_whose_daemon_runs(site):
    """Ids of containers, the image's tag; a container that is down says nothing."""
    engine = FakeEngine(
        site.socket,
        [
            container(1, "4ce254331de8"),
            container(2, "61b3b6a17e9a"),
            container(3, "178399d8935a", state="exited"),
        ],
    )
    engine.image_ids = [IMAGE.ljust(64, "0")]
    containerd = SilentEngine(site.root.run / f"{SVC}.docker/containerd/containerd.sock")
    try:
        done = site.svcmgr("-s", SVC, "print", "status")
    finally:
        engine.close()
        containerd.close()
    assert (done.stdout, done.stderr) == (UP, "")


@pytest.mark.slow
def test_the_tree_of_a_service_whose_daemon_hangs(site):
    """A warning after one time out for all, and no "down"."""
    silent = SilentEngine(site.socket)
    try:
        done = site.svcmgr("-s", SVC, "print", "status")
    finally:
        silent.close()
    assert SILENT in done.stdout
    assert done.stdout.count("docker daemon does not answer") == 3


def test_a_service_without_a_running_daemon_costs_no_docker_library(site):
    """Commands on a node where nothing runs, and on services without containers, do not import it."""
    code = (
        "import sys; from opensvc_hb.cli.svcmgr import main; "
        f"main(['-s', '{SVC}', 'print', 'status']); main(['-s', '{SVC}', 'validate', 'config']); "
        "assert 'docker' not in sys.modules and 'requests' not in sys.modules"
    )
    environment = {**os.environ, "OSVC_ROOT": str(site.top), "OSVC_NODENAME": "n1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# -- the file ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            f"run_image = {IMAGE}\nsubset = 00database",
            "",
            "container#1.run_image: 'run_image' parameter is mandatory in section container#1",
        ),
        (
            "subset = 00database",
            "run_args = -v /a:/b --nosuch 1",
            "container#1.run_args: docker run has no option --nosuch",
        ),
        ("subset = 00database", "run_args = --name x", "option --name: the agent names the container"),
        ("/nowhere/appdata", "appdata", "'appdata' is not the absolute path of a directory below the root"),
        ("--ip 37.59.71.24", "-g /srv", "DEFAULT.docker_daemon_args: option -g is set by docker_data_dir"),
        ("--ip 37.59.71.24", "-g/srv/docker", "option -g/srv/docker is set by docker_data_dir"),
        ("--ip 37.59.71.24", "-p/run/x.pid", "option -p/run/x.pid is set by the agent"),
        ("--ip 37.59.71.24", "--exec-root=/x", "option --exec-root=/x is set by the agent"),
        ("--ip 37.59.71.24", "--label 'x", "cannot be split into words: no closing quotation"),
    ],
)
def test_a_mistake_in_the_file_is_one_line_with_its_place(site, old, new, expected):
    """File, line, section and keyword, and what is wrong."""
    path = site.root.etc / f"{SVC}.env"
    path.write_text(path.read_text().replace(old, new, 1))
    done = site.svcmgr("-s", SVC, "validate", "config")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{path}:")
    assert expected in line


# -- SVC docker ----------------------------------------------------------------------------


def test_docker_is_the_client_itself(site):
    """Input, output and exit code are the client's, every word is passed on; it belongs to no service."""
    engine = site.listening()
    try:
        done = site.svcmgr("-s", SVC, "docker", "exec", "-i", "--", "x", "--help", "-s", text="typed\n")
    finally:
        engine.close()
    assert done.stdout == f"client of : -H unix://{site.socket} exec -i -- x --help -s\ntyped\n"
    assert (done.stderr, done.returncode) == ("", 7)


def test_docker_on_several_services_runs_the_client_for_each(site):
    """One after the other, and the exit codes add up."""
    site.service("other", CONFIGURATION.replace("CLIENT", str(site.client)))
    engines = [site.listening(), site.listening("other")]
    try:
        done = site.svcmgr("-s", f"{SVC},other", "docker", "ps")
    finally:
        for engine in engines:
            engine.close()
    assert done.stdout.splitlines() == [
        f"client of : -H unix://{site.socket} ps",
        f"client of : -H unix://{site.root.var}/other/docker.sock ps",
    ]
    assert done.returncode == 14


def test_a_frozen_service_refuses_docker(site):
    frozen.freeze(site.root, SVC)
    assert site.passed_on("-s", SVC, "docker", "ps") == 1
    assert site.log == [f"INFO {SVC.upper()} Abort action for frozen service"]
    assert site.became == []


def test_docker_needs_a_docker_resource(site):
    """Said in the agents' words; a disabled container is none."""
    path = site.root.etc / f"{SVC}.env"
    path.write_text(path.read_text().replace("[DEFAULT]", "[DEFAULT]\ndisable = true"))
    assert site.passed_on("-s", SVC, "docker", "ps") == 1
    assert site.log == [f"ERROR {SVC.upper()} this service has no docker resource"]


def test_docker_needs_no_cluster_option(site):
    """A heartbeat drives the service: its containers may be looked at all the same."""
    path = site.root.etc / f"{SVC}.env"
    path.write_text(path.read_text() + "\n[hb#0]\ntype = OpenHA\n")
    engine = site.listening()
    try:
        assert site.passed_on("-s", SVC, "docker", "ps") == 0
    finally:
        engine.close()
    argv = [str(site.client), "-H", f"unix://{site.socket}", "ps"]
    assert site.became == [(argv[0], argv)]


def test_docker_says_why_its_daemon_cannot_be_started(site):
    """The data are not mounted: a warning, and the client finds nobody."""
    path = site.root.etc / f"{SVC}.env"
    section = "\n[fs#2]\ntype = fake\nfile = /nowhere/up\n"
    path.write_text(path.read_text() + section)
    fake = site.root.etc / "drivers/resource/fs/fake.py"
    keyword = '        Keyword("mnt", "Where.", default="/nowhere/appdata"),\n    )'
    fake.write_text(fake.read_text().replace("    )\n\n    @property", f"{keyword}\n\n    @property", 1))
    assert site.passed_on("-s", SVC, "docker", "ps") == 0
    assert site.log == [
        f"WARNING {SVC.upper()}.CONTAINER.DOCKER:00DATABASE#1 the docker daemon data dir is handled by "
        "the fs#2 resource in down state. can't start the docker daemon"
    ]
    assert len(site.became) == 1


def test_everything_behind_docker_is_for_the_client():
    """Options before the word are ours, those behind it are not read."""
    line = read_command_line(["-s", "web", "docker", "ps", "--format", "x", "-s", "--nosuch"])
    assert (line.action, line.items("service")) == ("docker", ("web",))
    assert line.passed == ("ps", "--format", "x", "-s", "--nosuch")
    assert not line.has("format")
