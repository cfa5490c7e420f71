"""What does a docker daemon run, and how is it told to start or stop something?

The Engine API by the docker library, in our own words: frozen records and three errors, since
"nobody there", "no answer" and "refused" mean different things to a cluster. The library is
imported when a daemon answers and never before: who has no containers needs it not.

Every request has a time limit; one look is one deadline for all its requests.

Source: Docker Engine API, ContainerList, ContainerInspect, ImageList, ContainerStart, ContainerStop.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence, Tuple

from opensvc_hb.agent.resource import ActionError

from ._knock import Knock, Listening, knock

LOOK_LIMIT_S = 10.0
"""How long a whole look may take: a status has a bounded time."""
ACT_LIMIT_S = 60.0
"""How long the daemon may take for a start, beyond the grace of a stop."""
SHORT_ID_DIGITS = 12
_KIND = "sha256:"


class EngineDownError(ActionError):
    """Nobody listens on the daemon's socket."""


class EngineSilentError(ActionError):
    """A daemon is there and does not answer in time: what it runs is not known."""


class EngineRefusedError(ActionError):
    """The daemon answered, and will not do it; or the docker library is missing."""


@dataclass(frozen=True)
class Container:
    """A container as its daemon knows it.

    Args:
        id: 64 hexadecimal digits.
        name: without the slash before it.
        image_id: of the image it was made from, without the kind of checksum.
        state: created, running, paused, restarting, removing, exited or dead.
        restart_policy: no, always, unless-stopped or on-failure.
        exit_code: of its last life.
        stop_grace_s: what a stop waits before it kills.
    """

    id: str
    name: str
    image_id: str
    state: str
    restart_policy: str = "no"
    exit_code: int = 0
    stop_grace_s: int = 10

    @property
    def short_id(self) -> str:
        """The first digits, as people see it."""
        return self.id[:SHORT_ID_DIGITS]

    @property
    def is_alive(self) -> bool:
        """Tell whether it has, or is about to have, processes."""
        return self.state in ("running", "paused", "restarting", "removing")


@dataclass(frozen=True)
class Image:
    """An image.

    Args:
        id: without the kind of checksum.
        tags: `repository:tag`, those that have one.
        digests: `repository@checksum`.
    """

    id: str
    tags: Tuple[str, ...] = ()
    digests: Tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """All containers and images of a daemon at one moment."""

    containers: Tuple[Container, ...] = ()
    images: Tuple[Image, ...] = ()

    def named(self, name: str) -> Optional[Container]:
        """Return the container of this name."""
        return next((found for found in self.containers if found.name == name), None)

    def image_called(self, text: str) -> Optional[Image]:
        """Return the image that a text names: an id or the begin of one, `name:tag`, `name`, a digest."""
        digits = _plain_id(text)
        by_id = [image for image in self.images if image.id.startswith(digits)] if digits else []
        named = text if ":" in text.rpartition("/")[2] or "@" in text else f"{text}:latest"
        for image in self.images:
            if named in image.tags or named in image.digests:
                return image
        return by_id[0] if len(by_id) == 1 else None


