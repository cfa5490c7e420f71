"""The ip driver, with a network of its own; and the packets it sends."""

import ipaddress

import pytest
from driver_loader import Recorder, context, converted, driver, module
from hypothesis import given
from hypothesis import strategies as st

from opensvc_hb.agent.resource import ActionError, Status

MAC = bytes.fromhex("020000000001")
ADDRESS = ipaddress.ip_address("37.59.71.26")


class FakeNetwork:
    """A network in memory: interfaces, addresses, and addresses that other hosts answer for."""

    def __init__(self, addresses=(("eth0", "37.59.71.10", 24, False),), elsewhere=()):
        kinds = module("ip._network")
        self.interfaces = (
            kinds.Interface(1, "lo", True, True, False, bytes(6)),
            kinds.Interface(2, "eth0", True, False, True, MAC),
            kinds.Interface(3, "eth1", False, False, True, MAC),
        )
        self.addresses = [
            kinds.InterfaceAddress(device, ipaddress.ip_address(text), bits, secondary)
            for device, text, bits, secondary in addresses
        ]
        self.elsewhere = elsewhere
        self.did = []

    def read(self):
        return module("ip._network").Snapshot(self.interfaces, tuple(self.addresses))

    def add(self, interface, address, bits):
        self.did.append(f"add {address}/{bits} {interface.name}")
        self.addresses.append(module("ip._network").InterfaceAddress(interface.name, address, bits, False))

    def delete(self, interface, address, bits):
        self.did.append(f"delete {address}/{bits} {interface.name}")
        self.addresses = [a for a in self.addresses if (a.interface, a.address) != (interface.name, address)]

    def promote_secondaries(self, interface):
        self.did.append(f"promote {interface.name}")

    def other_host(self, interface, address):
        self.did.append(f"probe {address} {interface.name}")
        return "02:00:00:00:00:99" if str(address) in self.elsewhere else None

    def announce(self, interface, address):
        self.did.append(f"announce {address} {interface.name}")


def ip(tmp_path, network, transcript=(), rid="ip#1", **written):
    kind = driver("ip.host")

    class OnFakeNetwork(kind):
        def open_network(self):
            return network

    recorder = Recorder(transcript)
    options = {"ipname": "37.59.71.26", "ipdev": "eth0", **written}
    return OnFakeNetwork(rid, converted(kind, **options), context(tmp_path, recorder)), recorder


def test_start_probes_adds_and_announces(tmp_path):
    """A start asks the network, adds the address with the interface's netmask, and announces it."""
    network = FakeNetwork()
    made, recorder = ip(tmp_path, network)
    made.start()
    assert network.did == [
        "probe 37.59.71.26 eth0",
        "add 37.59.71.26/24 eth0",
        "announce 37.59.71.26 eth0",
    ]
    assert recorder.texts("INFO") == [
        "ip addr add 37.59.71.26/24 dev eth0",
        "announced 37.59.71.26 at 02:00:00:00:00:01 on eth0",
    ]
    assert made.activated is True
    assert made.status() is Status.UP


def test_started_and_stopped_twice(tmp_path):
    """A second start or stop changes nothing and says so as the agent did."""
    network = FakeNetwork()
    made, recorder = ip(tmp_path, network)
    made.start()
    made.start()
    assert made.activated is False
    made.stop()
    made.stop()
    assert network.did[3:] == ["delete 37.59.71.26/24 eth0"]
    assert recorder.texts()[2:] == [
        "37.59.71.26 is already up on eth0",
        "ip addr del 37.59.71.26/24 dev eth0",
        "37.59.71.26 is already down on eth0",
    ]


