"""The event journal: one line per entry, rotation, readers beside it, full disks, torn lines."""

import json
import logging
import os
import resource
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from opensvc_hb.core.effects import Journal
from opensvc_hb.daemon.journal import (
    UNWRITTEN_MAX,
    JournalStatistics,
    JournalThread,
    JournalUnreadable,
    JournalWriter,
    decode_record,
    read_entries,
)

REPOSITORY = Path(__file__).resolve().parents[2]


def entry(number, service="svc1"):
    return Journal(
        service=service,
        kind="takeover",
        rule="R07",
        text=f"entry {number}",
        reason="the peer is silent: it is taken for dead",
        inputs=(("own", "STOPPED"), ("age of net<deb1", "5.2 s")),
    )


def numbers(records):
    return [int(record.text.split()[1]) for record in records]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log" / "hb.journal"


def writer_of(path, **options):
    return JournalWriter(
        path, "deb2", clock=lambda: 5123.25, wall_clock=lambda: "2014-06-12T08:01:02Z", **options
    )


def wait_for(condition, limit_s=10.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


def test_an_entry_is_one_line_with_its_rule_reason_and_inputs(path):
    """An entry is one line of JSON with all that a reader needs to know why."""
    writer_of(path).write(entry(1))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {
            "version": 1,
            "at": 5123.25,
            "wall": "2014-06-12T08:01:02Z",
            "node": "deb2",
            "service": "svc1",
            "kind": "takeover",
            "rule": "R07",
            "text": "entry 1",
            "reason": "the peer is silent: it is taken for dead",
            "inputs": {"own": "STOPPED", "age of net<deb1": "5.2 s"},
        }
    ]
    assert path.stat().st_mode & 0o007 == 0


def test_what_is_written_is_read(path):
    """What was written is read, oldest first, by service and by number."""
    writer = writer_of(path)
    for number in range(6):
        writer.write(entry(number, service="svc1" if number % 2 else ""))
    assert read_entries(path)[3] == writer.stamp(entry(3))
    assert numbers(read_entries(path)) == [0, 1, 2, 3, 4, 5]
    assert numbers(read_entries(path, service="svc1")) == [1, 3, 5]
    assert numbers(read_entries(path, service="")) == [0, 2, 4]
    assert numbers(read_entries(path, limit=2)) == [4, 5]
    assert numbers(read_entries(path, service="svc1", limit=2)) == [3, 5]
    assert read_entries(path, limit=0) == []
    assert read_entries(path, service="svc9") == []


def test_a_journal_that_is_not_there_is_empty(path):
    """A journal without a file has no entries."""
    assert read_entries(path) == []


def test_a_journal_that_cannot_be_read_is_an_error_that_names_it(path):
    """A journal that cannot be read is an operator's error with its path."""
    path.mkdir(parents=True)
    with pytest.raises(JournalUnreadable, match=r"hb\.journal: cannot be read: Is a directory"):
        read_entries(path)


def test_text_of_any_kind_stays_on_one_line(path):
    """Line ends and odd characters in an operator's words do not break the line."""
    odd = Journal(
        "svc", "freeze", "", "two\nlines", "caf\u00e9 \U0001f600 \udcff \u2028 \x00", (("a\nb", "c"),)
    )
    writer = writer_of(path)
    writer.write(odd)
    assert path.read_bytes().count(b"\n") == 1
    assert read_entries(path) == [writer.stamp(odd)]


def test_files_rotate_by_size_and_the_oldest_goes(path):
    """No file grows beyond its size, so many are kept, and the newest entries survive in order."""
    writer = writer_of(path, rotate_bytes=2000, rotated_files=4)
    for number in range(200):
        writer.write(entry(number))
    names = sorted(os.listdir(path.parent))
    assert names == ["hb.journal"] + [f"hb.journal.{number}" for number in range(1, 5)]
    assert all((path.parent / name).stat().st_size <= 2000 for name in names)
    kept = numbers(read_entries(path))
    assert kept == list(range(kept[0], 200))
    assert len(kept) > 20
    assert numbers(read_entries(path, limit=15)) == list(range(185, 200))


def test_a_line_longer_than_a_file_may_be_is_written_all_the_same(path):
    """One entry larger than the size of a file has a file of its own."""
    writer = writer_of(path, rotate_bytes=100)
    for number in range(3):
        writer.write(entry(number))
    assert numbers(read_entries(path)) == [0, 1, 2]


def test_a_reader_beside_a_rotating_writer_sees_no_gap_and_no_entry_twice(path):
    """A reader while files rotate sees consecutive entries, each once, up to the newest."""
    writer = writer_of(path, rotate_bytes=1500, rotated_files=8)
    done = threading.Event()

    def write():
        for number in range(800):
            writer.write(entry(number))
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    reads = 0
    newest = -1
    while not done.is_set():
        seen = numbers(read_entries(path))
        assert seen == list(range(seen[0], seen[-1] + 1)) if seen else True
        assert not seen or seen[-1] >= newest
        newest = seen[-1] if seen else newest
        reads += 1
    thread.join()
    assert reads > 5
    assert numbers(read_entries(path))[-1] == 799


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_torn_line_is_skipped_and_costs_only_itself(path, cut):
    """A last line torn by a power cut is skipped; the next entry begins on a line of its own."""
    writer = writer_of(path)
    for number in range(3):
        writer.write(entry(number))
    os.truncate(path, path.stat().st_size - cut)
    torn = [0, 1, 2] if cut == 1 else [0, 1]  # without its line end alone, an entry is still whole
    assert numbers(read_entries(path)) == torn
    writer.write(entry(3))
    assert numbers(read_entries(path)) == [*torn, 3]


