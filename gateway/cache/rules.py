"""May an answer be stored, for how long is it fresh, and may this request have it? RFC 9111 for a shared cache. Pure.

``entry_of`` decides once, when an answer arrives, and gives an Entry with every time in it, or a word that says why not.
``judge`` compares those times with a request's wishes and the clock. ``freshened`` is ``entry_of`` after a 304.

====================  =====================================================================================================
refused as            because
====================  =====================================================================================================
``method``            only GET, and POST where the route says so
``request``           the request says no-store (5.2.1.5)
``partial``           206 and 304 are parts of something (3.3, 3.4), and a composition without all its parts is no answer to keep
``vary``              Vary: * (4.1), or a field that is another with each request
``set-cookie``        it makes a cookie for one client, and the route does not share those
``no-store``          (5.2.2.5), unless must-understand says otherwise of a status known here (5.2.2.3)
``private``           (5.2.2.7), unless the key tells callers apart
``authorization``     the request was authenticated, and the answer says neither public nor s-maxage, nor must-revalidate with a
                      lifetime of its own (3.5)
``cookie``            the request carried a cookie, so it may be personal: neither does the answer say that it is for everybody or
                      varies by Cookie, nor the route which cookies count
``status``            not cacheable by itself and without freshness of its own (3)
``useless``           stale at once, and nothing to validate it with
``length``            not as long as its Content-Length
``size``              larger than the route's max_object
====================  =====================================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.utils import formatdate
from math import log

from ..config import CacheSettings
from ..http.fields import EACH_NEW, PROXY_WORDS
from ..message import Headers, Request, Response
from . import flags
from .entry import Entry
from .key import lines_of, selecting
from .request_directives import AUTHORIZATION, COOKIE, RequestDirectives
from .response_directives import OWN, ResponseDirectives, response_directives
from .syntax import date_of, delta_seconds, directives, http_date, names, opaque

# RFC 9110 section 15.1, without 206: an answer that says nothing about its freshness may be kept for a guess
HEURISTIC_STATUSES = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})
NEGATIVE = frozenset({404, 405, 410, 414, 501})
UNDERSTOOD = HEURISTIC_STATUSES | {201, 202, 302, 303, 307, 400, 401, 403, 406, 409, 415, 422, 429, 500, 502, 503, 504}
ERRORS = frozenset({500, 502, 503, 504})                 # RFC 5861 section 4
HOP_BY_HOP = frozenset({"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authentication-info",
                        "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade"})
# Errors for what is odd about one request beside its address: that of others may be fine. Frameworks write max-age on every page
PROVOKED = frozenset({400, 406, 408, 411, 412, 413, 415, 416, 417, 421, 422, 425, 426, 428, 429, 431})
COOKIES = frozenset({"set-cookie", "set-cookie2"})
NOT_STORED = HOP_BY_HOP | {"age", "x-request-id", "x-accel-expires", OWN}
# A 304 does not change what the stored body is (sections 3.2 and 4.3.4)
NOT_UPDATED = frozenset({"content-length", "content-encoding", "content-range", "content-md5"})
HEURISTIC_PART, HEURISTIC_MOST = 0.1, 86400.0            # of the time since Last-Modified (section 4.2.2)
UNREACHABLE = 60.0                                       # seconds a stale answer serves while the upstream is gone (4.2.4)
NGINX_TICK = 1.0                                         # nginx counts in whole seconds: it may keep an answer for one more
NEVER = -1.0                                             # the window of stale-if-error=0: not even while the upstream is gone
STRONG_DATE = 60.0                                       # seconds between Last-Modified and Date of a strong one (9110 8.8.2.2)
KEPT_STALE = 3600.0                                      # seconds a stale answer is kept to be validated

LENGTH = re.compile(r"[0-9]{1,18}")
FRESH, REFRESH, STALE, VALIDATE = range(4)               # what judge says


def entry_of(request: Request, response: Response, policy: CacheSettings, *, request_time: float, response_time: float,
             url: str = "", personal: bool = False, size: int | None = None, ahead: float = 0.0) -> Entry | str:
    """The answer as an entry, without its body when that is a stream, or why it is not stored.

    ``request_time`` and ``response_time`` are when the request left and its answer came (clock.py); dates are ``ahead`` of that.
    ``personal``: the key holds who is asking. ``size`` is the length of the body where it is known.
    """
    asked = grouped(request.headers)
    fields = grouped(response.headers)
    today = response_time + ahead
    given = response_directives(fields, today)
    date = http_date(fields["date"][0], today) if "date" in fields else None
    dated = today if date is None else date
    ruled = given if policy.respect != "policy" else ResponseDirectives({})
    refusal = forbidden(request, asked, response.status, fields, ruled, given, policy, personal)
    if refusal:
        return refusal
    born = response_time - initial_age(fields, dated - ahead, request_time, response_time)
    found = lifetime(response.status, fields, ruled, policy, dated)
    if isinstance(found, str):
        return found
    seconds, source = found
    expires = (response_time if source & flags.POLICY else born) + seconds
    if policy.respect == "stricter" and (limit := policy_ttl(response.status, policy)) is not None:
        expires = min(expires, response_time + limit)
    refusal = misfit(fields, size, policy)
    if refusal:
        return refusal
    marks = source | marks_of(ruled) | (flags.PUBLIC if given.for_everybody else 0)
    modified = http_date(fields["last-modified"][0], today) if "last-modified" in fields else None
    refresh, error = windows(expires, ruled, marks, policy)
    varies = fields.get("vary", ())
    sent = {name: lines_of(request, name) for name in names(varies)}
    entry = Entry(
        response.status, response.reason, sendable(response.headers, given, dated, date is None, size), b"",
        request_time=request_time, response_time=response_time, born=born, expires=expires, stale_while_revalidate=refresh,
        stale_if_error=error, flags=marks, etag=tag_of(fields) or None, last_modified=modified,
        vary=selecting(varies, sent, () if policy.key.cookies is None else ("cookie",)),
        tags=tags_of(fields, policy), url=url, stored_at=response_time)
    if isinstance(response.body, bytes):
        entry.body = response.body
    return entry if keep(entry, response_time) > 0 else "useless"


def forbidden(request: Request, asked: dict[str, list[str]], status: int, fields: dict[str, list[str]], ruled: ResponseDirectives,
              given: ResponseDirectives, policy: CacheSettings, personal: bool) -> str:
    """Why the answer must not be stored at all (section 3); empty when it may be."""
    if request.method != "GET" and not (request.method == "POST" and "POST" in policy.methods):
        return "method"
    if policy.client_directives and "no-store" in directives(asked.get("cache-control", ())):
        return "request"
    if status in (206, 304) or status < 200 or "x-partial" in fields:
        return "partial"
    varies = names(fields.get("vary", ()))
    if "*" in varies or not EACH_NEW.isdisjoint(varies):
        return "vary"
    if not policy.share_cookies and not given.fields.issuperset(COOKIES.intersection(fields)):
        return "set-cookie"
    if ruled.must_understand:
        if status not in UNDERSTOOD:
            return "no-store"
    elif ruled.no_store:
        return "no-store"
    if ruled.private and not personal:
        return "private"
    if personal:
        return ""
    if status in PROVOKED and not given.for_everybody:
        return "provoked"
    if "authorization" in asked and not (given.for_callers or ruled.must_revalidate and ruled.explicit):
        return "authorization"
    if "cookie" in asked and policy.key.cookies is None and not (
            given.for_everybody or "cookie" in varies):
        return "cookie"
    return ""


def lifetime(status: int, fields: dict[str, list[str]], ruled: ResponseDirectives, policy: CacheSettings,
             date: float) -> tuple[float, int] | str:
    """Seconds of freshness and where they come from: the answer's own, else the route's, else a guess, else none."""
    own = ruled.lifetime(date)
    if own is not None:
        return own, 0
    seconds = policy_ttl(status, policy)
    if seconds is not None:
        return seconds, flags.POLICY
    if status not in HEURISTIC_STATUSES and not (ruled.public and status not in ERRORS):
        return "status"
    if "last-modified" in fields and policy.respect != "policy":
        modified = http_date(fields["last-modified"][0], date)
        if modified is not None and modified < date:
            return min((date - modified) * HEURISTIC_PART, HEURISTIC_MOST), flags.HEURISTIC
    return 0.0, 0


def policy_ttl(status: int, policy: CacheSettings) -> float | None:
    """How long the route keeps answers of this status that do not say it themselves. Never a failure of the upstream."""
    if status in NEGATIVE:
        return policy.negative_ttl
    return policy.ttl if status in HEURISTIC_STATUSES else None


def initial_age(fields: dict[str, list[str]], date: float, request_time: float, response_time: float) -> float:
    """Section 4.2.3. Of a list in Age the first member counts, and one that is no number does not (section 5.1)."""
    told = delta_seconds(fields["age"][0].partition(",")[0].strip()) if "age" in fields else None
    apparent = response_time - date
    corrected = (told or 0) + (response_time - request_time)
    return max(0.0, corrected, apparent if apparent >= 1.0 else 0.0)     # Date has whole seconds: less is no age


def windows(expires: float, ruled: ResponseDirectives, marks: int, policy: CacheSettings) -> tuple[float, float]:
    """Until when it may be served stale: while it is refreshed, and in place of an error (RFC 5861).

    What the answer forbids stays forbidden (section 4.2.4), but the route's word goes before s-maxage, which says it in passing.
    """
    refresh, error = policy.stale_while_revalidate, policy.stale_if_error
    if marks & flags.NO_CACHE or ruled.must_revalidate or ruled.proxy_revalidate:
        return expires, expires
    if not marks & flags.MUST_REVALIDATE:
        refresh = ruled.stale_while_revalidate if refresh is None else refresh
        error = ruled.stale_if_error if error is None else error
    return expires + (refresh or 0.0), expires + (0.0 if error is None else error or NEVER)


def marks_of(ruled: ResponseDirectives) -> int:
    marks = 0
    if ruled.must_revalidate or ruled.proxy_revalidate or ruled.s_maxage is not None:
        marks |= flags.MUST_REVALIDATE
    if ruled.no_cache:
        marks |= flags.NO_CACHE
    if ruled.immutable:
        marks |= flags.IMMUTABLE
    return marks


def misfit(fields: dict[str, list[str]], size: int | None, policy: CacheSettings) -> str:
    """Is the body other than announced, or too large? ``size`` None: it is not known yet."""
    announced = fields.get("content-length", ())
    lengths = {int(line) if LENGTH.fullmatch(line) else None for line in announced}
    length = lengths.pop() if len(lengths) == 1 else None
    if announced and (length is None or size is not None and size != length):
        return "length"
    largest = length if size is None else size
    return "size" if largest is not None and largest > policy.max_object else ""


def sendable(headers: Headers, given: ResponseDirectives, date: float, undated: bool, size: int | None) -> Headers:
    """The header fields as they are stored and sent: without what is not stored (section 3.1), with Date and Content-Length."""
    dropped = (NOT_STORED | given.fields | nominated(headers)) - {"date"}
    if undated:
        dropped |= {"date"}
    kept = [field for field in headers if field[0].lower() not in dropped]
    if undated:
        kept.append(("Date", formatdate(date, usegmt=True)))
    if size is not None and not any(name.lower() == "content-length" for name, _ in kept):
        kept.append(("Content-Length", str(size)))
    return kept


def nominated(headers: Headers) -> set[str]:
    """The fields that Connection names: they are of one connection only (RFC 9110 section 7.6.1)."""
    return {name for key, value in headers if key.lower() == "connection" for name in names((value,))}


def tags_of(fields: dict[str, list[str]], policy: CacheSettings) -> frozenset[str]:
    """The route's, and the upstream's in Surrogate-Key (words) and Cache-Tag (a list)."""
    found = set(policy.tags)
    for line in fields.get("surrogate-key", ()):
        found.update(line.split())
    for line in fields.get("cache-tag", ()):
        found.update(tag for piece in line.split(",") if (tag := piece.strip()))
    return frozenset(found)


def grouped(headers: Headers) -> dict[str, list[str]]:
    """Lower-case name to the values, in order."""
    fields: dict[str, list[str]] = {}
    for name, value in headers:
        fields.setdefault(name.lower(), []).append(value)
    return fields


def keep(entry: Entry, now: float) -> float:
    """Seconds after which it is of no use to anybody."""
    until = max(entry.expires, entry.stale_while_revalidate, entry.stale_if_error)
    if once_fresh(entry) and not entry.flags & (flags.MUST_REVALIDATE | flags.NO_CACHE):
        until = max(until, entry.expires + UNREACHABLE)
    if entry.etag or entry.last_modified is not None:
        until = max(until, max(entry.expires, now) + KEPT_STALE)
    return until - now


# Using a stored answer

def withheld(entry: Entry, shown: int) -> str:
    """Why a request does not get the entry that carries what is ``shown`` (COOKIE, AUTHORIZATION) and not told apart by the key.
    Its user may have an answer of his own. Empty when he gets it: it is for everybody, or selected by that."""
    if entry.flags & flags.PUBLIC:
        return ""
    if shown & COOKIE and not any(name == "cookie" for name, _ in entry.vary):
        return "cookie"
    return "authorization" if shown & AUTHORIZATION and entry.flags & flags.GUESSED else ""


def judge(entry: Entry, asked: RequestDirectives | None, now: float) -> int:
    """FRESH: serve it. REFRESH: serve it, and refresh it beside that. STALE: the client takes it so. VALIDATE: ask first."""
    fresh = now < entry.expires and not entry.flags & flags.NO_CACHE
    if asked is None or not asked.directs:
        if fresh:
            return FRESH
        return REFRESH if now < entry.stale_while_revalidate and not entry.flags & flags.NO_CACHE else VALIDATE
    if entry.flags & flags.NO_CACHE:
        return VALIDATE
    unwilling = asked.no_cache or asked.max_age is not None and now - entry.born >= asked.max_age
    if unwilling and not (fresh and entry.flags & flags.IMMUTABLE):
        return VALIDATE
    if asked.min_fresh is not None and entry.expires - now < asked.min_fresh:
        return VALIDATE
    if fresh:
        return FRESH
    if asked.max_stale is not None and not entry.flags & flags.MUST_REVALIDATE and now - entry.expires <= asked.max_stale:
        return STALE
    return REFRESH if asked.max_age is None and now < entry.stale_while_revalidate else VALIDATE


def may_replace_error(entry: Entry, now: float, *, reached: bool, window: int | None = None) -> bool:
    """May it be served, stale, because the upstream failed (RFC 5861 section 4)? ``reached``: it answered, with an error.
    ``window`` is the request's own stale-if-error."""
    if entry.flags & flags.NO_CACHE:
        return False
    if now < entry.expires:
        return True
    if window == 0:                                      # the client does not want it
        return False
    if now < entry.stale_if_error:
        return True
    own = round(entry.stale_if_error - entry.expires, 3)
    if entry.flags & flags.MUST_REVALIDATE or own < 0:
        return False
    if window is not None and now < entry.expires + window:
        return True
    return not reached and own == 0 and once_fresh(entry) and now < entry.expires + UNREACHABLE


