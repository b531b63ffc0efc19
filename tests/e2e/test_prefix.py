"""X-Forwarded-Prefix: views below a prefix that a trusted proxy has taken off, on both lanes."""

from __future__ import annotations

import json

import pytest
from running import ROOT, Running, ask

pytestmark = pytest.mark.leaks_allowed      # servers for the module

VIEW = '''
from flask import Blueprint, redirect, request, url_for
from gateway import static_url

shop = Blueprint("shop", __name__)

@shop.get("/item/<int:number>")
def item(number):
    return {"url": url_for("shop.item", number=7), "whole": url_for("shop.item", number=7, _external=True), "path": request.path,
            "static": static_url("app.css").rpartition("/")[0]}

@shop.get("/folder/")
def folder():
    return ""
'''
CONFIG = '''
[gateway]
views = ["below"]
trust = [{trust}]

[[routes]]
path = "/static/*"
files = "{files}"
'''


class Started(Running):
    def __init__(self, place, trust, *command):
        self.command = command
        place.mkdir()
        (place / "files").mkdir()
        (place / "files" / "app.css").write_text("a {}")
        (place / "below.py").write_text(VIEW)
        super().__init__(place, CONFIG.format(trust=trust, files=place / "files"))

    def arguments(self):
        return [*super().arguments(), *self.command]


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    place = tmp_path_factory.mktemp("prefix")
    hooked = place / "hooked.conf.py"
    hooked.write_text((ROOT / "gunicorn.conf.py").read_text() + "\n\ndef pre_request(worker, request):\n    pass\n")
    trust = '"127.0.0.1/32"'
    started = {"lane": Started(place / "lane", trust), "parser": Started(place / "parser", trust, "-c", str(hooked)),
               "stranger": Started(place / "stranger", "")}
    yield started
    for server in started.values():
        server.stop()


PREFIXES = [
    ("/shop", "/shop"), ("/shop/", "/shop"), ("/a/b-c_d.e~f", "/a/b-c_d.e~f"), ("/outer, /inner", "/inner"), ("/", ""), ("", ""),
    ("shop", ""), ("//evil.test", ""), ("/a//b", ""), ("/../x", ""), ("/a/..", ""), ("/.", ""), ("/.well-known", "/.well-known"),
    ("https://evil.test", ""), ("/a b", ""), ("/%2e%2e", ""), ("/caf\xe9", ""), ('/"><script>', ""), ("/a\\b", ""), ("/a?b", ""),
    ("/a#b", ""), ("/a;b", ""), ("/shop,", ""),
]


def get(server, target, *prefixes):
    fields = "".join(f"X-Forwarded-Prefix: {prefix}\r\n" for prefix in prefixes)
    head = f"GET {target} HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-Proto: https\r\n{fields}Connection: close\r\n\r\n"
    return ask(server.port, head.encode("latin-1"))


@pytest.mark.parametrize("kind", ["lane", "parser", "stranger"])
def test_a_view_below_a_prefix(kind, servers):
    for sent, prefix in [*PREFIXES, (None, "")]:
        _, _, body = get(servers[kind], "/item/1", *([] if sent is None else [sent]))
        prefix = "" if kind == "stranger" else prefix
        scheme = "http" if kind == "stranger" else "https"
        assert json.loads(body) == {"url": f"{prefix}/item/7", "whole": f"{scheme}://shop.test{prefix}/item/7", "path": "/item/1",
                                    "static": f"{prefix}/static"}, sent


@pytest.mark.parametrize("kind, prefix", [("lane", "/b"), ("parser", "/b"), ("stranger", "")])
def test_several_fields_and_flasks_own_redirect(kind, prefix, servers):
    status, fields, _ = get(servers[kind], "/folder", "/a", "/b")
    assert status == 308
    assert dict((name.lower(), value) for name, value in fields)["location"].partition("//")[2] == f"shop.test{prefix}/folder/"
