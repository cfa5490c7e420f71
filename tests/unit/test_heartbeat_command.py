"""The link that a heartbeat calls: made beside a service's own, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest

from opensvc_hb.agent.names import make_heartbeat_command
from opensvc_hb.paths import Root

PROGRAM = "/usr/bin/svcmgr"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "etc/opensvc").mkdir(parents=True)
    return Root(tmp_path)


def test_the_link_is_made_to_the_same_program_once(root):
    """Beside the link SVC, SVC.cluster points where it points; another action changes nothing."""
    (root.etc / "web").symlink_to(PROGRAM)
    make_heartbeat_command(root, "web")
    make_heartbeat_command(root, "web")
    assert (root.etc / "web.cluster").readlink() == Path(PROGRAM)


def test_a_service_without_a_command_of_its_own_gets_none(root):
    """A site that does without the links is left without."""
    make_heartbeat_command(root, "web")
    assert list(root.etc.iterdir()) == []


def test_what_is_there_is_left_alone(root):
    """A script of the site's own, or a broken link, is not replaced."""
    for name in ("web", "db"):
        (root.etc / name).symlink_to(PROGRAM)
    (root.etc / "web.cluster").write_text("#!/bin/sh\n")
    (root.etc / "db.cluster").symlink_to("/nowhere")
    for name in ("web", "db"):
        make_heartbeat_command(root, name)
    assert (root.etc / "web.cluster").read_text() == "#!/bin/sh\n"
    assert (root.etc / "db.cluster").readlink() == Path("/nowhere")
