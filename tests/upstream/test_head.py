"""Heads of responses: what is accepted, what is refused, and that h11 agrees."""

from __future__ import annotations

import re

import h11
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import UpstreamProtocolError
from gateway.upstream.head import CHUNKED, MAX_FIELDS, MAX_HEAD, UNTIL_CLOSE, Head, parse_head


def head_of(*lines: str, first: str = "HTTP/1.1 200 OK") -> Head:
    head = parse_head("\r\n".join([first, *lines, "", ""]).encode("latin-1"))
    assert head is not None
    return head


@pytest.mark.parametrize("line, status, reason", [
    ("HTTP/1.1 200 OK", 200, "OK"),
    ("HTTP/1.0 404 Not Found", 404, "Not Found"),
    ("HTTP/1.1 299 Gr\xfc\xdfe\tund so", 299, "Gr\xfc\xdfe\tund so"),
    ("HTTP/1.1 200 ", 200, ""),
    ("HTTP/1.1 200", 200, ""),
    ("HTTP/1.1 200  two spaces ", 200, " two spaces "),
    ("HTTP/1.1 999 Own", 999, "Own"),
])
def test_status_and_reason_are_kept_exactly(line, status, reason):
    for _ in range(2):                                   # the second time it is remembered
        head = head_of("Content-Length: 0", first=line)
        assert (head.status, head.reason) == (status, reason)


@pytest.mark.parametrize("line", [
    "HTTP/2 200 OK", "HTTP/1.1  200 OK", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1 099 OK", "HTTP/1.1 2x0 OK",
    "http/1.1 200 OK",
    " HTTP/1.1 200 OK", "HTTP/1.1 200 O\x00K", "HTTP/1.1 200 O\rK", "HTTP/1.10 200 OK", "HTTP/1.1\t200 OK", "HTTP/1.1 200\tOK",
    "SSH-2.0-OpenSSH",
    "",
])
def test_what_is_no_status_line_is_refused(line):
    with pytest.raises(UpstreamProtocolError):
        head_of("A: b", first=line)


def test_fields_are_kept_in_order_and_case_and_byte_for_byte():
    head = head_of("X-b: 1", "x-B: 2", "Set-Cookie: a=1; Path=/", "Set-Cookie: b=2", "Empty:", "Blank: \t ", "Tight:v",
                   "Wide: \t a  b \t",
                   "Latin: \xe9\x80\xff", "Colons: a:b:c", "!#$%&'*+-.^_`|~9z: odd")
    assert head.headers == [
        ("X-b", "1"), ("x-B", "2"), ("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2"), ("Empty", ""), ("Blank", ""),
        ("Tight", "v"),
        ("Wide", "a  b"), ("Latin", "\xe9\x80\xff"), ("Colons", "a:b:c"), ("!#$%&'*+-.^_`|~9z", "odd")]


def test_a_head_without_fields():
    head = parse_head(b"HTTP/1.1 200 OK\r\n\r\nbody")
    assert head is not None and (head.headers, head.end, head.size) == ([], 19, UNTIL_CLOSE)


@pytest.mark.parametrize("lines", [
    ["no colon"], [": no name"], [" : space"], ["A : b", "B"], ["A", " : b"], ["A b : space"],
    ["A b: space"], ["\xe9: latin"], ["A(: b"], ["A: b\x00"],
    ["A: b\x01c"], ["A: b\x7f"],
    ["A: b\rc"], ["A: b\nB: c"], ["\nA: b"], [" A: b"], ["\tA: b"], ["A: b", "B"], ["A: b\n"], ["A:" + " " * 60000 + "\x01"],
])
def test_what_is_no_field_is_refused(lines):
    with pytest.raises(UpstreamProtocolError):
        head_of(*lines)


@pytest.mark.parametrize("line, field", [
    ("A : b", ("A", "b")), ("a\t:b", ("a", "b")), ("A \t : b c : d ", ("A", "b c : d")), ("A : b\r\n c : d", ("A", "b c : d"))])
def test_white_space_before_the_colon_is_taken_away(line, field):
    assert head_of("B: 1", line, "C: 2").headers == [("B", "1"), field, ("C", "2")]


def test_a_field_with_white_space_before_the_colon_counts_like_any_other():
    assert head_of("Content-Length : 12").size == 12
    assert head_of("Transfer-Encoding : chunked").size == CHUNKED
    with pytest.raises(UpstreamProtocolError):
        head_of("Content-Length : 12", "Content-Length: 13")


def test_folded_lines_are_unfolded():
    head = head_of("A: one", "  two", "\tthree", "B: four", "C:", " five ")
    assert head.headers == [("A", "one two three"), ("B", "four"), ("C", "five")]


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\n\n", b"HTTP/1.1 200 OK\r\nA: b\n", b"HTTP/1.1 200 OK\r\nA: b\n\r\n", b"\r\n",
                                  b"HTTP/2", b"<html>",
                                  b"HTTP/1.1 200 OK\r\nA: b\n\nbody\r\n\r\n"])
