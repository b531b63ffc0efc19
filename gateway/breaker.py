"""A circuit breaker: what fails is not tried again before it may be well. Pure: the time comes as a parameter.

::

    CLOSED --failures, as ``trips`` says--> OPEN --the pause is over--> HALF_OPEN --a trial succeeds--> CLOSED
                                             ^                              |
                                             +------- the trial fails ------+

Every attempt needs a permit (``admit``) and has one outcome: ``succeed``, ``fail`` or ``cancel``, which says nothing about the
other side, for instance because nothing was sent. The first outcome of a permit counts, and only in the state in which it was
admitted: attempts that were under way when the breaker opened neither lengthen the pause nor end it.

HALF_OPEN admits ``trials`` attempts at a time; a trial without an outcome is given up after the length of the pause. A breaker
without trials stays open until ``close``: for those who find out in another way, such as a health check, that the other side is
well.

The first pause is ``first`` seconds long, each one that follows within ``calm`` seconds of the last failure twice as long as the
one before, up to ``longest``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf

FIRST, LONGEST, CALM = 1.0, 15.0, 60.0                   # seconds


class State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(slots=True)
class Counts:
    """Outcomes since the breaker closed."""

    successes: int = 0
    failures: int = 0
    consecutive_failures: int = 0


def first_failure(counts: Counts) -> bool:
    """Trip at the first failure."""
    return counts.failures > 0


class Permit:
    """The right to one attempt, in one period of one state."""

    __slots__ = ("period",)

    def __init__(self, period: int) -> None:
        self.period = period


class Breaker:
    """All times are in seconds; ``now`` is any clock that only goes forward, the same for all calls."""

    __slots__ = ("trips", "first", "longest", "calm", "trials", "counts", "_state", "_period", "_under_way", "_length", "_until",
                 "_failed_at")

    def __init__(self, *, trips: Callable[[Counts], bool] = first_failure, first: float = FIRST, longest: float = LONGEST,
                 calm: float = CALM, trials: int = 1) -> None:
        self.trips = trips
        self.first = first
        self.longest = longest
        self.calm = calm
        self.trials = trials
        self.counts = Counts()
        self._state = State.CLOSED
        self._period = 0                                 # grows with each change of the state
        self._under_way = 0                              # trials
        self._length, self._until, self._failed_at = 0.0, 0.0, -inf

    def state(self, now: float) -> State:
        if self._state is State.OPEN and self.trials and now >= self._until:
            return State.HALF_OPEN
        return self._state

    def admits(self, now: float) -> bool:
        """Would ``admit`` give a permit?"""
        state = self.state(now)
        if state is State.HALF_OPEN:
            return self._state is State.OPEN or self._under_way < self.trials or now >= self._until
        return state is State.CLOSED

    def admit(self, now: float) -> Permit | None:
        """A permit for one attempt, None when there is none."""
        if self._state is not State.CLOSED:
            if not self.admits(now):
                return None
            if self._state is State.OPEN or self._under_way >= self.trials:      # those without an outcome are given up
                self._enter(State.HALF_OPEN)
                self._until = now + self._length
            self._under_way += 1
        return Permit(self._period)

    def succeed(self, permit: Permit) -> bool:
        """The attempt succeeded; whether that has closed the breaker."""
        if not self._settle(permit):
            return False
        self.counts.successes += 1
        self.counts.consecutive_failures = 0
        if self._state is State.CLOSED:
            return False
        self.close()
        return True

    def fail(self, permit: Permit, now: float) -> bool:
        """The attempt failed; whether that has opened the breaker."""
        if not self._settle(permit):
            return False
        self.counts.failures += 1
        self.counts.consecutive_failures += 1
        return (self._state is State.HALF_OPEN or self.trips(self.counts)) and self.open(now)

    def cancel(self, permit: Permit) -> None:
        """The attempt says nothing about the other side."""
        self._settle(permit)

    def _settle(self, permit: Permit) -> bool:
        """Does the outcome of this permit count? From now on it does not."""
        counts = permit.period == self._period
        if counts and self._state is State.HALF_OPEN:
            self._under_way -= 1
        permit.period = -1
        return counts

    def open(self, now: float) -> bool:
        """Open for a pause; False during one, which stays as it is."""
        if self._state is State.OPEN and now < self._until:
            return False
        self._length = self.first if now - self._failed_at > self.calm else min(self.longest, self._length * 2 or self.first)
        self._failed_at, self._until = now, now + self._length
        self._enter(State.OPEN)
        return True

    def close(self) -> None:
        """The other side is well."""
        self._enter(State.CLOSED)
        self.counts = Counts()

    def hold(self) -> None:
        """Open until ``close``, without a failure: it is not known yet how the other side is."""
        self.trials = 0
        self._enter(State.OPEN)

    def _enter(self, state: State) -> None:
        self._state = state
        self._period += 1
        self._under_way = 0

    def left(self, now: float) -> float:
        """Seconds until the pause is over."""
        return max(0.0, self._until - now) if self._state is State.OPEN else 0.0

    def __repr__(self) -> str:
        return f"Breaker({self._state.value})"
