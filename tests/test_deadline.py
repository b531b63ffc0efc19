import pytest

from gateway.deadline import Deadline
from gateway.errors import DeadlineExceeded


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


def test_repr_names_both_times():
    assert repr(Deadline(2, Clock())) == "Deadline(2.000 s left of 2 s)"
