"""304, 206 and 416 from a stored answer."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from gateway.cache.conditional import answer, is_range
from gateway.cache.entry import Entry
from gateway.cache.request_directives import request_directives

NOW = 1_780_000_000.0
BODY = b"0123456789"
OLD, NEW = formatdate(NOW - 3000, usegmt=True), formatdate(NOW - 5, usegmt=True)


def stored(etag='"v"', modified=NOW - 3000, status=200, made=NOW - 10):
    headers = [("Content-Type", "a/b"), ("Content-Length", "10"), ("X-A", "1"), ("Cache-Control", "max-age=60"),
               ("Content-Location", "/b"), ("Vary", "X"), ("Content-Range", "bytes 7-8/9")]
    if made is not None:
        headers.append(("date", formatdate(made, usegmt=True)))
    if etag:
        headers.append(("ETag", etag))
    return Entry(status, "OK", headers, BODY, request_time=NOW - 10, response_time=NOW - 10, born=NOW - 10, expires=NOW + 50,
                 stale_while_revalidate=NOW + 50, stale_if_error=NOW + 50, etag=etag, last_modified=modified)


@pytest.mark.parametrize("section, entry, asked, status", [
    ("RFC 9110 13.1.2", {}, [("If-None-Match", '"v"')], 304),
    ("RFC 9110 13.1.2", {}, [("If-None-Match", 'W/"v"')], 304),                      # the weak comparison
    ("RFC 9110 13.1.2", {"etag": 'W/"v"'}, [("If-None-Match", '"v"')], 304),
    ("RFC 9110 13.1.2", {}, [("If-None-Match", '"a", "v" , "b"')], 304),
    ("RFC 9110 13.1.2", {}, [("If-None-Match", '"a"'), ("if-none-match", '"v"')], 304),
    ("RFC 9110 13.1.2", {}, [("If-None-Match", "*")], 304),
    ("RFC 9110 13.1.2", {"etag": None}, [("If-None-Match", "*")], 304),
    ("RFC 9110 13.1.2", {}, [("If-None-Match", '"w"')], 200),
    ("RFC 9110 13.1.2", {}, [("If-None-Match", '"V"')], 200),
    ("RFC 9110 13.1.2", {"etag": None}, [("If-None-Match", '"v"')], 200),
    ("RFC 9110 13.1.2", {}, [("If-None-Match", "")], 200),
    ("RFC 9110 13.1.3", {}, [("If-Modified-Since", OLD)], 304),
    ("RFC 9110 13.1.3", {}, [("If-Modified-Since", NEW)], 304),
    ("RFC 9110 13.1.3", {}, [("If-Modified-Since", formatdate(NOW - 3001, usegmt=True))], 200),
    ("RFC 9110 13.1.3", {}, [("If-Modified-Since", "x")], 200),
    ("9111 4.3.2", {"modified": None}, [("If-Modified-Since", NEW)], 304),           # no Last-Modified: Date counts
    ("9111 4.3.2", {"modified": None}, [("If-Modified-Since", OLD)], 200),
    ("9111 4.3.2", {"modified": None, "made": None}, [("If-Modified-Since", NEW)], 200),
    ("RFC 9110 13.2.2", {}, [("If-None-Match", '"w"'), ("If-Modified-Since", NEW)], 200),
    ("RFC 9110 13.2.2", {}, [("If-None-Match", '"v"'), ("If-Modified-Since", formatdate(0, usegmt=True))], 304),
    ("RFC 9110 13.2.1", {"status": 404}, [("If-None-Match", '"v"')], 404),
    ("RFC 9110 14.2", {}, [("Range", "bytes=0-1")], 206),
    ("RFC 9110 14.2", {}, [("If-None-Match", '"v"'), ("Range", "bytes=0-1")], 304),
    ("RFC 9110 14.2", {"status": 404}, [("Range", "bytes=0-1")], 404),
    ("RFC 9110 13.1.5", {}, [("Range", "bytes=0-1"), ("If-Range", '"v"')], 206),
    ("RFC 9110 13.1.5", {}, [("Range", "bytes=0-1"), ("If-Range", '"w"')], 200),
    ("RFC 9110 13.1.5", {"etag": 'W/"v"'}, [("Range", "bytes=0-1"), ("If-Range", 'W/"v"')], 200),    # the strong comparison
    ("RFC 9110 13.1.5", {}, [("Range", "bytes=0-1"), ("If-Range", OLD)], 206),
    ("RFC 9110 13.1.5", {}, [("Range", "bytes=0-1"), ("If-Range", NEW)], 200),                       # exactly the date
    ("RFC 9110 13.1.5", {}, [("Range", "bytes=0-1"), ("If-Range", "x")], 200),
    ("RFC 9110 13.1.5", {"modified": None}, [("Range", "bytes=0-1"), ("If-Range", "x")], 200),
    ("RFC 9110 13.1.5", {}, [("Range", "bytes=0-1"), ("If-Range", formatdate(NOW - 4000, usegmt=True))], 200),
    # A date is strong by the Date beside it, whatever time it is here (8.8.2.2): the two are by one clock
    ("RFC 9110 13.1.5", {"made": NOW - 2999}, [("Range", "bytes=0-1"), ("If-Range", OLD)], 206),
    ("RFC 9110 13.1.5", {"made": None}, [("Range", "bytes=0-1"), ("If-Range", OLD)], 200),
    ("RFC 9110 13.1.5", {"made": NOW - 3000}, [("Range", "bytes=0-1"), ("If-Range", OLD)], 200),
    ("RFC 9110 13.1.5", {"made": NOW - 3001}, [("Range", "bytes=0-1"), ("If-Range", OLD)], 200),
    ("RFC 9110 13.1.5", {"made": NOW + 9000, "modified": NOW + 8000},
     [("Range", "bytes=0-1"), ("If-Range", formatdate(NOW + 8000, usegmt=True))], 206),
])
def test_status(section, entry, asked, status):
    assert answer(stored(**entry), request_directives(asked), NOW).status == status


@pytest.mark.parametrize("text, body, content_range", [
    ("bytes=0-1", b"01", "bytes 0-1/10"), ("bytes=8-", b"89", "bytes 8-9/10"), ("bytes=-3", b"789", "bytes 7-9/10"),
    ("bytes=-99", BODY, "bytes 0-9/10"), ("bytes=5-99", b"56789", "bytes 5-9/10"), ("Bytes=0-0", b"0", "bytes 0-0/10"),
    ("bytes=9-9", b"9", "bytes 9-9/10"), ("bytes=0-1,", b"01", "bytes 0-1/10"), ("bytes=0-1,50-", b"01", "bytes 0-1/10"),
    ("bytes=8-" + "9" * 19, b"89", "bytes 8-9/10"), ("bytes=-" + "9" * 900, BODY, "bytes 0-9/10"),
    ("bytes=" + "0" * 900 + "9-", b"9", "bytes 9-9/10")])
def test_a_part(text, body, content_range):
    response = answer(stored(), request_directives([("Range", text)]), NOW)
    fields = dict(response.headers)
    assert (response.status, response.body, fields["Content-Range"]) == (206, body, content_range)
    assert (fields["Content-Length"], fields["ETag"], fields["X-A"]) == (str(len(body)), '"v"', "1")
    assert len(fields) == len(response.headers)          # each field once


@pytest.mark.parametrize("text, expected", [
    ("bytes=0-1", True), ("bytes=5-", True), ("bytes=-5", True), ("bytes=-" + "9" * 900, True), ("bytes=0-" + "9" * 19, True),
    ("bytes=0-1,3-4", False), ("bytes=3-2", False), ("items=0-1", False), ("bytes=-", False), ("bytes=-0", False)])
def test_which_range_is_cut_out_of_a_stored_answer(text, expected):
    assert is_range(text) is expected


@pytest.mark.parametrize("text", ["bytes=10-", "bytes=99-100", "bytes=-0", "bytes=" + "9" * 19 + "-", "bytes=" + "9" * 900 + "-",
                                  "bytes=10-,20-"])
def test_a_part_that_is_not_there(text):
    response = answer(stored(), request_directives([("Range", text)]), NOW)
    assert (response.status, response.body) == (416, b"")
    assert dict(response.headers) == {"Content-Range": "bytes */10", "Content-Length": "0", "ETag": '"v"',
                                      "date": formatdate(NOW - 10, usegmt=True)}     # nothing about a body that is not there


@pytest.mark.parametrize("text", ["bytes=0-1,3-4", "items=0-1", "bytes=", "bytes=-", "bytes=3-2", "bytes=a-b", "0-1", "",
                                  "bytes=" + "9" * 5000 + "-", "bytes=\u0661-2", "Bytes = 0 - 0"])
def test_a_range_to_be_ignored(text):
    response = answer(stored(), request_directives([("Range", text)]), NOW)
    assert (response.status, response.body) == (200, BODY)


def test_what_a_304_carries():
    """RFC 9110 section 15.4.5: what tells caches how to go on, nothing about the body."""
    response = answer(stored(), request_directives([("If-None-Match", '"v"')]), NOW)
    names = {name for name, _ in response.headers}
    assert {"ETag", "date", "Cache-Control", "Content-Location", "Vary"} <= names
    assert not names & {"Content-Length", "Content-Type"} and response.body == b""


def test_the_stored_list_is_nobody_elses():
    entry = stored()
    before = list(entry.headers)
    for asked in ([], [("If-None-Match", '"v"')], [("Range", "bytes=0-1")], [("Range", "bytes=99-")]):
        answer(entry, request_directives(asked), NOW).headers.append(("X", "1"))
    assert entry.headers == before
