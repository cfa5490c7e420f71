"""A docker daemon of a service's own: started before its first container, gone after its last.

It has a containerd of its own (`_containerd`), which is started before it and ends after it. Its
data are on a file system of the service, so that it may live only where that is mounted: it
is not started before, and nothing of it is left when the file system is about to be unmounted.
A daemon that was killed leaves containers that run on, sockets, a pid file whose number may be
another process's by now, and mounts; all of that is cleared away before a start and at a stop.

Two of a service's containers may be started at once: the daemon is started and ended under a
lock, and not ended under a container that is just being started. Two services may be started at
once, too, as in a takeover of both: docker daemons that make the same chains of iptables at the same
time end with `Chain already exists`, so they are let do that one after the other.

Runs in: the process of an action, or of `svcmgr docker`. A status asks `leftovers` alone.

Source: C.6. Ours: the end is waited for, and leftovers are dealt with.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Mapping, Sequence, Tuple

from opensvc_hb.agent.resource import ActionError, Resource, ResourceContext, Status

from ..fs._mounts import parse_mountinfo
from ._containerd import (
    PROGRAM,
    configuration_path,
    is_listening,
    socket_path,
    write_configuration,
)
from ._engine import Engine, EngineSilentError
from ._knock import SOCKET_PATH_BYTES_MAX, Listening, socket_path_excess
from ._places import Places, forget_container, noted_containers
from ._processes import EngineProcess, EngineProcesses, Role, end_in_order, kill_all, named

SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
START_LIMIT_S = 120.0
"""From its start to its first answer: a daemon reads all of its containers first, and after a crash of the
other node it makes their networks anew.
"""
UNSEEN_S = 2.0
"""While a process becomes another program it shows no command line for a moment."""
END_LIMIT_S = 15.0
"""From SIGTERM to SIGKILL. Source: C.6, the later agents' wait."""
KILL_LIMIT_S = 10.0
LOCK_LIMIT_S = 2.5 * START_LIMIT_S
"""Of a service's own daemon: another container of it may wait for its turn, then start the daemon."""
KNOCK_LIMIT_S = 5.0
UMOUNT_LIMIT_S = 30.0
STEP_S = 0.1
FOLDERS_WITH_MOUNTS = (
    *("overlay2", "overlay", "fuse-overlayfs", "aufs", "btrfs", "devicemapper", "zfs", "vfs"),
    *("containers", "containerd", "plugins", "rootfs", "buildkit", "volumes"),
)
"""Of the data directory: where a docker daemon mounts for its containers, by every storage driver."""
LOG_BYTES_MAX = 5 << 20
"""Source: A.1, the size at which logs are put aside."""


