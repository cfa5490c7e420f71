"""hbmgr: see and steer the heartbeat of this node.

Parses the words, asks the daemon (or reads a file), prints, and turns an error into one line
and an exit code. What is printed is made by `hb_text`; what is true is known by the daemon.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Optional, Sequence

from opensvc_hb import __version__
from opensvc_hb.cli.command_end import run_to_end
from opensvc_hb.errors import ExitCode, HbError
from opensvc_hb.paths import Root, node_name, root

VERBS: Mapping[str, str] = {
    "freeze-stop": "stop a service here and keep it stopped; the other node may start it",
    "freeze-start": "keep a service as it runs here, daemon or no daemon: maintenance",
    "unfreeze": "hand a frozen service back to the decision table",
    "start": "start a service that the table would start, or that waits for an operator",
    "stop": "stop a service here; the table may start it again, here or there",
    "force-start": "declare a service STARTED here; runs nothing",
    "force-stop": "declare a service STOPPED here after a failure; runs nothing",
    "switch": "stop a service here and let the other node start it",
}

COMMAND_LIMIT_S = 3600.0
"""Commands wait for the end of the actions that they cause, which have limits of their own."""

EPILOGUE = """\
exit status:
  0 done   1 failed   2 wrong words   3 daemon not running, or no such service
  4 state unknown   5 refused   6 configuration error   8 timed out   9 partly done
"""


class WrongInvocation(HbError):
    """The words of the command line do not fit together."""

    exit_code = ExitCode.USAGE


class NodeLags(HbError):
    """A node does not use the key file of the last step yet."""

    exit_code = ExitCode.REFUSED


class NoEntry(HbError):
    """The journal says nothing of a service; a misspelt name, most often."""

    exit_code = ExitCode.NOT_RUNNING


def main(argv: Optional[Sequence[str]] = None) -> NoReturn:
    """Run the command line and exit."""
    words = sys.argv[1:] if argv is None else argv
    run_to_end("hbmgr", lambda: int(run(words)), int(ExitCode.FAILED), lambda error: int(error.exit_code))


def run(argv: Sequence[str]) -> ExitCode:
    """Run one command; return its exit code or raise an HbError."""
    options = _parser().parse_args(list(argv))
    answer: ExitCode = options.run(options, root())
    return answer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hbmgr",
        description="See and steer the heartbeat of this node.",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"hbmgr {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, run_it: Callable[[argparse.Namespace, Root], ExitCode], text: str) -> Any:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument("--format", choices=("text", "json"), default="text", help="default text")
        command.set_defaults(run=run_it)
        return command

    add("daemon", _daemon, "run this node's daemon in the foreground")
    status = add("status", _status, "show alarms, peers, links and services")
    status.add_argument("--exit-code", action="store_true", help="0 no alarm, 1 alarms")
    add("links", _links, "show one line per line of the monitor file, with counters")
    events = add("events", _events, "show the journal: what was decided, by which rule, and why")
    events.add_argument("service", nargs="?", metavar="SVC", help="only this service")
    events.add_argument("--last", type=_count, metavar="N", default=50, help="so many entries (50; 0: all)")
    for name, text in VERBS.items():
        verb = add(name, _verb, text)
        verb.add_argument("services", nargs="?", metavar="SVC[,SVC...]", help="service names or hb names")
        verb.add_argument("--all", action="store_true", help="every service of this node")
        verb.add_argument("--force", action="store_true", help="do it although it is refused as unsafe")
        verb.add_argument("--reason", default="", help="why, for the journal and the next colleague")
    dead = add("confirm-dead", _confirm_dead, "vouch that a silent node is dead: takeovers go on")
    dead.add_argument("node", metavar="NODE")
    dead.add_argument("--reason", required=True, help="how you know; it is kept in the journal")
    add("leave", _leave, "end the instances here, tell the peer, and end the daemon")
    add("reload", _reload, "have the daemon read its configuration again")
    config = add("config", _config_check, "check nodes, monitor, key, hb.conf and the services' files")
    config.add_argument("what", choices=("check",))
    add("check", _check, "check the configuration and what this machine makes of it")
    decode = add("decode", _decode, "show what a captured beat or disk slot says")
    decode.add_argument("file", type=Path, metavar="FILE")
    simulation = add("simulate", _simulate, "try the rules on made-up clusters in which things go wrong")
    simulation.add_argument("--seed", type=_count, default=1, metavar="N", help="same seed, same trace")
    simulation.add_argument(
        "--steps", type=_count, default=20_000, metavar="N", help="events given to a node (%(default)s)"
    )
    profiles = ("quiet", "lossy", "partition", "disk", "chaos", "resources", "reload")
    simulation.add_argument("--faults", choices=profiles, default="chaos", help="what goes wrong (chaos)")
    simulation.add_argument("--save", type=Path, metavar="FILE", help="write a failing schedule there")
    importing = add("import", _import, "take over the configuration and states of an OpenHA installation")
    importing.add_argument("directory", nargs="?", type=Path, metavar="DIR", help="/usr/local/cluster, or /")
    importing.add_argument("--dry-run", action="store_true", help="show what would be written; write nothing")
    importing.add_argument(
        "--unfreeze", action="store_true", help="later, with the daemon: unfreeze what was not frozen there"
    )
    compat = add("compat", _compat, "lay out or take away a tree with OpenHA's layout and commands")
    compat.add_argument("what", choices=("install", "remove"))
    compat.add_argument("--prefix", type=Path, metavar="DIR", help="where (/usr/local/cluster)")
    keygen = add("keygen", _keygen, "make the cluster's key, or take the next step of its rotation")
    keygen.add_argument("--rotate", action="store_true", help="add a new key, then use it, then drop the old")
    keygen.add_argument("--force", action="store_true", help="rotate although a node may have missed a step")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


_count.__name__ = "count"  # argparse says: invalid count value


# -- talking to the daemon ------------------------------------------------------------------


def _ask(place: Root, message: Mapping[str, object], timeout_s: float = 10.0) -> Dict[str, Any]:
    from opensvc_hb.client import request

    return request(str(place.socket), dict(message), timeout_s, str(place.lock))


def _question(place: Root, message: Mapping[str, object]) -> Dict[str, Any]:
    answer = _ask(place, message)
    if not answer.get("ok"):
        raise _Refused(answer)
    return answer


class _Refused(HbError):
    """The daemon's own words, with its code."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        super().__init__(str(answer.get("error") or answer.get("text") or "refused"))
        self.exit_code = ExitCode(int(answer.get("code", 1)))


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=4, sort_keys=True))


