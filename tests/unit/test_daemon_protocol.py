"""The protocol from hb.conf to the links: what is refused with it, and what a change of it does."""

from __future__ import annotations

import queue
from dataclasses import replace

import pytest
from core_builders import NOW, make_config, make_node, make_peer

from opensvc_hb.core.config import Protocol, Service
from opensvc_hb.core.events import ConfigurationChanged
from opensvc_hb.core.node_state import Legacy
from opensvc_hb.daemon.configuration import (
    Configuration,
    combine,
    compose,
    read_cluster_files,
    too_much,
)
from opensvc_hb.daemon.report import guard_notes, link_document
from opensvc_hb.daemon.runner import Declared
from opensvc_hb.errors import ConfigurationErrors
from opensvc_hb.links import keyring as keys
from opensvc_hb.links.base import LinkCounters
from opensvc_hb.links.carrier import LinkRole
from opensvc_hb.paths import Root

NODES = ("n1", "n2")
MONITOR = """\
n1 net lo 239.131.50.10 5010 10
n2 net lo 239.131.50.12 5012 10
n1 dio /dev/none 0 10
n2 dio /dev/none 40 10
"""


@pytest.fixture
def site(tmp_path):
    """A root with two nodes, and how to write its hb.conf and monitor file."""
    root = Root(tmp_path)
    root.hb.mkdir(parents=True)
    (root.hb / "nodes").write_text("n1\nn2\n")
    keys.write(root.hb / "key", keys.Keyring(b"c" * 16, (keys.ClusterKey(1, b"k" * 32),)))

    def write(hb_conf="", monitor=MONITOR):
        (root.hb / "hb.conf").write_text(f"[hb]\n{hb_conf}\n")
        (root.hb / "monitor").write_text(monitor)
        return root

    return write


def read(root):
    """The files as the daemon reads them, whatever this machine has."""
    return read_cluster_files(root, "n1", with_machine=False)


def services(count):
    """So many services of both nodes."""
    return tuple(Service(f"svc{n:03d}", f"svc{n:03d}", NODES) for n in range(count))


@pytest.mark.parametrize("protocol", Protocol)
def test_openha_the_protocol_of_hb_conf_is_in_force(site, protocol):
    """With either of C's formats there is no lease, and what both nodes must agree on is something else."""
    files = read(site(f"protocol = {protocol.value}"))
    config = compose("n1", files, services(1))
    assert config.protocol is protocol
    assert bool(config.lease_links) == (protocol is Protocol.NATIVE)
    native = compose("n1", read(site()), services(1))
    assert (config.digest == native.digest) == (protocol is Protocol.NATIVE)


def test_openha_what_c_cannot_do_is_refused_with_all_else(site):
    """Every line that the C program cannot live with, at once, in the order of the file."""
    monitor = "n1 net lo 239.131.50.10 5010 0.5\nn2 net lo ff15::1 5012 10\nn1 dio /dev/none 0 10\n"
    root = site("protocol = both\nlease = yes", monitor + "n2 dio /dev/none 15 10\n")
    with pytest.raises(ConfigurationErrors) as refused:
        read(root)
    places = [(error.path.rpartition("/")[2], error.line, error.where) for error in refused.value.errors]
    assert places == [
        ("monitor", 1, "timeout"),
        ("monitor", 2, "address"),
        ("monitor", 4, "offset"),
        ("hb.conf", 0, "hb.lease"),
    ]


def test_openha_an_unknown_protocol_is_refused(site):
    """With those that there are."""
    with pytest.raises(ConfigurationErrors, match="'serial' is not one of native, openha, both"):
        read(site("protocol = serial"))


def test_openha_a_disk_without_room_for_both_is_noted(site):
    """It is accepted: the structure alone is written there."""
    close = MONITOR.replace("/dev/none 40", "/dev/none 19")
    [note] = read(site("protocol = both", close)).notes
    assert "carries the C program's structure only" in note
    assert read(site("protocol = openha", close)).notes == ()


