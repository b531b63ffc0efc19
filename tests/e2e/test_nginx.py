"""The rendered configuration before a real nginx: that it reads it, what passes it, and what a lost instance looks like."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from running import Running, connects, free_port

from gateway.config import Config
from gateway.http.fields import PROXY_WORDS
from gateway.nginx.configuration import render
from tests.waiting import until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def config(routes=(), **sections) -> Config:
    return Config.model_validate({"upstreams": {"legacy": {"instances": ["http://127.0.0.1:9000"]}}, "routes": list(routes),
                                  **sections})


WEBSOCKET = {"path": "/chat/{room}", "upstream": "legacy", "websocket": True}


@pytest.fixture
def folder():
    """A folder that nginx's own user may enter, unlike pytest's."""
    path = tempfile.mkdtemp(prefix="wicketgate-test-")
    os.chmod(path, 0o711)
    yield Path(path)
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def nginx(require, folder):
    """``nginx(instances, config)`` runs the rendering and returns nginx's port."""
    program, running = require("nginx"), []

    def start(instances: list[int], settings: Config | None = None) -> int:
        port = free_port()
        file = folder / "nginx.conf"
        file.write_text(render(settings or config(), listen=f"127.0.0.1:{port}",
                               instances=[f"127.0.0.1:{each}" for each in instances]))
        process = subprocess.Popen([program, "-p", folder, "-e", "error.log", "-c", file, "-g", "daemon off;"])
        running.append(process)
        until(lambda: process.poll() is not None or connects(port), "nginx listens")
        assert process.poll() is None, (folder / "error.log").read_text()
        return port

    yield start
    for process in running:
        process.terminate()
        process.wait(60)


@pytest.fixture
def instance(serve):
    """``instance(answer)`` is ``(port, heads)``: a server whose ``answer(socket, head)`` answers, and the heads it received."""

    def start(answer=lambda sock, head: sock.sendall(OK)):
        heads: list[bytes] = []

        def handle(sock: socket.socket, _address) -> None:
            received = b""
            while piece := sock.recv(65536):
                received += piece
                while b"\r\n\r\n" in received:
                    head, _, received = received.partition(b"\r\n\r\n")
                    heads.append(head)
                    if answer(sock, head) == "close":
                        return

        return serve(handle), heads

    return start


