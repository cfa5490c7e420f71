"""The docker driver against a daemon that only says it: statuses, labels, messages, start and stop."""

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from driver_loader import Recorder, context, converted, driver, module
from fake_engine import FakeContainer, FakeEngine, SilentEngine, image_id, short_directory

from opensvc_hb.agent.resource import ActionError, Resource, Status

# the library in Debian 12 compares versions by a module that Python has given up since
pytestmark = pytest.mark.filterwarnings("ignore:distutils Version classes:DeprecationWarning")

DATA = "/nowhere/data"


class FileSystem(Resource):
    """A file system of the service, in whatever state."""

    group = "fs"
    type_name = "fs"

    def __init__(self, rid, mnt, state):
        super().__init__(rid, {"mnt": mnt}, None)
        self.state = state

    def status(self):
        self.say("a message of its own")
        return self.state


class Service:
    """The docker resources of one service, with the system's daemon or one of their own."""

    def __init__(
        self, top, count=1, private=False, transcript=(), is_conf=False, others=(), svcname="svc1", **written
    ):
        self.top = top
        self.recorder = Recorder(transcript)
        self.defaults = {
            "docker_data_dir": DATA if private else None,
            "docker_daemon_private": True,
            "docker_daemon_args": ("--ip", "192.0.2.1"),
            "docker_exe": "docker",
            "dockerd_exe": "dockerd",
        }
        self.socket = top / ("var/lib/opensvc/svc1/docker.sock" if private else "system.sock")
        self.resources = [*others]
        kind = driver("container.docker")
        lent = context(
            top,
            self.recorder,
            default=self.defaults.get,
            service_resources=lambda: tuple(self.resources),
            runtime=str(top / "run/opensvc"),
            is_conf=is_conf,
            svcname=svcname,
        )
        self.containers = []
        for number in range(1, count + 1):
            options = converted(kind, **{"type": "docker", "run_image": "opensvc/busybox:date", **written})
            resource = kind(f"container#{number}", options, lent)
            resource.system_socket = str(self.socket)
            resource.look_limit_s = 5.0
            self.containers.append(resource)
        self.resources += self.containers

    @property
    def first(self):
        return self.containers[0]


@pytest.fixture
def top():
    with short_directory() as path:
        yield path


@contextlib.contextmanager
def engine(service, *containers, **options):
    made = FakeEngine(service.socket, containers, **options)
    containerd = SilentEngine(service.top / "run/opensvc/svc1.docker/containerd/containerd.sock")
    try:
        yield made
    finally:
        made.close()
        containerd.close()


def named(number, **options):
    return FakeContainer(f"svc1.container.{number}", number, **options)


# -- status ------------------------------------------------------------------------------


@pytest.mark.parametrize("private", [True, False])
def test_without_a_daemon_a_container_is_down_and_says_why(top, private):
    """Nobody on the socket: down, the reason, and the bare image as label."""
    service = Service(top, private=private, run_image="624a72289d96")
    assert service.first.status() is Status.DOWN
    assert service.first.messages == ["docker daemon is not running"]
    assert service.first.label == "624a72289d96"


@pytest.mark.parametrize("private", [True, False])
def test_a_running_container_is_up_and_its_label_has_its_id(top, private):
    """Up; label of id and image, for an image written by id the tag that it has."""
    service = Service(top, private=private, run_image=image_id(1)[:12])
    with engine(service, named(1)):
        assert service.first.status() is Status.UP
    assert service.first.messages == []
    assert service.first.label == "111111111111@opensvc/busybox:date"


def test_labels_of_images_as_they_are_written(top):
    """With a colon as it stands; by id without a tag the id; a container that is not there has no id."""
    for text, tags, expected in [
        ("opensvc/busybox:date", ("opensvc/busybox:date",), "111111111111@opensvc/busybox:date"),
        (image_id(1)[:12], (), f"111111111111@{image_id(1)[:12]}"),
        ("registry", ("registry:latest",), "111111111111@registry:latest"),
    ]:
        service = Service(top, run_image=text)
        with engine(service, named(1), images=[tags]):
            service.first.status()
            assert service.first.label == expected
    service = Service(top, count=2)
    with engine(service, named(1)):
        assert service.containers[1].status() is Status.DOWN
    assert service.containers[1].messages == ["can not find container id"]
    assert service.containers[1].label == "opensvc/busybox:date"


