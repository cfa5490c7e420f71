"""Monitored resources in the agent: what is declared, how one is restarted, what the command says."""

from __future__ import annotations

import pytest
from agent_site import BASE, Site

from opensvc_hb.agent.adapter import AgentAdapter
from opensvc_hb.agent.lock import service_lock
from opensvc_hb.agent.resource import CommandResult
from opensvc_hb.agent.resource_monitor import ResourceMonitorCommand, is_in_hand, monitoring_of
from opensvc_hb.core.config import MonitorAction, Monitored, Monitoring
from opensvc_hb.errors import ConfigurationErrors, HbError

HEARTBEAT = "[hb#0]\ntype = OpenHA\n"
RESOURCE = "[fs#1]\ntype = fake\nfile = FILE:up\nmonitor = true\n"
STARTED = {"ok": True, "service": "svc", "state": "STARTED", "notes": []}


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    made.answers["instance"] = STARTED
    made.answers["monitor"] = {"ok": True}
    return made


class Asked:
    """Keeps what the daemon is asked."""

    def __init__(self, site):
        self.site = site
        self.requests = []
        self.slept = []

    def run(self):
        """Run the command."""
        answer = self.site.ask

        def ask(request):
            self.requests.append(request)
            return answer(request)

        self.site.ask = ask
        return ResourceMonitorCommand(self.site.loader, self.slept.append).run("svc")

    @property
    def told(self):
        return [request["resources"] for request in self.requests if request["request"] == "monitor"]


# -- what is declared -----------------------------------------------------------------------------


def test_monitored_resources_are_declared_in_the_order_in_which_they_start(site):
    """With their restarts, and the service's own words; hb, disabled and unwatched ones are not."""
    site.service(
        "svc",
        BASE + "monitor_action = switch\nmax_moves = 3\nmove_window = 60\nrestart_window = 30\n"
        "pre_monitor_action = /bin/dump it\n"
        + HEARTBEAT
        + "[container#1]\ntype = fake\nfile = FILE:a\nmonitor_on = n1\n"
        + "[fs#2]\ntype = fake\nfile = FILE:b\nmonitor = true\nrestart = 2\n"
        + "[fs#3]\ntype = fake\nfile = FILE:c\nmonitor = true\ndisable = true\n"
        + "[fs#4]\ntype = fake\nfile = FILE:d\nmonitor_on = n2\n",
    )
    assert monitoring_of(site.loader.service("svc")) == Monitoring(
        (Monitored("fs#2", 2), Monitored("container#1", 0)), MonitorAction.SWITCH, 30.0, 3, 60.0, True
    )
    [declared] = AgentAdapter(site.root, "n1", site.loader).declare().services
    assert declared.monitoring.resources == (Monitored("fs#2", 2), Monitored("container#1", 0))


def test_monitor_in_default_watches_every_resource(site):
    """And freezestop is what happens without a word."""
    site.service(
        "svc", BASE + "monitor = true\nrestart = 1\n" + HEARTBEAT + RESOURCE.replace("monitor = true\n", "")
    )
    monitoring = monitoring_of(site.loader.service("svc"))
    assert monitoring.resources == (Monitored("fs#1", 1),)
    assert monitoring.action is MonitorAction.FREEZE_STOP


@pytest.mark.parametrize(
    "line", ["monitor_action = stop", "max_moves = many", "max_moves = 101", "move_window = 0"]
)
def test_a_wrong_word_is_refused_with_its_line(site, line):
    """As any other keyword."""
    site.service("svc", BASE + line + "\n" + HEARTBEAT + RESOURCE)
    with pytest.raises(ConfigurationErrors) as refused:
        site.loader.service("svc")
    assert f"svc.env:4: DEFAULT.{line.partition(' ')[0]}" in str(refused.value)


# -- what the daemon has done -----------------------------------------------------------------------


def test_a_restart_starts_one_resource_and_looks(site):
    """The exit status is 0 only when it is up then."""
    site.service("svc", BASE + HEARTBEAT + RESOURCE + "[fs#2]\ntype = fake\nfile = FILE:other\n")
    adapter = AgentAdapter(site.root, "n1", site.loader)
    assert adapter.restart("svc", "fs#1", "1/2") == 0
    assert site.journal == ["start fs#1"]
    assert site.log == [
        "INFO SVC restart resource fs#1. try number 1/2",
        "INFO SVC monitored resource fs#1 restarted. abording TOC.",
    ]
    site.service("svc", BASE + HEARTBEAT + RESOURCE.replace("up\n", "more\nfails = start\n"))
    assert adapter.restart("svc", "fs#1", "2/2") == 1


