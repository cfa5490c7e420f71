"""What does hb.conf say? Policies and the daemon's own settings, every error at once.

`hb.conf` and then `conf.d/*.conf`, in name order, later files over earlier ones; section
[hb] only. An unknown section or keyword is an error, so that a typing error never waits for
the night in which it matters. Without any file the defaults hold.
"""

from __future__ import annotations

import grp
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from opensvc_hb.core.config import HealPolicy, LeasePolicy, Policies, Protocol, TakeoverPolicy
from opensvc_hb.daemon.guardian_reset import ResetKind
from opensvc_hb.errors import ConfigurationError, ConfigurationErrors
from opensvc_hb.ini import read

SECTION = "hb"


@dataclass(frozen=True)
class Settings:
    """All that hb.conf can say; seconds where a unit is meant.

    Args:
        max_parallel: the most actions at a time, None for no bound.
        control_group: group that may talk to the control socket, None for root alone.
        protocol: what beats look like on the wire.
        reset: how the guardian resets this node; watchdog: its device, "" for none.
        openha_tree: the tree in which OpenHA's state files are kept in step, None for none.
    """

    policies: Policies = field(default_factory=Policies)
    status_interval_s: float = 60.0
    status_max_age_s: float = 120.0
    monitor_interval_s: float = 10.0
    max_parallel: Optional[int] = None
    control_group: Optional[str] = None
    reset: ResetKind = ResetKind.AUTO
    watchdog: str = ""
    protocol: Protocol = Protocol.NATIVE
    openha_tree: Optional[Path] = None


READ_AT_START: Mapping[str, Callable[[Settings], object]] = {
    "status_interval": lambda settings: settings.status_interval_s,
    "monitor_interval": lambda settings: settings.monitor_interval_s,
    "max_parallel": lambda settings: settings.max_parallel,
    "control_group": lambda settings: settings.control_group,
}
"""Keywords that a running daemon does not take up: threads and the socket are made by them."""


def waiting_for_restart(now: Settings, at_start: Settings) -> Tuple[str, ...]:
    """Return the keywords that have changed since the daemon began, and are in force after its restart."""
    return tuple(word for word, value in READ_AT_START.items() if value(now) != value(at_start))


def _seconds(low: float, high: float) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"'{text}' is not a number of seconds ({low:g} to {high:g})") from None
        if not low <= value <= high:
            raise ValueError(f"{text} is out of range ({low:g} to {high:g} seconds)")
        return value

    return convert


def _choice(*allowed: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"'{text}' is not one of {', '.join(allowed)}")
        return text.lower()

    return convert


def _yes_or_no(text: str) -> bool:
    word = text.lower()
    if word in ("1", "yes", "true", "on"):
        return True
    if word in ("0", "no", "false", "off"):
        return False
    raise ValueError(f"'{text}' is not yes or no")


def _count(text: str) -> Optional[int]:
    if not text.isdigit():
        raise ValueError(f"'{text}' is not a number of actions (0: no bound)")
    return int(text) or None


def _group(text: str) -> str:
    if text:
        try:
            grp.getgrnam(text)
        except KeyError:
            raise ValueError(f"there is no group '{text}': see getent group") from None
    return text


def _device(text: str) -> str:
    if text and not text.startswith("/dev/"):
        raise ValueError(f"'{text}' is not a device (such as /dev/watchdog)")
    return text


def _tree(text: str) -> Optional[Path]:
    if text and not text.startswith("/"):
        raise ValueError(f"'{text}' is not an absolute path")
    return Path(text) if text else None


@dataclass(frozen=True)
class Option:
    """One keyword of hb.conf: its text goes into the documentation."""

    name: str
    convert: Callable[[str], Any]
    default: str
    text: str


