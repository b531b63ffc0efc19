"""The stored responses of the HTTP cache: an Entry for each, and the Variants under one key, which Vary tells apart. Pure.

The header is parsed once, when the response is stored: a lookup compares numbers and does not parse. All times are seconds of the
shared clock (bus/clock.py), so that they mean the same in other workers and after a restart. Entries are shared between requests
and do not change once stored, except that ``digest`` is filled in.

The age (RFC 9111 section 4.2.3) is stored as ``born``, the time at which it was 0: it is ``now - born``.

``compact`` reduces the memory that an entry takes, before it is stored: objects that are equal, within it and among entries, become
one, and the header fields become the bytes that are sent.
"""

from __future__ import annotations

from collections.abc import Collection
from sys import getrefcount, getsizeof
from typing import Any

from ..http.fields import fields_of
from ..http.prepared import PreparedResponse, head_lines_of
from ..message import Headers, Response

# The bits of Entry.flags: what an answer's own header says about its use (RFC 9111 section 5.2.2). Stored entries have them as one
# number, and a lookup reads them with one operation
MUST_REVALIDATE = 1          # must-revalidate, proxy-revalidate or s-maxage: never stale, not even instead of an error
NO_CACHE = 2                 # every use needs a validation first
IMMUTABLE = 4                # RFC 8246: while it is fresh, a reload is no reason to ask again
HEURISTIC = 8                # its lifetime is a guess
POLICY = 16                  # its lifetime is the route's, not the header's
PUBLIC = 32                  # it says itself that it is for everybody, whoever asked for it
GUESS = HEURISTIC | POLICY       # the answer itself does not say that others may have it for so long
FLAG_NAMES = {MUST_REVALIDATE: "must-revalidate", NO_CACHE: "no-cache", IMMUTABLE: "immutable", HEURISTIC: "heuristic",
              POLICY: "policy", PUBLIC: "public"}

MOST_VARIANTS = 32
OVERHEAD = 600                                           # bytes an entry takes beside its texts and its body, about
TEXT = 56                                                # of a text, beside its characters
SAME = 0.001                                             # seconds in which two moments are one
MOST_TAGS = 4096

_tags: dict[str, str] = {}


class Entry:
    """One stored answer.

    ``headers``, for reading only, are ready to be sent: without Age, Cache-Status and what belongs to a connection, with Date and
    Content-Length.
    ``born`` is when its age was 0; it is fresh before ``expires``, may be served stale while it is refreshed before
    ``stale_while_revalidate``, and in place of an error before ``stale_if_error`` (all absolute; equal to ``expires`` where
    there is no such window, the latter before it where it is forbidden). ``flags`` are the bits above. ``last_modified`` is the
    parsed date, None without a usable one.
    ``vary`` are the header fields of the request that selected this answer: (lower-case name, normalised value or None).
    ``tags`` and ``url`` (``scheme://host/path?query``) are for purging; ``stored_at`` is when it was stored or last validated.
    ``digest`` is the SHA-256 of the body in hexadecimal, once somebody needed it.
    """

    __slots__ = ("status", "reason", "_fields", "body", "request_time", "response_time", "born", "expires",
                 "stale_while_revalidate", "stale_if_error", "flags", "_etag", "last_modified", "vary", "tags", "url", "stored_at",
                 "digest")

    def __init__(self, status: int, reason: str, headers: Headers, body: bytes, *, request_time: float,
                 response_time: float, born: float, expires: float, stale_while_revalidate: float, stale_if_error: float,
                 flags: int = 0, etag: str | None = None, last_modified: float | None = None,
                 vary: tuple[tuple[str, str | None], ...] = (), tags: frozenset[str] = frozenset(), url: str = "",
                 stored_at: float = 0.0) -> None:
        self.status = status
        self.reason = reason
        self._fields: Headers | bytes = headers
        self.body = body
        self.request_time = request_time
        self.response_time = response_time
        self.born = born
        self.expires = expires
        self.stale_while_revalidate = stale_while_revalidate
        self.stale_if_error = stale_if_error
        self.flags = flags
        self._etag: str | bool | None = etag             # True: it is that of the packed header
        self.last_modified = last_modified
        self.vary = vary
        self.tags: Collection[str] = tags
        self.url = url
        self.stored_at = stored_at
        self.digest = ""

    @property
    def headers(self) -> Headers:
        """The header fields; once packed, a new list with each access."""
        fields = self._fields
        return fields_of(fields) if isinstance(fields, bytes) else fields

    @headers.setter
    def headers(self, headers: Headers) -> None:
        self._fields = headers

    @property
    def etag(self) -> str | None:
        etag = self._etag
        return etag if etag is None or isinstance(etag, str) else first_etag(self.headers)

    def response(self) -> Response:
        fields = self._fields
        if isinstance(fields, bytes):
            return PreparedResponse(self.status, self.reason, fields, self.body)
        return Response(self.status, fields.copy(), self.body, self.reason)

    def copy(self) -> Entry:
        """An entry with the same attributes."""
        copy = Entry(self.status, self.reason, [], self.body, request_time=self.request_time, response_time=self.response_time,
                     born=self.born, expires=self.expires, stale_while_revalidate=self.stale_while_revalidate,
                     stale_if_error=self.stale_if_error, flags=self.flags, last_modified=self.last_modified, vary=self.vary,
                     url=self.url, stored_at=self.stored_at)
        copy._fields, copy._etag, copy.tags, copy.digest = self._fields, self._etag, self.tags, self.digest
        return copy

    def pack(self) -> int:
        """Serialize the header fields, which saves two thirds of their memory, and return their size in bytes. Fields that cannot
        be sent that way stay a list."""
        fields = self._fields
        if isinstance(fields, bytes):
            return getsizeof(fields)
        lines = head_lines_of(self.status, fields, len(self.body))
        if lines is None:
            return sum(140 + len(name) + len(value) for name, value in fields)
        if self._etag and self._etag == first_etag(fields):
            self._etag = True
        self._fields = lines
        return getsizeof(lines)

    @property
    def size(self) -> int:
        """Its approximate size in memory, in bytes."""
        return (OVERHEAD + len(self.body) + len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
                + sum(len(tag) for tag in self.tags))

    def __repr__(self) -> str:
        lifetime = f"born {self.born:.0f}, expires {self.expires:.0f}"
        return f"Entry({self.status} {self.url}, {len(self.body)} bytes, {lifetime}, {flag_names(self.flags) or 'no flags'})"


