"""Any WSGI application under the real Gunicorn with this project's worker and hooks, and clients that forgive nothing."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gevent

from gateway.local.run_directory import RunDir
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
CONFIG = '[[routes]]\npath = "/*"\nrespond = { text = "unused" }\n'

# /pid says who answers. /hold says so too, and ends when the file "release" is there; "held" is there while it waits.
# /stream is /hold piece by piece. /taken is a connection taken over. VERSION tells generations of the code apart.
APPLICATION = '''
import os
import gevent
HERE = os.path.dirname(os.path.abspath(__file__))
VERSION = "one"

def hold():
    open(HERE + "/held", "w").close()
    while not os.path.exists(HERE + "/release"):
        gevent.sleep(0.01)

def application(environ, start_response):
    path = environ["PATH_INFO"]
    body = ("%d %s" % (os.getpid(), VERSION)).encode()
    if path == "/taken":
        sock, _ = environ["gateway.connection"].take()
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n")
        hold()
        return []
    if path == "/stream":
        start_response("200 OK", [])
        return stream()
    if path == "/hold":
        hold()
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

def stream():
    yield b"begun"
    hold()
    yield b"ended"
'''

GATEWAY = "from gateway import create_app\napplication = create_app()\n"


class Plain:
    """One instance. ``place`` holds its application (app.py), configuration, run directories and log."""

    def __init__(self, place: Path, *options: str, workers: int = 1, config: str = CONFIG, bind: str = "127.0.0.1:0",
                 application: str = APPLICATION, conf: str = str(ROOT / "gunicorn.conf.py"),
                 command: tuple[str, ...] = (sys.executable, "-m", "gunicorn")) -> None:
        self.place = place
        self.log = place / "errors.log"
        self.config = place / "gateway.toml"
        self.app = place / "app.py"
        self.config.write_text(config)
        self.app.write_text(application)
        environ = {**os.environ, "GATEWAY_CONFIG": str(self.config), "GATEWAY_BIND": bind, "GATEWAY_WORKERS": str(workers),
                   "GATEWAY_RUN_DIR": str(place / "run"), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        for name in ("GATEWAY_ADMIN", "GATEWAY_INSTANCE_DIR"):
            environ.pop(name, None)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-c", conf, "--chdir", str(place), *options, "app:application"], cwd=place, env=environ,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.masters = [self.process.pid]

    def started(self, workers: int = 1) -> Plain:
        """When so many workers serve."""
        until(lambda: self.process.poll() is not None or len(self.serving()) == workers, self.log.read_text)
        assert self.process.poll() is None, self.log.read_text()
        return self

    @property
    def port(self) -> int:
        found = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", self.log.read_text())
        assert found is not None, self.log.read_text()
        return int(found[1])

    def run_dirs(self) -> list[RunDir]:
        return [RunDir(path) for path in (self.place / "run").glob("wicketgate-*")] if (self.place / "run").exists() else []

    def states(self) -> dict[int, str]:
        """Pid and state of every worker of every master."""
        return {worker.pid: worker.state for place in self.run_dirs() for worker in place.states().values()}

    def serving(self) -> set[int]:
        return {pid for pid, state in self.states().items() if state == "serving"}

    def signal(self, number: int, master: int = 0) -> None:
        os.kill(self.masters[master], number)

    def upgraded(self) -> None:
        """USR2: the new master's pid joins ``masters`` when its worker serves."""
        before, count = self.serving(), len(self.run_dirs())
        self.signal(signal.SIGUSR2)
        until(lambda: len(self.run_dirs()) > count and self.serving() > before, self.log.read_text)
        worker = next(iter(self.serving() - before))
        self.masters.append(parent(worker))

    def release(self) -> None:
        (self.place / "release").touch()

    def held(self) -> bool:
        return (self.place / "held").exists()

    def ended(self) -> int:
        """Wait for the first master's end; its status."""
        until(lambda: self.process.poll() is not None, self.log.read_text)
        return self.process.returncode

    def stop(self) -> None:
        """End what is left of it, new masters and orphans included: all are of one session."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:                           # nothing is left
            pass
        self.process.wait()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def gone(pid: int) -> bool:
    """Has the process ended (a zombie has)?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):          # the latter when it ends between opening and reading
        return True


