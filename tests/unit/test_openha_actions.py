"""`service -A`: OpenHA's whole table of actions, its words, streams and exit codes; and what we refuse."""

from __future__ import annotations

import io
import itertools

import pytest
from openha_fakes import FakeDaemon, FakeService, fake_console, write_cluster

from opensvc_hb.cli.openha_actions import Action, Target, objection, script_words
from opensvc_hb.cli.openha_console import Console
from opensvc_hb.cli.openha_service import ServiceCommand
from opensvc_hb.cli.openha_view import ServiceView
from opensvc_hb.core.states import State
from opensvc_hb.paths import Root

ALL = [state for state in State if state is not State.FROZEN_START]

MAY_BEGIN = {
    Action.STOP: (lambda own, peer: own in (2, 8)),
    Action.START: (lambda own, peer: own in (0, 8) and peer in (0, 6, 8)),
    Action.FREEZE_STOP: (lambda own, peer: own in (0, 2, 4, 5)),
    Action.FREEZE_START: (lambda own, peer: own == 2 or (own == 0 and peer in (0, 6, 8))),
    Action.UNFREEZE: (lambda own, peer: own == 6),
    Action.FORCE_STOP: (lambda own, peer: True),
    Action.FORCE_START: (lambda own, peer: True),
}
"""OpenHA's table by number; START_READY as frozen started is FROZEN_START here, and tried apart."""


def command(tmp_path, daemon, has_terminal=True, services=""):
    write_cluster(tmp_path)
    if services:
        (tmp_path / "etc/opensvc/hb/services").write_text(services)
    console, stream = fake_console(has_terminal)
    return ServiceCommand(Root(tmp_path), "n1", console, daemon.ask, "Usage: it"), stream


def daemon_with(**states):
    """A daemon on n1 with services in (own state, the other node's)."""
    services = {
        name: FakeService(["n1", "n2"], {"n1": own, "n2": peer}) for name, (own, peer) in states.items()
    }
    return FakeDaemon("n1", services)


@pytest.mark.parametrize("action", Action)
def test_an_action_may_begin_in_the_states_of_openhas_table_and_no_other(action):
    """All hundred pairs of states for each of the seven actions."""
    for own, peer in itertools.product(ALL, ALL):
        service = ServiceView("svc", "svc", "n1", "n2", (own, peer), is_ours=True)
        wrong = objection(action, Target(service, own, peer))
        assert (wrong == "") == MAY_BEGIN[action](int(own), int(peer)), (action, own, peer, wrong)
        if wrong:
            assert own.name in wrong


def test_what_is_frozen_started_is_shown_as_openha_shows_it_and_can_be_unfrozen(tmp_path):
    """FROZEN_START is OpenHA's START_READY: unfreeze leaves it, start and stop are refused."""
    daemon = daemon_with(svc=("FROZEN_START", "STOPPED"))
    service, stream = command(tmp_path, daemon)
    assert service.run(["-A", "svc", "stop"]) == 255
    assert service.run(["-A", "svc", "unfreeze"]) == 0
    assert stream.getvalue().splitlines() == [
        "Cannot stop svc: service not in correct state (partner node is STOPPED, we are START_READY)",
        "Ready to UNFREEZE svc: we are (START_READY)",
        "Service svc UNFROZEN",
    ]


def test_an_offer_to_start_cannot_be_unfrozen(tmp_path):
    """OpenHA would write STARTED although nothing runs."""
    service, stream = command(tmp_path, daemon_with(svc=("START_READY", "STOPPED")))
    assert service.run(["-A", "svc", "unfreeze"]) == 255
    assert stream.getvalue() == "Cannot UNFREEZE svc: not in FREEZE state (we are START_READY)\n"


def test_a_start_while_it_is_about_to_start_says_why_not(tmp_path):
    """OpenHA fails in silence there."""
    service, stream = command(tmp_path, daemon_with(svc=("START_READY", "STOPPED")))
    assert service.run(["-A", "svc", "start"]) == 255
    assert "we are START_READY" in stream.getvalue()


