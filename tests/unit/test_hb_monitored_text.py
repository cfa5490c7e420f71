"""Monitored resources on the status page: the alarm, the row, and the reason of a frozen side."""

from __future__ import annotations

from dataclasses import replace

from core_builders import NOW, make_config, make_entry, make_instance, make_node, make_peer, settled

from opensvc_hb.cli.hb_text import status_text
from opensvc_hb.core.config import Monitored, Monitoring
from opensvc_hb.core.events import ResourceReport, ResourcesReported
from opensvc_hb.core.monitoring import MONITOR
from opensvc_hb.core.node_state import Freeze
from opensvc_hb.core.states import Answer, Avail, State
from opensvc_hb.core.step import step
from opensvc_hb.daemon.report import Notices, status_document


def page_of(state):
    """The status page of a node, on one line."""
    return " ".join(status_text(status_document(state, {}, Notices(), NOW)).split())


def node(instance, peer_state=State.FROZEN_STOP):
    config = make_config()
    watched = replace(config.services["svc1"], monitoring=Monitoring((Monitored("app#1"),)))
    config = replace(config, services={"svc1": watched})
    return make_node(config, [instance], settled(make_peer(config, [make_entry(peer_state)])))


def told(state, answer):
    report = ResourceReport("app#1", answer, "it does not answer")
    return step(state, ResourcesReported("svc1", Avail.MIXED, (report,)), NOW)[0]


def test_a_resource_that_is_down_is_an_alarm_with_the_row_that_holds_it():
    """What, why, and what to do; below the service the row's id."""
    state = node(make_instance(State.STARTED))
    for _ in range(2):
        state = told(state, Answer.DOWN)
    page = page_of(state)
    assert page.startswith("ALARM svc1: app#1 is down (it does not answer): the monitored resource is down")
    assert "app#1 down: M9 the monitored resource is down, and the service is frozen on the other" in page


def test_a_resource_that_is_up_is_not_mentioned():
    """The page is about what is wrong."""
    state = told(node(make_instance(State.STARTED)), Answer.UP)
    assert "app#1" not in page_of(state)
    [resource] = status_document(state, {}, Notices(), NOW)["services"]["svc1"]["monitored"]
    assert (resource["rid"], resource["answer"], resource["rule"]["id"]) == ("app#1", "up", "M1")


def test_the_side_that_the_monitor_froze_says_why():
    """Until an operator has repaired it and unfrozen it."""
    frozen = make_instance(State.FROZEN_STOP, freeze=Freeze(MONITOR, "app#1 was down here", ""))
    page = page_of(node(frozen, State.STARTED))
    assert "ALARM svc1: app#1 was down here, so the resource monitor stopped it" in page
    assert "frozen by resource monitor: app#1 was down here" in page
