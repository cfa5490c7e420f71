"""OpenHA's commands against every transcript: each output compared, but for what differs on purpose.

Each command line of a transcript that calls a command of ours is run with a daemon that knows what
the transcript shows. What other programs print between is not ours: then our outputs must stand in
the expected one, in order. Where nobody listens, OpenHA says "shmget failed", and we who.
"""

import os
import re
import shlex

import pytest
from openha_fakes import FakeDaemon, FakeService, FakeStarter, fake_console, write_cluster
from openha_transcript import (
    TRANSCRIPTS,
    links_in,
    processes_in,
    read_transcript,
    scene_of,
    states_in,
)

from opensvc_hb.cli.openha_command import OpenhaCommand
from opensvc_hb.cli.openha_console import CALLED_AS
from opensvc_hb.cli.openha_hb import HbCommand
from opensvc_hb.cli.openha_init import EZHA, OPENHA, InitCommand
from opensvc_hb.cli.openha_monitor import Machine
from opensvc_hb.cli.openha_ps import HEADER, DaemonFacts, full_lines, user_lines
from opensvc_hb.cli.openha_service import ServiceCommand
from opensvc_hb.cli.openha_usage import hb_usage, service_usage
from opensvc_hb.cli.openha_view import links_view
from opensvc_hb.daemon.services_file import add_service
from opensvc_hb.paths import Root

NO_DAEMON = "the hb daemon of this node is not running (/run/opensvc/hb.sock): start it with: "
BIN = "/usr/local/cluster/bin"
OURS = re.compile(
    r"(openha|ez_\w+|/etc/init\.d/(openha|ezha)|\$EZ_BIN/(service|hb)|/usr/lib/openha/bin/service)\b"
)
SCRIPTS = ("/usr/local/sbin", "/root")
TREE = "/var/lib/openha"

DIFFERENT = {
    ("10", "openha service -A registry start"): "no line of the GLib library",
    ("10", "su nobody -s"): "the socket is for root; nothing is done and called success",
    ("10", "cat -A $EZ_SERVICES; openha service -s; ls -la"): "a wrong line is an error, not a service",
    ("10", "rm -rf $EZ_VAR"): "no environment variable is needed",
    ("10", "env -u EZ_SERVICES"): "no environment variable is needed",
    ("11", "openha hb -s | od -c"): "a pipe; the line itself is compared elsewhere",
    ("11", "openha hb -a -n deb1.opensvc.com -t net -i eth9"): "no stray line 'heartc'",
    ("11", "openha hb -a -n deb1.opensvc.com -t net -i eth1 -d 239.131.50.22 -p 5022"): "no crash",
    ("11", "openha hb -a -t net -i eth1 -d 239.131.50.22"): "no crash",
    ("11", "openha hb -r -n deb1.opensvc.com"): "it works",
    ("11", "openha hb -r -n nosuch"): "it says what is wrong",
    ("11", "mv $EZ_NODES /root/nodes.off; openha hb -a"): "without a nodes file no node is known",
    (
        "12",
        "cat /etc/default/openha; cat $EZ_MONITOR; time",
    ): "the daemon refuses a wrong line",
    ("12", "mv $EZ_NODES /root/nodes.off; /etc/init.d/openha start"): "it says what is missing",
    ("15", "/etc/init.d/ezha start"): "nothing of a missing state file is said",
    (
        "16",
        'printf "0\\0" > $EZ_VAR/services/registry/STATE.n2',
    ): "rolled back is not frozen started",
    ("26", "/etc/init.d/openha start (both nodes)"): "a comment is a comment",
    ("26", "openha kill; /etc/init.d/openha start"): "a comment is a comment",
}
if os.geteuid() != 0:  # a file that nobody may read is readable for root alone
    DIFFERENT["10", "touch /root/noexec.sh"] = "it cannot be opened"
"""By transcript and how the command line begins: what is done otherwise here, on purpose."""


def different(name, command):
    """Return the beginning by which a command line is listed as different, "" when it is not."""
    exact = [begin for file, begin in DIFFERENT if name.startswith(file) and command == begin]
    found = [begin for file, begin in DIFFERENT if name.startswith(file) and command.startswith(begin)]
    return next(iter(exact + found), "")


