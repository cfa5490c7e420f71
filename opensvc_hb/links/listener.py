"""The listener loop: what arrives on one line of another node becomes events for core.

Answers: which beats arrived on this link, and has everything that arrived been handed over?
Sleeps until the network has something, a slot is due to be read, or somebody asks; hands over
beats and counts the rest. It never says that a link is down: silence is core's to count.

`ask(token)`: everything that had arrived before the question is read and handed over, then
`LinkDrained(token)`. On a network that is bounded by what the receive buffer can hold, so that a
flood does not postpone the answer for ever; of a slot it takes one new read, and the answer tells
what the reads have shown. A link whose path fails answers at once (nothing can be waiting
there); a link that hangs in a read answers when it wakes, if ever: who asks needs a limit.

A node writes its slot when it sends its beats. So where a network has just brought one, the slots
of its sender are looked at out of turn: what they say is then known as young as it is, and the
silence of a node that dies is not counted from up to a read's distance later than it began.

Runs in: the listening thread of one link, except `ask` and `expect` (any thread).
"""

from __future__ import annotations

import queue
import select
import socket
from abc import abstractmethod
from threading import Event
from typing import Callable, List, Optional, Protocol, Tuple

from opensvc_hb.core.events import BeatReceived, LegacyBeat, LinkDrained, SlotView
from opensvc_hb.core.messages import Beat
from opensvc_hb.links.carrier import Arrival, Carrier, LinkEnd, LinkRole, SlotCarrier
from opensvc_hb.links.codec_native import Rejected, sealing_key_id
from opensvc_hb.links.codec_openha import Result, is_disbelieved
from opensvc_hb.links.link_thread import Clock, LinkThread, PutEvent, reason_of
from opensvc_hb.links.openha_structure import SLOT_BYTES as STRUCTURE_SLOT_BYTES
from opensvc_hb.links.openha_structure import native_part
from opensvc_hb.links.slot_watch import SlotWatch
from opensvc_hb.links.structure_watch import StructureWatch

READS_BETWEEN_LOOKS = 256
"""Under a flood, questions and stop requests are looked for after so many datagrams."""

WRITTEN_IN_S = 0.002
"""A slot is written within this of its beat on a network, as a rule."""

LATE_IN_S = 0.006
"""One that is written later than that is looked at once more; else the next read shows it."""

LOOK_MAX_S = 60.0
"""A listener that nothing wakes looks so often whether its thread should end."""


class Reader(Protocol):
    """Understands datagrams; a codec's reader."""

    def read(self, data: bytes, /) -> Tuple[Result, ...]:
        """Return what one datagram says; takes any bytes."""

    def begin_again(self) -> None:
        """Forget what was accepted: what comes next was there before anybody looked."""


