"""What is learned of keys, and for how long."""

from __future__ import annotations

from sys import getrefcount

import pytest

from gateway.cache.admission import Uses
from gateway.cache.predictor import FAILING_FOR, RECENT, UNCACHEABLE_FOR, Predictor


def test_uncacheable_keys_are_not_waited_for_until_it_is_forgotten():
    now = [0.0]
    predictor = Predictor(lambda: now[0])
    predictor.learn("k", False)
    assert (predictor.worth_waiting("k"), predictor.worth_waiting("other")) == (False, True)
    now[0] = UNCACHEABLE_FOR
    assert predictor.worth_waiting("k")
    predictor.learn("k", False)
    predictor.learn("k", True)
    assert predictor.worth_waiting("k")


def test_an_upstream_that_has_just_failed():
    now = [0.0]
    predictor = Predictor(lambda: now[0])
    predictor.note_failure("k", True)
    assert predictor.failing("k", True) and not predictor.failing("other", True) and not predictor.failing("k", False)
    now[0] = FAILING_FOR
    assert not predictor.failing("k", True)
    for reached in (True, False):
        predictor.note_failure("k", reached)
    predictor.learn("k", True)
    assert not predictor.failing("k", True) and not predictor.failing("k", False)


def test_what_is_remembered_is_bounded():
    predictor = Predictor(lambda: 0.0, most=2)
    for key in "abc":
        predictor.note_failure(key, True)
    assert [predictor.failing(key, True) for key in "abc"] == [False, True, True]
    predictor.note_failure("b", True)
    predictor.note_failure("d", True)                    # the one that was noted longest ago goes
    assert [predictor.failing(key, True) for key in "bcd"] == [True, False, True]


def test_long_keys_are_not_held():
    key = "http://shop.test/?" + "x" * 8000
    predictor, uses, before = Predictor(lambda: 0.0), Uses(2), getrefcount(key)
    predictor.learn(key, False)
    predictor.learn((key, 2), False)
    predictor.note_failure(key, True)
    uses.count(key)
    uses.count(key)
    assert getrefcount(key) == before
    assert uses.suffice(key) and predictor.failing(key, True)
    assert not predictor.worth_waiting(key) and not predictor.worth_waiting((key, 2)) and predictor.worth_waiting((key, 4))


@pytest.mark.parametrize("outcomes, hopeful, doubtful", [
    ([], False, False),
    ([False], False, True),
    ([True], True, False),
    ([True, False], True, False),
    ([False] * RECENT + [True], True, False),
    ([True] + [False] * (RECENT - 1), True, False),
    ([True] + [False] * RECENT, False, True)])
def test_what_new_keys_were_like(outcomes, hopeful, doubtful):
    predictor = Predictor(lambda: 0.0)
    for key, outcome in enumerate(outcomes):
        predictor.learn(key, outcome, "kind")
    assert (predictor.hopeful("kind"), predictor.doubtful("kind")) == (hopeful, doubtful)
    assert (predictor.hopeful("other"), predictor.doubtful("other")) == (False, False)
    assert predictor.unknown("kind") is not (hopeful or doubtful) and predictor.unknown("other")


def test_a_key_of_which_something_was_stored_says_nothing_about_new_ones():
    predictor = Predictor(lambda: 0.0)
    predictor.learn("k", False)
    assert predictor.unknown(None) and predictor.unknown(0) and not predictor.worth_waiting("k")


def test_an_uncacheable_key_counts_once_and_a_known_one_not_at_all():
    predictor = Predictor(lambda: 0.0)
    predictor.learn("hot", True, "kind")
    for _ in range(RECENT):
        predictor.learn("a", False, "kind")
        predictor.learn("b", False)
    assert predictor.hopeful("kind")