def test_what_can_become_no_head_is_not_waited_for(data):
    with pytest.raises(UpstreamProtocolError):
        parse_head(data)


def test_a_head_may_come_in_any_pieces():
    data = b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 4\r\n\r\nbody"
    end = data.index(b"body")
    for cut in range(end):
        assert parse_head(data[:cut]) is None
        whole = parse_head(data, cut)
        assert whole is not None and (whole.end, whole.size, whole.headers) == (end, 4, [("A", "b"), ("Content-Length", "4")])
    old_size = 0
    for size in range(1, end):
        assert parse_head(data[:size], old_size) is None
        old_size = size


@pytest.mark.parametrize("size, fits", [(MAX_HEAD - 1, True), (MAX_HEAD, True), (MAX_HEAD + 1, False)])
def test_a_head_has_at_most_64_kb(size, fits):
    start = b"HTTP/1.1 200 OK\r\nA: "
    data = start + b"x" * (size - len(start) - 4) + b"\r\n\r\n"
    assert len(data) == size
    if fits:
        head = parse_head(data + b"body")
        assert head is not None and head.end == size
    else:
        with pytest.raises(UpstreamProtocolError, match="larger than"):
            parse_head(data + b"body")


def test_an_endless_head_is_refused():
    with pytest.raises(UpstreamProtocolError, match="larger than"):
        parse_head(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 11000)


@pytest.mark.parametrize("number, fits", [(MAX_FIELDS - 1, True), (MAX_FIELDS, True), (MAX_FIELDS + 1, False)])
@pytest.mark.parametrize("folded", [[], [" folded"]])
def test_a_head_has_at_most_200_fields(number, fits, folded):
    lines = ["A: b"] * number + folded
    if fits:
        assert len(head_of(*lines).headers) == number
    else:
        with pytest.raises(UpstreamProtocolError, match="more than 200"):
            head_of(*lines)


@pytest.mark.parametrize("lines, size", [
    ([], UNTIL_CLOSE),
    (["Content-Length: 0"], 0),
    (["content-length: 12"], 12),
    (["CONTENT-LENGTH:0012"], 12),
    (["Content-Length: 999999999999999999"], 999999999999999999),
    (["Transfer-Encoding: chunked"], CHUNKED),
    (["transfer-encoding: Chunked"], CHUNKED),
    (["Content-Lengthy: 1", "X-Content-Len: 2"], UNTIL_CLOSE),
])
def test_the_fields_say_where_the_body_ends(lines, size):
    assert head_of(*lines).size == size


@pytest.mark.parametrize("lines", [["Content-Length: 5", "content-length: 5"], ["Content-Length: 5, 5"],
                                   ["Content-Length: 5,5", "Content-Length: 5"], ["Content-Length: 05", "Content-Length: 5"],
                                   ["Content-Length: 05, 5"], ["Content-Length: 05,05"]])
def test_one_length_said_twice_becomes_one_field(lines):
    head = head_of("A: b", *lines, "C: d")
    assert head.size == 5
    assert head.headers == [("A", "b"), ("Content-Length", "5"), ("C", "d")]


@pytest.mark.parametrize("lines", [
    ["Content-Length: 5", "Content-Length: 6"], ["Content-Length: 5, 6"], ["Content-Length: 5,"], ["Content-Length:"],
    ["Content-Length: -1"],
    ["Content-Length: +1"], ["Content-Length: 1.0"], ["Content-Length: 0x1"], ["Content-Length: 1 2"], ["Content-Length: \xb2"],
    ["Content-Length: 1_0"], ["Content-Length: " + "9" * 19], ["Content-Length: 05", "Content-Length: 6"],
    ["Transfer-Encoding: gzip"], ["Transfer-Encoding: gzip, chunked"], ["Transfer-Encoding: chunked, chunked"],
    ["Transfer-Encoding:"],
    ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], ["Transfer-Encoding: identity"],
    ["Transfer-Encoding: chunked;a=b"],
    ["Transfer-Encoding: chunked", "Content-Length: 5"], ["Content-Length: 5", "Transfer-Encoding: chunked"],
    ["Transfer-Encoding: \x0bchunked"],
])
def test_doubtful_framing_is_refused(lines):
    with pytest.raises(UpstreamProtocolError):
        head_of(*lines)


def test_chunked_on_http_1_0_is_refused():
    with pytest.raises(UpstreamProtocolError, match="HTTP/1.0"):
        head_of("Transfer-Encoding: chunked", first="HTTP/1.0 200 OK")


