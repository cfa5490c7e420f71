"""Actions: order, rollback, vetoes, triggers, standby, the lock, frozen and the safety net."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest
from agent_site import BASE, Site

from opensvc_hb.agent import frozen, safety_net, started_mark
from opensvc_hb.agent.actions import SEQUENCES, Options, run_action
from opensvc_hb.agent.resource import CommandResult

# pytest's own threads are none of ours: commands and the runner's children fork without any
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

FAMILIES = BASE + "".join(
    f"[{rid}]\ntype = fake\nfile = FILE:{rid.replace('#', '')}\n"
    for rid in ("fs#1", "ip#1", "disk#1", "container#1", "fs#2")
)
HEARTBEAT = "[hb#0]\ntype = OpenHA\n"


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def do(site, name, action, **options):
    loader = site.loader
    return run_action(loader, loader.service(name, options.get("cluster", False)), action, Options(**options))


def test_start_goes_from_ip_to_container_and_stop_back(site):
    """ip, disk, fs, container; inside a family by name; stop is the reverse."""
    site.service("svc", FAMILIES)
    assert do(site, "svc", "start") == 0
    assert site.journal == ["start ip#1", "start disk#1", "start fs#1", "start fs#2", "start container#1"]
    assert do(site, "svc", "stop") == 0
    assert site.journal == ["stop container#1", "stop fs#2", "stop fs#1", "stop disk#1", "stop ip#1"]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("startip", ["start ip#1"]),
        ("startfs", ["start disk#1", "start fs#1", "start fs#2"]),
        ("stopfs", ["stop fs#2", "stop fs#1", "stop disk#1"]),
        ("startdisk", ["start disk#1"]),
        ("startcontainer", ["start container#1"]),
        ("startapp", []),
    ],
)
def test_an_action_on_a_family_acts_on_that_family(site, action, expected):
    """startfs is disk then fs, stopfs fs then disk, the others their own group only."""
    site.service("svc", FAMILIES)
    assert do(site, "svc", action) == 0
    assert site.journal == expected


def test_restart_is_stop_then_start(site):
    """restart stops everything, then starts it."""
    site.service("svc", BASE + "[fs#1]\ntype = fake\nfile = FILE:a\n")
    assert do(site, "svc", "restart") == 0
    assert site.journal == ["stop fs#1", "start fs#1"]


def test_a_failed_start_stops_what_it_activated_and_only_that(site):
    """What was up before stays up; what this start brought up is stopped in reverse."""
    site.service("svc", FAMILIES.replace("fs2", "fs2\nfails = start"))
    (site.top / "disk1").touch()
    assert do(site, "svc", "start") == 1
    assert site.journal == ["start ip#1", "start fs#1", "stop fs#1", "stop ip#1"]
    assert site.log == [
        "INFO SVC.DISK#1 fake disk1 is already up",
        "ERROR SVC.FS#2 cannot start fs#2",
        "ERROR SVC 'start' action stopped on execution error",
        "INFO SVC trying to rollback start on ip#1, fs#1",
    ]
    assert (site.top / "disk1").exists()


def test_a_driver_that_tells_what_it_activated_is_asked_no_status(site):
    """Its own word decides on the rollback; a status that would break is never called."""
    driver = site.root.etc / "drivers/resource/fs/fake.py"
    text = driver.read_text().replace('sections = ("fs",)', 'sections = ("fs",)\n    tells_activation = True')
    told = "def start(self):\n        self.activated = not self.options['file'].exists()"
    text = text.replace("def start(self):", told)
    driver.write_text(text)
    (site.top / "up").touch()
    text = BASE + "".join(
        f"[fs#{n}]\ntype = fake\nfile = FILE:{file}\nfails = {fails}\n"
        for n, file, fails in ((1, "up", "crash"), (2, "new", "crash"), (3, "never", "start"))
    )
    site.service("svc", text)
    assert do(site, "svc", "start") == 1
    assert site.log[-1] == "INFO SVC trying to rollback start on fs#2"
    assert site.journal == ["start fs#2", "stop fs#2"]


def test_a_failed_start_that_did_nothing_has_nothing_to_roll_back(site):
    """The first resource fails: said so, exit 1."""
    site.service("svc", BASE + "[fs#1]\ntype = fake\nfile = FILE:a\nfails = start\n")
    assert do(site, "svc", "start") == 1
    assert site.log[-1] == "INFO SVC skip rollback start: no resource activated"


def test_disable_rollback_leaves_what_was_started(site):
    """--disable-rollback is obeyed, and said."""
    site.service("svc", FAMILIES.replace("fs2", "fs2\nfails = start"))
    assert do(site, "svc", "start", disable_rollback=True) == 1
    assert site.log[-1] == "INFO SVC skip rollback start: as instructed by --disable-rollback"
    assert (site.top / "fs1").exists()


def test_an_optional_resource_fails_alone(site):
    """The error of an optional resource is logged, the action goes on and succeeds."""
    site.service("svc", FAMILIES.replace("ip1", "ip1\nfails = start\noptional = true"))
    assert do(site, "svc", "start") == 0
    assert "ERROR SVC.IP#1 cannot start ip#1" in site.log
    assert "start container#1" in site.journal


def test_a_stop_that_fails_stops_the_action(site):
    """A resource that does not stop leaves those below it alone; exit 1."""
    site.service("svc", FAMILIES.replace("fs1", "fs1\nfails = stop"))
    assert do(site, "svc", "stop") == 1
    assert site.journal == ["stop container#1", "stop fs#2"]
    assert site.log[-1] == "ERROR SVC 'stop' action stopped on execution error"


def test_a_driver_that_breaks_down_is_an_error_with_its_trace_in_the_log(site):
    """The user sees one line, the traceback is in the service's log file."""
    site.service("svc", BASE + "[fs#1]\ntype = fake\nfile = FILE:a\nfails = crash\n")
    assert do(site, "svc", "start") == 1
    assert "ERROR SVC.FS#1 unexpected error: RuntimeError: broken driver" in site.log
    assert "Traceback" in (site.root.log / "svc.log").read_text()


