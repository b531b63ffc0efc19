"""The pipeline: a step may stand in any place around any target, and what branches is shown as it is."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, AnyStr

import pytest
from flask import Blueprint
from gevent.event import Event
from gevent.server import StreamServer
from gevent.socket import socketpair
from werkzeug.test import EnvironBuilder

from gateway.app import Gateway
from gateway.cli.explain import destinations
from gateway.config import TARGETS, Config, HeaderRules, RespondSettings, Route
from gateway.forward import Forward
from gateway.headers import edit_of
from gateway.message import Body, Handler, Request, Response
from gateway.pipeline import Pipeline, describe_handler, inner, layers
from gateway.respond import Respond
from gateway.telemetry.log import RequestLog
from gateway.telemetry.metrics import Registry
from gateway.views import View

PLACES = range(6)                                        # outside of each of the five steps below, and next to the target
OUTER = ("observe", "accept", "offload", "match")        # the steps of all routes, outermost first
TAKEN = Event()                                          # somebody has the first piece of a body: the second may come
ROUTE = {"path": "/shop/*", "methods": ["GET", "HEAD", "POST"], "max_body": 1000, "steps": ["test_pipeline:plain_step"],
         "response_headers": {"set": {"X-Rule": "1"}}, "cache": {"ttl": "1m", "offload": True}}
WAYS: dict[str, dict[str, Any]] = {
    "upstream": {"upstream": "shop", "websocket": True},
    "aggregate": {"aggregate": {"a": "shop:/part", "b": {"from": "shop:/none", "optional": True}}},
    "respond": {"respond": {"json": {"a": 1}}},
    "files": {"files": "{folder}", "methods": ["GET", "HEAD"]},
    "handler": {"handler": "test_pipeline:streamed"},
    "view": {"view": True},
}


class NoOp:
    """A step that does nothing."""

    def __init__(self, next: Handler) -> None:
        self.next = next

    def __call__(self, request: Request) -> Response:
        return self.next(request)


plain_step = NoOp


def gated(first: AnyStr, second: AnyStr) -> Iterator[AnyStr]:
    yield first
    assert TAKEN.wait(20), "nobody has taken the first piece"
    yield second


class Pieces:
    def __iter__(self) -> Iterator[bytes]:
        yield from gated(b"first", b"second")

    def close(self) -> None:
        pass


def streamed(request: Request) -> Response:
    return Response(200, [("Content-Type", "text/plain")], Pieces())


class Service:
    """An upstream: an answer in two pieces, of which the second waits until somebody has the first."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.server = StreamServer(("127.0.0.1", 0), self.serve)
        self.server.start()

    def serve(self, sock: Any, address: Any) -> None:
        with sock:
            data = b""
            while piece := sock.recv(65536):
                data += piece
                while (end := data.find(b"\r\n\r\n")) >= 0:
                    head, data = data[:end], data[end + 4:]
                    if length := re.search(rb"Content-Length: (\d+)", head):
                        while len(data) < int(length[1]):
                            data += sock.recv(65536)
                        data = data[int(length[1]):]
                    self.heads.append(head)
                    self.answer(sock, head)

    def answer(self, sock: Any, head: bytes) -> None:
        if b"Upgrade: websocket" in head:
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
        elif b" /none" in head:
            sock.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        elif b" /part" in head or head.startswith(b"HEAD"):
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n"
                         + (b"" if head.startswith(b"HEAD") else b'{"a":1}'))
        else:
            sock.sendall(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
            assert TAKEN.wait(20), "nobody has taken the first piece"
            sock.sendall(b"6\r\nsecond\r\n0\r\n\r\n")


def views() -> Blueprint:
    made = Blueprint("shop", __name__)

    @made.route("/shop/<path:rest>", methods=["GET", "POST"])
    def shop(rest):
        return gated("first", "second"), 200, {"X-View": rest}

    return made


class World:
    """One route with a target of ``kind``; a step that does nothing in ``place``: the number of one inside the route's own steps,
    or the name of the step of all routes around which it stands (None: nowhere)."""

    def __init__(self, kind: str, place: int | str | None, folder: str) -> None:
        self.service = Service()
        settings = {key: value.format(folder=folder) if isinstance(value, str) else value for key, value in WAYS[kind].items()}
        self.config = Config.model_validate({
            "gateway": {"log": "off"}, "routes": [{**ROUTE, **settings}], "cache": {"file": f"{folder}/stored"},
            "upstreams": {"shop": {"instances": [f"http://127.0.0.1:{self.service.server.server_port}"],
                                   "connect_timeout": "20s"}}})
        flask = Gateway(Config.model_validate({"gateway": {"log": "off"}}))
        flask.register_blueprint(views())
        flask_wsgi = super(Gateway, flask).wsgi_app

        class Padded(Pipeline):
            def wraps(self, route: Route) -> Iterator[Callable[[Handler], Handler]]:
                wraps = [*super().wraps(route)]
                if isinstance(place, int):
                    wraps.insert(place, NoOp)
                return iter(wraps)

        self.app = flask
        self.pipeline = Padded(self.config, view=View(flask_wsgi), log=RequestLog("off"), registry=Registry())
        if isinstance(place, str):
            position = OUTER.index(place)
            outer: list[Any] = [self.pipeline, *layers(self.pipeline.handle)]
            setattr(outer[position], "next" if position else "handle", NoOp(outer[position + 1]))

    def ask(self, method: str = "GET", target: str = "/shop/a.txt", headers: tuple = (), body: bytes | None = None,
            connection: Any = None) -> Response:
        environ = EnvironBuilder(method=method, path=target, data=body, headers=[("Host", "shop.test"), *headers]).get_environ()
        request = self.app.incoming(environ)
        request.connection = connection
        if body is None:
            request.body = None
        elif request.body is None:
            request.body = Body.of(body)
        return self.pipeline.handle(request)

    def seen(self, response: Response) -> tuple[Any, ...]:
        """What a client gets, piece by piece, but for what is different each time."""
        headers = [(name, value) for name, value in response.headers if name not in ("X-Request-Id", "Date")]
        if isinstance(response.body, bytes):
            return response.status, response.reason, headers, re.sub(rb"[0-9a-f]{32}", b"id", response.body)
        pieces = []
        for piece in response.body:
            if piece:
                pieces.append(piece)
                TAKEN.set()
        response.body.close()
        TAKEN.clear()
        return response.status, response.reason, headers, pieces

    def close(self) -> None:
        self.pipeline.close()
        self.service.server.stop(timeout=0)
        self.service.server.close()


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "test_pipeline", sys.modules[__name__])
    worlds: list[World] = []

    def make(kind: str, place: int | str | None) -> World:
        folder = tmp_path / str(len(worlds))             # what one has stored is not for the next
        folder.mkdir()
        (folder / "a.txt").write_text("text of a file")
        os.utime(folder / "a.txt", (1_000_000_000, 1_000_000_000))       # one Last-Modified, in whichever second it is made
        worlds.append(World(kind, place, str(folder)))
        return worlds[-1]

    yield make
    for each in worlds:
        each.close()


