"""validate config: resources that stand in each other's way, and what is probably not meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_site import BASE, Site

from opensvc_hb.agent.adapter import AgentAdapter, Declarations
from opensvc_hb.errors import ConfigurationErrors

HEARTBEAT = "[hb#0]\ntype = OpenHA\n"
TUTORIAL = Path(__file__).parents[1] / "data/tutorial"


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def complaints(site, text, suffix=".env"):
    """Errors and notices of a file, its folder left out."""
    site.service("svc", text, suffix)
    errors, notices = site.loader.validate("svc")
    folder = f"{site.root.etc}/"
    return [str(e).replace(folder, "") for e in errors], [str(n).replace(folder, "") for n in notices]


def fs(number, mnt, dev="none", kind="tmpfs", more=""):
    return f"[fs#{number}]\ntype = {kind}\ndev = {dev}\nmnt = {mnt}\n{more}"


def test_a_service_of_the_heartbeat_is_started_by_nobody_else(site):
    """autostart_node beside an enabled hb is an error; without one, or with hb disabled, it is fine."""
    text = BASE + "autostart_node = n1\n"
    assert complaints(site, text) == ([], [])
    assert complaints(site, text + HEARTBEAT + "disable = true\n") == ([], [])
    assert complaints(site, text + HEARTBEAT)[0] == [
        "svc.env:4: DEFAULT.autostart_node: remove it: hb#0 hands the service to the heartbeat, "
        "which decides where it starts"
    ]
    assert complaints(site, BASE + "autostart_node = n9\n") == (
        [],
        ["svc.env:4: DEFAULT.autostart_node: 'n9' is no node of this service: nothing starts there"],
    )


def test_it_is_judged_so_and_built_all_the_same(site):
    """A service that runs is not refused its own stop by a rule that came later."""
    site.service("svc", BASE + "autostart_node = n1\n" + HEARTBEAT)
    judged = site.loader.judge("svc")
    assert judged.errors
    assert judged.service is not None
    assert site.loader.service("svc").name == "svc"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            fs(1, "/srv") + fs(2, "/srv/"),
            "svc.env:11: fs#2.mnt: '/srv' is the mount point of fs#1 already (line 7)",
        ),
        (
            fs(1, "/a", "/dev/vg/x", "ext4") + fs(2, "/b", "/dev/vg/x", "ext4"),
            "svc.env:10: fs#2.dev: '/dev/vg/x' is the device of fs#1 already (line 6)",
        ),
        (
            "[ip#1]\nipname = web\nipdev = lo\n[ip#2]\nipname = web\nipdev = eth0\n",
            "svc.env:8: ip#2.ipname: 'web' is the address of ip#1 already (line 5)",
        ),
        (
            "[loop#1]\nfile = /a\n[disk#1]\ntype = loop\nfile = /a\n",
            "svc.env:8: disk#1.file: '/a' is the file of loop#1 already (line 5)",
        ),
        (
            "[vg#1]\nvgname = web\n[vg#2]\nvgname = web\n",
            "svc.env:7: vg#2.vgname: 'web' is the volume group of vg#1 already (line 5)",
        ),
    ],
)
def test_what_only_one_resource_can_have_is_not_given_twice(site, text, error):
    """The later line is complained of, and names the earlier."""
    assert complaints(site, BASE + text) == ([error], [])


def test_what_several_can_have_may_be_given_twice(site):
    """Pseudo file systems, subvolumes, exports of another machine; variants of which one is disabled."""
    bind = fs(3, "/c", "/data", "bind") + fs(4, "/d", "/data", "bind")
    variants = fs(5, "/e", more="disable@n1 = true\n") + fs(6, "/e", more="disable@n2 = true\n")
    assert complaints(site, BASE + fs(1, "/a") + fs(2, "/b") + bind + variants) == ([], [])


def test_an_outer_file_system_is_not_mounted_over_an_inner_one(site):
    """Sets are mounted in the order of their names, a parallel one all at once."""
    inner, outer = fs(1, "/srv/web/data"), fs(2, "/srv/web")
    assert complaints(site, BASE + inner + outer) == ([], [])
    later = BASE + inner + fs(2, "/srv/web", more="subset = z\n")
    assert complaints(site, later)[0] == [
        "svc.env:7: fs#1.mnt: '/srv/web/data' lies on /srv/web, which fs#2 mounts later, over it: "
        "subset 'z' comes after ''"
    ]
    together = BASE + fs(1, "/srv/web/data", more="subset = a\n") + fs(2, "/srv/web", more="subset = a\n")
    assert complaints(site, together) == ([], [])
    assert complaints(site, together + "[subset#fs:a]\nparallel = true\n")[0] == [
        "svc.env:7: fs#1.mnt: '/srv/web/data' lies on /srv/web, which fs#2 mounts at the same time: "
        "the subset 'a' cannot be parallel"
    ]


def test_an_image_file_lies_on_nothing_that_is_mounted_after_it(site):
    """A loop device comes before every file system, an image before those that sort behind it."""
    text = BASE + "[loop#1]\nfile = /srv/web/image\n" + fs(1, "/srv/web")
    assert complaints(site, text)[0] == [
        "svc.env:5: loop#1.file: '/srv/web/image' lies on /srv/web, which fs#1 mounts after loop#1 needs it"
    ]
    image = BASE + fs(1, "/aaa", "/srv/web/image", "ext4") + fs(2, "/srv/web")
    assert complaints(site, image)[0] == [
        "svc.env:6: fs#1.dev: '/srv/web/image' lies on /srv/web, which fs#2 mounts after fs#1 needs it"
    ]
    assert complaints(site, image.replace("/aaa", "/srv/web/inner")) == ([], [])


def test_a_subset_without_members_is_mentioned(site):
    """Also when its name is nearly right; the later agents' names mean the same sets."""
    member = fs(1, "/a", more="subset = x\n")
    disk = "[disk#1]\ntype = loop\nfile = /f\nsubset = x\n"
    for name in ("fs:x", "disk.loop:x", "disk:x"):
        assert complaints(site, BASE + member + disk + f"[subset#{name}]\nparallel = yes\n") == ([], [])
    assert complaints(site, BASE + member + "[subset#fs:y]\nparallel = yes\n") == (
        [],
        ["svc.env:9: subset#fs:y: no resource is in this subset: it has no effect"],
    )
    site.service("svc", BASE + disk + disk.replace("disk#1", "disk#2").replace("/f", "/g"))
    assert site.loader.service("svc").parallel_sets == frozenset()
    site.service("later", BASE + disk + "[subset#disk:x]\nparallel = yes\n")
    assert site.loader.service("later").parallel_sets == {"disk.loop:x"}


