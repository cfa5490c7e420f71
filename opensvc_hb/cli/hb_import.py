"""hbmgr import: an OpenHA installation becomes ours, on this node, and what runs goes on running.

Everything is checked and shown first. Then what was there is copied to a backup, each file is
replaced as a whole, and each service that scripts alone drive is marked as started here or not,
as its state file says; nothing is started, stopped or announced. The daemon, which has never
seen these services, begins with all of them frozen: what is marked, or found up by the agent, is
FROZEN_START and permits the other node nothing; all else is FROZEN_STOP. What was not frozen in
OpenHA is unfrozen by `import --unfreeze`, once the daemon runs and hears the other node.

Refused: while OpenHA's daemons run here (the states could change behind us), and while ours does.

Runs in: the process of a command.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from opensvc_hb.agent import started_mark
from opensvc_hb.cli.import_plan import Plan, PlannedService, make_plan
from opensvc_hb.cli.import_source import find_source, running_programs
from opensvc_hb.client import is_locked
from opensvc_hb.errors import ConfigurationError, ExitCode, HbError
from opensvc_hb.files import replace_file
from opensvc_hb.paths import Root

RECORD_NAME = "hb.imported"
"""Below `var/lib/opensvc`: which states were imported, for `--unfreeze`."""
RECORD_VERSION = 1

Ask = Callable[[Mapping[str, object]], Mapping[str, Any]]
"""Asks the daemon; may raise an HbError."""


class ImportRefused(HbError):
    """It is not the moment to import; nothing was written."""

    exit_code = ExitCode.REFUSED


class NothingImported(HbError):
    """There is no record of an import."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: nothing was imported on this node: hbmgr import DIR first")


@dataclass(frozen=True)
class Unfrozen:
    """What `--unfreeze` did.

    Args:
        done: hb names; left: one line for each service that stays as it is, and why.
    """

    done: Tuple[str, ...]
    left: Tuple[str, ...]


def run_import(directory: Path, root: Root, node: str, dry_run: bool, is_json: bool) -> ExitCode:
    """Import an installation, or show what that would do; prints, and returns the exit code.

    Raises:
        NotOpenHA, ImportRefused, ConfigurationError, WriteError.
    """
    try:
        source = find_source(directory, root, os.environ)
        if not dry_run:
            refuse_while_running(root, running_programs())
        plan = make_plan(source, root, node)
    except OSError as error:
        place = str(error.filename or directory)
        raise ConfigurationError(place, 0, "", f"cannot be read: {error.strerror}: try as root") from error
    writes = not dry_run and not plan.errors
    backup = write_plan(plan, root, time.time()) if writes else None
    if is_json:
        print(json.dumps(plan_document(plan, root, backup, writes), indent=4, sort_keys=True))
    else:
        print(plan_text(plan, root, backup, writes), end="", flush=True)
        for wrong in plan.errors:
            print(wrong, file=sys.stderr)
        if plan.errors:
            print("nothing was written: mend these, then import again", file=sys.stderr)
    return ExitCode.CONFIGURATION if plan.errors else ExitCode.DONE


def unfreeze(root: Root, ask: Ask, is_json: bool) -> ExitCode:
    """Unfreeze what was imported and not frozen there; prints, and returns the exit code."""
    unfrozen = unfreeze_imported(root, ask)
    if is_json:
        document = {"ok": True, "unfrozen": list(unfrozen.done), "left": list(unfrozen.left)}
        print(json.dumps(document, indent=4, sort_keys=True))
    else:
        print(unfrozen_text(unfrozen), end="")
    return ExitCode.DONE


def refuse_while_running(root: Root, programs: Sequence[Tuple[int, str]]) -> None:
    """Raise ImportRefused while OpenHA's daemons, or ours, run on this node.

    Args:
        root: the tree of this node.
        programs: pid and name of OpenHA's daemons that run.
    """
    if programs:
        pid, name = programs[0]
        more = f" and {len(programs) - 1} more" if len(programs) > 1 else ""
        raise ImportRefused(
            f"OpenHA runs here ({name}, process {pid}{more}): end its daemons, not its services, with "
            "'openha kill' or 'ezha kill', then import at once. Freeze on the other node first what it "
            "must not take over meanwhile (service -A SVC freeze-stop)"
        )
    if is_locked(str(root.lock)):
        raise ImportRefused(
            "our daemon runs here: systemctl stop opensvc-hb first; the services go on running"
        )


