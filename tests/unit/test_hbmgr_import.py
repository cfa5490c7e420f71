"""hbmgr import: trees of OpenHA, as they are found in the field, become ours; what runs goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opensvc_hb.agent import started_mark
from opensvc_hb.agent.foreign import NodeAdapter
from opensvc_hb.cli import hb_import, hbmgr
from opensvc_hb.cli.import_plan import make_plan, with_keyword
from opensvc_hb.cli.import_source import (
    Layout,
    NotOpenHA,
    find_source,
    read_state,
    read_tunables,
    running_programs,
)
from opensvc_hb.core.config import Protocol
from opensvc_hb.core.states import State
from opensvc_hb.daemon import life
from opensvc_hb.daemon.settings import read_settings
from opensvc_hb.errors import ConfigurationError, ExitCode
from opensvc_hb.paths import Root

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = REPOSITORY / "tests/golden/import"
EZ_NAMES = ("EZ_NODES", "EZ_MONITOR", "EZ_SERVICES", "EZ_VAR", "EZ")

MONITOR = """\
n1 net eth1 239.131.50.10 5010 10
n1 net eth2 239.131.50.11 5011 10
n2 net eth1 239.131.50.12 5012 10
n2 net eth2 239.131.50.13 5013 10
n1 dio /dev/vdb 0 10
n2 dio /dev/vdb 40 10
"""


class Field:
    """A node with OpenHA on it, whose file system is a directory.

    Args:
        top: an empty directory; below it `usr/local/cluster` or `etc/openha`, and our own files.
        layout: which of the two.
    """

    def __init__(self, top, layout=Layout.LEGACY):
        self.top = top
        self.root = Root(top)
        legacy = layout is Layout.LEGACY
        self.directory = top / "usr/local/cluster" if legacy else top
        self.conf = self.directory / "conf" if legacy else top / "etc/openha"
        self.states = (self.directory if legacy else top / "var/lib/openha") / "services"
        self.conf.mkdir(parents=True)
        self.states.mkdir(parents=True)
        self.sbin = top / "usr/local/sbin"
        self.sbin.mkdir(parents=True)
        self.true = self.sbin / "true"
        for name in ("registry", "busybox", "true"):
            script = self.sbin / (name if name == "true" else f"{name}.sh")
            script.write_text("#!/bin/sh\nexit 0\n")
            script.chmod(0o755)
        self.write("nodes", "n1\nn2\n")
        self.write("monitor", MONITOR)
        self.write("services", f"{self.line('registry', 'n1', 'n2')}{self.line('busybox', 'n2', 'n1')}")

    def line(self, name, primary, secondary):
        return f"{name}\t{self.sbin}/{name}.sh\t{primary}\t{secondary}\t{self.true}\n"

    def write(self, name, text):
        (self.conf / name).write_bytes(text.encode("utf-8", "surrogateescape"))

    def state(self, service, node, content):
        folder = self.states / service
        folder.mkdir(exist_ok=True)
        (folder / f"STATE.{node}").write_bytes(content)

    def tunables(self, text):
        path = self.top / "etc/default/openha"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def env(self, name):
        self.root.etc.mkdir(parents=True, exist_ok=True)
        (self.root.etc / f"{name}.env").write_text("[DEFAULT]\nservice_type = DEV\nnodes = n1 n2\n")
        link = self.root.etc / f"{name}.cluster"
        link.symlink_to("/usr/bin/svcmgr")
        return link

    def plan(self, node="n1"):
        return make_plan(find_source(self.directory, self.root, {}), self.root, node)

    def errors(self):
        return [str(error).replace(f"{self.conf}/", "") for error in self.plan().errors]

    def notes(self):
        return [note.replace(f"{self.conf}/", "") for note in self.plan().notes]

    def do(self, node="n1"):
        plan = self.plan(node)
        assert plan.errors == ()
        return hb_import.write_plan(plan, self.root, time.time())

    def avail(self, service):
        return NodeAdapter(self.root, "n1").avail(service, evaluate_apps=True)


@pytest.fixture
def field(tmp_path):
    return Field(tmp_path)


@pytest.fixture
def fhs(tmp_path):
    return Field(tmp_path, Layout.FHS)


def run(field, *words):
    """Run hbmgr as a process of its own, on the field's node n1."""
    variables = {name: value for name, value in os.environ.items() if name not in EZ_NAMES}
    return subprocess.run(
        [sys.executable, "-m", "opensvc_hb.cli.hbmgr", *words],
        cwd=REPOSITORY,
        env={**variables, "OSVC_ROOT": str(field.top), "OSVC_NODENAME": "n1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def shown(field, ended):
    text = f"{ended.stdout}----\n{ended.stderr}[exit {ended.returncode}]\n"
    return text.replace(f"{field.top}/", "/").replace(str(field.top), "/")


# -- where things are -----------------------------------------------------------------------


def test_both_layouts_are_found(tmp_path):
    """By the directory that a user of each knows: /usr/local/cluster, and /."""
    legacy, fhs = Field(tmp_path / "a"), Field(tmp_path / "b", Layout.FHS)
    source = find_source(legacy.directory, legacy.root, {})
    assert (source.layout, source.nodes, source.states) == (
        Layout.LEGACY,
        legacy.directory / "conf/nodes",
        legacy.directory / "services",
    )
    source = find_source(fhs.directory, fhs.root, {})
    assert (source.layout, source.monitor, source.states) == (
        Layout.FHS,
        fhs.top / "etc/openha/monitor",
        fhs.top / "var/lib/openha/services",
    )


def test_other_paths_come_from_tunables_and_the_environment(fhs):
    """A tunable's path lies under the root of the installation, one of the environment is as it stands."""
    fhs.tunables('export EZ_VAR="/srv/openha"\nEZ_NODES=/srv/nodes\n')
    source = find_source(fhs.directory, fhs.root, {"EZ_NODES": "/elsewhere/nodes"})
    assert source.states == fhs.top / "srv/openha/services"
    assert source.nodes == Path("/elsewhere/nodes")
    named = {name: f"/x/{name}" for name in ("EZ_NODES", "EZ_MONITOR", "EZ_SERVICES", "EZ_VAR")}
    source = find_source(fhs.top / "usr", Root(fhs.top / "var"), named)
    assert (source.layout, source.states) == (Layout.NAMED, Path("/x/EZ_VAR/services"))


def test_a_directory_without_openha_is_refused(tmp_path):
    """One line that says what was looked for."""
    with pytest.raises(NotOpenHA, match="no OpenHA here: neither conf/monitor"):
        find_source(tmp_path, Root(tmp_path), {})


def test_tunables_are_read_without_a_shell(tmp_path):
    """Plain assignments, quoted or not; everything else is an error with its line."""
    path = tmp_path / "openha"
    path.write_text(
        "# comment\n\nHEARTBEAT_TALK_DELAY_ON_START=4\nexport EZ_VAR='/a b' # why\nexport EZ_VAR\n"
        'EZ_LOG="$EZ/log"\n. /etc/profile\nEZ_BIN=`pwd`\nA=b c\n'
    )
    tunables, errors = read_tunables(path)
    assert {name: (tunable.value, tunable.line) for name, tunable in tunables.items()} == {
        "HEARTBEAT_TALK_DELAY_ON_START": ("4", 3),
        "EZ_VAR": ("/a b", 4),
    }
    assert [error.line for error in errors] == [6, 7, 8, 9]


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (b"0\0", State.STOPPED),
        (b"2\0", State.STARTED),
        (b"6\n", State.FROZEN_STOP),
        (b"9\0", State.FORCE_STOP),
        (b"-1", State.STOPPED),
        (None, State.FROZEN_STOP),
    ],
)
def test_state_files_read_as_openha_reads_them(field, content, state):
    """The first byte counts; a missing file is FROZEN_STOP."""
    if content is not None:
        field.state("registry", "n1", content)
    assert read_state(find_source(field.directory, field.root, {}), "registry", "n1") is state