@pytest.mark.parametrize(
    ("state", "status", "messages"),
    [
        ("running", Status.UP, []),
        ("exited", Status.DOWN, []),
        ("created", Status.DOWN, []),
        ("dead", Status.DOWN, []),
        ("paused", Status.WARN, ["container is paused"]),
        ("restarting", Status.WARN, ["container is restarting"]),
    ],
)
def test_state_of_a_container_is_its_status(top, state, status, messages):
    """Only running is up; what is neither up nor down is a warning that says so."""
    service = Service(top)
    with engine(service, named(1, state=state)):
        assert service.first.status() is status
    assert service.first.messages == messages


def test_a_container_of_another_image_is_a_warning(top):
    """Both ids are named, 12 digits each; an image that is not there tells nothing."""
    service = Service(top)
    with engine(service, named(1, image=2), images=[("opensvc/busybox:date",), ("other:1",)]):
        assert service.first.status() is Status.WARN
    assert service.first.messages == [
        f"the running container is based on image '{image_id(2)[:12]}' instead of '{image_id(1)[:12]}'"
    ]
    gone = Service(top, run_image="nosuch:1")
    with engine(gone, named(1)):
        assert gone.first.status() is Status.UP


def test_restart_policies_are_reported_once(top):
    """Our own container's by its resource; a stranger's in the service's own data by the first resource."""
    service = Service(top, count=2, private=True)
    stranger = FakeContainer("mine", 9, policy="always")
    with engine(service, named(1), named(2, policy="on-failure"), stranger):
        assert service.first.status() is Status.WARN
        assert service.containers[1].status() is Status.WARN
    assert service.first.messages == [
        "container mine has restart policy always: docker starts it outside the cluster. "
        "run: svcmgr -s svc1 docker update --restart=no mine"
    ]
    assert "container svc1.container.2 has restart policy on-failure" in service.containers[1].messages[0]
    shared = Service(top, count=2)
    with engine(shared, named(1), stranger):
        assert shared.first.status() is Status.UP, "the system's daemon has others' containers"


def test_a_containerd_that_has_ended_is_reported_once(top):
    """The containers run, and nobody watches over them: the first resource warns."""
    service = Service(top, count=2, private=True)
    with engine(service, named(1), named(2)):
        (top / "run/opensvc/svc1.docker/containerd/containerd.sock").unlink()
        assert service.first.status() is Status.WARN
        assert service.containers[1].status() is Status.UP
    assert service.first.messages == [
        "containerd of the docker daemon has ended: a start of the service starts it again"
    ]


def test_one_look_serves_all_containers_of_a_service(top):
    """Seven statuses list containers and images once."""
    service = Service(top, count=7)
    with engine(service, *(named(number) for number in range(1, 8))) as asked:
        assert {resource.status() for resource in service.containers} == {Status.UP}
        assert sum(request.startswith("GET /containers/json") for request in asked.requests) == 1
        assert sum(request.startswith("GET /images/json") for request in asked.requests) == 1


def test_a_daemon_that_does_not_answer_is_a_warning_and_costs_one_time_out(top):
    """What it runs is not known, so its containers are not down; the others take the first one's word."""
    service = Service(top, count=7)
    for resource in service.containers:
        resource.look_limit_s = 0.2
    silent = SilentEngine(service.socket)
    clock = service.first._clock
    try:
        began = clock()
        statuses = {resource.status() for resource in service.containers}
        took_s = clock() - began
    finally:
        silent.close()
    assert statuses == {Status.WARN}
    assert service.containers[6].messages == ["docker daemon does not answer within 0.2 s"]
    assert took_s < 7 * 0.2


def test_processes_without_their_daemon_are_a_warning(top):
    """Containers that outlived their daemon are no "down": the first resource says what goes on."""
    service = Service(top, count=2, private=True)
    places = module("container._places").private_places(service.first.context, DATA)
    # a shim, to all appearances: its command line names the daemon's own socket
    address = f"{places.exec_root}/containerd/containerd.sock"
    shim = subprocess.Popen(["sh", "-c", "read line", "shim", "-address", address], stdin=subprocess.PIPE)
    try:
        assert service.first.status() is Status.WARN
        assert service.first.messages == [
            "docker daemon is not running",
            f"what it ran goes on without it: {shim.pid} (sh)",
        ]
        assert service.containers[1].status() is Status.DOWN
    finally:
        shim.kill()
        shim.communicate()


