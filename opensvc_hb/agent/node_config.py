"""What does this node's own file, `etc/opensvc/node.conf`, say?

Read before the services; it need not exist. An unknown section or keyword is let pass, for
the agents keep much in it that is not ours.

Source: A.1; `status_look` and `prkey` are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Optional, Tuple

from opensvc_hb.errors import ConfigurationError
from opensvc_hb.ini import Configuration, read
from opensvc_hb.paths import Root

SECTION = "node"
LATER_LOOK = "1.8"
LOOKS: Tuple[str, ...] = ("2014-06", LATER_LOOK)


@dataclass(frozen=True)
class NodeConfiguration:
    """Keywords of [node].

    Args:
        environment: `host_mode` or `env`: the kind of services that may run here.
        status_look: whose `print status` and `svcmon` to look like, one of `LOOKS`.
        is_environment_set: it stands in the file; else it is the default.
        reservation_key: `prkey`, the node's key for SCSI reservations; None: made of its name.
    """

    environment: str = "TST"
    status_look: str = LOOKS[0]
    is_environment_set: bool = False
    reservation_key: Optional[int] = None


def read_node_configuration(root: Root) -> NodeConfiguration:
    """Read node.conf.

    Raises:
        ConfigurationError: a value that cannot be, or no INI file.
    """
    path = root.etc / "node.conf"
    if not path.exists():
        return NodeConfiguration()
    from opensvc_hb.agent.sections import ENVIRONMENTS

    file = read(path)
    values: Dict[str, str] = {}
    for target, keyword, allowed in (
        ("environment", "host_mode", ENVIRONMENTS),
        ("environment", "env", ENVIRONMENTS),
        ("status_look", "status_look", LOOKS),
    ):
        entry = file.own(SECTION, keyword)
        if entry is None:
            continue
        if entry.value not in allowed:
            what = f"'{entry.value}' is not allowed (one of {', '.join(allowed)})"
            raise ConfigurationError(file.path, entry.line, f"{SECTION}.{keyword}", what)
        values[target] = entry.value
    is_set = "environment" in values
    return NodeConfiguration(**values, is_environment_set=is_set, reservation_key=_reservation_key(file))


def _reservation_key(file: Configuration) -> Optional[int]:
    """Read `prkey`: eight bytes in hexadecimal at most, not zero, which means no key."""
    entry = file.own(SECTION, "prkey")
    if entry is None:
        return None
    try:
        key = int(entry.value, 16)
    except ValueError:
        key = 0
    if not 0 < key < 1 << 64:
        what = f"'{entry.value}' is no reservation key (1 to 16 hexadecimal digits, not all zero)"
        raise ConfigurationError(file.path, entry.line, f"{SECTION}.prkey", what)
    return key