def test_a_section_that_stands_twice_is_mentioned(site):
    """Both count, as one section; the agents say nothing."""
    text = BASE + fs(1, "/a") + "[fs#1]\nmnt_opt = size=1m\n"
    assert complaints(site, text) == (
        [],
        ["svc.env:8: [fs#1]: stands twice (also on line 4): both count, as one section"],
    )


def test_each_node_s_own_values_are_compared(site):
    """Two values that differ on one node may be the same on the other."""
    text = BASE + fs(1, "/a", more="mnt@n2 = /b\n") + fs(2, "/b")
    assert complaints(site, text)[0] == [
        "svc.env:12: fs#2.mnt: '/b' is the mount point of fs#1 already (line 8)"
    ]


@pytest.mark.parametrize("name", ["registry.opensvc.com", "busybox.opensvc.com"])
def test_the_tutorial_s_files_are_right_byte_for_byte(tmp_path, name):
    """As they are at first, with autostart_node; then as they are handed to the heartbeat."""
    site = Site(tmp_path, "deb1.opensvc.com")
    text = (TUTORIAL / f"{name}.env").read_text()
    path = site.root.etc / f"{name}.env"
    path.write_text(text)
    assert site.loader.validate(name) == ([], [])
    handed_over = text.replace("autostart_node = deb1.opensvc.com\n", "") + "\n[hb#0]\ntype = OpenHA\n"
    path.write_text(handed_over)
    assert site.loader.validate(name) == ([], [])
    path.write_text(text + "\n[hb#0]\ntype = OpenHA\n")
    assert [error.where for error in site.loader.validate(name)[0]] == ["DEFAULT.autostart_node"]


def test_every_error_of_a_file_stands_in_one_answer(site):
    """Those of single lines, and those of what the sections that are right make of the whole."""
    text = BASE + "foo = 1\nautostart_node = n1\n" + HEARTBEAT + fs(1, "/a", more="bar = 1\n")
    errors, _ = complaints(site, text + fs(2, "/b") + fs(3, "/b"))
    assert [error.split(" ")[1] for error in errors] == [
        "DEFAULT.foo:",
        "DEFAULT.autostart_node:",
        "fs#1.bar:",
        "fs#3.mnt:",
    ]
    with pytest.raises(ConfigurationErrors):
        site.loader.service("svc")


def test_a_heartbeat_that_is_disabled_stays_so_whatever_else_is_wrong(site):
    """The daemon keeps a service whose file cannot be read; this one can, and its hb is off."""
    text = BASE + HEARTBEAT + "disable = true\n" + fs(1, "/a") + fs(2, "/a")
    site.service("svc", text)
    adapter = AgentAdapter(site.root, site.node, site.loader)
    assert adapter.declare() == Declarations((), ())
    site.service("svc", text + "nosuch = 1\n")
    assert ["unknown keyword" in error for error in adapter.declare().errors] == [True]


def test_a_service_of_the_heartbeat_is_declared_with_what_is_wrong_with_it(site):
    """It is driven, it holds what it holds, and `hbmgr check` says what to mend."""
    site.service("svc", BASE + "autostart_node = n1\n" + HEARTBEAT + fs(1, "/a"))
    declared = AgentAdapter(site.root, site.node, site.loader).declare()
    assert [service.svcname for service in declared.services] == ["svc"]
    assert len(declared.services[0].holds) == 1
    assert ["autostart_node" in error for error in declared.errors] == [True]