Variants = tuple[Entry, ...]                             # those under one key, the latest first, at most MOST_VARIANTS


def flag_names(flags: int) -> str:
    """The names of the flags, for logs and pages."""
    return ", ".join(name for bit, name in FLAG_NAMES.items() if flags & bit)


def first_etag(headers: Headers) -> str | None:
    return next((value.strip() for name, value in headers if name.lower() == "etag"), None)


def with_entry(variants: Variants, entry: Entry, instead: Entry | None = None) -> Variants:
    """Add ``entry``, replacing the one that the same request fields select and that of ``instead``."""
    replaced_keys = {entry.vary, entry.vary if instead is None else instead.vary}
    others = [other for other in variants if other.vary not in replaced_keys]
    return (entry, *others[:MOST_VARIANTS - 1])


# Memory

def compact(entry: Entry, key: str) -> int:
    """Compact the entry and return its size in memory, in bytes, when stored under ``key``."""
    size = VARIANT + entry.pack() + (getsizeof(entry.body) if entry.body else 0)
    if entry.tags:
        entry.tags = tuple(map(intern, entry.tags))
        size += TEXT + sum([TEXT + len(tag) for tag in entry.tags])
    else:
        entry.tags = ()                                  # an empty set takes 216 bytes
    if entry.url == key:
        entry.url = key
    else:
        size += TEXT + len(entry.url)
    if entry.vary:
        size += TEXT + sum([2 * TEXT + len(name) + len(value or "") for name, value in entry.vary])
    return size + MOMENT * merge_moments(entry) + (0 if entry.last_modified is None else getsizeof(entry.last_modified))


def merge_moments(entry: Entry) -> int:
    """Merge equal times of the entry and return the number of different ones."""
    if abs(entry.born - entry.request_time) < SAME:      # as with most, which have no Age
        entry.born = entry.request_time
    if abs(entry.stored_at - entry.response_time) < SAME:
        entry.stored_at = entry.response_time
    moments: dict[float, float] = {}
    entry.request_time = moments.setdefault(entry.request_time, entry.request_time)
    entry.response_time = moments.setdefault(entry.response_time, entry.response_time)
    entry.born = moments.setdefault(entry.born, entry.born)
    entry.expires = moments.setdefault(entry.expires, entry.expires)
    entry.stale_while_revalidate = moments.setdefault(entry.stale_while_revalidate, entry.stale_while_revalidate)
    entry.stale_if_error = moments.setdefault(entry.stale_if_error, entry.stale_if_error)
    entry.stored_at = moments.setdefault(entry.stored_at, entry.stored_at)
    return len(moments)


def intern(tag: str) -> str:
    """One object for a tag in all entries, for up to MOST_TAGS tags."""
    original = _tags.get(tag)
    if original is None:
        if len(_tags) >= MOST_TAGS:
            _tags.clear()
        original = _tags[tag] = tag
    return original


def sizes() -> tuple[int, int]:
    """The bytes of an entry with the tuple it is in, and those of each different moment of it beside that: none where an entry does
    not refer to its numbers but holds them, as a compiled one does."""
    moment: Any = float("1.5")
    references = getrefcount(moment)
    entry = Entry(0, "", [], b"", request_time=0.0, response_time=0.0, born=moment, expires=0.0, stale_while_revalidate=0.0,
                  stale_if_error=0.0)
    return getsizeof(entry) + getsizeof((entry,)), getsizeof(moment) if getrefcount(moment) > references else 0


VARIANT, MOMENT = sizes()
