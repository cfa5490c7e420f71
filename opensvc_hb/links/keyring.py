"""The `key` file: who belongs to the cluster, and how a key is replaced without a gap.

Answers: which cluster is this, with which key are beats sealed, with which may they be
opened? Copying this one file joins a node. Never logs or shows a secret.

    # opensvc_hb cluster key
    version 1
    cluster 5f0c...   (16 bytes in hexadecimal digits)
    key 1 8d1b...     (id, then 32 bytes in hexadecimal digits)

The first key seals, all keys open. A rotation takes three steps, and after each of them the
file is copied to every node and reloaded there, in any order, while beats go on: the new key
is added behind the old one (all can open it), then put first (all begin to seal with it),
then the old one is dropped. `rotate` takes the next step.

Called by the daemon, which reads, and by `hbmgr keygen`, which writes.
"""

from __future__ import annotations

import enum
import hashlib
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Optional, Tuple

from opensvc_hb.errors import ConfigurationError, ExitCode, HbError
from opensvc_hb.files import WriteError, replace_file

CLUSTER_ID_BYTES = 16
SECRET_BYTES = 32
KEY_ID_MAX = 65535
KEYS_MAX = 2
FORMAT_VERSION = 1

_FILE_MAX_BYTES = 65536
_HEX = re.compile(r"([0-9a-fA-F]{2})+")
_KEY_ID = re.compile(r"[0-9]{1,5}")
_HEADING = (
    "# opensvc_hb cluster key: whoever reads it can speak for any node.\n"
    "# The same file on every node, mode 0600. The first key seals, all keys open.\n"
)


class KeyFileExistsError(HbError):
    """`write` was not told to replace a key file that is there."""

    exit_code = ExitCode.REFUSED

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"{path}: exists already, and every node of its cluster needs it: not overwritten")


class Rotation(enum.Enum):
    """Where a key file stands on the way from one key to the next; the value is for people."""

    ONE_KEY = "step 3 of 3: the old key is dropped"
    ADDED = "step 1 of 3: a second key opens; the first still seals"
    SWITCHED = "step 2 of 3: the new key seals; the old one still opens"


@dataclass(frozen=True)
class ClusterKey:
    """One key of the cluster. Ids grow: the higher of two is the newer."""

    id: int
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class Keyring:
    """The content of a key file.

    Args:
        cluster_id: `CLUSTER_ID_BYTES` random bytes.
        keys: one or two; the first seals.
    """

    cluster_id: bytes
    keys: Tuple[ClusterKey, ...]

    @property
    def sealing(self) -> ClusterKey:
        """The key that seals."""
        return self.keys[0]

    @property
    def key_ids(self) -> Tuple[int, ...]:
        """The ids of the keys, the sealing one first."""
        return tuple(key.id for key in self.keys)

    @property
    def cluster_tag(self) -> bytes:
        """8 bytes that name the cluster in clear, on the wire and on disk."""
        return hashlib.blake2b(self.cluster_id, digest_size=8, person=b"hb cluster tag").digest()

    @property
    def rotation(self) -> Rotation:
        """Tell which step of a rotation was the last."""
        if len(self.keys) == 1:
            return Rotation.ONE_KEY
        return Rotation.ADDED if self.keys[0].id < self.keys[1].id else Rotation.SWITCHED

    def key(self, key_id: int) -> Optional[ClusterKey]:
        """Return the key with this id, None when it is not (or no longer) ours."""
        for key in self.keys:
            if key.id == key_id:
                return key
        return None


def generate() -> Keyring:
    """Return the keyring of a new cluster, from the system's random source."""
    return Keyring(secrets.token_bytes(CLUSTER_ID_BYTES), (ClusterKey(1, secrets.token_bytes(SECRET_BYTES)),))


def rotate(keyring: Keyring) -> Keyring:
    """Return the keyring after the next step of a rotation (see the module's text).

    Each step must have reached all nodes before the next one is taken.
    """
    if keyring.rotation is Rotation.ONE_KEY:
        old = keyring.keys[0]
        if old.id == KEY_ID_MAX:
            raise HbError(f"key id {KEY_ID_MAX} is the last one: generate a new cluster key")
        return Keyring(keyring.cluster_id, (old, ClusterKey(old.id + 1, secrets.token_bytes(SECRET_BYTES))))
    if keyring.rotation is Rotation.ADDED:
        return Keyring(keyring.cluster_id, (keyring.keys[1], keyring.keys[0]))
    return Keyring(keyring.cluster_id, (keyring.keys[0],))


def render(keyring: Keyring) -> str:
    """Return the text of the key file; it holds secrets."""
    lines = [f"version {FORMAT_VERSION}", f"cluster {keyring.cluster_id.hex()}"]
    lines += [f"key {key.id} {key.secret.hex()}" for key in keyring.keys]
    return _HEADING + "\n".join(lines) + "\n"


