"""svcmgr and svcmon as a user calls them: texts, exit codes, links, kept statuses."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from agent_site import BASE, Site

from opensvc_hb.agent.adapter import AgentAdapter
from opensvc_hb.daemon.settings import read_settings

# pytest's own threads are none of ours: commands and the runner's children fork without any
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

REPOSITORY = Path(__file__).resolve().parents[2]
FS = "[fs#1]\ntype = fake\nfile = FILE:up\n"
HEARTBEAT = "[hb#0]\ntype = OpenHA\n"


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def call(site, argv, **variables):
    environment = {
        **os.environ,
        "OSVC_ROOT": str(site.top),
        "OSVC_NODENAME": site.node,
        "PYTHONPATH": str(REPOSITORY),
        **variables,
    }
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)


def svcmgr(site, *arguments):
    return call(site, [sys.executable, "-m", "opensvc_hb.cli.svcmgr", *arguments])


def svcmon(site, *arguments):
    return call(site, [sys.executable, "-m", "opensvc_hb.cli.svcmon", *arguments])


def test_status_is_an_exit_code_and_codes_add_up(site):
    """`status` prints nothing: 1 down, 2 warn; of several services the sum."""
    site.service("down", BASE.replace("n1 n2", "n1") + FS)
    site.service("warn", BASE + FS)
    assert [svcmgr(site, "-s", name, "status").returncode for name in ("down", "warn", "down,warn")] == [
        1,
        2,
        3,
    ]
    assert svcmgr(site, "-s", "down", "status").stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["-s", "svc", "print", "status"],
        ["print_status", "-s", "svc"],
        ["print", "--service=svc", "status"],
        ["--service", "svc", "print_status", "--refresh"],
        ["print", "status"],
    ],
)
def test_options_stand_anywhere_and_words_apart_or_joined(site, arguments):
    """All shapes of the command print the same tree."""
    site.service("svc", BASE.replace("n1 n2", "n1") + FS)
    done = svcmgr(site, *arguments)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "svc"
    assert done.stdout.splitlines()[3] == "|  '- fs#1           .... down     fake up"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["-s", "svc"], "Missing action"),
        (["-s", "svc", "foo"], "unsupported action"),
        (["-s", "svc", "start", "foo"], "unsupported action"),
        (["--nosuchoption", "print", "status"], "no such option: --nosuchoption"),
        (["-s", "svc", "start", "--waitlock", "soon"], "invalid number of seconds: 'soon'"),
        (["start"], "no service given: use -s SVC[,SVC]"),
        (["-s"], "-s option requires an argument"),
    ],
)
def test_an_error_of_usage_is_exit_2(site, arguments, error):
    """Usage and the error on stderr; nothing is done."""
    site.service("svc", BASE + FS)
    done = svcmgr(site, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"Usage: svcmgr [options] command\n\nsvcmgr: error: {error}\n"


def test_an_unknown_service_fails_and_the_others_are_acted_on(site):
    """Exit 1, the tree of the one that exists is printed."""
    site.service("svc", BASE + FS)
    done = svcmgr(site, "-s", "nosuch,svc", "print", "status")
    assert (done.returncode, done.stderr) == (1, "nosuch: service does not exist\n")
    assert done.stdout.startswith("svc\n")


def test_a_bad_file_refuses_the_service_with_its_lines(site):
    """Every action and status says FILE:LINE: SECTION.KEYWORD: what, exit 1."""
    site.service("svc", BASE + FS + "nosuch = 1\n")
    line = f"{site.root.etc}/svc.env:7: fs#1.nosuch: unknown keyword\n"
    for action in ("start", "print_status", "validate_config"):
        done = svcmgr(site, "-s", "svc", action)
        assert (done.returncode, done.stderr) == (1, line)
    done = svcmon(site)
    assert (done.returncode, done.stderr) == (1, line)


def test_a_service_of_other_nodes_is_an_error_line_under_its_name(site):
    """As the agents print it, exit 1."""
    site.service("svc", BASE.replace("n1 n2", "n3 n4"))
    done = svcmgr(site, "-s", "svc", "start")
    assert done.returncode == 1
    assert done.stderr[8:] == " ERROR   SVC         service svc not managed here\n"


def test_a_link_is_the_service_s_own_command(site, tmp_path):
    """SVC ACTION acts on SVC, SVC.cluster ACTION passes the safety net."""
    site.service("web.example.com", BASE + HEARTBEAT + FS)
    program = tmp_path / "svcmgr"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom opensvc_hb.cli.svcmgr import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    for name in ("web.example.com", "web.example.com.cluster"):
        (site.root.etc / name).symlink_to(program)
    refused = call(site, [str(site.root.etc / "web.example.com"), "start"])
    assert (refused.returncode, "the --cluster option circumvent" in refused.stderr) == (1, True)
    started = call(site, [str(site.root.etc / "web.example.com.cluster"), "start"])
    assert (started.returncode, site.journal) == (0, ["start fs#1"])
    usage = call(site, [str(site.root.etc / "web.example.com"), "foo"])
    assert usage.stderr.endswith("web.example.com: error: unsupported action\n")


def test_freeze_thaw_and_frozen_print_nothing(site):
    """frozen exits 1 while frozen; svcmon shows it."""
    site.service("svc", BASE + FS)
    codes = [
        svcmgr(site, "-s", "svc", action).returncode
        for action in ("freeze", "frozen", "start", "thaw", "frozen")
    ]
    assert codes == [0, 1, 1, 0, 0]


def test_a_directory_that_cannot_be_written_is_a_line_and_exit_1(site):
    """No traceback: which file, and why."""
    site.service("svc", BASE + FS)
    (site.top / "var").write_text("")
    done = svcmgr(site, "-s", "svc", "freeze")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"svc: freeze: {site.root.var}: Not a directory\n"
    assert "'start' not begun" in svcmgr(site, "-s", "svc", "start").stderr


def test_a_mistake_in_node_conf_is_one_line(site):
    """Also where no service is asked for; no traceback."""
    site.root.etc.mkdir(parents=True, exist_ok=True)
    (site.root.etc / "node.conf").write_text("[node]\nhost_mode = PROD\n")
    done = svcmgr(site, "print", "node")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"{site.root.etc}/node.conf:2: node.host_mode: 'PROD' is not allowed")


def test_output_that_cannot_be_written_names_no_file(site):
    """A full disk under a redirection is one line, whichever command."""
    for module in ("svcmgr", "svcmon"):
        argv = f"{sys.executable} -m opensvc_hb.cli.{module} --help > /dev/full"
        done = call(site, ["sh", "-c", argv], PYTHONUNBUFFERED="1")
        assert (done.returncode, done.stderr) == (
            1,
            f"{module}: output cannot be written: No space left on device\n",
        )


def test_print_config_is_the_file_and_get_one_keyword(site):
    """The texts of `get` are those of the agents."""
    site.service("svc", BASE + FS)
    assert svcmgr(site, "-s", "svc", "print", "config").stdout == (site.root.etc / "svc.env").read_text()
    assert svcmgr(site, "-s", "svc", "get", "--param", "DEFAULT.nodes").stdout == "n1 n2\n"
    assert svcmgr(site, "-s", "svc", "get").stderr == "no parameter. set --param\n"
    done = svcmgr(site, "-s", "svc", "get", "--param", "fs#1.nosuch")
    assert (done.returncode, done.stderr) == (1, "option 'nosuch' not found in section 'fs#1'\n")


def test_json_is_one_line_or_indented(site):
    """`json status` is June 2014's line, `--format json` the later agents' object."""
    site.service("svc", BASE + FS)
    line = svcmgr(site, "-s", "svc", "json", "status")
    assert line.stdout.count("\n") == 1
    assert json.loads(line.stdout)["resources"]["sync#i0"]["log"] == "# passive node needs update\n"
    document = svcmgr(site, "-s", "svc", "print", "status", "--format", "json")
    assert document.stdout.startswith('{\n    "svc": {\n        "app": "n/a",\n        "avail": "down",\n')
    assert (
        json.loads(document.stdout)["svc"]["resources"]["sync#i0"]["log"]
        == "warn: passive node needs update\n"
    )
    assert document.stderr == ""


def test_every_keyword_has_a_text(site):
    """print config keywords lists the drivers' keywords with their texts."""
    done = svcmgr(site, "print", "config", "keywords")
    assert done.returncode == 0
    assert "[hb#N] type = openha" in done.stdout
    assert "    nodes                Nodes that may run the service, the primary first.\n" in done.stdout


