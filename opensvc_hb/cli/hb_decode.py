"""What does a captured beat or disk slot say? For people, and as JSON.

Needs no configuration and no daemon. What stands in clear is shown as a claim; with the
cluster's key at hand the content is opened and shown too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

from opensvc_hb.errors import HbError
from opensvc_hb.links import keyring as keys
from opensvc_hb.links.codec_native import Rejected, open_captured, read_clear_header
from opensvc_hb.links.slot import SLOT_BYTES, SlotBeat, decode_slot


class CannotDecode(HbError):
    """The file is not a beat or slot that we know, or cannot be read."""


def decode_file(path: Path, key_path: Path) -> Dict[str, Any]:
    """Return what a file with one captured beat or slot says.

    Raises:
        CannotDecode: it is neither, with the reason.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CannotDecode(f"{path}: cannot be read: {error.strerror}") from error
    kind = "beat"
    if len(data) >= SLOT_BYTES and isinstance(slot := decode_slot(data[:SLOT_BYTES], None), SlotBeat):
        kind, data = "slot", slot.datagram
    header = read_clear_header(data)
    if isinstance(header, Rejected):
        raise CannotDecode(f"{path}: {len(data)} bytes, not a native beat or slot: {header.text}")
    document: Dict[str, Any] = {
        "file": str(path),
        "kind": kind,
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
    if not key_path.exists():
        document["sealed"] = f"no key at {key_path}: only what stands in clear is shown"
        return document
    beat = open_captured(data, keys.read(key_path))
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
        elif value is not None:
            lines.append(f"{name} {value}")
    return "\n".join(lines) + "\n"
