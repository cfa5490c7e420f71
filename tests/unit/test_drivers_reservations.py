"""SCSI reservations: what sg_persist printed, which disks are below a device, taking and giving back."""

from __future__ import annotations

import re

import pytest
from disk_of_two_nodes import DATA, Node, SharedDisk, start, stop
from driver_loader import Recorder, context, driver, module
from hypothesis import given
from hypothesis import strategies as st

from opensvc_hb.agent.resource import ActionError, CommandResult, Status

ONE, TWO = 0x6F68AAAAAAAAAAAA, 0x6F68BBBBBBBBBBBB


def recorded():
    """The recording as (command, text, exit status), in order."""
    text = (DATA / "sg_persist/takeover.txt").read_text()
    found = re.findall(r"^\$ sg_persist (.*?)\n(.*?)^\[(\d+)\]$", text, re.MULTILINE | re.DOTALL)
    return [(command, printed, int(status)) for command, printed, status in found]


def test_recorded_keys_and_reservations():
    """Keys and holder are read as the tool printed them through a takeover."""
    reservations = module("disk._reservations")
    keys = [
        reservations.parse_keys(text)
        for line, text, status in recorded()
        if "read-keys" in line and not status
    ]
    assert keys == [(), (ONE,), (ONE,), (ONE,), (ONE, TWO), (TWO,), (TWO,), ()]
    held = [
        reservations.parse_reservation(text)
        for line, text, status in recorded()
        if "read-reservation" in line and not status
    ]
    assert held == [(None, False), (ONE, True), (ONE, True), (TWO, True), (TWO, True), (None, False)]


def test_recorded_refusals():
    """A conflict is exit status 24, what a preempted node is told first is 6."""
    refused = [(line.split()[2], status) for line, _, status in recorded() if status]
    assert refused == [("--reserve", 24), ("--reserve", 24), ("--in", 6), ("--release", 24)]
    assert module("disk._reservations").UNIT_ATTENTION == 6


@given(st.text())
def test_any_text_is_read(text):
    """Whatever a tool prints gives keys and a holder, or none."""
    reservations = module("disk._reservations")
    assert all(isinstance(key, int) for key in reservations.parse_keys(text))
    assert len(reservations.parse_reservation(text)) == 2


def test_key_is_the_nodes_own_and_stable():
    """Made of the name, whatever its case; of eight bytes, never zero, and known to the peers."""
    key_of_node = module("disk._reservations").key_of_node
    assert key_of_node("deb1") == key_of_node("DEB1") == 0x6F68407FDD643BCB
    assert key_of_node("deb1") != key_of_node("deb2")


def test_key_of_node_conf_holds(tmp_path):
    """`prkey` of node.conf is the node's key where it is given."""
    made = reserving(tmp_path, (), reservation_key=0x99)
    assert made.key == 0x99


class Sysfs:
    """A sysfs of files."""

    def __init__(self, top):
        self.top = top
        (top / "class/block").mkdir(parents=True)

    def device(self, name, bus="", slaves=(), holders=(), uuid="", dm_name="", partition_of=""):
        folder = self.top / "devices" / partition_of / name if partition_of else self.top / "devices" / name
        (folder / "slaves").mkdir(parents=True)
        (folder / "holders").mkdir()
        (self.top / "class/block" / name).symlink_to(folder)
        for kind, names in (("slaves", slaves), ("holders", holders)):
            for other in names:
                (folder / kind / other).mkdir()
        if bus:
            (folder / "device").mkdir()
            (self.top / "bus" / bus).mkdir(parents=True, exist_ok=True)
            (folder / "device/subsystem").symlink_to(self.top / "bus" / bus)
        if uuid:
            (folder / "dm").mkdir()
            (folder / "dm/uuid").write_text(f"{uuid}\n")
            (folder / "dm/name").write_text(f"{dm_name}\n")
        if partition_of:
            (folder / "partition").write_text("1\n")


