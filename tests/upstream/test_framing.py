"""Where bodies end, in whatever pieces they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import UpstreamProtocolError, UpstreamTruncated
from gateway.http.chunked import MAX_LINE, MAX_TRAILERS
from gateway.upstream.framing import ByLength, ChunkedFraming, Framing, UntilClose


def feed(framing: Framing, data: bytes, size: int) -> bytes:
    """What the framing gives when ``data`` comes in pieces of ``size``; it stops at the end of the body."""
    found = b""
    for start in range(0, len(data), size):
        assert not framing.complete
        found += framing.feed(data[start:start + size])
        if framing.complete:
            framing.excess += data[start + size:]
            break
    return found


CHUNKED = [
    (b"0\r\n\r\n", b"", b""),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
    (b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!", b""),
    (b"00005\r\nhello\r\n000\r\n\r\n", b"hello", b""),
    (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789", b""),
    (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789", b""),
    (b'5;name=value;quoted="a;b"\r\nhello\r\n0;last\r\n\r\n', b"hello", b""),
    (b"5 \t;x\r\nhello\r\n0  \r\n\r\n", b"hello", b""),
    (b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Other:\r\n\r\n", b"hello", b""),
    (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", b""),
    (b"5\r\nhello\r\n0\r\n\r\nHTTP/1.1 200 OK", b"hello", b"HTTP/1.1 200 OK"),
]


@pytest.mark.parametrize("data, body, excess", CHUNKED)
def test_chunks(data, body, excess):
    for size in (1, 2, 3, 7, 1000):
        framing = ChunkedFraming()
        assert feed(framing, data, size) == body
        assert framing.complete
        assert framing.excess == excess


BAD = [
    b"\r\n", b"g\r\n", b"5\nhello\r\n0\r\n\r\n", b"\nhello", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"5\r\nhelloX\r\n",
    b"5\r\nhello\rX", b"-5\r\nhello", b"+5\r\n",
    b"0x5\r\nhello", b" 5\r\nhello", b"5 5\r\nhello", b"5\r\nhello\r\n0\r\n\n", b"5\r\nhello\r\n0\r\nno colon\r\n\r\n",
    b"0\r\n bad: 1\r\n\r\n",
    b"0\r\nA: b\x00\r\n\r\n", b"0\r\nA: b\n\r\n", b"5;\x00\r\nhello", b"5;a\rb\r\n", b"1" * 17 + b"\r\n", b"\xb2\r\n", b"1_0\r\n",
    b"5;" + b"x" * MAX_LINE, b"0\r\nA: " + b"x" * MAX_LINE,
]


@pytest.mark.parametrize("data", BAD)
def test_bad_chunks_are_refused(data):
    for size in (1, 5, 100000):
        with pytest.raises(UpstreamProtocolError):
            feed(ChunkedFraming(), data, size)


@pytest.mark.parametrize("size", [50, 100000])
def test_trailers_are_bounded(size):
    fitting = b"0\r\n" + b"A: b\r\n" * (MAX_TRAILERS // 6)
    assert feed(ChunkedFraming(), fitting + b"\r\n", size) == b""
    with pytest.raises(UpstreamProtocolError, match="too large"):
        feed(ChunkedFraming(), fitting + b"A: b\r\n", size)


@pytest.mark.parametrize("data, body", [(data, body) for data, body, excess in CHUNKED if not excess])
def test_chunks_cut_short_are_never_complete(data, body):
    for cut in range(len(data)):
        framing = ChunkedFraming()
        found = framing.feed(data[:cut]) if cut else b""
        assert body.startswith(found) and not framing.complete
        with pytest.raises(UpstreamTruncated):
            framing.eof()


def test_what_has_come_of_a_chunk_is_given_at_once():
    framing = ChunkedFraming()
    assert framing.feed(b"ff\r\nab") == b"ab"
    assert framing.feed(b"cd") == b"cd"
    assert framing.feed(b"x" * 251 + b"\r\n3\r\nend\r\n0") == b"x" * 251 + b"end"
    assert framing.feed(b"\r") == b""
    assert framing.feed(b"\n\r\n") == b""
    assert framing.complete


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.integers(1, 30))
def test_any_chunks_in_any_pieces(chunks, size):
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    framing = ChunkedFraming()
    assert feed(framing, data, size) == b"".join(chunks)
    assert framing.complete and not framing.excess


@pytest.mark.parametrize("data, body, excess", [(b"hello", b"hello", b""), (b"hello!", b"hello", b"!"), (b"helloHTTP/1.1",
                                                                                                         b"hello", b"HTTP/1.1")])
def test_length(data, body, excess):
    for size in (1, 2, 1000):
        framing = ByLength(5)
        assert feed(framing, data, size) == body
        assert framing.complete and framing.excess == excess


@pytest.mark.parametrize("length, data", [(1, b""), (5, b"hell"), (2, b"a")])
def test_a_length_not_reached_is_truncated(length, data):
    framing = ByLength(length)
    assert framing.feed(data) == data
    assert not framing.complete
    with pytest.raises(UpstreamTruncated, match=f"{len(data)} of {length} bytes"):
        framing.eof()


def test_a_length_of_none_is_complete():
    assert ByLength(0).complete


def test_until_close():
    framing = UntilClose()
    assert framing.feed(b"a") + framing.feed(b"b") == b"ab"
    assert not framing.complete
    framing.eof()
    assert framing.complete
