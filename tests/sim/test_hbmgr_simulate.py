"""`hbmgr simulate`: no configuration, the same words for the same seed, exit status 1 on a violation."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conversation import Play

from opensvc_hb.cli.hb_simulate import CannotSave, simulate, simulated_text
from opensvc_hb.sim.campaign import Run
from opensvc_hb.sim.deeds import Deed
from opensvc_hb.sim.faults import Profile
from opensvc_hb.sim.scenes import Scene
from opensvc_hb.sim.trial import perform

WORDS = ("--seed", "4", "--steps", "1500", "--faults", "quiet")


def hbmgr(tmp_path, *words):
    """Run the command in an empty root, without a daemon or a key."""
    environment = {**os.environ, "OSVC_ROOT": str(tmp_path), "OSVC_NODENAME": "deb1"}
    command = [sys.executable, "-m", "opensvc_hb.cli.hbmgr", "simulate", *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_it_needs_no_configuration_and_says_the_same_for_the_same_seed(tmp_path):
    """Exit status 0, one object of JSON, nothing on stderr, nothing written; text tells the same trace."""
    done = hbmgr(tmp_path, *WORDS, "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["ok"] is True
    assert document["steps"] >= 1500
    assert list(tmp_path.iterdir()) == []
    text = hbmgr(tmp_path, *WORDS)
    assert (text.returncode, text.stderr) == (0, "")
    assert f"trace {document['trace']}" in text.stdout
    assert "every invariant held" in text.stdout


def test_a_profile_that_does_not_exist_is_refused(tmp_path):
    """Wrong words: exit status 2."""
    assert hbmgr(tmp_path, "--faults", "gremlins").returncode == 2


def failing_run(profile, seed, steps):
    """A run whose first trial fails: neither a kill nor a reset ends the instance."""
    scene = Scene(links="net:1,dio:1", resets=False)
    lines = ["boot deb1", "boot deb2", "unfreeze svc1 on deb1", "unfreeze svc1 on deb2", "heal"]
    lines += ["action svc1 stop on deb1 hangs", "processes svc1 on deb1 stuck"]
    lines += ["cut net deb1<>deb2", "disk deb1 fails"]
    outcome = perform(scene, [Deed(0.8 * place, line) for place, line in enumerate(lines)])
    return Run(profile, seed, outcome.trace, outcome.tally, 0, outcome)


def test_a_violation_is_shown_short_and_saved(tmp_path):
    """The log, the schedule without what it does not need, and a conversation that does it again."""
    path = tmp_path / "failure.txt"
    told = []
    document = simulate(Profile.CHAOS, 1, 1000, path, told.append, failing_run)
    assert document["ok"] is False
    assert document["violation"]["invariant"] == "two instances"
    assert "heal" not in [entry["deed"] for entry in document["violation"]["schedule"]]
    text = simulated_text(document)
    assert "VIOLATION: two instances: svc1 is up on deb1 and deb2 (trial 0)" in text
    assert str(path) in text
    assert told == ["trial 0 failed; making its schedule shorter"]
    play = Play()
    play.perform(path.read_text(encoding="utf-8"))
    assert play.world.where("svc1") == ["deb1", "deb2"]


def test_a_file_that_cannot_be_written_is_said_in_a_line(tmp_path):
    """Not a traceback."""
    with pytest.raises(CannotSave, match="No such file or directory"):
        simulate(Profile.CHAOS, 1, 1000, tmp_path / "nowhere" / "failure.txt", None, failing_run)
