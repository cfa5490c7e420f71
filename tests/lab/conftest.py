"""Fixtures of the lab: it needs root, says so when it is missing, and shows its logs on failure."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from lab import BaseLab, Lab

LABS = pytest.StashKey()


@pytest.fixture
def workdir():
    """A directory on a file system that knows direct input and output; gone after the test."""
    path = Path(tempfile.mkdtemp(prefix="opensvc-hb-lab-", dir="/var/tmp"))
    yield path
    if not os.environ.get("LAB_KEEP"):
        shutil.rmtree(path)


@pytest.fixture
def needs_root():
    """Skip, aloud, for anybody but root; in continuous integration that is a failure."""
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("the lab needs root")


@pytest.fixture
def lab(workdir, needs_root, request):
    """Two nodes, booted, nothing configured."""
    with Lab(workdir) as made:
        request.node.stash[LABS] = made
        yield made


@pytest.fixture
def hanging_lab(workdir, needs_root, request):
    """The same, and the way of n1 to the shared disk can be made to hang."""
    with Lab(workdir, hangable=["n1"]) as made:
        request.node.stash[LABS] = made
        yield made


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Add what the nodes wrote to the report of a failure that does not show it already."""
    outcome = yield
    report = outcome.get_result()
    made = item.stash.get(LABS, None)
    shown = "--- services, by their own log" in str(report.longrepr)
    if report.failed and report.when == "call" and isinstance(made, BaseLab) and not shown:
        report.sections.append(("lab", made.report()))