class Listener(LinkThread):
    """Listens to one line of another node."""

    def __init__(self, carrier: LinkEnd, reader: Reader, put: PutEvent, clock: Clock) -> None:
        super().__init__(carrier, LinkRole.LISTENER, put, clock)
        self._reader = reader
        self._tokens: queue.SimpleQueue[int] = queue.SimpleQueue()
        # An eventfd would do, but Python 3.9 has none.
        self._wake_end, self._waker = socket.socketpair()
        self._wake_end.setblocking(False)
        self._waker.setblocking(False)

    def ask(self, token: int) -> None:
        """Have the thread hand over what has arrived, then answer `LinkDrained`."""
        self._tokens.put(token)
        self._wake()

    @abstractmethod
    def _look_in_s(self) -> float:
        """Return how long to sleep at most, seconds."""

    @abstractmethod
    def _hand_over(self, is_asked: bool) -> None:
        """Read what is there and make events of the beats; raises OSError.

        Args:
            is_asked: all that had arrived is wanted, however much it is.
        """

    def _settled(self, tokens: List[int]) -> List[int]:
        """Wait for what is about to come, if that is wanted; return all questions taken in by then."""
        return tokens

    def _heard_beat(self) -> None:
        """Note that a beat of ours came in."""

    def _arrives(self) -> Optional[int]:
        """Return the descriptor that becomes readable, None when there is none."""
        return None

    def _slot_view(self) -> Optional[SlotView]:
        """Return what the newest read of a slot showed."""
        return None

    def _wake(self) -> None:
        try:
            self._waker.send(b"!")
        except BlockingIOError:
            pass  # full of wake-ups that the thread has not seen yet: one is enough
        except OSError:
            assert self._stopped.is_set(), "the pair is closed at the end of the thread only"

    def _run(self) -> None:
        super()._run()
        self._wake_end.close()
        self._waker.close()

    def _loop(self) -> None:
        while not self._stopped.is_set():
            if self._ensure_open():
                self._wait(self._look_in_s())
            else:
                self._wait(max(0.0, self._retry_at - self._clock()))
            if self._stopped.is_set():
                return
            tokens = self._settled(self._asked())
            if self._is_open:
                self._look(bool(tokens))
            for token in tokens:
                self._put(LinkDrained(self.link.id, token, self._slot_view()))

    def _wait(self, timeout_s: float) -> None:
        """Sleep until something arrived, somebody asks, or `timeout_s` passed."""
        poll = select.poll()
        poll.register(self._wake_end, select.POLLIN)
        arrives = self._arrives() if self._is_open else None
        if arrives is not None:
            poll.register(arrives, select.POLLIN)
        # a time that has passed while this thread stood still is no wait: poll takes less than 0 for ever
        poll.poll(max(0.0, timeout_s) * 1000)

    def _asked(self) -> List[int]:
        """Return the questions that were there before anything is read now."""
        try:
            while self._wake_end.recv(4096):
                pass
        except BlockingIOError:
            pass
        tokens = []
        while True:
            try:
                tokens.append(self._tokens.get_nowait())
            except queue.Empty:
                return tokens

    def _look(self, is_asked: bool) -> None:
        try:
            self._hand_over(is_asked)
        except OSError as error:
            self._fail(reason_of(error))
            return
        self._worked()
        self._publish()

    def _take(self, arrival: Arrival) -> Tuple[Result, ...]:
        """Hand over what a datagram says, and return it."""
        if arrival.is_baseline:
            self._reader.begin_again()
        results = self._reader.read(arrival.datagram)
        for result in results:
            if isinstance(result, Rejected):
                self._refuse(result)
            elif not arrival.is_baseline:
                self._received += 1
                if isinstance(result, LegacyBeat):
                    self._hear(result)
                elif isinstance(result, Beat):
                    self._last_at = self._clock()
                    self._key_id = sealing_key_id(native_part(arrival.datagram))
                    self._put(BeatReceived(self.link.id, result))
                    self._heard_beat()
        return results

    def _refuse(self, rejected: Rejected) -> None:
        self._rejected[rejected.reason] += 1
        self._last_rejection = rejected.text

    def _hear(self, beat: LegacyBeat) -> None:
        self._last_at = self._clock()
        self._put(beat)


class DatagramListener(Listener):
    """Listens for datagrams."""

    def __init__(self, carrier: Carrier, reader: Reader, put: PutEvent, clock: Clock) -> None:
        super().__init__(carrier, reader, put, clock)
        self._path = carrier
        self._refresh_at = 0.0
        self._on_beat: Callable[[], None] = lambda: None

    def tell(self, on_beat: Callable[[], None]) -> None:
        """Have `on_beat` called, from this link's thread, for every beat; before `start`."""
        self._on_beat = on_beat

    def _heard_beat(self) -> None:
        self._on_beat()

    def _look_in_s(self) -> float:
        return self._path.refresh_every_s or LOOK_MAX_S

    def _arrives(self) -> Optional[int]:
        return self._path.fileno()

    def _hand_over(self, is_asked: bool) -> None:
        backlog_max = self._path.backlog_max
        for _ in range(backlog_max if is_asked else min(backlog_max, READS_BETWEEN_LOOKS)):
            arrival = self._path.read()
            if arrival is None:
                break
            self._take(arrival)
        every_s = self._path.refresh_every_s
        now = self._clock()
        if every_s is not None and now >= self._refresh_at:
            self._refresh_at = now + every_s
            self._path.refresh()


