"""What goes wrong around a configuration that changes while leases run: more plots.

An operator makes timeouts longer or shorter, on one node before the other, or on one alone; the
agent forgets to say which services there are; and a store fails, so that what a node does is not
what it may say. Each goes with a trouble that shows whether anybody counted wrongly.
"""

from __future__ import annotations

from typing import Callable, List

from opensvc_hb.sim.plots import Plots, other_node

SHORTEST_SHARE, LONGEST_SHARE = 0.5, 3.0
TIMEOUT_SHARES = (SHORTEST_SHARE, 0.7, 1.0, 1.5, LONGEST_SHARE)
"""A changed timeout is so many times the longest that the monitor files had at first."""


def later(lines: List[str], seconds: float) -> List[str]:
    """Return the lines of a plot that begins so many seconds later."""
    shifted = []
    for line in lines:
        word, _, rest = line.partition(" ")
        delay_s, said = (float(word), rest) if line.startswith("+") else (0.0, line)
        shifted.append(f"+{delay_s + seconds:.4f} {said}")
    return shifted


class ReloadPlots(Plots):
    """All plots, those of changed configurations with them."""

    def timeouts(self, node: str) -> List[str]:
        """The timeouts of the monitor files change; something else goes wrong before or after."""
        t, other = self.scene.longest_timeout_s, other_node(node)
        seconds = self.random.choice(TIMEOUT_SHARES) * t
        lines = [f"timeout {node} {seconds:.4f}"]
        way = self.random.choice(["one", "both", "both", "back"])
        again_s = self.random.choice([0.0, self.random.uniform(0.0, 0.1), self.random.uniform(0.1, 4.0)]) * t
        if way == "both":
            lines.append(f"+{again_s:.4f} timeout {other} {seconds:.4f}")
        elif way == "back":
            lines.append(f"+{again_s:.4f} timeout {node} {self.random.choice(TIMEOUT_SHARES) * t:.4f}")
        if self.random.random() < 0.2:
            return lines
        trouble = self._trouble(self.random.choice([node, other]))
        apart_s = self.random.choice([0.0, self.random.uniform(0.0, 0.05), self.random.uniform(0.0, 1.5)]) * t
        if self.random.random() < 0.4:
            return [*trouble, *later(lines, apart_s)]
        return [*lines, *later(trouble, apart_s)]

    def _trouble(self, node: str) -> List[str]:
        choices: List[Callable[[str], List[str]]] = [self.power_cut, self.daemon_killed, self.daemon_paused]
        if self.scene.is_leased or not self.scene.judged:
            choices += [self.cut, self.isolated, self.isolated, self.cut_off, self.cut_off, self.store]
        return self.random.choice(choices)(node)

    def cut_off(self, node: str) -> List[str]:
        """A node reaches neither its peer nor the disk, and what runs on it is slow to end."""
        t = self.scene.longest_timeout_s
        back_s = self.random.uniform(1.0, 2.0 + LONGEST_SHARE) * t
        name = self.random.choice(self.scene.service_names)
        lines = self._networks_cut(node, back_s)
        if "dio" in self.scene.links:
            lines += [
                f"disk {node} {self.random.choice(['hangs', 'fails'])}",
                f"+{back_s:.4f} disk {node} works",
            ]
        if self.random.random() < 0.6:
            lines.append(f"action {name} stop on {node} takes {self.random.uniform(0.1, 2.0) * t:.3f}s")
        return lines

    def unstored(self, node: str) -> List[str]:
        """A store fails, what should be stored is not; then the daemon goes, T changes, or links are cut."""
        t = self.scene.longest_timeout_s
        name = self.random.choice(self.scene.service_names)
        verb = self.random.choice(["freeze-start", "freeze-start", "freeze-stop", "switch"])
        works_s = self.random.uniform(1.0, 6.0) * t
        lines = [f"store {node} fails", f"{verb} {name} on {node}", f"+{works_s:.4f} store {node} works"]
        soon_s = self.random.uniform(0.05, 0.5) * t
        what = self.random.choice(["restart", "timeout", "cut off"])
        if what == "restart":
            lines += later(self.restart(node), soon_s)
        if what == "timeout":
            lines.append(f"+{soon_s:.4f} timeout {node} {self.random.choice(TIMEOUT_SHARES) * t:.4f}")
        if what != "restart":
            lines += later(self.cut_off(node), soon_s + self.random.uniform(0.2, 1.0) * t)
        return [*lines, f"+{works_s + t:.4f} unfreeze {name} on {node}"]

    def longer_while_unstored(self, node: str) -> List[str]:
        """A store fails, then T is made longer; a node that stops slowly is cut off soon after."""
        t = self.scene.longest_timeout_s
        name = self.random.choice(self.scene.service_names)
        cut_s = self.random.uniform(0.3, 1.5) * t
        works_s = cut_s + self.random.uniform(2.0, 5.0) * t
        verb = self.random.choice(["freeze-stop", "unfreeze"])
        return [
            f"store {node} fails",
            f"{verb} {name} on {node}",
            f"action {name} stop on {node} takes {0.5 * LONGEST_SHARE * t:.3f}s",
            f"+{0.1 * t:.4f} timeout {node} {LONGEST_SHARE * t:.4f}",
            *later(self.cut_off(node), cut_s),
            f"+{works_s:.4f} store {node} works",
            f"+{works_s:.4f} timeout {node} {t:.4f}",
            f"+{works_s + t:.4f} unfreeze {name} on {node}",
        ]

    def asleep_with_a_longer_timeout(self, node: str) -> List[str]:
        """A node stands still while it asks for leave to start, and its peer counts sooner than it does."""
        t = self.scene.longest_timeout_s
        soon_s = self.random.uniform(0.05, 0.5) * t
        return [
            f"timeout {node} {LONGEST_SHARE * t:.4f}",
            f"timeout {other_node(node)} {self.random.choice([SHORTEST_SHARE, 1.0]) * t:.4f}",
            *later(self.asleep_while_asking(node), soon_s),
        ]

    def undeclared(self, node: str) -> List[str]:
        """A daemon begins while the agent does not say which services there are."""
        t = self.scene.longest_timeout_s
        again_s = self.random.choice([0.0, self.random.uniform(0.0, 0.5), self.random.uniform(0.5, 1.0)]) * t
        known_s = self.random.choice([self.random.uniform(0.0, 0.3), self.random.uniform(0.3, 4.0)]) * t
        known_s += again_s
        lines = [f"services {node} unknown", f"{self.random.choice(['daemon-kill', 'daemon-stop'])} {node}"]
        lines += [f"+{again_s:.4f} daemon-start {node}", f"+{known_s:.4f} services {node} known"]
        if self.random.random() < 0.5 and (self.scene.is_leased or not self.scene.judged):
            trouble = self.random.choice([self.cut_off, self.isolated])
            lines += later(trouble(node), self.random.uniform(0.0, 1.0) * known_s)
        return lines