def test_openha_more_services_than_fit_are_told(site):
    """128 fit; native beats carry any number."""
    root = site("protocol = openha")
    files = read(root)
    assert too_much(root, files, compose("n1", files, services(128))) == ()
    [error] = too_much(root, files, compose("n1", files, services(129)))
    assert "openha carries 128 services, this node has 129" in str(error)
    files = read(site())
    assert too_much(root, files, compose("n1", files, services(129))) == ()


def test_openha_the_missing_guard_is_told_with_what_helps(site):
    """A disk link would not help as long as the protocol knows no lease."""
    [note] = guard_notes(compose("n1", read(site("protocol = both")), services(1)))
    assert "leave protocol = both, which knows no lease" in note
    assert "lease on /dev/none" in guard_notes(compose("n1", read(site()), services(1)))[0]


def test_openha_nobody_knows_what_a_c_node_hears():
    """Our sending ends are UP while they send: that it does not acknowledge makes none of them one-way."""
    config = replace(make_config("deb1"), protocol=Protocol.BOTH)
    [link] = config.links_from("deb1")
    counters = LinkCounters(link.id, LinkRole.SENDER, sent=1, last_at=NOW)
    for legacy, status, deaf in ((None, "ONE-WAY", ["deb2"]), (Legacy(speaks=True), "UP", [])):
        state = make_node(config, peer=make_peer(config, hears={}, legacy=legacy))
        document = link_document(state, link, counters, NOW)
        assert (document["status"], document["not_heard_by"]) == (status, deaf)


class NotedLinks:
    """Links of which only the life is noted."""

    def __init__(self, config, log):
        self.config = config
        self.log = log

    def order_services(self, names):
        """Note the order."""
        self.log.append(("order", tuple(names)))

    def close(self, _timeout_s):
        """Note the end."""
        self.log.append(("closed", self.config.protocol))


class SaidServices:
    """An agent that declares what the test says; the part of the runner that is asked for it."""

    def __init__(self, declared):
        self.declared = declared

    def declare(self, callback, _limit_s):
        """Answer at once."""
        callback(Declared(self.declared, ()))


@pytest.fixture
def running(site):
    """A configuration in force, and how to reload it; its thread ends with the test."""
    root = site()
    agent, log, inbox = SaidServices(services(2)), [], queue.SimpleQueue()
    # The device is none of this machine's: networks only, which loopback has.
    networks = "".join(MONITOR.splitlines(keepends=True)[:2])
    (root.hb / "monitor").write_text(networks)
    files = read_cluster_files(root, "n1")
    loaded = combine(root, "n1", files, Declared(agent.declared, ()), {})

    def start_links(config, _keyring):
        log.append(("started", config.protocol))
        return NotedLinks(config, log)

    made = Configuration(
        root, loaded, NotedLinks(loaded.config, log), agent, inbox, start_links, lambda _loaded: None
    )
    made.start()

    def reload(hb_conf, count=2):
        site(hb_conf, networks)
        agent.declared = services(count)
        answers = queue.SimpleQueue()
        made.reload(answers.put)
        return answers.get(timeout=10)

    yield reload, log, inbox
    made.close()


def test_openha_a_changed_protocol_begins_with_new_links(running):
    """The old ones end, the new ones speak the new format, and core is told."""
    reload, log, inbox = running
    loaded = reload("protocol = both")
    assert loaded.config.protocol is Protocol.BOTH
    assert log[:2] == [("closed", Protocol.NATIVE), ("started", Protocol.BOTH)]
    told = inbox.get(timeout=5)
    assert isinstance(told.event, ConfigurationChanged)
    assert told.event.config.protocol is Protocol.BOTH
    log.clear()
    reload("protocol = both\ntakeover = ask", count=3)
    assert log == [("order", ("svc000", "svc001", "svc002"))]


def test_openha_a_reload_beyond_the_limits_changes_nothing(running):
    """One service too many: the daemon goes on as it was, and says why."""
    reload, log, inbox = running
    reload("protocol = both")
    inbox.get(timeout=5)
    log.clear()
    loaded = reload("protocol = both", count=129)
    assert loaded.refused
    assert len(loaded.config.services) == 2
    assert "both carries 128 services, this node has 129" in "\n".join(loaded.problems)
    assert log == []
    assert inbox.empty()
