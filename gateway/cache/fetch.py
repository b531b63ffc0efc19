"""Decides for a request that misses whether it fetches, leads a flight or follows one (coalesce.py).

::

    a miss --> the upstream has just failed, and a stale answer may be served:     it gets the stale answer
           --> its answer cannot be shared:                    it fetches alone
           --> no flight of the same key:                      it leads one
           --> a flight in this worker:                        it follows, and gets the answer, leads the next flight, or fetches
                                                               alone

    a leader --> gets the lease of the key:                    it fetches (origin.py)
             --> another worker has the lease:                 it waits for that worker's answer, and fetches if there is none

    a refresh -> gets the lease, and no newer answer is there: it fetches
             --> another worker has the lease, or a result:    it takes that worker's answer and does not fetch

After each wait, the stored answer is looked up again if there were purges meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from .. import request_copies
from ..config import CacheSettings as Policy
from ..errors import UNSENT, DeadlineExceeded, GatewayError
from ..message import Handler, Request, Response
from ..tasks import Event, current_request, spawn
from .admission import Admission, Uses
from .cache_status import Numbers, Report, Responses
from .coalesce import Flight, Flights, FlightState
from .decide import judge_freshness, sharing, wants_whole, withhold
from .entry import Entry
from .fetch_context import FetchContext, Store
from .key import select
from .origin import Origin
from .predictor import Predictor
from .reasons import HIT, SharingScope

MOST_FLIGHTS = 2                                         # flights a request follows before it fetches alone

log = logging.getLogger("gateway")


class Fetch:
    """``flights`` belong to one route, and have the clock and the time limits of all waits."""

    def __init__(self, next: Handler, policy: Policy, store: Store, report: Report, numbers: Numbers,
                 clock: Callable[[], float], url_of: Callable[[Request], str],
                 ahead: Callable[[], float] = lambda: 0.0, flights: Flights | None = None) -> None:
        self.policy = policy
        self.store = store
        self.numbers = numbers
        self.clock = clock
        self.flights = Flights() if flights is None else flights
        self.limits = self.flights.limits
        self.predictor = Predictor(self.flights.clock.now)
        self.uses = Uses(policy.min_uses)
        self.responses = Responses(policy, report, numbers, clock)
        admission = Admission(store, self.flights, self.predictor, self.uses, numbers, clock)
        self.origin = Origin(next, policy, store, admission, self.responses, url_of, ahead)
        self.keep_posted = self.origin.keep_posted
        self.tell_edge = self.responses.tell_edge

    def __call__(self, context: FetchContext) -> Response:
        context.number = self.store.number
        if context.request.method == "HEAD":
            return self._while_failing(context) or self.origin.head(context)
        self.uses.count(context.key)
        context.whole = self._fetches_whole(context)
        flights = failures = 0
        while flights < MOST_FLIGHTS:
            if (stale := self._while_failing(context)) is not None:
                return stale
            if not self._shares(context):
                break
            flight = self.flights.flying.get(context.flight_key)
            if flight is None:
                return self._lead(context)
            try:
                state = self._follow(context, flight)
            except DeadlineExceeded as error:
                context.look_again(self.store)
                return self.origin.fail(context, error, own=False)
            if state is not FlightState.ABANDONED:             # an abandoned one does not count: a follower leads the next
                flights += 1
            if state is FlightState.STORED and (response := self._share(context, flight.value)) is not None:
                return response
            context.look_again(self.store)
            if state is FlightState.FAILED:
                failures += 1
                if failures == 1 and not isinstance(flight.value, UNSENT):
                    continue                             # the leader's request may have caused it: one follower tries
                return self.origin.fail(context, flight.value.with_traceback(None), own=False)
            if state is FlightState.UNCACHEABLE:
                break
            if state is FlightState.FLYING and self.flights.flying.get(context.flight_key) is flight:
                return self._lead(context)
        context.alone = True
        return self.origin(context, None)

    def _while_failing(self, context: FetchContext) -> Response | None:
        """The stale answer, during the pause after a failure of the upstream; else None."""
        if context.entry is not None and self.origin.failing(context):
            return self.responses.stale(context, context.entry, "the upstream failed a moment ago")
        return None

    def _fetches_whole(self, context: FetchContext) -> bool:
        """Does this range request fetch the whole representation? Not if that is known not to be stored."""
        return (context.entry is None and wants_whole(self.policy, context.directives) and self.uses.suffice(context.key)
                and self.predictor.worth_waiting(context.group))

    def _shares(self, context: FetchContext) -> bool:
        """May this request share its answer with others?"""
        scope = sharing(context.request, context.directives, personal=context.personal, is_stored=context.entry is not None,
                        whole=context.whole)
        return scope is SharingScope.ALL and self.predictor.worth_waiting(context.group)

    # Followers

    def _follow(self, context: FetchContext, flight: Flight) -> FlightState:
        """Wait for a flight and return its state; UNCACHEABLE also when this request is to fetch beside the leader."""
        flight.crowd += 1
        deadline, limits = context.request.deadline, self.limits
        if self._unknown(context):
            state = flight.wait(deadline, limits.unknown)
            if state is not FlightState.FLYING or flight.streaming:
                return state
            return FlightState.UNCACHEABLE if flight.crowd <= limits.small_crowd else flight.wait(deadline)
        if self._doubtful(context) and flight.parallel < limits.max_parallel:
            state = flight.wait(deadline, limits.unlikely_shared)
            if state is not FlightState.FLYING or flight.streaming:          # a streamed one is known to be shared or not
                return state
            if flight.parallel < limits.max_parallel:
                flight.parallel += 1
                return FlightState.UNCACHEABLE
        return flight.wait(deadline)

    def _unknown(self, context: FetchContext) -> bool:
        return context.variants is None and self.predictor.unknown(context.credentials)

    def _doubtful(self, context: FetchContext) -> bool:
        return context.variants is None and self.predictor.doubtful(context.credentials)

    def _share(self, context: FetchContext, entry: Entry) -> Response | None:
        """The leader's answer, if this request may have it and Vary selects it; else None."""
        context.variants = (entry,)
        if select(context.variants, context.request) is None or withhold(entry, context.credentials) is not None:
            return None
        return self.responses.collapsed_response(context, entry)

    # The leader

    def _lead(self, context: FetchContext) -> Response:
        left = context.request.deadline.left()
        flight = self.flights.lead(context.flight_key)
        try:
            flight.lease = self.store.lease(context.lease, min(left, self.limits.lease))
            if flight.lease is None and (entry := self._wait_for_other_worker(context, flight)) is not None:
                self.flights.land(flight, FlightState.STORED, entry)
                return self.responses.collapsed_response(context, entry)
            context.look_again(self.store)
            return self.origin(context, flight)
        finally:
            if not flight.streaming:                     # an error of the target has landed it already (origin.py)
                self.flights.land(flight, FlightState.ABANDONED)

    def _wait_for_other_worker(self, context: FetchContext, flight: Flight) -> Entry | None:
        """Wait for the answer of the worker that has the lease, at most half of the time left; None if none is usable."""
        limit = self.limits.lease
        patience = self.limits.unlikely_shared if self._doubtful(context) else min(context.request.deadline.left() / 2, limit)
        until, is_leased = self.flights.clock.now() + patience, self.store.is_leased(context.lease)
        first = min(patience, self.limits.unknown) if self._unknown(context) else patience
        entry = self._newer(context, first)
        if entry is None and first < patience and flight.crowd > self.limits.small_crowd:
            entry = self._newer(context, patience - first)
        if entry is not None:
            return entry
        context.look_again(self.store)
        if (is_leased and self.flights.clock.now() < until and context.variants is None
                and not self.predictor.hopeful(context.credentials)):
            self.flights.land(flight, FlightState.UNCACHEABLE)  # who waits here has waited for one answer in vain: enough
        return None

    def _newer(self, context: FetchContext, patience: float, demand: Event | None = None) -> Entry | None:
        """The answer that another worker has stored, or stores within ``patience`` seconds, if newer and usable; else None."""
        variants = self.store.wait(context.key, patience, context.lease, demand)
        entry = select(variants, context.request) if variants is not None else None
        if entry is None or entry is context.entry or withhold(entry, context.credentials) is not None:
            return None
        return entry if judge_freshness(entry, None, self.clock()) is HIT else None

    # In the background

    def refresh(self, context: FetchContext) -> None:
        """Refresh the stored answer in the background, unless a flight does so already or the upstream has just failed. One worker
        fetches and the others wait for its answer; if it gets none, the next request starts again."""
        failing = self.predictor.failing(context.group, True) or self.predictor.failing(context.group, False)
        if failing or context.flight_key in self.flights.flying:
            return
        flight = self.flights.lead(context.flight_key)
        request = request_copies.detach(context.request)
        beside = FetchContext(request, None, context.key, context.group, context.entry, context.decision, context.personal,
                              context.variants, context.credentials)
        beside.refreshing, beside.number = True, self.store.number
        spawn(self._refresh, beside, flight)

    def _refresh(self, context: FetchContext, flight: Flight) -> None:
        current_request.set(None)                        # not part of the request that started it
        result = "failed"
        try:
            result = self._refresh_once(context, flight)
        except GatewayError as error:
            log.warning("a stored answer for %s could not be refreshed: %s %s", context.request.path, error.code, error.detail)
        except Exception:
            log.exception("a stored answer for %s could not be refreshed", context.request.path)
        finally:
            if result == "failed":
                self.predictor.note_failure(context.group, True)
            self.flights.land(flight, FlightState.ABANDONED)
            self.numbers.count_refresh(result)

    def _refresh_once(self, context: FetchContext, flight: Flight) -> str:
        """Refresh, and return the result for the metrics: ``done`` here or ``elsewhere``, ``purged`` before, or ``failed``."""
        limit = self.limits.lease
        flight.lease = self.store.lease(context.lease, limit)
        is_leased = flight.lease is None and self.store.is_leased(context.lease)
        entry = self._newer(context, limit if is_leased else 0.0, flight.demand)
        if is_leased or entry is not None:
            self.flights.land(flight, FlightState.ABANDONED if entry is None else FlightState.STORED, entry)
            return "elsewhere"
        context.look_again(self.store)
        if context.entry is None:                        # the next request leads
            return "purged"
        response = self.origin(context, flight)
        if not isinstance(response.body, bytes):
            try:
                for _ in response.body:
                    pass
            finally:
                response.body.close()
        return "done" if response.status < 500 else "failed"

    def __repr__(self) -> str:
        return f"Fetch({self.flights!r}, {self.uses!r})"
