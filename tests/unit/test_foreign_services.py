"""Services driven by scripts alone: scripts run as OpenHA runs them, and who goes through the agent."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
from pathlib import Path

import pytest
from agent_site import BASE, Site

from opensvc_hb.agent import started_mark
from opensvc_hb.agent.foreign import ForeignService, NodeAdapter, declare_states, foreign_line
from opensvc_hb.agent.foreign_script import run_script
from opensvc_hb.cli import svcmgr
from opensvc_hb.core.config import Service
from opensvc_hb.core.effects import RunAction
from opensvc_hb.core.events import ActionFinished, Outcome
from opensvc_hb.core.states import ActionVerb, Avail
from opensvc_hb.daemon.configuration import ClusterFiles, combine
from opensvc_hb.daemon.runner import Declared, Runner
from opensvc_hb.daemon.settings import Settings
from opensvc_hb.services_table import read_services, services_path

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
HEARTBEAT = "[hb#0]\ntype = OpenHA\n"


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.fixture
def adapter(site):
    return NodeAdapter(site.root, site.node, site.loader)


def is_gone(pid):
    """Tell whether a process does nothing any more; whoever inherited it may reap it late."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def make_script(site, name, body, interpreter="#!/bin/sh"):
    path = site.top / name
    path.write_text(f'{interpreter}\necho "{name} $*" >> {site.top}/calls\n{body}\n')
    path.chmod(0o755)
    return str(path)


def calls(site):
    path = site.top / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def services(site, *lines):
    site.root.hb.mkdir(parents=True, exist_ok=True)
    services_path(site.root).write_text("".join(f"{line}\n" for line in lines))


def registry(site, body="exit 0", check="/bin/true"):
    services(site, f"registry {make_script(site, 'registry.sh', body)} n1 n2 {check}")


def test_a_start_is_check_script_and_script_a_stop_is_the_script(site, adapter):
    """Each is called with one word; what the last of them made of it is what the service is."""
    registry(site, check=make_script(site, "check.sh", "exit 0"))
    assert adapter.avail("registry", evaluate_apps=True) == "down"
    assert adapter.start("registry") == 0
    assert calls(site) == ["check.sh start", "registry.sh start"]
    assert adapter.avail("registry", evaluate_apps=True) == "up"
    assert adapter.examine("registry", was_started=True)[1]["avail"] == "up"
    assert NodeAdapter(site.root, "n1", site.loader).avail("registry", evaluate_apps=False) == "up"
    assert adapter.announce("registry") == 0
    assert adapter.stop("registry") == 0
    assert calls(site) == ["registry.sh stop"]
    assert adapter.status("registry")["avail"] == "down"


def test_a_check_that_fails_keeps_the_script_from_being_started(site, adapter):
    """The exit status is the check's."""
    registry(site, check=make_script(site, "check.sh", "exit 3"))
    assert adapter.start("registry") == 3
    assert calls(site) == ["check.sh start"]
    assert f"ERROR REGISTRY {site.top}/check.sh exited with 3" in site.log
    assert adapter.avail("registry", evaluate_apps=True) == "down"


def test_a_start_that_fails_is_not_up_and_a_stop_that_fails_still_is(site, adapter):
    """Nobody looks: the last whole start or stop tells."""
    registry(site, "test -e $(dirname $0)/sick && exit 7 || exit 0")
    sick = site.top / "sick"
    assert adapter.start("registry") == 0
    sick.touch()
    assert adapter.stop("registry") == 7
    assert adapter.avail("registry", evaluate_apps=True) == "up"
    assert adapter.start("registry") == 7
    assert NodeAdapter(site.root, "n1", site.loader).avail("registry", evaluate_apps=True) == "down"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("exit 0", 0, []),
        ("exit 255", 255, ["{script} exited with 255"]),
        ("kill -TERM $$", 143, ["{script} was terminated by signal 15 (SIGTERM)"]),
    ],
)
def test_ends_of_scripts_have_openhas_words(site, body, status, words):
    """Exit 0 is success, all else is not."""
    script = make_script(site, "s.sh", body)
    end = run_script(script, "start", site.top / "out", lambda line: None)
    assert (end.status, list(end.words)) == (status, [word.format(script=script) for word in words])


