"""The loop device driver, by transcript and a sysfs of files."""

import pytest
from driver_loader import Recorder, context, converted, driver

from opensvc_hb.agent.resource import ActionError, Status


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.img"
    path.write_bytes(bytes(512))
    (tmp_path / "sys/block").mkdir(parents=True)
    return path


def bind(tmp_path, image, name="loop1"):
    def losetup():
        folder = tmp_path / f"sys/block/{name}/loop"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "backing_file").write_text(f"{image}\n")
        return (0, "", "")

    return losetup


def release(tmp_path, name="loop1"):
    def losetup():
        (tmp_path / f"sys/block/{name}/loop/backing_file").unlink()
        return (0, "", "")

    return losetup


def loop(tmp_path, recorder, file):
    kind = driver("disk.loop")
    made = kind("loop#1", converted(kind, file=str(file)), context(tmp_path, recorder))
    made.sys_path = tmp_path / "sys"
    return made


def test_start_and_stop_log_as_the_agent_did(tmp_path, image):
    """A file is bound to a free device, found again by name, and released."""
    recorder = Recorder(
        [(f"losetup -f {image}", bind(tmp_path, image)), ("losetup -d /dev/loop1", release(tmp_path))]
    )
    made = loop(tmp_path, recorder, image)
    assert made.status() is Status.DOWN
    made.start()
    assert made.status() is Status.UP
    made.start()
    made.stop()
    assert made.status() is Status.DOWN
    made.stop()
    assert recorder.texts() == [
        f"losetup -f {image}",
        f"/dev/loop1 now loops to {image}",
        f"{image} is already up",
        "losetup -d /dev/loop1",
        f"{image} is already down",
    ]


def test_file_behind_a_link_is_the_same(tmp_path, image):
    """A file named through a symbolic link is found under the name that the kernel knows."""
    (tmp_path / "link.img").symlink_to(image)
    bind(tmp_path, image)()
    assert loop(tmp_path, Recorder(), tmp_path / "link.img").status() is Status.UP


@pytest.mark.parametrize("bound", ["/srv/other.img", "{image} (deleted)"])
def test_other_files_are_not_ours(tmp_path, image, bound):
    """A device of another file, or of one deleted since, is not ours."""
    bind(tmp_path, bound.format(image=image))()
    assert loop(tmp_path, Recorder(), image).status() is Status.DOWN


def test_missing_file(tmp_path, image):
    """A file that does not exist cannot be bound."""
    with pytest.raises(ActionError, match=r"file does not exist /nowhere/x\.img"):
        loop(tmp_path, Recorder(), "/nowhere/x.img").start()


def test_device_in_use_fails_the_stop(tmp_path, image):
    """losetup succeeds on a device in use; the stop does not."""
    bind(tmp_path, image)()
    with pytest.raises(ActionError, match="/dev/loop1 is still in use"):
        loop(tmp_path, Recorder([("losetup -d /dev/loop1", (0, "", ""))]), image).stop()


def test_losetup_that_fails(tmp_path, image):
    """The tool's reason is the error."""
    recorder = Recorder([(f"losetup -f {image}", (1, "", "losetup: cannot find an unused loop device\n"))])
    with pytest.raises(ActionError, match="cannot find an unused loop device"):
        loop(tmp_path, recorder, image).start()
