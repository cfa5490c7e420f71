"""The services file: its grammar, and how commands edit it."""

from __future__ import annotations

import pytest

from opensvc_hb.daemon import services_file as edit
from opensvc_hb.errors import ConfigurationErrors
from opensvc_hb.paths import Root
from opensvc_hb.services_table import (
    ServiceLine,
    agent_service,
    find_service,
    name_problem,
    read_services,
    services_path,
)


@pytest.fixture
def root(tmp_path):
    return Root(tmp_path)


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "registry.sh"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def write(root, text):
    root.hb.mkdir(parents=True, exist_ok=True)
    services_path(root).write_bytes(text.encode("utf-8", "surrogateescape"))
    return services_path(root)


def problems(root, text):
    with pytest.raises(ConfigurationErrors) as refused:
        read_services(write(root, text))
    return [str(error).partition("etc/opensvc/hb/")[2] for error in refused.value.errors]


def add(root, script, name="registry", primary="n1", secondary="n2", check="/bin/true"):
    edit.add_service(root, name, script, primary, secondary, check, resolves=lambda node: node != "nohost")


def test_no_file_names_no_service(root):
    """The file is optional."""
    assert read_services(services_path(root)) == ()


def test_columns_comments_and_blanks(root):
    """Tabs and spaces part columns; comments and blank lines are nothing; nodes are lower case."""
    text = "# ours\n\nregistry\t/r.sh  N1 n2\t/bin/true # why\r\n  busybox /b.sh n2 n1 /bin/true"
    assert read_services(write(root, text)) == (
        ServiceLine("registry", "/r.sh", "n1", "n2", "/bin/true", 3),
        ServiceLine("busybox", "/b.sh", "n2", "n1", "/bin/true", 4),
    )


def test_every_mistake_is_found_in_one_reading(root):
    """File, line, column, what is wrong and what is allowed."""
    text = (
        "short /s.sh n1\n"
        "../up /s.sh n1 n2 /bin/true\n"
        "rel s.sh n1 n2 true\n"
        "same /s.sh n1 N1 /bin/true\n"
        "web /s.sh n1 n2 /bin/true\n"
        "web /s.sh n1 n2 /bin/true\n"
        "odd /s.sh n1 n/2 /bin/true extra\n"
    )
    assert problems(root, text) == [
        "services:1: columns: 3 columns, a service has 5: service script primary secondary check_script",
        "services:2: service: '../up' is not a service name: no '/' in it, and no '.', '-' or '#' at its "
        "beginning",
        "services:3: script: 's.sh' is not an absolute path: it is executed as it stands here",
        "services:3: check_script: 'true' is not an absolute path: it is executed as it stands here",
        "services:4: secondary: n1 is the primary, too: the two must differ",
        "services:6: service: web is already on line 5: remove one of them",
        "services:7: columns: 6 columns, a service has 5: service script primary secondary check_script",
    ]


def test_a_name_has_63_bytes(root):
    """The limit of the wire, in bytes and not in characters."""
    assert name_problem("x" * 63) == ""
    assert "has 64 bytes: at most 63" in name_problem("x" * 64)
    assert "has 64 bytes: at most 63" in name_problem("é" * 32)
    assert name_problem("a\x07") != ""


def test_one_line_is_found_among_wrong_ones(root):
    """What runs can be stopped while an editor's work is half-done."""
    path = write(root, "broken\nweb /w.sh n1 n2 /bin/true\n\xff\n")
    assert find_service(path, "web").script == "/w.sh"
    assert find_service(path, "broken") is None
    assert find_service(path, "other") is None


def test_a_cluster_link_to_svcmgr_is_the_agents_service(tmp_path):
    """Through other links too; a script of that name, or a link to something else, is not."""
    (tmp_path / "web").symlink_to("/usr/bin/svcmgr")
    (tmp_path / "web.cluster").symlink_to("web")
    (tmp_path / "old.cluster").symlink_to("/opt/opensvc/bin/svcmgr.py")
    (tmp_path / "own.cluster").symlink_to("/usr/local/sbin/own.sh")
    (tmp_path / "file.cluster").write_text("")
    (tmp_path / "round.cluster").symlink_to("round.cluster")
    answers = {path.name: agent_service(str(path)) for path in tmp_path.iterdir() if path.name.endswith("r")}
    assert answers == {
        "web.cluster": "web",
        "old.cluster": "old",
        "own.cluster": None,
        "file.cluster": None,
        "round.cluster": None,
    }


