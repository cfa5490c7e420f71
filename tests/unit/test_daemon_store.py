"""The store: what it keeps through torn writes, kills, full disks and damage."""

import errno
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from opensvc_hb.core.events import Stored, StoredInstance, StoredPeer
from opensvc_hb.core.states import State
from opensvc_hb.daemon.store import Store, StoreError
from opensvc_hb.daemon.store_format import (
    HEADER,
    Copy,
    Unreadable,
    copy_bytes_for,
    decode_copy,
    encode_copy,
)

REPOSITORY = Path(__file__).resolve().parents[2]


def record(incarnation, services=2, reason="maintenance of the pump"):
    return Stored(
        incarnation=incarnation,
        instances={
            f"svc{number}": StoredInstance(
                State.FROZEN_START, 17, 3, 4, frozen_by="root", frozen_reason=reason, frozen_wall="10:00"
            )
            for number in range(services)
        },
        peers={"deb2": StoredPeer(incarnation=9, restarting_for_s=12.5, maintenance=("svc0",))},
    )


def no_sync(descriptor):
    pass


@pytest.fixture
def path(tmp_path):
    return tmp_path / "var" / "store"


def reread(path):
    with Store.open(path, 2, sync=no_sync) as store:
        return store.read()


def test_a_node_without_a_file_begins_with_an_empty_record(path):
    """A node without a file begins with an empty record, and says that it is fresh."""
    with Store.open(path, 2) as store:
        assert store.fresh
        assert store.damaged is None
        assert store.read() == Stored()
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["store"]


def test_every_block_of_the_file_is_there_before_the_first_write(path):
    """Every block of the file exists on the disk before the first write."""
    with Store.open(path, 100):
        status = path.stat()
    assert status.st_size == 2 * copy_bytes_for(100)
    assert status.st_blocks * 512 >= status.st_size


def test_what_was_written_is_read_by_the_next_daemon(path):
    """What was written is read by the next daemon, in whichever of the copies it is."""
    for incarnation in range(1, 6):
        with Store.open(path, 2) as store:
            assert store.read().incarnation == incarnation - 1
            assert store.fresh == (incarnation == 1)
            store.write(record(incarnation))
            assert store.read() == record(incarnation)
        assert reread(path) == record(incarnation)


def test_a_write_keeps_the_file_and_its_size(path):
    """A write happens in place: same inode, same size."""
    with Store.open(path, 2) as store:
        before = path.stat()
        for incarnation in range(10):
            store.write(record(incarnation))
        after = path.stat()
    assert (before.st_ino, before.st_size, before.st_blocks) == (after.st_ino, after.st_size, after.st_blocks)


@pytest.mark.parametrize("writes", [1, 2, 3])
def test_a_write_torn_at_any_byte_leaves_the_record_before_it(path, writes):
    """A write torn at any byte leaves the record before it; only the whole write counts."""
    with Store.open(path, 2, sync=no_sync) as store:
        for incarnation in range(1, writes + 1):
            store.write(record(incarnation))
        before = path.read_bytes()
        store.write(record(writes + 1))
        after = path.read_bytes()
    changed = [position for position in range(len(before)) if before[position] != after[position]]
    begin, end = changed[0], changed[-1] + 1
    for cut in range(begin, end + 1):
        path.write_bytes(after[:cut] + before[cut:])
        expected = writes + 1 if cut == end else writes
        assert reread(path).incarnation == expected, f"torn behind byte {cut - begin}"


def test_blocks_of_a_write_that_reach_the_disk_in_any_order_leave_a_whole_record(path):
    """A power cut that keeps any selection of a write's 512-byte sectors leaves one whole record."""
    many = 40
    with Store.open(path, many, sync=no_sync) as store:
        for incarnation in (1, 2):
            store.write(record(incarnation, many, reason=f"reason {incarnation}"))
        before = path.read_bytes()
        store.write(record(3, many, reason="reason 3"))
        after = path.read_bytes()
    sectors = [at for at in range(0, len(after), 512) if before[at : at + 512] != after[at : at + 512]]
    assert len(sectors) > 4
    chance = random.Random(4)
    for _ in range(200):
        kept = {at for at in sectors if chance.random() < 0.5}
        path.write_bytes(
            b"".join((after if at in kept else before)[at : at + 512] for at in range(0, len(after), 512))
        )
        assert reread(path).incarnation == (3 if kept == set(sectors) else 2)


def test_a_copy_with_any_byte_changed_does_not_count():
    """A copy with any one byte changed is unreadable."""
    encoded = encode_copy(record(5), 7, 8192)
    assert decode_copy(encoded) == Copy(7, 8192, record(5))
    for position in range(len(encoded)):
        spoiled = bytearray(encoded)
        spoiled[position] ^= 0x10
        assert isinstance(decode_copy(bytes(spoiled)), Unreadable)


