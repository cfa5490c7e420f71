"""A keyword of a service's file is changed at its line; every other byte stays."""

from __future__ import annotations

import pytest

from opensvc_hb.agent.file_change import is_service_name, split_parameter
from opensvc_hb.agent.file_text import (
    MissingKeyError,
    MissingSectionError,
    UnwritableError,
    delete_sections,
    set_value,
    unset,
)

TEXT = """\
# the web server
[DEFAULT]
nodes = n1 n2

; storage
[fs#1]
dev=/dev/vg/web
# where it goes
mnt : /srv
   old
   # inside
   older
mnt\t=\t/srv/web

# second
[fs#2]
dev = x
"""


@pytest.mark.parametrize(
    ("section", "key", "value", "old", "new"),
    [
        ("fs#1", "dev", "/dev/vg/new", "dev=/dev/vg/web\n", "dev=/dev/vg/new\n"),
        ("fs#1", "MNT", "/x", "mnt\t=\t/srv/web\n", "mnt\t=\t/x\n"),
        ("fs#1", "dev@N2", "/y", "mnt\t=\t/srv/web\n", "mnt\t=\t/srv/web\ndev@n2 = /y\n"),
        ("fs#2", "mnt", "a = b : c", "dev = x\n", "dev = x\nmnt = a = b : c\n"),
        ("DEFAULT", "nodes", "n1\nn2", "nodes = n1 n2\n", "nodes = n1\n    n2\n"),
        ("DEFAULT", "nodes", "", "nodes = n1 n2\n", "nodes = \n"),
        ("DEFAULT", "comment", "x", "nodes = n1 n2\n", "nodes = n1 n2\ncomment = x\n"),
    ],
)
def test_a_keyword_is_set_at_the_line_that_holds(section, key, value, old, new):
    """The last of several lines, or a new one behind the last of the section; nothing else moves."""
    assert set_value(TEXT, section, key, value) == TEXT.replace(old, new)


def test_continuation_lines_of_the_old_value_go_and_comments_stay():
    """What belonged to the old value must not be read as part of the new one."""
    text = "[fs#1]\nmnt = a\n   b\n   # why\n   c\ndev = d\n"
    assert set_value(text, "fs#1", "mnt", "z") == "[fs#1]\nmnt = z\n   # why\ndev = d\n"


def test_a_file_without_a_last_line_end_and_one_of_another_system_are_kept_so():
    """A new line begins on a line of its own, and ends as the others do."""
    assert set_value("[a]\nb = c", "a", "d", "e") == "[a]\nb = c\nd = e\n"
    assert set_value("[a]\r\nb = c\r\n", "a", "b", "e") == "[a]\r\nb = e\r\n"
    assert set_value("[a]\nb = c", "b", "d", "e", may_add_section=True) == "[a]\nb = c\n\n[b]\nd = e\n"
    assert set_value("", "b", "d", "e", may_add_section=True) == "[b]\nd = e\n"


def test_a_section_that_does_not_exist_is_made_on_demand_only():
    """A misspelt name is refused."""
    with pytest.raises(MissingSectionError, match=r"^section 'fs#9' not found$"):
        set_value(TEXT, "fs#9", "dev", "x")
    assert set_value(TEXT, "fs#9", "dev", "x", may_add_section=True) == TEXT + "\n[fs#9]\ndev = x\n"


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("fs#1", "a=b", "c"),
        ("fs#1", "[x", "c"),
        ("fs#1", "#x", "c"),
        ("fs#1", "", "c"),
        ("fs#1", "dev", "a\n# b"),
        ("fs#1", "dev", "a\n\nb"),
        ("x]y", "dev", "a"),
        ("x\n[y", "dev", "a"),
    ],
)
def test_what_the_grammar_cannot_hold_is_refused(section, key, value):
    """Nothing is written that would be read back as something else."""
    with pytest.raises(UnwritableError):
        set_value(TEXT, section, key, value, may_add_section=True)


def test_a_keyword_is_removed_wherever_it_stands():
    """All its lines go, so that no earlier one holds from now on."""
    gone = TEXT.replace("mnt : /srv\n   old\n", "").replace("   older\nmnt\t=\t/srv/web\n", "")
    assert unset(TEXT, "fs#1", "mnt") == gone
    with pytest.raises(MissingKeyError, match=r"^option 'x' not found in section 'fs#1'$"):
        unset(TEXT, "fs#1", "x")
    with pytest.raises(MissingSectionError):
        unset(TEXT, "fs#9", "x")


def test_a_section_is_removed_with_its_blank_line_and_no_comment_outside():
    """What was written above another section stays there."""
    begin = TEXT.index("[fs#1]")
    end = TEXT.index("# second")
    assert delete_sections(TEXT, ["fs#1"]) == TEXT[:begin] + "\n" + TEXT[end:]
    assert delete_sections(TEXT, ["fs#1", "fs#2"]) == TEXT[:begin] + "\n# second\n"
    twice = "[a]\nb = 1\n\n[c]\nd = 2\n\n[a]\ne = 3\n"
    assert delete_sections(twice, ["a"]) == "[c]\nd = 2\n"
    with pytest.raises(MissingSectionError):
        delete_sections(TEXT, ["fs#1", "fs#9"])


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        ("fs#1.dev", ("fs#1", "dev")),
        ("fs#1.DEV@n2.example.com", ("fs#1", "dev@n2.example.com")),
        ("subset#container.docker:01app.parallel", ("subset#container.docker:01app", "parallel")),
        ("fs#1", ("", "fs#1")),
        ("fs#1.", ("fs#1", "")),
        (".dev", ("", "dev")),
    ],
)
def test_a_parameter_is_section_and_keyword(parameter, expected):
    """Dots of a section's name and of a scope's node are none between the two."""
    assert split_parameter(parameter) == expected


def test_names_that_a_service_can_have():
    """A name is a file's, a link's and a lock's; some are taken."""
    assert all(is_service_name(name) for name in ("web", "web.example.com", "9to5", "a_b-c"))
    bad = ("", ".web", "-s", "a/b", "a b", "node", "auth", "web.env", "web.cluster", "web.d", "wéb", "a\nb")
    assert not any(is_service_name(name) for name in bad)
