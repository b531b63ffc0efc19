"""Invalidation by an unsafe request: of its own URL, and of those that its response names (RFC 9111 section 4.4).

=================================================  =====================================================================
how it ended                                       what that means
=================================================  =====================================================================
2xx or 3xx                                         it changed something: before the answer goes on, all workers know it
the same, and the body comes in pieces             once more at the end of those, whole or cut: it may have worked till then
4xx or 5xx but 504, or nothing was sent            it changed nothing
504, and whatever else ended without an answer     nobody knows what it changed: its own address
=================================================  =====================================================================

That is so whether or not the cache has anything to do with the request: also with ``no-store``, with a body that is not looked at,
and for a POST that the route would have kept the answer of.

``Invalidate`` is the step for routes that have no cache of their own beside routes that do: a POST there may change what those
keep, and an upstream that says something to this gateway's caches (``Wicketgate-Cache-Control``, RFC 9213) does so there too: that
ends here. Location and Content-Location count when they are of the same origin: nobody purges what belongs to another host.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from ...errors import UNSENT, ClientDisconnected, ConnectFailed, GatewayError, PoolExhausted
from ...http.fields import Kinds
from ...message import Handler, Request, Response, Stream
from ..response_directives import OWN

PLAIN = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?")             # there is one way to write it
OWN_FIELD = Kinds({OWN: 1})
UNKNOWN = 504                                            # somebody on the way has given up waiting
UNSENT_FLAGS = frozenset({ConnectFailed.flag, PoolExhausted.flag})       # that of ConnectTimeout may be a read timeout, too
SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY"})


class Purges(Protocol):
    def purge_urls(self, urls: list[str]) -> int: ...


class Purgeable(Protocol):
    """The store as invalidation uses it. ``caches``: does a route store answers with this path?"""

    caches: Callable[[str], bool]

    @property
    def purger(self) -> Purges: ...


def invalid_urls(request: Request, response: Response) -> list[str]:
    """The URLs that this exchange invalidates; none after an error, which changed nothing."""
    if request.method in SAFE or not 200 <= response.status < 400 and response.status != UNKNOWN:
        return []
    own = own_address(request)
    if not request.host:
        return [own]
    urls = [own]
    for name, value in response.headers:
        if name.lower() in ("location", "content-location"):
            other = resolve(own, value)
            if other is not None and other not in urls:
                urls.append(other)
    return urls


def own_address(request: Request) -> str:
    """The URL of the request; for HTTP/1.0 without Host, the path on every host."""
    return f"{request.scheme}://{request.host.lower()}{request.target}" if request.host else request.target


def call_unsafe(next: Handler, store: Purgeable, request: Request) -> Response:
    """Forward an unsafe request, and purge what it may have changed before this returns or raises."""
    try:
        response = next(request)
    except BaseException as error:
        if not (isinstance(error, GatewayError) and had_no_effect(request, error)):
            purge(store, [own_address(request)])
        raise
    forget(store, request, response)
    return response


def had_no_effect(request: Request, error: GatewayError) -> bool:
    """Is it certain that the request had no effect? It was not sent, or was refused before that."""
    is_unsent = isinstance(error, UNSENT)   # this was the last attempt
    attempts = request.attempts[:-1] if is_unsent else request.attempts
    is_refusal = error.status < 500 and not isinstance(error, ClientDisconnected)
    return (is_unsent or is_refusal) and all(attempt.flag in UNSENT_FLAGS for attempt in attempts)


def forget(store: Purgeable, request: Request, response: Response) -> None:
    """Purge the URLs that this exchange invalidates, and again when a streamed response has ended."""
    urls = invalid_urls(request, response)
    if purge(store, urls) and not isinstance(response.body, bytes):
        response.body = EndCallbackStream(response.body, lambda: purge(store, urls))


def purge(store: Purgeable, urls: list[str]) -> bool:
    """Purge those URLs whose answers a route may store; returns whether there are any. Most POSTs are to other URLs, and every
    worker would be notified of each. A URL that has other spellings counts as one of a route."""
    urls = [url for url in urls if not PLAIN.fullmatch(path := path_of(url)) or store.caches(path)]
    if urls:
        store.purger.purge_urls(urls)
    return bool(urls)


class EndCallbackStream:
    """A stream that calls ``on_end`` once: before it signals its end, or when it fails or is closed."""

    __slots__ = ("_stream", "_on_end")

    def __init__(self, stream: Stream, on_end: Callable[[], object]) -> None:
        self._stream = stream
        self._on_end: Callable[[], object] | None = on_end

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        finally:
            self._end()

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._end()

    def _end(self) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()

    def __repr__(self) -> str:
        return f"EndCallbackStream({self._stream!r})"


def path_of(url: str) -> str:
    """The path of a URL or of a URL prefix."""
    rest = url.partition("://")[2]
    return (f"/{rest.partition('/')[2]}" if rest else url).partition("?")[0]


def resolve(base: str, reference: str) -> str | None:
    """Resolve a URL reference against ``base``; None when it is of another origin."""
    try:
        absolute = urljoin(base, reference.strip())
        here, there = urlsplit(base), urlsplit(absolute)
        same = (here.scheme, here.hostname, here.port) == (there.scheme, there.hostname, there.port)
    except ValueError:
        return None
    if not same:
        return None
    return f"{here.scheme}://{here.netloc}{there.path or '/'}" + (f"?{there.query}" if there.query else "")


class Invalidate:
    def __init__(self, next: Handler, store: Purgeable) -> None:
        self.next = next
        self.store = store

    def __call__(self, request: Request) -> Response:
        response = self.next(request) if request.method in SAFE else call_unsafe(self.next, self.store, request)
        if response.head_lines is None and [1 for name, _ in response.fields if OWN_FIELD[name]]:       # an upstream's
            response.fields = [field for field in response.fields if not OWN_FIELD[field[0]]]
        return response

    def __repr__(self) -> str:
        return "invalidate: stored answers for what a POST, PUT, DELETE and the like may have changed"
