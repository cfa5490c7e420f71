"""The repository keeps its own promises: who imports whom, which clock decides, what documents say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
DRAW_RULES = TOP / "packaging/draw-rules"


def _sources(*rooms):
    return sorted(path for room in rooms for path in (TOP / room).rglob("*.py"))


def _run(*argv):
    """What a command prints; it must succeed."""
    words = [str(word) for word in argv]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def _name(path):
    return str(path.relative_to(TOP))


def _text_files():
    """Every text file of the project that a person wrote, captures and the licence left out."""
    skipped = {".git", ".hypothesis", "build", "dist", "data", "__pycache__"}
    built = ("_cache", ".egg-info")
    for path in sorted(TOP.rglob("*")):
        parts = path.relative_to(TOP).parts
        if any(part in skipped or part.startswith(".venv") or part.endswith(built) for part in parts):
            continue
        if path.is_file() and not path.is_symlink() and path.name != "LICENSE":
            try:
                yield path, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def _imports(path):
    """Full names of what a module imports, `from a import b` as `a.b`; lazy imports included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parts = path.relative_to(TOP).parts
                package = parts if parts[0] == "opensvc_hb" else ("opensvc_hb", *parts)
                module = ".".join([*package[: len(package) - node.level], *module.split(".")]).rstrip(".")
            for alias in node.names:
                yield f"{module}.{alias.name}"


def _within(name, packages):
    return any(name == package or name.startswith(package + ".") for package in packages)


# -- who imports whom ----------------------------------------------------------------


def test_core_imports_only_data_modules_and_itself():
    """The core stays pure: no clock, no thread, no socket, no file, no random number, no log."""
    data_modules = (
        "__future__ bisect collections dataclasses enum functools hashlib heapq itertools math struct zlib"
    )
    allowed = [*data_modules.split(), "operator", "typing", "opensvc_hb.core", "opensvc_hb.errors"]
    wrong = [
        f"{_name(path)} imports {name}"
        for path in _sources("opensvc_hb/core")
        for name in _imports(path)
        if not _within(name, allowed)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("room", "may_import"),
    [
        ("links", "core errors files ini paths"),
        ("agent", "core errors files held ini paths client services_table"),
        ("daemon", "core links errors files held ini paths client services_table"),
    ],
)
def test_rooms_use_only_the_doors_they_have(room, may_import):
    """links and agent know the core alone; the daemon knows the agent by name, in its runner process."""
    allowed = [f"opensvc_hb.{name}" for name in [room, *may_import.split(), "__version__", "drivers"]]
    wrong = [
        f"{_name(path)} imports {name}"
        for path in _sources(f"opensvc_hb/{room}")
        for name in _imports(path)
        if name.startswith("opensvc_hb.") and not _within(name, allowed)
    ]
    assert wrong == []


def test_drivers_import_the_resource_interface_and_nothing_else_of_ours():
    """A driver sees what the agent lends it, and what its neighbours share."""
    allowed = ["opensvc_hb.agent.resource", "opensvc_hb.client", "opensvc_hb.errors", "opensvc_hb.drivers"]
    wrong = [
        f"{_name(path)} imports {name}"
        for path in _sources("drivers")
        for name in _imports(path)
        if name.startswith("opensvc_hb") and not _within(name, allowed)
    ]
    assert wrong == []


def test_the_socket_client_imports_the_standard_library_only():
    """Everyone may import the client, so it brings nobody along."""
    wrong = [
        name
        for name in _imports(TOP / "opensvc_hb/client.py")
        if name.startswith("opensvc_hb") and not _within(name, ["opensvc_hb.errors"])
    ]
    assert wrong == []
    assert not set(_imports(TOP / "opensvc_hb/client.py")) & {"psutil", "docker", "cryptography"}


# -- clocks and shells ----------------------------------------------------------------

