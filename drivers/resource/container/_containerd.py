"""Which containerd does a service's own docker daemon use?

One of its own, too. A docker daemon that is told nothing takes the system's containerd where there
is one: the watchers of its containers would then be the system's processes, neither begun nor
ended with the service, and its containers would stand among those of every other daemon. Told
where to find one, it uses that.

The configuration is the one that a docker daemon writes when it starts a containerd by itself, so
that data written under such a one are used on.

Source: containerd-config.toml(5), version 2.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path

from ._places import Places

PROGRAM = "containerd"
CONNECT_LIMIT_S = 2.0
DISABLED_PLUGINS = [
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
]
"""Of Kubernetes: by the name of containerd 1, and by those of containerd 2."""


def socket_path(exec_root: str) -> str:
    """Return where it listens."""
    return f"{exec_root}/containerd/containerd.sock"


def configuration_path(exec_root: str) -> str:
    """Return where its configuration is; stands in its command line."""
    return f"{exec_root}/containerd/containerd.toml"


def configuration(places: Places) -> str:
    """Return its configuration; what docker does not use is left out."""
    at = f"{places.exec_root}/containerd"
    # a JSON string is a TOML string, for whatever a path may hold
    return f"""version = 2
root = {json.dumps(f"{places.data_root}/containerd/daemon")}
state = {json.dumps(f"{at}/daemon")}
disabled_plugins = {json.dumps(DISABLED_PLUGINS)}
oom_score = 0

[grpc]
address = {json.dumps(socket_path(places.exec_root))}

[debug]
address = {json.dumps(f"{at}/containerd-debug.sock")}
"""


def write_configuration(places: Places) -> None:
    """Write its configuration; raises OSError."""
    path = Path(configuration_path(places.exec_root))
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    path.write_text(configuration(places), encoding="utf-8")


def is_listening(places: Places) -> bool:
    """Tell whether it takes connections."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.settimeout(CONNECT_LIMIT_S)
        try:
            asking.connect(socket_path(places.exec_root))
        except OSError:
            return False
    return True
