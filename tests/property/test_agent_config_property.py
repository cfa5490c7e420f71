"""Whatever a file holds, the reader answers with a configuration or a configuration error."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from opensvc_hb.agent.drivers import DriverFinder
from opensvc_hb.agent.resource import ActionError, ResourceContext
from opensvc_hb.agent.service import ServiceBuilder
from opensvc_hb.errors import ConfigurationError, ConfigurationErrors
from opensvc_hb.ini import parse

LINES = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        [
            "[DEFAULT]", "[fs#1]", "[app#1]", "[hb#0]", "[ip#x]", "[sync#i0]", "[subset#fs:a]", "[vg#1]", "[",
            "type = OpenHA", "type = tmpfs", "dev = none", "mnt@nodes = /a", "mnt = /b", "service_type = DEV",
            "nodes = n1 n2", "drpnodes = n3", "disable = maybe", "disable = true", "always_on = nodes",
            "script = /x", "start = 1", "start = x", "parallel = yes", "subset = a", "start_timeout = 0",
            "scsireserv = true", "  continued", "# comment", "nosuch = 1", "pre_start = /bin/true a",
        ]
    ),
)  # fmt: skip
TEXTS = st.lists(LINES, max_size=25).map("\n".join)


@given(st.text())
def test_any_text_is_read_or_refused(text):
    """No text makes the reader fail in any other way than its own."""
    assert all(isinstance(error, ConfigurationError) for error in complaints(text))


def complaints(text):
    try:
        parse(text, "f")
    except ConfigurationErrors as refused:
        return refused.errors
    return ()


def no_context(name, nodes, drpnodes, default):
    def run(*arguments, **keywords):
        raise ActionError("no command is run to build a service")

    return ResourceContext(
        "n1", "svc", nodes, drpnodes, "/e", "/v", "/l", "/t", run, str, str, str, default=default
    )


FINDER = DriverFinder(None)


@given(TEXTS)
def test_any_file_is_built_or_refused_with_its_lines(text):
    """Every complaint names the file and a line of it; nothing else is ever raised."""
    try:
        service = ServiceBuilder("svc", parse(text, "f"), "n1", FINDER, no_context).build()
    except ConfigurationErrors as refused:
        for error in refused.errors:
            assert error.path == "f"
            assert 0 <= error.line <= text.count("\n") + 1
        return
    assert service.service_type == "DEV"


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}(@n[12])?", fullmatch=True),
        st.from_regex(r"[a-z/ ]{0,9}", fullmatch=True),
        max_size=8,
    )
)
def test_what_is_written_is_read_back(values):
    """Keys and values of a section survive being written down."""
    text = "[fs#1]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
    file = parse(text, "f")
    assert {entry.key: entry.value for entry in file.entries("fs#1")} == {
        k: v.strip() for k, v in values.items()
    }
