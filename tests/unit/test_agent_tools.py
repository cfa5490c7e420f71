"""The agent's tools: commands with a limit, children that answer, the log's rotation, options."""

from __future__ import annotations

import os
import signal
import time

import pytest

from opensvc_hb.agent.command import TimedOutError, run, tool_environment
from opensvc_hb.agent.log import KEPT_FILES, ROTATE_BYTES, ServiceLog
from opensvc_hb.agent.parallel import answer_all
from opensvc_hb.agent.resource import ActionError
from opensvc_hb.cli.svcmgr_options import UsageError, read_command_line

# pytest's own threads are none of ours: commands and the runner's children fork without any
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def test_a_command_gives_its_outputs_and_its_status():
    """stdout and stderr apart, in the C locale; a signal is a negative status."""
    result = run(["sh", "-c", "echo out; echo $LC_ALL $WORD >&2; exit 3"], 10, {"WORD": "added"})
    assert (result.status, result.stdout, result.stderr) == (3, "out\n", "C added\n")
    assert run(["sh", "-c", "kill -TERM $$"], 10).status == -signal.SIGTERM


def test_a_command_that_does_not_exist_is_an_error_of_the_action():
    """The message names the program."""
    with pytest.raises(ActionError, match=r"^/nosuch: command not found$"):
        run(["/nosuch"], 10)
    with pytest.raises(ActionError, match=r"^/: Permission denied$"):
        run(["/"], 10)


def test_a_command_is_killed_at_its_limit():
    """The error names the command and the limit."""
    with pytest.raises(TimedOutError, match=r"^'sleep 600' did not end within 0.1 s, killed$"):
        run(["sleep", "600"], 0.1)


def test_the_limit_holds_also_when_a_grandchild_keeps_the_pipe(tmp_path):
    """What a killed command left behind is not waited for."""
    pid_file = tmp_path / "pid"
    began = time.monotonic()
    with pytest.raises(TimedOutError):
        run(["sh", "-c", f"sleep 600 & echo $! > {pid_file}; wait"], 0.2)
    assert time.monotonic() - began < 30
    os.kill(int(pid_file.read_text()), signal.SIGKILL)


def test_the_system_s_folders_are_always_in_the_path():
    """A bare environment finds the system's tools; the user's own order is kept."""
    assert tool_environment({})["PATH"].split(":")[0] == "/usr/local/sbin"
    assert tool_environment({"PATH": "/opt/x:/usr/sbin"})["PATH"].startswith(
        "/opt/x:/usr/sbin:/usr/local/sbin:"
    )


def test_children_answer_in_the_order_of_their_tasks():
    """Many more tasks than children at a time; a value is whatever JSON can hold."""
    answers = answer_all([lambda n=n: {"n": n} for n in range(20)], 30.0, parallel_max=3)
    assert [answer.value for answer in answers] == [{"n": n} for n in range(20)]


def test_a_large_answer_comes_whole():
    """More than a pipe holds."""
    assert answer_all([lambda: "x" * 1_000_000], 30.0)[0].value == "x" * 1_000_000


def test_a_task_that_breaks_down_or_dies_is_a_problem_of_its_own():
    """One line each, the traceback beside it; the others answer."""

    def broken():
        raise ValueError("no")

    def killed():
        os.kill(os.getpid(), signal.SIGKILL)

    answers = answer_all([broken, killed, lambda: 1], 30.0)
    assert answers[0].problem == "ValueError: no"
    assert "in broken" in answers[0].trace
    assert answers[1].problem == "ended without an answer (exit status -9)"
    assert answers[2].value == 1


def test_a_task_that_hangs_is_cut_off_alone():
    """The limit is each task's own."""
    answers = answer_all([lambda: time.sleep(600), lambda: 1], 0.3)
    assert answers[0].problem == "no answer within 0.3 s"
    assert answers[1].value == 1


def test_the_log_file_is_rotated_and_five_are_kept(tmp_path):
    """At its size a new file begins; the oldest falls away."""
    said = []
    log = ServiceLog("svc", tmp_path, said.append)
    for number in range(KEPT_FILES + 2):
        log.info(f"line {number}")
        path = tmp_path / "svc.log"
        path.write_text(path.read_text() + "x" * ROTATE_BYTES)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["svc.log", *(f"svc.log.{n}" for n in range(1, KEPT_FILES + 1))]
    assert "line 1\n" in (tmp_path / f"svc.log.{KEPT_FILES}").read_text()[:100]
    assert len(said) == KEPT_FILES + 2


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    """The line for people is still said."""
    said = []
    (tmp_path / "file").write_text("")
    ServiceLog("svc", tmp_path / "file/folder", said.append).error("text")
    assert said[0].endswith("ERROR   SVC         text\n")


def test_options_stand_before_and_behind_the_action():
    """Words of the action are joined; items of a list are told once."""
    line = read_command_line(["--cluster", "-s", "a,b,a", "print", "--rid=fs#1", "status", "-f"])
    assert line.action == "print_status"
    assert line.items("service") == ("a", "b")
    assert (line.has("cluster"), line.has("force"), line.has("dry-run")) == (True, True, False)
    assert line.items("rid") == ("fs#1",)


@pytest.mark.parametrize("arguments", [["--cluster=yes"], ["-x"], ["--waitlock"]])
def test_options_that_make_no_sense_are_refused(arguments):
    """A switch with a value, an unknown option, a value that is missing."""
    with pytest.raises(UsageError):
        read_command_line(arguments)
