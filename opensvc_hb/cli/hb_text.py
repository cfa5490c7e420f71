"""What hbmgr prints for people: within 80 columns, alarms first. Pure: documents in, text out."""

from __future__ import annotations

import textwrap
from typing import Any, Dict, List, Mapping, Optional, Sequence

from opensvc_hb.core.watching import ALL_IS_WELL
from opensvc_hb.daemon.journal import JournalRecord

WIDTH = 80

_RED, _GREEN, _YELLOW, _BOLD, _PLAIN = "\033[31m", "\033[32m", "\033[33m", "\033[1m", "\033[0m"
_STATE_COLOURS = {
    "STARTED": _GREEN,
    "UP": _GREEN,
    "START_FAILED": _RED,
    "STOP_FAILED": _RED,
    "DOWN": _RED,
    "UNKNOWN": _RED,
    "ONE-WAY": _YELLOW,
    "FROZEN_STOP": _YELLOW,
    "FROZEN_START": _YELLOW,
}


def status_text(document: Mapping[str, Any], colours: bool = False) -> str:
    """Return the status page: alarms, this node, peers, links, services, notes."""
    lines: List[str] = []
    for alarm in document["alarms"]:
        subject = f"{alarm['service']}: " if alarm["service"] else ""
        lines += _wrapped(_paint("ALARM ", _RED, colours), 6, subject + alarm["text"])
    if lines:
        lines.append("")
    lines.append(_node_line(document))
    if document["lease"]:
        lines += _wrapped("lease  ", 7, _lease_words(document["lease"]))
    for name, peer in document["peers"].items():
        lines += _wrapped("", 7, _peer_words(name, peer))
    lines += ["", "links"]
    for link in document["links"]:
        lines.append(_link_line(link, colours))
        if link["role"] == "listener" and link["status"] != "UP" and link["rejected"]:
            lines += _wrapped("        ", 8, f"beats arrive and are rejected: {_rejected(link)}")
    lines += ["", *_services(document, colours)]
    for note in document["notes"]:
        lines += ["", *_wrapped("note  ", 6, note)]
    return "\n".join(lines) + "\n"


def _paint(text: str, colour: str, colours: bool) -> str:
    return f"{colour}{text}{_PLAIN}" if colours and colour else text


def _wrapped(head: str, indent: int, text: str) -> List[str]:
    """Return `head` and `text` wrapped, later lines indented; `head` may hold colour codes."""
    lines = textwrap.wrap(text, WIDTH - indent, break_on_hyphens=False) or [""]
    first = f"{head}{lines[0]}" if head else lines[0]
    return [first, *(" " * indent + line for line in lines[1:])]


def duration_text(seconds: Optional[float]) -> str:
    """Return a duration for people: `0.3 s`, `4 min`, `3 h`, `12 d`; `never` for None."""
    if seconds is None:
        return "never"
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} d"


def _node_line(document: Mapping[str, Any]) -> str:
    here = [
        name
        for name, service in document["services"].items()
        if service["instances"][document["node"]]["state"] in ("STARTED", "FROZEN_START")
    ]
    return (
        f"{document['node']}  {document['phase']} for {duration_text(document['running_for_s'])}, "
        f"{len(here)} of {len(document['services'])} services run here"
    )


def _lease_words(lease: Mapping[str, Any]) -> str:
    if lease["broken"]:
        return "run out: nothing renews it before what ran here has ended"
    if lease["left_s"] is None:
        return "none yet: no other node has answered, and our slot on the disk is not written"
    words = f"{duration_text(lease['left_s'])} of {duration_text(lease['lasts_s'])} left"
    words += f": {lease['renewed_by']}" if lease["renewed_by"] else ""
    return words if lease["needed"] else f"{words}; not needed now"


def _peer_words(name: str, peer: Mapping[str, Any]) -> str:
    words = f"{name}  {peer['liveness']}, last beat {duration_text(peer['last_beat_age_s'])}"
    words += " ago" if peer["last_beat_age_s"] is not None else ""
    if peer["restarting_for_s"]:  # a promise that has run out is none
        words += f", promised to be back within {duration_text(peer['restarting_for_s'])}"
    if peer["waiting_for_s"] is not None:
        words += f", waiting for it for another {duration_text(peer['waiting_for_s'])}"
    if peer["runs_openha"]:
        words += ", runs the C program"
    if peer["confirmed_dead"]:
        words += ", confirmed dead by an operator"
    return words


