"""What does a captured beat or disk slot say, in either format? For people, and as JSON.

Needs no configuration and no daemon. The C program's structure is shown as it stands; nothing in
it is authentic. Of a native beat, what stands in clear is shown as a claim; with the cluster's key
at hand the content is opened and shown too. A datagram, or a slot, with both formats is shown as
the structure, with the native beat under `native`. Of a piece of a disk with several slots, the
first is shown, and the others under `slots`.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from opensvc_hb.errors import HbError
from opensvc_hb.links import keyring as keys
from opensvc_hb.links import openha_structure
from opensvc_hb.links.codec_native import MAGIC, ClearHeader, Rejected, open_captured, read_clear_header
from opensvc_hb.links.keyring import Keyring
from opensvc_hb.links.lease_block import LeaseSeal, NoLease, read_clear_lease
from opensvc_hb.links.openha_structure import STRUCTURE_BYTES, Structure
from opensvc_hb.links.slot import BLOCK_BYTES, SLOT_BYTES, SLOT_MAGIC, SlotBeat, decode_slot

READ_MAX_BYTES = 1 << 24
"""So much of a file, or of a whole disk, is looked at."""

_PACKET_CAPTURES = (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x4d\x3c\xb2\xa1", b"\x0a\x0d\x0d\x0a")
"""How files of tcpdump and wireshark begin."""


class CannotDecode(HbError):
    """The file is not a beat or slot that we know, or cannot be read."""


def decode_file(path: Path, key_path: Path) -> Dict[str, Any]:
    """Return what a file with captured bytes says: a datagram, a slot, or a piece of a disk.

    Args:
        path: the file.
        key_path: the cluster's key file, which need not be there.

    Raises:
        CannotDecode: it is none of them, with the reason.
    """
    try:
        with path.open("rb") as file:
            data = file.read(READ_MAX_BYTES)
    except OSError as error:
        raise CannotDecode(f"{path}: cannot be read: {error.strerror}") from error
    if data.startswith(_PACKET_CAPTURES):
        raise CannotDecode(
            f"{path}: a capture of packets: decode takes what one datagram carried; have wireshark put its "
            'fragments together and export the UDP payload ("Export Packet Bytes")'
        )
    keyring = keys.read(key_path) if key_path.exists() else None
    found = _decode(data, key_path, keyring)
    if isinstance(found, Rejected):
        slots = _slots(data, key_path, keyring)
        if not slots:
            raise CannotDecode(
                f"{path}: {len(data)} bytes, not a native beat or slot, nor OpenHA's structure: {found.text}"
            )
        found = slots[0]
        if len(slots) > 1:
            found = {**found, "slots": slots[1:]}
    return {"file": str(path), **found}


def _decode(data: bytes, key_path: Path, keyring: Optional[Keyring]) -> Union[Dict[str, Any], Rejected]:
    """Return what bytes say that begin with a beat or slot and end with it; else the likeliest reason."""
    if data.startswith((MAGIC, SLOT_MAGIC)):
        return _decode_native(data, key_path, keyring)
    structure_bytes, native = openha_structure.split(data)
    is_slot = len(data) in (openha_structure.SLOT_BYTES, openha_structure.SLOT_BYTES + SLOT_BYTES)
    if is_slot:
        structure_bytes, native = data[:STRUCTURE_BYTES], data[openha_structure.SLOT_BYTES :] or None
    structure = openha_structure.decode(structure_bytes)
    if isinstance(structure, Rejected):
        return structure
    document = _structure_document(structure, is_slot, len(data))
    if native is not None:
        behind = _decode_native(native, key_path, keyring)
        document["native"] = {"problem": behind.text} if isinstance(behind, Rejected) else behind
    return document


def _structure_document(structure: Structure, is_slot: bool, length: int) -> Dict[str, Any]:
    port = structure.port
    return {
        "kind": "slot" if is_slot else "beat",
        "codec": "openha",
        "bytes": length,
        "node": structure.node,
        "services": {name: state.name for name, state in structure.services},
        "hostid": structure.hostid,
        "elapsed": structure.elapsed,
        "pid": structure.pid,
        "address": structure.address,
        "port": int(port) if port.isdigit() else port or None,
        "up": structure.up,
    }


def _slots(data: bytes, key_path: Path, keyring: Optional[Keyring]) -> List[Dict[str, Any]]:
    """Return every slot in a piece of a disk, each with the block at which it begins."""
    slots: List[Dict[str, Any]] = []
    at = 0
    while at + SLOT_BYTES <= len(data):
        found: Union[Dict[str, Any], Rejected, None] = None
        length = BLOCK_BYTES
        if data.startswith(SLOT_MAGIC, at):
            length = SLOT_BYTES
            found = _decode_native(data[at : at + length], key_path, keyring)
        elif data[at] and at + openha_structure.SLOT_BYTES <= len(data):
            found = _decode(data[at : at + openha_structure.SLOT_BYTES], key_path, keyring)
            # Any text may pass for a node's name: a sender has a clock and a process, too.
            if isinstance(found, dict) and found["elapsed"] and found["pid"] > 0:
                length = openha_structure.SLOT_BYTES
            else:
                found = None
        if isinstance(found, dict):
            slots.append({"block": at // BLOCK_BYTES, **found})
        at += length
    return slots


def _decode_native(
    data: bytes, key_path: Path, keyring: Optional[Keyring]
) -> Union[Dict[str, Any], Rejected]:
    """Return what a native beat or slot says."""
    slot = decode_slot(data[:SLOT_BYTES], None)
    if isinstance(slot, SlotBeat):
        data = slot.datagram
    header = read_clear_header(data)
    if isinstance(header, Rejected):
        return header
    document: Dict[str, Any] = {
        "kind": "slot" if isinstance(slot, SlotBeat) else "beat",
        "codec": "native",
        "bytes": len(data),
        "node": header.sender,
        "key_id": header.key_id,
        "cluster": header.cluster_tag.hex(),
        "link_tag": f"{header.link_tag:08x}",
        "session": header.session.hex(),
        "counter": header.counter,
        "opened": False,
    }
    if isinstance(slot, SlotBeat):
        document["lease"] = _lease(slot, header, keyring)
    if keyring is None:
        document["sealed"] = f"no key at {key_path}: only what stands in clear is shown"
        return document
    beat = open_captured(data, keyring)
    if isinstance(beat, Rejected):
        document["sealed"] = beat.text
        return document
    document.update(
        {
            "opened": True,
            "incarnation": beat.incarnation,
            "sequence": beat.sequence,
            "table_digest": beat.table_digest.hex(),
            "config_digest": beat.config_digest.hex(),
            "longest_timeout_s": beat.longest_timeout_s,
            "restarting_for_s": beat.restarting_for_s,
            "left": beat.left,
            "services": None if beat.table is None else {e.service: e.state.openha.name for e in beat.table},
            "hearings": [
                {"node": h.node, "incarnation": h.incarnation, "sequence": h.sequence, "links": len(h.links)}
                for h in beat.hearings
            ],
        }
    )
    return document


def _lease(slot: SlotBeat, header: ClearHeader, keyring: Optional[Keyring]) -> Dict[str, Any]:
    """Return what the slot's lease block says; `problem` is why it says nothing, or is not to be believed."""
    clear = read_clear_lease(slot.lease)
    if isinstance(clear, NoLease):
        return {"problem": clear.reason}
    block = clear.block
    document = {
        "node": block.node,
        "incarnation": block.incarnation,
        "sequence": block.sequence,
        "writes": block.writes,
        "longest_timeout_s": block.longest_timeout_s,
        "claims": block.claims,
        "problem": "",
    }
    if keyring is None:
        document["problem"] = "not checked, for want of the key"
    else:
        checked = LeaseSeal(keyring, header.sender, header.link_tag).decode(slot.lease, slot.datagram)
        if isinstance(checked, NoLease):
            document["problem"] = checked.reason
    return document


