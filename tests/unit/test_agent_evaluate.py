"""Evaluation of a service: which resources are asked, limits, hb, sync, and the adapter's answer."""

from __future__ import annotations

import time

import psutil
import pytest
from agent_site import BASE, Site

from opensvc_hb.agent.adapter import AgentAdapter
from opensvc_hb.agent.evaluate import evaluate
from opensvc_hb.agent.probe_threads import answer_in_threads
from opensvc_hb.agent.render import render_tree
from opensvc_hb.agent.resource import Status
from opensvc_hb.agent.started_mark import set_mark

# pytest's own threads are none of ours: commands and the runner's children fork without any
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

FS = "[fs#1]\ntype = fake\nfile = FILE:up\n"
HEARTBEAT = "[hb#0]\ntype = OpenHA\n"


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def launcher(site, name="app", check=True):
    """An app section whose script is up while FILE:NAME exists, and notes being asked."""
    script = site.top / f"{name}.sh"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = status ] && echo asked >> {site.top}/asked\ntest -e {site.top}/{name}\n'
    )
    script.chmod(0o755)
    return f"[app#1]\nscript = {script}\nstart = 1\n" + ("check = 1\n" if check else "")


def look(site, name="svc", **options):
    loader = site.loader
    return evaluate(loader, loader.service(name), **options)


def asked(site):
    return (site.top / "asked").exists()


def test_launchers_are_not_asked_where_the_rest_is_not_up(site):
    """On the passive node the app is n/a without a message and its script is not run."""
    site.service("svc", BASE + FS + launcher(site))
    status = look(site)
    assert (status.resources[0].status, status.resources[0].messages) == (Status.NA, ())
    assert not asked(site)
    (site.top / "up").touch()
    assert look(site).resources[0].status is Status.DOWN
    assert asked(site)


def test_the_launchers_of_a_service_of_one_node_are_always_asked(site):
    """One node: there is no passive node."""
    site.service("svc", BASE.replace("n1 n2", "n1") + FS + launcher(site))
    assert look(site).resources[0].status is Status.DOWN


@pytest.mark.parametrize(
    ("answer", "is_asked"),
    [
        ({"ok": False, "running": False}, True),
        ({"ok": True, "state": "STARTED"}, True),
        ({"ok": True, "state": "STARTING"}, True),
        ({"ok": True, "state": "STOPPED"}, False),
        ({"ok": True, "state": "FROZEN_STOP"}, False),
        ({"ok": True, "state": "UNKNOWN"}, False),
    ],
)
def test_in_a_service_of_launchers_only_the_heartbeat_decides(site, answer, is_asked):
    """Asked unless STOPPED, FROZEN_STOP or UNKNOWN here; after an action always."""
    site.service("svc", BASE + HEARTBEAT + launcher(site))
    site.answers["instance"] = answer
    look(site)
    assert asked(site) is is_asked
    look(site, evaluate_apps=True)
    assert asked(site)


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        ({"ok": False, "running": False}, Status.WARN, "open-ha daemons are not running"),
        ({"ok": False, "code": 3}, Status.WARN, "unable to determine cluster service state"),
        ({"ok": True, "state": "STARTED"}, Status.UP, ""),
        ({"ok": True, "state": "STOPPED"}, Status.DOWN, ""),
        ({"ok": True, "state": "STARTED", "notes": ["no guard"]}, Status.UP, "no guard"),
        ({"ok": True, "state": "UNKNOWN"}, Status.WARN, "unable to determine cluster service state"),
        ({"ok": True, "state": "FROZEN_START"}, Status.WARN, "cluster service status is start_ready"),
        ({"ok": True, "state": "START_READY", "marked": "FROZEN_START"}, Status.WARN,
         "cluster service status is start_ready"),
    ]
    + [
        ({"ok": True, "state": state}, Status.WARN, f"cluster service status is {state.lower()}")
        for state in ("STOPPING", "STARTING", "START_FAILED", "STOP_FAILED", "FROZEN_STOP", "START_READY",
                      "FORCE_STOP")
    ],
)  # fmt: skip
def test_the_hb_resource_says_what_the_daemon_says(site, answer, status, message):
    """Started is up, stopped down, every other state a warning that names it."""
    site.service("svc", BASE + HEARTBEAT + "name = other\n")
    requests = []
    site.ask = lambda request: requests.append(request) or answer
    resource = look(site).resources[0]
    assert (resource.status, resource.messages) == (status, (message,) if message else ())
    assert requests == [{"request": "instance", "service": "other"}]
    assert resource.label == "hb.openha"


