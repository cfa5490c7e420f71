"""The fs drivers: the mount table read as text, and the tools' commands by transcript."""

import threading

import pytest
from driver_loader import Recorder, context, converted, driver, module
from hypothesis import given
from hypothesis import strategies as st

from opensvc_hb.agent.resource import ActionError, Status

TABLE = (
    "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro\n"
    "25 22 0:5 / /dev rw,nosuid shared:2 - devtmpfs udev rw,size=1000k\n"
    "30 22 254:1 / /srv rw,relatime shared:3 master:1 - xfs /dev/vdb rw,attr2\n"
)


class Machine:
    """A mount table in a file, changed by the transcript's commands."""

    def __init__(self, tmp_path):
        self.tmp_path = tmp_path
        self.proc = tmp_path / "proc"
        self.sys = tmp_path / "sys"
        (self.proc / "self").mkdir(parents=True)
        self.write(TABLE)

    def write(self, text):
        (self.proc / "self/mountinfo").write_text(text)

    def add(self, line):
        def mount():
            path = self.proc / "self/mountinfo"
            path.write_text(path.read_text() + line + "\n")
            return (0, "", "")

        return mount

    def remove(self, mount_point):
        def umount():
            path = self.proc / "self/mountinfo"
            lines = [line for line in path.read_text().splitlines() if line.split()[4] != mount_point]
            path.write_text("".join(f"{line}\n" for line in lines))
            return (0, "", "")

        return umount

    def loop(self, image, number=0):
        folder = self.sys / f"dev/block/7:{number}/loop"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "backing_file").write_text(f"{image}\n")

    def resource(self, name, recorder, **written):
        kind = driver(name)
        made = kind("fs#1", converted(kind, **written), context(self.tmp_path, recorder))
        made.proc_path = self.proc
        made.sys_path = self.sys
        return made


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "b.img"
    path.write_bytes(bytes(4096))
    return path


def test_start_of_an_image_file_logs_as_the_agent_did(machine, image, tmp_path):
    """An image file is checked and mounted through a loop device, with the agent's log lines."""
    mnt = tmp_path / "svcfail"
    clean = f"{image}: clean, 13/8192 files, 6940/32768 blocks\n"
    recorder = Recorder(
        [
            (f"e2fsck -p {image}", (0, clean, "")),
            (
                f"mount -t ext4 -o rw,loop {image} {mnt}",
                machine.add(f"40 22 7:0 / {mnt} rw - ext4 /dev/loop0 rw"),
            ),
        ]
    )
    machine.loop(image)
    made = machine.resource(
        "fs.ext4", recorder, type="ext4", dev=str(image), mnt=f"{mnt}/", mnt_opt="rw,loop"
    )
    assert made.status() is Status.DOWN
    made.start()
    assert recorder.texts("INFO") == [
        f"create missing mountpoint {mnt}",
        f"e2fsck -p {image}",
        f"output:\n{clean}",
        f"mount -t ext4 -o rw,loop {image} {mnt}",
    ]
    assert mnt.is_dir()
    assert made.activated is True
    assert made.status() is Status.UP


@pytest.mark.parametrize(("written", "passed"), [("", "loop"), ("rw", "rw,loop"), ("loop=/dev/loop7", None)])
def test_loop_is_added_for_an_image_file(machine, image, written, passed):
    """`loop` is added to the options of an image file, unless it is there."""
    made = machine.resource("fs.xfs", Recorder(), type="xfs", dev=str(image), mnt="/m", mnt_opt=written)
    assert ",".join(made.options_to_mount()) == (passed or written)


@pytest.mark.parametrize("code", [0, 1, 32, 33])
def test_check_accepts_what_the_agents_accept(machine, image, code):
    """e2fsck may report a clean or repaired file system."""
    recorder = Recorder([(f"e2fsck -p {image}", (code, "", ""))])
    machine.resource("fs.ext4", recorder, type="ext4", dev=str(image), mnt="/m").check_file_system()


