"""Copies to other nodes: real rsync between the roots of nodes on this machine, by a stand-in for ssh."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from agent_site import BASE, Site

# pytest's own threads are none of ours: commands fork without any
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")

REPOSITORY = Path(__file__).resolve().parents[2]
FS = "[fs#1]\ntype = fake\nfile = FILE:up\n"
POSTSYNC = "INFO SVC exec 'svcmgr -s svc --waitlock 3600 postsync' on node n2"
LIMIT_S = 120.0

SSH = """#!/bin/sh
# ssh [-o OPTION]... [--] NODE COMMAND...: runs it here, as that node; a node without a root is away
while :; do
    case $1 in
    -o) shift 2 ;;
    --) shift; break ;;
    *) break ;;
    esac
done
node=$1; shift
echo "$node: $*" >> {top}/ssh.log
if [ ! -d {top}/$node ]; then
    echo "ssh: connect to host $node port 22: No route to host" >&2
    exit 255
fi
if [ -e {top}/slow ]; then case "$*" in rsync*) exec sleep 600 ;; esac; fi
export OSVC_ROOT={top}/$node OSVC_NODENAME=$(cat {top}/$node/name 2>/dev/null || echo $node)
eval "$*"
"""


class Pair:
    """Nodes n1 and n2, each with a root of its own, and programs named ssh and svcmgr."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.n1 = Site(self._root("n1"), "n1")
        self.n2 = Site(self._root("n2"), "n2")
        self.programs = top / "bin"
        self.programs.mkdir()
        self._program("ssh", SSH.replace("{top}", str(top)))
        self._program("svcmgr", f'#!/bin/sh\nexec {sys.executable} -m opensvc_hb.cli.svcmgr "$@"\n')

    def _root(self, name: str) -> Path:
        (self.top / name).mkdir()
        return self.top / name

    def _program(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)

    def argv(self, *arguments: str, module: str = "svcmgr") -> list:
        return [sys.executable, "-m", f"opensvc_hb.cli.{module}", *arguments]

    def environment(self, site: Site) -> dict:
        return {
            **os.environ,
            "OSVC_ROOT": str(site.top),
            "OSVC_NODENAME": site.node,
            "PYTHONPATH": str(REPOSITORY),
            "PATH": f"{self.programs}:{os.environ['PATH']}",
        }

    def call(self, *arguments: str, site=None, module: str = "svcmgr"):
        return subprocess.run(
            self.argv(*arguments, module=module),
            env=self.environment(site or self.n1),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )

    def sync(self, *arguments: str, site=None):
        """Run syncnodes; returns the exit code and the log lines without their times."""
        done = self.call("-s", "svc", *(arguments or ("syncnodes", "--force")), site=site)
        assert done.stdout == ""
        return done.returncode, [" ".join(line[9:].split()) for line in done.stderr.splitlines()]

    def status(self, site: Site) -> str:
        """The lines of the syncs in `print status`."""
        tree = self.call("-s", "svc", "print", "status", site=site).stdout
        return " ".join(tree.partition("sync ")[2].split())


@pytest.fixture
def pair(tmp_path):
    made = Pair(tmp_path)
    made.n1.service("svc", BASE + FS)
    (made.n1.top / "up").touch()
    return made


def wait_until(condition, what):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