def conversation(world: World) -> list[Any]:
    """A miss, a hit, a HEAD, a POST, one that is too large, and what a condition gets."""
    answers = [world.seen(world.ask()), world.seen(world.ask())]
    answers.append(world.seen(world.ask("HEAD", "/shop/b.txt")))
    for body in (b"a=1", b"x" * 1001):
        answers.append(world.seen(world.ask("POST", "/shop/c.txt", (("Content-Type", "text/plain"),), body)))
    answers.append(world.seen(world.ask("GET", "/shop/a.txt", (("Range", "bytes=0-1"),))))
    return answers


@pytest.mark.parametrize("kind", TARGETS)
def test_a_step_that_does_nothing_changes_nothing_wherever_it_stands(world, kind):
    expected = conversation(world(kind, None))
    assert [answer[0] for answer in expected[:2]] == [200, 200] and ("X-Rule", "1") in expected[0][2]
    for place in (*PLACES, *OUTER):
        assert conversation(world(kind, place)) == expected, f"in place {place}"


@pytest.mark.parametrize("place", [None, *PLACES, *OUTER])
def test_an_upgrade_passes_a_step_wherever_it_stands(world, place):
    class Connection:
        def __init__(self, sock):
            self.socket = sock

    here, there = socketpair()
    with here, there:
        made = world("upstream", place)
        response = made.ask(headers=(("Connection", "Upgrade"), ("Upgrade", "websocket")), connection=Connection(here))
    assert response.status == 101 and response.takeover is not None
    assert response.tunnel.leftover == b"hello"
    response.tunnel.sock.close()
    assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in made.service.heads[0]


def test_the_steps_of_all_routes_are_those_that_are_tried_here(world):
    assert [repr(step).partition(":")[0] for step in layers(world("respond", None).pipeline.handle)] == [*OUTER]


def test_every_kind_of_target_has_a_row_and_is_tried_here(world):
    assert set(world("respond", None).pipeline.targets) == set(TARGETS) == set(WAYS)


class Split:
    """A step that chooses."""

    def __init__(self, **branches: Handler) -> None:
        self.branches = branches

    def __repr__(self) -> str:
        return "split"


class Named(NoOp):
    def __init__(self, name: str, next: Any = None) -> None:
        self.name = name
        self.next = next

    def __repr__(self) -> str:
        return self.name


def test_a_split_says_where_each_of_its_branches_sends_a_request(world):
    """The key has what either target sees: the fields of one of them are edited on the way."""
    made = world("upstream", None)
    route = made.config.routes[0]
    edited = Forward(route, made.pipeline.sends["shop"], upstream="shop", host="upstream", forwarding=made.pipeline.forwarding,
                     edit=edit_of(HeaderRules(set={"X-Beta": "1"})))
    plain, fixed = made.pipeline.targets_of(route)[0], Respond(RespondSettings(text="x"))
    made.pipeline.handlers[route.name] = NoOp(Split(old=plain, new=edited, off=fixed))
    entry = made.pipeline.serve(route)
    request = Request("GET", "/a", [("X-Beta", "0"), ("Accept", "b")], host="shop.test")
    assert [hop.target for target in made.pipeline.targets_of(route) if isinstance(target, Forward)
            for hop in target.destinations(request)] == ["/a", "/a"]
    assert len(destinations(made.pipeline, route, request)) == 4, "a headline and an address for each of two upstreams"
    assert {"x-beta", "x-request-id"} <= entry.own_fields and "accept" not in entry.own_fields
    assert sorted(value for name, value in entry.onward(request) if name == "X-Beta") == ["0", "0", "1"]


def test_a_split_is_described_with_its_branches():
    new = Named("cache", Named("view"))
    split = Split(old=Named("forward"), new=new)
    assert [*describe_handler(Named("observe", split))] == [
        "observe", "split", "  old:", "    forward", "  new:", "    cache", "    view"]
    assert [*map(repr, layers(split))] == ["split", "forward", "cache", "view"]
    assert inner(new.next) == {}