def write_plan(plan: Plan, root: Root, wall_clock_s: float) -> Optional[Path]:
    """Write what a plan without errors says; return the backup, None when nothing was there.

    Args:
        plan: what to write.
        root: the tree of this node.
        wall_clock_s: seconds since the epoch, for the name of the backup.

    Raises:
        ConfigurationError, WriteError: a file could not be written; those before it were.
    """
    assert not plan.errors, "a plan with errors is shown, not written"
    with _told(root.hb):
        root.hb.mkdir(parents=True, exist_ok=True)
        root.var.mkdir(parents=True, exist_ok=True)
    backup = _back_up(plan, root, wall_clock_s)
    # The marks come first: a daemon that starts in between must not take what runs for stopped.
    for service in plan.services:
        if service.is_ours:
            _mark(root, service)
    states = {s.line.name: s.state.name for s in plan.services if s.state is not None}
    record = {"version": RECORD_VERSION, "states": states}
    replace_file(root.var / RECORD_NAME, json.dumps(record, indent=4, sort_keys=True).encode() + b"\n", 0o644)
    for file in plan.files:
        if file.change != "unchanged":
            replace_file(Path(os.path.realpath(file.path)), file.content, 0o644)
    return backup


def _mark(root: Root, service: PlannedService) -> None:
    """Let the mark say what OpenHA's state says.

    Of the agent's services only what runs is marked: their resources tell the rest.
    """
    path = started_mark.mark_file(root, service.svcname)
    if service.runs:
        started_mark.set_mark(root, service.svcname)
        if not started_mark.is_marked(root, service.svcname):
            what = f"cannot be written: {service.line.name}, which runs here, would be taken for stopped"
            raise ConfigurationError(str(path), 0, "", what)
    elif service.agent is None:
        with _told(path):
            started_mark.remove_mark(root, service.svcname)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(str(path), 0, "", f"cannot be made or changed: {error.strerror}") from error


def _back_up(plan: Plan, root: Root, wall_clock_s: float) -> Optional[Path]:
    """Copy what will be replaced into a new directory beside it."""
    replaced = [file for file in plan.files if file.change == "replaced" and file.before is not None]
    if not replaced:
        return None
    name = f"before-import-{time.strftime('%Y%m%d-%H%M%S', time.localtime(wall_clock_s))}"
    with _told(root.hb / name):
        folder = root.hb / name
        number = 1
        while folder.exists():
            number += 1
            folder = root.hb / f"{name}-{number}"
        folder.mkdir(mode=0o755)
    for file in replaced:
        replace_file(folder / file.path.name, file.before or b"", 0o644)
    return folder


def unfreeze_imported(root: Root, ask: Ask) -> Unfrozen:
    """Unfreeze, by the daemon, what was not frozen in OpenHA and is as it was there.

    Raises:
        NothingImported: there is no record.
        ImportRefused: a peer is not heard: what is STOPPED here would be taken over at once.
    """
    states = _recorded(root)
    status = ask({"request": "status"})
    silent = [
        n for n, peer in status["status"]["peers"].items() if peer["liveness"] not in ("alive", "one-way")
    ]
    if silent:
        raise ImportRefused(
            f"{', '.join(silent)} is not heard: nothing was unfrozen, since this node would start what runs "
            "there; see hbmgr links, then again, or unfreeze by hand: hbmgr unfreeze SVC"
        )
    instances = ask({"request": "instances"})["instances"]
    wanted: List[str] = []
    left: List[str] = []
    for name, state in states.items():
        now = instances.get(name, {}).get("state")
        frozen = {"STARTED": "FROZEN_START", "STOPPED": "FROZEN_STOP"}.get(state)
        if frozen is None:
            left.append(f"{name}: was {state} in OpenHA: look, then hbmgr unfreeze {name}")
        elif now == frozen:
            wanted.append(name)
        elif now is None:
            left.append(f"{name}: the daemon does not care for it: see hbmgr status")
        elif now != state:
            left.append(f"{name}: was {state} in OpenHA, and is {now} now: look, then hbmgr unfreeze {name}")
    if wanted:
        reason = "imported from OpenHA, where it was not frozen"
        order = {
            "request": "command",
            "verb": "unfreeze",
            "services": wanted,
            "force": False,
            "reason": reason,
        }
        answer = ask(order)
        if not answer.get("ok"):
            raise ImportRefused(str(answer.get("error") or answer.get("text") or "the daemon refused"))
    return Unfrozen(tuple(wanted), tuple(left))


