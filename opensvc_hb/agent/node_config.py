"""What does this node's own file, `etc/opensvc/node.conf`, say?

Read before the services; it need not exist. An unknown section or keyword is let pass, for
the agents keep much in it that is not ours.

Source: A.1; `status_look` is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Tuple

from opensvc_hb.errors import ConfigurationError
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
    """

    environment: str = "TST"
    status_look: str = LOOKS[0]


def read_node_configuration(root: Root) -> NodeConfiguration:
    """Read node.conf.

    Raises:
        ConfigurationError: a value that cannot be, or no INI file.
    """
    path = root.etc / "node.conf"
    if not path.exists():
        return NodeConfiguration()
    from opensvc_hb.agent.sections import ENVIRONMENTS
    from opensvc_hb.ini import read

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
    return NodeConfiguration(**values)
