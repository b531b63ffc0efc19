"""The head that Gunicorn's parser reads: its fields as they were sent, who closes, and the transfer coding."""

from __future__ import annotations

import pytest
from gunicorn.http.errors import InvalidHeader, UnsupportedTransferCoding

from gateway.server.gunicorn_request import original_case
from tests.server.reading import head, request_of


def test_header_list_keeps_order_case_and_repetition():
    request, _ = request_of([b"GET / HTTP/1.1\r\nhost: a.test\r\nX-b: 1\r\nx-B:  two \t\r\nACCEPT: \xe9\r\nX-b: 1\r\n\r\n"])
    assert request.raw_headers == [("host", "a.test"), ("X-b", "1"), ("x-B", "two"), ("ACCEPT", "\xe9"), ("X-b", "1")]
    assert [(name.upper(), value) for name, value in request.raw_headers] == request.headers


def test_dropped_names_are_in_neither_list():
    request, _ = request_of([head("X_Foo: 1", "X-Foo: 2", "x_foo: 3", "Bar: 4")], header_map="drop")
    assert request.raw_headers == [("Host", "a.test"), ("X-Foo", "2"), ("Bar", "4")]


def test_folded_lines_are_one_field():
    request, _ = request_of([head("X-Long: one", "  two: three", "Y: 4")], permit_obsolete_folding=True)
    assert request.raw_headers == [("Host", "a.test"), ("X-Long", "one two: three"), ("Y", "4")]


def test_trailers_are_no_headers():
    request, body = request_of([head("Transfer-Encoding: chunked") + b"1\r\na\r\n0\r\nX-Late: 1\r\n\r\n"])
    assert body.read() == b"a"
    assert request.raw_headers == [("Host", "a.test"), ("Transfer-Encoding", "chunked")]


def test_no_headers():
    assert original_case(b"", []) == []


@pytest.mark.parametrize("version, connection, closes", [
    ("1.1", None, False), ("1.1", "close", True), ("1.1", "TE, Close", True), ("1.1", "keep-alive", False),
    ("1.0", None, True), ("1.0", "keep-alive", False), ("1.0", "TE, Keep-Alive", False), ("1.0", "close, keep-alive", True)])
def test_who_wants_to_close(version, connection, closes):
    fields = f"Connection: {connection}\r\n" if connection else ""
    request, _ = request_of([f"GET / HTTP/{version}\r\nHost: a\r\n{fields}\r\n".encode()])
    assert request.should_close() is closes


@pytest.mark.parametrize("fields, error", [
    (["Transfer-Encoding: CHUNKED"], None), (["Transfer-Encoding:chunked \t"], None),
    (["Transfer-Encoding: gzip, chunked"], UnsupportedTransferCoding),
    (["Transfer-Encoding: x, chunked"], UnsupportedTransferCoding),
    (["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"], UnsupportedTransferCoding),
    (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], InvalidHeader),
    (["Transfer-Encoding: chunked, chunked"], InvalidHeader),
    (["Transfer-Encoding: identity, chunked"], InvalidHeader), (["Transfer-Encoding: identity"], InvalidHeader),
    (["Transfer-Encoding: gzip"], UnsupportedTransferCoding), (["Transfer-Encoding: chunked, gzip"], UnsupportedTransferCoding),
    (["Transfer-Encoding:"], InvalidHeader), (["Transfer-Encoding: , chunked"], InvalidHeader),
    (["Transfer-Encoding: chunked;q=1"], UnsupportedTransferCoding),
    (["Transfer-Encoding: \"chunked\""], UnsupportedTransferCoding),
    (["Transfer-Encoding: chunked", "Content-Length: 5"], InvalidHeader)])
def test_no_transfer_coding_but_chunked(fields, error):
    sent = head(*fields) + b"5\r\nhello\r\n0\r\n\r\n"
    if error is None:
        assert request_of([sent])[1].read() == b"hello"
        return
    with pytest.raises(error):
        request_of([sent])
