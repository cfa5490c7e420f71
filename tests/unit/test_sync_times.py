"""When a copy may be sent, when it is late, and how the keywords of both generations say so."""

from __future__ import annotations

import re
import time

import pytest

from opensvc_hb.agent import remote, synchronize
from opensvc_hb.agent.synchronize import Window, held_back


def at(text):
    """Seconds since the epoch of a local date."""
    return time.mktime(time.strptime(text, "%Y-%m-%d %H:%M"))


NIGHT = (Window((("03:59", "05:59"),)),)
MONDAY = "2026-11-23"


@pytest.mark.parametrize(
    ("schedule", "now", "last", "expected"),
    [
        (NIGHT, "04:30", None, ""),
        (NIGHT, "03:59", None, ""),
        (NIGHT, "11:47", None, "skip sync: not in allowed period (['03:59', '05:59'])"),
        (NIGHT, "05:30", "04:00", "skip sync: too soon (121)"),
        (NIGHT, "05:30", "03:00", ""),
        (NIGHT, "05:30", "05:50", ""),
        ((Window((("22:00", "02:00"),)),), "01:00", None, ""),
        ((Window((("22:00", "02:00"),)),), "23:00", None, ""),
        (
            (Window((("22:00", "02:00"),)),),
            "12:00",
            None,
            "skip sync: not in allowed period (['22:00', '02:00'])",
        ),
        ((Window(days=(5, 6)),), "12:00", None, "skip sync: not in allowed days (['saturday', 'sunday'])"),
        ((Window(days=(0,)),), "12:00", None, ""),
        (
            (Window((("01:00", "02:00"), ("03:00", "04:00"))),),
            "12:00",
            None,
            "skip sync: not in allowed period ([['01:00', '02:00'], ['03:00', '04:00']])",
        ),
        ((*NIGHT, Window((("12:00", "13:00"),), (), 10.0)), "12:30", "12:10", ""),
    ],
)
def test_a_copy_is_sent_in_its_hours_on_its_days_and_not_too_often(schedule, now, last, expected):
    """Hours may go over midnight; a last copy in the future (a clock set back) holds nothing back."""
    last_s = None if last is None else at(f"{MONDAY} {last}")
    assert held_back(schedule, at(f"{MONDAY} {now}"), last_s) == expected


def test_a_copy_is_late_after_its_delay_or_when_it_was_never_sent():
    """Minutes; exactly at the limit it is not yet late."""
    now_s = at(f"{MONDAY} 12:00")
    assert synchronize.is_late(None, now_s, 10)
    assert synchronize.is_late(now_s - 601, now_s, 10)
    assert not synchronize.is_late(now_s - 600, now_s, 10)


def test_a_stamp_is_a_date_with_microseconds():
    """As the agents write it; what is no date is no stamp."""
    sent_s = at(f"{MONDAY} 11:48") + 0.595249
    text = synchronize.stamp_text(sent_s)
    assert (len(text), text[:17], text[19]) == (27, f"{MONDAY} 11:48:", ".")
    assert synchronize.stamp_time(text) == int(sent_s)
    assert synchronize.stamp_time("yesterday") is None


@pytest.mark.parametrize(
    ("convert", "text", "expected"),
    [
        (synchronize.periods, '["03:59", "05:59"]', (("03:59", "05:59"),)),
        (
            synchronize.periods,
            '[["01:00", "02:00"], ["3:00", "4:00"]]',
            (("01:00", "02:00"), ("3:00", "4:00")),
        ),
        (synchronize.days, '["monday", "Friday", "sun"]', (0, 4, 6)),
        (synchronize.schedule, "04:00-06:00@121", (Window((("04:00", "06:00"),), (), 121.0),)),
        (synchronize.schedule, "@60", (Window((), (), 60.0),)),
        (synchronize.schedule, "* sat-mon", (Window((), (0, 5, 6)),)),
        (
            synchronize.schedule,
            '["04:00-06:00@30 mon-wed", "*@600 sunday"]',
            (Window((("04:00", "06:00"),), (0, 1, 2), 30.0), Window((), (6,), 600.0)),
        ),
    ],
)
def test_a_schedule_is_read(convert, text, expected):
    """The lists of the tutorial's agent, the texts of the later ones."""
    assert convert(text) == expected


@pytest.mark.parametrize(
    ("convert", "text", "complaint"),
    [
        (synchronize.periods, "12:00-13:00", "malformed parameter value '12:00-13:00'"),
        (synchronize.periods, '["12:00"]', "malformed"),
        (synchronize.periods, '["12:00", "25:00"]', "malformed"),
        (synchronize.periods, "[]", "malformed"),
        (synchronize.days, '["someday"]', "malformed"),
        (synchronize.days, "[1]", "malformed"),
        (synchronize.minutes, "soon", "is not a number of minutes"),
        (synchronize.schedule, "now", "'now' is no range of hours"),
        (synchronize.schedule, "04:00-06:00@never", "'never' is not a positive number of minutes"),
        (synchronize.schedule, "04:00-06:00@10 mon 1-5 jan", "weeks and months are not available"),
        (synchronize.schedule, "* someday", "'someday' is no day of the week"),
        (synchronize.schedule, "", "a schedule is"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(convert, text, complaint):
    """One reason, which says what is allowed."""
    with pytest.raises(ValueError, match=re.escape(complaint)):
        convert(text)


def test_a_node_tells_what_it_is_in_one_line_whatever_its_login_prints():
    """The last line that is an object counts; anything else is a reason."""
    facts = remote.NodeFacts("n2", "/", "DEV")
    assert remote.read_facts(f"Welcome to n2\n{remote.facts_line(facts)}\n") == facts
    for answer in ("", "svcmgr: error: unsupported action", "{", '{"node": "n2"}'):
        assert "is opensvc-hb installed there?" in remote.read_facts(answer)


def test_no_word_of_a_remote_command_is_read_again_by_its_shell():
    """Names with blanks and signs arrive as they are; a node's name is never an option."""
    argv = remote.ssh_argv("-n2", ("svcmgr", "-s", "a b;c"))
    assert argv[-3:] == ("--", "-n2", "svcmgr -s 'a b;c'")
    assert "BatchMode=yes" in argv


def test_why_a_remote_command_failed_is_one_line():
    """The end of what it wrote, or its exit status."""
    assert remote.reason_of("one\ntwo\n\nthree\nfour\n") == "two / three / four"
    assert remote.reason_of("", "said\n") == "said"
    assert remote.reason_of("", "", 3) == "exit status 3"
