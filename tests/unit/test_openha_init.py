"""`ezha` and `openha kill`: the daemon is started, ended and waited for; nothing waits for a fixed time."""

from __future__ import annotations

import pytest
from openha_fakes import FakeDaemon, FakeService, FakeStarter, fake_console, write_cluster

from opensvc_hb.cli.openha_command import OpenhaCommand, end_daemon
from opensvc_hb.cli.openha_init import DELAY, EZHA, FREEZE, OPENHA, InitCommand, NotStarted, read_tunables
from opensvc_hb.paths import Root


class Site:
    def __init__(self, top, texts=EZHA, tunables=()):
        write_cluster(top)
        self.top = top
        self.daemon = FakeDaemon("n1", is_up=False)
        self.starter = FakeStarter(self.daemon)
        self.ended = 0
        self.screen = top / "console"
        self.screen.touch()
        self.texts = texts
        self.tunables = dict(tunables)

    def run(self, *words):
        console, stream = fake_console()
        command = InitCommand(
            path="/etc/init.d/ezha",
            place=Root(self.top),
            console=console,
            ask=self.daemon.ask,
            starter=self.starter,
            texts=self.texts,
            tunables=self.tunables,
            console_device=self.screen,
            end=self._end,
        )
        return command.run(words), stream.getvalue()

    def _end(self, _place):
        self.ended += 1
        return True


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_start_begins_when_the_daemon_answers(site):
    """The delay is said as OpenHA says it; the console of the machine gets its line."""
    site.tunables[DELAY] = "7"
    assert site.run("start") == (0, "waiting 7 seconds for heartbeat to converge\n")
    assert site.starter.started == 1
    assert site.screen.read_text() == "Starting EZ-HA heartbeat process\n"


def test_a_daemon_that_ends_at_once_is_no_start(site):
    """OpenHA's script exits 0 whatever its daemons do."""
    site.starter.daemon = None
    site.starter.ended = "etc/opensvc/hb/monitor:3: port: is taken"
    with pytest.raises(NotStarted, match="port: is taken"):
        site.run("start")


@pytest.mark.parametrize("name", ["nodes", "monitor"])
def test_a_missing_file_is_named(site, name):
    """OpenHA's script exits 1 and says nothing."""
    path = site.top / "etc/opensvc/hb" / name
    path.unlink()
    assert site.run("start") == (1, f"{path} does not exist: nothing was done\n")
    assert site.starter.started == 0


@pytest.mark.parametrize("words", [(), ("status",), ("start", "now")])
def test_other_words_show_the_usage(site, words):
    """With the path by which it was called."""
    assert site.run(*words) == (1, "Usage: /etc/init.d/ezha {start|stop|kill|restart}\n")


def test_stop_has_the_node_leave(site):
    """The services end first, and the other node is told."""
    site.daemon.is_up = True
    assert site.run("stop") == (0, "")
    assert site.daemon.asked == [{"request": "leave"}]
    assert site.screen.read_text() == "Stopping EZ-HA heartbeat\n"


def test_a_stop_that_fails_is_a_failure(site):
    """A service that does not stop keeps its node's daemon."""
    site.daemon.is_up = True
    site.daemon.answers["leave"] = {"ok": False, "code": 1, "error": "svc: STOP_FAILED"}
    assert site.run("stop") == (1, "svc: STOP_FAILED\n")


def test_a_stop_without_a_daemon_is_done(site):
    """As for every init script."""
    code, said = site.run("stop")
    assert code == 0
    assert "is not running" in said


@pytest.mark.parametrize(
    ("texts", "kill", "stops"),
    [
        (EZHA, "Stopping EZ-HA daemons", "Stopping EZ-HA daemons"),
        (OPENHA, "Killing OpenHA daemons", "Stopping OpenHA daemons"),
    ],
)
def test_kill_and_restart_end_the_daemon_alone(tmp_path, texts, kill, stops):
    """Both layouts' words; the services run on."""
    site = Site(tmp_path, texts)
    assert site.run("kill") == (0, f"{kill}\n")
    code, said = site.run("restart")
    assert code == 0
    assert said.splitlines() == [stops, texts.restart_start, "waiting 2 seconds for heartbeat to converge"]
    assert (site.ended, site.starter.started) == (2, 1)


def test_the_tunable_freezes_what_has_its_primary_elsewhere(tmp_path):
    """What runs here, or failed, is an operator's matter."""
    site = Site(tmp_path, tunables={FREEZE: "yes"})
    site.daemon.services = {
        "mine": FakeService(["n1", "n2"], {"n1": "STOPPED", "n2": "STOPPED"}),
        "theirs": FakeService(["n2", "n1"], {"n1": "STOPPED", "n2": "STARTED"}),
        "running": FakeService(["n2", "n1"], {"n1": "STARTED", "n2": "STOPPED"}),
    }
    code, said = site.run("start")
    assert code == 0
    assert said.splitlines()[1:] == ["set local secondary instance of service theirs in FROZEN_STOP state"]
    orders = [(m["verb"], m["services"]) for m in site.daemon.asked if m["request"] == "command"]
    assert orders == [("freeze-stop", ["theirs"])]


def test_tunables_are_assignments_and_nothing_is_run(tmp_path):
    """The later file wins; a line that is anything else is not ours to run."""
    for name in ("default", "sysconfig"):
        (tmp_path / "etc" / name).mkdir(parents=True)
    (tmp_path / "etc/default/openha").write_text(
        f"# a comment\n{DELAY}=4  # s\nexport {FREEZE}='yes'\ntouch {tmp_path}/run\nA=1 B=2\nX='\n"
    )
    (tmp_path / "etc/sysconfig/openha").write_text(f"{DELAY}=5\n")
    assert read_tunables(tmp_path) == {DELAY: "5", FREEZE: "yes"}
    assert not (tmp_path / "run").exists()


def wrapper(top, end):
    console, stream = fake_console()
    daemon = FakeDaemon("n1", is_up=False)
    nothing = FakeStarter()
    command = OpenhaCommand("openha", Root(top), console, daemon.ask, nothing, nothing, end)
    return command, stream


@pytest.mark.parametrize(("found", "code"), [(True, 0), (False, 1)])
def test_kill_exits_0_when_there_was_a_daemon(tmp_path, found, code):
    """OpenHA's exit code is that of its last pkill, mostly 1."""
    command, stream = wrapper(tmp_path, lambda _place: found)
    assert command.run(["kill"]) == code
    assert ("is not running" in stream.getvalue()) != found


def test_kill_by_another_user_says_so(tmp_path):
    """The daemon is root's."""

    def end(_place):
        raise PermissionError

    command, stream = wrapper(tmp_path, end)
    assert command.run(["kill"]) == 1
    assert "try as root" in stream.getvalue()


def test_nothing_is_killed_where_no_daemon_holds_the_lock(tmp_path):
    """A pid that was left in the file may be another process's by now."""
    place = Root(tmp_path)
    place.run.mkdir(parents=True)
    place.lock.write_text("1\n")
    sent = []
    assert end_daemon(place, send=lambda *call: sent.append(call)) is False
    assert sent == []
