"""hbmgr as a process of its own: wrong words, reloads, the steps of a key's rotation."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from opensvc_hb.daemon.answers import Answers, Sources
from opensvc_hb.daemon.configuration import Loaded
from opensvc_hb.daemon.control import ControlServer
from opensvc_hb.links import keyring as keys
from opensvc_hb.paths import Root

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def root():
    # A socket's address is short, pytest's directories are not.
    top = Path(tempfile.mkdtemp(prefix="hbw"))
    made = Root(top)
    for directory in (made.hb, made.run, made.var, made.log):
        directory.mkdir(parents=True)
    yield made
    shutil.rmtree(top)


def hbmgr(root, *words, **options):
    environment = {**os.environ, "OSVC_ROOT": str(root.top), "OSVC_NODENAME": "n1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run(
        [sys.executable, "-m", "opensvc_hb.cli.hbmgr", *words],
        cwd=REPOSITORY,
        env=environment,
        text=True,
        timeout=60,
        check=False,
        **pipes,
    )


@contextlib.contextmanager
def daemon(root, handle):
    server = ControlServer(root.socket, handle)
    server.start()
    try:
        yield
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("start", ","), 2, "hbmgr: start: ',' names no service"),
        (("events", "--last", "-1"), 2, "hbmgr events: error: argument --last: invalid count value: '-1'"),
        (("events", "nosuch"), 3, "hbmgr: nosuch: no entry for such a service in {log}/hb.journal"),
    ],
)
def test_wrong_words_are_refused_by_one_line(root, words, code, said):
    """Nothing is taken for done because nothing was asked."""
    ended = hbmgr(root, *words)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert ended.stderr.splitlines()[-1] == said.format(log=root.log)


def test_a_service_named_twice_is_asked_for_once(root):
    """One order, one answer."""
    seen = []

    def handle(request, peer, reply):
        seen.append(request["services"])
        reply({"ok": True, "code": 0, "text": "web: already STARTED"})

    with daemon(root, handle):
        assert hbmgr(root, "start", "web,db,web").returncode == 0
    assert seen == [["web", "db"]]


def test_output_that_cannot_be_written_is_one_line(root):
    """A full disk under a redirection gives no traceback."""
    with Path("/dev/full").open("w") as full:
        ended = hbmgr(root, "config", "check", "--format", "json", stdout=full)
    assert ended.returncode == 1
    assert ended.stderr == "hbmgr: output cannot be written: No space left on device\n"


def test_a_command_of_openha_ends_in_the_same_way():
    """One line, its own code of what fails, no traceback."""
    main = "from opensvc_hb.cli.openha_console import run_command; run_command"
    for script, said in (
        ("('openha', lambda words: print('x') or 0)", "output cannot be written: No space left on device"),
        ("('openha', lambda words: open('/nosuch'))", "/nosuch: No such file or directory"),
    ):
        with Path("/dev/full").open("w") as full:
            ended = subprocess.run(
                [sys.executable, "-c", f"{main}{script}"],
                cwd=REPOSITORY,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
        assert (ended.returncode, ended.stderr) == (255, f"openha: {said}\n")


# -- reload ----------------------------------------------------------------------------------


class Nothing:
    """A configuration of which only sizes count."""

    links = (1, 2)
    services = (1,)


def reloading(problems=(), refused=False, waiting=()):
    loaded = Loaded(Nothing, None, problems, refused, waiting=waiting)
    return Answers(None, Sources(None, None, None, None, None, lambda done: done(loaded))).handle


def test_a_reload_says_what_is_in_force(root):
    """The answer comes when the files have been read."""
    with daemon(root, reloading()):
        ended = hbmgr(root, "reload")
    assert (ended.returncode, ended.stdout) == (0, "read again: 2 links and 1 services are in force\n")


def test_a_reload_names_what_only_a_restart_takes_up(root):
    """A keyword that was changed and is not in force is not passed over."""
    with daemon(root, reloading(waiting=("max_parallel", "control_group"))):
        ended = hbmgr(root, "reload")
    later = "after a restart of the daemon also: max_parallel, control_group"
    assert ended.stdout == f"read again: 2 links and 1 services are in force; {later}\n"


@pytest.mark.parametrize(
    ("refused", "end"),
    [
        (True, "nothing was changed"),
        (False, "the rest was read again: 2 links and 1 services are in force"),
    ],
)
def test_a_reload_of_wrong_files_fails_and_says_what_is_wrong(root, refused, end):
    """The exit code is that of a wrong configuration."""
    with daemon(root, reloading(("monitor:5: columns: 3 columns",), refused)):
        ended = hbmgr(root, "reload")
    assert (ended.returncode, ended.stdout) == (6, "")
    assert ended.stderr.splitlines() == ["monitor:5: columns: 3 columns", end]


# -- the steps of a rotation -----------------------------------------------------------------


def knowing(key_ids, liveness="alive", heard_with=1):
    status = {
        "node": "n1",
        "key_ids": key_ids,
        "peers": {"n2": {"liveness": liveness}},
        "links": [{"node": "n1", "key_id": None}, {"node": "n2", "key_id": heard_with}],
    }
    return lambda request, peer, reply: reply({"ok": True, "status": status})


def write_ring(root, steps):
    ring = keys.generate()
    for _ in range(steps):
        ring = keys.rotate(ring)
    keys.write(root.hb / "key", ring)


@pytest.mark.parametrize(
    ("steps", "known", "said"),
    [
        (1, knowing([1]), "the daemon of n1 does not use"),
        (1, knowing([1, 2], "unknown"), "n2 is unknown: it would miss this step"),
        (2, knowing([2, 1], heard_with=1), "n2 still seals with the old key: copy"),
    ],
)
def test_a_step_is_refused_while_a_node_has_missed_the_one_before(root, steps, known, said):
    """Its beats would be rejected: taken for dead, it would be taken over while it lives."""
    write_ring(root, steps)
    before = (root.hb / "key").read_bytes()
    with daemon(root, known):
        ended = hbmgr(root, "keygen", "--rotate")
        assert (ended.returncode, (root.hb / "key").read_bytes()) == (5, before)
        assert ended.stderr.startswith(f"hbmgr: {said}")
        assert hbmgr(root, "keygen", "--rotate", "--force").returncode == 0


@pytest.mark.parametrize(("steps", "key_ids", "heard_with"), [(0, [1], 1), (1, [1, 2], 1), (2, [2, 1], 2)])
def test_each_step_says_which_it_was(root, steps, key_ids, heard_with):
    """Three steps, each after the one before has reached every node."""
    write_ring(root, steps)
    with daemon(root, knowing(key_ids, heard_with=heard_with)):
        ended = hbmgr(root, "keygen", "--rotate", "--format", "json")
    assert f"step {steps + 1} of 3" in json.loads(ended.stdout)["text"]
