"""What a successful unsafe request makes invalid: its own address, and those its answer names (RFC 9111 section 4.4).

That is so whether or not the cache has anything to do with the request: also with ``no-store``, with a body that is not looked at,
and for a POST that the route would have kept the answer of.

``Invalidate`` is the step for routes that have no cache of their own beside routes that do: a POST there may change what those
keep, and an upstream that says something to this gateway's caches (``Greengate-Cache-Control``, RFC 9213) does so there too: that
ends here. Location and Content-Location count when they are of the same origin: nobody purges what belongs to another host.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from ..fields import Kinds
from ..message import Handler, Request, Response
from .directives import OWN

PLAIN = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*/?")             # there is one way to write it
OWN_FIELD = Kinds({OWN: 1})
SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY"})


class Purgeable(Protocol):
    """``kept``: is there a route that keeps answers with such a path?"""

    kept: Callable[[str], bool]

    def invalidate(self, urls: list[str]) -> None: ...


def invalidated(request: Request, response: Response) -> list[str]:
    """The addresses whose stored answers are no longer right after this exchange. Not after an error: it changed nothing."""
    if request.method in SAFE or not 200 <= response.status < 400:
        return []
    if not request.host:                                 # HTTP/1.0: whatever host it may have meant
        return [request.target]
    own = f"{request.scheme}://{request.host.lower()}{request.target}"
    found = [own]
    for name, value in response.headers:
        if name.lower() in ("location", "content-location") and (other := resolved(own, value)) not in (None, *found):
            found.append(other)  # type: ignore[arg-type]
    return found


def forget(store: Purgeable, request: Request, response: Response) -> None:
    """Purge what this exchange has made invalid. The store knows as what the routes keep these addresses. Where none does there is
    nothing to purge: most POSTs are to such an address, and all workers would hear of each. An odd one may mean another path."""
    gone = [url for url in invalidated(request, response) if not PLAIN.fullmatch(path := path_of(url)) or store.kept(path)]
    if gone:
        store.invalidate(gone)


def path_of(url: str) -> str:
    """The path of an address, or of one that begins with it."""
    rest = url.partition("://")[2]
    return (f"/{rest.partition('/')[2]}" if rest else url).partition("?")[0]


def resolved(base: str, reference: str) -> str | None:
    """The address that ``reference`` means, when it is of the same origin."""
    try:
        joined = urljoin(base, reference.strip())
        here, there = urlsplit(base), urlsplit(joined)
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
        response = self.next(request)
        if request.method not in SAFE:
            forget(self.store, request, response)
        if response.written is None and [1 for name, _ in response.headers if OWN_FIELD[name]]:      # an upstream's
            response.headers = [field for field in response.headers if not OWN_FIELD[field[0]]]
        return response

    def __repr__(self) -> str:
        return "invalidate: stored answers for what a successful POST, PUT, DELETE and the like may have changed"