def _link_line(link: Mapping[str, Any], colours: bool) -> str:
    end = f":{link['port']}" if link["port"] else ""
    where = f"{link['device']}:{link['address']}{end}"
    status = _paint(f"{link['status']:<8}", _STATE_COLOURS.get(link["status"], ""), colours)
    age = duration_text(link["age_s"])
    line = f"{link['type']:<8}{link['role']:<9} {where:<34} {status}{age:>7}"
    if link["not_heard_by"]:
        line += f"  not heard by {', '.join(link['not_heard_by'])}"
    return line.rstrip()


def _rejected(link: Mapping[str, Any]) -> str:
    return ", ".join(f"{count} ({reason})" for reason, count in sorted(link["rejected"].items()))


def _services(document: Mapping[str, Any], colours: bool) -> List[str]:
    nodes = list(dict.fromkeys(n for s in document["services"].values() for n in s["nodes"]))
    if not nodes:
        return ["services  none with [hb#N] type = OpenHA names this node"]
    width = max([len(name) for name in document["services"]] + [8])
    columns = {node: max(len(node), 12) for node in nodes}
    head = "  ".join(f"{node:<{columns[node]}}" for node in nodes)
    lines = [f"{'services':<{width}}  {head}".rstrip()]
    for name, service in document["services"].items():
        cells = []
        for node in nodes:
            shown = service["instances"].get(node, {}).get("state", "")
            padding = "" if node == nodes[-1] else " " * (columns[node] - len(shown))
            cells.append(_paint(shown, _STATE_COLOURS.get(shown, ""), colours) + padding)
        lines.append(f"{name:<{width}}  {'  '.join(cells)}".rstrip())
        lines += _below(document["node"], service)
    return lines


def _below(node: str, service: Mapping[str, Any]) -> List[str]:
    """Return the lines under a service: the rule that holds it, its freeze, its action."""
    own = service["instances"][node]
    rule = service["rule"]
    texts = [f"{rule['id']} {rule['sentence']}".strip()]
    frozen = own.get("frozen")
    if frozen:
        who = f" by {frozen['who']}" if frozen["who"] else ""
        when = f" at {frozen['when']}" if frozen["when"] else ""
        why = f": {frozen['why']}" if frozen["why"] else ""
        texts.append(f"frozen{who}{when}{why}")
    texts += [
        f"{resource['rid']} {resource['answer']}: {resource['rule']['id']} {resource['rule']['sentence']}"
        for resource in service.get("monitored", ())
        if resource["rule"]["id"] != ALL_IS_WELL
    ]
    action = own.get("action")
    if action:
        texts.append(f"{action['verb']} action running for {duration_text(action['running_for_s'])}")
    if not own.get("confirmed", True):
        texts.append("unconfirmed: this node was paused and no peer has answered since")
    lines: List[str] = []
    for text in texts:
        lines += _wrapped("    ", 4, text)
    return lines


def links_text(links: Sequence[Mapping[str, Any]], colours: bool = False) -> str:
    """Return the links, one line per line of the monitor file, with their counters below."""
    lines: List[str] = []
    for link in links:
        lines.append(_link_line(link, colours))
        parts = [f"sent {link['sent']}" if link["role"] == "sender" else f"received {link['received']}"]
        if link["rejected"]:
            parts.append(f"rejected {_rejected(link)}")
        if link["errors"]:
            parts.append(f"errors {link['errors']}, last: {link['last_error']}")
        if link["note"]:
            parts.append(str(link["note"]))
        lines += _wrapped("    ", 4, ", ".join(parts))
    return "\n".join(lines) + "\n" if lines else ""


def events_text(entries: Sequence[JournalRecord]) -> str:
    """Return journal entries, oldest first: what, by which rule, why, and what it looked at."""
    lines: List[str] = []
    for entry in entries:
        rule = f" [{entry.rule}]" if entry.rule else ""
        subject = f"{entry.service}: " if entry.service else ""
        lines += _wrapped("", 4, f"{entry.wall} {entry.node} {subject}{entry.text}{rule}")
        if entry.reason:
            lines += _wrapped("    ", 4, entry.reason)
        inputs: Dict[str, str] = dict(entry.inputs)
        if inputs:
            lines += _wrapped("    ", 4, "; ".join(f"{name} {value}" for name, value in inputs.items()))
    return "\n".join(lines) + "\n" if lines else ""