@pytest.mark.parametrize("code", [2, 4, 8, -9])
def test_failed_check_fails_the_start(machine, image, tmp_path, code):
    """What e2fsck leaves to a person is not mounted."""
    recorder = Recorder([(f"e2fsck -p {image}", (code, "", "UNEXPECTED INCONSISTENCY\n"))])
    made = machine.resource("fs.ext4", recorder, type="ext4", dev=str(image), mnt=str(tmp_path))
    with pytest.raises(ActionError, match=rf"failed with status {code}: UNEXPECTED INCONSISTENCY"):
        made.start()
    assert recorder.texts("WARNING") == ["stderr:\nUNEXPECTED INCONSISTENCY\n"]


def test_started_twice(machine, image):
    """A mounted file system is not mounted again."""
    machine.loop(image)
    machine.write(TABLE + "40 22 7:0 / /m rw - ext4 /dev/loop0 rw\n")
    recorder = Recorder()
    made = machine.resource("fs.ext4", recorder, type="ext4", dev=str(image), mnt="/m")
    made.start()
    assert recorder.texts() == [f"fs({image} /m) is already mounted"]
    assert made.activated is False


def test_stopped_twice(machine):
    """A file system that is not mounted is not unmounted, also when its device is gone."""
    recorder = Recorder()
    machine.resource("fs.ext4", recorder, type="ext4", dev="/dev/nosuch", mnt="/m").stop()
    assert recorder.texts() == ["fs(/dev/nosuch /m) is already umounted"]


def test_device_that_vanished_is_still_recognised(machine):
    """Without its device node a mount is recognised by its source, so that a stop unmounts it."""
    machine.write(TABLE + "40 22 253:9 / /m rw - ext4 /dev/mapper/gone rw\n")
    recorder = Recorder([("umount /m", machine.remove("/m"))])
    made = machine.resource("fs.ext4", recorder, type="ext4", dev="/dev/mapper/gone", mnt="/m")
    assert made.status() is Status.UP
    made.stop()
    assert made.status() is Status.DOWN


@pytest.mark.parametrize(
    ("options", "asked", "status", "messages"),
    [
        ("rw - xfs /dev/gone rw", "", Status.UP, []),
        ("ro - xfs /dev/gone rw", "", Status.WARN, ["fs is not writable"]),
        ("rw - xfs /dev/gone ro,attr2", "", Status.WARN, ["fs is not writable"]),
        ("rw - ext4 /dev/gone rw,shutdown", "", Status.WARN, ["fs is not writable"]),
        ("ro - xfs /dev/gone ro", "noatime,ro", Status.UP, []),
    ],
)
def test_read_only_is_a_warning(machine, options, asked, status, messages):
    """A file system that takes no writes, by mount or after an error, is a warning unless asked for."""
    machine.write(f"{TABLE}40 22 253:9 / /m {options}\n")
    made = machine.resource("fs.xfs", Recorder(), type="xfs", dev="/dev/gone", mnt="/m", mnt_opt=asked)
    assert (made.status(), made.messages) == (status, messages)


def test_other_device_on_the_mount_point(machine):
    """Another device on our mount point is not ours: down, not mounted over, not unmounted."""
    machine.write(TABLE + "40 22 253:9 / /m rw - ext4 /dev/other rw\n")
    recorder = Recorder()
    made = machine.resource("fs.ext4", recorder, type="ext4", dev="/dev/gone", mnt="/m")
    assert made.status() is Status.DOWN
    assert made.messages == ["/dev/other is mounted there instead"]
    with pytest.raises(ActionError, match="/dev/other is already mounted on /m"):
        made.start()
    made.stop()
    assert recorder.ran == []


