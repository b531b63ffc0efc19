"""What is read as the JSON of a part: media types, codings, characters; and where it ends."""

from __future__ import annotations

import gzip
import json
import zlib

import pytest

from gateway.aggregate.part_answer import MAX_ANSWER, MAX_CODINGS, MAX_MEMBERS, Unusable, json_of
from gateway.deadline import Deadline
from gateway.message import Response

VALUE = {"name": "Zoë", "price": "€ 5", "ids": [1, 2]}
DATA = json.dumps(VALUE, ensure_ascii=False).encode()
JSON = ("Content-Type", "application/json")


def read(data, *headers, status=200, json_types=()):
    return json_of(Response(status, list(headers), data), Deadline(10.0), frozenset(json_types))


def why(data, *headers, **settings):
    with pytest.raises(Unusable) as caught:
        read(data, *headers, **settings)
    return str(caught.value)


def raw(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


# -- media type

@pytest.mark.parametrize("media", [
    "application/json", "Application/JSON", "text/json", "application/problem+json", "application/vnd.api+json; charset=utf-8",
    "application/hal+json;v=1", "application/json ; x=y"])
def test_json_by_its_media_type(media):
    assert read(DATA, ("CONTENT-TYPE", media)) == VALUE


@pytest.mark.parametrize("media", ["text/html", "text/plain; charset=utf-8", "application/x-json", "application/jsonp", "json", "",
                                   "application/json+xml", "text/plain, application/json"])
def test_what_is_not_called_json_is_none(media):
    shown = media or "without Content-Type"
    assert why(DATA, *[("Content-Type", media)] if media else ()) == f"answered {shown} where JSON is expected"


@pytest.mark.parametrize("media", ["text/html", "TEXT/HTML; charset=utf-8", "text/plain ;x=y", "application/json"])
def test_json_of_another_name_where_the_part_says_so(media):
    assert read(DATA, ("Content-Type", media), json_types=["text/html", "text/plain"]) == VALUE


def test_it_says_it_of_these_types_alone():
    assert "text/xml" in why(DATA, ("Content-Type", "text/xml"), json_types=["text/html"])
    assert "without Content-Type" in why(DATA, json_types=["text/html"])


# -- coding

@pytest.mark.parametrize("coding, data", [
    ("identity", DATA), ("", DATA), ("gzip", gzip.compress(DATA)), ("GZIP", gzip.compress(DATA)), ("x-gzip", gzip.compress(DATA)),
    ("deflate", zlib.compress(DATA)), ("deflate", raw(DATA)), ("gzip, gzip", gzip.compress(gzip.compress(DATA))),
    ("deflate, gzip", gzip.compress(zlib.compress(DATA))), ("identity, gzip, ", gzip.compress(DATA)),
    ("gzip", gzip.compress(DATA[:9]) + gzip.compress(DATA[9:])), ("gzip", gzip.compress(DATA) + bytes(20)),
])
def test_what_is_compressed_though_nobody_asked(coding, data):
    assert read(data, JSON, ("Content-Encoding", coding)) == VALUE


def test_codings_in_two_fields():
    assert read(gzip.compress(zlib.compress(DATA)), ("Content-Encoding", "deflate"), JSON, ("content-encoding", "gzip")) == VALUE


@pytest.mark.parametrize("coding, data, reason", [
    ("br", DATA, "answered in the coding 'br', which was not asked for"), ("zstd", DATA, "which was not asked for"),
    ("gzip, compress", DATA, "'compress', which was not asked for"), ("x" * 9999, DATA, "'" + "x" * 40 + "', which"),
    ("gzip", DATA, "answered in the coding 'gzip', and it is broken"), ("deflate", DATA, "'deflate', and it is broken"),
    ("gzip", gzip.compress(DATA)[:-9], "'gzip', and it is broken"), ("gzip", zlib.compress(DATA), "broken"),
    ("deflate", zlib.compress(DATA)[:-5], "broken"), ("deflate", raw(DATA)[:-3], "broken"),
    ("gzip", gzip.compress(DATA) + b"more", "broken"), ("gzip", b"", "answered JSON that cannot be parsed"),
    (", ".join(["gzip"] * (MAX_CODINGS + 1)), DATA, f"answered with {MAX_CODINGS + 1} codings"),
    ("gzip", gzip.compress(b"") * (MAX_MEMBERS + 1), "broken"), ("gzip", gzip.compress(b"{"), "cannot be parsed"),
])
def test_what_cannot_be_inflated(coding, data, reason):
    assert reason in why(data, JSON, ("Content-Encoding", coding))


def bomb(size: int, pack) -> bytes:
    return pack(b'"' + b"a" * (size - 2) + b'"')


@pytest.mark.parametrize("pack, coding", [
    (gzip.compress, "gzip"), (zlib.compress, "deflate"), (raw, "deflate"),
    (lambda data: gzip.compress(gzip.compress(data)), "gzip, gzip"),
    (lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:]), "gzip")])
