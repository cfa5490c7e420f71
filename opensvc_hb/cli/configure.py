"""The actions of svcmgr on a service's file: get, set, unset, enable, disable, delete, create.

Words and texts only: where a line stands is `agent.file_text`'s business, and that no wrong or
half a file ever takes its place `agent.file_change`'s. None of them takes the service's lock, and
a frozen service may be configured (C.3, C.10). With --dry-run the result is judged, and said.

Source of the texts: C.11.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable, List, Mapping, Sequence, Tuple

from opensvc_hb.agent import file_change, file_text
from opensvc_hb.agent.config import scopes_of
from opensvc_hb.agent.keywords import boolean, node_list
from opensvc_hb.agent.loader import Loader
from opensvc_hb.agent.names import SUFFIXES
from opensvc_hb.agent.sections import resource_id
from opensvc_hb.cli.svcmgr_options import CommandLine, UsageError
from opensvc_hb.errors import ConfigurationErrors, ExitCode, HbError
from opensvc_hb.ini import DEFAULT, Configuration, parse

NO_PARAMETER = "no parameter. set --param"
MALFORMED = "malformed parameter. format as 'section.key'"
NOTHING_TO_DELETE = "no resource flagged for deletion"

_PLAIN = (
    file_text.MissingSectionError,
    file_text.MissingKeyError,
    file_text.UnwritableError,
    file_change.RefusedTextError,
    file_change.ChangedMeanwhileError,
    file_change.ServiceExistsError,
    file_change.BadNameError,
)
"""Errors that are said without time and level in front, as the agents do."""

TEMPLATE = "[DEFAULT]\nservice_type = {service_type}\nnodes = {nodes}\n"


def handlers(loader: Loader, line: CommandLine) -> Mapping[str, Callable[[str], int]]:
    """Return what does each action on one service, by the action's name; each returns an exit code."""
    command = _Configure(loader, line)
    return {
        "get": command.get,
        "set": command.set,
        "unset": command.unset,
        "enable": command.enable,
        "disable": command.disable,
        "delete": command.delete,
        "create": command.create,
    }