def test_the_services_files_reach_the_other_node_and_both_sides_know(pair):
    """Its file, its launchers and links, with their permissions; the stamps turn both statuses up."""
    etc = pair.n1.root.etc
    (etc / "svc.env").chmod(0o640)
    (etc / "svc.dir").mkdir()
    (etc / "svc.dir/launcher").write_text("#!/bin/sh\n")
    (etc / "svc.dir/launcher").chmod(0o755)
    (etc / "svc.dir/memory.core").write_text("")
    (etc / "svc.d").symlink_to("svc.dir")
    (etc / "svc").symlink_to("../../usr/bin/svcmgr")
    (etc / "other.env").write_text("[DEFAULT]\n")
    (pair.n2.root.etc / "svc.dir").mkdir(parents=True, exist_ok=True)
    (pair.n2.root.etc / "svc.dir/old").write_text("")
    pair.n2.root.etc.chmod(0o700)
    assert "sync#i0 .... down rsync svc config to drpnodes, nodes | # n2 need update" in pair.status(pair.n1)
    assert pair.sync() == (0, [POSTSYNC])
    there = pair.n2.root.etc
    assert (there / "svc.env").read_text() == (etc / "svc.env").read_text()
    assert (there / "svc.env").stat().st_mode & 0o777 == 0o640
    assert (there / "svc.d/launcher").stat().st_mode & 0o777 == 0o755
    assert os.readlink(there / "svc") == "../../usr/bin/svcmgr"
    names = {path.name for path in there.rglob("*")}
    assert not names & {"memory.core", "old", "other.env"}
    assert there.stat().st_mode & 0o777 == 0o700, "a directory above what is sent keeps its permissions"
    for site in (pair.n1, pair.n2):
        for node in ("n1", "n2"):
            text = (site.root.var / "sync" / node / "svc!sync#i0").read_text()
            assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}\n", text)
        assert "sync#i0 .... up" in pair.status(site)
    assert (pair.n1.root.var / "last_sync_svc_sync#i0").exists()


def test_only_the_node_that_runs_the_service_sends(pair):
    """Not from the passive side, nor in warn; nothing is asked of the other node, --force or not."""
    (pair.n1.top / "up").unlink()
    assert pair.sync() == (0, ["INFO SVC.SYNC#I0 won't sync this resource for a service not up"])
    pair.n1.service("svc", BASE + FS + "[fs#2]\ntype = fake\nfile = FILE:a\n")
    (pair.n1.top / "up").touch()
    assert pair.sync() == (
        0,
        [
            "INFO SVC.SYNC#I0 won't sync this resource service in warn status",
            "INFO SVC.SYNC#I0 won't sync this resource for a service not up",
        ],
    )
    assert not (pair.top / "ssh.log").exists()


def test_without_force_the_schedule_holds_back(pair):
    """Said once by hand, not at all under --cron."""
    pair.n1.service(
        "svc", BASE.replace("nodes =", 'sync_days = ["monday"]\nsync_schedule = @121\nnodes =') + FS
    )
    assert pair.sync("syncnodes", "--dry-run") == (
        0,
        ["INFO SVC.SYNC#I0 send rsync svc config to drpnodes, nodes to n2"],
    )
    assert not (pair.top / "ssh.log").exists()
    assert pair.sync("sync", "nodes") == (0, [POSTSYNC])
    assert pair.sync("syncnodes") == (0, ["INFO SVC.SYNC#I0 skip sync: too soon (121)"])
    assert pair.sync("syncnodes", "--cron") == (0, [])


def test_a_frozen_service_and_one_that_nobody_else_has_send_nothing(pair):
    """Refused; and there is nobody to send to."""
    (pair.n1.root.var).mkdir(parents=True)
    (pair.n1.root.var / "FROZEN.svc").touch()
    assert pair.sync() == (1, ["INFO SVC Abort action for frozen service"])
    (pair.n1.root.var / "FROZEN.svc").unlink()
    assert pair.sync("syncdrp", "--force") == (0, [])


def test_a_node_that_cannot_be_reached_is_an_error_and_holds_no_other_one_back(pair):
    """Exit 1; the others have their copy, and the next one is not put off."""
    pair.n1.service("svc", BASE.replace("n1 n2", "n1 n2 n3") + FS)
    assert pair.sync() == (
        1,
        [
            "ERROR SVC node n3 synchronization failed: ssh: connect to host n3 port 22: No route to host",
            POSTSYNC,
        ],
    )
    assert (pair.n2.root.etc / "svc.env").exists()
    assert "# n3 need update" in pair.status(pair.n1)
    assert not (pair.n1.root.var / "last_sync_svc_sync#i0").exists()


