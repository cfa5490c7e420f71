"""A docker daemon for tests: the few requests of the Engine API that the driver makes, on a socket.

It has containers with a state, and does what it is told to them; the shapes of its answers are those
of a daemon of version 20.10. Nothing runs in its containers.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import socketserver
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

API_VERSION = "1.41"


def image_id(number):
    """The id of a made-up image, 64 digits."""
    return f"{number:02x}" * 32


class FakeContainer:
    """A container: what it is, and what will become of it.

    Args:
        ends_at_once: a start of it has an exit code instead of a life.
        survives_stop: a stop leaves it running, as no daemon should.
    """

    def __init__(
        self, name, number, image=1, state="running", policy="no", ends_at_once=None, survives_stop=False
    ):
        self.name = name
        self.id = f"{number:x}" * 12 + "0" * 52
        self.image_digits = image_id(image)
        self.state = state
        self.policy = policy
        self.ends_at_once = ends_at_once
        self.survives_stop = survives_stop
        self.exit_code = 0

    def inspected(self):
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "Image": f"sha256:{self.image_digits}",
            "State": {"Status": self.state, "ExitCode": self.exit_code},
            "Config": {"StopTimeout": None},
            "HostConfig": {"RestartPolicy": {"Name": self.policy, "MaximumRetryCount": 0}},
        }


class FakeEngine:
    """The daemon; `requests` is what it was asked, `METHOD path`, but for pings.

    Args:
        path: of its socket.
    """

    def __init__(self, path: Path, containers=(), images=(("opensvc/busybox:date",),)) -> None:
        self.path = path
        self.containers = list(containers)
        self.images = list(images)
        self.image_ids = [image_id(place) for place in range(1, len(self.images) + 1)]
        self.requests = []
        self.held_lists = 0
        """So many lists of containers are never answered, as while the daemon is busy with containers."""
        self._ended = threading.Event()
        path.parent.mkdir(parents=True, exist_ok=True)
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                return

            def address_string(self):
                return "unix"

            def do_GET(self):
                engine.answer(self, "GET")

            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                engine.answer(self, "POST")

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

        self.server = Server(str(path), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self):
        self._ended.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
        self.path.unlink(missing_ok=True)

    def named(self, name):
        return next(container for container in self.containers if container.name == name)

    def answer(self, handler, method):
        path = re.sub(r"^/v[0-9.]+", "", handler.path)
        if path != "/_ping":
            self.requests.append(f"{method} {path}")
        if path.startswith("/containers/json") and self.held_lists > 0:
            self.held_lists -= 1
            self._ended.wait()
            handler.close_connection = True
            return
        status, body = self.reply(method, path)
        data = b"" if body is None else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Api-Version", API_VERSION)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def reply(self, method, path):
        """Return (status, document or None)."""
        path = path.partition("?")[0]
        if path == "/_ping":
            return 200, "OK"
        if path == "/containers/json":
            return 200, [{"Id": container.id} for container in self.containers]
        if path == "/images/json":
            return 200, [
                {"Id": f"sha256:{digits}", "RepoTags": list(tags) or None, "RepoDigests": None}
                for digits, tags in zip(self.image_ids, self.images)
            ]
        wanted = re.match(r"/containers/([0-9a-f]+)/(json|start|stop|kill|unpause)$", path)
        found = [c for c in self.containers if wanted and c.id == wanted.group(1)]
        if not found:
            return 404, {"message": f"No such container: {path}"}
        verb = wanted.group(2)
        if verb == "json":
            return 200, found[0].inspected()
        return self.act(found[0], verb)

    @staticmethod
    def act(container, verb):
        if verb in ("start", "unpause"):
            container.state = "running" if container.ends_at_once is None else "exited"
            container.exit_code = container.ends_at_once or 0
        elif verb == "kill" or not container.survives_stop:
            container.state = "exited"
        return 204, None


class SilentEngine:
    """Something that listens on the socket and answers nothing."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()

    def close(self):
        self.server.close()
        self.path.unlink(missing_ok=True)


@contextlib.contextmanager
def short_directory():
    """A directory whose path leaves room for a socket's, which pytest's own may not."""
    path = Path(tempfile.mkdtemp(prefix="de-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path)