def test_the_later_look_is_chosen_in_node_conf(site):
    """status_look = 1.8 gives the later tree and table."""
    site.service("svc", BASE + FS)
    (site.root.etc / "node.conf").write_text("[node]\nstatus_look = 1.8\n")
    assert svcmgr(site, "-s", "svc", "print", "status").stdout == (
        "svc\n"
        "overall                   warn       \n"
        "|- avail                  down       \n"
        "|  '- fs#1           .... down       fake up\n"
        "'- accessory                         \n"
        "   '- sync#i0        .... warn       rsync svc config to drpnodes, nodes\n"
        "\x1b[000m                                     warn: passive node needs update\n"
    )
    assert svcmon(site).stdout == (
        "        app        type topology container | frozen disabled | avail      overall    \n"
        "        -----------------------------------+-----------------+-----------------------\n"
        "svc                DEV  failover -         | no     no       | down       warn      \n"
    )


HEAD = (
    "service service container container ip        disk       fs         share      app        hb"
    "        sync      avail      overall          \n"
    "name    type    type      status    status    status     status     status     status     status"
    "    status    status     status     frozen\n"
    "------- ------- --------- --------- ------    ------     ------     ------     ------     ------"
    "    ------    ------     -------    ------\n"
)


def table_row(name, fs, hb, sync, avail, overall, frozen=False):
    return (
        f"{name:<7} DEV     hosted    n/a       n/a       n/a        {fs:<10} n/a        n/a        "
        f"{hb:<9} {sync:<9} {avail:<10} {overall:<10} {frozen!s:<6}\n"
    )