class PrivateDaemon:
    """The docker daemon of one service.

    Args:
        context: of the resource that needs the daemon; its log lines are written by it.
        places: its paths.
        program: dockerd.
        arguments: further options for it.
        engine: at its socket.
    """

    def __init__(
        self,
        context: ResourceContext,
        places: Places,
        program: str,
        arguments: Sequence[str],
        engine: Engine,
    ) -> None:
        self.context = context
        self.places = places
        self.engine = engine
        self._program = program
        self._arguments = tuple(arguments)

    @property
    def _resources(self) -> Sequence[Resource]:
        return self.context.service_resources()

    @property
    def argv(self) -> Tuple[str, ...]:
        """Its command line."""
        places = self.places
        return (
            *(self._program, "-H", self.engine.url, "--data-root", places.data_root),
            *("--pidfile", places.pid_file, "--exec-root", places.exec_root),
            *("--containerd", socket_path(places.exec_root), *self._arguments),
        )

    @property
    def processes(self) -> EngineProcesses:
        """Its processes, those of its containers included."""
        return EngineProcesses(
            self.places.exec_root, self.places.pid_file, noted_containers(self.places.notes)
        )

    def leftovers(self) -> Tuple[EngineProcess, ...]:
        """Return what lives of the daemon and its containers; asked where nobody answers."""
        return self.processes.find()

    def objection(self) -> str:
        """Tell why the daemon can never be started here, "" when it can; looks at no file system."""
        excess = socket_path_excess(self.places.socket)
        if excess:
            return (
                f"the path of the docker daemon's socket, {self.places.socket}, is {excess} bytes longer "
                f"than the {SOCKET_PATH_BYTES_MAX} of a socket: give the service a shorter name"
            )
        if not program_path(self._program):
            return "docker executable not found"
        return "" if program_path(PROGRAM) else "containerd executable not found"

    def missing_file_system(self) -> str:
        """Return the sentence that refuses a start while the data are not mounted, "" when they are.

        Source: C.6.
        """
        for resource, status in _file_systems_of(self._resources, self.places.data_root):
            if status not in (Status.UP, Status.STDBY_UP):
                return (
                    f"the docker daemon data dir is handled by the {resource.rid} resource in {status.text} "
                    "state. can't start the docker daemon"
                )
        return ""

    def concerns(self) -> Tuple[str, ...]:
        """Return what is wrong with the place of the data, one line each."""
        if any(_has_data(mnt, self.places.data_root) for _, mnt in _mount_points(self._resources)):
            return ()
        return (
            f"docker_data_dir {self.places.data_root} is on no file system of this service: "
            "images and containers stay behind when it moves",
        )

    def ensure_running(self, quietly: bool = False) -> bool:
        """Start the daemon unless it answers; tell whether it was started.

        Args:
            quietly: no log line but for what is in the way.

        Raises:
            EngineSilentError: one runs and does not answer.
            ActionError: it cannot be started.
        """
        if self.engine.listening().listening is Listening.ANSWERS and is_listening(self.places):
            return False
        refusal = self.objection()
        if refusal:
            raise ActionError(refusal)
        missing = self.missing_file_system()
        if missing:
            self.context.warning(missing)
            raise ActionError("docker daemon is not running")
        with self._locked(self.places.start_lock):
            found = self.engine.listening()
            if found.listening is Listening.ANSWERS:
                if not is_listening(self.places):
                    self._start_containerd(quietly)  # the daemon finds it again by itself
                return False  # else another container of ours was first
            if found.listening is Listening.SILENT:
                raise EngineSilentError(f"docker daemon {found.reason}")
            self.clear_away("by a docker daemon that is gone")
            try:
                self._start(quietly)
            except ActionError:
                self.clear_away()
                raise
        return True

    def end_if_idle(self) -> None:
        """End the daemon when no container of the service runs in it, others in it with it.

        Called after each container's stop and failed start; while another container of ours is
        being started the daemon stays.
        """
        with self._locked(self.places.start_lock), self._unused() as unused:
            if not unused or self.engine.listening().listening is not Listening.ANSWERS:
                return
            alive = [container for container in self.engine.look().containers if container.is_alive]
            ours = container_names(self.context)
            if any(container.name in ours for container in alive):
                return
            if alive:
                strangers = ", ".join(container.name for container in alive)
                self.context.warning(f"containers of no resource of this service end, too: {strangers}")
            self.context.info("no more container handled by docker daemon. shut it down")
            left = end_in_order(self.processes, END_LIMIT_S)
            if any(process.role is Role.DAEMON for process in left):
                self.context.warning(f"the docker daemon is killed: not ended within {END_LIMIT_S:g} s")
            self.clear_away()

    def end_by_force(self, why: str) -> None:
        """End a daemon that answers no more, and all that runs in it."""
        self.context.warning(f"{why}: it is killed, and its containers with it")
        with self._locked(self.places.start_lock):
            self.clear_away()

    def clear_away_leftovers(self) -> bool:
        """End what a dead daemon left, mounts included; tell whether there was anything."""
        if not self.leftovers() and not self._leftover_mounts():
            return False
        with self._locked(self.places.start_lock):
            self.clear_away("by a docker daemon that is gone")
        return True

    def clear_away(self, left_by: str = "") -> None:
        """Kill what lives of the daemon, unmount what it had mounted, remove its socket and pid file.

        Args:
            left_by: for the log line about processes that should not be there any more.

        Raises:
            ActionError: something of it cannot be ended; its data may be written to.
        """
        living = self.leftovers()
        if living and left_by:
            self.context.warning(f"left {left_by}, and killed now: {named(living)}")
        survivors = kill_all(self.processes, KILL_LIMIT_S) if living else ()
        if survivors:
            raise ActionError(f"of the docker daemon these survive SIGKILL: {named(survivors)}")
        for container_id in noted_containers(self.places.notes):
            forget_container(self.places.notes, container_id)
        self._unmount_leftovers()
        for path in (self.places.pid_file, self.places.socket):
            Path(path).unlink(missing_ok=True)
        # the numbers in it are of processes that are gone, and may be another's
        shutil.rmtree(self.places.exec_root, ignore_errors=True)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the daemon from being ended by others meanwhile."""
        with self._locked(self.places.use_lock, fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def first_steps(self) -> Iterator[None]:
        """Keep other services' daemons from their first steps; one that hangs stops nobody for good."""
        descriptor = self._open_lock(self.places.first_steps_lock)
        try:
            if not self._wait_for_lock(descriptor, fcntl.LOCK_EX, START_LIMIT_S):
                path = self.places.first_steps_lock
                self.context.warning(f"another service's docker daemon takes long to start: {path} is locked")
            yield
        finally:
            os.close(descriptor)

    # -- how it is started -----------------------------------------------------------------------

    def _start(self, quietly: bool) -> None:
        self._make(Path(self.places.socket).parent, 0o755)
        if not quietly:
            self.context.info("starting docker daemon")
        self._start_containerd(quietly)
        with self.first_steps():
            self._spawn(self.argv, quietly)
            self._wait_until_it_answers()

    def _start_containerd(self, quietly: bool) -> None:
        places = self.places
        self._make(Path(places.exec_root), 0o711)
        try:
            write_configuration(places)
        except OSError as error:
            raise ActionError(f"cannot write {error.filename}: {error.strerror}") from error
        argv = (PROGRAM, "--config", configuration_path(places.exec_root), "--log-level", "warn")
        self._spawn(argv, quietly)
        self._wait_for("containerd", Role.CONTAINERD, lambda: is_listening(places))

    def _spawn(self, argv: Sequence[str], quietly: bool) -> None:
        """Start a program that outlives the action, in a session of its own."""
        if not quietly:
            self.context.info(" ".join(argv))
        log = self._open_log()
        try:
            # setsid ends at once, so that the program is nobody's child whom we would have to wait for
            done = subprocess.run(
                ["setsid", "--fork", *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment(os.environ),
                check=False,
            )
        except OSError as error:
            raise ActionError(f"{argv[0]} cannot be started: {error.strerror}") from error
        finally:
            os.close(log)
        if done.returncode != 0:
            raise ActionError(f"{argv[0]} cannot be started: {self._last_words()}")

    def _wait_until_it_answers(self) -> None:
        def answers() -> bool:
            return self.engine.listening(KNOCK_LIMIT_S).listening is Listening.ANSWERS

        self._wait_for("the docker daemon", Role.DAEMON, answers)

    def _wait_for(self, name: str, role: Role, answers: Callable[[], bool]) -> None:
        deadline = self._now() + START_LIMIT_S
        seen_at = self._now()
        while not answers():
            if any(process.role is role for process in self.leftovers()):
                seen_at = self._now()
            elif self._now() - seen_at > UNSEEN_S:
                raise ActionError(f"{name} has ended: {self._last_words()}")
            if self._now() >= deadline:
                raise ActionError(f"{name} does not answer within {START_LIMIT_S:g} s of its start")
            time.sleep(STEP_S)  # nothing tells that it listens

    def _make(self, path: Path, mode: int) -> None:
        try:
            path.mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise ActionError(f"cannot create {path}: {error.strerror}") from error

    def _open_log(self) -> int:
        """Open the daemon's log; what cannot be written is lost, the daemon runs all the same."""
        path = Path(self.places.log)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, flags, 0o640)
            if os.fstat(descriptor).st_size > LOG_BYTES_MAX:
                os.close(descriptor)
                path.replace(f"{path}.1")
                descriptor = os.open(path, flags, 0o640)
        except OSError as error:
            self.context.warning(f"what the docker daemon writes is lost: {path}: {error.strerror}")
            return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        return descriptor

    def _last_words(self) -> str:
        """Return the line of the daemon's log that says why it ended: the last of an error, else the last."""
        try:
            text = Path(self.places.log).read_text(errors="replace")
        except OSError:
            text = ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        reasons = [line for line in lines if _is_reason(line)]
        return f"{(reasons or lines or ['no reason given'])[-1]} ({self.places.log})"

    # -- what it leaves --------------------------------------------------------------------------

    def _unmount_leftovers(self) -> None:
        for point in self._leftover_mounts():
            result = self.context.run(["umount", point], UMOUNT_LIMIT_S)
            if result.status != 0:
                self.context.warning(" ".join(result.stderr.split()))

    def _leftover_mounts(self) -> Tuple[str, ...]:
        """Return what the daemon mounted for its containers, the inmost first; nothing of others."""
        places = self.places
        table = parse_mountinfo(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
        folders = (places.exec_root, *(f"{places.data_root}/{name}" for name in FOLDERS_WITH_MOUNTS))
        points = [mount.mount_point for mount in table]
        found = [point for point in points if any(_is_below(point, folder) for folder in folders)]
        own = [mnt for _, mnt in _mount_points(self._resources) if _is_below(mnt, places.data_root)]
        found = [point for point in found if not any(point == mnt or _is_below(point, mnt) for mnt in own)]
        return tuple(sorted(found, key=len, reverse=True))

    # -- locks -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self, path: str, kind: int = fcntl.LOCK_EX) -> Iterator[None]:
        descriptor = self._open_lock(path)
        try:
            if not self._wait_for_lock(descriptor, kind, LOCK_LIMIT_S):
                raise ActionError(f"another starts or ends the docker daemon: {path} is locked")
            yield
        finally:
            os.close(descriptor)

    def _wait_for_lock(self, descriptor: int, kind: int, limit_s: float) -> bool:
        """Take a lock; tell whether it was to be had within the limit."""
        deadline = self._now() + limit_s
        while not _flock(descriptor, kind):
            if self._now() >= deadline:
                return False
            time.sleep(STEP_S)  # flock has no time limit
        return True

    @contextlib.contextmanager
    def _unused(self) -> Iterator[bool]:
        """Tell whether no container of the service is being started, and see to it that none is meanwhile."""
        descriptor = self._open_lock(self.places.use_lock)
        try:
            yield _flock(descriptor, fcntl.LOCK_EX)
        finally:
            os.close(descriptor)

    def _open_lock(self, path: str) -> int:
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ActionError(f"cannot open the lock {path}: {error.strerror}") from error

    @staticmethod
    def _now() -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)


