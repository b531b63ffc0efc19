"""Waiting: the value of the condition, and what a wait in vain says."""

import gevent
import pytest

from tests.waiting import until


def test_the_value_of_the_condition_is_returned_as_soon_as_it_is_true():
    values = [0, "", None, "there", "later"]
    assert until(lambda: values.pop(0)) == "there" and values == ["later"]


def test_the_others_run_meanwhile():
    done = []
    greenlet = gevent.spawn(done.append, 1)
    assert until(lambda: done) == [1]
    greenlet.join()


def test_what_is_true_when_the_limit_is_over_is_in_time():
    assert until(lambda: True, limit=0)


@pytest.mark.parametrize("what, text", [
    ("the answer", "not within 0 s: the answer"), (lambda: "the log", "not within 0 s: the log"),
    ("", "not within 0 s: until(lambda: False, what, limit=0)"),
])
def test_a_wait_in_vain_says_for_what(what, text):
    with pytest.raises(AssertionError) as caught:
        until(lambda: False, what, limit=0)
    assert str(caught.value) == text


def test_a_condition_without_source_is_named():
    with pytest.raises(AssertionError, match="__len__"):
        until([].__len__, limit=0)


def test_what_the_condition_raises_ends_the_wait():
    with pytest.raises(ZeroDivisionError):
        until(lambda: 1 / 0)