def test_what_cannot_be_executed_is_status_255(site):
    """Not there; no interpreter's line: no shell is asked to guess."""
    plain = site.top / "plain"
    plain.write_text("exit 0\n")
    plain.chmod(0o755)
    for script, why in (("/nonexistent", "No such file or directory"), (str(plain), "Exec format error")):
        end = run_script(script, "start", site.top / "out", lambda line: None)
        assert (end.status, end.words) == (
            255,
            (f"Error: exec failed: {why}", f"{script} exited with 255"),
        )


def test_output_is_logged_and_a_daemon_left_behind_is_not_waited_for(site):
    """Lines of both streams come into the log; the one left behind may write without harm."""
    body = "echo one; echo two >&2; (sleep 300; echo late) & echo $! > $(dirname $0)/pid; printf three"
    lines = []
    end = run_script(make_script(site, "s.sh", body), "start", site.top / "out", lines.append)
    left = int((site.top / "pid").read_text())
    try:
        assert (end.status, lines) == (0, ["one", "two", "three"])
        assert os.readlink(f"/proc/{left}/fd/1") == str(site.top / "out")
    finally:
        os.kill(left, signal.SIGKILL)


def test_lines_are_logged_while_the_script_runs(site):
    """A start of ten minutes is followed in the log."""
    gate = site.top / "gate"
    os.mkfifo(gate)
    opened = []

    def say(line):
        if line == "before":
            opened.append(os.open(gate, os.O_RDWR))  # lets the script go on

    script = make_script(site, "s.sh", f"echo before; : < {gate}; echo after")
    assert run_script(script, "start", site.top / "out", say, look_s=0.02).status == 0
    assert opened
    os.close(opened[0])


def test_signals_and_marks_of_a_script(site, adapter):
    """Nothing is ignored in it, unlike in OpenHA; the guardian's marks are there."""
    out = site.top / "seen"
    registry(
        site, f"grep SigIgn /proc/$$/status > {out}; env | grep OPENSVC_HB | sort >> {out}; pwd >> {out}"
    )
    assert adapter.start("registry") == 0
    ignored, *rest = out.read_text().splitlines()
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        assert not int(ignored.split()[1], 16) >> (number - 1) & 1
    assert rest == [
        "OPENSVC_HB_ACTION=start",
        f"OPENSVC_HB_ROOT={site.top}",
        "OPENSVC_HB_SERVICE=registry",
        "/",
    ]


def test_output_that_cannot_be_kept_costs_no_start(site):
    """Where its folder should be is a file: the output is lost, and that is said."""
    (site.top / "file").touch()
    said = []
    end = run_script(make_script(site, "s.sh", "echo x"), "start", site.top / "file/out", said.append)
    assert end.status == 0
    assert said == [f"its output is lost: {site.top}/file/out: File exists"]


def test_services_are_declared_in_the_order_of_the_file(site, adapter):
    """The agent's own that the file does not name come behind it; other nodes' services do not."""
    site.service("alpha", BASE + HEARTBEAT)
    site.service("web", BASE + HEARTBEAT)
    services(
        site,
        "registry /r.sh n2 n1 /bin/true",
        "web /etc/opensvc/web.cluster n1 n2 /bin/true",
        "far /f.sh n3 n4 /bin/true",
    )
    declared = adapter.declare()
    assert [(d.name, d.svcname, d.nodes) for d in declared.services] == [
        ("registry", "registry", ("n2", "n1")),
        ("web", "web", ("n1", "n2")),
        ("alpha", "alpha", ("n1", "n2")),
    ]
    assert (declared.services[0].start_limit_s, declared.services[0].stop_limit_s) == (600.0, 600.0)
    assert declared.errors == ()