def container_names(context: ResourceContext) -> Mapping[str, str]:
    """Return the names of the containers of a service's resources, with the resource of each."""
    return {
        container_name(context.svcname, resource.rid): resource.rid
        for resource in context.service_resources()
        if resource.type_name == "container.docker"
    }


def container_name(svcname: str, rid: str) -> str:
    """Return the name of a resource's container. Source: C.6: the rid, # replaced by a dot."""
    return f"{svcname}.{rid.replace('#', '.')}"


def _file_systems_of(resources: Sequence[Resource], data_root: str) -> Iterator[Tuple[Resource, Status]]:
    """Return the service's file systems that the data are on, or that are below them; the inmost first."""
    concerned: List[Tuple[Resource, str]] = [
        (resource, mnt)
        for resource, mnt in _mount_points(resources)
        if _has_data(mnt, data_root) or _is_below(mnt, data_root)
    ]
    for resource, _mnt in sorted(concerned, key=lambda pair: (pair[1] != data_root, -len(pair[1]))):
        before = list(resource.messages)
        status = resource.status()
        resource.messages[:] = before
        yield resource, status


def _mount_points(resources: Sequence[Resource]) -> Iterator[Tuple[Resource, str]]:
    for resource in resources:
        mnt = resource.options.get("mnt") if resource.group == "fs" else None
        if mnt:
            yield resource, str(mnt)


def _has_data(mnt: str, data_root: str) -> bool:
    return mnt == data_root or _is_below(data_root, mnt)


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def program_path(program: str) -> str:
    """Return where a program of docker is, "" when it is nowhere."""
    return shutil.which(program, path=_environment(os.environ)["PATH"]) or ""


def _environment(base: Mapping[str, str]) -> Dict[str, str]:
    """Return the daemon's environment: ours, with the marks of the action, and where its tools are."""
    folders = dict.fromkeys((*base.get("PATH", "").split(":"), *SYSTEM_FOLDERS))
    return {**base, "PATH": ":".join(folder for folder in folders if folder)}


def _is_reason(line: str) -> bool:
    """Tell whether a line of the daemon's log is about an error, and none of its many reports."""
    return not line.startswith("time=") or "level=fatal" in line or "level=error" in line


def _flock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
