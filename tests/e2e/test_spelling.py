"""A narrow route before a server that folds what it is asked for, over real sockets: both lanes, a byte-exact path behind."""

from __future__ import annotations

import posixpath
from urllib.parse import unquote

import pytest
from running import Running, ask

CONFIG = """
[gateway]
timeout = "20s"
{literal}
[upstreams.old]
instances = ["http://127.0.0.1:{port}"]

[[routes]]
path = "/*"
upstream = "old"
cache = {{ ttl = "1h" }}

[[routes]]
path = "/admin/*"
respond = {{ status = 403 }}

[[routes]]
path = "/api/{{id}}"
upstream = "old"
cache = {{ ttl = "1h" }}
response_headers = {{ set = {{ X-Route = "api" }} }}
"""
LANES = {"lane": b"", "parser": b"TE: trailers\r\n"}


@pytest.fixture
def world(serve, tmp_path):
    """``world()`` is the port of a gateway, and the targets that its upstream was asked for; the upstream folds all there is."""
    targets: list[str] = []
    running = []

    def handle(sock, _address):
        received = b""
        while piece := sock.recv(65536):
            received += piece
            while b"\r\n\r\n" in received:
                head, _, received = received.partition(b"\r\n\r\n")
                target = head.split(b" ")[1].decode("latin-1")
                targets.append(target)
                plain = "/".join(part.partition(";")[0] for part in unquote(target).replace("\\", "/").split("\0")[0].split("/"))
                body = posixpath.normpath("/" + plain.lstrip("/")).encode()
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def start(literal=""):
        running.append(Running(tmp_path / str(len(running)), CONFIG.format(port=serve(handle), literal=literal)))
        return running[-1].port, targets

    yield start
    for gateway in running:
        gateway.stop()


def get(port, target, lane="lane"):
    return ask(port, b"GET %b HTTP/1.1\r\nHost: shop.test\r\n%bConnection: close\r\n\r\n" % (target.encode("latin-1"), LANES[lane]))


def test_no_spelling_reaches_the_application_and_all_else_goes_byte_for_byte(world):
    port, targets = world()
    for spelling in ["//admin/s", "/./admin/s", "/p/../admin/s", "/p/%2e%2e/admin/s", "/p/..;/admin/s", "/p%2F..%2fadmin%2Fs",
                     "/p\\..\\admin\\s", "/admin;x=1/s", "/%61dmin%5Cs", "http://shop.test//admin/s"]:
        for lane in LANES:
            assert get(port, spelling, lane)[0] in (400, 403), spelling
    assert not targets
    harmless = ["/a/../b", "//a", "/a%2Fb", "/a;v=1/b", "/x\\y", "/%61", "/p/../q/./r//", "/adminx/../y"]
    for target in harmless:
        assert get(port, target)[0] == 200
    assert targets == harmless


def test_an_application_that_means_it_gets_it_all(world):
    port, targets = world("literal_paths = true")
    assert get(port, "//admin/s")[::2] == (200, b"/admin/s") and get(port, "/admin/s")[0] == 403
    assert targets == ["//admin/s"]


def test_what_is_kept_under_one_spelling_is_not_served_for_another(world):
    """Also not where both are for the same route."""
    port, targets = world()
    for target in ["/api/7", "//api/7", "/api/7;v=1", "/api/%37", "/a//b", "/a/b", "/a/./b"] * 2:
        fields = dict(get(port, target)[1])
        assert fields.get("X-Route") == ("api" if "api" in target else None), target
    assert targets == ["/api/7", "//api/7", "/api/7;v=1", "/api/%37", "/a//b", "/a/b", "/a/./b"]
