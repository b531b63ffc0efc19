"""The entry of an answer, its freshness lifetime, and its update by a 304: RFC 9111 for a shared cache. Pure.

``entry_of`` decides once, when an answer arrives: it gives an Entry with every time in it, or why nothing is stored (decide.py).
``freshen`` is ``entry_of`` after a 304.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from email.utils import formatdate

from ..config import CacheSettings
from ..http.fields import CONNECTION_FIELDS, PROXY_WORDS, nominations
from ..message import Headers, Request, Response
from .decide import HEURISTIC_STATUSES, UNREACHABLE, judge_freshness, may_store, once_fresh
from .entry import HEURISTIC, IMMUTABLE, MUST_REVALIDATE, NO_CACHE, POLICY, PUBLIC, Entry
from .key import lines_of, selection
from .reasons import HIT, NotStored
from .response_directives import OWN, ResponseDirectives, response_directives
from .syntax import date_of, delta_seconds, http_date, names, opaque

NEGATIVE = frozenset({404, 405, 410, 414, 501})
ERRORS = frozenset({500, 502, 503, 504})                 # RFC 5861 section 4
HOP_BY_HOP = CONNECTION_FIELDS | {"proxy-authentication-info"}
UNSTORED_FIELDS = HOP_BY_HOP | {"age", "x-request-id", "x-accel-expires", OWN}
# A 304 does not change what the stored body is (sections 3.2 and 4.3.4)
UNCHANGED_FIELDS = frozenset({"content-length", "content-encoding", "content-range", "content-md5"})
HEURISTIC_FRACTION, HEURISTIC_MOST = 0.1, 86400.0            # of the time since Last-Modified (section 4.2.2)
NGINX_TICK = 1.0                                         # nginx counts in whole seconds: it may keep an answer for one more
NEVER = -1.0                                             # the window of stale-if-error=0: not even while the upstream is gone
STRONG_DATE = 60.0                                       # seconds between Last-Modified and Date of a strong one (9110 8.8.2.2)
VALIDATION_WINDOW = 3600.0                                      # seconds a stale answer is stored to be validated

LENGTH = re.compile(r"[0-9]{1,18}")


def entry_of(request: Request, response: Response, policy: CacheSettings, *, request_time: float, response_time: float,
             url: str = "", personal: bool = False, size: int | None = None, ahead: float = 0.0) -> Entry | NotStored:
    """The answer as an entry, without its body when that is a stream, or why it is not stored.

    ``request_time`` and ``response_time`` are when the request left and its answer came (bus/clock.py); dates are ``ahead`` of it.
    ``personal``: the key holds who is asking. ``size`` is the length of the body where it is known.
    """
    fields = lines_by_name(response.headers)
    today = response_time + ahead
    directives = response_directives(fields, today)
    date = http_date(fields["date"][0], today) if "date" in fields else None
    date_value = today if date is None else date
    effective = directives if policy.respect != "policy" else ResponseDirectives({})
    refusal = may_store(request, response.status, fields, effective, directives, policy, personal)
    if refusal is not None:
        return refusal
    born = response_time - initial_age(fields, date_value - ahead, request_time, response_time)
    freshness = lifetime(response.status, fields, effective, policy, date_value)
    if freshness is None:
        return NotStored.STATUS
    seconds, source = freshness
    expires = (response_time if source & POLICY else born) + seconds
    if policy.respect == "stricter" and (limit := policy_ttl(response.status, policy)) is not None:
        expires = min(expires, response_time + limit)
    refusal = body_problem(fields, size, policy)
    if refusal is not None:
        return refusal
    flags = source | flags_of(effective) | (PUBLIC if directives.for_everybody else 0)
    last_modified = http_date(fields["last-modified"][0], today) if "last-modified" in fields else None
    refresh, error = stale_windows(expires, effective, flags, policy)
    varies = fields.get("vary", ())
    request_fields = {name: lines_of(request, name) for name in names(varies)}
    entry = Entry(
        response.status, response.reason, sendable(response.headers, directives, date_value, date is None, size), b"",
        request_time=request_time, response_time=response_time, born=born, expires=expires, stale_while_revalidate=refresh,
        stale_if_error=error, flags=flags, etag=tag_of(fields) or None, last_modified=last_modified,
        vary=selection(varies, request_fields, () if policy.key.cookies is None else ("cookie",)),
        tags=tags_of(fields, policy), url=url, stored_at=response_time)
    if isinstance(response.body, bytes):
        entry.body = response.body
    return entry if useful_for(entry, response_time) > 0 else NotStored.USELESS


def lifetime(status: int, fields: dict[str, list[str]], effective: ResponseDirectives, policy: CacheSettings,
             date: float) -> tuple[float, int] | None:
    """Seconds of freshness and where they come from (a flag): the answer's own, else the route's, else a guess, else none. None for
    a status that is not cacheable without freshness of its own (section 3)."""
    own = effective.lifetime(date)
    if own is not None:
        return own, 0
    seconds = policy_ttl(status, policy)
    if seconds is not None:
        return seconds, POLICY
    if status not in HEURISTIC_STATUSES and not (effective.public and status not in ERRORS):
        return None
    if "last-modified" in fields and policy.respect != "policy":
        last_modified = http_date(fields["last-modified"][0], date)
        if last_modified is not None and last_modified < date:
            return min((date - last_modified) * HEURISTIC_FRACTION, HEURISTIC_MOST), HEURISTIC
    return 0.0, 0


def policy_ttl(status: int, policy: CacheSettings) -> float | None:
    """How long the route stores answers of this status that do not say it themselves. Never a failure of the upstream."""
    if status in NEGATIVE:
        return policy.negative_ttl
    return policy.ttl if status in HEURISTIC_STATUSES else None


def initial_age(fields: dict[str, list[str]], date: float, request_time: float, response_time: float) -> float:
    """Section 4.2.3. Of a list in Age the first member counts, and one that is no number does not (section 5.1)."""
    age = delta_seconds(fields["age"][0].partition(",")[0].strip()) if "age" in fields else None
    apparent = response_time - date
    corrected_age = (age or 0) + (response_time - request_time)
    return max(0.0, corrected_age, apparent if apparent >= 1.0 else 0.0)  # Date has whole seconds: less is no age


def stale_windows(expires: float, effective: ResponseDirectives, flags: int, policy: CacheSettings) -> tuple[float, float]:
    """Until when it may be served stale: while it is refreshed, and in place of an error (RFC 5861).

    What the answer forbids stays forbidden (section 4.2.4), but the route's word goes before s-maxage, which says it in passing.
    """
    refresh, error = policy.stale_while_revalidate, policy.stale_if_error
    if flags & NO_CACHE or effective.must_revalidate or effective.proxy_revalidate:
        return expires, expires
    if not flags & MUST_REVALIDATE:
        refresh = effective.stale_while_revalidate if refresh is None else refresh
        error = effective.stale_if_error if error is None else error
    return expires + (refresh or 0.0), expires + (0.0 if error is None else error or NEVER)


def flags_of(effective: ResponseDirectives) -> int:
    flags = 0
    if effective.must_revalidate or effective.proxy_revalidate or effective.s_maxage is not None:
        flags |= MUST_REVALIDATE
    if effective.no_cache:
        flags |= NO_CACHE
    if effective.immutable:
        flags |= IMMUTABLE
    return flags


def body_problem(fields: dict[str, list[str]], size: int | None, policy: CacheSettings) -> NotStored | None:
    """Why a body is not stored: its length differs from Content-Length, or exceeds max_object. ``size`` is None when it is not
    known yet."""
    lines = fields.get("content-length", ())
    lengths = {int(line) if LENGTH.fullmatch(line) else None for line in lines}
    length = lengths.pop() if len(lengths) == 1 else None
    if lines and (length is None or size is not None and size != length):
        return NotStored.LENGTH
    largest = length if size is None else size
    return NotStored.SIZE if largest is not None and largest > policy.max_object else None


def sendable(headers: Headers, directives: ResponseDirectives, date: float, add_date: bool, size: int | None) -> Headers:
    """The header fields to store and send: without those that are not stored (section 3.1), with Date and Content-Length."""
    drop = (UNSTORED_FIELDS | directives.fields | nominations(headers)) - {"date"}
    if add_date:
        drop |= {"date"}
    fields = [field for field in headers if field[0].lower() not in drop]
    if add_date:
        fields.append(("Date", formatdate(date, usegmt=True)))
    if size is not None and not any(name.lower() == "content-length" for name, _ in fields):
        fields.append(("Content-Length", str(size)))
    return fields


def tags_of(fields: dict[str, list[str]], policy: CacheSettings) -> frozenset[str]:
    """The tags of the route, and those of the response in Surrogate-Key (words) and Cache-Tag (a list)."""
    tags = set(policy.tags)
    for line in fields.get("surrogate-key", ()):
        tags.update(line.split())
    for line in fields.get("cache-tag", ()):
        tags.update(tag for piece in line.split(",") if (tag := piece.strip()))
    return frozenset(tags)


def lines_by_name(headers: Headers) -> dict[str, list[str]]:
    """Map each lower-case name to its values, in order."""
    fields: dict[str, list[str]] = {}
    for name, value in headers:
        fields.setdefault(name.lower(), []).append(value)
    return fields


def useful_for(entry: Entry, now: float) -> float:
    """How many seconds the entry can still be used: fresh, stale or for validation."""
    until = max(entry.expires, entry.stale_while_revalidate, entry.stale_if_error)
    if once_fresh(entry) and not entry.flags & (MUST_REVALIDATE | NO_CACHE):
        until = max(until, entry.expires + UNREACHABLE)
    if entry.etag or entry.last_modified is not None:
        until = max(until, max(entry.expires, now) + VALIDATION_WINDOW)
    return until - now


def edge_seconds(entry: Entry, policy: CacheSettings, edge: float, now: float, refresh: int = 0, error: int = 0) -> float:
    """Edge TTL in seconds, how long nginx in front may cache the entry; 0 to disable. nginx selects by the URL alone, whoever the
    client is; requests with a cookie bypass its cache (nginx.conf.j2). ``refresh`` and ``error`` are the stale windows that nginx
    reads in the response itself; the TTL is reduced by them, so that nginx does not serve the entry longer than this cache would,
    whose own windows may be shorter (s-maxage, a targeted field, the route) or longer."""
    if policy.vary_by_caller or policy.key.headers or policy.key.cookies:
        return 0.0
    if any(name in PROXY_WORDS for name, _ in entry.vary):       # nginx compares what it was sent, and not what it sends
        return 0.0
    if judge_freshness(entry, None, now) is not HIT:
        return 0.0
    stale = max(entry.expires, entry.stale_while_revalidate)
    failing = max(stale, entry.stale_if_error)
    return max(0.0, min(edge, min(stale - refresh, failing - error) - now - NGINX_TICK))


def confirms(entry: Entry, update: Headers) -> bool:
    """Does a 304 with these header fields confirm the entry (section 4.3.4)? A strong validator identifies one representation, a
    weak one all equivalent ones. Different tags mean different representations, whatever the dates. A 304 without validators
    confirms the entry that was validated."""
    fields = lines_by_name(update)
    tag = tag_of(fields)
    last_modified = http_date(fields["last-modified"][0], entry.response_time) if "last-modified" in fields else None
    if tag and entry.etag and opaque(tag) != opaque(entry.etag):
        return False
    if strengthens(tag, entry):
        if last_modified is None or last_modified != entry.last_modified:
            return False
        date = date_of(entry.headers, entry.response_time)
        return date is not None and date - last_modified >= STRONG_DATE
    if last_modified is None or tag and entry.etag:
        return bool(entry.etag) or not tag
    return last_modified == entry.last_modified


def strengthens(tag: str, entry: Entry) -> bool:
    """Is ``tag`` a strong entity tag other than the entry's?"""
    return bool(tag) and not tag.startswith("W/") and tag != entry.etag


