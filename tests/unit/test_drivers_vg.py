"""The volume group driver: LVM's reports as they were recorded, and a group that two nodes want."""

from __future__ import annotations

import contextlib

import pytest
from disk_of_two_nodes import Node, SharedDisk, recording, start, stop
from driver_loader import Recorder, context, converted, driver, module
from hypothesis import given
from hypothesis import strategies as st

from opensvc_hb.agent.resource import ActionError, CommandResult, HoldingKind, Status

GROUP = "vg-data"


def answering(name):
    """A `run` that answers reports from a recording, settings from that of the machine."""
    answers = {**recording("settings"), **recording(name)}
    return lambda argv, _timeout_s: CommandResult(tuple(argv), *answers[" ".join(argv)])


def vg(tmp_path, run, recorder=None, node="deb1.opensvc.com", **changes):
    kind = driver("disk.vg")
    lent = context(tmp_path, recorder or Recorder(), node=node, run=run, **changes)
    made = kind("vg#1", converted(kind, vgname=GROUP), lent)
    made.sys_path = tmp_path / "sys"
    made.tools_path = ""
    return made


@pytest.mark.parametrize(
    ("name", "status", "messages"),
    [
        ("absent", Status.DOWN, ["volume group vg-data not found"]),
        ("no_volumes", Status.UP, []),
        ("inactive", Status.DOWN, []),
        ("active", Status.UP, []),
        ("not_by_itself", Status.DOWN, []),
        ("exported", Status.DOWN, []),
        ("disk_missing", Status.DOWN, ["1 physical volume of vg-data missing"]),
    ],
)
def test_status_by_recorded_reports(tmp_path, name, status, messages):
    """Up when the group is there and has no volume, or one that is active."""
    made = vg(tmp_path, answering(name))
    assert (made.status(), made.messages) == (status, messages)


def test_group_of_another_system_is_a_warning_in_its_words(tmp_path):
    """A group that LVM refuses to this host is neither up nor down; each line of the reason stands once."""
    made = vg(tmp_path, answering("foreign_system"))
    assert made.status() is Status.WARN
    assert made.messages == [
        "vgs: Cannot access VG vg-data with system ID other with unknown local system ID."
    ]


def test_active_under_another_nodes_tag_is_a_warning(tmp_path):
    """What is active here while its tag is another node's must not be."""
    made = vg(tmp_path, answering("active"), node="deb2.opensvc.com")
    assert made.status() is Status.WARN
    assert made.messages == ["active here, though it has the tag of deb1.opensvc.com"]


def test_missing_tools_are_one_line(tmp_path):
    """Without LVM a status is a warning and a start an error, each naming the tool."""

    def absent(argv, _timeout_s):
        raise ActionError(f"{argv[0]}: command not found")

    made = vg(tmp_path, absent)
    assert (made.status(), made.messages) == (Status.WARN, ["vgs: command not found"])
    assert made.concerns() == ("vgs: command not found",)
    with pytest.raises(ActionError, match=r"^vgs: command not found$"):
        made.start()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent", "volume group vg-data not found"),
        ("disk_missing", "1 physical volume of vg-data missing: bring the disk back"),
        ("exported", "vg-data is exported: run vgimport vg-data"),
    ],
)
def test_what_cannot_be_activated_is_refused(tmp_path, name, reason):
    """A group that is not there, not whole, or exported is not touched, under --cluster neither."""
    with pytest.raises(ActionError, match=reason):
        vg(tmp_path, answering(name), cluster=True, force=True).start()


def test_disks_are_those_of_its_physical_volumes(tmp_path):
    """Found while it is not active; a missing one is left out, an absent group has none."""
    assert vg(tmp_path, answering("inactive")).reservable_disks() == ("/dev/loop0", "/dev/vmlab-shared0")
    assert vg(tmp_path, answering("disk_missing")).reservable_disks() == ("/dev/vmlab-shared0",)
    assert vg(tmp_path, answering("absent")).reservable_disks() == ()


