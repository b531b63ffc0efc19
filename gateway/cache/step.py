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

Out of the cache's business (``bypass``): other methods, a GET with a body, conditions that only the origin may judge (of a POST
also If-None-Match), fields that frameworks take for another method or address; and who shows who he is, where what is stored is for
strangers. What an unsafe method changed is purged (invalidation.py).

Here is what every request meets; fetch.py is what only a miss does.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from random import random
from typing import Any

from ..config import CacheSettings as Policy
from ..message import Handler, Request, Response
from . import explain, flags, rules
from .cache_status import Numbers, Report
from .clock import ahead, now
from .conditional import answer
from .entry import Entry, Variants
from .fetch import Fetch
from .fetch_context import FetchContext, Store
from .invalidation import SAFE, changed_by
from .key import SEPARATOR, KeyOf, caller, select
from .request_directives import ASKS, AUTHORIZATION, COOKIE, RequestDirectives, request_directives, seen

LARGEST_KEY_BODY = 65536                                 # bytes of a POST that is told apart by its body


class CacheStep:
    """``scope`` tells routes apart that answer the same addresses, ``counter`` makes the numbers (those of a registry),
    ``name`` is this gateway's in Cache-Status. ``clock`` is that of the store, ``ahead`` by how much the machine's
    own is ahead of it, ``draw`` gives numbers from [0, 1)."""

    def __init__(self, next: Handler, policy: Policy, store: Store, *, counter: Callable[..., Any], route: str = "",
                 scope: str = "", name: str = "wicketgate", clock: Callable[[], float] = now, ahead: Callable[[], float] = ahead,
                 draw: Callable[[], float] = random) -> None:
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
            store.addresses.counts_query((policy.key.query, policy.key.ignore_query), self.key_of.query)
        self.fetch = Fetch(next, policy, store, self.report, self.numbers, clock, self.key_of.url, ahead)
        self._proofs = AUTHORIZATION | (COOKIE if policy.key.cookies is None else 0)
        self._posts = "POST" in policy.methods
        self._heeding = policy.client_directives
        self._hit = self.numbers.hit
        self._dress = policy.edge is not None
        self._offload = policy.offload

    def __call__(self, request: Request) -> Response:
        method = request.method
        if method != "GET" and method != "HEAD" and not (method == "POST" and self._posts):
            return self._other(request)
        kinds = seen(request.headers)
        asked = self.asked(request) if kinds & ASKS else None
        shown = kinds & self._proofs and self.shown(kinds, request)
        if asked is None:
            key = self.key_of(request)
        elif asked.bypass:
            return self._bypass(request, asked, "request" if asked.bypass == "no-store" else "bypass", asked.bypass)
        else:
            key = self.key(request, asked)
        if method == "POST" or request.body is not None:
            told_apart = self._by_body(request)
            if told_apart is None:
                return self._bypass(request, asked, "bypass", "body")
            key += told_apart
        variants = self.store.get(key, self.owner)
        if variants is None:
            return self.fetch(self._miss(request, asked, shown, key, None, "uri-miss"))
        entry = variants[0] if len(variants) == 1 and not variants[0].vary else select(variants, request)
        if entry is None:
            return self.fetch(self._miss(request, asked, shown, key, None, "vary-miss", variants))
        if shown and (own := rules.withheld(entry, shown)):
            return self._past(request, asked, key, own)
        now = self.clock()
        verdict = rules.judge(entry, asked, now)
        if verdict == rules.FRESH:
            if self.policy.early_refresh and rules.due_early(entry, now, 1.0, 1.0 - self.draw()):
                self.fetch.refresh(self._miss(request, asked, shown, key, entry, "stale", variants))
            self._hit()
            request.notes["cache"] = "hit"
        elif verdict == rules.VALIDATE:
            reason = "stale" if now >= entry.expires or entry.flags & flags.NO_CACHE else "request"
            return self.fetch(self._miss(request, asked, shown, key, entry, reason, variants))
        else:
            outcome = "max-stale"
            if verdict == rules.REFRESH:
                self.fetch.refresh(self._miss(request, asked, shown, key, entry, "stale", variants))
                outcome = "stale-while-revalidate"
            self.numbers.outcome(outcome)
            request.notes["cache"] = outcome
        return self._serve(request, asked, entry, now, key)

    def _by_body(self, request: Request) -> str | None:
        """What of a POST's body is in the key; None for one that is not looked at, and for that of another method."""
        body = request.body
        if request.method != "POST":
            return None
        if body is None:
            return f"{SEPARATOR}POST"
        if body.length is None or body.length > LARGEST_KEY_BODY:
            return None
        digest = sha256(body.buffer(LARGEST_KEY_BODY))
        for name in ("content-type", "content-encoding"):    # the same bytes mean something else as another type
            digest.update(f"\n{name}:{request.header(name)}".encode("latin-1"))
        return f"{SEPARATOR}POST {digest.hexdigest()}"

    def _miss(self, request: Request, asked: RequestDirectives | None, shown: int, key: str, entry: Entry | None, reason: str,
              variants: Variants | None = None) -> FetchContext:
        personal = self.policy.vary_by_caller and bool(caller(request))
        return FetchContext(request, asked, key, (key, shown) if shown else key, entry, reason, personal, variants, shown)

    def asked(self, request: Request) -> RequestDirectives | None:
        """What it asks of a cache. nginx in front with ``edge`` knows no key with what a proxy says: there that goes past."""
        return request_directives(request.headers, self._heeding, request.method, request.trusted and not self._dress)

    def key(self, request: Request, asked: RequestDirectives | None) -> str:
        return self.key_of(request) + (asked.told if asked is not None else "")

    def shown(self, kinds: int, request: Request) -> int:
        """What it carries of one user that the key does not tell apart: COOKIE, AUTHORIZATION; 0 for a stranger."""
        return 0 if self.policy.vary_by_caller and caller(request) else kinds & self._proofs

    def _serve(self, request: Request, asked: RequestDirectives | None, entry: Entry, now: float, key: str) -> Response:
        """The stored answer, with its age."""
        response = entry.response() if asked is None else answer(entry, asked, now)
        if self._offload:
            response.whole = entry
        response.append(b"Age: %d\r\n%b" % (now - entry.born if now > entry.born else 0, self.report.hit_line(entry, now, key)))
        if self._dress:
            self.fetch.tell_edge(response.headers, entry, now)
        return response

    def _bypass(self, request: Request, asked: RequestDirectives | None, reason: str, detail: str) -> Response:
        if asked is not None and asked.only_if_cached:
            return self.fetch.answers.nothing(request, "")
        self.numbers.outcome(reason)
        request.notes["cache"] = reason
        response = self.next(request) if request.method in SAFE else changed_by(self.next, self.store, request)
        return self._passed(response, reason, detail)

    def _past(self, request: Request, asked: RequestDirectives | None, key: str, own: str) -> Response:
        """What is stored is for strangers, and this user may have an answer of his own, which must not take its place."""
        if asked is not None and asked.only_if_cached:
            return self.fetch.answers.nothing(request, key)
        self.numbers.outcome(own)
        request.notes["cache"] = own
        return self._passed(self.next(request), "bypass", own)

    def _other(self, request: Request) -> Response:
        """A method that is not served from the cache. Some of them change what is in it."""
        self.numbers.outcome("method")
        request.notes["cache"] = "method"
        if request.method in SAFE:
            response = self.next(request)
        else:
            response = changed_by(self.next, self.store, request)
            if request.method == "POST" and not ((asked := self.asked(request)) and asked.bypass):
                self.fetch.keep_posted(self._miss(request, None, 0, self.key(request, asked), None, "method"), response)
        return self._passed(response, "method", request.method)

    def _passed(self, response: Response, reason: str, detail: str) -> Response:
        response.headers = [field for field in response.headers if field[0].lower() != rules.OWN]
        response.headers.append(("Cache-Status", self.report.forwarded(reason, response.status, "", detail=detail)))
        self.fetch.tell_edge(response.headers, None, 0.0)
        return response

    def explain(self, request: Request, stored: Variants | None = None) -> list[str]:
        """What happens to ``request``, a line for each reason; with what is ``stored`` under its key, what that means for it."""
        kinds = seen(request.headers)
        asked = self.asked(request)
        shown = self.shown(kinds, request)
        if stored is not None:
            return list(explain.of_stored(stored, request, asked, shown, self.clock()))
        return list(explain.of_request(request, asked, shown, self.policy, self.key_of, self.key(request, asked)))

    def __repr__(self) -> str:
        policy = self.policy
        said = [f"by {self.key_of!r}"]
        for name in ("ttl", "negative_ttl", "stale_while_revalidate", "stale_if_error", "edge"):
            if (seconds := getattr(policy, name)) is not None:
                said.append(f"{name} {seconds:g} s")
        said.append({"headers": "headers first", "policy": "policy alone", "stricter": "the stricter of headers and policy"}
                    [policy.respect])
        said += [f"tags {', '.join(policy.tags)}"] if policy.tags else []
        return f"cache: {', '.join(said)}, bodies up to {policy.max_object} bytes"