def _order(options: argparse.Namespace, place: Root, message: Mapping[str, object]) -> ExitCode:
    """Send an order, wait for its end, print what became of it."""
    answer = _ask(place, message, COMMAND_LIMIT_S)
    code = ExitCode(int(answer.get("code", 0 if answer.get("ok") else 1)))
    text = str(answer.get("text") or answer.get("error") or "")
    if options.format == "json":
        _print_json({"ok": code is ExitCode.DONE, "code": int(code), "text": text})
    elif text:
        print(text, file=sys.stdout if code is ExitCode.DONE else sys.stderr)
    return code


# -- the commands ---------------------------------------------------------------------------


def _daemon(options: argparse.Namespace, place: Root) -> ExitCode:
    from opensvc_hb.daemon.main import run as run_daemon

    run_daemon(place, node_name())
    return ExitCode.DONE


def _status(options: argparse.Namespace, place: Root) -> ExitCode:
    from opensvc_hb.cli.hb_text import status_text

    document = _question(place, {"request": "status"})["status"]
    if options.format == "json":
        _print_json(document)
    else:
        print(status_text(document, _colours()), end="")
    return ExitCode.FAILED if options.exit_code and document["alarms"] else ExitCode.DONE


def _links(options: argparse.Namespace, place: Root) -> ExitCode:
    from opensvc_hb.cli.hb_text import links_text

    links = _question(place, {"request": "status"})["status"]["links"]
    if options.format == "json":
        _print_json(links)
    else:
        print(links_text(links, _colours()), end="")
    return ExitCode.DONE