OPTIONS: Tuple[Option, ...] = (
    Option(
        "protocol",
        _choice(*(kind.value for kind in Protocol)),
        "native",
        "The beats' format: openha is the C program's structure, both is a native beat behind it, for a "
        "cluster with a node that runs the C program; neither holds a lease.",
    ),
    Option(
        "wait_for_peer",
        _seconds(0, 86400),
        "90",
        "Seconds from the daemon's start during which a peer that was never heard is waited for "
        "before anything is started; 0 waits for the timeout only.",
    ),
    Option(
        "takeover",
        _choice("automatic", "ask"),
        "automatic",
        "ask: a takeover from a silent peer waits for an operator.",
    ),
    Option(
        "takeover_frozen",
        _yes_or_no,
        "no",
        "yes: take over from a silent peer even what an operator froze started there.",
    ),
    Option(
        "lease",
        _choice("auto", "yes", "no"),
        "auto",
        "Whether what runs here needs the lease of the shared disk: auto is yes where every node has a "
        "dio or disk link; yes without them is an error; no takes over as OpenHA does.",
    ),
    Option(
        "reset",
        _choice(*(kind.value for kind in ResetKind)),
        "auto",
        "How this node is reset when an instance cannot be ended before the other node may start it: "
        "auto is the watchdog when one is named, and sysrq.",
    ),
    Option(
        "watchdog",
        _device,
        "",
        "Watchdog device, opened and fed while an instance is guarded: it also resets a node that stands "
        "still.",
    ),
    Option(
        "heal",
        _choice("freeze", "stop"),
        "freeze",
        "What becomes of the side that yields after a double start: freeze leaves it FROZEN_STOP.",
    ),
    Option(
        "restart_within",
        _seconds(1, 3600),
        "60",
        "Seconds that the peers are asked to wait when this daemon stops and its services run on.",
    ),
    Option(
        "leave_within",
        _seconds(1, 86400),
        "600",
        "Seconds that the instances have to end when this node leaves.",
    ),
    Option("status_interval", _seconds(1, 86400), "60", "Seconds between evaluations of a service."),
    Option(
        "status_max_age", _seconds(1, 86400), "120", "svcmon shows no result older than this, in seconds."
    ),
    Option(
        "monitor_interval",
        _seconds(1, 3600),
        "10",
        "Seconds between evaluations of a service that runs here and has monitored resources.",
    ),
    Option("max_parallel", _count, "0", "The most actions at a time; 0 is no bound."),
    Option("control_group", _group, "", "Group whose members may use the control socket."),
    Option(
        "openha_tree",
        _tree,
        "",
        "Directory with OpenHA's layout whose state files are kept in step; set by hbmgr compat install.",
    ),
)


def read_settings(directory: Path, under_root: bool = False) -> Settings:
    """Read hb.conf and conf.d/*.conf of a directory.

    Args:
        directory: `etc/opensvc/hb`.
        under_root: the node has a root directory of its own (OSVC_ROOT), and shares its machine.

    Raises:
        ConfigurationErrors: every error of all files, with file, line and keyword.
    """
    values: Dict[str, Any] = {o.name: o.convert(o.default) for o in OPTIONS}
    errors: List[ConfigurationError] = []
    files = [directory / "hb.conf", *sorted((directory / "conf.d").glob("*.conf"))]
    for path in files:
        if path.exists():
            _read_file(path, values, under_root, errors)
    if errors:
        raise ConfigurationErrors(errors)
    return _settings(values)


def _read_file(
    path: Path, values: Dict[str, Any], under_root: bool, errors: List[ConfigurationError]
) -> None:
    known = {o.name: o for o in OPTIONS}
    try:
        configuration = read(path)
    except ConfigurationErrors as unreadable:
        errors.extend(unreadable.errors)
        return
    for section in configuration.sections:
        for entry in configuration.entries(section):
            where = f"{section}.{entry.key}"
            option = known.get(entry.key)
            if section != SECTION:
                what = f"unknown section [{section}]; only [{SECTION}] is read here"
                errors.append(ConfigurationError(str(path), entry.line, where, what))
            elif option is None:
                what = f"unknown keyword (have {', '.join(sorted(known))})"
                errors.append(ConfigurationError(str(path), entry.line, where, what))
            else:
                try:
                    value = option.convert(entry.value.strip())
                    _check_reset(option.name, value, under_root)
                except ValueError as error:
                    errors.append(ConfigurationError(str(path), entry.line, where, str(error)))
                else:
                    values[option.name] = value


def _check_reset(name: str, value: object, under_root: bool) -> None:
    """Refuse what would reset a machine that is not all this node's, or a machine's process 1.

    Raises:
        ValueError: with the reason.
    """
    if name == "reset" and value == ResetKind.PROCESS1.value and not under_root:
        raise ValueError("process1 is for nodes with a root directory of their own (OSVC_ROOT)")
    if not under_root:
        return
    if name == "watchdog" and value:
        raise ValueError("not with OSVC_ROOT: it would reset the machine, which this node shares")
    if name == "reset" and value in (ResetKind.SYSRQ.value, ResetKind.WATCHDOG.value):
        raise ValueError(
            f"{value} is not possible with OSVC_ROOT: it would reset the machine, which this node shares "
            "(have auto, which is none here; none; process1)"
        )


def _settings(values: Mapping[str, Any]) -> Settings:
    policies = Policies(
        wait_for_peer_s=values["wait_for_peer"],
        takeover=TakeoverPolicy(values["takeover"]),
        takeover_frozen=values["takeover_frozen"],
        lease=LeasePolicy(values["lease"]),
        heal=HealPolicy(values["heal"]),
        restart_within_s=values["restart_within"],
        leave_within_s=values["leave_within"],
    )
    return Settings(
        policies=policies,
        status_interval_s=values["status_interval"],
        status_max_age_s=values["status_max_age"],
        monitor_interval_s=values["monitor_interval"],
        max_parallel=values["max_parallel"],
        control_group=values["control_group"] or None,
        reset=ResetKind(values["reset"]),
        watchdog=values["watchdog"],
        protocol=Protocol(values["protocol"]),
        openha_tree=values["openha_tree"],
    )