def test_lines_that_are_no_entries_are_skipped(path):
    """Garbage of any kind between entries is skipped."""
    writer = writer_of(path)
    writer.write(entry(1))
    with path.open("ab") as file:
        file.write(b'\n\xff\xfe\n[1]\n{"at": 1}\nnull\n{"at":"x"}\n' + b"[" * 100_000 + b"\n")
    writer.write(entry(2))
    assert numbers(read_entries(path)) == [1, 2]
    assert decode_record(b'{"inputs": 3}') is None


def test_a_file_moved_away_is_made_again(path):
    """Entries go to the file that has the name, whoever moved the one before."""
    writer = writer_of(path)
    writer.write(entry(1))
    path.rename(path.with_name("hb.journal.1"))
    writer.write(entry(2))
    assert numbers(read_entries(path)) == [1, 2]


def test_entries_that_cannot_be_written_wait_in_memory(path, caplog):
    """Without a place to write, entries wait, one log line says so, and they come first later."""
    path.parent.write_text("no directory")
    writer = writer_of(path)
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            writer.write(entry(number))
        assert writer.statistics == JournalStatistics(unwritten=3, lost=0)
        assert len(caplog.records) == 1
        path.parent.unlink()
        writer.write(entry(3))
    assert len(caplog.records) == 2
    assert numbers(read_entries(path)) == [0, 1, 2, 3]
    assert writer.statistics == JournalStatistics(unwritten=0, lost=0)


def test_the_memory_for_waiting_entries_is_bounded(path):
    """Only the last entries wait; the others are counted as lost."""
    path.parent.write_text("no directory")
    writer = writer_of(path)
    for number in range(UNWRITTEN_MAX + 7):
        writer.write(entry(number))
    assert writer.statistics == JournalStatistics(unwritten=UNWRITTEN_MAX, lost=7)
    path.parent.unlink()
    writer.write(entry(UNWRITTEN_MAX + 7))
    assert numbers(read_entries(path)) == list(range(7, UNWRITTEN_MAX + 8))


FULL_DISK = """
    import os, resource, signal, sys
    from pathlib import Path
    from opensvc_hb.core.effects import Journal
    from opensvc_hb.daemon.journal import JournalWriter, read_entries

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = Path(sys.argv[1])
    writer = JournalWriter(path, "deb1")
    writer.write(Journal("svc", "kind", "", "entry 0", ""))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 50, hard))
    for number in range(1, 6):
        writer.write(Journal("svc", "kind", "", f"entry {number}", ""))
    assert writer.statistics.unwritten == 5, writer.statistics
    assert [r.text for r in read_entries(path)] == ["entry 0"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    writer.write(Journal("svc", "kind", "", "entry 6", ""))
    assert [r.text for r in read_entries(path)] == [f"entry {n}" for n in range(7)]
    print("kept")
"""


def test_a_disk_that_fills_in_the_middle_of_a_line_loses_nothing(path):
    """A disk that fills in the middle of a line: the line is torn, and written whole once there is room."""
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.stdout == "kept\n", finished.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_the_thread_writes_what_was_put_in_order(path):
    """Entries put from several places are written in the order in which they were put."""
    thread = JournalThread(writer_of(path))
    thread.put(entry(0))
    thread.start()
    for number in range(1, 500):
        thread.put(entry(number))
    thread.stop()
    assert numbers(read_entries(path)) == list(range(500))
    assert thread.statistics() == JournalStatistics(0, 0)


def test_a_slow_disk_never_holds_up_who_puts(path):
    """While the disk hangs, put returns at once; beyond a bound the oldest entries are dropped, counted."""
    hanging, release = threading.Event(), threading.Event()

    class HangingWriter(JournalWriter):
        def append(self, records):
            hanging.set()
            assert release.wait(10)
            super().append(records)

    thread = JournalThread(HangingWriter(path, "deb1"), queue_max=10)
    thread.start()
    thread.put(entry(0))
    assert hanging.wait(10)
    begin = time.monotonic()
    for number in range(1, 31):
        thread.put(entry(number))
    assert time.monotonic() - begin < 1.0
    assert thread.statistics() == JournalStatistics(unwritten=10, lost=20)
    release.set()
    thread.stop()
    assert numbers(read_entries(path)) == [0, *range(21, 31)]


def test_an_entry_is_stamped_when_it_is_put(path):
    """The time of an entry is that of the decision, not of the writing."""
    now = [10.0]
    thread = JournalThread(JournalWriter(path, "deb1", clock=lambda: now[0]))
    thread.put(entry(0))
    now[0] = 99.0
    thread.start()
    thread.stop()
    assert [record.at_s for record in read_entries(path)] == [10.0]


def test_stop_does_not_wait_for_a_hanging_disk(path):
    """Stopping the thread is bounded when the disk hangs."""
    release = threading.Event()

    class HangingWriter(JournalWriter):
        def append(self, records):
            assert release.wait(10)

    thread = JournalThread(HangingWriter(path, "deb1"))
    thread.start()
    thread.put(entry(0))
    begin = time.monotonic()
    thread.stop(limit_s=0.1)
    assert time.monotonic() - begin < 2.0
    release.set()


def test_statistics_show_what_waits_for_space(path):
    """What the thread could not write shows in its statistics."""
    path.parent.write_text("no directory")
    thread = JournalThread(writer_of(path))
    thread.start()
    thread.put(entry(0))
    wait_for(lambda: thread.statistics() == JournalStatistics(1, 0))
    path.parent.unlink()
    thread.stop()
    assert numbers(read_entries(path)) == [0]
