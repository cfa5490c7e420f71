"""`service` beside its actions: what is shown, added and removed, and what is said without a daemon."""

from __future__ import annotations

import pytest
from openha_fakes import FakeDaemon, FakeService, fake_console, write_cluster

from opensvc_hb.cli.openha_service import ServiceCommand
from opensvc_hb.client import DaemonDown
from opensvc_hb.daemon.services_file import add_service
from opensvc_hb.paths import Root


@pytest.fixture
def site(tmp_path):
    """A node n1 with a daemon, a services file and a compatible tree."""
    hb = write_cluster(tmp_path)
    (hb / "services").write_text("two /s.sh n2 n1 /bin/true\none /s.sh n1 n2 /bin/true\n")
    (hb / "conf.d").mkdir()
    (hb / "conf.d/tree.conf").write_text(f"[hb]\nopenha_tree = {tmp_path}/tree\n")
    states = {"n1": "STARTED", "n2": "STOPPED"}
    services = {name: FakeService(["n1", "n2"], dict(states)) for name in ("agents", "one", "two")}
    return Site(tmp_path, FakeDaemon("n1", services))


class Site:
    def __init__(self, top, daemon):
        self.top = top
        self.daemon = daemon
        self.hb = top / "etc/opensvc/hb"
        self.script = top / "start.sh"
        self.script.write_text("#!/bin/sh\n")

    def run(self, *words, has_terminal=True):
        console, stream = fake_console(has_terminal)

        def add(place, *columns):
            add_service(place, *columns, resolves=lambda node: True)

        code = ServiceCommand(Root(self.top), "n1", console, self.daemon.ask, "Usage: it", add).run(words)
        return code, stream.getvalue()

    def add(self, name, **more):
        return self.run("-a", name, str(self.script), "n1", "n2", str(self.script), **more)

    def orders(self):
        return [message["request"] for message in self.daemon.asked if message["request"] != "status"]


def test_services_are_shown_in_the_order_of_their_file_the_agents_behind(site):
    """OpenHA's order is its file's; a service that registers itself stands behind."""
    _, shown = site.run("-s", "-c")
    assert [line.split()[0] for line in shown.splitlines()] == ["service", "two", "one", "agents"]


def test_a_long_name_pushes_its_columns(site):
    """Nothing is cut, and a blank stays between."""
    name = "a-name-longer-than-its-column"
    site.daemon.services[name] = FakeService(["n1", "n2"], {"n1": "STARTED", "n2": "START_FAILED"})
    _, shown = site.run("-s", "-c")
    assert f"{name} n1               STARTED        n2               START_FAILED  \n" in shown


def test_a_service_of_one_node_shows_a_dash_for_the_other(site):
    """The column stays in its place for scripts that split at blanks."""
    site.daemon.services = {"alone": FakeService(["n1"], {"n1": "STARTED"})}
    (site.hb / "services").unlink()
    _, shown = site.run("-s", "-c")
    assert shown.splitlines()[1].split() == ["alone", "n1", "STARTED", "-", "UNKNOWN"]


@pytest.mark.parametrize("has_terminal", [True, False])
def test_without_a_daemon_the_table_is_not_shown_and_it_is_said_why(site, has_terminal):
    """OpenHA is silent without a terminal; its exit code is kept."""
    site.daemon.is_up = False
    code, shown = site.run("-s", "-c", has_terminal=has_terminal)
    assert code == 1
    assert "is not running" in shown


def test_without_a_daemon_no_action_is_taken(site):
    """OpenHA would act on its state files; a service that nobody names is still told from the others."""
    site.daemon.is_up = False
    assert site.run("-A", "nosuch", "start") == (255, "service nosuch not found\n")
    with pytest.raises(DaemonDown):
        site.run("-A", "one", "start")


def test_wrong_words_show_the_usage(site):
    """No argument, an unknown option, words too many or too few."""
    for words in ([], ["-h"], ["-s", "-x"], ["-c", "-s"], ["-A"], ["-A", "a", "b", "c"], ["-a", "x"], ["-i"]):
        assert site.run(*words) == (255, "Usage: it\n")


def test_adding_a_service_makes_its_state_files_and_has_the_daemon_read_it(site):
    """OpenHA's daemon finds out by itself, or not; ours is told."""
    code, shown = site.add("new")
    files = [site.top / f"tree/services/new/STATE.{node}" for node in ("n1", "n2")]
    assert (code, shown.splitlines()[0], shown.splitlines()[-1]) == (0, "Creating service new :", "Done.")
    assert [file.read_bytes() for file in files] == [b"6\0", b"6\0"]
    assert site.orders() == ["reload"]
    assert (site.hb / "services").read_text().splitlines()[-1].split("\t")[0] == "new"


def test_without_a_tree_adding_makes_no_state_files(site):
    """There is no place for them, and nothing claims that there is."""
    (site.hb / "conf.d/tree.conf").unlink()
    assert site.add("new") == (0, "Creating service new :\nDone.\n")


def test_what_the_daemon_objects_to_is_said_and_the_line_stays(site):
    """The line is good; something else in the configuration is not."""
    site.daemon.answers["reload"] = {"ok": False, "code": 6, "error": "hb.conf:3: no"}
    code, shown = site.add("new", has_terminal=False)
    assert code == 0
    assert "goes on with what it read before:\nhb.conf:3: no" in shown


def test_a_name_too_long_stands_alone(site):
    """That check comes before `Creating service`."""
    assert site.add("x" * 64) == (255, "Error : service name is too long. 64 out of 63\n")


def test_a_service_that_runs_here_is_not_removed(site):
    """OpenHA forgets it, and it runs on with nobody caring for it."""
    code, shown = site.run("-r", "one")
    assert (code, shown) == (255, "Service one is STARTED here: freeze-stop it first\nFailed.\n")
    assert "one" in (site.hb / "services").read_text()


def test_removing_a_service_removes_its_state_files(site):
    """And its directory, where nothing else is in it."""
    site.add("new")
    site.daemon.services["one"].states["n1"] = "FROZEN_STOP"
    directory = site.top / "tree/services/new"
    assert directory.is_dir()
    assert site.run("-r", "new") == (0, "Remove of service new done\nDone.\n")
    assert not directory.exists()
    assert "new" not in (site.hb / "services").read_text()


def test_a_service_of_the_agent_is_removed_in_its_own_file(site):
    """The services file does not name it, so there is nothing to remove there."""
    code, shown = site.run("-r", "agents")
    assert code == 255
    assert "declared in the file of agents" in shown


def test_a_service_can_be_removed_without_a_daemon(site):
    """As with OpenHA; the daemon reads the file when it starts."""
    site.daemon.is_up = False
    assert site.run("-r", "one") == (0, "Remove of service one done\nDone.\n")
