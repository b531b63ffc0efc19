"""Conditional and range requests, answered from a stored entry. Pure.

If-None-Match goes before If-Modified-Since, and compares weakly (RFC 9110 section 13.2.2, RFC 9111 section 4.3.2). One range of
bytes is cut out of a stored 200; several, or another unit, get the whole (RFC 9110 section 14.2 lets a server ignore Range).

Dates are compared with dates of the answer itself, which are the origin's: the cache's clock says nothing about them.
"""

from __future__ import annotations

from ..http.range_header import Bounds, byte_ranges
from ..message import Headers, Response
from .entry import Entry
from .request_directives import RequestDirectives
from .syntax import date_of, entity_tags, http_date, opaque

LARGEST = 10 ** 18                                       # bytes: no stored answer is as large
STRONG = 1.0                                             # seconds between Last-Modified and Date of a strong validator
# Of the fields about the representation a 304 carries those that tell it apart or say how to keep it (RFC 9110 section 15.4.5)
NOT_IN_304 = frozenset({"content-length", "content-type", "content-encoding", "content-language", "content-range", "content-md5"})


def answer(entry: Entry, directives: RequestDirectives | None, now: float) -> Response:
    """The response from the entry to a request with these conditions and range: 200, 206, 304 or 416. Its list of header fields is
    a copy."""
    if directives is None:
        return entry.response()
    if entry.status == 200 and directives.conditional and not_modified(entry, directives, now):
        return Response(304, [field for field in entry.headers if field[0].lower() not in NOT_IN_304], b"")
    if entry.status == 200 and directives.range is not None and same_version(entry, directives.if_range, now):
        ranges = byte_ranges(directives.range, len(entry.body))
        if ranges is not None and len(ranges) < 2:
            return part(entry, ranges[0]) if ranges else unsatisfiable(entry)
    return entry.response()


def not_modified(entry: Entry, directives: RequestDirectives, now: float) -> bool:
    """Does the client have it already?"""
    if directives.if_none_match:
        tags = entity_tags(directives.if_none_match)
        return "*" in tags or opaque(entry.etag or "") in tags
    since = http_date(directives.if_modified_since or "", now)
    if since is None:
        return False
    changed_at = date_of(entry.headers, now) if entry.last_modified is None else entry.last_modified
    return changed_at is not None and changed_at <= since


def same_version(entry: Entry, if_range: str | None, now: float) -> bool:
    """RFC 9110 section 13.1.5: the strong comparison of tags, or exactly the date where that is a strong validator, so that nothing
    can have changed within the same second (section 8.8.2.2); without If-Range always."""
    if if_range is None:
        return True
    if if_range.startswith('"'):
        return if_range == entry.etag
    date = http_date(if_range, now)
    if date is None or date != entry.last_modified:
        return False
    origin_date = date_of(entry.headers, now)
    return origin_date is not None and origin_date - date >= STRONG


def is_range(text: str) -> bool:
    """Is this Range field a single range, which is served from a stored entry?"""
    return len(byte_ranges(text, LARGEST) or ()) == 1


def part(entry: Entry, bounds: Bounds) -> Response:
    """The 206 response with the bytes within ``bounds``."""
    first, last = bounds
    body = entry.body[first:last + 1]
    headers: Headers = [field for field in entry.headers if field[0].lower() not in ("content-length", "content-range")]
    headers += [("Content-Range", f"bytes {first}-{last}/{len(entry.body)}"), ("Content-Length", str(len(body)))]
    return Response(206, headers, body)


def unsatisfiable(entry: Entry) -> Response:
    """The 416 response: the entry has no such bytes."""
    identity = [field for field in entry.headers if field[0].lower() in ("date", "etag")]
    return Response(416, [("Content-Range", f"bytes */{len(entry.body)}"), ("Content-Length", "0"), *identity], b"")