def test_a_resource_may_object_before_anything_is_touched(site):
    """A veto ends a start with exit 1 and nothing started; startfs does not ask."""
    site.service("svc", FAMILIES.replace("container1", "container1\nfails = veto"))
    assert do(site, "svc", "start") == 1
    assert site.journal == []
    assert site.log == [
        "ERROR SVC.CONTAINER#1 it is up elsewhere",
        "ERROR SVC start aborted due to resource container#1 conflict",
    ]
    assert do(site, "svc", "startcontainer") == 0


def test_disabled_resources_are_skipped(site):
    """disable, and DEFAULT.disable that no resource can lift."""
    site.service("svc", FAMILIES.replace("fs1", "fs1\ndisable = true"))
    do(site, "svc", "startfs")
    assert site.journal == ["start disk#1", "start fs#2"]
    site.service(
        "off", FAMILIES.replace("nodes", "disable = true\nnodes").replace("fs1", "fs1\ndisable = false")
    )
    assert do(site, "off", "start") == 0
    assert site.journal == []


def test_rid_limits_an_action_to_resources_and_families(site):
    """--rid takes names and families."""
    site.service("svc", FAMILIES)
    assert do(site, "svc", "start", rids=("fs", "ip#1")) == 0
    assert site.journal == ["start ip#1", "start fs#1", "start fs#2"]


def test_a_rid_that_names_nothing_is_refused(site):
    """A typing error does not silently select nothing."""
    site.service("svc", FAMILIES)
    assert do(site, "svc", "start", rids=("fs#1", "fs#9")) == 1
    assert (site.journal, site.log) == ([], ["ERROR SVC no resource and no family fs#9 in this service"])


def test_a_dry_run_says_and_does_nothing(site):
    """One line per resource, triggers too."""
    site.service("svc", BASE + "[fs#1]\ntype = fake\nfile = FILE:a\npre_start = /x a b\n")
    assert do(site, "svc", "start", dry_run=True) == 0
    assert site.log == ["INFO SVC.FS#1 exec trigger ['/x', 'a', 'b']", "INFO SVC.FS#1 start fake a"]
    assert (site.journal, site.commands) == ([], [])
    assert not started_mark.is_marked(site.root, "svc")


def test_the_exit_code_of_a_trigger_is_ignored_and_its_failure_logged(site):
    """Triggers run around the verb, without a shell; a failing one stops nothing."""
    triggers = "pre_start = /bad one\npost_start = /good two\npost_stop = /none\n"
    site.service("svc", f"{BASE}[fs#1]\ntype = fake\nfile = FILE:a\n{triggers}")
    site.results["/bad"] = CommandResult(("/bad",), 1, "no\n", "")
    site.results["/good"] = CommandResult(("/good",), 0, "yes\n", "")
    assert do(site, "svc", "start") == 0
    assert site.commands == [["/bad", "one"], ["/good", "two"]]
    assert site.log == [
        "INFO SVC.FS#1 /bad one",
        "ERROR SVC.FS#1 command failed with stdout: no",
        "INFO SVC.FS#1 /good two",
        "INFO SVC.FS#1 output: yes",
    ]
    assert do(site, "svc", "stop") == 0
    assert site.log[-1] == "ERROR SVC.FS#1 /none: command not found"


