"""The lease block: what a slot says of its node's lease, in one block of 512 bytes.

Answers: which bytes say this lease, and what do these bytes say? Any bytes give a
`LeaseBlock` or a `NoLease` with one line. The block is in every write of a slot (block 1, see
`slot`), and it is sealed together with the datagram of the same write: a block of one write
beside a datagram of another never looks whole. Whether a lease still runs is core's question.

Layout, version 1, numbers big-endian:

    magic (8 bytes), version (1), reserved (1), key id (2), cluster tag (8), link tag (4),
    incarnation (8), sequence (8), writes (8), longest timeout in seconds (8, a double),
    length of the node's name (1), length of the claimed node's name (1), both names;
    zeros; in the last 16 bytes the seal

The seal is a keyed BLAKE2b of all before it and of the digest of the datagram. Its key is
derived from the cluster's key for one cluster, node and link. Nothing in the block is secret,
so it stands in clear, and a captured slot can be read without a key: as a claim, not a proof.

Pure; a `LeaseSeal` belongs to the thread of one link. `hbmgr decode` calls it, too.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
from dataclasses import dataclass
from typing import Dict, Union

from opensvc_hb.core.messages import LeaseBlock
from opensvc_hb.links.beat_bytes import NODE_NAME_MAX_BYTES
from opensvc_hb.links.keyring import ClusterKey, Keyring
from opensvc_hb.links.slot import BLOCK_BYTES

LEASE_MAGIC = b"OSHBLEAS"
LEASE_VERSION = 1

_FIXED = struct.Struct("!8sBxH8sIQQQdBB")
_SEAL_BYTES = 16
_SEAL_AT = BLOCK_BYTES - _SEAL_BYTES
_DIGEST_BYTES = 32
_ZEROS = bytes(BLOCK_BYTES)
_PERSON = b"opensvc_hb lease"


@dataclass(frozen=True)
class NoLease:
    """A block that says nothing of a lease; `reason` is one line, said of the slot."""

    reason: str


@dataclass(frozen=True)
class ClearLease:
    """What a lease block says in clear: a claim, not a proof."""

    key_id: int
    cluster_tag: bytes
    link_tag: int
    block: LeaseBlock


class LeaseSeal:
    """Makes the lease blocks of one node's slot on one link, and checks them.

    Args:
        node: whose slot it is.
        link_tag: `messages.link_tag` of the link's id.
    """

    def __init__(self, keyring: Keyring, node: str, link_tag: int) -> None:
        self._keyring = keyring
        self._node = node
        self._link_tag = link_tag
        self._keys: Dict[int, bytes] = {}

    def encode(self, block: LeaseBlock, datagram: bytes) -> bytes:
        """Return the `BLOCK_BYTES` bytes of a block, to be written beside this datagram."""
        names = (block.node.encode(), block.claims.encode())
        assert block.node == self._node, "a node writes its own slot only"
        assert all(len(name) <= NODE_NAME_MAX_BYTES for name in names), "names of nodes are short"
        key = self._keyring.sealing
        fixed = _FIXED.pack(
            LEASE_MAGIC,
            LEASE_VERSION,
            key.id,
            self._keyring.cluster_tag,
            self._link_tag,
            block.incarnation,
            block.sequence,
            block.writes,
            block.longest_timeout_s,
            *map(len, names),
        )
        said = (fixed + b"".join(names)).ljust(_SEAL_AT, b"\0")
        return said + self._seal(key, said, datagram)

    def decode(self, data: bytes, datagram: bytes) -> Union[LeaseBlock, NoLease]:
        """Return what a block says that was read beside this datagram. Takes any bytes."""
        clear = read_clear_lease(data)
        if isinstance(clear, NoLease):
            return clear
        if clear.cluster_tag != self._keyring.cluster_tag:
            return NoLease(f"its lease is of the cluster with tag {clear.cluster_tag.hex()}")
        if clear.block.node != self._node:
            # The name is only claimed, and by anybody: shown quoted, never used.
            return NoLease(f"the line is {self._node}'s, its lease says {clear.block.node!a}")
        if clear.link_tag != self._link_tag:
            return NoLease(f"its lease is of another link (tag {clear.link_tag:08x})")
        key = self._keyring.key(clear.key_id)
        if key is None:
            return NoLease(f"its lease is sealed with key {clear.key_id}, which we do not have")
        if not hmac.compare_digest(data[_SEAL_AT:], self._seal(key, data[:_SEAL_AT], datagram)):
            return NoLease("its lease is of another write, or not authentic")
        return clear.block

    def _seal(self, key: ClusterKey, said: bytes, datagram: bytes) -> bytes:
        digest = hashlib.blake2b(datagram, digest_size=_DIGEST_BYTES).digest()
        return hashlib.blake2b(
            said + digest, digest_size=_SEAL_BYTES, key=self._derived(key), person=_PERSON
        ).digest()

    def _derived(self, key: ClusterKey) -> bytes:
        """Return the key of this cluster, node and link that comes of a cluster key."""
        derived = self._keys.get(key.id)
        if derived is None:
            # Each part with its length in front: no two different lists give the same bytes.
            parts = (self._keyring.cluster_id, self._node.encode(), self._link_tag.to_bytes(4, "big"))
            info = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
            derived = hashlib.blake2b(info, digest_size=32, key=key.secret, person=_PERSON).digest()
            self._keys[key.id] = derived
        return derived


def read_clear_lease(data: bytes) -> Union[ClearLease, NoLease]:
    """Return what a block says, without any key: a claim, for people to read."""
    if data == _ZEROS:
        return NoLease("written by a version without lease")
    if len(data) != BLOCK_BYTES or not data.startswith(LEASE_MAGIC):
        return NoLease("foreign content where its lease should be")
    (
        _,
        version,
        key_id,
        cluster_tag,
        link_tag,
        incarnation,
        sequence,
        writes,
        longest_timeout_s,
        node_length,
        claims_length,
    ) = _FIXED.unpack_from(data)
    if version != LEASE_VERSION:
        return NoLease(f"its lease is of format version {version}, {LEASE_VERSION} is known here")
    if not 1 <= node_length <= NODE_NAME_MAX_BYTES or claims_length > NODE_NAME_MAX_BYTES:
        return NoLease("its lease is malformed: a name is too long, or missing")
    if not math.isfinite(longest_timeout_s) or longest_timeout_s < 0:
        return NoLease("its lease is malformed: its timeout is not a number of seconds")
    node_end = _FIXED.size + node_length
    try:
        node = data[_FIXED.size : node_end].decode()
        claims = data[node_end : node_end + claims_length].decode()
    except UnicodeDecodeError:
        return NoLease("its lease is malformed: a name is not UTF-8")
    block = LeaseBlock(node, incarnation, sequence, writes, longest_timeout_s, claims)
    return ClearLease(key_id, cluster_tag, link_tag, block)
