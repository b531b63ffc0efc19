"""Which instance answers next. Pure: it looks at ``in_flight`` and remembers whose turn it is.

``Balancer.pick`` is the one place that decides who may be chosen at all; a rule is ``(candidates, turn) -> candidate``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar


class Counted(Protocol):
    """What a rule may look at."""

    @property
    def in_flight(self) -> int: ...


T = TypeVar("T", bound=Counted)


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
    """``pick()`` gives one of ``instances`` by ``rule``."""

    def __init__(self, instances: Sequence[T], rule: Callable[[Sequence[T], int], T]) -> None:
        if not instances:
            raise ValueError("nothing to choose from")
        self.instances = instances
        self.rule = rule
        self.turn = 0

    def pick(self) -> T:
        candidates = self.instances
        if len(candidates) == 1:
            return candidates[0]
        turn = self.turn
        self.turn = turn + 1
        return self.rule(candidates, turn)

    def __repr__(self) -> str:
        return f"{self.rule.__name__.replace('_', '-')} over {len(self.instances)}"


RULES = {"round-robin": round_robin, "least-requests": least_requests}
