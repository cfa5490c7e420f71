"""What hbmgr prints: compared word for word, and never wider than 80 columns."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from opensvc_hb.cli.hb_text import duration_text, events_text, links_text, status_text
from opensvc_hb.core.config import Config, Link, LinkType, Policies, Service
from opensvc_hb.core.node_state import Lease, Liveness
from opensvc_hb.core.states import ActionVerb, Verb
from opensvc_hb.daemon.journal import JournalRecord
from opensvc_hb.daemon.report import Notices, instance_document, status_document
from opensvc_hb.links.base import LinkCounters
from opensvc_hb.links.carrier import LinkRole
from opensvc_hb.sim.world import World

GOLDEN = Path(__file__).parent / "hbmgr"
NODES = ("deb1.opensvc.com", "deb2.opensvc.com")


def config(node):
    links = (
        Link(NODES[0], LinkType.NET, "eth1", "239.131.50.10", 5010, 10.0, 1),
        Link(NODES[0], LinkType.DIO, "/dev/mapper/disk.hb.0", "0", 0, 10.0, 2),
        Link(NODES[1], LinkType.NET, "eth1", "239.131.50.12", 5012, 10.0, 3),
        Link(NODES[1], LinkType.DIO, "/dev/mapper/disk.hb.0", "10", 0, 10.0, 4),
    )
    services = {n: Service(n, f"{n}.opensvc.com", NODES) for n in ("registry", "busybox")}
    return Config(node, NODES, links, services, Policies(), b"12345678")


def counters(world, node):
    host = world.hosts[node]
    found = {}
    for link in host.config.links:
        role = LinkRole.SENDER if link.node == node else LinkRole.LISTENER
        found[link.id] = LinkCounters(link.id, role, sent=41, received=40, last_at=world.now - 0.25)
    return found


NOTHING = Notices()


def page(world, node, notices=NOTHING):
    core = world.hosts[node].core
    return status_document(core, counters(world, node), notices, world.now)


@pytest.fixture
def world():
    world = World((config(NODES[0]), config(NODES[1])))
    for node in NODES:
        world.boot(node)
    world.run(3)
    for service in ("registry", "busybox"):
        world.command(NODES[0], service, Verb.UNFREEZE)
        world.run(2)
    world.command(NODES[1], "registry", Verb.UNFREEZE)
    world.run(3)
    return world


@pytest.fixture
def check(golden):
    def compare(name, text):
        golden(GOLDEN / name, text)
        assert max(map(len, text.splitlines())) <= 80

    return compare


def test_the_status_page_of_a_cluster_in_order(world, check):
    check("status.txt", status_text(page(world, NODES[0])))


def test_the_status_page_puts_alarms_first(world, check):
    world.kill(NODES[0])
    world.failing.add((NODES[1], "registry", ActionVerb.START))
    world.run(20)
    notices = Notices(store="no space", services=("web.env:3: app#1.start: 'x' is not an integer",))
    check("status-alarms.txt", status_text(page(world, NODES[1], notices)))


def test_a_silent_link_whose_beats_are_rejected_says_so(world):
    """A peer with another key is silent on every link, and yet it lives."""
    world.kill(NODES[1])
    world.run(20)
    document = page(world, NODES[0])
    link = next(one for one in document["links"] if one["role"] == "listener")
    link["rejected"] = {"unknown key": 12}
    lines = status_text(document).splitlines()
    assert lines.count("        beats arrive and are rejected: 12 (unknown key)") == 1


def test_a_frozen_service_says_who_and_why(world, check):
    world.command(NODES[0], "registry", Verb.FREEZE_START, reason="kernel upgrade")
    world.run(1)
    check("status-frozen.txt", status_text(page(world, NODES[0])))


@pytest.mark.parametrize(
    ("lease", "words"),
    [
        (Lease(None), "lease  none yet: no other node has answered"),
        (Lease(1.0, 0.5, "it ran", is_broken=True), "lease  run out: nothing renews it before what ran here"),
        (Lease(9e9, 0.5, "n2 answered"), " of 6.0 s left: n2 answered\n"),
    ],
)
def test_the_lease_is_told_in_a_line(world, lease, words):
    """How much is left, and by whom it was renewed; or why there is none."""
    core = replace(world.hosts[NODES[0]].core, lease=lease)
    assert words in status_text(status_document(core, {}, NOTHING, world.now))


def test_only_a_node_that_may_come_to_grief_has_notes_on_its_instances(world):
    """Networks only: a split brain is possible. A disk: said when the other node is gone."""
    core = world.hosts[NODES[0]].core
    instance = core.instances["registry"]
    assert instance_document(core, instance)["notes"] == []
    bare = replace(core, config=replace(core.config, links=core.config.links[::2]))
    assert instance_document(bare, instance)["notes"] == [
        "no guard: a split brain is possible, see hbmgr status"
    ]
    silent = replace(core.peers[NODES[1]], liveness=Liveness.UNKNOWN)
    (note,) = instance_document(replace(core, peers={NODES[1]: silent}), instance)["notes"]
    assert note.startswith(f"{NODES[1]} is silent: if the disk of the lease fails as well")


def test_links_show_one_line_per_line_of_the_monitor_file(world, check):
    text = links_text(page(world, NODES[0])["links"])
    assert [line.split()[0] for line in text.splitlines() if not line.startswith(" ")] == [
        "net",
        "dio",
        "net",
        "dio",
    ]
    check("links.txt", text)


def test_down_stands_only_on_a_link_that_is_down(world):
    assert "DOWN" not in status_text(page(world, NODES[0]))
    world.kill(NODES[1])
    world.run(15)
    lines = links_text(page(world, NODES[0])["links"]).splitlines()
    assert ["DOWN" in line for line in lines if not line.startswith(" ")] == [False, False, True, True]


def test_colours_change_nothing_but_colour(world):
    plain = status_text(page(world, NODES[0]))
    coloured = status_text(page(world, NODES[0]), colours=True)
    assert "\033[32mSTARTED" in coloured
    assert re.sub(r"\033\[\d+m", "", coloured) == plain


def test_events_tell_the_rule_the_reason_and_the_inputs(check):
    entries = [
        JournalRecord(
            at_s=12.0,
            wall="2026-06-19T09:32:07.123Z",
            node="deb2.opensvc.com",
            service="registry",
            kind="state",
            rule="U8",
            text="STOPPED -> STARTING",
            reason="the peer is silent on every link for the timeout: take over",
            inputs=(("epoch", "4"), ("last beat net:eth1:239.131.50.10:5010", "10.0 s")),
        )
    ]
    check("events.txt", events_text(entries))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "never"), (0.31, "0.3 s"), (99, "99.0 s"), (600, "10 min"), (7200, "2 h"), (864000, "10 d")],
)
def test_durations_are_short(seconds, text):
    assert duration_text(seconds) == text
