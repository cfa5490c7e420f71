"""Replacing a file: the old content or the new one, whole, whatever happens."""

import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from opensvc_hb.files import WriteError, replace_file

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_file_gets_its_content_and_its_mode(tmp_path):
    """A new file and a replaced one have the content and the mode asked for, whatever the umask."""
    path = tmp_path / "file"
    before = os.umask(0o077)
    try:
        replace_file(path, b"one")
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"one", 0o600)
        replace_file(path, b"two", mode=0o644)
        assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o644)
    finally:
        os.umask(before)
    assert os.listdir(tmp_path) == ["file"]


def test_a_symbolic_link_is_replaced_not_followed(tmp_path):
    """What a link leads to is not touched."""
    target = tmp_path / "target"
    target.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(target)
    replace_file(link, b"new")
    assert (target.read_bytes(), link.read_bytes(), link.is_symlink()) == (b"old", b"new", False)


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    """A name that is a directory cannot be replaced: one error, and no temporary file stays."""
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(WriteError, match="file: cannot be written: Is a directory"):
        replace_file(path, b"new")
    with pytest.raises(WriteError, match="cannot be written: No such file or directory"):
        replace_file(tmp_path / "missing" / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    """When the new content cannot be written whole, the old one stays, and no temporary file."""
    script = """
        import resource, signal, sys
        from pathlib import Path
        from opensvc_hb.files import WriteError, replace_file

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        path = Path(sys.argv[1])
        replace_file(path, b"old")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            replace_file(path, b"n" * 5000)
        except WriteError as error:
            assert str(error) == f"{path}: cannot be written: File too large", error
            print(path.read_text(), *(name.name for name in path.parent.iterdir()))
    """
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "file")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.stdout == "old file\n", finished.stderr
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
