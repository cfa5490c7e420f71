"""What every resource driver promises, whatever it drives."""

import re

import pytest
from disk_of_two_nodes import recording
from driver_loader import DRIVERS, Recorder, context, converted, driver

from opensvc_hb.agent.resource import ActionError, CommandResult, Keyword, Resource, Status

OURS = ("app", "container", "disk", "fs", "ip", "share")
NAMES = sorted(
    f"{path.parent.name}.{path.stem}"
    for path in (DRIVERS / "resource").glob("*/*.py")
    if not path.name.startswith("_") and path.parent.name in OURS
)

WRITTEN = {
    "app.simple": {"script": "/nowhere/db", "start": "1", "stop": "1", "check": "1"},
    "container.docker": {"type": "docker", "run_image": "nowhere:1"},
    "disk.loop": {"file": "/nowhere/a.img"},
    "disk.scsireserv": {},
    "disk.vg": {"vgname": "vg-data"},
    "fs.bind": {"type": "bind", "dev": "/nowhere/data", "mnt": "/nowhere/mnt"},
    "fs.btrfs": {"type": "btrfs", "dev": "/dev/nowhere", "mnt": "/nowhere/mnt"},
    "fs.ext4": {"type": "ext4", "dev": "/dev/nowhere", "mnt": "/nowhere/mnt"},
    "fs.nfs": {"type": "nfs", "dev": "nowhere:/data", "mnt": "/dev/null/mnt"},
    "fs.tmpfs": {"type": "tmpfs", "dev": "none", "mnt": "/nowhere/mnt"},
    "fs.xfs": {"type": "xfs", "dev": "/dev/nowhere", "mnt": "/nowhere/mnt"},
    "ip.host": {"ipname": "192.0.2.99", "ipdev": "nosuch0"},
    "share.nfs": {"type": "nfs", "path": "/nowhere", "opts": "n1(rw)"},
}
"""A section of each driver whose resource is down on every machine."""

CANNOT_START = sorted(set(NAMES) - {"fs.tmpfs"})
"""Those whose section names something that no machine has."""


ANSWERS = {
    "disk.vg": recording("absent"),
    "share.nfs": {"exportfs -v": ActionError("exportfs: command not found")},
}
"""What the tools of some drivers tell that are asked in any case; asking changes nothing."""


class Asked(Recorder):
    """A recorder that answers such questions, and keeps every other command."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def run(self, argv, timeout_s):
        answer = self.answers.get(" ".join(argv))
        if isinstance(answer, ActionError):
            raise answer
        return super().run(argv, timeout_s) if answer is None else CommandResult(tuple(argv), *answer)


def made(name, tmp_path):
    kind = driver(name)
    recorder = Asked(ANSWERS.get(name, {}))
    if name == "disk.scsireserv":
        protected, _ = made("disk.loop", tmp_path)
        options = {"protects": protected, "no_preempt_abort": False}
        resource = kind("x#1pr", options, context(tmp_path, recorder))
        resource.tools_path = ""
        return resource, recorder
    return kind("x#1", converted(kind, **WRITTEN[name]), context(tmp_path, recorder)), recorder


@pytest.mark.parametrize("name", NAMES)
def test_declaration(name):
    """A driver says where it belongs: group, set, sections; and its types are lower case."""
    kind = driver(name)
    assert issubclass(kind, Resource)
    assert kind.group == name.partition(".")[0]
    assert kind.type_name.partition(".")[0] == kind.group
    assert kind.sections or name == "disk.scsireserv", "the agent makes that one beside another resource"
    assert all(text == text.lower() for text in (*kind.types, *kind.sections))


@pytest.mark.parametrize("name", NAMES)
def test_keywords_explain_themselves(name):
    """Every keyword has a lower case name, once, and a text of sentences."""
    kind = driver(name)
    names = [keyword.name for keyword in kind.keywords]
    assert len(set(names)) == len(names)
    for keyword in kind.keywords:
        assert isinstance(keyword, Keyword)
        assert re.fullmatch(r"[a-z_]+", keyword.name)
        assert re.fullmatch(r"[A-Z].{15,}\.", keyword.text, re.DOTALL), keyword.name
        assert not (keyword.required and keyword.default is not None)
        if keyword.candidates is not None:
            assert set(keyword.candidates) == set(kind.types)


@pytest.mark.parametrize("name", NAMES)
def test_label_and_order_need_no_system(name, tmp_path):
    """Label and sort keys are one line and comparable, without a look at the machine."""
    resource, recorder = made(name, tmp_path)
    assert resource.label
    assert "\n" not in resource.label
    assert sorted([resource.sort_key, resource.sort_key])
    assert recorder.lines == []


@pytest.mark.parametrize("name", NAMES)
def test_status_has_no_side_effect(name, tmp_path):
    """A status changes nothing, logs nothing, runs no tool that is not asked for, and repeats itself."""
    resource, recorder = made(name, tmp_path)
    first = resource.status()
    messages = list(resource.messages)
    assert isinstance(first, Status)
    assert first is not Status.UP
    assert resource.status() is first
    assert resource.messages == messages, "a message is kept once"
    assert recorder.lines == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_stop_of_what_is_down(name, tmp_path):
    """A stop of a resource that is down succeeds, runs no tool, and says so in one line."""
    resource, recorder = made(name, tmp_path)
    resource.stop()
    resource.stop()
    assert len(recorder.lines) == 2
    assert recorder.ran == []


@pytest.mark.parametrize("name", CANNOT_START)
def test_impossible_start_is_one_line(name, tmp_path):
    """A start that cannot be is an ActionError of one line, and leaves nothing to roll back."""
    resource, _ = made(name, tmp_path)
    with pytest.raises(ActionError) as caught:
        resource.start()
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    assert not resource.activated


def test_shared_code_is_no_driver():
    """A file whose name starts with an underscore defines no driver that a section could choose."""
    shared = [p for p in (DRIVERS / "resource").glob("*/_[!_]*.py") if p.parent.name in OURS]
    assert shared, "the fs and ip drivers share code"


@pytest.mark.parametrize("name", NAMES)
def test_drivers_import_the_resource_interface_only(name):
    """Of ours, a driver imports the resource interface and its neighbours, nothing else."""
    group = name.partition(".")[0]
    for path in [*(DRIVERS / "resource" / group).glob("*.py"), *(DRIVERS / "resource").glob("_*.py")]:
        imported = re.findall(r"^\s*(?:from|import) (opensvc_hb[\w.]*)", path.read_text(), re.MULTILINE)
        assert set(imported) <= {"opensvc_hb.agent.resource"}, path
