"""An sshd on each node of a lab, so that the nodes reach each other by name, as root, without a password.

    names = SshNodes(lab)      # once: keys and configuration, below the lab's directory
    names.start(node)          # after every boot of a node

`ssh NAME COMMAND` on one node then runs COMMAND on the node of that name, in the environment that the
lab gives to that node's own programs. Host keys are known beforehand, and checked.

Nothing of the machine is changed: what ssh and sshd read in /etc is covered in the node's own mount
namespace, and the keys are made for this lab alone.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from lab import BaseLab, Node

if TYPE_CHECKING:
    from machine import Process

CABLE_NETWORK = "10.101.0"
"""The network of the first cable, on which node number N has the address N."""
START_LIMIT_S = 15.0

CLIENT = """Host *
    IdentityFile {folder}/user
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
    UpdateHostKeys no
    LogLevel ERROR
"""
SERVER = """Port 22
ListenAddress {address}
HostKey {folder}/host-{node}
AuthorizedKeysFile {folder}/user.pub
PidFile {folder}/{node}.pid
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PrintMotd no
PrintLastLog no
MaxStartups 100
Subsystem sftp internal-sftp
SetEnv {environment}
"""
SHADOW = "root:*:19000:0:99999:7:::\nsshd:!:19000::::::\n"
"""sshd without PAM asks whether the account is locked, which depends on the machine it is on."""


def address_of(node: Node) -> str:
    """Return the address by which the other nodes reach a node."""
    return f"{CABLE_NETWORK}.{node.number}"


class SshNodes:
    """Keys and configuration for the nodes of a lab.

    Args:
        lab: its nodes have cables, so it is a lab in namespaces.
        hosts: further lines of every node's /etc/hosts.
    """

    def __init__(self, lab: BaseLab, hosts: str = "") -> None:
        self.lab = lab
        self.folder = lab.workdir / "ssh"
        self.folder.mkdir(mode=0o700)
        names = "".join(f"{address_of(node)} {node.name}\n" for node in lab.nodes)
        self._write("hosts", f"127.0.0.1 localhost\n{names}{hosts}")
        self._write("ssh_config", CLIENT.format(folder=self.folder))
        self._write("shadow", SHADOW).chmod(0o600)
        self._make_key("user")
        known = []
        for node in lab.nodes:
            public = self._make_key(f"host-{node.name}")
            known.append(f"{node.name},{address_of(node)} {public}")
            environment = " ".join(
                f'"{name}={value}"' for name, value in sorted(node.machine.environment.items())
            )
            text = SERVER.format(
                address=address_of(node), folder=self.folder, node=node.name, environment=environment
            )
            self._write(f"sshd_config-{node.name}", text)
        self._write("known_hosts", "".join(known))

    def start(self, node: Node) -> Process:
        """Start the sshd of a node that has just booted; returns when it takes connections.

        The other nodes' names are known to the node from here on, and its own to itself.
        """
        for name, place in (
            ("hosts", "/etc/hosts"),
            ("ssh_config", "/etc/ssh/ssh_config"),
            ("shadow", "/etc/shadow"),
        ):
            node.run(["mount", "--bind", str(self.folder / name), place]).check()
        node.run(["mkdir", "-p", "-m", "755", "/run/sshd"]).check()
        log = self.folder / f"{node.name}.log"
        daemon = node.spawn(["/usr/sbin/sshd", "-D", "-e", "-f", str(self._server_file(node))], log)

        def listens() -> bool:
            assert daemon.running, f"sshd of {node.name} ended:\n{log.read_text(errors='replace')}"
            seen = node.run(["ss", "--no-header", "--listening", "--tcp", "--numeric", "sport = :22"]).check()
            return bool(seen.out.strip())

        self.lab.wait(listens, START_LIMIT_S, f"sshd of {node.name} listens")
        return daemon

    def _server_file(self, node: Node) -> Path:
        return self.folder / f"sshd_config-{node.name}"

    def _make_key(self, name: str) -> str:
        """Make a pair of keys without a passphrase; return the public one's line."""
        path = self.folder / name
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        return Path(f"{path}.pub").read_text()

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path
