"""After force-start and force-stop the mark of a foreign service says what the daemon says."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from opensvc_hb.agent import started_mark
from opensvc_hb.agent.lock import service_lock
from opensvc_hb.cli.hb_forced import keep_forced
from opensvc_hb.daemon.control import ControlServer
from opensvc_hb.paths import Root
from opensvc_hb.services_table import services_path


@pytest.fixture
def root():
    # A socket's address is short, pytest's directories are not.
    top = Path(tempfile.mkdtemp(prefix="hbf"))
    made = Root(top)
    for directory in (made.hb, made.run, made.var):
        directory.mkdir(parents=True)
    services_path(made).write_text("one /one.sh n1 n2 /bin/true\ntwo /two.sh n1 n2 /bin/true\n")
    (made.etc / "web.env").write_text("[DEFAULT]\nnodes = n1 n2\n")
    yield made
    shutil.rmtree(top)


@pytest.fixture
def daemon(root):
    states = {}

    def handle(request, peer, reply):
        if request["request"] == "instances":
            reply({"ok": True, "instances": {n: {"service": n, "state": s} for n, s in states.items()}})
        else:
            reply({"ok": True, "service": request["service"], "state": states[request["service"]]})

    server = ControlServer(root.socket, handle)
    server.start()
    yield states
    server.stop()


def marks(root):
    return [name for name in ("one", "two", "web") if started_mark.is_marked(root, name)]


def test_the_mark_follows_a_declaration(root, daemon):
    """STARTED sets it, STOPPED takes it away, for the services named and no service of the agent."""
    daemon.update(one="STARTED", two="STARTED", web="STARTED")
    keep_forced(root, "force-start", ["one", "web"])
    assert marks(root) == ["one"]
    keep_forced(root, "force-start", None)
    assert marks(root) == ["one", "two"]
    daemon.update(one="STOPPED", two="STARTING")
    keep_forced(root, "force-stop", None)
    assert marks(root) == ["two"]


def test_other_verbs_and_running_actions_are_no_matter(root, daemon):
    """An action leaves the mark that is right; no other verb declares anything."""
    daemon.update(one="STARTED")
    keep_forced(root, "start", None)
    with service_lock(root, "one"):
        keep_forced(root, "force-start", None)
    assert marks(root) == []
