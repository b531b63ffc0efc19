"""The cache key of a request, and which of the variants under it the request selects. Pure.

The key is the address as the client sent it: scheme, host, path and query, and what the route adds. Only the case of the host is
normalized, since that is the same to every server. Everything else that changes the answer has to be in the key or in Vary. So is a
public port that a trusted proxy says and the address does not: upstreams get it, and make links of it.

Where only some parameters or cookies count, what an upstream could take for one of them counts as well (``fold``): else a client
would choose the answer that is stored for others by a spelling that only the upstream understands.

What counts of a field that the gateway writes, edits or removes (``RouteEntry.own_fields``) is how it goes on: whoever answers sees
that.

Vary (RFC 9111 section 4.1) compares the request's fields in a normal form: several lines are one list, white space around commas
does not count, and of the Accept family nor do case and order.

``policy_of`` adds what the targets of a route say about themselves, each with a default:

===================  ==========================================================================================================
``sees_cookies``     do the client's cookies reach what makes the answer? (True) If not, none counts. Else a cookie keeps the
                     answer out of the cache, unless the route says which cookies count
``key_headers``,     fields and cookies of the request on which the answer depends without naming them in Vary (none): a
``key_cookies``      composition's, for example
``says_no_store``    it says ``no-store``, for caches that would store it although nobody configures that (False). With a ``ttl``
                     of the route somebody does, and the route's word goes before
===================  ==========================================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from urllib.parse import unquote_plus

from ..config import CacheKey, CacheSettings
from ..message import Handler, Request
from .entry import Entry, Variants
from .syntax import names

PREFERENCES = frozenset({"accept", "accept-language", "accept-encoding", "accept-charset"})
NOT_IN_KEY = frozenset({"cookie", "authorization"})      # the rules look after these two
MARKS = re.compile(r"[. ]")
Vary = tuple[tuple[str, str | None], ...]
SEPARATOR = "\n"                                         # cannot be in a URL or a header field


def policy_of(cache: CacheSettings, targets: Iterable[Handler]) -> CacheSettings:
    """``cache`` as it holds for a route with these targets."""
    targets = [*targets]
    headers = {name.lower(): name for target in targets for name in getattr(target, "key_headers", ())}
    new_headers = headers.keys() - {name.lower() for name in cache.key.headers} - NOT_IN_KEY
    cookies = cache.key.cookies
    if cookies is None and not any(getattr(target, "sees_cookies", True) for target in targets):
        cookies = ()
    if cookies is not None:
        new_cookies = {name for target in targets for name in getattr(target, "key_cookies", ())} - set(cookies)
        cookies = (*cookies, *sorted(new_cookies))
    if new_headers or cookies != cache.key.cookies:
        key = cache.key.model_copy(update={
            "headers": (*cache.key.headers, *(headers[name] for name in sorted(new_headers))), "cookies": cookies})
        cache = cache.model_copy(update={"key": key})
    if cache.ttl is not None and any(getattr(target, "says_no_store", False) for target in targets):
        cache = cache.model_copy(update={"respect": "policy"})
    return cache


class KeyOf:
    """``key_of(request) -> str``. ``scope`` tells routes apart that answer the same addresses."""

    def __init__(self, policy: CacheSettings, scope: str = "") -> None:
        self.policy = policy
        self.scope = f"{scope}{SEPARATOR}" if scope else ""
        key = policy.key
        self.query = QueryOf(key) if key.query is not None or key.ignore_query or key.sort_query else None
        self.headers = tuple(name.lower() for name in key.headers)
        self.cookies = key.cookies or ()
        self.more = bool(self.headers or self.cookies or policy.vary_by_caller)

    def __call__(self, request: Request) -> str:
        key = self.scope + self.url(request)
        port = request.port
        if port and port != implied_port(request):
            key = f"{key}{SEPARATOR}port {port}"
        if self.more:
            key = SEPARATOR.join((key, *self.rest(request)))
        return key

    def url(self, request: Request) -> str:
        """The address without what does not count, by which answers are purged."""
        query = request.query
        if query is not None and self.query is not None:
            query = self.query(query)
        address = request.path if query is None else f"{request.path}?{query}"
        return f"{request.scheme}://{request.host.lower()}{address}"

    def rest(self, request: Request) -> Iterable[str]:
        for name in self.headers:
            value = normal(name, request.header_list(name))
            yield f"no {name}" if value is None else f"{name}: {value}"
            if is_rewritten(request, name):              # a composition may read the one in its templates, and send the other
                yield f"sent {name}: {normal(name, lines_of(request, name))}"
        if self.cookies:
            by_name = cookies(request)
            for name in self.cookies:
                pairs = by_name.get(fold(name), ())
                values = [value if sent_name == name else f"{sent_name}={value}" for sent_name, value in pairs]
                yield f"cookie {name}={'; '.join(values)}" if values else f"no cookie {name}"
        if self.policy.vary_by_caller:
            yield f"caller {caller(request, self.policy.key.cookies is None)}"

    def __repr__(self) -> str:
        key, parts = self.policy.key, ["url"]
        if key.query is not None:
            parts.append(f"query {', '.join(key.query) or 'none'}")
        if key.ignore_query:
            parts.append(f"query but {', '.join(key.ignore_query)}")
        parts += [f"header {name}" for name in key.headers] + [f"cookie {name}" for name in self.cookies]
        return ", ".join(parts + (["caller"] if self.policy.vary_by_caller else []))


def implied_port(request: Request) -> str:
    """The port that the address itself says, in digits."""
    host, colon, port = request.host.rpartition(":")
    return port if colon and not port.endswith("]") else "443" if request.scheme == "https" else "80"


class QueryOf:
    """``query_of(query) -> query``, None when nothing that counts is left. What counts stays as it was sent. A semicolon is to some
    upstreams what an ampersand is: a piece with one counts."""

    def __init__(self, key: CacheKey) -> None:
        self.sort = key.sort_query
        self.counts = matcher(map(fold, key.query)) if key.query is not None else None
        self.ignores = matcher(key.ignore_query)

    def __call__(self, query: str) -> str | None:
        pieces = [piece for piece in query.split("&") if self._counts(piece)]
        if self.sort:
            pieces.sort(key=lambda piece: piece.partition("=")[0])         # of one name the order stays: it may mean something
        return "&".join(pieces) if pieces else None

    def _counts(self, piece: str) -> bool:
        name = piece.partition("=")[0]
        return ";" in piece or (self.counts is None or self.counts(fold(name))) and not self.ignores(name)


def fold(name: str) -> str:
    """The name of a parameter or cookie as the most lenient of upstreams reads it: decoded, without space around it, in any case,
    with an underscore for a dot or a space, without the index of an array (PHP does the last two)."""
    if name.isalnum() and name.islower():
        return name
    return MARKS.sub("_", unquote_plus(name).strip().partition("\0")[0].partition("[")[0]).lower()


def matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """``matches(name)``: is it one of these? ``utm_*`` is every name that begins so."""
    patterns = tuple(patterns)
    whole = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
    starts = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))
    return lambda name: name in whole or name.startswith(starts)


def caller(request: Request, with_cookies: bool = False) -> str:
    """Who asks: what was found out about the caller before the cache, else what it shows as proof; empty for strangers. All users
    of an application may show the same: ``with_cookies`` tells them apart by their cookies, too."""
    identity = request.notes.get("caller")
    if identity is not None:
        return f"={identity}"
    proof = request.header_list("Authorization")
    if not any(proof):
        return ""
    cookie_lines = request.header_list("Cookie") if with_cookies else []
    return sha256(repr((proof, cookie_lines)).encode()).hexdigest()


def cookies(request: Request) -> dict[str, list[tuple[str, str]]]:
    """The cookies by their fold name: each as it was sent, name and value. Upstreams differ in which of several they take."""
    by_name: dict[str, list[tuple[str, str]]] = {}
    for line in request.header_list("Cookie"):
        for piece in line.split(";"):
            name, _, value = piece.strip().partition("=")
            if piece.strip():
                by_name.setdefault(fold(name), []).append((name, value))
    return by_name


# Vary

def selection(vary: Iterable[str], fields: dict[str, list[str]], key_names: Iterable[str] = ()) -> Vary:
    """The secondary key of a response with these Vary lines: name and normal form of each field. ``fields`` are those of the
    forwarded request, lower-case name to lines; ``key_names`` those that the key contains already."""
    return tuple((name, normal(name, fields.get(name, ()))) for name in sorted(set(names(vary)) - set(key_names)))


def is_rewritten(request: Request, name: str) -> bool:
    """May the gateway change this field before it forwards the request?"""
    return request.entry is not None and name in request.entry.own_fields


def lines_of(request: Request, name: str) -> list[str]:
    """The values of a field (lower-case ``name``) as the target receives them."""
    entry = request.entry
    fields = entry.onward(request) if entry is not None and entry.onward and name in entry.own_fields else request.headers
    return [value for key, value in fields if key.lower() == name]


def normal(name: str, lines: Iterable[str]) -> str | None:
    """The normal form of a request field; None when the request does not have it."""
    lines = tuple(lines)
    if not lines:
        return None
    if name == "cookie":
        return "; ".join(lines)
    items = [item.strip(" \t") for item in ",".join(lines).split(",")]
    if name in PREFERENCES:
        return ",".join(sorted({"".join(item.lower().split()) for item in items if item}))
    return ",".join(items)


def select(variants: Variants, request: Request) -> Entry | None:
    """The entry whose Vary this request meets. Of several one that has a Vary at all, since an upstream may forget it in its
    default answer, and of those the most recently made (section 4.1)."""
    if len(variants) == 1 and not variants[0].vary:
        return variants[0]
    values: dict[str, str | None] = {}
    best: Entry | None = None
    for entry in variants:
        for name, value in entry.vary:
            if name not in values:
                values[name] = normal(name, lines_of(request, name))
            if values[name] != value and not (name == "accept-language" and speaks(entry, values[name])):
                break
        else:
            if best is None or (bool(entry.vary), entry.born) > (bool(best.vary), best.born):
                best = entry
    return best


def speaks(entry: Entry, accept: str | None) -> bool:
    """Is the entry in the one language that the client likes best?"""
    languages = [value.strip().lower() for name, value in entry.headers if name.lower() == "content-language"]
    if not accept or len(languages) != 1:
        return False
    ranking = sorted(((weight(item), item.partition(";")[0]) for item in accept.split(",")), reverse=True)
    return ranking[0][1] == languages[0] and ranking[0][0] > 0 and (len(ranking) == 1 or ranking[1][0] < ranking[0][0])


def weight(item: str) -> float:
    """The q of an item of an Accept field."""
    for parameter in item.split(";")[1:]:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0
