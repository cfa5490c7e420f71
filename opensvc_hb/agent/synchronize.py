"""May a copy be sent now, and is a node's copy late? The times of the sync resources.

Pure: texts and times in, decisions out; the clock is read by the drivers, nothing is sent here.
Times are seconds since the epoch, of the wall clock: they are written as dates into files that two
nodes compare and that outlive a reboot, and `sync_period` speaks of hours of the day. Nothing that
makes a service run, or end, depends on them.

Called by the sync drivers (through `resource`) and by `sync_action`.

Source: A.1 (stamps), A.5 and A.7 (keywords), B.5 (late), C.5 (the texts of a refusal). The later
agents' `schedule` is read as far as it says hours, an interval and days.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, replace
from typing import Any, List, Optional, Sequence, Tuple

from opensvc_hb.agent.keywords import Keyword

STAMP_FORMAT = "%Y-%m-%d %H:%M:%S"
"""A stamp's time; a dot and six digits of microseconds follow."""

DAY_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
"""In the order of `tm_wday`."""

INTERVAL_MIN = 121.0
MAX_DELAY_MIN = 1500.0
PERIOD = ("03:59", "05:59")

_HOUR = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)\Z")
_WINDOW = re.compile(r"(?P<hours>[^@]*)(?:@(?P<interval>.+))?\Z")

Period = Tuple[str, str]
"""Begin and end as written, `HH:MM`; an end before the begin is on the next day."""


@dataclass(frozen=True)
class Window:
    """When a copy may be sent.

    Args:
        periods: hours of the day; () for all of it.
        days: places in `DAY_NAMES`; () for all of them.
        interval_min: minutes between two copies.
    """

    periods: Tuple[Period, ...] = ()
    days: Tuple[int, ...] = ()
    interval_min: float = INTERVAL_MIN


Schedule = Tuple[Window, ...]
"""A copy may be sent when one of the windows says so."""


def held_back(schedule: Schedule, now_s: float, last_s: Optional[float]) -> str:
    """Tell why nothing is sent now; "" when a copy may be sent.

    Args:
        schedule: the windows of the resource, at least one.
        now_s: the time.
        last_s: when it was last sent to every node; None for never.

    Source of the texts: C.5.
    """
    local = time.localtime(now_s)
    open_now = [window for window in schedule if _in_periods(window.periods, local)]
    if not open_now:
        periods = [period for window in schedule for period in window.periods]
        return f"skip sync: not in allowed period ({_shown(periods)})"
    today = [window for window in open_now if not window.days or local.tm_wday in window.days]
    if not today:
        days = sorted({day for window in open_now for day in window.days})
        return f"skip sync: not in allowed days ({[DAY_NAMES[day] for day in days]})"
    interval_min = min(window.interval_min for window in today)
    if last_s is not None and 0 <= now_s - last_s < interval_min * 60:
        return f"skip sync: too soon ({interval_min:g})"
    return ""


def is_late(sent_s: Optional[float], now_s: float, delay_min: float) -> bool:
    """Tell whether a copy sent at that time (None: never) is older than so many minutes."""
    return sent_s is None or now_s - sent_s > delay_min * 60


def stamp_text(at_s: float) -> str:
    """Return the content of a stamp: local time, as the agents have it."""
    microseconds = int(at_s % 1 * 1e6)
    return f"{time.strftime(STAMP_FORMAT, time.localtime(at_s))}.{microseconds:06d}\n"


def stamp_time(text: str) -> Optional[float]:
    """Read a stamp, to the second; None when it is none."""
    try:
        return time.mktime(time.strptime(text.partition(".")[0].strip(), STAMP_FORMAT))
    except (ValueError, OverflowError):
        return None


def stamp_name(svcname: str, rid: str) -> str:
    """Return the name of a stamp's file below `sync/NODE/`."""
    return f"{svcname}!{rid}"


def last_sent_name(svcname: str, rid: str) -> str:
    """Return the name of the file that says when a resource was last sent to all its nodes."""
    return f"last_sync_{svcname}_{rid}"


# -- keywords ---------------------------------------------------------------------------


