"""The guardian thread: finds or starts this root's guardian, and hears what it says.

A guardian outlives daemons, so a new daemon first asks for the one that is there; its order is
the deadline that this daemon inherits. One that runs from another release of the package hands
its order to a new one. One that is gone, or does not answer, is replaced, and the monitor is
told by its inbox; it sends the order (`guardian.Guardian`).

The guardian is started in a session of its own, as nobody's child, and under systemd in a scope
of its own: no unit of its own, so that a node under its own root directory, or without systemd,
has the same one way.

Runs in: guardian thread; the first `reach` in the main thread, before the monitor runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Mapping, Optional, Protocol, Tuple, Union

import opensvc_hb
from opensvc_hb import __version__
from opensvc_hb.client import with_address
from opensvc_hb.core.events import GuardianActed
from opensvc_hb.core.guardian import Order
from opensvc_hb.daemon.guardian import LOST, Confirmation, Connection, Reached
from opensvc_hb.daemon.guardian_wire import (
    LINE_BYTES_MAX,
    Acted,
    Answer,
    Done,
    Greeting,
    Hello,
    Know,
    Ordered,
    Refusal,
    Rested,
    WireError,
    encode,
    read_answer,
)
from opensvc_hb.daemon.sessions import boottime
from opensvc_hb.paths import Root

log = logging.getLogger("guardian")

MODULE = "opensvc_hb.daemon.guardian_process"
READY = b"ready"
THREAD_NAME = "guardian"
START_WITHIN_S = 5.0
ANSWER_WITHIN_S = 1.0
END_WITHIN_S = 1.0
REACH_WITHIN_S = 5.0
REST_WITHIN_S = 15.0
"""A stop action that takes longer is not waited for: the peers should hear that this node lives."""
ATTEMPTS = 4
_PAUSE_FIRST_S = 0.1
_PAUSE_LONGEST_S = 5.0
_CREDENTIALS = struct.Struct("3i")


class Inbox(Protocol):
    """Where events go: the monitor thread's queue."""

    def put(self, item: Union[Reached, GuardianActed], /) -> None:
        """Take an item, at once."""


@dataclass(frozen=True)
class Found:
    """A guardian that answered.

    Args:
        order: what it holds, None for nothing.
        acted: what it did while no daemon listened.
        ending: whether it was ending something, and does so still.
    """

    connection: Connection
    order: Optional[Order]
    acted: Tuple[Acted, ...]
    ending: bool = False

    @property
    def lease(self) -> Tuple[Optional[float], float, Tuple[Tuple[str, str], ...]]:
        """What a new daemon inherits: deadline, its T, services; see `core.events.DaemonStarted`."""
        order = self.order
        return (order.until, order.timeout_s, order.services) if order and order.services else (None, 0.0, ())