def test_a_process_whose_first_thread_has_ended_still_lives(top):
    """A zombie by its state, and yet its files are open: it is found by what its other threads tell."""
    service = Service(top, private=True)
    places = module("container._places").private_places(service.first.context, DATA)
    code = (
        "import ctypes, sys, threading; threading.Thread(target=sys.stdin.read).start(); "
        "print('ready', flush=True); ctypes.CDLL(None).pthread_exit(None)"
    )
    argv = [sys.executable, "-c", code, f"{places.exec_root}/containerd/containerd.toml"]
    watcher = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert watcher.stdout.readline() == b"ready\n"
        stat = Path(f"/proc/{watcher.pid}/stat")
        deadline = time.monotonic() + 10
        while b") Z " not in stat.read_bytes():
            assert time.monotonic() < deadline, "its first thread goes on"
            time.sleep(0.01)
        processes = service.first.daemon.processes
        assert [process.pid for process in processes.find()] == [watcher.pid]
    finally:
        watcher.kill()
        watcher.communicate()
    assert processes.find() == ()


# -- start -------------------------------------------------------------------------------


def test_a_container_that_exists_is_started_as_it_is(top):
    """The lines of the agents, and a note by which the container's processes can be found."""
    service = Service(top)
    with engine(service, named(1, state="exited")) as asked:
        service.first.start()
        assert asked.named("svc1.container.1").state == "running"
    assert service.first.activated is True
    assert service.recorder.texts() == [
        f"docker -H unix://{service.socket} start 111111111111",
        "output:\n111111111111\n",
        "wait for container up status",
        "wait for container operational",
    ]
    assert [path.name for path in (top / "run/opensvc/svc1.containers").iterdir()] == [named(1).id]


def test_a_start_waits_for_a_daemon_that_is_busy(top):
    """A daemon that makes or starts other containers may hold its list back for longer than a look takes."""
    service = Service(top)
    service.first.look_limit_s = 0.3
    with engine(service, named(1, state="exited")) as asked:
        asked.held_lists = 2
        service.first.start()
        assert asked.held_lists == 0
        assert asked.named("svc1.container.1").state == "running"


def test_a_running_container_is_left_alone(top):
    """One line says that it runs, and where; there is nothing to roll back."""
    service = Service(top)
    with engine(service, named(1)):
        service.first.start()
    assert service.first.activated is False
    assert service.recorder.texts() == ["container 111111111111@opensvc/busybox:date already started on deb1"]


def test_a_missing_container_is_made_by_the_client(top):
    """Options go to docker's client word by word, a restart policy does not."""
    service = Service(
        top,
        run_args="-v /srv/a:/a -e 'A=b c' --restart=always -d -p 5000:5000",
        run_command="sh -c true",
    )
    with engine(service) as asked:

        def create():
            asked.containers.append(named(1, state="created"))
            return 0, f"{named(1).id}\n", ""

        argv = (
            f"docker -H unix://{service.socket} create -t -i --name=svc1.container.1 --volume=/srv/a:/a "
            "--env=A=b c --publish=5000:5000 opensvc/busybox:date sh -c true"
        )
        service.recorder.transcript.append((argv, create))
        service.first.start()
        assert asked.named("svc1.container.1").state == "running"
    assert service.recorder.texts("WARNING") == [
        "--restart always of run_args is left out: the cluster restarts it"
    ]


@pytest.mark.parametrize(("tags", "image"), [(("app:1",), "app:1"), ((), image_id(1)[:12])])
def test_a_container_of_an_image_by_id_is_made_by_the_tag_that_it_has(top, tags, image):
    """The engine shows what a container was made from: a name tells people more than an id."""
    service = Service(top, run_image=image_id(1)[:12])
    with engine(service, images=[tags]) as asked:

        def create():
            asked.containers.append(named(1, state="created"))
            return 0, f"{named(1).id}\n", ""

        argv = f"docker -H unix://{service.socket} create -t -i --name=svc1.container.1 {image}"
        service.recorder.transcript.append((argv, create))
        service.first.start()


@pytest.mark.parametrize(("is_conf", "words"), [(False, ("sh -c true",)), (True, ("sh", "-c", "true"))])
def test_run_command_is_one_argument_or_words(top, is_conf, words):
    """One argument in SVC.env, a shell's words in SVC.conf."""
    service = Service(top, is_conf=is_conf, run_command="sh -c true")
    assert service.first._command == words


def test_a_container_that_ends_at_once_is_no_start(top):
    """Its exit code, and where its output is."""
    service = Service(top)
    with (
        engine(service, named(1, state="exited", ends_at_once=3)),
        pytest.raises(
            ActionError, match=r"has ended at once with exit code 3: see svcmgr -s svc1 docker logs"
        ),
    ):
        service.first.start()