class Player:
    """Plays the entries of one host."""

    def __init__(self, host, top):
        self.host = f"{host}.opensvc.com" if host.startswith("deb") else host
        self.top = top
        self.place = Root(top)
        self.daemon = FakeDaemon(self.host)
        self.threads = []
        self.nodes = ("n1", "n2") if host.startswith("n") else ("deb1.opensvc.com", "deb2.opensvc.com")
        self.hb = write_cluster(top, self.nodes)
        conf_d = self.hb / "conf.d"
        conf_d.mkdir()
        (conf_d / "tree.conf").write_text(f"[hb]\nopenha_tree = {top}{TREE}\n")
        for directory in SCRIPTS:
            (top / directory[1:]).mkdir(parents=True)
        for script in ("usr/local/sbin/registry.sh", "usr/local/sbin/busybox.sh", "root/noexec.sh"):
            (top / script).write_text("#!/bin/sh\n")

    # -- what is so before an entry ------------------------------------------------------

    def prepare(self, entry):
        output = entry.output
        for name, (primary, state, secondary, other) in states_in(output).items():
            known = FakeService([primary, secondary], {primary: state, secondary: other})
            self.daemon.services[name] = known
        tables = list(states_in(output))
        if tables or "0 service(s)" in output:
            self.daemon.services = {name: self.daemon.services[name] for name in tables}
            self._write_others_services(output)
        for name, state, other in re.findall(
            r"^Service: (\S+)\t state: (\w+) , (\w+)$", output, re.MULTILINE
        ):
            service = self.daemon.services.get(name)
            if service is not None:
                service.states = dict(zip(service.nodes, (state, other)))
        links = links_in(output, entry.at)
        if links:
            self.daemon.links = links
        threads, process_links = processes_in(output, entry.at)
        self.threads = threads
        if threads:
            self.daemon.links = links or process_links
        shows_daemon = links or tables or threads or "heartbeat to converge" in output
        is_silent = re.match(r"openha (service -s|hb -s)|ez_", entry.command) and not tables and not links
        if shows_daemon:
            self.daemon.is_up = True
        elif "shmget" in output or is_silent:
            self.daemon.is_up = False
        elif "service -i" in entry.command and "does not exist" not in output:
            self.daemon.is_up = True
        check = re.search(r'printf "(registry\\t.*?)\\n" > \$EZ_SERVICES', entry.command)
        if check:
            (self.hb / "services").write_text(check[1].replace("\\t", "\t") + "\n")
        self._set_scene(entry)

    def _write_others_services(self, output):
        """A service of other nodes is known by the services file alone."""
        for name, (primary, _, secondary, _) in states_in(output).items():
            if self.host not in (primary, secondary):
                with (self.hb / "services").open("a") as file:
                    file.write(f"{name}\t/s.sh\t{primary}\t{secondary}\t/s.sh\n")

    def _set_scene(self, entry):
        scene = scene_of(entry.output)
        daemon = self.daemon
        daemon.detail, daemon.becomes = scene.detail, scene.becomes
        daemon.start_fails, daemon.stop_fails = scene.start_fails, scene.stop_fails
        daemon.rolls_back = scene.rolls_back
        named = re.search(r"service -A (\S+) (\S+)", entry.command)
        if not named or named[1] == "nosuch" or "not found" in entry.output:
            return
        daemon.is_up = True
        service = daemon.services.setdefault(
            named[1], FakeService(list(self.nodes), dict.fromkeys(self.nodes, "STOPPED"))
        )
        if scene.own is None:
            return
        own = "FROZEN_START" if scene.own == "START_READY" else scene.own
        for node in service.nodes:
            if node == self.host:
                service.states[node] = own
            elif scene.peer is not None:
                service.states[node] = scene.peer

    # -- the command line ------------------------------------------------------------------

    def play(self, entry):
        """Return what our commands print, and the last one's code; None for a part that is not ours."""
        is_printed = any(not re.match(r"\d{10}\.", line) for line in entry.lines)  # not a line of the log
        has_terminal = is_printed or "-A" not in entry.command
        parts = []
        for part in entry.command.split("; "):
            words = re.sub(r"^(RC=7|time|env -u \w+) ", "", part.strip())
            words = words.partition(" | ")[0].rpartition(")& ")[2].replace(" 2>/dev/null", "")
            words = re.sub(r"(init.d/\w+ start),? +(\(|9 s).*", r"\1", words)
            chmod = re.fullmatch(r"chmod (\d+) /root/(\S+)", words)
            if chmod:
                (self.top / "root" / chmod[2]).chmod(int(chmod[1], 8))
            if not OURS.match(words):
                parts.append(None)
                continue
            console, stream = fake_console(has_terminal)
            code = self._run(self._split(words), console, entry)
            text = stream.getvalue().replace(str(self.top), "")
            text = text.replace("/etc/opensvc/hb/", "/etc/openha/")
            if 'sed "s/  */ /g"' in part:
                text = re.sub(" +", " ", text)
            parts.append((text, code))
        return parts

    @staticmethod
    def _split(text):
        if "$(printf" in text:
            text = re.sub(r"\$\(printf .*?\)\)", "x" * 64, text)
        return shlex.split(text, comments=False)

    def _run(self, words, console, entry):
        command, rest = words[0], words[1:]
        if command.startswith("/etc/init.d/"):
            return self._init(command, rest, console)
        if command == "openha":
            return self._openha(rest, console, entry)
        if command == "ez_ps":
            return self._processes(console, user_lines, BIN)
        if command == "ez_svc_status":
            console.show(f"=> Querying OpenHA services status [{BIN}/service -s -c]")
            return self._service(["-s", "-c"], console)
        if command == "ez_hb_status":
            console.show(f"=> Querying OpenHA heartbeat status [{BIN}/hb -s]")
            return self._hb(["-s"], console, entry)
        name = command.rpartition("/")[2]
        if name == "hb":
            return self._hb(rest, console, entry, path=f"{BIN}/hb")
        return self._service(rest, console, path=f"{BIN}/service")

    def _service(self, words, console, path=""):
        command = ServiceCommand(
            self.place, self.host, console, self.daemon.ask, service_usage({CALLED_AS: path}), self._add
        )
        return command.run(words)

    def _add(self, place, name, *columns):
        moved = [f"{self.top}{c}" if c.startswith(tuple(f"{d}/" for d in SCRIPTS)) else c for c in columns]
        add_service(place, name, *moved, resolves=lambda node: "nosuch" not in node)

    def _hb(self, words, console, entry, path=""):
        machine = Machine(
            lambda name: "" if name in ("eth1", "eth2") else "No such file or directory",
            lambda device: device == "/dev/vdb",
        )
        usage = hb_usage({CALLED_AS: path})
        return HbCommand(self.place, console, self.daemon.ask, usage, lambda: entry.at, machine).run(words)

    def _openha(self, words, console, entry):
        if words[:1] == ["ps"]:
            console.show(HEADER)
            self._processes(console, full_lines, "/usr/lib/openha/bin")
            return 0
        command = OpenhaCommand(
            "/usr/bin/openha",
            self.place,
            console,
            self.daemon.ask,
            lambda rest: self._hb(rest, console, entry),
            lambda rest: self._service(rest, console),
            end=self._end,
        )
        return command.run(words)

    def _end(self, _place):
        was_up, self.daemon.is_up = self.daemon.is_up, False
        self.threads = []
        return was_up

    def _processes(self, console, lines_of, binaries):
        if not self.threads or not self.daemon.is_up:
            return 1
        monitor = next(thread.thread_id for program, thread in self.threads if program == "nmond")
        threads = tuple(thread for _, thread in self.threads)
        facts = DaemonFacts(monitor, 1, "root", "?", 60.0, 2 << 20, 6448 << 10, 0.0, threads)
        for line in lines_of(facts, links_view(self.daemon.document()), binaries):
            console.show(line)
        return 0

    def _init(self, path, words, console):
        (self.top / "console").touch()
        command = InitCommand(
            path=path,
            place=self.place,
            console=console,
            ask=self.daemon.ask,
            starter=FakeStarter(self.daemon),
            texts=OPENHA if path.endswith("openha") else EZHA,
            tunables={},
            console_device=self.top / "console",
            end=self._end,
        )
        return command.run(words)


