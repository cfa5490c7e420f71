"""The disk slot: how a sealed beat lies in its 10 blocks of 512 bytes.

Answers: what is in these 5,120 bytes? Nothing (never written), something foreign, a slot of
another cluster, a torn write, or a datagram that `codec_native` may open. Knows nothing of
keys: the checksums here tell accidents apart, authenticity is the datagram's own affair.

Layout, version 1, numbers big-endian:

    block 0     header: magic (8 bytes), version (1), 3 reserved, cluster tag (8),
                length of the datagram (4), its digest (16), digest of this block (16);
                the rest of the block is reserved: written as zeros, covered by the
                block's digest, not interpreted
    block 1     the lease block, see `lease_block`: sealed by itself, together with the
                datagram, and not covered by any digest of block 0; a slot is a beat
                whatever stands there (earlier versions of ours left zeros)
    blocks 2-9  the datagram, then zeros

Pure; called by the disk carriers and by whoever decodes a captured slot.
Source: the tutorial's monitor file puts slots 10 blocks apart, which OpenHA's 9,384-byte
structure overflows.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from dataclasses import dataclass
from typing import Optional, Union

BLOCK_BYTES = 512
SLOT_BLOCKS = 10
SLOT_BYTES = BLOCK_BYTES * SLOT_BLOCKS
LEASE_BLOCK = 1
DATA_BLOCK = 2
DATA_BYTES = BLOCK_BYTES * (SLOT_BLOCKS - DATA_BLOCK)
"""The longest datagram that a slot takes."""

SLOT_MAGIC = b"OSHBSLOT"
SLOT_VERSION = 1

_HEADER = struct.Struct("!8sB3x8sI16s16s")
_DIGEST_BYTES = 16
_DIGEST_AT = _HEADER.size - _DIGEST_BYTES
_ZEROS = bytes(SLOT_BYTES)


class SlotProblem(enum.Enum):
    """Why a slot holds no beat; the value is the note shown for the link."""

    NEVER_WRITTEN = "never written"
    FOREIGN = "foreign content"
    VERSION = "written by another version"
    OTHER_CLUSTER = "of another cluster"
    TORN = "torn"
    """Header and data are not of one write: a write is under way, or was cut."""


@dataclass(frozen=True)
class SlotBeat:
    """A whole slot.

    Args:
        datagram: to be opened like one that came from a network.
        lease: the lease block, any `BLOCK_BYTES` bytes.
    """

    datagram: bytes
    cluster_tag: bytes
    lease: bytes


def encode_slot(datagram: bytes, cluster_tag: bytes, lease: bytes) -> bytes:
    """Return the `SLOT_BYTES` bytes to write.

    Args:
        datagram: at most `DATA_BYTES` bytes.
        cluster_tag: 8 bytes, `Keyring.cluster_tag`.
        lease: the lease block, `BLOCK_BYTES` bytes.
    """
    assert len(datagram) <= DATA_BYTES, "a datagram is sealed for the slot's size"
    assert len(cluster_tag) == 8, "a cluster tag has 8 bytes"
    assert len(lease) == BLOCK_BYTES * (DATA_BLOCK - LEASE_BLOCK), "a lease block fills its place"
    header = bytearray(BLOCK_BYTES)
    digests = (_digest(datagram), bytes(_DIGEST_BYTES))
    _HEADER.pack_into(header, 0, SLOT_MAGIC, SLOT_VERSION, cluster_tag, len(datagram), *digests)
    header[_DIGEST_AT : _HEADER.size] = _digest(bytes(header))
    return bytes(header) + lease + datagram.ljust(DATA_BYTES, b"\0")


def decode_slot(data: bytes, cluster_tag: Optional[bytes]) -> Union[SlotBeat, SlotProblem]:
    """Return the slot's datagram, or why there is none. Takes any bytes.

    Args:
        data: what was read, `SLOT_BYTES` bytes unless the device ends before.
        cluster_tag: the tag of our cluster; None accepts every cluster's slot.
    """
    if data == _ZEROS:
        return SlotProblem.NEVER_WRITTEN
    if len(data) != SLOT_BYTES or not data.startswith(SLOT_MAGIC):
        return SlotProblem.FOREIGN
    _, version, tag, length, data_digest, header_digest = _HEADER.unpack_from(data)
    block = data[:BLOCK_BYTES]
    if _digest(block[:_DIGEST_AT] + bytes(_DIGEST_BYTES) + block[_HEADER.size :]) != header_digest:
        # Another version may place its digest elsewhere: its number is all we may trust.
        return SlotProblem.TORN if version == SLOT_VERSION else SlotProblem.VERSION
    if version != SLOT_VERSION:
        return SlotProblem.VERSION
    if cluster_tag is not None and tag != cluster_tag:
        return SlotProblem.OTHER_CLUSTER
    start = DATA_BLOCK * BLOCK_BYTES
    datagram = data[start : start + length]
    if length > DATA_BYTES or _digest(datagram) != data_digest:
        return SlotProblem.TORN
    return SlotBeat(datagram, tag, data[LEASE_BLOCK * BLOCK_BYTES : start])


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()
