"""`openha ps`: threads of the daemon under the names that OpenHA's operators look for."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from opensvc_hb.cli.openha_ps import (
    DaemonFacts,
    ThreadFacts,
    binaries_directory,
    daemon_facts,
    daemon_pid,
    full_lines,
    named_threads,
    user_lines,
)
from opensvc_hb.cli.openha_view import LinkView
from opensvc_hb.paths import Root


def link(kind, role, device, address, port=0, timeout_s=10.0):
    return LinkView(kind, role, device, address, port, timeout_s, True, 0.0, 0)


def thread(thread_id, name):
    return ThreadFacts(thread_id, name, "S<", 3.5, 0.0)


LINKS = (
    link("net", "sender", "eth1", "239.131.50.10", 5010),
    link("net", "sender", "eth1", "239.131.50.20", 5020),
    link("unicast", "listener", "eth2", "10.0.0.1", 5030, 0.5),
    link("disk", "listener", "/dev/mapper/a-long-name-indeed", "40"),
)
THREADS = (
    thread(100, "python3"),
    thread(101, "journal"),
    thread(102, "net>eth1"),
    thread(103, "net>eth1"),
    thread(104, "unicast<eth2"),
    thread(105, "disk<a-long-nam"),
    thread(106, "unicast-of-mine"),
)


def test_each_link_has_a_line_and_the_monitor_the_last():
    """Threads that are no links are left out; two of one name are told apart by their order."""
    found = [(one.thread_id, words) for one, words in named_threads(THREADS, 100, LINKS)]
    assert found == [
        (102, "heartd eth1 239.131.50.10 5010"),
        (103, "heartd eth1 239.131.50.20 5020"),
        (104, "heartc_unicast eth2 10.0.0.1 5030 0.5"),
        (105, "heartc_raw /dev/mapper/a-long-name-indeed 40 10"),
        (100, "nmond"),
    ]


def test_without_the_daemons_answer_a_line_goes_by_its_threads_name():
    """A daemon that hangs is still seen."""
    assert [words for _, words in named_threads(THREADS, 100, ())][:2] == ["net>eth1", "net>eth1"]


def test_both_columns_are_those_of_ps():
    """Thread ids, the daemon's parent, processor time in the two spellings of ps."""
    daemon = DaemonFacts(100, 1, "root", "?", 35.0, 4096 * 1024, 8192 * 1024, 0.1, THREADS[:3])
    full, user = full_lines(daemon, LINKS, "/bin/of/openha"), user_lines(daemon, LINKS, "/bin/of/openha")
    assert full[0].split()[:4] == ["root", "102", "1", "10"]
    assert full[0].endswith(" 00:00:03 /bin/of/openha/heartd eth1 239.131.50.10 5010")
    assert user[-1].split()[:8] == ["root", "100", "10.0", "0.1", "8192", "4096", "?", "S<"]
    assert user[-1].endswith(" 0:03 /bin/of/openha/nmond")


def test_the_kernel_tells_threads_names_and_times():
    """A thread named as a link's is found in this very process."""
    done, named = threading.Event(), threading.Event()

    def live():
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_bytes(b"dio<vdb")
        named.set()
        done.wait(30)

    worker = threading.Thread(target=live)
    worker.start()
    try:
        assert named.wait(30)
        facts = daemon_facts(os.getpid())
    finally:
        done.set()
        worker.join()
    ids = [one.thread_id for one in facts.threads]
    assert ids == sorted(ids)
    assert facts.pid in ids
    found = next(one for one in facts.threads if one.name == "dio<vdb")
    assert found.thread_id == worker.native_id
    assert found.began_at > 1e9
    assert facts.rss_bytes > 0
    assert facts.age_s > 0


def test_a_process_that_has_ended_has_no_facts():
    """It may end between two looks."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    assert daemon_facts(child) is None


def test_the_daemon_is_the_holder_of_the_lock(tmp_path):
    """A pid in a file that nobody has locked is a dead daemon's."""
    place = Root(tmp_path)
    place.run.mkdir(parents=True)
    assert daemon_pid(place) is None
    place.lock.write_text("4242\n")
    assert daemon_pid(place) is None
    with place.lock.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert daemon_pid(place) == 4242
        place.lock.write_text("")
        assert daemon_pid(place) is None


def test_programs_are_shown_below_ez_bin():
    """Scripts look for them there."""
    assert binaries_directory({"EZ_BIN": "/usr/local/cluster/bin"}) == "/usr/local/cluster/bin"
    assert binaries_directory({}) == "/usr/lib/openha/bin"