def test_a_store_without_a_readable_copy_says_so_and_works_on(path):
    """A store with no readable copy reports the damage, gives an empty record and can be written."""
    with Store.open(path, 2) as store:
        store.write(record(1))
    path.write_bytes(b"\xff" * path.stat().st_size)
    with Store.open(path, 2) as store:
        assert "no copy can be read" in store.damaged
        assert not store.fresh
        assert store.read() == Stored()
        store.write(record(2))
    with Store.open(path, 2) as store:
        assert store.damaged is None
        assert store.read() == record(2)


def test_a_copy_of_another_version_never_wins_over_ours_later(path):
    """A copy in another version's format is damage, and is gone behind our first write."""
    with Store.open(path, 2) as store:
        for incarnation in range(1, 4):
            store.write(record(incarnation))
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    for start in (0, half):
        struct.pack_into(">I", data, start + 8, 2)
    path.write_bytes(data)
    with Store.open(path, 2) as store:
        assert "format 2" in store.damaged
        store.write(record(9))
    assert data[: HEADER.size] not in path.read_bytes()
    assert data[half : half + HEADER.size] not in path.read_bytes()


@pytest.mark.parametrize("size", [1, 100, 5000, copy_bytes_for(2), copy_bytes_for(2) + 100])
def test_a_file_cut_short_is_damage_and_is_made_whole(path, size):
    """A file cut short is reported, what is left of it is used, and the file is made whole."""
    with Store.open(path, 2) as store:
        store.write(record(1))
        store.write(record(2))
    os.truncate(path, size)
    with Store.open(path, 2) as store:
        assert store.damaged is not None
        assert store.read().incarnation in (0, 1, 2)
        store.write(record(3))
    assert path.stat().st_size == 2 * copy_bytes_for(2)
    with Store.open(path, 2) as store:
        assert store.damaged is None
        assert store.read() == record(3)


def test_an_empty_file_is_no_damage(path):
    """An empty file counts as none."""
    path.parent.mkdir()
    path.write_bytes(b"")
    with Store.open(path, 2) as store:
        assert store.fresh
        assert store.damaged is None
        store.write(record(1))
    assert reread(path) == record(1)


def test_a_write_that_fails_leaves_the_record_before_it_and_can_be_repeated(path):
    """A disk that fails a write leaves the record before it; the next write goes to the same copy."""
    failing = [False]

    def sync(descriptor):
        if failing[0]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Store.open(path, 2, sync=sync) as store:
        store.write(record(1))
        store.write(record(2))
        safe = store.read()
        failing[0] = True
        for incarnation in (3, 4, 5):
            with pytest.raises(StoreError, match="Input/output error"):
                store.write(record(incarnation))
            assert store.read() == safe
        data = path.read_bytes()
        half = len(data) // 2
        copies = [decode_copy(data), decode_copy(data[half:])]
        assert any(copy.stored == safe for copy in copies if isinstance(copy, Copy))
        failing[0] = False
        store.write(record(6))
    assert reread(path) == record(6)


def test_room_grows_with_the_services_and_keeps_the_record(path):
    """Reserving room for more services keeps what is stored, and never shrinks the file."""
    with Store.open(path, 2) as store:
        store.write(record(1))
        store.reserve(1000)
        size = path.stat().st_size
        assert size == 2 * copy_bytes_for(1000)
        assert store.read() == record(1)
        assert reread(path) == record(1)
        store.write(record(2, services=1000))
        store.reserve(2)
        assert path.stat().st_size == size
    assert reread(path) == record(2, services=1000)


def test_twice_the_services_fit_whatever_their_names_and_reasons(path):
    """Twice as many services as announced fit, with the longest names and any length of reasons."""
    count = 200
    names = [f"{number:03d}".ljust(63, "x") for number in range(2 * count)]
    stored = Stored(
        incarnation=2**63,
        instances={
            name: StoredInstance(State.START_FAILED, 2**63, 2**63, 2**63, "root", "r" * 10_000, "w" * 99)
            for name in names
        },
        peers={"deb2": StoredPeer(2**63, 1.5, tuple(names))},
    )
    with Store.open(path, count) as store:
        store.write(stored)
    read = reread(path)
    assert list(read.instances) == names
    assert read.instances[names[0]].epoch == 2**63
    assert read.peers == stored.peers


def test_more_than_fits_is_refused_and_nothing_is_lost(path):
    """A record that cannot fit is refused with what to do, and the one before it stays."""
    with Store.open(path, 2) as store:
        store.write(record(1))
        with pytest.raises(StoreError, match="do not fit"):
            store.write(record(2, services=5000, reason=""))
        assert store.read() == record(1)
    assert reread(path) == record(1)


