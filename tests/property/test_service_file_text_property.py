"""Whatever a service's file looks like, a change of one keyword changes nothing else."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from opensvc_hb.agent.file_text import UnwritableError, delete_sections, set_value, unset
from opensvc_hb.errors import ConfigurationErrors
from opensvc_hb.ini import parse

NAMES = st.sampled_from(["a", "b", "a@n1", "key word"])
SECTIONS = st.sampled_from(["DEFAULT", "fs#1", "x y"])
LINES = st.one_of(
    SECTIONS.map(lambda name: f"[{name}]"),
    st.builds(
        "{}{}{}".format, NAMES, st.sampled_from(["=", " = ", ":", " :\t"]), st.text("ab =#;", max_size=5)
    ),
    st.sampled_from(["", "# c", "  ; c", "   more", "\tmore = x", " "]),
)
TEXTS = st.lists(LINES, max_size=12).map(lambda lines: "[DEFAULT]\n" + "\n".join(lines))


def says(text):
    return {
        (section, key): entry.value
        for section, entries in parse(text, "").sections.items()
        for key, entry in entries.items()
    }


@given(TEXTS, SECTIONS, NAMES, st.text(max_size=8))
def test_a_set_is_read_back_and_all_else_is_as_before(text, section, key, value):
    """The new text says the new value and everything else as before; or it is refused."""
    with contextlib.suppress(UnwritableError, ConfigurationErrors):
        before = says(text)
        after = set_value(text, section, key, value, may_add_section=True)
        stripped = "\n".join(part.strip() for part in value.split("\n"))
        assert says(after) == {**before, (section, key): stripped}
        comments = [line for line in text.split("\n") if line.strip()[:1] in ("#", ";")]
        assert [line for line in after.split("\n") if line.strip()[:1] in ("#", ";")] == comments


@given(TEXTS)
def test_what_was_set_is_removed_without_a_trace(text):
    """Unset takes back what set added; a section that is deleted takes its own keywords only."""
    with contextlib.suppress(ConfigurationErrors):
        before = says(text)
        with_one = set_value(text, "new", "key", "value", may_add_section=True)
        assert says(unset(with_one, "new", "key")) == before
        assert says(delete_sections(with_one, ["new"])) == before