def test_address_on_another_host_is_never_taken(tmp_path):
    """An address that answers vetoes the start of the service, and fails the start of the resource."""
    network = FakeNetwork(elsewhere=("37.59.71.26",))
    made, recorder = ip(tmp_path, network)
    assert made.may_start() == "37.59.71.26 is already up on another host"
    with pytest.raises(ActionError, match=r"^37\.59\.71\.26 is already up on another host$"):
        made.start()
    assert network.did == ["probe 37.59.71.26 eth0"] * 2
    assert recorder.texts() == [
        "checking 37.59.71.26 availability",
        "37.59.71.26 is answered for by 02:00:00:00:00:99",
        "37.59.71.26 is answered for by 02:00:00:00:00:99",
    ]


def test_veto_that_just_passed_is_not_asked_again(tmp_path):
    """The probe of the veto stands for the start that follows at once."""
    network = FakeNetwork()
    made, _ = ip(tmp_path, network)
    assert made.may_start() is None
    made.start()
    assert [word for word in network.did if word.startswith("probe")] == ["probe 37.59.71.26 eth0"]


def test_address_that_is_here_does_not_veto(tmp_path):
    """An address that this node has already is no reason against a start; nobody is asked."""
    network = FakeNetwork(addresses=(("lo", "37.59.71.26", 32, False),))
    made, recorder = ip(tmp_path, network)
    assert made.may_start() is None
    assert network.did == []
    assert recorder.texts() == ["checking 37.59.71.26 availability"]


def test_address_on_another_interface_is_up(tmp_path):
    """The address counts wherever it is on this node, and is removed from there."""
    network = FakeNetwork(addresses=(("lo", "37.59.71.26", 32, False),))
    made, recorder = ip(tmp_path, network)
    assert made.status() is Status.UP
    made.start()
    made.stop()
    assert recorder.texts() == ["37.59.71.26 is already up on lo", "ip addr del 37.59.71.26/32 dev lo"]


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("eth9", r"^interface eth9 not found\. Cannot stack over it\.$"),
        ("eth1", r"^interface eth1 is not set up\. Cannot stack over it\.$"),
    ],
)
def test_interface_that_cannot_carry_it(tmp_path, device, reason):
    """An interface that is missing or not set up fails the start, by the start and not by a veto."""
    made, _ = ip(tmp_path, FakeNetwork(), ipdev=device)
    assert made.may_start() is None
    with pytest.raises(ActionError, match=reason):
        made.start()


@pytest.mark.parametrize(
    ("written", "addresses", "bits"),
    [
        ({"netmask": "255.255.255.128"}, (("eth0", "37.59.71.10", 24, False),), 25),
        ({"netmask": "26"}, (("eth0", "37.59.71.10", 24, False),), 26),
        ({"netmask": "ffffff00"}, (), 24),
        ({}, (("eth0", "37.59.71.10", 23, False), ("eth0", "10.0.0.1", 8, False)), 23),
        ({}, (("eth0", "10.0.0.1", 8, False), ("eth0", "37.59.71.10", 23, False)), 23),
        ({}, (("eth0", "10.0.0.1", 8, False), ("eth0", "172.16.0.1", 12, False)), 8),
        ({}, (("lo", "127.0.0.1", 8, False), ("eth0", "fd00::1", 64, False)), 32),
    ],
)
def test_netmask(tmp_path, written, addresses, bits):
    """The netmask is the configured one, else of the subnet around, else the first, else one address."""
    network = FakeNetwork(addresses=addresses)
    made, _ = ip(tmp_path, network, **written)
    made.start()
    assert f"add 37.59.71.26/{bits} eth0" in network.did


def test_netmask_of_the_other_family(tmp_path):
    """A netmask longer than the address is refused."""
    made, _ = ip(tmp_path, FakeNetwork(), netmask="64")
    with pytest.raises(ActionError, match="netmask 64 is too long"):
        made.start()


@pytest.mark.parametrize("text", ["", "255.0.255.0", "0.0.0.255", "129", "/24", "mask"])
def test_refused_netmasks(tmp_path, text):
    """What is no netmask is refused."""
    with pytest.raises(ValueError, match="not a netmask"):
        ip(tmp_path, FakeNetwork(), netmask=text)