def minutes(text: str) -> float:
    """Convert a positive number of minutes, as the sync keywords have it; in minutes."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a number of minutes") from None
    if not 0 < value < 1e9:
        raise ValueError(f"'{text}' is not a positive number of minutes")
    return value


def periods(text: str) -> Tuple[Period, ...]:
    """Convert `sync_period`: a JSON list `["03:59", "05:59"]`, or a list of such lists."""
    reason = f'malformed parameter value \'{text}\' (write ["03:59", "05:59"], or a list of such lists)'
    value = _json_list(text, reason)
    found = value if all(isinstance(item, list) for item in value) else [value]
    if not all(len(item) == 2 and all(_is_hour(hour) for hour in item) for item in found):
        raise ValueError(reason)
    return tuple((begin, end) for begin, end in found)


def days(text: str) -> Tuple[int, ...]:
    """Convert `sync_days`: a JSON list of names of days."""
    reason = f'malformed parameter value \'{text}\' (write ["monday", "friday"])'
    try:
        return tuple(_day(name) for name in _json_list(text, reason))
    except (ValueError, AttributeError):
        raise ValueError(reason) from None


def schedule(text: str) -> Schedule:
    """Convert the later agents' `schedule`: `04:00-06:00@121 mon-fri`, or a JSON list of such texts."""
    given = _json_list(text, f"'{text}' is no JSON list") if text.strip().startswith("[") else [text]
    if not given or not all(isinstance(item, str) and item.strip() for item in given):
        raise ValueError("a schedule is HH:MM-HH:MM@MINUTES DAYS, or a JSON list of such texts")
    return tuple(window for item in given for window in _windows(item))


KEYWORDS: Tuple[Keyword, ...] = (
    Keyword(
        "sync_max_delay",
        "Minutes after which a copy on another node counts as late.",
        convert=minutes,
        default=MAX_DELAY_MIN,
        scopable=True,
    ),
    Keyword(
        "sync_interval",
        "Minutes between two copies, those sent with --force apart.",
        convert=minutes,
        default=INTERVAL_MIN,
    ),
    Keyword(
        "sync_period",
        'Hours of the day in which copies are sent: ["03:59", "05:59"], or a list of such lists.',
        convert=periods,
        default=(PERIOD,),
    ),
    Keyword(
        "sync_days",
        'Days of the week on which copies are sent: ["monday", "friday"]; all of them by default.',
        convert=days,
        default=(),
    ),
    Keyword(
        "sync_schedule",
        "Hours, minutes between two copies, and days, in place of the three keywords before: "
        "04:00-06:00@121 mon-fri.",
        convert=schedule,
        since="1.8",
    ),
)
"""When copies are sent, and when they are late: in [DEFAULT], and in each [sync#N]."""


def _windows(text: str) -> List[Window]:
    hours, _, rest = text.strip().partition(" ")
    if len(rest.split()) > 1:
        raise ValueError(f"'{text}': weeks and months are not available, hours@minutes and days are")
    allowed = _day_ranges(rest) if rest.strip() not in ("", "*") else ()
    return [replace(_window(part), days=allowed) for part in hours.split(",")]


def _window(text: str) -> Window:
    """Read `04:00-06:00@121`, `*@60`, `@60` or `04:00-06:00`."""
    found = _WINDOW.match(text)
    assert found is not None, "the pattern takes any text"
    interval_min = INTERVAL_MIN
    if found["interval"] is not None:
        try:
            interval_min = float(found["interval"])
        except ValueError:
            interval_min = 0.0
        if not 0 < interval_min < 1e9:
            raise ValueError(f"'{found['interval']}' is not a positive number of minutes")
    if found["hours"] in ("", "*"):
        return Window(interval_min=interval_min)
    begin, dash, end = found["hours"].partition("-")
    if not dash or not _is_hour(begin) or not _is_hour(end):
        raise ValueError(f"'{found['hours']}' is no range of hours (04:00-06:00)")
    return Window(((begin, end),), (), interval_min)


def _day_ranges(text: str) -> Tuple[int, ...]:
    """Read `mon-fri,sunday`; a range may go over the end of the week."""
    found: List[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        begin = _day(first)
        length = (_day(last) - begin) % 7 if dash else 0
        found += [(begin + step) % 7 for step in range(length + 1)]
    return tuple(sorted(set(found)))


def _day(name: str) -> int:
    word = name.strip().lower()
    for number, day in enumerate(DAY_NAMES):
        if word in (day, day[:3]):
            return number
    raise ValueError(f"'{name}' is no day of the week")


def _json_list(text: str, reason: str) -> List[Any]:
    try:
        value = json.loads(text)
    except ValueError:
        raise ValueError(reason) from None
    if not isinstance(value, list) or not value:
        raise ValueError(reason)
    return value


def _is_hour(value: object) -> bool:
    return isinstance(value, str) and _HOUR.match(value) is not None


def _minutes_of(hour: str) -> int:
    hours, _, minutes = hour.partition(":")
    return int(hours) * 60 + int(minutes)


def _in_periods(given: Sequence[Period], local: time.struct_time) -> bool:
    minute = local.tm_hour * 60 + local.tm_min
    return not given or any(_holds(_minutes_of(begin), _minutes_of(end), minute) for begin, end in given)


def _holds(begin: int, end: int, minute: int) -> bool:
    """Tell whether a minute of the day is in a period that may go over midnight."""
    return begin <= minute <= end if begin <= end else minute >= begin or minute <= end


def _shown(given: Sequence[Period]) -> List[Any]:
    lists = [list(period) for period in given]
    return lists[0] if len(lists) == 1 else lists
