"""A request that goes on: who fetches what the cache cannot answer at once, and who waits for whose answer (coalesce.py).

::

    a miss --> the upstream has just failed, and what is stored covers that:       that
           --> nobody can share its answer:                    it fetches for itself
           --> nobody fetches this right now:                  it leads
           --> somebody in this worker does:                   it follows, and gets the answer, or leads the next, or fetches for
                                                               itself

    a leader --> has the lease for all workers:                it fetches (origin.py)
             --> another worker has it:                        it waits for that one's answer, and fetches when there is none

    a refresh -> has the lease, and nothing newer is there:    it fetches
             --> another worker has it, or is done with it:    it takes that one's answer, and fetches none itself

After a wait a request looks again at what is stored, when there were purges meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from .. import request_copies
from ..config import CacheSettings as Policy
from ..errors import ClientDisconnected, ConnectFailed, ConnectTimeout, DeadlineExceeded, GatewayError, PoolExhausted
from ..message import Handler, Request, Response
from ..tasks import Event, current_request, spawn
from .admission import Admission, Uses
from .cache_status import Numbers, Report
from .coalesce import Flight, Flights, FlightState
from .decide import HIT, Sharing, judge, sharing, wants_whole, withhold
from .entry import Entry, Variants
from .fetch_context import FetchContext, Store
from .key import select
from .origin import Origin
from .predictor import Predictor
from .responses import Responses

CONNECT_FAILURES = (ConnectFailed, ConnectTimeout, PoolExhausted)   # failures that have nothing to do with the request
MOST_FLIGHTS = 2                                         # flights a request follows before it fetches alone

log = logging.getLogger("gateway")


class Fetch:
    """``flights`` are of one route alone, and bring clock and patience with them."""

    def __init__(self, next: Handler, policy: Policy, store: Store, report: Report, numbers: Numbers,
                 clock: Callable[[], float], url_of: Callable[[Request], str],
                 ahead: Callable[[], float] = lambda: 0.0, flights: Flights | None = None) -> None:
        self.policy = policy
        self.store = store
        self.numbers = numbers
        self.clock = clock
        self.flights = Flights() if flights is None else flights
        self.patience = self.flights.patience
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
            if state is not FlightState.ABANDONED:             # it says nothing: one of those who wait leads
                flights += 1
            if state is FlightState.STORED and (response := self._share(context, flight.value)) is not None:
                return response
            context.look_again(self.store)
            if state is FlightState.FAILED:
                failures += 1
                if failures == 1 and not isinstance(flight.value, CONNECT_FAILURES):
                    continue                             # the leader's own request may have provoked it: one other tries
                return self.origin.fail(context, flight.value.with_traceback(None), own=False)
            if state is FlightState.UNCACHEABLE:
                break
            if state is FlightState.FLYING and self.flights.flying.get(context.flight_key) is flight:
                return self._lead(context)
        context.alone = True
        return self.origin(context, None)

    def _while_failing(self, context: FetchContext) -> Response | None:
        """The stale answer, while the upstream is left alone after a failure."""
        if context.entry is not None and self.origin.failing(context):
            return self.responses.stale(context, context.entry, "the upstream failed a moment ago")
        return None

    def _fetches_whole(self, context: FetchContext) -> bool:
        """Does this request for a range fetch the whole? Not where it is known that the whole is not stored."""
        return (context.entry is None and wants_whole(self.policy, context.directives) and self.uses.suffice(context.key)
                and self.predictor.worth_waiting(context.group))

    def _shares(self, context: FetchContext) -> bool:
        """May this request wait for others, and they for it?"""
        scope = sharing(context.request, context.directives, personal=context.personal, is_stored=context.entry is not None,
                        whole=context.whole)
        return scope is Sharing.ALL and self.predictor.worth_waiting(context.group)

    # Followers

    def _follow(self, context: FetchContext, flight: Flight) -> FlightState:
        """The state of the flight after waiting for it; UNCACHEABLE also when this request is to fetch beside the leader."""
        flight.crowd += 1
        deadline, patience = context.request.deadline, self.patience
        if self._unknown(context):
            state = flight.wait(deadline, patience.unknown)
            if state is not FlightState.FLYING or flight.streaming:
                return state
            return FlightState.UNCACHEABLE if flight.crowd <= patience.few else flight.wait(deadline)
        if self._doubtful(context) and flight.company < patience.company:
            state = flight.wait(deadline, patience.doubtful)
            if state is not FlightState.FLYING or flight.streaming:          # of what is streamed it is known already
                return state
            if flight.company < patience.company:
                flight.company += 1
                return FlightState.UNCACHEABLE
        return flight.wait(deadline)

    def _unknown(self, context: FetchContext) -> bool:
        return context.variants is None and self.predictor.unknown(context.credentials)

    def _doubtful(self, context: FetchContext) -> bool:
        return context.variants is None and self.predictor.doubtful(context.credentials)

    def _share(self, context: FetchContext, entry: Entry) -> Response | None:
        """The answer to another request, when this one may have it; else it goes on, among those of its own variant."""
        context.variants = Variants([entry])
        if select(context.variants, context.request) is None or withhold(entry, context.credentials) is not None:
            return None
        return self.responses.collapsed_response(context, entry)

    # The leader

    def _lead(self, context: FetchContext) -> Response:
        left = context.request.deadline.left()
        flight = self.flights.lead(context.flight_key)
        try:
            flight.lease = self.store.lease(context.lease, min(left, self.patience.lease))
            if flight.lease is None and (entry := self._elsewhere(context, flight)) is not None:
                self.flights.land(flight, FlightState.STORED, entry)
                return self.responses.collapsed_response(context, entry)
            context.look_again(self.store)
            return self.origin(context, flight)
        except (ClientDisconnected, DeadlineExceeded):
            raise
        except GatewayError as error:
            self.flights.land(flight, FlightState.FAILED, error)
            raise
        finally:
            if not flight.streaming:
                self.flights.land(flight, FlightState.ABANDONED)

    def _elsewhere(self, context: FetchContext, flight: Flight) -> Entry | None:
        """What another worker is fetching right now, once it is there and usable. It is waited for at most half the time left."""
        limit = self.patience.lease
        patience = self.patience.doubtful if self._doubtful(context) else min(context.request.deadline.left() / 2, limit)
        until, is_leased = self.flights.clock.now() + patience, self.store.is_leased(context.lease)
        first = min(patience, self.patience.unknown) if self._unknown(context) else patience
        entry = self._newer(context, first)
        if entry is None and first < patience and flight.crowd > self.patience.few:
            entry = self._newer(context, patience - first)
        if entry is not None:
            return entry
        context.look_again(self.store)
        if (is_leased and self.flights.clock.now() < until and context.variants is None
                and not self.predictor.hopeful(context.credentials)):
            self.flights.land(flight, FlightState.UNCACHEABLE)     # who waits here has waited for one answer in vain: enough
        return None

    def _newer(self, context: FetchContext, patience: float, demand: Event | None = None) -> Entry | None:
        """What another worker has got, or gets within ``patience`` seconds, when it is usable."""
        variants = self.store.wait(context.key, patience, context.lease, demand)
        entry = select(variants, context.request) if variants is not None else None
        if entry is None or entry is context.entry or withhold(entry, context.credentials) is not None:
            return None
        return entry if judge(entry, None, self.clock()) is HIT else None

    # In the background

    def refresh(self, context: FetchContext) -> None:
        """Fetch it anew beside this request, unless somebody does already or the upstream has just failed. Of all workers one does:
        the others wait for what it gets, and when that is nothing, the next request begins anew."""
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
        current_request.set(None)                        # the view of this request is not that of the one that began it
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
        """The result of a refresh: ``done`` here or ``elsewhere``, ``purged`` before it began, or ``failed``."""
        limit = self.patience.lease
        flight.lease = self.store.lease(context.lease, limit)
        is_leased = flight.lease is None and self.store.is_leased(context.lease)
        entry = self._newer(context, limit if is_leased else 0.0, flight.demand)
        if is_leased or entry is not None:
            self.flights.land(flight, FlightState.ABANDONED if entry is None else FlightState.STORED, entry)
            return "elsewhere"
        context.look_again(self.store)
        if context.entry is None:                        # who requests it next leads
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
