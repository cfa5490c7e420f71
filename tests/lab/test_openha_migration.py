"""A running cluster of the C program becomes one of ours, node by node, and back: no service notices.

The C program is a stand-in (`openha_program`). The steps, and the command lines, are those of
docs/migration.md; a service's process is the one that it was before, and there are never two.
"""

from __future__ import annotations

import pytest
from openha_pair import CLUSTER, HbService, Pair, by_the_guide

pytestmark = pytest.mark.lab

TIMEOUT_S = 2
REGISTRY = HbService("registry")
BUSYBOX = HbService("busybox", nodes=("n2", "n1"), is_agents=True)
"""One that scripts alone drive, at home on n1, and one of the agent's, at home on n2."""

TABLE = "{:<16} {:<16} {:<14} {:<16} {:<14}\n"
COLUMNS = TABLE.format("service", "prinode", "pristate", "secnode", "secstate")


def table(registry, busybox):
    """Return what `service -s -c` prints, each service's states in the order of its nodes."""
    return (
        COLUMNS
        + TABLE.format("registry", "n1", registry[0], "n2", registry[1])
        + TABLE.format("busybox", "n2", busybox[0], "n1", busybox[1])
    )


def wait_shown(pair, expected, limit_s=10, nodes=None):
    """Wait until the C program of the nodes shows a table."""
    for node in nodes or pair.lab.nodes:
        pair.lab.wait(
            lambda node=node: pair.service(node, "-s", "-c").out == expected,
            limit_s,
            f"{node.name} shows\n{expected}",
        )


def run_ours(pair, protocol, more=""):
    """Bring our daemon up on both nodes, each service on its primary."""
    pair.make_key()
    for node in pair.lab.nodes:
        pair.configure_ours(node, protocol, more)
    pair.lab.start_daemons()
    for service in pair.services:
        pair.lab.hand_over(service.name, first=service.nodes[0])


def wait_states(pair, node, **states):
    """Wait until our daemon of a node has instances in these states, {service: {node: state}}."""
    for service, expected in states.items():
        pair.lab.wait(
            lambda service=service, expected=expected: node.states(service) == expected,
            10,
            f"{node.name} has {service} {expected}",
        )


def hears(node, peer, count):
    """Tell whether a node hears the other on all its links."""
    links = [link for link in node.status()["links"] if link["role"] == "listener"]
    return len(links) == count and all(link["status"] == "UP" and link["node"] == peer for link in links)


def test_a_running_cluster_moves_node_by_node(lab):
    """registry runs on n1, busybox on n2; first n1, then n2 changes over, as the guide says it.

    What each side shows of the other is what the guide says. At the end n2 takes registry over.
    """
    pair = Pair(lab, [REGISTRY, BUSYBOX], TIMEOUT_S)
    n1, n2 = lab.nodes
    pair.run_openha()
    wait_shown(pair, table(("STARTED", "STOPPED"), ("STARTED", "STOPPED")))
    instances = pair.same_instances()
    assert [instance[:2] for instance in instances] == [("registry", "n1"), ("busybox", "n2")]
    pair.make_key()
    dry = by_the_guide(n1, "hbmgr import /usr/local/cluster --dry-run").check().out
    assert "nothing was written" in dry
    assert "registry: n1, then n2; script" in dry
    refused = by_the_guide(n1, "hbmgr import /usr/local/cluster")
    assert refused.status != 0
    assert "OpenHA runs here" in refused.err

    # n1
    by_the_guide(n2, "service -A SVC freeze-stop", "registry").check()
    wait_shown(pair, table(("STARTED", "FROZEN_STOP"), ("STARTED", "STOPPED")))
    by_the_guide(n1, "ezha kill").check()
    wait_shown(pair, table(("UNKNOWN", "FROZEN_STOP"), ("STARTED", "UNKNOWN")), nodes=[n2])
    imported = by_the_guide(n1, "hbmgr import /usr/local/cluster").check().out
    assert "STARTED here, the daemon begins with FROZEN_START" in imported
    assert "busybox: n2, then n1; agent's service busybox" in imported
    by_the_guide(n1, "hbmgr check").check()
    n1.start_daemon()  # systemctl enable --now opensvc-hb
    lab.wait(lambda: hears(n1, "n2", 3), 10, "n1 hears n2 on every link")
    assert by_the_guide(n1, "hbmgr links").check().out.count(" UP ") == 6
    wait_shown(pair, table(("START_READY", "FROZEN_STOP"), ("STARTED", "FROZEN_STOP")), nodes=[n2])
    wait_states(
        pair,
        n1,
        registry={"n1": "FROZEN_START", "n2": "FROZEN_STOP"},
        busybox={"n1": "FROZEN_STOP", "n2": "STARTED"},
    )
    unfrozen = by_the_guide(n1, "hbmgr import --unfreeze").check().out
    assert unfrozen == "busybox: unfrozen\nregistry: unfrozen\n"
    wait_shown(pair, table(("STARTED", "FROZEN_STOP"), ("STARTED", "STOPPED")), nodes=[n2])
    by_the_guide(n2, "service -A SVC unfreeze", "registry").check()
    wait_shown(pair, table(("STARTED", "STOPPED"), ("STARTED", "STOPPED")), nodes=[n2])
    wait_states(
        pair,
        n1,
        registry={"n1": "STARTED", "n2": "STOPPED"},
        busybox={"n1": "STOPPED", "n2": "STARTED"},
    )
    assert pair.same_instances() == instances

    # n2
    by_the_guide(n1, "hbmgr freeze-stop SVC", "busybox").check()
    wait_shown(pair, table(("STARTED", "STOPPED"), ("STARTED", "FROZEN_STOP")), nodes=[n2])
    by_the_guide(n2, "ezha kill").check()
    by_the_guide(n2, "hbmgr import /usr/local/cluster").check()
    by_the_guide(n2, "hbmgr check").check()
    n2.start_daemon()
    lab.wait(lambda: hears(n2, "n1", 3), 10, "n2 hears n1 on every link")
    by_the_guide(n2, "hbmgr import --unfreeze").check()
    by_the_guide(n1, "hbmgr unfreeze SVC", "busybox").check()
    for node in lab.nodes:
        wait_states(
            pair,
            node,
            registry={"n1": "STARTED", "n2": "STOPPED"},
            busybox={"n1": "STOPPED", "n2": "STARTED"},
        )
    assert pair.same_instances() == instances
    assert len(lab.spans()) == 2, lab.report()

    n1.kill()
    lab.wait_state("n2", "registry", "STARTED")
    assert [span.node for span in lab.living("registry")] == ["n2"]
    assert pair.same_instances()[1] == instances[1]
    assert not lab.overlaps()