def test_a_probe_that_hangs_is_cut_off_and_called_unknown(site):
    """The limit holds, the other resources are told, nothing of the probe is left."""
    site.service("svc", BASE + FS + FS.replace("fs#1", "fs#2").replace("type", "fails = hang\ntype"))
    (site.top / "up").touch()
    before = {child.pid for child in psutil.Process().children(recursive=True)}  # of other tests
    began = time.monotonic()
    status = look(site, limit_s=0.3)
    assert time.monotonic() - began < 10
    assert status.unknown == ("fs#2",)
    assert status.resources[0].status is Status.UP
    assert status.resources[1].messages == ("unable to determine status: no answer within 0.3 s",)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


def test_a_probe_that_breaks_down_is_a_warning_and_leaves_a_trace(site):
    """One line in the tree, the traceback in the log."""
    site.service("svc", BASE + FS + "fails = crash\n")
    status = look(site)
    assert status.resources[0].messages == ("unable to determine status: RuntimeError: broken driver",)
    assert "broken driver" in (site.root.log / "svc.log").read_text()


def stamp(site, node, rid, age_s):
    path = site.root.var / "sync" / node / f"svc!{rid}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - age_s)) + ".123456\n")


def sync(site):
    return [(r.status, r.messages) for r in look(site).resources if r.group == "sync"]


def test_resources_that_share_what_they_learn_are_asked_in_one_process(site):
    """One after the other, in their order; those of another type in processes of their own."""
    driver = site.root.etc / "drivers/resource/container/fake.py"
    together = '    type_name = "container.fake"\n    asked_together = True\n'
    driver.write_text(driver.read_text().replace('    type_name = "container.fake"\n', together))
    containers = "".join(f"[container#{n}]\ntype = fake\nfile = FILE:c{n}\n" for n in (1, 2, 3))
    site.service("svc", BASE + containers + FS)
    (site.top / "c2").touch()
    asked = []

    def ask(tasks, limit_s):
        asked.append(len(tasks))
        return answer_in_threads(tasks, limit_s)

    shown = {resource.rid: resource.status for resource in look(site, ask=ask).resources}
    assert asked[0] == 2
    assert [shown[f"container#{n}"] for n in (1, 2, 3)] == [Status.DOWN, Status.UP, Status.DOWN]
    assert shown["fs#1"] is Status.DOWN


def test_a_shared_question_that_breaks_down_leaves_all_of_them_unknown(site):
    """Each of them says why."""
    driver = site.root.etc / "drivers/resource/container/fake.py"
    together = '    type_name = "container.fake"\n    asked_together = True\n'
    driver.write_text(driver.read_text().replace('    type_name = "container.fake"\n', together))
    broken = "[container#1]\ntype = fake\nfile = FILE:c\nfails = crash\n"
    site.service("svc", BASE + broken + "[container#2]\ntype = fake\nfile = FILE:c\n")
    first, second = look(site).resources[:2]
    assert not first.known
    assert not second.known
    assert first.messages == second.messages == ("unable to determine status: RuntimeError: broken driver",)


def test_a_sync_on_the_passive_node_tells_of_its_own_copy(site):
    """Late or never: a warning; else up."""
    site.service("svc", BASE + FS)
    assert sync(site) == [(Status.WARN, ("passive node needs update",))]
    stamp(site, "n1", "sync#i0", 60)
    assert sync(site) == [(Status.UP, ())]
    stamp(site, "n1", "sync#i0", 1501 * 60)
    assert sync(site) == [(Status.WARN, ("passive node needs update",))]


def test_a_sync_on_the_active_node_names_the_nodes_that_are_late(site):
    """Down with their names; sync_max_delay counts in minutes."""
    site.service("svc", BASE.replace("nodes =", "sync_max_delay = 10\ndrpnodes = n3\nnodes =") + FS)
    (site.top / "up").touch()
    assert sync(site) == [(Status.DOWN, ("n2, n3 need update",)), (Status.DOWN, ("n3 need update",))]
    stamp(site, "n2", "sync#i0", 60)
    stamp(site, "n3", "sync#i0", 11 * 60)
    stamp(site, "n3", "sync#i1", 60)
    assert sync(site) == [(Status.DOWN, ("n3 need update",)), (Status.UP, ())]


