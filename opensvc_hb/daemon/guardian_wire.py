"""What the daemon and the guardian say to each other: one JSON object per line, versioned.

The daemon says `hello`, then what the guardian must know (`Know`), then orders. Each line but
`hello` has a number and is answered by `Done` or `Refusal`; `Acted` and `Rested` come unasked. The two may
be of different installations (an upgrade replaces the daemon first), so every line names the
version, and a line that is wrong in anything is refused as a whole and changes nothing.

Times are seconds of CLOCK_BOOTTIME. Pure; used by both sides.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, TypeVar, Union

from opensvc_hb.core.guardian import Order
from opensvc_hb.held import Holding, HoldingKind

VERSION = 1
LINE_BYTES_MAX = 8 << 20
"""A longer line is refused: ten thousand services fit into less."""


@dataclass(frozen=True)
class Hello:
    """A daemon begins: what is guarded, and what was done? Answered by `Greeting`."""


@dataclass(frozen=True)
class Know:
    """What the guardian needs for its deeds; each replaces the one before.

    Args:
        stop: command of a stop action; the word `SERVICE_PLACE` in it stands for the service.
        directory: working directory of that command.
        environment: all of its variables.
        reset: a value of `guardian_reset.ResetKind`.
        watchdog: the watchdog device, "" for none.
        held: by service (svcname), what it may hold.
    """

    number: int
    stop: Tuple[str, ...]
    directory: str
    environment: Mapping[str, str]
    reset: str
    watchdog: str = ""
    held: Mapping[str, Tuple[Holding, ...]] = field(default_factory=dict)


SERVICE_PLACE = "{svcname}"


@dataclass(frozen=True)
class Ordered:
    """Hold this order in place of the one before."""

    number: int
    order: Order


@dataclass(frozen=True)
class Renewed:
    """The order in force, with a later (or earlier) deadline. Sent most of the time: it is short."""

    number: int
    until: float


Request = Union[Hello, Know, Ordered, Renewed]


@dataclass(frozen=True)
class Acted:
    """The guardian did something; see `core.events.GuardianActed`."""

    services: Tuple[str, ...]
    what: str
    alarm: bool


@dataclass(frozen=True)
class Greeting:
    """The answer to `Hello`.

    Args:
        pid: the guardian.
        release: of the package that it runs from.
        order: the order in force, None when there never was one.
        acted: what it did while no daemon listened, oldest first.
        ending: whether a stop action or a kill of its own is under way; `Rested` follows.
    """

    pid: int
    release: str
    order: Optional[Order]
    acted: Tuple[Acted, ...] = ()
    ending: bool = False


@dataclass(frozen=True)
class Rested:
    """What was under way when the daemon said hello has come to its end, well or not."""


@dataclass(frozen=True)
class Done:
    """The request of this number is in force."""

    number: int


@dataclass(frozen=True)
class Refusal:
    """A line was not obeyed; `number` is 0 when it had none that could be read."""

    number: int
    reason: str


Answer = Union[Greeting, Rested, Done, Refusal, Acted]
Said = TypeVar("Said")


class WireError(ValueError):
    """A line that is not one of ours; `str` is the reason, one line.

    Args:
        number: of the line, 0 when it has none.
    """

    def __init__(self, reason: str, number: int = 0) -> None:
        self.number = number
        super().__init__(reason)


# -- to lines ------------------------------------------------------------------------------------


def encode(message: Union[Request, Answer]) -> bytes:
    """Return a message as one line, line end included."""
    fields: Dict[str, Any] = {"v": VERSION, "say": type(message).__name__.lower()}
    if isinstance(message, Ordered):
        fields.update(_order_fields(message.order), number=message.number)
    elif isinstance(message, Greeting):
        fields.update(pid=message.pid, release=message.release)
        fields["order"] = None if message.order is None else _order_fields(message.order)
        fields.update(acted=[vars(acted) for acted in message.acted], ending=message.ending)
    elif isinstance(message, Know):
        fields.update(vars(message))
        fields["held"] = {
            svcname: [[holding.kind.name, holding.name] for holding in holdings]
            for svcname, holdings in message.held.items()
        }
    else:
        fields.update(vars(message))
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _order_fields(order: Order) -> Dict[str, Any]:
    return {
        "until": order.until,
        "timeout_s": order.timeout_s,
        "services": order.services,
        "ending": order.ending,
    }


# -- from lines ----------------------------------------------------------------------------------


def read_request(line: bytes) -> Request:
    """Return what a daemon says.

    Raises:
        WireError: it is no request of this version, or something in it cannot be.
    """
    fields = _Fields(_parse(line))
    readers: Dict[str, Callable[[], Request]] = {
        "hello": Hello,
        "know": lambda: Know(
            fields.number(),
            fields.texts("stop"),
            fields.text("directory"),
            fields.text_map("environment"),
            fields.text("reset"),
            fields.text("watchdog"),
            _read_held(fields),
        ),
        "ordered": lambda: Ordered(fields.number(), _read_order(fields)),
        "renewed": lambda: Renewed(fields.number(), fields.moment("until")),
    }
    try:
        return fields.chosen(readers)()
    except WireError as error:
        raise WireError(str(error), fields.number_or_none()) from None


def read_answer(line: bytes) -> Answer:
    """Return what a guardian says.

    Raises:
        WireError: it is no answer of this version.
    """
    fields = _Fields(_parse(line))
    readers: Dict[str, Callable[[], Answer]] = {
        "greeting": lambda: Greeting(
            fields.whole("pid"),
            fields.text("release"),
            None if fields.get("order") is None else _read_order(fields.below("order")),
            tuple(_read_acted(each) for each in fields.each("acted")),
            bool(fields.get("ending")),
        ),
        "rested": Rested,
        "done": lambda: Done(fields.number()),
        "refusal": lambda: Refusal(fields.number(), fields.text("reason")),
        "acted": lambda: _read_acted(fields),
    }
    return fields.chosen(readers)()


def _read_order(fields: _Fields) -> Order:
    timeout_s = fields.moment("timeout_s")
    if timeout_s <= 0:
        raise WireError(f"timeout_s is {timeout_s:g}, not above 0")
    pairs = tuple(fields.pair(item) for item in fields.items("services"))
    if len({name for name, _ in pairs}) != len(pairs):
        raise WireError("a service is named twice")
    return Order(fields.moment("until"), timeout_s, pairs, fields.texts("ending"))


def _read_acted(fields: _Fields) -> Acted:
    return Acted(fields.texts("services"), fields.text("what"), bool(fields.get("alarm")))


def _read_held(fields: _Fields) -> Dict[str, Tuple[Holding, ...]]:
    held = {}
    for svcname, entries in fields.mapping("held").items():
        if not isinstance(entries, list):
            raise WireError("held: not lists of pairs")
        pairs = [fields.pair(entry) for entry in entries]
        # A kind of a later release is left out: this one could not look for it.
        known = [(kind, name) for kind, name in pairs if kind in HoldingKind.__members__]
        held[svcname] = tuple(Holding(HoldingKind[kind], name) for kind, name in known)
    return held


def _parse(line: bytes) -> Dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise WireError("not a line of JSON") from None
    if not isinstance(fields, dict):
        raise WireError("not a JSON object")
    return fields


class _Fields:
    """The fields of one object; each reader raises WireError when its field is not as it should be."""

    def __init__(self, fields: Dict[str, Any]) -> None:
        self._fields = fields

    def chosen(self, readers: Mapping[str, Callable[[], Said]]) -> Callable[[], Said]:
        """Return the reader for this kind of line."""
        if self._fields.get("v") != VERSION:
            raise WireError(f"version {self._fields.get('v')!r}, this is version {VERSION}")
        reader = readers.get(self.text("say"))
        if reader is None:
            raise WireError(f"unknown word {self._fields['say']!r}")
        return reader

    def number_or_none(self) -> int:
        """Return the line's number, 0 when it has none."""
        number = self._fields.get("number")
        return number if isinstance(number, int) and not isinstance(number, bool) else 0

    def get(self, name: str) -> Any:
        return self._fields.get(name)

    def below(self, name: str) -> _Fields:
        return _Fields(self.mapping(name))

    def each(self, name: str) -> List[_Fields]:
        items = self.items(name)
        if not all(isinstance(item, dict) for item in items):
            raise WireError(f"{name}: not objects")
        return [_Fields(item) for item in items]

    def number(self) -> int:
        return self.whole("number")

    def whole(self, name: str) -> int:
        value = self._fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise WireError(f"{name}: not a whole number")
        return value

    def moment(self, name: str) -> float:
        value = self._fields.get(name)
        try:
            seconds = float(value) if isinstance(value, (int, float)) else math.nan
        except OverflowError:
            seconds = math.inf
        if isinstance(value, bool) or not math.isfinite(seconds):
            raise WireError(f"{name}: not a number of seconds")
        return seconds

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str) or "\0" in value:
            raise WireError(f"{name}: not a text")
        return value

    def items(self, name: str) -> List[Any]:
        value = self._fields.get(name)
        if not isinstance(value, list):
            raise WireError(f"{name}: not a list")
        return value

    def texts(self, name: str) -> Tuple[str, ...]:
        items = self.items(name)
        if not all(isinstance(item, str) and "\0" not in item for item in items):
            raise WireError(f"{name}: not a list of texts")
        return tuple(items)

    def mapping(self, name: str) -> Dict[str, Any]:
        value = self._fields.get(name)
        if not isinstance(value, dict):
            raise WireError(f"{name}: not an object")
        return value

    def text_map(self, name: str) -> Dict[str, str]:
        value = self.mapping(name)
        if not all(isinstance(text, str) and "\0" not in key + text for key, text in value.items()):
            raise WireError(f"{name}: not texts by name")
        return value

    @staticmethod
    def pair(item: Any) -> Tuple[str, str]:
        is_pair = isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item)
        if not is_pair or not item[0] or "\0" in "".join(item):
            raise WireError("not a pair of texts")
        return item[0], item[1]
