"""A docker container: `[container#N] type = docker`.

With `docker_data_dir` the service has a docker daemon of its own, whose data move with the
service; without it the container is one of the system's daemon, which is never ended here. The
container is named after service and resource (`SVC.container.N`): one of that name is started
as it is, else one is made from `run_image`. When and where it starts is the cluster's decision
alone: a restart policy of its own is left out of what is made here, and reported.

Status, start and stop go by the Engine API; a container is made by the docker client, which
alone knows what all the options of `docker run` mean.

Source: A.7, B.4, B.6, C.2, C.6. Ours: a daemon that does not answer, or whose containers
outlived it, is a warning and not "down".
"""

from __future__ import annotations

import contextlib
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, ClassVar, Mapping, Optional, Tuple, Union

from opensvc_hb.agent.resource import (
    ActionError,
    Keyword,
    Resource,
    ResourceContext,
    Status,
    container_notes,
)

from .._commands import must
from ._containerd import is_listening
from ._daemon import PrivateDaemon, container_name, container_names, program_path
from ._engine import LOOK_LIMIT_S, Container, Engine, EngineDownError, EngineSilentError, View
from ._places import SYSTEM_SOCKET, forget_container, note_container, noted_containers, private_places
from ._processes import EngineProcesses, kill_all, named
from ._run_options import RunOptions, run_options

CREATE_LIMIT_S = 600.0
"""The image may have to be fetched."""
UP_LIMIT_S = 600.0
DOWN_LIMIT_S = 60.0
"""Source: C.6: from the stop's end to the kill."""
KILLED_LIMIT_S = 10.0
BUSY_LIMIT_S = 120.0
"""How long a start asks again: a daemon that makes or starts other containers may hold its list back."""
SILENT_LIMIT_S = 30.0
"""For so long a stop asks a daemon that does not answer, before it ends the daemon by force."""
STEP_S = 0.2
KNOWN_S = 1.0
"""For so long one look at the daemon serves all containers of the service."""

Looked = Union[View, ActionError]


@dataclass(frozen=True)
class _Look:
    """What a look at the daemon gave, and when it ended, clock seconds."""

    at: float
    found: Looked