@pytest.mark.parametrize("first, lines, keep", [
    ("HTTP/1.1 200 OK", [], True),
    ("HTTP/1.1 200 OK", ["Connection: keep-alive"], True),
    ("HTTP/1.1 200 OK", ["Connection: close"], False),
    ("HTTP/1.1 200 OK", ["connection: Close"], False),
    ("HTTP/1.1 200 OK", ["Connection: x, close"], False),
    ("HTTP/1.1 200 OK", ["Connection: close", "Connection: x"], False),
    ("HTTP/1.1 200 OK", ["Connection: X-Hop"], True),
    ("HTTP/1.0 200 OK", [], False),
    ("HTTP/1.0 200 OK", ["Connection: Keep-Alive"], True),
    ("HTTP/1.0 200 OK", ["Connection: x,keep-alive"], True),
    ("HTTP/1.1 200 OK", ["Connection: keep-alive, close"], False),
])
def test_the_fields_say_whether_the_connection_stays(first, lines, keep):
    assert head_of(*lines, first=first).keep_alive is keep


@pytest.mark.parametrize("close", ["Connection: close", "Connection: close, keep-alive"])
def test_close_wins_over_keep_alive(close):
    assert not head_of(close, "Connection: keep-alive").keep_alive
    assert not head_of("Connection: keep-alive", close).keep_alive


@pytest.mark.parametrize("value, idle", [("timeout=5", 5.0), ("Timeout=5, max=100", 5.0), ("max=100, timeout=7", 7.0),
                                         ("max=100", None), ("timeout=x", None),
                                         ("timeout=-1", None), ("", None)])
def test_keep_alive_says_how_long(value, idle):
    assert head_of(f"Keep-Alive: {value}").idle == idle


LAX = re.compile(rb"(?<!\r)\n|[^\t\r\n\x20-\x7e\x80-\xff]|\AHTTP/[^1]")


def h11_reads(data: bytes) -> tuple | None:
    """h11's reading; None where it refuses, waits for more, or is laxer than RFC 9112: a bare LF, control characters, HTTP/2.0."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a.test")]))
    client.receive_data(data)
    try:
        found = client.next_event()
    except h11.RemoteProtocolError:
        return None
    if found is h11.NEED_DATA:
        return None
    end = len(data) - len(client.trailing_data[0])
    if LAX.search(data, 0, end):
        return None
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in found.headers.raw_items()]
    return found.status_code, int(found.http_version[-1:]), headers, end


def ours(data: bytes) -> tuple | None:
    """Our reading; None when it refuses, or would wait for more."""
    try:
        head = parse_head(data)
    except UpstreamProtocolError:
        return None
    return None if head is None else (head.status, data[7] - 48, head.headers, head.end)


TEXT = st.text(st.characters(min_codepoint=0x21, max_codepoint=0xff), max_size=8)
NAME = st.sampled_from(["A", "Set-Cookie", "x-y", "Content-Type", "Bad Name", "", "Na\x00me", "\xe9"])
VALUE = st.one_of(TEXT, st.sampled_from(["", " ", "\t", "a b", " a", "a ", "a\tb", "a\x00b", "a\rb", "a\nb", "a\x7fb", "a\x0bb"]))
SEPARATOR = st.sampled_from([":", ": ", ":\t", ":  ", ""])
END = st.sampled_from(["\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n ", "\r\n\t"])
FIELD = st.one_of(st.tuples(NAME, SEPARATOR, VALUE, END).map("".join),
                  st.tuples(st.just("X-Good: "), TEXT, st.sampled_from(["\r\n", " \r\n", "\r\n more\r\n"])).map("".join))
FIRST = st.one_of(st.sampled_from(["HTTP/1.1 200 OK\r\n", "HTTP/1.0 404 Not \xe9\r\n", "HTTP/1.9 200\r\n"]), st.tuples(
    st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/1.9", "HTTP/2.0", "HTP/1.1"]), st.sampled_from([" ", " ", "\t"]),
    st.sampled_from(["200", "404", "20", "2000", "abc"]),
    st.sampled_from(["", " ", " OK", " Not \xe9", "OK", " a\x01"]), END).map("".join))


@settings(max_examples=500)
@given(first=FIRST, fields=st.lists(FIELD, max_size=5))
@example(first="HTTP/1.1 200 OK\r\n", fields=["A: b\r\n", " c\r\n"])
@example(first="HTTP/1.1 200 OK\r\n", fields=["A:  \r\n", "\t \r\n", " c \r\n", "B: d\r\n"])
@example(first="HTTP/1.1 200 OK\r\n", fields=["A: b\n"])
@example(first="HTTP/1.1 200 OK\r\n ", fields=["A: b\r\n"])
def test_it_reads_what_h11_reads(first, fields):
    data = (first + "".join(fields) + "\r\nthe body").encode("latin-1")
    assert ours(data) == h11_reads(data)


@given(st.binary(max_size=60))
@example(b"HTTP/1.1 200 OK\r\n\r\n")
def test_it_ends_in_a_head_or_a_refusal_for_any_bytes(data):
    for start in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nA: "):
        try:
            head = parse_head(start + data)
        except UpstreamProtocolError:
            continue
        assert head is None or head.end <= len(start + data)