@pytest.fixture
def sysfs(tmp_path):
    made = Sysfs(tmp_path / "sys")
    made.device("sda", "scsi", holders=("dm-1",))
    made.device("sda1", partition_of="sda")
    made.device("sdb", "scsi", holders=("dm-0",))
    made.device("sdc", "scsi", holders=("dm-0",))
    made.device("dm-0", slaves=("sdb", "sdc"), uuid="mpath-36001", dm_name="mpatha", holders=("dm-1",))
    made.device("dm-1", slaves=("sda", "dm-0"), uuid="LVM-abc", dm_name="vg-lv")
    made.device("vda", "virtio")
    made.device("loop0")
    return made


@pytest.mark.parametrize(
    ("devices", "disks", "others"),
    [
        (["/x/sda"], ["/dev/sda"], []),
        (["/x/sda1", "/x/sda"], ["/dev/sda"], []),
        (["/x/dm-1"], ["/dev/mapper/mpatha", "/dev/sda"], []),
        (["/x/vda", "/x/loop0"], [], ["/dev/loop0", "/dev/vda (virtio)"]),
        (["/x/nosuch"], [], []),
    ],
)
def test_disks_below_a_device(sysfs, devices, disks, others):
    """Partitions and volumes lead down to their disks, a multipath device is one; others are named."""
    found = module("disk._scsi_disks").disks_below(devices, sysfs.top)
    assert ([disk.device for disk in found.disks], list(found.others)) == (disks, others)


def test_multipath_device_has_its_paths(sysfs):
    """Commands that change something go to the device, questions to each path."""
    (disk,) = module("disk._scsi_disks").disks_below(["/x/dm-0"], sysfs.top).disks
    assert (disk.paths, disk.is_multipath) == (("/dev/sdb", "/dev/sdc"), True)


def test_what_is_in_use_above_a_disk(sysfs):
    """The top of what is built on a disk tells: a volume that is merely active is not in use."""
    scsi_disks = module("disk._scsi_disks")
    (disk,) = scsi_disks.disks_below(["/x/dm-0"], sysfs.top).disks
    assert scsi_disks.claimed_above(disk, sysfs.top, lambda device: device == "/dev/dm-1") == ("vg-lv",)
    assert scsi_disks.claimed_above(disk, sysfs.top, lambda device: device == "/dev/dm-0") == ()


def reserving(tmp_path, devices, recorder=None, **changes):
    """A reservation of the disks of a resource with these devices."""
    lent = context(tmp_path, recorder or Recorder(), **changes)
    kind = driver("disk.loop")
    protected = kind("loop#1", {"file": "/nowhere"}, lent)
    protected.reservable_disks = lambda: tuple(devices)
    made = driver("disk.scsireserv")("loop#1pr", {"protects": protected, "no_preempt_abort": False}, lent)
    made.sys_path = tmp_path / "sys"
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/sg_persist").write_text("#!/bin/sh\n")
    (tmp_path / "tools/sg_persist").chmod(0o755)
    made.tools_path = str(tmp_path / "tools")
    return made


def test_without_a_disk(tmp_path):
    """Nothing to reserve is n/a and no error, with the agents' label."""
    made = reserving(tmp_path, ())
    assert made.label == "disks of loop#1"
    assert (made.status(), made.messages, made.label) == (Status.NA, [], "preserv 0 scsi disk")
    made.start()
    made.stop()


def test_disk_that_takes_none(tmp_path, sysfs):
    """A protection that is asked for and cannot be given is a warning, and fails the start."""
    made = reserving(tmp_path, ["/x/vda"])
    assert (made.status(), made.messages) == (Status.WARN, ["/dev/vda (virtio) takes no reservations"])
    with pytest.raises(ActionError, match=r"/dev/vda \(virtio\): no disk that takes reservations"):
        made.start()