def test_mounted_over(machine):
    """A file system hidden by another is a warning, and its stop names what is in the way."""
    machine.write(
        TABLE + "40 22 253:9 / /m rw - ext4 /dev/gone rw\n41 40 253:8 / /m rw - ext4 /dev/other rw\n"
    )
    made = machine.resource("fs.ext4", Recorder(), type="ext4", dev="/dev/gone", mnt="/m")
    assert made.status() is Status.WARN
    with pytest.raises(ActionError, match="/dev/other is mounted over"):
        made.stop()


BUSY = (32, "", "umount: /m: target is busy.\n")


def test_busy_without_visible_holder(machine):
    """A busy mount that no process holds ends in an error that says so; the tries are in the log."""
    machine.write(TABLE + "40 22 253:9 / /m rw - ext4 /dev/gone rw\n")
    recorder = Recorder([("umount /m", BUSY), ("sync -f /m", (0, "", "")), ("umount /m", BUSY)])
    made = machine.resource("fs.ext4", recorder, type="ext4", dev="/dev/gone", mnt="/m")
    with pytest.raises(ActionError, match=r"^/m is busy: held by no process that can be seen from here$"):
        made.stop()
    assert recorder.lines == [
        ("INFO", "umount /m"),
        ("WARNING", "stderr:\numount: /m: target is busy.\n"),
        ("INFO", "sync -f /m"),
        ("INFO", "umount /m"),
        ("WARNING", "stderr:\numount: /m: target is busy.\n"),
    ]


def test_hanging_write_back_does_not_end_the_stop(machine):
    """When writing back does not end in its time, the unmount is tried all the same."""
    machine.write(TABLE + "40 22 253:9 / /m rw - ext4 /dev/gone rw\n")
    late = ActionError("'sync -f /m' did not end within 30 s, killed")
    recorder = Recorder(
        [("umount /m", BUSY), ("sync -f /m", lambda: late), ("umount /m", machine.remove("/m"))]
    )
    machine.resource("fs.ext4", recorder, type="ext4", dev="/dev/gone", mnt="/m").stop()
    assert recorder.texts("WARNING")[-1] == str(late)


def test_failure_for_another_reason_ends_nobody(machine):
    """Only a busy mount starts the ladder."""
    machine.write(TABLE + "40 22 253:9 / /m rw - ext4 /dev/gone rw\n")
    recorder = Recorder([("umount /m", (32, "", "umount: /m: must be superuser to unmount.\n"))])
    made = machine.resource("fs.ext4", recorder, type="ext4", dev="/dev/gone", mnt="/m")
    with pytest.raises(ActionError, match="must be superuser"):
        made.stop()


def test_inner_mount_is_named(machine):
    """A mount inside ours is the reason, and nobody is ended for it."""
    machine.write(
        TABLE + "40 22 253:9 / /m rw - ext4 /dev/gone rw\n41 40 0:9 / /m/a\\040b rw - tmpfs none rw\n"
    )
    recorder = Recorder([("umount /m", BUSY)])
    made = machine.resource("fs.ext4", recorder, type="ext4", dev="/dev/gone", mnt="/m")
    with pytest.raises(ActionError, match="/m is busy: /m/a b mounted below it"):
        made.stop()


def test_tmpfs_logs_as_the_agent_did(machine, tmp_path):
    """A tmpfs is mounted from none, without -o when there are no options."""
    recorder = Recorder(
        [(f"mount -t tmpfs none {tmp_path}", machine.add(f"40 22 0:50 / {tmp_path} rw - tmpfs none rw"))]
    )
    made = machine.resource("fs.tmpfs", recorder, type="tmpfs", dev="none", mnt=str(tmp_path))
    made.start()
    assert recorder.texts() == ["fsck not implemented for tmpfs", f"mount -t tmpfs none {tmp_path}"]
    assert made.status() is Status.UP


def test_tmpfs_is_not_another_type(machine):
    """A mount of another type on a tmpfs's place is not it."""
    made = machine.resource("fs.tmpfs", Recorder(), type="tmpfs", dev="none", mnt="/srv")
    assert made.status() is Status.DOWN