@pytest.mark.parametrize(
    ("node_conf", "name", "expected"),
    [
        (
            "[node]\nhost_mode = PRD\n",
            "n2",
            "incompatible remote node 'n2' host mode: 'PRD' (expected in ['DEV'])",
        ),
        ("[node]\nenv = DEV\n", "n2", ""),
        ("", "n9", "node n2 synchronization failed: it says that it is 'n9': compare its name with `nodes`"),
    ],
)
def test_a_node_is_asked_who_it_is_first(pair, node_conf, name, expected):
    """One of another kind, or another one than was meant, gets nothing."""
    (pair.n2.root.etc / "node.conf").write_text(node_conf)
    (pair.n2.top / "name").write_text(name)
    code, lines = pair.sync()
    assert code == (1 if expected else 0)
    assert lines[0].startswith(f"ERROR SVC {expected}" if expected else POSTSYNC)
    assert (pair.n2.root.etc / "svc.env").exists() is not expected


def test_what_arrives_is_judged_there(pair):
    """A file that the other node cannot take is said by the sender; it has the copy all the same."""
    pair.n2.service("svc", "[DEFAULT]\n", suffix=".conf")
    code, lines = pair.sync()
    assert (code, lines[0]) == (1, POSTSYNC)
    assert lines[1].startswith("ERROR SVC postsync on node n2 failed: ")
    assert "svc.conf exists too: keep one of them" in lines[1]


DATA = (
    "[sync#1]\nsrc = FILE:data FILE:list*\ndst = FILE:../n2/copy\ntarget = nodes\nexclude = *.tmp\n"
    "bwlimit = 100000\npre_syncnodes = /bin/touch FILE:before\npost_syncnodes = /bin/touch FILE:after\n"
)


def data(pair, more=""):
    pair.n1.service("svc", BASE + FS + DATA + more)
    (pair.n1.top / "data").mkdir()
    (pair.n1.top / "data/one").write_text("1")
    (pair.n1.top / "data/two.tmp").write_text("2")
    (pair.n1.top / "list1").write_text("3")
    (pair.n2.top / "copy/data").mkdir(parents=True)
    (pair.n2.top / "copy/data/old").write_text("")


def test_data_is_copied_with_its_triggers_around_it(pair):
    """Patterns, exclusions, deletions; a line with the numbers."""
    data(pair)
    code, lines = pair.sync()
    top = pair.n1.top
    assert (code, lines) == (
        0,
        [
            f"INFO SVC.SYNC#1 /bin/touch {top}/before",
            f"INFO SVC.SYNC#1 {top}/data {top}/list* sent to n2:{top}/../n2/copy: 2 files, 2 bytes",
            f"INFO SVC.SYNC#1 /bin/touch {top}/after",
            POSTSYNC,
        ],
    )
    copied = {str(path.relative_to(pair.n2.top)) for path in (pair.n2.top / "copy").rglob("*")}
    assert copied == {"copy/data", "copy/data/one", "copy/list1"}
    assert (top / "before").exists()
    assert (top / "after").exists()
    assert f"sync#1 .... up rsync {top}/data, {top}/list* to nodes" in pair.status(pair.n1)


def test_a_tag_that_no_resource_has_is_refused(pair):
    """As for a start: a typing error does not silently select nothing."""
    refused = ["ERROR SVC no resource has the tag typo in this service"]
    assert pair.sync("syncall", "--tags", "typo") == (1, refused)


