"""The agent inside the daemon's runner: real processes, a real service, the real adapter."""

from __future__ import annotations

import logging
import queue
from pathlib import Path

import pytest
from agent_site import BASE, Site

from opensvc_hb.core.config import Monitored
from opensvc_hb.core.effects import RunAction
from opensvc_hb.core.events import ActionFinished, Outcome
from opensvc_hb.core.states import ActionVerb, Avail
from opensvc_hb.daemon.runner import Runner

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
TEXT = BASE + "[hb#0]\ntype = OpenHA\nname = web\n[fs#1]\ntype = fake\nfile = FILE:up\n"


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.fixture
def inbox():
    return queue.Queue()


@pytest.fixture
def runner(site, inbox):
    environment = {
        "OSVC_ROOT": str(site.top),
        "OSVC_NODENAME": site.node,
        "PYTHONPATH": str(REPOSITORY),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    }
    made = Runner(inbox, logging.getLogger("test.agent_runner"), environment)
    made.start()
    yield made
    made.close()


def finished(runner, inbox, verb, action_id):
    runner.run(RunAction("web", "svc", action_id, verb, DEADLINE_S))
    while True:
        event = inbox.get(timeout=DEADLINE_S)
        if isinstance(event, ActionFinished) and event.action_id == action_id:
            return event


def test_a_resource_is_restarted_and_the_command_before_a_move_is_run(site, runner, inbox):
    """Through the whole runner: the words of the order arrive, and its exit status comes back."""
    script = site.top / "before"
    script.write_text(f"#!/bin/sh\ntouch {site.top}/prepared\n")
    script.chmod(0o755)
    site.service("svc", TEXT.replace("[hb#0]", f"pre_monitor_action = {script}\n[hb#0]") + "monitor = true\n")
    runner.run(RunAction("web", "svc", 1, ActionVerb.RESTART, DEADLINE_S, rid="fs#1", attempt="1/2"))
    event = inbox.get(timeout=DEADLINE_S)
    assert (event.outcome, event.verb, event.avail) == (Outcome.DONE, ActionVerb.RESTART, Avail.UNKNOWN)
    assert site.journal == ["start fs#1"]
    assert "try number 1/2" in (site.root.log / "svc.log").read_text()
    runner.run(RunAction("web", "svc", 2, ActionVerb.PREPARE, DEADLINE_S))
    event = inbox.get(timeout=DEADLINE_S)
    assert (event.outcome, event.verb) == (Outcome.DONE, ActionVerb.PREPARE)
    assert (site.top / "prepared").exists()


def test_what_is_monitored_is_declared(site, runner):
    """The daemon learns which resources to watch with the rest of a service's declaration."""
    site.service("svc", TEXT + "monitor = true\nrestart = 2\n")
    answers = queue.Queue()
    runner.declare(answers.put)
    [service] = answers.get(timeout=DEADLINE_S).services
    assert service.monitoring.resources == (Monitored("fs#1", 2),)


def test_a_service_is_started_verified_announced_and_stopped(site, runner, inbox):
    """Each verb ends with what the agent finds of the service afterwards."""
    site.service("svc", TEXT)
    results = []
    for number, verb in enumerate(
        (ActionVerb.VERIFY, ActionVerb.START, ActionVerb.VERIFY, ActionVerb.ANNOUNCE, ActionVerb.STOP),
        start=1,
    ):
        event = finished(runner, inbox, verb, number)
        results.append((verb, event.outcome, event.avail))
        assert event.exit_status == 0
    assert [(verb, avail) for verb, _, avail in results if verb is not ActionVerb.ANNOUNCE] == [
        (ActionVerb.VERIFY, Avail.DOWN),
        (ActionVerb.START, Avail.UP),
        (ActionVerb.VERIFY, Avail.UP),
        (ActionVerb.STOP, Avail.DOWN),
    ]
    assert {outcome for _, outcome, _ in results} == {Outcome.DONE}
    assert site.journal == ["start fs#1", "announce fs#1", "stop fs#1"]


def test_a_refused_file_is_a_failed_start(site, runner, inbox, caplog):
    """The daemon learns that nothing was started, and the log says why."""
    site.service("svc", TEXT + "nosuch = 1\n")
    with caplog.at_level(logging.INFO):
        event = finished(runner, inbox, ActionVerb.START, 1)
    assert (event.outcome, event.avail, event.exit_status) == (Outcome.FAILED, Avail.UNKNOWN, 1)
    assert "fs#1.nosuch: unknown keyword" in caplog.text
    assert event.detail.startswith("exit status 1: SVC ")
    assert event.detail.endswith("fs#1.nosuch: unknown keyword")
