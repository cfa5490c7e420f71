"""What crosses the runner's wire about monitored resources, and what a status document says of them."""

from __future__ import annotations

import json

from opensvc_hb.core.config import MonitorAction, Monitored, Monitoring
from opensvc_hb.core.events import ResourceReport
from opensvc_hb.core.states import Answer
from opensvc_hb.daemon.monitoring_wire import (
    FROZEN_HERE,
    IN_HAND,
    heard_monitoring,
    reports_of,
    told_monitoring,
)

MONITORING = Monitoring(
    (Monitored("fs#1"), Monitored("app#1", 2)), MonitorAction.SWITCH, 60.0, 5, 120.0, prepares=True
)


def test_a_declaration_crosses_as_it_is():
    """Through JSON, with all of it; nothing watched is nothing said."""
    assert heard_monitoring(json.loads(json.dumps(told_monitoring(MONITORING)))) == MONITORING
    assert told_monitoring(Monitoring()) is None
    assert heard_monitoring(None) == Monitoring()


def document(status, log="", **rest):
    resource = {"status": status, "monitor": True, "disable": False, "log": log}
    return {"resources": {"app#1": resource}, "unknown": [], "frozen": False, "in_hand": False, **rest}


def answer(**words):
    [report] = reports_of(document(**words))
    return report


def test_only_up_and_down_are_answers():
    """A warning, nothing, and a probe that broke off are unknown."""
    assert answer(status="up").answer is Answer.UP
    assert answer(status="stdby up").answer is Answer.UP
    assert answer(status="down").answer is Answer.DOWN
    for status in ("warn", "n/a", "undef", "todo", "nonsense"):
        assert answer(status=status).answer is Answer.UNKNOWN, status
    assert answer(status="down", unknown=["app#1"]).answer is Answer.UNKNOWN


def test_what_somebody_has_in_hand_is_not_down():
    """An operator's action, or svcmgr freeze: what is up is up all the same."""
    assert answer(status="down", in_hand=True) == ResourceReport("app#1", Answer.UNKNOWN, IN_HAND)
    assert answer(status="down", frozen=True) == ResourceReport("app#1", Answer.UNKNOWN, FROZEN_HERE)
    assert answer(status="up", in_hand=True).answer is Answer.UP


def test_a_resource_says_why():
    """Its first message, without the level."""
    words = answer(status="down", log="info: docker daemon is not running\ninfo: more\n")
    assert words.detail == "docker daemon is not running"


def test_what_is_not_monitored_or_disabled_is_not_reported():
    """Nothing is said of it."""
    found = document(status="down")
    found["resources"]["app#1"]["disable"] = True
    found["resources"]["fs#1"] = {"status": "down", "monitor": False}
    assert reports_of(found) == ()