def test_bind_is_recognised_by_the_place_inside_the_file_system(machine):
    """A bind mount is up when the mount point shows the directory, and only that one."""
    machine.write(TABLE + "40 22 254:1 /data /m rw - xfs /dev/vdb rw\n")
    statuses = [
        machine.resource("fs.bind", Recorder(), type="bind", dev=dev, mnt="/m").status()
        for dev in ("/srv/data", "/srv/data/", "/srv/other", "/data")
    ]
    assert statuses == [Status.UP, Status.UP, Status.DOWN, Status.DOWN]


def test_label_asks_for_the_device(machine):
    """A label is resolved by findfs; one that no device has is a device that does not exist."""
    recorder = Recorder([("findfs LABEL=nosuch", (1, "", "findfs: unable to resolve 'LABEL=nosuch'"))])
    made = machine.resource("fs.ext4", recorder, type="ext4", dev="LABEL=nosuch", mnt="/nosuch/m")
    with pytest.raises(ActionError, match=r"^device does not exist LABEL=nosuch$"):
        made.start()


def test_missing_device_makes_nothing(machine, tmp_path):
    """Without its device a start fails before the mount point is made."""
    made = machine.resource("fs.xfs", Recorder(), type="xfs", dev="/dev/nosuch", mnt=f"{tmp_path}/m")
    with pytest.raises(ActionError, match=r"^device does not exist /dev/nosuch$"):
        made.start()
    assert not (tmp_path / "m").exists()


def test_failed_mount_is_one_line(machine, tmp_path):
    """A mount that fails gives the command, its status and its reason in one line."""
    recorder = Recorder([(f"mount -t tmpfs none {tmp_path}", (32, "", "mount: denied.\n  dmesg(1) may\n"))])
    made = machine.resource("fs.tmpfs", recorder, type="tmpfs", dev="none", mnt=str(tmp_path))
    with pytest.raises(ActionError) as caught:
        made.start()
    assert str(caught.value) == (
        f"mount -t tmpfs none {tmp_path} failed with status 32: mount: denied. dmesg(1) may"
    )


def test_label_and_order(machine):
    """The label is dev@mnt; an outer mount point sorts before an inner one."""
    made = [
        machine.resource("fs.tmpfs", Recorder(), type="tmpfs", dev="none", mnt=mnt)
        for mnt in ("/srv/a/b", "/srv/a/")
    ]
    assert made[1].label == "none@/srv/a"
    assert sorted(made, key=lambda fs: fs.sort_key) == [made[1], made[0]]


@pytest.mark.parametrize("text", ["srv", "", "/", "//"])
def test_refused_mount_points(text):
    """A mount point is an absolute path below the root."""
    with pytest.raises(ValueError, match=r"root of the node|not an absolute path"):
        module("fs._file_system").mount_point(text)


def test_mountinfo_fields():
    """Optional fields of any number and escaped characters are read as proc(5) says."""
    parse = module("fs._mounts").parse_mountinfo
    (mount,) = parse(
        "30 22 254:1 /x\\040y /srv\\011z rw,noatime shared:3 master:1 - xfs /dev/v\\134b rw,ro_x\n"
    )
    assert (mount.mount_id, mount.device, mount.root) == (30, "254:1", "/x y")
    assert (mount.mount_point, mount.fs_type, mount.source) == ("/srv\tz", "xfs", "/dev/v\\b")
    assert not mount.is_read_only
    assert parse("1 2 3:4 / / rw -\nnonsense\n\n") == ()


@given(st.text())
def test_mountinfo_never_fails(text):
    """Any text is parsed; what is no mount is left out."""
    module("fs._mounts").parse_mountinfo(text)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/srv/data/x", ("254:1", "/data/x")),
        ("/srv", ("254:1", "/")),
        ("/srvx", ("254:0", "/srvx")),
        ("/", ("254:0", "/")),
    ],
)
def test_location_inside_a_file_system(path, expected):
    """A path is located in the file system that contains it."""
    mounts = module("fs._mounts")
    assert mounts.location(mounts.parse_mountinfo(TABLE), path) == expected