class SlotLooker(Listener):
    """Looks at a slot at its pace, and out of turn when something new is expected there."""

    def __init__(self, carrier: SlotCarrier, reader: Reader, put: PutEvent, clock: Clock) -> None:
        super().__init__(carrier, reader, put, clock)
        self._path = carrier
        self._expected = Event()
        self._late_at: Optional[float] = None
        """When an expected write that was not there yet is looked for once more."""

    def expect(self) -> None:
        """Have the slot looked at soon: its node has just been heard on a network."""
        if not self._expected.is_set():
            self._expected.set()
            self._wake()

    def _look_in_s(self) -> float:
        if self._late_at is not None:
            return min(self._path.reads_every_s, self._late_at - self._clock())
        return self._path.reads_every_s

    def _settled(self, tokens: List[int]) -> List[int]:
        """Give an expected write its time; a question is answered by a read made at once."""
        if self._late_at is not None and self._clock() >= self._late_at:
            self._late_at = None
        if self._expected.is_set():
            expected_at = self._clock()
            while not tokens and not self._stopped.is_set() and self._clock() < expected_at + WRITTEN_IN_S:
                self._wait(expected_at + WRITTEN_IN_S - self._clock())
                tokens = self._asked()
            self._expected.clear()
            self._late_at = expected_at + LATE_IN_S
        return tokens

    def _found_news(self) -> None:
        """Note that the slot has changed: nothing more is expected there."""
        self._late_at = None


class SlotListener(SlotLooker):
    """Looks at the slot of another node."""

    def __init__(
        self, carrier: SlotCarrier, reader: Reader, watch: SlotWatch, put: PutEvent, clock: Clock
    ) -> None:
        super().__init__(carrier, reader, put, clock)
        self._watch = watch

    def _hand_over(self, is_asked: bool) -> None:
        """Read the slot once; what it shows now answers every question taken in before."""
        read_at = self._clock()
        content = self._path.read()
        arrival = self._watch.saw(content, read_at, self._clock())
        if arrival is not None:
            self._found_news()
            self._take(arrival)

    def _slot_view(self) -> Optional[SlotView]:
        return self._watch.view

    def _fail(self, reason: str) -> None:
        """Whatever stands in the slot when the path is back is a first sight."""
        self._watch.missed()
        super()._fail(reason)

    def _note(self) -> str:
        return self._watch.note or super()._note()


class StructureSlotListener(SlotLooker):
    """Looks at a slot that holds the C program's structure, and a native slot behind it if there is room.

    Args:
        structures: makes beats of the structure's changes.
        watch: of the native slot; None where there is none.
    """

    def __init__(
        self,
        carrier: SlotCarrier,
        reader: Reader,
        structures: StructureWatch,
        watch: Optional[SlotWatch],
        put: PutEvent,
        clock: Clock,
    ) -> None:
        super().__init__(carrier, reader, put, clock)
        self._structures = structures
        self._watch = watch

    def _hand_over(self, is_asked: bool) -> None:
        """Read both once; a structure that came with a native beat says nothing more."""
        read_at = self._clock()
        content = self._path.read()
        found = self._structures.saw(content[:STRUCTURE_SLOT_BYTES], read_at)
        if found is not None:
            self._found_news()
        if isinstance(found, Rejected):
            self._refuse(found)
        results: Tuple[Result, ...] = ()
        if self._watch is not None:
            arrival = self._watch.saw(content[STRUCTURE_SLOT_BYTES:], read_at, self._clock())
            results = () if arrival is None else self._take(arrival)
        if isinstance(found, LegacyBeat) and all(is_disbelieved(result) for result in results):
            self._received += 1
            self._hear(found)

    def _slot_view(self) -> Optional[SlotView]:
        return None if self._watch is None else self._watch.view

    def _fail(self, reason: str) -> None:
        """Whatever stands in the slot when the path is back is a first sight."""
        self._structures.missed()
        if self._watch is not None:
            self._watch.missed()
        super()._fail(reason)

    def _note(self) -> str:
        return self._structures.note or super()._note()
