"""One node with the C program, one with our daemon: each sees the other in time, and one runs a service.

The C program is a stand-in (`openha_program`), with its own periods: a beat a second, a monitor that
looks every two, disks read once in a timeout, five seconds of START_READY.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import openha_program
import pytest
from lab import Lab
from lease_scene import now
from openha_pair import HbService, Pair, by_the_guide, figures, seconds_until

pytestmark = pytest.mark.lab

TIMEOUT_S = 2
WEB = HbService("web")
SLACK_S = 0.5
"""Of a loaded machine."""
BEAT_S = openha_program.BEAT_S
LOOK_S = openha_program.LOOK_S
OFFER_S = openha_program.GRACE_S


def mixed(lab, openha, protocol="both"):
    """Bring the C program up on one node and our daemon on the other; web runs on n1, as it ran before.

    Returns the pair, the node with the C program, and the one with our daemon.
    """
    pair = Pair(lab, [WEB], TIMEOUT_S, first="FROZEN_STOP")
    pair.make_key()
    c, ours = lab.node(openha), lab.peer_of(openha)
    pair.configure_ours(ours, protocol)
    ours.launch_daemon()
    pair.start_by_hand(WEB)
    if c.name == "n1":
        pair.service(c, "-A", "web", "force-start").check()
    pair.launch_openha(c)
    lab.wait(ours.daemon_answers, 20, "our daemon answers")
    if ours.name == "n1":
        ours.hbmgr("force-start", "web", "--force").check()
    lab.wait(lambda: agree(pair, c, ours, n1="STARTED", n2="FROZEN_STOP"), 10, "web runs on n1")
    unfreeze(lab.node("n2"), c)
    lab.wait(lambda: agree(pair, c, ours, n1="STARTED", n2="STOPPED"), 10, "n2 is ready to take over")
    return pair, c, ours


def agree(pair, c, ours, **states):
    """Tell whether the C program and our daemon both have web in these states, {node: state}."""
    return pair.theirs(c, "web") == states == pair.ours(ours, "web")


def unfreeze(node, c):
    """Unfreeze web with the words of the node."""
    by_the_guide(node, "service -A SVC unfreeze" if node is c else "hbmgr unfreeze SVC", "web").check()


def freeze_stop(node, c):
    """Freeze web with the words of the node; what runs there is stopped."""
    by_the_guide(node, "service -A SVC freeze-stop" if node is c else "hbmgr freeze-stop SVC", "web").check()


def each_shows_the_process_of_the_other(pair, c, ours):
    """Tell whether both show every link UP, and whose process it is that sends."""
    heard = [line for line in pair.links_shown(c) if " listener " in line]
    theirs = [line.partition(" pid ")[2] for line in heard]
    listeners = [link for link in ours.status()["links"] if link["role"] == "listener"]
    pid = int(c.run(["cat", str(openha_program.RUN / "pid")]).check().out)
    is_told = [(link["status"], link["pid"]) for link in listeners] == [("UP", pid)] * 3
    return is_told and theirs == [f"{ours.daemon.pid} status UP"] * 3


def seen_by_openha(pair, c, ours, times):
    """Change our state and measure until the C program's file has it."""
    took = []
    for number in range(times):
        verb, state = (("freeze-stop", "FROZEN_STOP"), ("unfreeze", "STOPPED"))[number % 2]
        ours.hbmgr(verb, "web").check()
        took.append(
            seconds_until(
                lambda state=state: pair.theirs(c, "web")[ours.name] == state,
                TIMEOUT_S + BEAT_S + SLACK_S,
                pair.lab,
                f"the C program sees {state}",
            )
        )
    return took


def seen_by_us(pair, c, ours, times):
    """Change the C program's state and measure until our daemon has it."""
    took = []
    for number in range(times):
        verb, state = (("freeze-start", "START_READY"), ("unfreeze", "STARTED"))[number % 2]
        pair.service(c, "-A", "web", verb).check()
        took.append(
            seconds_until(
                lambda state=state: pair.ours(ours, "web")[c.name] == state,
                TIMEOUT_S + BEAT_S + SLACK_S,
                pair.lab,
                f"our daemon sees {state}",
            )
        )
    return took


@pytest.mark.parametrize("protocol", ["openha", "both"])
def test_a_change_is_seen_by_the_other_in_its_period(lab, protocol):
    """On the networks within a beat, either way; on the disk alone within a beat and a timeout.

    web runs under the C program on n1; n2 is frozen and unfrozen, n1 is frozen while started.
    """
    pair, c, ours = mixed(lab, "n1", protocol)
    lab.wait(lambda: each_shows_the_process_of_the_other(pair, c, ours), 5, "each shows the other's process")
    net = {"seen by C": seen_by_openha(pair, c, ours, 4), "seen by us": seen_by_us(pair, c, ours, 4)}
    for cable in lab.interfaces:
        lab.cut("n2", cable)
    links = len(lab.interfaces)
    lab.wait(
        lambda: [link["status"] for link in ours.status()["links"]].count("DOWN") == links, 10, "net is down"
    )
    disk = {"seen by C": seen_by_openha(pair, c, ours, 2), "seen by us": seen_by_us(pair, c, ours, 2)}
    for words, took in (("networks", net), ("disk alone", disk)):
        for whose, seconds in took.items():
            print(f"{protocol}, {words}, {whose}: {figures(seconds)}")
    assert max(*net["seen by C"], *net["seen by us"]) < BEAT_S + SLACK_S
    assert max(*disk["seen by C"], *disk["seen by us"]) < BEAT_S + TIMEOUT_S + SLACK_S
    assert len(lab.spans()) == 1, lab.report()


