"""The reader: the header list as sent, and bodies that are whole or an error."""

from __future__ import annotations

import io

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from gunicorn.http.unreader import IterUnreader
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import BodyTimeout, GatewayError, MalformedBody, TruncatedBody
from gateway.server.gunicorn_request import GunicornRequest
from gateway.server.reader import PIECE, BodyReader, ClientConnection, Pace
from tests.server.reading import ADDRESS, head, request_of


def test_lines_are_cut_from_what_was_received_without_a_copy_of_the_rest():
    lines = 1000
    _, body = request_of([head(f"Content-Length: {2 * lines + 3}") + b"a\n" * lines + b"end"])
    assert body.readline() == b"a\n"
    buffer = body._buffer
    assert [body.readline() for _ in range(lines - 1)] == [b"a\n"] * (lines - 1) and body._buffer is buffer
    assert (body.readline(2), body.readline(), body.readline(), body._buffer) == (b"en", b"d", b"", b"")


# Bodies

def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at:at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("fields, sent, expected", [
    ([], b"", b""),
    (["Content-Length: 0"], b"", b""),
    (["Content-Length: 5"], b"hello", b"hello"),
    (["Content-Length: 5"], b"hello and the next request", b"hello"),
    (["Content-Length: 5"], b"hell", TruncatedBody),
    (["Content-Length: 5"], b"", TruncatedBody),
    (["Transfer-Encoding: chunked"], b"0\r\n\r\n", b""),
    (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (["Transfer-Encoding: chunked"], b"5;x=1\r\nhello\r\n0\r\nX: 1\r\n\r\n", b"hello"),
    (["Transfer-Encoding: chunked"], b"", TruncatedBody),
    (["Transfer-Encoding: chunked"], b"5\r\nhel", TruncatedBody),
    (["Transfer-Encoding: chunked"], b"5\r\nhello", TruncatedBody),
    (["Transfer-Encoding: chunked"], b"5\r\nhello\r", TruncatedBody),
    (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n", TruncatedBody),
    (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n", TruncatedBody),
    (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\nX: 1\r\n", TruncatedBody),
    (["Transfer-Encoding: chunked"], b"5\r\nhelloX\r\n0\r\n\r\n", MalformedBody),
    (["Transfer-Encoding: chunked"], b"zz\r\nhello\r\n0\r\n\r\n", MalformedBody),
    (["Transfer-Encoding: chunked"], b"-5\r\nhello\r\n0\r\n\r\n", MalformedBody),
    (["Transfer-Encoding: chunked"], b"\r\nhello\r\n0\r\n\r\n", MalformedBody),
    (["Transfer-Encoding: chunked"], b"5;\xff\r\nhello\r\n0\r\n\r\n", MalformedBody),
    (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\nHost: evil\r\n\r\n", MalformedBody),
    (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\nbare\nLF: 1\r\n\r\n", MalformedBody)])
@pytest.mark.parametrize("at_once", [True, False])
def test_bodies(fields, sent, expected, at_once):
    pieces = [head(*fields) + sent] if at_once else [head(*fields), *(sent[at:at + 1] for at in range(len(sent)))]
    _, body = request_of(pieces)
    if isinstance(expected, bytes):
        assert body.read() == expected
        assert body.read() == b"" and body.read1() == b""
        assert body.complete and body.error is None and body.discard()
        return
    with pytest.raises(expected):
        body.read()
    with pytest.raises(expected):                            # it does not turn into an end
        body.read(1)
    assert not body.discard() and body.blocks_reuse


def test_many_small_chunks_come_together():
    wire = chunked(bytes(range(256)) * 40, 1)
    _, body = request_of([head("Transfer-Encoding: chunked"), wire[:40_001], wire[40_001:]])
    pieces = list(iter(body.read1, b""))
    assert b"".join(pieces) == bytes(range(256)) * 40
    assert len(pieces) == 2


PARTS = st.sampled_from([b"1", b"3", b"A", b"0", b"00", b"g", b"-1", b";", b";a", b";a=1",
                         b' ; a = "x;\\"y"', b";\xff", b"; =", b" ", b"\r\n", b"\r\n", b"\r\n", b"\r", b"\n", b"abc", b"a",
                         b"0123456789", b"X: 1", b"Host: x", b"X-A:b\x00", b":", b"bad name: x"])


@given(wire=st.lists(PARTS, max_size=16).map(b"".join), cut=st.integers(1, 40))
@example(wire=b"3\r\nabc\r\n0\r\nX: 1\r\n\r\n", cut=7)
@example(wire=b"3 ;a\r\nabc\r\n0;a=1\r\n\r\nrest", cut=40)
@example(wire=b"0\r\n\r\n\r\n", cut=40)
@example(wire=b"\n\r\n", cut=40)
@example(wire=b"\n1", cut=40)
def test_chunks_are_what_gunicorn_takes_for_chunks(wire, cut):
    pieces = [head("Transfer-Encoding: chunked"), *(wire[at:at + cut] for at in range(0, len(wire), cut))]
    request, ours = request_of(pieces)
    other, _ = request_of(pieces)
    try:
        expected = b"".join(other.body.reader.parser)
    except (ParseException, OSError):
        with pytest.raises(GatewayError):
            ours.read()
        return
    assert ours.read() == expected
    assert ours._unreader.take_buffered() == other.unreader.take_buffered()
    assert request.trailers == other.trailers


@given(body=st.binary(max_size=300).map(lambda data: data.replace(b"\x01", b"\n")),
       framing=st.sampled_from([0, 1, 7, 64]), cut=st.integers(1, 50),
       calls=st.lists(st.tuples(st.sampled_from(["read", "readline"]), st.integers(-1, 40)), max_size=12))
def test_reads_as_a_file_does(body, framing, cut, calls):
    wire = head("Transfer-Encoding: chunked") + chunked(body, framing) if framing else head(f"Content-Length: {len(body)}") + body
    _, reader = request_of([wire[at:at + cut] for at in range(0, len(wire), cut)])
    file = io.BytesIO(body)
    for name, size in calls:
        assert getattr(reader, name)(size) == getattr(file, name)(size)
    assert list(reader) == list(file)


@pytest.mark.parametrize("size, expected", [(0, b""), (1, b"a"), (2, b"ab"), (3, b"abc"), (99, b"abc"), (-1, b"abc")])
@pytest.mark.parametrize("framing", [0, 3])
def test_read1_gives_what_has_arrived(size, expected, framing):
    fields, wire = (["Transfer-Encoding: chunked"], b"3\r\nabc\r\n") if framing else (["Content-Length: 6"], b"abc")
    _, body = request_of([head(*fields), wire, b"3\r\ndef\r\n0\r\n\r\n" if framing else b"def"])
    assert body.read1(size) == expected
    assert expected + body.read() == b"abcdef"


@pytest.mark.parametrize("hint, lines", [(None, 3), (0, 3), (1, 1), (2, 1), (3, 2), (99, 3)])
def test_readlines(hint, lines):
    _, body = request_of([head("Content-Length: 5") + b"a\nb\nc"])
    assert body.readlines(hint) == [b"a\n", b"b\n", b"c"][:lines]


def test_the_next_request_stays_in_the_buffer():
    cfg = Config()
    unreader = IterUnreader([head("Content-Length: 3") + b"abcGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"])
    body = BodyReader(GunicornRequest(cfg, unreader, ADDRESS), unreader, 30.0)
    assert body.read() == b"abc"
    assert GunicornRequest(cfg, unreader, ADDRESS, 2).uri == "/2"


@pytest.mark.parametrize("length, kept", [(0, True), (1, True), (PIECE, True), (PIECE + 1, False)])
@pytest.mark.parametrize("framing", [0, 1000])
def test_only_a_small_rest_is_read_away(length, kept, framing):
    data = b"x" * length
    wire = head("Transfer-Encoding: chunked") + chunked(data, framing) if framing else head(f"Content-Length: {length}") + data
    _, body = request_of([wire])
    assert body.discard() is kept


def test_100_continue_is_sent_once_and_only_for_a_body():
    said = []
    _, body = request_of([head("Content-Length: 3", "Expect: 100-continue"), b"abc"])
    body.announce(lambda: said.append("go on"))
    assert body.blocks_reuse and not body.discard() and not said
    assert body.read(0) == b"" and not said
    assert body.read(1) == b"a" and said == ["go on"]
    assert body.read() == b"bc" and said == ["go on"] and body.discard()
    _, empty = request_of([head("Content-Length: 0", "Expect: 100-continue")])
    empty.announce(lambda: said.append("never"))
    assert empty.read() == b"" and said == ["go on"] and not empty.blocks_reuse


def test_no_takeover_once_the_answer_has_begun():
    connection = ClientConnection([], None, "127.0.0.1", None)
    connection.started = True
    with pytest.raises(RuntimeError):
        connection.take()


@pytest.mark.parametrize("pieces, refused", [
    ([(4.9, 1)], False), ([(5.1, 1)], True), ([(5.1, 1224)], False), ([(5.1, 1223)], True), ([(1.0, 100)] * 5, False),
    ([(1.0, 100)] * 6, True), ([(0.0, 0)] * 100, False), ([(59.0, 14_160)], False), ([(4.0, 10_000), (50.0, 1)], True)])
def test_a_body_has_to_keep_moving(pieces, refused):
    pace = Pace(30.0)
    try:
        for seconds, size in pieces:
            pace.add(seconds, size)
    except BodyTimeout:
        assert refused
    else:
        assert not refused