@pytest.mark.parametrize("more", [0, 1, 2, 2 * MAX_ANSWER])
def test_the_limit_holds_for_what_comes_out(more, pack, coding):
    data = bomb(MAX_ANSWER + more, pack)
    assert len(data) < MAX_ANSWER // 10
    if more:
        assert why(data, JSON, ("Content-Encoding", coding)) == "answered more than 8 MB"
    else:
        assert len(read(data, JSON, ("Content-Encoding", coding))) == MAX_ANSWER - 2


@pytest.mark.parametrize("more", [0, 1, 2])
def test_the_limit_of_what_is_not_compressed(more):
    data = bomb(MAX_ANSWER + more, bytes)
    assert (why(data, JSON) if more else "") == ("answered more than 8 MB" if more else "")


@pytest.mark.parametrize("status", [204, 205])
def test_without_content_nothing_is_read(status):
    assert read(b"", ("Content-Encoding", "br"), status=status) is None


# -- characters

@pytest.mark.parametrize("charset, data", [
    ("", DATA), ("", b"\xef\xbb\xbf" + DATA), ("utf-8", DATA), ("utf8", DATA), ("UTF-8", b"\xef\xbb\xbf" + DATA),
    ("iso-8859-1", DATA), ("latin1", DATA), ("us-ascii", DATA), ("nonsense", DATA), ("punycode", DATA), ('"utf-8"', DATA),
    ("iso-8859-15", DATA.decode().encode("iso-8859-15")), ("windows-1252", DATA.decode().encode("windows-1252")),
    ('"cp1252"', DATA.decode().encode("cp1252")), ("utf-16", DATA.decode().encode("utf-16")), ("", DATA.decode().encode("utf-16")),
    ("", DATA.decode().encode("utf-16-le")), ("", DATA.decode().encode("utf-16-be")), ("", DATA.decode().encode("utf-32")),
    ("", DATA.decode().encode("utf-32-be")), ("utf-8", DATA.decode().encode("utf-16")),
])
def test_characters(charset, data):
    assert read(data, ("Content-Type", f"application/json; charset={charset}" if charset else "application/json")) == VALUE


@pytest.mark.parametrize("charset, data", [
    ("", b'"\xff"'), ("utf-8", b'"\xff"'), ("nonsense", b'"\xff"'), ("punycode", b'"\xff"'), ("unicode_escape", b'"\xff"'),
    ("idna", b'"\xff"'), ("hex", b'"\xff"'), ("utf-7", b'"\xff"'), ("iso-8859-99", b'"\xff"'), ("utf-16", b"\xff\xfe\x00"),
    ("", b""), ("", b"\xff\xfe"), ("", b"{"), ("", b"\x00"), ("", b"NaN"), ("", b'"\\ud800"'),
    ("", "\ud800".encode("utf-16", "surrogatepass")),
])
def test_what_is_no_json(charset, data):
    media = f"application/json; charset={charset}" if charset else "application/json"
    assert why(data, ("Content-Type", media)) == "answered JSON that cannot be parsed"
