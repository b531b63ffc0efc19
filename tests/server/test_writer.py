"""The writer's head: byte for byte the application's, and nothing in it can end a line."""

from __future__ import annotations

import re

import pytest
from gunicorn.http.errors import InvalidHeader, InvalidHeaderName
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.date import date_line
from gateway.http.prepared import status_line
from gateway.server.writer import compose
from tests.server.serving import GET

DATE = ("Date", "yesterday")


def head(headers: list[tuple[str, str]], status: str = "200 OK", version: tuple[int, int] = (1, 1)) -> bytes:
    code, line = status_line(status)
    return compose(version, code, line, [*headers, DATE])[0].replace(b"Date: yesterday\r\n", b"")


@pytest.mark.parametrize("status, line", [
    ("200 OK", b"200 OK"), ("200 ", b"200 "), ("200", b"200 "), ("299 So  so\t!", b"299 So  so\t!"),
    ("404 Gef\xfchlt", b"404 Gef\xfchlt")])
def test_status_line(status, line):
    assert head([], status) == b"HTTP/1.1 " + line + b"\r\n"


@pytest.mark.parametrize("status", ["", "20", "2000", "abc", "200OK", "200 O\r\nK", "200 \x00", "200 \u20ac", "099 no", 200, None])
def test_no_status(status):
    with pytest.raises((ValueError, TypeError)):
        status_line(status)


def test_values_are_sent_as_they_are():
    headers = [("x-LOWER", " \tv  w \xe9\xff"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Server", "old/1"), ("Empty", "")]
    assert head(headers) == b"HTTP/1.1 200 OK\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")


@pytest.mark.parametrize("name", ["Connection", "keep-alive", "Transfer-Encoding", "TE", "Trailer", "Upgrade", "Proxy-Connection"])
def test_fields_of_the_connection_are_not_the_applications(name):
    assert head([(name, "x"), ("Kept", "1")]) == b"HTTP/1.1 200 OK\r\nKept: 1\r\n"


def test_upgrade_stays_in_101():
    assert head([("Upgrade", "websocket")], "101 Switching Protocols").endswith(b"Upgrade: websocket\r\n")


@pytest.mark.parametrize("value, closing", [("close", True), ("Keep-Alive, Close", True), ("keep-alive", False), ("closed", False)])
def test_the_application_may_ask_to_close(value, closing):
    assert compose((1, 1), 200, "200 OK", [("connection", value)])[2] is closing


@pytest.mark.parametrize("version, start", [((1, 0), b"HTTP/1.0"), ((1, 1), b"HTTP/1.1"), ((1, 2), b"HTTP/1.1")])
def test_version(version, start):
    assert head([], version=version).startswith(start + b" 200")


@pytest.mark.parametrize("headers, status, length", [
    ([], "200 OK", None), ([("Content-Length", "0")], "200 OK", 0), ([("content-length", "12")], "200 OK", 12),
    ([("Content-Length", "7"), ("Content-Length", "7")], "200 OK", 7), ([("Content-Length", "7")], "304 Not Modified", 7),
    ([("Content-Length", "7")], "204 No Content", None), ([("Content-Length", "7")], "101 Switching Protocols", None)])
def test_content_length(headers, status, length):
    code, line = status_line(status)
    sent, found, _ = compose((1, 1), code, line, headers)
    assert found == length
    assert len(re.findall(b"(?i)content-length", sent)) == (length is not None)


@pytest.mark.parametrize("headers", [
    [("Content-Length", "")], [("Content-Length", "-1")], [("Content-Length", "+1")], [("Content-Length", "1_0")],
    [("Content-Length", " 1")], [("Content-Length", "\u0661")], [("Content-Length", "1"), ("Content-Length", "2")],
    [("X", "a\r\nInjected: 1")], [("X", "a\nb")], [("X", "a\rb")], [("X", "a\x00b")], [("X", "a\x7f")], [("X", "\x01")],
    [("X", "\u20ac")], [("X", "\r\n")], [("", "a")], [("X Y", "a")], [("X:", "a")], [("X\r\nY", "a")], [("X\n", "a")],
    [("\xe9", "a")]])
def test_invalid_headers(headers):
    with pytest.raises(InvalidHeader):
        head(headers)


@pytest.mark.parametrize("headers", [[("X", 1)], [("X", b"bytes")], [("X", None)], [(b"X", "a")]])
def test_headers_are_text(headers):
    with pytest.raises(InvalidHeader):
        head(headers)


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=12)), max_size=5))
def test_a_head_has_one_line_for_each_field(headers):
    try:
        sent = head([("A" + name, value) for name, value in headers])
    except (InvalidHeader, InvalidHeaderName):
        return
    lines = sent.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 200 OK" and lines[-1] == b""
    assert [line.decode("latin-1") for line in lines[1:-1]] == [f"A{name}: {value}" for name, value in headers]
    assert b"\n" not in b"".join(lines) and b"\r" not in b"".join(lines)


def test_date_is_added_when_there_is_none():
    added, _, _ = compose((1, 1), 200, "200 OK", [("X", "1")])
    kept, _, _ = compose((1, 1), 200, "200 OK", [("date", "mine")])
    assert re.fullmatch(rb"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", date_line())
    assert date_line(lambda: 784111777.9) == b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    assert re.fullmatch(rb"HTTP/1.1 200 OK\r\nX: 1\r\nDate: [^\r\n]+\r\n", added)
    assert kept == b"HTTP/1.1 200 OK\r\ndate: mine\r\n"


FIELDS = [("A", "b"), ("Date", "now"), ("Content-Length", "3")]


@pytest.mark.parametrize("kind", [list, tuple, iter, lambda fields: dict(fields).items()])
def test_header_fields_may_come_from_whatever_a_framework_has(run, kind):
    def application(environ, start_response):
        start_response("200 OK", kind(FIELDS))
        return [b"abc"]

    assert run(application).exchange(GET).startswith(b"HTTP/1.1 200 OK\r\nA: b\r\nDate: now\r\nContent-Length: 3\r\n")


@pytest.mark.parametrize("status, fields", [
    (200, FIELDS), (b"200 OK", FIELDS), (None, FIELDS), ("200 OK", None), ("200 OK", [("A", 1)]), ("200 OK", [(b"A", b"b")]),
    ("200 OK", [["A", "b"]]), ("200 OK", ["a"]), ("200 OK", [("A",)]), ("200 OK", [("A", "b", "c")]), ("200 OK", [None]),
    ("200 OK", {"A": "b"}), ("200 OK", 7), ("200 OK", [("A", "b" * 2 ** 16 + "\n")]), ("200 OK", [("Content-Length", 3)]),
    ("200 OK", [("Content-Length", "9" * 30)])])
def test_what_cannot_be_sent_is_500_whatever_it_is(run, status, fields):
    def application(environ, start_response):
        start_response(status, fields)
        return [b"abc"]

    running = run(application)
    assert running.exchange(GET).startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert running.log.levels()