def test_without_a_terminal_an_action_prints_nothing_and_its_exit_code_tells(tmp_path):
    """OpenHA's rule: log messages are for terminals; `FROZEN-START` is no log message."""
    service, stream = command(tmp_path, daemon_with(svc=("STARTED", "STOPPED")), has_terminal=False)
    assert service.run(["-A", "svc", "start"]) == 255
    assert service.run(["-A", "nosuch", "start"]) == 255
    assert service.run(["-A", "svc", "explode"]) == 255
    assert service.run(["-A", "svc", "stop"]) == 0
    assert stream.getvalue() == ""
    assert service.run(["-A", "svc", "freeze-start"]) == 0
    assert stream.getvalue() == "Service svc FROZEN-START\n"


def test_errors_go_to_standard_error_and_notices_to_standard_output(tmp_path):
    """Level err and worse on one stream, the rest on the other."""
    write_cluster(tmp_path)
    daemon = daemon_with(svc=("STARTED", "STOPPED"))
    daemon.stop_fails, daemon.detail = True, "/s.sh exited with 4"
    out, err = io.StringIO(), io.StringIO()
    service = ServiceCommand(Root(tmp_path), "n1", Console(out, err, True), daemon.ask, "")
    assert service.run(["-A", "svc", "freeze-stop"]) == 255
    assert out.getvalue().splitlines() == [
        "Ready to FREEZE, we are STARTED",
        "Ready to stop svc: partner node is STOPPED we are STARTED",
    ]
    assert err.getvalue().splitlines() == [
        "/s.sh exited with 4",
        "failed to stop svc",
        "error in stopping service svc",
    ]


@pytest.mark.parametrize(
    ("detail", "words"),
    [
        ("exit status 4: FOO /usr/local/sbin/foo.sh exited with 4", "/usr/local/sbin/foo.sh exited with 4"),
        ("/s.sh was terminated by signal 9 (SIGKILL)", "/s.sh was terminated by signal 9"),
        ("fs#1: mount failed", "fs#1: mount failed"),
        ("", ""),
    ],
)
def test_how_a_script_ended_is_said_in_openhas_words(detail, words):
    """What the agent says of its resources stays as it is."""
    assert script_words(detail) == words


@pytest.mark.parametrize("failing", ["/c.sh", "/s.sh"])
def test_a_failed_check_is_told_from_a_failed_start(tmp_path, failing):
    """By the script that failed; the check of a service that starts anyway was OK."""
    daemon = daemon_with(svc=("STOPPED", "STOPPED"))
    daemon.start_fails, daemon.detail = True, f"exit status 7: SVC {failing} exited with 7"
    service, stream = command(tmp_path, daemon, services="svc /s.sh n1 n2 /c.sh\n")
    assert service.run(["-A", "svc", "start"]) == 255
    said = [f"{failing} exited with 7"]
    if failing == "/c.sh":
        said += ["Service svc check script failed. State is now START_FAILED"]
    else:
        said = ["Check script for service svc OK", *said, "failed to start svc. State is now start-failed"]
    assert stream.getvalue().splitlines()[1:] == said


def test_an_action_on_all_services_exits_0_when_all_are_done(tmp_path):
    """OpenHA exits 255 always; a service of other nodes is not ours to act on."""
    daemon = daemon_with(one=("STOPPED", "STARTED"), two=("STOPPED", "STARTED"))
    others = "alien /s.sh a b /bin/true\n"
    service, stream = command(tmp_path, daemon, services=others)
    assert service.run(["-A", "freeze-stop"]) == 0
    assert sorted(stream.getvalue().splitlines()[2:]) == [
        "Service one FROZEN-STOP",
        "Service two FROZEN-STOP",
    ]
    assert service.run(["-A", "freeze-stop"]) == 255


