"""svcmgr get, set, unset, enable, disable, delete, create: what they write, say and refuse."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agent_site import BASE, Site

from opensvc_hb.agent import file_change
from opensvc_hb.cli import configure
from opensvc_hb.cli.svcmgr_options import read_command_line
from opensvc_hb.errors import ConfigurationErrors

TOP = Path(__file__).resolve().parents[2]
FS = "[fs#1]\ntype = fake\nfile = FILE:up\n"


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.fixture
def svcmgr(site, capfd):
    """Runs one action on one service; returns its exit code and all that was said."""

    def run(*words, svcname="svc"):
        line = read_command_line(words)
        code = configure.handlers(site.loader, line)[line.action](svcname)
        output = capfd.readouterr()
        return code, output.out + output.err.replace(f"{site.root.etc}/", "") + "".join(
            f"{text}\n" for text in site.log
        )

    return run


def text_of(site, name="svc.env"):
    return (site.root.etc / name).read_text().replace(f"{site.top}/", "FILE:")


def test_set_changes_one_line_and_says_nothing(site, svcmgr):
    """Mode, comments and order stay; a scope names the node."""
    site.service("svc", f"# mine\n{BASE}{FS}# end\n")
    (site.root.etc / "svc.env").chmod(0o640)
    assert svcmgr("set", "--param", "fs#1.optional", "--value", "true") == (0, "")
    assert svcmgr("set", "--param", "fs#1.file@n2", "--value", "/other") == (0, "")
    assert text_of(site) == f"# mine\n{BASE}{FS}optional = true\nfile@n2 = /other\n# end\n"
    assert stat.S_IMODE((site.root.etc / "svc.env").stat().st_mode) == 0o640
    assert [path.name for path in site.root.etc.iterdir() if path.name.startswith(".")] == []


def test_several_keywords_are_set_together_or_not_at_all(site, svcmgr):
    """A section that is wrong without all of them can be made by one command."""
    site.service("svc", BASE + FS)
    parameters = ["--param", "fs#2.type", "--value", "fake", "--param", "fs#2.file", "--value", "/x"]
    assert svcmgr("set", *parameters) == (1, "section 'fs#2' not found (--force adds it)\n")
    assert svcmgr("set", "--force", *parameters[:4])[0] == 1
    assert text_of(site) == BASE + FS
    assert svcmgr("set", "--force", *parameters) == (0, "")
    assert text_of(site) == f"{BASE}{FS}\n[fs#2]\ntype = fake\nfile = /x\n"


def test_a_file_that_would_be_wrong_is_left_as_it_is(site, svcmgr):
    """Each reason stands on its line, exit 1."""
    site.service("svc", BASE + FS)
    code, said = svcmgr("set", "--param", "fs#1.optional", "--value", "perhaps")
    assert (code, said) == (
        1,
        "svc.env:7: fs#1.optional: 'perhaps' is not a boolean (1 yes true on, 0 no false off)\n"
        "svc.env: left as it is: the lines above are of what it would say\n",
    )
    assert svcmgr("unset", "--param", "fs#1.file")[0] == 1
    assert svcmgr("set", "--param", "DEFAULT.autostart_node", "--value", "n1")[0] == 0
    assert svcmgr("set", "--force", "--param", "hb#0.type", "--value", "OpenHA")[0] == 1
    assert text_of(site) == f"{BASE}autostart_node = n1\n{FS}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["get"], "no parameter. set --param"),
        (["set", "--value", "x"], "no parameter. set --param"),
        (["unset"], "no parameter. set --param"),
        (["get", "--param", "fs#1"], "malformed parameter. format as 'section.key'"),
        (["set", "--param", "fs#1", "--value", "x"], "malformed parameter. format as 'section.key'"),
        (["set", "--param", "fs#1.file"], "no value. set --value, once for each --param"),
        (["get", "--param", "fs#9.file"], "section 'fs#9' not found"),
        (["get", "--param", "fs#1.nosuch"], "option 'nosuch' not found in section 'fs#1'"),
        (["unset", "--param", "fs#9.file"], "section 'fs#9' not found"),
        (["unset", "--param", "fs#1.nosuch"], "option 'nosuch' not found in section 'fs#1'"),
        (["delete", "--rid", "fs#9,fs#1"], "no section and no family fs#9 in this file"),
        (["disable", "--rid", "ip"], "no section and no family ip in this file"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_1(site, svcmgr, words, said):
    """The texts are the agents'; nothing is changed."""
    site.service("svc", BASE + FS)
    assert svcmgr(*words) == (1, f"{said}\n")
    assert text_of(site) == BASE + FS


