"""A real gateway for a test: the plain ``gunicorn`` command on a free port, with the configuration the test gives."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.waiting import PATIENT, until

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port nobody listens on right now, below those that the kernel gives to clients: one of them could take it meanwhile."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", random.SystemRandom().randrange(10000, 32768)))
            return probe.getsockname()[1]


def connects(port: int) -> bool:
    """Does somebody listen on that port of loopback?"""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def patient(config: str) -> str:
    """A configuration whose upstreams have time to take a connection: after each line ``instances = [...]``."""
    return re.sub(r"(?m)^( *)instances = \[.*\]$", rf'\g<0>\n\1connect_timeout = "{PATIENT}"\n\1pool_timeout = "{PATIENT}"', config)


class Running:
    """One instance. ``port`` serves, ``admin`` is the admin listener's port, ``log`` the request log, ``errors`` Gunicorn's."""

    def __init__(self, place: Path, config: str, *, workers: int = 1, environ: dict[str, str] | None = None,
                 port: int | None = None) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.admin = free_port()
        self.config = place / "gateway.toml"
        self.log = place / "requests.log"
        self.errors = place / "errors.log"
        self.config.write_text(patient(config))
        self.environ = {**os.environ, "GATEWAY_CONFIG": str(self.config), "GATEWAY_ADMIN": f"127.0.0.1:{self.admin}",
                        "GATEWAY_LOG": str(self.log), "GATEWAY_BIND": f"127.0.0.1:{self.port}",
                        "GATEWAY_WORKERS": str(workers), "PYTHONPATH": str(place), **(environ or {})}
        self.start()

    def start(self) -> None:
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(self.arguments(), cwd=ROOT, env=self.environ, stdout=errors, stderr=errors,
                                            stdin=subprocess.DEVNULL)
        try:
            until(lambda: self.process.poll() is not None or self.answers(), lambda: f"no answer:\n{self.errors.read_text()}")
        except AssertionError:
            self.stop()
            raise
        if self.process.returncode is not None:
            raise AssertionError(f"gunicorn ended with {self.process.returncode}:\n{self.errors.read_text()}")

    def arguments(self) -> list[str]:
        return [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:application"]

    def answers(self) -> bool:
        """Does a worker take requests? Asked at the admin listener: a request of its own would reach the test's upstream."""
        try:
            return ask(self.admin, b"GET /readyz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")[0] == 200
        except (OSError, ValueError):
            return False

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def lines(self, count: int = 1, **values: Any) -> list[dict[str, Any]]:
        """The lines of the request log with these values, as soon as there are ``count``: they are written after the answer."""
        def found() -> list[dict[str, Any]]:
            return [line for line in map(json.loads, self.log.read_text().splitlines())
                    if all(line.get(name) == value for name, value in values.items())]
        until(lambda: len(found()) >= count, lambda: f"{count} lines with {values} in the request log, but {len(found())}")
        return found()

    def in_flight(self) -> float:
        """The gauge of the requests that are being answered."""
        page = ask(self.admin, b"GET /metrics HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")[2].decode()
        found = re.search(r"^gateway_requests_in_flight(?:\{[^}]*\})? (\S+)$", page, re.M)
        assert found is not None
        return float(found[1])

    def signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def stop(self) -> int:
        """End it in an orderly way and return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                for pid in [*self.workers(), self.process.pid]:
                    os.kill(pid, signal.SIGKILL)
                self.process.wait()
        return self.process.returncode


def ask(port: int, raw: bytes, *, timeout: float = 60.0) -> tuple[int, list[tuple[str, str]], bytes]:
    """Send bytes, read until the other side closes: (status, header fields, body as sent). The request should ask for close."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
        client.sendall(raw)
        data = b""
        while piece := client.recv(65536):
            data += piece
    return parse(data)


def parse(data: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """An answer taken apart. Raises ValueError when it is none."""
    head, mark, body = data.partition(b"\r\n\r\n")
    if not mark:
        raise ValueError(f"not an answer: {data[:200]!r}")
    status, *lines = head.decode("latin-1").split("\r\n")
    fields = [tuple(line.split(": ", 1)) for line in lines]
    return int(status.split(" ")[1]), fields, body                       # type: ignore[return-value]


def field(fields: list[tuple[str, str]], name: str) -> str | None:
    """The first value of a header field."""
    return next((value for key, value in fields if key.lower() == name.lower()), None)


class Recorder:
    """A raw upstream: keeps the bytes of every request, whole, and answers with what ``answer(head, body)`` gives."""

    def __init__(self, answer: bytes | None = None) -> None:
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.complete: list[bool] = []
        self.answer = answer or b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self.connections = 0

    def __call__(self, sock: socket.socket, address: object) -> None:
        self.connections += 1
        reader = sock.makefile("rb")
        try:
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = reader.readline()
                    if not line:
                        return
                    head += line
                self.heads.append(head)
                body, complete = self.body(reader, head.lower())
                self.bodies.append(body)
                self.complete.append(complete)
                if not complete:
                    return
                sock.sendall(self.answer)
                if b"connection: close" in self.answer.lower().partition(b"\r\n\r\n")[0]:
                    return
        except OSError:
            return
        finally:
            reader.close()
            sock.close()

    @staticmethod
    def body(reader, head: bytes) -> tuple[bytes, bool]:
        if b"transfer-encoding: chunked" in head:
            body = b""
            while True:
                line = reader.readline()
                if not line:
                    return body, False
                size = int(line, 16)
                piece = reader.read(size + 2)
                if len(piece) < size + 2:
                    return body + piece, False
                if not size:
                    return body, True
                body += piece[:-2]
        length = next((int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
        body = reader.read(length)
        return body, len(body) == length

    def fields(self, index: int = -1) -> list[tuple[str, str]]:
        """The header fields of a request as received."""
        lines = self.heads[index].decode("latin-1").split("\r\n")[1:-2]
        return [tuple(line.split(": ", 1)) for line in lines]            # type: ignore[misc]

    def line(self, index: int = -1) -> bytes:
        return self.heads[index].partition(b"\r\n")[0]