def test_without_the_tool(tmp_path, sysfs):
    """Without sg_persist the status is n/a and says so; a start is refused."""
    made = reserving(tmp_path, ["/x/sda"])
    made.tools_path = ""
    assert (made.status(), made.messages) == (Status.NA, ["sg_persist is not installed: install sg3-utils"])
    assert made.concerns() == ("sg_persist is not installed: install sg3-utils",)
    with pytest.raises(ActionError, match="sg_persist is not installed"):
        made.start()


def keys_text(*keys):
    return "".join(f"    0x{key:x}\n" for key in keys)


def held_text(key):
    return f"    Key=0x{key:x}\n    scope: LU_SCOPE,  type: Write Exclusive, registrants only\n"


def test_multipath_is_asked_on_every_path(tmp_path, sysfs):
    """Each path is asked; one that fails is named; a key on too few paths is a warning."""
    key = module("disk._reservations").key_of_node("deb1")
    answers = {
        "--read-keys /dev/sdb": (0, keys_text(key), ""),
        "--read-reservation /dev/sdb": (0, held_text(key), ""),
        "--read-keys /dev/sdc": (0, keys_text(key), ""),
        "--read-reservation /dev/sdc": (0, held_text(key), ""),
    }

    def run(argv, _timeout_s):
        return CommandResult(tuple(argv), *answers[" ".join(argv[-2:])])

    made = reserving(tmp_path, ["/x/dm-0"], run=run)
    assert made.status() is Status.WARN
    whose = f"/dev/mapper/mpatha is reserved by deb1 (key 0x{key:x}) on /dev/sdb, /dev/sdc"
    assert made.messages == [whose, f"/dev/mapper/mpatha: 0x{key:x} is registered on 1 of 2 paths"]
    answers["--read-keys /dev/sdb"] = (0, keys_text(key, key), "")
    answers["--read-keys /dev/sdc"] = (2, "", "sg_persist failed: Not ready\n")
    made.messages.clear()
    assert made.status() is Status.UP
    assert made.messages[0] == "/dev/sdc does not answer: sg_persist failed: Not ready (exit status 2)"
    answers["--read-keys /dev/sdb"] = answers["--read-keys /dev/sdc"]
    assert made.status() is Status.WARN


def test_multipath_is_changed_by_mpathpersist(tmp_path, sysfs):
    """What changes a multipath device goes through the tool that knows all its paths."""
    key = module("disk._reservations").key_of_node("deb1")
    ran = []

    def run(argv, _timeout_s):
        ran.append(" ".join(argv))
        done = any("--reserve" in line for line in ran)
        text = (held_text(key) if "--read-reservation" in argv else keys_text(key, key)) if done else ""
        return CommandResult(tuple(argv), 0, text if "--in" in argv else "", "")

    reserving(tmp_path, ["/x/dm-0"], run=run).start()
    assert [line for line in ran if "--out" in line] == [
        f"mpathpersist --out --register-ignore --param-sark=0x{key:x} /dev/mapper/mpatha",
        f"mpathpersist --out --reserve --param-rk=0x{key:x} --prout-type=5 /dev/mapper/mpatha",
    ]


@pytest.fixture
def disk(tmp_path):
    return SharedDisk(tmp_path)


def test_taken_and_given_back(disk):
    """Registered, reserved, proved; released and removed; nothing is left on the disk."""
    node = Node(disk, "deb1")
    start(node)
    assert (disk.keys, disk.holder) == ([node.key], node.key)
    reservation = node.resources()[0]
    assert (reservation.status(), reservation.label) == (Status.UP, "/dev/sda")
    assert reservation.messages == [f"/dev/sda is reserved by deb1 (key 0x{node.key:x})"]
    start(node)
    stop(node)
    assert (disk.keys, disk.holder, disk.tags) == ([], None, [])
    reservation = node.resources()[0]
    assert (reservation.status(), reservation.messages) == (Status.DOWN, [])
    stop(node)
    key = f"0x{node.key:x}"
    assert [line for line in node.ran if "--out" in line] == [
        f"sg_persist --no-inquiry --out --register-ignore --param-sark={key} /dev/sda",
        f"sg_persist --no-inquiry --out --reserve --param-rk={key} --prout-type=5 /dev/sda",
        f"sg_persist --no-inquiry --out --release --param-rk={key} --prout-type=5 /dev/sda",
        f"sg_persist --no-inquiry --out --register --param-rk={key} --param-sark=0 /dev/sda",
    ]


