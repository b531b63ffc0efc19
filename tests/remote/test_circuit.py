"""What a circuit makes of operations that succeed, fail, are refused or never sent, on a clock of its own."""

from __future__ import annotations

import pytest

from gateway.breaker import Breaker
from gateway.remote.circuit import Busy, Circuit, OperationRefused, Slow


def test_the_life_of_a_circuit():
    now, failures = [0.0], []

    def fail():
        raise OSError("gone")

    circuit = Circuit("it", 5.0, (), on_failure=failures.append, clock=lambda: now[0])
    assert circuit.attempt(lambda: 7) == 7
    pauses = []
    for _ in range(6):
        assert circuit.attempt(fail) is None and not circuit.usable
        pauses.append(circuit.left())
        assert circuit.attempt(lambda: 7) is None
        now[0] += circuit.left()
    assert pauses == [1, 2, 4, 8, 15, 15] and len(failures) == 6
    assert circuit.attempt(lambda: 7) == 7 and circuit.failure == ""
    now[0] += 61
    circuit.attempt(fail)
    assert circuit.left() == 1, "calm for long enough"


def test_a_followed_circuit_waits_for_being_told():
    now = [0.0]
    circuit = Circuit("it", 5.0, (), clock=lambda: now[0])
    circuit.follow()
    assert not circuit.usable and circuit.attempt(lambda: 7) is None
    circuit.resume()
    assert circuit.attempt(lambda: 7) == 7
    circuit.pause(Slow("late"))
    now[0] += 1000
    assert not circuit.usable and circuit.left() == 0
    circuit.resume()
    assert circuit.usable


def test_a_refusal_pauses_nothing():
    def refuse():
        raise OperationRefused("too large")

    failures = []
    circuit = Circuit("it", 5.0, (), on_failure=failures.append)
    assert circuit.attempt(refuse) is None
    assert circuit.usable and failures == [1.0] and circuit.failure == "too large"


def test_errors_of_the_caller_are_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        Circuit("it", 5.0, ()).attempt(lambda: 1 // 0)


def test_one_operation_at_a_time_finds_out_whether_the_server_is_well():
    now = [0.0]
    circuit = Circuit("it", 5.0, (), clock=lambda: now[0])
    circuit.pause(Slow("late"))
    now[0] += 1.0
    assert circuit.usable and not circuit.is_paused
    assert circuit.attempt(lambda: (circuit.attempt(lambda: 8), circuit.usable, circuit.is_paused)) == (None, False, False)
    assert circuit.usable and circuit.attempt(lambda: 9) == 9


@pytest.mark.parametrize("error, usable", [
    (Busy(), True), (OperationRefused("no"), True), (GeneratorExit(), True), (OSError(), False)])
def test_a_trial_that_says_nothing_is_followed_by_another(error, usable):
    now = [0.0]
    circuit = Circuit("it", 5.0, (), clock=lambda: now[0], breaker=Breaker(first=1.0))

    def end():
        raise error

    circuit.pause(Slow("late"))
    now[0] += 1.0
    try:
        assert circuit.attempt(end) is None
    except GeneratorExit:
        pass
    assert circuit.usable is usable
