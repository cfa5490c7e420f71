"""The nodes and monitor files: what is accepted, and the exact words of what is not."""

from __future__ import annotations

import pytest
from links_builders import NODES, make_link

from opensvc_hb.core.config import Link, LinkType, Service
from opensvc_hb.errors import ConfigurationErrors, ExitCode
from opensvc_hb.links.cluster_files import read_monitor, read_nodes, shared_digest

TUTORIAL = """\
deb1.opensvc.com net eth1 239.131.50.10 5010 10
deb1.opensvc.com net eth2 239.131.50.11 5011 10
deb2.opensvc.com net eth1 239.131.50.12 5012 10
deb2.opensvc.com net eth2 239.131.50.13 5013 10
deb1.opensvc.com dio /dev/mapper/disk.hb.0 0 10
deb2.opensvc.com dio /dev/mapper/disk.hb.0 10 10
"""
GOOD = "deb1.opensvc.com net eth1 239.131.50.10 5010 10\ndeb2.opensvc.com net eth1 239.131.50.12 5012 10\n"


@pytest.fixture
def monitor(tmp_path):
    """Return a function that writes a monitor file and reads it."""

    def read(text, nodes=NODES):
        path = tmp_path / "monitor"
        path.write_text(text)
        return read_monitor(path, nodes)

    return read


def test_links_tutorial_files_are_read_as_written(monitor, tmp_path):
    """The tutorial's nodes and monitor files give its two nodes and six links, in file order."""
    (tmp_path / "nodes").write_text("deb1.opensvc.com\ndeb2.opensvc.com\n")
    assert read_nodes(tmp_path / "nodes") == NODES
    links = monitor(TUTORIAL)
    assert links[0] == Link(NODES[0], LinkType.NET, "eth1", "239.131.50.10", 5010, 10.0, 1)
    assert links[5] == Link(NODES[1], LinkType.DIO, "/dev/mapper/disk.hb.0", "10", 0, 10.0, 6)
    assert [link.id for link in links[::5]] == ["net:eth1:239.131.50.10:5010", "dio:/dev/mapper/disk.hb.0:10"]


def test_links_comments_blank_lines_tabs_and_fractions_are_accepted(monitor):
    """Comments, blank lines, any blanks, upper-case names and fractions of a second are accepted."""
    links = monitor(
        "# ours\n\n  DEB1.opensvc.com\tunicast  eth1 10.0.0.2 5010 0.5 # to deb2\r\n"
        "deb2.opensvc.com unicast eth1 fd00:0::1 5010 3600\n"
    )
    assert [(link.node, link.timeout_s, link.address, link.line) for link in links] == [
        (NODES[0], 0.5, "10.0.0.2", 3),
        (NODES[1], 3600.0, "fd00::1", 4),
    ]


def test_links_ports_are_numbers_in_any_base_or_service_names(monitor):
    """A port may be decimal, hexadecimal, octal, or the name of a udp service, as in OpenHA."""
    text = "".join(
        f"{node} unicast eth1 10.0.0.{n} {port} 10\n"
        for n, (node, port) in enumerate(zip(NODES * 2, ("5010", "0x1392", "011622", "ntp")), start=1)
    )
    assert [link.port for link in monitor(text)] == [5010, 5010, 5010, 123]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "deb3 net eth1 239.131.50.14 5014 10",
            "monitor:3: node: 'deb3' is not in the nodes file (it has deb1.opensvc.com, deb2.opensvc.com)",
        ),
        (
            "deb1.opensvc.com serial /dev0 1 10",
            "monitor:3: type: 'serial' is unknown: net, unicast, dio, disk are allowed",
        ),
        ("deb1.opensvc.com", "monitor:3: type: is missing: net, unicast, dio, disk are allowed"),
        (
            "deb1.opensvc.com net eth1 239.131.50.14 10",
            "monitor:3: columns: 5 columns, a net link has 6: node type interface address port timeout",
        ),
        (
            "deb1.opensvc.com dio hb 0 5010 10",
            "monitor:3: columns: 6 columns, a dio link has 5: node type device offset timeout",
        ),
        (
            "deb1.opensvc.com net eth1 239.131.50.14 5014 0.1",
            "monitor:3: timeout: '0.1' is not allowed: 0.2 to 3600 seconds are",
        ),
        (
            "deb1.opensvc.com net eth1 239.131.50.14 5014 nan",
            "monitor:3: timeout: 'nan' is not allowed: 0.2 to 3600 seconds are",
        ),
        (
            "deb1.opensvc.com net eth1 239.131.50.14 65536 10",
            "monitor:3: port: '65536' is not a port: 1 to 65535, "
            "or the name of a udp service in /etc/services",
        ),
        (
            "deb1.opensvc.com net eth1 239.131.50.14 no-such-service 10",
            "monitor:3: port: 'no-such-service' is not a port: 1 to 65535, "
            "or the name of a udp service in /etc/services",
        ),
        (
            "deb1.opensvc.com net eth1 10.0.0.1 5014 10",
            "monitor:3: address: 10.0.0.1 is not a multicast group: 224.0.0.0/4 or ff00::/8 is allowed",
        ),
        (
            "deb1.opensvc.com unicast eth1 239.131.50.14 5014 10",
            "monitor:3: address: 239.131.50.14 is not a node's address: the receiver's is needed",
        ),
        (
            "deb1.opensvc.com unicast eth1 deb2 5014 10",
            "monitor:3: address: 'deb2' is not an IP address",
        ),
        (
            "deb1.opensvc.com net eth1 239.131.50.10 5010 10",
            "monitor:3: port: interface eth1, address 239.131.50.10 and port 5010 are already taken "
            "by line 1: each line needs its own",
        ),
        (
            "deb1.opensvc.com net interface-of-16-by 239.131.50.10 5010 10",
            "monitor:3: interface: 'interface-of-16-by' is not an interface name: at most 15 bytes, no '/'",
        ),
        ("deb1.opensvc.com disk hb0 0 10", "monitor:3: device: 'hb0' is not an absolute path"),
        (
            "deb1.opensvc.com disk /hb0 -1 10",
            "monitor:3: offset: '-1' is not an offset: a whole number of 512-byte blocks is allowed",
        ),
    ],
)
def test_links_a_wrong_column_is_named_with_its_line_and_what_is_allowed(monitor, tmp_path, line, expected):
    """Each wrong line gives one error: file, line, column, what is wrong, what is allowed."""
    with pytest.raises(ConfigurationErrors) as caught:
        monitor(GOOD + line + "\n")
    assert str(caught.value) == f"{tmp_path}/{expected}"
    assert caught.value.exit_code is ExitCode.CONFIGURATION