def test_a_start_without_a_daemon_says_so(top):
    """The system's daemon is not ours to start."""
    service = Service(top)
    with pytest.raises(ActionError, match=r"^docker daemon is not running$"):
        service.first.start()
    assert service.first.activated is False


def test_the_daemon_is_not_started_while_its_data_are_not_mounted(top):
    """The inmost file system that is not up is named; a message of its own status stays its own."""
    mounts = [
        FileSystem("fs#1", "/nowhere", Status.DOWN),
        FileSystem("fs#2", DATA, Status.DOWN),
        FileSystem("fs#3", "/elsewhere", Status.DOWN),
    ]
    service = Service(top, private=True, others=mounts)
    daemon = service.first.daemon
    assert daemon.missing_file_system() == (
        "the docker daemon data dir is handled by the fs#2 resource in down state. "
        "can't start the docker daemon"
    )
    assert mounts[1].messages == []
    mounts[1].state = Status.UP
    assert "fs#1 resource in down state" in daemon.missing_file_system()
    mounts[0].state = Status.UP
    assert daemon.missing_file_system() == ""
    mounts.append(FileSystem("fs#4", f"{DATA}/volumes", Status.WARN))
    service.resources.append(mounts[-1])
    assert "fs#4 resource in warn state" in daemon.missing_file_system()


def test_daemons_of_two_services_take_their_first_steps_one_after_the_other(top, monkeypatch):
    """A takeover of two services starts two at once, and both would make iptables' chain DOCKER."""
    daemon = Service(top, private=True).first.daemon
    beside = Service(top, private=True, svcname="svc2")
    assert daemon.places.start_lock != beside.first.daemon.places.start_lock
    inside = []

    def step_in():
        with beside.first.daemon.first_steps():
            inside.append("svc2")

    thread = threading.Thread(target=step_in)
    with daemon.first_steps():
        thread.start()
        thread.join(0.3)
        inside.append("svc1")
    thread.join(10)
    assert inside == ["svc1", "svc2"]

    monkeypatch.setattr(module("container._daemon"), "START_LIMIT_S", 0.2)
    with daemon.first_steps():
        step_in()  # one that hangs is no reason to leave the other service down
    path = daemon.places.first_steps_lock
    warning = f"another service's docker daemon takes long to start: {path} is locked"
    assert beside.recorder.texts("WARNING") == [warning]


def test_command_line_of_the_daemon(top):
    """Its own socket, data, pid file and exec root, then the operator's words."""
    service = Service(top, private=True)
    own = f"{top}/var/lib/opensvc/svc1"
    assert service.first.daemon.argv == (
        *("dockerd", "-H", f"unix://{own}/docker.sock", "--data-root", DATA),
        *("--pidfile", f"{own}/docker.pid", "--exec-root", f"{top}/run/opensvc/svc1.docker"),
        *("--containerd", f"{top}/run/opensvc/svc1.docker/containerd/containerd.sock"),
        *("--ip", "192.0.2.1"),
    )


def test_configuration_of_its_containerd(top):
    """State beside the daemon's sockets, data in the data directory; nothing of the system's."""
    service = Service(top, private=True)
    text = module("container._containerd").configuration(service.first.daemon.places)
    assert 'root = "/nowhere/data/containerd/daemon"\n' in text
    assert f'state = "{top}/run/opensvc/svc1.docker/containerd/daemon"\n' in text
    assert f'[grpc]\naddress = "{top}/run/opensvc/svc1.docker/containerd/containerd.sock"\n' in text


def test_data_on_no_file_system_of_the_service_are_a_concern(top):
    """They would stay behind; with a file system under them, or with one node, there is nothing to say."""
    service = Service(top, count=2, private=True)
    assert service.first.concerns() == (
        "docker_data_dir /nowhere/data is on no file system of this service: "
        "images and containers stay behind when it moves",
    )
    assert service.containers[1].concerns() == ()
    service.resources.append(FileSystem("fs#1", "/nowhere", Status.DOWN))
    assert service.first.concerns() == ()
    assert Service(top).first.concerns() == ()


def test_a_socket_whose_path_is_too_long_is_a_veto(top):
    """Said before anything is touched, with the bytes too many; the exec root finds another place."""
    service = Service(top, private=True)
    object.__setattr__(service.first.context, "svcname", "x" * 90)
    objection = service.first.may_start()
    assert "bytes longer than the 107 of a socket" in objection
    assert service.first.status() is Status.DOWN
    places = module("container._places").private_places(service.first.context, DATA)
    assert places.exec_root.startswith("/run/opensvc-docker-")


# -- stop --------------------------------------------------------------------------------


