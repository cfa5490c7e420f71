"""What do the bytes of a store say? Encodes and decodes its two copies.

A copy is a header (magic, format, size of a copy, generation, size of the payload), a
checksum over header and payload, and the payload: the `Stored` record as JSON. A store is
two copies one behind the other; the newest valid one counts. Decoders take any bytes and
give a value or a reason. No file is touched here; `daemon/store.py` does that.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Tuple, Union

from opensvc_hb.core.events import Stored, StoredInstance, StoredPeer
from opensvc_hb.core.states import State

MAGIC = b"OSVCHBst"
FORMAT = 1
HEADER = struct.Struct(">8sIIQI")
"""Magic, format, bytes per copy, generation, bytes of payload; then the checksum, then the payload."""
CHECKSUM_BYTES = 16
BLOCK_BYTES = 4096
BYTES_PER_SERVICE = 768
"""An instance with a name of 63 bytes takes under 300, its mention by a peer 70; the rest is for reasons."""
BYTES_FOR_PEERS = 4096
SERVICES_MIN = 64
PEOPLE_TEXT_LENGTHS = (None, 80, 0)
"""Who froze an instance, and why, are for people: shortened, then left out, before a state is refused."""


@dataclass(frozen=True)
class Copy:
    """One valid copy, as read."""

    generation: int
    copy_bytes: int
    stored: Stored


@dataclass(frozen=True)
class Unreadable:
    """A copy that does not count, and why."""

    reason: str
    never_written: bool = False


def copy_bytes_for(services: int) -> int:
    """Return the size of one copy, a whole number of blocks, for so many services and as many again."""
    wanted = BYTES_FOR_PEERS + BYTES_PER_SERVICE * max(SERVICES_MIN, 2 * services)
    return -(-wanted // BLOCK_BYTES) * BLOCK_BYTES


def _instance_as_json(instance: StoredInstance, text_length: Optional[int]) -> Dict[str, Any]:
    fields: Dict[str, Any] = {
        "state": instance.state.name,
        "sequence": instance.state_sequence,
        "epoch": instance.epoch,
        "highest_epoch": instance.highest_epoch,
    }
    for name in ("frozen_by", "frozen_reason", "frozen_wall"):
        text = getattr(instance, name)[:text_length]
        if text:
            fields[name] = text
    if instance.excused:
        fields["excused"] = True
    return fields


class RecordTexts:
    """Services' records as JSON, kept from one write to the next: of a thousand, few change between.

    Never used by two threads.
    """

    def __init__(self) -> None:
        self._known: Dict[str, Tuple[StoredInstance, str]] = {}

    def of(self, instances: Mapping[str, StoredInstance]) -> str:
        """Return the records as one JSON object, their texts whole."""
        known = self._known
        self._known = {
            name: last
            if (last := known.get(name)) is not None and last[0] is instance
            else (instance, _member(name, instance, None))
            for name, instance in instances.items()
        }
        return "{" + ",".join([text for _instance, text in self._known.values()]) + "}"


def _member(name: str, instance: StoredInstance, text_length: Optional[int]) -> str:
    return f"{_json(name)}:{_json(_instance_as_json(instance, text_length))}"


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _payload(stored: Stored, text_length: Optional[int], texts: RecordTexts) -> bytes:
    if text_length is None:
        instances = texts.of(stored.instances)
    else:
        members = [_member(name, instance, text_length) for name, instance in stored.instances.items()]
        instances = "{" + ",".join(members) + "}"
    peers = _json(
        {
            name: {
                "incarnation": peer.incarnation,
                "restarting_for_s": peer.restarting_for_s,
                "maintenance": list(peer.maintenance),
                "confirmed_dead": peer.confirmed_dead,
                "longest_timeout_s": peer.longest_timeout_s,
            }
            for name, peer in stored.peers.items()
        }
    )
    content = f'{{"incarnation":{stored.incarnation},"instances":{instances},"peers":{peers}}}'
    # An operator's text may hold bytes that were no UTF-8 on the command line: keep them.
    return content.encode("utf-8", "surrogatepass")


def _stored_from(payload: bytes) -> Stored:
    """Return what a payload says; raises KeyError, TypeError, ValueError or AttributeError."""
    content = json.loads(payload.decode("utf-8", "surrogatepass"))
    return Stored(
        incarnation=content["incarnation"],
        instances={
            name: StoredInstance(
                state=State[fields["state"]],
                state_sequence=fields["sequence"],
                epoch=fields["epoch"],
                highest_epoch=fields["highest_epoch"],
                frozen_by=fields.get("frozen_by", ""),
                frozen_reason=fields.get("frozen_reason", ""),
                frozen_wall=fields.get("frozen_wall", ""),
                excused=bool(fields.get("excused", False)),
            )
            for name, fields in content["instances"].items()
        },
        peers={
            name: StoredPeer(
                incarnation=fields["incarnation"],
                restarting_for_s=fields["restarting_for_s"],
                maintenance=tuple(fields["maintenance"]),
                confirmed_dead=bool(fields.get("confirmed_dead", False)),
                longest_timeout_s=float(fields.get("longest_timeout_s", 0.0)),
            )
            for name, fields in content["peers"].items()
        },
    )


def encode_copy(
    stored: Stored, generation: int, copy_bytes: int, texts: Optional[RecordTexts] = None
) -> Optional[bytes]:
    """Return the bytes of one copy, at most `copy_bytes`; None when the states alone do not fit.

    `texts` is what is kept between the writes to one store.
    """
    texts = RecordTexts() if texts is None else texts
    for text_length in PEOPLE_TEXT_LENGTHS:
        payload = _payload(stored, text_length, texts)
        header = HEADER.pack(MAGIC, FORMAT, copy_bytes, generation, len(payload))
        checksum = hashlib.blake2b(header + payload, digest_size=CHECKSUM_BYTES).digest()
        encoded = header + checksum + payload
        if len(encoded) <= copy_bytes:
            return encoded
    return None


def decode_copy(data: bytes) -> Union[Copy, Unreadable]:
    """Return the copy at the start of `data`, or why there is none. Any bytes will do."""
    head = data[: HEADER.size + CHECKSUM_BYTES]
    if len(head) < HEADER.size + CHECKSUM_BYTES:
        return Unreadable("cut short")
    if not any(head):
        return Unreadable("never written", never_written=True)
    magic, version, copy_bytes, generation, payload_bytes = HEADER.unpack_from(head)
    if magic != MAGIC:
        return Unreadable("not a store of opensvc_hb")
    if version != FORMAT:
        return Unreadable(f"format {version}, of another version of opensvc_hb")
    payload = data[len(head) : len(head) + payload_bytes]
    wanted = hashlib.blake2b(head[: HEADER.size] + payload, digest_size=CHECKSUM_BYTES).digest()
    if len(payload) != payload_bytes or wanted != head[HEADER.size :]:
        return Unreadable("checksum does not match")
    try:
        return Copy(generation, copy_bytes, _stored_from(payload))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return Unreadable(f"checksum matches, content does not: {error!r}")


@dataclass(frozen=True)
class Content:
    """What a file holds: the newest copy and which of the two it is, or the damage.

    `whole` tells whether the file has the size that its copies say.
    """

    copy_bytes: int
    newest: int
    copy: Optional[Copy]
    whole: bool
    fresh: bool = False
    damaged: Optional[str] = None


def content_of(data: bytes) -> Content:
    """Find the newest valid copy in the bytes of a whole store."""
    first = decode_copy(data)
    copy_bytes = first.copy_bytes if isinstance(first, Copy) else len(data) // 2
    second = decode_copy(data[copy_bytes:])
    newest, found = 0, first
    if isinstance(second, Copy) and not (isinstance(first, Copy) and first.generation > second.generation):
        newest, found = 1, second
    if isinstance(found, Copy):
        if len(data) == 2 * found.copy_bytes:
            return Content(found.copy_bytes, newest, found, whole=True)
        damaged = f"{len(data)} bytes instead of {2 * found.copy_bytes}: its record may not be the last"
        return Content(found.copy_bytes, newest, found, whole=False, damaged=damaged)
    assert isinstance(first, Unreadable), "a first copy that counts is found above"
    assert isinstance(second, Unreadable), "a second copy that counts is found above"
    whole = copy_bytes >= copy_bytes_for(0) and len(data) % (2 * BLOCK_BYTES) == 0
    if whole and first.never_written and second.never_written:
        return Content(copy_bytes, 1, None, whole, fresh=True)
    damaged = f"no copy can be read (first: {first.reason}; second: {second.reason})"
    return Content(copy_bytes, 1, None, whole, damaged=damaged)
