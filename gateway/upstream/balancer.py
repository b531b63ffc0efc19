"""The choice of an instance for an attempt. Pure: it reads ``in_flight`` and the pauses, and keeps whose turn it is.

``Balancer.choose`` is the one place that decides which instances may be chosen at all; a rule is ``(candidates, turn) ->
candidate``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Generic, Protocol, TypeVar

from ..backoff import Backoff


class Candidate(Protocol):
    """An instance, as far as a balancer looks at it."""

    @property
    def in_flight(self) -> int: ...

    @property
    def backoff(self) -> Backoff: ...


T = TypeVar("T", bound=Candidate)


def round_robin(candidates: Sequence[T], turn: int) -> T:
    """One after the other."""
    return candidates[turn % len(candidates)]


def least_requests(candidates: Sequence[T], turn: int) -> T:
    """The one with the fewest requests in flight; among several of them, one after the other."""
    start = turn % len(candidates)
    best = candidates[start]
    for candidate in (*candidates[start + 1:], *candidates[:start]):
        if candidate.in_flight < best.in_flight:
            best = candidate
    return best


class Balancer(Generic[T]):
    """``choose(now)`` is one of ``instances`` by ``rule``: of those that do not pause, or of all when all do."""

    def __init__(self, instances: Sequence[T], rule: Callable[[Sequence[T], int], T]) -> None:
        if not instances:
            raise ValueError("nothing to choose from")
        self.instances = instances
        self.rule = rule
        self.turn = 0

    def choose(self, now: float, exclude: Collection[T] = ()) -> T:
        """The instance for an attempt at ``now``, none of those in ``exclude``. Raises ValueError when that leaves none."""
        instances = self.instances
        if exclude:
            left = [instance for instance in instances if instance not in exclude]
            if not left:
                raise ValueError("every instance is excluded")
            return self._choose(left, now)
        return instances[0] if len(instances) == 1 else self._choose(instances, now)

    def _choose(self, candidates: Sequence[T], now: float) -> T:
        turn = self.turn
        self.turn = turn + 1
        ready = [candidate for candidate in candidates if candidate.backoff.until <= now]
        choice = self.rule(ready or candidates, turn)
        choice.backoff.claim(now)
        return choice

    def __repr__(self) -> str:
        return f"{self.rule.__name__.replace('_', '-')} over {len(self.instances)}"


RULES = {"round-robin": round_robin, "least-requests": least_requests}