def test_a_cluster_link_goes_through_the_agent_without_a_heartbeat_section(site, adapter):
    """The line gives it to the heartbeat, under the line's name; its own file gives the limits."""
    site.service("svc", BASE + "start_timeout = 44\n[fs#1]\ntype = fake\nfile = FILE:up\n")
    link = site.top / "svc.cluster"
    link.symlink_to("/usr/bin/svcmgr")
    services(site, f"web {link} n2 n1 /bin/true")
    (declared,) = adapter.declare().services
    assert (declared.name, declared.svcname, declared.nodes) == ("web", "svc", ("n2", "n1"))
    assert declared.start_limit_s == 44.0
    assert foreign_line(site.root, "svc") is None
    assert adapter.start("svc") == 0
    assert site.journal == ["start fs#1"]
    assert adapter.avail("svc", evaluate_apps=True) == "up"


def test_a_link_without_its_file_is_said(site, adapter):
    """It is no foreign service: its script would only be the agent."""
    link = site.top / "svc.cluster"
    link.symlink_to("/usr/bin/svcmgr")
    services(site, f"web {link} n2 n1 /bin/true")
    declared = adapter.declare()
    assert (declared.services, declared.errors) == ((), ("svc: service does not exist",))


def test_file_and_line_that_disagree_are_said_and_the_file_counts(site, adapter):
    """The nodes in another order, and the agent's name in place of the heartbeat's."""
    site.service("svc", BASE + HEARTBEAT + "name = web\n")
    services(site, "web /x.sh n2 n1 /bin/true", "svc /y.sh n1 n2 /bin/true")
    declared = adapter.declare()
    assert [(d.name, d.nodes) for d in declared.services] == [("web", ("n1", "n2"))]
    assert [error.partition("hb/")[2] for error in declared.errors] == [
        "services:1: primary, secondary: n2, n1, but the service's own file, which counts, begins its nodes "
        "with n1, n2: make them equal",
        "services:2: service: svc is web in the heartbeat: write web here, on every node",
    ]


def test_a_wrong_services_file_leaves_the_agents_services(site, adapter):
    """Every mistake is told; what can be declared is."""
    site.service("web", BASE + HEARTBEAT)
    services(site, "registry /r.sh n1")
    declared = adapter.declare()
    assert [d.name for d in declared.services] == ["web"]
    assert "services:1: columns: 3 columns" in declared.errors[0]


def test_a_service_that_the_agent_lost_for_a_moment_stays(site):
    """The daemon saw it in the file, the agent, a moment later, did not."""
    services(site, "registry /r.sh n1 n2 /bin/true", "moved /m.sh n3 n2 /bin/true")
    lines = read_services(services_path(site.root))
    files = ClusterFiles(("n1", "n2"), (), None, Settings(), (), lines)
    before = {name: Service(name, name, ("n1", "n2")) for name in ("registry", "moved", "gone")}
    loaded = combine(site.root, "n1", files, Declared((), ()), before)
    assert list(loaded.config.services) == ["registry"]


def test_a_service_whose_file_is_bad_stays_and_another_whose_name_begins_alike_does_not(site):
    """`db2.env` cannot be read, and `db` has just lost its heartbeat section."""
    files = ClusterFiles(("n1", "n2"), (), None, Settings())
    before = {name: Service(name, name, ("n1", "n2")) for name in ("db", "db2", "etc")}
    for name in before:
        site.service(name, BASE)
    error = f"{site.root.etc}/db2.env:3: hb#0.type: must be OpenHA"
    loaded = combine(site.root, "n1", files, Declared((), (error,)), before)
    assert (list(loaded.config.services), loaded.is_whole) == (["db2"], False)


def test_unknown_nodes_of_a_line_are_said_with_the_file(site, adapter):
    """The line is at fault, no file of the agent's."""
    services(site, "registry /r.sh n1 n3 /bin/true")
    files = ClusterFiles(("n1", "n2"), (), None, Settings(), (), read_services(services_path(site.root)))
    declared = tuple(Service(d.name, d.svcname, d.nodes) for d in adapter.declare().services)
    loaded = combine(site.root, "n1", files, Declared(declared, ()), {})
    assert loaded.problems == (
        "registry: etc/opensvc/hb/services: n3 not in etc/opensvc/hb/nodes: "
        "the heartbeat does not care for it",
    )


