"""``raw`` of an answer that is all here is made when it is asked for, and nobody can tell."""

from __future__ import annotations

import io

import pytest
import requests
from requests.adapters import HTTPAdapter
from same import outcome

from gateway.message import Response
from gateway.upstream.requests import shortcuts as shortcuts
from gateway.upstream.requests.adapter import DeadlineTimeout
from gateway.upstream.requests.response import RawResponse, WholeResponse


def raw_of(kind, body=b"hello", status=200, method="GET", fields=()):
    given = Response(status, [("Content-Length", str(len(body))), ("X-A", "1"), ("x-a", "2"), *fields], body, "OK")
    return kind(given, method, "/x", "label", silence=None, deadline=None, late=DeadlineTimeout)


def read_by(size, decode=True):
    return lambda raw: list(raw.stream(size, decode))


FIRST = {"nothing": lambda raw: None, "all": read_by(100), "just": read_by(5), "plain": read_by(100, False), "pieces": read_by(2),
         "None": read_by(None), "0": read_by(0), "begun": lambda raw: raw.stream(100, True), "read": lambda raw: raw.read(2)}
THEN = {
    "read": lambda raw: [raw.read(), raw.tell(), raw.closed], "again": read_by(100), "pieces": read_by(1),
    "closed": lambda raw: [raw.closed, raw.isclosed()], "close": lambda raw: [raw.close(), raw.closed, raw.read()],
    "tell": lambda raw: [raw.tell(), raw.length_remaining], "headers": lambda raw: list(raw.headers.items()),
    "status": lambda raw: [raw.status, raw.reason, raw.version, raw.version_string, raw.msg, raw.chunked, raw.retries],
    "data": lambda raw: [raw.data, raw.data], "release": lambda raw: [raw.release_conn(), raw.drain_conn(), raw.connection],
    "flag": lambda raw: [setattr(raw, "decode_content", True), raw.decode_content, raw.read()],
    "fp": lambda raw: [raw._fp.closed, raw._original_response.msg.get_all("X-A")],
    "lines": lambda raw: list(raw), "plainly": lambda raw: raw.read(decode_content=False), "url": lambda raw: raw.geturl(),
    "unknown": lambda raw: raw.nothing, "unknown, again": lambda raw: [hasattr(raw, "nothing"), hasattr(raw, "read1")],
    "readinto": lambda raw: raw.readinto(bytearray(3)), "text": lambda raw: io.TextIOWrapper(raw).read(),
    "json": lambda raw: raw.json(), "kept fields": lambda raw: [raw.fields, raw.sets_cookies],
    "with": lambda raw: raw.__enter__() is raw, "flush": lambda raw: raw.flush(),
}


@pytest.mark.parametrize("body, status, method", [(b"hello", 200, "GET"), (b"", 200, "GET"), (b"", 204, "GET"), (b"", 200, "HEAD")])
def test_raw_is_the_same_whether_it_has_been_made_or_not(body, status, method):
    for first in FIRST:
        for then in THEN:
            one, two = (raw_of(kind, body, status, method) for kind in (WholeResponse, RawResponse))
            started, expected = FIRST[first](one), FIRST[first](two)
            assert first in ("begun", "nothing") or started == expected
            assert (first, then, outcome(THEN[then], one)) == (first, then, outcome(THEN[then], two))
            if first == "begun":
                assert list(started) == list(expected)
            assert [one.closed, one.tell(), one.read()] == [two.closed, two.tell(), two.read()]
            assert type(one) is RawResponse


@pytest.mark.parametrize("fields, whole", [
    ([], True), ([("Content-Encoding", "gzip")], False), ([("transfer-encoding", "chunked")], False),
    ([("SET-COOKIE", "a=1")], False), ([("Set-Cookie2", "a=1")], False)])
def test_which_answers_need_no_raw(fields, whole):
    assert WholeResponse.suits(Response(200, fields, b"x")) is whole
    assert not WholeResponse.suits(Response(200, [], raw_of(RawResponse)))


@pytest.mark.parametrize("kind", [WholeResponse, RawResponse])
@pytest.mark.parametrize("fields", [[], [("Content-Type", "text/x"), ("X-A", "3"), ("X-a", "")],
                                    [("Set-Cookie", "a=1; Path=/"), ("set-cookie", "b=2")]])
@pytest.mark.parametrize("url", ["http://h.test/x", b"http://h.test/x"])
def test_a_response_is_built_as_stock_builds_it(kind, fields, url):
    if not WholeResponse.suits(Response(200, fields, b"")):
        kind = RawResponse
    request, adapter = requests.Request("GET", "http://h.test/x").prepare(), HTTPAdapter()
    request.url = url
    one = shortcuts.build_response(adapter, request, raw_of(kind, fields=fields))
    two = shortcuts.stock_build_response(adapter, request, raw_of(kind, fields=fields))
    assert vars(one).keys() == vars(two).keys()
    for name in vars(two).keys() - {"raw", "cookies", "headers"}:
        assert getattr(one, name) == getattr(two, name)
    assert list(one.headers._store.items()) == list(two.headers._store.items())
    assert [(c.name, c.value, c.domain) for c in one.cookies] == [(c.name, c.value, c.domain) for c in two.cookies]
    assert type(one.raw) is kind and one.content == two.content == b"hello" and one.text == two.text
