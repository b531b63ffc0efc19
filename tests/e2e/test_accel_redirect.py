"""Large stored bodies sent by nginx itself, with a real nginx and a real gateway: who moves the bytes, and that nobody sees it."""

from __future__ import annotations

import os
import subprocess

import pytest
from running import Recorder, Running, ask

from gateway.configfile.load import load_text
from gateway.errors import ConfigError
from gateway.nginx.accel_redirect import CARRIED_FIELDS, LOCATION
from gateway.nginx.configuration import render
from tests.e2e.test_nginx import config, exchange, fields, folder, get, nginx  # noqa: F401

BODY = bytes(range(256)) * 1200                          # 300 KB, every part of it different from what stands beside it
ETAG = '"v1"'
MORE = f"ETag: {ETAG}\r\nCache-Control: max-age=60\r\nLast-Modified: Wed, 01 Jan 2020 00:00:00 GMT\r\nVary: X-Any\r\n"
ROUTE = {"path": "/files/*", "upstream": "legacy", "cache": {"offload": True}}


def answer(body: bytes = BODY, more: str = MORE) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
def world(serve, nginx, folder, tmp_path):  # noqa: F811
    """``world(answer)`` is (gateway, nginx's port, the upstream, the folder of bodies)."""
    running = []

    def start(answers: bytes | None = None):
        upstream = Recorder(answers or answer())
        kept = folder / "kept"
        kept.mkdir()
        kept.chmod(0o2751)                               # what is made in it belongs to its group: that of nginx's user
        subprocess.run(["chgrp", group_of_nginx(), kept], check=True)
        text = f"""
            [gateway]
            trust = ["127.0.0.1/32"]
            [cache]
            file = "{kept}"
            [upstreams.legacy]
            instances = ["http://127.0.0.1:{serve(upstream)}"]
            [[routes]]
            path = "/files/*"
            upstream = "legacy"
            cache = {{ offload = true }}
            [[routes]]
            path = "/files/plain/*"
            upstream = "legacy"
        """
        gateway = Running(tmp_path, text)
        running.append(gateway)
        return gateway, nginx([gateway.port], load_text(text, {})), upstream, kept / "bodies"

    yield start
    for gateway in running:
        gateway.stop()


def group_of_nginx() -> str:
    """nginx gives its workers the rights of nobody when root starts it, else they keep those of who did."""
    return "nogroup" if os.getuid() == 0 else str(os.getgid())


def asked(port: int, headers: str = "", target: str = "/files/a", method: str = "GET") -> tuple[int, bytes, bytes]:
    head, _, body = exchange(port, get(target, headers, method)).partition(b"\r\n\r\n")
    return int(head.split()[1]), head, body