def test_standby_resources_stay_up_at_stop_unless_forced(site):
    """startstandby starts only them, stop skips them, --force and shutdown do not."""
    site.service("svc", FAMILIES.replace("fs1", "fs1\nalways_on = nodes"))
    assert do(site, "svc", "startstandby") == 0
    assert site.journal == ["start fs#1"]
    do(site, "svc", "stop")
    assert "INFO SVC.FS#1 skip 'stop' on standby resource (--force to override)" in site.log
    assert "stop fs#1" not in site.journal
    do(site, "svc", "stop", force=True)
    assert "stop fs#1" in site.journal
    do(site, "svc", "shutdown")
    assert "stop fs#1" in site.journal


def test_a_parallel_set_runs_in_children_and_fails_when_all_have_ended(site):
    """Each member has its process; one failure fails the set, the others having been started."""
    text = BASE + "[subset#fs:a]\nparallel = true\n"
    for number, fails in ((1, ""), (2, "start"), (3, "")):
        text += f"[fs#{number}]\ntype = fake\nfile = FILE:{number}\nsubset = a\nfails = {fails}\n"
    site.service("svc", text)
    assert do(site, "svc", "start") == 1
    journal = site.journal
    assert sorted(journal[:2]) == ["start fs#1", "start fs#3"]
    assert sorted(journal[2:]) == ["stop fs#1", "stop fs#3"]
    started = [line for line in site.log if "action start started in child process" in line]
    assert [line.split()[1] for line in started] == ["SVC.FS:A#1", "SVC.FS:A#2", "SVC.FS:A#3"]


def test_a_process_that_cannot_be_had_fails_a_parallel_set_when_the_others_have_ended(site, monkeypatch):
    """Those that run are not killed in the middle, and what they started is rolled back, like all before."""
    text = BASE + "[subset#fs:a]\nparallel = true\n[ip#1]\ntype = fake\nfile = FILE:ip\n"
    for number in (1, 2, 3):
        text += f"[fs#{number}]\ntype = fake\nfile = FILE:{number}\nsubset = a\n"
    site.service("svc", text)
    fork, forked = os.fork, []

    def fork_twice():
        if len(forked) == 2:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        forked.append(fork())
        return forked[-1]

    monkeypatch.setattr(os, "fork", fork_twice)
    assert do(site, "svc", "start") == 1
    journal = site.journal
    assert journal[0] == "start ip#1"
    assert sorted(journal[1:3]) == ["start fs#1", "start fs#2"]
    assert journal[3:] == ["stop fs#2", "stop fs#1", "stop ip#1"]
    log = site.log
    assert "ERROR SVC.FS:A#3 no child process: Resource temporarily unavailable" in log
    assert log[-2:] == [
        "ERROR SVC 'start' action stopped on execution error",
        "INFO SVC trying to rollback start on ip#1, fs#1, fs#2",
    ]
    assert not started_mark.is_marked(site.root, "svc")


def test_what_fails_behind_the_resources_does_not_say_that_nothing_was_begun(site):
    """The resources were stopped; it is the mark of the start that could not be taken away."""
    site.service("svc", BASE + "[fs#1]\ntype = fake\nfile = FILE:a\n")
    (site.root.run / "svc.started").mkdir(parents=True)
    assert do(site, "svc", "stop") == 1
    assert site.journal == ["stop fs#1"]
    assert site.log == [f"ERROR SVC 'stop' not completed: {site.root.run}/svc.started: Is a directory"]


def test_sets_follow_each_other_by_name(site):
    """Without a subset first, then the subsets in alphanumeric order; reversed for stop."""
    text = BASE
    for number, subset in ((1, "01b"), (2, "00a"), (3, "")):
        text += f"[fs#{number}]\ntype = fake\nfile = FILE:{number}\nsubset = {subset}\n"
    site.service("svc", text)
    do(site, "svc", "start")
    assert site.journal == ["start fs#3", "start fs#2", "start fs#1"]
    do(site, "svc", "stop")
    assert site.journal == ["stop fs#1", "stop fs#2", "stop fs#3"]