def test_openhas_daemons_are_seen_by_name(tmp_path):
    """By what the kernel calls them; other processes, and such as end meanwhile, are no matter."""
    for pid, name in ((7, "nmond"), (12, "heartc_unicast"), (5, "heartd"), (99, "bash")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
    (tmp_path / "100").mkdir()
    (tmp_path / "self").mkdir()
    assert running_programs(tmp_path) == ((5, "heartd"), (7, "nmond"), (12, "heartc_unicast"))


# -- what is written ------------------------------------------------------------------------


def test_a_legacy_tree_is_imported(field):
    """nodes, monitor and services as they were, and hb.conf that speaks to both."""
    assert field.do() is None
    hb = field.root.hb
    assert (hb / "nodes").read_text() == "n1\nn2\n"
    assert (hb / "monitor").read_text() == MONITOR
    assert (hb / "services").read_text() == (field.conf / "services").read_text()
    assert (hb / "hb.conf").read_text() == "[hb]\nprotocol = both\n"
    assert read_settings(hb, under_root=True).protocol is Protocol.BOTH
    assert [d.name for d in NodeAdapter(field.root, "n1").declare().services] == ["registry", "busybox"]


def test_what_was_there_is_kept_in_a_backup(field):
    """Only what is replaced; an import again changes nothing, and needs no backup."""
    field.root.hb.mkdir(parents=True)
    (field.root.hb / "nodes").write_text("n1\nn3\n")
    (field.root.hb / "monitor").write_text(MONITOR)
    (field.root.hb / "hb.conf").write_text("# ours\n[hb]\ntakeover = ask\nprotocol = native\n")
    backup = field.do()
    assert backup is not None
    assert backup.parent == field.root.hb
    assert {path.name: path.read_text() for path in backup.iterdir()} == {
        "nodes": "n1\nn3\n",
        "hb.conf": "# ours\n[hb]\ntakeover = ask\nprotocol = native\n",
    }
    assert (field.root.hb / "hb.conf").read_text() == "# ours\n[hb]\ntakeover = ask\nprotocol = both\n"
    assert field.do() is None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"[hb]\nprotocol = both\n"),
        (
            b"# x\n[hb]\n#protocol = native\nheal = stop",
            b"# x\n[hb]\nprotocol = both\n#protocol = native\nheal = stop\n",
        ),
        (b"[hb]\nProtocol=native\n", b"[hb]\nprotocol = both\n"),
    ],
)
def test_a_keyword_is_set_in_place(before, after):
    """Comments and other keywords stay."""
    assert with_keyword(before, "protocol", "both") == after