def _colours() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _events(options: argparse.Namespace, place: Root) -> ExitCode:
    from opensvc_hb.cli.hb_text import events_text
    from opensvc_hb.daemon.journal import read_entries

    names = _hb_names(options.service, place) if options.service else None
    entries = read_entries(place.log / "hb.journal", None, None)
    if names is not None:
        entries = [entry for entry in entries if entry.service in names]
        if not entries:
            raise NoEntry(f"{options.service}: no entry for such a service in {place.log / 'hb.journal'}")
    if options.last > 0:
        entries = entries[-options.last :]
    if options.format == "json":
        _print_json([entry.as_json() for entry in entries])
    else:
        print(events_text(entries), end="")
    return ExitCode.DONE


def _hb_names(service: str, place: Root) -> List[str]:
    """Return the hb name of a service given by either name, as far as the daemon can tell."""
    try:
        answer = _ask(place, {"request": "instances"})
    except HbError:
        return [service]  # the journal is read without a daemon too
    instances = answer.get("instances", {})
    return [service, *(hb for hb, one in instances.items() if one.get("service") == service)]


def _verb(options: argparse.Namespace, place: Root) -> ExitCode:
    if options.all == bool(options.services):
        raise WrongInvocation(f"{options.command}: name SVC[,SVC...], or --all")
    services = None if options.all else list(dict.fromkeys(s for s in options.services.split(",") if s))
    if services is not None and not services:
        raise WrongInvocation(f"{options.command}: '{options.services}' names no service")
    message = {
        "request": "command",
        "verb": options.command,
        "services": services,
        "force": options.force,
        "reason": options.reason,
    }
    code = _order(options, place, message)
    if code in (ExitCode.DONE, ExitCode.PARTLY):
        from opensvc_hb.cli.hb_forced import keep_forced

        keep_forced(place, options.command, services)
    return code


def _confirm_dead(options: argparse.Namespace, place: Root) -> ExitCode:
    message = {"request": "confirm-dead", "node": options.node, "reason": options.reason}
    return _order(options, place, message)


def _leave(options: argparse.Namespace, place: Root) -> ExitCode:
    return _order(options, place, {"request": "leave"})


def _reload(options: argparse.Namespace, place: Root) -> ExitCode:
    return _order(options, place, {"request": "reload"})


def _config_check(options: argparse.Namespace, place: Root) -> ExitCode:
    from opensvc_hb.cli.hb_check import check_files

    return _show_check(options, check_files(place, node_name(), with_machine=False))


def _check(options: argparse.Namespace, place: Root) -> ExitCode:
    from opensvc_hb.cli.hb_check import check_files

    return _show_check(options, check_files(place, node_name(), with_machine=True))


def _show_check(options: argparse.Namespace, found: Any) -> ExitCode:
    code = ExitCode.CONFIGURATION if found.errors else ExitCode.DONE
    if options.format == "json":
        _print_json({"ok": not found.errors, "errors": list(found.errors), "notes": list(found.notes)})
        return code
    for line in found.errors:
        print(line, file=sys.stderr)
    for line in found.notes:
        print(f"note: {line}")
    if not found.errors:
        print(found.summary)
    return code


def _decode(options: argparse.Namespace, place: Root) -> ExitCode:
    from opensvc_hb.cli.hb_decode import decode_file, decoded_text

    document = decode_file(options.file, place.hb / "key")
    if options.format == "json":
        _print_json(document)
    else:
        print(decoded_text(document), end="")
    return ExitCode.DONE


def _simulate(options: argparse.Namespace, place: Root) -> ExitCode:
    from opensvc_hb.cli.hb_simulate import simulate, simulated_text
    from opensvc_hb.sim.faults import Profile

    tell = None if options.format == "json" else lambda text: print(text, file=sys.stderr)
    document = simulate(Profile(options.faults), options.seed, options.steps, options.save, tell)
    if options.format == "json":
        _print_json(document)
    else:
        print(simulated_text(document), end="")
    return ExitCode.DONE if document["ok"] else ExitCode.FAILED