@pytest.mark.parametrize(
    ("node", "up", "expected"),
    [
        ("n1", False, (Status.NA, ("passive node not in sync destination nodes",))),
        ("n3", False, (Status.NA, ("no destination nodes",))),
        ("n3", True, (Status.NA, ("no destination nodes",))),
    ],
)
def test_the_sync_to_the_drp_nodes_is_none_of_the_others_business(tmp_path, node, up, expected):
    """sync#i1 has the disaster recovery nodes as its only targets."""
    site = Site(tmp_path, node)
    site.service("svc", BASE + "drpnodes = n3\n" + FS)
    if up:
        (site.top / "up").touch()
    assert sync(site)[1] == expected


def test_a_service_up_on_a_drp_node_is_not_copied_back(tmp_path):
    """sync#i0 is n/a there."""
    site = Site(tmp_path, "n3")
    site.service("svc", BASE + "drpnodes = n3\n" + FS)
    (site.top / "up").touch()
    assert sync(site)[0] == (Status.NA, ("service up on drp node, sync disabled",))


def test_standby_is_shown_in_the_status(site):
    """Up is stdby up, down stdby down, on a node of always_on."""
    site.service("svc", BASE + FS + "always_on = nodes\n")
    assert look(site).resources[0].status is Status.STDBY_DOWN
    (site.top / "up").touch()
    assert look(site).resources[0].status is Status.STDBY_UP


TREE = """svc
overall                   warn     
|- avail                  down     
|  |- app#1          .... n/a      app.sh
|  |- fs#1           M.O. down     fake up
|  '- fs#2           .D.. n/a      fake up
|                                  # disabled
|- sync                   warn     
|  '- sync#i0        .... warn     rsync svc config to drpnodes, nodes
|                                  # passive node needs update
'- hb                     warn     
   '- hb#0           .... warn     hb.openha
                                   # open-ha daemons are not running
"""  # noqa: W291 - trailing blanks are part of the text


def test_a_whole_tree_from_a_file(site):
    """File, drivers, evaluation, aggregation and rendering together."""
    second = FS.replace("fs#1", "fs#2") + "disable = true\n"
    site.service("svc", BASE + HEARTBEAT + FS + "monitor = true\noptional = true\n" + second + launcher(site))
    assert render_tree(look(site)) == TREE


def adapter(site):
    return AgentAdapter(site.root, site.node, site.loader)


@pytest.mark.parametrize(
    ("section", "up", "expected"),
    [
        (FS, False, "down"),
        (FS, True, "up"),
        (FS + FS.replace("fs#1", "fs#2").replace("FILE:up", "FILE:never"), True, "mixed"),
        (FS + "fails = crash\n", True, "unknown"),
        (FS + "always_on = nodes\n", True, "down"),
        (FS + "nosuch = 1\n", True, "unknown"),
    ],
)
def test_the_daemon_is_told_whether_an_instance_runs_here(site, section, up, expected):
    """up, down, mixed or unknown; standby resources are no instance, a bad file is unknown."""
    site.service("svc", BASE + HEARTBEAT + section)
    if up:
        (site.top / "up").touch()
    assert adapter(site).avail("svc", evaluate_apps=True) == expected


def test_a_service_that_cannot_tell_is_what_its_last_action_made_of_it(site):
    """n/a counts as up after a start and as down after a stop, also for a process that comes later."""
    site.service("svc", BASE + HEARTBEAT + launcher(site, check=False))
    (site.top / "app").touch()
    one = adapter(site)
    assert one.avail("svc", evaluate_apps=True) == "down"
    assert one.start("svc") == 0
    assert one.avail("svc", evaluate_apps=True) == "up"
    assert adapter(site).avail("svc", evaluate_apps=True) == "up"
    assert one.stop("svc") == 0
    assert one.avail("svc", evaluate_apps=True) == "down"
    set_mark(site.root, "svc")
    assert adapter(site).avail("svc", evaluate_apps=True) == "up"