def test_holds_the_group(tmp_path):
    """The guardian looks for the group, whatever became of the service."""
    held = vg(tmp_path, answering("absent")).holds()
    assert [(holding.kind, holding.name) for holding in held] == [(HoldingKind.VOLUME_GROUP, GROUP)]


LIST = {"event_activation": "1"}


@pytest.mark.parametrize(
    ("settings", "tags", "by_itself"),
    [
        (LIST, "", True),
        ({"event_activation": "0"}, "", False),
        ({}, "", True),
        ({**LIST, "auto_activation_volume_list": "[]"}, "", False),
        ({**LIST, "auto_activation_volume_list": '["root","vg-data"]'}, "", True),
        ({**LIST, "auto_activation_volume_list": '["vg-data/lv-one"]'}, "", True),
        ({**LIST, "volume_list": '["root","@*"]'}, "n1", False),
        ({**LIST, "volume_list": '["@n1"]'}, "n1", False),
        ({**LIST, "volume_list": '["@prod"]'}, "prod", True),
        ({**LIST, "volume_list": '["vg-data"]', "auto_activation_volume_list": "[]"}, "", False),
    ],
)
def test_activation_by_the_system_is_told(settings, tags, by_itself):
    """A group that the system would activate at boot is mentioned, unless only this node's tag lets it in."""
    lvm = module("disk._lvm")
    group = lvm.group_of({"vg_name": GROUP, "vg_tags": tags, "vg_autoactivation": "enabled"}, ())
    assert bool(lvm.boot_activation(group, settings, "n1")) is by_itself
    own = lvm.group_of({"vg_name": GROUP, "vg_tags": tags, "vg_autoactivation": ""}, ())
    assert lvm.boot_activation(own, settings, "n1") == ""


def test_recorded_settings_are_read():
    """lvmconfig's output gives names and values; the sections' braces do not matter."""
    settings = module("disk._lvm").parse_settings(
        recording("settings")["lvmconfig --type full activation global"][1]
    )
    assert settings["event_activation"] == "0"
    assert settings["udev_sync"] == "1"
    assert "volume_list" not in settings


@given(st.text() | st.recursive(st.none() | st.text(), st.lists, max_leaves=5).map(str))
def test_any_text_is_a_report_or_none(text):
    """What is no report is refused in one way, whatever it is."""
    with contextlib.suppress(ValueError):
        assert isinstance(module("disk._lvm").parse_report(text, "vg"), tuple)


@pytest.mark.parametrize("text", ["", "-vg", "a/b", "a b", "..", "v" * 128, "vg\n"])
def test_names_that_lvm_does_not_allow(text):
    """A name is checked before it stands in any command line."""
    with pytest.raises(ValueError, match="is not the name of a volume group"):
        converted(driver("disk.vg"), vgname=text)


@pytest.fixture
def disk(tmp_path):
    return SharedDisk(tmp_path)


def test_start_and_stop_log_as_the_agent_did(disk):
    """Tag, read back, activate; deactivate, remove the tag; a second time says so."""
    node = Node(disk, "deb1", reserve=False)
    start(node)
    assert (disk.tags, node.active) == (["deb1"], True)
    start(node)
    stop(node)
    assert (disk.tags, node.active) == ([], False)
    stop(node)
    assert node.texts("INFO") == [
        "vgchange --addtag @deb1 vg1",
        'output:\n  Volume group "vg1" successfully changed\n',
        "vgchange -a y vg1",
        'output:\n  1 logical volume(s) in volume group "vg1" now active\n',
        "vg1 is already up",
        "vgchange -a n vg1",
        'output:\n  0 logical volume(s) in volume group "vg1" now active\n',
        "vgchange --deltag @deb1 vg1",
        'output:\n  Volume group "vg1" successfully changed\n',
        "vg1 is already down",
    ]