def test_rid_chooses_what_is_sent(pair):
    """Only that resource; a node that does not know the service yet says so."""
    data(pair)
    code, lines = pair.sync("syncnodes", "--force", "--rid", "sync#1")
    assert (code, lines[-1]) == (1, "ERROR SVC postsync on node n2 failed: svc: service does not exist")
    assert (pair.n2.top / "copy/list1").exists()
    assert not (pair.n2.root.etc / "svc.env").exists()
    assert pair.sync("syncnodes", "--rid", "sync#9") == (
        1,
        ["ERROR SVC no resource and no family sync#9 in this service"],
    )


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("dstfs = /nowhere\n", "dstfs /nowhere is not mounted on n2"),
        ("options = --no-such-option\n", "rsync: "),
    ],
)
def test_a_transfer_that_fails_is_an_error_with_its_reason(pair, more, reason):
    """Exit 1, no stamp, no trigger behind it; the next resource is sent."""
    data(pair, more)
    code, lines = pair.sync()
    assert code == 1
    top = pair.n1.top
    head = f"ERROR SVC.SYNC#1 node n2 synchronization failed ({top}/data {top}/list* => {top}/../n2/copy): "
    assert lines[1].startswith(head + reason)
    assert lines[2:] == [POSTSYNC]
    assert not (top / "after").exists()
    assert [path.name for path in (pair.n2.root.var / "sync/n2").iterdir()] == ["svc!sync#i0"]


def test_sections_that_cannot_be_are_refused(pair):
    """What a copy needs, and what is not available, with file, line and keyword."""
    pair.n1.service(
        "svc", BASE + "sync_period = 12:00-13:00\n[sync#1]\ntype = dds\nsrc = /a\nsnap = true\ntarget = all\n"
    )
    said = pair.call("-s", "svc", "validate", "config").stderr.replace(f"{pair.n1.root.etc}/", "")
    assert [line.partition(" (")[0] for line in said.splitlines()] == [
        "svc.env:4: DEFAULT.sync_period: malformed parameter value '12:00-13:00'",
        "svc.env:5: sync#1.dst: dst must be set in section sync#1",
        "svc.env:6: sync#1.type: 'dds' is not allowed",
        "svc.env:8: sync#1.snap: snapshots are not available:"
        " the files would be copied while they are written",
        "svc.env:9: sync#1.target: 'all' is not allowed",
    ]


def test_a_lock_that_is_held_is_no_failure(pair):
    """Another copy runs already: the exact words; another action: it is said which."""
    lock = pair.n1.root.var / "lock/svc"
    lock.parent.mkdir(parents=True)
    running = "INFO SVC syncnodes action is already running"
    with lock.open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        holder.write(f"{os.getpid()}\n")
        holder.flush()
        assert pair.sync() == (0, [running])
        holder.write("123 start\n")
        holder.seek(0)
        holder.write(f"{os.getpid()} start\n")
        holder.flush()
        held = f"INFO SVC the service's lock is held by process {os.getpid()} (start)"
        assert pair.sync() == (0, [running, held])


def test_a_stop_does_not_wait_for_a_copy(pair):
    """The copy is ended, with all that it runs, and says so; the stop goes on at once."""
    (pair.top / "slow").touch()
    with subprocess.Popen(
        pair.argv("-s", "svc", "syncnodes", "--force"),
        env=pair.environment(pair.n1),
        stderr=subprocess.PIPE,
        text=True,
    ) as copy:
        log = pair.top / "ssh.log"
        wait_until(lambda: log.exists() and "rsync --server" in log.read_text(), "the transfer runs")
        stopped = pair.call("-s", "svc", "stop", "--waitlock", "60")
        assert (stopped.returncode, stopped.stderr) == (0, "")
        assert copy.wait(LIMIT_S) == 1
        assert "another action needs the service" in copy.stderr.read()
    assert not (pair.n1.top / "up").exists()
    assert not [pid for pid in marked_processes(pair.n1.top) if alive(pid)]


def marked_processes(top):
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"OPENSVC_HB_ROOT={top}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)
            except OSError:
                continue


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_an_old_pid_in_the_lock_ends_nobody(pair):
    """The holder has not written its own yet: the process that now has the old number is let alone."""
    lock = pair.n1.root.var / "lock/svc"
    lock.parent.mkdir(parents=True)
    with subprocess.Popen(["sleep", "600"]) as innocent, lock.open("w") as holder:
        try:
            fcntl.flock(holder, fcntl.LOCK_EX)
            holder.write(f"{innocent.pid} syncnodes\n")
            holder.flush()
            stopped = pair.call("-s", "svc", "stop", "--waitlock", "0.1")
            assert stopped.returncode == 1
            assert "timed out waiting for lock" in stopped.stderr
            assert innocent.poll() is None
        finally:
            innocent.send_signal(signal.SIGKILL)


