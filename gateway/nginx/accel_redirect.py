"""Step: offload, a large stored body is named to nginx in front, which sends the file itself (X-Accel-Redirect).

It stands outside all steps of a route, so that it sees the header fields as the client would get them. It offloads only when

- the request came through a trusted proxy that says it can do it (OFFLOAD_FIELD, set by what ``gateway nginx`` renders);
- it is a GET, and its answer was served from the cache of a route with ``offload``: such an answer has ``whole``;
- every header field is one that nginx takes over: by itself (TAKEN_OVER), or because the rendering says so (CARRIED_FIELDS). nginx
  drops all others of an answer with X-Accel-Redirect; an answer that has one is sent from here.

A part (206) is offloaded as the whole: nginx cuts it itself, by Range and If-Range of the client. 304 and errors are ours.
On the paths where nginx obeys X-Accel-Redirect, nobody but this step may say it: that of an application is taken out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..message import Handler, Headers, Request, Response

OFFLOAD_FIELD = "X-Wicketgate-Offload"
LOCATION = "/-wicketgate-offload/"
SMALLEST = 65536                                         # bytes: what is smaller is sent sooner than it is offloaded
TAKEN_OVER = frozenset({"content-type", "content-disposition", "cache-control", "expires"})
CARRIED_FIELDS = (
    "Access-Control-Allow-Credentials", "Access-Control-Allow-Origin", "Access-Control-Expose-Headers", "Age", "Cache-Status",
    "Cache-Tag", "CDN-Cache-Control", "Content-Encoding", "Content-Language", "Content-Location", "Content-Security-Policy",
    "Cross-Origin-Embedder-Policy", "Cross-Origin-Opener-Policy", "Cross-Origin-Resource-Policy", "ETag", "Last-Modified", "Link",
    "Permissions-Policy", "Referrer-Policy", "Strict-Transport-Security", "Surrogate-Control", "Surrogate-Key",
    "Timing-Allow-Origin", "Vary", "Via", "X-Content-Type-Options", "X-Frame-Options", "X-Robots-Tag")
MADE_ANEW = frozenset({"accept-ranges", "connection", "content-length", "content-range", "date", "server", "x-request-id"})
ONCE = frozenset(name.lower() for name in CARRIED_FIELDS) | {"content-type"}  # of several lines nginx would carry the first
KNOWN_FIELDS = TAKEN_OVER | ONCE | MADE_ANEW
DROPPED_FIELDS = frozenset({"accept-ranges", "content-length", "content-range"})


class AccelRedirect:
    """``file_of(whole)`` is the name of a file with the body of a stored answer, below the folder that nginx knows; None when
    there can be none."""

    def __init__(self, next: Handler, file_of: Callable[[Any], str | None]) -> None:
        self.next = next
        self.file_of = file_of

    def __call__(self, request: Request) -> Response:
        if not request.header(OFFLOAD_FIELD):
            return self.next(request)
        request.headers = [field for field in request.headers if field[0].lower() != OFFLOAD_FIELD.lower()]
        response = self.next(request)
        response.headers = [field for field in response.headers if field[0].lower() != "x-accel-redirect"]
        whole = response.whole
        if whole is None or not request.trusted or request.method != "GET" or response.status not in (200, 206):
            return response
        if len(whole.body) < SMALLEST or not can_carry(response.headers):
            return response
        name = self.file_of(whole)
        if name is None:
            return response
        headers = [field for field in response.headers if field[0].lower() not in DROPPED_FIELDS]
        return Response(200, [*headers, ("X-Accel-Redirect", LOCATION + name), ("Content-Length", "0")], b"")

    def __repr__(self) -> str:
        return "offload: large stored bodies are sent by nginx"


def can_carry(headers: Headers) -> bool:
    """Does nginx carry all of these over to its own answer?"""
    names = [name.lower() for name, _ in headers]
    once = [name for name in names if name in ONCE]
    return KNOWN_FIELDS.issuperset(names) and len(once) == len(set(once)) and "content-type" in once
