"""State files in OpenHA's layout: two bytes, in step with what is published, errors an alarm and no more."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from core_builders import make_config, make_entry, make_instance, make_node, make_peer

from opensvc_hb.core.node_state import Liveness
from opensvc_hb.core.states import State
from opensvc_hb.daemon.state_file_format import (
    content_of,
    make_new_state_files,
    remove_state_files,
    state_file,
    write_state,
)
from opensvc_hb.daemon.state_files import REPEAT_S, RETRY_S, StateFiles, states_to_write

WAIT_S = 30.0


def node(own=State.STARTED, peer=State.STOPPED, liveness=Liveness.ALIVE, services=("svc1",)):
    """A node with services in one state here, and one on the other node."""
    config = make_config(services=services)
    entries = [make_entry(peer, service=name) for name in services]
    instances = [make_instance(own, name) for name in services]
    return make_node(config, instances, make_peer(config, entries, liveness))


def wait_for(condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


def content(tree, service="svc1", name="deb1"):
    path = state_file(tree, service, name)
    return path.read_bytes() if path.exists() else b""


@pytest.fixture
def clock():
    return Clock()


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def files(tmp_path, clock):
    """A thread that writes below tmp_path/tree, ended with the test."""
    thread = StateFiles(tmp_path / "tree", clock)
    thread.start()
    yield thread
    thread.close()


@pytest.fixture
def tree(tmp_path):
    return tmp_path / "tree"


def test_a_file_has_the_digit_of_the_state_and_a_zero_byte():
    """Ten states of OpenHA's; what is frozen started is its START_READY."""
    assert [content_of(state) for state in State] == [
        *(b"%d\0" % number for number in range(10)),
        b"7\0",
    ]


def test_the_states_written_are_those_that_commands_show():
    """Our own, and the other node's as long as it is heard."""
    assert states_to_write(node()) == {("svc1", "deb1"): State.STARTED, ("svc1", "deb2"): State.STOPPED}
    silent = node(liveness=Liveness.UNKNOWN)
    assert states_to_write(silent)["svc1", "deb2"] is State.UNKNOWN


def test_a_longer_file_is_cut_and_a_missing_directory_made(tmp_path):
    """An init script may have written a digit and a line end; an editor anything."""
    path = state_file(tmp_path, "svc1", "deb1")
    write_state(path, State.FROZEN_STOP)
    path.write_bytes(b"6\nand more")
    write_state(path, State.STARTED)
    assert path.read_bytes() == b"2\0"
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path):
    """Root writes here: a link must not lead it to another file."""
    path = state_file(tmp_path, "svc1", "deb1")
    path.parent.mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.symlink_to(victim)
    with pytest.raises(OSError, match=r"[Ll]ink|[Ll]oop"):
        write_state(path, State.STARTED)
    assert victim.read_text() == "precious"


def test_new_files_say_frozen_and_old_ones_stay(tmp_path):
    """`service -a` of a service that the daemon knows already must not say something else."""
    write_state(state_file(tmp_path, "svc1", "n1"), State.STARTED)
    is_new, made = make_new_state_files(tmp_path, "svc1", ("n1", "n2"))
    assert (is_new, made) == (False, (state_file(tmp_path, "svc1", "n2"),))
    assert [content(tmp_path, name=name) for name in ("n1", "n2")] == [b"2\0", b"6\0"]
    assert make_new_state_files(tmp_path, "other", ("n1",))[0] is True


def test_removing_leaves_what_others_put_there(tmp_path):
    """Only state files are ours."""
    write_state(state_file(tmp_path, "svc1", "n1"), State.STARTED)
    other = tmp_path / "services/svc1/notes"
    other.touch()
    with pytest.raises(OSError, match="not empty"):
        remove_state_files(tmp_path, "svc1")
    assert [path.name for path in other.parent.iterdir()] == ["notes"]
    remove_state_files(tmp_path, "never-there")


def test_each_change_is_written(files, tree):
    """The newest state counts, whatever came between."""
    files.offer(node())
    wait_for(lambda: content(tree) == b"2\0" and content(tree, name="deb2") == b"0\0")
    files.offer(node(own=State.FROZEN_START, peer=State.STARTING))
    wait_for(lambda: content(tree) == b"7\0" and content(tree, name="deb2") == b"3\0")
    assert files.problem == ""


def test_what_was_offered_last_is_written_before_the_end(files, tree):
    """The daemon's last state is the one that scripts see while it is away."""
    files.offer(node())
    files.offer(node(own=State.STOPPED))
    files.close()
    assert content(tree) == b"0\0"


def test_what_others_write_or_remove_is_mended_after_a_while(files, tree, clock):
    """Not at once: nothing looks at the files between."""
    state = node()
    files.offer(state)
    wait_for(lambda: content(tree))
    state_file(tree, "svc1", "deb1").unlink()
    state_file(tree, "svc1", "deb2").write_bytes(b"2\0")
    clock.now += REPEAT_S
    files.offer(replace(state, instances=dict(state.instances)))
    wait_for(lambda: content(tree) == b"2\0" and content(tree, name="deb2") == b"0\0")


def test_a_tree_that_cannot_be_written_is_a_problem_until_it_can(files, tree, clock):
    """Nothing else happens; it is tried again, and the problem goes away by itself."""
    tree.write_text("a file in the place of the directory")
    files.offer(node())
    wait_for(lambda: files.problem)
    assert str(tree) in files.problem
    tree.unlink()
    clock.now += RETRY_S
    files.offer(node(own=State.STOPPED))
    wait_for(lambda: content(tree) == b"0\0" and files.problem == "")


def test_a_service_that_is_gone_takes_its_files_with_it(files, tree):
    """As `service -r` of OpenHA does."""
    files.offer(node(services=("svc1", "svc2")))
    wait_for(lambda: content(tree, "svc2"))
    files.offer(node())
    wait_for(lambda: not (tree / "services/svc2").exists())
    assert content(tree) == b"2\0"


def test_another_tree_is_used_after_a_reload_and_the_old_one_left_alone(files, tree, tmp_path):
    """Taking the tree away must not race with a last write into it."""
    files.offer(node())
    wait_for(lambda: content(tree))
    files.use(None)
    files.offer(node(own=State.STOPPED))
    assert content(tree) == b"2\0"
    files.use(tmp_path / "other")
    files.offer(node(own=State.FROZEN_STOP))
    wait_for(lambda: content(tmp_path / "other") == b"6\0")
    assert content(tree) == b"2\0"


def test_without_a_tree_nothing_is_written_or_kept(tmp_path):
    """The thread sleeps, and offering costs the monitor nothing."""
    idle = StateFiles(None)
    idle.start()
    idle.offer(node())
    idle.close()
    assert list(tmp_path.iterdir()) == []


def test_no_descriptor_is_left_open(tmp_path):
    """A file is written each time something changes, for years."""
    before = len(os.listdir("/proc/self/fd"))
    for number in range(50):
        write_state(state_file(tmp_path, f"svc{number}", "deb1"), State.STARTED)
    assert len(os.listdir("/proc/self/fd")) == before
    assert Path(state_file(tmp_path, "svc0", "deb1")).exists()
