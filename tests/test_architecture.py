"""docs/architecture.md draws the files that a request runs through. Here real requests do, on connections to a real worker, and the
drawing is compared with the calls: their order, and who calls whom."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import requests
from gevent import getcurrent
from gunicorn.config import Config as GunicornConfig

import gateway
from gateway import create_app
from gateway.cli.example_request import SETTINGS
from gateway.configfile.load import load_text
from gateway.server.worker import GatewayWorker
from gateway.upstream.requests.adapter import ungovern_requests
from tests.compiled import COMPILED
from tests.waiting import SAFETY

PACKAGE = f"{Path(gateway.__file__).parent}/"
PAGE = Path(__file__).parent.parent / "docs" / "architecture.md"
LINE = re.compile(r"( *)((?:\w+/)*\w+\.py)(?: +(\S.*))?")
BLOCK = re.compile(r"^```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
CONFIG = """
[gateway]
log = "{log}"

[upstreams.shop]
instances = ["http://127.0.0.1:{port}"]

[[routes]]
path = "/*"
upstream = "shop"
"""
CACHE = "cache = { ttl = '1h' }\n"
LIMIT = "max_body = '1KB'\n"
WARM = 3                                                 # requests before, on the same connection
INDENT = 2                                               # spaces
follows_calls = pytest.mark.skipif(COMPILED, reason="no profiler sees the calls of compiled functions")
Call = tuple[int, str]                                   # how deep, and the file


class Calls:
    """The files of the package that a greenlet enters, each once, in their order, indented below what called it."""

    def __init__(self) -> None:
        self.depths: dict[str, int] = {}
        self.greenlet: Any = None
        self.recording = False

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if not self.recording or event != "call" or getcurrent() is not self.greenlet:
            return
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return
        files: list[str] = []
        caller: FrameType | None = frame
        while caller is not None:
            name = caller.f_code.co_filename
            if name.startswith(PACKAGE):
                files.append(name.removeprefix(PACKAGE))
            caller = caller.f_back
        depth = -1
        for file in reversed(files):
            depth = self.depths.setdefault(file, depth + 1)

    def around(self, handle: Callable[..., None]) -> Callable[..., None]:
        """What serves a connection, in the greenlet whose calls are followed."""
        def profiled(*arguments: Any) -> None:
            self.greenlet = getcurrent()
            sys.setprofile(self)
            try:
                handle(*arguments)
            finally:
                sys.setprofile(None)

        return profiled


class Quiet:
    """Gunicorn's logger."""

    def __getattr__(self, level: str) -> Any:
        return lambda *arguments, **_: None


def path_of(application: Any, path: str) -> list[Call]:
    """What a request runs through, from the read of its head to the last byte of its answer, once pools and tables are filled."""
    config = GunicornConfig()
    for name, value in {**SETTINGS, "keepalive": 75}.items():
        config.set(name, value)
    listener = socket.create_server(("127.0.0.1", 0))
    worker, calls = GatewayWorker(1, 0, [listener], None, 15, config, Quiet()), Calls()
    worker.wsgi = application
    worker.connections.handle = calls.around(worker.connections.handle)
    servers = worker._listen()
    try:
        with socket.create_connection(listener.getsockname(), timeout=SAFETY) as client:
            for number in range(WARM + 1):
                calls.recording = number == WARM
                client.sendall(b"GET %b HTTP/1.1\r\nHost: shop.test\r\n\r\n" % path.encode())
                assert whole(client).startswith(b"HTTP/1.1 200 OK\r\n")
            calls.recording = False
    finally:
        for server in servers:
            server.stop()
        worker.tmp.close()
    return [(depth, file) for file, depth in calls.depths.items()]


def whole(client: socket.socket) -> bytes:
    """An answer whose body is ``ok``."""
    data = b""
    while not data.endswith(b"\r\n\r\nok"):
        piece = client.recv(65536)
        assert piece, data
        data += piece
    return data


def upstream(sock: socket.socket, address: object) -> None:
    while sock.recv(65536):
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")


def drawings(page: str) -> dict[str, list[Call]]:
    """What the page draws, by the headings, each level indented."""
    found: dict[str, list[Call]] = {}
    for section in page.split("\n## ")[1:]:
        heading, _, content = section.partition("\n")
        if block := BLOCK.search(content):
            lines = [LINE.fullmatch(line) for line in block[1].splitlines()]
            assert all(lines), f"{heading}: each line has a file and what it does"
            found[heading] = [(len(line[1]) // INDENT, line[2]) for line in lines if line]
    return found


def text(calls: list[Call]) -> str:
    return "\n".join(" " * INDENT * depth + file for depth, file in calls)


@pytest.fixture
def route(serve, tmp_path):
    """``route(more)``: the application with a route to an upstream, and more settings of it."""
    applications = []

    def start(more: str = "") -> Any:
        application = create_app(load_text(CONFIG.format(port=serve(upstream), log=tmp_path / "requests.log") + more, {}))
        application.request_log.start()
        applications.append(application)
        return application

    yield start
    for application in applications:
        application.request_log.stop()
        application.pipeline.close()
    ungovern_requests()


def view() -> str:
    return requests.get("http://shop/x").text


CASES = {"A proxied request": ("", "/x"), "A cache hit": (CACHE, "/x"), "A view that calls an upstream": ("", "/view")}


@follows_calls
@pytest.mark.parametrize("heading", CASES)
def test_the_page_draws_what_a_request_runs_through(route, heading):
    more, path = CASES[heading]
    application = route(more)
    if path == "/view":
        application.add_url_rule("/view", view_func=view)
    calls = path_of(application, path)
    assert text(drawings(PAGE.read_text())[heading]) == text(calls)


@follows_calls
def test_another_step_on_the_way_is_seen(route):
    """Planted in the code: a limit of the body, which the page does not draw."""
    drawn, calls = drawings(PAGE.read_text())["A proxied request"], path_of(route(LIMIT), "/x")
    assert drawn != calls and [file for _, file in calls if file not in dict(map(reversed, drawn))] == ["bodylimit.py"]


@pytest.mark.parametrize("change", [
    lambda lines: lines[:3] + lines[4:],
    lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    lambda lines: [*lines[:3], lines[3].replace(".py", "s.py"), *lines[4:]],
    lambda lines: [*lines[:3], f"    {lines[3]}", *lines[4:]],
])
def test_another_page_is_seen(change):
    """Planted in the page: a file left out, two in another order, another name, another caller."""
    page = PAGE.read_text()
    block = BLOCK.search(page.partition("\n## A proxied request\n")[2])[1]
    assert drawings(page.replace(block, "".join(change(block.splitlines(keepends=True))))) != drawings(page)
