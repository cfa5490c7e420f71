"""How the agent tells what an instance is: the marks of its processes, and what its resources hold."""

import os

import pytest
from agent_site import BASE, Site
from driver_loader import Recorder, context, converted, driver, module

from opensvc_hb.agent.actions import Options, run_action
from opensvc_hb.agent.adapter import AgentAdapter
from opensvc_hb.agent.resource import CommandResult
from opensvc_hb.held import ACTION_MARK, MARKS, Holding, HoldingKind, marks_of

HEARTBEAT = "[hb#0]\ntype = OpenHA\n"
FS = "[fs#1]\ntype = fake\nfile = FILE:up\n"

HOLDER = '''
"""A resource that holds something."""
from opensvc_hb.agent.resource import Holding, HoldingKind, Keyword, Resource, Status


class Holder(Resource):
    """Down, and holds a volume group, or breaks when it is asked."""

    group = "disk"
    type_name = "disk.holder"
    types = ("holder",)
    sections = ("vg",)
    keywords = (Keyword("type", "holder", required=True), Keyword("group", "Its name."))
    label = "holder"

    def status(self):
        return Status.DOWN

    def holds(self):
        return (Holding(HoldingKind.VOLUME_GROUP, self.options["group"].lower()),)
'''


class WatchingSite(Site):
    """A node whose triggers note the marks that they are run with."""

    def __init__(self, top):
        super().__init__(top)
        self.seen = []

    def run(self, argv, timeout_s=0.0, environment=None):
        self.seen.append((argv[0], {name: os.environ.get(name) for name in MARKS}))
        return CommandResult(tuple(argv), 0, "", "")


@pytest.fixture
def site(tmp_path):
    return WatchingSite(tmp_path)


def act(site, action):
    loader = site.loader
    return run_action(loader, loader.service("svc"), action, Options())


def test_what_an_action_starts_is_marked_for_the_time_of_the_action(site):
    """By hand or by the daemon: which service, which root, and whether it only stops."""
    site.service("svc", BASE + FS + "pre_start = up-trigger\npre_stop = down-trigger\n")
    assert act(site, "start") == 0
    assert act(site, "restart") == 0
    assert site.seen == [
        ("up-trigger", marks_of(site.top, "svc", "start")),
        ("down-trigger", marks_of(site.top, "svc", "stop")),
        ("up-trigger", marks_of(site.top, "svc", "start")),
    ]
    assert not any(name in os.environ for name in MARKS)


def test_a_status_is_nobodys(site):
    """Also one that is asked after an action, in the same process."""
    site.service("svc", BASE + FS + HEARTBEAT + "pre_start = up-trigger\n")
    adapter = AgentAdapter(site.root, "n1", site.loader)
    assert adapter.start("svc") == 0
    assert adapter.avail("svc", evaluate_apps=True) == "up"
    assert ACTION_MARK not in os.environ


def test_what_a_service_may_hold_is_declared_with_it(site):
    """Not what is disabled, and not what is up on this node wherever the service runs."""
    folder = site.root.etc / "drivers/resource/disk"
    (folder / "holder.py").write_text(HOLDER)
    text = "[vg#{0}]\ntype = holder\ngroup = VG{0}\n"
    sections = text.format(1) + text.format(2) + "always_on = n1\n" + text.format(3) + "disable = true\n"
    site.service("a", BASE + HEARTBEAT + sections + text.format(4) + text.format(5).replace("VG5", "VG1"))
    site.service("b", BASE + HEARTBEAT + text.format(1).replace("group = VG1\n", ""))
    site.service("c", BASE + HEARTBEAT + "[vg#1]\ntype = nosuch\n")
    declared = AgentAdapter(site.root, "n1", site.loader).declare()
    groups = {d.svcname: [str(holding) for holding in d.holds] for d in declared.services}
    assert groups == {"a": ["volume group vg1", "volume group vg4"], "b": [], "c": []}
    assert any("what it may hold here cannot be told: AttributeError" in line for line in site.said)


def resource(name, tmp_path, **written):
    kind = driver(name)
    return kind("x#1", converted(kind, **written), context(tmp_path, Recorder()))


def test_a_file_system_holds_its_mount_point_by_the_kernels_name_too(tmp_path):
    """The kernel resolves symbolic links of the parents; they are followed on the root file system only."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    mounts = module("fs._mounts")
    mounts.mount_points_of.cache_clear()
    (tmp_path / "proc/self").mkdir(parents=True)
    table = tmp_path / "proc/self/mountinfo"
    table.write_text("22 1 0:20 / / rw - ext4 /dev/vda rw\n")
    written = {"type": "ext4", "dev": "/dev/x", "mnt": f"{link}/data/"}
    fs = resource("fs.ext4", tmp_path, **written)
    type(fs).proc_path, before = tmp_path / "proc", type(fs).proc_path
    try:
        names = [holding.name for holding in fs.holds()]
        assert names == [f"{link}/data", f"{real}/data"]
        mounts.mount_points_of.cache_clear()
        table.write_text(f"23 1 0:21 / {tmp_path} rw - nfs host:/x rw\n")
        assert [holding.name for holding in fs.holds()] == [f"{link}/data"]
    finally:
        type(fs).proc_path = before
        mounts.mount_points_of.cache_clear()
    assert {holding.kind for holding in fs.holds()} == {HoldingKind.MOUNT_POINT}


def test_an_address_is_held_as_written_or_as_the_hosts_file_has_it(tmp_path):
    """No name server is asked for it."""
    ip = resource("ip.host", tmp_path, ipname="192.0.2.7", ipdev="eth0")
    assert ip.holds() == (Holding(HoldingKind.ADDRESS, "192.0.2.7"),)
    hosts = tmp_path / "hosts"
    hosts.write_text("# 192.0.2.1 db\n192.0.2.2 DB.example db # the service\nfd00::2 db\nno-address db\n")
    named = resource("ip.host", tmp_path, ipname="db", ipdev="eth0")
    type(named).hosts_path, before = hosts, type(named).hosts_path
    try:
        assert [holding.name for holding in named.holds()] == ["192.0.2.2", "fd00::2"]
    finally:
        type(named).hosts_path = before
    assert resource("ip.host", tmp_path, ipname="no.such.name.invalid", ipdev="eth0").holds() == ()


def test_a_loop_device_and_a_launcher(tmp_path):
    """The one holds its file; the other nothing that its processes do not tell."""
    loop = resource("disk.loop", tmp_path, file="/images/a.img")
    assert loop.holds() == (Holding(HoldingKind.LOOP_FILE, "/images/a.img"),)
    assert resource("app.simple", tmp_path, script="/x").holds() == ()