def test_force_start_and_force_stop_are_kept(site, adapter):
    """They run nothing; the mark follows the daemon's word, and only for foreign services."""
    registry(site)
    site.service("web", BASE + HEARTBEAT)
    declare_states(site.root, {"registry": "STARTED", "web": "STARTED"})
    assert adapter.avail("registry", evaluate_apps=True) == "up"
    assert not started_mark.is_marked(site.root, "web")
    declare_states(site.root, {"registry": "FROZEN_STOP"})
    assert adapter.avail("registry", evaluate_apps=True) == "up"
    declare_states(site.root, {"registry": "STOPPED"})
    assert adapter.avail("registry", evaluate_apps=True) == "down"


def test_by_hand_a_foreign_service_needs_cluster(site, capsys, monkeypatch):
    """The guardian's stop is `svcmgr -s SVC --cluster stop`; without the option it is refused."""
    registry(site)
    monkeypatch.setenv("OSVC_ROOT", str(site.top))
    monkeypatch.setenv("OSVC_NODENAME", "n1")
    started_mark.set_mark(site.root, "registry")
    assert svcmgr.main(["-s", "registry", "stop"], "svcmgr") == 1
    assert "managed by a clusterware" in capsys.readouterr().err
    assert svcmgr.main(["-s", "registry", "--cluster", "startip"], "svcmgr") == 1
    assert calls(site) == []
    assert svcmgr.main(["-s", "registry", "--cluster", "stop"], "svcmgr") == 0
    assert calls(site) == ["registry.sh stop"]
    assert not started_mark.is_marked(site.root, "registry")


def test_one_action_at_a_time(site):
    """A second one is refused while the first has the service's lock."""
    registry(site)
    line = foreign_line(site.root, "registry")
    inner = []

    def run(script, verb, output, say):
        log = site.loader.log("registry")
        inner.append(ForeignService(site.root, line, log).act("stop", wait_lock_s=0.0))
        return run_script(script, verb, output, say)

    assert ForeignService(site.root, line, site.loader.log("registry"), run).act("start") == 0
    assert inner == [1]
    assert calls(site) == ["registry.sh start"]


# -- inside the daemon's runner: real processes, the real factory ---------------------------


@pytest.fixture
def inbox():
    return queue.Queue()


@pytest.fixture
def runner(site, inbox):
    environment = {
        "OSVC_ROOT": str(site.top),
        "OSVC_NODENAME": site.node,
        "PYTHONPATH": str(REPOSITORY),
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    }
    made = Runner(inbox, logging.getLogger("test.foreign_runner"), environment)
    made.start()
    yield made
    made.close()


def finished(runner, inbox, verb, action_id, limit_s=DEADLINE_S):
    runner.run(RunAction("registry", "registry", action_id, verb, limit_s))
    while True:
        event = inbox.get(timeout=DEADLINE_S)
        if isinstance(event, ActionFinished) and event.action_id == action_id:
            return event


def test_the_daemons_runner_drives_a_foreign_service(site, runner, inbox, caplog):
    """Start, verify, stop; its output is logged under the service's name."""
    registry(site, "echo hello from $1")
    with caplog.at_level(logging.INFO):
        event = finished(runner, inbox, ActionVerb.START, 1)
        assert (event.outcome, event.avail, event.exit_status) == (Outcome.DONE, Avail.UP, 0)
    assert any(
        record.name == "service.registry" and record.getMessage().endswith("hello from start")
        for record in caplog.records
    )
    assert finished(runner, inbox, ActionVerb.VERIFY, 2).avail is Avail.UP
    event = finished(runner, inbox, ActionVerb.STOP, 3)
    assert (event.outcome, event.avail) == (Outcome.DONE, Avail.DOWN)


def test_a_script_that_ignores_time_is_ended_at_the_limit(site, runner, inbox):
    """The script and what it started are gone; the start has failed, and nothing is up."""
    body = f"echo $$ > {site.top}/pid; exec {sys.executable} -c 'import time; time.sleep(600)'"
    registry(site, body)
    event = finished(runner, inbox, ActionVerb.START, 1, limit_s=3.0)
    assert event.outcome is Outcome.TIMED_OUT
    assert is_gone(int((site.top / "pid").read_text()))
    assert finished(runner, inbox, ActionVerb.VERIFY, 2).avail is Avail.DOWN