def test_get_prints_the_text_or_what_holds_here(site, svcmgr):
    """As written; with --eval the value of this node; an inherited keyword counts as the section's."""
    site.service("svc", BASE + "optional = true\n" + FS + "tags = a\ntags@n1 = b\n")
    assert svcmgr("get", "--param", "fs#1.tags") == (0, "a\n")
    assert svcmgr("get", "--param", "fs#1.tags@n1") == (0, "b\n")
    assert svcmgr("get", "--param", "fs#1.tags", "--eval") == (0, "b\n")
    assert svcmgr("get", "--param", "fs#1.optional") == (0, "true\n")


def test_disable_and_enable_write_one_keyword_and_log_it(site, svcmgr):
    """Of the resources named, or of [DEFAULT], which no resource can lift."""
    site.service("svc", BASE + FS)
    assert svcmgr("disable", "--rid", "fs#1") == (0, "INFO SVC set fs#1.disable = True\n")
    assert text_of(site) == f"{BASE}{FS}disable = True\n"
    assert svcmgr("disable") == (0, "INFO SVC set DEFAULT.disable = True\n")
    assert svcmgr("enable", "--rid", "fs") == (
        0,
        "INFO SVC set fs#1.disable = False\n"
        "WARNING SVC DEFAULT.disable still disables every resource: enable without --rid lifts it\n",
    )
    assert svcmgr("enable") == (0, "INFO SVC set DEFAULT.disable = False\n")
    assert text_of(site) == f"{BASE}disable = False\n{FS}disable = False\n"


def test_delete_removes_the_sections_that_are_named(site, svcmgr):
    """Without --rid it removes nothing, says so, and exits 0."""
    site.service("svc", f"{BASE}\n{FS}\n[fs#2]\ntype = fake\nfile = /b\n")
    assert svcmgr("delete") == (0, "no resource flagged for deletion\n")
    assert svcmgr("delete", "--rid", "fs#2") == (0, "")
    assert text_of(site) == f"{BASE}\n{FS}"


def test_a_dry_run_judges_and_says_and_writes_nothing(site, svcmgr):
    """Every action on the file has one."""
    site.service("svc", BASE + FS)
    before = text_of(site)
    assert svcmgr("set", "--param", "fs#1.tags", "--value", "a", "--dry-run") == (
        0,
        "INFO SVC set fs#1.tags = a\n",
    )
    assert svcmgr("unset", "--param", "fs#1.type", "--dry-run")[0] == 1
    assert svcmgr("disable", "--dry-run") == (0, "INFO SVC set DEFAULT.disable = True\n")
    assert svcmgr("delete", "--rid", "fs#1", "--dry-run") == (0, "INFO SVC delete fs#1\n")
    assert svcmgr("create", "--dry-run", svcname="new")[0] == 0
    assert (text_of(site), (site.root.etc / "new.env").exists()) == (before, False)


def test_create_makes_a_right_file_of_a_model_and_of_parameters(site, svcmgr, tmp_path):
    """The cluster's nodes and the node's own kind of service, unless something else is asked for."""
    (site.root.hb).mkdir()
    (site.root.hb / "nodes").write_text("n1  # first\n\nN2\n")
    assert svcmgr("create", svcname="new") == (0, f"{site.root.etc}/new.env\n")
    assert text_of(site, "new.env") == "[DEFAULT]\nservice_type = TST\nnodes = n1 n2\n"
    model = tmp_path / "model.conf"
    model.write_text("# a model\n[DEFAULT]\nnodes = n1\n")
    words = ["--config", str(model), "--param", "fs#1.type", "--value", "fake"]
    assert svcmgr("create", *words, svcname="other")[0] == 1
    assert not (site.root.etc / "other.conf").exists()
    assert svcmgr("create", *words, "--param", "fs#1.file", "--value", "/a", svcname="other")[0] == 0
    expected = "# a model\n[DEFAULT]\nnodes = n1\n\n[fs#1]\ntype = fake\nfile = /a\n"
    assert text_of(site, "other.conf") == expected
    assert site.loader.service("other").name == "other"


