"""svcmgr switch and freezestop: the heartbeat moves what it drives, ssh the rest."""

from __future__ import annotations

import pytest
from agent_site import BASE, Site

from opensvc_hb.agent import frozen
from opensvc_hb.agent.actions import Options
from opensvc_hb.agent.remote import ssh_argv
from opensvc_hb.agent.resource import CommandResult
from opensvc_hb.cli.handover import Handover

FS = "[fs#1]\ntype = fake\nfile = FILE:up\n"
HEARTBEAT = "[hb#0]\ntype = OpenHA\n"
START_THERE = list(ssh_argv("n2", ("svcmgr", "-s", "svc", "start")))


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def command(site, to=None, **options):
    return Handover(site.loader, Options(**options), to)


def test_a_service_without_a_heartbeat_is_stopped_here_and_started_there(site):
    """In this order; what the other node's svcmgr says is passed on."""
    site.service("svc", BASE + FS)
    (site.top / "up").touch()
    site.results["ssh"] = CommandResult(("ssh",), 0, "", "")
    assert command(site, "N2").switch("svc") == 0
    assert (site.journal, site.commands) == (["stop fs#1"], [START_THERE])
    assert site.log == ["INFO SVC exec 'svcmgr -s svc start' on node n2"]


def test_a_stop_that_fails_ends_a_switch(site):
    """Nothing is started elsewhere while it may run here."""
    site.service("svc", BASE + FS + "fails = stop\n")
    (site.top / "up").touch()
    assert command(site, "n2").switch("svc") == 1
    assert site.commands == []


@pytest.mark.parametrize(
    ("status", "stderr", "said"),
    [
        (255, "ssh: connect to host n2: refused\n", " (ssh: connect to host n2: refused)"),
        (1, "12:00:00 ERROR   SVC.FS#1 broken\n", ""),
    ],
)
def test_a_start_that_fails_there_is_told_here(site, capfd, status, stderr, said):
    """Whether ssh failed or the service: it is stopped here, and somebody must act."""
    site.service("svc", BASE + FS)
    site.results["ssh"] = CommandResult(("ssh",), status, "", stderr)
    assert command(site, "n2").switch("svc") == 1
    assert site.log[-1] == f"ERROR SVC start on node n2 failed{said}: the service is stopped here"
    assert capfd.readouterr().err == stderr


@pytest.mark.parametrize(
    ("to", "said"),
    [
        (None, "a destination node must be provided for the switch action"),
        ("n9", "destination node n9 is not in service node list"),
        ("n1", "destination node n1 is this node"),
    ],
)
def test_a_switch_needs_another_node_of_the_service(site, to, said):
    """Nothing is stopped before that is known."""
    site.service("svc", BASE + FS)
    (site.top / "up").touch()
    assert command(site, to).switch("svc") == 1
    assert (site.log, site.journal, site.commands) == ([f"ERROR SVC {said}"], [], [])


@pytest.mark.parametrize("cluster", [False, True])
def test_the_heartbeat_is_asked_to_move_what_it_drives(site, cluster):
    """With --cluster and without; with --to a node of the service and without."""
    asked = []

    def ask(request):
        asked.append(request)
        return {"ok": True, "text": "svc: switched"}

    site.service("svc", BASE + FS + HEARTBEAT)
    site.ask = ask
    assert command(site, cluster=cluster).switch("svc") == 0
    assert command(site, "n2", cluster=cluster, force=True).switch("svc") == 0
    assert command(site, cluster=cluster).freezestop("svc") == 0
    assert command(site, "n9", cluster=cluster).switch("svc") == 1
    words = [(one["request"], one["verb"], one["services"], one["force"]) for one in asked]
    assert words == [
        ("command", "switch", ["svc"], False),
        ("command", "switch", ["svc"], True),
        ("command", "freeze-stop", ["svc"], False),
    ]
    assert site.log[0] == "INFO SVC svc: switched"
    assert (site.journal, site.commands) == ([], [])


def test_what_the_heartbeat_refuses_is_an_error(site):
    """In its own words; also that it does not run."""
    site.service("svc", BASE + FS + HEARTBEAT)
    site.answers["command"] = {"ok": False, "code": 5, "error": "refused: the peer is frozen"}
    assert command(site).switch("svc") == 1
    assert site.log == ["ERROR SVC refused: the peer is frozen"]


def test_without_a_daemon_it_is_said_how_to_start_it(site):
    """The real question, on a root where nobody listens."""
    from dataclasses import replace

    site.service("svc", BASE + FS + HEARTBEAT)
    handover = Handover(replace(site.loader, ask=None), Options(), None)
    assert handover.switch("svc") == 1
    assert "systemctl start opensvc-hb" in site.log[0]


def test_freezestop_is_the_heartbeat_s(site):
    """Without one the operator's own words are stop and freeze."""
    site.service("svc", BASE + FS)
    assert command(site).freezestop("svc") == 1
    assert site.log == ["ERROR SVC no heartbeat drives this service: use stop, then freeze"]


def test_a_frozen_service_and_one_under_maintenance_are_not_moved(site):
    """Frozen: by nobody; all hb disabled: not with --cluster."""
    site.service("svc", BASE + FS + HEARTBEAT + "disable = true\n")
    assert command(site, "n2", cluster=True).switch("svc") == 1
    assert "maintenance mode" in site.log[0]
    frozen.freeze(site.root, "svc")
    assert command(site, "n2").switch("svc") == 1
    assert site.log == ["INFO SVC Abort action for frozen service"]


def test_a_dry_run_says_who_would_do_what(site):
    """Neither the daemon nor ssh hears of it."""
    site.service("svc", BASE + FS)
    site.service("ha", BASE + FS + HEARTBEAT)
    (site.top / "up").touch()
    assert command(site, "n2", dry_run=True).switch("svc") == 0
    assert site.log == ["INFO SVC.FS#1 stop fake up", "INFO SVC exec 'svcmgr -s svc start' on node n2"]
    assert command(site, dry_run=True).switch("ha") == 0
    assert site.log == ["INFO HA ask the heartbeat: hbmgr switch ha"]
    assert (site.journal, site.commands) == ([], [])
