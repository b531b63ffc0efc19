"""An explanation, in words, of the cache's treatment of one request, for ``gateway explain``. Asks nobody, changes nothing. Pure.

``of_request`` says what follows from the request and the route alone, ``of_stored`` what an answer that is stored means for it.
Both print the decisions that serving acts on (decide.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

from ..config import CacheSettings
from ..message import Request
from .decide import bypass, detail_of, sharing, unless_stored, use, wants_whole
from .entry import FLAG_NAMES, Entry, Variants, flag_names
from .key import SEPARATOR, KeyOf, caller, cookies, fold, implied_port
from .purging.invalidation import SAFE
from .reasons import Decision, SharingScope
from .request_directives import AUTHORIZATION, COOKIE, RequestDirectives

PERMITS = {COOKIE: "public, s-maxage or a lifetime in a field for shared caches, or Vary: Cookie",
           AUTHORIZATION: "public, s-maxage, or must-revalidate with a lifetime"}


def of_request(request: Request, directives: RequestDirectives | None, credentials: int, policy: CacheSettings, methods: Set[str],
               key_of: KeyOf, key: str) -> Iterator[str]:
    """One line for each thing that decides. ``key`` is the whole of it."""
    reason = bypass(request, directives, methods)
    if reason is not None:
        sentence = reason.sentence.format(detail=detail_of(reason, request, directives))
        if unless_stored(reason, directives) is Decision.ONLY_IF_CACHED:
            yield f"only-if-cached: 504, since it would go past the cache: {sentence}"
            return
        yield f"goes past the cache: {sentence}"
        if request.method not in SAFE:
            yield f"a success makes what is stored for {key_of.url(request)} invalid"
        return
    yield f"key: {key.replace(SEPARATOR, ' | ')}"
    yield from (f"not in the key: {what}" for what in left_out(request, policy, key_of))
    if request.method == "HEAD":
        yield "a HEAD is answered from a stored GET; its own answer is not stored"
    if request.method == "POST":
        yield "a POST is told apart by its body, too"
    yield from client_directive_lines(directives, policy)
    yield from credential_lines(request, credentials, policy)
    if policy.min_uses > 1:
        yield f"stored from the {policy.min_uses}th request for the same on"
    yield f"waiting: {waiting(request, directives, credentials, policy)}"


def left_out(request: Request, policy: CacheSettings, key_of: KeyOf) -> Iterator[str]:
    """The parts of the request that the key ignores, in words."""
    if request.query is not None and key_of.query is not None:
        key_pieces = (key_of.query(request.query) or "").split("&")
        others = [piece for piece in request.query.split("&") if piece not in key_pieces]
        if others:
            yield f"query {'&'.join(others)}"
    names = sorted(set(cookies(request)) - set(map(fold, policy.key.cookies or ())))
    if policy.key.cookies is not None and names:
        yield f"cookies {', '.join(names)}"
    if request.port and request.port == implied_port(request):
        yield f"port {request.port}, which the address says"


def client_directive_lines(directives: RequestDirectives | None, policy: CacheSettings) -> Iterator[str]:
    """The request's cache directives, in words."""
    if directives is None:
        return
    if not policy.client_directives:
        yield "what the client says in Cache-Control and Pragma is not heeded (client_directives)"
    if directives.only_if_cached:
        yield "only-if-cached: 504 when it is not stored"
    if directives.no_cache:
        yield "no-cache: what is stored is validated first"
    for name in ("max_age", "min_fresh", "max_stale", "stale_if_error"):
        if (value := getattr(directives, name)) is not None:
            yield f"{name.replace('_', '-')}: {value:g} s" if value != float("inf") else f"{name.replace('_', '-')}: of any age"
    if directives.conditional:
        yield "its conditions are answered here, by what is stored"
    if directives.range is not None and wants_whole(policy, directives):
        yield "a part is cut out of what is stored; when nothing is, the whole is fetched, unless it is known not to be stored"
    elif directives.range is not None:
        yield "a part is cut out of what is stored; when nothing is, it is asked for as it is, and not stored"


def credential_lines(request: Request, credentials: int, policy: CacheSettings) -> Iterator[str]:
    """The request's credentials and their consequences, in words."""
    if policy.vary_by_caller:
        yield "caller: has answers of its own" if caller(request) else "caller: none is known, so it shares with strangers"
    for bit, name in ((COOKIE, "Cookie"), (AUTHORIZATION, "Authorization")):
        if credentials & bit:
            yield f"{name}: its answer is stored only with {PERMITS[bit]}"
    if credentials & COOKIE:
        yield "Cookie: it gets what is stored only when that is for everybody; key.cookies says which cookies count"
    elif credentials & AUTHORIZATION:
        yield "Authorization: it gets what is stored unless its lifetime is the route's or a guess"


def waiting(request: Request, directives: RequestDirectives | None, credentials: int, policy: CacheSettings) -> str:
    """Which requests share an answer with this one when nothing is stored, in words."""
    scope = sharing(request, directives, personal=policy.vary_by_caller and bool(caller(request)), is_stored=False,
                    whole=wants_whole(policy, directives))
    if scope is SharingScope.ALL and credentials:
        return "with those that send a cookie, too, once it is known that answers are for all of them"
    return scope.value


def of_stored(variants: Variants, request: Request, directives: RequestDirectives | None, credentials: int,
              now: float) -> Iterator[str]:
    """The stored answers under the key, and which of them the request gets, in words."""
    decision, best = use(variants, request, directives, credentials, now)
    for entry in variants:
        yield f"{'>' if entry is best else ' '} {entry_line(entry, now)}"
    yield decision.sentence
    if unless_stored(decision, directives) is not decision:
        yield "504 instead of that: only-if-cached"


def entry_line(entry: Entry, now: float) -> str:
    left = entry.expires - now
    words = [str(entry.status), f"{now - entry.born:.0f} s old",
             f"fresh for {left:.0f} s" if left > 0 else f"expired {-left:.0f} s ago"]
    words += [f"{name}: {'not sent' if value is None else value}" for name, value in entry.vary]
    words += [flag_names(entry.flags)] if entry.flags else []
    return ", ".join(words)


def entry_of_admin(document: dict[str, Any], now: float) -> Entry:
    """Parse the admin listener's description of an entry into one without a body. Raises KeyError, TypeError or ValueError when it
    is malformed."""
    bits = {name: bit for bit, name in FLAG_NAMES.items()}
    flags = [name for name in str(document["flags"]).split(", ") if name]
    return Entry(
        int(document["status"]), "", [(name, value) for name, value in document["headers"]], b"", request_time=now,
        response_time=now, born=now - document["age"], expires=now + document["fresh_for"],
        flags=sum(bits.get(name, 0) for name in flags), stale_while_revalidate=now + document["stale_while_revalidate"],
        stale_if_error=now + document["stale_if_error"], vary=tuple((name, value) for name, value in document["vary"]),
        url=str(document["url"]))