def test_reservation_of_another_is_respected_by_hand(disk):
    """Without --force and --cluster the agents' sentence; nothing is registered."""
    one, two = Node(disk, "deb1"), Node(disk, "deb2")
    start(one)
    sentence = "^/dev/sda is already reserved. use --force to override this safety net$"
    with pytest.raises(ActionError, match=sentence):
        start(two)
    assert two.texts("ERROR") == [f"/dev/sda belongs to deb1 (key 0x{one.key:x})"]
    assert disk.keys == [one.key]


def test_takeover_preempts_and_the_owner_notices(disk):
    """The old owner cannot write, sees the reservation down, and is not let in while it uses the disk."""
    one, two = Node(disk, "deb1"), Node(disk, "deb2")
    start(one)
    one.in_use = True
    start(two, cluster=True)
    assert two.texts("WARNING")[0] == f"/dev/sda is taken from deb1 (key 0x{one.key:x})"
    assert (disk.keys, disk.holder, disk.tags) == ([two.key], two.key, ["deb2"])
    assert not one.may_write
    reservation = one.resources()[0]
    assert reservation.status() is Status.DOWN
    assert reservation.messages == [f"/dev/sda is reserved by deb2 (key 0x{two.key:x})"]
    with pytest.raises(
        ActionError, match=r"in use on this node .* without its reservation: stop the service"
    ):
        start(one, cluster=True)
    one.in_use = False
    stop(one)
    assert (disk.keys, disk.tags) == ([two.key], ["deb2"])


def test_preempted_owner_stays_out_when_the_other_has_left_too(disk):
    """What it wrote late would destroy what the other wrote; only force lets a running service have a key."""
    one, two = Node(disk, "deb1"), Node(disk, "deb2")
    start(one)
    one.in_use = True
    start(two, cluster=True)
    stop(two)
    for chosen in ({}, {"cluster": True}):
        with pytest.raises(ActionError, match="in use on this node"):
            start(one, **chosen)
    assert disk.keys == []


def test_group_is_not_activated_without_its_reservation(disk):
    """Started alone, by --rid, the group asks for the reservation, before anything is changed."""
    node = Node(disk, "deb1")
    group = node.resources(force=True)[1]
    with pytest.raises(ActionError, match=r"^not started without its reservation: vg#1pr is down$"):
        group.start()
    assert not any(line.startswith("vgchange") for line in node.ran)


def test_failed_group_gives_the_reservation_back(disk):
    """A start that fails behind the reservation leaves no key on the disk."""
    disk.tags = ["deb3"]
    node = Node(disk, "deb1")
    with pytest.raises(ActionError, match="has the tag of deb3"):
        start(node)
    assert (disk.keys, disk.holder) == ([], None)


def test_attention_that_never_ends_is_a_warning(disk):
    """A disk that only ever has something else to tell is neither up nor down."""

    def again(_argv):
        disk.attention.add("deb1")

    node = Node(disk, "deb1", gate=again)
    reservation = node.resources()[0]
    assert reservation.status() is Status.WARN
    assert reservation.messages == ["/dev/sda keeps answering Unit Attention"]


def test_disk_that_does_not_answer_fails_the_stop(disk):
    """A reservation that may still be there is not taken for given back."""

    def hangs(argv):
        if argv[0] == "sg_persist":
            raise ActionError("'sg_persist' did not end within 10 s, killed")

    node = Node(disk, "deb1", gate=hangs)
    with pytest.raises(ActionError, match="did not end within 10 s"):
        node.resources()[0].stop()
