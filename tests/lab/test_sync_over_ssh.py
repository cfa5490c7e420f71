"""Two nodes, a service with data: its configuration and its data go over real ssh, by real rsync."""

from __future__ import annotations

import signal
import sys

import pytest
from lab import Lab
from ssh_node import SshNodes

pytestmark = pytest.mark.lab

SERVICE = """[DEFAULT]
service_type = DEV
nodes = n1 n2

[fs#1]
type = tmpfs
dev = none
mnt = /srv/web

[sync#1]
src = /srv/web/data
dst = /srv/copy of web
target = nodes
dstfs = /srv
"""
LOG_TIME = 9


def with_commands(lab):
    """Install the commands on every node, as the package does, below the lab's directory."""
    programs = lab.workdir / "bin"
    programs.mkdir()
    modules = {"svcmgr": "svcmgr", "allupservices": "mass_command allupservices"}
    for name, module in modules.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m opensvc_hb.cli.{module} "$@"\n')
        (programs / name).chmod(0o755)
    for node in lab.nodes:
        node.machine.environment["PATH"] += f":{programs}"


def said(result):
    return [" ".join(line[LOG_TIME:].split()) for line in result.err.splitlines()]


def test_a_service_is_copied_to_the_other_node_over_ssh(lab: Lab):
    """Only from the node that runs it; a node that does not answer is an error."""
    with_commands(lab)
    ssh = SshNodes(lab)
    n1, n2 = lab.nodes
    ssh.start(n1)
    server = ssh.start(n2)
    n1.write("etc/opensvc/web.env", SERVICE)
    refused = n1.svcmgr("-s", "web", "syncnodes", "--force").check()
    assert said(refused) == [
        f"INFO WEB.SYNC#{number} won't sync this resource for a service not up" for number in ("1", "I0")
    ]
    n1.svcmgr("-s", "web", "start").check()
    n1.run(["mkdir", "/srv/web/data"]).check()
    n1.run(["tee", "/srv/web/data/page"], text="hello\n").check()
    done = n1.run(["env", "allupservices", "syncnodes", "--force"]).check()
    assert said(done) == [
        "INFO WEB.SYNC#1 /srv/web/data sent to n2:/srv/copy of web: 1 files, 6 bytes",
        "INFO WEB exec 'svcmgr -s web --waitlock 3600 postsync' on node n2",
    ]
    assert n2.run(["cat", "/srv/copy of web/data/page"]).check().out == "hello\n"
    assert (n2.root / "etc/opensvc/web.env").read_text() == SERVICE
    for node in lab.nodes:
        tree = node.svcmgr("-s", "web", "print", "status").check().out
        assert "sync#1         .... up       rsync /srv/web/data to nodes" in tree
        assert "sync#i0        .... up       rsync svc config to drpnodes, nodes" in tree
    assert n2.run(["env", "allupservices", "syncnodes", "--force"]).check().err == (
        "allupservices: no service is up here\n"
    )

    server.signal(signal.SIGTERM)
    server.wait(15)
    lost = n1.svcmgr("-s", "web", "syncnodes", "--force")
    assert lost.status == 1
    [line] = said(lost)
    assert line.startswith("ERROR WEB node n2 synchronization failed: ssh: connect to host n2 port 22: ")
