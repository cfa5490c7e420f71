"""The Debian package installs what it should, and it runs with Debian's Python and libraries only."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
COMMANDS = ("hbmgr", "svcmgr", "svcmon")
MASS_COMMANDS = (
    "allservices",
    "allupservices",
    "alldownservices",
    "allprimaryservices",
    "allsecondaryservices",
)


def _run(*argv, **more):
    words = [str(word) for word in argv]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, **more)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the tree, so that all builds below are of the same files."""
    copy = tmp_path_factory.mktemp("source") / "opensvc-hb"
    assert _run(TOP / "packaging/copy-tree", copy).returncode == 0
    return copy


@pytest.fixture(scope="module")
def package(source, tmp_path_factory):
    """The package, built from a clean copy of the tree. Without the tools this fails: `make setup`."""
    target = tmp_path_factory.mktemp("deb")
    built = _run(source / "packaging/build-deb", target)
    assert built.returncode == 0, built.stderr
    [path] = target.glob("opensvc-hb_*_all.deb")
    return path


@pytest.fixture(scope="module")
def installed(package, tmp_path_factory):
    """The package's files, unpacked below a directory."""
    root = tmp_path_factory.mktemp("installed")
    assert _run("dpkg-deb", "--extract", package, root).returncode == 0
    return root


@pytest.fixture(scope="module")
def control(package, tmp_path_factory):
    """The package's control files."""
    root = tmp_path_factory.mktemp("control")
    assert _run("dpkg-deb", "--control", package, root).returncode == 0
    return root


@pytest.fixture
def on_debian(installed, tmp_path):
    """Runs an installed command in a root of its own, with nothing but Debian's Python around it."""

    def run(command, *words, **more):
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(installed / "usr/lib/python3/dist-packages"),
            "PYTHONNOUSERSITE": "1",
            "OSVC_ROOT": str(tmp_path / "root"),
            "OSVC_NODENAME": "n1.example.com",
        }
        return _run("/usr/bin/python3", installed / "usr/bin" / command, *words, env=environment, **more)

    return run


def test_it_installs_commands_drivers_units_and_documents(installed):
    """Each thing stands where the distribution wants it."""
    modules = "usr/lib/python3/dist-packages/opensvc_hb"
    expected = {
        *(f"usr/bin/{command}" for command in (*COMMANDS, *MASS_COMMANDS)),
        *(f"usr/share/man/man1/{command}.1.gz" for command in MASS_COMMANDS),
        f"{modules}/core/rules.py",
        f"{modules}/drivers/resource/app/simple.py",
        "lib/systemd/system/opensvc-hb.service",
        "lib/systemd/system/opensvc.slice",
        "etc/opensvc/hb/hb.conf",
        "etc/logrotate.d/opensvc-hb",
        "usr/lib/tmpfiles.d/opensvc-hb.conf",
        "usr/share/bash-completion/completions/hbmgr",
        "usr/share/man/man1/hbmgr.1.gz",
        "usr/share/man/man1/svcmgr.1.gz",
        "usr/share/man/man1/svcmon.1.gz",
        "usr/share/man/man5/hb.conf.5.gz",
        "usr/share/man/man5/svc.env.5.gz",
        "usr/share/doc/opensvc-hb/README.md",
        "usr/share/doc/opensvc-hb/docs/operations.md",
        "usr/share/doc/opensvc-hb/docs/images/takeover.svg",
        "usr/share/doc/opensvc-hb/examples/monitor",
        "usr/share/doc/opensvc-hb/examples/web.example.com.env",
    }
    inside = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert sorted(expected - inside) == []
    assert "usr/bin/openha" not in inside, "OpenHA's own package has it, on a node that is being moved"
    strangers = {
        name
        for name in inside
        if name.startswith("usr/lib/python3/") and not re.search(r"/opensvc_hb[/-]", name)
    }
    assert strangers == set(), "a common name was taken in dist-packages"


def test_every_driver_of_the_tree_is_installed(installed):
    """A driver is one file, found by its path, and the package has them all."""
    target = installed / "usr/lib/python3/dist-packages/opensvc_hb/drivers"
    wanted = {path.relative_to(TOP / "drivers") for path in (TOP / "drivers").rglob("*.py")}
    assert wanted == {path.relative_to(target) for path in target.rglob("*.py")}


