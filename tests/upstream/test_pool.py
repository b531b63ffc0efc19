"""Who gets which connection, and when."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable

import gevent
import pytest

from gateway.upstream.pool import Pool, WaitOver
from gateway.upstream.transport import Connection, NativeSocket
from tests.clocks import ManualClock
from tests.waiting import SAFETY

PEERS: dict[Connection, socket.socket] = {}              # the other end of each


@pytest.fixture(autouse=True)
def closed_ends():
    yield
    close_ends(PEERS)


def close_ends(connections: Iterable[Connection]) -> None:
    for connection in list(connections):
        connection.close()
        PEERS.pop(connection).close()


def connect() -> Connection:
    close_ends([connection for connection in PEERS if connection.closed])
    here, there = socket.socketpair()
    connection = Connection(NativeSocket(fileno=here.detach()))
    PEERS[connection] = there
    return connection


def end(connection: Connection) -> None:
    """Have the other side close it."""
    PEERS[connection].close()


def lend(pool: Pool, seconds: float = SAFETY, fresh: bool = False) -> Connection:
    """A connection of the pool's, opened if need be."""
    return (None if fresh else pool.reuse(True)) or pool.take(seconds, fresh) or connect()


def fill(pool: Pool, number: int) -> list[Connection]:
    """``number`` connections, given back in their order."""
    lines = [lend(pool) for _ in range(number)]
    for line in lines:
        pool.give(line)
    return lines


def state(pool: Pool) -> tuple[int, int, int]:
    return pool.open, len(pool.idle), len(pool.waiting)


def test_last_in_first_out():
    pool = Pool(3, 50)
    a, b, c = fill(pool, 3)
    assert [lend(pool) for _ in range(3)] == [c, b, a]
    assert state(pool) == (3, 0, 0)


@pytest.mark.parametrize("maximum", [1, 2])
def test_no_more_than_the_maximum(maximum):
    pool = Pool(maximum, 50)
    for _ in range(maximum):
        assert pool.take(0.001) is None
    with pytest.raises(WaitOver):
        pool.take(0.001)
    assert state(pool) == (maximum, 0, 0)
    pool.drop()
    assert pool.take(0.001) is None


def test_one_that_was_closed_meanwhile_is_dropped():
    pool = Pool(3, 50)
    a, b, c = fill(pool, 3)
    end(b)
    end(c)
    assert lend(pool) is a
    assert b.closed and c.closed
    assert state(pool) == (1, 0, 0)


def test_what_the_loop_has_seen_is_enough_for_who_is_not_careful():
    pool = Pool(3, 50)
    a, b, c = fill(pool, 3)
    for line in (a, b, c):
        end(line)                                        # which the loop has not seen
    assert pool.reuse(careful=False) is c
    b.readable.unwatch()                                 # something has come
    assert pool.reuse(careful=False) is a and b.closed
    assert pool.reuse(careful=False) is None
    pool.give(c)
    assert pool.reuse(careful=True) is None and c.closed


@pytest.mark.parametrize("keep, lasts", [(None, 50), (100, 50), (10, 8), (0, 0)])
def test_one_unused_for_too_long_is_dropped(keep, lasts):
    clock = ManualClock()
    pool = Pool(3, 50, clock=clock)
    line = lend(pool)
    line.keep = keep
    pool.give(line)
    if lasts:
        clock.time += lasts - 0.1
        assert lend(pool) is line
        pool.give(line)
        clock.time += lasts
    assert lend(pool) is not line and line.closed
    assert state(pool) == (1, 0, 0)


def test_the_cold_end_goes_while_the_warm_end_is_used():
    clock = ManualClock()
    pool = Pool(10, 50, clock=clock)
    lines = fill(pool, 4)
    for _ in range(6):
        clock.time += 10
        pool.give(lend(pool))
        pool.sweep()
    assert [line.closed for line in lines] == [True, True, True, False]
    assert state(pool) == (1, 1, 0)


def test_fresh_is_never_one_used_before():
    pool = Pool(2, 50)
    a, b = fill(pool, 2)
    assert pool.take(5, fresh=True) is None              # the maximum is reached: the coldest makes room
    assert a.closed and not b.closed
    assert state(pool) == (2, 1, 0)
    assert lend(pool) is b
    waiter = gevent.spawn(lend, pool, 5, True)
    gevent.idle()
    pool.give(b)
    assert waiter.get(timeout=30) is not b and b.closed
    assert state(pool) == (2, 0, 0)


