"""The lab's own ssh: nodes run commands on each other by name."""

from __future__ import annotations

import pytest
from ssh_node import SshNodes

pytestmark = pytest.mark.lab


def test_a_node_runs_a_command_on_the_other_by_its_name(lab):
    """As root, without a password, with the other node's environment, also after it was off."""
    ssh = SshNodes(lab)
    n1, n2 = lab.nodes
    for node in lab.nodes:
        ssh.start(node)
    command = "uname -n; id -u; echo $OSVC_ROOT; exit 7"
    answer = n1.run(["ssh", "n2", command])
    assert (answer.status, answer.out, answer.err) == (7, f"n2\n0\n{n2.root}\n", "")
    n1.write("srv/file", "carried\n")
    n1.run(["rsync", "-a", "-e", "ssh", str(n1.root / "srv/file"), f"n2:{n2.root}/copy"]).check()
    assert (n2.root / "copy").read_text() == "carried\n"
    n1.kill()
    lab.boot("n1")
    ssh.start(n1)
    assert n2.run(["ssh", "n1", "uname", "-n"]).out == "n1\n"
