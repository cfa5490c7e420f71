"""`hbmgr compat`: OpenHA's tree laid out and taken away, nothing of others touched; and used in a shell."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from openha_fakes import FakeDaemon, FakeService, write_cluster

from opensvc_hb.cli.openha_compat import CompatError, install, read_record, remove, switch_off
from opensvc_hb.core.states import State
from opensvc_hb.daemon.control import ControlServer
from opensvc_hb.daemon.settings import read_settings
from opensvc_hb.daemon.state_file_format import state_file, write_state
from opensvc_hb.paths import Root

REPOSITORY = Path(__file__).resolve().parents[2]
ENTRIES = {"bin", "conf", "doc", "env.sh", "ezha", "ezha.init", "log", "services"}


@pytest.fixture
def place():
    # A socket's address is short, pytest's directories are not.
    top = Path(tempfile.mkdtemp(prefix="hbc"))
    write_cluster(top)
    yield Root(top)
    shutil.rmtree(top)


@pytest.fixture
def prefix(place):
    return place.top / "usr/local/cluster"


def everything(top):
    """Every path below a directory, with its content or target."""

    def what(path):
        return str(path.readlink()) if path.is_symlink() else path.is_file() and path.read_bytes()

    return {str(path.relative_to(top)): what(path) for path in sorted(top.rglob("*"))}


def hbmgr(place, *words):
    environment = {**os.environ, "OSVC_ROOT": str(place.top), "OSVC_NODENAME": "n1"}
    return subprocess.run(
        [sys.executable, "-m", "opensvc_hb.cli.hbmgr", *words],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def shell(place, script):
    """Run a script in bash, where the compatible tree was laid out."""
    environment = {**os.environ, "OSVC_NODENAME": "n1", "PYTHONPATH": str(REPOSITORY)}
    environment.pop("OSVC_ROOT", None)  # the tree knows its root
    return subprocess.run(
        ["bash", "-c", script],
        cwd=place.top,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextlib.contextmanager
def daemon(place, fake):
    place.run.mkdir(parents=True, exist_ok=True)
    server = ControlServer(place.socket, lambda request, _peer, reply: reply(fake.ask(request, 1.0)))
    server.start()
    try:
        yield fake
    finally:
        server.stop()


def test_the_tree_has_openhas_layout_and_leads_to_our_files(place, prefix):
    """conf is links, so that a script that edits conf/monitor edits ours."""
    install(place)
    assert {path.name for path in prefix.iterdir()} == ENTRIES
    assert {path.name for path in (prefix / "bin").iterdir()} == {"hb", "openha", "service"}
    assert (prefix / "conf/monitor").read_text() == (place.hb / "monitor").read_text()
    assert (prefix / "conf/nodes").read_text() == "n1\nn2\n"
    assert os.access(prefix / "bin/service", os.X_OK)
    for path in prefix.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert "@" not in path.read_text().replace('"$@"', ""), f"a word that was not filled in: {path}"


def test_the_daemon_is_told_of_the_tree(place, prefix):
    """By a file of its own beside hb.conf."""
    assert read_settings(place.hb).openha_tree is None
    install(place)
    assert read_settings(place.hb).openha_tree == prefix
    switch_off(place)
    assert read_settings(place.hb).openha_tree is None


def test_removing_leaves_everything_as_it_was(place, prefix):
    """State files that the daemon wrote meanwhile go, too."""
    before = everything(place.top)
    install(place)
    write_state(state_file(prefix, "svc1", "n1"), State.STARTED)
    removed = remove(place, switch_off(place))
    assert removed.kept == ()
    after = {name: what for name, what in everything(place.top).items() if what}  # directories aside
    assert after == {name: what for name, what in before.items() if what}
    assert not prefix.exists()


def test_installing_again_changes_nothing_and_mends_what_is_missing(place, prefix):
    """Also after an installation that was cut off."""
    install(place)
    before = everything(place.top)
    (prefix / "bin/hb").unlink()
    (prefix / "log").unlink()
    install(place)
    assert everything(place.top) == before
    assert remove(place, switch_off(place)).kept == ()


def test_openha_itself_is_not_overwritten(place, prefix):
    """Its nmond tells; nothing is made."""
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin/nmond").touch()
    before = everything(place.top)
    with pytest.raises(CompatError, match=r"OpenHA itself is installed there.*hbmgr import"):
        install(place)
    assert everything(place.top) == before


@pytest.mark.parametrize(
    "name", ["env.sh", "bin/hb", "conf/monitor", "log", "services/registry/STATE.n1", "doc/x"]
)
def test_what_others_made_is_not_overwritten(place, prefix, name):
    """One file in the way is enough; nothing is changed."""
    path = prefix / name
    path.parent.mkdir(parents=True)
    path.write_text("somebody's")
    before = everything(place.top)
    with pytest.raises(CompatError, match="nothing was changed"):
        install(place)
    assert everything(place.top) == before
    assert read_record(place) is None


def test_files_of_others_beside_the_tree_stay(place, prefix):
    """A directory that was there before is not ours to remove."""
    prefix.mkdir(parents=True)
    (prefix / "notes").write_text("somebody's")
    install(place)
    removed = remove(place, switch_off(place))
    assert removed.kept == ()
    assert [path.name for path in prefix.iterdir()] == ["notes"]


def test_what_was_changed_since_stays_and_is_named(place, prefix):
    """Also by the next installation, which must not undo somebody's work."""
    install(place)
    env = prefix / "env.sh"
    env.write_text(env.read_text() + "export MORE=1\n")
    with pytest.raises(CompatError, match="not as hbmgr compat install makes it"):
        install(place)
    removed = remove(place, switch_off(place))
    assert [line.partition(":")[0] for line in removed.kept] == [str(env), str(prefix)]
    assert env.exists()