class Engine:
    """One docker daemon.

    Args:
        socket_path: where it listens.
        look_limit_s: how long one look may take, or one question to who is there.
        clock: seconds.
        ask: knocks at a socket.
    """

    def __init__(
        self,
        socket_path: str,
        look_limit_s: float = LOOK_LIMIT_S,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        ask: Callable[[str, float], Knock] = knock,
    ) -> None:
        self.socket_path = socket_path
        self._look_limit_s = look_limit_s
        self._clock = clock
        self._ask = ask

    @property
    def url(self) -> str:
        """The socket as docker's commands want it."""
        return f"unix://{self.socket_path}"

    def listening(self, limit_s: Optional[float] = None) -> Knock:
        """Tell whether a daemon is there."""
        return self._ask(self.socket_path, self._look_limit_s if limit_s is None else limit_s)

    def look(self) -> View:
        """Return what the daemon has, all of it in one go.

        Raises:
            EngineDownError, EngineSilentError, EngineRefusedError.
        """
        with self._client(self._look_limit_s) as client:
            containers = tuple(
                found
                for listed in client.containers(all=True)
                for found in (_inspected(client, listed["Id"]),)
                if found is not None
            )
            return View(containers, tuple(_image(listed) for listed in client.images()))

    def inspect(self, container_id: str) -> Optional[Container]:
        """Return one container as it is now, None when there is none of this id."""
        with self._client(self._look_limit_s) as client:
            return _inspected(client, container_id)

    def start(self, container_id: str) -> None:
        """Start a container that exists."""
        with self._client(ACT_LIMIT_S) as client:
            client.start(container_id)

    def stop(self, container: Container) -> None:
        """Have a container end itself, and killed after its grace; a paused one is woken first."""
        with self._client(ACT_LIMIT_S + container.stop_grace_s) as client:
            if container.state == "paused":
                client.unpause(container.id)
            client.stop(container.id, timeout=container.stop_grace_s)

    def resume(self, container: Container) -> None:
        """Wake a paused container."""
        with self._client(ACT_LIMIT_S) as client:
            client.unpause(container.id)

    def kill(self, container_id: str) -> None:
        """Kill a container's processes at once."""
        with self._client(ACT_LIMIT_S) as client:
            client.kill(container_id)

    @contextlib.contextmanager
    def _client(self, limit_s: float) -> Iterator[Any]:
        """Lend the library's client; each request may take what is left of `limit_s`."""
        deadline = self._clock() + limit_s
        found = self.listening(limit_s)
        if found.listening is Listening.NOBODY:
            raise EngineDownError("docker daemon is not running")
        if found.listening is Listening.SILENT:
            raise EngineSilentError(f"docker daemon {found.reason}")
        docker, requests = _library()
        client = docker.APIClient(
            base_url=self.url, version=found.api_version or "auto", timeout=max(0.1, deadline - self._clock())
        )
        try:
            yield _Bounded(client, deadline, self._clock)
        except docker.errors.APIError as error:
            raise EngineRefusedError(f"docker daemon: {_one_line(error.explanation or error)}") from error
        except requests.exceptions.RequestException as error:
            # an answer that begins and does not go on is another kind of error to the library
            if isinstance(error, requests.exceptions.Timeout) or "timed out" in str(error):
                raise EngineSilentError(f"docker daemon does not answer within {limit_s:g} s") from error
            # it was there a moment ago: a connection that breaks is a daemon that has just ended
            raise EngineDownError("docker daemon is not running") from error
        except docker.errors.DockerException as error:
            raise EngineRefusedError(f"docker library: {_one_line(error)}") from error
        finally:
            client.close()


class _Bounded:
    """The library's client with one deadline for all its requests."""

    def __init__(self, client: Any, deadline: float, clock: Callable[[], float]) -> None:
        self._client = client
        self._deadline = deadline
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        self._client.timeout = max(0.1, self._deadline - self._clock())
        return getattr(self._client, name)


def _library() -> Tuple[Any, Any]:
    """Return the docker library, and the one that it speaks HTTP by."""
    try:
        import docker
        import requests
    except ImportError as error:
        raise EngineRefusedError(
            f"the docker library cannot be imported ({error}): install python3-docker, or docker from PyPI"
        ) from error
    return docker, requests


def _inspected(client: Any, container_id: str) -> Optional[Container]:
    docker, _ = _library()
    try:
        return _container(client.inspect_container(container_id))
    except docker.errors.NotFound:
        return None  # removed since it was listed


def _container(told: Mapping[str, Any]) -> Container:
    state = told.get("State") or {}
    config = told.get("Config") or {}
    policy = ((told.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name") or "no"
    grace_s = config.get("StopTimeout")
    return Container(
        id=str(told["Id"]),
        name=str(told.get("Name") or "").lstrip("/"),
        image_id=_without_kind(str(told.get("Image") or "")),
        state=str(state.get("Status") or "exited"),
        restart_policy=str(policy),
        exit_code=int(state.get("ExitCode") or 0),
        stop_grace_s=10 if grace_s is None else max(0, int(grace_s)),
    )


def _image(told: Mapping[str, Any]) -> Image:
    tags: Sequence[str] = told.get("RepoTags") or ()
    digests: Sequence[str] = told.get("RepoDigests") or ()
    return Image(
        id=_without_kind(str(told["Id"])),
        tags=tuple(tag for tag in tags if not tag.startswith("<none>")),
        digests=tuple(digest for digest in digests if not digest.startswith("<none>")),
    )


def _plain_id(text: str) -> str:
    """Return the hexadecimal digits of an id, "" for a text that is none."""
    digits = _without_kind(text)
    is_id = 4 <= len(digits) <= 64 and all(digit in "0123456789abcdef" for digit in digits)
    return digits if is_id else ""


def _without_kind(text: str) -> str:
    return text[len(_KIND) :] if text.startswith(_KIND) else text


def _one_line(error: object) -> str:
    return " ".join(str(error).split())