def test_our_own_programs_are_told_apart():
    """Our daemon and commands are recognised by their command line, run directly or by python."""
    is_ours = module("fs._holders")._is_ours
    assert is_ours(("/usr/bin/python3", "/usr/bin/hbmgr", "daemon"))
    assert is_ours(("/usr/bin/python3", "-m", "opensvc_hb.daemon.runner_process"))
    assert not is_ours(("/usr/bin/vim", "notes"))


def counted(machine, device, done, waiting):
    """Let the kernel count requests to a device."""
    folder = machine.sys / "dev/block" / device
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stat").write_text(f"{done} 0 0 0 {done} 0 0 0 {waiting} 0 0 0 0 0 0 0 0\n")


@pytest.mark.parametrize(
    ("waiting", "status", "messages"),
    [(0, Status.UP, []), (3, Status.WARN, ["/dev/gone does not answer: 3 requests wait for 0.2 s"])],
)
def test_disk_that_does_not_answer_is_a_warning(machine, waiting, status, messages):
    """Requests that wait while none is done are a disk that hangs; an idle one is left alone."""
    machine.write(TABLE + "40 22 253:9 / /m rw - xfs /dev/gone rw\n")
    counted(machine, "253:9", 10, waiting)
    made = machine.resource("fs.xfs", Recorder(), type="xfs", dev="/dev/gone", mnt="/m")
    made.silence_s = 0.2
    assert (made.status(), made.messages) == (status, messages)


def test_slow_disk_is_not_silent(machine):
    """One request done is an answer, however many wait."""
    machine.write(TABLE + "40 22 253:9 / /m rw - xfs /dev/gone rw\n")
    counted(machine, "253:9", 10, 3)
    made = machine.resource("fs.xfs", Recorder(), type="xfs", dev="/dev/gone", mnt="/m")
    made.silence_s = 60.0
    threading.Timer(0.3, counted, [machine, "253:9", 11, 3]).start()
    assert made.status() is Status.UP


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("/dev/my-vg/lv-a", "/dev/mapper/my--vg-lv--a"),
        ("/dev/mapper/my--vg-lv--a", "/dev/mapper/my--vg-lv--a"),
        ("/dev/sda1", "/dev/sda1"),
        ("LABEL=a/b/c/d", "LABEL=a/b/c/d"),
    ],
)
def test_volume_has_two_names(machine, device, expected):
    """A volume that is gone is recognised in the mount table by the name that mount shows."""
    assert module("fs._file_system").mapper_name(device) == expected
    machine.write(f"{TABLE}40 22 253:9 / /m rw - xfs {expected} rw\n")
    made = machine.resource(
        "fs.xfs", Recorder([("findfs LABEL=a/b/c/d", (1, "", ""))] * 2), type="xfs", dev=device, mnt="/m"
    )
    assert made.status() is Status.UP


class Disk:
    """A disk of the service."""

    group = "disk"
    rid = "vg#1"


def test_device_of_a_volume_group_is_waited_for(machine, tmp_path):
    """udev makes the node some time after the group is active; a service without disks does not wait."""
    node = tmp_path / "lv"
    made = machine.resource("fs.xfs", Recorder(), type="xfs", dev=str(node), mnt="/m")
    assert not made.device_exists()
    kind = driver("fs.xfs")
    lent = context(tmp_path, Recorder(), service_resources=lambda: (Disk(),))
    made = kind("fs#1", converted(kind, type="xfs", dev=str(node), mnt="/m"), lent)
    made.appear_s = 60.0
    threading.Timer(0.2, node.touch).start()
    assert made.device_exists()
    made.appear_s = 0.1
    node.unlink()
    assert not made.device_exists()


class Reservation:
    """The reservation of fs#1, in a given state."""

    group = "disk"
    rid = "fs#1pr"

    def __init__(self, status):
        self.told = status
        self.messages = ["held by deb2"]

    def status(self):
        self.messages = ["held by deb2"]
        return self.told


