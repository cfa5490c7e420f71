"""enable, disable, get, set, unset, delete: a captured session comes out again, word for word."""

from __future__ import annotations

import difflib
import os
import re
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
CAPTURE = Path(__file__).parent / "agent/transcript-config-actions.txt"
FILE = "svcmon1.env"
STEP = re.compile(r"^\$ svcmon1 (.+)\n((?:(?!\$ ).*\n)*?\[exit code \d+\]\n)", re.MULTILINE)

AFTERWARDS = """\
[DEFAULT]
service_type = DEV
nodes = deb1.opensvc.com deb2.opensvc.com
disable = False

[fs#1]
dev = /srv/lab/c.img
mnt = /srv/svcmon1
type = ext4
mnt_opt = loop
disable = False

[hb#0]
disable = true
type = OpenHA
name = svcmon1
disable = True
"""


def without_time(text):
    return re.sub(r"(?m)^\d\d:\d\d:\d\d ", "TIME ", text)


def test_the_captured_session_comes_out_again(tmp_path):
    """A service under maintenance is configured; the file keeps its order, which the agent's lost."""
    capture = CAPTURE.read_text()
    config = re.search(rf"## config: /etc/opensvc/{FILE}\n(.*?)\n\n\$ ", capture, re.DOTALL).group(1)
    etc = tmp_path / "etc/opensvc"
    etc.mkdir(parents=True)
    (etc / FILE).write_text(f"{config}\n")
    environment = {
        **os.environ,
        "OSVC_ROOT": str(tmp_path),
        "OSVC_NODENAME": "deb1.opensvc.com",
        "PYTHONPATH": str(TOP),
    }
    shown, expected = "", ""
    for words, output in STEP.findall(capture):
        done = subprocess.run(
            [sys.executable, "-m", "opensvc_hb.cli.svcmgr", "-s", "svcmon1", *words.split()],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        shown += f"$ {words}\n{without_time(done.stdout)}[exit code {done.returncode}]\n"
        expected += f"$ {words}\n{without_time(output)}"
    difference = "\n".join(difflib.unified_diff(expected.split("\n"), shown.split("\n"), "captured", "shown"))
    assert shown == expected, difference
    assert (etc / FILE).read_text() == AFTERWARDS
