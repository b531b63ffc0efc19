"""Which time passes first, and what that means."""

from __future__ import annotations

from math import inf
from time import monotonic

import pytest

from gateway.deadline import Deadline
from gateway.errors import ConnectTimeout, DeadlineExceeded, TruncatedBody, UpstreamTimeout
from gateway.upstream.limit import Limit, SilenceLimit


def late() -> UpstreamTimeout:
    return UpstreamTimeout("late")


class Sending:
    moving = True
    failure: BaseException | None = None


@pytest.mark.parametrize("deadline, seconds, error", [(50, None, DeadlineExceeded), (50, 100, DeadlineExceeded), (100, 50,
                                                                                                                  UpstreamTimeout),
                                                      (None, 50, UpstreamTimeout)])
def test_the_earlier_one_holds_and_names_the_error(deadline, seconds, error):
    limit = Limit(deadline and Deadline(deadline), seconds, late)
    left = limit.left()
    assert left is not None and 49 < left <= 50
    assert isinstance(limit.over(), error)


@pytest.mark.parametrize("deadline, seconds, error", [(0, 50, DeadlineExceeded), (50, 0, UpstreamTimeout), (50, -1,
                                                                                                            UpstreamTimeout)])
def test_time_that_has_passed_is_an_error_at_once(deadline, seconds, error):
    with pytest.raises(error):
        Limit(Deadline(deadline), seconds, late).left()


def test_no_time_is_no_limit():
    assert Limit(None, None, late).left() is None


def test_within_is_never_more():
    limit = Limit(Deadline(100), 50, late)
    narrow = limit.within(10, ConnectTimeout)
    assert 9 < (narrow.left() or 0) <= 10 and isinstance(narrow.over(), ConnectTimeout)
    wide = limit.within(70, ConnectTimeout)
    assert 49 < (wide.left() or 0) <= 50 and not isinstance(wide.over(), ConnectTimeout)
    last = Limit(Deadline(5), 50, late).within(10, ConnectTimeout)
    assert 4 < (last.left() or 0) <= 5 and isinstance(last.over(), DeadlineExceeded)


def test_a_body_on_its_way_suspends_the_limit_and_its_failure_ends_it():
    limit = Limit(Deadline(0), 0, late)
    limit.sender = sender = Sending()
    assert limit.left() is None
    sender.failure = TruncatedBody("cut")
    with pytest.raises(TruncatedBody):
        limit.left()
    sender.failure, sender.moving = None, False
    with pytest.raises(DeadlineExceeded):
        limit.left()


def test_restart_gives_the_seconds_again():
    limit = Limit(None, 10, late)
    limit.until = 0
    with pytest.raises(UpstreamTimeout):
        limit.left()
    limit.restart()
    assert 9 < (limit.left() or 0) <= 10


def test_silence_counts_from_each_wait():
    limit = SilenceLimit(None, 10, late)
    limit.until = 0
    with pytest.raises(UpstreamTimeout):
        limit.left()
    assert 9 < limit.begin() - monotonic() <= 10 and 9 < (limit.left() or 0) <= 10
    assert isinstance(limit.over(), UpstreamTimeout)


@pytest.mark.parametrize("deadline, seconds, soonest", [(5, 10, 5), (10, 5, 5), (None, 5, 5), (5, None, 5), (None, None, inf)])
def test_a_wait_looks_again_when_the_earlier_one_is_over(deadline, seconds, soonest):
    begun = monotonic()
    assert soonest <= Limit(deadline and Deadline(deadline), seconds, late).begin() - begun < soonest + 1 or soonest == inf
    assert (Limit(deadline and Deadline(deadline), seconds, late).begin() == inf) is (soonest == inf)


def test_silence_ends_with_the_deadline():
    limit = SilenceLimit(Deadline(5), 10, late)
    assert 4 < (limit.left() or 0) <= 5
    assert isinstance(limit.over(), DeadlineExceeded)