def test_the_daemon_starts_stops_and_announces_through_the_adapter(site):
    """With --cluster in effect; a refused file is an error line and exit 1."""
    site.service("svc", BASE + HEARTBEAT + FS)
    assert (adapter(site).start("svc"), (site.top / "up").exists()) == (0, True)
    assert adapter(site).announce("svc") == 0
    assert (adapter(site).stop("svc"), (site.top / "up").exists()) == (0, False)
    assert site.journal == ["start fs#1", "announce fs#1", "stop fs#1"]
    site.service("svc", BASE + HEARTBEAT + FS + "nosuch = 1\n")
    site.said.clear()
    assert (adapter(site).start("svc"), adapter(site).announce("svc")) == (1, 1)
    assert all("fs#1.nosuch: unknown keyword" in line for line in site.said)


def test_services_declare_themselves_to_the_daemon(site):
    """Those with an enabled hb of our type whose nodes name this one; limits in seconds."""
    site.service("a", BASE + "start_timeout = 5\nstop_timeout@n1 = 2.5\n" + HEARTBEAT + "name = alpha\n")
    site.service("b", BASE.replace("n1 n2", "N2 n1") + HEARTBEAT)
    site.service("c", BASE)
    site.service("d", BASE + HEARTBEAT + "disable = true\n")
    site.service("e", BASE.replace("n1 n2", "n2 n3") + HEARTBEAT)
    site.service("f", BASE + HEARTBEAT + "name = alpha\n")
    site.service("g", "garbage\n")
    site.service("h", BASE + HEARTBEAT + "[fs#1]\ntype = fake\n")
    site.service("i", BASE + HEARTBEAT.replace("OpenHA", "OpenHB"))
    declared = adapter(site).declare()
    assert [(d.svcname, d.name, d.nodes, d.start_limit_s, d.stop_limit_s) for d in declared.services] == [
        ("a", "alpha", ("n1", "n2"), 5.0, 2.5),
        ("b", "b", ("n2", "n1"), 600.0, 600.0),
        ("h", "h", ("n1", "n2"), 600.0, 600.0),
    ]
    assert [error.replace(f"{site.root.etc}/", "") for error in declared.errors] == [
        "f: its hb name alpha is already a's",
        "g.env:1: 'garbage' is neither a [section] nor keyword = value",
        "h.env:6: fs#1.file: file must be set in section fs#1",
        "i.env:5: hb#0.type: no driver for type 'OpenHB' (have openha)",
    ]


def test_a_mistake_in_node_conf_undeclares_no_service_and_is_said_once(site):
    """A daemon that starts then still knows what may run here, and what else is wrong is said too."""
    site.service("a", BASE + HEARTBEAT + FS)
    site.service("b", BASE + HEARTBEAT + "name = a\n")
    site.service("c", BASE + HEARTBEAT)
    site.service("d", BASE + HEARTBEAT.replace("OpenHA", "OpenHB"))
    (site.root.etc / "node.conf").write_text("[node]\nhost_mode = PROD\n")
    declared = adapter(site).declare()
    assert [d.name for d in declared.services] == ["a", "c"]
    assert declared.services[0].start_limit_s == 600.0
    node_error, other = [error.replace(f"{site.root.etc}/", "") for error in declared.errors]
    assert node_error.startswith("node.conf:2: node.host_mode: 'PROD' is not allowed (one of PRD, ")
    assert other == "b: its hb name a is already a's"
    assert adapter(site).declare_as("c", "see", ("n1", "n2")).name == "see"
    (site.root.etc / "node.conf").write_text("garbage\n")
    declared = adapter(site).declare()
    assert [d.name for d in declared.services] == ["a", "c"]
    assert [error.partition("node.conf:")[2].partition(":")[0] for error in declared.errors] == ["1", ""]


def test_the_document_for_the_daemon_is_complete(site):
    """`status` gives what `print status --format json` prints of one service."""
    site.service("svc", BASE + HEARTBEAT + FS)
    document = adapter(site).status("svc")
    assert document["avail"] == "down"
    assert document["resources"]["fs#1"]["type"] == "fs"
    assert document["service"] == {"type": "DEV", "mode": "hosted", "app": "", "node": "n1"}
    assert document["unknown"] == []
