"""Fixtures of the VM tier: one image, one machine on which our package was installed, then pairs of nodes.

A test gets two nodes that have just booted from disks of their own, the package installed and nothing
configured, and it may break whatever it likes. A boot takes half a minute: a test is a story of several
chapters, each of which begins where the last one ended.

A machine has one processor, and an owner that works while its peer waits leaves one of ours idle: with `-n 2`
the longest story is told beside the others. The process that distributes the tests keeps what they share,
and removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from bed import NODES, Bed
from image import ensure_image
from machine_uml import File

HERE = Path(__file__).resolve().parent
TREE = HERE.parent.parent
sys.path += [str(TREE / "tests"), str(TREE / "tests/lab")]
"""The replay of the tutorial is the lab's, too."""
BED = pytest.StashKey()
WORKDIR = pytest.StashKey()
LONGEST_STORY = "test_vm_tutorial.py"
PACKAGE_PLACE = "/root/opensvc-hb.deb"
INSTALL = f"DEBIAN_FRONTEND=noninteractive apt-get install --yes {PACKAGE_PLACE}"
INSTALL_LIMIT_S = 300.0


def pytest_collection_modifyitems(items):
    """Everything here is of the VM tier."""
    for item in items:
        if HERE in Path(item.fspath).parents:
            item.add_marker(pytest.mark.vm)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Have the longest story told by one process, and all others by the other one."""
    from xdist.scheduler import LoadScopeScheduling

    class LongestApart(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "longest" if LONGEST_STORY in nodeid else "others"

    return LongestApart(config, log)


@pytest.fixture(scope="session")
def vm_image():
    """The image, built by now unless pytest was called directly."""
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("the VM tier needs root")
    return ensure_image()


def pytest_configure(config):
    """Make a directory on a disk for what the machines write, one for all the processes of this run."""
    if not hasattr(config, "workerinput"):
        config.stash[WORKDIR] = Path(tempfile.mkdtemp(prefix="opensvc-hb-vmtest-", dir="/var/tmp"))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """Tell a process that runs tests for us where it is."""
    node.workerinput["vm_workdir"] = str(node.config.stash[WORKDIR])


def pytest_unconfigure(config):
    """Remove it."""
    if WORKDIR in config.stash:
        shutil.rmtree(config.stash[WORKDIR])


@pytest.fixture(scope="session")
def vm_workdir(pytestconfig):
    """The directory for what the machines write; gone after the tests."""
    told = getattr(pytestconfig, "workerinput", {}).get("vm_workdir")
    return Path(told) if told else pytestconfig.stash[WORKDIR]


@pytest.fixture(scope="session")
def installed_disk(vm_image, vm_workdir):
    """The disk of a machine on which our package was installed, by apt, with nothing to download from.

    Made by the process that asks first; the others wait for it.
    """
    disk = vm_workdir / "installed.cow"
    with open(vm_workdir / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not disk.exists():
            install(build_package(vm_workdir / "package"), vm_image, vm_workdir / "installing", disk)
    return disk


def build_package(folder):
    """Return our Debian package, built from the tree."""
    subprocess.run([TREE / "packaging/build-deb", folder], check=True, stdout=subprocess.DEVNULL)
    return next(folder.glob("*.deb"))


def install(package, image, folder, disk):
    """Install a package on a machine that boots from an image, and keep the machine's disk."""
    with Bed(image, folder) as bed:
        machine = bed.deb1
        bed.array.power_on()
        machine.power_on()
        machine.wait_booted()
        machine.write(File(PACKAGE_PLACE, package.read_bytes()))
        machine.run(INSTALL, INSTALL_LIMIT_S).check()
        machine.run("systemctl poweroff")
        machine.wait_off()
        shutil.move(machine.written, disk)


@pytest.fixture
def bed(vm_image, vm_workdir, installed_disk, request):
    """Two nodes, booted, the package installed, nothing configured."""
    folder = Path(tempfile.mkdtemp(prefix="bed-", dir=vm_workdir))
    with Bed(vm_image, folder, dict.fromkeys(NODES, installed_disk)) as made:
        request.node.stash[BED] = made
        made.boot()
        yield made


@pytest.fixture
def tell():
    """Tell how far a story has come, and how long that took; shown when it fails, and by pytest -s."""
    began = time.monotonic()
    return lambda chapter: print(f"{time.monotonic() - began:6.1f} s  {chapter}", flush=True)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Add what the machines have to say to the report of a failure that does not show it already."""
    outcome = yield
    report = outcome.get_result()
    made = item.stash.get(BED, None)
    is_shown = "--- array: console" in str(report.longrepr)
    if report.failed and report.when == "call" and made is not None and not is_shown:
        report.sections.append(("machines", made.report()))