def _lease_line(lease: Dict[str, Any]) -> str:
    if "node" not in lease:
        return f"lease none: {lease['problem']}"
    line = f"lease of {lease['node']!a}, "
    line += f"claims that of {lease['claims']!a}, " if lease["claims"] else "claims nothing, "
    line += f"longest timeout {lease['longest_timeout_s']:g} s, incarnation {lease['incarnation']}, "
    line += f"sequence {lease['sequence']}, write {lease['writes']}"
    return line + (f" ({lease['problem']})" if lease["problem"] else "")


def decoded_text(document: Dict[str, Any]) -> str:
    """Return the document as lines of `name value`; what is within another stands behind it, indented."""
    return "\n".join(_lines(document)) + "\n"


def _lines(document: Dict[str, Any]) -> List[str]:
    lines = []
    for name, value in document.items():
        if name == "services" and isinstance(value, dict):
            lines += [f"service {service:<32} {state}" for service, state in value.items()]
        elif name == "hearings":
            lines += [
                f"hears {h['node']} on {h['links']} links, incarnation {h['incarnation']}, "
                f"sequence {h['sequence']}"
                for h in value
            ]
        elif name == "lease":
            lines.append(_lease_line(value))
        elif name == "hostid":
            lines.append(f"hostid 0x{value:08x}")
        elif name == "elapsed":
            when = datetime.datetime.fromtimestamp(value, datetime.timezone.utc)
            lines.append(f"elapsed {value} ({when:%Y-%m-%d %H:%M:%S} UTC)")
        elif name == "native":
            lines += ["native", *(f"  {line}" for line in _lines(value))]
        elif name == "slots":
            for slot in value:
                lines += ["slot", *(f"  {line}" for line in _lines(slot))]
        elif value not in (None, ""):
            lines.append(f"{name} {value}")
    return lines