WALL_CLOCK = {
    ("time", "time"),
    ("time", "time_ns"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("datetime", "today"),
    ("date", "today"),
}

WHERE_PEOPLE_READ_IT = {
    "opensvc_hb/daemon/journal.py": "the time of an entry",
    "opensvc_hb/agent/log.py": "the time of a line",
    "opensvc_hb/agent/adapter.py": "the time of a status document",
    "opensvc_hb/agent/foreign.py": "the time of a status document",
    "opensvc_hb/cli/hb_import.py": "the name of a backup",
    "opensvc_hb/cli/openha_hb.py": "the time of a beat",
    "opensvc_hb/cli/svcmgr.py": "the time of a status document",
    "opensvc_hb/cli/svcmon.py": "the time of a status document",
    "opensvc_hb/links/openha_host.py": "the sender's clock in the C program's structure: the format wants it",
    "drivers/resource/sync/_rsync.py": "its stamps are dates, in the agents' format",
}


def test_the_wall_clock_decides_nothing():
    """The wall clock jumps, so what it says is for people only."""
    wrong = []
    for path in _sources("opensvc_hb", "drivers"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                base = node.value
                owner = base.id if isinstance(base, ast.Name) else getattr(base, "attr", "")
                if (owner, node.attr) in WALL_CLOCK and _name(path) not in WHERE_PEOPLE_READ_IT:
                    wrong.append(f"{_name(path)}:{node.lineno}: {owner}.{node.attr}")
    assert wrong == []


def test_nothing_runs_through_a_shell():
    """No command line of ours is ever parsed by a shell."""
    wrong = []
    for path in _sources("opensvc_hb", "drivers"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                wrong.append(f"{_name(path)}:{node.value.lineno}: shell=")
            if isinstance(node, ast.Attribute) and node.attr in (
                "system",
                "popen",
                "getoutput",
                "getstatusoutput",
            ):
                base = node.value
                if isinstance(base, ast.Name) and base.id in ("os", "subprocess"):
                    wrong.append(f"{_name(path)}:{node.lineno}: {base.id}.{node.attr}")
    assert wrong == []


# -- texts ----------------------------------------------------------------------------


def test_no_file_mentions_a_place_outside_the_project():
    """Somebody who has this repository, and nothing else, can follow every reference in it."""
    outside = re.compile(r"(?<![\w.])/(?:work|home/\w+|workspace)/|\bdesign\.md\b|\bissue #?\d+\b")
    wrong = [
        f"{_name(path)}:{number}: {line.strip()[:80]}"
        for path, text in _text_files()
        if path != Path(__file__)
        for number, line in enumerate(text.splitlines(), 1)
        if outside.search(line)
    ]
    assert wrong == []


def test_nothing_is_left_to_do_in_the_code():
    """A promise to finish later is no part of a release."""
    mark = re.compile(r"#.*\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
    wrong = [
        f"{_name(path)}: {mark.search(text).group()}" for path, text in _text_files() if mark.search(text)
    ]
    assert wrong == []


def test_links_between_documents_lead_somewhere():
    """Every relative link of a Markdown file names a file that exists."""
    wrong = [
        f"{_name(path)}: {target}"
        for path, text in _text_files()
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#:]+)\)", text)
        if not (path.parent / target).exists()
    ]
    assert wrong == []


def test_the_files_named_in_the_architecture_exist():
    """Whoever follows the reading order finds each file where it says."""
    text = (TOP / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:core|links|daemon|agent|cli|drivers)/[\w/]+\.py)`", text))
    assert len(named) > 15, "the way of a beat is no longer found in the text"
    missing = sorted(
        name for name in named if not (TOP / "opensvc_hb" / name).exists() and not (TOP / name).exists()
    )
    assert missing == []


def test_the_table_of_exit_codes_is_the_one_in_the_code():
    """docs/exit-codes.md lists each code with its name, no more and no less."""
    from opensvc_hb.errors import ExitCode

    text = (TOP / "docs/exit-codes.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (\d+) \| (\w+) \|", text, re.MULTILINE)
    assert listed == [(str(int(code)), code.name) for code in ExitCode]


def test_the_manual_page_has_every_exit_code():
    """The same table stands at the end of hbmgr(1)."""
    from opensvc_hb.errors import ExitCode

    section = (TOP / "docs/man/hbmgr.1").read_text(encoding="utf-8").partition(".SH EXIT STATUS")[2]
    listed = re.findall(r"^\.B (\d+)$", section.partition(".SH")[0], re.MULTILINE)
    assert listed == [str(int(code)) for code in ExitCode]


def test_the_drawn_rules_are_those_of_the_table():
    """docs/rules.md follows the decision table; `make docs` draws it anew."""
    drawn = subprocess.run(
        [sys.executable, str(DRAW_RULES)], capture_output=True, text=True, check=True
    ).stdout
    assert (TOP / "docs/rules.md").read_text(encoding="utf-8") == drawn, "run: make docs"


def test_one_version_stands_everywhere():
    """The package, its changelog and Debian's tell the same version."""
    from opensvc_hb import __version__

    newest = re.search(r"^## (\S+)", (TOP / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    debian = re.match(r"opensvc-hb \((\S+)\)", (TOP / "debian/changelog").read_text(encoding="utf-8"))
    assert (newest.group(1), debian.group(1)) == (__version__, __version__)


def test_make_help_lists_what_people_run():
    """`make help`, and a bare `make`, show each target that the documents name."""
    shown = subprocess.run(
        ["make", "-C", str(TOP), "--no-print-directory"], capture_output=True, text=True, check=True
    )
    listed = set(re.findall(r"^  ([a-z-]+) ", shown.stdout, re.MULTILINE))
    documents = "".join((TOP / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md"))
    named = set(re.findall(r"(?:`|^    )make ([a-z-]+)", documents, re.MULTILINE))
    assert {"help", "venv", "demo", "test", "test-quick", "lint", "deb"} <= listed
    assert named <= listed


def test_every_option_of_hb_conf_is_documented_with_its_default():
    """The shipped hb.conf and its manual page show each keyword, and none that does not exist."""
    from opensvc_hb.daemon.settings import OPTIONS

    options = [(option.name, option.default) for option in OPTIONS]
    shipped = (TOP / "conf.d/hb.conf").read_text(encoding="utf-8")
    shown = re.findall(r"^#(\w+) =(.*)$", shipped, re.MULTILINE)
    assert sorted((name, value.strip()) for name, value in shown) == sorted(options)
    page = (TOP / "docs/man/hb.conf.5").read_text(encoding="utf-8")
    described = re.findall(r'^\.BR (\w+) " =(.*)"$', page, re.MULTILINE)
    assert sorted((name, value.strip()) for name, value in described) == sorted(options)


def test_the_shipped_hb_conf_is_valid_as_it_is_and_with_its_comments_lifted(tmp_path):
    """Installing it changes nothing, and lifting the comments gives the defaults again."""
    from opensvc_hb.daemon.settings import Settings, read_settings

    shipped = (TOP / "conf.d/hb.conf").read_text(encoding="utf-8")
    for text in (shipped, re.sub(r"^#(\w+ =)", r"\1", shipped, flags=re.MULTILINE)):
        (tmp_path / "hb.conf").write_text(text, encoding="utf-8")
        assert read_settings(tmp_path) == Settings()


def test_the_units_agree_with_the_exit_codes():
    """systemd does not start a daemon again that refused its configuration."""
    from opensvc_hb.errors import ExitCode

    unit = (TOP / "conf.d/systemd/opensvc-hb.service").read_text(encoding="utf-8")
    assert f"RestartPreventExitStatus={int(ExitCode.CONFIGURATION)}\n" in unit