class Connection:
    """A keep-alive connection read byte by byte: whatever is not an answer to a request is an error."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.requests = 0
        self.closing = False

    def ask(self, path: str = "/pid", method: str = "GET", body: bytes = b"") -> tuple[int, bytes] | None:
        """(status, body), or None when the server ended the connection without a byte."""
        length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
        try:
            self.sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: a.test\r\n{length}\r\n".encode() + body)
        except (BrokenPipeError, ConnectionResetError):
            return None
        return self.answer()

    def answer(self) -> tuple[int, bytes] | None:
        self.requests += 1
        data = b""
        while b"\r\n\r\n" not in data:
            try:
                piece = self.sock.recv(65536)
            except ConnectionResetError:
                piece = b""
            if not piece:
                assert not data, f"cut: {data!r}"
                return None
            data += piece
        head, _, data = data.partition(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields[b"Content-Length"])
        while len(data) < length:
            piece = self.sock.recv(65536)
            assert piece, f"cut: {head!r} {data!r}"
            data += piece
        assert len(data) == length, f"stray bytes: {data[length:]!r}"
        self.closing = fields[b"Connection"] == b"close"
        return int(head.split(b" ")[1]), data

    def rest(self) -> bytes:
        """What comes until the connection ends."""
        data = b""
        while piece := self.sock.recv(65536):
            data += piece
        return data

    def close(self) -> None:
        self.sock.close()


class Load:
    """Clients that ask without a pause. Like nginx, they ask again on a new connection when a reused one ends without a byte.

    ``answers`` counts answers by the pid of the worker, ``errors`` holds everything else.
    """

    def __init__(self, port: int, kept: int = 4, fresh: int = 2) -> None:
        self.port, self.running = port, True
        self.answers: Counter[int] = Counter()
        self.versions: Counter[str] = Counter()
        self.errors: list[str] = []
        self.retries = 0
        self.greenlets = [gevent.spawn(self._guarded, self._keep, number) for number in range(kept)]
        self.greenlets += [gevent.spawn(self._guarded, self._renew, number) for number in range(fresh)]

    def _guarded(self, ask: Callable[[], None], number: int) -> None:
        while self.running:
            try:
                ask()
            except Exception as error:
                self.errors.append(f"{ask.__name__} {number}: {error!r}")
                gevent.sleep(0.05)

    def _keep(self) -> None:
        """One connection until the server ends it."""
        connection = Connection(self.port)
        try:
            while self.running:
                answer = connection.ask()
                if answer is None:
                    assert connection.requests > 1, "a new connection ended without an answer"
                    self.retries += 1
                    return
                self._count(answer)
                if connection.closing:
                    stray = connection.rest()
                    assert not stray, f"stray bytes: {stray!r}"
                    return
                gevent.sleep(0.002)
        finally:
            connection.close()

    def _renew(self) -> None:
        """A POST on a connection of its own."""
        connection = Connection(self.port)
        try:
            answer = connection.ask("/pid", "POST", b"x" * 1000)
            assert answer is not None, "a new connection ended without an answer"
            self._count(answer)
        finally:
            connection.close()
        gevent.sleep(0.005)

    def _count(self, answer: tuple[int, bytes]) -> None:
        status, body = answer
        assert status == 200, f"{status} {body!r}"
        pid, version = body.decode().split()
        self.answers[int(pid)] += 1
        self.versions[version] += 1

    def more(self, count: int = 50, by: Callable[[int], bool] = lambda pid: True) -> None:
        """Wait for so many more answers of the workers ``by`` names."""
        def total() -> int:
            return sum(number for pid, number in self.answers.items() if by(pid))
        goal = total() + count
        until(lambda: total() >= goal or self.errors, lambda: f"{goal} answers, but {total()}")

    def stop(self) -> None:
        self.running = False
        gevent.joinall(self.greenlets, timeout=30)
        assert self.errors == []
