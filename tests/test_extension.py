"""Steps and targets of the user's own: the contract, what is said of those that do not keep it, and what they may rely on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import gevent
import pytest
import requests

import gateway
from gateway import errors
from gateway.app import Gateway
from gateway.config import Config
from gateway.configfile.load import load_text
from gateway.errors import ConfigError
from gateway.message import Handler, Request, Response
from gateway.pipeline import Pipeline
from gateway.tasks import current_request
from gateway.telemetry.log import RequestLog
from gateway.telemetry.metrics import Registry
from gateway.upstream.requests.adapter import govern_requests, ungovern_requests

ROOT = Path(__file__).parent.parent


class Tenant:
    """Refuses who does not name a tenant, and tells the answer whose it is."""

    def __init__(self, next: Handler, header: str = "X-Tenant") -> None:
        self.next = next
        self.header = header

    def __call__(self, request: Request) -> Response:
        tenant = request.header(self.header)
        if not tenant:
            raise errors.BadRequest(f"no {self.header}")
        response = self.next(request)
        response.headers.append(("X-For", tenant))
        return response

    def __repr__(self) -> str:
        return f"Tenant({self.header})"


def mark(next: Handler, word: str = "mark") -> Handler:
    """A step that is a function."""
    def handler(request: Request) -> Response:
        response = next(request)
        response.headers.append(("X-Mark", word))
        return response
    return handler


def price(request: Request) -> Response:
    return Response(200, [("Content-Type", "text/plain")], f"price of {request.params['sku']}".encode("latin-1"))


def broken(*_: Any) -> Any:
    raise LookupError("broken")


class Streaming:
    """A body that looks for its request when it is sent."""

    def __iter__(self):
        yield b"current" if current_request.get() is not None else b"nobody's"

    def close(self):
        pass


OWN = ModuleType("own_parts")
OWN.__dict__.update(
    Tenant=Tenant, mark=mark, price=price, broken=broken, nothing=lambda request: None, number=3,
    no_handler=lambda next: 3, failing=lambda request: broken(), sleeping=lambda request: gevent.sleep(20),
    streaming=lambda request: Response(200, [], Streaming()),
    number_in_field=lambda request: Response(200, [("X", 1)]), bytes_in_field=lambda request: Response(200, [(b"X", "1")]),
    list_for_field=lambda request: Response(200, [["X", "1"]]), text_for_field=lambda request: Response(200, ["X1"]),
    asking=lambda request: Response(200, [], requests.get("http://shop/x").content),
    current=lambda request: Response(200, [], str(current_request.get() is request).encode()))


@pytest.fixture(autouse=True)
def module(monkeypatch):
    monkeypatch.setitem(sys.modules, "own_parts", OWN)
    yield
    ungovern_requests()


def pipeline(route: dict[str, Any], **more: Any) -> Pipeline:
    config = Config.model_validate({"gateway": {"log": "off"}, "routes": [{"path": "/prices/{sku}", **route}], **more})
    return Pipeline(config, view=lambda request: Response(200, [], b"view"), log=RequestLog("off"), registry=Registry())


def ask(made: Pipeline, *headers: tuple[str, str]) -> Response:
    return made.handle(Request("GET", "/prices/7", list(headers), host="shop.test", peer="10.0.0.9"))


def test_a_target_of_the_users_own_answers():
    answer = ask(pipeline({"handler": "own_parts:price"}))
    assert (answer.status, answer.body) == (200, b"price of 7")


def test_steps_stand_in_the_order_of_the_file_and_take_their_settings():
    steps = ["own_parts:mark", {"use": "own_parts:Tenant", "header": "X-T"}, {"use": "own_parts:mark", "word": "in"}]
    made = pipeline({"handler": "own_parts:price", "response_headers": {"set": {"X-Rule": "last"}}, "steps": steps})
    assert ask(made).status == 400
    answer = ask(made, ("X-T", "a"))
    assert [(name, value) for name, value in answer.headers if name in ("X-Mark", "X-For", "X-Rule")] == [
        ("X-Mark", "in"), ("X-For", "a"), ("X-Mark", "mark"), ("X-Rule", "last")]
    assert made.describe(made.routes[0])[-4:] == [
        "step own_parts:mark", "step own_parts:Tenant: Tenant(X-T)", "step own_parts:mark", "handler own_parts:price"]


@pytest.mark.parametrize("name, status, code", [
    ("failing", 500, "internal_error"), ("nothing", 500, "internal_error"), ("sleeping", 504, "deadline_exceeded"),
    ("number_in_field", 500, "internal_error"), ("bytes_in_field", 500, "internal_error"),
    ("list_for_field", 500, "internal_error"), ("text_for_field", 500, "internal_error")])
def test_what_a_target_does_wrong_is_answered_and_ends(name, status, code):
    made = pipeline({"handler": f"own_parts:{name}", "timeout": "50ms" if name == "sleeping" else "10s"})
    answer = ask(made)
    assert answer.status == status and f'"code":"{code}"'.encode() in answer.body


def test_the_request_is_the_current_one_for_what_a_part_calls(serve):
    def handle(sock, address):
        with sock:
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")

    made = pipeline({"handler": "own_parts:asking"}, upstreams={"shop": {"instances": [f"http://127.0.0.1:{serve(handle)}"]}})
    govern_requests(made.upstreams)
    request = Request("GET", "/prices/7", [], host="shop.test", peer="10.0.0.9")
    assert made.handle(request).body == b"hi"
    assert [attempt.upstream for attempt in request.attempts] == ["shop"]
    assert ask(pipeline({"handler": "own_parts:current"})).body == b"True"
    assert current_request.get(None) is None
    made.close()


def test_the_request_stays_the_current_one_until_the_end_of_a_stream():
    answer = ask(pipeline({"handler": "own_parts:streaming", "steps": ["own_parts:mark"]}))
    assert current_request.get(None) is not None
    assert b"".join(answer.body) == b"current"
    answer.body.close()
    assert current_request.get(None) is None


@pytest.mark.parametrize("route, problem", [
    ({"handler": "own_parts:none"}, "handler: 'own_parts' has no 'none'"),
    ({"handler": "no_such_module:x"},
     "handler: cannot import 'no_such_module': ModuleNotFoundError: No module named 'no_such_module'"),
    ({"handler": "own_parts:number"}, "handler: own_parts:number cannot be called"),
    ({"handler": "own_parts:Tenant.__init__"}, "handler: own_parts:Tenant.__init__ does not take a request: "
                                               "missing a required argument: 'next'"),
    ({"steps": ["own_parts:number"]}, "steps: own_parts:number is neither a class nor a function"),
    ({"steps": ["own_parts:no_handler"]}, "steps: own_parts:no_handler gives int, which is no handler"),
    ({"steps": ["own_parts:broken"]}, "steps: own_parts:broken cannot be made: LookupError: broken"),
    ({"steps": [{"use": "own_parts:mark", "wrod": 1}]},
     "steps: own_parts:mark does not take these settings: got an unexpected keyword argument 'wrod'"),
])
def test_what_is_wrong_with_a_part_is_said_before_the_first_request(route, problem):
    with pytest.raises(ConfigError) as caught:
        pipeline({"respond": {"text": "x"}, **route} if "steps" in route else route)
    assert caught.value.problems == [f'route "/prices/{{sku}}": {problem}']


def test_the_mistakes_of_all_routes_are_said_at_once():
    config = Config.model_validate({"gateway": {"log": "off"}, "routes": [
        {"path": "/a", "handler": "own_parts:none"}, {"path": "/b", "handler": "own_parts:price"},
        {"path": "/c", "respond": {"text": "x"}, "steps": ["own_parts:number"]}]})
    with pytest.raises(ConfigError) as caught:
        Gateway(config).pipeline
    assert [problem.split(": ")[0] for problem in caught.value.problems] == ['route "/a"', 'route "/c"']


@pytest.mark.parametrize("line, words", [
    ('handler = "shop"', "handler: \"shop\" names nothing in a module"),
    ('handler = "shop:a b"', "names nothing in a module"),
    ('respond = { text = "x" }\nsteps = ["shop.Audit"]', "names nothing in a module"),
    ('respond = { text = "x" }\nsteps = [{ header = "x" }]', "use"),
    ('respond = { text = "x" }\nhandler = "shop:a"', "a route has one target, this one has 2: respond, handler"),
])
def test_a_reference_names_a_module_and_something_in_it(line, words):
    with pytest.raises(ConfigError) as caught:
        load_text(f'[[routes]]\npath = "/x"\n{line}\n', {}, "the file")
    assert words in "\n".join(caught.value.problems)


def test_what_is_public_is_what_the_page_lists():
    page = (ROOT / "docs" / "extension.md").read_text().partition("## What is public")[2]
    listed = set(re.findall(r"`(\w+)(?:\(\))?`", page))
    assert set(gateway.__all__) <= listed
    assert all(hasattr(gateway, name) for name in gateway.__all__) and set(gateway.__all__) <= set(dir(gateway))
    members = listed - set(gateway.__all__) - {"gateway", "py"}
    request = Request("GET", "/", [])
    assert [name for name in members if not hasattr(request, name) and not hasattr(Response(200, []), name)] == []


def test_the_example_works(monkeypatch):
    monkeypatch.delitem(sys.modules, "own_parts")        # the example's is meant, not the one above
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    config = load_text((ROOT / "examples" / "own_parts.toml").read_text(), {}, "own_parts.toml")
    app = Gateway(config.model_copy(update={"gateway": config.gateway.model_copy(update={"log": "off"})}))
    answer = app.pipeline.handle(Request("GET", "/prices/apple", [], host="shop.test", peer="10.0.0.9"))
    assert (answer.status, answer.body) == (200, b'{"sku": "apple", "cents": 120}')
    assert "step own_parts:Audit: audit of DELETE, POST, PUT" in app.pipeline.describe(config.routes[0])
    app.pipeline.close()


def test_the_example_works_in_a_folder_of_its_own(tmp_path):
    for file in (ROOT / "examples").glob("own_parts.*"):
        shutil.copy(file, tmp_path)

    def command(*arguments: str) -> str:
        return subprocess.run([sys.executable, "-m", "gateway.cli", *arguments], cwd=tmp_path, check=True, capture_output=True,
                              text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)}).stdout

    assert "own_parts.toml: no mistakes; 2 routes" in command("check", "--config", "own_parts.toml")
    lines = command("explain", "--config", "own_parts.toml", "GET", "http://127.0.0.1:8000/prices/apple")
    assert "  handler own_parts:price\n" in lines