def test_a_drop_in_that_says_otherwise_is_an_error(field):
    """It would win over what is written."""
    (field.root.hb / "conf.d").mkdir(parents=True)
    (field.root.hb / "conf.d/site.conf").write_text("[hb]\nprotocol = native\n")
    (error,) = field.plan().errors
    assert str(error) == (
        f"{field.root.hb}/conf.d: protocol: is not both after all: remove it there, and import again"
    )


def test_what_openha_ignores_is_left_out_and_said(fhs):
    """Unknown types, comments, blank lines, extra columns; the file keeps its lines."""
    fhs.write(
        "monitor", f"{MONITOR}n1 serial /dev/ttyS0 x\n\n# comment\nn1 net eth1 239.131.50.20 5020 10 fast\n"
    )
    fhs.write("services", f"# ours\n\n  {fhs.line('registry', 'n1', 'n2')}")
    assert fhs.notes() == [
        "monitor:7: left out: OpenHA ignores a line of type 'serial', too",
        "monitor:9: a comment: it stays one here; OpenHA takes it for an entry",
        "monitor:10: 'fast' is left out: OpenHA ignores what follows the timeout, too",
        "services:1: a comment: it stays one here; OpenHA takes it for an entry",
        "services:3: begins with a blank: OpenHA reads no name there, here it is registry",
    ]
    fhs.do()
    written = (fhs.root.hb / "monitor").read_text().splitlines()
    assert written[6:] == [
        "# left out by import: n1 serial /dev/ttyS0 x",
        "",
        "# comment",
        "n1 net eth1 239.131.50.20 5020 10",
    ]