def exchange(port: int, request: bytes, until: bytes = b"") -> bytes:
    """All that comes back for these bytes until the connection ends, or until ``until`` was seen."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(request)
        received = b""
        while not (until and until in received) and (piece := sock.recv(65536)):
            received += piece
    return received


def get(target: str = "/", headers: str = "", method: str = "GET", version: str = "HTTP/1.1", body: bytes = b"") -> bytes:
    return f"{method} {target} {version}\r\nHost: Shop.Test:8000\r\nConnection: close\r\n{headers}\r\n".encode() + body


def fields(head: bytes, name: str) -> list[str]:
    pairs = [line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:]]
    return [value.strip() for key, _, value in pairs if key.lower() == name.lower()]


@pytest.mark.parametrize("sections", [
    {},
    {"routes": [WEBSOCKET, {"path": '/a"b\\c{2}', "upstream": "legacy", "websocket": True}]},
    {"nginx": {"listen": "[::1]:8000", "instances": ["[::1]:8001", "unix:/tmp/gateway.sock"],
               "server_names": ["*.shop.test", "shop.test"]}},
    {"nginx": {"listen": "8000", "instances": [f"127.0.0.1:{8001 + number}" for number in range(40)], "max_body": "10MB"}},
], ids=["plain", "websocket", "addresses", "many"])
@pytest.mark.parametrize("standalone", [True, False])
def test_nginx_accepts_it(require, folder, sections, standalone):
    text = render(config(**sections), standalone=standalone)
    if not standalone:
        text = text.replace("/var/log/nginx/", "")                  # the folder of an installed nginx, which the test leaves alone
        text = f"pid nginx.pid;\nevents {{}}\nhttp {{\n{text}\n}}\n"
    (folder / "nginx.conf").write_text(text)
    result = subprocess.run([require("nginx"), "-t", "-p", folder, "-e", "error.log", "-c", folder / "nginx.conf"],
                            capture_output=True, text=True)
    complaints = [line for line in result.stderr.splitlines() if "[" in line and "RLIMIT_NOFILE" not in line]
    assert (result.returncode, complaints) == (0, []), result.stderr


@pytest.mark.parametrize("target", ["/a%2Fb", "//a//b", "/a%20b+c", "/a/./b/../c", "/%7Euser/?q=%20+%2B", "/?", "/?a=b&a=c",
                                    "/%41", "/a;b=c"])
def test_the_target_goes_on_byte_for_byte(nginx, instance, target):
    port, heads = instance()
    assert exchange(nginx([port]), get(target)).startswith(b"HTTP/1.1 200 OK\r\n")
    assert heads[0].split(b"\r\n")[0] == f"GET {target} HTTP/1.1".encode()


def test_what_a_client_says_of_itself_is_replaced(nginx, instance):
    backend, heads = instance()
    port = nginx([backend])
    exchange(port, get(headers="X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n"
                               "X-Forwarded-Port: 443\r\nX-Forwarded-Prefix: /evil\r\nForwarded: for=6.6.6.6\r\n"
                               "X-Real-IP: 6.6.6.6\r\nX-Request-Id: chosen\r\nX_Forwarded_For: 6.6.6.6\r\nProxy: evil\r\n"
                               "Upgrade: h2c\r\nTE: trailers\r\n"))
    [head] = heads
    assert b"6.6.6.6" not in head and b"evil" not in head and b"chosen" not in head
    expected = {"Host": ["Shop.Test:8000"], "X-Forwarded-For": ["127.0.0.1"], "X-Forwarded-Proto": ["http"],
                "X-Forwarded-Host": ["Shop.Test:8000"], "X-Forwarded-Port": [str(port)], "X-Real-IP": ["127.0.0.1"],
                "Connection": [], "Upgrade": [], "TE": []}
    assert {name: fields(head, name) for name in expected} == expected
    [request_id] = fields(head, "X-Request-Id")
    assert len(request_id) == 32


def test_no_client_speaks_for_a_proxy(nginx, instance):
    backend, heads = instance()
    exchange(nginx([backend]), get(headers="".join(f"{name.title()}: evil\r\n" for name in sorted(PROXY_WORDS))))
    assert heads[0].startswith(b"GET / ") and b"evil" not in heads[0]


@pytest.mark.parametrize("request_bytes, names, host", [
    (b"GET / HTTP/1.0\r\n\r\n", ["shop.test", "www.shop.test"], "shop.test"),
    (b"GET / HTTP/1.0\r\n\r\n", ["_"], "_"),
    (b"GET / HTTP/1.0\r\nHost: Any.Test:81\r\n\r\n", ["shop.test"], "Any.Test:81"),
    (b"GET / HTTP/1.1\r\nHost: Any.Test:81\r\nConnection: close\r\n\r\n", ["shop.test"], "Any.Test:81"),
], ids=["1.0", "1.0 and no name", "1.0 with Host", "1.1"])
def test_a_request_without_host_gets_the_servers_name(nginx, instance, request_bytes, names, host):
    port, heads = instance()
    received = exchange(nginx([port], config(nginx={"server_names": names})), request_bytes)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert (fields(heads[0], "Host"), fields(heads[0], "X-Forwarded-Host")) == ([host], [host])


def test_http_1_0_without_host_is_answered_by_the_gateway_too(nginx, tmp_path):
    running = Running(tmp_path, '[gateway]\ntrust = ["127.0.0.1"]\n[[routes]]\npath = "/*"\nrespond = { text = "hello" }')
    try:
        for port in (running.port, nginx([running.port])):
            received = exchange(port, b"GET / HTTP/1.0\r\n\r\n")
            assert received.partition(b"\r\n")[0].endswith(b" 200 OK") and received.endswith(b"hello")
    finally:
        assert running.stop() == 0


def test_repeated_headers_stay_repeated_and_ordered(nginx, instance):
    port, heads = instance()
    exchange(nginx([port]), get(headers="X-A: 1\r\nX-B: 2\r\nX-A: 3\r\nCookie: a=1\r\n"))
    assert fields(heads[0], "X-A") == ["1", "3"]


def test_an_answer_passes_unchanged(nginx, instance):
    answer = (b"HTTP/1.1 202 Fine by me\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nServer: Old\r\nSet-Cookie: a=1\r\n"
              b"Set-Cookie: b=2\r\nLocation: http://127.0.0.1:9/x\r\nX-Request-Id: from-gateway\r\n"
              b"X-Accel-Redirect: /etc/passwd\r\nContent-Length: 2\r\n\r\nok")
    port, _ = instance(lambda sock, head: sock.sendall(answer))
    received = exchange(nginx([port]), get())
    head, _, body = received.partition(b"\r\n\r\n")
    expected = {"Date": ["Mon, 01 Jan 2001 00:00:00 GMT"], "Server": ["Old"], "Set-Cookie": ["a=1", "b=2"],
                "Location": ["http://127.0.0.1:9/x"], "X-Request-Id": ["from-gateway"]}
    assert head.startswith(b"HTTP/1.1 202 Fine by me\r\n") and body == b"ok"
    assert {name: fields(head, name) for name in expected} == expected


@pytest.mark.parametrize("request_bytes", [
    b"GET /\r\n",                                                       # HTTP/0.9
    get("ftp://shop.test/"), get("WSS://shop.test/"), get("http://a@shop.test/"), get("http:///"), get("http://"),
    b"GET / HTTP/1.1\r\n\r\n", b"GET http://shop.test/ HTTP/1.1\r\n\r\n",
], ids=["http/0.9", "ftp", "wss", "user", "no authority", "nothing", "no host", "absolute without host"])
def test_what_is_no_origin_request_never_gets_through(nginx, instance, request_bytes):
    port, heads = instance()
    received = exchange(nginx([port]), request_bytes)
    assert b"400 Bad Request" in received and heads == []


@pytest.mark.parametrize("target, sent, host", [
    ("http://other.test/x?y", "/x?y", "other.test"), ("HTTPS://other.test:8443/%2F//", "/%2F//", "other.test:8443"),
    ("http://other.test", "/", "other.test"), ("http://other.test?y", "/?y", "other.test"),
    ("/x", "/x", "Shop.Test:8000"),
    ("/http://other.test/", "/http://other.test/", "Shop.Test:8000"),
    ("/?http://other.test/", "/?http://other.test/", "Shop.Test:8000")])
def test_a_url_as_target_is_its_path_and_its_authority_the_host(nginx, instance, target, sent, host):
    port, heads = instance()
    assert exchange(nginx([port]), get(target)).startswith(b"HTTP/1.1 200 ")
    assert heads[0].startswith(b"GET %b HTTP/1.1\r\n" % sent.encode())
    assert fields(heads[0], "Host") == fields(heads[0], "X-Forwarded-Host") == [host]


@pytest.mark.parametrize("line", ["TRACE / HTTP/1.1", "CONNECT / HTTP/1.1"])
def test_trace_and_connect_are_405_with_what_is_allowed(nginx, instance, line):
    """What CONNECT really has as target, an authority, nginx 1.22 cannot read: that is its own 400."""
    port, heads = instance()
    received = exchange(nginx([port]), f"{line}\r\nHost: shop.test\r\nConnection: close\r\n\r\n".encode())
    assert received.startswith(b"HTTP/1.1 405 ") and heads == []
    assert fields(received.partition(b"\r\n\r\n")[0], "Allow") == ["GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"]


RESPELLED = ["/x/../files/a", "/x/%2e%2E/files/a", "/./files/a", "/%2e/files/a", "/files/b/../a", "/x/..;/../files/a", "/files/;a",
             "/files/a%2Fb", "/files//a", "/files/a%5c", "/files/\\", "/files/."]


PLAIN = ["/files/a?b=//..;", "/files/.a", "/files/%61.."]


@pytest.mark.parametrize("target", [*PLAIN, *RESPELLED])
def test_no_location_with_a_word_is_chosen_by_one_reading_of_several(nginx, instance, target):
    """nginx resolves dot segments before it looks for one. X-Accel-Redirect is not obeyed where the gateway does not see to it."""
    redirect = OK.replace(b"\r\n", b"\r\nX-Accel-Redirect: /-wicketgate-offload/x\r\n", 1)
    port, heads = instance(lambda sock, head: sock.sendall(redirect))
    route = {"path": "/files/*", "upstream": "legacy", "cache": {"offload": True}}
    assert exchange(nginx([port], config([route], cache={"file": "/tmp"})), get(target)).startswith(b"HTTP/1.1 200 ")
    assert [fields(head, "X-Wicketgate-Offload") for head in heads] == ([["1"], []] if target in PLAIN else [[]])


@pytest.mark.parametrize("target", [*PLAIN, *RESPELLED])
def test_nothing_is_kept_by_one_reading_of_several(nginx, instance, target):
    port, heads = instance(lambda sock, head: sock.sendall(OK.replace(b"\r\n", b"\r\nX-Accel-Expires: 10\r\n", 1)))
    front = nginx([port], config([{"path": "/files/*", "upstream": "legacy", "cache": {"edge": "10s"}}]))
    assert [exchange(front, get(target))[:13] for _ in range(2)] == [b"HTTP/1.1 200 "] * 2
    assert len(heads) == (1 if target in PLAIN else 2)


def test_a_head_as_long_as_gunicorn_takes_passes_and_a_longer_one_does_not(nginx, instance):
    backend, heads = instance()
    port = nginx([backend])
    longest = "/" + "a" * (8190 - len("GET / HTTP/1.1"))
    assert exchange(port, get(longest)).startswith(b"HTTP/1.1 200 ")
    assert exchange(port, get(longest + "aa")).startswith(b"HTTP/1.1 414 ")
    field = "X: " + "a" * (8190 - len("X: "))
    assert exchange(port, get(headers=field + "\r\n")).startswith(b"HTTP/1.1 200 ")
    assert exchange(port, get(headers=field + "aa\r\n")).startswith(b"HTTP/1.1 400 ")
    assert [len(max(head.split(b"\r\n"), key=len)) for head in heads] == [8190, 8190]


def test_too_large_a_body_is_refused_in_the_gateways_words(nginx, instance):
    backend, heads = instance()
    port = nginx([backend], config(nginx={"max_body": "10B"}))
    received = exchange(port, get(method="POST", headers="Content-Length: 11\r\n", body=b"a" * 11))
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ") and fields(head, "Content-Type") == ["application/problem+json"]
    [request_id] = fields(head, "X-Request-Id")
    assert json.loads(body) == {"type": "urn:wicketgate:error:body_too_large", "status": 413,
                                "code": "body_too_large", "request_id": request_id,
                                "title": "The request body is larger than this server accepts."}
    assert fields(head, "Cache-Control") == ["no-store"] and heads == []


def test_a_large_body_arrives_whole(nginx, serve):
    sizes: list[int] = []

    def handle(sock: socket.socket, _address) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += sock.recv(65536)
        size = len(received.partition(b"\r\n\r\n")[2])
        while size < 1_000_000 and (piece := sock.recv(65536)):
            size += len(piece)
        sizes.append(size)
        sock.sendall(OK)

    request = get(method="PUT", headers="Content-Length: 1000000\r\n", body=b"a" * 1_000_000)
    received = exchange(nginx([serve(handle)]), request)
    assert received.startswith(b"HTTP/1.1 200 ") and sizes == [1_000_000]


def test_a_lost_instance_is_invisible_when_the_request_may_be_repeated(nginx, instance):
    lost, heads = instance(lambda sock, head: "close")
    healthy, served = instance()
    port = nginx([lost, free_port(), healthy])
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS") * 3:
        assert exchange(port, get(method=method)).startswith(b"HTTP/1.1 200 "), method
    assert len(served) == 15 and heads


def test_a_post_that_was_sent_is_never_sent_again(nginx, instance):
    lost, heads = instance(lambda sock, head: "close")
    other, served = instance(lambda sock, head: "close")
    received = exchange(nginx([lost, other]), get(method="POST"))
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 502 ") and json.loads(body)["code"] == "gateway_unavailable"
    assert len(heads) + len(served) == 1


def test_a_post_that_could_not_be_sent_goes_elsewhere(nginx, instance):
    healthy, served = instance()
    port = nginx([free_port(), healthy])
    assert [exchange(port, get(method="POST"))[:13] for _ in range(4)] == [b"HTTP/1.1 200 "] * 4
    assert len(served) == 4


def test_connections_to_an_instance_are_kept(nginx, serve):
    connections = []

    def handle(sock: socket.socket, address) -> None:
        connections.append(address)
        while sock.recv(65536):
            sock.sendall(OK)

    port = nginx([serve(handle)])
    for _ in range(20):
        assert exchange(port, get()).startswith(b"HTTP/1.1 200 ")
    assert len(connections) <= os.cpu_count()                        # one for each nginx worker at most


def test_an_event_stream_that_says_so_is_not_held_back(nginx, serve):
    def handle(sock: socket.socket, _address) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Accel-Buffering: no\r\nConnection: close\r\n\r\n")
        sock.sendall(b"data: one\n\n")
        sock.recv(1)                                                    # the rest never comes: the client has to leave first

    assert b"data: one\n\n" in exchange(nginx([serve(handle)]), get(), until=b"data: one\n\n")


def test_a_websocket_is_passed_on(nginx, serve):
    heads: list[bytes] = []

    def handle(sock: socket.socket, _address) -> None:
        heads.append(sock.recv(65536))
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        while piece := sock.recv(65536):
            sock.sendall(piece.upper())

    port = nginx([serve(handle)], config([WEBSOCKET]))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(b"GET /chat/7 HTTP/1.1\r\nHost: shop.test\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n")
        received = b""
        while b"\r\n\r\n" not in received:
            received += sock.recv(65536)
        sock.sendall(b"hello")
        while b"HELLO" not in received:
            piece = sock.recv(65536)
            assert piece
            received += piece
    assert received.startswith(b"HTTP/1.1 101 ")
    assert (fields(heads[0], "Upgrade"), fields(heads[0], "Connection")) == (["websocket"], ["upgrade"])


def test_only_websocket_is_passed_on_as_an_upgrade(nginx, instance):
    port, heads = instance()
    exchange(nginx([port], config([WEBSOCKET])), get("/chat/7", headers="Upgrade: h2c\r\n"))
    assert (fields(heads[0], "Upgrade"), fields(heads[0], "Connection")) == ([], [])


def test_the_log_is_json_and_names_the_request(nginx, instance, folder):
    port, heads = instance()
    exchange(nginx([port]), get('/a"b?c'))
    log = folder / "access.log"
    until(lambda: log.exists() and log.stat().st_size)
    [line] = [json.loads(each) for each in log.read_text().splitlines()]
    assert (line["method"], line["target"], line["status"], line["instance"]) == ("GET", '/a"b?c', 200, f"127.0.0.1:{port}")
    assert [line["id"]] == fields(heads[0], "X-Request-Id")
