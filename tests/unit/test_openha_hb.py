"""`hb -a` and `hb -r`: what OpenHA crashes on or accepts and cannot use is refused; links are removed."""

from __future__ import annotations

import pytest
from openha_fakes import FakeDaemon, fake_console, write_cluster

from opensvc_hb.cli.openha_hb import HbCommand
from opensvc_hb.cli.openha_monitor import Machine, this_machine
from opensvc_hb.paths import Root

MONITOR = """\
# the paths of n1
n1 net eth1 239.131.50.10 5010 10
n2 net eth1 239.131.50.12 5012 10   # and of n2

n1 dio /dev/vdb 0 10
"""
MACHINE = Machine(lambda name: "" if name == "eth1" else "No such file or directory", lambda device: True)


@pytest.fixture
def hb(tmp_path):
    write_cluster(tmp_path, monitor=MONITOR)
    return Site(tmp_path)


class Site:
    def __init__(self, top):
        self.top = top
        self.daemon = FakeDaemon("n1")
        self.path = top / "etc/opensvc/hb/monitor"

    def __call__(self, words):
        console, stream = fake_console()
        code = HbCommand(Root(self.top), console, self.daemon.ask, "Usage", lambda: 0.0, MACHINE).run(
            words.split()
        )
        return code, stream.getvalue()

    @property
    def monitor(self):
        return self.path.read_text()


NEW = "-a -n n2 -t dio -i /dev/vdb -d 40 -T 10"


def test_a_new_line_is_added_behind_the_others_and_the_daemon_is_told(hb):
    """Comments and blanks stay."""
    assert hb(NEW) == (0, "heartbeat added.\n")
    assert hb.monitor == MONITOR + "n2\tdio\t/dev/vdb\t40\t10\n"
    assert hb.daemon.asked == [{"request": "reload"}]


def test_a_file_without_a_last_line_end_gets_one(hb):
    """Else the new line would become part of the last."""
    hb.path.write_text(MONITOR.rstrip("\n"))
    assert hb(NEW)[0] == 0
    assert hb.monitor.splitlines()[-2:] == ["n1 dio /dev/vdb 0 10", "n2\tdio\t/dev/vdb\t40\t10"]


def test_the_first_line_of_all_can_be_added(hb):
    """The other nodes get theirs by the next commands."""
    hb.path.unlink()
    assert hb(NEW)[0] == 0
    assert hb.monitor == "n2\tdio\t/dev/vdb\t40\t10\n"


def test_the_same_line_in_other_blanks_is_the_same_link(hb):
    """OpenHA compares columns, too."""
    code, said = hb("-a -n n1 -t dio -i /dev/vdb -d 0 -T 30")
    assert (code, said) == (255, "Error: HeartBeat link already defined.\nheartbeat add failed.\nUsage\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-a -t dio -i /dev/vdb -d 80 -T 10", "Need the node that sends (-n).\nnode validation error."),
        ("-a -n n1 -i /dev/vdb -d 80 -T 10", "Need a type (-t) (must be disk"),
        ("-a -n n1 -t dio -i /dev/vdb -d 80", "BAD timeout value."),
        ("-a -n n1 -t dio -i /dev/vdb -d x -T 10", "is not an offset"),
        ("-a -n n1 -t dio -i /dev/vdb -d 5 -T 10", "overlaps the slot of line 5"),
        ("-a -n n1 -t net -i eth1 -d 239.1.2 -p 5030 -T 10", "BAD Multicast address."),
        ("-a -n n1 -t net -i eth1 -d 239.1.2.3 -p 50x -T 10", "BAD port number: 50x."),
        ("-a -n n1 -t net -i eth9 -d 239.1.2.3 -p 5030 -T 10", "set_mcast_if failed : No such file"),
        ("-a -n n1 -t dio -i /dev/vdb -d 80 -T 10 more", "'more' belongs to no option."),
        ("-a -r", "Incompatible options."),
        ("-T", ""),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_line_and_the_usage(hb, words, said):
    """Where OpenHA crashes or writes a line that its daemons cannot read."""
    code, shown = hb(words)
    assert code == 255
    assert said in shown
    assert shown.endswith("Usage\n")
    assert hb.monitor == MONITOR


def test_the_node_and_the_type_are_written_as_they_are_used(hb):
    """OpenHA writes them as given, and then cannot use the line."""
    assert hb("-a -n N1 -t NET -i eth1 -d 239.131.50.20 -p 5020 -T 10")[0] == 0
    assert hb.monitor.splitlines()[-1].split() == ["n1", "net", "eth1", "239.131.50.20", "5020", "10"]


def test_a_link_is_removed_and_nothing_else(hb):
    """OpenHA's own never removes any."""
    assert hb("-r -n n2 -t net -i eth1 -d 239.131.50.12 -p 5012") == (0, "heartbeat removed.\n")
    assert hb.monitor == MONITOR.replace("n2 net eth1 239.131.50.12 5012 10   # and of n2\n", "")
    assert hb.daemon.asked == [{"request": "reload"}]


@pytest.mark.parametrize(
    "words",
    [
        "-r -n n2 -t net -i eth1 -d 239.131.50.12 -p 5013",
        "-r -n n2 -t net -i eth1 -d 239.131.50.12 -p 5012 -T 11",
        "-r -n n2 -t net -i eth1 -d 239.131.50.12",
        "-r -n n2",
        "-r",
    ],
)
def test_a_link_that_is_not_there_or_not_named_in_full_is_not_removed(hb, words):
    """Half a name must not remove a path of somebody's heartbeat."""
    code, said = hb(words)
    assert code == 255
    assert "no line for such a link" in said
    assert "Error: unable to remove HeartBeat link.\nheartbeat remove failed.\nUsage\n" in said
    assert hb.monitor == MONITOR


def test_a_monitor_file_that_is_a_link_stays_one(hb):
    """The compatible tree's conf/monitor is a link to it, and some sites have it the other way round."""
    real = hb.top / "monitor.real"
    hb.path.rename(real)
    hb.path.symlink_to(real)
    assert hb(NEW)[0] == 0
    assert hb.path.is_symlink()
    assert real.read_text().endswith("n2\tdio\t/dev/vdb\t40\t10\n")


def test_the_status_exits_0_always_and_says_what_is_missing(hb):
    """As OpenHA's does."""
    assert hb("-s") == (0, "")
    hb.path.unlink()
    assert hb("-s") == (0, f"unable to open {hb.path}\n")
    hb.daemon.is_up = False
    code, said = hb("-s")
    assert code == 0
    assert "is not running" in said


def test_this_machine_knows_its_interfaces_and_devices(tmp_path):
    """The loopback interface has an IPv4 address everywhere; a made-up one does not exist."""
    machine = this_machine()
    assert machine.interface_problem("lo") == ""
    assert machine.interface_problem("nosuch0") == "No such file or directory"
    assert machine.opens("/dev/null")
    assert not machine.opens(str(tmp_path / "none"))
