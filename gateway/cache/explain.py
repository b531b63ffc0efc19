"""What the cache makes of one request that a person describes: for ``gateway explain``. Asks nobody, changes nothing. Pure.

``of_request`` says what can be told from the request and the route alone, ``of_stored`` what an answer that is stored means for it.
Both use what step.py uses, so that they say what happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..config import CacheSettings
from ..message import Request
from . import flags, rules
from .entry import Entry, Variants
from .invalidation import SAFE
from .key import SEPARATOR, KeyOf, caller, cookies, folded, implied_port, select
from .request_directives import AUTHORIZATION, CONFUSING, COOKIE, RequestDirectives

SERVED = {rules.FRESH: "fresh: it is served", rules.REFRESH: "expired: it is served, and refreshed beside that",
          rules.STALE: "expired, but the client takes it so: it is served", rules.VALIDATE: "validated with the upstream first"}
PERMITS = {COOKIE: "public, s-maxage or a lifetime in a field for shared caches, or Vary: Cookie",
           AUTHORIZATION: "public, s-maxage, or must-revalidate with a lifetime"}


def of_request(request: Request, asked: RequestDirectives | None, shown: int, policy: CacheSettings, key_of: KeyOf,
               key: str) -> Iterator[str]:
    """One line for each thing that decides. ``key`` is the whole of it."""
    reason = past(request, asked, policy)
    if reason:
        if asked is not None and asked.only_if_cached and handled(request, policy):
            yield f"only-if-cached: 504, since it would go past the cache: {reason}"
            return
        yield f"goes past the cache: {reason}"
        if request.method not in SAFE:
            yield f"a success makes what is stored for {key_of.url(request)} invalid"
        return
    yield f"key: {key.replace(SEPARATOR, ' | ')}"
    yield from (f"not in the key: {what}" for what in left_out(request, policy, key_of))
    if request.method == "HEAD":
        yield "a HEAD is answered from a stored GET; its own answer is not stored"
    if request.method == "POST":
        yield "a POST is told apart by its body, too"
    yield from wishes(asked, policy)
    yield from who(request, shown, policy)
    if policy.min_uses > 1:
        yield f"stored from the {policy.min_uses}th request for the same on"
    yield f"waiting: {waiting(request, asked, shown, policy)}"


def past(request: Request, asked: RequestDirectives | None, policy: CacheSettings) -> str:
    """Why the cache has nothing to do with the request; empty when it has."""
    if not handled(request, policy):
        return f"the method {request.method}"
    if asked is not None and asked.bypass == "no-store":
        return "the client says no-store"
    if asked is not None and asked.bypass in CONFUSING:
        return f"{asked.bypass} makes some frameworks answer for another method or address"
    if asked is not None and asked.bypass:
        return f"{asked.bypass} is for the origin alone to judge"
    return ""


def handled(request: Request, policy: CacheSettings) -> bool:
    """Are there stored answers to its method?"""
    return request.method in ("GET", "HEAD") or request.method == "POST" and "POST" in policy.methods


def left_out(request: Request, policy: CacheSettings, key_of: KeyOf) -> Iterator[str]:
    """What the request has that does not count."""
    if request.query is not None and key_of.query is not None:
        kept = (key_of.query(request.query) or "").split("&")
        dropped = [piece for piece in request.query.split("&") if piece not in kept]
        if dropped:
            yield f"query {'&'.join(dropped)}"
    others = sorted(set(cookies(request)) - set(map(folded, policy.key.cookies or ())))
    if policy.key.cookies is not None and others:
        yield f"cookies {', '.join(others)}"
    if request.port and request.port == implied_port(request):
        yield f"port {request.port}, which the address says"


def wishes(asked: RequestDirectives | None, policy: CacheSettings) -> Iterator[str]:
    """What the client asks for."""
    if asked is None:
        return
    if not policy.client_directives:
        yield "what the client says in Cache-Control and Pragma is not heeded (client_directives)"
    if asked.only_if_cached:
        yield "only-if-cached: 504 when it is not stored"
    if asked.no_cache:
        yield "no-cache: what is stored is validated first"
    for name in ("max_age", "min_fresh", "max_stale", "stale_if_error"):
        if (value := getattr(asked, name)) is not None:
            yield f"{name.replace('_', '-')}: {value:g} s" if value != float("inf") else f"{name.replace('_', '-')}: of any age"
    if asked.conditional:
        yield "its conditions are answered here, by what is stored"
    if asked.range is not None:
        yield "a part is cut out of what is stored; when nothing is, it is asked for as it is, and not stored"


def who(request: Request, shown: int, policy: CacheSettings) -> Iterator[str]:
    """What of its user it shows, and what follows from that."""
    if policy.vary_by_caller:
        yield "caller: has answers of its own" if caller(request) else "caller: none is known, so it shares with strangers"
    for bit, name in ((COOKIE, "Cookie"), (AUTHORIZATION, "Authorization")):
        if shown & bit:
            yield f"{name}: its answer is stored only with {PERMITS[bit]}"
    if shown & COOKIE:
        yield "Cookie: it gets what is stored only when that is for everybody; key.cookies says which cookies count"
    elif shown & AUTHORIZATION:
        yield "Authorization: it gets what is stored unless its lifetime is the route's or a guess"


def waiting(request: Request, asked: RequestDirectives | None, shown: int, policy: CacheSettings) -> str:
    if asked is not None and asked.range is not None:
        return "for nobody, a part is of no use to others"
    if request.method == "HEAD":
        return "for nobody, a HEAD asks for itself"
    if request.header("Authorization") and not (policy.vary_by_caller and caller(request)):
        return "for nobody, what was made for one caller is not for others"
    if shown:
        return "with those that send a cookie, too, once it is known that answers are for all of them"
    return "one request for this key goes on, the others wait for it"


def of_stored(variants: Variants, request: Request, asked: RequestDirectives | None, shown: int, now: float) -> Iterator[str]:
    """The answers under the key, and what this request gets of them."""
    chosen = select(variants, request)
    for entry in variants:
        yield f"{'>' if entry is chosen else ' '} {line_of(entry, now)}"
    verdict = rules.VALIDATE
    if chosen is None:
        yield "none of them is for this request, by their Vary: it goes on (vary-miss)"
    elif own := rules.withheld(chosen, shown):
        yield f"not for this request, which may have an answer of its own ({own}): it goes past"
    else:
        verdict = rules.judge(chosen, asked, now)
        yield SERVED[verdict]
    if verdict == rules.VALIDATE and asked is not None and asked.only_if_cached:
        yield "504 instead of that: only-if-cached"


def line_of(entry: Entry, now: float) -> str:
    left = entry.expires - now
    said = [str(entry.status), f"{now - entry.born:.0f} s old",
            f"fresh for {left:.0f} s" if left > 0 else f"expired {-left:.0f} s ago"]
    said += [f"{name}: {'not sent' if value is None else value}" for name, value in entry.vary]
    said += [flags.names_of(entry.flags)] if entry.flags else []
    return ", ".join(said)


def entry_of(shown: dict[str, Any], now: float) -> Entry:
    """What the admin listener tells of an entry, as one, without its body. Raises KeyError, TypeError and ValueError for what it
    would not tell."""
    bits = {name: bit for bit, name in flags.NAMES.items()}
    named = [name for name in str(shown["flags"]).split(", ") if name]
    return Entry(
        int(shown["status"]), "", [(name, value) for name, value in shown["headers"]], b"", request_time=now, response_time=now,
        born=now - shown["age"], expires=now + shown["fresh_for"], flags=sum(bits.get(name, 0) for name in named),
        stale_while_revalidate=now + shown["stale_while_revalidate"], stale_if_error=now + shown["stale_if_error"],
        vary=tuple((name, value) for name, value in shown["vary"]), url=str(shown["url"]))
