"""`make demo`: two nodes, one service, a power cut, a takeover, told for a person.

As root the nodes are real ones (see `lab`); without root they are plain processes on the
loopback interface, and the demo says what differs. It exits 0 only if the service itself
says, in its own log, that it ran on the first node, then on the second, and never on both.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from lab import BaseLab, Lab, LoopbackLab, Node
from lab_config import ProbeService
from machine import LabError

WIDTH = 80
TIMEOUT_S = 2.0
SERVICE = "web"
ADDRESS = "10.101.0.100"


class Story:
    """Prints, 80 columns wide, with the seconds since the beginning in front of what happens."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def title(self, text: str) -> None:
        """Begin a chapter."""
        print(f"\n{text}\n{'-' * len(text)}", flush=True)

    def say(self, text: str) -> None:
        """Print a paragraph."""
        if text.startswith("\n"):
            print()
        print(textwrap.fill(text.strip(), WIDTH), flush=True)

    def event(self, text: str) -> None:
        """Print what happens, with its time."""
        stamp = f"{time.monotonic() - self.began:5.1f} s  "
        print(
            textwrap.fill(text, WIDTH, initial_indent=stamp, subsequent_indent=" " * len(stamp)), flush=True
        )

    def decision(self, rule: str, text: str, reason: str) -> None:
        """Print one decision of the core."""
        print(textwrap.fill(f"{rule:4} {text}: {reason}", WIDTH, subsequent_indent=" " * 5), flush=True)

    def show(self, node: Node, words: str, text: str) -> None:
        """Print a command as typed on a node, and what it wrote; a wide table is folded."""
        print(f"\n{node.name}# {words}")
        lines = text.rstrip("\n").splitlines()
        if max(map(len, lines), default=0) > WIDTH and is_table(lines):
            lines = folded(lines)
        for line in lines:
            indent = " " * (len(line) - len(line.lstrip()) + 4)
            print(
                "\n".join(
                    textwrap.wrap(line, WIDTH, subsequent_indent=indent, drop_whitespace=False)
                    if len(line) > WIDTH
                    else [line]
                )
            )
        sys.stdout.flush()

    def file(self, path: str, text: str) -> None:
        """Print a file."""
        print(f"\n{path}:")
        print(textwrap.indent(text.strip(), "    "))


def is_table(lines: list) -> bool:
    """Tell whether a line of dashes says where the columns are."""
    return any(set(line.strip()) == {"-", " "} for line in lines)


def folded(lines: list) -> list:
    """Return a wide table as several narrow ones, one below the other, cut between columns."""
    ruler = next(line for line in lines if set(line.strip()) == {"-", " "})
    starts = [i for i in range(len(ruler)) if ruler[i] == "-" and (i == 0 or ruler[i - 1] == " ")]
    cuts = [0]
    for start, following in zip(starts, [*starts[1:], len(ruler)]):
        if following - cuts[-1] > WIDTH - 4:
            cuts.append(start)
    cuts.append(max(map(len, lines)))
    out = []
    for begin, end in zip(cuts, cuts[1:]):
        out += [
            line[begin:end].rstrip() if begin == 0 else "    " + line[begin:end].rstrip() for line in lines
        ]
        out.append("")
    return out[:-1]


def print_setup(story: Story, lab: BaseLab, service: ProbeService) -> None:
    """Show the cluster's files."""
    node = lab.nodes[0]
    for name in ("hb/nodes", "hb/monitor", f"{SERVICE}.env"):
        story.file(f"etc/opensvc/{name}", (node.root / "etc/opensvc" / name).read_text())


