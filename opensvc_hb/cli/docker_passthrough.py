"""`SVC docker ARGS`: docker's own client, talking to the daemon that runs the service's containers.

Everything behind the word `docker` is the client's, untouched; so are terminal, input, output
and exit code: for one service this process becomes the client. It takes no lock, so that an
`attach` of a day keeps no action waiting, and needs no --cluster; a frozen service refuses it.
A daemon of the service's own is started first where its data are mounted; where they are not,
the client says itself that nobody answers.

Source: C.3, C.4, C.6.
"""

from __future__ import annotations

import os
import sys
from typing import Callable, List, Mapping, Optional, Protocol, Sequence, Tuple, cast

from opensvc_hb.agent import frozen, safety_net
from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.marking import marked
from opensvc_hb.agent.resource import ActionError
from opensvc_hb.agent.service import Service
from opensvc_hb.cli.svcmgr_options import CommandLine
from opensvc_hb.errors import ExitCode

ACTION = "docker"
TYPE_NAME = "container.docker"
NO_DOCKER = "this service has no docker resource"
NOT_FOUND = 127
"""As shells have it: there is no such program."""


class DockerResource(Protocol):
    """What a docker container's resource can do for its client."""

    def prepare_client(self) -> None:
        """Start the daemon where it can be."""

    def client_command(self, arguments: Tuple[str, ...]) -> Tuple[str, ...]:
        """Return the client's command line."""


def handlers(
    loader: Loader,
    line: CommandLine,
    become: Callable[[str, List[str]], object] = os.execvp,
    run: Optional[Callable[[Sequence[str]], int]] = None,
) -> Mapping[str, Callable[[str], int]]:
    """Return what does the action, by its name.

    Args:
        loader: loads the service.
        line: the command line.
        become: replaces this process by a program; never returns but for a test's.
        run: runs a program with our terminal and returns its exit code, where more services follow.
    """
    several = len(line.items("service")) > 1

    def docker(svcname: str) -> int:
        service = loader.service(svcname)
        log = loader.log(svcname)
        if frozen.is_frozen(loader.root, svcname):
            log.info(frozen.REFUSAL)
            return int(ExitCode.FAILED)
        objection = safety_net.objection(service, ACTION, line.has("cluster"))
        resource = None if objection else docker_resource(service)
        if resource is None:
            log.error(objection or NO_DOCKER)
            return int(ExitCode.FAILED)
        with marked(loader.root, svcname, "start"):
            try:
                resource.prepare_client()
            except ActionError as error:
                # the client will say that nobody answers; what else is in the way, it cannot know
                if str(error) != "docker daemon is not running":
                    log.warning(str(error))
        argv = resource.client_command(line.passed)
        if several:
            return (run or _run)(argv)
        return _become(argv, become)

    return {ACTION: docker}


def docker_resource(service: Service) -> Optional[DockerResource]:
    """Return the service's first enabled docker container, None when there is none."""
    for member in service.members:
        if member.resource.type_name == TYPE_NAME and not member.disable:
            return cast(DockerResource, member.resource)
    return None


def _become(argv: Sequence[str], become: Callable[[str, List[str]], object]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        become(argv[0], list(argv))
    except OSError as error:
        return _no_client(argv, error)
    return int(ExitCode.DONE)


def _run(argv: Sequence[str]) -> int:
    import signal
    import subprocess

    # Ctrl-C is the client's to answer; a function is no handler in it, unlike an ignored signal
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        status = subprocess.call(list(argv))
    except OSError as error:
        return _no_client(argv, error)
    finally:
        signal.signal(signal.SIGINT, before)
    return 128 - status if status < 0 else status


def _no_client(argv: Sequence[str], error: OSError) -> int:
    sys.stderr.write(f"{argv[0]}: {error.strerror}: install docker's client, or set docker_exe\n")
    return NOT_FOUND
