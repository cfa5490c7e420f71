"""Which scopes of a keyword hold on a node?

Pure. The grammar of services' files is `ini`'s; this is what `key@scope` means in them.

Source: A.3.
"""

from __future__ import annotations

from typing import Sequence, Tuple

SCOPE_GROUPS = ("nodes", "drpnodes", "encapnodes", "flex_primary")
"""Scopes that are no node's name (`mnt@drpnodes`)."""


def scopes_of(
    node: str, nodes: Sequence[str], drpnodes: Sequence[str] = (), encapnodes: Sequence[str] = ()
) -> Tuple[str, ...]:
    """Return the scopes that hold on a node, best first.

    Source: A.3: `key@<nodename>`, then `key@nodes`, `key@drpnodes`, `key@encapnodes`.
    """
    groups = (("nodes", nodes), ("drpnodes", drpnodes), ("encapnodes", encapnodes))
    return (node, *(name for name, members in groups if node in members))