def parse(text: str, path: str) -> Keyring:
    """Return the keyring that `text` describes.

    Args:
        text: the content of a key file.
        path: for the errors.

    Raises:
        ConfigurationError: the first wrong line, or what is missing; secrets are not repeated.
    """
    version: Optional[int] = None
    cluster_id: Optional[bytes] = None
    keys: List[ClusterKey] = []
    for number, line in enumerate(text.splitlines(), start=1):
        columns = line.split()
        if not columns or columns[0].startswith("#"):
            continue
        word = columns[0]
        if word == "version" and len(columns) == 2 and version is None:
            if columns[1] != str(FORMAT_VERSION):
                raise ConfigurationError(path, number, "version", f"only {FORMAT_VERSION} is known here")
            version = FORMAT_VERSION
        elif word == "cluster" and len(columns) == 2 and cluster_id is None:
            cluster_id = _bytes_of(columns[1], CLUSTER_ID_BYTES, path, number, "cluster")
        elif word == "key" and len(columns) == 3:
            keys.append(_key_of(columns[1], columns[2], keys, path, number))
        else:
            raise ConfigurationError(
                path,
                number,
                "",
                "not one of `version 1`, `cluster HEX`, `key ID HEX`, or there twice",
            )
    if version is None:
        raise ConfigurationError(path, 0, "version", f"is missing: `version {FORMAT_VERSION}` comes first")
    if cluster_id is None:
        raise ConfigurationError(path, 0, "cluster", "is missing: copy the whole file from another node")
    if not 1 <= len(keys) <= KEYS_MAX:
        raise ConfigurationError(path, 0, "key", f"{len(keys)} keys, 1 to {KEYS_MAX} are allowed")
    return Keyring(cluster_id, tuple(keys))


def read(path: Path) -> Keyring:
    """Return the keyring of a key file.

    Raises:
        ConfigurationError: it is missing, unreadable, readable by others, not ours, or wrong.
    """
    try:
        # A pipe in its place must not hold us.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigurationError(
            str(path), 0, "", "does not exist: run `hbmgr keygen` on one node, then copy it to the others"
        ) from None
    except OSError as error:
        raise ConfigurationError(str(path), 0, "", f"cannot be read: {error.strerror}") from error
    try:
        # The open file is judged, not the path: nobody may swap it in between.
        _refuse_strangers(path, os.fstat(descriptor))
        content = os.read(descriptor, _FILE_MAX_BYTES)
    except OSError as error:
        raise ConfigurationError(str(path), 0, "", f"cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigurationError(str(path), 0, "", "is not a key file: not ASCII text") from None
    return parse(text, str(path))


def _refuse_strangers(path: Path, facts: os.stat_result) -> None:
    """Raise unless the file is a file, ours, and closed to everybody else."""
    if not stat.S_ISREG(facts.st_mode):
        raise ConfigurationError(str(path), 0, "", "is not a regular file")
    mode = stat.S_IMODE(facts.st_mode)
    if mode & 0o077:
        what = f"{mode:04o} lets others read the key: run `chmod 600 {path}`"
        raise ConfigurationError(str(path), 0, "mode", what)
    ours = os.geteuid()
    if facts.st_uid != ours:
        what = f"uid {facts.st_uid} is not ours ({ours}): run `chown {ours} {path}` and `chmod 600 {path}`"
        raise ConfigurationError(str(path), 0, "owner", what)


def write(path: Path, keyring: Keyring, *, replace: bool = False) -> None:
    """Write the key file, mode 0600, whole or not at all; its directory is made if need be.

    Args:
        path: the key file.
        keyring: its new content.
        replace: False refuses to touch a file that is there.

    Raises:
        KeyFileExistsError: there is one, and `replace` is False.
        WriteError: the file could not be written.
    """
    if not replace and os.path.lexists(path):
        raise KeyFileExistsError(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(path, error) from error
    replace_file(path, render(keyring).encode("ascii"), 0o600)


def _bytes_of(hex_text: str, size: int, path: str, number: int, where: str) -> bytes:
    if not _HEX.fullmatch(hex_text) or len(hex_text) != 2 * size:
        raise ConfigurationError(path, number, where, f"{2 * size} hexadecimal digits are needed")
    return bytes.fromhex(hex_text)


def _key_of(id_text: str, hex_text: str, before: List[ClusterKey], path: str, number: int) -> ClusterKey:
    key_id = int(id_text) if _KEY_ID.fullmatch(id_text) else 0
    if not 1 <= key_id <= KEY_ID_MAX:
        raise ConfigurationError(path, number, "key", f"id {id_text!r}: 1 to {KEY_ID_MAX} is allowed")
    if any(key.id == key_id for key in before):
        raise ConfigurationError(path, number, "key", f"id {key_id} is there twice")
    return ClusterKey(key_id, _bytes_of(hex_text, SECRET_BYTES, path, number, "key"))