def test_a_service_is_added_behind_the_others(root, script):
    """Tab separated, as OpenHA writes it; comments, and a last line without its end, stay."""
    path = write(root, "# ours\nbusybox /b.sh n2 n1 /bin/true")
    add(root, script)
    assert (
        path.read_text() == f"# ours\nbusybox /b.sh n2 n1 /bin/true\nregistry\t{script}\tn1\tn2\t/bin/true\n"
    )
    assert [line.name for line in read_services(path)] == ["busybox", "registry"]


def test_the_file_is_made_when_missing_and_keeps_its_mode(root, script):
    """0644 at first, what the site made of it later; a link to it is followed."""
    add(root, script)
    path = services_path(root)
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o600)
    path.rename(root.top / "elsewhere")
    path.symlink_to(root.top / "elsewhere")
    add(root, script, name="busybox")
    assert path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [line.name for line in read_services(path)] == ["registry", "busybox"]


def test_a_service_is_removed_and_the_rest_stays(root):
    """Comments and order stay; an unknown one is refused in OpenHA's words."""
    path = write(root, "# ours\nregistry /r.sh n1 n2 /bin/true\nbusybox /b.sh n2 n1 /bin/true\n")
    edit.remove_service(root, "registry")
    assert path.read_text() == "# ours\nbusybox /b.sh n2 n1 /bin/true\n"
    with pytest.raises(edit.ServiceNotFound, match=r"^Service registry not found\.$"):
        edit.remove_service(root, "registry")


@pytest.mark.parametrize(
    ("change", "said", "stream", "alone"),
    [
        ({"name": "x" * 64}, "Error : service name is too long. 64 out of 63", "stderr", True),
        ({"name": "busybox"}, "Service busybox already created.", "stdout", False),
        (
            {"script": "/nonexistent.sh"},
            "Error: unable to open startup script file /nonexistent.sh",
            "stderr",
            False,
        ),
        ({"check": "/nonexistent"}, "Error: unable to open check script file /nonexistent", "stderr", False),
        ({"primary": "nohost"}, "Error: unknown host nohost", "stderr", False),
        ({"secondary": "nohost"}, "Error: unknown host nohost", "stderr", False),
        ({"secondary": "n1"}, "ERROR: primary and secondary node must differ.", "stderr", False),
        ({"script": "{noexec}"}, "Startup script {noexec} mode not valid", "stdout", False),
    ],
)
def test_refusals_have_openhas_words(root, script, tmp_path, change, said, stream, alone):
    """The file stays as it was."""
    text = "busybox /b.sh n2 n1 /bin/true\n"
    path = write(root, text)
    noexec = tmp_path / "noexec.sh"
    noexec.write_text("")
    noexec.chmod(0o044)
    values = {"script": script, **change}
    values = {name: value.format(noexec=noexec) for name, value in values.items()}
    with pytest.raises(edit.ServiceEditRefused) as refused:
        add(root, **values)
    assert str(refused.value) == said.format(noexec=noexec)
    assert (refused.value.stream.value, refused.value.precedes_creating) == (stream, alone)
    assert path.read_text() == text


def test_the_first_failing_check_in_openhas_order_is_told(root, script):
    """Full, length, there already, script, check script, hosts, same node."""
    write(root, "".join(f"svc{number} /s.sh n1 n2 /bin/true\n" for number in range(128)))
    with pytest.raises(edit.TooManyServices):
        add(root, "/no", name="x" * 64)
    write(root, "web /s.sh n1 n2 /bin/true\n")
    with pytest.raises(edit.ServiceAlreadyThere):
        add(root, "/no", name="web")
    with pytest.raises(edit.ScriptUnreadable):
        add(root, "/no", check="/no", primary="nohost")
    with pytest.raises(edit.CheckScriptUnreadable):
        add(root, script, check="/no", primary="nohost")
    with pytest.raises(edit.UnknownHost):
        add(root, script, primary="nohost", secondary="nohost")


def test_a_name_that_would_be_a_path_is_refused(root, script):
    """OpenHA accepts it, and writes files outside of its tree afterwards."""
    for name in ("../web", "a/b", "#", "two words", "-A", ""):
        with pytest.raises(edit.BadServiceName, match="is not a service name"):
            add(root, script, name=name)