def test_links_all_errors_of_a_file_come_at_once(monitor, tmp_path):
    """Nobody repairs line by line: several columns of several lines are reported together."""
    with pytest.raises(ConfigurationErrors) as caught:
        monitor("deb9 net eth1 10.1.1.1 0 10\n" + GOOD + "deb1.opensvc.com dio relative x 0\n")
    assert [(error.line, error.where) for error in caught.value.errors] == [
        (1, "node"),
        (1, "address"),
        (1, "port"),
        (4, "timeout"),
        (4, "device"),
        (4, "offset"),
    ]
    assert str(caught.value).count("\n") == 5


@pytest.mark.parametrize(
    ("first", "second", "overlap"), [(0, 9, True), (0, 10, False), (25, 16, True), (7, 7, True)]
)
def test_links_slots_are_ten_blocks_apart(monitor, first, second, overlap):
    """Slots on one device are at least 10 blocks apart, whichever type and order the lines have."""
    text = f"{NODES[0]} dio /dev/hb {first} 10\n{NODES[1]} disk /dev/hb {second} 10\n"
    if not overlap:
        assert len(monitor(text)) == 2
        return
    with pytest.raises(ConfigurationErrors) as caught:
        monitor(text)
    assert [str(error).partition("monitor")[2] for error in caught.value.errors] == [
        f":2: offset: {second} overlaps the slot of line 1 at {first}: a slot takes 10 blocks of 512 bytes, "
        "so offsets are at least 10 apart"
    ]


def test_links_slots_of_two_devices_do_not_meet(monitor):
    """The same offset on two devices is no overlap."""
    assert len(monitor(f"{NODES[0]} dio /dev/hb0 0 10\n{NODES[1]} dio /dev/hb1 0 10\n")) == 2


def test_links_a_node_without_a_line_of_its_own_is_refused(monitor, tmp_path):
    """A node that sends nothing would be dead for all others from the beginning."""
    with pytest.raises(ConfigurationErrors) as caught:
        monitor(f"{NODES[0]} net eth1 239.131.50.10 5010 10\n")
    assert str(caught.value) == (
        f"{tmp_path}/monitor: node: deb2.opensvc.com has no line of its own: nobody would ever hear it"
    )
    with pytest.raises(ConfigurationErrors, match="has no link: every node needs at least one line"):
        monitor("# nothing yet\n")


def test_links_a_single_node_needs_no_link(monitor):
    """A cluster of one node has nobody to talk to."""
    assert monitor("", NODES[:1]) == ()


def test_links_missing_files_are_one_error(tmp_path):
    """A file that is not there is said with its path."""
    with pytest.raises(ConfigurationErrors) as caught:
        read_nodes(tmp_path / "nodes")
    said = "does not exist: it holds a node name per line, the same on every node"
    assert str(caught.value) == f"{tmp_path}/nodes: {said}"


def test_links_nodes_file_errors_are_reported_together(tmp_path):
    """A name twice, a strange name and too many columns are three errors with their lines."""
    path = tmp_path / "nodes"
    path.write_bytes(b"deb1\nDEB1\nde b2\nd\xffb3\n")
    with pytest.raises(ConfigurationErrors) as caught:
        read_nodes(path)
    assert [str(error).removeprefix(str(path)) for error in caught.value.errors] == [
        ":2: node: deb1 is already on line 1",
        ":3: node: one name per line is allowed, not 2 columns",
        ":4: node: 'd\\\\xffb3' is not a node name: letters, digits, '.', '-' and '_', at most 127, "
        "as `uname -n` prints it",
    ]
    path.write_text("\n# none\n")
    with pytest.raises(ConfigurationErrors, match="names no node: one node name per line is needed"):
        read_nodes(path)


def test_links_shared_digest_sees_what_nodes_must_agree_on(monitor):
    """The digest ignores the order of lines and comments, and sees timeouts and primaries."""
    links = monitor(TUTORIAL)
    other_order = monitor("# reordered\n" + "\n".join(reversed(TUTORIAL.splitlines())) + "\n")
    service = {"svc1": Service("svc1", "svc1", NODES)}
    digest = shared_digest(NODES, links, service)
    assert len(digest) == 8
    assert shared_digest(NODES[::-1], other_order, service) == digest
    assert shared_digest(NODES, links, {"svc1": Service("svc1", "svc1", NODES[::-1])}) != digest
    assert shared_digest(NODES, (make_link(timeout_s=11.0), *links[1:]), service) != digest
    alone = Service("svc2", "svc2", NODES[:1])
    assert shared_digest(NODES, links, {**service, "svc2": alone}) == digest
