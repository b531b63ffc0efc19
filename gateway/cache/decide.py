"""The cache's decisions about requests, and about the storing of answers: each function returns a value of reasons.py. Pure.

``bypass``             may what is stored be looked up at all?
``use``                what is found: is it fresh, usable although it is stale, or to be validated, and is it for this request?
``unless_stored``      what becomes of that where the client wants nothing else than what is stored
``sharing``            may the request wait for another one's answer, and others for its own?
``may_store``          why an answer must not be stored (RFC 9111 section 3), before its lifetime is known
``may_replace_error``  may a stale answer stand in for an error?
"""

from __future__ import annotations

from collections.abc import Set
from math import log

from ..config import CacheSettings
from ..http.fields import EACH_NEW
from ..message import Request
from .conditional import is_range
from .entry import GUESS, IMMUTABLE, MUST_REVALIDATE, NO_CACHE, PUBLIC, Entry, Variants
from .key import select
from .reasons import HIT, STALE_WHILE_REVALIDATE, URI_MISS, VARY_MISS, Decision, NotStored, SharingScope
from .request_directives import AUTHORIZATION, CONFUSING, COOKIE, RequestDirectives
from .response_directives import ResponseDirectives
from .syntax import directives as directives_of
from .syntax import names

LARGEST_KEY_BODY = 65536                                 # bytes of a POST that is told apart by its body
UNREACHABLE = 60.0                                       # seconds a stale answer serves while the upstream is gone (4.2.4)
# RFC 9110 section 15.1, without 206: an answer that says nothing about its freshness may be stored by a guess
HEURISTIC_STATUSES = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
UNDERSTOOD_STATUSES = HEURISTIC_STATUSES | {201, 202, 302, 303, 307, 400, 401, 403, 406, 409, 415, 422, 429, 500, 502, 503, 504}
# Errors for what is odd about one request beside its address: that of others may be fine. Frameworks write max-age on every page
PROVOKED_STATUSES = frozenset({400, 406, 408, 411, 412, 413, 415, 416, 417, 421, 422, 425, 426, 428, 429, 431})
COOKIE_FIELDS = frozenset({"set-cookie", "set-cookie2"})


# A request and what is stored

def bypass(request: Request, directives: RequestDirectives | None, methods: Set[str]) -> Decision | None:
    """Why what is stored is not looked up for a request; None when it is. ``methods`` are those the route serves from the cache."""
    method, body = request.method, request.body
    if method not in methods:
        return Decision.METHOD
    if directives is not None and (reason := for_origin(directives)) is not None:
        return reason
    if body is not None and (method != "POST" or body.length is None or body.length > LARGEST_KEY_BODY):
        return Decision.BODY
    return None


def for_origin(directives: RequestDirectives) -> Decision | None:
    """Why no cache may answer a request with these directives; None when one may."""
    if directives.origin_field:
        return Decision.CONFUSING if directives.origin_field in CONFUSING else Decision.PRECONDITION
    return Decision.NO_STORE if directives.no_store else None


def detail_of(decision: Decision, request: Request, directives: RequestDirectives | None) -> str:
    """The field or method that is the reason of a bypass."""
    if decision is Decision.METHOD:
        return request.method
    return decision.detail or (directives.origin_field if directives is not None else "")


def use(variants: Variants | None, request: Request, directives: RequestDirectives | None, credentials: int,
        now: float) -> tuple[Decision, Entry | None]:
    """What a request gets of what is stored under its key, and which entry that is about. ``credentials`` are those it carries and
    the key does not tell apart."""
    if variants is None:
        return URI_MISS, None
    entry = variants[0] if len(variants) == 1 and not variants[0].vary else select(variants, request)
    if entry is None:
        return VARY_MISS, None
    if credentials and (decision := withhold(entry, credentials)) is not None:
        return decision, entry
    if directives is None and now < entry.expires and not entry.flags & NO_CACHE:
        return HIT, entry                                # most requests
    return judge_freshness(entry, directives, now), entry


def withhold(entry: Entry, credentials: int) -> Decision | None:
    """Why a request that carries ``credentials`` (COOKIE, AUTHORIZATION) does not get the entry: its user may have an answer of his
    own. None when he gets it: it is for everybody, or selected by that."""
    if entry.flags & PUBLIC:
        return None
    if credentials & COOKIE and not any(name == "cookie" for name, _ in entry.vary):
        return Decision.COOKIE
    return Decision.AUTHORIZATION if credentials & AUTHORIZATION and entry.flags & GUESS else None