def test_nginx_moves_the_bytes_and_the_client_sees_no_difference(world):
    gateway, port, upstream, bodies = world()
    _, first, _ = asked(port)
    for _ in range(3):
        status, head, body = asked(port)
        assert (status, body) == (200, BODY)
        for name in ("Content-Type", "ETag", "Cache-Control", "Last-Modified", "Vary", "Via", "Content-Length"):
            assert fields(head, name) == fields(first, name), name
        assert fields(head, "Cache-Status")[0].startswith("wicketgate; hit") and len(fields(head, "Age")) == 1
        assert len(fields(head, "X-Request-Id")) == len(fields(head, "Date")) == 1 and b"x-accel" not in head.lower()
    assert len(upstream.heads) == 1
    [file] = [path for path in bodies.rglob("*") if path.is_file()]
    assert file.read_bytes() == BODY
    changed = bytes(len(BODY))
    kept = file.stat()
    file.write_bytes(changed)
    os.utime(file, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert asked(port)[2] == changed, "the bytes are those of the file: nginx sends it"
    assert b"x-wicketgate-offload" not in upstream.heads[0].lower()


@pytest.mark.parametrize("headers, status, body", [
    ("Range: bytes=5-9\r\n", 206, BODY[5:10]),
    ("Range: bytes=-7\r\n", 206, BODY[-7:]),
    (f"Range: bytes=5-9\r\nIf-Range: {ETAG}\r\n", 206, BODY[5:10]),
    ('Range: bytes=5-9\r\nIf-Range: "other"\r\n', 200, BODY),
    ("Range: bytes=5-9\r\nIf-Range: Wed, 01 Jan 2020 00:00:00 GMT\r\n", 206, BODY[5:10]),
    ("Range: bytes=5-9, 20-29\r\n", 200, BODY),
    (f"Range: bytes={len(BODY)}-\r\n", 416, b""),
    (f"If-None-Match: {ETAG}\r\n", 304, b""),
    ('If-None-Match: "other"\r\n', 200, BODY),
    ("If-Modified-Since: Wed, 01 Jan 2020 00:00:00 GMT\r\n", 304, b""),
    ("If-Modified-Since: Wed, 01 Jan 2014 00:00:00 GMT\r\n", 200, BODY),
])
def test_ranges_and_conditions(world, headers, status, body):
    _, port, upstream, bodies = world()
    asked(port)
    asked(port)
    assert list(bodies.rglob("*"))
    found = asked(port, headers)
    assert (found[0], found[2]) == (status, body)
    if status == 206:
        assert fields(found[1], "Content-Range") and fields(found[1], "ETag") == [ETAG]
    assert len(upstream.heads) == 1


def test_head(world):
    _, port, _, _ = world()
    asked(port)
    status, head, body = asked(port, method="HEAD")
    assert (status, body, fields(head, "Content-Length")) == (200, b"", [str(len(BODY))])


@pytest.mark.parametrize("answers", [answer(b"x" * 1000), answer(more=MORE + "X-Own: 1\r\n"),
                                     answer(more=MORE + "Vary: X-Other\r\n")], ids=["small", "a field of its own", "two lines"])
def test_what_is_not_offloaded(world, answers):
    _, port, _, bodies = world(answers)
    first = asked(port)
    second = asked(port)
    assert second[2] == first[2] and fields(second[1], "Vary") == fields(first[1], "Vary")
    assert fields(second[1], "X-Own") == fields(first[1], "X-Own")
    assert not bodies.exists()


def test_a_file_that_is_gone_or_unreadable_is_no_error(world):
    gateway, port, _, bodies = world()
    asked(port)
    asked(port)
    [file] = [path for path in bodies.rglob("*") if path.is_file()]
    file.chmod(0)
    bodies.chmod(0)
    status, head, body = asked(port)
    assert (status, body) == (200, BODY) and fields(head, "Cache-Status")[0].startswith("wicketgate; hit")


def test_only_nginx_is_believed(world):
    gateway, port, _, bodies = world()
    asked(port)
    claim = b"GET /files/a HTTP/1.1\r\nHost: Shop.Test:8000\r\nConnection: close\r\nX-Wicketgate-Offload: 1\r\n%s\r\n"
    assert asked(port, "X-Wicketgate-Offload: 0\r\n", "/other")[0] == 404, "nginx takes it off, and the gateway answers"
    status, head, body = ask(gateway.port, claim % (b"X-Forwarded-Port: %d\r\n" % port))     # this peer is trusted: nginx's address
    assert dict(head)["X-Accel-Redirect"].startswith(LOCATION) and body == b""
    status, head, body = asked(port, target=dict(head)["X-Accel-Redirect"])
    assert status == 404, "nobody asks for a body by its name"


def test_an_application_does_not_order_nginx_about(world):
    _, port, _, _ = world(answer(more=MORE + "X-Accel-Redirect: /-wicketgate-offload/../../etc/passwd\r\n"))
    for target in ("/files/a", "/files/a", "/files/plain/a"):
        assert asked(port, target=target)[2] == BODY


def test_an_address_that_is_not_trusted(tmp_path, serve):
    upstream = Recorder(answer())
    gateway = Running(tmp_path, f"""
        [cache]
        file = "{tmp_path / 'kept'}"
        [upstreams.legacy]
        instances = ["http://127.0.0.1:{serve(upstream)}"]
        [[routes]]
        path = "/files/*"
        upstream = "legacy"
        cache = {{ offload = true }}
    """)
    try:
        for _ in range(2):
            status, head, body = ask(gateway.port, get("/files/a", "X-Wicketgate-Offload: 1\r\n"))
            assert (status, body) == (200, BODY) and "X-Accel-Redirect" not in dict(head)
        assert b"x-wicketgate-offload" not in upstream.heads[0].lower()
    finally:
        gateway.stop()


def test_the_rendering(require, folder):  # noqa: F811
    text = render(config([ROUTE], cache={"file": '/srv/a "b'}))
    assert text.count("proxy_ignore_headers X-Accel-Expires") == 1 and all(f"add_header {name} " in text for name in CARRIED_FIELDS)
    (folder / "nginx.conf").write_text(text)
    result = subprocess.run([require("nginx"), "-t", "-p", folder, "-e", "error.log", "-c", folder / "nginx.conf"],
                            capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert LOCATION not in render(config([{**ROUTE, "cache": {}}]))


@pytest.mark.parametrize("cache, storage, mistake", [
    ("offload = true", "", "file: is needed"), ("offload = true, vary_by_caller = true", 'file = "/tmp"', "belongs to one caller"),
    ('offload = true, edge = "1s"', 'file = "/tmp"', "nginx keeps by itself")])
def test_mistakes(cache, storage, mistake):
    with pytest.raises(ConfigError, match=mistake):
        load_text(f"[cache]\n{storage}\n[[routes]]\npath = '/*'\nrespond = {{}}\ncache = {{ {cache} }}", {})