def test_it_depends_on_the_distribution_alone(package):
    """What it needs is in Debian, by name, in versions that bookworm has."""
    depends = _run("dpkg-deb", "--field", package, "Depends").stdout
    libraries = ("cryptography", "docker", "psutil")
    for name in (*(f"python3-{library}" for library in libraries), "iproute2"):
        assert name in depends
    assert _run("dpkg-deb", "--field", package, "Architecture").stdout == "all\n"
    for name in re.findall(r"[a-z][a-z0-9.+-]+", re.sub(r"\([^)]*\)|:any", "", depends)):
        known = _run("dpkg-query", "--show", name)
        assert known.returncode == 0, f"{name} is no package of this Debian, or not installed: make setup"


def test_the_configuration_belongs_to_the_administrator(control, installed):
    """hb.conf is a conffile, and nodes, monitor and key are not shipped filled."""
    assert "/etc/opensvc/hb/hb.conf\n" in (control / "conffiles").read_text()
    assert sorted(path.name for path in (installed / "etc/opensvc/hb").iterdir()) == ["hb.conf"]


def test_removal_hands_the_services_over_and_an_upgrade_does_not(control):
    """Before a removal the node leaves; an upgrade only restarts the daemon."""
    prerm = (control / "prerm").read_text()
    condition = prerm[: prerm.index("hbmgr leave")].splitlines()
    assert any('"$1" = remove' in line for line in condition)
    assert "restart" in (control / "postinst").read_text()
    for script in ("prerm", "postinst", "postrm"):
        assert _run("sh", "-n", control / script).returncode == 0
        assert "opensvc.slice" not in (control / script).read_text(), "it holds what services left running"
        assert (control / script).stat().st_mode & stat.S_IXUSR


def test_the_unit_is_valid_and_starts_an_installed_command(installed):
    """The daemon is told ready, watched, and not killed with what it started."""
    unit = (installed / "lib/systemd/system/opensvc-hb.service").read_text()
    start = re.search(r"^ExecStart=(\S+) daemon$", unit, re.MULTILINE)
    assert (installed / start.group(1).lstrip("/")).exists()
    for line in ("Type=notify", "KillMode=process", "Restart=on-failure", "LimitMEMLOCK=infinity"):
        assert f"\n{line}\n" in unit
    assert re.search(r"^WatchdogSec=\d+$", unit, re.MULTILINE)
    if shutil.which("systemd-analyze"):
        verified = _run("systemd-analyze", "verify", "--man=no", f"--root={installed}", "opensvc-hb.service")
        # of the whole machine only our files are there: what counts is what it says of their lines
        assert re.findall(r"opensvc-hb\.service:\d+:.*", verified.stderr) == []


def test_its_libraries_are_those_of_debian():
    """The checks around this one mean something: no library comes from elsewhere on this machine."""
    for library in ("cryptography", "docker", "psutil"):
        program = f"import {library}; print({library}.__file__)"
        environment = {"PATH": "/usr/bin", "PYTHONNOUSERSITE": "1"}
        found = _run("/usr/bin/python3", "-c", program, env=environment, cwd="/")
        assert found.returncode == 0, f"Debian's {library} is not installed: make setup\n{found.stderr}"
        assert found.stdout.startswith("/usr/lib/python3/dist-packages/")


