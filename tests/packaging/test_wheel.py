"""The wheel brings everything of the tree that runs, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]


def _run(*argv, **more):
    words = [str(word) for word in argv]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, **more)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the tree, so that no stale build directory is packed."""
    work = tmp_path_factory.mktemp("wheel")
    assert _run(TOP / "packaging/copy-tree", work / "source").returncode == 0
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps")
    built = _run(*pip, "--no-build-isolation", "--wheel-dir", work, work / "source")
    assert built.returncode == 0, f"the wheel was not built (is setuptools >= 66 here?):\n{built.stderr}"
    [path] = work.glob("*.whl")
    return path


def _modules(source, target):
    root = TOP / source
    return {
        f"{target}/{path.relative_to(root)}" for path in root.rglob("*") if path.suffix in (".py", ".typed")
    }


def test_every_module_and_driver_is_in_the_wheel_and_nothing_else(wheel):
    """A new file in a room, or a new folder of drivers, is installed without a list to edit."""
    shipped = _modules("opensvc_hb", "opensvc_hb") | _modules("drivers", "opensvc_hb/drivers")
    shipped |= {
        f"opensvc_hb/conf_d/{path.relative_to(TOP / 'conf.d')}"
        for path in (TOP / "conf.d").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert sorted(shipped - inside) == [], "not in the wheel"
    assert sorted(inside - shipped) == [], "only in the wheel"


def test_the_wheel_runs_without_the_tree(wheel, tmp_path):
    """Drivers are found, and each command of the entry points answers, from the installed files alone."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OSVC_ROOT": str(tmp_path / "root")}
    for command in ("hbmgr", "svcmgr", "svcmon"):
        program = f"from opensvc_hb.cli.{command} import main; raise SystemExit(main())"
        # -c puts the working directory on the path: one that has nothing of ours
        ended = _run(sys.executable, "-c", program, "--help", cwd=tmp_path, env=environment)
        assert (ended.returncode, ended.stderr) == (0, ""), command
        assert "usage: " in ended.stdout.lower()
    where = "import opensvc_hb.drivers.resource.app.simple as driver; print(driver.__file__)"
    found = _run(sys.executable, "-c", where, cwd=tmp_path, env=environment)
    assert found.stdout.startswith(str(tmp_path / "site")), found.stderr