def test_a_store_whose_file_was_removed_makes_it_again(path):
    """A file removed, or replaced, under a running daemon is made again with what the daemon knows."""
    with Store.open(path, 2) as store:
        store.write(record(1))
        path.unlink()
        store.write(record(2))
        assert reread(path) == record(2)
        store.write(record(3))
        assert reread(path) == record(3)


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    """A store that cannot be made is one error with its path."""
    (tmp_path / "var").write_text("a file, no directory")
    with pytest.raises(StoreError, match=r"var/store: "):
        Store.open(tmp_path / "var" / "store", 2)


WRITER = """
import sys
from pathlib import Path
from opensvc_hb.core.events import Stored, StoredInstance
from opensvc_hb.core.states import State
from opensvc_hb.daemon.store import Store

store = Store.open(Path(sys.argv[1]), 50)
number = store.read().incarnation
while True:
    number += 1
    instances = {f"svc{n}": StoredInstance(State.STARTED, number, number, number) for n in range(50)}
    store.write(Stored(incarnation=number, instances=instances))
    print(number, flush=True)
"""


def test_a_daemon_killed_at_any_moment_loses_nothing_it_announced(path):
    """kill -9 at any moment, again and again: the last announced record, or the one being written."""
    chance = random.Random(11)
    last = 0
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, cwd=REPOSITORY
        ) as writer:
            announced = [int(writer.stdout.readline())]
            time.sleep(chance.random() * 0.03)  # the moment of the kill is the chance under test
            writer.send_signal(signal.SIGKILL)
            announced += [int(line) for line in writer.stdout.read().splitlines()]
        assert announced == list(range(announced[0], announced[-1] + 1))
        assert announced[0] in (last + 1, last + 2)
        with Store.open(path, 50) as store:
            assert store.damaged is None
            last = store.read().incarnation
            assert last in (announced[-1], announced[-1] + 1)
            assert all(instance.epoch == last for instance in store.read().instances.values())


FULL_DISK = """
    import errno, os, sys
    from pathlib import Path
    from opensvc_hb.core.events import Stored
    from opensvc_hb.daemon.store import Store, StoreError

    directory = Path(sys.argv[1])
    {before}
    path = directory / "store"
    store = Store.open(path, 2)
    {fill}
    for number in range(1, 201):
        store.write(Stored(incarnation=number))
    try:
        store.reserve(3000)
    except StoreError as error:
        assert {says!r} in str(error), error
    else:
        raise AssertionError("there was room")
    store.write(Stored(incarnation=201))
    store.close()
    with Store.open(path, 3000) as again:
        assert again.read().incarnation == 201
        again.write(Stored(incarnation=202))
    assert Store.open(path, 2).read().incarnation == 202
    assert not [name for name in os.listdir(directory) if name.startswith(".store")]
    print("kept")
"""


def run_on_full_disk(directory, before, fill, says, wrapper=()):
    script = textwrap.dedent(FULL_DISK).format(before=before, fill=fill, says=says)
    return subprocess.run(
        [*wrapper, sys.executable, "-W", "ignore::ResourceWarning", "-c", script, str(directory)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_process_that_may_not_write_one_byte_more_still_stores(tmp_path):
    """Where no file may grow any more, 200 records are stored, and enlarging fails cleanly."""
    limit = 2 * copy_bytes_for(2)
    finished = run_on_full_disk(
        tmp_path,
        before="import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
        fill=f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))",
        says=os.strerror(errno.EFBIG),
    )
    assert finished.stdout == "kept\n", finished.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != limit, "the limit is the child's own"


def test_a_full_disk_stops_no_record(tmp_path):
    """On a file system without a free block, 200 records are stored, and enlarging fails cleanly."""
    wrapper = ["unshare", "--mount", "--propagation", "private"]
    if os.geteuid() != 0:
        wrapper += ["--user", "--map-root-user"]
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("this user may not make a mount namespace")
    finished = run_on_full_disk(
        tmp_path,
        before=(
            "import subprocess; subprocess.run("
            "['mount', '-t', 'tmpfs', '-o', 'size=1m', 'none', str(directory)], check=True)"
        ),
        fill=(
            "filler = os.open(directory / 'filler', os.O_WRONLY | os.O_CREAT)\n"
            "try:\n"
            "    while True:\n"
            "        os.write(filler, bytes(4096))\n"
            "except OSError as error:\n"
            "    assert error.errno == errno.ENOSPC\n"
        ),
        says=os.strerror(errno.ENOSPC),
        wrapper=wrapper,
    )
    assert finished.stdout == "kept\n", finished.stderr
