"""svcmgr edit config, as an operator uses it: with a terminal and without, the editor a script."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agent_site import BASE, Site

from opensvc_hb.cli.edit_config import QUESTION, editor_of

TOP = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / "node")
    site.service("svc", BASE)
    (site.root.etc / "svc.env").chmod(0o640)
    return site


@pytest.fixture
def editor(tmp_path):
    """Makes an editor: a shell script that gets the copy as $1."""

    def make(*commands):
        path = tmp_path / "editor"
        path.write_text("\n".join(["#!/bin/sh", *commands, ""]))
        path.chmod(0o755)
        return str(path)

    return make


def environment(site, editor):
    return {
        **os.environ,
        "OSVC_ROOT": str(site.top),
        "OSVC_NODENAME": "n1",
        "PYTHONPATH": str(TOP),
        "EDITOR": editor,
        "VISUAL": "",
    }


ARGV = [sys.executable, "-m", "opensvc_hb.cli.svcmgr", "-s", "svc", "edit", "config"]


def edit(site, editor):
    """Without a terminal."""
    done = subprocess.run(
        ARGV,
        env=environment(site, editor),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    return done.returncode, done.stderr.replace(f"{site.root.etc}/", "")


def kept(site):
    folder = site.top / "var/tmp/opensvc"
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def test_a_text_that_is_right_replaces_the_file(site, editor):
    """Mode kept, no copy left, nothing said."""
    assert edit(site, editor('echo "app = web" >> "$1"')) == (0, "")
    path = site.root.etc / "svc.env"
    assert (path.read_text(), path.stat().st_mode & 0o777, kept(site)) == (f"{BASE}app = web\n", 0o640, [])


def test_an_editor_that_changes_nothing_changes_nothing(site, editor):
    """It is said; exit 0."""
    assert edit(site, editor("true")) == (0, "svc.env: not changed\n")
    assert kept(site) == []


def test_without_a_terminal_a_wrong_text_is_kept_and_the_file_too(site, editor):
    """The errors, and where the text is; exit 1."""
    code, said = edit(site, editor('echo "foo = bar" >> "$1"'))
    [copy] = kept(site)
    assert (code, said) == (
        1,
        "svc.env:4: DEFAULT.foo: unknown keyword\n"
        "svc.env: left as it is: the lines above are of what it would say\n"
        f"your text is kept in {copy}\n",
    )
    assert copy.read_text() == f"{BASE}foo = bar\n"
    assert (site.root.etc / "svc.env").read_text() == BASE


def test_an_editor_that_fails_or_does_not_exist_changes_nothing(site, editor):
    """What was written meanwhile is kept."""
    assert edit(site, editor("exit 3")) == (1, "svc.env: left as it is: the editor failed (exit status 3)\n")
    code, said = edit(site, editor('echo "app = web" >> "$1"', "exit 1"))
    assert (code, f"your text is kept in {kept(site)[0]}" in said) == (1, True)
    code, said = edit(site, "/nosuch/editor")
    assert code == 1
    assert said.startswith("/nosuch/editor: No such file or directory: set EDITOR")
    assert (site.root.etc / "svc.env").read_text() == BASE


def test_a_file_that_changed_meanwhile_is_not_overwritten(site, editor):
    """Both texts are there afterwards, and it is said where."""
    theirs = editor(f'echo "app = theirs" >> {site.root.etc}/svc.env', 'echo "app = mine" >> "$1"')
    code, said = edit(site, theirs)
    [copy] = kept(site)
    assert (code, said) == (
        1,
        f"svc.env: was changed by somebody else meanwhile, left as it is\nyour text is kept in {copy}\n",
    )
    assert (site.root.etc / "svc.env").read_text() == f"{BASE}app = theirs\n"


def on_terminal(site, editor, *answers):
    """With a terminal: answer each question; returns the exit code and the screen."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            ARGV, env=environment(site, editor), stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        screen, waiting = "", list(answers)
        deadline = time.monotonic() + LIMIT_S
        while True:
            assert time.monotonic() < deadline, screen
            if not select.select([ours], [], [], 1.0)[0]:
                continue
            try:
                text = os.read(ours, 65536).decode()
            except OSError:
                break  # the other end is closed
            screen += text
            if waiting and screen.count(QUESTION) > len(answers) - len(waiting):
                os.write(ours, f"{waiting.pop(0)}\n".encode())
        return process.wait(LIMIT_S), screen.replace("\r", "")
    finally:
        os.close(ours)


def test_at_a_terminal_a_wrong_text_is_edited_again(site, editor):
    """Until it is right; an answer that is none is asked again."""
    once_wrong = editor('grep -q foo "$1" && sed -i s/foo/app/ "$1" || echo "foo = web" >> "$1"')
    code, screen = on_terminal(site, once_wrong, "what?", "e")
    assert (code, screen.count(QUESTION)) == (0, 2)
    assert re.search(r"svc\.env:4: DEFAULT\.foo: unknown keyword", screen)
    assert (site.root.etc / "svc.env").read_text() == f"{BASE}app = web\n"


def test_at_a_terminal_a_wrong_text_can_be_thrown_away(site, editor):
    """Exit 1, for nothing was done; no copy is left."""
    code, _ = on_terminal(site, editor('echo "foo = web" >> "$1"'), "d")
    assert (code, kept(site)) == (1, [])
    assert (site.root.etc / "svc.env").read_text() == BASE


def test_the_editor_is_the_operator_s_own():
    """VISUAL, EDITOR, vi; with its arguments."""
    assert editor_of({"VISUAL": "emacs -nw", "EDITOR": "nano"}) == ["emacs", "-nw"]
    assert editor_of({"VISUAL": "", "EDITOR": "nano"}) == ["nano"]
    assert editor_of({}) == ["vi"]


def test_an_editor_with_an_unbalanced_quote_is_one_line_that_names_the_variable(site):
    """Nothing is edited, and no copy is left."""
    code, said = edit(site, "vim -c 'set nu")
    reason = "EDITOR: 'vim -c 'set nu' cannot be split into words: no closing quotation\n"
    assert (code, said.count("\n"), said.endswith(reason)) == (1, 1, True)
    assert kept(site) == []
