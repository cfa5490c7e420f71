"""The merge table and the aggregation of statuses."""

from __future__ import annotations

import itertools

import pytest

from opensvc_hb.agent.resource import Status
from opensvc_hb.agent.status import Merged, ResourceStatus, aggregate, merge, overall_of, rest_of

NAMES = {
    "up": Merged.UP,
    "down": Merged.DOWN,
    "warn": Merged.WARN,
    "na": Merged.NA,
    "todo": Merged.TODO,
    "undef": Merged.UNDEF,
    "su": Merged.STDBY_UP,
    "sd": Merged.STDBY_DOWN,
    "8": Merged.STDBY_UP_WITH_UP,
    "9": Merged.STDBY_UP_WITH_DOWN,
}

TABLE = """
        up    down  todo  su    sd    8     9
up      up    warn  warn  8     warn  8     warn
down    warn  down  warn  9     sd    warn  9
todo    warn  warn  todo  todo  todo  todo  todo
su      8     9     todo  su    warn  8     9
sd      warn  sd    todo  warn  sd    warn  warn
8       8     warn  todo  8     warn  8     warn
9       warn  9     todo  9     warn  warn  9
"""
"""The agents' table, written out whole."""


def cells():
    head, *rows = [line.split() for line in TABLE.strip("\n").splitlines()]
    return [(row[0], column, result) for row in rows for column, result in zip(head, row[1:])]


@pytest.mark.parametrize(("one", "other", "expected"), cells())
def test_two_statuses_merge_as_the_table_says(one, other, expected):
    """Each cell of the merge table holds."""
    assert merge(NAMES[one], NAMES[other]) is NAMES[expected]


@pytest.mark.parametrize(("one", "other"), list(itertools.product(Merged, Merged)))
def test_merging_is_commutative_and_has_its_neutral_elements(one, other):
    """Order does not matter to two statuses; undef and n/a are neutral, warn wins."""
    assert merge(one, other) is merge(other, one)
    assert merge(one, Merged.UNDEF) is one
    if one not in (Merged.TODO, Merged.UNDEF):
        assert merge(one, Merged.NA) is one
    if one is not Merged.UNDEF:
        assert merge(one, Merged.WARN) is Merged.WARN


def test_nothing_known_and_something_to_do_is_a_warning():
    """n/a merged with todo is the one exception to n/a being neutral."""
    assert merge(Merged.NA, Merged.TODO) is Merged.WARN


def resource(rid, status, disable=False, set_name=""):
    group = {"vg": "disk", "loop": "disk"}.get(rid.partition("#")[0], rid.partition("#")[0])
    return ResourceStatus(rid, group, group, set_name or group, status, rid, disable=disable)


def test_a_service_without_resources_is_not_applicable():
    """avail and overall of nothing are n/a, as are all groups."""
    totals = aggregate([])
    assert (totals.avail, totals.overall) == (Status.NA, Status.NA)
    assert set(totals.groups.values()) == {Status.NA}


def test_standby_resources_that_are_up_beside_an_up_service_count_as_up():
    """Standby up mixed with up shows up, in avail and in the group that is all standby."""
    totals = aggregate([resource("fs#1", Status.STDBY_UP), resource("ip#1", Status.UP)])
    assert (totals.avail, totals.groups["fs"]) == (Status.UP, Status.UP)


def test_standby_resources_that_are_up_beside_a_down_service_show_as_standby_up():
    """Standby up mixed with down shows stdby up."""
    totals = aggregate([resource("fs#1", Status.STDBY_UP), resource("ip#1", Status.DOWN)])
    assert totals.avail is Status.STDBY_UP


def test_a_disabled_resource_counts_for_nothing():
    """A disabled resource is left out of its set, its group stays n/a."""
    totals = aggregate([resource("fs#1", Status.NA, disable=True), resource("ip#1", Status.UP)])
    assert (totals.avail, totals.groups["fs"]) == (Status.UP, Status.NA)


@pytest.mark.parametrize(
    ("avail", "hb", "syncs", "expected"),
    [
        (Status.DOWN, Status.DOWN, [Status.UP], Status.DOWN),
        (Status.UP, Status.UP, [Status.UP], Status.UP),
        (Status.DOWN, Status.WARN, [Status.UP], Status.WARN),
        (Status.DOWN, Status.UP, [Status.UP], Status.WARN),
        (Status.UP, Status.NA, [Status.DOWN], Status.WARN),
        (Status.UP, Status.NA, [Status.NA], Status.UP),
        (Status.NA, Status.NA, [Status.WARN], Status.WARN),
    ],
)
def test_overall_is_avail_and_hb_and_what_is_wrong_with_syncs(avail, hb, syncs, expected):
    """A sync that is up counts for nothing, one that is not makes overall a warning."""
    assert overall_of(avail, hb, syncs) is expected


def test_the_rest_of_a_service_leaves_out_what_depends_on_it():
    """app, sync and hb are judged by the rest, so they are no part of it."""
    others = [resource("app#1", Status.DOWN), resource("sync#1", Status.DOWN), resource("hb#0", Status.WARN)]
    assert rest_of([resource("fs#1", Status.UP), *others]) is Status.UP
    assert rest_of(others) is Status.NA
