"""The guardian ends what runs on a node whose daemon does not: dead, paused, or met by a stubborn service."""

from __future__ import annotations

import signal

import pytest
from lab_config import ProbeService
from lease_scene import (
    RELEASED_SHARE,
    alarms,
    assert_handed_over,
    guardian_log,
    guardian_pid,
    now,
    places,
    ready,
    the_decision,
    wait_for_takeover,
    wait_until_both_agree,
)

pytestmark = pytest.mark.lab

TIMEOUT_S = 4.0
"""Long enough that a stop action fits between 0.65 T and 0.9 T on a loaded machine."""
LONG_TIMEOUT_S = 8.0
"""Here 0.1 T is long enough that a reset is seen before the other node starts, on a loaded machine, too."""
SHORT_TIMEOUT_S = 2.0
PAUSE_S = 1.0
"""A silence of an instance longer than this was a pause."""
WAKING_S = 3.0
"""An overlap after a pause of the whole node lasts no longer, on a loaded machine."""
LOOK_S = 0.5
"""How much later than its deadline the test sees a node reset."""


@pytest.mark.parametrize("lease", ["auto", "no"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
def test_a_daemon_that_is_gone_for_good_leaves_nothing_running(lab, number, lease):
    """n1's daemon is killed, or paused, for good: the guardian ends web there, then n2 starts it.

    So it is without a lease, too, where the guardian only watches that the daemon lives. The daemon
    that comes back finds web stopped here and running there.
    """
    ready(lab, TIMEOUT_S, more=f"lease = {lease}\n")
    n1, n2 = lab.nodes
    gone_at = now()
    n1.daemon.signal(number)
    wait_for_takeover(lab, TIMEOUT_S)
    assert_handed_over(lab, TIMEOUT_S, gone_at, gone_at)
    assert "the guardian" in guardian_log(n1)
    assert "-> STARTING" in the_decision(n2, "U12" if lease == "auto" else "U8")["text"]
    if number == signal.SIGKILL:
        n1.start_daemon()
    else:
        n1.daemon.signal(signal.SIGCONT)
    wait_until_both_agree(lab)
    assert len(lab.spans("web")) == 2


def test_a_killed_guardian_is_replaced_and_nothing_moves(lab):
    """The guardian of n1 is killed: the daemon starts another, says so, and web runs on.

    The new one holds the deadline: with the daemon killed for good after it, never two instances.
    """
    ready(lab, TIMEOUT_S)
    n1, n2 = lab.nodes
    before = guardian_pid(n1)
    assert before
    n1.machine.signal(before, signal.SIGKILL)
    lab.wait(lambda: guardian_pid(n1) not in (0, before), 10, "another guardian runs")
    told = n1.hbmgr("events").check().out
    assert "guardian" in told, told
    lab.hold(lambda: places(lab) == ["n1"], TIMEOUT_S, "nothing moves")
    assert n1.states("web") == n2.states("web") == {"n1": "STARTED", "n2": "STOPPED"}
    assert len(lab.spans("web")) == 1
    gone_at = now()
    n1.daemon.signal(signal.SIGKILL)
    wait_for_takeover(lab, TIMEOUT_S)
    assert_handed_over(lab, TIMEOUT_S, gone_at, gone_at)


def test_a_service_that_does_not_want_to_end_is_killed_in_time(lab):
    """web ignores SIGTERM and its stop script hangs; n1 is cut off: killed by 0.9 T, then n2 starts it."""
    ready(lab, TIMEOUT_S, ProbeService("web", stubborn=True))
    n1 = lab.node("n1")
    begun_at = now()
    lab.isolate("n1")
    done_at = now()
    wait_for_takeover(lab, TIMEOUT_S)
    assert_handed_over(lab, TIMEOUT_S, begun_at, done_at)
    assert not lab.spans("web")[0].stopped, "it was killed"
    assert "kills" in guardian_log(n1)
    lab.wait(lambda: alarms(n1, "web"), 10, "n1 says that its stop failed")


def busy_file_system(lab):
    """A service with a file system that cannot be unmounted on n1: another one is mounted below it."""
    return ProbeService("web", fs_image=str(lab.workdir / "web.img"), fs_mount="/srv/web")


def make_it_busy(node):
    node.run(["sh", "-c", "mkdir /srv/web/below && mount -t tmpfs tmpfs /srv/web/below"]).check()


def test_a_node_that_cannot_let_go_resets_itself_in_time(lab):
    """web's file system is held by a mount below it; n1 is cut off: it resets itself by 0.9 T."""
    ready(lab, LONG_TIMEOUT_S, busy_file_system(lab), more="reset = process1\n")
    n1 = lab.node("n1")
    make_it_busy(n1)
    begun_at = now()
    lab.isolate("n1")
    done_at = now()
    lab.wait(lambda: n1.machine.was_reset, LONG_TIMEOUT_S + 5, "n1 is reset")
    reset_s = now() - done_at
    print(
        f"n1 reset itself {reset_s:.2f} s after the fault, 0.9 T is {RELEASED_SHARE * LONG_TIMEOUT_S:.2f} s"
    )
    assert reset_s < RELEASED_SHARE * LONG_TIMEOUT_S + LOOK_S
    wait_for_takeover(lab, LONG_TIMEOUT_S)
    assert_handed_over(lab, LONG_TIMEOUT_S, begun_at, done_at)


def test_a_node_that_stood_still_and_cannot_let_go_is_gone_on_waking(lab):
    """All of n1 is paused, guardian included, and web's file system cannot be unmounted: gone on waking.

    The overlap is outside the guarantee (see `test_pause`), measured, and ends with the node.
    """
    ready(lab, SHORT_TIMEOUT_S, busy_file_system(lab), more="reset = process1\n")
    n1 = lab.node("n1")
    make_it_busy(n1)
    n1.pause()
    wait_for_takeover(lab, SHORT_TIMEOUT_S)
    n1.resume()
    resumed_at = now()
    lab.wait(lambda: n1.machine.was_reset, 10, "n1 is reset")
    both_s = sum(overlap.seconds for overlap in lab.overlaps("web", PAUSE_S))
    print(f"n1 gone {now() - resumed_at:.2f} s after the waking; both ran for {both_s:.2f} s")
    assert both_s < WAKING_S
    lab.hold(lambda: places(lab) == ["n2"], SHORT_TIMEOUT_S, "web goes on on n2")
    one_node = [span.node for span in lab.spans("web")]
    assert one_node == ["n1", "n2"]