def test_every_mistake_is_told_at_once_with_the_line_that_was_read(field):
    """What OpenHA accepts and we refuse says what to write; nothing is written."""
    field.write("nodes", "N1\nn2\n")
    field.write("monitor", MONITOR.replace("5010 10", "5010 10s").replace("vdb 40", "vdb 0x28"))
    field.write(
        "services",
        "registry r.sh n1 n2 /bin/true\nshort /s.sh n1\nfar /f.sh n1 n9 /bin/true\ncap /c.sh n1 N2 /true\n",
    )
    field.state("far", "n1", b"3\0")
    errors = field.errors()
    assert [error.split(": ")[0:2] for error in errors] == [
        ["nodes:1", "node"],
        ["services:4", "secondary"],
        ["monitor:1", "timeout"],
        ["monitor:6", "offset"],
        ["services:1", "script"],
        ["services:2", "columns"],
    ]
    assert not field.root.hb.exists()


def test_a_node_that_is_not_in_nodes_is_an_error(field):
    """OpenHA never looks at that file; this node must be in it, and each service's nodes."""
    field.write("services", field.line("registry", "n1", "n9"))
    assert field.errors() == ["services:1: primary, secondary: n9 is not in nodes: add it there"]
    assert any("this node, n7, is not listed" in str(e) for e in field.plan("n7").errors)


def test_missing_files_are_told(field):
    """No services file is no service; nodes and monitor must be there."""
    (field.conf / "services").unlink()
    assert field.errors() == []
    assert field.plan().services == ()
    field.write("services", "")
    for name in ("nodes", "monitor"):
        (field.conf / name).unlink()
    assert field.errors() == [
        "nodes: does not exist: OpenHA does not run without it",
        "monitor: does not exist: OpenHA does not run without it",
    ]


@pytest.mark.parametrize(
    ("first", "second", "accepted"), [(0, 18, False), (0, 19, True), (5, 23, False), (5, 24, True)]
)
def test_slots_are_19_blocks_apart_as_openha_wants_them(field, first, second, accepted):
    """Nearer ones are refused there without a word, here with line and reason."""
    lines = MONITOR.splitlines()[:4]
    slots = [f"n1 dio /dev/vdb {first} 10", f"n2 dio /dev/vdb {second} 10"]
    field.write("monitor", "\n".join([*lines, *slots, ""]))
    errors = field.errors()
    assert errors == [] if accepted else "monitor:6: offset:" in errors[0]


def test_more_services_than_the_structure_holds_are_refused(field):
    """128 are possible, 129 are not: OpenHA overwrites its memory there."""
    lines = [f"svc{number} {field.sbin}/registry.sh n1 n2 {field.true}\n" for number in range(129)]
    field.write("services", "".join(lines[:128]))
    assert field.errors() == []
    field.write("services", "".join(lines))
    assert field.errors() == ["services: 129 services: beside a node with OpenHA at most 128 are possible"]


# -- what runs goes on running --------------------------------------------------------------


def test_what_runs_here_is_adopted_as_running(field):
    """STARTED is marked as started, STOPPED and FROZEN_STOP are not; an old mark does not stay."""
    field.state("registry", "n1", b"2\0")
    field.state("busybox", "n1", b"0\0")
    started_mark.set_mark(field.root, "busybox")
    field.do()
    assert (field.avail("registry"), field.avail("busybox")) == ("up", "down")


@pytest.mark.parametrize("content", [b"7\0", b"4\0", b"5\0"])
def test_what_may_run_is_counted_as_running(field, content):
    """A wrong "stopped" lets two nodes run it; a wrong "running" waits for an operator."""
    field.state("registry", "n1", content)
    assert any("counted as running" in note for note in field.notes())
    field.do()
    assert field.avail("registry") == "up"


@pytest.mark.parametrize("content", [b"1\0", b"3\0", b"8\0", b"x", b""])
def test_a_state_that_says_nothing_is_refused(field, content):
    """The operator says which, in OpenHA's own words, since nobody can look."""
    field.state("registry", "n1", content)
    (error,) = field.plan().errors
    assert str(error).startswith(f"{field.states}/registry/STATE.n1: ")
    assert "service -A registry force-start (it runs) or service -A registry force-stop" in str(error)


def test_states_of_other_nodes_are_no_matter(field):
    """Only the local instance is imported; the peer's states come over the wire."""
    field.write("services", field.line("registry", "n1", "n2") + "far /f.sh n2 n3 /bin/true\n")
    field.state("registry", "n2", b"3\0")
    field.state("far", "n1", b"3\0")
    assert field.errors() == []
    assert field.notes() == ["services:2: far is not this node's: kept, and not cared for"]


