"""What the tests of the lease share: a pair with `web` on n1, and what its journals and logs say.

Which of two instances ended when, and who began when, is told by the services' own log only
(`probe_log`); the journals say why, and are read for the reason, never for the time.
"""

from __future__ import annotations

import time
from typing import Dict, List

from lab import BaseLab, Node
from lab_config import ProbeService
from probe_log import Span

RELEASED_SHARE = 0.9
"""What runs on a node has ended when its lease is this share of T old."""
EARLIEST_S = 1.0
"""Silence counts from the last beat or write, which may be older than the cut by a beat's interval."""
LATEST_S = 3.0
"""How much later than T an instance may begin on the other node of a loaded machine."""


def now() -> float:
    """Return the seconds of the clock in the services' own log."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def ready(
    lab: BaseLab,
    timeout_s: float,
    *services: ProbeService,
    first: str = "n1",
    wait_for_peer_s: float = 3.0,
    more: str = "",
) -> None:
    """Bring both daemons up and hand the services over, to run on `first`; web alone by default."""
    wanted = services or (ProbeService("web"),)
    lab.configure(timeout_s, wanted, wait_for_peer_s, more)
    lab.start_daemons()
    for service in wanted:
        lab.hand_over(service.name, first)


def places(lab: BaseLab, service: str = "web") -> List[str]:
    """Return the nodes on which the service's own process lives."""
    return [span.node for span in lab.living(service)]


def wait_for_takeover(lab: BaseLab, timeout_s: float, service: str = "web", by: str = "n2") -> None:
    """Wait until the service lives on the other node and on no other."""
    lab.wait(lambda: places(lab, service) == [by], timeout_s + 10, f"{service} lives on {by} alone")
    lab.wait_state(by, service, "STARTED")


def assert_handed_over(lab: BaseLab, timeout_s: float, begun_at: float, done_at: float) -> None:
    """The instance on n1 ended by 0.9 T, the one on n2 began after T, and there was no third.

    Args:
        begun_at, done_at: when the fault began, and when it was complete. A lease may have been
            renewed until it was.
    """
    first, second = one_after_the_other(lab)
    ended_s, began_s = first.last - done_at, second.began - begun_at
    print(
        f"T {timeout_s:g} s: n1 ended {ended_s:.2f} s after the fault, n2 began {began_s:.2f} s after it, "
        f"{second.began - first.last:.2f} s between them"
    )
    assert ended_s <= RELEASED_SHARE * timeout_s, lab.report()
    assert timeout_s - EARLIEST_S < began_s, lab.report()
    assert second.began - done_at < timeout_s + LATEST_S, lab.report()


def one_after_the_other(lab: BaseLab) -> List[Span]:
    """Return the two instances of web: first n1's, then n2's, never both."""
    lived = lab.spans("web")
    assert [span.node for span in lived] == ["n1", "n2"], lab.report()
    assert lab.overlaps() == [], lab.report()
    return lived


def wait_until_both_agree(lab: BaseLab) -> None:
    """Wait until both say that web runs on n2 and not on n1.

    A loaded machine may not have ended it there by its stop action in time. It was killed then, and
    its state says so until an operator has looked.
    """
    n1, n2 = lab.nodes

    def agree() -> bool:
        states = n1.states("web")
        ended = states["n1"] in ("STOPPED", "STOP_FAILED")
        return ended and states["n2"] == "STARTED" and n2.states("web") == states

    lab.wait(agree, 20, "both agree that web runs on n2")


def decisions(node: Node, rule: str, service: str = "web") -> List[Dict]:
    """Return the entries of the node's journal in which this rule decided about the service."""
    return [entry for entry in node.events(service) if entry["rule"] == rule]


def the_decision(node: Node, rule: str, service: str = "web") -> Dict:
    """Return the newest of them; there must be one."""
    found = decisions(node, rule, service)
    assert found, f"{node.name} never decided {rule}:\n{node.journal_tail()}"
    return found[-1]


def alarms(node: Node, service: str = "") -> List[str]:
    """Return the alarms of the node, those of one service only if it is named."""
    return [alarm["text"] for alarm in node.status()["alarms"] if service in ("", alarm["service"])]


def guardian_pid(node: Node) -> int:
    """Return the guardian's process number on its node; 0 when there is none."""
    lock = node.root / "run/opensvc/guardian.lock"
    text = lock.read_text().strip() if lock.exists() else ""
    alive = bool(text) and node.run(["kill", "-0", text]).status == 0
    return int(text) if alive else 0


def guardian_log(node: Node) -> str:
    """Return what the node's guardians wrote."""
    log = node.root / "var/log/opensvc/guardian.log"
    return log.read_text(errors="replace") if log.exists() else ""