class _Configure:
    """One command line on one service after another."""

    def __init__(self, loader: Loader, line: CommandLine) -> None:
        self.loader = loader
        self.line = line
        self.dry_run = line.has("dry-run")

    def get(self, svcname: str) -> int:
        """Print the text of one keyword; with --eval the one that holds on this node."""
        parameters = self.line.values("param")
        if not parameters:
            return say(NO_PARAMETER)
        section, key = file_change.split_parameter(parameters[-1])
        if not section or not key:
            return say(MALFORMED)
        file = self.loader.file(svcname)
        if section not in file.sections:
            return say(str(file_text.MissingSectionError(section)))
        entry = file.own(section, key) or file.own(DEFAULT, key)
        if self.line.has("eval"):
            entry = file.lookup(section, key, self._scopes(file))
        if entry is None:
            return say(str(file_text.MissingKeyError(section, key)))
        sys.stdout.write(f"{entry.value}\n")
        return int(ExitCode.DONE)

    def _scopes(self, file: Configuration) -> Tuple[str, ...]:
        groups = [node_list(file.value(DEFAULT, name) or "") for name in ("nodes", "drpnodes", "encapnodes")]
        return scopes_of(self.loader.node, *groups)

    def set(self, svcname: str) -> int:
        """Set one keyword or several, all of them or none."""
        pairs, refusal = self._pairs()
        if refusal:
            return say(refusal)
        force = self.line.has("force")

        def edit(text: str) -> str:
            for section, key, value in pairs:
                try:
                    text = file_text.set_value(text, section, key, value, may_add_section=force)
                except file_text.MissingSectionError as error:
                    raise _NoSectionToSetError(str(error)) from None
            return text

        done = self._change(svcname, edit)
        if done == 0 and self.dry_run:
            for section, key, value in pairs:
                self.loader.log(svcname).info(f"set {section}.{key} = {value}")
        return done

    def unset(self, svcname: str) -> int:
        """Remove keywords."""
        places, refusal = self._places()
        if refusal:
            return say(refusal)

        def edit(text: str) -> str:
            for section, key in places:
                text = file_text.unset(text, section, key)
            return text

        done = self._change(svcname, edit)
        if done == 0 and self.dry_run:
            for section, key in places:
                self.loader.log(svcname).info(f"unset {section}.{key}")
        return done

    def enable(self, svcname: str) -> int:
        """Write `disable = False`."""
        return self._write_disable(svcname, "False")

    def disable(self, svcname: str) -> int:
        """Write `disable = True`."""
        return self._write_disable(svcname, "True")

    def _write_disable(self, svcname: str, value: str) -> int:
        sections, absent = self._sections(svcname)
        if absent:
            return say(absent)
        sections = sections or [DEFAULT]

        def edit(text: str) -> str:
            for section in sections:
                text = file_text.set_value(text, section, "disable", value, may_add_section=True)
            return text

        done = self._change(svcname, edit)
        if done == 0:
            log = self.loader.log(svcname)
            for section in sections:
                log.info(f"set {section}.disable = {value}")
            if value == "False" and DEFAULT not in sections and self._all_disabled(svcname):
                log.warning(f"{DEFAULT}.disable still disables every resource: enable without --rid lifts it")
        return done

    def _all_disabled(self, svcname: str) -> bool:
        try:
            file = self.loader.file(svcname)
            return boolean(file.value(DEFAULT, "disable", self._scopes(file)) or "no")
        except (ValueError, ConfigurationErrors):
            return False  # the file was judged a moment ago; whoever broke it is told elsewhere

    def delete(self, svcname: str) -> int:
        """Remove the sections of resources."""
        if not self.line.has("rid"):
            self.loader.file(svcname)
            return say(NOTHING_TO_DELETE, ExitCode.DONE)
        sections, absent = self._sections(svcname)
        if absent:
            return say(absent)
        done = self._change(svcname, lambda text: file_text.delete_sections(text, sections))
        if done == 0 and self.dry_run:
            for section in sections:
                self.loader.log(svcname).info(f"delete {section}")
        return done

    def create(self, svcname: str) -> int:
        """Make the file of a new service, and the link that makes its name a command."""
        pairs, refusal = self._pairs() if self.line.has("param") else ([], "")
        if refusal:
            return say(refusal)
        text, suffix = self._model()
        try:
            if pairs:
                parse(text, self.line.options.get("config", "the template"))  # an error names its file
            for section, key, value in pairs:
                text = file_text.set_value(text, section, key, value, may_add_section=True)
            path = file_change.create_file(self.loader, svcname, text, suffix, self.dry_run)
        except ConfigurationErrors as error:
            return say(str(error))
        except _PLAIN as error:
            return say(str(error))
        if not self.dry_run:
            self._link(svcname)
        sys.stdout.write(f"{path}\n")
        return int(ExitCode.DONE)

    def _model(self) -> Tuple[str, str]:
        """Return what the new file says before --param, and its suffix."""
        given = self.line.options.get("config")
        if given is not None:
            path = Path(given)
            try:
                text = path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError:
                raise HbError(f"{given}: this is not UTF-8 text") from None
            return text, path.suffix if path.suffix in SUFFIXES else SUFFIXES[0]
        nodes = _cluster_nodes(self.loader) or (self.loader.node,)
        environment = self.loader.node_configuration.environment
        return TEMPLATE.format(service_type=environment, nodes=" ".join(nodes)), SUFFIXES[0]

    def _link(self, svcname: str) -> None:
        """Make `etc/opensvc/SVC` a link to svcmgr, where there is one and the name is free."""
        import shutil

        program = shutil.which("svcmgr")
        link = self.loader.root.etc / svcname
        if program is not None and not link.exists() and not link.is_symlink():
            link.symlink_to(program)

    def _change(self, svcname: str, edit: Callable[[str], str]) -> int:
        try:
            file_change.change_file(self.loader, svcname, edit, self.dry_run)
        except _PLAIN as error:
            return say(str(error))
        return int(ExitCode.DONE)

    def _pairs(self) -> Tuple[List[Tuple[str, str, str]], str]:
        """Return (section, key, value) for each --param and --value, or what is wrong with them."""
        places, refusal = self._places()
        values = self.line.values("value")
        if not refusal and len(values) != len(places):
            refusal = "no value. set --value, once for each --param"
        return [(section, key, value) for (section, key), value in zip(places, values)], refusal

    def _places(self) -> Tuple[List[Tuple[str, str]], str]:
        parameters = self.line.values("param")
        places = [file_change.split_parameter(parameter) for parameter in parameters]
        if not places:
            return [], NO_PARAMETER
        if not all(section and key for section, key in places):
            return [], MALFORMED
        return places, ""

    def _sections(self, svcname: str) -> Tuple[List[str], str]:
        """Return the sections that --rid names, and what to say of a name that is none."""
        rids = self.line.items("rid")
        if self.line.has("rid") and not rids:
            raise UsageError("--rid option requires an argument")
        there = [section for section in self.loader.file(svcname).sections if section != DEFAULT]
        named = {rid: [section for section in there if _names(rid, section)] for rid in rids}
        absent = [rid for rid, sections in named.items() if not sections]
        found = [section for section in there if any(section in sections for sections in named.values())]
        return found, f"no section and no family {', '.join(absent)} in this file" if absent else ""


class _NoSectionToSetError(file_text.MissingSectionError):
    """A keyword is to be set in a section that the file does not have."""

    def __init__(self, text: str) -> None:
        HbError.__init__(self, f"{text} (--force adds it)")


def _names(rid: str, section: str) -> bool:
    """Tell whether an item of --rid means this section: its name, or its family's."""
    known, reason = resource_id(section)
    return rid == section or (not reason and rid == known.family)


def _cluster_nodes(loader: Loader) -> Sequence[str]:
    """Return the nodes of the cluster, as their file has them; none where there is no such file."""
    try:
        text = (loader.root.hb / "nodes").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    lines = [line.partition("#")[0].split() for line in text.splitlines()]
    return [words[0].lower() for words in lines if words]


def say(text: str, code: ExitCode = ExitCode.FAILED) -> int:
    """Write one line, or several, to stderr; returns the exit code."""
    sys.stderr.write(f"{text}\n")
    return int(code)