def test_a_service_of_launchers_alone_is_copied_where_it_was_started(pair):
    """Nothing but its launchers, which tell nothing: what its last start made of it counts."""
    pair.n1.service("svc", BASE + "[app#1]\nscript = /bin/true\nstart = 1\nstop = 1\n")
    assert pair.sync()[1] == ["INFO SVC.SYNC#I0 won't sync this resource for a service not up"]
    assert pair.call("-s", "svc", "start").returncode == 0
    assert pair.sync() == (0, [POSTSYNC])
    assert pair.call("-s", "svc", "stop").returncode == 0
    assert pair.sync()[1] == ["INFO SVC.SYNC#I0 won't sync this resource for a service not up"]


# -- mass commands ------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path):
    """Services: a and c up (c with a heartbeat that knows nothing), b down, d of other nodes."""
    made = Pair(tmp_path)
    one = BASE.replace("n1 n2", "n1") + FS
    made.n1.service("a", one.replace("nodes =", "autostart_node = n1\nnodes =").replace("up", "a"))
    made.n1.service("b", one.replace("up", "b"))
    made.n1.service("c", one.replace("n1", "n1 n2").replace("up", "c") + "[hb#0]\ntype = OpenHA\n")
    made.n1.service("d", one.replace("n1", "n8 n9"))
    for name in "ac":
        (made.n1.top / name).touch()
    return made


def mass(many, *arguments):
    done = many.call(*arguments, module="mass_command")
    return done.returncode, re.findall(r"(?m)^([a-d])$", done.stdout), done.stderr


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("allservices", ["a", "b", "c"]),
        ("allupservices", ["a", "c"]),
        ("alldownservices", ["b"]),
        ("allprimaryservices", ["a", "c"]),
        ("allsecondaryservices", ["b"]),
    ],
)
def test_a_mass_command_acts_on_those_it_names_by_name(many, command, expected):
    """Up and down by avail: a heartbeat that warns hides no service."""
    assert mass(many, command, "print", "status") == (0, expected, "")


def test_exit_codes_add_up_and_services_may_be_acted_on_at_once(many):
    """a is up (0), b down (1), c warns (2)."""
    assert mass(many, "allservices", "status")[0] == 3
    code, names, stderr = mass(many, "allservices", "-p", "print", "status")
    assert (code, sorted(names), stderr) == (0, ["a", "b", "c"], "")
    code, _, stderr = mass(many, "alldownservices", "--parallel", "start", "--rid", "nosuch")
    assert (code, stderr[8:]) == (1, " ERROR   B         no resource and no family nosuch in this service\n")


def test_a_mass_command_without_a_service_says_so(tmp_path):
    """Nothing to do is no failure, and not silent."""
    pair = Pair(tmp_path)
    assert mass(pair, "allupservices", "syncnodes") == (0, [], "allupservices: no service is up here\n")


def test_a_service_that_cannot_be_read_is_said_and_the_others_acted_on(many):
    """Exit 1 beside what the others make."""
    (many.n1.root.etc / "b.env").write_text("[DEFAULT]\nnodes = n1\n")
    code, names, stderr = mass(many, "allservices", "print", "status")
    assert (code, names) == (1, ["a", "c"])
    assert "b.env:1: DEFAULT.service_type: must be set" in stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["allservices", "foo"], "allservices: error: unsupported action"),
        (["allservices", "print", "node"], "allservices: error: unsupported action"),
        (["allservices"], "allservices: error: Missing action"),
        (["allservices", "-s", "a", "status"], "allservices: error: no such option: -s"),
        (["foo"], "mass_command.py: error: called as 'mass_command.py', which is none of"),
    ],
)
def test_wrong_usage_of_a_mass_command_is_exit_2(many, arguments, error):
    """The line says which command, and why."""
    done = many.call(*arguments, module="mass_command")
    assert done.returncode == 2
    assert error in done.stderr
