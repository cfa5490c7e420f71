"""The launcher driver, with real scripts."""

import os
import re
import time

import pytest
from driver_loader import Recorder, context, converted, driver

from opensvc_hb.agent.resource import ActionError, Status

LAUNCHER = """#!/bin/sh
# up while the flag exists; every call is noted
echo "$0 $*" >> {calls}
case $1 in
start) echo starting; touch {flag} ;;
stop) echo stopping; rm -f {flag} ;;
status) test -e {flag} ;;
esac
"""


@pytest.fixture
def launcher(tmp_path):
    """A well-behaved launcher named db."""
    script = tmp_path / "db"
    script.write_text(LAUNCHER.format(calls=tmp_path / "calls", flag=tmp_path / "flag"))
    script.chmod(0o755)
    return script


def script(tmp_path, text, name="db"):
    path = tmp_path / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def app(tmp_path, recorder, rid="app#1", environment=None, **written):
    simple = driver("app.simple")
    return simple(
        rid, converted(simple, **written), context(tmp_path, recorder, environment=environment or {})
    )


def calls(tmp_path):
    path = tmp_path / "calls"
    return [line.split()[1] for line in path.read_text().splitlines()] if path.exists() else []


def without_time(text):
    return re.sub(r"in \d:\d\d:\d\d\.\d{6}", "in T", text)


def test_start_logs_what_the_agent_logged(tmp_path, launcher):
    """A start says what is spawned, how long it took, its exit status and where its output is."""
    recorder = Recorder()
    app(tmp_path, recorder, script=str(launcher), start="10", check="50").start()
    log = tmp_path / "var/tmp/opensvc/svc_svc1_db.log"
    assert [without_time(text) for text in recorder.texts("INFO")] == [
        f"spawn: {launcher} start",
        f"start done in T - ret 0 - logs in {log}",
    ]
    assert log.read_text() == "starting\n"


def test_second_start_runs_nothing(tmp_path, launcher):
    """An application whose check says up is not started again."""
    recorder = Recorder()
    resource = app(tmp_path, recorder, script=str(launcher), start="10", check="50")
    resource.start()
    resource.start()
    assert calls(tmp_path) == ["status", "start", "status"]
    assert recorder.texts()[-1] == "db is already started"


def test_log_holds_the_last_action_only(tmp_path, launcher):
    """The output file is that of the last start or stop."""
    resource = app(tmp_path, Recorder(), script=str(launcher), start="10", stop="10")
    resource.start()
    resource.stop()
    assert (tmp_path / "var/tmp/opensvc/svc_svc1_db.log").read_text() == "stopping\n"


def test_failing_start_is_the_error_line(tmp_path):
    """A start that exits 3 fails with the line that the agent wrote at ERROR."""
    path = script(tmp_path, "#!/bin/sh\nexit 3\n")
    with pytest.raises(ActionError) as caught:
        app(tmp_path, Recorder(), script=str(path), start="10").start()
    assert without_time(str(caught.value)) == (
        f"start done in T - ret 3 - logs in {tmp_path}/var/tmp/opensvc/svc_svc1_db.log"
    )


@pytest.mark.parametrize("verb", ["start", "stop"])
def test_verb_without_number_is_not_run(tmp_path, launcher, verb):
    """A launcher without `start` or `stop` is not called with it."""
    recorder = Recorder()
    getattr(app(tmp_path, recorder, script=str(launcher), check="1"), verb)()
    assert calls(tmp_path) == []
    assert recorder.lines == []


@pytest.mark.parametrize(
    ("code", "status", "messages"),
    [
        (0, Status.UP, []),
        (1, Status.DOWN, []),
        (5, Status.WARN, ["check reports errors (5)"]),
    ],
)
def test_status_is_the_exit_code(tmp_path, code, status, messages):
    """The check's exit code is the status: 0 up, 1 down, else a warning with the code."""
    path = script(tmp_path, f'#!/bin/sh\ntest "$1" = status && exit {code}\n')
    resource = app(tmp_path, Recorder(), script=str(path), check="50")
    assert resource.status() is status
    assert resource.messages == messages


def test_status_without_check_keyword(tmp_path, launcher):
    """Without `check` the script is not run and the status is n/a."""
    resource = app(tmp_path, Recorder(), script=str(launcher), start="1")
    assert (resource.status(), resource.messages) == (Status.NA, ["check disabled"])
    assert calls(tmp_path) == []


def test_status_without_script(tmp_path):
    """A missing script is n/a, with the agent's two messages."""
    resource = app(tmp_path, Recorder(), script="/nowhere/db", check="50")
    assert resource.status() is Status.NA
    assert resource.messages == ["script /nowhere/db does not exist", "script does not exist"]


def test_status_of_a_script_without_interpreter(tmp_path):
    """A script without a #! line is a warning that says so."""
    resource = app(tmp_path, Recorder(), script=str(script(tmp_path, "exit 0\n")), check="50")
    assert resource.status() is Status.WARN
    assert resource.messages[0].startswith("exec format error")


def test_status_leaves_no_trace(tmp_path, launcher):
    """A status writes neither a log line nor an output file."""
    recorder = Recorder()
    app(tmp_path, recorder, script=str(launcher), check="50").status()
    assert recorder.lines == []
    assert not (tmp_path / "var").exists()