@pytest.mark.parametrize("openha", ["n1", "n2"])
def test_a_takeover_and_a_freeze_move_the_service(lab, openha):
    """n1 runs web and loses its power; n2 takes it over; n1 is back, and a freeze on n2 moves web home.

    Once n1 has the C program and n2 our daemon, once the other way round.
    """
    pair, c, ours = mixed(lab, openha)
    n1, n2 = lab.nodes
    n1.kill()
    killed_at = now()
    lab.wait(lambda: [span.node for span in lab.living("web")] == ["n2"], 20, "n2 runs web")
    took_s = lab.spans("web")[-1].began - killed_at
    lab.boot("n1")
    if n1 is c:
        pair.launch_ezha(n1)
    else:
        n1.start_daemon()
    lab.wait(lambda: agree(pair, c, ours, n1="STOPPED", n2="STARTED"), 15, "both agree")
    lab.hold(lambda: [span.node for span in lab.living("web")] == ["n2"], LOOK_S, "web stays on n2")
    freeze_stop(n2, c)
    frozen_at = now()
    lab.wait(lambda: [span.node for span in lab.living("web")] == ["n1"], 20, "n1 runs web again")
    moved_s = lab.spans("web")[-1].began - frozen_at
    who = "our daemon" if n1 is c else "the C program"
    print(f"{who} took over in {took_s:.2f} s; the other started {moved_s:.2f} s after the freeze")
    unfreeze(n2, c)
    lab.wait(lambda: agree(pair, c, ours, n1="STARTED", n2="STOPPED"), 10, "both agree again")
    assert [span.node for span in lab.spans("web")] == ["n1", "n2", "n1"], lab.report()
    assert not lab.overlaps()
    # Silence: ours on every link at its timeout; the C program's disk within two, then its look and offer.
    earliest_s = TIMEOUT_S - BEAT_S - SLACK_S
    latest_s = TIMEOUT_S + 3.0 if n1 is c else 2 * TIMEOUT_S + LOOK_S + OFFER_S + 1.0
    assert earliest_s < took_s < latest_s
    assert moved_s < BEAT_S + LOOK_S + OFFER_S + 2.0


def test_a_freeze_moves_the_service_where_the_disk_alone_is_left(lab):
    """Both networks are cut: the offer stands for a timeout more, and there are never two."""
    pair, c, ours = mixed(lab, "n1")
    for cable in lab.interfaces:
        lab.cut("n2", cable)
    lab.wait(
        lambda: [link["status"] for link in ours.status()["links"]].count("DOWN") == 2, 10, "net is down"
    )
    took = []
    for leaver, taker in ((c, ours), (ours, c)):
        freeze_stop(leaver, c)
        frozen_at = now()
        lab.wait(
            lambda taker=taker: [span.node for span in lab.living("web")] == [taker.name],
            20,
            f"{taker.name} runs web",
        )
        took.append(lab.spans("web")[-1].began - frozen_at)
        unfreeze(leaver, c)
        states = {leaver.name: "STOPPED", taker.name: "STARTED"}
        lab.wait(lambda states=states: agree(pair, c, ours, **states), 10, "both agree")
    print(f"moved on the disk alone to our daemon, to the C program: {figures(took)}")
    assert [span.node for span in lab.spans("web")] == ["n1", "n2", "n1"], lab.report()
    assert not lab.overlaps()


CLUSTERS = 5


@pytest.fixture
def clusters(needs_root):
    """Five labs at a time."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(CLUSTERS):
            path = stack.enter_context(tempfile.TemporaryDirectory(prefix="opensvc-hb-lab-", dir="/var/tmp"))
            made.append(stack.enter_context(Lab(Path(path))))
        yield made


def test_ten_boots_of_both_at_once_start_it_once(clusters):
    """No instance is frozen, and both nodes boot together: one of them starts web, ten times of ten."""
    pairs = []
    for number, lab in enumerate(clusters):
        pair = Pair(lab, [WEB], TIMEOUT_S)
        pair.make_key()
        c, ours = lab.nodes if number % 2 else lab.nodes[::-1]
        pair.configure_ours(ours, "both")
        ours.launch_daemon()
        pairs.append((pair, c, ours))
    for pair, _c, ours in pairs:
        pair.lab.wait(ours.daemon_answers, 20, "our daemon answers")
        pair.lab.wait_state(ours.name, "web", "FROZEN_STOP")
        ours.hbmgr("unfreeze", "web").check()
    for turn in (1, 2):
        begun_at = [boot_both(*three) for three in pairs]
        for three, at in zip(pairs, begun_at):
            node, seconds = started_once(*three)
            who = "the C program" if node is three[1] else "our daemon"
            print(f"boot {turn}: {who} on {node.name}, the service began {seconds - at:.2f} s after the boot")
        for pair, _c, _ours in pairs:
            assert len(pair.lab.spans()) == turn, pair.lab.report()
            assert not pair.lab.overlaps()


def boot_both(pair, c, ours):
    """Cut the power of both nodes and boot them; return the time of that."""
    for node in pair.lab.nodes:
        node.kill()
    for node in pair.lab.nodes:
        pair.lab.boot(node.name)
    begun_at = now()
    pair.launch_ezha(c)
    ours.launch_daemon()
    return begun_at


def started_once(pair, c, ours):
    """Wait until web runs on one node and both say so; return the node and when the service began."""
    lab = pair.lab
    lab.wait(lambda: lab.living("web"), 30, "web lives")
    span = lab.spans("web")[-1]
    states = {node.name: "STARTED" if node.name == span.node else "STOPPED" for node in lab.nodes}
    # Whoever is STOPPED, and sees STARTED on the other node, starts nothing.
    lab.wait(lambda: agree(pair, c, ours, **states), 10, "both agree")
    return lab.node(span.node), span.began