def tell(story: Story, lab: BaseLab, service: ProbeService) -> bool:
    """Play the story; return whether the takeover really happened."""
    first, second = lab.nodes
    story.title("Two nodes, one service")
    lab.configure(TIMEOUT_S, [service])
    print_setup(story, lab, service)

    story.title("The nodes start")
    lab.start_daemons()
    story.event("hbmgr daemon runs on both nodes")
    lab.wait(lambda: lab.all_frozen(SERVICE), 20, "both nodes know the service")
    story.event(f"a new service is frozen on both: {words(second.states(SERVICE))}")
    lab.hand_over(SERVICE)
    story.event(f"hbmgr unfreeze {SERVICE}, on n1 then on n2: {words(second.states(SERVICE))}")
    lab.wait(lambda: lab.living(SERVICE), 10, "the service lives")
    story.event(f"the service's own process lives on {lab.living(SERVICE)[0].node}")
    print("\nWhat n1 decided, and the rule that says so:")
    for entry in first.events(SERVICE):
        if entry["rule"]:
            story.decision(entry["rule"], entry["text"], entry["reason"])
    known = len(second.events(SERVICE))

    story.title("The power of n1 is cut")
    lab.hold(lambda: True, 1.0, "a moment passes")
    first.kill()
    killed_at = time.clock_gettime(time.CLOCK_BOOTTIME)
    story.event(f"n1 is killed; the timeout of its links is {TIMEOUT_S:g} s")
    lab.wait(lambda: [span.node for span in lab.living(SERVICE)] == ["n2"], 30, "the service lives on n2")
    lab.wait_state("n2", SERVICE, "STARTED", 30)
    story.event(f"n2 took over: {words(second.states(SERVICE))}")

    story.title("Why, as n2 tells it")
    words_typed = ("events", SERVICE, "--last", str(len(second.events(SERVICE)) - known))
    story.show(second, f"hbmgr {' '.join(words_typed)}", second.hbmgr(*words_typed).check().out)
    story.show(
        second, f"svcmgr -s {SERVICE} print status", second.svcmgr("-s", SERVICE, "print", "status").out
    )
    story.show(second, "svcmon", second.svcmon().check().out)
    story.say(
        "\nThe service, avail, is up. What is not up is sync#i0, since no agent has copied the "
        "service's file to the other node: this demo wrote it on both."
    )
    return verdict(story, lab, killed_at)


def words(states: dict) -> str:
    """Return states in words."""
    return ", ".join(f"{state} on {node}" for node, state in states.items())


def verdict(story: Story, lab: BaseLab, killed_at: float) -> bool:
    """Say what the service's own log shows, and what comes next; return whether it was a takeover."""
    story.title("What the service's own log says")
    lived = lab.spans(SERVICE)
    for span in lived:
        end = "lives" if span is lived[-1] else f"last seen {span.last - killed_at:+.2f} s"
        story.say(f"{span.node}: up {span.began - killed_at:+.2f} s from the power cut, {end}")
    together = lab.overlaps(SERVICE)
    took_over = [span.node for span in lived] == ["n1", "n2"] and not together
    if not took_over:
        story.say(f"NOT a takeover: spans {lived}, at once {together}")
        return False
    took_s = lived[1].began - killed_at
    story.say(
        f"Takeover {took_s:.2f} s after the power cut: the service's process lives on n2. Of these, "
        f"{TIMEOUT_S:g} s are the timeout, which counts from n1's last beat. Never two at once."
    )
    story.title("Next")
    story.say(
        "When n1 is back it stays STOPPED: the service does not move again by itself. "
        f"To bring it home: hbmgr switch {SERVICE}, on n2."
    )
    return True


def main() -> int:
    """Run the demo in a directory of its own, and leave nothing behind."""
    parser = argparse.ArgumentParser(description="Two nodes, one service, a power cut, a takeover.")
    parser.add_argument("--loopback", action="store_true", help="plain processes, as without root")
    real = os.geteuid() == 0 and not parser.parse_args().loopback
    workdir = Path(tempfile.mkdtemp(prefix=f"hb{os.getpid()}-", dir="/var/tmp"))
    story = Story()
    service = ProbeService(SERVICE)
    if real:
        service = ProbeService(
            SERVICE,
            fs_image=str(workdir / "web.img"),
            fs_mount="/srv/web",
            address=ADDRESS,
        )
        story.say(
            "n1 and n2 are nodes on this machine: each has its own network, processes and mounts, two "
            "cables to a switch and one shared disk. All of it goes when the demo ends."
        )
    else:
        story.say(
            "Without root, n1 and n2 are plain processes on the loopback interface. What differs: "
            "no networks or mounts of their own, so the service has no address and no file system, the "
            "shared disk is a file, and the power cut is SIGKILL of each process. As root, the demo uses "
            "real nodes."
        )
    try:
        with (Lab if real else LoopbackLab)(workdir) as lab:
            done = tell(story, lab, service)
    except LabError as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        done = False
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
