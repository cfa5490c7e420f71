"""The agent's texts are those of the captures, byte for byte, trailing blanks included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tree_reader

from opensvc_hb.agent import render_later
from opensvc_hb.agent.document import Row, line_document, row_of_document, status_document
from opensvc_hb.agent.render import TABLE_WIDTHS, render_table, render_tree

GOLDEN = Path(__file__).parent / "agent"


def captures(name):
    return (GOLDEN / name).read_text()[:-1].split("\n----\n")


TREES = captures("trees-2014-06.txt")
TABLES = captures("tables-2014-06.txt")
TUTORIAL_TREES = (GOLDEN / "tutorial-trees.txt").read_text().splitlines()
TUTORIAL_ROWS = (GOLDEN / "tutorial-rows.txt").read_text().splitlines()


def test_the_captures_are_all_there():
    """The comparison below means something: every captured tree and table is in it."""
    assert (len(TREES), len(TABLES), len(TUTORIAL_TREES), len(TUTORIAL_ROWS)) == (60, 12, 6, 10)


@pytest.mark.parametrize("number", range(len(TREES)))
def test_a_captured_tree_is_aggregated_and_rendered_as_it_was(number):
    """From its resources alone a tree of June 2014 comes out byte for byte, groups included."""
    expected = TREES[number] + "\n"
    assert render_tree(tree_reader.read_tree(TREES[number])) == expected


@pytest.mark.parametrize("number", range(len(TABLES)))
def test_a_captured_table_is_rendered_as_it_was(number):
    """svcmon's table of June 2014 comes out byte for byte, header and trailing blanks included."""
    head, _, _, *lines = TABLES[number].split("\n")
    width = head.index("service", 7)
    rows = []
    for line in lines:
        cells, at = [], width
        for cell_width in TABLE_WIDTHS:
            cells.append(line[at : at + cell_width].strip())
            at += cell_width + 1
        groups = ("container", "ip", "disk", "fs", "share", "app", "hb", "sync")
        statuses = dict(zip(groups, cells[2:10]))
        rows.append(
            Row(line[:width].strip(), cells[0], cells[1], statuses, cells[10], cells[11], cells[12] == "True")
        )
    assert render_table(rows) == TABLES[number] + "\n"


@pytest.mark.parametrize("flat", TUTORIAL_TREES, ids=range(len(TUTORIAL_TREES)))
def test_a_tree_of_the_tutorial_comes_out_of_its_resources(flat):
    """The tutorial's trees (whose line ends its copy lost) are rendered word for word."""
    lines = [line for line in flat.replace(" |- ", "\n|- ").replace(" '- ", "\n'- ").split("\n") if line]
    text = [lines[0].split(" ")[0], "overall"]
    for line in lines[1:]:
        body = line[3:].rstrip(" |").replace(" | | |", "")
        if body.split(" ")[0] in ("avail", "sync", "hb"):
            text.append(line.split(" ")[0] + " " + body)
            continue
        rid, flags, status, label = body.split(" ", 3)
        label, _, message = label.partition(" # ")
        text.append(f"|  |- {rid:<14} {flags} {status:<8} {label}")
        if message:
            text.append(" " * 35 + "# " + message)
    rendered = render_tree(tree_reader.read_tree("\n".join(text)))
    assert rendered.split() == flat.split()


@pytest.mark.parametrize("row", TUTORIAL_ROWS, ids=range(len(TUTORIAL_ROWS)))
def test_a_row_of_the_tutorial_comes_out_of_its_statuses(row):
    """The tutorial's svcmon rows are rendered word for word."""
    name, kind, mode, *statuses, frozen = row.split()
    groups = ("container", "ip", "disk", "fs", "share", "app", "hb", "sync")
    text = render_table(
        [Row(name, kind, mode, dict(zip(groups, statuses)), statuses[8], statuses[9], frozen == "True")]
    )
    assert text.splitlines()[3].split() == row.split()


@pytest.mark.parametrize("name", ["registry", "svc1"])
def test_the_json_of_june_2014_is_the_tree_in_other_words(name):
    """`json status` says of a service what its captured tree says."""
    expected = json.loads((GOLDEN / f"json-2014-06-{name}.json").read_text())
    expected.pop("encap", None)
    rids = set(expected["resources"])
    for tree in TREES:
        status = tree_reader.read_tree(tree)
        if {resource.rid for resource in status.resources} == rids and line_document(status) == expected:
            return
    pytest.fail("no captured tree gives this document")


@pytest.mark.parametrize("number", range(len(TREES)))
def test_a_status_document_carries_what_svcmon_shows(number):
    """The row read back from the JSON document equals the statuses it was made of."""
    status = tree_reader.read_tree(TREES[number])
    document = json.loads(json.dumps(status_document(status, 1795349237.776262), sort_keys=True))
    row = row_of_document(status.svcname, document)
    assert row.avail == status.totals.avail.text
    assert row.overall == status.totals.overall.text
    assert row.statuses == {group: total.text for group, total in status.totals.groups.items()}
    assert document["updated"] == "2026-11-22T12:07:17.776262Z"


LATER_TREES = captures("trees-1.8.txt")
LATER_TABLES = captures("tables-1.8.txt")


@pytest.mark.parametrize("number", range(len(LATER_TREES)))
def test_a_tree_of_the_later_look_is_rendered_as_it_was(number):
    """The look of 1.8 comes out byte for byte, escape sequences included."""
    status = tree_reader.read_later_tree(LATER_TREES[number])
    assert render_later.render_tree(status) == LATER_TREES[number] + "\n"


@pytest.mark.parametrize("number", range(len(LATER_TABLES)))
def test_a_table_of_the_later_look_is_rendered_as_it_was(number):
    """svcmon of 1.8 comes out byte for byte, with the groups' columns too."""
    head, _, *lines = LATER_TABLES[number].split("\n")
    verbose = "sync" in head
    rows, codes = [], []
    for line in lines:
        name, *words = line.replace("|", " ").split()
        code = words.pop(0) if len(words) > (15 if verbose else 7) else ""
        kind, _, _, frozen, _, avail, overall, *groups = words
        names = ("container", "ip", "disk", "fs", "share", "app", "hb", "sync")
        statuses = dict(zip(names, groups or ["n/a"] * 8))
        rows.append(Row(name, kind, "hosted", statuses, avail, overall, frozen == "yes"))
        codes.append(code)
    assert render_later.render_table(rows, codes, verbose) == LATER_TABLES[number] + "\n"