@pytest.mark.parametrize("command", [*COMMANDS, *MASS_COMMANDS])
def test_each_command_runs(on_debian, command):
    """`--help` answers at once, with Debian's Python and libraries."""
    ended = on_debian(command, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "usage: " in ended.stdout.lower()


def test_svcmon_and_status_work_without_a_daemon(on_debian, tmp_path):
    """A node that has a service file, and nothing else yet, can look at it."""
    etc = tmp_path / "root/etc/opensvc"
    etc.mkdir(parents=True)
    launcher = tmp_path / "launcher"
    launcher.write_text("#!/bin/sh\nexit 0\n")
    launcher.chmod(0o755)
    (etc / "svc1.env").write_text(
        "[DEFAULT]\nservice_type = DEV\nnodes = n1.example.com\n\n"
        f"[app#1]\nscript = {launcher}\nstart = 1\nstop = 1\ncheck = 1\n"
    )
    shown = on_debian("svcmon")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "svc1" in shown.stdout
    tree = on_debian("svcmgr", "-s", "svc1", "print", "status")
    assert "app#1" in tree.stdout, tree.stderr
    as_json = on_debian("svcmon", "--format", "json")
    assert "svc1" in json.dumps(json.loads(as_json.stdout))


def test_the_cluster_key_is_made_with_debians_cryptography(on_debian, tmp_path):
    """`hbmgr keygen` writes a file that only its owner reads."""
    made = on_debian("hbmgr", "keygen")
    assert made.returncode == 0, made.stderr
    key = tmp_path / "root/etc/opensvc/hb/key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert on_debian("hbmgr", "keygen").returncode != 0, "a second key would cut this node off"


def test_the_shipped_examples_are_valid(on_debian, installed, tmp_path):
    """With a key beside them, the example files make a cluster and a service without an error."""
    etc = tmp_path / "root/etc/opensvc"
    (etc / "hb").mkdir(parents=True)
    examples = installed / "usr/share/doc/opensvc-hb/examples"
    for name, place in (("web.example.com.env", etc), ("nodes", etc / "hb"), ("monitor", etc / "hb")):
        shutil.copy(examples / name, place)
    shutil.copy(installed / "etc/opensvc/hb/hb.conf", etc / "hb")
    assert on_debian("hbmgr", "keygen").returncode == 0
    judged = on_debian("svcmgr", "-s", "web.example.com", "validate", "config")
    assert (judged.returncode, judged.stderr) == (0, ""), judged.stdout
    checked = on_debian("hbmgr", "config", "check")
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
    assert "6 links and 1 service " in checked.stdout


def test_the_manual_pages_are_clean():
    """mandoc has nothing to say."""
    linted = _run("mandoc", "-Tlint", "-Wwarning", *sorted((TOP / "docs/man").iterdir()))
    assert (linted.returncode, linted.stdout) == (0, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_what_help_tells_is_in_the_manual_and_in_the_completion(on_debian, installed, command):
    """Each command and each long option of `--help`, also below a command, has its place in both."""
    page = (TOP / f"docs/man/{command}.1").read_text().replace("\\-", "-")
    completion = (installed / "usr/share/bash-completion/completions/hbmgr").read_text()
    usage = on_debian(command, "--help").stdout
    words = re.findall(r"^ {2,4}([a-z-]+)(?: |$)", usage, re.MULTILINE)
    helps = [usage]
    if command == "hbmgr":
        helps += [on_debian(command, word, "--help").stdout for word in words]
    options = {option for text in helps for option in re.findall(r"--[a-z-]+", text)}
    assert command == "svcmon" or len(words) > 15, usage
    for word in {*words, *options}:
        # a word of its own, also behind a dash of roff's font changes
        assert re.search(rf"(?<![\w-]){word}(?![\w-])", page), f"{command}(1) lacks {word}"
        assert re.search(rf"(?<![\w-]){word}(?![\w-])", completion), f"the completion lacks {word}"


def test_the_completion_offers_verbs_and_services(installed, tmp_path):
    """In bash, `hbmgr sw<TAB>` completes the verb and then the service."""
    etc = tmp_path / "etc/opensvc"
    etc.mkdir(parents=True)
    (etc / "web.env").write_text("")
    (etc / "node.conf").write_text("")
    completion = installed / "usr/share/bash-completion/completions/hbmgr"
    script = (
        f"source {completion}\n"
        'COMP_WORDS=(hbmgr sw); COMP_CWORD=1; _opensvc_hb; echo "${COMPREPLY[@]}"\n'
        'COMP_WORDS=(hbmgr switch ""); COMP_CWORD=2; _opensvc_hb; echo "${COMPREPLY[@]}"\n'
    )
    ended = _run("bash", "-c", script, env={**os.environ, "OSVC_ROOT": str(tmp_path)})
    assert (ended.stdout, ended.stderr) == ("switch\nweb --all\n", "")


def test_two_builds_give_the_same_bytes(source, package, tmp_path):
    """Whoever builds the same source gets the same package."""
    again = _run(source / "packaging/build-deb", tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / package.name).read_bytes() == package.read_bytes()