def test_start_without_script_fails(tmp_path):
    """A start of a missing script fails and names it."""
    with pytest.raises(ActionError, match="script /nowhere/db does not exist"):
        app(tmp_path, Recorder(), script="/nowhere/db", start="1").start()


def test_stop_without_script_is_a_warning(tmp_path):
    """A script on a file system already unmounted does not fail the stop."""
    recorder = Recorder()
    app(tmp_path, recorder, script="/nowhere/db", stop="1").stop()
    assert recorder.texts("WARNING") == ["script /nowhere/db does not exist: not stopped by it"]


def test_base_name_is_looked_up_beside_the_service(tmp_path, launcher):
    """A script given by name is the one in SVC.d."""
    folder = tmp_path / "etc/opensvc/svc1.d"
    folder.mkdir(parents=True)
    (folder / "web").symlink_to(launcher)
    resource = app(tmp_path, Recorder(), script="web", start="1")
    resource.start()
    assert resource.label == "web"
    assert (tmp_path / "calls").read_text() == f"{folder}/web start\n"


def test_links_are_not_resolved(tmp_path, launcher):
    """The script is executed by the path as written: it sees the link's name."""
    (tmp_path / "link").symlink_to(launcher)
    app(tmp_path, Recorder(), script=str(tmp_path / "link"), start="1").start()
    assert (tmp_path / "calls").read_text() == f"{tmp_path}/link start\n"


def test_environment_reaches_the_script(tmp_path):
    """A script sees the agent's variables beside its environment."""
    path = script(tmp_path, '#!/bin/sh\necho "$OPENSVC_SVCNAME $PATH"\n')
    resource = app(tmp_path, Recorder(), script=str(path), start="1", environment={"OPENSVC_SVCNAME": "svc1"})
    resource.start()
    assert resource.log_path.read_text() == f"svc1 {os.environ['PATH']}\n"


def test_daemon_left_behind_delays_nobody(tmp_path):
    """A start ends with its script, though the daemon that it left behind lives and holds the log."""
    pid_file = tmp_path / "pid"
    path = script(tmp_path, f"#!/bin/sh\nsleep 300 &\necho $! > {pid_file}\n")
    resource = app(tmp_path, Recorder(), script=str(path), start="1")
    began = time.monotonic()
    resource.start()
    pid = int(pid_file.read_text())
    try:
        assert time.monotonic() - began < 60
        assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
        assert os.readlink(f"/proc/{pid}/fd/1") == str(resource.log_path)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.getsid(pid) == os.getsid(0)
        assert os.getpgid(pid) == os.getpgid(0)
    finally:
        os.kill(pid, 9)


def test_hanging_start_is_killed_at_its_timeout(tmp_path):
    """A start that outlives `timeout` fails, and neither it nor its children live on."""
    pid_file = tmp_path / "pids"
    path = script(tmp_path, f"#!/bin/sh\nsleep 300 &\necho $$ $! > {pid_file}\nwait\n")
    with pytest.raises(ActionError, match=r"start timed out after 1 s"):
        app(tmp_path, Recorder(), script=str(path), start="1", timeout="1").start()
    for pid in pid_file.read_text().split():
        state = "gone"
        if os.path.exists(f"/proc/{pid}/stat"):
            with open(f"/proc/{pid}/stat") as stat:
                state = stat.read().rpartition(")")[2].split()[0]
        assert state in ("gone", "Z"), f"{pid} is in state {state}"


def test_hanging_check_is_a_warning(tmp_path):
    """A check that hangs is neither up nor down."""
    path = script(tmp_path, "#!/bin/sh\nexec sleep 300\n")
    resource = app(tmp_path, Recorder(), script=str(path), check="1", timeout="1")
    assert resource.status() is Status.WARN
    assert resource.messages == [f"{path} status timed out after 1 s"]


def test_unwritable_log_does_not_stop_a_start(tmp_path, launcher):
    """Where the output cannot be kept the start goes on and says so."""
    (tmp_path / "var").write_text("a file where the directory should be")
    recorder = Recorder()
    app(tmp_path, recorder, script=str(launcher), start="1").start()
    assert calls(tmp_path) == ["start"]
    assert recorder.texts("WARNING")[0].startswith("the output of db is lost")


def test_order_is_by_number(tmp_path):
    """Launchers are sorted by start number, for a stop by stop number, those without one last."""
    apps = [
        app(tmp_path, Recorder(), rid="app#1", script="/a", start="20", stop="5"),
        app(tmp_path, Recorder(), rid="app#2", script="/b", start="3", stop="90"),
        app(tmp_path, Recorder(), rid="app#3", script="/c"),
    ]
    assert [a.rid for a in sorted(apps, key=lambda a: a.sort_key)] == ["app#2", "app#1", "app#3"]
    assert [a.rid for a in sorted(apps, key=lambda a: a.stop_sort_key)] == ["app#1", "app#2", "app#3"]


@pytest.mark.parametrize(("keyword", "text"), [("timeout", "0"), ("start", "ten"), ("run_as", "nobody")])
def test_refused_values(tmp_path, keyword, text):
    """Values that cannot be meant are refused with a reason."""
    with pytest.raises(ValueError, match="not"):
        app(tmp_path, Recorder(), script="/a", **{keyword: text})
