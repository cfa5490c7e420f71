"""Whole sessions of the agent, captured in June 2014, replayed on real loop devices and mounts.

Each capture holds the service's files, the commands and what they printed. Times, durations,
loop numbers and folders are replaced by words on both sides; all else must be the same.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = REPOSITORY / "tests/golden/agent"

pytestmark = pytest.mark.lab

SCRIPT = """#!/bin/sh
# $0.up: the application runs; $0.broken: its start fails
case $1 in
start) test -e $0.broken && exit 3; touch $0.up ;;
stop) rm -f $0.up ;;
status) test -e $0.up ;;
esac
"""


class Session:
    """A node in a mount namespace of its own, with the lab's image files and scripts."""

    def __init__(self, top: Path, node: str) -> None:
        self.top = top
        self.lab = top / "srv/lab"
        self.lab.mkdir(parents=True)
        (top / "etc/opensvc").mkdir(parents=True)
        self.environment = {
            **os.environ,
            "OSVC_ROOT": str(top),
            "OSVC_NODENAME": node,
            "PYTHONPATH": str(REPOSITORY),
        }
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 3600"],
            stdout=subprocess.PIPE,
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline() == b"ready\n"

    def close(self) -> None:
        for image in self.lab.glob("*.img"):
            listed = subprocess.run(["losetup", "-j", str(image)], capture_output=True, text=True, check=True)
            for line in listed.stdout.splitlines():
                subprocess.run(["losetup", "-d", line.partition(":")[0]], check=False)
        self.holder.kill()
        self.holder.communicate()

    def image(self, name: str) -> None:
        path = self.lab / name
        with path.open("wb") as file:
            file.truncate(8 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-b", "1024", str(path)], check=True)

    def script(self, name: str) -> None:
        (self.lab / name).write_text(SCRIPT)
        (self.lab / name).chmod(0o755)

    def call(self, service: str, *arguments: str) -> str:
        """Run one command of the capture; returns what it printed and its exit code."""
        inside = ["nsenter", "--mount", f"--target={self.holder.pid}"]
        command = [sys.executable, "-m", "opensvc_hb.cli.svcmgr", "-s", service, *arguments]
        done = subprocess.run(
            [*inside, *command],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return f"{done.stdout}[exit code {done.returncode}]\n"


def neutral(text: str, top: str = "") -> str:
    """Replace what differs from run to run."""
    if top:
        text = text.replace(top, "")
    for pattern, word in (
        (r"(?m)^\d\d:\d\d:\d\d ", "TIME "),
        (r"done in \S+ ", "done in DURATION "),
        (r"/dev/loop\d+", "/dev/loopN"),
        (r"logs in \S*/", "logs in FOLDER/"),
        (r"clean, .*", "clean, NUMBERS"),
    ):
        text = re.sub(pattern, word, text)
    return text


def captured(name):
    """The configs of a capture, and its commands with what they printed."""
    text = (GOLDEN / f"transcript-{name}.txt").read_text()
    configs = dict(re.findall(r"## config: /etc/opensvc/(\S+)\n(.*?)(?=\n## |\n\$ )", text, re.DOTALL))
    steps = re.findall(r"^\$ (\S+) (.+)\n((?:(?!\$ ).*\n)*?\[exit code \d+\]\n)", text, re.MULTILINE)
    return configs, steps


def replay(tmp_path, name, node, between=None):
    """Replay a capture; `between` maps the number of a step to what happens before it."""
    configs, steps = captured(name)
    session = Session(tmp_path, node)
    try:
        for image in ("b.img", "c.img"):
            session.image(image)
        for script in ("db", "web"):
            session.script(script)
        for file, text in configs.items():
            moved = re.sub(r"= (/srv/)", rf"= {tmp_path}\1", text)
            (tmp_path / "etc/opensvc" / file).write_text(moved + "\n")
        shown, expected = "", ""
        for number, (service, words, output) in enumerate(steps):
            for happening in (between or {}).get(number, ()):
                happening(session.lab)
            head = f"\n$ {service} {words}\n"
            shown += head + neutral(session.call(service, *words.split()), str(tmp_path))
            expected += head + neutral(output)
        difference = "\n".join(
            difflib.unified_diff(expected.split("\n"), shown.split("\n"), "captured", "shown")
        )
        assert shown == expected, difference
        assert steps
    finally:
        session.close()
        shutil.rmtree(tmp_path, ignore_errors=True)


def touched(name):
    return lambda lab: (lab / name).touch()


def attached(name):
    return lambda lab: subprocess.run(["losetup", "-f", str(lab / name)], check=True)


def removed(name):
    return lambda lab: (lab / name).unlink()


def test_a_failing_start_is_rolled_back_as_it_was(tmp_path, needs_root):
    """Loop, image and launcher services: failures, rollback, idempotence, stop."""
    between = {
        2: [attached("c.img")],
        6: [touched("db.broken")],
        8: [removed("db.broken")],
        10: [removed("web.up"), touched("web.broken")],
    }
    replay(tmp_path, "failing-start", "deb1.opensvc.com", between)


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("scoping-standby", "deb1.opensvc.com"),
        ("scoping-deb2", "deb2.opensvc.com"),
        ("scoping-drp", "deb3.opensvc.com"),
    ],
)
def test_scoped_and_standby_resources_behave_as_they_did(tmp_path, needs_root, name, node):
    """One service seen from three nodes: scopes, standby, flags, implicit syncs."""
    for folder in ("def", "onnodes"):
        (tmp_path / "srv" / folder).mkdir(parents=True)  # earlier captures had made them
    replay(tmp_path, name, node)
