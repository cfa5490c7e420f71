"""A node of its own for tests of the agent: a root directory with a site's driver in it.

The site driver `[fs#N] type = fake` is up while its file exists, notes each start and stop in
one common list, and fails on demand: the agent under test is the real one, drivers included
by path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.resource import ActionError, CommandResult
from opensvc_hb.paths import Root

DRIVER = '''
"""A resource that is a file."""
import time
from pathlib import Path

from opensvc_hb.agent.resource import ActionError, Keyword, Resource, Status


class Fake(Resource):
    """Up while its file exists."""

    group = "{group}"
    type_name = "{type_name}"
    types = ("fake",)
    sections = ("{family}",)
    keywords = (
        Keyword("type", "fake", required=True),
        Keyword("file", "Its file.", convert=Path, required=True, scopable=True),
        Keyword("fails", "Verbs that fail, or: veto, crash, hang.", default="", scopable=True),
    )

    @property
    def label(self):
        return "fake " + self.options["file"].name

    def note(self, verb):
        with (Path(self.context.etc) / "journal").open("a") as journal:
            journal.write(verb + " " + self.rid + "\\n")

    def status(self):
        if "crash" in self.options["fails"]:
            raise RuntimeError("broken driver")
        if "hang" in self.options["fails"]:
            time.sleep(600)
        return Status.UP if self.options["file"].exists() else Status.DOWN

    def start(self):
        if self.options["file"].exists():
            self.context.info(self.label + " is already up")
            return
        if "start" in self.options["fails"]:
            raise ActionError("cannot start " + self.rid)
        self.note("start")
        self.options["file"].touch()

    def stop(self):
        if "stop" in self.options["fails"]:
            raise ActionError("cannot stop " + self.rid)
        self.note("stop")
        self.options["file"].unlink(missing_ok=True)

    def may_start(self):
        return "it is up elsewhere" if "veto" in self.options["fails"] else None

    def announce(self):
        self.note("announce")
'''

FAMILIES = {"fs": "fs", "ip": "ip", "disk": "disk.fake", "container": "container.fake"}


class Site:
    """One node: files, services, and what was said.

    Args:
        top: an empty directory.
        node: the node's name.
    """

    def __init__(self, top: Path, node: str = "n1") -> None:
        self.top = top
        self.node = node
        self.root = Root(top)
        self.said: List[str] = []
        self.commands: List[List[str]] = []
        self.answers: Dict[str, Mapping[str, Any]] = {}
        self.results: Dict[str, CommandResult] = {}
        for family, type_name in FAMILIES.items():
            folder = self.root.etc / "drivers/resource" / family
            folder.mkdir(parents=True)
            text = DRIVER.format(group=family, type_name=type_name, family=family)
            (folder / "fake.py").write_text(text)

    @property
    def loader(self) -> Loader:
        """A loader that keeps log lines, commands, and asks the test instead of a daemon."""
        return Loader(self.root, self.node, run=self.run, ask=self.ask, write_log=self.said.append)

    def run(
        self, argv: Any, timeout_s: float = 0.0, environment: Optional[Mapping[str, str]] = None
    ) -> CommandResult:
        """Keep a command and answer it."""
        self.commands.append(list(argv))
        if argv[0] not in self.results:
            raise ActionError(f"{argv[0]}: command not found")
        return self.results[argv[0]]

    def ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer as the daemon; by default as if there were none."""
        return self.answers.get(str(request["request"]), {"ok": False, "running": False})

    def service(self, name: str, text: str, suffix: str = ".env") -> str:
        """Write a service's file; `FILE:x` stands for a file of the node."""
        self.root.etc.mkdir(parents=True, exist_ok=True)
        (self.root.etc / f"{name}{suffix}").write_text(text.replace("FILE:", f"{self.top}/"))
        return name

    @property
    def journal(self) -> List[str]:
        """What drivers did, in order; read once."""
        path = self.root.etc / "journal"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    @property
    def log(self) -> List[str]:
        """Log lines without their time; read once."""
        lines = [" ".join(line[9:].split()) for line in self.said]
        self.said.clear()
        return lines


BASE = "[DEFAULT]\nservice_type = DEV\nnodes = n1 n2\n"