def test_svcmon_without_a_daemon_evaluates_by_itself(site):
    """Sorted by name, or in the order asked for; an unknown name is said and exit 1."""
    site.service("b", BASE + FS)
    site.service("a", BASE.replace("n1 n2", "n1") + FS.replace("FILE:up", "FILE:a"))
    (site.top / "up").touch()
    a = table_row("a", "down", "n/a", "n/a", "down", "down")
    b = table_row("b", "up", "n/a", "down", "up", "warn")
    assert svcmon(site).stdout == HEAD + a + b
    done = svcmon(site, "--service=b,nosuch,a")
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        HEAD + b + a,
        "nosuch: service does not exist\n",
    )
    assert svcmon(site, "--service", "a", "--verbose").stdout.startswith("a\noverall ")


@pytest.fixture
def daemon(site):
    """A daemon that answers what the test puts into `answers`, and notes the requests."""
    answers, requests = {}, []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                request = json.loads(line)
                requests.append(request["request"])
                answer = {"version": 1, **answers.get(request["request"], {"ok": False, "error": "unknown"})}
                self.wfile.write(json.dumps(answer).encode() + b"\n")

    site.root.run.mkdir(parents=True)
    with socketserver.ThreadingUnixStreamServer(str(site.root.socket), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield answers, requests
        server.shutdown()
        thread.join()


def kept(site, name, age_s, **changes):
    document = {**AgentAdapter(site.root, site.node, site.loader).status(name), **changes}
    return {"age_s": age_s, "status": document}


def test_svcmon_shows_what_the_daemon_keeps_with_the_hb_of_this_moment(site, daemon):
    """A fresh result is not evaluated again; hb and overall are the daemon's word of now."""
    answers, requests = daemon
    site.service("svc", BASE + HEARTBEAT + FS)
    answers["statuses"] = {
        "ok": True,
        "services": {"svc": kept(site, "svc", 5.0, fs="up", avail="up", sync="n/a")},
    }
    document = answers["statuses"]["services"]["svc"]["status"]
    document["resources"]["sync#i0"]["status"] = "n/a"
    answers["instances"] = {"ok": True, "instances": {"svc": {"state": "STARTED", "service": "svc"}}}
    assert svcmon(site).stdout == HEAD + table_row("svc", "up", "up", "n/a", "up", "up")
    assert requests == ["statuses", "instances"]
    answers["instances"]["instances"]["svc"]["state"] = "FROZEN_STOP"
    assert svcmon(site).stdout == HEAD + table_row("svc", "up", "warn", "n/a", "up", "warn")
    answers["instances"]["instances"].clear()
    log = json.loads(svcmon(site, "--format", "json").stdout)["svc"]["resources"]["hb#0"]["log"]
    assert log == "warn: unable to determine cluster service state\n"


def test_a_heartbeat_of_a_site_s_own_driver_is_shown_as_it_was_kept(site, daemon):
    """Ours is asked now; what another one says of this moment is not known here, and counts as kept."""
    answers, _ = daemon
    site.service("svc", BASE + HEARTBEAT + FS)
    result = kept(site, "svc", 5.0, fs="up", avail="up", sync="n/a")
    resources = result["status"]["resources"]
    resources["sync#i0"]["status"] = "n/a"
    own = {"type": "hb.mine", "status": "up", "log": "info: it beats\n"}
    resources["hb#1"] = {**resources["hb#0"], **own}
    answers["statuses"] = {"ok": True, "services": {"svc": result}}
    answers["instances"] = {"ok": True, "instances": {"svc": {"state": "STARTED", "service": "svc"}}}
    document = json.loads(svcmon(site, "--format", "json").stdout)["svc"]
    assert (document["hb"], document["overall"]) == ("up", "up")
    assert {**document["resources"]["hb#1"], **own} == document["resources"]["hb#1"]
    resources["hb#1"]["status"] = "warn"
    document = json.loads(svcmon(site, "--format", "json").stdout)["svc"]
    assert (document["hb"], document["overall"]) == ("warn", "warn")


@pytest.mark.parametrize(
    "why", ["old", "old by conf.d", "unknown", "changed file", "refresh", "other service"]
)
def test_svcmon_evaluates_what_is_not_fresh(site, daemon, why):
    """Too old, not known, older than the file, or asked to: evaluated here."""
    answers, _ = daemon
    site.service("svc", BASE + FS)
    result = kept(site, "svc", 5.0, fs="up", avail="up")
    if why == "old":
        (site.root.hb).mkdir()
        (site.root.hb / "hb.conf").write_text("[hb]\nstatus_max_age = 4\n")
    if why == "old by conf.d":
        (site.root.hb / "conf.d").mkdir(parents=True)
        (site.root.hb / "hb.conf").write_text("[hb]\nstatus_max_age = 60\n")
        (site.root.hb / "conf.d/a.conf").write_text("[hb]\nstatus_max_age = 50\n")
        (site.root.hb / "conf.d/b.conf").write_text("[hb]\nstatus_max_age = 4\nmax_parallel = 2\n")
        assert read_settings(site.root.hb).status_max_age_s == 4
    if why == "unknown":
        result["status"]["unknown"] = ["fs#1"]
    if why == "changed file":
        later = time.time() + 5
        os.utime(site.root.etc / "svc.env", (later, later))
    name = "other" if why == "other service" else "svc"
    answers["statuses"] = {"ok": True, "services": {name: result}}
    shown = svcmon(site, *(["--refresh"] if why == "refresh" else []))
    assert shown.stdout == HEAD + table_row("svc", "down", "n/a", "warn", "down", "warn")


def test_svcmon_imports_no_heavy_module_to_show_what_is_kept(site, daemon):
    """Neither third-party modules nor the slow ones of the library."""
    answers, _ = daemon
    site.service("svc", BASE + HEARTBEAT + FS)
    answers["statuses"] = {"ok": True, "services": {"svc": kept(site, "svc", 5.0)}}
    answers["instances"] = {"ok": True, "instances": {}}
    heavy = "psutil docker requests cryptography subprocess asyncio logging argparse datetime"
    code = (
        "import sys\nfrom opensvc_hb.cli.svcmon import main\nmain([])\n"
        f"print(sorted(set({heavy.split()}) & set(sys.modules)), file=sys.stderr)\n"
    )
    assert call(site, [sys.executable, "-c", code]).stderr == "[]\n"
