"""What a request does that the cache could not answer at once: ask the upstream, for itself and for those who want the same.

A miss is led by one request (coalesce.py). On its way up the client's own conditions and range are taken off, so that a whole
answer comes back that others can have too, and our validators put on where something is stored. On the way back the answer is
stored as the rules say, a 304 freshens what was stored, and an error may be covered by a stale answer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import copy

from ..config import Cache as Policy
from ..errors import ClientDisconnected, ConnectFailed, ConnectTimeout, DeadlineExceeded, GatewayError, PoolExhausted, UpstreamError
from ..message import Headers, Request, Response
from ..tasks import current_request, spawn
from . import flags, rules
from .asked import CONDITIONS
from .coalesce import ABANDONED, FAILED, FLYING, STORED, UNCACHEABLE, Flight, Flights
from .conditional import answer
from .entry import Entry, Variants
from .fields import opaque
from .invalidate import resolved
from .key import select
from .miss import HttpStore, Miss, detached, resent
from .report import Numbers, Report
from .tee import Tee

TAKEN_OFF = CONDITIONS | {"range", "if-range"}
SAYS_NOTHING = frozenset({"uses", "partial", "request", "method", "cut", "changed"})     # the next may well be kept
UNREACHED = (ConnectFailed, ConnectTimeout, PoolExhausted)          # failures that have nothing to do with the request
MOST_FLIGHTS = 2                                         # flights a request waits for before it asks alone
MOST_COUNTED = 10_000                                    # keys whose uses are counted for min_uses
LEASE = 10.0                                             # seconds; another worker is waited for at most half the time left, too

log = logging.getLogger("gateway")


class Fetch:
    def __init__(self, next: Callable[[Request], Response], policy: Policy, store: HttpStore, report: Report, numbers: Numbers,
                 clock: Callable[[], float], url_of: Callable[[Request], str]) -> None:
        self.next = next
        self.policy = policy
        self.store = store
        self.report = report
        self.numbers = numbers
        self.clock = clock
        self.url_of = url_of
        self.flights = Flights()
        self._uses: dict[str, int] = {}

    def __call__(self, miss: Miss) -> Response:
        asked = miss.asked
        if asked is not None and asked.only_if_cached:
            self._note(miss, "only-if-cached")
            return self._nothing(miss)
        if miss.request.method == "HEAD":
            return self._head(miss)
        flights = failures = 0
        while flights < MOST_FLIGHTS:
            if miss.entry is not None and self._rests(miss):
                return self._stale(miss, miss.entry, "the upstream failed a moment ago")
            if not self._shares(miss):
                break
            flight = self.flights.flying.get(miss.flight_key)
            if flight is None:
                return self._lead(miss)
            state = flight.wait(miss.request.deadline)
            if state != ABANDONED:                       # a leader that left says nothing: one of those who wait leads
                flights += 1
            if state == STORED and (response := self._shared(miss, flight.value)) is not None:
                return response
            if state == FAILED:
                failures += 1
                if failures == 1 and not isinstance(flight.value, UNREACHED):
                    continue                             # the leader's own request may have provoked it: one other tries
                return self._failed(miss, flight.value.with_traceback(None))
            if state == UNCACHEABLE:
                break
            if state == FLYING and self.flights.flying.get(miss.flight_key) is flight:
                return self._lead(miss)
        miss.alone = True
        return self._ask(miss, None)

    def _rests(self, miss: Miss) -> bool:
        """Did the upstream fail just now, in a way that the stale answer may cover?"""
        return any(self.flights.resting(miss.lane, reached) and self._covers(miss, reached=reached) for reached in (True, False))

    def _shares(self, miss: Miss) -> bool:
        """May this request wait for others, and they for it?"""
        if miss.entry is None:
            if miss.asked is not None and miss.asked.range is not None:
                return False                             # a part is of no use to others
            if not miss.personal and miss.request.header("Authorization"):
                return False                             # nor, as a rule, what was made for one caller
        return self.flights.worth_waiting(miss.lane)

    def _shared(self, miss: Miss, entry: Entry) -> Response | None:
        """The answer another request brought, when this one may have it; else it goes on, among those of its own variant."""
        miss.variants = Variants([entry])
        if select(miss.variants, miss.request) is None:
            return None
        self._note(miss, "collapsed")
        return self._answer(miss, entry, self.report.forwarded(miss.reason, 0, miss.key, collapsed=True))

    # The leader

    def _lead(self, miss: Miss) -> Response:
        seconds = min(miss.request.deadline.left() / 2, LEASE)
        flight = self.flights.lead(miss.flight_key)
        try:
            flight.lease = self.store.lease(miss.key, seconds)
            if flight.lease is None and (found := self._elsewhere(miss, seconds)) is not None:
                self.flights.land(flight, STORED, found)
                self._note(miss, "collapsed")
                return self._answer(miss, found, self.report.forwarded(miss.reason, 0, miss.key, collapsed=True))
            return self._ask(miss, flight)
        except (ClientDisconnected, DeadlineExceeded):
            raise
        except GatewayError as error:
            self.flights.land(flight, FAILED, error)
            raise
        finally:
            if not flight.streaming:
                self.flights.land(flight, ABANDONED)

    def _elsewhere(self, miss: Miss, seconds: float) -> Entry | None:
        """What another worker is fetching right now, once it is there and usable."""
        found = self.store.wait(miss.key, seconds)
        entry = select(found, miss.request) if found is not None else None
        usable = entry is not None and entry is not miss.entry and rules.judge(entry, None, self.clock()) == rules.FRESH
        return entry if usable else None

    def _ask(self, miss: Miss, flight: Flight | None) -> Response:
        """Go on to the upstream, and see what comes back."""
        begun = self.clock()
        self._note(miss, miss.reason)
        try:
            response = self.next(self._outgoing(miss))
        except ClientDisconnected:
            raise
        except GatewayError as error:
            if flight is not None and not isinstance(error, DeadlineExceeded):
                self.flights.land(flight, FAILED, error)
            return self._failed(miss, error)
        entry = miss.entry
        if entry is not None and response.status == 304:
            return self._validated(miss, entry, response, begun, flight)
        if entry is not None and response.status in rules.ERRORS and self._covers(miss, reached=True):
            close(response)
            self.flights.rest(miss.lane, True)           # the others have their own stale answer, or ask for themselves
            return self._stale(miss, entry, f"the upstream answered {response.status}")
        return self._arrived(miss, response, begun, flight)

    def _outgoing(self, miss: Miss) -> Request:
        """The request as it goes on: with our validators, and without what only this client has."""
        asked, entry = miss.asked, miss.entry
        if entry is None and (asked is None or miss.alone or asked.range is not None):
            return miss.request
        return resent(miss.request, TAKEN_OFF, [] if entry is None else list(rules.validators(entry)))

    def _validated(self, miss: Miss, entry: Entry, response: Response, begun: float, flight: Flight | None) -> Response:
        """304: what is stored is right, and newer from now on."""
        close(response)
        tag = next((value for name, value in response.headers if name.lower() == "etag"), "")
        if tag and entry.etag and opaque(tag) != opaque(entry.etag):     # it is about something that is not stored
            miss.entry = None
            return self._ask(miss, flight)
        made, whole = rules.freshened(entry, miss.request, response.headers, self.policy, request_time=begun,
                                      response_time=self.clock(), personal=miss.personal)
        if isinstance(made, str):
            self._refused(miss, made, flight)
            whole.headers.append(("Cache-Status", self.report.forwarded(miss.reason, 304, miss.key, detail=made)))
            return whole
        self._keep(miss, made, begun, flight)
        status = self.report.forwarded(miss.reason, 304, miss.key, stored=True)
        return self._answer(miss, made, status, aged=False)

    def _arrived(self, miss: Miss, response: Response, begun: float, flight: Flight | None) -> Response:
        """A new answer: stored where it may be, and passed on."""
        body = response.body
        size = len(body) if isinstance(body, bytes) and response.status not in (204, 304) else None
        made = rules.entry_of(miss.request, response, self.policy, request_time=begun, response_time=self.clock(),
                              url=self.url_of(miss.request), personal=miss.personal, size=size)
        if not isinstance(made, str) and not self._used_enough(miss.key):
            made = "uses"
        if isinstance(made, str):
            self._refused(miss, made, flight, forget=response.status < 500)
            return self._dressed(miss, response, None, made)
        if isinstance(body, bytes):
            self._keep(miss, made, begun, flight)
            if miss.asked is not None:
                answered = answer(made, miss.asked, self.clock())
                if answered.status != made.status:
                    response = answered
        else:
            if flight is not None:
                flight.streaming = True
            response.body = Tee(body, self.policy.max_object,
                                lambda whole, reason: self._complete(miss, made, begun, flight, whole, reason))
        return self._dressed(miss, response, made, "")

    def _complete(self, miss: Miss, entry: Entry, begun: float, flight: Flight | None, body: bytes | None, reason: str) -> None:
        """The end of a stream that was stored on its way."""
        announced = next((value for name, value in entry.headers if name.lower() == "content-length"), None)
        if body is None or announced is not None and int(announced) != len(body):
            if flight is not None and reason != "size":
                self.flights.land(flight, ABANDONED)     # another's answer may be whole
            self._refused(miss, reason or "cut", flight, forget=reason == "size")
            return
        entry.body = body
        if announced is None and entry.status != 204:
            entry.headers.append(("Content-Length", str(len(body))))
        self._keep(miss, entry, begun, flight)

    def _keep(self, miss: Miss, entry: Entry, begun: float, flight: Flight | None) -> None:
        """Store it, and let the others have it when it is fresh for them."""
        now = self.clock()
        known = self.store.get(miss.key)
        variants = Variants([entry]) if known is None else known.with_entry(entry)
        if not self.store.put(miss.key, variants, max(rules.keep(one, now) for one in variants.entries), begun):
            self.numbers.refused("purged")               # who came after the purge must not get what was asked for before it
            if flight is not None:
                self.flights.land(flight, ABANDONED)
            return
        self.numbers.stored()
        sharable = rules.judge(entry, None, now) == rules.FRESH
        self.flights.learn(miss.lane, sharable)
        if flight is not None:
            self.flights.land(flight, STORED if sharable else UNCACHEABLE, entry)

    def _refused(self, miss: Miss, reason: str, flight: Flight | None, forget: bool = True) -> None:
        """Not stored; and what was stored before is no longer what the upstream says, unless that was an error."""
        self.numbers.refused(reason)
        if reason not in SAYS_NOTHING:
            self.flights.learn(miss.lane, False)
        if flight is not None:
            self.flights.land(flight, UNCACHEABLE)
        if forget and miss.entry is not None:
            known = self.store.get(miss.key)
            left = known.without(miss.entry) if known is not None else None
            if left is None or not left.entries:
                self.store.delete(miss.key)
            elif known is not None and len(left.entries) < len(known.entries):
                now = self.clock()
                self.store.put(miss.key, left, max(rules.keep(one, now) for one in left.entries), now)

    def _used_enough(self, key: str) -> bool:
        if self.policy.min_uses == 1:
            return True
        uses = self._uses[key] = self._uses.pop(key, 0) + 1
        if len(self._uses) > MOST_COUNTED:
            del self._uses[next(iter(self._uses))]
        return uses >= self.policy.min_uses

    # Failing

    def _covers(self, miss: Miss, *, reached: bool) -> bool:
        window = miss.asked.stale_if_error if miss.asked is not None else None
        entry = None if miss.beside else miss.entry
        return entry is not None and rules.may_replace_error(entry, self.clock(), reached=reached, window=window)

    def _failed(self, miss: Miss, error: GatewayError) -> Response:
        """The stale answer in place of an error where it may be; else the error."""
        reached = not isinstance(error, (UpstreamError, DeadlineExceeded))
        if miss.entry is None or error.status < 500 or not self._covers(miss, reached=reached):
            raise error
        self.flights.rest(miss.lane, reached)
        return self._stale(miss, miss.entry, error.code)

    def _stale(self, miss: Miss, entry: Entry, detail: str) -> Response:
        self._note(miss, "stale")
        return self._answer(miss, entry, self.report.hit(entry, self.clock(), miss.key, detail))

    # In the background

    def refresh(self, miss: Miss) -> None:
        """Fetch it anew beside this request, unless somebody does already or the upstream has just failed."""
        resting = self.flights.resting(miss.lane, True) or self.flights.resting(miss.lane, False)
        if resting or miss.flight_key in self.flights.flying:
            return
        flight = self.flights.lead(miss.flight_key)
        beside = Miss(detached(miss.request), None, miss.key, miss.lane, miss.entry, miss.reason, miss.personal, miss.variants)
        beside.beside = True
        spawn(self._refresh, beside, flight)

    def _refresh(self, miss: Miss, flight: Flight) -> None:
        current_request.set(None)                        # the view of this request is not that of the one that began it
        result = "failed"
        try:
            flight.lease = self.store.lease(miss.key, LEASE)
            response = self._ask(miss, flight)
            if not isinstance(response.body, bytes):
                try:
                    for _ in response.body:
                        pass
                finally:
                    response.body.close()
            result = "done" if response.status < 500 else "failed"
        except GatewayError as error:
            log.warning("a stored answer for %s could not be refreshed: %s %s", miss.request.path, error.code, error.detail)
        except Exception:
            log.exception("a stored answer for %s could not be refreshed", miss.request.path)
        finally:
            if result == "failed":
                self.flights.rest(miss.lane, True)
            self.flights.land(flight, ABANDONED)
            self.numbers.refreshed(result)

    # Other methods

    def _head(self, miss: Miss) -> Response:
        """HEAD that the cache could not answer. What it tells about the stored answer counts (section 4.3.5)."""
        self._note(miss, miss.reason)
        begun, entry = self.clock(), miss.entry
        try:
            response = self.next(miss.request)
        except ClientDisconnected:
            raise
        except GatewayError as error:
            return self._failed(miss, error)
        if entry is not None and response.status == 200:
            if rules.same_answer(entry, response.headers):
                asker = copy(miss.request)
                asker.method = "GET"
                made, _ = rules.freshened(entry, asker, response.headers, self.policy, request_time=begun,
                                          response_time=self.clock(), personal=miss.personal)
                if not isinstance(made, str):
                    self._keep(miss, made, begun, None)
            else:
                self._refused(miss, "changed", None)
        return self._dressed(miss, response, None, "HEAD")

    def keep_posted(self, miss: Miss, response: Response) -> None:
        """An answer to POST that says it is what a GET of the same address would give (RFC 9110 section 9.3.3)."""
        body = response.body
        location = next((value for name, value in response.headers if name.lower() == "content-location"), None)
        url = self.url_of(miss.request)
        if location is None or response.status != 200 or not isinstance(body, bytes) or resolved(url, location) != url:
            return
        asker, now = copy(miss.request), self.clock()
        asker.method = "GET"
        made = rules.entry_of(asker, response, self.policy, request_time=now, response_time=now, url=url, personal=miss.personal,
                              size=len(body))
        if not isinstance(made, str) and now < made.expires and not made.flags & flags.GUESSED:
            self._keep(miss, made, now, None)

    # Answers

    def _note(self, miss: Miss, outcome: str) -> None:
        """For the numbers, and for the log line of the request."""
        self.numbers.outcome(outcome)
        miss.request.notes["cache"] = outcome

    def _answer(self, miss: Miss, entry: Entry, status: str, aged: bool = True) -> Response:
        """A stored answer for this request, with its age unless it is new."""
        now = self.clock()
        response = answer(entry, miss.asked, now)
        if self.policy.offload:
            response.whole = entry
        if aged or now - entry.born >= 1.0:
            response.headers.append(("Age", str(max(0, int(now - entry.born)))))
        response.headers.append(("Cache-Status", status))
        self.tell_edge(response.headers, entry, now)
        return response

    def _dressed(self, miss: Miss, response: Response, entry: Entry | None, refusal: str) -> Response:
        """An answer of the upstream, with what the cache says about it."""
        response.headers = [field for field in response.headers if field[0].lower() != rules.OWN]
        text = self.report.forwarded(miss.reason, response.status, miss.key, stored=entry is not None, detail=refusal)
        response.headers.append(("Cache-Status", text))
        self.tell_edge(response.headers, entry, self.clock())
        return response

    def tell_edge(self, headers: Headers, entry: Entry | None, now: float) -> None:
        """Say to nginx how long it may keep this, in place of what the upstream says to it."""
        edge = self.policy.edge
        if edge is None:
            return
        headers[:] = [field for field in headers if field[0].lower() != "x-accel-expires"]
        seconds = 0.0 if entry is None else rules.edge_seconds(entry, self.policy, edge, now)
        headers.append(("X-Accel-Expires", str(int(seconds))))

    def _nothing(self, miss: Miss) -> Response:
        """504: only what is stored was wanted (section 5.2.1.7)."""
        status = self.report.forwarded(miss.reason, 0, miss.key, detail="only-if-cached")
        return Response(504, [("Cache-Control", "no-store"), ("Content-Length", "0"), ("Cache-Status", status)], b"")


def close(response: Response) -> None:
    """Its body is not wanted."""
    if not isinstance(response.body, bytes):
        response.body.close()
