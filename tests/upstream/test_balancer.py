"""Which instance is next."""

from __future__ import annotations

from collections import Counter

import pytest

from gateway.backoff import Backoff
from gateway.upstream.balancer import RULES, Balancer, least_requests, round_robin


class Candidate:
    def __init__(self, name: str, in_flight: int = 0) -> None:
        self.name = name
        self.in_flight = in_flight
        self.backoff = Backoff()


def picks(balancer: Balancer, number: int) -> str:
    return "".join(balancer.choose(0.0).name for _ in range(number))


def instances(**in_flight: int) -> list[Candidate]:
    return [Candidate(name, number) for name, number in in_flight.items()]


@pytest.mark.parametrize("rule", RULES)
def test_one_instance_is_always_chosen(rule):
    assert picks(Balancer(instances(a=7), RULES[rule]), 3) == "aaa"


def test_no_instance_is_a_mistake():
    with pytest.raises(ValueError, match="nothing to choose"):
        Balancer([], round_robin)


def test_round_robin_starts_with_the_first_and_goes_on():
    assert picks(Balancer(instances(a=9, b=0, c=5), round_robin), 7) == "abcabca"


@pytest.mark.parametrize("in_flight, name", [
    ({"a": 1, "b": 0}, "b"), ({"a": 0, "b": 1}, "a"), ({"a": 3, "b": 2, "c": 4}, "b"), ({"a": 2, "b": 2, "c": 1}, "c"),
])
def test_least_requests_takes_the_one_with_the_fewest(in_flight, name):
    assert picks(Balancer(instances(**in_flight), least_requests), 6) == name * 6


def test_equals_take_turns():
    assert picks(Balancer(instances(a=1, b=1, c=1), least_requests), 6) == "abcabc"
    assert set(picks(Balancer(instances(a=1, b=0, c=0), least_requests), 6)) == {"b", "c"}


def test_least_requests_evens_out_what_is_in_flight():
    three = instances(a=0, b=0, c=0)
    balancer = Balancer(three, least_requests)
    for _ in range(300):
        balancer.choose(0.0).in_flight += 1
    assert Counter(one.in_flight for one in three) == {100: 3}


@pytest.mark.parametrize("rule", RULES)
def test_what_is_excluded_is_not_chosen(rule):
    a, b, c = three = instances(a=0, b=5, c=9)
    balancer = Balancer(three, RULES[rule])
    assert {balancer.choose(0.0, [a]).name for _ in range(6)} <= {"b", "c"}
    assert {balancer.choose(0.0, (a, b)).name for _ in range(6)} == {"c"}
    with pytest.raises(ValueError, match="every instance is excluded"):
        balancer.choose(0.0, three)


def test_all_pausing_but_one_excluded():
    a, b = two = instances(a=0, b=0)
    for one in two:
        one.backoff.fail(0.0, 0.0)
    assert Balancer(two, round_robin).choose(0.5, [a]) is b
    assert b.backoff.until == 1.5                        # this attempt is its trial