def test_a_stop_waits_until_the_container_is_down(top):
    """The lines of the agents; the note goes with the container."""
    service = Service(top)
    with engine(service, named(1)) as asked:
        service.first.start()
        del service.recorder.lines[:]
        service.first.stop()
        assert asked.named("svc1.container.1").state == "exited"
    assert service.recorder.texts() == [
        f"docker -H unix://{service.socket} stop 111111111111",
        "output:\n111111111111\n",
        "wait for container down status",
    ]
    assert list((top / "run/opensvc/svc1.containers").iterdir()) == []


def test_a_container_that_survives_its_stop_is_killed(top):
    """After the wait; the limits are shortened here."""
    service = Service(top)
    service.first.down_limit_s = 0.0
    with engine(service, named(1, survives_stop=True)) as asked:
        service.first.stop()
        assert asked.requests[-2].endswith("/kill")
    assert f"docker -H unix://{service.socket} kill 111111111111" in service.recorder.texts()


def test_a_paused_container_is_woken_to_be_stopped(top):
    """A process that is frozen hears no signal."""
    service = Service(top)
    with engine(service, named(1, state="paused")) as asked:
        service.first.stop()
        acted = [
            request.partition("?")[0].rpartition("/")[2] for request in asked.requests if "POST" in request
        ]
    assert acted == ["unpause", "stop"]


def test_a_stop_under_a_silent_daemon_of_its_own_ends_it_by_force(top):
    """Asked for a while first; then nothing of it may be left, whatever it still knows."""
    service = Service(top, private=True)
    service.first.look_limit_s = service.first.silent_limit_s = 0.1
    silent = SilentEngine(service.socket)
    try:
        service.first.stop()
    finally:
        silent.close()
    assert service.recorder.texts("WARNING") == [
        "docker daemon does not answer within 0.1 s: it is killed, and its containers with it"
    ]


def test_a_stop_under_a_silent_daemon_of_the_system_fails(top):
    """It is not ours to end."""
    service = Service(top)
    service.first.look_limit_s = service.first.silent_limit_s = 0.1
    silent = SilentEngine(service.socket)
    try:
        with pytest.raises(ActionError, match=r"does not answer within 0\.1 s"):
            service.first.stop()
    finally:
        silent.close()


@pytest.mark.parametrize("containers", [(), (named(1, state="exited"),)])
def test_a_container_that_is_down_is_not_stopped(top, containers):
    """One line, whether there is a container or not."""
    service = Service(top)
    with engine(service, *containers):
        service.first.stop()
    assert len(service.recorder.texts()) == 1
    assert service.recorder.texts()[0].endswith("already stopped")


# -- options -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words", "policy"),
    [
        ("", (), ""),
        ("-v /a:/b -p 80:80", ("--volume=/a:/b", "--publish=80:80"), ""),
        ("-v/a:/b -h=web", ("--volume=/a:/b", "--hostname=web"), ""),
        ("-tid -m 1g", ("--tty", "--interactive", "--memory=1g"), ""),
        ("-itv /a:/b", ("--interactive", "--tty", "--volume=/a:/b"), ""),
        ("--net=host --privileged", ("--net=host", "--privileged"), ""),
        ("--label a=b=c --tty=false", ("--label=a=b=c", "--tty=false"), ""),
        ("-e 'A=b c' --ulimit nofile=10:20", ("--env=A=b c", "--ulimit=nofile=10:20"), ""),
        ("--restart no --restart on-failure:3", (), "on-failure:3"),
        ("--restart=always --restart no", (), ""),
        ("-a stdout --sig-proxy=false --detach-keys a", (), ""),
    ],
)
def test_options_of_docker_run_are_taken_apart(text, words, policy):
    """Short ones together or with their value, long ones with and without a sign; run's own left out."""
    made = module("container._run_options").run_options(text)
    assert (made.words, made.restart_policy) == (words, policy)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("--nosuch", "docker run has no option --nosuch"),
        ("-x", "docker run has no option -x"),
        ("-tz", "docker run has no option -z"),
        ("--name web", "option --name: the agent names the container"),
        ("busybox", "'busybox' is no option of docker run"),
        ("-v", "option -v of docker run needs a value"),
        ("--env", "option --env of docker run needs a value"),
        ("-e 'A", "cannot be split into words: no closing quotation"),
    ],
)
def test_options_that_there_are_not_are_refused(text, what):
    """One line that names the option."""
    with pytest.raises(ValueError, match=what) as caught:
        module("container._run_options").run_options(text)
    assert "\n" not in str(caught.value)
