"""Which resources an action is about, blocking triggers, and a rehearsal of it all (--dry-run)."""

from __future__ import annotations

import pytest
from agent_site import BASE, Site

from opensvc_hb.agent import frozen
from opensvc_hb.agent.actions import SEQUENCES, Options, run_action
from opensvc_hb.agent.foreign import ForeignService
from opensvc_hb.agent.resource import CommandResult
from opensvc_hb.cli.svcmgr import act_on
from opensvc_hb.cli.svcmgr_options import read_command_line
from opensvc_hb.services_table import ServiceLine

# pytest's own threads are none of ours: commands and the runner's children fork without any
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path)
    for name, status in (("good", 0), ("bad", 1)):
        site.results[name] = CommandResult((name,), status, "", "said\n" if status else "")
    return site


def resource(rid, more=""):
    return f"[{rid}]\ntype = fake\nfile = FILE:{rid.replace('#', '')}\n{more}"


def do(site, action, text=None, **options):
    if text is not None:
        site.service("svc", BASE + text)
    loader = site.loader
    return run_action(
        loader, loader.service("svc", options.get("cluster", False)), action, Options(**options)
    )


TAGGED = (
    resource("ip#1", "tags = front\n")
    + resource("fs#1", "tags = data front\n")
    + resource("fs#2", "tags = data noaction\n")
    + resource("fs#3")
)


def test_tags_choose_resources_any_of_them_does(site):
    """In the order of the whole action; what is tagged noaction is never touched."""
    assert do(site, "start", TAGGED, tags=("data", "front")) == 0
    assert site.journal == ["start ip#1", "start fs#1"]
    assert do(site, "stop", tags=("data",)) == 0
    assert site.journal == ["stop fs#1"]


def test_tags_and_rids_both_limit_an_action(site):
    """A resource must be meant by both."""
    assert do(site, "start", TAGGED, tags=("front",), rids=("fs",)) == 0
    assert site.journal == ["start fs#1"]


def test_a_tag_that_no_resource_has_is_an_error(site):
    """A misspelt tag does not pass for a start that went well."""
    assert do(site, "start", TAGGED, tags=("fornt",)) == 1
    assert site.log == ["ERROR SVC no resource has the tag fornt in this service"]
    assert site.journal == []


def test_a_blocking_trigger_that_fails_stops_the_action(site):
    """Before: the resource is not started; after: it is stopped again with the others."""
    before = resource("ip#1") + resource("fs#1", "blocking_pre_start = bad now\n") + resource("fs#2")
    assert do(site, "start", before) == 1
    assert site.journal == ["start ip#1", "stop ip#1"]
    log = site.log
    assert log[:2] == ["INFO SVC.FS#1 bad now", "ERROR SVC.FS#1 stderr: said"]
    assert "ERROR SVC 'start' action stopped on execution error" in log
    assert do(site, "start", before.replace("pre", "post")) == 1
    assert site.journal == ["start ip#1", "start fs#1", "stop fs#1", "stop ip#1"]


def test_of_both_triggers_the_blocking_one_comes_last_and_only_it_counts(site):
    """The exit code of the other is ignored, as ever."""
    more = "pre_start = bad 1\nblocking_pre_start = good 2\n"
    assert do(site, "start", resource("fs#1", more)) == 0
    assert site.commands == [["bad", "1"], ["good", "2"]]
    assert site.journal == ["start fs#1"]


def test_on_an_optional_resource_a_blocking_trigger_blocks_that_resource(site):
    """An error of an optional resource never stops the action."""
    text = resource("fs#1", "blocking_pre_start = bad\noptional = true\n") + resource("fs#2")
    assert do(site, "start", text) == 0
    assert site.journal == ["start fs#2"]


REHEARSED = (
    resource("ip#1", "pre_start = bad 1\nblocking_post_stop = bad 2\n")
    + resource("disk#1")
    + resource("fs#1", "subset = a\n")
    + resource("fs#2", "subset = a\n")
    + "[subset#fs:a]\nparallel = true\n"
    + resource("container#1", "always_on = n1\n")
    + resource("fs#9", "disable = true\n")
)


def test_a_dry_run_says_each_step_in_order_and_does_none(site):
    """Triggers as a list of words; the members of a parallel set one after the other."""
    assert do(site, "start", REHEARSED, dry_run=True) == 0
    assert site.log == [
        "INFO SVC.IP#1 exec trigger ['bad', '1']",
        "INFO SVC.IP#1 start fake ip1",
        "INFO SVC.DISK#1 start fake disk1",
        "INFO SVC.FS:A#1 start fake fs1",
        "INFO SVC.FS:A#2 start fake fs2",
        "INFO SVC.CONTAINER#1 start fake container1",
    ]
    assert do(site, "stop", dry_run=True) == 0
    assert site.log == [
        "INFO SVC.CONTAINER#1 skip 'stop' on standby resource (--force to override)",
        "INFO SVC.FS:A#2 stop fake fs2",
        "INFO SVC.FS:A#1 stop fake fs1",
        "INFO SVC.DISK#1 stop fake disk1",
        "INFO SVC.IP#1 stop fake ip1",
        "INFO SVC.IP#1 exec trigger ['bad', '2']",
    ]
    assert (site.journal, site.commands) == ([], [])
    assert not (site.root.run / "svc.started").exists()


@pytest.mark.parametrize("action", [*SEQUENCES, "boot"])
def test_no_action_does_anything_in_a_dry_run(site, action):
    """Whatever its name is, and on whatever it works."""
    text = "autostart_node = n1\n" + REHEARSED
    assert do(site, action, text, dry_run=True, force=True) == 0
    assert (site.journal, site.commands) == ([], [])


def test_a_dry_run_passes_neither_the_safety_net_nor_a_veto(site):
    """It says what would happen, and that is a refusal."""
    assert do(site, "start", resource("fs#1", "fails = veto\n"), dry_run=True) == 1
    assert site.log[-1] == "ERROR SVC start aborted due to resource fs#1 conflict"
    assert do(site, "start", resource("fs#1") + "[hb#0]\ntype = OpenHA\n", dry_run=True) == 1
    assert "--cluster option" in site.log[-1]


def test_a_service_of_scripts_alone_has_a_dry_run_too(site):
    """It says which scripts would be called, the check script before a start, and calls none."""

    def run(*_words):
        pytest.fail("a script was called")

    line = ServiceLine("svc", "/srv/launcher", "n1", "n2", "/srv/check", 1)
    service = ForeignService(site.root, line, site.loader.log("svc"), run)
    assert [service.act(action, dry_run=True) for action in ("start", "stop")] == [0, 0]
    assert site.log == [
        "INFO SVC spawn: /srv/check start",
        "INFO SVC spawn: /srv/launcher start",
        "INFO SVC spawn: /srv/launcher stop",
    ]
    assert service.act("start", cluster=False, dry_run=True) == 1


def test_freeze_and_thaw_have_one_too(site):
    """The flag stays as it is."""
    site.service("svc", BASE)
    for words, before in ((["freeze"], False), (["thaw"], True)):
        (frozen.freeze if before else frozen.thaw)(site.root, "svc")
        line = read_command_line([*words, "--dry-run"])
        assert act_on(site.loader, line, False, ["svc"]) == 0
        assert frozen.is_frozen(site.root, "svc") == before
    assert site.log == ["INFO SVC freeze", "INFO SVC thaw"]