def test_the_way_back_leaves_what_runs_running(lab):
    """n1, on which registry runs, goes back to the C program; n2, with busybox, stays with us.

    Nothing ends it once the daemon's promise to be back has run out: it was frozen. Then n1's power
    is cut, and n2 takes registry over.
    """
    pair = Pair(lab, [REGISTRY, BUSYBOX], TIMEOUT_S)
    n1, n2 = lab.nodes
    run_ours(pair, "both", more="restart_within = 4\n")
    instances = pair.same_instances()

    by_the_guide(n2, "hbmgr freeze-stop SVC", "registry").check()
    by_the_guide(n1, "hbmgr freeze-start SVC", "registry").check()
    lab.wait(lambda: n2.states("registry") == {"n1": "FROZEN_START", "n2": "FROZEN_STOP"}, 5, "frozen")
    assert n1.stop_daemon() == 0  # systemctl disable --now opensvc-hb
    by_the_guide(n1, "service -A SVC force-start", "registry").check()
    by_the_guide(n1, "service -A SVC freeze-stop", "busybox").check()
    by_the_guide(n1, "ezha restart").check()
    wait_shown(pair, table(("STARTED", "FROZEN_STOP"), ("STARTED", "FROZEN_STOP")), nodes=[n1])
    wait_states(
        pair,
        n2,
        registry={"n1": "STARTED", "n2": "FROZEN_STOP"},
        busybox={"n1": "FROZEN_STOP", "n2": "STARTED"},
    )
    by_the_guide(n2, "hbmgr unfreeze SVC", "registry").check()
    by_the_guide(n1, "service -A SVC unfreeze", "busybox").check()
    wait_shown(pair, table(("STARTED", "STOPPED"), ("STARTED", "STOPPED")), nodes=[n1])
    assert pair.same_instances() == instances
    assert len(lab.spans()) == 2, lab.report()

    n1.kill()
    lab.wait_state("n2", "registry", "STARTED")
    assert pair.same_instances()[1] == instances[1]
    assert not lab.overlaps()


def test_the_last_step_switches_the_lease_on_below_what_runs(lab):
    """both becomes native by a reload on each node, everything frozen: the processes are the same.

    Then n1's power is cut: n2 takes registry over, which now needs the lease of the shared disk.
    """
    pair = Pair(lab, [REGISTRY, BUSYBOX], TIMEOUT_S)
    n1, n2 = lab.nodes
    run_ours(pair, "both")
    instances = pair.same_instances()
    for node in lab.nodes:
        assert node.status()["lease"] is None
    for service in pair.services:
        by_the_guide(lab.node(service.nodes[0]), "hbmgr freeze-start SVC", service.name).check()
        by_the_guide(lab.node(service.nodes[1]), "hbmgr freeze-stop SVC", service.name).check()
    for node in lab.nodes:
        text = (node.root / "etc/opensvc/hb/hb.conf").read_text()
        assert "protocol = both" in text
        node.write("etc/opensvc/hb/hb.conf", text.replace("protocol = both", "protocol = native"))
        by_the_guide(node, "hbmgr reload").check()
    for node in lab.nodes:
        peer = lab.peer_of(node.name).name
        lab.wait(lambda node=node, peer=peer: hears(node, peer, 3), 10, f"{node.name} hears {peer}")
    for service in pair.services:
        for name in service.nodes:
            by_the_guide(lab.node(name), "hbmgr unfreeze SVC", service.name).check()
    for node in lab.nodes:
        wait_states(
            pair,
            node,
            registry={"n1": "STARTED", "n2": "STOPPED"},
            busybox={"n1": "STOPPED", "n2": "STARTED"},
        )
    lab.hold(lambda: pair.same_instances() == instances, 2 * TIMEOUT_S, "the same processes")
    for node in lab.nodes:
        assert node.status()["lease"]["needed"]
    assert len(lab.spans()) == 2, lab.report()

    n1.kill()
    lab.wait_state("n2", "registry", "STARTED")
    assert any(event["rule"] == "U12" for event in n2.events("registry")), n2.journal_tail()
    assert pair.same_instances()[1] == instances[1]
    assert not lab.overlaps()


def test_the_tree_of_openha_is_left_as_it_was(lab):
    """The import reads OpenHA's tree and writes nothing there: the way back needs it."""
    pair = Pair(lab, [REGISTRY, BUSYBOX], TIMEOUT_S)
    n1, _ = lab.nodes
    pair.make_key()
    before = {path: path.read_bytes() for path in sorted((n1.root / CLUSTER).rglob("*")) if path.is_file()}
    by_the_guide(n1, "hbmgr import /usr/local/cluster").check()
    after = {path: path.read_bytes() for path in sorted((n1.root / CLUSTER).rglob("*")) if path.is_file()}
    assert after == before