def test_a_restart_of_a_service_whose_file_is_bad_fails_with_its_line(site):
    """Nothing is started."""
    site.service("svc", BASE + HEARTBEAT + RESOURCE + "nonsense = 1\n")
    assert AgentAdapter(site.root, "n1", site.loader).restart("svc", "fs#1", "1/1") == 1
    assert any("fs#1.nonsense: unknown keyword" in line for line in site.log)


def test_the_command_before_the_monitor_action_is_run(site):
    """Its output is logged, and its failure."""
    site.service("svc", BASE + "pre_monitor_action = /bin/dump it\n" + HEARTBEAT + RESOURCE)
    adapter = AgentAdapter(site.root, "n1", site.loader)
    site.results["/bin/dump"] = CommandResult(("/bin/dump", "it"), 3, "half of it\n", "")
    assert adapter.prepare("svc") == 3
    assert site.commands == [["/bin/dump", "it"]]
    assert site.log[-1] == "ERROR SVC pre_monitor_action failed with status 3"


def test_what_an_action_has_in_hand_is_told(site):
    """An evaluation in the middle of an action is marked; a copy to other nodes touches nothing."""
    assert not is_in_hand(site.root, "svc")
    with service_lock(site.root, "svc", 0.0, "stop"):
        assert is_in_hand(site.root, "svc")
    assert not is_in_hand(site.root, "svc")
    with service_lock(site.root, "svc", 0.0, "syncnodes"):
        assert not is_in_hand(site.root, "svc")


# -- the command --------------------------------------------------------------------------------------


def test_the_command_is_silent_while_all_is_up(site):
    """Nothing printed, nothing asked of the daemon, exit 0."""
    site.service("svc", BASE + HEARTBEAT + RESOURCE)
    (site.top / "up").touch()
    asked = Asked(site)
    assert (asked.run(), site.log, asked.told) == (0, [], [])


def test_the_command_is_silent_where_the_heartbeat_is_not_up(site):
    """A service that is stopped here by rights is not watched."""
    site.answers["instance"] = {**STARTED, "state": "FROZEN_STOP"}
    site.service("svc", BASE + HEARTBEAT + RESOURCE)
    asked = Asked(site)
    assert (asked.run(), site.log, asked.told) == (0, [], [])


def test_the_command_restarts_first(site):
    """The agents' words."""
    site.service("svc", BASE + HEARTBEAT + RESOURCE + "restart = 1\n")
    asked = Asked(site)
    assert asked.run() == 0
    assert site.log == [
        "INFO SVC restart resource fs#1. try number 1/1",
        "INFO SVC monitored resource fs#1 restarted. abording TOC.",
    ]
    assert asked.told == []


def test_the_command_tells_the_daemon_what_stays_down(site):
    """After the restarts, a second apart; the daemon decides what becomes of the service."""
    site.service("svc", BASE + HEARTBEAT + RESOURCE + "restart = 2\nfails = start\n")
    asked = Asked(site)
    assert asked.run() == 0
    lines = site.log
    assert "INFO SVC restart resource fs#1. try number 2/2" in lines
    assert lines[-2:] == [
        "INFO SVC monitored resource fs#1 is in state down",
        "INFO SVC start monitor action 'freezestop'",
    ]
    assert asked.slept == [1.0]
    assert asked.told == [[["fs#1", "down", ""]]]


def test_without_a_monitor_action_the_command_says_so(site):
    """The agents' words; the daemon is not asked."""
    site.service("svc", BASE + "monitor_action = none\n" + HEARTBEAT + RESOURCE)
    asked = Asked(site)
    assert asked.run() == 0
    assert site.log == ["INFO SVC Would TOC but no (or unknown) resource monitor action set."]
    assert asked.told == []


def test_a_daemon_that_cannot_be_told_is_an_error(site):
    """Nobody is left to believe that the service moves."""
    site.answers["monitor"] = {"ok": False, "error": "it starts"}
    site.service("svc", BASE + HEARTBEAT + RESOURCE)
    with pytest.raises(HbError, match="nothing moves: it starts"):
        Asked(site).run()