def test_who_waits_is_served_in_order():
    pool = Pool(1, 50)
    first = lend(pool)
    order = []

    def wait(name: int) -> None:
        line = lend(pool)
        order.append((name, line is first))
        gevent.sleep(0)
        pool.give(line)

    waiters = [gevent.spawn(wait, name) for name in range(5)]
    gevent.idle()
    assert state(pool) == (1, 0, 5)
    pool.give(first)
    gevent.joinall(waiters, timeout=30, raise_error=True)
    assert order == [(name, True) for name in range(5)]
    assert state(pool) == (1, 1, 0)


@pytest.mark.parametrize("healthy", [True, False])
def test_what_comes_back_wakes_exactly_one(healthy):
    pool = Pool(1, 50)
    line = lend(pool)
    if not healthy:
        end(line)
    waiters = [gevent.spawn(lend, pool) for _ in range(3)]
    gevent.idle()
    pool.give(line)
    gevent.idle()
    assert [waiter.ready() for waiter in waiters] == [True, False, False]
    assert (waiters[0].value is line) is healthy and line.closed is not healthy
    pool.drop()
    gevent.idle()
    assert [waiter.ready() for waiter in waiters] == [True, True, False]
    assert waiters[1].value is not line
    gevent.killall(waiters)
    assert state(pool) == (1, 0, 0)


def test_who_is_killed_while_waiting_loses_nothing():
    pool = Pool(1, 50)
    line = lend(pool)
    waiters = [gevent.spawn(lend, pool) for _ in range(3)]
    gevent.idle()
    waiters[0].kill()
    assert state(pool) == (1, 0, 2)
    pool.give(line)
    assert waiters[1].get(timeout=30) is line
    gevent.killall(waiters)


@pytest.mark.parametrize("give", [True, False])
def test_who_is_killed_while_being_served_passes_it_on(give):
    pool = Pool(1, 50)
    line = lend(pool)
    waiters = [gevent.spawn(lend, pool) for _ in range(2)]
    gevent.idle()
    waiters[0].kill(block=False)                         # it is killed when it runs next, and until then it is the first in line
    if give:
        pool.give(line)
    else:
        pool.drop()
    assert (waiters[1].get(timeout=30) is line) is give
    assert state(pool) == (1, 0, 0)


@pytest.mark.parametrize("give", [True, False])
def test_the_last_in_line_killed_while_being_served_leaves_it_in_the_pool(give):
    pool = Pool(1, 50)
    line = lend(pool)
    waiter = gevent.spawn(lend, pool)
    gevent.idle()
    waiter.kill(block=False)
    if give:
        pool.give(line)
    else:
        pool.drop()
    waiter.join()
    assert state(pool) == ((1, 1, 0) if give else (0, 0, 0))
    assert (lend(pool, 0.001) is line) is give


def test_who_times_out_leaves_the_line():
    pool = Pool(1, 50)
    line = lend(pool)
    for _ in range(3):
        with pytest.raises(WaitOver):
            lend(pool, 0.001)
    assert state(pool) == (1, 0, 0)
    pool.give(line)
    assert lend(pool) is line


def test_close_closes_what_is_unused_now_and_later():
    pool = Pool(3, 50)
    lines = [lend(pool) for _ in range(3)]
    pool.give(lines[0])
    pool.close()
    assert [line.closed for line in lines] == [True, False, False]
    pool.give(lines[1])
    assert lines[1].closed
    pool.drop()
    assert state(pool) == (0, 0, 0)


def test_another_thread_is_told_off():
    pool = Pool(1, 50)
    lend(pool)
    with pytest.raises(RuntimeError, match="another thread"):
        gevent.get_hub().threadpool.apply(pool.take, (1,))


def test_no_slot_is_lost_whatever_happens():
    """A hundred greenlets that take, keep, give, drop, give up and are killed: in the end the pool is as it was."""
    dice = random.Random(7)
    pool = Pool(5, 50)
    most = 0

    def work() -> None:
        nonlocal most
        for _ in range(20):
            try:
                line = lend(pool, dice.choice([0.0, 0.001, 5]), dice.random() < 0.2)
            except WaitOver:
                continue
            most = max(most, pool.open)
            try:
                gevent.sleep(0)
            finally:
                if dice.random() >= 0.8:
                    end(line)
                if dice.random() < 0.7:
                    pool.give(line)
                else:
                    line.close()
                    pool.drop()

    workers = [gevent.spawn(work) for _ in range(100)]
    for worker in workers[::3]:
        gevent.sleep(0)
        worker.kill(block=False)
    gevent.joinall(workers, timeout=30)
    assert all(worker.ready() for worker in workers)
    assert most == 5 and not pool.waiting and pool.open == len(pool.idle)
    pool.close()
    assert pool.open == 0
