"""The life of a breaker on a clock of its own, step by step."""

from __future__ import annotations

import pytest

from gateway.breaker import Breaker, State

CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN


class Life:
    """A breaker, its clock, and the permits of its attempts by name."""

    def __init__(self, **settings):
        self.breaker = Breaker(**settings)
        self.now = 0.0
        self.permits = {}

    def wait(self, seconds):
        self.now += float(seconds)

    def admit(self, name):
        assert self.breaker.admits(self.now)
        self.permits[name] = self.breaker.admit(self.now)
        assert self.permits[name] is not None

    def refuse(self, _):
        assert not self.breaker.admits(self.now) and self.breaker.admit(self.now) is None

    def succeed(self, name):
        self.breaker.succeed(self.permits[name])

    def fail(self, name):
        self.breaker.fail(self.permits[name], self.now)

    def cancel(self, name):
        self.breaker.cancel(self.permits[name])

    def open(self, _):
        self.breaker.open(self.now)

    def close(self, _):
        self.breaker.close()

    def hold(self, _):
        self.breaker.hold()

    def left(self, seconds):
        assert self.breaker.left(self.now) == pytest.approx(float(seconds))


THIRD_IN_A_ROW = {"trips": lambda counts: counts.consecutive_failures == 3}
HALF = {"trips": lambda counts: counts.failures >= 2 and counts.failures >= counts.successes}


@pytest.mark.parametrize("settings, steps, state", [
    ({}, "", CLOSED),
    ({}, "admit a, succeed a, admit b, left 0", CLOSED),
    ({}, "admit a, fail a, refuse -, left 1", OPEN),
    ({}, "admit a, fail a, wait 0.5, left 0.5, refuse -", OPEN),
    ({}, "admit a, fail a, wait 1", HALF_OPEN),
    ({}, "admit a, fail a, wait 1, admit trial, refuse -", HALF_OPEN),
    ({}, "admit a, fail a, wait 1, admit trial, succeed trial, admit b, admit c", CLOSED),
    ({}, "admit a, fail a, wait 1, admit trial, fail trial, left 2", OPEN),
    ({}, "admit a, fail a, wait 1, admit trial, cancel trial, admit next, refuse -", HALF_OPEN),
    # a trial that never ends is given up after the length of the pause, and does not count any more
    ({}, "admit a, fail a, wait 1, admit lost, wait 0.9, refuse -, wait 0.1, admit next, refuse -", HALF_OPEN),
    ({}, "admit a, fail a, wait 1, admit lost, wait 1, admit next, succeed lost", HALF_OPEN),
    ({}, "admit a, fail a, wait 1, admit lost, wait 1, admit next, succeed next, fail lost", CLOSED),
    # each pause is twice as long as the one before, up to the longest, and the first again after a calm time
    ({}, "open -, left 1, wait 1, open -, left 2, wait 2, open -, left 4, wait 4, open -, left 8, wait 8, open -, left 15, wait 15,"
         "open -, left 15", OPEN),
    ({}, "open -, wait 1, open -, wait 2, close -, wait 59, open -, left 1, close -, wait 60, open -, left 2", OPEN),
    ({}, "open -, wait 1, open -, wait 2, close -, wait 58, open -, left 4", OPEN),
    ({"first": 3, "longest": 5, "calm": 10}, "open -, left 3, wait 3, open -, left 5, close -, wait 11, open -, left 3", OPEN),
    # others that were under way
    ({}, "admit a, admit b, fail a, wait 0.5, fail b, left 0.5", OPEN),
    ({}, "admit a, admit b, fail a, wait 0.5, succeed b", OPEN),
    ({}, "admit a, admit b, fail a, wait 1, admit trial, fail b", HALF_OPEN),
    ({}, "admit a, admit b, fail a, wait 1, admit trial, succeed trial, fail b", CLOSED),
    # one outcome each
    (THIRD_IN_A_ROW, "admit a, fail a, fail a, fail a", CLOSED),
    (THIRD_IN_A_ROW, "admit a, succeed a, fail a, admit b, fail b, admit c, fail c", CLOSED),
    (THIRD_IN_A_ROW, "admit a, cancel a, fail a, admit b, fail b, admit c, fail c", CLOSED),
    # what trips it
    (THIRD_IN_A_ROW, "admit a, fail a, admit b, fail b, admit c, fail c", OPEN),
    (THIRD_IN_A_ROW, "admit a, fail a, admit b, fail b, admit c, succeed c, admit d, fail d", CLOSED),
    (THIRD_IN_A_ROW, "admit a, fail a, admit b, fail b, admit c, cancel c, admit d, fail d", OPEN),
    (HALF, "admit a, fail a, admit b, succeed b, admit c, succeed c, admit d, fail d", OPEN),
    (HALF, "admit a, fail a, admit b, fail b, wait 1, admit c, succeed c, admit d, fail d", CLOSED),      # counted anew
    # how many trials
    ({"trials": 2}, "open -, wait 1, admit a, admit b, refuse -", HALF_OPEN),
    ({"trials": 2}, "open -, wait 1, admit a, admit b, fail a, succeed b", OPEN),
    ({"trials": 2}, "open -, wait 1, admit a, admit b, succeed a, fail b", CLOSED),
    ({"trials": 0}, "open -, wait 1000, refuse -, left 0", OPEN),
    ({"trials": 0}, "open -, wait 1000, close -, admit a", CLOSED),
    ({}, "hold -, left 0, refuse -, wait 1000, refuse -", OPEN),
    ({}, "hold -, close -, admit a, fail a, left 1, wait 1000, refuse -, close -, admit b", CLOSED),
])
def test_the_life_of_a_breaker(settings, steps, state):
    life = Life(**settings)
    for step in filter(None, steps.split(",")):
        verb, value = step.split()
        getattr(life, verb)(value)
    assert life.breaker.state(life.now) is state


def test_it_says_what_an_outcome_has_changed():
    breaker = Breaker(trips=lambda counts: counts.consecutive_failures == 2)
    assert [breaker.fail(breaker.admit(0.0), 0.0) for _ in range(2)] == [False, True]
    assert repr(breaker) == "Breaker(open)"
    assert breaker.succeed(breaker.admit(1.0)) and not breaker.succeed(breaker.admit(1.0))