def judge_freshness(entry: Entry, directives: RequestDirectives | None, now: float) -> Decision:
    """Is the entry fresh enough for a request with these directives (section 4.2, 5.2.1)? HIT, STALE_WHILE_REVALIDATE, MAX_STALE,
    or to be validated: NO_CACHE whenever it is used, STALE since it has expired, REQUEST although it is fresh."""
    if entry.flags & NO_CACHE:
        return Decision.NO_CACHE
    fresh = now < entry.expires
    if directives is None:
        return HIT if fresh else STALE_WHILE_REVALIDATE if now < entry.stale_while_revalidate else Decision.STALE
    validate = Decision.REQUEST if fresh else Decision.STALE
    newer = directives.no_cache or directives.max_age is not None and now - entry.born >= directives.max_age
    if newer and not (fresh and entry.flags & IMMUTABLE):
        return validate
    if directives.min_fresh is not None and entry.expires - now < directives.min_fresh:
        return validate
    if fresh:
        return HIT
    if directives.max_stale is not None and not entry.flags & MUST_REVALIDATE and now - entry.expires <= directives.max_stale:
        return Decision.MAX_STALE
    return STALE_WHILE_REVALIDATE if directives.max_age is None and now < entry.stale_while_revalidate else validate


def unless_stored(decision: Decision, directives: RequestDirectives | None) -> Decision:
    """ONLY_IF_CACHED where the client wants what is stored or nothing (5.2.1.7); a method that the cache does not serve goes on."""
    if directives is None or not directives.only_if_cached or decision.serves or decision is Decision.METHOD:
        return decision
    return Decision.ONLY_IF_CACHED


def wants_whole(policy: CacheSettings, directives: RequestDirectives | None) -> bool:
    """Is the whole to be fetched for all, when this request for a range finds nothing stored?"""
    return policy.fetch_whole and directives is not None and directives.range is not None and is_range(directives.range)


def sharing(request: Request, directives: RequestDirectives | None, *, personal: bool, is_stored: bool,
            whole: bool) -> SharingScope:
    """May the request share an answer with others? ``personal``: the key holds who is asking. ``is_stored``: there is something to
    validate. ``whole``: it fetches the whole, although it is for a range."""
    if request.method == "HEAD":
        return SharingScope.HEAD
    if not is_stored:
        if directives is not None and directives.range is not None and not whole:
            return SharingScope.PART
        if not personal and request.header("Authorization"):
            return SharingScope.CALLER
    return SharingScope.ALL


def due_early(entry: Entry, now: float, draw: float) -> bool:
    """Refresh before it expires, the sooner the longer that takes: one of many clients does it for all.

    Vattani, Chierichetti, Lowenstein: Optimal probabilistic cache stampede prevention (VLDB 2015), with beta = 1. ``draw`` is from
    (0, 1].
    """
    took = max(entry.response_time - entry.request_time, 0.0)
    return now - took * log(draw) >= entry.expires


def may_replace_error(entry: Entry, now: float, *, has_answer: bool, window: int | None = None) -> bool:
    """May it be served, stale, because the upstream failed (RFC 5861 section 4)? ``has_answer``: it answered, with an error.
    ``window`` is the request's own stale-if-error."""
    if entry.flags & NO_CACHE:
        return False
    if now < entry.expires:
        return True
    if window == 0:                                      # the client does not want it
        return False
    if now < entry.stale_if_error:
        return True
    own = round(entry.stale_if_error - entry.expires, 3)
    if entry.flags & MUST_REVALIDATE or own < 0:
        return False
    if window is not None and now < entry.expires + window:
        return True
    return not has_answer and own == 0 and once_fresh(entry) and now < entry.expires + UNREACHABLE


def once_fresh(entry: Entry) -> bool:
    """Was it fresh when it came? What was not is stored for its validators only."""
    return entry.expires > entry.response_time


# An answer

def may_store(request: Request, status: int, fields: dict[str, list[str]], effective: ResponseDirectives,
              directives: ResponseDirectives, policy: CacheSettings, personal: bool) -> NotStored | None:
    """Why an answer must not be stored; None when it may be. ``fields`` are its header fields, lower-case name to lines,
    ``directives`` its own, ``effective`` those of them that the route heeds. ``personal``: the key holds who is asking."""
    if request.method != "GET" and not (request.method == "POST" and "POST" in policy.methods):
        return NotStored.METHOD
    if policy.client_directives and "no-store" in directives_of(request.header_list("Cache-Control")):
        return NotStored.REQUEST
    if status in (206, 304) or status < 200 or "x-partial" in fields:
        return NotStored.PARTIAL
    varies = names(fields.get("vary", ()))
    if "*" in varies or not EACH_NEW.isdisjoint(varies):
        return NotStored.VARY
    if not policy.share_cookies and not directives.fields.issuperset(COOKIE_FIELDS.intersection(fields)):
        return NotStored.SET_COOKIE
    if effective.must_understand:
        if status not in UNDERSTOOD_STATUSES:
            return NotStored.NO_STORE
    elif effective.no_store:
        return NotStored.NO_STORE
    if personal:
        return None
    if effective.private:
        return NotStored.PRIVATE
    if status in PROVOKED_STATUSES and not directives.for_everybody:
        return NotStored.PROVOKED
    if request.header_list("Authorization") and not (directives.for_callers or effective.must_revalidate and effective.explicit):
        return NotStored.AUTHORIZATION
    if policy.key.cookies is None and not (directives.for_everybody or "cookie" in varies) and request.header_list("Cookie"):
        return NotStored.COOKIE
    return None
