"""One upstream has one Host, whatever calls it: a forwarded request, a part of a composition, a view's ``requests``."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import requests
from flask import Blueprint

from gateway.app import Gateway, ready, stop_worker
from gateway.config import Config
from gateway.upstream.requests.adapter import ungovern_requests

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "legacy_front.toml"


def head_of(sock):
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return None, {}
        data += piece
    line, *fields = data.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
    return line, {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}


def answer(sock, value, status="200 OK"):
    body = json.dumps(value).encode()
    sock.sendall(b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
                 % (status.encode(), len(body), body))


@pytest.fixture
def started():
    """``started(config)`` is an application, whose ``requests`` are governed."""
    apps = []

    def start(config) -> Gateway:
        apps.append(ready(Gateway(Config.model_validate(config))))
        return apps[-1]

    yield start
    ungovern_requests()
    for app in apps:
        stop_worker(app)


@pytest.fixture
def views():
    shop = Blueprint("shop_of_hosts", "views_of_hosts")

    @shop.get("/view")
    def view():
        return requests.get("http://shop/").json()

    module = sys.modules["views_of_hosts"] = ModuleType("views_of_hosts")
    module.shop = shop
    yield "views_of_hosts"
    del sys.modules["views_of_hosts"]


@pytest.mark.parametrize("setting", ["upstream", "preserve", "shop.internal", "shop.internal:81"])
def test_all_ways_to_an_upstream_send_one_host(setting, serve, started, views):
    def echo(sock, address):
        _, fields = head_of(sock)
        answer(sock, {name: fields.get(name) for name in ("host", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-for")})

    port = serve(echo)
    app = started({
        "gateway": {"views": [views]},
        "upstreams": {"shop": {"instances": [f"http://127.0.0.1:{port}"], "host": setting, "connect_timeout": "20s"}},
        "routes": [{"path": "/forward", "upstream": "shop"}, {"path": "/part", "aggregate": {"shop": "shop:/"}}]})
    client = app.test_client()
    forwarded, part, view = [client.get(path, headers={"Host": "public.test:8000"}).get_json()
                             for path in ("/forward", "/part", "/view")]
    expected = {"upstream": f"127.0.0.1:{port}", "preserve": "public.test:8000"}.get(setting, setting)
    assert [forwarded["host"], part["shop"]["host"], view["host"]] == [expected] * 3
    assert part["shop"] == forwarded and forwarded["x-forwarded-host"] == "public.test:8000"


def test_the_example_of_the_readme_in_front_of_an_application_that_checks_its_host(serve, started):
    """As Django does with ALLOWED_HOSTS."""
    def django(sock, address):
        line, fields = head_of(sock)
        if fields.get("host") != "shop.test":
            answer(sock, "DisallowedHost", "400 Bad Request")
        else:
            answer(sock, line.split()[1])

    port = serve(django)
    config = tomllib.loads(EXAMPLE.read_text())
    config["upstreams"]["shop"].update(instances=[f"http://127.0.0.1:{port}"], connect_timeout="20s")
    client = started(config).test_client()
    assert client.get("/anything", headers={"Host": "shop.test"}).get_json() == "/anything"
    got = client.get("/api/start/7", headers={"Host": "shop.test"})
    assert got.get_json() == {"user": "/api/users/7", "news": "/api/news?limit=3"}
    assert "X-Partial" not in got.headers