class Keeper:
    """Keeps this root's guardian at hand.

    Args:
        root: of this node.
        environment: variables for the guardian, without marks of services.
        inbox: takes `Reached` and `GuardianActed`.
        enter_scope: moves the guardian's process into a scope of its own, and returns "" or why not;
            None without systemd.
    """

    def __init__(
        self,
        root: Root,
        environment: Mapping[str, str],
        inbox: Inbox,
        enter_scope: Optional[Callable[[int], str]] = None,
    ) -> None:
        self._root = root
        self._environment = dict(environment)
        self._inbox = inbox
        self._enter_scope = enter_scope
        self._generation = 0
        self._rest = bytearray()
        self._closing = threading.Event()
        self._first: Union[Found, str] = ""
        self._why = ""
        self._pause_s = _PAUSE_FIRST_S
        self._reading: Optional[socket.socket] = None
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self.confirmations: queue.SimpleQueue[Confirmation] = queue.SimpleQueue()

    def start(self, found: Union[Found, str]) -> None:
        """Start the thread, with what the first `reach` returned."""
        self._first = found
        self._thread.start()

    def replace_it(self, connection: Connection) -> None:
        """Have another guardian in place of this one, if it does not answer to the thread either."""
        with contextlib.suppress(OSError):
            connection.end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Leave the guardian; it stays as long as it guards something."""
        self._closing.set()
        reading = self._reading
        if reading is not None:
            with contextlib.suppress(OSError):
                reading.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join(END_WITHIN_S)

    # -- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        found = self._first
        while not self._closing.is_set():
            try:
                found = self._turn(found)
            except Exception as error:  # the top of the thread: nobody else looks for a guardian
                log.exception("the guardian thread failed; it looks for a guardian again")
                found = f"{type(error).__name__}: {error}"
                self._closing.wait(_PAUSE_FIRST_S)  # what fails at once, again and again, must not spin
        if isinstance(found, Found):
            found.connection.end.close()

    def _turn(self, found: Union[Found, str]) -> Union[Found, str]:
        """Listen to a guardian until it is gone, or pause where there was none; then look for one."""
        if isinstance(found, Found):
            if self._why:
                what = f"{self._why}; process {found.connection.pid} is the guardian now"
                self._inbox.put(Reached(found.connection, GuardianActed((), what)))
                for acted in found.acted:
                    self._inbox.put(GuardianActed(acted.services, acted.what, acted.alarm))
            self._pause_s = _PAUSE_FIRST_S
            self._why = f"the guardian, process {found.connection.pid}, was given up"  # if hearing it fails
            self._why = f"the guardian, process {found.connection.pid}, {self._listen(found.connection)}"
            if not self._closing.is_set():
                log.error("%s", self._why)
        else:
            if not self._why:
                self._inbox.put(GuardianActed((), f"no guardian: {found}: nothing can start"))
                log.error("no guardian: %s", found)
            self._why = self._why or f"there was no guardian ({found})"
            self._closing.wait(self._pause_s)
            self._pause_s = min(2 * self._pause_s, _PAUSE_LONGEST_S)
        return found if self._closing.is_set() else self.reach()

    def _listen(self, connection: Connection) -> str:
        """Hear what the guardian says until it is gone; return how that showed."""
        self._reading = connection.end
        reason = "has ended"
        try:
            while True:
                line = self._line(connection.end, None)
                if line is None:
                    break
                self._hear(connection, read_answer(line))
        except WireError as error:
            reason = f"spoke no sense: {error}"
        finally:
            self._reading = None
            self.confirmations.put((connection.generation, LOST))
            connection.end.close()
        return reason

    def _hear(self, connection: Connection, answer: Answer) -> None:
        if isinstance(answer, Done):
            self.confirmations.put((connection.generation, answer.number))
        elif isinstance(answer, Acted):
            self._inbox.put(GuardianActed(answer.services, answer.what, answer.alarm))
        elif isinstance(answer, Refusal):
            log.error("the guardian refuses an order: %s", answer.reason)

    def _line(self, end: socket.socket, timeout_s: Optional[float]) -> Optional[bytes]:
        """Return the next line, None at the end of the connection or after the time."""
        end.settimeout(timeout_s)
        while b"\n" not in self._rest:
            try:
                data = end.recv(65536)
            except OSError:
                data = b""
            if not data or len(self._rest) > LINE_BYTES_MAX:
                return None
            self._rest += data
        line, _, rest = bytes(self._rest).partition(b"\n")
        self._rest[:] = rest
        return line

    # -- finding and starting ---------------------------------------------------------------------------

    def reach(self, know: Optional[Know] = None, within_s: float = REACH_WITHIN_S) -> Union[Found, str]:
        """Connect to the guardian of this root, started if there is none; else return why not.

        Args:
            know: what one that gets the order of an older release is told with it: if this daemon ends
                in the next moment, it must be able to stop what it guards. Its number is ignored.
            within_s: after this time no further attempt is begun.
        """
        give_up_at = boottime() + within_s
        inherited: Optional[Order] = None
        acted: Tuple[Acted, ...] = ()
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt and boottime() >= give_up_at:
                break
            found = self._connect()
            if isinstance(found, Found) and found.order is None and inherited is not None:
                found = self._hand_over(found, inherited, know)
            if isinstance(found, Found):
                return replace(found, acted=(*acted, *found.acted))
            if isinstance(found, _Outdated):
                log.info("the guardian, process %d, is replaced by one of release %s", found.pid, __version__)
                inherited, acted = found.order, found.acted
            if isinstance(found, _Unanswered) and not found.asked:
                return found.problem  # it may be well: the want is ours, and nothing to kill it for
            # One that has the lock and no socket cannot be asked; it may also just be starting.
            pid = found.pid or (self._holder() if attempt > 1 else 0)
            if pid:
                self._kill(pid)
            problem = self._spawn() or found.problem
        return problem

    def await_rest(self, found: Found, within_s: float = REST_WITHIN_S) -> Found:
        """Wait for the end of what a guardian was ending when it was reached; return what it did till then.

        The agent, asked in the middle of that, would tell neither what was nor what will be, and a
        start that is begun then meets the end of the stop.
        """
        give_up_at = boottime() + within_s
        acted = list(found.acted)
        while found.ending:
            line = self._line(found.connection.end, max(0.001, give_up_at - boottime()))
            try:
                answer = Rested() if line is None else read_answer(line)
            except WireError:
                break  # told, and seen to, by the thread that listens next
            if isinstance(answer, Acted):
                acted.append(answer)
            found = replace(found, ending=not isinstance(answer, Rested))
        found.connection.end.settimeout(None)
        return replace(found, acted=tuple(acted), ending=False)

    def _connect(self) -> Union[Found, _Unanswered, _Outdated]:
        """Say hello to whoever listens."""
        self._rest.clear()
        try:
            end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        except OSError as error:
            return _Unanswered(0, f"cannot ask for the guardian: {error.strerror}", asked=False)
        end.settimeout(ANSWER_WITHIN_S)
        pid = 0
        try:
            with_address(str(self._root.guardian_socket), end.connect)
            credentials = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid = _CREDENTIALS.unpack(credentials)[0]
            end.sendall(encode(Hello()))
            line = self._line(end, ANSWER_WITHIN_S)
            answer = None if line is None else read_answer(line)
        except (OSError, WireError) as error:
            end.close()
            return _Unanswered(pid, f"{self._root.guardian_socket}: {error}")
        if not isinstance(answer, Greeting):
            end.close()
            return _Unanswered(pid, f"process {pid} gave no answer within {ANSWER_WITHIN_S:g} s")
        if answer.release != __version__:
            end.close()
            return _Outdated(pid, f"release {answer.release}", answer.order, answer.acted)
        end.settimeout(None)
        self._generation += 1
        connection = Connection(end, answer.pid, self._generation)
        return Found(connection, answer.order, answer.acted, answer.ending)

    def _hand_over(self, found: Found, order: Order, know: Optional[Know]) -> Union[Found, _Unanswered]:
        """Give a new guardian the order of the one before it."""
        end = found.connection.end
        told: Tuple[Union[Know, Ordered], ...] = (Ordered(0, order),)
        if know is not None:
            told = (replace(know, number=0), *told)
        try:
            end.sendall(b"".join(encode(each) for each in told))
            lines = [self._line(end, ANSWER_WITHIN_S) for _ in told]
            if all(line is not None and isinstance(read_answer(line), Done) for line in lines):
                end.settimeout(None)
                return Found(found.connection, order, found.acted)
        except (OSError, WireError):
            pass  # said below
        end.close()
        return _Unanswered(found.connection.pid, "a new guardian did not take the order of the one before it")

    def _spawn(self) -> str:
        """Start a guardian and wait until it listens; return "" or why not."""
        try:
            told, tell = os.pipe()
        except OSError as error:
            return f"cannot start the guardian: {error}"
        try:
            starter = subprocess.Popen(
                # Nothing of the site or the environment is imported: small, and the same everywhere.
                [sys.executable, "-S", "-E", "-m", MODULE, str(self._root.top), str(tell)],
                pass_fds=[tell],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env=self._environment,
                # -m looks into the working directory first, so that this very package is found.
                cwd=Path(opensvc_hb.__file__).parent.parent,
            )
        except OSError as error:
            os.close(told)
            return f"cannot start the guardian: {error}"
        finally:
            os.close(tell)
        try:
            poll = select.poll()
            poll.register(told, select.POLLIN)
            words = os.read(told, 4096) if poll.poll(START_WITHIN_S * 1000) else b""
            starter.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            starter.kill()
            starter.wait()
        finally:
            os.close(told)
        if words != READY:
            return words.decode(errors="replace") or f"no guardian came up within {START_WITHIN_S:g} s"
        self._leave_our_group()
        return ""

    def _leave_our_group(self) -> None:
        """Have systemd move the new guardian out of the daemon's control group."""
        if self._enter_scope is None:
            return
        warning = self._enter_scope(self._holder())
        if warning:
            log.warning("%s", warning)

    def _holder(self) -> int:
        """Return the process that has, or had last, the guardian's lock; 0 for none."""
        try:
            return int(self._root.guardian_lock.read_text())
        except (OSError, ValueError):
            return 0

    def _kill(self, pid: int) -> None:
        """End a guardian that does not answer, and wait for its end, so that its lock is free."""
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            return
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if MODULE.encode() not in words or str(self._root.top).encode() not in words:
                return  # it has ended, and its number is another's
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            poll.poll(END_WITHIN_S * 1000)
        except OSError:
            return
        finally:
            os.close(handle)


@dataclass(frozen=True)
class _Unanswered:
    """No guardian answered.

    Args:
        pid: the process that should have, 0 for none.
        asked: False where this process could not even ask: then nothing is known of the guardian.
    """

    pid: int
    problem: str
    asked: bool = True


@dataclass(frozen=True)
class _Outdated:
    """A guardian of another release answered."""

    pid: int
    problem: str
    order: Optional[Order]
    acted: Tuple[Acted, ...]