def _recorded(root: Root) -> Mapping[str, str]:
    path = root.var / RECORD_NAME
    try:
        record = json.loads(path.read_bytes())
        states: Dict[str, str] = dict(record["states"])
    except FileNotFoundError:
        raise NothingImported(path) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"cannot be read: {error}; unfreeze by hand: hbmgr unfreeze SVC"
        raise ConfigurationError(str(path), 0, "", what) from error
    return states


# -- what is shown --------------------------------------------------------------------------


def next_steps(plan: Plan, root: Root) -> Tuple[str, ...]:
    """Return what is left to do, in order."""
    steps = []
    if not (root.hb / "key").exists():
        steps.append("once for the cluster: hbmgr keygen; copy etc/opensvc/hb/key to the other node")
    steps += [
        "hbmgr check",
        "systemctl enable --now opensvc-hb (and keep OpenHA from starting at boot)",
        "hbmgr links: wait until the other node is heard",
        "hbmgr import --unfreeze",
        "on the other node: unfreeze what was frozen there for this (service -A SVC unfreeze)",
    ]
    return tuple(steps)


def _kind(service: PlannedService) -> str:
    if service.agent is None:
        return f"script {service.line.script}"
    return f"agent's service {service.agent}"


def _prospect(service: PlannedService) -> str:
    """Return in which state the daemon will begin with a service."""
    if not service.is_ours:
        return "not this node's"
    state = service.state.name if service.state is not None else "not known"
    if service.agent is not None:
        return f"{state} here, the daemon asks the agent: up is FROZEN_START, down FROZEN_STOP"
    return f"{state} here, the daemon begins with {'FROZEN_START' if service.runs else 'FROZEN_STOP'}"


def plan_document(plan: Plan, root: Root, backup: Optional[Path], is_written: bool) -> Dict[str, Any]:
    """Return what an import would do, or did, as JSON."""
    source = plan.source
    return {
        "ok": not plan.errors,
        "written": is_written,
        "backup": None if backup is None else str(backup),
        "source": {
            "directory": str(source.directory),
            "layout": source.layout.name.lower(),
            "nodes": str(source.nodes),
            "monitor": str(source.monitor),
            "services": str(source.services),
            "states": str(source.states),
            "tunables": None if source.tunables_path is None else str(source.tunables_path),
        },
        "files": [
            {
                "path": str(file.path),
                "change": file.change,
                "content": file.content.decode("utf-8", "replace"),
            }
            for file in plan.files
        ],
        "services": {
            service.line.name: {
                "agent": service.agent,
                "script": service.line.script,
                "check_script": service.line.check_script,
                "nodes": list(service.line.nodes),
                "ours": service.is_ours,
                "state": None if service.state is None else service.state.name,
                "counted_as_running": service.runs,
            }
            for service in plan.services
        },
        "notes": list(plan.notes),
        "errors": [str(error) for error in plan.errors],
        "next": list(next_steps(plan, root)),
    }


def plan_text(plan: Plan, root: Root, backup: Optional[Path], is_written: bool) -> str:
    """Return the same for people; errors are printed elsewhere, and without them what would be written."""
    source = plan.source
    lines = [f"reads {source.directory}, {source.layout.value}"]
    lines += [f"    {path}" for path in (source.nodes, source.monitor, source.services, source.states)]
    if source.tunables_path is not None:
        lines.append(f"    {source.tunables_path}")
    notes = [f"note: {note}" for note in plan.notes]
    if plan.errors:
        return "\n".join(lines + notes) + "\n"
    for file in plan.files:
        verb = "wrote" if is_written and file.change != "unchanged" else "would write"
        lines.append(f"{verb} {file.path} ({file.change})")
        if file.change != "unchanged":
            lines += [f"    {line}" for line in file.content.decode("utf-8", "replace").splitlines()]
    if backup is not None:
        lines.append(f"backup of what was replaced: {backup}")
    for service in plan.services:
        line = service.line
        lines.append(f"service {line.name}: {line.primary}, then {line.secondary}; {_kind(service)}")
        lines.append(f"    {_prospect(service)}")
    lines += notes
    lines.append("next:" if is_written else "nothing was written; without --dry-run, and then:")
    lines += [f"    {number}. {step}" for number, step in enumerate(next_steps(plan, root), start=1)]
    return "\n".join(lines) + "\n"


def unfrozen_text(unfrozen: Unfrozen) -> str:
    """Return what `--unfreeze` did, a line for each service."""
    lines = [f"{name}: unfrozen" for name in unfrozen.done] + list(unfrozen.left)
    return "\n".join(lines or ["nothing was left to unfreeze"]) + "\n"