def test_a_cluster_link_becomes_a_service_of_the_agent(field):
    """Its resources tell whether it is up; the mark helps where they cannot."""
    link = field.env("web")
    field.write("services", f"websvc {link} n1 n2 /bin/true\n")
    field.state("websvc", "n1", b"2\0")
    (service,) = field.plan().services
    assert (service.agent, service.svcname, service.runs) == ("web", "web", True)
    field.do()
    assert started_mark.is_marked(field.root, "web")
    (declared,) = NodeAdapter(field.root, "n1").declare().services
    assert (declared.name, declared.svcname) == ("websvc", "web")


def test_a_cluster_link_without_its_file_is_an_error(field):
    """Nothing would start it."""
    link = field.env("web")
    (field.root.etc / "web.env").unlink()
    field.write("services", f"web {link} n1 n2 /bin/true\n")
    assert field.errors() == [
        f"services:1: script: {link} leads to svcmgr, but there is no {field.root.etc}/web.env or .conf: "
        "put it there"
    ]


def test_a_name_that_the_agent_knows_is_said(field):
    """The script of the line is called no more."""
    field.env("registry")
    assert any("it is the agent's service from now on" in note for note in field.notes())
    assert field.plan().services[0].agent == "registry"


# -- when it is refused ---------------------------------------------------------------------


def test_a_running_openha_is_not_imported(field):
    """Its states could change behind us."""
    with pytest.raises(hb_import.ImportRefused, match=r"OpenHA runs here \(nmond, process 150 and 1 more\)"):
        hb_import.refuse_while_running(field.root, ((150, "nmond"), (151, "heartd")))
    hb_import.refuse_while_running(field.root, ())


def test_nothing_is_imported_under_a_running_daemon_of_ours(field):
    """It holds the lock of the root."""
    field.root.run.mkdir(parents=True)
    lock = life.take_lock(field.root.lock)
    try:
        with pytest.raises(hb_import.ImportRefused, match="our daemon runs here: systemctl stop opensvc-hb"):
            hb_import.refuse_while_running(field.root, ())
    finally:
        lock.release()


# -- afterwards -----------------------------------------------------------------------------


class Daemon:
    """Answers as the daemon of n1: states of instances, and whether the peer is heard."""

    def __init__(self, states, liveness="alive"):
        self.states = states
        self.liveness = liveness
        self.orders = []

    def __call__(self, message):
        if message["request"] == "status":
            return {"ok": True, "status": {"peers": {"n2": {"liveness": self.liveness}}}}
        if message["request"] == "instances":
            return {"ok": True, "instances": {name: {"state": state} for name, state in self.states.items()}}
        self.orders.append(message)
        return {"ok": True, "code": 0, "text": ""}


def test_what_was_not_frozen_is_unfrozen_later(field):
    """STARTED and STOPPED, where the daemon found the same; all else is left to the operator."""
    names = ("runs", "rests", "frozen", "odd", "vanished", "free", "maintained")
    field.write(
        "services", "".join(f"{name} {field.sbin}/registry.sh n1 n2 {field.true}\n" for name in names)
    )
    for name, content in zip(names, (b"2\0", b"0\0", b"6\0", b"2\0", b"2\0", b"2\0", b"7\0")):
        field.state(name, "n1", content)
    field.do()
    daemon = Daemon(
        {
            "runs": "FROZEN_START",
            "rests": "FROZEN_STOP",
            "frozen": "FROZEN_STOP",
            "odd": "FROZEN_STOP",
            "free": "STARTED",
            "maintained": "FROZEN_START",
        }
    )
    unfrozen = hb_import.unfreeze_imported(field.root, daemon)
    assert sorted(unfrozen.done) == ["rests", "runs"]
    assert unfrozen.left == (
        "frozen: was FROZEN_STOP in OpenHA: look, then hbmgr unfreeze frozen",
        "maintained: was START_READY in OpenHA: look, then hbmgr unfreeze maintained",
        "odd: was STARTED in OpenHA, and is FROZEN_STOP now: look, then hbmgr unfreeze odd",
        "vanished: the daemon does not care for it: see hbmgr status",
    )
    (order,) = daemon.orders
    assert (order["verb"], sorted(order["services"]), order["force"]) == (
        "unfreeze",
        ["rests", "runs"],
        False,
    )


