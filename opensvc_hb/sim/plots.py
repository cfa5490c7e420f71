"""What goes wrong, in detail: small plots, each a few lines of a schedule.

A plot is about one clause of the rules as often as it is about chance: a node that stands still
just when it was given leave, an answer that arrives long after it was true, a last word that is
read when its sender is back. Plots only write lines; whether a line applies is known when it is
due. `faults` chooses among them.
"""

from __future__ import annotations

from random import Random
from typing import List, Mapping, Sequence

from opensvc_hb.sim.scenes import NODES, Scene

MACHINE_PAUSE_SHARE = 0.15
"""A pause of a whole machine lasts at most so much of T; a longer one needs a watchdog device."""

_OPERATORS: Mapping[str, float] = {
    "unfreeze": 5.0,
    "stop": 1.0,
    "start": 1.5,
    "switch": 2.0,
    "freeze-stop": 1.0,
    "freeze-start": 1.0,
    "force-start": 0.5,
    "force-stop": 0.8,
    "confirm": 0.7,
    "stop force": 0.3,
}


def other_node(node: str) -> str:
    """Return the other of the two."""
    return NODES[1 - NODES.index(node)]


class Plots:
    """The plots of one run. Each returns lines; `+S line` is due so many seconds later.

    Attributes:
        now: the moment that is being written, true seconds.
        shortest_share, longest_share: timeouts change, and are between these shares of the longest.
    """

    def __init__(self, random: Random, scene: Scene) -> None:
        self.random = random
        self.scene = scene
        self.now = 0.0
        self.shortest_share, self.longest_share = 1.0, 1.0
        self._paused_at = float("-inf")

    def operator(self, node: str) -> List[str]:
        """An operator gives a command."""
        word = self.random.choices(list(_OPERATORS), list(_OPERATORS.values()))[0]
        name = self.random.choice(self.scene.service_names)
        if word == "confirm":
            return [f"confirm-dead {other_node(node)} on {node}"]
        verb, _, force = word.partition(" ")
        return [f"{verb} {name} on {node} {force}".strip()]

    def _back(self, low: float = 0.0, high: float = 4.0) -> str:
        """Return how much later something ends: often at once, around T, or long after."""
        t = self.scene.longest_timeout_s
        share = self.random.choice(
            [self.random.uniform(0.0, 0.1), self.random.uniform(0.3, 1.3), self.random.uniform(low, high)]
        )
        return f"+{share * t:.4f}"

    def restart(self, node: str) -> List[str]:
        """A daemon restarts in order."""
        return [f"daemon-stop {node}", f"{self._back(0.0, 9.0)} daemon-start {node}"]

    def halt(self, node: str) -> List[str]:
        """A node is halted in order, and boots again."""
        off_s = self.random.uniform(0.2, 6.0) * self.scene.longest_timeout_s
        up_s = off_s + self.random.uniform(0.1, 3.0) * self.scene.longest_timeout_s
        return [f"leave {node}", f"+{off_s:.4f} kill {node}", f"+{up_s:.4f} boot {node}"]

    def power_cut(self, node: str) -> List[str]:
        """A node loses its power for a while."""
        return [f"kill {node}", f"{self._back(1.5, 6.0)} boot {node}"]

    def daemon_killed(self, node: str) -> List[str]:
        """A daemon dies without a word."""
        return [f"daemon-kill {node}", f"{self._back()} daemon-start {node}"]

    def daemon_paused(self, node: str) -> List[str]:
        """A daemon stands still; its guardian and services do not."""
        return [f"daemon-pause {node}", f"{self._back(1.0, 3.0)} daemon-resume {node}"]

    def machine_paused(self, node: str) -> List[str]:
        """Every process of a node stands still; not again before a lease has run out and been had anew."""
        t = self.scene.timeout_s * min(1.0, self.scene.uneven)
        share = self.random.uniform(0.0, MACHINE_PAUSE_SHARE if self.scene.judged else 4.0)
        longest_s = self.longest_share * self.scene.longest_timeout_s
        if self.scene.judged and self.now - self._paused_at < 3 * longest_s:
            return []
        t = min(t, self.shortest_share * self.scene.longest_timeout_s)
        self._paused_at = self.now
        return [f"pause {node}", f"+{share * t:.4f} resume {node}"]

    def crash(self, node: str) -> List[str]:
        """A node or a daemon ends in the middle of a step."""
        what = self.random.choice(["daemon", "machine"])
        back = self._back()
        again = "daemon-start" if what == "daemon" else "boot"
        # Something to crash in the middle of.
        verb = self.random.choice(["switch", "unfreeze", "stop", "freeze-stop", "start"])
        name = self.random.choice(self.scene.service_names)
        lines = [
            f"crash {node} {what} {self.random.randrange(12)}",
            f"{verb} {name} on {self.random.choice(NODES)}",
        ]
        return [*lines, f"{back} {again} {node}", f"+{5 * self.scene.longest_timeout_s:.4f} {again} {node}"]

    def reinstalled(self, node: str) -> List[str]:
        """A machine is installed anew: its store is empty."""
        back = self.random.uniform(0.1, 3.0) * self.scene.longest_timeout_s
        return [f"kill {node}", f"+0.001 lose-store {node}", f"+{back:.4f} boot {node}"]

    def action(self, node: str) -> List[str]:
        """Actions are slow, fail, hang, or leave half of it behind."""
        name = self.random.choice(self.scene.service_names)
        verb = self.random.choice(["start", "stop", "verify"])
        takes_s = (
            self.random.choice([self.random.uniform(0.0, 0.1), self.random.uniform(0.0, 3.0)])
            * self.scene.longest_timeout_s
        )
        hows = [f"takes {takes_s:.3f}s"] * 4 + ["works"] * 2
        if verb != "stop" or not self.scene.is_leased:
            hows.append("fails")
        if verb == "start":
            hows += ["hangs", "dirty"]
        how = self.random.choice(hows)
        lines = [f"action {name} {verb} on {node} {how}"]
        if how in ("fails", "hangs", "dirty"):
            lines.append(f"{self._back()} action {name} {verb} on {node} works")
        if verb == "verify" and self.random.random() < 0.3:
            lines += [f"agent {name} on {node} blind", f"{self._back()} agent {name} on {node} sees"]
        return lines

    def resource_dies(self, node: str) -> List[str]:
        """A monitored resource dies; sometimes an operator mends it, or acts meanwhile."""
        name = self.random.choice(self.scene.service_names)
        lines = [f"resource {name} down on {node}"]
        if self.random.random() < 0.3:
            lines.append(f"{self._back()} resource {name} up on {node}")
        if self.random.random() < 0.3:
            lines += [
                f"+{self.random.uniform(0.0, 0.3) * self.scene.longest_timeout_s:.4f} {line}"
                for line in self.operator(node)
            ]
        return lines

    def resource_dies_on_both(self, node: str) -> List[str]:
        """What is broken is broken wherever the service runs, for a while."""
        name = self.random.choice(self.scene.service_names)
        t = self.scene.longest_timeout_s
        lines = [f"unfreeze {name} on {each}" for each in NODES]
        for number in range(self.random.choice([3, 6, 9])):
            at = (number + self.random.random()) * 0.7 * t
            lines += [f"+{at:.4f} resource {name} down on {each}" for each in NODES]
        return lines

    def resource_cannot_be_asked(self, node: str) -> List[str]:
        """A probe hangs while the resource dies, or does not."""
        name = self.random.choice(self.scene.service_names)
        lines = [f"agent {name} on {node} blind", f"{self._back()} agent {name} on {node} sees"]
        if self.random.random() < 0.5:
            lines.insert(self.random.choice([0, 1]), f"resource {name} down on {node}")
        return lines

    def restart_does_not_help(self, node: str) -> List[str]:
        """Restarts fail, hang or are slow."""
        name = self.random.choice(self.scene.service_names)
        takes_s = self.random.uniform(0.0, 2.0) * self.scene.longest_timeout_s
        how = self.random.choice(["fails", "fails", "hangs", f"takes {takes_s:.3f}s"])
        lines = [f"action {name} restart on {node} {how}", f"resource {name} down on {node}"]
        return [*lines, f"{self._back()} action {name} restart on {node} works"]

    def stop_hangs(self, node: str) -> List[str]:
        """A stop does not do what it should."""
        name = self.random.choice(self.scene.service_names)
        how = self.random.choice(["hangs", "fails"])
        works = f"action {name} stop on {node} works"
        return [f"action {name} stop on {node} {how}", f"{self._back()} {works}"]

    def stuck(self, node: str) -> List[str]:
        """Processes that no kill ends: their stop hangs, too."""
        name = self.random.choice(self.scene.service_names)
        back = self._back()
        return [
            f"processes {name} on {node} stuck",
            f"action {name} stop on {node} hangs",
            f"{back} processes {name} on {node} mortal",
            f"{back} action {name} stop on {node} works",
        ]

    def service_dies(self, node: str) -> List[str]:
        """What ran is down by itself."""
        return [f"resources {self.random.choice(self.scene.service_names)} down on {node}"]

    def configured(self, node: str) -> List[str]:
        """A node learns of a service."""
        return [f"configure {node} services={self.scene.services}"]

    def store(self, node: str) -> List[str]:
        """The store fails, or takes its time."""
        takes_s = self.random.choice([0.01, self.random.uniform(0.0, 1.5) * self.scene.longest_timeout_s])
        how = self.random.choice(["fails", f"takes {takes_s:.3f}"])
        return [f"store {node} {how}", f"{self._back()} store {node} works"]

    def guardian(self, node: str) -> List[str]:
        """A guardian dies, or does not answer."""
        if self.random.random() < 0.5:
            return [f"guardian {node} dies"]
        return [f"guardian {node} mute", f"{self._back()} guardian {node} answers"]

    def weather(self, node: str) -> List[str]:
        """Beats are lost, late, doubled, overtaken; their tables are lost apart."""
        loss = self.random.choice([0.0, 0.3, 0.8, 0.95])
        delay_s = self.random.choice([0.001, 0.1, 0.5, 2.0]) * self.scene.longest_timeout_s
        bare = self.random.choice([0.0, 0.0, 0.5])
        return [
            f"weather loss={loss} doubles={self.random.choice([0.0, 0.3])} delay={delay_s:.4f} bare={bare}"
        ]

    def mild_weather(self, node: str) -> List[str]:
        """Losses and delays with which no node is silent for the timeout."""
        shortest_s = min(float(word.partition(":")[2]) for word in self.scene.links.split(","))
        delay_s = self.random.choice([0.001, 0.05, 0.15]) * shortest_s
        return [f"weather loss={self.random.choice([0.0, 0.3, 0.8])} doubles=0.3 delay={delay_s:.4f}"]

    def _kinds(self) -> Sequence[str]:
        kinds = [word.partition(":")[0] for word in self.scene.links.split(",")]
        return ["all", *kinds, *(["net1", "net2"] if kinds.count("net") > 1 else [])]

    def cut(self, node: str) -> List[str]:
        """One link, or all, is cut one way or both ways."""
        way = self.random.choice([">", ">", "<>"])
        kind = self.random.choice(self._kinds())
        path = f"{kind} {node}{way}{other_node(node)}"
        return [f"cut {path}", f"{self._back()} heal {path}"]

    def isolated(self, node: str) -> List[str]:
        """Every network cut at once, the disk alive; or everything, on one node, or for a new daemon."""
        t = self.scene.longest_timeout_s
        back_s = self.random.uniform(0.5, 5.0) * t
        lines = self._networks_cut(node, back_s)
        if self.random.random() < 0.4 and "dio" in self.scene.links:
            how = self.random.choice(["hangs", "fails"])
            lines += [f"disk {node} {how}", f"+{back_s:.4f} disk {node} works"]
        if self.random.random() < 0.4:
            dies_s = self.random.uniform(0.0, 0.8) * t
            again_s = dies_s + self.random.uniform(0.0, 0.5) * t
            lines += [f"+{dies_s:.4f} daemon-kill {node}", f"+{again_s:.4f} daemon-start {node}"]
        return lines

    def _networks_cut(self, node: str, back_s: float) -> List[str]:
        """Cut all networks both ways, and heal them after so many seconds."""
        kinds = [kind for kind in self._kinds()[1:] if kind != "dio"]
        path = f"{node}<>{other_node(node)}"
        lines = [f"cut {kind} {path}" for kind in kinds]
        return [*lines, *(f"+{back_s:.4f} heal {kind} {path}" for kind in kinds)]

    def lost_writes(self, node: str) -> List[str]:
        """Networks cut, and a disk that says it has written what it has not."""
        back_s = self.random.uniform(1.0, 5.0) * self.scene.longest_timeout_s
        how = self.random.choice(["loses 1000", "loses 1000", "tears 1000"])
        cut = self._networks_cut(node, back_s)
        return [*cut, f"disk {node} {how}", f"+{back_s:.4f} disk {node} works"]

    def slow_answers(self, node: str) -> List[str]:
        """Acknowledgements that come long after what they answer, no disk, then nothing at all."""
        t = self.scene.longest_timeout_s
        silent_s = self.random.uniform(0.5, 2.5) * t
        back_s = silent_s + self.random.uniform(1.0, 3.0) * t
        path = f"{node}<>{other_node(node)}"
        return [
            f"weather loss=0.0 doubles=0.0 delay={self.random.uniform(0.5, 2.0) * t:.4f}",
            f"disk {node} {self.random.choice(['hangs', 'fails'])}",
            f"+{silent_s:.4f} cut all {path}",
            f"+{back_s:.4f} heal all {path}",
            f"+{back_s:.4f} weather loss=0.0",
            f"+{back_s:.4f} disk {node} works",
        ]

    def slow_writes(self, node: str) -> List[str]:
        """Networks cut, writes that take long, then none, and a slow end of what ran."""
        t = self.scene.longest_timeout_s
        name = self.random.choice(self.scene.service_names)
        silent_s = self.random.uniform(0.8, 2.5) * t
        back_s = silent_s + self.random.uniform(1.0, 3.0) * t
        return [
            *self._networks_cut(node, back_s),
            f"action {name} stop on {node} takes {self.random.uniform(0.1, 1.0) * t:.3f}s",
            f"disk {node} slow {self.random.uniform(0.2, 0.55) * t:.4f}",
            f"+{silent_s:.4f} disk {node} {self.random.choice(['hangs', 'fails'])}",
            f"+{back_s:.4f} disk {node} works",
        ]

    def woken_late(self, node: str) -> List[str]:
        """Networks cut, a disk that hangs until the lease has run out, and a slow end of what ran."""
        t = self.scene.longest_timeout_s
        works_s = self.random.uniform(0.6, 1.6) * t
        back_s = works_s + self.random.uniform(0.5, 2.0) * t
        name = self.random.choice(self.scene.service_names)
        who = self.random.choice([node, "all"])
        return [
            *self._networks_cut(node, back_s),
            f"action {name} stop on {node} takes {self.random.uniform(0.1, 2.0) * t:.3f}s",
            f"disk {who} hangs",
            f"+{works_s:.4f} disk {who} works",
        ]

    def both_boot_apart(self, node: str) -> List[str]:
        """Both boot without hearing each other; the disk may take no writes at first."""
        t, other = self.scene.longest_timeout_s, other_node(node)
        boots_s = self.random.uniform(0.1, 1.0) * t
        works_s = boots_s + self.random.uniform(1.0, 3.0) * t
        back_s = works_s + self.random.uniform(0.5, 3.0) * t
        disk = self.random.choice(["readonly", "readonly", "works"])
        lines = [f"kill {node}", f"kill {other}", *self._networks_cut(node, back_s), f"disk all {disk}"]
        return [
            *lines,
            f"+{boots_s:.4f} boot {node}",
            f"+{boots_s + self.random.choice([0.0, 0.001, 0.3 * t]):.4f} boot {other}",
            f"+{works_s:.4f} disk all works",
        ]

    def bare_return(self, node: str) -> List[str]:
        """A node is out of reach for long; then heads of beats come, without their tables."""
        t = self.scene.longest_timeout_s
        back_s = self.random.uniform(1.0, 3.0) * t
        later_s = back_s + self.random.uniform(0.2, 2.0) * t
        lines = [*self._networks_cut(node, back_s), f"+{back_s:.4f} weather loss=0.0 bare=0.8"]
        if "dio" in self.scene.links:
            lines += [
                f"disk {node} {self.random.choice(['hangs', 'fails'])}",
                f"+{later_s:.4f} disk {node} works",
            ]
        return [*lines, f"+{later_s:.4f} weather loss=0.0"]

    def slow_to_verify(self, node: str) -> List[str]:
        """A daemon is back at once, and takes long to find out what runs."""
        t = self.scene.longest_timeout_s
        name = self.random.choice(self.scene.service_names)
        return [
            f"action {name} verify on {node} takes {self.random.uniform(0.5, 4.0) * t:.3f}s",
            f"daemon-kill {node}",
            f"+{self.random.uniform(0.0, 0.4) * t:.4f} daemon-start {node}",
            f"+{6 * t:.4f} action {name} verify on {node} takes 0.01s",
        ]

    def slow_store(self, node: str) -> List[str]:
        """What is decided takes longer to be stored than the leave to do it lasts."""
        t = self.scene.longest_timeout_s
        name = self.random.choice(self.scene.service_names)
        other = other_node(node)
        return [
            f"switch {name} on {other}",
            f"stop {name} on {other}",
            f"+{self.scene.start_s * self.random.choice([0.0, 0.9, 1.0]):.4f} store {node} "
            f"takes {self.random.uniform(0.5, 3.0) * t:.3f}",
            f"+{self.random.uniform(1.0, 4.0) * t:.4f} store {node} works",
        ]

    def asleep_while_asking(self, node: str) -> List[str]:
        """A node stands still just when it asks for leave to start, or has been given it."""
        name = self.random.choice(self.scene.service_names)
        other = other_node(node)
        asks = self.random.choice(
            [
                [
                    f"freeze-stop {name} on {node}",
                    f"+{self.scene.start_s * 1.5:.4f} unfreeze {name} on {node}",
                ],
                [f"switch {name} on {other}"],
                [f"switch {name} on {other}"],
                [f"stop {name} on {node}", f"stop {name} on {other}"],
            ]
        )
        t = self.scene.longest_timeout_s
        asked_s = self.random.choice([0.0, self.scene.start_s, self.scene.start_s * 1.5])
        asked_s += self.random.uniform(0.0, 0.01)
        wakes_s = asked_s + t * self.random.uniform(0.5, 3.0)
        lines = [*asks, f"+{asked_s:.4f} daemon-pause {node}"]
        if self.random.random() < 0.6:
            begins_s = self.random.choice([0.0, max(0.0, self.scene.start_s - 0.01)])
            lines = [
                *asks,
                f"+{begins_s:.4f} crash {node} pause {self.random.choice([-1, self.random.randrange(8)])}",
            ]
        if self.scene.is_leased and self.random.random() < 0.6:
            # Nothing newer waits for it when it wakes.
            cut_s = asked_s + self.random.uniform(0.0, 0.5) * t
            heals_s = wakes_s + self.random.uniform(0.0, 0.5) * t
            lines += [f"+{cut_s:.4f} cut all {other}>{node}", f"+{heals_s:.4f} heal all {other}>{node}"]
        return [*lines, f"+{wakes_s:.4f} daemon-resume {node}"]

    def maintenance(self, node: str) -> List[str]:
        """Frozen where it runs, and the daemon goes; the other one may restart meanwhile."""
        t = self.scene.longest_timeout_s
        name = self.random.choice(self.scene.service_names)
        goes = self.random.choice([f"daemon-kill {node}", f"daemon-stop {node}"])
        back_s = self.random.uniform(1.0, 8.0) * t
        lines = [f"freeze-start {name} on {node}", f"+{self.random.uniform(0.0, 0.5) * t:.4f} {goes}"]
        if self.random.random() < 0.5:
            other, again_s = other_node(node), self.random.uniform(0.5, 2.0) * t
            lines += [
                f"+{again_s:.4f} daemon-kill {other}",
                f"+{again_s + 0.05 * t:.4f} daemon-start {other}",
            ]
        return [*lines, f"+{back_s:.4f} daemon-start {node}", f"+{back_s + t:.4f} unfreeze {name} on {node}"]

    def both_restart(self, node: str) -> List[str]:
        """One daemon restarts in order; the other one dies and is back before the promise has run out."""
        t, other = self.scene.longest_timeout_s, other_node(node)
        dies_s = self.random.uniform(0.05, 1.5) * t
        back_s = self.random.uniform(0.5, 1.1) * self.scene.restart_within_s
        again_s = dies_s + self.random.uniform(0.0, 0.3) * t
        lines = [f"daemon-stop {node}", f"+{dies_s:.4f} daemon-kill {other}"]
        return [*lines, f"+{again_s:.4f} daemon-start {other}", f"+{back_s:.4f} daemon-start {node}"]

    def last_word_in_a_queue(self, node: str) -> List[str]:
        """A node leaves while the other stands still, and is back before that one reads its last word."""
        t, other = self.scene.longest_timeout_s, other_node(node)
        sleeps_s = self.scene.start_s * self.random.choice([0.0, 0.9, 0.9, 1.1])
        off_s = 1.1 * self.scene.start_s + self.random.uniform(0.0, 0.3) * t
        wakes_s = off_s + self.random.uniform(1.1, 3.0) * t
        return [
            f"leave {node}",
            f"+{sleeps_s:.4f} daemon-pause {other}",
            f"+{off_s:.4f} kill {node}",
            f"+{off_s + 0.01:.4f} boot {node}",
            f"+{wakes_s:.4f} daemon-resume {other}",
        ]

    def leaves_with_a_failed_stop(self, node: str) -> List[str]:
        """A node leaves, and cannot end what it runs."""
        name = self.random.choice(self.scene.service_names)
        back_s = self.random.uniform(2.0, 6.0) * self.scene.longest_timeout_s
        return [
            f"action {name} stop on {node} fails",
            f"leave {node}",
            f"+{back_s:.4f} action {name} stop on {node} works",
            f"+{back_s:.4f} daemon-start {node}",
        ]

    def late_listeners(self, node: str) -> List[str]:
        """What has arrived is not read for longer than the timeout, unless somebody asks for it."""
        late_s = self.random.uniform(0.5, 2.0) * self.scene.longest_timeout_s
        back_s = self.random.uniform(1.0, 4.0) * self.scene.longest_timeout_s
        return [f"listeners {node} late {late_s:.4f}", f"+{back_s:.4f} listeners {node} prompt"]

    def healed(self, node: str) -> List[str]:
        """All cuts end."""
        return ["heal"]

    def disk(self, node: str) -> List[str]:
        """One node's path to the disk is bad."""
        slow_s = self.random.choice([0.02, 0.2, 0.8]) * self.scene.longest_timeout_s
        hows = [
            "hangs",
            "hangs",
            "fails",
            "readonly",
            f"slow {slow_s:.4f}",
            f"loses {self.random.randrange(1, 30)}",
        ]
        how = self.random.choice([*hows, f"tears {self.random.randrange(1, 10)}"])
        return [f"disk {node} {how}", f"{self._back()} disk {node} works"]

    def disk_everywhere(self, node: str) -> List[str]:
        """The disk itself is bad."""
        return [
            f"disk all {self.random.choice(['hangs', 'fails', 'readonly'])}",
            f"{self._back()} disk all works",
        ]
