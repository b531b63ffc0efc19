"""What becomes of an answer: stored, shared with those who wait for it, or neither; and what is learned from that."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from . import rules
from .cache_status import Numbers
from .coalesce import Flight, Flights, FlightState
from .decide import HIT, PROVOKED_STATUSES, NotStored, judge
from .entry import Entry, Variants
from .fetch_context import FetchContext, Store
from .predictor import Predictor

COUNTED_KEYS = 10_000                                    # keys whose uses are counted


class Uses:
    """How often each key is requested: an answer is stored from the request on that makes it ``enough``. Keys may be long, so their
    hashes are counted, of ``most`` keys: two with the same one count together."""

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
        """Store it, and share it with the followers when it is fresh for them. What is stored of it, or why nothing is."""
        if not self.worth_storing(context):
            return self._share_only(context, entry, flight)
        current = self._current(context)
        variants = Variants([entry]) if current is None else current.with_entry(entry, context.entry)
        now = self.clock()
        result = self.store.put(context.key, variants, longest(variants, now), request_time, self.numbers.owner)
        if result is None:
            return self._refuse_purged(flight)
        self.numbers.count_stored()
        newest = result[0]
        if newest is entry:
            self._share(context, entry, flight)
        else:
            self.flights.land(flight, FlightState.ABANDONED)   # purged softly meanwhile: nobody takes it for fresh
        return newest

    def worth_storing(self, context: FetchContext) -> bool:
        """Is it requested often enough? Each of those who wait counts."""
        return context.entry is not None or self.uses.suffice(context.key)

    def _share_only(self, context: FetchContext, entry: Entry, flight: Flight | None) -> NotStored:
        """It is not requested often enough to be stored, but those who wait already may have it."""
        if self.store.number != context.number:          # what the store would have refused
            return self._refuse_purged(flight)
        self.numbers.count_refusal(NotStored.USES)
        self._share(context, entry, flight)
        return NotStored.USES

    def _refuse_purged(self, flight: Flight | None) -> NotStored:
        """Who came after the purge must not get what was requested before it."""
        self.numbers.count_refusal(NotStored.PURGED)
        self.flights.land(flight, FlightState.ABANDONED)
        return NotStored.PURGED

    def _share(self, context: FetchContext, entry: Entry, flight: Flight | None) -> None:
        sharable = self._sharable(entry)
        self._learn(context, sharable)
        self.flights.land(flight, FlightState.STORED if sharable else FlightState.UNCACHEABLE, entry)

    def _sharable(self, entry: Entry) -> bool:
        return judge(entry, None, self.clock()) is HIT

    def refuse(self, context: FetchContext, reason: NotStored, flight: Flight | None, status: int = 200) -> None:
        """It may not be stored. An error says nothing about the next answer, and leaves what is stored as it is."""
        self.numbers.count_refusal(reason)
        self.announce(context, reason, flight, status)
        if status < 500 and status not in PROVOKED_STATUSES and not reason.personal:
            self._forget(context)

    def announce(self, context: FetchContext, result: Entry | NotStored, flight: Flight | None, status: int) -> None:
        """The head of an answer is here, and what its ``result`` is. Followers who cannot have it go on at once."""
        if not isinstance(result, NotStored):
            if self._sharable(result):
                return
            self._learn(context, False)
        elif not result.transient and status < 400:
            self._learn(context, False)
        self.flights.land(flight, FlightState.UNCACHEABLE)

    def cut(self, context: FetchContext, flight: Flight | None) -> None:
        """It came to no end, which says nothing about anything: another's may be whole."""
        self.numbers.count_refusal(NotStored.CUT)
        self.flights.land(flight, FlightState.ABANDONED)

    def _forget(self, context: FetchContext) -> None:
        """What was stored before is no longer what the upstream says. What was stored meanwhile stays."""
        old, current = context.entry, self._current(context)
        if old is None or current is None:
            return
        left = Variants([one for one in current if one.vary != old.vary or one.stored_at > old.stored_at])
        if not left:
            self.store.delete(context.key)
        elif len(left) < len(current):
            now = self.clock()
            self.store.put(context.key, left, longest(left, now), now)

    def _current(self, context: FetchContext) -> Variants | None:
        """What is stored under its key. Shared tiers were read when it was looked up, and are not read again; what memory had then
        and has no more was purged meanwhile."""
        variants = self.store.peek(context.key)
        return context.variants if variants is None and not context.in_memory else variants

    def _learn(self, context: FetchContext, sharable: bool) -> None:
        self.predictor.learn(context.group, sharable, context.credentials if context.variants is None else None)

    def __repr__(self) -> str:
        return f"Admission({self.store!r}, {self.uses!r})"


def longest(variants: Variants, now: float) -> float:
    """Seconds after which none of them is of use to anybody."""
    return max(rules.useful_for(entry, now) for entry in variants)