def once_fresh(entry: Entry) -> bool:
    """Was it fresh when it came? What was not is kept for its validators only."""
    return entry.expires > entry.response_time


def edge_seconds(entry: Entry, policy: CacheSettings, edge: float, now: float, refresh: int = 0, error: int = 0) -> float:
    """How long nginx in front may keep it; 0: not at all. nginx selects by the address alone and asks nobody who they are;
    the generated configuration sends whoever has a cookie past it. ``refresh`` and ``error`` are the seconds for which nginx serves
    it after that, since it says so itself: while it is renewed, and while nobody answers. With them it must not outlive what
    holds here, which may be less (s-maxage, a targeted field, the route) or more."""
    if policy.vary_by_caller or policy.key.headers or policy.key.cookies:
        return 0.0
    if any(name in PROXY_WORDS for name, _ in entry.vary):       # nginx compares what it was sent, and not what it sends
        return 0.0
    if judge(entry, None, now) != FRESH:
        return 0.0
    stale = max(entry.expires, entry.stale_while_revalidate)
    failing = max(stale, entry.stale_if_error)
    return max(0.0, min(edge, min(stale - refresh, failing - error) - now - NGINX_TICK))


def due_early(entry: Entry, now: float, beta: float, draw: float) -> bool:
    """Refresh before it expires, the sooner the longer that takes: one of many clients does it for all.

    Vattani, Chierichetti, Lowenstein: Optimal probabilistic cache stampede prevention (VLDB 2015). ``draw`` is from (0, 1].
    """
    took = max(entry.response_time - entry.request_time, 0.0)
    return now - took * beta * log(draw) >= entry.expires


