"""Heads of requests: exact bytes, and nothing that could become two requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.deadline import Deadline
from gateway.errors import BadRequest, GatewayError, InternalError, InvalidHost, InvalidTarget
from gateway.message import Body, Call
from gateway.upstream.rendering import render_head


def render(method="GET", target="/", headers=(), body=None, host=None) -> bytes:
    return render_head(Call(method, target, list(headers), deadline=Deadline(1), host=host), body, "shop.test:8000")


def unread(length: int | None) -> Body:
    return Body(lambda size: b"", length)


@pytest.mark.parametrize("arguments, expected", [
    ({}, b"GET / HTTP/1.1\r\nHost: shop.test:8000\r\n\r\n"),
    ({"host": "other"}, b"GET / HTTP/1.1\r\nHost: other\r\n\r\n"),
    ({"host": ""}, b"GET / HTTP/1.1\r\nHost: \r\n\r\n"),
    ({"target": "/a%2Fb//c/../d;x?q=%20+&r=\xe9#"},
     b"GET /a%2Fb//c/../d;x?q=%20+&r=\xe9# HTTP/1.1\r\nHost: shop.test:8000\r\n\r\n"),
    ({"target": "*", "method": "OPTIONS"}, b"OPTIONS * HTTP/1.1\r\nHost: shop.test:8000\r\n\r\n"),
    ({"method": "M-SEARCH"}, b"M-SEARCH / HTTP/1.1\r\nHost: shop.test:8000\r\n\r\n"),
    ({"method": "get"}, b"get / HTTP/1.1\r\nHost: shop.test:8000\r\n\r\n"),
    ({"headers": [("b", "1"), ("A", "2"), ("b", "\xe9 \t,"), ("Empty", "")]},
     b"GET / HTTP/1.1\r\nHost: shop.test:8000\r\nb: 1\r\nA: 2\r\nb: \xe9 \t,\r\nEmpty: \r\n\r\n"),
    ({"body": b"", "headers": [("A", "b")]}, b"GET / HTTP/1.1\r\nHost: shop.test:8000\r\nA: b\r\nContent-Length: 0\r\n\r\n"),
    ({"body": b"abc"}, b"GET / HTTP/1.1\r\nHost: shop.test:8000\r\nContent-Length: 3\r\n\r\n"),
    ({"body": unread(70000)}, b"GET / HTTP/1.1\r\nHost: shop.test:8000\r\nContent-Length: 70000\r\n\r\n"),
    ({"body": unread(None)}, b"GET / HTTP/1.1\r\nHost: shop.test:8000\r\nTransfer-Encoding: chunked\r\n\r\n"),
])
def test_a_head_is_written_as_given(arguments, expected):
    assert render(**arguments) == expected


@pytest.mark.parametrize("target", ["", " ", "/a b", "/ HTTP/1.1\r\nX: y", "/\n", "/\r", "/\0", "/\t", "/\x7f", "/\u20ac"])
def test_a_target_that_would_break_the_line_is_refused(target):
    with pytest.raises(InvalidTarget):
        render(target=target)


@pytest.mark.parametrize("method", ["", "GET /x", "GET\r\n", "G\0T", "G:T", "G\xc9T"])
def test_a_method_that_is_no_token_is_refused(method):
    with pytest.raises(BadRequest, match="method"):
        render(method=method)


@pytest.mark.parametrize("host", ["a b", "a\r\nX: y", "a\n", "\0", "\u20ac"])
def test_a_host_that_would_break_the_line_is_refused(host):
    with pytest.raises(InvalidHost):
        render(host=host)


@pytest.mark.parametrize("name", ["", "A b", "A:", "A\r\nB", "A\n", "\xc9", "A ", "\0"])
def test_a_name_that_is_no_token_is_refused(name):
    with pytest.raises(BadRequest, match="field name"):
        render(headers=[(name, "v")])


@pytest.mark.parametrize("value", ["a\r\nB: c", "a\rb", "a\nb", "\n", "a\0b", "a\r\n\r\nGET /x HTTP/1.1"])
def test_a_value_that_would_end_its_line_is_refused(value):
    with pytest.raises(BadRequest, match="value of Second"):
        render(headers=[("First", "ok"), ("Second", value)])


def test_a_value_that_is_not_latin_1_is_refused():
    with pytest.raises(BadRequest, match="latin-1"):
        render(headers=[("A", "\u20ac")])


@pytest.mark.parametrize("name", ["Host", "host", "CONTENT-LENGTH", "Transfer-encoding"])
def test_what_the_transport_sets_is_not_for_the_caller(name):
    for _ in range(2):
        with pytest.raises(InternalError, match=name):
            render(headers=[(name, "1")])
    with pytest.raises(InternalError):                   # a method of that name does not make it acceptable
        render(method=name, headers=[(name, "1")])


ANY = st.text(st.characters(max_codepoint=0x17f), max_size=6)


@given(target=ANY, method=ANY, fields=st.lists(st.tuples(ANY, ANY), max_size=3), host=st.none() | ANY)
def test_whatever_is_sent_is_one_request(target, method, fields, host):
    try:
        head = render(method, "/" + target, fields, host=host)
    except GatewayError:
        return
    assert head.endswith(b"\r\n\r\n") and head.count(b"\r\n\r\n") == 1
    lines = head[:-4].split(b"\r\n")
    assert len(lines) == 2 + len(fields)
    assert not any(mark in line for line in lines for mark in (b"\r", b"\n", b"\0"))
    assert lines[0].split(b" ") == [method.encode("latin-1"), b"/" + target.encode("latin-1"), b"HTTP/1.1"]
