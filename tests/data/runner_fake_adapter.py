"""An agent for tests of the action runner: each service is a Python file that says what happens.

`etc/opensvc/SVC.py` may define start(), stop(), announce(), prepare(), restart(rid, attempt),
avail(evaluate_apps), status(), examine() (the document after a start);
what it does not define succeeds, prints its name, and is up. `etc/opensvc/declare.py` may
define declare().
"""

from types import SimpleNamespace

from opensvc_hb.core.config import Monitoring


class FakeAdapter:
    def __init__(self, root, node):
        self._etc = root.etc
        self._node = node

    def _behaviour(self, name, word):
        path = self._etc / f"{name}.py"
        if not path.exists():
            return None
        names = {}
        exec(compile(path.read_text(), str(path), "exec"), names)
        return names.get(word)

    def _act(self, svcname, verb):
        behaviour = self._behaviour(svcname, verb)
        if behaviour is None:
            print(f"{verb} {svcname} on {self._node}")
            return 0
        return behaviour() or 0

    def start(self, svcname):
        return self._act(svcname, "start")

    def stop(self, svcname):
        return self._act(svcname, "stop")

    def announce(self, svcname):
        return self._act(svcname, "announce")

    def restart(self, svcname, rid, attempt):
        behaviour = self._behaviour(svcname, "restart")
        if behaviour is None:
            print(f"restart {rid} of {svcname}, {attempt}")
            return 0
        return behaviour(rid, attempt) or 0

    def prepare(self, svcname):
        return self._act(svcname, "prepare")

    def avail(self, svcname, evaluate_apps):
        behaviour = self._behaviour(svcname, "avail")
        return behaviour(evaluate_apps) if behaviour else "up"

    def examine(self, svcname, was_started):
        behaviour = self._behaviour(svcname, "examine")
        return self.avail(svcname, True), behaviour() if behaviour else None

    def status(self, svcname):
        behaviour = self._behaviour(svcname, "status")
        return behaviour() if behaviour else {"avail": "up", "resources": {}}

    def declare(self):
        behaviour = self._behaviour("declare", "declare")
        services, errors = behaviour() if behaviour else ((), ())
        return SimpleNamespace(
            services=[
                SimpleNamespace(**{"holds": (), "monitoring": Monitoring(), **fields}) for fields in services
            ],
            errors=list(errors),
        )
