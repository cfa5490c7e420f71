"""The guardian as the monitor sees it: orders go out, and a start waits for its confirmation.

An order that adds no service is sent without waiting for anything but room in the socket. One that
adds some is confirmed first, within `CONFIRM_WAIT_S`, usually a fraction of a millisecond; a start
whose service is not in the last confirmed order is not begun (`objection`). A socket that takes no
order, or a guardian that confirms none, is one that does not answer: the keeper ends it and
starts another (`guardian_keeper`), which is given the newest order by `reached`.

Orders are sent from the monitor's own thread, and nothing but the socket carries them: what
was sent is the guardian's even if this process is killed in the next moment.

Runs in: monitor thread.
"""

from __future__ import annotations

import logging
import queue
import select
import socket
from collections import deque
from dataclasses import dataclass, replace
from typing import AbstractSet, Callable, Deque, FrozenSet, Optional, Tuple

from opensvc_hb.core import effects as fx
from opensvc_hb.core.events import GuardianActed
from opensvc_hb.core.guardian import Order
from opensvc_hb.daemon.guardian_wire import Know, Ordered, Renewed, encode

log = logging.getLogger("guardian")

CONFIRM_WAIT_S = 0.25
SILENT_MAX_S = 2.0
"""A guardian that confirms nothing for so long, while this thread runs, is replaced."""
_TURN_MAX_S = 0.5
"""At most so much silence is counted between two looks: a pause of this process is not its fault."""
LOST = -1
"""In place of a number: the connection has ended."""


@dataclass(frozen=True)
class Connection:
    """A guardian that was reached.

    Args:
        end: our end of the socket: this thread sends, the keeper receives.
        pid: the guardian.
        generation: tells this connection from those before it.
    """

    end: socket.socket
    pid: int
    generation: int


Confirmation = Tuple[int, int]
"""Generation of the connection; number of the line that was obeyed, or `LOST`."""


@dataclass(frozen=True)
class Reached:
    """For the monitor's inbox: another guardian is there, in place of one that was lost."""

    connection: Connection
    event: GuardianActed


@dataclass(frozen=True)
class Learned:
    """For the monitor's inbox: what the guardian must know has changed. It has no number yet."""

    know: Know


@dataclass(frozen=True)
class _Sent:
    """An order on its way: its number, and the services that its confirmation stands for."""

    number: int
    services: FrozenSet[str]


