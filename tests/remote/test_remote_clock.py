"""How far another clock is ahead, on a clock of its own."""

from __future__ import annotations

import pytest

from gateway.remote.remote_clock import RemoteClock


@pytest.mark.parametrize("late", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("takes, ahead, same", [
    ([0.010, 0.002, 0.030], 100.0, False), ([0.010, 0.002, 0.030], -3600.0, False), ([0.010, 0.002], 0.0, True),
    ([0.010], 0.0002, None), ([0.010], 0.016, False)])
def test_what_is_known_of_another_clock(takes, ahead, same, late):
    """The quickest answer tells most, wherever in its time Redis has looked; what may be nothing is nothing."""
    now, calls = [10_000.0], iter(takes)

    def ask():
        seconds = next(calls)
        moment = now[0] + seconds * late + ahead
        now[0] += seconds
        return int(moment), int(moment % 1 * 1e6)

    one = RemoteClock()
    assert one.compare(ask, lambda: now[0], len(takes)) == pytest.approx(min(takes))
    assert same is None or (abs(one.shift) < 2e-6) is same or abs(one.margin - min(takes) / 2) < 1e-9
    assert min(takes) / 2 - 1e-6 <= one.margin <= min(takes) + 1e-6
    assert abs(one.shift - ahead) <= one.margin + 2e-6