def test_boot_starts_here_only_what_has_no_heartbeat(site):
    """An autostart node starts the service; another, or one with an hb, only what is standby."""
    site.service("svc", FAMILIES.replace("nodes", "autostart_node = n1\nnodes"))
    assert do(site, "svc", "boot") == 0
    assert len(site.journal) == 5
    site.service("other", FAMILIES.replace("nodes", "autostart_node = n2\nnodes", 1))
    assert (do(site, "other", "boot"), site.journal) == (0, [])
    site.service("ha", FAMILIES.replace("nodes", "autostart_node = n1\nnodes") + HEARTBEAT)
    site.log  # noqa: B018 - read once
    assert (do(site, "ha", "boot"), site.journal) == (0, [])
    assert site.log == ["WARNING HA cluster nodes should not be in autostart_nodes for HA configuration"]


def test_a_frozen_service_refuses_actions_whatever_the_options(site):
    """Frozen by its own flag or the node's: INFO and exit 1, --force and --cluster do not help."""
    site.service("svc", FAMILIES)
    frozen.freeze(site.root, "svc")
    assert do(site, "svc", "start", force=True) == 1
    assert site.log == ["INFO SVC Abort action for frozen service"]
    frozen.thaw(site.root, "svc")
    frozen.node_flag(site.root).touch()
    assert do(site, "svc", "stop") == 1
    frozen.node_flag(site.root).unlink()
    assert do(site, "svc", "start") == 0


@pytest.mark.parametrize("action", [action for action in SEQUENCES if action != "startstandby"])
def test_a_heartbeat_s_service_is_not_moved_by_hand(site, action):
    """Without --cluster each moving action is refused, exit 1; with it, allowed."""
    site.service("svc", FAMILIES + HEARTBEAT)
    assert do(site, "svc", action) == 1
    assert site.log == [f"ERROR SVC {safety_net.REFUSAL}"]
    assert do(site, "svc", action, cluster=True) == 0


def test_a_disabled_heartbeat_means_maintenance(site):
    """By hand it may be moved, by the heartbeat not."""
    site.service("svc", FAMILIES + HEARTBEAT + "disable = true\n")
    assert do(site, "svc", "start") == 0
    site.said.clear()
    assert do(site, "svc", "stop", cluster=True) == 1
    assert site.log == [f"ERROR SVC {safety_net.MAINTENANCE}"]


def test_a_second_action_waits_and_then_says_who_holds_the_lock(site):
    """A time out is an error line with the holder's pid, exit 1."""
    site.service("svc", FAMILIES)
    do(site, "svc", "startip")
    site.said.clear()
    with (site.root.var / "lock/svc").open("r+") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        assert do(site, "svc", "startip", wait_lock_s=0.05) == 1
    by = f"an action on svc is already running by process {os.getpid()} (startip)"
    text = f"timed out waiting for lock: {by} (0.05 s)"
    assert site.log == [f"ERROR SVC {text}"]
    assert do(site, "svc", "startip", wait_lock_s=0) == 0


def test_the_log_file_has_date_name_and_level(site):
    """`YYYY-MM-DD HH:MM:SS,mmm - NAME - LEVEL - message`, and the terminal's line padded."""
    site.service("svc", FAMILIES.replace("ip1", "ip1\nfails = start"))
    do(site, "svc", "startip")
    lines = (site.root.log / "svc.log").read_text().splitlines()
    assert lines[0][4::3][:2] == "--"
    assert lines[0][23:] == " - SVC.IP#1 - ERROR - cannot start ip#1"
    assert site.said[0][8:] == " ERROR   SVC.IP#1    cannot start ip#1\n"


def test_the_mark_of_a_whole_start_lasts_until_a_whole_stop(site):
    """Only whole actions set and remove it; a failed start that was rolled back leaves none."""
    site.service("svc", FAMILIES)
    do(site, "svc", "startip")
    assert not started_mark.is_marked(site.root, "svc")
    do(site, "svc", "start")
    assert started_mark.is_marked(site.root, "svc")
    do(site, "svc", "stopip")
    assert started_mark.is_marked(site.root, "svc")
    do(site, "svc", "stop")
    assert not started_mark.is_marked(site.root, "svc")
    site.service("bad", FAMILIES.replace("fs2", "fs2\nfails = start"))
    do(site, "bad", "start")
    assert not started_mark.is_marked(site.root, "bad")


def test_a_mark_of_another_life_of_the_node_is_none(site):
    """A mark that names another boot does not hold."""
    started_mark.set_mark(site.root, "svc")
    assert started_mark.is_marked(site.root, "svc")
    started_mark.mark_file(site.root, "svc").write_text("0 0\n")
    assert not started_mark.is_marked(site.root, "svc")
