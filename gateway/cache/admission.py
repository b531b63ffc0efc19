"""What becomes of an answer: stored, shared with those who wait for it, or neither; and what is learned from that."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from . import rules
from .cache_status import Numbers
from .coalesce import ABANDONED, STORED, UNCACHEABLE, Flight, Flights
from .entry import Entry, Variants
from .fetch_context import FetchContext, Store

SAYS_NOTHING = frozenset({"partial", "request", "method", "cut", "changed"})             # the next may well be kept
OF_ONE_USER = frozenset({"cookie", "authorization", "request"})          # what others have stays as it is
MOST_COUNTED = 10_000                                    # keys whose uses are counted


class Uses:
    """How often each key was asked for: an answer is kept from the request on that makes it ``enough``. Keys may be long, so their
    hashes are counted: two keys with the same one count together."""

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self._counts: OrderedDict[int, int] = OrderedDict()

    def count(self, key: str) -> None:
        if self.enough > 1:
            short = hash(key)
            self._counts[short] = self._counts.pop(short, 0) + 1
            if len(self._counts) > MOST_COUNTED:
                self._counts.popitem(last=False)

    def suffice(self, key: str) -> bool:
        return self.enough == 1 or self._counts.get(hash(key), 0) >= self.enough

    def __repr__(self) -> str:
        return f"Uses({len(self._counts)} keys, {self.enough} are enough)"


class Admission:
    def __init__(self, store: Store, flights: Flights, uses: Uses, numbers: Numbers, clock: Callable[[], float]) -> None:
        self.store = store
        self.flights = flights
        self.uses = uses
        self.numbers = numbers
        self.clock = clock

    def keep(self, miss: FetchContext, entry: Entry, begun: float, flight: Flight | None) -> Entry | str:
        """Store it, and let the others have it when it is fresh for them. What is kept of it, or why nothing is."""
        if not self.worth_keeping(miss):
            return self._shared_only(miss, entry, flight)
        known = self._known(miss)
        variants = Variants([entry]) if known is None else known.with_entry(entry, miss.entry)
        now = self.clock()
        kept = self.store.put(miss.key, variants, max(rules.keep(one, now) for one in variants), begun, self.numbers.owner)
        if kept is None:
            return self._purged(flight)
        self.numbers.stored()
        newest = kept[0]
        if newest is entry:
            self._share(miss, entry, flight)
        else:
            self.flights.land(flight, ABANDONED)         # purged softly meanwhile: nobody takes it for fresh
        return newest

    def worth_keeping(self, miss: FetchContext) -> bool:
        """Was it asked for often enough? Each of those who wait counts."""
        return miss.entry is not None or self.uses.suffice(miss.key)

    def _shared_only(self, miss: FetchContext, entry: Entry, flight: Flight | None) -> str:
        """It is not asked for often enough to be stored, but those who wait already may have it."""
        if self.store.number != miss.number:             # what the store would have refused
            return self._purged(flight)
        self.numbers.refused("uses")
        self._share(miss, entry, flight)
        return "uses"

    def _purged(self, flight: Flight | None) -> str:
        """Who came after the purge must not get what was asked for before it."""
        self.numbers.refused("purged")
        self.flights.land(flight, ABANDONED)
        return "purged"

    def _share(self, miss: FetchContext, entry: Entry, flight: Flight | None) -> None:
        sharable = self._sharable(entry)
        self._learn(miss, sharable)
        self.flights.land(flight, STORED if sharable else UNCACHEABLE, entry)

    def _sharable(self, entry: Entry) -> bool:
        return rules.judge(entry, None, self.clock()) == rules.FRESH

    def refuse(self, miss: FetchContext, reason: str, flight: Flight | None, status: int = 200) -> None:
        """It may not be kept. An error says nothing about the next answer, and leaves what is stored as it is."""
        self.numbers.refused(reason)
        self.heard(miss, reason, flight, status)
        if status < 500 and status not in rules.PROVOKED and reason not in OF_ONE_USER:
            self._forget(miss)

    def heard(self, miss: FetchContext, made: Entry | str, flight: Flight | None, status: int) -> None:
        """The head of an answer is here, and what is ``made`` of it. Who waits for one that is not for him goes on at once."""
        if not isinstance(made, str):
            if self._sharable(made):
                return
            self._learn(miss, False)
        elif made not in SAYS_NOTHING and status < 400:
            self._learn(miss, False)
        self.flights.land(flight, UNCACHEABLE)

    def cut(self, miss: FetchContext, flight: Flight | None) -> None:
        """It came to no end, which says nothing about anything: another's may be whole."""
        self.numbers.refused("cut")
        self.flights.land(flight, ABANDONED)

    def _forget(self, miss: FetchContext) -> None:
        """What was stored before is no longer what the upstream says. What came meanwhile is not meant."""
        gone, known = miss.entry, self._known(miss)
        if gone is None or known is None:
            return
        left = Variants([one for one in known if one.vary != gone.vary or one.stored_at > gone.stored_at])
        if not left:
            self.store.delete(miss.key)
        elif len(left) < len(known):
            now = self.clock()
            self.store.put(miss.key, left, max(rules.keep(one, now) for one in left), now)

    def _known(self, miss: FetchContext) -> Variants | None:
        """What is stored under its key. Shared tiers were asked when it was looked up, and are not asked again; what memory had
        then and has no more was forgotten meanwhile."""
        known = self.store.held(miss.key)
        return miss.variants if known is None and not miss.held else known

    def _learn(self, miss: FetchContext, sharable: bool) -> None:
        self.flights.learn(miss.lane, sharable, miss.shown if miss.variants is None else None)

    def __repr__(self) -> str:
        return f"Admission({self.store!r}, {self.uses!r})"
