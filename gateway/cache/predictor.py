"""What the answers to a key have been like, so that the next requests for it wait for each other or do not. Pure.

Three things are remembered, each for a while: keys whose answer was for one request only (``worth_waiting``), keys whose upstream
has just failed (``failing``), and how the last new keys of each kind turned out (``hopeful``, ``doubtful``, ``unknown``). Keys may
be long, so their hashes are remembered: two keys with the same one share what is learned, which costs a wait or spares one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

UNCACHEABLE_FOR = 120.0                                  # seconds
FAILING_FOR = 1.0                                        # seconds after a failure in which a stale answer is given at once
RECENT = 32                                              # new keys whose answers are remembered of each kind
MOST_KEYS = 10_000


class Predictor:
    """``clock`` gives seconds and never goes back. Tables have at most ``most`` keys; the oldest goes first."""

    def __init__(self, clock: Callable[[], float], most: int = MOST_KEYS) -> None:
        self.clock = clock
        self.most = most
        self._uncacheable: OrderedDict[int, float] = OrderedDict()
        self._failing: OrderedDict[int, float] = OrderedDict()
        self._recent: dict[Any, deque[bool]] = {}

    def learn(self, key: Any, cacheable: bool, kind: Any = None) -> None:
        """What the answer was like. ``kind`` is that of a key of which nothing was stored; there are few kinds."""
        if kind is not None and self.worth_waiting(key):     # each key counts once, however often it is requested
            self._recent.setdefault(kind, deque(maxlen=RECENT)).append(cacheable)
        if cacheable:
            self._uncacheable.pop(hash(key), None)
            for has_answer in (True, False):
                self._failing.pop(hash((key, has_answer)), None)
        else:
            self._remember(self._uncacheable, key, UNCACHEABLE_FOR)

    def note_failure(self, key: Any, has_answer: bool) -> None:
        """The upstream failed for this key: ``has_answer`` when it answered, with an error."""
        self._remember(self._failing, (key, has_answer), FAILING_FOR)

    def failing(self, key: Any, has_answer: bool) -> bool:
        """Has the upstream just failed for this key, in that way?"""
        return bool(self._failing) and self._current(self._failing, (key, has_answer))

    def worth_waiting(self, key: Any) -> bool:
        """May the answer be one that several can have?"""
        return not self._current(self._uncacheable, key)

    def hopeful(self, kind: Any) -> bool:
        """Was one of the last new keys of this kind for several?"""
        return any(self._recent.get(kind, ()))

    def unknown(self, kind: Any) -> bool:
        """Was there no new key of this kind yet?"""
        return kind not in self._recent

    def doubtful(self, kind: Any) -> bool:
        """Were all of the last new keys of this kind for one only?"""
        return kind in self._recent and not any(self._recent[kind])

    def _remember(self, table: OrderedDict[int, float], key: Any, seconds: float) -> None:
        table[hash(key)] = self.clock() + seconds
        table.move_to_end(hash(key))
        if len(table) > self.most:
            table.popitem(last=False)

    def _current(self, table: OrderedDict[int, float], key: Any) -> bool:
        """Is the key in the table, and its time not over?"""
        until = table.get(hash(key))
        if until is None:
            return False
        if until > self.clock():
            return True
        del table[hash(key)]
        return False

    def __repr__(self) -> str:
        return f"Predictor({len(self._uncacheable)} uncacheable, {len(self._failing)} failing)"