@pytest.mark.parametrize("text", ["", "-a", "two words"])
def test_refused_names(tmp_path, text):
    """A name is one word that no tool takes for an option."""
    with pytest.raises(ValueError, match="neither a host name nor an address"):
        ip(tmp_path, FakeNetwork(), ipname=text)


FOUND = "37.59.71.26     STREAM app.opensvc.com\n37.59.71.26     DGRAM  \n37.59.71.26     RAW    \n"


def test_name_is_resolved_once(tmp_path):
    """A name is resolved by the system's resolver, once per action."""
    made, _ = ip(
        tmp_path,
        FakeNetwork(),
        [("getent ahostsv4 app.opensvc.com", (0, FOUND, ""))],
        ipname="app.opensvc.com",
    )
    assert made.status() is Status.DOWN
    made.start()
    assert made.status() is Status.UP
    assert made.label == "app.opensvc.com@eth0"


def test_name_with_an_ipv6_address_only(tmp_path):
    """A name without IPv4 address gives its IPv6 address, but not an IPv4 one in IPv6 notation."""
    transcript = [
        ("getent ahostsv4 six", (2, "", "")),
        ("getent ahostsv6 six", (0, "::ffff:10.0.0.1 STREAM six\nfd00::50  STREAM six\n", "")),
    ]
    network = FakeNetwork()
    made, _ = ip(tmp_path, network, transcript, ipname="six")
    made.start()
    assert "add fd00::50/128 eth0" in network.did


@pytest.mark.parametrize("answer", [(2, "", ""), ActionError("'getent ...' did not end within 5 s, killed")])
def test_name_that_does_not_resolve(tmp_path, answer):
    """An unknown name, or a resolver that hangs, is a warning, and fails a start with the same words."""
    lines = [("getent ahostsv4 nosuch", answer)]
    if not isinstance(answer, ActionError):
        lines.append(("getent ahostsv6 nosuch", answer))
    made, recorder = ip(tmp_path, FakeNetwork(), lines * 3, ipname="nosuch")
    assert made.status() is Status.WARN
    assert made.messages == ["could not resolve nosuch to an ip address"]
    assert made.may_start() is None
    with pytest.raises(ActionError, match=r"^could not resolve nosuch to an ip address$"):
        made.start()
    assert recorder.lines == []


def test_other_addresses_of_the_subnet_stay(tmp_path):
    """Before an address with others behind it is deleted, the kernel is told to keep those."""
    network = FakeNetwork(
        addresses=(("eth0", "37.59.71.26", 24, False), ("eth0", "37.59.71.27", 24, True)),
    )
    made, _ = ip(tmp_path, network)
    made.stop()
    assert network.did == ["promote eth0", "delete 37.59.71.26/24 eth0"]


def test_announce_only_where_it_is(tmp_path):
    """An announcement tells nothing of an address that is not here."""
    network = FakeNetwork()
    made, _ = ip(tmp_path, network)
    made.announce()
    assert network.did == []
    made.start()
    del network.did[:]
    made.announce()
    assert network.did == ["announce 37.59.71.26 eth0"]


def test_announcement_that_fails_is_a_warning(tmp_path):
    """An address that could not be announced is up all the same."""

    class Mute(FakeNetwork):
        def announce(self, interface, address):
            raise OSError(100, "Network is down")

    made, recorder = ip(tmp_path, Mute())
    made.start()
    assert recorder.texts("WARNING") == ["37.59.71.26 is not announced on eth0: Network is down"]


def test_loopback_is_not_announced(tmp_path):
    """On the loopback interface there is nobody to tell, and no subnet is claimed."""
    network = FakeNetwork(addresses=(("lo", "127.0.0.1", 8, False),))
    made, recorder = ip(tmp_path, network, ipdev="lo")
    made.start()
    assert "announce" not in " ".join(network.did)
    assert recorder.texts() == ["ip addr add 37.59.71.26/32 dev lo"]


