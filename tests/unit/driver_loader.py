"""Load drivers as the package `opensvc_hb.drivers`, in a checkout and installed; and the context they get."""

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path

import opensvc_hb
from opensvc_hb.agent.resource import ActionError, CommandResult, Resource, ResourceContext

DRIVERS = Path(__file__).resolve().parents[2] / "drivers"


def _register():
    """Make the top-level folder `drivers` known as `opensvc_hb.drivers`, unless it is installed as such."""
    try:
        importlib.import_module("opensvc_hb.drivers")
    except ModuleNotFoundError:
        spec = importlib.util.spec_from_file_location(
            "opensvc_hb.drivers", DRIVERS / "__init__.py", submodule_search_locations=[str(DRIVERS)]
        )
        package = importlib.util.module_from_spec(spec)
        sys.modules["opensvc_hb.drivers"] = package
        opensvc_hb.drivers = package
        spec.loader.exec_module(package)


def module(name):
    """Import a module of a driver by its place below `resource`, e.g. `fs.ext4`."""
    _register()
    return importlib.import_module(f"opensvc_hb.drivers.resource.{name}")


def driver(name):
    """Return the one Resource subclass that the driver `name` defines."""
    found = [
        value
        for value in vars(module(name)).values()
        if inspect.isclass(value) and issubclass(value, Resource) and value.__module__.endswith(f".{name}")
    ]
    assert len(found) == 1, f"{name} defines {len(found)} resources"
    return found[0]


def converted(driver_class, **written):
    """Return options as the agent would give them: converted texts, defaults for the rest."""
    known = {keyword.name: keyword for keyword in driver_class.keywords}
    options = {name: keyword.default for name, keyword in known.items()}
    for name, text in written.items():
        options[name] = known[name].convert(text)
    return options


class Recorder:
    """A context's log lines, and its `run` fed by a transcript: [(argv, CommandResult or status)]."""

    def __init__(self, transcript=()):
        self.lines = []
        self.transcript = list(transcript)
        self.ran = []

    def log(self, level):
        return lambda text: self.lines.append((level, text))

    def texts(self, level=None):
        return [text for of, text in self.lines if level in (None, of)]

    def run(self, argv, timeout_s):
        """Answer by the transcript, in order; a command that it does not hold is a failure of the test."""
        argv = tuple(str(word) for word in argv)
        assert timeout_s > 0
        self.ran.append(" ".join(argv))
        assert self.transcript, f"unexpected command: {argv}"
        expected, answer = self.transcript.pop(0)
        assert " ".join(argv) == expected
        if callable(answer):
            answer = answer()
        if isinstance(answer, ActionError):
            raise answer
        status, stdout, stderr = answer
        return CommandResult(argv, status, stdout, stderr)


def context(tmp_path, recorder, **changes):
    """A context as the agent lends it, under `tmp_path`."""
    values = {
        "node": "deb1",
        "svcname": "svc1",
        "nodes": ("deb1", "deb2"),
        "drpnodes": (),
        "etc": str(tmp_path / "etc/opensvc"),
        "var": str(tmp_path / "var/lib/opensvc"),
        "log": str(tmp_path / "var/log/opensvc"),
        "tmp": str(tmp_path / "var/tmp/opensvc"),
        "runtime": str(tmp_path / "run/opensvc"),
        "run": recorder.run,
        "info": recorder.log("INFO"),
        "warning": recorder.log("WARNING"),
        "error": recorder.log("ERROR"),
    }
    values.update(changes)
    return ResourceContext(**values)
