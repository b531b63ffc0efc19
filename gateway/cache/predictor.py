"""Predicts from earlier answers whether requests for a key can share one (hit-for-miss), and whether its upstream fails. Pure.

It remembers for a while which keys had an answer that was not shared (``worth_waiting``), which keys' upstream has just failed
(``failing``), and whether the last new keys of each kind were shared (``hopeful``, ``doubtful``, ``unknown``). It stores hashes, as
keys may be long: two keys with the same hash share their history, which costs or saves a wait.
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
    """``clock`` returns monotonic seconds. Tables have at most ``most`` keys; the oldest is removed first."""

    def __init__(self, clock: Callable[[], float], most: int = MOST_KEYS) -> None:
        self.clock = clock
        self.most = most
        self._uncacheable: OrderedDict[int, float] = OrderedDict()
        self._failing: OrderedDict[int, float] = OrderedDict()
        self._recent: dict[Any, deque[bool]] = {}

    def learn(self, key: Any, cacheable: bool, kind: Any = None) -> None:
        """Record whether an answer was cacheable. ``kind`` is given for a key without a stored answer; there are few kinds."""
        if kind is not None and self.worth_waiting(key):     # each key counts once, however often it is requested
            self._recent.setdefault(kind, deque(maxlen=RECENT)).append(cacheable)
        if cacheable:
            self._uncacheable.pop(hash(key), None)
            for has_answer in (True, False):
                self._failing.pop(hash((key, has_answer)), None)
        else:
            self._remember(self._uncacheable, key, UNCACHEABLE_FOR)

    def note_failure(self, key: Any, has_answer: bool) -> None:
        """Record a failure of the upstream for this key: an error response with ``has_answer``, else none."""
        self._remember(self._failing, (key, has_answer), FAILING_FOR)

    def failing(self, key: Any, has_answer: bool) -> bool:
        """Has the upstream just failed for this key, in that way?"""
        return bool(self._failing) and self._current(self._failing, (key, has_answer))

    def worth_waiting(self, key: Any) -> bool:
        """May the answer be shared?"""
        return not self._current(self._uncacheable, key)

    def hopeful(self, kind: Any) -> bool:
        """Was the answer to one of the last new keys of this kind shared?"""
        return any(self._recent.get(kind, ()))

    def unknown(self, kind: Any) -> bool:
        """Is there no history of this kind?"""
        return kind not in self._recent

    def doubtful(self, kind: Any) -> bool:
        """Was no answer to the last new keys of this kind shared?"""
        return kind in self._recent and not any(self._recent[kind])

    def _remember(self, table: OrderedDict[int, float], key: Any, seconds: float) -> None:
        table[hash(key)] = self.clock() + seconds
        table.move_to_end(hash(key))
        if len(table) > self.most:
            table.popitem(last=False)

    def _current(self, table: OrderedDict[int, float], key: Any) -> bool:
        """Is the key in the table and not expired?"""
        until = table.get(hash(key))
        if until is None:
            return False
        if until > self.clock():
            return True
        del table[hash(key)]
        return False

    def __repr__(self) -> str:
        return f"Predictor({len(self._uncacheable)} uncacheable, {len(self._failing)} failing)"