def _import(options: argparse.Namespace, place: Root) -> ExitCode:
    from opensvc_hb.cli import hb_import

    is_json = options.format == "json"
    if options.unfreeze:
        if options.directory is not None or options.dry_run:
            raise WrongInvocation("import --unfreeze: takes neither DIR nor --dry-run")
        return hb_import.unfreeze(place, lambda message: _ask(place, message), is_json)
    if options.directory is None:
        raise WrongInvocation(
            "import: name the directory of the OpenHA installation: /usr/local/cluster, or /"
        )
    return hb_import.run_import(options.directory.absolute(), place, node_name(), options.dry_run, is_json)


def _compat(options: argparse.Namespace, place: Root) -> ExitCode:
    from opensvc_hb.cli import openha_compat

    if options.what == "install":
        prefix = openha_compat.install(place, options.prefix).prefix
        _reload_if_running(place)
        lines = [f"{prefix}: laid out; in a shell: . {prefix}/env.sh"]
    else:
        record = openha_compat.switch_off(place, options.prefix)
        _reload_if_running(place)
        removed = openha_compat.remove(place, record)
        lines = [f"{removed.prefix}: taken away", *removed.kept]
    if options.format == "json":
        _print_json({"ok": True, "prefix": lines[0].partition(":")[0], "lines": lines})
    else:
        print("\n".join(lines))
    return ExitCode.DONE


def _reload_if_running(place: Root) -> None:
    """Have the daemon read its files again, where one runs; say what it objects to."""
    from opensvc_hb.client import DaemonDown

    try:
        answer = _ask(place, {"request": "reload"}, COMMAND_LIMIT_S)
    except DaemonDown:
        return
    if not answer.get("ok"):
        print(f"hbmgr: the daemon goes on as before: {answer.get('error')}", file=sys.stderr)


def _keygen(options: argparse.Namespace, place: Root) -> ExitCode:
    from opensvc_hb.links import keyring as keys

    path = place.hb / "key"
    if options.rotate:
        before = keys.read(path)
        if not options.force:
            _no_node_lags(place, path, before)
        ring = keys.rotate(before)
        keys.write(path, ring, replace=True)
        text = f"{path}: {ring.rotation.value}: copy it to every node, and run hbmgr reload on each"
        if ring.rotation is not keys.Rotation.ONE_KEY:
            text += "; after that, the next step: hbmgr keygen --rotate"
    else:
        ring = keys.generate()
        keys.write(path, ring)
        text = f"{path}: written, mode 0600: copy this one file to every node"
    if options.format == "json":
        _print_json({"ok": True, "path": str(path), "key_ids": list(ring.key_ids), "text": text})
    else:
        print(text)
    return ExitCode.DONE


def _no_node_lags(place: Root, path: Path, ring: Any) -> None:
    """Refuse a step of a rotation where a node is seen to have missed the one before.

    Such a node is not understood any more, and taken for dead while it lives. Which keys it can
    open is not seen, only which one it seals with.
    """
    from opensvc_hb.client import DaemonDown
    from opensvc_hb.links.keyring import Rotation

    try:
        status = _question(place, {"request": "status"})["status"]
    except DaemonDown:
        return  # no beat depends on this file now
    if status["key_ids"] != list(ring.key_ids):
        raise NodeLags(f"the daemon of {status['node']} does not use {path} yet: hbmgr reload, then again")
    for name, peer in status["peers"].items():
        if peer["liveness"] != "alive":
            raise NodeLags(
                f"{name} is {peer['liveness']}: it would miss this step, and not be understood when it is "
                "back: wait for it; or --force, and copy the key there before its daemon starts"
            )
    if ring.rotation is not Rotation.SWITCHED:
        return
    late = {link["node"] for link in status["links"] if link["key_id"] not in (None, ring.sealing.id)}
    if late:
        raise NodeLags(
            f"{', '.join(sorted(late))} still seals with the old key: copy {path} there, hbmgr reload there, "
            "then again; --force drops the old key all the same"
        )


if __name__ == "__main__":
    main()
