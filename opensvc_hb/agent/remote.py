"""How is another node reached? By ssh, as the administrator has set it up, and without a question.

The keys, the user and the check of host keys are those of ssh's own configuration; nothing is
relaxed here. What is added keeps a command from waiting for ever: no question is asked, and a
node that is gone is noticed. Texts only; who runs the command is the caller's business.

Called by the sync drivers (through `resource`) and by what acts on a peer.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple, Union

SSH: Tuple[str, ...] = (
    "ssh",
    *("-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=15"),
    *("-o", "ServerAliveCountMax=4"),
    # a connection kept open for later would be a process of the service that outlives the action
    *("-o", "ControlMaster=no"),
)
"""A node that is gone is noticed within 10 s while connecting, within a minute later on."""

SSH_FAILED = 255
"""Exit status of ssh itself, when it did not get as far as the command."""

ANSWER_LIMIT_S = 60.0
"""How long a short command on another node may take."""

WHO_ARE_YOU = ("svcmgr", "print", "node", "--format", "json")
"""Asks a node for its name, its root directory and the kind of services that it runs."""


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself.

    Args:
        node: its name.
        top: its root directory.
        environment: `host_mode` or `env` of its node.conf; "" when neither is written there.
    """

    node: str
    top: str
    environment: str


def ssh_argv(node: str, words: Sequence[str]) -> Tuple[str, ...]:
    """Return the command that runs these words on a node, none of them read again by its shell."""
    return (*SSH, "--", node, shlex.join(words))


def read_facts(answer: str) -> Union[NodeFacts, str]:
    """Read a node's answer to `WHO_ARE_YOU`, or say why it is none.

    Lines before it are let pass: what a login script prints comes along.
    """
    for line in reversed(answer.splitlines()):
        if not line.startswith("{"):
            continue
        try:
            facts = json.loads(line)
            return NodeFacts(str(facts["node"]), str(facts["root"]), str(facts["environment"]))
        except (ValueError, KeyError, TypeError):
            break
    return "its svcmgr does not tell what node it is: is opensvc-hb installed there?"


def facts_line(facts: NodeFacts) -> str:
    """Return the one line that answers `WHO_ARE_YOU`."""
    return json.dumps({"node": facts.node, "root": facts.top, "environment": facts.environment})


def reason_of(stderr: str, stdout: str = "", status: Optional[int] = None) -> str:
    """Return why a command failed, in one line: the last lines it wrote, or its exit status."""
    lines = [line.strip() for line in (stderr.strip() or stdout.strip()).splitlines() if line.strip()]
    if lines:
        return " / ".join(lines[-3:])
    return "no reason given" if status is None else f"exit status {status}"