def test_not_mounted_without_its_reservation(machine, image, tmp_path):
    """Started alone, by --rid, the file system asks for its reservation before it is touched."""
    kind = driver("fs.ext4")
    lent = context(tmp_path, Recorder(), service_resources=lambda: (Reservation(Status.DOWN),))
    made = kind("fs#1", converted(kind, type="ext4", dev=str(image), mnt="/m"), lent)
    made.proc_path = machine.proc
    with pytest.raises(ActionError, match=r"reservation: fs#1pr is down \(held by deb2\)"):
        made.start()


def test_image_file_has_no_disk_to_reserve(machine, image):
    """The file is protected with the file system that it is in."""
    assert (
        machine.resource("fs.xfs", Recorder(), type="xfs", dev=str(image), mnt="/m").reservable_disks() == ()
    )


def test_nfs_is_recognised_by_server_and_path(machine, tmp_path):
    """The mount table alone tells; another server on the mount point is not ours."""
    machine.write(f"{TABLE}40 22 0:50 / /m rw - nfs4 srv:/data rw,addr=10.0.0.1\n")
    recorder = Recorder([("stat -f -c %T /m", (0, "nfs\n", ""))])
    assert machine.resource("fs.nfs", recorder, type="nfs", dev="srv:/data/", mnt="/m").status() is Status.UP
    made = machine.resource("fs.nfs", Recorder(), type="nfs", dev="other:/data", mnt="/m")
    assert (made.status(), made.messages) == (Status.DOWN, ["srv:/data is mounted there instead"])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ActionError("'stat' did not end within 5 s, killed"), "srv:/data does not answer within 5 s"),
        (
            (1, "", "stat: cannot read: Stale file handle\n"),
            "srv:/data: stat: cannot read: Stale file handle",
        ),
    ],
)
def test_server_that_does_not_answer_is_a_warning(machine, answer, message):
    """It is asked by a program that can be killed."""
    machine.write(f"{TABLE}40 22 0:50 / /m rw - nfs4 srv:/data rw\n")
    made = machine.resource(
        "fs.nfs", Recorder([("stat -f -c %T /m", answer)]), type="nfs", dev="srv:/data", mnt="/m"
    )
    assert (made.status(), made.messages) == (Status.WARN, [message])


def test_server_that_is_gone_is_unmounted_by_force(machine):
    """An unmount that hangs on its server is made again with -f."""
    machine.write(f"{TABLE}40 22 0:50 / /m rw - nfs4 srv:/data rw\n")
    hanging = ActionError("'umount /m' did not end within 60 s, killed")
    recorder = Recorder([("umount /m", hanging), ("umount -f /m", machine.remove("/m"))])
    machine.resource("fs.nfs", recorder, type="nfs", dev="srv:/data", mnt="/m").stop()
    assert recorder.texts() == ["umount /m", str(hanging), "umount -f /m"]


def test_btrfs_is_recognised_by_any_of_its_disks(machine, tmp_path):
    """Its number in the mount table is none of a disk; the table may name another disk of it."""
    for name in ("one", "two"):
        (tmp_path / name).touch()
    devices = machine.sys / "fs/btrfs/12-34/devices"
    devices.mkdir(parents=True)
    (devices / "one").touch()
    (devices / "two").touch()
    dev = str(tmp_path / "one")
    machine.write(f"{TABLE}40 22 0:50 /vol /m rw - btrfs /dev/two rw\n")
    assert machine.resource("fs.btrfs", Recorder(), type="btrfs", dev=dev, mnt="/m").status() is Status.UP
    machine.write(f"{TABLE}40 22 0:50 /vol /m rw - btrfs /dev/three rw\n")
    assert machine.resource("fs.btrfs", Recorder(), type="btrfs", dev=dev, mnt="/m").status() is Status.DOWN
