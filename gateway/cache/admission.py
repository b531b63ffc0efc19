"""Cache admission: whether a response is stored, and whether the followers of its flight get it; the predictor learns from both."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from . import rules
from .cache_status import Numbers
from .coalesce import Flight, Flights, FlightState
from .decide import PROVOKED_STATUSES, judge_freshness
from .entry import Entry, Variants, with_entry
from .fetch_context import FetchContext, Store
from .predictor import Predictor
from .reasons import HIT, NotStored

COUNTED_KEYS = 10_000                                    # keys whose uses are counted


class Uses:
    """Counts the requests for each key: a response is stored from the ``enough``th on (min_uses). It counts hashes, as keys may be
    long, of at most ``most`` keys; keys with the same hash count together."""

    def __init__(self, enough: int, most: int = COUNTED_KEYS) -> None:
        self.enough = enough
        self.most = most
        self._counts: OrderedDict[int, int] = OrderedDict()

    def count(self, key: str) -> None:
        if self.enough > 1:
            short = hash(key)
            self._counts[short] = self._counts.pop(short, 0) + 1
            if len(self._counts) > self.most:
                self._counts.popitem(last=False)

    def suffice(self, key: str) -> bool:
        return self.enough == 1 or self._counts.get(hash(key), 0) >= self.enough

    def __repr__(self) -> str:
        return f"Uses({len(self._counts)} keys, {self.enough} are enough)"


class Admission:
    def __init__(self, store: Store, flights: Flights, predictor: Predictor, uses: Uses, numbers: Numbers,
                 clock: Callable[[], float]) -> None:
        self.store = store
        self.flights = flights
        self.predictor = predictor
        self.uses = uses
        self.numbers = numbers
        self.clock = clock

    def admit(self, context: FetchContext, entry: Entry, request_time: float, flight: Flight | None) -> Entry | NotStored:
        """Store the entry, and give it to the followers if it is fresh. Returns the entry as stored, or why it is not."""
        if not self.worth_storing(context):
            return self._share_only(context, entry, flight)
        current = self._current(context)
        variants = (entry,) if current is None else with_entry(current, entry, context.entry)
        now = self.clock()
        result = self.store.put(context.key, variants, longest(variants, now), request_time, self.numbers.owner)
        if result is None:
            return self._refuse_purged(flight)
        self.numbers.count_stored()
        newest = result[0]
        if newest is entry:
            self._share(context, entry, flight)
        else:
            self.flights.land(flight, FlightState.ABANDONED)   # soft-purged meanwhile: it is stale for followers
        return newest

    def worth_storing(self, context: FetchContext) -> bool:
        """Has the key been requested often enough? Followers count as well."""
        return context.entry is not None or self.uses.suffice(context.key)

    def _share_only(self, context: FetchContext, entry: Entry, flight: Flight | None) -> NotStored:
        """Give the entry to the followers without storing it: its key is not requested often enough."""
        if self.store.number != context.number:          # purged meanwhile: the store would refuse it
            return self._refuse_purged(flight)
        self.numbers.count_refusal(NotStored.USES)
        self._share(context, entry, flight)
        return NotStored.USES

    def _refuse_purged(self, flight: Flight | None) -> NotStored:
        """Reject an answer requested before a purge: followers may have arrived after it."""
        self.numbers.count_refusal(NotStored.PURGED)
        self.flights.land(flight, FlightState.ABANDONED)
        return NotStored.PURGED

    def _share(self, context: FetchContext, entry: Entry, flight: Flight | None) -> None:
        sharable = self._sharable(entry)
        self._learn(context, sharable)
        self.flights.land(flight, FlightState.STORED if sharable else FlightState.UNCACHEABLE, entry)

    def _sharable(self, entry: Entry) -> bool:
        return judge_freshness(entry, None, self.clock()) is HIT

    def refuse(self, context: FetchContext, reason: NotStored, flight: Flight | None, status: int = 200) -> None:
        """Handle a response that may not be stored: it supersedes the stored one, unless it is an error or personal."""
        self.numbers.count_refusal(reason)
        self.announce(context, reason, flight, status)
        if status < 500 and status not in PROVOKED_STATUSES and not reason.personal:
            self._remove_superseded(context)

    def announce(self, context: FetchContext, result: Entry | NotStored, flight: Flight | None, status: int) -> None:
        """Release the followers as soon as the head of a response shows that they cannot share it. ``result`` is the entry that it
        would become, or why it is not stored."""
        if not isinstance(result, NotStored):
            if self._sharable(result):
                return
            self._learn(context, False)
        elif not result.transient and status < 400:
            self._learn(context, False)
        self.flights.land(flight, FlightState.UNCACHEABLE)

    def refuse_truncated(self, context: FetchContext, flight: Flight | None) -> None:
        """Handle a truncated body: store nothing, learn nothing, and let a follower try again."""
        self.numbers.count_refusal(NotStored.CUT)
        self.flights.land(flight, FlightState.ABANDONED)

    def _remove_superseded(self, context: FetchContext) -> None:
        """Remove the stored answer that this response supersedes, but not one that was stored meanwhile."""
        old, current = context.entry, self._current(context)
        if old is None or current is None:
            return
        left = tuple([one for one in current if one.vary != old.vary or one.stored_at > old.stored_at])
        if not left:
            self.store.delete(context.key)
        elif len(left) < len(current):
            now = self.clock()
            self.store.put(context.key, left, longest(left, now), now)

    def _current(self, context: FetchContext) -> Variants | None:
        """The variants stored under the key now, without reading the shared tiers again. What was in memory at the lookup and is
        there no more was purged meanwhile."""
        variants = self.store.peek(context.key)
        return context.variants if variants is None and not context.in_memory else variants

    def _learn(self, context: FetchContext, sharable: bool) -> None:
        self.predictor.learn(context.group, sharable, context.credentials if context.variants is None else None)

    def __repr__(self) -> str:
        return f"Admission({self.store!r}, {self.uses!r})"


def longest(variants: Variants, now: float) -> float:
    """The longest time in seconds for which one of the variants is useful."""
    return max(rules.useful_for(entry, now) for entry in variants)
