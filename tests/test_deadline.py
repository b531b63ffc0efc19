import pytest

from gateway.deadline import Deadline
from gateway.errors import DeadlineExceeded, UpstreamTimeout


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_left_counts_down_and_ends():
    clock = Clock()
    deadline = Deadline(2, clock)
    clock.now += 0.5
    assert deadline.left() == 1.5
    clock.now += 1.5
    with pytest.raises(DeadlineExceeded, match="the 2 s of the request are over"):
        deadline.left()


def test_restart_gives_the_whole_again():
    clock = Clock()
    deadline = Deadline(2, clock)
    clock.now += 5
    deadline.restart()
    assert deadline.left() == 2


def test_change_counts_from_the_same_start():
    clock = Clock()
    deadline = Deadline(10, clock)
    clock.now += 4
    deadline.change(5)
    assert deadline.left() == 1


@pytest.mark.parametrize("seconds, left", [(None, 8), (3, 3), (8, 8), (20, 8), (0.5, 0.5)])
def test_within_is_the_earlier(seconds, left):
    clock = Clock()
    deadline = Deadline(10, clock)
    clock.now += 2
    assert deadline.within(seconds).left() == left
    assert deadline.left() == 8


def test_the_shorter_limit_says_itself_what_it_means():
    clock = Clock()
    deadline = Deadline(10, clock)
    own = deadline.within(3, lambda: UpstreamTimeout("not within 3 s"))
    assert deadline.within(20, lambda: UpstreamTimeout("never")) is deadline
    assert isinstance(deadline.over(), DeadlineExceeded) and isinstance(own.over(), UpstreamTimeout)
    clock.now += 3
    with pytest.raises(UpstreamTimeout, match="not within 3 s"):
        own.left()
    assert deadline.left() == 7


def test_repr_names_both_times():
    assert repr(Deadline(2, Clock())) == "Deadline(2.000 s left of 2 s)"