def normal(text):
    """Return an output without what is said of a daemon that does not run, in OpenHA's words or ours."""
    lines = [
        line
        for line in text.splitlines()
        if line != "shmget failed for nmond segment"
        and not line.startswith(NO_DAEMON)
        and not re.fullmatch(r"\w+\.sh says \w+", line)  # a script's words are in the service's log
    ]
    # ps of processes shows memory and time of each, and a terminal; of threads it is the daemon's.
    return [re.sub(r"^(root +\d+) .*?(\S+/bin/)", r"\1 \2", line) for line in lines]


def mismatch(entry, parts):
    """Return how an entry differs from what we print, "" when it does not."""
    ours = [part for part in parts if part is not None]
    expected = normal(entry.output)
    printed = [line for text, _ in ours for line in normal(text)]
    if any(words in entry.command for words in ("ez_ps", "openha ps")):
        # OpenHA's monitor may have an older process than its links; ours stands last.
        expected, printed = sorted(expected), sorted(printed)
    if None in parts:
        left = iter(expected)
        if not all(line in left for line in printed):
            return f"not in order in {expected}: {printed}"
    elif printed != expected:
        return f"expected {expected}\n  printed {printed}"
    if parts[-1] is not None and entry.exit_code not in (None, parts[-1][1]):
        return f"exit code {entry.exit_code}, ours {parts[-1][1]}"
    return ""


@pytest.mark.parametrize("path", sorted(TRANSCRIPTS.glob("*.txt")), ids=lambda path: path.stem)
def test_every_command_of_a_transcript_prints_what_openha_printed(path, tmp_path):
    """Same words, columns and exit codes; the exceptions are listed above, and are exceptions."""
    players = {}
    wrong, unused = [], []
    exceptions = {begin: False for file, begin in DIFFERENT if path.name.startswith(file)}
    for number, entry in enumerate(read_transcript(path)):
        if entry.host not in players:
            top = tmp_path / entry.host
            top.mkdir()
            players[entry.host] = Player(entry.host, top)
        player = players[entry.host]
        player.prepare(entry)
        if not OURS.search(entry.command) or re.match(r"(cat|ls|mkdir) [^;]*$", entry.command):
            continue
        parts = player.play(entry)
        begin = different(path.name, entry.command)
        if all(part is None for part in parts):
            unused += [entry.command] if not begin else []
            exceptions.update({begin: True} if begin else {})
            continue
        found = mismatch(entry, parts)
        if begin:
            exceptions[begin] = exceptions[begin] or bool(found)
        elif found:
            wrong.append(f"{number} {entry.host}# {entry.command}\n  {found}")
    assert wrong == [], "\n".join(wrong)
    assert unused == [], "a command of ours that is not compared"
    assert [begin for begin, differs in exceptions.items() if not differs] == [], "no exceptions any more"