def test_foreign_tag_is_refused_by_hand_and_replaced_in_a_takeover(disk):
    """Whose tag it was stands in the log; both tags change in one command."""
    disk.tags = ["deb2"]
    node = Node(disk, "deb1", reserve=False)
    with pytest.raises(ActionError, match=r"vg1 has the tag of deb2: it may be active there\. use --force"):
        start(node)
    assert not any(line.startswith("vgchange") for line in node.ran)
    start(node, cluster=True)
    assert node.texts("WARNING") == ["vg1 had the tag of deb2: replaced"]
    assert "vgchange --deltag @deb2 --addtag @deb1 vg1" in node.ran
    assert (disk.tags, node.active) == (["deb1"], True)


def test_a_node_that_comes_back_after_a_takeover_is_refused(disk):
    """A power cut leaves the tag; the other node replaces it; the first one is refused when it returns."""
    one, two = Node(disk, "deb1", reserve=False), Node(disk, "deb2", reserve=False)
    start(one)
    one.power_cut()
    with pytest.raises(ActionError, match="has the tag of deb1"):
        start(two)
    start(two, force=True)
    with pytest.raises(ActionError, match="has the tag of deb2"):
        start(one)
    assert (one.active, two.active) == (False, True)


def test_tag_that_comes_between_ends_the_start(disk):
    """A tag that appears beside ours before the activation: ours is removed, nothing is activated."""

    def other_node_writes_first(argv):
        if "--addtag" in argv:
            disk.tags.append("deb2")

    node = Node(disk, "deb1", reserve=False, gate=other_node_writes_first)
    with pytest.raises(ActionError, match="vg1 now has the tag of deb2: another node is taking it"):
        start(node)
    assert (disk.tags, node.active) == (["deb2"], False)


def test_tag_replaced_while_the_node_stood_still_ends_the_start(disk):
    """A takeover between our check and our activation is seen after it: deactivated again."""

    def takeover(argv):
        if argv[:3] == ["vgchange", "-a", "y"]:
            disk.tags[:] = ["deb2"]

    node = Node(disk, "deb1", reserve=False, gate=takeover)
    with pytest.raises(ActionError, match="now has the tag of deb2"):
        start(node)
    assert (disk.tags, node.active) == (["deb2"], False)


def test_group_that_the_system_activated_is_deactivated_before_a_takeover(disk):
    """Volumes that were active here all along may have changed since; they are activated anew."""
    disk.tags = ["deb2"]
    node = Node(disk, "deb1", reserve=False)
    node.active = True
    start(node, cluster=True)
    changes = [line for line in node.ran if line.startswith("vgchange")]
    assert changes == [
        "vgchange -a n vg1",
        "vgchange --deltag @deb2 --addtag @deb1 vg1",
        "vgchange -a y vg1",
    ]


def test_stop_of_a_group_in_use_fails_after_three_tries(disk):
    """The tag stays with what stays active."""
    node = Node(disk, "deb1", reserve=False)
    start(node)
    node.in_use = True
    with pytest.raises(ActionError, match=r"vg1 cannot be deactivated: .*contains a filesystem in use"):
        stop(node)
    assert node.ran.count("vgchange -a n vg1") == 3
    assert disk.tags == ["deb1"]


def test_group_lost_with_its_disks_is_not_believed_down(tmp_path, disk):
    """Volumes that the kernel still has are not down because no disk names their group."""
    made = vg(tmp_path, answering("absent"))
    made.stop()
    volume = tmp_path / "sys/block/dm-3/dm"
    volume.mkdir(parents=True)
    (volume / "name").write_text("vg--data-lv--one\n")
    (volume / "uuid").write_text("LVM-wJ3DiENoBbGQXq0uMcaekK6mU71WqtXYf4Cz47rjW2lJwbwlqrVytVyZg4hv6cEV\n")
    with pytest.raises(
        ActionError, match="vg-data cannot be found on any disk, and is active: vg--data-lv--one"
    ):
        made.stop()