def confirms(entry: Entry, update: Headers) -> bool:
    """Is a 304 with these header fields about the entry (section 4.3.4)? A strong tag or date is of one representation, a weak one
    of all that are as good; tags that differ are of different ones, whatever a date says. Without any it is about what was asked
    for."""
    fields = grouped(update)
    tag = tag_of(fields)
    modified = http_date(fields["last-modified"][0], entry.response_time) if "last-modified" in fields else None
    if tag and entry.etag and opaque(tag) != opaque(entry.etag):
        return False
    if strengthens(tag, entry):
        if modified is None or modified != entry.last_modified:
            return False
        made = date_of(entry.headers, entry.response_time)
        return made is not None and made - modified >= STRONG_DATE
    if modified is None or tag and entry.etag:
        return bool(entry.etag) or not tag
    return modified == entry.last_modified


def strengthens(tag: str, entry: Entry) -> bool:
    """Is it a strong tag, and not the entry's own?"""
    return bool(tag) and not tag.startswith("W/") and tag != entry.etag


def tag_of(fields: dict[str, list[str]]) -> str:
    return fields["etag"][0].strip() if "etag" in fields else ""


def freshened(entry: Entry, request: Request, update: Headers, policy: CacheSettings, *, request_time: float, response_time: float,
              personal: bool = False, ahead: float = 0.0) -> tuple[Entry | str, Response]:
    """The entry after a 304 with these header fields (section 4.3.4), or why it is no longer stored; and the answer it makes."""
    dropped = NOT_UPDATED | HOP_BY_HOP | nominated(update)
    if strengthens(tag_of(grouped(update)), entry):      # it may be that of other bytes, before they were compressed
        dropped |= {"etag"}
    news = [field for field in update if field[0].lower() not in dropped]
    told = {name.lower() for name, _ in news} | {"date"}
    headers = [field for field in entry.headers if field[0].lower() not in told] + news
    response = Response(entry.status, headers, entry.body, entry.reason)
    made = entry_of(request, response, policy, request_time=request_time, response_time=response_time, url=entry.url,
                    personal=personal, size=None if entry.status == 204 else len(entry.body), ahead=ahead)
    if isinstance(made, str):
        response.headers = [field for field in headers if field[0].lower() not in NOT_STORED]
    return made, response


def same_answer(entry: Entry, headers: Headers) -> bool:
    """Does an answer to HEAD describe the stored one (section 4.3.5)?"""
    fields = grouped(headers)
    if "etag" in fields and fields["etag"][0].strip() != (entry.etag or ""):
        return False
    for name in ("last-modified", "content-length"):
        if name in fields and fields[name][0].strip() not in [value.strip() for value in grouped(entry.headers).get(name, ())]:
            return False
    return True


def validators(entry: Entry) -> Iterable[tuple[str, str]]:
    """The conditions that ask whether the entry is still right (section 4.3.1)."""
    if entry.etag:
        yield "If-None-Match", entry.etag
    if entry.last_modified is not None:
        yield from [("If-Modified-Since", value) for name, value in entry.headers if name.lower() == "last-modified"][:1]
