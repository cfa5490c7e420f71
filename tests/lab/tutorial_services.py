"""The tutorial's two docker services: laid out as its readers have them, and how their outputs are compared.

Whoever replays the tutorial says on which nodes, and what differs there; the services, their images and
what their containers run are the same everywhere. An image's id cannot be chosen, so two words of
the services' files, de9a91835513 and b073e328878e, stand for ours.
"""

from __future__ import annotations

import re
from typing import Dict, List

from docker_node import FOREVER
from lab import TREE, BaseLab
from tutorial_replay import SERVICES, Replay

TEXT = TREE / "tests/data/tutorial"
"""What the tutorial prints, and the files that it shows."""
START_LIMIT_S = 180.0
"""Seven containers and two engines on a loaded machine of two cores."""
CONTAINERS = {
    "registry": {1: "e9828ec4620a"},
    "busybox": {
        1: "c37b83887947",
        2: "a189884f060a",
        3: "fb2513423499",
        4: "3a7e545bced2",
        5: "1b6a3d00661e",
        6: "173a812f4ed5",
        7: "59fca3cd2745",
    },
}
"""Ids of the tutorial's containers, by service and number."""
IMAGES = {
    "registry": ("de9a91835513", "registry:latest"),
    "busybox": ("b073e328878e", "opensvc/busybox:date"),
}
"""By service: the id that its file names, and the image's name."""
REGISTRY_PROGRAM = """#!/bin/sh
while trap exit TERM; do date >$STORAGE_PATH/newest; sleep 0.2 & wait; done
"""
NODE_CONF = "[node]\\nhost_mode = DEV\\n"
COMMAND_WIDTH = 18
"""What both docker of 2014 and that of today show of a command."""
TABLE = ("CONTAINER", "ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS")
DATE = re.compile(r"\w{3} \w{3} +\d+ \d\d:\d\d:\d\d UTC \d{4}")


class Services(Replay):
    """The tutorial's services on its two servers.

    Args:
        path: as for Replay.
        texts: where the services' files are on the nodes.
        archive: where the archive of the containers' image is on the nodes.
        timeout_s: of the monitor file; the tutorial has 10.
        dates: what runs in the busybox containers: a shell's loop that prints dates.
    """

    def __init__(
        self, lab: BaseLab, path: str, texts: str, archive: str, timeout_s: int, dates: str = FOREVER
    ) -> None:
        super().__init__(lab, path)
        self.texts = texts
        self.archive = archive
        self.timeout_s = timeout_s
        self.programs = {"registry": "exec docker-registry", "busybox": dates}
        self.ours: Dict[str, str] = {}
        """{id in the tutorial: id here}, of images and containers."""

    def here(self, node, text):
        """Return a text of the tutorial with the paths and ids of this run."""
        for theirs, ours in self.ours.items():
            text = text.replace(theirs, ours)
        return super().here(node, text).replace("\\n", "\n")

    def neutral(self, command, output):
        """Return an output without what differs from run to run."""
        for theirs, ours in self.ours.items():
            output = output.replace(theirs, ours)
        if command.startswith("svcmon"):
            rows = [line.split() for line in output.splitlines() if " hosted " in line]
            return "".join(f"{' '.join(words)}\n" for words in rows)
        if command.endswith("docker ps"):
            return containers_shown(output)
        if " docker attach " in command:
            dates = [line for line in output.splitlines() if DATE.fullmatch(line)]
            return "two dates or more\n" if len(dates) >= 2 else output
        if command == "ez_ps" or command.endswith("conf/monitor"):
            output = re.sub(r"(?m)^(.*(heartc|/conf/|net eth|dio /).*) 10$", rf"\1 {self.timeout_s}", output)
        if command.startswith(("allupservices", "cp ", "cat >")) or command.endswith("--cluster"):
            return ""  # the tutorial shows no output of these
        return super().neutral(command, output)

    def install(self) -> None:
        """Lay both services out on deb1 as the tutorial's reader has them: up, their copies sent to deb2."""
        deb1, _deb2 = self.lab.nodes
        for node in self.lab.nodes:
            self.must(node, f"mkdir -p /etc/opensvc; printf '{NODE_CONF}' >/etc/opensvc/node.conf")
        for name in SERVICES:
            self.bring_up(deb1, name)
        for name in SERVICES:
            self.must(deb1, f"{name}.opensvc.com syncnodes --force")
        self.check_copies()

    def check_copies(self) -> None:
        """Both nodes have the same files."""
        deb1, deb2 = self.lab.nodes
        for name in SERVICES:
            command = f"cat {name}.opensvc.com.env"
            assert self.must(deb1, command) == self.must(deb2, command)

    def bring_up(self, node, name) -> None:
        """Mount a new service's file systems, make its image in its own engine, and start it."""
        svcname = f"{name}.opensvc.com"
        theirs, image = IMAGES[name]
        self.must(node, f"svcmgr -s {svcname} create --config {self.texts}/{svcname}.env")
        self.must(node, f"{svcname} startfs")
        change = f'CMD ["/bin/sh", "-c", "{self.programs[name]}"]'
        made = self.must(node, f"{svcname} docker import --change '{change}' {self.archive} {image}")
        self.ours[theirs] = made.strip().partition(":")[2][:12]
        pairs = [f"--param container#{n}.run_image --value {self.ours[theirs]}" for n in CONTAINERS[name]]
        self.must(node, f"{svcname} set {' '.join(pairs)}")
        self.must(node, f"{svcname} start", START_LIMIT_S)
        shown = self.must(node, f"{svcname} docker ps --format '{{{{.Names}}}} {{{{.ID}}}}'")
        ids = dict(line.split() for line in shown.splitlines())
        for number, container in CONTAINERS[name].items():
            self.ours[container] = ids[f"{svcname}.container.{number}"]


def containers_shown(output: str) -> str:
    """Return the rows of `docker ps` without dates and ports; containers made at once are sorted."""
    head, *lines = output.splitlines()
    assert head.split() == [*TABLE, "NAMES"], output
    columns = {name: head.index(name) for name in TABLE}
    rows: List[str] = []
    for line in lines:
        command = line[columns["COMMAND"] : columns["CREATED"]].strip('" \n')[:COMMAND_WIDTH]
        is_up = line[columns["STATUS"] :].startswith("Up ")
        parts = (line[: columns["COMMAND"]].split(), command, "Up" if is_up else line, line.split()[-1])
        rows.append(f"{' '.join(parts[0])} {parts[1]} {parts[2]} {parts[3]}")
    parallel = [row for row in rows if row[-1] in "2345" and "busybox" in row]
    order = [row[-1] for row in rows if row not in parallel]
    assert order == sorted(order, reverse=True), output
    return "".join(f"{row}\n" for row in sorted(rows))