def test_script_environment(tmp_path):
    """Scripts get the agents' variables; what is not known reads None."""
    made, _ = ip(
        tmp_path,
        FakeNetwork(),
        [("getent ahostsv4 app.opensvc.com", (0, FOUND, ""))],
        ipname="app.opensvc.com",
    )
    assert made.script_environment() == {
        "OPENSVC_IPDEV": "eth0",
        "OPENSVC_IPNAME": "app.opensvc.com",
        "OPENSVC_MASK": "None",
        "OPENSVC_IPADDR": "37.59.71.26",
        "OPENSVC_IP1": "app.opensvc.com eth0 37.59.71.26 None",
    }


def test_probe_claims_nothing():
    """A probe asks for the address with the sender 0.0.0.0, so that no neighbour learns from it."""
    frames = module("ip._frames")
    probe = frames.arp_probe(MAC, ADDRESS)
    assert (
        probe.hex()
        == (
            "ffffffffffff" + "020000000001" + "0806"  # to everybody
            "0001" + "0800" + "06" + "04" + "0001"  # a request
            "020000000001" + "00000000"  # from nobody's address
            "000000000000" + "253b471a"  # for ours
        )
    )
    assert str(frames.parse_arp(probe).sender) == "0.0.0.0"


def test_announcement_has_both_forms():
    """A gratuitous ARP goes out as request and as reply, both about the address itself."""
    frames = module("ip._frames")
    announced = frames.arp_announcements(MAC, ADDRESS)
    assert [frame[20:22].hex() for frame in announced] == ["0001", "0002"]
    seen = [frames.parse_arp(frame) for frame in announced]
    assert {(arp.sender, arp.target, arp.sender_mac) for arp in seen} == {(ADDRESS, ADDRESS, MAC)}


@given(st.binary(max_size=80))
def test_any_bytes_are_an_arp_or_nothing(data):
    """A frame of any bytes is parsed or left out."""
    module("ip._frames").parse_arp(data)


SIX = ipaddress.ip_address("fd00:9::1:50")


def test_a_neighbour_is_asked_for_in_the_group_of_its_address():
    """Every host is in the group of the last three bytes of each address that it has."""
    frames = module("ip._frames")
    assert frames.solicited_group(SIX) == "ff02::1:ff01:50"
    question = frames.neighbour_solicitation(MAC, SIX)
    assert question.hex() == "8700000000000000" + SIX.packed.hex() + "0101" + MAC.hex()


def test_an_advertisement_says_who_has_an_address():
    """Of this address only; a question for it says nothing, nor does an advertisement that is cut."""
    frames = module("ip._frames")
    said = frames.neighbour_advertisement(MAC, SIX)
    assert frames.advertised_mac(said, SIX) == MAC
    assert frames.advertised_mac(said, ipaddress.ip_address("fd00:9::51")) is None
    assert frames.advertised_mac(frames.neighbour_solicitation(MAC, SIX), SIX) is None
    assert all(frames.advertised_mac(said[:length], SIX) is None for length in range(len(said)))


@given(st.binary(max_size=80))
def test_any_bytes_are_an_advertisement_or_nothing(data):
    """Whatever a neighbour sends, nothing raises."""
    assert module("ip._frames").advertised_mac(data, SIX) is None


@given(st.binary(max_size=80), st.sampled_from((4, 6)))
def test_any_bytes_are_no_answer(data, version):
    """Bytes that do not carry our token are no answer to our ping."""
    assert not module("ip._frames").is_echo_reply(version, data, bytes(range(200, 216)))


def test_echo_checksum_is_right():
    """The checksum of an IPv4 echo request sums to all ones, as RFC 792 wants."""
    request = module("ip._frames").echo_request(4, b"0123456789abcde")
    padded = request + bytes(len(request) % 2)
    total = sum(int.from_bytes(padded[i : i + 2], "big") for i in range(0, len(padded), 2))
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
