"""Step: an answer that is stored and may be used ends the request here; else one request goes on for all that want the same.

=============================  ==============================================================================================
what is stored                 what happens
=============================  ==============================================================================================
a fresh answer                 it is served, as 304 or 206 where the client's conditions or range say so
one that expired a while ago   within stale-while-revalidate it is served and refreshed beside that, once for all
one that expired, or must be   it is validated: 304 makes it fresh again, another answer takes its place, and within
validated                      stale-if-error it stands in for an error
nothing                        the request goes on; the others wait (coalesce.py), and share the answer when it may be shared
=============================  ==============================================================================================

Past the cache (``bypass``) go other methods, a GET with a body, conditions that only the origin may judge (of a POST also
If-None-Match), fields that frameworks take for another method or address; and a request with credentials where what is stored is
for strangers. What an unsafe method changes is purged (purging/invalidation.py).

decide.py decides, and here is what every request meets; fetch.py is what only a miss does.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from random import random
from typing import Any

from ..bus.clock import BUS_CLOCK
from ..config import CacheSettings as Policy
from ..message import Handler, Request, Response
from . import explanation
from .cache_status import Numbers, Report
from .coalesce import Flights
from .conditional import answer
from .decide import LARGEST_KEY_BODY, bypass, detail_of, due_early, for_origin, unless_stored, use
from .entry import Entry, Variants
from .fetch import Fetch
from .fetch_context import FetchContext, Store
from .key import SEPARATOR, KeyOf, caller
from .purging.invalidation import SAFE, call_unsafe
from .reasons import HIT, STALE_WHILE_REVALIDATE, Decision
from .request_directives import AUTHORIZATION, COOKIE, DIRECTS, RequestDirectives, kinds_of, request_directives
from .response_directives import OWN


class CacheStep:
    """``scope`` distinguishes routes with the same URLs, ``counter`` creates metrics in a registry, ``name`` is this gateway's in
    Cache-Status. ``clock`` is that of the store, ``ahead`` returns by how many seconds the machine's own clock is ahead of it,
    ``draw`` returns random numbers from [0, 1). ``flights`` belong to this route alone."""

    def __init__(self, next: Handler, policy: Policy, store: Store, *, counter: Callable[..., Any], route: str = "",
                 scope: str = "", name: str = "wicketgate", clock: Callable[[], float] = BUS_CLOCK.now,
                 ahead: Callable[[], float] = BUS_CLOCK.ahead, draw: Callable[[], float] = random,
                 flights: Flights | None = None) -> None:
        self.next = next
        self.policy = policy
        self.store = store
        self.clock = clock
        self.draw = draw
        self.key_of = KeyOf(policy, scope)
        self.report = Report(name, policy.explain)
        self.numbers = Numbers(counter, route)
        self.owner = self.numbers.owner = store.owner(route) if route else None
        if self.key_of.query is not None:
            store.purger.addresses.counts_query((policy.key.query, policy.key.ignore_query), self.key_of.query)
        self.fetch = Fetch(next, policy, store, self.report, self.numbers, clock, self.key_of.url, ahead, flights)
        self.methods = frozenset({"GET", "HEAD", "POST"} if "POST" in policy.methods else {"GET", "HEAD"})
        self._credentials = AUTHORIZATION | (COOKIE if policy.key.cookies is None else 0)
        self._obeys = policy.client_directives
        self._count_hit = self.numbers.hit
        self._edge = policy.edge is not None
        self._offload = policy.offload

    def __call__(self, request: Request) -> Response:
        kinds = kinds_of(request.headers)
        directives = self.directives(request) if kinds & DIRECTS else None
        if directives is not None or request.method != "GET" or request.body is not None:
            reason = bypass(request, directives, self.methods)
            if reason is not None:
                return self._bypass(request, directives, reason)
        credentials = kinds & self._credentials and self.credentials(kinds, request)
        key = self.key_of(request) if directives is None and request.method == "GET" else self.key(request, directives)
        variants = self.store.get(key, self.owner)
        now = self.clock()
        decision, entry = use(variants, request, directives, credentials, now)
        if decision is not HIT or entry is None:
            return self._act(decision, request, directives, credentials, key, variants, entry, now)
        if self.policy.early_refresh and due_early(entry, now, 1.0 - self.draw()):
            self.fetch.refresh(self._context(Decision.STALE, request, directives, credentials, key, variants, entry))
        self._count_hit()
        request.notes["cache"] = "hit"
        return self._serve(request, directives, entry, now, key)

    def _act(self, decision: Decision, request: Request, directives: RequestDirectives | None, credentials: int, key: str,
             variants: Variants | None, entry: Entry | None, now: float) -> Response:
        """Carry out a decision other than HIT."""
        if unless_stored(decision, directives) is Decision.ONLY_IF_CACHED:
            return self.fetch.responses.nothing(request, key)
        if decision.passes:                              # its user may have a personal answer, which must not replace
            self._note(request, decision)                # the stored one
            return self._pass(self.next(request), decision, decision.label)
        context = self._context(decision, request, directives, credentials, key, variants, entry)
        if entry is None or not decision.serves:
            return self.fetch(context)
        if decision is STALE_WHILE_REVALIDATE:
            self.fetch.refresh(context)
        self._note(request, decision)
        return self._serve(request, directives, entry, now, key)

    def _context(self, decision: Decision, request: Request, directives: RequestDirectives | None, credentials: int, key: str,
                 variants: Variants | None, entry: Entry | None) -> FetchContext:
        personal = self.policy.vary_by_caller and bool(caller(request))
        group = (key, credentials) if credentials else key
        return FetchContext(request, directives, key, group, entry, decision, personal, variants, credentials)

    def directives(self, request: Request) -> RequestDirectives | None:
        """The cache directives of a request. With ``edge`` a proxy's fields cause a bypass, as the key of nginx lacks them."""
        return request_directives(request.headers, self._obeys, request.method, request.trusted and not self._edge)

    def key(self, request: Request, directives: RequestDirectives | None) -> str:
        key = self.key_of(request) + (directives.proxy_fields if directives is not None else "")
        return key + body_key(request) if request.method == "POST" and "POST" in self.methods else key

    def lookup_key(self, request: Request) -> str | None:
        """The key of the lookup for a request; None for one that bypasses the cache."""
        directives = self.directives(request)
        return self.key(request, directives) if bypass(request, directives, self.methods) is None else None

    def credentials(self, kinds: int, request: Request) -> int:
        """The credentials of a request that are not in its key: COOKIE, AUTHORIZATION; 0 without any."""
        return 0 if self.policy.vary_by_caller and caller(request) else kinds & self._credentials

    def _serve(self, request: Request, directives: RequestDirectives | None, entry: Entry, now: float, key: str) -> Response:
        """The stored answer, with its age."""
        response = entry.response() if directives is None else answer(entry, directives, now)
        if self._offload:
            response.whole = entry
        response.append(b"Age: %d\r\n%b" % (now - entry.born if now > entry.born else 0, self.report.hit_line(entry, now, key)))
        if self._edge:
            self.fetch.tell_edge(response.headers, entry, now)
        return response

    def _bypass(self, request: Request, directives: RequestDirectives | None, reason: Decision) -> Response:
        """The cache has nothing to do with it, but some methods change what is stored."""
        if unless_stored(reason, directives) is Decision.ONLY_IF_CACHED:
            return self.fetch.responses.nothing(request, "")
        self._note(request, reason)
        response = self.next(request) if request.method in SAFE else call_unsafe(self.next, self.store, request)
        if reason is Decision.METHOD and request.method == "POST" and (directives is None or for_origin(directives) is None):
            key = self.key(request, directives)
            self.fetch.keep_posted(self._context(reason, request, None, 0, key, None, None), response)
        return self._pass(response, reason, detail_of(reason, request, directives))

    def _note(self, request: Request, decision: Decision) -> None:
        self.numbers.count_outcome(decision.label)
        request.notes["cache"] = decision.label

    def _pass(self, response: Response, decision: Decision, detail: str) -> Response:
        response.headers = [field for field in response.headers if field[0].lower() != OWN]
        response.headers.append(("Cache-Status", self.report.forward(decision.fwd, response.status, "", detail=detail)))
        self.fetch.tell_edge(response.headers, None, 0.0)
        return response

    def explain(self, request: Request, variants: Variants | None = None) -> list[str]:
        """What happens to ``request``, a line for each reason; with the ``variants`` under its key, what they mean for it."""
        directives = self.directives(request)
        credentials = self.credentials(kinds_of(request.headers), request)
        if variants is not None:
            return list(explanation.of_stored(variants, request, directives, credentials, self.clock()))
        key = self.key(request, directives)
        return list(explanation.of_request(request, directives, credentials, self.policy, self.methods, self.key_of, key))

    def __repr__(self) -> str:
        policy = self.policy
        words = [f"by {self.key_of!r}"]
        for name in ("ttl", "negative_ttl", "stale_while_revalidate", "stale_if_error", "edge"):
            if (seconds := getattr(policy, name)) is not None:
                words.append(f"{name} {seconds:g} s")
        words.append({"headers": "headers first", "policy": "policy alone", "stricter": "the stricter of headers and policy"}
                     [policy.respect])
        words += [f"tags {', '.join(policy.tags)}"] if policy.tags else []
        return f"cache: {', '.join(words)}, bodies up to {policy.max_object} bytes"


def body_key(request: Request) -> str:
    """What of a POST's body is in the key: a digest, together with what the bytes mean."""
    if request.body is None:
        return f"{SEPARATOR}POST"
    digest = sha256(request.body.buffer(LARGEST_KEY_BODY))
    for name in ("content-type", "content-encoding"):
        digest.update(f"\n{name}:{request.header(name)}".encode("latin-1"))
    return f"{SEPARATOR}POST {digest.hexdigest()}"
