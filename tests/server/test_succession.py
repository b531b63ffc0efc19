"""When a worker that is to end may leave."""

from __future__ import annotations

import pytest

from gateway.server.succession import FAILED_AFTER, Succession

OLD, NEW = 1, 2


@pytest.mark.parametrize("by_signal, others, verdict", [
    (True, {}, True),                                        # TERM to the only worker, or to all
    (True, {OLD: "serving"}, True),                          # TTOU
    (True, {OLD: "draining"}, True),
    (True, {OLD: "serving", NEW: "starting"}, None),         # HUP
    (True, {OLD: "leaving", NEW: "serving"}, True),
    (True, {NEW: "serving", 3: "starting"}, None),           # not all are there yet
    (True, {NEW: "failed"}, None),                           # it may have been by_signal to end too
    (False, {}, None),                                       # max_requests: the master has not started one yet
    (False, {OLD: "serving"}, None),
    (False, {OLD: "serving", NEW: "starting"}, None),
    (False, {NEW: "serving"}, True),
    (False, {NEW: "retiring"}, True),                        # has reached max_requests itself meanwhile, but serves
    (False, {OLD: "retiring"}, None),
    (False, {NEW: "draining"}, None),
    (False, {NEW: "failed"}, None)])
def test_who_may_leave(by_signal, others, verdict):
    assert Succession({OLD: "serving"}).may_leave(others, by_signal, 100.0) is verdict


@pytest.mark.parametrize("by_signal", [True, False])
def test_a_failed_successor_counts_after_a_moment(by_signal):
    failed, starting = {NEW: "failed"}, {NEW: "starting"}
    succession = Succession({})
    assert succession.may_leave(failed, by_signal, 100.0) is None
    assert succession.may_leave(failed, by_signal, 100.0 + FAILED_AFTER) is None
    assert succession.may_leave(starting, by_signal, 101.0) is None           # the next try: all begins anew
    assert succession.may_leave(failed, by_signal, 102.0) is None
    assert succession.may_leave(failed, by_signal, 102.1 + FAILED_AFTER) is False
