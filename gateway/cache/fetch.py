"""Who asks the upstream for what the cache could not answer at once, and who waits for whose answer (coalesce.py).

::

    a miss --> the upstream failed a moment ago, and what is stored covers that: that
           --> nobody can share its answer:                   it asks for itself
           --> nobody fetches this right now:                 it leads
           --> somebody in this worker does:                  it waits, and gets the answer, or leads the next, or asks for itself

    a leader --> has the lease for all workers:               it asks (origin.py)
             --> another worker has it:                       it waits for that one's answer, and asks when there is none

    a refresh -> has the lease, and nothing newer is there:   it asks
             --> another worker has it, or is done with it:   it takes that one's answer, and asks for none itself

Whoever waited looks again at what is stored when purges were heard meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from .. import request_copies
from ..config import CacheSettings as Policy
from ..errors import ClientDisconnected, ConnectFailed, ConnectTimeout, DeadlineExceeded, GatewayError, PoolExhausted
from ..message import Handler, Request, Response
from ..tasks import Event, current_request, spawn
from . import rules
from .admission import Admission, Uses
from .cache_status import Numbers, Report
from .coalesce import ABANDONED, COMPANY, DOUBT, FAILED, FEW, FLYING, STORED, UNCACHEABLE, UNKNOWN, Flight, Flights
from .conditional import is_range
from .entry import Entry, Variants
from .fetch_context import FetchContext, Store
from .key import select
from .origin import Origin
from .responses import Answers

UNREACHED = (ConnectFailed, ConnectTimeout, PoolExhausted)          # failures that have nothing to do with the request
MOST_FLIGHTS = 2                                         # flights a request waits for before it asks alone
LEASE = 10.0                                             # seconds; another worker is waited for at most half the time left, too

log = logging.getLogger("gateway")


class Fetch:
    def __init__(self, next: Handler, policy: Policy, store: Store, report: Report, numbers: Numbers,
                 clock: Callable[[], float], url_of: Callable[[Request], str],
                 ahead: Callable[[], float] = lambda: 0.0) -> None:
        self.store = store
        self.numbers = numbers
        self.clock = clock
        self.whole = policy.fetch_whole
        self.flights = Flights()
        self.uses = Uses(policy.min_uses)
        self.answers = Answers(policy, report, numbers, clock)
        self.exchange = Origin(next, policy, store, self.flights, Admission(store, self.flights, self.uses, numbers, clock),
                               self.answers, url_of, ahead)
        self.keep_posted = self.exchange.keep_posted
        self.tell_edge = self.answers.tell_edge

    def __call__(self, miss: FetchContext) -> Response:
        if miss.asked is not None and miss.asked.only_if_cached:
            return self.answers.nothing(miss.request, miss.key)
        miss.number = self.store.number
        if miss.request.method == "HEAD":
            return self._resting(miss) or self.exchange.head(miss)
        self.uses.count(miss.key)
        miss.fills = self._fills(miss)
        flights = failures = 0
        while flights < MOST_FLIGHTS:
            if (resting := self._resting(miss)) is not None:
                return resting
            if not self._shares(miss):
                break
            flight = self.flights.flying.get(miss.flight_key)
            if flight is None:
                return self._lead(miss)
            try:
                state = self._follow(miss, flight)
            except DeadlineExceeded as error:
                miss.look_again(self.store)
                return self.exchange.failed(miss, error, asked=False)
            if state != ABANDONED:                       # it says nothing: one of those who wait leads
                flights += 1
            if state == STORED and (response := self._shared(miss, flight.value)) is not None:
                return response
            miss.look_again(self.store)
            if state == FAILED:
                failures += 1
                if failures == 1 and not isinstance(flight.value, UNREACHED):
                    continue                             # the leader's own request may have provoked it: one other tries
                return self.exchange.failed(miss, flight.value.with_traceback(None), asked=False)
            if state == UNCACHEABLE:
                break
            if state == FLYING and self.flights.flying.get(miss.flight_key) is flight:
                return self._lead(miss)
        miss.alone = True
        return self.exchange(miss, None)

    def _resting(self, miss: FetchContext) -> Response | None:
        """The stale answer, while the upstream is left alone after a failure."""
        if miss.entry is not None and self.exchange.resting(miss):
            return self.answers.stale(miss, miss.entry, "the upstream failed a moment ago")
        return None

    def _fills(self, miss: FetchContext) -> bool:
        """Does this request for a range fetch the whole? Not where it is known that the whole is not kept."""
        asked = miss.asked
        return bool(self.whole and asked is not None and asked.range is not None and miss.entry is None and is_range(asked.range)
                    and self.uses.suffice(miss.key) and self.flights.worth_waiting(miss.lane))

    def _shares(self, miss: FetchContext) -> bool:
        """May this request wait for others, and they for it?"""
        if miss.entry is None:
            if miss.asked is not None and miss.asked.range is not None and not miss.fills:
                return False                             # a part is of no use to others
            if not miss.personal and miss.request.header("Authorization"):
                return False                             # nor, as a rule, what was made for one caller
        return self.flights.worth_waiting(miss.lane)

    # Followers

    def _follow(self, miss: FetchContext, flight: Flight) -> int:
        """The state of the flight after waiting for it; UNCACHEABLE also when this request goes on as if it were."""
        flight.crowd += 1
        if self._unknown(miss):
            state = flight.wait(miss.request.deadline, UNKNOWN)
            if state != FLYING or flight.streaming:
                return state
            return UNCACHEABLE if flight.crowd <= FEW else flight.wait(miss.request.deadline)
        if self._doubtful(miss) and flight.company < COMPANY:
            state = flight.wait(miss.request.deadline, DOUBT)
            if state != FLYING or flight.streaming:      # of what is streamed it is known already
                return state
            if flight.company < COMPANY:
                flight.company += 1
                return UNCACHEABLE
        return flight.wait(miss.request.deadline)

    def _unknown(self, miss: FetchContext) -> bool:
        return miss.variants is None and self.flights.unknown(miss.shown)

    def _doubtful(self, miss: FetchContext) -> bool:
        return miss.variants is None and self.flights.doubtful(miss.shown)

    def _shared(self, miss: FetchContext, entry: Entry) -> Response | None:
        """The answer another request brought, when this one may have it; else it goes on, among those of its own variant."""
        miss.variants = Variants([entry])
        if select(miss.variants, miss.request) is None or rules.withheld(entry, miss.shown):
            return None
        return self.answers.collapsed(miss, entry)

    # The leader

    def _lead(self, miss: FetchContext) -> Response:
        left = miss.request.deadline.left()
        flight = self.flights.lead(miss.flight_key)
        try:
            flight.lease = self.store.lease(miss.lease, min(left, LEASE))
            if flight.lease is None and (found := self._elsewhere(miss, flight)) is not None:
                self.flights.land(flight, STORED, found)
                return self.answers.collapsed(miss, found)
            miss.look_again(self.store)
            return self.exchange(miss, flight)
        except (ClientDisconnected, DeadlineExceeded):
            raise
        except GatewayError as error:
            self.flights.land(flight, FAILED, error)
            raise
        finally:
            if not flight.streaming:
                self.flights.land(flight, ABANDONED)

    def _elsewhere(self, miss: FetchContext, flight: Flight) -> Entry | None:
        """What another worker is fetching right now, once it is there and usable."""
        patience = DOUBT if self._doubtful(miss) else min(miss.request.deadline.left() / 2, LEASE)
        until, leased = self.flights.clock() + patience, self.store.leased(miss.lease)
        first = min(patience, UNKNOWN) if self._unknown(miss) else patience
        entry = self._newer(miss, first)
        if entry is None and first < patience and flight.crowd > FEW:
            entry = self._newer(miss, patience - first)
        if entry is not None:
            return entry
        miss.look_again(self.store)
        if leased and self.flights.clock() < until and miss.variants is None and not self.flights.hopeful(miss.shown):
            self.flights.land(flight, UNCACHEABLE)       # who waits here has waited for one answer for nothing: that is enough
        return None

    def _newer(self, miss: FetchContext, patience: float, wanted: Event | None = None) -> Entry | None:
        """What another worker has got, or gets within ``patience`` seconds, when it is usable."""
        found = self.store.wait(miss.key, patience, miss.lease, wanted)
        entry = select(found, miss.request) if found is not None else None
        if entry is None or entry is miss.entry or rules.withheld(entry, miss.shown):
            return None
        return entry if rules.judge(entry, None, self.clock()) == rules.FRESH else None

    # In the background

    def refresh(self, miss: FetchContext) -> None:
        """Fetch it anew beside this request, unless somebody does already or the upstream has just failed. Of all workers one does:
        the others wait for what it gets, and when that is nothing, the next request begins anew."""
        resting = self.flights.resting(miss.lane, True) or self.flights.resting(miss.lane, False)
        if resting or miss.flight_key in self.flights.flying:
            return
        flight = self.flights.lead(miss.flight_key)
        request = request_copies.detach(miss.request)
        beside = FetchContext(request, None, miss.key, miss.lane, miss.entry, miss.reason, miss.personal, miss.variants, miss.shown)
        beside.beside, beside.number = True, self.store.number
        spawn(self._refresh, beside, flight)

    def _refresh(self, miss: FetchContext, flight: Flight) -> None:
        current_request.set(None)                        # the view of this request is not that of the one that began it
        result = "failed"
        try:
            flight.lease = self.store.lease(miss.lease, LEASE)
            leased = flight.lease is None and self.store.leased(miss.lease)
            found = self._newer(miss, LEASE if leased else 0.0, flight.wanted)
            if leased or found is not None:
                result = "elsewhere"
                self.flights.land(flight, ABANDONED if found is None else STORED, found)
                return
            miss.look_again(self.store)
            if miss.entry is None:                       # it was purged: who asks for it next leads
                result = "purged"
                return
            response = self.exchange(miss, flight)
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

    def __repr__(self) -> str:
        return f"Fetch({self.flights!r}, {self.uses!r})"
