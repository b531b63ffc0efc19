"""Conditions and ranges of a client, answered from a stored answer. Pure.

If-None-Match goes before If-Modified-Since, and compares weakly (RFC 9110 section 13.2.2, RFC 9111 section 4.3.2). One range of
bytes is cut out of a stored 200; several, or another unit, get the whole (RFC 9110 section 14.2 lets a server ignore Range).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ..message import Headers, Response
from .entry import Entry
from .request_directives import RequestDirectives
from .syntax import entity_tags, http_date, opaque

RANGE = re.compile(r"bytes\s*=\s*(?:(\d+)\s*)?-\s*(?:(\d+)\s*)?", re.IGNORECASE | re.ASCII)
MOST_DIGITS = 18
# Of the fields about the representation a 304 carries those that tell it apart or say how to keep it (RFC 9110 section 15.4.5)
NOT_IN_304 = frozenset({"content-length", "content-type", "content-encoding", "content-language", "content-range", "content-md5"})


def answer(entry: Entry, asked: RequestDirectives | None, now: float) -> Response:
    """The entry, or what the client's conditions and range make of it. The list of header fields is the caller's own."""
    if asked is None:
        return entry.response()
    if entry.status == 200 and asked.conditional and not_modified(entry, asked, now):
        return Response(304, [field for field in entry.headers if field[0].lower() not in NOT_IN_304], b"")
    if entry.status == 200 and asked.range is not None and same_version(entry, asked.if_range, now):
        found = bounds(asked.range, len(entry.body))
        if found is not None:
            return part(entry, found)
    return entry.response()


def not_modified(entry: Entry, asked: RequestDirectives, now: float) -> bool:
    """Does the client have it already?"""
    if asked.if_none_match:
        wanted = entity_tags(asked.if_none_match)
        return "*" in wanted or bool(entry.etag) and opaque(entry.etag or "") in wanted
    since = http_date(asked.if_modified_since or "", now)
    if since is None:
        return False
    changed = entry.last_modified
    if changed is None:
        changed = next((date for name, value in entry.headers if name.lower() == "date"
                        and (date := http_date(value, now)) is not None), entry.response_time)
    return changed <= since


def same_version(entry: Entry, if_range: str | None, now: float) -> bool:
    """RFC 9110 section 13.1.5: the strong comparison, or exactly the date; without If-Range always."""
    if if_range is None:
        return True
    if if_range.startswith(('"', "W/")):
        return if_range.startswith('"') and if_range == entry.etag
    date = http_date(if_range, now)
    return date is not None and date == entry.last_modified and entry.response_time - date >= 1.0


class Bounds(NamedTuple):
    """``first`` and ``last`` byte, both included; ``last`` below ``first`` for a range that cannot be given."""

    first: int
    last: int


def bounds(text: str, length: int) -> Bounds | None:
    """The one range asked for; None when Range is to be ignored."""
    match = RANGE.fullmatch(text)
    begin, end = (match[1] or "", match[2] or "") if match is not None else ("", "")
    if not (begin or end) or len(begin) > MOST_DIGITS or len(end) > MOST_DIGITS:
        return None
    if not begin:
        return Bounds(max(0, length - int(end)), length - 1) if int(end) else Bounds(0, -1)
    first = int(begin)
    if end and int(end) < first:
        return None
    last = min(int(end), length - 1) if end else length - 1
    return Bounds(first, last) if first < length else Bounds(0, -1)


def is_range(text: str) -> bool:
    """Is it one range that is cut out of a stored answer?"""
    return bounds(text, 10 ** MOST_DIGITS) is not None


def part(entry: Entry, wanted: Bounds) -> Response:
    """206 with these bytes, or 416."""
    length = len(entry.body)
    if wanted.last < wanted.first:
        return Response(416, [("Content-Range", f"bytes */{length}"), ("Content-Length", "0"), *dated(entry)], b"")
    body = entry.body[wanted.first:wanted.last + 1]
    headers: Headers = [field for field in entry.headers if field[0].lower() not in ("content-length", "content-range")]
    headers += [("Content-Range", f"bytes {wanted.first}-{wanted.last}/{length}"), ("Content-Length", str(len(body)))]
    return Response(206, headers, body)


def dated(entry: Entry) -> Headers:
    return [field for field in entry.headers if field[0].lower() in ("date", "etag")]