def test_one_tree_at_a_time(place, prefix):
    """The daemon keeps one in step."""
    install(place)
    with pytest.raises(CompatError, match=str(prefix)):
        install(place, place.top / "other")
    with pytest.raises(CompatError, match=str(prefix)):
        switch_off(place, place.top / "other")


def test_nothing_to_remove_is_said(place):
    """And so is a record that nobody can read."""
    with pytest.raises(CompatError, match="no tree"):
        switch_off(place)
    place.var.mkdir(parents=True)
    (place.var / "openha_tree.json").write_text("[]")
    with pytest.raises(CompatError, match="cannot be read"):
        switch_off(place)


def test_hbmgr_compat_lays_out_and_takes_away(place, prefix):
    """With a word where it is, and as JSON."""
    done = hbmgr(place, "compat", "install")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{prefix}: laid out; in a shell: . {prefix}/env.sh\n"
    done = hbmgr(place, "compat", "remove", "--format", "json")
    assert json.loads(done.stdout)["prefix"] == str(prefix)
    done = hbmgr(place, "compat", "remove")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("hbmgr: no tree")


def test_openhas_shell_environment_works_without_expanding_aliases(place, prefix):
    """Functions in the place of aliases, the same words; no daemon, no processes."""
    install(place)
    fake = FakeDaemon("n1", {"registry": FakeService(["n1", "n2"], {"n1": "STARTED", "n2": "STOPPED"})})
    with daemon(place, fake):
        ran = shell(place, f". {prefix}/env.sh; ez_svc_status; ez_hb_status; echo $EZ_LOG; ez_ps; echo $?")
    assert ran.stderr == ""
    assert ran.stdout.splitlines() == [
        f"=> Querying OpenHA services status [{prefix}/bin/service -s -c]",
        "service          prinode          pristate       secnode          secstate      ",
        "registry         n1               STARTED        n2               STOPPED       ",
        f"=> Querying OpenHA heartbeat status [{prefix}/bin/hb -s]",
        f"{prefix}/log",
        "1",
    ]


def test_the_launchers_pass_words_and_exit_codes_on(place, prefix):
    """Usage texts are those of the legacy layout, with the path by which the command was called."""
    install(place)
    script = f"{prefix}/bin/service; echo $?; {prefix}/ezha; echo $?; {prefix}/bin/openha nothing; echo $?"
    ran = shell(place, script)
    assert ran.stdout.splitlines() == ["255", f"Usage: {prefix}/ezha {{start|stop|kill|restart}}", "1", "1"]
    assert ran.stderr.startswith(f"Usage: {prefix}/bin/service [-s] [-i Service]")
    assert ran.stderr.endswith("unknown subsystem\n")