def tag_of(fields: dict[str, list[str]]) -> str:
    return fields["etag"][0].strip() if "etag" in fields else ""


def freshen(entry: Entry, request: Request, update: Headers, policy: CacheSettings, *, request_time: float, response_time: float,
            personal: bool = False, ahead: float = 0.0) -> tuple[Entry | NotStored, Response]:
    """Update the entry with the header fields of a 304 (section 4.3.4). Returns the new entry, or why it is no longer stored, and
    the response for the client."""
    drop = UNCHANGED_FIELDS | HOP_BY_HOP | nominations(update)
    if strengthens(tag_of(lines_by_name(update)), entry):  # it may be that of the body before compression
        drop |= {"etag"}
    news = [field for field in update if field[0].lower() not in drop]
    new_names = {name.lower() for name, _ in news} | {"date"}
    headers = [field for field in entry.headers if field[0].lower() not in new_names] + news
    response = Response(entry.status, headers, entry.body, entry.reason)
    fresh = entry_of(request, response, policy, request_time=request_time, response_time=response_time, url=entry.url,
                     personal=personal, size=None if entry.status == 204 else len(entry.body), ahead=ahead)
    if isinstance(fresh, NotStored):
        response.headers = [field for field in headers if field[0].lower() not in UNSTORED_FIELDS]
    return fresh, response


def same_answer(entry: Entry, headers: Headers) -> bool:
    """Does an answer to HEAD describe the stored one (section 4.3.5)?"""
    fields = lines_by_name(headers)
    if "etag" in fields and fields["etag"][0].strip() != (entry.etag or ""):
        return False
    for name in ("last-modified", "content-length"):
        if name in fields and fields[name][0].strip() not in [line.strip() for line in lines_by_name(entry.headers).get(name, ())]:
            return False
    return True


def validators(entry: Entry) -> Iterable[tuple[str, str]]:
    """The conditional fields that validate the entry (section 4.3.1)."""
    if entry.etag:
        yield "If-None-Match", entry.etag
    if entry.last_modified is not None:
        yield from [("If-Modified-Since", value) for name, value in entry.headers if name.lower() == "last-modified"][:1]
