"""What does a captured beat or disk slot say? For people, and as JSON.

Needs no configuration and no daemon. What stands in clear is shown as a claim; with the
cluster's key at hand the content is opened and shown too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional

from opensvc_hb.errors import HbError
from opensvc_hb.links import keyring as keys
from opensvc_hb.links.codec_native import ClearHeader, Rejected, open_captured, read_clear_header
from opensvc_hb.links.keyring import Keyring
from opensvc_hb.links.lease_block import LeaseSeal, NoLease, read_clear_lease
from opensvc_hb.links.slot import SLOT_BYTES, SlotBeat, decode_slot


class CannotDecode(HbError):
    """The file is not a beat or slot that we know, or cannot be read."""


def decode_file(path: Path, key_path: Path) -> Dict[str, Any]:
    """Return what a file with one captured beat or slot says.

    Args:
        path: the file.
        key_path: the cluster's key file, which need not be there.

    Raises:
        CannotDecode: it is neither, with the reason.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CannotDecode(f"{path}: cannot be read: {error.strerror}") from error
    slot = decode_slot(data[:SLOT_BYTES], None)
    if isinstance(slot, SlotBeat):
        data = slot.datagram
    header = read_clear_header(data)
    if isinstance(header, Rejected):
        raise CannotDecode(f"{path}: {len(data)} bytes, not a native beat or slot: {header.text}")
    document: Dict[str, Any] = {
        "file": str(path),
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
    keyring = keys.read(key_path) if key_path.exists() else None
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
    """Return the document as lines of `name value`."""
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
        elif value is not None:
            lines.append(f"{name} {value}")
    return "\n".join(lines) + "\n"