def test_nothing_is_unfrozen_while_the_peer_is_not_heard(field):
    """What is STOPPED here runs there: this node would start it."""
    field.do()
    daemon = Daemon({}, liveness="waiting")
    with pytest.raises(hb_import.ImportRefused, match="n2 is not heard: nothing was unfrozen"):
        hb_import.unfreeze_imported(field.root, daemon)
    assert daemon.orders == []


def test_unfreeze_without_an_import_is_refused(field):
    """And so is a record that cannot be read."""
    with pytest.raises(hb_import.NothingImported):
        hb_import.unfreeze_imported(field.root, Daemon({}))
    field.root.var.mkdir(parents=True)
    (field.root.var / hb_import.RECORD_NAME).write_text("{")
    with pytest.raises(ConfigurationError, match="unfreeze by hand"):
        hb_import.unfreeze_imported(field.root, Daemon({}))


# -- the command ----------------------------------------------------------------------------


def test_a_dry_run_shows_all_and_writes_nothing(field, golden):
    """The legacy tree of two scripted services, one of which runs here."""
    field.state("registry", "n1", b"2\0")
    field.state("busybox", "n1", b"6\0")
    before = sorted(field.top.rglob("*"))
    golden(
        GOLDEN / "legacy-dry-run.txt", shown(field, run(field, "import", str(field.directory), "--dry-run"))
    )
    assert sorted(field.top.rglob("*")) == before


def test_an_fhs_tree_with_all_kinds_of_notes(fhs, golden):
    """Tunables, lines that OpenHA ignores, a link to svcmgr, a service in maintenance."""
    fhs.tunables("FREEZE_SERVICE_SECONDARY_INSTANCE_ON_START=yes\nHEARTBEAT_TALK_DELAY_ON_START=4\n")
    fhs.write("monitor", f"{MONITOR}n1 serial /dev/ttyS0 x\n# comment\n")
    services = fhs.line("registry", "n1", "n2") + f"web {fhs.env('web')} n2 n1 /bin/true\n"
    fhs.write("services", services + "far /far.sh a.example b.example /bin/true\nlost /lost.sh n1 n2 /lost\n")
    fhs.state("registry", "n1", b"7\0")
    fhs.state("web", "n1", b"2\0")
    golden(GOLDEN / "fhs-dry-run.txt", shown(fhs, run(fhs, "import", str(fhs.directory), "--dry-run")))


def test_errors_of_the_command(field, golden):
    """All at once, on stderr, exit code 6."""
    field.write("monitor", MONITOR.replace("5010 10", "5010 10s"))
    field.state("registry", "n1", b"3\0")
    golden(GOLDEN / "errors.txt", shown(field, run(field, "import", str(field.directory))))


def test_json_is_one_document(field):
    """What text says, for programs; errors too."""
    ended = run(field, "import", str(field.directory), "--dry-run", "--format", "json")
    document = json.loads(ended.stdout)
    assert (ended.returncode, ended.stderr, document["ok"], document["written"]) == (0, "", True, False)
    assert {Path(file["path"]).name: file["change"] for file in document["files"]} == {
        "nodes": "new",
        "monitor": "new",
        "services": "new",
        "hb.conf": "new",
    }
    assert document["services"]["registry"]["counted_as_running"] is False
    field.write("monitor", "n1 net\n")
    ended = run(field, "import", str(field.directory), "--format", "json")
    document = json.loads(ended.stdout)
    assert (ended.returncode, document["ok"], document["written"]) == (
        int(ExitCode.CONFIGURATION),
        False,
        False,
    )
    assert document["errors"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["import"], "name the directory of the OpenHA installation"),
        (["import", "/x", "--unfreeze"], "takes neither DIR nor --dry-run"),
    ],
)
def test_words_that_do_not_fit(words, said):
    """Refused before anything is read."""
    with pytest.raises(hbmgr.WrongInvocation, match=said):
        hbmgr.run(words)