def test_a_file_that_cannot_be_read_is_named_with_its_line(site, svcmgr, tmp_path):
    """The service's own, and the one that a new service is made of."""
    site.service("svc", BASE + "garbage\n")
    said = "svc.env:4: 'garbage' is neither a [section] nor keyword = value"
    for words in (["set", "--param", "DEFAULT.app", "--value", "a"], ["unset", "--param", "DEFAULT.nodes"]):
        with pytest.raises(ConfigurationErrors) as caught:
            svcmgr(*words)
        assert str(caught.value).replace(f"{site.root.etc}/", "") == said
    model = tmp_path / "model.conf"
    model.write_text("garbage\n")
    code, said = svcmgr(
        "create", "--config", str(model), "--param", "DEFAULT.app", "--value", "a", svcname="x"
    )
    assert (code, said) == (1, f"{model}:1: 'garbage' is neither a [section] nor keyword = value\n")


def test_create_refuses_a_service_that_exists_and_a_name_that_cannot_be(site, svcmgr):
    """Whatever its suffix is; nothing is overwritten."""
    site.service("svc", BASE, ".conf")
    code, said = svcmgr("create")
    assert (code, said) == (1, "svc.conf: exists already; change it with: svcmgr edit config, set, unset\n")
    for name in ("node", "a/b", "web.cluster"):
        code, said = svcmgr("create", svcname=name)
        assert code == 1
        assert said.startswith(f"'{name}' cannot name a service: ")


def test_a_link_to_the_file_is_followed_not_replaced(site, svcmgr, tmp_path):
    """A file that is kept elsewhere stays there."""
    elsewhere = tmp_path / "kept.env"
    elsewhere.write_text(BASE)
    (site.root.etc / "svc.env").symlink_to(elsewhere)
    assert svcmgr("set", "--param", "DEFAULT.comment", "--value", "x")[0] == 0
    assert (site.root.etc / "svc.env").is_symlink()
    assert elsewhere.read_text() == f"{BASE}comment = x\n"


def test_two_changes_at_once_lose_neither(site):
    """The second waits for the first, and begins with what it wrote."""
    site.service("svc", BASE)
    waiting = {}

    def slow(text):
        words = ["-s", "svc", "set", "--param", "DEFAULT.app", "--value", "fast"]
        waiting["process"] = process = subprocess.Popen(
            [sys.executable, "-m", "opensvc_hb.cli.svcmgr", *words],
            env={**os.environ, "OSVC_ROOT": str(site.top), "OSVC_NODENAME": "n1", "PYTHONPATH": str(TOP)},
        )
        deadline = time.monotonic() + 60
        while f" {process.pid} " not in "".join(waiters()):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        return f"{text}comment = slow\n"

    file_change.change_file(site.loader, "svc", slow)
    assert waiting["process"].wait(60) == 0
    assert text_of(site) == f"{BASE}comment = slow\napp = fast\n"


def waiters():
    """The kernel's lines of processes that wait for a lock."""
    return [line for line in Path("/proc/locks").read_text().splitlines(keepends=True) if "->" in line]


def test_a_text_that_somebody_else_changed_is_not_overwritten(site):
    """Who edited a copy for an hour is told."""
    site.service("svc", BASE)
    before = file_change.read_text(site.loader, "svc")
    (site.root.etc / "svc.env").write_text(f"{BASE}comment = theirs\n")
    with pytest.raises(file_change.ChangedMeanwhileError, match="changed by somebody else"):
        file_change.replace_text(site.loader, "svc", before, f"{BASE}comment = mine\n")
    assert text_of(site) == f"{BASE}comment = theirs\n"
