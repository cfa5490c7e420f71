"""The key file: what it holds, who may read it, how a key is replaced without a gap."""

from __future__ import annotations

import os
import stat

import pytest
from links_builders import make_beat, make_link

from opensvc_hb.core.messages import Beat
from opensvc_hb.errors import ConfigurationError, ExitCode
from opensvc_hb.files import WriteError
from opensvc_hb.links import keyring as keys
from opensvc_hb.links.codec_native import Opener, Rejected, RejectReason, Sealer

GOOD = f"version 1\ncluster {'ab' * 16}\nkey 3 {'cd' * 32}\n"


def test_links_a_generated_key_file_reads_back(tmp_path):
    """What was written, mode 0600, in a directory made for it, reads back equal."""
    path = tmp_path / "etc/opensvc/hb/key"
    keyring = keys.generate()
    keys.write(path, keyring)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.read(path) == keyring
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]
    assert keys.generate() != keyring


def test_links_a_key_file_is_not_overwritten_by_accident(tmp_path):
    """A second keygen is refused, and the first file stays; replacing is asked for in words."""
    path = tmp_path / "key"
    first, second = keys.generate(), keys.generate()
    keys.write(path, first)
    with pytest.raises(keys.KeyFileExistsError, match="exists already") as caught:
        keys.write(path, second)
    assert caught.value.exit_code is ExitCode.REFUSED
    assert keys.read(path) == first
    keys.write(path, second, replace=True)
    assert keys.read(path) == second


def test_links_a_key_file_that_cannot_be_written_says_why(tmp_path):
    """A path through a file is an error that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file/key: cannot be written"):
        keys.write(tmp_path / "file/key", keys.generate())


def test_links_secrets_are_not_shown():
    """A keyring in a log or a traceback shows no key."""
    keyring = keys.generate()
    assert keyring.sealing.secret.hex() not in repr(keyring)
    assert repr(keyring.sealing.secret) not in repr(keyring)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_links_a_key_others_may_read_is_refused(tmp_path, mode):
    """Any access for group or others is refused with the command that repairs it."""
    path = tmp_path / "key"
    path.write_text(GOOD)
    path.chmod(mode)
    with pytest.raises(ConfigurationError) as caught:
        keys.read(path)
    assert str(caught.value) == f"{path}: mode: {mode:04o} lets others read the key: run `chmod 600 {path}`"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_links_a_key_of_somebody_else_is_refused(tmp_path):
    """A key file of another user could be changed by him."""
    path = tmp_path / "key"
    path.write_text(GOOD)
    path.chmod(0o600)
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigurationError, match=r"owner: uid 12345 is not ours \(0\): run `chown 0 "):
        keys.read(path)


def test_links_a_missing_key_tells_what_to_run(tmp_path):
    """Without a key nothing starts; the error says how to get one."""
    with pytest.raises(ConfigurationError, match="does not exist: run `hbmgr keygen` on one node, then copy"):
        keys.read(tmp_path / "key")
    with pytest.raises(ConfigurationError, match="is not a regular file"):
        keys.read(tmp_path)


def test_links_comments_and_case_do_not_matter_in_a_key_file():
    """Comments, blank lines and upper-case digits are accepted."""
    assert keys.parse("# ours\n\n" + GOOD.replace("ab", "AB"), "key") == keys.parse(GOOD, "key")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "key: version: is missing: `version 1` comes first"),
        ("version 2\n", "key:1: version: only 1 is known here"),
        ("version 1\nkey 1 " + "00" * 32, "key: cluster: is missing: copy the whole file from another node"),
        (GOOD + "cluster 00\n", "key:4: not one of `version 1`, `cluster HEX`, `key ID HEX`, or there twice"),
        ("version 1\ncluster 12\n", "key:2: cluster: 32 hexadecimal digits are needed"),
        (GOOD + "key 4 zz\n", "key:4: key: 64 hexadecimal digits are needed"),
        (GOOD + "key 0 " + "00" * 32, "key:4: key: id '0': 1 to 65535 is allowed"),
        (GOOD + "key 3 " + "00" * 32, "key:4: key: id 3 is there twice"),
        (GOOD + f"key 4 {'00' * 32}\nkey 5 {'00' * 32}\n", "key: key: 3 keys, 1 to 2 are allowed"),
        ("version 1\ncluster " + "ab" * 16, "key: key: 0 keys, 1 to 2 are allowed"),
    ],
)
def test_links_a_wrong_key_file_is_named_by_line(text, expected):
    """Each mistake has its line; no secret is repeated."""
    with pytest.raises(ConfigurationError) as caught:
        keys.parse(text, "key")
    assert str(caught.value) == expected


def test_links_a_key_file_of_other_bytes_is_refused(tmp_path):
    """Bytes beyond ASCII are no key file."""
    path = tmp_path / "key"
    path.write_bytes(b"\xff\x00")
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="not ASCII text"):
        keys.read(path)


def test_links_three_steps_replace_a_key_without_a_gap():
    """At each step of a rotation a node that has it and a node that has not open each other's beats."""
    steps = [keys.generate()]
    for _ in range(3):
        steps.append(keys.rotate(steps[-1]))
    assert [step.rotation for step in steps] == [
        keys.Rotation.ONE_KEY,
        keys.Rotation.ADDED,
        keys.Rotation.SWITCHED,
        keys.Rotation.ONE_KEY,
    ]
    assert [[key.id for key in step.keys] for step in steps] == [[1], [1, 2], [2, 1], [2]]
    assert len({step.cluster_tag for step in steps}) == 1
    link = make_link()
    for ahead, behind in zip(steps[1:], steps):
        for sealing, opening in ((ahead, behind), (behind, ahead)):
            [datagram] = Sealer(sealing, link.node, link.id).seal(make_beat(), with_table=False)
            assert isinstance(Opener(opening, link, {}, "deb2").open(datagram), Beat)
    [datagram] = Sealer(steps[0], link.node, link.id).seal(make_beat(), with_table=False)
    refused = Opener(steps[3], link, {}, "deb2").open(datagram)
    assert refused == Rejected(RejectReason.UNKNOWN_KEY, "sealed with key 1, which we do not have")