class Guardian:
    """Gives the guardian its orders.

    Args:
        know: what the guardian must know, its number ignored.
        confirmations: the keeper puts what the guardian confirms.
        replace_it: asks the keeper for another guardian, in place of a connection's.
        clock: seconds.
    """

    def __init__(
        self,
        know: Know,
        confirmations: queue.SimpleQueue[Confirmation],
        replace_it: Callable[[Connection], None],
        clock: Callable[[], float],
    ) -> None:
        self._know = know
        self._confirmations = confirmations
        self._replace_it = replace_it
        self._clock = clock
        self._connection: Optional[Connection] = None
        self._wanted: Optional[Order] = None
        self._names: FrozenSet[str] = frozenset()
        self._told: Optional[Order] = None
        self._number = 0
        self._pending: Deque[_Sent] = deque()
        self._confirmed: FrozenSet[str] = frozenset()
        self._silent_s = 0.0
        self._looked_at = clock()

    # -- orders ---------------------------------------------------------------------------------------

    def order(self, guard: fx.Guard) -> None:
        """Give an order; wait for its confirmation when it adds a service to the one before."""
        before = self._wanted
        self._wanted = Order(guard.until, guard.timeout_s, guard.services, guard.ending)
        if before is None or before.services != guard.services:
            self._names = frozenset(name for name, _ in guard.services)
        self._take_confirmations()
        grows = not self._is_confirmed(self._names)
        number = self._send_order()
        if grows and number is not None:
            self._await(number)

    def objection(self, service: str) -> str:
        """Return why a start of this service may not begin, "" when it may.

        A service that core's last order does not name needs no guardian.
        """
        if service not in self._names or self._is_confirmed({service}):
            return ""
        self._take_confirmations()
        if self._is_confirmed({service}):
            return ""
        return f"the guardian does not answer: {self._trouble()}"

    @property
    def problem(self) -> str:
        """Why nothing that needs the guardian can start now, "" when it can; read by other threads."""
        wanted = self._wanted
        return self._trouble() if wanted is not None and wanted.services and self._connection is None else ""

    def settle(self) -> None:
        """Before this daemon ends: wait until the last order is confirmed, or the wait is over."""
        self._take_confirmations()
        if self._pending:
            self._await(self._pending[-1].number)

    # -- the life of a connection -----------------------------------------------------------------------

    def reached(self, connection: Connection) -> None:
        """Use another guardian: tell it what it must know, and the newest order."""
        self._forget()
        self._connection = connection
        self._silent_s = 0.0
        self._send_know()
        self._send_order()

    def learn(self, know: Know) -> None:
        """Tell the guardian what it must know from now on."""
        self._know = know
        self._send_know()

    def look(self) -> None:
        """Take in what was confirmed, and have a guardian replaced that does not answer."""
        now = self._clock()
        passed_s, self._looked_at = now - self._looked_at, now
        self._take_confirmations()
        self._silent_s = self._silent_s + min(passed_s, _TURN_MAX_S) if self._pending else 0.0
        if self._silent_s > SILENT_MAX_S:
            self._give_up(f"process {self._pid()} has confirmed no order for {self._silent_s:.1f} s")

    def _give_up(self, why: str) -> None:
        connection = self._forget()
        if connection is not None:
            log.error("the guardian does not answer: %s", why)
            self._replace_it(connection)

    def _forget(self) -> Optional[Connection]:
        """Be without a guardian, and return the connection that was in use."""
        connection, self._connection = self._connection, None
        self._pending.clear()
        self._confirmed = frozenset()
        self._told = None
        return connection

    def _trouble(self) -> str:
        return "it is being started again" if self._connection is None else "it has not confirmed its order"

    def _pid(self) -> int:
        return 0 if self._connection is None else self._connection.pid

    def _is_confirmed(self, names: AbstractSet[str]) -> bool:
        """Tell whether the guardian guards these services, whichever of our last orders it has."""
        return names <= self._confirmed and all(names <= sent.services for sent in self._pending)

    # -- lines ------------------------------------------------------------------------------------------

    def _send_know(self) -> None:
        self._number += 1
        self._send(encode(replace(self._know, number=self._number)))

    def _send_order(self) -> Optional[int]:
        """Send the order that is wanted; return its number, None when it could not be sent."""
        order, told = self._wanted, self._told
        if order is None or self._connection is None:
            return None
        self._number += 1
        same = told is not None and replace(told, until=order.until) == order
        line = encode(Renewed(self._number, order.until) if same else Ordered(self._number, order))
        if not self._send(line):
            return None
        self._told = order
        self._pending.append(_Sent(self._number, self._names))
        return self._number

    def _send(self, line: bytes) -> bool:
        """Send a line whole; one that the guardian does not take is the end of the connection.

        It looks through the processes of the node while it ends things, and the end of many instances
        is many long orders at once: it has a moment to take each.
        """
        connection = self._connection
        if connection is None:
            return False
        deadline = self._clock() + CONFIRM_WAIT_S
        view = memoryview(line)
        try:
            while view:
                try:
                    view = view[connection.end.send(view, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) :]
                except BlockingIOError:
                    left_s = deadline - self._clock()
                    if left_s <= 0:
                        self._give_up("its socket is full")
                        return False
                    poll = select.poll()
                    poll.register(connection.end, select.POLLOUT)
                    poll.poll(left_s * 1000)
        except OSError as error:
            self._give_up(error.strerror or str(error))
            return False
        return True

    def _await(self, number: int) -> None:
        """Wait until this line is confirmed, the connection ends, or the wait is over."""
        deadline = self._clock() + CONFIRM_WAIT_S
        while self._pending and self._pending[0].number <= number:
            left_s = deadline - self._clock()
            if left_s <= 0:
                return
            try:
                self._take(self._confirmations.get(timeout=left_s))
            except queue.Empty:
                return

    def _take_confirmations(self) -> None:
        while True:
            try:
                self._take(self._confirmations.get_nowait())
            except queue.Empty:
                return

    def _take(self, confirmation: Confirmation) -> None:
        generation, number = confirmation
        if self._connection is None or generation != self._connection.generation:
            return
        if number == LOST:
            self._forget()
            return
        self._silent_s = 0.0
        while self._pending and self._pending[0].number <= number:
            self._confirmed = self._pending.popleft().services
