"""What svcmgr's help lists stands in its manual page and in the completion, too."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from opensvc_hb.cli.svcmgr_options import ACTION_HELP, OPTIONS

TOP = Path(__file__).resolve().parents[2]
COMPLETION = TOP / "conf.d/bash-completion/hbmgr"


def lacking(text):
    """Words and options of svcmgr that a text does not have, each as a word of its own."""
    words = {word for action in ACTION_HELP for word in action.split("_")}
    options = {shape.spellings[-1] for shape in OPTIONS}
    return sorted(w for w in words | options if not re.search(rf"(?<![\w-]){w}(?![\w-])", text))


def test_the_manual_page_has_every_action_and_option():
    """Each is a word of its own there."""
    page = (TOP / "docs/man/svcmgr.1").read_text(encoding="utf-8").replace("\\-", "-")
    assert lacking(page) == []


def test_the_completion_has_every_action_and_option():
    """What is not offered is not found."""
    assert lacking(COMPLETION.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["svcmgr", "ed"], "edit"),
        (["svcmgr", "edit", ""], "config"),
        (["svcmgr", "validate", ""], "config"),
        (["svcmgr", "print", "config", ""], "keywords"),
        (["svcmgr", "--ev"], "--eval"),
        (["svcmgr", "switch", "--to", ""], "n1 n2"),
        (["hbmgr", "config", ""], "check"),
    ],
)
def test_the_completion_offers_what_can_follow(tmp_path, words, offered):
    """In bash, after these words."""
    (tmp_path / "etc/opensvc/hb").mkdir(parents=True)
    (tmp_path / "etc/opensvc/hb/nodes").write_text("n1\nn2 # second\n")
    quoted = " ".join(f"'{word}'" for word in words)
    script = (
        f"source {COMPLETION}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}\n"
        '_opensvc_hb; echo "${COMPREPLY[@]}"\n'
    )
    environment = {**os.environ, "OSVC_ROOT": str(tmp_path)}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (offered, "")