class DockerContainer(Resource):
    """A container: up while it runs, in the docker daemon of its service."""

    group = "container"
    type_name = "container.docker"
    types = ("docker",)
    sections = ("container",)
    tells_activation = True
    asked_together = True
    keywords = (
        Keyword("type", "The kind of container.", required=True, scopable=True, candidates=("docker",)),
        Keyword(
            "run_image",
            "The image: name:tag (latest when there is no tag), or the first 12 digits of its id.",
            required=True,
            scopable=True,
            missing="'run_image' parameter is mandatory in section {section}",
        ),
        Keyword(
            "run_args",
            "Options of docker run for the container when it is made, as words of a shell. A restart policy "
            "among them is left out: the cluster decides when a container starts.",
            convert=run_options,
            default=RunOptions(),
            scopable=True,
        ),
        Keyword(
            "run_command",
            "The command in the container when it is made. In SVC.env it is one argument behind the image, "
            "whatever it holds; in SVC.conf it is split into words as a shell does.",
            default="",
            scopable=True,
        ),
    )

    system_socket: ClassVar[str] = SYSTEM_SOCKET
    look_limit_s: ClassVar[float] = LOOK_LIMIT_S
    down_limit_s: ClassVar[float] = DOWN_LIMIT_S
    silent_limit_s: ClassVar[float] = SILENT_LIMIT_S
    busy_limit_s: ClassVar[float] = BUSY_LIMIT_S

    def __init__(self, rid: str, options: Mapping[str, object], context: ResourceContext) -> None:
        super().__init__(rid, options, context)
        self._view: Optional[View] = None
        self._shared_look: Optional[_Look] = None
        self._clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)

    # -- names ------------------------------------------------------------------------------------

    @property
    def label(self) -> str:
        """`ID@IMAGE` when the container is known to exist, else the image alone.

        Source: B.6: run_image if it has a colon, else a tag of this image, else run_image as written.
        """
        image = self._run_image
        if self._view is not None and ":" not in image:
            known = self._view.image_called(image)
            image = known.tags[0] if known is not None and known.tags else image
        container = self._view.named(self.container_name) if self._view is not None else None
        return f"{container.short_id}@{image}" if container is not None else image

    @property
    def container_name(self) -> str:
        """The name of its container."""
        return container_name(self.context.svcname, self.rid)

    @property
    def daemon(self) -> Optional[PrivateDaemon]:
        """The service's own docker daemon, None where the system's is used."""
        context = self.context
        data_root = context.default("docker_data_dir")
        if not data_root or not context.default("docker_daemon_private"):
            return None
        places = private_places(context, str(data_root))
        program = str(context.default("dockerd_exe"))
        arguments = tuple(context.default("docker_daemon_args"))
        return PrivateDaemon(context, places, program, arguments, Engine(places.socket, self.look_limit_s))

    @property
    def engine(self) -> Engine:
        """The daemon that runs the container."""
        daemon = self.daemon
        return Engine(self.system_socket, self.look_limit_s) if daemon is None else daemon.engine

    @property
    def _processes(self) -> EngineProcesses:
        """What lives of the daemon and its containers; of the system's daemon: of our containers alone."""
        daemon = self.daemon
        if daemon is not None:
            return daemon.processes
        return EngineProcesses("", "", noted_containers(self._notes))

    @property
    def _notes(self) -> Path:
        return container_notes(self.context.runtime, self.context.svcname)

    @property
    def _run_image(self) -> str:
        return str(self.options["run_image"])

    @property
    def _is_first(self) -> bool:
        """Tell whether this is the service's first docker resource, which speaks for the daemon."""
        return next(iter(container_names(self.context).values()), self.rid) == self.rid

    # -- status -----------------------------------------------------------------------------------

    def status(self) -> Status:
        """Ask the daemon, once for all containers of the service."""
        found = self._look_for_status()
        self._view = found if isinstance(found, View) else None
        if isinstance(found, EngineDownError):
            return self._status_without_daemon()
        if isinstance(found, ActionError):
            self.say(str(found))
            return Status.WARN
        container = found.named(self.container_name)
        status = Status.DOWN
        if container is None:
            self.say("can not find container id")
        elif container.state == "running":
            status = Status.UP
        elif container.is_alive:
            self.say(f"container is {container.state}")
            status = Status.WARN
        warned = (
            self._warn_of_image(found, container),
            self._warn_of_policies(found, container),
            self._warn_of_containerd(),
        )
        return Status.WARN if any(warned) else status

    def _status_without_daemon(self) -> Status:
        self.say("docker daemon is not running")
        living = self._processes.find() if self._is_first else ()
        if not living:
            return Status.DOWN
        self.say(f"what it ran goes on without it: {named(living)}")
        return Status.WARN

    def _warn_of_image(self, view: View, container: Optional[Container]) -> bool:
        """Source: B.4."""
        wanted = view.image_called(self._run_image)
        if container is None or wanted is None or container.image_id == wanted.id:
            return False
        ids = f"'{container.image_id[:12]}' instead of '{wanted.id[:12]}'"
        self.say(f"the running container is based on image {ids}")
        return True

    def _warn_of_policies(self, view: View, container: Optional[Container]) -> bool:
        """Report containers that docker would start by itself, whatever the cluster decided."""
        svcname = self.context.svcname
        concerned = [container] if container is not None else []
        if self._is_first and self.daemon is not None:
            ours = container_names(self.context)
            concerned += [other for other in view.containers if other.name not in ours]
        warned = False
        for other in concerned:
            if other.restart_policy != "no":
                warned = True
                what = f"container {other.name} has restart policy {other.restart_policy}"
                remedy = f"svcmgr -s {svcname} docker update --restart=no {other.name}"
                self.say(f"{what}: docker starts it outside the cluster. run: {remedy}")
        return warned

    def _warn_of_containerd(self) -> bool:
        """Report that what watches over the containers has ended; the next start starts it again."""
        daemon = self.daemon
        if daemon is None or not self._is_first or is_listening(daemon.places):
            return False
        self.say("containerd of the docker daemon has ended: a start of the service starts it again")
        return True

    def _look_for_status(self) -> Looked:
        """Return a look that is young enough for this evaluation, whichever container had it."""
        first = next(
            (other for other in self.context.service_resources() if isinstance(other, DockerContainer)), self
        )
        known = first._shared_look
        if known is None or self._clock() - known.at > KNOWN_S:
            found: Looked
            try:
                found = self.engine.look()
            except ActionError as error:
                found = error
            known = first._shared_look = _Look(self._clock(), found)
        return known.found

    def _look_now(self) -> View:
        """Look at the daemon as it is, for an action."""
        self._view = None
        self._view = self.engine.look()
        return self._view

    def concerns(self) -> Tuple[str, ...]:
        """Say that the other node would find no data: they are on no file system of the service."""
        daemon = self.daemon
        if daemon is None or not self._is_first or len(self.context.nodes) < 2:
            return ()
        return daemon.concerns()

    # -- start ------------------------------------------------------------------------------------

    def may_start(self) -> Optional[str]:
        """Object where the daemon can never be started, or no container be made."""
        daemon = self.daemon
        return (daemon.objection() if daemon is not None else "") or None

    def start(self) -> None:
        """Start the daemon if it is ours, and the container; make it where there is none."""
        self.activated = False
        daemon = self.daemon
        try:
            with daemon.in_use() if daemon is not None else contextlib.nullcontext():
                if daemon is not None:
                    daemon.ensure_running()
                self._start_container()
        except ActionError:
            if daemon is not None:
                self._end_after_failure(daemon)
            raise

    def _start_container(self) -> None:
        view = self._look_patiently(self.busy_limit_s)
        container = view.named(self.container_name)
        if container is not None and container.state == "running":
            self._note(container.id)
            self.context.info(f"container {self.label} already started on {self.context.node}")
            return
        if container is None:
            self._make_container(view)
            container = self._look_patiently(self.busy_limit_s).named(self.container_name)
            if container is None:
                raise ActionError(f"container {self.container_name} was made and is not there")
        self._note(container.id)
        self.activated = True
        if container.state == "paused":
            self._tell("unpause", container)
            self.engine.resume(container)
        else:
            self._tell("start", container)
            self.engine.start(container.id)
        self.context.info(f"output:\n{container.short_id}\n")
        self.context.info("wait for container up status")
        self._wait_until_up(container)
        self.context.info("wait for container operational")
        self._look_patiently(self.busy_limit_s)

    def _image_to_name(self, view: View) -> str:
        """Return the name of the image whose id run_image is: `docker ps` shows what it was called."""
        image = view.image_called(self._run_image)
        is_id = image is not None and image.id.startswith(self._run_image)
        return image.tags[0] if image is not None and is_id and image.tags else self._run_image

    def _make_container(self, view: View) -> None:
        """Have docker's own client make the container: what its options mean is its matter."""
        options: RunOptions = self.options["run_args"]
        if options.restart_policy:
            policy = options.restart_policy
            self.context.warning(f"--restart {policy} of run_args is left out: the cluster restarts it")
        argv = [self._client, "-H", self.engine.url, "create", "-t", "-i", f"--name={self.container_name}"]
        must(self.context, [*argv, *options.words, self._image_to_name(view), *self._command], CREATE_LIMIT_S)

    @property
    def _command(self) -> Tuple[str, ...]:
        text = str(self.options["run_command"])
        if not text:
            return ()
        if not self.context.is_conf:
            return (text,)
        try:
            return tuple(shlex.split(text))
        except ValueError as error:
            raise ActionError(f"run_command is not words of a shell: {str(error).lower()}: {text}") from None

    def _wait_until_up(self, container: Container) -> None:
        deadline = self._clock() + UP_LIMIT_S
        while True:
            try:
                now = self.engine.inspect(container.id)
            except EngineSilentError:
                if self._clock() >= deadline:
                    raise
                continue
            if now is None:
                raise ActionError(f"container {container.short_id} has vanished after its start")
            if now.state == "running":
                return
            if now.state in ("exited", "dead"):
                raise ActionError(
                    f"container {container.short_id} has ended at once with exit code {now.exit_code}: "
                    f"see svcmgr -s {self.context.svcname} docker logs {self.container_name}"
                )
            if self._clock() >= deadline:
                raise ActionError(f"container {container.short_id} is {now.state} after {UP_LIMIT_S:g} s")
            time.sleep(STEP_S)

    def _end_after_failure(self, daemon: PrivateDaemon) -> None:
        """Leave no daemon behind that only this start needed: the rollback unmounts its data."""
        try:
            daemon.end_if_idle()
        except ActionError as error:
            self.context.error(str(error))

    # -- stop -------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop the container; behind the last one the daemon, if it is ours, and all that it left."""
        daemon = self.daemon
        try:
            self._stop_container()
            if daemon is not None:
                daemon.end_if_idle()
        except EngineDownError:
            if not self._end_what_outlived_the_daemon():
                self.context.info(f"container {self.label} already stopped")
        except EngineSilentError as error:
            if daemon is None:
                raise
            daemon.end_by_force(str(error))

    def _end_what_outlived_the_daemon(self) -> bool:
        """End what a dead daemon's containers run and hold; tell whether there was anything."""
        daemon = self.daemon
        if daemon is not None:
            return daemon.clear_away_leftovers()
        living = self._processes.find()
        if living:
            self.context.warning(f"the docker daemon is not running, what it ran is killed: {named(living)}")
            survivors = kill_all(self._processes, KILLED_LIMIT_S)
            if survivors:
                raise ActionError(f"of the containers these survive SIGKILL: {named(survivors)}")
        return bool(living)

    def _stop_container(self) -> None:
        container = self._look_patiently(self.silent_limit_s).named(self.container_name)
        if container is None or not container.is_alive:
            self.context.info(f"container {self.label} already stopped")
            return
        self._tell("stop", container)
        self.engine.stop(container)
        self.context.info(f"output:\n{container.short_id}\n")
        self.context.info("wait for container down status")
        if not self._is_down_within(container, self.down_limit_s):
            self._tell("kill", container)
            self.engine.kill(container.id)
            if not self._is_down_within(container, KILLED_LIMIT_S):
                raise ActionError(f"container {container.short_id} survives its kill")
        forget_container(self._notes, container.id)

    def _look_patiently(self, limit_s: float) -> View:
        """Look at the daemon for an action: one that is busy is no reason to fail, or to kill everything."""
        deadline = self._clock() + limit_s
        while True:
            try:
                return self._look_now()
            except EngineSilentError:
                if self._clock() >= deadline:
                    raise

    def _is_down_within(self, container: Container, limit_s: float) -> bool:
        deadline = self._clock() + limit_s
        while True:
            now = self.engine.inspect(container.id)
            if now is None or not now.is_alive:
                return True
            if self._clock() >= deadline:
                return False
            time.sleep(STEP_S)

    # -- words ------------------------------------------------------------------------------------

    def client_command(self, arguments: Tuple[str, ...]) -> Tuple[str, ...]:
        """Return the command line that has docker's client talk to this container's daemon."""
        return (self._client, "-H", self.engine.url, *arguments)

    def prepare_client(self) -> None:
        """Start the daemon for a client, where it is ours and can be started; say only what is in the way."""
        daemon = self.daemon
        if daemon is not None:
            daemon.ensure_running(quietly=True)

    @property
    def _client(self) -> str:
        """Source: C.6: docker.io if there is one, else docker."""
        given = str(self.context.default("docker_exe") or "")
        return given or ("docker.io" if program_path("docker.io") else "docker")

    def _tell(self, verb: str, container: Container) -> None:
        """Log what is done as the command that does the same."""
        self.context.info(" ".join(self.client_command((verb, container.short_id))))

    def _note(self, container_id: str) -> None:
        try:
            note_container(self._notes, container_id)
        except OSError as error:
            raise ActionError(
                f"container {container_id[:12]} is not started: without a note it could not be found again "
                f"if its daemon died: {error.filename}: {error.strerror}"
            ) from error