def test_an_action_on_all_services_goes_on_when_the_daemon_fails_on_one(tmp_path):
    """The others are done, and the exit code tells that one is not."""
    daemon = daemon_with(one=("STARTED", "STOPPED"), two=("STOPPED", "STOPPED"))
    daemon.answers["force-start"] = {"ok": False, "code": 5, "error": "two: n2 is alive: use --force"}
    service, stream = command(tmp_path, daemon)
    assert service.run(["-A", "force-start"]) == 255
    assert "two: n2 is alive: use --force (hbmgr force-start" in stream.getvalue()


def test_a_service_of_the_agent_is_not_forced_and_a_foreign_one_is(tmp_path):
    """OpenHA's force-stop looks at no resources: there is nobody to ask about a foreign service's."""
    daemon = daemon_with(own=("STARTED", "STOPPED"), foreign=("STARTED", "STOPPED"))
    service, _ = command(tmp_path, daemon, services="foreign /s.sh n1 n2 /bin/true\n")
    for name in ("own", "foreign"):
        assert service.run(["-A", name, "force-stop"]) == 0
    forced = {m["services"][0]: m["force"] for m in daemon.asked if m["request"] == "command"}
    assert forced == {"own": False, "foreign": True}


def test_a_line_whose_script_is_a_link_to_svcmgr_is_no_foreign_service(tmp_path):
    """Its svcname's own file tells what it is, and the agent cares for it."""
    script = tmp_path / "web.cluster"
    script.symlink_to("/usr/bin/svcmgr")
    daemon = daemon_with(web=("STARTED", "STOPPED"))
    service, _ = command(tmp_path, daemon, services=f"web {script} n1 n2 /bin/true\n")
    assert service.run(["-A", "web", "force-stop"]) == 0
    assert daemon.asked[-1]["force"] is False


def test_what_the_daemon_refuses_is_said_whatever_standard_input_is(tmp_path):
    """A refusal of ours is an error that OpenHA does not know: always printed, with what to do."""
    daemon = daemon_with(svc=("STARTED", "STOPPED"))
    why = "svc: resources are up here: stop them first, or use --force"
    daemon.answers["force-stop"] = {"ok": False, "code": 5, "error": why}
    service, stream = command(tmp_path, daemon, has_terminal=False)
    assert service.run(["-A", "svc", "force-stop"]) == 255
    assert stream.getvalue() == f"{why} (hbmgr force-stop svc --force)\n"


def test_a_start_that_rolls_back_is_no_failure_but_a_freeze_start_is_one(tmp_path):
    """OpenHA calls the service frozen started although it is stopped."""
    for word, code in (("start", 0), ("freeze-start", 255)):
        daemon = daemon_with(svc=("STOPPED", "STOPPED"))
        daemon.rolls_back, daemon.becomes = True, "STARTING"
        service, stream = command(tmp_path, daemon)
        assert service.run(["-A", "svc", word]) == code
        assert "rollback service svc state to STOPPED" in stream.getvalue()
        assert ("is not frozen" in stream.getvalue()) == (word == "freeze-start")


def test_a_start_that_the_rules_hold_back_says_so(tmp_path):
    """Nothing moved on either node: that is no rollback."""
    daemon = daemon_with(svc=("STOPPED", "STOPPED"))
    daemon.answers["start"] = {"ok": False, "code": 5, "error": "svc: not started: the peer may be alive"}
    service, stream = command(tmp_path, daemon)
    assert service.run(["-A", "svc", "start"]) == 255
    assert stream.getvalue().splitlines()[-1] == "svc: not started: the peer may be alive"


def test_the_agents_name_of_a_service_is_understood(tmp_path):
    """OpenHA knows one name alone; both are unique here."""
    daemon = daemon_with(web=("STARTED", "STOPPED"))
    daemon.services["web"].svcname = "web.example.com"
    service, stream = command(tmp_path, daemon)
    assert service.run(["-A", "web.example.com", "stop"]) == 0
    assert "Service web successfully stopped" in stream.getvalue()
