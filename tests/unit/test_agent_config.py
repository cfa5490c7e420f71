"""The reader of services' files."""

from __future__ import annotations

import pytest

from opensvc_hb.agent.config import scopes_of
from opensvc_hb.errors import ConfigurationErrors
from opensvc_hb.ini import parse, read


def test_sections_keys_comments_and_continuations_are_read():
    """Both signs of assignment, both comment signs, lower-cased keys, continued values."""
    file = parse(
        "# top\n[DEFAULT]\nNodes = n1 n2\n; more\n[fs#1]\nmnt: /srv/a=b\nopt = a,\n   b\n\n  c\n# end\nx =\n",
        "f",
    )
    assert file.value("DEFAULT", "nodes") == "n1 n2"
    assert file.value("fs#1", "mnt") == "/srv/a=b"
    assert file.value("fs#1", "opt") == "a,\nb\nc"
    assert file.value("fs#1", "x") == ""
    assert file.own("fs#1", "opt").line == 7
    assert file.section_lines == {"DEFAULT": 2, "fs#1": 5}


def test_every_section_inherits_default():
    """A key of [DEFAULT] holds in each section that has none of its own."""
    file = parse("[DEFAULT]\ndisable = true\n[a#1]\n[b#1]\ndisable = false\n", "f")
    assert (file.value("a#1", "disable"), file.value("b#1", "disable")) == ("true", "false")


def test_a_section_twice_is_merged_and_of_a_key_twice_the_last_holds():
    """A repeated section, and a repeated key, keep a notice that names both lines."""
    file = parse("[a#1]\nx = 1\n[b#1]\n[a#1]\ny = 2\nx = 3\n", "f")
    assert (file.value("a#1", "x"), file.value("a#1", "y")) == ("3", "2")
    assert [str(notice) for notice in file.notices] == [
        "f:4: [a#1]: stands twice (also on line 1): both count, as one section",
        "f:6: a#1.x: stands twice (also on line 2): this one, the last, holds",
    ]


@pytest.mark.parametrize(
    ("node", "expected"), [("n1", "node"), ("n2", "nodes"), ("n3", "drp"), ("n4", "plain")]
)
def test_the_best_scope_holds(node, expected):
    """A node's own value before that of nodes, of drpnodes, and the plain one."""
    file = parse("[a#1]\nx = plain\nx@drpnodes = drp\nx@nodes = nodes\nx@N1 = node\n", "f")
    scopes = scopes_of(node, ("n1", "n2"), ("n3",))
    assert file.value("a#1", "x", scopes) == expected
    assert file.value("a#1", "x") == "plain"


def test_every_wrong_line_is_named():
    """All complaints are kept, each with its line."""
    with pytest.raises(ConfigurationErrors) as refused:
        parse("x = 1\n[a#1\n[b#1] junk\n[c#1]\nno assignment\n= 1\n", "f")
    assert [str(error) for error in refused.value.errors] == [
        "f:1: 'x = 1' stands before any [section]",
        "f:2: '[a#1' is not a section header: write [name]",
        "f:3: '[b#1] junk' is not a section header: write [name]",
        "f:5: 'no assignment' is neither a [section] nor keyword = value",
        "f:6: '= 1' is neither a [section] nor keyword = value",
    ]


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path):
    """A file that is not UTF-8 names the line where it stops being text."""
    path = tmp_path / "svc.env"
    path.write_bytes(b"[DEFAULT]\nx = \xff\n")
    with pytest.raises(ConfigurationErrors, match=r"svc\.env:2: this is not UTF-8 text"):
        read(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    """A missing file is a configuration error, not a crash."""
    with pytest.raises(ConfigurationErrors, match="cannot be read"):
        read(tmp_path / "none.env")
